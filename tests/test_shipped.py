"""Runs copied to be handed on, those that are shipped with the package, and which run a name means then."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import trainings
from click.testing import CliRunner
from commands import good, refused
from safetensors.torch import load_file

import wavevq
from wavevq.audio import read
from wavevq.cli import main
from wavevq.errors import WavevqError
from wavevq.export import LICENCE, export, licence, placeless
from wavevq.recipe import load_recipe, parse_recipe
from wavevq.recipe.trained import SHIPPED, is_shipped, shipped
from wavevq.run import load_run
from wavevq.run_folder import find_run
from wavevq.train.state import verify

ROOT = Path(__file__).parents[1]
PACKAGE = Path(wavevq.__file__).parent
MODELS = PACKAGE / "models"
LARGEST = 20e6  # bytes, of all shipped models together


@pytest.fixture
def models(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory, and a package that ships the trained run as voices and as digits."""
    folder = tmp_path / "package" / "models"
    export(str(finished / "run"), folder / "voices", "float32")
    shutil.copytree(folder / "voices", folder / "digits")
    monkeypatch.setattr("wavevq.recipe.trained.SHIPPED", folder)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.delenv("WAVEVQ_RUN", raising=False)
    return folder


# --- copies -------------------------------------------------------------------------------------------------


def test_a_copy_does_what_the_run_does(finished: Path, tmp_path: Path) -> None:
    said = good("export", str(tmp_path / "small"), "--run", str(finished / "run"), "--precision", "float32")
    assert f"written: {tmp_path / 'small'}, 0.0 MB" in said.replace("\n", "")
    assert f"no {LICENCE}: wavevq knows none of this corpus" in said
    run, copy = load_run(finished / "run"), load_run(tmp_path / "small")
    recording = read(finished / "corpus/ann/ann_2.wav")
    codes = run.encode(recording)
    np.testing.assert_array_equal(copy.encode(recording), codes)
    np.testing.assert_array_equal(copy.decode(codes, "bob"), run.decode(codes, "bob"))
    for drawn, expected in zip(copy.sample_codes(["ann"], 20), run.sample_codes(["ann"], 20), strict=True):
        np.testing.assert_array_equal(drawn, expected)
    assert (copy.step, copy.speakers) == (run.step, run.speakers)
    # The same is told of it, but for where it lies.
    told = (good("info", str(folder)).split("\n", 1)[1] for folder in (finished / "run", tmp_path / "small"))
    assert next(told) == next(told)
    names = {path.name for path in (tmp_path / "small").rglob("*") if path.is_file()}
    assert names == {
        *("recipe.yaml", "speakers.json", "summary.json", "metrics.jsonl", "trained-on"),
        *("average.safetensors", "state.json", "SHA256SUMS"),
    }
    assert str(finished) not in (tmp_path / "small/recipe.yaml").read_text()
    assert refused("export", str(tmp_path / "small"), "--run", str(finished / "run")).startswith(
        f"{tmp_path / 'small'}: exists already"
    )


def test_weights_are_halved_and_checked(finished: Path, tmp_path: Path) -> None:
    copy = export(str(finished / "run"), tmp_path / "small", "bfloat16")
    whole = load_run(finished / "run")
    for name, value in load_run(copy).model.state_dict().items():
        before = whole.model.state_dict()[name]
        assert value.dtype == before.dtype
        # bfloat16 has 8 bits of mantissa: rounding is within half of the last
        np.testing.assert_allclose(value, before, rtol=2**-8)
    [stored] = (copy / "checkpoints").glob("step-*/average.safetensors")
    assert {str(value.dtype) for value in load_file(stored).values()} <= {"torch.bfloat16", "torch.int64", "torch.bool"}
    stored.write_bytes(stored.read_bytes()[:-1] + b"\0")
    with pytest.raises(WavevqError, match="is not what was written"):
        load_run(copy)


def test_an_export_is_there_whole_or_not_at_all(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("wavevq.export.record_weights", lambda place, first: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            export(str(finished / "run"), tmp_path / "small", "bfloat16")
    assert not (tmp_path / "small").exists()
    assert export(str(finished / "run"), tmp_path / "small", "bfloat16") == tmp_path / "small"


def test_no_place_of_this_machine_is_copied() -> None:
    """Nor of a corpus that is one of several: the recipe is as if none had been said."""
    parts = [{"kind": "fsdd"}, {"kind": "vctk"}, {"kind": "synthetic"}, {"kind": "librispeech", "root": "libri/all"}]
    said: dict[str, Any] = {**trainings.RECIPE, "data": {"kind": "joined", "of": parts}}
    plain = parse_recipe(said, "it")
    for part in parts[:2]:
        part |= {"root": "/here/corpus", "alignments": "/here/aligned"}
    said["data"]["root"] = "/here"
    assert placeless(parse_recipe(said, "it")) == plain


@pytest.mark.parametrize(
    ("recipe", "first", "named"),
    [
        ("digits", "Creative Commons Attribution-ShareAlike 4.0 International (CC BY-SA 4.0)", ["Jakobovski"]),
        ("voices", "Creative Commons Attribution 4.0 International (CC BY 4.0)", ["Panayotov", "Yamagishi"]),
        ("demo", None, []),
    ],
)
def test_the_licence_is_the_corpora_s(recipe: str, first: str | None, named: list[str]) -> None:
    text = licence(load_recipe(ROOT / "recipes" / f"{recipe}.yaml"))
    assert (text and text.splitlines()[0]) == first
    assert all(name in (text or "") for name in named)


# --- which run a name means ---------------------------------------------------------------------------------


def test_a_shipped_run_is_found_by_its_name_and_a_run_of_ones_own_comes_first(models: Path) -> None:
    assert shipped() == ["digits", "voices"]
    assert find_run("digits") == models / "digits"
    Path("digits").mkdir()  # a folder that is no run, of recordings say
    assert find_run("digits") == models / "digits"
    shutil.copytree(models / "digits", "runs/digits")
    assert find_run("digits") == Path("runs/digits")
    shutil.copytree(models / "digits", "digits", dirs_exist_ok=True)
    assert find_run("digits") == Path("digits")
    for name in ("../models/digits", "none"):
        with pytest.raises(WavevqError, match=f"^{name}: not a run folder, .*; shipped with wavevq: digits, voices$"):
            find_run(name)
    assert is_shipped(models / "digits")
    assert not is_shipped(Path("digits"))
    Path("link").symlink_to(models / "digits")
    assert is_shipped(Path("link"))


def test_a_shipped_run_is_not_trained_on(models: Path, finished: Path) -> None:
    """Neither a prior of it nor on from it, by whatever name: nothing in it changes, and nothing beside it."""
    shutil.rmtree(models / "digits" / "prior")
    kept = {path: path.read_bytes() for path in models.rglob("*") if path.is_file()}
    Path("link").symlink_to(models / "digits")
    recipe = str(finished / "tiny.yaml")
    for words in (["--stage", "prior"], ["--resume"], ["--stage", "prior", "--resume"]):
        for place in (models / "digits", Path("link")):
            said = refused("train", recipe, *words, "--run", str(place))
            assert "is shipped with wavevq, and nothing is written there; a copy is a run of yours" in said
    assert {path: path.read_bytes() for path in models.rglob("*") if path.is_file()} == kept


def test_without_a_run_the_shipped_voices_are_taken(
    models: Path, finished: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(finished / "corpus/ann/ann_2.wav", "in.wav")
    for words, written in (
        (("encode", "in.wav", "codes.npy"), "codes.npy"),
        (("convert", "--speaker", "bob", "in.wav"), "in_bob.wav"),
    ):
        done = CliRunner().invoke(main, words)
        assert done.exit_code == 0, done.output
        said = (
            "run: voices (shipped with wavevq, there being no finished run of speech under runs/; --run names another)"
        )
        assert done.stderr.splitlines().count(said) == 1
        assert said not in done.stdout
        assert Path(written).exists()
    assert "run: " not in CliRunner().invoke(main, ["encode", "in.wav", "again.npy", "--run", "digits"]).output
    monkeypatch.setenv("WAVEVQ_RUN", "digits")
    assert find_run(None) == models / "digits"
    monkeypatch.delenv("WAVEVQ_RUN")
    shutil.copytree(models / "digits", "runs/mine")
    assert find_run(None) == Path("runs/mine")
    shutil.rmtree("runs")
    shutil.rmtree(models / "voices")
    assert refused("encode", "in.wav", "codes.npy") == (
        "no finished run of speech under runs/: train one (wavevq train RECIPE) or name one with --run, such as "
        "digits, which is shipped with wavevq"
    )


def test_nothing_is_written_into_the_package(models: Path, finished: Path) -> None:
    before = sorted(models.rglob("*"))
    line = refused("enroll", "eve", str(finished / "corpus/ann"), "--run", "digits")
    assert line.startswith("digits: is shipped with wavevq, and nothing is written there; a copy is a run of yours")
    subprocess.run(line.partition("before it: ")[2], shell=True, check=True)
    assert find_run("digits") == Path("runs/digits")
    corpus = f"data.root={finished / 'corpus'}"
    good("evaluate", "--run", "voices", "--only", "codebook", "--set", corpus)
    assert {path.name for path in Path("evaluation/voices").iterdir()} == {"evaluation.json", "evaluation.html"}
    assert sorted(models.rglob("*")) == before


# --- what is shipped ----------------------------------------------------------------------------------------

NAMES = sorted(path.parent.name for path in MODELS.glob("*/recipe.yaml"))


def test_the_shipped_models_are_small_enough() -> None:
    assert MODELS == SHIPPED
    assert sum(path.stat().st_size for path in MODELS.rglob("*") if path.is_file()) <= LARGEST


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_model_is_whole_and_has_a_licence_and_a_card(name: str) -> None:
    run = load_run(MODELS / name)
    run.trained_prior()
    for checkpoint in (MODELS / name).glob("**/step-*"):
        verify(checkpoint, *(path.name for path in checkpoint.iterdir() if path.name != "SHA256SUMS"))
    assert (MODELS / name / LICENCE).read_text("utf-8") == licence(run.recipe)
    assert (MODELS / name / "README.md").is_file()
    assert "/" not in run.recipe.model_dump()["data"]["root"]


def test_the_wheel_holds_all_of_them(tmp_path: Path) -> None:
    """By what setuptools makes of pyproject.toml, for a package with a model like those that are shipped."""
    pytest.importorskip("setuptools")
    files = {"models/some/checkpoints/step-00000001/SHA256SUMS", "models/some/LICENSE", "models/some/clips/ann.ogg"}
    files |= {path.relative_to(PACKAGE).as_posix() for path in MODELS.rglob("*") if path.is_file()}
    for name in ("__init__.py", "py.typed", *files):
        (tmp_path / "wavevq" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "wavevq" / name).touch()
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    code = f"""
import setuptools, sys
assert not {settings["packages"]["find"]["namespaces"]}
packages = setuptools.find_packages(include={settings["packages"]["find"]["include"]})
made = setuptools.Distribution(dict(packages=packages, package_data={settings["package-data"]}))
build = made.get_command_obj("build_py")
build.ensure_finalized()
for package, _, _, names in build.data_files:
    print(*(package + "/" + name for name in names), sep="\\n")
"""
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert set(told.stdout.split()) == {f"wavevq/{name}" for name in ("py.typed", *files)}
