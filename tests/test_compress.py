"""compress and decompress: what goes in comes out, for as many bits as the prior says; damage is refused by name."""

from __future__ import annotations

import io
import math
import re
import shutil
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
import trainings
import yaml
from click.testing import CliRunner
from constriction import stream
from numpy.typing import NDArray
from rich.console import Console
from test_fixed import LABELS, NETWORKS, K, codes, prior

from wavevq import compress, files, wvq
from wavevq.audio import Recording, read
from wavevq.build import build_model, build_prior
from wavevq.cli import main
from wavevq.errors import WavevqError
from wavevq.fixed import TOTAL, FixedPrior
from wavevq.jobs import Job
from wavevq.recipe import load_recipe
from wavevq.run import Run, load_run
from wavevq.run_folder import CHECKPOINTS, PRIOR, create, record_weights
from wavevq.train.state import Average, TrainState

SEQUENCES = {
    "one": np.array([3]),
    "all equal": np.full(300, 7),
    "random": codes(600),
    "first and last by turns": np.tile([0, K - 1], 150),
}


def header(some: NDArray[np.int64]) -> wvq.Header:
    return wvq.Header(b"01234567", 8000, 9 * len(some), len(some), "cléo")


def unpacked(data: bytes, fixed: FixedPrior, label: int) -> NDArray[np.int64]:
    return wvq.decode(wvq.read(io.BytesIO(data), "it"), fixed, label, "it")


# --- the code -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["wavenet, odd", "transformer"])
@pytest.mark.parametrize("which", SEQUENCES)
@pytest.mark.parametrize("scale", [0.0, 1.0, 1000.0])
def test_what_goes_in_comes_out(name: str, which: str, scale: float) -> None:
    """Also where the prior finds it all but impossible, or has no opinion."""
    fixed, some = FixedPrior(prior(name, scale=scale)), SEQUENCES[which]
    data = wvq.pack(header(some), some, fixed, 2)
    assert wvq.read(io.BytesIO(data), "it").header == header(some)
    np.testing.assert_array_equal(unpacked(data, fixed, 2), some)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_payload_is_as_long_as_the_float_prior_says(name: str) -> None:
    made, some = prior(name, ends=False, scale=0.2), codes(600)  # no code so unlikely that 2^-24 is more
    payload = wvq.encode(some, FixedPrior(made), 1)
    with torch.no_grad():
        mask = torch.ones(1, len(some), dtype=torch.bool)
        nats = made.double().nll(torch.from_numpy(some)[None], torch.tensor([1]), mask).item()
    assert abs(8 * len(payload) - nats / math.log(2)) <= 64 + 0.001 * nats  # two words of the coder's


def test_the_coder_takes_integer_frequencies_as_they_are() -> None:
    """At both edges of each symbol's interval, by words that say nothing but where in it they are."""
    rng = np.random.default_rng(0)
    for size in (2, 3, 129, 1000):
        frequencies = rng.integers(1, 2**TOTAL // size // 2, size)
        frequencies[[0, -1]] = 1
        frequencies[size // 2] += 2**TOTAL - frequencies.sum()
        below = np.concatenate([[0], np.cumsum(frequencies)])
        model = stream.model.Categorical(wvq._models(frequencies), lazy=True)
        for symbol in range(size):
            for edge in (below[symbol], below[symbol + 1] - 1):
                point = int(edge) * (2**64 - 1 >> TOTAL)
                words = np.array([point >> 32, point & 2**32 - 1], np.uint32)
                assert stream.queue.RangeDecoder(words).decode(model) == symbol


def test_the_layout_is_as_documented() -> None:
    some = codes(5)
    data = wvq.pack(header(some), some, FixedPrior(prior("wavenet")), 0)
    name = "cléo".encode()
    size = len(data) - wvq.OVERHEAD - len(name)
    start = struct.pack("<4sBB8sIIII", b"WVQ\x1a", 1, len(name), b"01234567", 8000, 45, 5, size) + name
    assert data.startswith(start)
    assert wvq.OVERHEAD == 38
    assert data[-8:-4] == struct.pack("<I", zlib.crc32(data[:-8] + some.astype("<i4").tobytes()))
    assert data[-4:] == struct.pack("<I", zlib.crc32(data[:-4]))


def test_other_probabilities_are_an_error_and_never_other_codes() -> None:
    """As from a machine that calculates otherwise: one weight differs by one step."""
    some = codes(50)
    data = wvq.pack(header(some), some, FixedPrior(prior("wavenet")), 0)
    other = FixedPrior(prior("wavenet"))
    other.network.output.weights[:] += 100  # type: ignore[attr-defined]
    other.network.output.weights[0, 0] -= 5000  # type: ignore[attr-defined]
    with pytest.raises(WavevqError, match="it: its codes do not match their checksum"):
        unpacked(data, other, 0)
    with pytest.raises(WavevqError, match="it: its codes do not match their checksum"):
        unpacked(data, FixedPrior(prior("wavenet")), 1)


# --- files --------------------------------------------------------------------------------------------------


def sealed(data: bytes) -> bytes:
    return data[:-4] + struct.pack("<I", zlib.crc32(data[:-4]))


def changed(data: bytes, at: int, value: bytes) -> bytes:
    return sealed(data[:at] + value + data[at + len(value) :])


BIG = struct.pack("<I", 2**32 - 1)
DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda data: b"", r"not a \.wvq file"),
    "foreign": (lambda data: b"RIFF" + data[4:], r"not a \.wvq file"),
    "version": (lambda data: changed(data, 4, b"\x02"), r"of version 2 of the \.wvq format; this wavevq reads 1"),
    "cut in the header": (lambda data: data[:20], "is cut, ends after 20 of at least 38 bytes"),
    "cut": (lambda data: data[:-3], r"is cut, ends after \d+ of \d+ bytes"),
    "longer": (lambda data: data + b"\0", r"goes on after the \d+ bytes that its header tells of"),
    "a bit": (lambda data: data[:40] + bytes([data[40] ^ 1]) + data[41:], "is damaged, its checksum is another"),
    "model": (lambda data: changed(data, 6, b"\0" * 8), "was compressed with the model 0000000000000000"),
    "rate": (lambda data: changed(data, 14, BIG), "is damaged, its rate is 4294967295 Hz"),
    "samples": (lambda data: changed(data, 18, BIG), r"is damaged, \d+ codes cannot be 4294967295 samples"),
    "many codes": (lambda data: changed(data, 22, BIG), r"is damaged, 4294967295 codes cannot be \d+ samples"),
    "consistently many codes": (
        lambda data: changed(data, 18, struct.pack("<II", 2**32 - 8, 2**29 - 1)),
        "its codes do not match their checksum",
    ),
    "no codes": (lambda data: changed(data, 22, b"\0" * 4), r"is damaged, holds 0 codes in \d+ bytes"),
    "much payload": (lambda data: changed(data, 26, BIG), r"is cut, ends after \d+ of 4294967336 bytes"),
    "speaker": (lambda data: changed(data, 30, b"zoe"), "is damaged, its model knows no speaker 'zoe'"),
    "no name": (lambda data: changed(data, 30, b"\xff"), "is damaged, its speaker's name is not UTF-8"),
    "another speaker": (lambda data: changed(data, 30, b"bob"), "its codes do not match their checksum"),
    "payload": (lambda data: changed(data, 35, bytes([data[35] ^ 1])), "its codes do not match their checksum"),
}


@pytest.fixture(scope="module", params=["wavenet", "transformer"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with random weights and a prior."""
    place = tmp_path_factory.mktemp("compress")
    networks: dict[str, dict[str, Any]] = {
        "wavenet": {"layers": 3, "cycle": 2, "residual": 4, "gate": 5, "skip": 6, "head": 4},
        "transformer": {"layers": 2, "width": 8, "heads": 2},
    }
    plan = {"network": {"kind": request.param, **networks[request.param]}, "speaker_dim": 4, "steps": 1}
    (place / "tiny.yaml").write_text(yaml.safe_dump({**trainings.RECIPE, "prior": plan}))
    recipe = load_recipe(str(place / "tiny.yaml"))
    assert recipe.prior is not None
    create(place / "run", recipe, ("ann", "bob"))
    modules = {CHECKPOINTS: build_model(recipe, 2), f"{PRIOR}/{CHECKPOINTS}": build_prior(recipe, recipe.prior, 2)}
    for name, module in modules.items():
        torch.manual_seed(1)
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
        TrainState(module, torch.optim.Adam(module.parameters()), Average(module, 0.9)).save(place / "run" / name, 1)
    record_weights(place / "run" / PRIOR, place / "run")
    return place / "run"


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load_run(folder, "cpu")


@pytest.fixture(scope="module")
def packer(run: Run) -> compress.Packer:
    return compress.Packer(run)


def recording(samples: int, rate: int = 8000) -> Recording:
    return Recording(np.random.default_rng(samples).normal(0, 0.1, samples).astype(np.float32), rate)


@pytest.fixture
def packed(run: Run, packer: compress.Packer) -> bytes:
    some = run.encode(recording(400))
    return packer.pack(some, "ann", 400)


def test_what_the_integers_take_at_their_first_call_is_not_counted(
    run: Run, packed: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is compiled, or loaded, once."""
    clock, whole = [0.0], FixedPrior.frequencies

    def first_slow(*given: Any) -> Any:
        clock[0] += 1.0 if clock[0] else 1000.0
        return whole(*given)

    monkeypatch.setattr("wavevq.progress.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(FixedPrior, "frequencies", first_slow)
    written = io.StringIO()
    jobs = [Job(io.BytesIO(packed), tmp_path / "a.wav")]
    compress.decompress(run, jobs, files.Sampling(), Console(file=written, width=200))
    [said] = re.findall(r"in ([\d.]+) s; decoding and sampling: ([\d.]+) s", written.getvalue())
    assert float(said[1]) < 1000 <= float(said[0])


def played(run: Run, data: list[bytes], **how: Any) -> list[bytes]:
    """What decompress writes of files, as streams."""
    jobs = [Job(io.BytesIO(one), io.BytesIO()) for one in data]
    try:
        compress.decompress(run, jobs, files.Sampling(**how), Console(quiet=True))
    finally:
        written = [job.target.getvalue() for job in jobs]  # type: ignore[union-attr]
    return written


@pytest.mark.parametrize("damage", DAMAGES)
def test_each_damage_is_refused_by_name_and_gives_no_audio(run: Run, packed: bytes, damage: str) -> None:
    make, message = DAMAGES[damage]
    out = io.BytesIO()
    job = Job(io.BytesIO(make(packed)), out)
    tracemalloc.start()
    with pytest.raises(WavevqError, match=f"^stream: {message}[^\n]*$"):
        compress.decompress(run, [job], files.Sampling(), Console(quiet=True))
    assert tracemalloc.get_traced_memory()[1] < 50e6  # whatever a header claims
    tracemalloc.stop()
    assert not out.getvalue()


def test_hundreds_of_damaged_files_among_whole_ones(
    run: Run, packer: compress.Packer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    corrupt = __import__("corrupt")
    whole = corrupt.whole(run, packer)
    cases = [data for _, data in corrupt.cases(whole, 320, seed=1)]
    jobs = [Job(io.BytesIO(data), io.BytesIO()) for data in [*cases, whole[0]]]
    with pytest.raises(WavevqError) as caught:
        compress.decompress(run, jobs, files.Sampling(), Console(quiet=True))
    assert len(str(caught.value).splitlines()) == len(cases)
    assert [bool(job.target.getvalue()) for job in jobs] == [False] * len(cases) + [True]  # type: ignore[union-attr]


def test_the_fingerprint_knows_weights_speakers_and_architecture(run: Run) -> None:
    one = compress.fingerprint(run)
    assert compress.fingerprint(load_run(run.folder, "cpu", sampler="reference")) == one
    others = [replace(run, speakers=("ann", "eve"))]
    for place in ("model", "prior"):
        other = load_run(run.folder, "cpu")
        module = other.model if place == "model" else other.trained_prior()[0]
        next(module.parameters()).data.view(-1)[0] += 1e-6
        others.append(other)
    data = run.recipe.data.model_copy(update={"rate": 16000})
    others.append(replace(run, recipe=run.recipe.model_copy(update={"data": data})))
    assert len({one, *map(compress.fingerprint, others)}) == 5


@pytest.mark.parametrize("samples", [2, 7, 8, 9, 400, 1234])
def test_decompress_is_decode_cut_to_the_length(run: Run, packer: compress.Packer, samples: int) -> None:
    sound = recording(samples)
    out = io.BytesIO()
    compress.compress(run, [Job(wave(sound), out)], "bob", Console(quiet=True))
    some = run.encode(read(wave(sound)))
    assert len(out.getvalue()) <= wvq.OVERHEAD + 3 + len(some) * math.log2(40) / 8 * 2 + 8
    raw = io.BytesIO()
    files.write_audio(raw, run.decode(some, "bob", seed=5, top_p=0.9)[:samples], run.rate)
    assert played(run, [out.getvalue()], seed=5, top_p=0.9) == [raw.getvalue()]
    assert len(raw.getvalue()) == 2 * samples


def wave(sound: Recording) -> io.BytesIO:
    data = io.BytesIO()
    soundfile.write(data, sound.samples, sound.rate, format="WAV", subtype="FLOAT")
    data.seek(0)
    return data


# --- the commands -------------------------------------------------------------------------------------------


def wavevq(*words: str | Path, error: int = 0) -> str:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exit_code == error, result.stderr
    return result.stderr


def test_the_commands(run: Run, tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    for i, rate in enumerate((8000, 11025)):
        make_audio(tmp_path / "in" / f"{i}.wav", seconds=0.05 + 0.03 * i, rate=rate)
    named = ["--run", run.folder]
    said = wavevq("compress", tmp_path / "in", "--out", tmp_path / "small", "--speaker", "ann", *named)
    assert "bits/s" in said
    assert "compressed 2 files, 0.13 s of audio" in said
    told = CliRunner().invoke(main, ["info", str(tmp_path / "small" / "1.wvq")]).stdout
    for row in (
        f"model +{compress.fingerprint(run).hex()}",
        "speaker +ann",
        "rate +8000 Hz",
        r"duration +0\.080 s, 640 samples",
        r"codes +80, \d+\.\d\d bits each",
        rf"payload +\d+ of {(tmp_path / 'small' / '1.wvq').stat().st_size} bytes",
    ):
        assert re.search(row, told)
    wavevq("decompress", tmp_path / "small", "--out", tmp_path / "out", "--seed", "3", *named)
    wavevq("encode", tmp_path / "in" / "1.wav", tmp_path / "1.npy", *named)
    wavevq("decode", tmp_path / "1.npy", tmp_path / "1.wav", "--seed", "3", "--speaker", "ann", *named)
    heard, whole = read(tmp_path / "out" / "1.wav"), read(tmp_path / "1.wav")
    assert len(heard.samples) == 640
    np.testing.assert_array_equal(heard.samples, whole.samples[:640])
    for words, message in (
        (["compress", tmp_path / "in" / "0.wav", tmp_path / "a.wvq"], "--speaker: missing; .* knows ann, bob"),
        (["compress", tmp_path / "in" / "0.wav", tmp_path / "a.wvq", "--speaker", "zoe"], "zoe: not a speaker of"),
        (["compress", tmp_path / "in" / "0.wav", tmp_path / "a.wav", "--speaker", "ann"], r"suffix of .* \.wvq"),
        (["decompress", tmp_path / "1.npy", tmp_path / "a.wav"], r"1\.npy: not a \.wvq file"),
        (["info", tmp_path / "small" / "1.wvq"], r"1\.wvq: --run goes with a \.npy file of codes only"),
        (["info", tmp_path / "none.wvq"], r"none\.wvq: there is no such file"),
        (["decompress", tmp_path / "none.wvq", tmp_path / "a.wav"], r"none\.wvq: cannot be read \(no such file"),
    ):
        said = wavevq(*words, *named, error=2)
        assert re.search(message, said)
        assert len(said.splitlines()) <= 2  # and which sampler it is


def test_a_run_without_a_prior(run: Run, packed: bytes, tmp_path: Path) -> None:
    shutil.copytree(run.folder, tmp_path / "bare")
    shutil.rmtree(tmp_path / "bare" / PRIOR)
    (tmp_path / "a.wvq").write_bytes(packed)
    for words in (["compress", "a.wav", tmp_path / "b.wvq", "--speaker", "ann"], ["decompress", "a.wvq", tmp_path / "b.wav"]):  # fmt: skip  # noqa: E501
        assert "bare: has no trained prior" in wavevq(*words, "--run", tmp_path / "bare", error=2).splitlines()[-1]


def test_an_unconditional_prior_knows_one_label() -> None:
    made = prior("transformer", labels=0)
    fixed, some = FixedPrior(made), codes(30)
    data = wvq.pack(header(some), some, fixed, fixed.nobody)
    assert data == wvq.pack(header(some), some, fixed, 2)  # whoever speaks
    np.testing.assert_array_equal(unpacked(data, fixed, 1), some)
    assert FixedPrior(prior("transformer")).nobody == LABELS
