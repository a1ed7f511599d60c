"""The grammar of recipes: what is refused, in which words, and that the shipped ones are sound."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from wavevq.errors import WavevqError
from wavevq.recipe import Joined, Recipe, load_recipe, parse_recipe

RECIPES = sorted((Path(__file__).parents[1] / "recipes").glob("*.yaml"))


def tree() -> dict[str, Any]:
    return {
        "data": {"kind": "folder", "root": "clips"},
        "model": {"encoder": {"kind": "waveform"}, "bottleneck": {"kind": "ema"}, "decoder": {"kind": "wavenet"}},
        "train": {"steps": 10},
    }


def written(folder: Path, text: str | None = None) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(tree()) if text is None else text)
    return path


def told(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(WavevqError) as caught:
        load_recipe(path, overrides)
    return str(caught.value).splitlines()


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_shipped_recipes_load(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "runs/cifar10").mkdir(parents=True)  # the run whose codes another is to learn
    shutil.copy(path.with_name("cifar10.yaml"), tmp_path / "runs/cifar10/recipe.yaml")
    monkeypatch.chdir(tmp_path)
    recipe = load_recipe(path)
    assert recipe.train.crop % recipe.hop == 0
    # What is written out in a run folder is the same recipe.
    assert parse_recipe(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))), "again") == recipe


def test_there_are_recipes() -> None:
    assert "digits" in {path.stem for path in RECIPES}


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    lines = told(
        written(tmp_path),
        "train.steps=0",
        "train.stps=3",
        "model.bottleneck.codes=one",
        "model.encoder.strides=[2, 99]",
        "model.decoder.kind=transformer",
        "dta.root=x",
        "train.precision=16",
        "no-equals-sign",
    )
    keys = [line.removeprefix(f"{tmp_path}/small.yaml: ").split(":")[0] for line in lines]
    assert sorted(keys) == [
        "--set no-equals-sign",
        "dta",
        "model.bottleneck.codes",
        "model.decoder.kind",
        "model.encoder.strides.1",
        "train.precision",
        "train.steps",
        "train.stps",
    ]


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("train.steps=0", "train.steps: 0 is not allowed: Input should be greater than 0"),
        ("train.clip=.inf", "train.clip: inf is not allowed: Input should be a finite number"),
        ("train.crop=100", "recipe: train.crop 100 must be a multiple of the hop, 64"),
        ("model.encoder.window=3", "model.encoder: window 3 must exceed every stride in [2, 2, 2, 2, 2, 2] by an even"),
        (
            "data.kind=tapes",
            "data.kind: 'tapes' is not allowed; allowed are vctk, librispeech, folder, fsdd, synthetic",
        ),
        ("model.bottleneck.kind=gumbel", "model.bottleneck.kind: 'gumbel' is not allowed; allowed are vq, ema"),
        ("data={rate: 8000}", "data.kind: missing; allowed are vctk, librispeech, folder, fsdd, synthetic"),
        ("train={}", "train.steps: missing"),
        (
            "data.microphone=mic1",
            "data.microphone: unknown key; allowed are rate, trim_db, held_out, without, root, alignments,",
        ),
        ("sead=1", "sead: unknown key; allowed are seed, data, model, train, prior, evaluation"),
        ("evaluation.clip=1", "evaluation.clip: unknown key; allowed are clips, speakers, batch"),
        ("data=3", "data: 3 is not allowed"),
        ("data={kind: joined, of: [{kind: fsdd}]}", "data: of: names 1 corpora; must be two or more"),
        ("data={kind: joined, of: [{kind: fsdd}, {kind: joined}]}", "data.of.1.kind: 'joined' is not allowed; allowed"),
        (
            "data={kind: joined, of: [{kind: fsdd, micro: 1}, {kind: vctk}]}",
            "data.of.0.micro: unknown key; allowed are rate, trim_db, held_out, without, root, alignments, kind",
        ),
        (
            "data={kind: joined, of: [{kind: fsdd}, {kind: vctk, rate: 8000}]}",
            "data: of.1.rate 8000: leave it out; data.rate is of all that are joined",
        ),
        (
            "prior={network: {kind: wavenet}, steps: 1, crop: 1}",
            "recipe: prior.crop 1 is not allowed: must be 2 or more codes of speech",
        ),
        (
            "model.decoder={kind: wavenet, layers: 40, cycle: 20}",
            "model.decoder: layers 40, cycle 20 and kernel 2 see 2,097,151 positions; at most 1,048,576 are allowed",
        ),
        (
            "prior={network: {kind: wavenet, layers: 20, cycle: 20, kernel: 3}, steps: 1}",
            "prior.network: layers 20, cycle 20 and kernel 3 see 2,097,151 positions; at most 1,048,576 are allowed",
        ),
        (
            "model.encoder.residual_blocks=1001",
            "model.encoder.residual_blocks: 1001 is not allowed: Input should be less",
        ),
        ("data.of.0.root=x", "data.of: unknown key; allowed are rate, trim_db"),
        ("seed=-1", "seed: -1 is not allowed"),
        ("seed.x.y=1", "--set seed.x.y=1: seed is a value, not a section"),
        ("train.steps", "--set train.steps: must look like train.steps=200"),
        ("=3", "--set =3: must look like train.steps=200"),
        ("train..steps=3", "--set train..steps=3: must look like train.steps=200"),
        ("train.steps=[", "--set train.steps=[: [ is not a YAML value"),
        ("data.root=2026-99-99", "--set data.root=2026-99-99: 2026-99-99 is not a YAML value"),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(tmp_path: Path, override: str, line: str) -> None:
    text = yaml.safe_dump(tree() | ({"seed": 0} if override.startswith("seed.") else {}))
    path = written(tmp_path, text)
    [found] = told(path, override)
    assert found.removeprefix(f"{path}: ").startswith(line)


@pytest.mark.parametrize("text", ["", "- 1\n- 2\n", "just words", "3"])
def test_a_file_that_is_no_mapping(tmp_path: Path, text: str) -> None:
    [line] = told(written(tmp_path, text))
    assert line.endswith("a recipe is a mapping with the keys seed, data, model, train, prior, evaluation")


@pytest.mark.parametrize("text", ["train: [1, 2", "\t- x", "a: b: c", "a: 2026-99-99", "{[]: 1}", "a: \x00"])
def test_a_file_that_is_not_yaml(tmp_path: Path, text: str) -> None:
    [line] = told(written(tmp_path, text))
    assert "small.yaml: not YAML (" in line


def test_a_file_that_is_not_text(tmp_path: Path) -> None:
    path = tmp_path / "small.yaml"
    path.write_bytes(b"\xff\xfe\x00data")
    [line] = told(path)
    assert line.startswith(f"{path}: cannot be read as a recipe")
    [line] = told(tmp_path)
    assert line == f"{tmp_path}: cannot be read as a recipe (is a directory)"


def test_a_misspelt_path_lists_the_recipes_near_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path)
    assert told(tmp_path / "smal.yaml") == [
        f"{tmp_path}/smal.yaml: there is no such recipe; there are {tmp_path}/small.yaml"
    ]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.yaml").unlink()
    assert told(Path("none.yaml")) == ["none.yaml: there is no such recipe"]
    (tmp_path / "recipes").mkdir()
    written(tmp_path / "recipes")
    assert told(Path("none.yaml")) == ["none.yaml: there is no such recipe; there are recipes/small.yaml"]


def test_overrides_replace_and_add(tmp_path: Path) -> None:
    path = written(tmp_path, yaml.safe_dump(tree() | {"evaluation": None}).replace("evaluation: null", "evaluation:"))
    recipe = load_recipe(path, ("train.steps=7", "evaluation.clips=3", "train.learning_rate=1e-3", "train.steps=8"))
    assert (recipe.train.steps, recipe.evaluation.clips, recipe.train.learning_rate) == (8, 3, 1e-3)


def test_overriding_the_kind_leads_to_that_kinds_keys(tmp_path: Path) -> None:
    recipe = load_recipe(written(tmp_path), ("data.kind=vctk", "data.microphone=mic2"))
    assert recipe.data.kind == "vctk"
    assert recipe.data.microphone == "mic2"


def test_frozen() -> None:
    recipe = parse_recipe(tree(), "small")
    with pytest.raises(ValidationError, match="frozen"):
        recipe.train.steps = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


def test_hop_is_the_product_of_the_strides() -> None:
    recipe = parse_recipe(tree(), "small")
    assert recipe.hop == 2**6
    spectral = {"kind": "mfcc", "frame_hop": 80, "frame_window": 200, "strides": [2]}
    model = tree()["model"] | {"encoder": spectral}
    assert parse_recipe(tree() | {"model": model, "train": {"steps": 1, "crop": 1600}}, "small").hop == 160


def test_every_section_is_frozen_and_closed() -> None:
    def sections(model: Any) -> set[Any]:
        found = {model}
        for field in model.model_fields.values():
            for one in getattr(field.annotation, "__args__", (field.annotation,)):
                if hasattr(one, "model_fields"):
                    found |= sections(one)
        return found

    every = sections(Recipe)
    assert len(every) >= 13
    assert all(one.model_config["frozen"] and one.model_config["extra"] == "forbid" for one in every)


def test_a_crop_of_part_of_a_frame_is_told_beside_other_mistakes() -> None:
    shipped = next(path for path in RECIPES if path.stem == "digits")
    with pytest.raises(WavevqError) as told:
        load_recipe(shipped, ("train.crop=100", "train.batch=true", "seeed=1"))
    lines = str(told.value).splitlines()
    assert len(lines) == 3
    assert lines[0].endswith("train.batch: true is not allowed: must be a number")
    assert lines[2].endswith("train.crop 100 must be a multiple of the hop, 64")


# --- several corpora ----------------------------------------------------------------------------------------


def test_an_override_reaches_a_part_by_its_number(tmp_path: Path) -> None:
    parts = [{"kind": "fsdd", "root": "one"}, {"kind": "vctk", "root": "two"}]
    path = written(tmp_path, yaml.safe_dump({**tree(), "data": {"kind": "joined", "of": parts}}))
    changed = load_recipe(path, ("data.of.1.root=elsewhere", "data.of.0.alignments=aligned")).data
    assert isinstance(changed, Joined)
    assert [part.model_dump()["root"] for part in changed.of] == ["one", "elsewhere"]
    assert [part.model_dump()["alignments"] for part in changed.of] == ["aligned", None]
    assert told(path, "data.of.2.root=x", "data.of.x.root=x", "data.of.0.root.y=x", "data.of.1={kind: vctk}") == [
        "--set data.of.2.root=x: 2 is none of the parts of data.of, numbered 0, 1",
        "--set data.of.x.root=x: x is none of the parts of data.of, numbered 0, 1",
        "--set data.of.0.root.y=x: root is a value, not a section",
    ]
    assert told(path, "data.of=[]", "data.of.0.root=x")[0] == (
        "--set data.of.0.root=x: 0 is none of the parts of data.of, of which there are none"
    )
