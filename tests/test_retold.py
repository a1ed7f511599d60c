"""A second training, whose encoder hears clips as a first one says them in other voices."""

from __future__ import annotations

import re
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from rich.console import Console
from test_vqvae import batch, model
from trainings import assert_equal_runs, before_step, command, metrics, said, tensors

from wavevq.audio import level
from wavevq.build import build_model, build_store
from wavevq.data.batches import Crops
from wavevq.data.retold import RetoldCrops, tellers
from wavevq.data.store import FULL_SCALE, Store, StoredClip, open_store, write_store
from wavevq.errors import WavevqError
from wavevq.experiment import begin_with
from wavevq.export import placeless
from wavevq.recipe import Backtranslation, load_recipe, parse_recipe
from wavevq.retold import retold
from wavevq.run import Run, load_run

QUIET = Console(quiet=True)
ONE_STEP = 0.51 / FULL_SCALE  # rounding to 16 bit
SPEAKERS = ("ann", "bob", "eve", "joe")


# --- who says what ------------------------------------------------------------------------------------------


def test_every_version_of_a_clip_has_another_voice_and_never_its_own() -> None:
    labels = [n % 4 for n in range(400)]
    versions = [tellers(labels, 4, version, seed=3) for version in range(3)]
    for own, *told in zip(labels, *versions, strict=True):
        assert sorted([own, *told]) == [0, 1, 2, 3]
    # Each of 12 pairs is drawn in a third of 100 clips: 33 with a deviation of 4.7; five of these.
    pairs = Counter(zip(labels, versions[0], strict=True))
    assert len(pairs) == 12
    assert all(10 <= count <= 57 for count in pairs.values())
    assert tellers(labels, 4, 0, seed=3) == versions[0]
    assert tellers(labels, 4, 0, seed=4) != versions[0]
    assert tellers([0, 1, 1], 2, 0, seed=0) == [1, 0, 0]


# --- batches ------------------------------------------------------------------------------------------------


def made(folder: Path, speakers: list[str], lengths: list[int], offset: int) -> Store:
    """A store of ramps: sample t of clip i is 1,000 i + t + ``offset`` steps of 16 bit."""
    folder.mkdir()
    clips = [
        StoredClip(f"{i}.wav", name, "train", 0, n, None)
        for i, (name, n) in enumerate(zip(speakers, lengths, strict=True))
    ]
    ramps = [(1000 * i + np.arange(n) + offset).astype(np.float32) / FULL_SCALE for i, n in enumerate(lengths)]
    write_store(folder, 8000, clips, [*enumerate(ramps)][::-1])  # in any order
    return open_store(folder)


def test_a_written_store_holds_what_was_written(tmp_path: Path) -> None:
    found = made(tmp_path / "one", ["ann", "bob", "ann"], [5, 300, 40], offset=7)
    assert [(one.name, one.speaker, one.length) for one in found.clips] == [
        ("0.wav", "ann", 5),
        ("1.wav", "bob", 300),
        ("2.wav", "ann", 40),
    ]
    assert (found.rate, found.speakers) == (8000, ("ann", "bob"))
    for i, clip in enumerate(found.clips):
        np.testing.assert_array_equal(np.rint(found.audio(clip) * FULL_SCALE), 1000 * i + np.arange(clip.length) + 7)


@pytest.fixture
def crops(tmp_path: Path) -> RetoldCrops:
    """Of eight clips by four, half of them shorter than the crop, and two versions of each."""
    whose = [SPEAKERS[i % 4] for i in range(8)]
    lengths = [90 + 60 * (i % 2) for i in range(8)]
    store = made(tmp_path / "store", whose, lengths, 0)
    labels = [SPEAKERS.index(name) for name in whose]
    versions = []
    for number in range(2):
        voices = [SPEAKERS[label] for label in tellers(labels, 4, number, seed=1)]
        versions.append(made(tmp_path / f"version-{number}", voices, lengths, 10_000 * (number + 1)))
    return RetoldCrops(store, versions, share=0.75, crop=128, batch=6, seed=1)


def test_the_encoder_hears_the_same_moment_of_the_same_clip(crops: RetoldCrops) -> None:
    heard = Counter[int]()
    for step in range(60):
        found = crops.at(step)
        assert found.heard is not None
        assert found.voice is not None
        plain = Crops(crops.store, crops.crop, crops.batch, 1).at(step)
        assert torch.equal(found.x, plain.x)
        assert torch.equal(found.label, plain.label)
        for row, place in enumerate(crops.places(step, 0, 1)):
            count = int(found.lengths[row])
            shift = (found.heard[row, 0] - found.x[row, 0])[:count] * FULL_SCALE
            version = round(shift[0].item() / 10_000)
            heard[version] += 1
            np.testing.assert_allclose(shift, 10_000 * version, atol=0.01)  # float32 of the ramp
            assert not found.heard[row, 0, count:].any()
            told = crops.versions[version - 1].clips if version else crops.store.clips
            assert SPEAKERS[int(found.voice[row])] == told[place.clip].speaker
            assert (found.voice[row] == found.label[row]) == (version == 0)
    # 90 of 360 are heard as they are, deviation 8, and 135 in each version, deviation 9; five of these.
    assert 50 <= heard[0] <= 130
    assert all(90 <= heard[version] <= 180 for version in (1, 2))


def test_what_is_heard_belongs_to_the_example_and_not_to_its_rank(crops: RetoldCrops) -> None:
    whole = crops.at(5)
    for rank in range(3):
        part = crops.at(5, rank, 3)
        for name in ("x", "heard", "voice", "label", "index"):
            assert torch.equal(getattr(part, name), getattr(whole, name)[rank::3]), name


# --- the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["vq", "ema", "none", "vae"])
def test_codes_are_of_what_is_heard_and_the_likelihood_of_the_clip(kind: str) -> None:
    given, other = batch(), batch(seed=1)
    found = model(kind).training_loss(replace(given, heard=other.x, voice=given.label))
    vae = model(kind)
    expected = vae.loss_of(given, vae.encode(other.x, given.lengths, given.index))
    assert torch.equal(found.loss, expected.loss)
    assert not torch.equal(found.loss, model(kind).training_loss(given).loss)


def test_the_adversary_is_to_tell_who_is_heard() -> None:
    given, other = batch(), batch(seed=1)
    voice = (given.label + 1) % 3
    found = model("none", adversary=0.3).training_loss(replace(given, heard=other.x, voice=voice))
    as_label = model("none", adversary=0.3).training_loss(replace(given, x=other.x, label=voice))
    assert torch.equal(found.metrics["speaker_bits"], as_label.metrics["speaker_bits"])


# --- a run that says clips again ----------------------------------------------------------------------------


@pytest.fixture
def first(finished: Path) -> tuple[Run, Store]:
    """A finished run of two speakers, and its corpus."""
    run = load_run(finished / "run", "cpu")
    return run, build_store(run.recipe)


def test_versions_are_what_the_run_makes_of_the_codes(
    first: tuple[Run, Store], cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, store = first
    plan = Backtranslation(run=str(run.folder))
    [version] = retold(plan, store, 0, QUIET)
    clips = store.split("train")
    assert [(one.name, one.length, one.phones) for one in version.clips] == [
        (one.name, one.length, one.phones) for one in clips
    ]
    assert version.folder.parent == cache
    other = version.audio(version.clips[0])
    assert version.clips[0].speaker != clips[0].speaker
    # Levelled, as what the encoder hears elsewhere is.
    np.testing.assert_allclose(other, level(other), atol=20 * ONE_STEP)
    drawn: list[dict[str, Any]] = []

    def noted(self: Run, codes: Any, speakers: Any, **how: Any) -> Any:
        drawn.append(how)
        return []

    monkeypatch.setattr(Run, "decode_many", noted)
    [again] = retold(plan, store, 0, QUIET)
    assert drawn == []  # the cache had it
    np.testing.assert_array_equal(again.audio(again.clips[0]), other)


def test_a_version_is_drawn_from_the_clips_own_codes(first: tuple[Run, Store], cache: Path) -> None:
    """Equal to the bit with what the run decodes, levelled, by the streams that say which clip and version it is."""
    run, store = first
    asked: list[tuple[list[Any], list[str], dict[str, Any]]] = []
    decode_many = Run.decode_many

    def noted(self: Run, codes: Any, speakers: Any, **how: Any) -> Iterator[Any]:
        asked.append((list(codes), list(speakers), how))
        return decode_many(self, codes, speakers, **how)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "decode_many", noted)
        [version] = retold(Backtranslation(run=str(run.folder)), store, 5, QUIET)
    [(codes, speakers, how)] = asked
    clips = store.split("train")
    assert how["streams"] == [*range(len(clips))]
    for place in (0, len(clips) - 1):
        mine = run.model.encode_parts([torch.from_numpy(store.audio(clips[place]))])
        np.testing.assert_array_equal(codes[place], torch.cat([*mine], 1)[0])
        [audio] = run.decode_batch([codes[place]], [speakers[place]], seed=how["seed"], streams=[place])
        expected = level(audio[: clips[place].length])
        np.testing.assert_allclose(version.audio(version.clips[place]), expected, atol=ONE_STEP)


def test_a_run_that_cannot_say_the_corpus_is_refused(first: tuple[Run, Store]) -> None:
    run, store = first
    plan = Backtranslation(run=str(run.folder), versions=2)
    with pytest.raises(WavevqError) as caught:
        retold(plan, replace(store, rate=16_000, speakers=("ann", "eve")), 0, QUIET)
    assert caught.value.args == (
        f"train.backtranslation.run {run.folder}: is of 8000 Hz, the corpus of 16000",
        f"train.backtranslation.run {run.folder}: knows ann, bob; the corpus has ann, eve",
        "train.backtranslation.versions 2: a clip has 1 other voices; at most as many are allowed",
    )


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ({"run": "a", "share": 0}, "train.backtranslation.share"),
        ({"run": "a", "share": 1.5}, "train.backtranslation.share"),
        ({"run": "a", "versions": 0}, "train.backtranslation.versions"),
        ({}, "train.backtranslation.run"),
    ],
)
def test_values_out_of_range_are_refused(finished: Path, section: dict[str, Any], says: str) -> None:
    tree = yaml.safe_load((finished / "tiny.yaml").read_text())
    tree["train"]["backtranslation"] = section
    with pytest.raises(WavevqError, match=re.escape(says)):
        parse_recipe(tree, "tiny")


def test_an_exported_recipe_names_a_run_and_no_place(finished: Path) -> None:
    there = f"train.start={finished}/run", f"train.backtranslation={{run: {finished}/run}}"
    train = placeless(load_recipe(finished / "tiny.yaml", there)).train
    assert train.start == "run"
    assert train.backtranslation is not None
    assert train.backtranslation.run == "run"
    relative = "train.start=runs/one", "train.backtranslation={run: runs/one}"
    train = placeless(load_recipe(finished / "tiny.yaml", relative)).train
    assert train.start == "runs/one"


# --- trainings ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``first``, a run, and ``again.yaml``, which begins with its weights and hears what it says."""
    place = tmp_path_factory.mktemp("again")
    shutil.copytree(finished / "run", place / "first")
    tree = yaml.safe_load((finished / "tiny.yaml").read_text())
    del tree["prior"]
    tree["model"] |= {"adversary": 0.1, "augmentation": {"noise": [-50, -40]}}  # which first has not
    tree["train"] |= {"steps": 6, "start": "first", "backtranslation": {"run": "first", "share": 0.7}}
    (place / "again.yaml").write_text(yaml.safe_dump(tree))
    assert command(place, "train", "again.yaml", "--run", "straight") == [0], said(place)
    return place


def test_a_killed_training_goes_on_to_the_same_bits(place: Path) -> None:
    assert command(place, "train", "again.yaml", "--run", "killed", moments=[before_step(3)]) == [-signal.SIGKILL]
    assert command(place, "train", "again.yaml", "--run", "killed", "--resume") == [0], said(place)
    assert_equal_runs(place / "straight", place / "killed")


def test_two_processes_train_what_one_does(place: Path) -> None:
    assert command(place, "train", "again.yaml", "--run", "two", moments=[None, None]) == [0, 0], said(place)
    for one, two in zip(metrics(place / "straight"), metrics(place / "two"), strict=True):
        assert one.keys() == two.keys()
        for key in one.keys() - {"kind"}:
            assert two[key] == pytest.approx(one[key], rel=1e-3), key  # sums in another order, over six steps


def test_it_matters_what_is_heard(place: Path) -> None:
    words = "train", "again.yaml", "--run", "plain", "--set", "train.backtranslation=null"
    assert command(place, *words) == [0], said(place)
    found, plain = (tensors(max((place / run / "checkpoints").glob("step-*"))) for run in ("straight", "plain"))
    assert any(not torch.equal(found[name], plain[name]) for name in found if "/encoder." in name)


def test_info_tells_what_the_weights_do_not_show(place: Path) -> None:
    assert command(place, "info", "straight") == [0]
    assert (
        "begun with first, 70% heard in other voices, by first, heard with noise of -50 to -40 dB and tilts to 0.5, "
        "jitter 0.2, adversary 0.1, past gain 6 dB"
    ) in " ".join(said(place).split())


def test_another_teacher_is_refused(place: Path) -> None:
    shutil.copytree(place / "straight", place / "changed")
    shutil.copytree(place / "first", place / "other")
    newest = max((place / "other" / "checkpoints").glob("step-*"))
    shutil.copy(newest / "model.safetensors", newest / "average.safetensors")
    again = "train", "again.yaml", "--run", "changed", "--resume", "--set", "train.backtranslation.run=other"
    assert command(place, *again) == [2]
    assert (
        "changed: was trained on what other weights have made than other has now; name the run that it was "
        "(train.backtranslation.run), or train this one anew"
    ) in said(place)
    (place / "other" / "summary.json").unlink()
    assert command(place, *again) == [2]
    assert "other: has no finished VQ-VAE to say clips again" in said(place)


# --- weights to begin with ----------------------------------------------------------------------------------


def test_a_training_begins_with_the_weights_of_a_run(first: tuple[Run, Store]) -> None:
    run, store = first
    recipe = load_recipe(run.folder / "recipe.yaml", ("model.adversary=0.1", "seed=9"))
    made = build_model(recipe, 2)
    own = {name: value.clone() for name, value in made.state_dict().items()}
    begin_with(made, str(run.folder), store)
    for name, value in made.state_dict().items():
        expected = own[name] if name.startswith("adversary.") else run.model.state_dict()[name]
        assert torch.equal(value, expected), name


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("model.encoder.channels=4", r"encoder\.blocks\.0\.narrow\.bias: \[6\] there, \[4\] here"),
        ("model.encoder.residual_blocks=2", r"encoder\.blocks\.1\.narrow\.bias: none there, \[6\] here"),
    ],
)
def test_a_run_of_other_layers_is_refused(first: tuple[Run, Store], change: str, says: str) -> None:
    run, store = first
    made = build_model(load_recipe(run.folder / "recipe.yaml", (change,)), 2)
    with pytest.raises(WavevqError, match=rf"train\.start .*run: has other layers than this recipe \({says}\)"):
        begin_with(made, str(run.folder), store)


def test_a_run_of_other_speakers_is_refused(first: tuple[Run, Store]) -> None:
    run, store = first
    with pytest.raises(WavevqError, match=r"train\.start .*run: knows ann, bob; the corpus has ann, eve"):
        begin_with(run.model, str(run.folder), replace(store, speakers=("ann", "eve")))
