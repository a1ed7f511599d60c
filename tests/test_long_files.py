"""Signals longer than memory: read, levelled, encoded and written in parts, with the whole's result."""

from __future__ import annotations

import io
import os
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from rich.console import Console
from test_encoders import KINDS, kinds, randomised, signal, waveform
from test_run import KNOWN, RATE, make_run, tiny
from torch import Tensor

from wavevq import audio, files, progress
from wavevq.audio import BLOCK, Heard, Recording, opened, read
from wavevq.build import build_model
from wavevq.errors import WavevqError
from wavevq.jobs import Job
from wavevq.nn.encoders import StridedEncoder, in_parts
from wavevq.recipe import parse_recipe
from wavevq.run import Run, load_run
from wavevq.sampling import choose

QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return load_run(make_run(tmp_path_factory.mktemp("runs") / "one"), "cpu")


def pieces(x: Tensor, sizes: Sequence[int]) -> Iterator[Tensor]:
    """``x`` ``[T]`` in pieces of these sizes, again and again."""
    start = turn = 0
    while start < len(x):
        yield x[start : start + sizes[turn % len(sizes)]]
        start, turn = start + sizes[turn % len(sizes)], turn + 1


# --- the encoder's seams ------------------------------------------------------------------------------------


def precise(kind: str) -> tuple[Any, torch.dtype]:
    """An encoder in float64, where it is not one of spectra, which are float32."""
    encoder = randomised(KINDS[kind]())
    if isinstance(encoder, StridedEncoder):
        return encoder.double(), torch.float64
    return encoder, torch.float32


@kinds
@pytest.mark.parametrize("frames", [1, 2, 5, 64])
@pytest.mark.parametrize("sizes", [(1_000_000,), (37,), (1, 300, 0, 5)], ids=["whole", "even", "anyhow"])
def test_parts_make_the_whole(kind: str, frames: int, sizes: tuple[int, ...]) -> None:
    """Also parts of one frame, far shorter than what a latent sees, and signals shorter than a part."""
    encoder, dtype = precise(kind)
    hop = encoder.hop
    for length in (1, hop, 3 * hop + 1, 29 * hop - 1):
        x = signal(1, length, seed=length).to(dtype)
        whole = encoder(torch.nn.functional.pad(x, (0, -length % hop)), torch.tensor([length]))
        found = list(in_parts(encoder, pieces(x[0, 0], sizes), frames))
        assert [part.shape[1] for part in found[:-1]] == [frames] * (len(found) - 1)
        tolerance = 1e-12 if dtype == torch.float64 else 1e-5  # the same sums in another order
        torch.testing.assert_close(torch.cat(found, 1), whole, rtol=tolerance, atol=tolerance)


@kinds
def test_the_reach_is_what_a_latent_sees(kind: str) -> None:
    """To the sample, by the gradient of one latent: not less, or seams would be heard, and not more."""
    encoder, dtype = precise(kind)
    hop, (before, after) = encoder.hop, encoder.reach
    place = -(-before // hop) + 2
    size = (place + -(-after // hop) + 3) * hop
    heard = torch.zeros(size, dtype=torch.bool)
    for seed in range(8):  # a ReLU may close what a tap sees
        x = (3 * signal(1, size, seed)).to(dtype).requires_grad_()
        encoder(x, torch.tensor([size]))[0, place].square().sum().backward()
        heard |= x.grad[0, 0] != 0
    seen = heard.nonzero()[:, 0]
    edge = 0 if isinstance(encoder, StridedEncoder) else 1  # a Hann window is 0 at its first sample
    assert int(seen[0]) - (place * hop - before) in range(edge + 1)
    assert int(seen[-1]) == (place + 1) * hop - 1 + after


def test_a_part_costs_memory_and_the_length_none() -> None:
    encoder = waveform((2, 2, 2), 4)
    given: list[int] = []
    encoder.register_forward_hook(lambda _, inputs, made: given.append(inputs[0].numel()))
    most = []
    for count in (4, 40):
        given.clear()
        assert sum(part.shape[1] for part in in_parts(encoder, (torch.zeros(1000) for _ in range(count)), 100)) == (
            count * 1000 // encoder.hop
        )
        most.append(max(given))
    assert most[0] == most[1] <= 2 * 100 * encoder.hop


# --- files --------------------------------------------------------------------------------------------------


def by_hand(samples: NDArray[np.float32], source: int, target: int, trim_db: float | None) -> NDArray[np.float32]:
    """What ``Heard`` promises, of a whole signal: the plain twin."""
    centred = (samples - samples.mean(dtype=np.float64)).astype(np.float32)
    x = centred if source == target else soxr.resample(centred, source, target, quality="HQ")
    kept = audio.normalise(Recording(x, target), target, trim_db).kept if trim_db is not None else slice(None)
    part = x[kept].astype(np.float64)
    return np.clip((x - part.mean()) * (audio.LEVEL_RMS / part.std()), -1, 1).astype(np.float32)


def speech(seconds: float, rate: int, channels: int = 1, seed: int = 0) -> NDArray[np.float32]:
    """Noise that comes and goes, on an offset, silent at both ends: ``[T, channels]``."""
    draw = np.random.default_rng(seed)
    samples = round(seconds * rate)
    loudness = np.repeat(10 ** draw.uniform(-3, -0.5, samples // 500 + 1), 500)[:samples, None]
    loudness[: samples // 8] = loudness[-samples // 8 :] = 1e-5
    return (0.1 + loudness * draw.standard_normal((samples, channels))).astype(np.float32)


FORMATS = {"wav": {"subtype": "FLOAT"}, "flac": {"subtype": "PCM_16"}, "ogg": {}, "mp3": {}}


@pytest.mark.parametrize("trim_db", [None, 30.0])
@pytest.mark.parametrize(("suffix", "rate", "channels"), [("wav", 44_100, 2), ("flac", 8000, 1), ("ogg", 22_050, 2), ("mp3", 44_100, 1), ("wav", 48_000, 5)])  # fmt: skip  # noqa: E501
def test_a_file_in_blocks_is_heard_as_the_whole(
    tmp_path: Path, suffix: str, rate: int, channels: int, trim_db: float | None
) -> None:
    path = tmp_path / f"in.{suffix}"
    source = np.clip(speech(4.1, rate, channels), -1, 1)
    with soundfile.SoundFile(path, "w", rate, channels, **FORMATS[suffix]) as file:
        for start in range(0, len(source), 10_000):
            file.write(source[start : start + 10_000])
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    mono = samples.mean(1, dtype=np.float32)
    with opened(path) as sound:
        assert (sound.length, sound.rate) == (len(mono), rate)
        blocks = list(sound.blocks())
        assert [len(block) for block in blocks[:-1]] == [BLOCK] * (len(blocks) - 1)
        assert np.array_equal(np.concatenate(blocks), mono)
        heard = Heard(sound, 16_000, trim_db)
        found = np.concatenate(list(heard.blocks()))
        again = np.concatenate(list(heard.blocks()))
    assert np.array_equal(found, again)
    assert heard.length == len(found)
    assert (heard.kept != slice(0, heard.length)) == (trim_db is not None)
    whole = audio.normalise(read(path), 16_000, trim_db)
    assert np.array_equal(whole.samples, found)  # to the last bit, whether it lies in memory or is read anew
    assert whole.kept == heard.kept
    # The sums are in another order, of float64; samples are within a step of float32 of each other.
    np.testing.assert_allclose(found, by_hand(mono, rate, 16_000, trim_db), rtol=0, atol=1e-6)


@pytest.mark.parametrize(("source", "target"), [(44_100, 16_000), (8000, 16_000), (16_000, 8000), (11_025, 8000)])
def test_resampling_in_blocks_is_that_of_the_whole(source: int, target: int) -> None:
    """To the last bit, whatever the blocks: nothing has to be done at their seams."""
    x = speech(1.3, source)[:, 0]
    expected = soxr.resample(x, source, target, quality="HQ")
    for size in (1000, 4097, len(x)):
        parts = (x[i : i + size] for i in range(0, len(x), size))
        assert np.array_equal(np.concatenate(list(audio._resampled(parts, source, target))), expected)
    assert np.array_equal(audio.resample(x, source, target), expected)


def test_a_stream_is_kept_to_be_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pipe, by number or by name; past some size on disk, and nothing of it is left."""
    monkeypatch.setattr(audio, "STREAM_IN_MEMORY", 1000)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    wave = io.BytesIO()
    soundfile.write(wave, speech(0.4, RATE), RATE, format="WAV")
    expected = read(io.BytesIO(wave.getvalue()))

    def piped() -> Any:
        out, into = os.pipe()
        with os.fdopen(into, "wb") as file:
            file.write(wave.getvalue())
        return os.fdopen(out, "rb")

    with piped() as pipe, opened(pipe) as sound:
        for _ in range(2):
            assert np.array_equal(np.concatenate(list(sound.blocks())), expected.samples)
    with piped() as pipe:
        assert np.array_equal(read(f"/dev/fd/{pipe.fileno()}").samples, expected.samples)
    assert not list(tmp_path.iterdir())


def test_a_file_that_changes_under_the_reading_is_told(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "in.wav", speech(1, RATE), RATE)
    with opened(tmp_path / "in.wav") as sound:
        heard = Heard(sound, RATE, None)
        with (tmp_path / "in.wav").open("r+b") as file:
            file.truncate(9000)
        with pytest.raises(WavevqError, match=r"in\.wav: has changed while it was read"):
            list(heard.blocks())


# --- runs ---------------------------------------------------------------------------------------------------


def made(**encoder: Any) -> Run:
    """A run of random weights."""
    tree = tiny().model_dump(mode="json")
    tree["model"]["encoder"] = {"kind": "waveform", "channels": 6, **encoder}
    tree["train"]["crop"] = 1024
    recipe = parse_recipe(tree, "tiny")
    return Run(Path("tiny"), recipe, KNOWN, randomised(build_model(recipe, len(KNOWN))), 1, choose("auto"))


@pytest.mark.parametrize(
    "encoder",
    [{"strides": [2, 4]}, {"kind": "logmel", "strides": [2]}, {"kind": "mfcc"}],
    ids=["waveform", "logmel", "mfcc"],
)
@pytest.mark.parametrize("at_once", [1, 100, 777])
def test_codes_in_parts_are_those_of_the_whole(
    encoder: dict[str, Any], at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """z_e within 1e-5; another code only where two are as near within what that changes of their distances."""
    monkeypatch.setattr("wavevq.vqvae.SAMPLES_A_PART", at_once)
    run = made(**encoder)
    recipe, model = run.recipe, run.model
    recording = Recording(speech(0.7, 11_025)[:, 0], 11_025)
    shares: list[float] = []
    found = run.encode(recording, shares.append)
    assert sum(shares) == pytest.approx(1, abs=0.02)
    x = torch.from_numpy(audio.normalise(recording, RATE, None).samples)
    assert len(found) == -(-len(x) // recipe.hop)
    with torch.no_grad():
        padded = torch.nn.functional.pad(x, (0, -len(x) % recipe.hop))
        whole = model.encoder(padded[None, None], torch.tensor([len(x)]))[0]
        z_e = torch.cat(list(in_parts(model.encoder, [x], max(1, at_once // recipe.hop))), 1)[0]
    # Rounding of float32 sums in another order, of latents of this size.
    scale = max(1.0, float(whole.abs().max()))
    torch.testing.assert_close(z_e, whole, rtol=0, atol=1e-5 * scale)
    distances = torch.cdist(whole.double(), model.bottleneck.codebook.double())
    expected = distances.argmin(1)
    off = distances[torch.arange(len(found)), torch.from_numpy(found)] - distances.min(1).values
    assert off.max() <= 4e-5 * scale  # both distances move by at most what z_e does
    assert (torch.from_numpy(found) == expected).float().mean() > 0.99


def test_what_is_held_does_not_grow_with_the_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Encoding and decoding: a byte and a half a sample more, where a copy of the signal would be four.

    The codes are held whole, eight bytes for 64 samples, several times over while they are read.
    """
    monkeypatch.setattr("wavevq.audio.BLOCK", 2000)
    monkeypatch.setattr("wavevq.run.CODES_AT_ONCE", 100)
    monkeypatch.setattr("wavevq.vqvae.SAMPLES_A_PART", 2000)
    run = made(strides=[4, 4, 4], window=4)
    held: dict[str, list[int]] = {"encoding": [], "decoding": []}
    for seconds in (1, 1, 6):  # the first time imports and compiles
        source, codes, target = (tmp_path / f"in{suffix}" for suffix in (".wav", ".npy", ".flac"))
        soundfile.write(source, speech(seconds, RATE), RATE)
        works: dict[str, Callable[[], None]] = {
            "encoding": lambda: files.encode(run, [Job(source, codes)], QUIET),  # noqa: B023
            "decoding": lambda: files.decode(run, [Job(codes, target)], "ann", files.Sampling(), QUIET),  # noqa: B023
        }
        for name, work in works.items():
            tracemalloc.start()
            work()
            held[name].append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert soundfile.info(target).frames == seconds * RATE
    for _, one, six in held.values():
        assert six - one < 1.5 * 5 * RATE


def test_a_batch_is_written_as_it_is_drawn(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a clip stays in memory; a target that cannot be written to leaves the others theirs."""
    written: list[int] = []
    write = soundfile.SoundFile.write
    monkeypatch.setattr(soundfile.SoundFile, "write", lambda self, data: (written.append(len(data)), write(self, data)))
    (tmp_path / "not").write_text("a folder")
    codes = [np.arange(n) % 12 for n in (200, 190, 195)]
    targets = [tmp_path / "a.wav", tmp_path / "not" / "b.wav", tmp_path / "c.flac"]
    clips = [files.Clip(Job(Path("in"), t), "ann", c, len(c) * 9 - 4) for t, c in zip(targets, codes, strict=True)]
    told = progress.Told("drawn", "drawing", QUIET)
    files.sample_clips(run, clips, files.Sampling(seed=2), told, QUIET)
    assert max(written) <= 16 * 9
    assert told.files == 2
    assert [line.split(":")[0] for line in told.wrong] == [str(tmp_path / "not")]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.wav", "c.flac", "not"]
    for target, some in ((targets[0], codes[0]), (targets[2], codes[2])):
        heard, _ = soundfile.read(target, dtype="int16")
        alone = tmp_path / f"alone{target.suffix}"
        audio.write(alone, run.decode(some, "ann", seed=2)[: len(some) * 9 - 4], RATE)
        assert np.array_equal(heard, soundfile.read(alone, dtype="int16")[0])


def test_what_is_interrupted_leaves_no_file(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def interrupted(*_: Any) -> Iterator[Callable[[float], None]]:
        def advance(_: float) -> None:
            assert len(list(tmp_path.iterdir())) == 1  # half of it
            raise KeyboardInterrupt

        yield advance

    monkeypatch.setattr(files, "seconds_bar", interrupted)
    clip = files.Clip(Job(Path("in"), tmp_path / "a.wav"), "ann", np.arange(100) % 12, 900)
    told = progress.Told("drawn", "drawing", QUIET)
    with pytest.raises(KeyboardInterrupt):
        files.sample_clips(run, [clip], files.Sampling(), told, QUIET)
    assert not list(tmp_path.iterdir())
