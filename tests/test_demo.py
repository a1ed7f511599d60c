"""The demonstration on a tiny corpus: scores beside chance levels, a page that stands alone, runs taken up again."""

from __future__ import annotations

import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from browser import Browser, assert_readable
from rich.console import Console

from wavevq import demo
from wavevq.build import build_store
from wavevq.errors import WavevqError
from wavevq.export import export
from wavevq.recipe import Recipe, load_recipe
from wavevq.run import Run
from wavevq.run_folder import RECIPE

TINY = (
    "data.voices=3",
    "data.sentences=26",  # two held out
    "model.encoder.channels=8",
    "model.encoder.residual_blocks=0",
    "model.bottleneck.codes=16",
    "model.bottleneck.dim=4",
    "model.decoder.layers=2",
    "model.decoder.residual=8",
    "model.decoder.gate=8",
    "model.decoder.skip=8",
    "model.decoder.head=8",
    "model.decoder.context=8",
    "model.decoder.speaker_dim=4",
    "train.steps=6",
    "train.batch=2",
    "train.validate_every=3",
    "train.save_every=3",
    "train.precision=32-true",
)
VERSIONS = ["original", "reconstruction", "conversion", "shuffled codes"]


@pytest.fixture(scope="module", autouse=True)
def _short() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(demo, "SECONDS", 0.25)
        yield


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe(demo.recipe_path(), TINY)


@pytest.fixture(scope="module")
def shown(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of one demonstration and what it said."""
    folder = tmp_path_factory.mktemp("demo")
    return folder, demonstrated(recipe, folder)


def demonstrated(recipe: Recipe, folder: Path) -> str:
    told = io.StringIO()
    assert demo.demonstrate(recipe, folder, Console(file=told, width=140)) == folder / "report.html"
    return told.getvalue()


def lines_of(told: str, name: str) -> list[str]:
    return [line for line in told.splitlines() if re.match(rf"│ {name} +│", line)]


def test_every_version_is_scored_beside_chance(shown: tuple[Path, str]) -> None:
    _, told = shown
    for version in VERSIONS:
        [line] = lines_of(told, version)
        scores = re.findall(r"([\d.]+) \(chance ([\d.]+)\)", line)
        assert len(scores) == 3
        assert all(0 <= float(number) <= 1 for score in scores for number in score)
        assert [chance for _, chance in scores[1:]] == ["0.33", "0.33"]  # three voices, equally often
    assert "do not give intelligible conversion" in " ".join(told.split())


def test_probes_know_real_speech_and_no_conversion_is_counted_as_its_source(shown: tuple[Path, str]) -> None:
    [original] = lines_of(shown[1], "original")
    phones, target, source = (float(score) for score in re.findall(r"([\d.]+) \(chance", original))
    # Quarters of a second and few training clips: far from the probes' best, and far from chance (below .1 and .33).
    assert phones > 0.25
    assert source > 0.8
    assert target < 0.2


def test_the_likelihoods_of_each_validation_are_told(shown: tuple[Path, str]) -> None:
    folder, told = shown
    for line in map(json.loads, (folder / "run" / "metrics.jsonl").read_text().splitlines()):
        if line["kind"] == "validation":
            [row] = [one for one in told.splitlines() if re.match(rf"│ +{line['step']} │", one)]
            for key in ("bits_per_sample", "marginal_bits", "shuffled_codes_gap", "wrong_speaker_gap"):
                assert f"{line[key]:.3f}" in row
            assert f"{line['codes_used']:.0f} of 16" in row


def test_the_page_stands_alone_and_labels_its_sound(shown: tuple[Path, str]) -> None:
    html = (shown[0] / "report.html").read_text()
    sources = re.findall(r'(?:src|href)="([^"]*)"', html)
    assert sources
    assert all(source.startswith("data:") for source in sources)
    assert "<script" not in html
    takes = re.findall(r'<figcaption>([^<]+) <span class="kind ([^"]+)">', html)
    assert len(takes) == demo.HEARD * len(VERSIONS)
    assert all(sort == ("original" if caption == "original" else "sampled") for caption, sort in takes)
    assert html.count("<audio") == len(takes)
    for version in VERSIONS:
        for question in ("phones right", "voice judged target", "voice judged source"):
            assert re.search(rf"{version}: {question}</td><td[^>]*>[\d.]+</td><td[^>]*>[\d.]+</td>", html)


def test_the_page_in_a_browser(browser: Browser, shown: tuple[Path, str]) -> None:
    assert_readable(browser, shown[0] / "report.html")


def test_a_shipped_model_converts_the_same_clips_under_its_own_name(
    recipe: Recipe, shown: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = demo.trained(recipe, shown[0] / "run", Console(quiet=True))
    said = demo.utterances(run, build_store(recipe))[: demo.HEARD]
    assert demo.by_shipped(run, said) == []
    export(str(shown[0] / "run"), tmp_path / "voices", "float32")
    monkeypatch.setattr("wavevq.recipe.trained.SHIPPED", tmp_path)
    takes = demo.by_shipped(run, said)
    assert [take.caption for take in takes] == [f"voices, to {speaker}" for speaker in run.speakers]
    assert {(take.kind, take.rate, len(take.samples)) for take in takes} == {("sampled", 8000, len(said[0].samples))}
    demonstrated(recipe, shutil.copytree(shown[0], tmp_path / "again"))
    html = (tmp_path / "again/report.html").read_text()
    assert html.count("<audio") == demo.HEARD * (len(VERSIONS) + 1)
    assert "The same by a model that is shipped" in html


def test_the_wav_files_are_whole(shown: tuple[Path, str]) -> None:
    paths = sorted((shown[0] / "audio").iterdir())
    assert len(paths) == demo.HEARD * len(VERSIONS)
    for path in paths:
        assert str(path) in shown[1]
        samples, rate = soundfile.read(path)
        assert (rate, len(samples)) == (8000, 0.25 * 8000 // 64 * 64)
        assert np.abs(samples).max() > 0.01


def test_targets_go_round_the_other_voices(recipe: Recipe, shown: tuple[Path, str]) -> None:
    run: Run = demo.trained(recipe, shown[0] / "run", Console(quiet=True))
    said = demo.utterances(run, build_store(recipe))
    assert sorted({(one.speaker, one.target) for one in said}) == sorted(
        (a, b) for a in run.speakers for b in run.speakers if a != b
    )
    for one in said:
        assert one.phones[-1][1] <= len(one.samples) / run.rate


def test_a_finished_run_is_used_again_and_says_the_same(recipe: Recipe, shown: tuple[Path, str]) -> None:
    folder, told = shown
    weights = {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*.safetensors")}
    page = (folder / "report.html").read_bytes()
    again = demonstrated(recipe, folder)
    assert "already trained" in again
    assert {path: path.stat().st_mtime_ns for path in (folder / "run").rglob("*.safetensors")} == weights
    assert (folder / "report.html").read_bytes() == page
    for version in VERSIONS:
        assert lines_of(again, version) == lines_of(told, version)


def test_a_run_of_another_recipe_is_refused(recipe: Recipe, shown: tuple[Path, str]) -> None:
    other = recipe.model_copy(update={"seed": 1})
    with pytest.raises(WavevqError, match=r"run: holds a run of another recipe; delete it"):
        demo.demonstrate(other, shown[0], Console(quiet=True))
    assert (shown[0] / "run" / RECIPE).is_file()


@pytest.mark.parametrize("killed_at", [0, 3])
def test_a_half_finished_run_is_carried_on(
    recipe: Recipe, shown: tuple[Path, str], tmp_path: Path, killed_at: int
) -> None:
    finished, half = shown[0] / "run", tmp_path / "run"
    shutil.copytree(finished, half)
    (half / "summary.json").unlink()
    for path in (half / "checkpoints").iterdir():
        if int(path.name.removeprefix("step-")) > killed_at:
            shutil.rmtree(path)
    run = demo.trained(recipe, half, Console(quiet=True))
    assert run.step == recipe.train.steps
    # The same numbers in the same order as in the run that never stopped.
    for name, value in demo.load_run(finished).model.state_dict().items():
        assert value.equal(run.model.state_dict()[name])
