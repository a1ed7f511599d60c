"""A training that begins with the weights of another run, and what `wavevq info` tells of how a run was taught."""

from __future__ import annotations

import json
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from rich.console import Console
from trainings import PRIOR, assert_equal_runs, before_step, command, said, seal, tensors

from wavevq.build import build_model, build_store
from wavevq.data.store import Store
from wavevq.errors import WavevqError
from wavevq.experiment import begin_with, fitting_start, train
from wavevq.export import placeless
from wavevq.recipe import Recipe, load_recipe
from wavevq.run import Run, load_run


@pytest.fixture
def first(finished: Path) -> tuple[Run, Store]:
    """A finished run of two speakers, and its corpus."""
    run = load_run(finished / "run", "cpu")
    return run, build_store(run.recipe)


def changed(run: Run, *overrides: str) -> Recipe:
    return load_recipe(run.folder / "recipe.yaml", overrides)


# --- weights ------------------------------------------------------------------------------------------------


def test_a_model_gets_the_weights_of_a_run_and_keeps_an_adversary_of_its_own(first: tuple[Run, Store]) -> None:
    run, _ = first
    made = build_model(changed(run, "model.adversary=0.1", "seed=9"), 2)
    own = {name: value.clone() for name, value in made.state_dict().items()}
    begin_with(made, run.folder)
    theirs = run.model.state_dict()
    for name, value in made.state_dict().items():
        assert torch.equal(value, own[name] if name.startswith("adversary.") else theirs[name]), name
    assert any(not torch.equal(own[name], theirs[name]) for name in theirs)


def test_a_joint_prior_begins_as_its_own(first: tuple[Run, Store]) -> None:
    run, _ = first
    joint = {"joint": True, "network": PRIOR["network"]}
    made = build_model(changed(run, f"prior={json.dumps(joint)}"), 2)
    own = {name: value.clone() for name, value in made.state_dict().items() if name.startswith("prior.")}
    begin_with(made, run.folder)
    assert own
    for name, value in own.items():
        assert torch.equal(made.state_dict()[name], value), name
    assert torch.equal(made.decoder.wavenet.taps, run.model.decoder.wavenet.taps)


@pytest.mark.parametrize(
    ("change", "key", "old", "new"),
    [
        ("model.encoder.channels=4", "model.encoder.channels", 6, 4),
        ("model.decoder.cycle=3", "model.decoder.cycle", 2, 3),  # no weight's shape tells
        ("model.bottleneck.codes=30", "model.bottleneck.codes", 40, 30),
        ("data.rate=16000", "data.rate", 8000, 16_000),
    ],
)
def test_a_run_of_another_model_is_refused(first: tuple[Run, Store], change: str, key: str, old: int, new: int) -> None:
    run, _ = first
    with pytest.raises(WavevqError) as caught:
        fitting_start(changed(run, change, f"train.start={run.folder}"))
    assert caught.value.args == (f"train.start {run.folder}: was trained with {key} = {old}, the recipe has {new}",)


def test_what_is_of_training_alone_may_differ(first: tuple[Run, Store]) -> None:
    run, _ = first
    free = "adversary=0.1", "past_gain=3", "augmentation={}", "bottleneck.beta=1"
    recipe = changed(run, *(f"model.{one}" for one in free), "train.steps=9", f"train.start={run.folder}")
    assert fitting_start(recipe) == run.folder
    assert fitting_start(run.recipe) is None


def test_a_run_of_other_speakers_is_refused(first: tuple[Run, Store], tmp_path: Path) -> None:
    run, store = first
    recipe = changed(run, f"train.start={run.folder}")
    others = replace(store, speakers=("ann", "eve"))
    with pytest.raises(WavevqError, match=r"train\.start .*run: knows ann, bob; the corpus has ann, eve"):
        train(recipe, tmp_path / "new", False, Console(quiet=True), corpus=others)
    assert not (tmp_path / "new").exists()


def test_a_run_that_is_not_there_or_unfinished_is_refused_before_there_is_a_corpus(
    first: tuple[Run, Store], tmp_path: Path
) -> None:
    run, _ = first
    shutil.copytree(run.folder, tmp_path / "begun")
    (tmp_path / "begun" / "summary.json").unlink()
    for start, says in (
        (str(tmp_path / "begun"), r"train\.start .*begun: has no finished VQ-VAE; train that first"),
        (
            "nowhere",
            r"train\.start nowhere: not a run folder, .*; train it first, or name another with train\.start=RUN",
        ),
    ):
        recipe = changed(run, f"train.start={start}", "data.root=nowhere-either")
        with pytest.raises(WavevqError, match=says):
            train(recipe, tmp_path / "new", False, Console(quiet=True))


def test_an_exported_recipe_names_a_run_and_no_place(first: tuple[Run, Store]) -> None:
    run, _ = first
    assert placeless(changed(run, f"train.start={run.folder}")).train.start == run.folder.name
    assert placeless(changed(run, "train.start=runs/one")).train.start == "runs/one"
    assert placeless(run.recipe).train.start is None


# --- trainings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``first``, a run, and ``again.yaml``, which begins with its weights; ``straight`` is its run."""
    place = tmp_path_factory.mktemp("again")
    shutil.copytree(finished / "run", place / "first")
    tree = yaml.safe_load((finished / "tiny.yaml").read_text())
    del tree["prior"]
    tree["model"] |= {"adversary": 0.1, "augmentation": {"noise": [-50, -40]}}  # which first has not
    tree["train"] |= {"steps": 6, "start": "first"}
    (place / "again.yaml").write_text(yaml.safe_dump(tree))
    assert command(place, "train", "again.yaml", "--run", "straight") == [0], said(place)
    return place


@pytest.mark.parametrize("step", [0, 3])  # before the first checkpoint, which is of step 2, and after it
def test_a_killed_training_goes_on_to_the_same_bits(place: Path, step: int) -> None:
    run = f"killed-{step}"
    assert command(place, "train", "again.yaml", "--run", run, moments=[before_step(step)]) == [-signal.SIGKILL]
    assert command(place, "train", "again.yaml", "--run", run, "--resume") == [0], said(place)
    assert_equal_runs(place / "straight", place / run)


def test_it_matters_where_it_begins_and_what_the_encoder_hears(place: Path) -> None:
    found = {}
    for run, key in (("afresh", "train.start"), ("plain", "model.augmentation")):
        assert command(place, "train", "again.yaml", "--run", run, "--set", f"{key}=null") == [0], said(place)
    for run in ("straight", "afresh", "plain"):
        weights = tensors(max((place / run / "checkpoints").glob("step-*")))
        found[run] = torch.cat([weights[name].flatten() for name in sorted(weights) if "/encoder." in name])
    assert not torch.equal(found["straight"], found["afresh"])
    assert not torch.equal(found["straight"], found["plain"])


def test_other_weights_than_it_began_with_are_refused(place: Path) -> None:
    assert command(place, "train", "again.yaml", "--run", "early", moments=[before_step(0)]) == [-signal.SIGKILL]
    newest = max((place / "first" / "checkpoints").glob("step-*"))
    kept = {name: (newest / name).read_bytes() for name in ("average.safetensors", "SHA256SUMS")}
    shutil.copy(newest / "model.safetensors", newest / "average.safetensors")
    seal(newest)
    try:
        again = "train", "again.yaml", "--run", "early", "--resume"
        assert command(place, *again) == [2]
        assert said(place).splitlines()[-1] == (
            "wavevq: early: was begun with other weights than first has now; begin again in another folder"
        )
    finally:
        for name, data in kept.items():
            (newest / name).write_bytes(data)
    assert command(place, *again) == [0], said(place)
    assert_equal_runs(place / "straight", place / "early")


def test_info_tells_what_the_weights_do_not_show(place: Path) -> None:
    assert command(place, "info", "straight") == [0]
    assert (
        "taught begun with the weights of first, heard with noise of -50 to -40 dB and tilts to 0.7, jitter 0.2, "
        "adversary 0.1, past gain 6 dB"
    ) in " ".join(said(place).split())
