"""A training that was killed and resumed ends in the very bits of one that never stopped."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from trainings import (
    STEPS,
    assert_equal_runs,
    before_step,
    command,
    metrics,
    noting_revivals,
    said,
    tensors,
    while_deleting,
    while_logging,
    while_saving,
    while_validating,
    within_step,
    workplace,
)

TRAIN = "train", "tiny.yaml", "--run"
BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module", params=["ema", "vq"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]
) -> Path:
    """A folder with a corpus, a recipe, and ``straight``, a run that nothing interrupted."""
    place = workplace(tmp_path_factory.mktemp(request.param), make_audio, request.param)
    assert command(place, *TRAIN, "straight", moments=[noting_revivals]) == [0], said(place)
    return place


def test_the_training_does_what_makes_resuming_hard(place: Path) -> None:
    """The codebook starts from data and codes are revived, later than the first checkpoints; the rate changes."""
    beginning, *revivals = (place / "placed").read_text().split()
    assert beginning == "40"
    assert len(revivals) >= STEPS // 2
    lines = metrics(place / "straight")
    assert [line["step"] for line in lines if line["kind"] == "train"] == [*range(2, STEPS + 1, 2)]
    assert [line["step"] for line in lines if line["kind"] == "validation"] == [4, 8, 12, STEPS]


def test_killed_at_every_kind_of_moment(place: Path) -> None:
    """One run, killed over and over, each time at another place of the loop."""
    moments = [
        before_step(0),  # nothing is saved yet
        while_saving(2, "model.safetensors"),
        before_step(3),
        while_validating(4),
        while_logging(4, "validation"),
        before_step(7),
        while_logging(8, "train"),
        while_saving(8, "optimizer.safetensors"),
        while_deleting("step-00000006"),
        before_step(11),
        while_saving(STEPS, "average.safetensors"),
        while_validating(STEPS),
    ]
    for number, moment in enumerate(moments):
        begun = (place / "killed" / "checkpoints").exists() and list((place / "killed/checkpoints").glob("step-*"))
        if not begun:  # a run without a checkpoint cannot be resumed; the user begins again
            shutil.rmtree(place / "killed", ignore_errors=True)
        codes = command(place, *TRAIN, "killed", *(["--resume"] if begun else []), moments=[moment])
        assert codes == [-signal.SIGKILL], f"moment {number}: {codes} {said(place)}"
        assert not (place / "killed" / "summary.json").exists()
    assert command(place, *TRAIN, "killed", "--resume") == [0], said(place)
    assert_equal_runs(place / "killed", place / "straight")
    assert (place / ".killed.lock").exists()  # left by every one of them, and in nobody's way
    assert not list((place / "killed" / "checkpoints").glob(".partial*"))
    assert (place / "killed" / "summary.json").exists()


def test_resuming_a_finished_run_changes_nothing(place: Path) -> None:
    shutil.copytree(place / "straight", place / "finished")
    assert command(place, *TRAIN, "finished", "--resume") == [0], said(place)
    assert f"finished already, at step {STEPS}" in said(place)
    assert_equal_runs(place / "finished", place / "straight")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_asked_to_stop_it_saves_at_once(place: Path, number: int) -> None:
    run = f"stopped-{number}"
    assert command(place, *TRAIN, run, moments=[before_step(4, number)]) == [130]
    assert said(place).splitlines()[-1] == (
        f"wavevq: stopped and saved; to go on: wavevq train tiny.yaml --run {run} --resume"
    )
    assert max((place / run / "checkpoints").glob("step-*")).name == "step-00000005"  # the step under way, no more
    assert command(place, *TRAIN, run, "--resume") == [0], said(place)
    assert re.search(r"^going on from step \d+$", said(place), re.MULTILINE)
    found, expected = (tensors(place / name / "checkpoints" / f"step-{STEPS:08d}") for name in (run, "straight"))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    assert metrics(place / run) == metrics(place / "straight")


def test_the_command_killed_from_outside(place: Path) -> None:
    """As a user would: the installed command, ``kill -9``, wherever it is when the second checkpoint appears."""
    words = [str(Path(sys.executable).with_name("wavevq")), *TRAIN, "outside"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with (place / "said" / "0").open("w") as file:
        process = subprocess.Popen(words, cwd=place, env=environment, stdout=file, stderr=file)
        try:
            deadline = time.monotonic() + 120
            while not (place / "outside" / "checkpoints" / "step-00000004").exists():
                assert process.poll() is None, said(place)
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    assert command(place, *TRAIN, "outside", "--resume") == [0], said(place)
    assert_equal_runs(place / "outside", place / "straight")


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Path]]:
    """``benchmarks/faults.py``, and its folder with a recipe for each stage."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)
        made = __import__("faults")
        yield made, made.workplace(tmp_path_factory.mktemp("stages"))


@pytest.mark.parametrize(("stage", "ranks"), [("prior", 2), ("joint", 2), ("images", 1)])
def test_every_stage_goes_on_where_it_was_killed(faults: tuple[Any, Path], stage: str, ranks: int) -> None:
    """Half of a checkpoint written, and a step done that no checkpoint holds."""
    of, there = faults
    straight, killed = (of.new(there, stage, there / f"{stage} {name}") for name in ("straight", "killed"))
    assert command(there, *of.words(stage, straight), moments=[None] * ranks) == [0] * ranks, said(there)
    moment: Any = while_saving(3, "optimizer.safetensors")
    codes = command(there, *of.words(stage, killed), moments=[moment] + [None] * (ranks - 1))
    assert codes == [-signal.SIGKILL] + [2] * (ranks - 1), said(there, ranks - 1)
    assert of.newest(of.part(stage, killed) / "checkpoints") == 2
    codes = command(there, *of.words(stage, killed), moments=[within_step(6)] * ranks)
    assert codes == [-signal.SIGKILL] * ranks, said(there)
    assert command(there, *of.words(stage, killed), moments=[None] * ranks) == [0] * ranks, said(there)
    assert of.same(of.part(stage, straight), of.part(stage, killed))


def test_every_damaged_part_of_a_checkpoint_is_told_and_the_one_before_used(place: Path) -> None:
    for name in ("model.safetensors", "state.json"):
        run = place / f"damaged-{name}"
        shutil.copytree(place / "straight", run)
        newest = run / "checkpoints" / f"step-{STEPS:08d}" / name
        os.truncate(newest, newest.stat().st_size // 2)
        assert command(place, *TRAIN, run.name, "--resume", "--set", "train.keep=1") == [0], said(place)
        told = [line for line in said(place).splitlines() if line.startswith("skipping a damaged checkpoint: ")]
        assert len(told) == 1
        assert str(newest.relative_to(place)) in told[0]
        assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]
        assert_equal_runs(run, place / "straight")


def test_a_damaged_newest_checkpoint_does_not_outlive_the_next(place: Path) -> None:
    """It is later than what is saved next, so counting from the newest would keep it and drop a good one."""
    run = place / "outlived"
    shutil.copytree(place / "straight", run)
    newest = run / "checkpoints" / f"step-{STEPS:08d}"
    shutil.copytree(newest, newest.with_name("step-00000099"))
    for damaged in (newest, newest.with_name("step-00000099")):
        os.truncate(damaged / "state.json", 5)
    moment = before_step(STEPS - 1, signal.SIGINT)
    assert command(place, *TRAIN, run.name, "--resume", "--set", "train.keep=1", moments=[moment]) == [130]
    assert [path.name for path in (run / "checkpoints").iterdir()] == [f"step-{STEPS:08d}"]
    assert tensors(newest)


def test_without_a_readable_checkpoint_it_is_refused(place: Path) -> None:
    run = place / "none"
    shutil.copytree(place / "straight", run)
    for state in run.glob("checkpoints/*/state.json"):
        state.unlink()
    before = (run / "metrics.jsonl").read_bytes()
    assert command(place, *TRAIN, "none", "--resume") == [2]
    assert said(place).splitlines()[-1] == "wavevq: none/checkpoints: no checkpoint to resume from that is not damaged"
    assert (run / "metrics.jsonl").read_bytes() == before
