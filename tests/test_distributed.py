"""Two gloo processes under DDP train what one process trains on the joined batch."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from rich.console import Console
from trainings import (
    STEPS,
    assert_equal_runs,
    before_step,
    command,
    finish,
    free_port,
    launched,
    metrics,
    noting_revivals,
    said,
    start,
    tensors,
    waiting_at,
    workplace,
)

from wavevq.build import build_corpus
from wavevq.data.batches import Crops
from wavevq.data.codes import Codes
from wavevq.distributed import interleaved, joined, total
from wavevq.errors import WavevqError
from wavevq.evaluate import likelihood
from wavevq.experiment import locked, train
from wavevq.recipe import load_recipe
from wavevq.run import load_model
from wavevq.run_folder import newest_checkpoint, read_recipe
from wavevq.train.loop import Interrupted

TRAIN = "train", "tiny.yaml", "--run"
LOST = "wavevq: process {} of 2: stopped, for another has ended (what it said last tells why)"


@pytest.fixture(scope="module", params=["ema", "vq"])
def place(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]
) -> Path:
    return workplace(tmp_path_factory.mktemp(request.param), make_audio, request.param)


def keeping_the_weights() -> None:
    """Every rank leaves its final weights and buffers in ``rank-R.pt``: only rank 0 saves checkpoints."""
    from wavevq.train import loop

    check = loop.check

    def watched(state: Any, validate: Any, log: Any) -> None:
        if state.step == STEPS:
            torch.save(state.module.state_dict(), f"rank-{os.environ['RANK']}.pt")
        check(state, validate, log)

    loop.check = watched


@pytest.fixture(scope="module")
def straight(place: Path) -> Path:
    """A run of two ranks that nothing interrupted."""
    codes = command(place, *TRAIN, "straight", moments=[keeping_the_weights] * 2)
    assert codes == [0, 0], said(place, 0) + said(place, 1)
    return place / "straight"


# --- the mathematics ----------------------------------------------------------------------------------------


class Doubled:
    """Batches in float64."""

    def __init__(self, batches: Any) -> None:
        self.batches, self.unit, self.amount = batches, batches.unit, batches.amount

    def at(self, step: int, rank: int, world: int) -> Any:
        batch = self.batches.at(step, rank, world)
        return dataclasses.replace(batch, x=batch.x.double())


def train_in_float64(place: str, name: str, part: str = "vqvae") -> None:
    """The training loop itself, in float64; every rank leaves its state in ``NAME-R.pt``. part: or the prior."""
    from wavevq.build import build_corpus, build_model, build_prior
    from wavevq.experiment import launch
    from wavevq.train.log import Validation
    from wavevq.train.loop import fit

    os.chdir(place)
    noting_revivals()
    recipe = load_recipe("tiny.yaml")
    console = Console(quiet=True)
    fabric = launch(recipe, console)
    corpus = build_corpus(recipe)
    labels = len(corpus.labels)
    folder = Path(name)
    folder.mkdir(exist_ok=True)
    nothing = Validation({})
    if part == "prior":
        assert recipe.prior is not None
        module, plan = build_prior(recipe, recipe.prior, labels).double(), recipe.prior
        batches = corpus.code_crops(grids(), plan.crop, plan.batch, recipe.hop, recipe.seed)
    else:
        module, plan = build_model(recipe, labels).double(), recipe.train
        batches = Doubled(corpus.crops(plan.crop, plan.batch, recipe.seed))
    fit(fabric, module, batches, plan, folder, lambda step: nothing, console, False)
    torch.save(module.state_dict(), f"{name}-{fabric.global_rank}.pt")


def _summed(place: str) -> None:
    with joined():
        mine = torch.tensor([[1.0, 10.0], [100.0, 1000.0]]) * (1 + int(os.environ["RANK"]))
        torch.save((total(mine), interleaved(mine), mine), Path(place, f"summed-{os.environ['RANK']}.pt"))


def test_sums_and_rows_of_all_ranks(tmp_path: Path) -> None:
    assert finish(start(_summed, str(tmp_path), ranks=2), 60) == [0, 0]
    one = torch.tensor([[1.0, 10.0], [100.0, 1000.0]])
    for rank in range(2):
        summed, rows, mine = torch.load(tmp_path / f"summed-{rank}.pt", weights_only=True)
        assert torch.equal(summed, 3 * one)
        assert torch.equal(rows, torch.stack([one[0], 2 * one[0], one[1], 2 * one[1]]))
        assert torch.equal(mine, (1 + rank) * one)  # what was summed is not changed


def test_two_processes_equal_one_on_the_joined_batch(place: Path) -> None:
    assert_two_train_as_one(place)
    placed = (place / "placed").read_text().split()
    assert placed.count("40") == 3  # one initialisation in each process
    assert len(placed) > 3 + 3 * STEPS // 2  # and revivals


@pytest.mark.parametrize("kind", ["ema", "vae", "vimco", "prior"])
def test_two_processes_train_images_as_one(tmp_path: Path, kind: str) -> None:
    """And what is theirs alone: drawn latents and codes, the choice of dropped classes, a prior over grids."""
    generator = np.random.default_rng(0)
    for label, i in product("ab", range(6)):
        path = tmp_path / f"pets/{label}/{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(generator.integers(0, 256, (9, 9, 3), dtype=np.uint8)).save(path)
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(images("ema" if kind == "prior" else kind)))
    assert_two_train_as_one(tmp_path, kind)


def images(kind: str) -> dict[str, Any]:
    """A recipe of images of 8 x 8 in 2 x 2 x 2 codes, or latents of a bottleneck of another ``kind``."""
    widths = {"channels": 4, "residual": 3, "residual_blocks": 1}
    own = {"ema": {"codes": 9, "revive_after": 2}, "vae": {"free_bits": 0.1}, "vimco": {"codes": 5, "samples": 3}}
    network = {"kind": "pixelcnn", "layers": 2, **dict.fromkeys(("residual", "gate", "head"), 4)}
    plan = {"steps": STEPS, "batch": 4, "learning_rate": 0.01, "warmup": 3, "average": 0.8, "log_every": 2}
    return {
        "data": {"kind": "images", "root": "pets", "size": 8, "margin": 1, "flip": True, "held_out": 0.2},
        "model": {
            "encoder": {"kind": "image", "groups": 2, **widths},
            "bottleneck": {"kind": kind, "dim": 3, **own[kind]},
            "decoder": {"kind": "image", **widths},
        },
        "train": plan,
        "prior": {"network": network, "drop_speaker": 0.4, **plan} if kind != "vae" else None,
    }


def grids() -> Codes:
    """Of ten images, for the prior."""
    return Codes([np.random.default_rng(i).integers(0, 9, (2, 2, 2)) for i in range(10)], [0, 1] * 5)


def assert_two_train_as_one(place: Path, part: str = "vqvae") -> None:
    for ranks in (1, 2):
        assert finish(start(train_in_float64, str(place), f"of-{ranks}", part, ranks=ranks)) == [0] * ranks
    one, first, second = (
        torch.load(place / f"{name}.pt", weights_only=True) for name in ("of-1-0", "of-2-0", "of-2-1")
    )
    assert one.keys() == first.keys() == second.keys()
    for name, value in one.items():
        assert torch.equal(first[name], second[name]), f"the ranks differ in {name}"
        # Sums in another order round otherwise, by 1e-16; Adam divides by the root of squared gradients, down to its
        # eps of 1e-8, so a step may turn that into 1e-8 x the learning rate of 1e-2. A forgotten factor shows as 1e-3.
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}")
    for alone, together in zip(metrics(place / "of-1"), metrics(place / "of-2"), strict=True):
        assert (alone.pop("kind"), alone.keys()) == (together.pop("kind"), together.keys())
        assert alone == pytest.approx(together, rel=1e-9), "a metric is one rank's, not the joined batch's"


# --- the command --------------------------------------------------------------------------------------------


def test_ranks_hold_the_same_and_one_writes(place: Path, straight: Path) -> None:
    ranks = [torch.load(place / f"rank-{rank}.pt", weights_only=True) for rank in range(2)]
    saved = tensors(straight / "checkpoints" / f"step-{STEPS:08d}")
    for name, value in ranks[0].items():
        assert torch.equal(value, ranks[1][name]), name
        assert torch.equal(value, saved[f"model.safetensors/{name}"]), name
    steps = [(line["kind"], line["step"]) for line in metrics(straight)]
    assert len(steps) == len(set(steps)) == STEPS // 2 + 4
    assert "validation at step" in said(place, 0)
    # Lightning says of every rank that it begins; ours speaks of none but the first.
    assert [line for line in said(place, 1).splitlines() if not line.startswith("Initializing distributed")] == []


def test_killed_and_resumed_it_ends_in_the_same_bits(place: Path, straight: Path) -> None:
    # Both are killed; a rank alone could not go on. Then one of them is asked to stop, and both must.
    assert command(place, *TRAIN, "killed", moments=[before_step(7)] * 2) == [-signal.SIGKILL] * 2
    assert max((place / "killed" / "checkpoints").glob("step-*")).name == "step-00000006"
    stop = [None, before_step(9, signal.SIGTERM)]
    assert command(place, *TRAIN, "killed", "--resume", moments=stop) == [130, 130], said(place)
    assert max((place / "killed" / "checkpoints").glob("step-*")).name == "step-00000010"
    assert command(place, *TRAIN, "killed", "--resume", moments=[None] * 2) == [0, 0], said(place)
    assert_equal_runs(place / "killed", straight)


def holding_nan(step: int) -> None:
    """The first clip of this rank's batch of ``step`` is not finite."""
    at = Crops.at

    def watched(self: Crops, asked: int, rank: int = 0, world: int = 1) -> Any:
        batch = at(self, asked, rank, world)
        if asked == step:
            batch.x[0, 0, 3] = torch.nan
        return batch

    Crops.at = watched  # type: ignore[method-assign]


@pytest.mark.parametrize("place", ["ema"], indirect=True)  # the quantizer changes nothing here
def test_what_is_not_finite_on_one_rank_ends_both(place: Path) -> None:
    assert command(place, *TRAIN, "nan", moments=[None, partial(holding_nan, 5)]) == [2, 2]
    assert said(place, 0).splitlines()[-1] == LOST.format(0)
    named = (
        r"wavevq: step 5: NaN or infinite values in (ann|bob)/\w+\.wav; the last good checkpoint is nan/.*step-00000004"
    )
    assert re.fullmatch(named, said(place, 1).splitlines()[-1])
    assert max((place / "nan" / "checkpoints").glob("step-*")).name == "step-00000004"


@pytest.mark.parametrize("place", ["ema"], indirect=True)
def test_a_folder_in_use_is_refused_by_both(place: Path) -> None:
    with locked(place / "used"):
        assert command(place, *TRAIN, "used", moments=[None] * 2) == [2, 2]
    for rank in range(2):
        assert said(place, rank).splitlines()[-1] == "wavevq: used: another training is writing to this run folder"
    assert not (place / "used").exists()


def test_refusals_are_told_by_every_rank_and_nothing_is_written(place: Path, straight: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*")}
    assert command(place, *TRAIN, "straight", moments=[None] * 2) == [2, 2]
    exists = "wavevq: straight: exists already; go on with --resume, or name another folder with --run"
    assert said(place, 1).splitlines()[-1] == exists
    # What rank 0 alone meets, since it prepares the corpus, is told by the others too.
    assert command(place, *TRAIN, "refused", "--set", "data.root=nowhere", moments=[None] * 2) == [2, 2]
    for rank in range(2):
        assert said(place, rank).splitlines()[-1] == "wavevq: data.root: there is no folder nowhere"
    assert not (place / "refused").exists()
    assert before == {path: path.stat().st_mtime_ns for path in straight.rglob("*")}


@pytest.mark.parametrize("place", ["ema"], indirect=True)  # the quantizer changes nothing here
def test_a_rank_that_dies_ends_the_others(place: Path) -> None:
    """They wait for it in an all-reduce, which must fail rather than wait for ever, and without a traceback.

    While two train, a third is refused.
    """
    both = launched(place, *TRAIN, "torn", moments=[waiting_at(3), before_step(5)])
    wait_for((place / "waits").exists)
    with (
        pytest.raises(WavevqError, match="torn: another training is writing to this run folder"),
        locked(place / "torn"),
    ):
        pass
    (place / "waits").unlink()
    assert finish(both) == [2, -signal.SIGKILL]
    assert said(place, 0).splitlines()[-1] == LOST.format(0)
    assert "Traceback" not in said(place, 0)
    with locked(place / "torn"):  # the lock lies there, of a process that is gone
        pass
    assert max((place / "torn" / "checkpoints").glob("step-*")).name == "step-00000004"


@pytest.mark.parametrize("ended", ["done", "stopped", "nan"])
@pytest.mark.parametrize("place", ["ema"], indirect=True)
def test_no_thread_outlives_the_training(place: Path, ended: str) -> None:
    """One that does may abort the interpreter at its end, and a training that is done would end in an error.

    Nor one in which an error ends, while that is still held: what it holds would end the group when it is let go, with
    the interpreter locked, and may wait for ever for a thread that waits for the interpreter.
    """
    assert finish(start(_threads_left, str(place), ended, ranks=2)) == [0, 0]
    for rank in range(2):
        assert not [name for name in (place / f"threads{rank}").read_text().split() if "gloo" in name]


def _threads_left(place: str, ended: str) -> None:
    os.chdir(place)
    if ended == "stopped":
        before_step(2, signal.SIGTERM)()
    elif ended == "nan":
        holding_nan(2)
    held = []
    try:
        train(load_recipe("tiny.yaml", ("train.steps=4",)), Path(f"left-{ended}"), False, Console(quiet=True))
    except (Interrupted, WavevqError) as error:
        held.append(error)
    assert [type(error) for error in held] == {"done": [], "stopped": [Interrupted], "nan": [WavevqError]}[ended]
    left = [(task / "comm").read_text() for task in Path("/proc/self/task").iterdir()]
    Path(f"threads{os.environ['RANK']}").write_text("".join(left))


# --- encoding -----------------------------------------------------------------------------------------------


def test_encode_shares_its_files_out(finished: Path, tmp_path: Path) -> None:
    """Six and five of eleven; that one is broken stops none of the others, on any rank."""
    shutil.copytree(finished / "corpus", tmp_path / "corpus", ignore=shutil.ignore_patterns("*.tsv"))
    (tmp_path / "corpus" / "ann" / "ann_9.wav").write_text("no audio")
    words = "encode", "corpus"
    run = "--run", str(finished / "run")
    assert command(tmp_path, *words, "alone", *run) == [2]
    assert sorted(command(tmp_path, *words, "shared", *run, moments=[None] * 2)) == [0, 2]
    told = said(tmp_path, 0) + said(tmp_path, 1)
    assert told.count("encoded 10 files") == told.count("encoded ") == 1
    assert told.count("wavevq: corpus/ann/ann_9.wav: not an audio file") == 1
    one, two = (
        {path.relative_to(tmp_path / out): path.read_bytes() for path in (tmp_path / out).rglob("*.npy")}
        for out in ("alone", "shared")
    )
    assert len(one) == 10
    assert one == two


def encode_the_corpus(run: str, cache: str) -> None:
    """The codes of both splits, into a cache; every process that encodes any leaves a file in it."""
    os.environ["WAVEVQ_CACHE"] = cache
    encode_all = likelihood.encode_all

    def watched(model: Any, batches: Any) -> Any:
        Path(cache, f"encoded-{os.getpid()}-{len(batches)}-{time.monotonic_ns()}").touch()
        time.sleep(0.5)  # time for another process to come by
        return encode_all(model, batches)

    likelihood.encode_all = watched
    recipe = read_recipe(Path(run))
    with joined():
        corpus = build_corpus(recipe)
        model, _ = load_model(Path(run), recipe, len(corpus.labels))
        for split in ("train", "val"):
            likelihood.encoded(model.eval(), newest_checkpoint(Path(run)) / "average.safetensors", corpus, split)


def test_the_cache_of_codes_is_shared_out_and_made_once(finished: Path, tmp_path: Path) -> None:
    """Two ranks make what one process does, of shares that differ; of two processes at once, one makes each split."""
    caches = [tmp_path / name for name in ("one", "ranks", "at-once")]
    for cache in caches:
        cache.mkdir()
    one, ranks, both = ((encode_the_corpus, str(finished / "run"), str(cache)) for cache in caches)
    assert finish([*start(*one), *start(*ranks, ranks=2), *start(*both), *start(*both)]) == [0] * 5
    made = [{path.name: path.read_bytes() for path in cache.glob("codes-*.safetensors")} for cache in caches]
    assert len(made[0]) == 2
    assert made[0] == made[1] == made[2]
    shares = [[path.name.split("-")[1:3] for path in cache.glob("encoded-*")] for cache in caches]
    assert [len({process for process, _ in share}) for share in shares[:2]] == [1, 2]
    batches = [sum(int(count) for _, count in share) for share in shares]
    assert batches[0] == batches[1] == batches[2]


@pytest.mark.parametrize("place", ["ema"], indirect=True)  # the quantizer changes nothing here
def test_the_command_under_torchrun(place: Path, straight: Path) -> None:
    """As a user types it, with the folder's default name: Ctrl-C saves, and resumed it ends in the same bits."""
    first = torchrun(place, "train", "tiny.yaml")
    try:
        wait_for(lambda: list(place.glob("runs/tiny-*/checkpoints/step-*")), first)
        os.killpg(first.pid, signal.SIGINT)  # as a terminal does: torchrun and both processes
        said, errors = first.communicate(timeout=300)
    finally:
        kill(first)
    [run] = (place / "runs").glob("tiny-*")
    assert re.fullmatch(r"tiny-\d{8}-\d{6}", run.name)
    assert said.count("run folder: ") == 1
    assert f"stopped and saved; to go on: wavevq train tiny.yaml --run runs/{run.name} --resume\n" in errors
    assert not (run / "summary.json").exists(), "it ended before it could be stopped"
    again = torchrun(place, "train", "tiny.yaml", "--run", str(run.relative_to(place)), "--resume")  # as it said
    try:
        said, errors = again.communicate(timeout=300)
    finally:
        kill(again)
    assert again.returncode == 0, said + errors
    found, expected = (tensors(one / "checkpoints" / f"step-{STEPS:08d}") for one in (run, straight))
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)


def torchrun(place: Path, *words: str) -> subprocess.Popen[str]:
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2"]
    return subprocess.Popen(
        [*launch, "--master_port", str(free_port()), "--", str(Path(sys.executable).with_name("wavevq")), *words],
        cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_for(ready: Callable[[], object], process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 120
    while not ready():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def kill(process: subprocess.Popen[str]) -> None:
    """The process and those it started, if any is left."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
