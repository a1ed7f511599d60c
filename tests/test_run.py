"""A run folder and the model in it: what load_run takes, what it refuses, and the commands' work from Python."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

from wavevq import files
from wavevq.audio import Recording, read
from wavevq.build import build_model
from wavevq.codes_file import read_codes, write_codes
from wavevq.data.batches import PADDING, grouped
from wavevq.errors import WavevqError
from wavevq.jobs import Job
from wavevq.recipe import Recipe, parse_recipe
from wavevq.run import Run, load_run
from wavevq.run_folder import CHECKPOINTS, RECIPE, SPEAKERS, SUMMARY, create, find_run, read_recipe
from wavevq.sampling import PRECISIONS
from wavevq.train.state import AVERAGE, MODEL, STATE, SUMS, Average, TrainState

HOP, K, RATE = 9, 12, 8000
KNOWN = ("ann", "bob", "cléo")


def tiny(**encoder: Any) -> Recipe:
    """A model that is quick and random: nothing here depends on what it has learnt."""
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 4)
    model = {
        "encoder": {"kind": "waveform", "strides": [3, 3], "window": 5, "channels": 6, **encoder},
        "bottleneck": {"kind": "vq", "codes": K, "dim": 3},
        "decoder": {"kind": "wavenet", "layers": 2, "cycle": 2, "context_layers": 1, **widths},
    }
    data = {"kind": "folder", "rate": RATE}
    return parse_recipe({"data": data, "model": model, "train": {"steps": 5, "crop": 90}}, "tiny")


def make_run(folder: Path, steps: tuple[int, ...] = (3, 5)) -> Path:
    """A run folder with random weights, the averaged ones unlike the others, and another set at each step."""
    recipe = tiny()
    create(folder, recipe, KNOWN)
    module = build_model(recipe, len(KNOWN))
    state = TrainState(module, torch.optim.Adam(module.parameters()), Average(module, 0.9))
    for step in steps:
        randomise(module.state_dict(), step)
        randomise(state.average.tensors, 100 + step)
        state.step = step
        state.save(folder / CHECKPOINTS, keep=2)
    return folder


def randomise(tensors: dict[str, torch.Tensor], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for name, value in tensors.items():
        if value.is_floating_point():
            value.copy_(torch.randn(value.shape, generator=generator) * 0.7)
        if name.endswith("variance"):
            value.abs_()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "one")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    return load_run(folder, "cpu")


def recording(samples: int, rate: int = RATE, seed: int = 0) -> Recording:
    return Recording(np.random.default_rng(seed).normal(0, 0.1, samples).astype(np.float32), rate)


# --- the model ----------------------------------------------------------------------------------------------


def test_the_newest_averaged_weights_are_loaded(folder: Path, run: Run) -> None:
    from safetensors.torch import load_file

    average = load_file(folder / CHECKPOINTS / "step-00000005" / AVERAGE)
    assert run.step == 5
    assert not run.model.training
    for name, value in run.model.state_dict().items():
        assert torch.equal(value, average[name])
    trained = load_file(folder / CHECKPOINTS / "step-00000005" / MODEL)
    assert any(not torch.equal(value, average[name]) for name, value in trained.items())


def test_three_lines_of_python(folder: Path, tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    path = make_audio(tmp_path / "in.wav", seconds=0.05)
    run = load_run(folder)
    codes = run.encode(read(path))
    audio = run.convert(read(path), speaker="cléo")
    assert (codes.dtype, codes.shape) == (np.int64, (-(-400 // HOP),))
    assert (audio.dtype, audio.shape) == (np.float32, (400,))
    assert np.abs(audio).max() <= 1


@pytest.mark.parametrize("samples", [2, 8, 9, 10, 91, 400])
def test_one_code_a_hop(run: Run, samples: int) -> None:
    codes = run.encode(recording(samples))
    assert len(codes) == -(-samples // HOP)
    assert codes.min() >= 0
    assert codes.max() < K


def test_codes_tell_signals_apart(run: Run) -> None:
    one, other = run.encode(recording(900, seed=1)), run.encode(recording(900, seed=2))
    assert len(set(one.tolist())) > 1
    assert (one != other).any()


@pytest.mark.parametrize(("samples", "rate"), [(441, 44_100), (50, 5512), (97, 11_025), (333, 48_000), (80, 8000)])
def test_conversion_keeps_the_duration(run: Run, samples: int, rate: int) -> None:
    said = run.convert(recording(samples, rate), "bob")
    # Half a sample of rounding; resampling may round another way, so one sample more.
    assert abs(len(said) - samples * RATE / rate) <= 1.5


def test_encoding_and_decoding_change_nothing(run: Run) -> None:
    before = {name: value.clone() for name, value in run.model.state_dict().items()}
    run.convert(recording(100), "ann")
    assert all(torch.equal(value, before[name]) for name, value in run.model.state_dict().items())


def test_the_seed_decides(run: Run) -> None:
    codes = np.arange(12)
    assert len(run.decode(codes, "ann")) == 12 * HOP
    assert np.array_equal(run.decode(codes, "ann", seed=4), run.decode(codes, "ann", seed=4))
    assert not np.array_equal(run.decode(codes, "ann", seed=4), run.decode(codes, "ann", seed=5))


def test_codes_and_speaker_reach_the_audio(run: Run) -> None:
    codes = np.zeros(8, np.int64)
    assert not np.array_equal(run.decode(codes, "ann"), run.decode(codes, "bob"))
    assert not np.array_equal(run.decode(codes, "ann"), run.decode(codes + 1, "ann"))


@pytest.mark.parametrize("how", [{"temperature": 1e-4}, {"top_p": 1e-6}])
def test_without_randomness_the_seed_does_not_matter(run: Run, how: dict[str, float]) -> None:
    codes = np.arange(6)
    assert np.array_equal(run.decode(codes, "ann", seed=1, **how), run.decode(codes, "ann", seed=2, **how))


def test_a_clip_is_decoded_alike_alone_and_among_others(run: Run) -> None:
    clips = [np.arange(n) % K for n in (5, 11, 1, 7)]
    speakers = ["ann", "bob", "cléo", "ann"]
    together = run.decode_batch(clips, speakers, seed=9)
    for codes, speaker, audio in zip(clips, speakers, together, strict=True):
        assert np.array_equal(audio, run.decode(codes, speaker, seed=9))
    assert run.decode_batch([], []) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.int32, np.uint64, ">i4"])
def test_codes_of_any_integer_type(run: Run, dtype: Any) -> None:
    codes = np.arange(5)
    assert np.array_equal(run.decode(codes.astype(dtype), "ann"), run.decode(codes, "ann"))


@pytest.mark.parametrize(
    ("codes", "says"),
    [
        (np.array([0, K]), f"codes: codes from 0 to {K}; the codebook of .* has 0 to {K - 1}"),
        (np.array([-1, 2]), "codes: codes from -1 to 2"),
        (np.array([2**64 - 1], np.uint64), f"codes from {2**64 - 1}"),
        (np.array([0.0, 1.0]), "codes: holds float64; codes are integers"),
        (np.array([True]), "holds bool"),
        (np.zeros((2, 3), int), r"has the shape \[2, 3\]"),
        (np.array(3), r"has the shape \[\]"),
        (np.array([], int), r"has the shape \[0\]"),
    ],
)
def test_codes_that_are_not_its_own(run: Run, codes: Any, says: str) -> None:
    with pytest.raises(WavevqError, match=says):
        run.decode(codes, "ann")


def test_an_unknown_speaker(run: Run) -> None:
    for call in (lambda: run.decode(np.arange(3), "dan"), lambda: run.convert(recording(50), "dan")):
        with pytest.raises(WavevqError, match=r"dan: not a speaker of .*; it knows ann, bob, cléo"):
            call()


@pytest.mark.parametrize(
    "how",
    [
        *({"temperature": value} for value in (0.0, float("nan"), float("inf"))),
        *({"top_p": value} for value in (0.0, 1.01, float("nan"))),
        *({"seed": value} for value in (-1, 2**64)),
    ],
)
def test_sampling_that_cannot_be(run: Run, how: dict[str, Any]) -> None:
    [name] = how
    with pytest.raises(WavevqError, match=f"^{name} .*must be"):
        run.decode(np.arange(3), "ann", **how)


def test_the_sampler_is_the_one_asked_for(folder: Path, run: Run) -> None:
    assert str(run.sampler).startswith("cpu (bfloat16 weights")
    for precision in PRECISIONS:
        assert str(load_run(folder, "cpu", "reference", precision).sampler) == f"reference ({precision} weights)"
        assert str(load_run(folder, sampler="cpu", precision=precision).sampler).startswith(f"cpu ({precision} weights")
    for how, says in {
        ("sampler", "fast"): "sampler fast: must be one of auto, reference, cpu, gpu",
        ("precision", "int8"): "precision int8: must be one of bfloat16, float32",
    }.items():
        with pytest.raises(WavevqError, match=says):
            load_run(folder, **dict([how]))  # type: ignore[arg-type]


def test_what_a_sampler_takes_at_its_first_call_is_not_counted(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code that is compiled, or loaded, once."""
    clock = [0.0]

    def first_slow(*given: Any, **more: Any) -> Any:
        clock[0] += 1000.0 if not clock[0] else 1.0
        return reference(*given, **more)

    reference = run.sampler
    monkeypatch.setattr("wavevq.progress.time.monotonic", lambda: clock[0])
    written = io.StringIO()
    write_codes(tmp_path / "a.npy", np.arange(5))
    slow = replace(run, sampler=first_slow)
    jobs = [Job(tmp_path / "a.npy", tmp_path / "a.wav")]
    files.decode(slow, jobs, "ann", files.Sampling(), Console(file=written, width=200))
    [said] = re.findall(r"in ([\d.]+) s; sampling: ([\d.]+) s", written.getvalue())
    assert float(said[1]) < 1000 <= float(said[0])


# --- folders ------------------------------------------------------------------------------------------------


def test_which_run_is_meant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("WAVEVQ_RUN", raising=False)
    with pytest.raises(WavevqError, match="no finished run under runs/"):
        find_run(None)
    for age, name in enumerate(("newest", "middle", "oldest", "running")):
        create(tmp_path / "runs" / name, tiny(), KNOWN)
        if name != "running":
            (tmp_path / "runs" / name / SUMMARY).write_text("{}")
            os.utime(tmp_path / "runs" / name / SUMMARY, (1000 - age, 1000 - age))
    create(tmp_path / "elsewhere", tiny(), KNOWN)
    assert find_run(None) == Path("runs/newest")
    assert find_run("running") == Path("runs/running")
    assert find_run("runs/middle") == Path("runs/middle")
    assert find_run("elsewhere") == Path("elsewhere")
    monkeypatch.setenv("WAVEVQ_RUN", "oldest")
    assert find_run(None) == Path("runs/oldest")
    assert find_run("middle") == Path("runs/middle")
    for name in ("none", "x" * 5000, str(tmp_path)):
        with pytest.raises(WavevqError, match="not a run folder, and there is no run of this name under runs/"):
            find_run(name)


def test_a_run_folder_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that is killed while it begins one can be begun again under the same name."""
    with monkeypatch.context() as patch:
        patch.setattr("wavevq.run_folder.write_recipe", lambda folder, recipe: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            create(tmp_path / "run", tiny(), KNOWN)
    assert [path.name for path in tmp_path.iterdir()] == [".run.partial"]
    create(tmp_path / "run", tiny(), KNOWN)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    with pytest.raises(WavevqError, match="run: cannot be written"):
        create(tmp_path / "run", tiny(), KNOWN)


def test_the_recipe_in_a_run_is_the_recipe(tmp_path: Path) -> None:
    create(tmp_path / "run", tiny(), KNOWN)
    assert read_recipe(tmp_path / "run") == tiny()
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == [RECIPE, SPEAKERS]


def no_checkpoint(run: Path) -> None:
    for path in (run / CHECKPOINTS).iterdir():
        path.rename(run / f"elsewhere-{path.name}")


def cut(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        [path] = run.rglob(name)
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def gone(name: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        [path] = run.rglob(name)
        path.unlink()

    return damage


def text(name: str, content: str) -> Callable[[Path], None]:
    def damage(run: Path) -> None:
        [path] = run.rglob(name)
        path.write_text(content)

    return damage


def another_model(run: Path) -> None:
    path = run / RECIPE
    path.write_text(path.read_text().replace("channels: 6", "channels: 7"))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no checkpoint": (no_checkpoint, "holds no checkpoint yet"),
    "weights cut": (cut(AVERAGE), "average.safetensors: is not what was written"),
    "weights gone": (gone(AVERAGE), r"average.safetensors: cannot be read \(no such file"),
    "weights empty": (text(AVERAGE, ""), "average.safetensors: is not what was written"),
    "checksums gone": (gone(SUMS), "SHA256SUMS: cannot be read"),
    "weights of another model": (another_model, r"average.safetensors: .* is .*, the recipe's model has"),
    "another number of speakers": (text(SPEAKERS, '{"speakers": ["ann"]}'), "average.safetensors: "),
    "state cut": (cut(STATE), "state.json: not a checkpoint's state"),
    "state of another format": (text(STATE, '{"format": 0, "step": 5}'), "state.json: .* of format 2"),
    "state without a step": (text(STATE, '{"format": 1}'), "state.json: "),
    "speakers gone": (gone(SPEAKERS), "speakers.json: not a list of speakers"),
    "speakers cut": (cut(SPEAKERS), "speakers.json: not a list of speakers"),
    "speakers no list": (text(SPEAKERS, '{"speakers": 3}'), "speakers.json: not a list of speakers"),
    "speakers a list": (text(SPEAKERS, '["ann"]'), "speakers.json: not a list of speakers"),
    "recipe gone": (gone(RECIPE), "not a run folder"),
    "recipe no YAML": (text(RECIPE, "data: [1"), "recipe.yaml: cannot be read"),
    "recipe a bad date": (text(RECIPE, "data: 2026-99-99"), "recipe.yaml: cannot be read"),
    "recipe empty": (text(RECIPE, ""), "recipe.yaml: "),
    "recipe incomplete": (text(RECIPE, "data: {kind: folder}"), "recipe.yaml: model: missing"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_run_folder(tmp_path: Path, kind: str) -> None:
    folder = make_run(tmp_path / "run", steps=(5,))
    assert load_run(folder, "cpu").step == 5
    damage, says = BROKEN[kind]
    damage(folder)
    with pytest.raises(WavevqError, match=says) as caught:
        load_run(folder, "cpu")
    assert str(folder) in str(caught.value)


# --- codes files --------------------------------------------------------------------------------------------


def saved(codes: Any, **how: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, codes, **how)
    return data.getvalue()


def archive() -> bytes:
    data = io.BytesIO()
    np.savez(data, codes=np.arange(3))
    return data.getvalue()


def test_codes_come_back(tmp_path: Path) -> None:
    codes = np.array([3, 1, 4], np.int64)
    write_codes(tmp_path / "codes.npy", codes)
    again = read_codes(tmp_path / "codes.npy")
    assert again.dtype == np.dtype("<i4")
    assert np.array_equal(again, codes)
    assert np.array_equal(np.load(tmp_path / "codes.npy", allow_pickle=False), codes)
    assert np.array_equal(read_codes(io.BytesIO(saved(codes)), "stream"), codes)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a .npy file of codes"),
        (b"RIFF....WAVE", "not a .npy file of codes"),
        (archive(), "not a .npy file of codes"),
        (archive()[:20], "not a .npy file of codes"),
        (saved(np.array([{"a": 1}], object), allow_pickle=True), "holds object; codes are integers"),
        (saved(np.arange(9))[:70], "not a .npy file of codes"),
        (saved(np.arange(9))[:-5], "ends after 8 of 9 codes"),
        (saved(np.arange(9)).replace(b"<i8", b"<,8"), "not a .npy file of codes"),
        (saved(np.arange(9)).replace(b"'shape'", b"'Shape'"), "not a .npy file of codes"),
        (
            saved(np.arange(9)).replace(b"(9,), }" + b" " * 9, b"(9" + b"0" * 9 + b",), }"),
            "ends after 9 of 9000000000 ",
        ),
        (saved(np.arange(9)).replace(b"NUMPY\x01", b"NUMPY\x03"), "not a .npy file of codes"),
        (saved(np.arange(3.0)), "holds float64; codes are integers"),
        (saved(np.zeros((1, 3), int)), r"has the shape \[1, 3\]; codes are one sequence"),
        (saved(np.zeros(0, int)), r"has the shape \[0\]"),
    ],
    ids=[
        *("empty", "wav", "npz", "npz cut", "pickle", "head cut", "codes cut"),
        *("type", "key", "huge", "version", "floats", "2-D", "no codes"),
    ],
)
def test_files_that_hold_no_codes(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "codes.npy"
    path.write_bytes(content)
    with pytest.raises(WavevqError, match=f"^{path}: {says}") as caught:
        read_codes(path)
    assert "\n" not in str(caught.value)


# --- many files ---------------------------------------------------------------------------------------------


def test_batches_hold_like_lengths_within_bounds() -> None:
    lengths = [5, 300, 7, 6, 40, 41, 5] + [1] * 40
    made = [[lengths[i] for i in group] for group in grouped(lengths, files.AT_ONCE)]
    assert [n for group in made for n in group] == sorted(lengths)
    assert all(len(group) * max(group) <= sum(group) / (1 - PADDING) for group in made)
    assert max(map(len, made)) == files.AT_ONCE
    assert [40, 41] in made
    assert [300] in made
    assert grouped([], 3) == []


def test_raw_audio_is_what_a_wav_holds(tmp_path: Path) -> None:
    import soundfile

    samples = np.concatenate([np.linspace(-1.2, 1.2, 4001), [1, -1, 0]]).astype(np.float32)
    raw = io.BytesIO()
    files.write_audio(raw, samples, RATE)
    files.write_audio(tmp_path / "out.wav", samples, RATE)
    assert np.array_equal(np.frombuffer(raw.getvalue(), "<i2"), soundfile.read(tmp_path / "out.wav", dtype="int16")[0])


def test_progress_is_shown_on_a_terminal(run: Run, tmp_path: Path) -> None:
    """Seconds of audio within the clips, also where there is only one."""
    write_codes(tmp_path / "codes.npy", np.arange(100) % K)
    jobs = [Job(tmp_path / "codes.npy", tmp_path / "out.wav")]
    done = r"decoded 1 file, 0.11 s of audio, in [\d.]+ s; sampling: [\d.]+ s, [\d.e+-]+ times real time"
    for terminal in (True, False):
        console = Console(file=io.StringIO(), force_terminal=terminal, width=100, _environ={"TERM": "xterm"})
        files.decode(run, jobs, "ann", files.Sampling(), console)
        said = console.file.getvalue()  # type: ignore[attr-defined]
        assert bool(re.search(r"sampling .*0\.1/0\.1 s", said)) == terminal
        assert re.search(done, said)


def test_many_files_are_converted_as_each_alone(run: Run, tmp_path: Path, make_audio: Callable[..., Path]) -> None:
    inputs = [make_audio(tmp_path / "in" / f"{i}.wav", seconds=0.01 + 0.01 * i, pitch=200 + 50 * i) for i in range(5)]
    jobs = [Job(path, tmp_path / f"{path.stem}.wav") for path in inputs]
    files.convert(run, jobs, "bob", files.Sampling(seed=3), Console(file=io.StringIO()))
    for job in jobs:
        assert isinstance(job.source, Path)
        assert isinstance(job.target, Path)
        files.write_audio(tmp_path / "alone.wav", run.convert(read(job.source), "bob", seed=3), RATE)
        assert job.target.read_bytes() == (tmp_path / "alone.wav").read_bytes()
