"""Video through the whole of it: one training of both stages, what is measured, and the commands."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from commands import good, refused
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from wavevq import evaluation, pixels
from wavevq.build import build_corpus
from wavevq.data.codes import Codes
from wavevq.data.shapes import ACTIONS, KINDS, Shapes
from wavevq.errors import WavevqError
from wavevq.evaluate import films
from wavevq.evaluate.films import VideoSubject
from wavevq.evaluate.metric import NotMeasured
from wavevq.evaluate.record import read_record
from wavevq.image_run import load_image_run
from wavevq.recipe import Evaluation
from wavevq.run import load_run
from wavevq.video_run import VideoRun, load_video_run

T, GIVEN, SIZE, K = 5, 2, 16, 7
GRID = (4, 4, 1)
WIDTHS = {"channels": 6, "residual": 4, "residual_blocks": 1}
PLAN = {"steps": 4, "batch": 3, "validate_every": 3, "log_every": 2, "warmup": 0, "learning_rate": 0.01}
TREE: dict[str, Any] = {
    "data": {"kind": "shapes", "size": SIZE, "frames": T, "clips": 9, "held_out": 0.5},
    "model": {
        "encoder": {"kind": "frames", **WIDTHS},
        "bottleneck": {"kind": "ema", "codes": K, "dim": 3},
        "decoder": {"kind": "frames", **WIDTHS},
    },
    "train": PLAN,
    "prior": {
        **PLAN,
        "network": {"kind": "video", "layers": 2, "residual": 4, "gate": 4, "head": 4, "past": 4, "past_layers": 2},
        "speaker_dim": 2,
    },
    "evaluation": {"batch": 3, "sampled": 2, "given": GIVEN, "judged": 3},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The current folder, with ``tiny.yaml`` and the run ``run`` that it makes."""
    folder = tmp_path_factory.mktemp("video")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TREE))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        good("train", "tiny.yaml", "--run", "run")
        yield folder


@pytest.fixture(scope="module")
def run(place: Path) -> VideoRun:
    return load_video_run("run", device="cpu", sampler="reference")


@pytest.fixture(scope="module")
def corpus(run: VideoRun) -> Shapes:
    found = build_corpus(run.recipe)
    assert isinstance(found, Shapes)
    return found


# --- the run ------------------------------------------------------------------------------------------------


def test_training_tells_of_codes_and_actions(place: Path) -> None:
    first, prior = (json.loads((place / part / "summary.json").read_text()) for part in ("run", "run/prior"))
    assert (first["clips"], first["codes"]) == (4, K)
    assert (prior["clips"], prior["codes"]) == (4, 4 * T * math.prod(GRID))
    assert "wrong_actions_gap" in prior


def test_frames_become_codes_and_back(run: VideoRun, corpus: Shapes) -> None:
    film = corpus.film(corpus.split("val")[1])
    codes = run.encode(film.frames)
    assert codes.shape == (T, *GRID)
    np.testing.assert_array_equal(run.encode(film.frames[:GIVEN]), codes[:GIVEN])  # later frames change nothing
    frames = run.decode(codes)
    assert (frames.shape, frames.dtype) == (film.frames.shape, np.uint8)
    np.testing.assert_array_equal(run.decode(codes[3:4])[0], frames[3])


def test_going_on(run: VideoRun, corpus: Shapes) -> None:
    begun = np.stack([run.encode(corpus.film(one).frames[:GIVEN]) for one in corpus.split("val")])
    actions = np.stack(corpus.given("val"))
    drawn = run.go_on(begun, actions, [0, 1, 2, 3], seed=3)
    assert drawn.shape == (4, T, *GRID)
    np.testing.assert_array_equal(drawn[:, :GIVEN], begun)
    alone = run.go_on(begun[2:3], actions[2:3], [2], seed=3, streams=[2])
    np.testing.assert_array_equal(alone[0], drawn[2])
    assert (run.go_on(begun, actions, [0, 1, 2, 3], seed=4) != drawn).any()
    recipe = run.recipe.model_copy(update={"evaluation": run.recipe.evaluation.model_copy(update={"temperature": 0.1})})
    measured = evaluation.video_subject_of(run, recipe, Console(quiet=True)).go_on(begun, actions, [0, 1, 2, 3], "")
    np.testing.assert_array_equal(measured, run.go_on(begun, actions, [0, 1, 2, 3], seed=recipe.seed, temperature=0.1))
    assert (measured != run.go_on(begun, actions, [0, 1, 2, 3], seed=recipe.seed)).any()
    colder = replace(run, recipe=recipe)  # where no temperature is given, it is the recipe's
    np.testing.assert_array_equal(measured, colder.go_on(begun, actions, [0, 1, 2, 3], seed=recipe.seed))
    with pytest.raises(WavevqError, match="temperature 0"):
        run.go_on(begun, actions, temperature=0.0)
    with pytest.raises(WavevqError, match="has no trained prior"):
        replace(run, prior=None).go_on(begun, actions)


# --- the commands -------------------------------------------------------------------------------------------


def test_samples_are_written_beside_the_truth(place: Path, run: VideoRun, corpus: Shapes) -> None:
    words = ("--run", "run", "--sampler", "reference", "--count", "2")
    good("sample", "new", "--action", "left", *words)
    assert sorted(path.name for path in Path("new").iterdir()) == sorted(
        [*(f"00{i}{suffix}" for i in (1, 2) for suffix in (".gif", ".png")), "index.html"]
    )
    clip = corpus.split("val")[1]
    film, number = corpus.film(clip), KINDS.index(clip.label)
    left = film.actions.copy()
    left[GIVEN:] = ACTIONS.index("left")
    codes = run.encode(film.frames[:GIVEN])[None]
    made = [run.decode(run.go_on(codes, told[None], [number], streams=[1])[0]) for told in (film.actions, left)]
    strip = pixels.sheet(np.concatenate([film.frames, *made]), T)
    np.testing.assert_array_equal(pixels.read("new/002.png"), strip.repeat(4, 0).repeat(4, 1))
    with Image.open("new/002.gif") as gif:
        assert (gif.n_frames, gif.info["loop"]) == (T, 0)
        gif.seek(T - 1)
        shown = np.asarray(gif.convert("RGB"))
    whole = pixels.sheet(np.stack([film.frames[-1], *(one[-1] for one in made)]), 3).repeat(4, 0).repeat(4, 1)
    assert abs(shown.astype(int) - whole).mean() < 8  # a palette of 256 colours
    page = Path("new/index.html").read_text()
    assert page.count('class="pixels"') == 2
    assert page.count("<td>left</td>") >= 2 * (T - GIVEN)
    good("sample", "others", *words)
    assert Path("others/001.gif").exists()


def test_mistakes_are_told_before_the_work(place: Path) -> None:
    here = ("--run", "run")
    assert refused("sample", "no", "--action", "jump", *here) == f"--action jump: must be one of {', '.join(ACTIONS)}"
    assert refused("sample", "no", "--count", "5", *here).startswith("--count 5: the corpus holds 4 clips back")
    assert refused("sample", "no", "--seconds", "1", *here).startswith("--seconds: is for runs of speech, and this one")
    assert refused("sample", "no", "--label", "disc", *here).startswith("--label: is for runs of speech or images")
    assert not Path("no").exists()
    of_video = "run: is a run of video; what is asked for needs one of "
    assert refused("encode", "a.wav", "b.npy", *here) == f"{of_video}images"
    for load, signal in ((load_run, "speech"), (load_image_run, "images")):
        with pytest.raises(WavevqError, match=f"{of_video}{signal}"):
            load("run")


def test_only_video_is_told_what_to_do(finished: Path) -> None:
    said = refused("sample", "no", "--action", "left", "--run", str(finished / "run"))
    assert said == "--action: is for runs of video, and this one is of speech or images"
    with pytest.raises(WavevqError, match="needs one of video"):
        load_video_run(finished / "run")


def test_info_tells_of_video(place: Path) -> None:
    said = " ".join(good("info", "run").split())
    for part in (
        "data shapes, 5 frames of 16 x 16 pixels",
        "codes 5 x 4 x 4 x 1 a clip",
        "hop 4 pixels",
        "shapes 4: cross, disc, square, triangle",
        "video, 2 layers, 4 channels, 4 earlier frames, given the actions and the shape or none",
        "step 4 of 4, finished; batch 3 clips",
    ):
        assert part in said


def test_evaluate(place: Path) -> None:
    good("evaluate", "--run", "run", "--output", "measured")
    record = read_record(Path("measured/evaluation.json"))
    assert (record.clips, record.speakers, record.codes, record.hop, record.judged) == (4, len(KINDS), K, 1, 3)
    value = {(section.metric, figure.name): figure.value for section in record.sections for figure in section.figures}
    assert value["video_bits", "rate, uniform prior"] == pytest.approx(16 * math.log2(K) / (3 * SIZE * SIZE))
    learned = json.loads((place / "run/prior/summary.json").read_text())["bits_per_code"]
    assert value["video_bits", "rate, learned prior"] == pytest.approx(16 * learned / (3 * SIZE * SIZE), rel=1e-4)
    assert value["video_future", "uniform"] == pytest.approx(math.log2(K))
    gap = value["video_future", "given another clip's actions"] - value["video_future", "given the actions"]
    assert value["video_future", "wrong-actions gap"] == pytest.approx(gap)
    page = Path("measured/evaluation.html").read_text()
    assert "4 clips of the split val of shapes" in page
    assert page.count('class="pixels"') == 1


# --- the metrics of a world where the answers are known -----------------------------------------------------


class Knows(torch.nn.Module):
    """A prior that is sure of what it is told: with probability 3/4 the code is the number of its frame's action."""

    labels, drop, ends = 0, 0.0, False

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def nll(self, codes: torch.Tensor, label: torch.Tensor, mask: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        right = codes == given[:, :, None, None, None]
        nats = torch.where(right, -math.log(3 / 4), -math.log(1 / 4 / (K - 1)))
        return (nats * mask).flatten(1).sum(1)


WORLD = Shapes(32, 8, 12, 6, 0)


def subject(**changes: Any) -> VideoSubject:
    """Whose codes are the numbers of the actions, and whose model shows the film that those make of the clip."""
    given = {name: WORLD.given(name) for name in ("train", "val")}

    def encoded(split: Any) -> Codes:
        grids = [np.broadcast_to(one[:, None, None, None], (8, 2, 2, 1)) for one in given[split]]
        return Codes(grids, [KINDS.index(one.label) for one in WORLD.split(split)], given[split])

    def show(codes: NDArray[np.int64]) -> pixels.Pixels:
        clips = [WORLD.split("val")[i] for i in made.places]
        return np.stack([WORLD.film(clip, one[:, 0, 0, 0]).frames for clip, one in zip(clips, codes, strict=True)])

    def go_on(begun: NDArray[np.int64], actions: NDArray[np.int64], labels: Any, what: str) -> NDArray[np.int64]:
        return np.broadcast_to(actions[:, :, None, None, None], (*actions.shape, 2, 2, 1))

    plan = Evaluation(given=3, judged=6, batch=4)
    model: Any = type("Model", (), {"size": K})()
    knows: Any = Knows()
    made = VideoSubject(model, knows, WORLD, plan, 0, encoded, lambda words: None, show=show, go_on=go_on)
    return replace(made, **changes) if changes else made


def test_bits_of_frames_to_come() -> None:
    found = {one.name: one.value for one in films.future(subject()).figures}
    assert found["given the actions"] == pytest.approx(-math.log2(3 / 4))
    actions, others = subject().actions[:, 3:], subject().other_actions[:, 3:]
    wrong = (actions != others).mean()
    assert 0 < wrong < 1
    cost = math.log2(3 / 4) - math.log2(1 / 4 / (K - 1))
    assert found["wrong-actions gap"] == pytest.approx(wrong * cost)
    stays = (actions == subject().actions[:, 2:-1]).mean()
    assert found["codes that stay"] == pytest.approx(stays)
    share = np.bincount(np.concatenate(WORLD.given("train")), minlength=K) * 4 + 1
    even = share / share.sum()
    assert found["codes by frequency"] == pytest.approx(-np.log2(even[actions]).mean())
    trained = np.stack(WORLD.given("train"))
    kept = (trained[:, 3:] == trained[:, 2:-1]).mean()
    copied = kept * (actions == subject().actions[:, 2:-1]) + (1 - kept) * even[actions]
    assert found["as in the frame before"] == pytest.approx(-np.log2(copied).mean())
    with pytest.raises(NotMeasured, match="no trained prior"):
        films.future(subject(prior=None))


def test_what_follows_its_actions_is_where_it_should_be() -> None:
    found = {one.name: one.value for one in films.motion(subject()).figures}
    assert found["given the actions"] == 0
    assert found["these, where they lead"] == 0
    assert found["from the true codes"] == 0
    assert found["frames without a shape"] == 0
    assert found["given another clip's actions"] > 1
    assert found["last given frame repeated"] > 1


def test_other_actions_are_another_clips_and_only_later() -> None:
    made = subject()
    np.testing.assert_array_equal(made.other_actions[:, :3], made.actions[:, :3])
    later = [tuple(row) for row in made.actions[:, 3:].tolist()]
    assert sorted(tuple(row) for row in made.other_actions[:, 3:].tolist()) == sorted(later)


def test_centroids() -> None:
    frames = np.full((2, 3, 16, 20, 3), 30, np.uint8)
    frames[0, 0, 4:7, 10:13] = 200
    frames[0, 1, 0, 0] = 250
    frames[1] += 5  # no difference within a frame
    where = films.centroids(frames)
    assert where[0, 0].tolist() == [5, 11]
    assert where[0, 1].tolist() == [0, 0]
    assert np.isnan(where[1]).all()
    distance = films.apart(frames[:1, :1], frames[1:, :1])
    assert distance[0, 0] == pytest.approx(math.hypot(5 - 7.5, 11 - 9.5))  # a lost shape counts as in the middle


def test_metrics_are_known_by_name() -> None:
    assert [*evaluation.metrics_of(load_video_run("run", "cpu").recipe)] == [
        "video_bits",
        "video_future",
        "video_motion",
    ]
