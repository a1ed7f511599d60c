"""Files of any length: peak memory and speed of ``wavevq encode`` and ``decode``, start-up included, and that encoding
in parts finds what encoding the whole does; with the model of recipes/vctk.yaml, untrained.

Each command is a process of its own, whose peak resident memory the system tells. The audio is made up: noise through
two resonances that come and go, at 16 kHz (and once of 44.1 kHz, stereo).

Figures: encode_Nm_mib of N minutes, peak MiB; encode_Nm_x, times real time; encode_Nm_cpu_x, the same by the seconds
that its threads were busy, which other work on the machine hardly changes. encode_10m_cd_... of 44.1 kHz, stereo;
decode_Ns_... of N seconds; nothing_mib of ``wavevq info RUN``, which imports most of it. Of one minute: z_e_apart,
the largest difference between parts and the whole, whole_mib, what the whole took, codes_apart of so many codes, and
codes_apart_by, by how much more a code's squared distance is than the nearest's.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import soundfile
import torch
from common import options, report
from convert import RECIPE, SPEAKERS, run_folder
from scipy.signal import lfilter

from wavevq.audio import normalise, opened, read
from wavevq.nn.encoders import in_parts
from wavevq.recipe import load_recipe
from wavevq.run import load_run
from wavevq.vqvae import SAMPLES_A_PART

ROOT = Path(__file__).parent.parent


def speak(path: Path, seconds: float, rate: int = 16_000, channels: int = 1) -> Path:
    """Writes audio in which every tenth of a second has its own loudness and resonances."""
    draw = np.random.default_rng(0)
    with soundfile.SoundFile(path, "w", rate, channels, subtype="PCM_16") as file:
        for _ in range(round(10 * seconds)):
            noise = draw.standard_normal((rate // 10, channels)) * 10 ** draw.uniform(-3, -1)
            for pitch in draw.uniform(300, 3000, 2):
                pole = 0.95 * np.exp(2j * np.pi * pitch / rate)
                noise = lfilter([0.2], [1, -2 * pole.real, abs(pole) ** 2], noise, axis=0)
            file.write(np.clip(noise, -1, 1))
    return path


def measured(name: str, audio: float, threads: int, *words: str | Path) -> dict[str, float]:
    """The figures of a command on so many seconds of audio."""
    start = time.perf_counter()
    there = {**os.environ, **dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))}
    child = subprocess.Popen([sys.executable, str(ROOT / "cli.py"), *map(str, words)], env=there)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    assert child.returncode == 0, f"{words[0]} has failed"
    taken, busy = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
    print(f"{name}: {mib(usage):.0f} MiB, {taken:.1f} s, {busy:.1f} s of them busy", flush=True)
    return {f"{name}_mib": mib(usage), f"{name}_x": audio / taken, f"{name}_cpu_x": audio / busy}


@torch.no_grad()
def compared(folder: Path, path: Path) -> dict[str, float]:
    """Parts against the whole: z_e, codes, and memory."""
    run = load_run(folder, "cpu", "reference")
    codebook = run.model.bottleneck.lookup(torch.arange(run.codebook())).double()
    with opened(path) as sound:
        codes = torch.from_numpy(run.encode(sound))
    x = torch.from_numpy(normalise(read(path), run.rate, run.recipe.speech.trim_db).samples)
    assert len(x) % run.model.hop == 0
    before = mib(resource.getrusage(resource.RUSAGE_SELF))
    whole = run.model.encoder(x[None, None], torch.tensor([len(x)]))[0]
    took = mib(resource.getrusage(resource.RUSAGE_SELF)) - before
    parts = torch.cat([*in_parts(run.model.encoder, [x], SAMPLES_A_PART // run.model.hop)], 1)[0]  # type: ignore[arg-type]
    distances = torch.cdist(whole.double(), codebook).square()
    excess = distances.gather(1, codes[:, None])[:, 0] - distances.min(1).values
    return {
        "z_e_rms": float(whole.square().mean().sqrt()),
        "z_e_apart": float((parts - whole).abs().max()),
        "whole_mib": took,
        "codes": len(codes),
        "codes_apart": float((codes != distances.argmin(1)).sum()),
        "codes_apart_by": float(excess.max()),
    }


def mib(usage: resource.struct_rusage) -> float:
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def main() -> None:
    given = options(__doc__ or "")
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        run, codes = run_folder(place / "run"), place / "codes.npy"
        threads = given.threads
        found["nothing_mib"] = measured("nothing", 0, threads, "info", run)["nothing_mib"]
        for minutes in (1, 3) if given.quick else (1, 10, 60):
            path = speak(place / f"{minutes}.wav", 60 * minutes)
            found |= measured(f"encode_{minutes}m", 60 * minutes, threads, "encode", "--run", run, path, codes)
        if not given.quick:
            path = speak(place / "cd.wav", 600, 44_100, 2)
            found |= measured("encode_10m_cd", 600, threads, "encode", "--run", run, path, codes)
        voice, hop = ["--speaker", SPEAKERS[0]], load_recipe(RECIPE).hop
        for seconds in (2, 10) if given.quick else (10, 60, 120):
            np.save(codes, np.random.default_rng(0).integers(0, 512, seconds * 16_000 // hop, np.int32))
            out = place / "out.wav"
            found |= measured(f"decode_{seconds}s", seconds, threads, "decode", "--run", run, *voice, codes, out)
        found |= compared(run, place / "1.wav")
    report(found, given)


if __name__ == "__main__":
    main()
