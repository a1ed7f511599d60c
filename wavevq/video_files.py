"""Clips that go on: held-out beginnings, drawn further given their actions and given others, as files to look at."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from wavevq import pixels
from wavevq.audio import make_folder, put
from wavevq.build import build_corpus
from wavevq.data.shapes import ACTIONS, Film, Shapes
from wavevq.errors import WavevqError
from wavevq.evaluate.report import Report
from wavevq.files import Sampling
from wavevq.jobs import GIF, PAGE, PNG, refuse_full
from wavevq.progress import Told, codes_bar
from wavevq.video_run import VideoRun

AT_ONCE = 16  # clips that are drawn together
LARGER = 4  # pixels of a file for one of a frame


def sample(
    run: VideoRun, folder: Path, count: int, console: Console, *, action: str | None = None, sampling: Sampling
) -> None:
    """Go on with the first frames of ``count`` held-out clips and write what comes of them below ``folder``.

    Each clip three times, in a row of an animation and in the rows of a strip: as it is; given its own actions; given
    others, ``action`` again and again, or where that is None those of the next clip. Raises WavevqError, before any
    work, for a folder that holds something or cannot be made and for what cannot be had.
    """
    refuse_full(folder)
    run.trained_prior()
    if action is not None and action not in ACTIONS:
        raise WavevqError(f"--action {action}: must be one of {', '.join(ACTIONS)}")
    corpus = build_corpus(run.recipe)
    assert isinstance(corpus, Shapes), "of a recipe of video"
    held_out = corpus.split("val")
    if not (1 if action is not None else 2) <= len(held_out) >= count:
        raise WavevqError(f"--count {count}: the corpus holds {len(held_out)} clips back, and others' actions want two")
    told = Told("sampled", "sampling", console, audio=False)
    make_folder(folder / PAGE)  # what cannot be written is told before the work
    given = run.recipe.evaluation.given
    films = [corpus.film(held_out[i]) for i in range(count)]
    later = [corpus.film(held_out[(i + 1) % len(held_out)]).actions for i in range(count)]
    others = np.stack([redirected(film, given, one, action) for film, one in zip(films, later, strict=True)])
    own = np.stack([film.actions for film in films])
    labels = [corpus.labels.index(held_out[i].label) for i in range(count)]
    report = Report(f"Sampled from {run.folder.name}")
    report.text(
        f"Held-out clips whose first {given} frames are given, as codes; the others are drawn from the prior, codes "
        "alone, and then decoded. Rows: the clip itself; drawn given its actions; drawn given others."
    )
    codes = int(np.prod(run.recipe.grid)) // corpus.frames * (corpus.frames - given)
    with codes_bar(2 * count * codes, console) as advance:
        for first in range(0, count, AT_ONCE):
            some = range(first, min(count, first + AT_ONCE))
            with told.timing():
                begun = np.stack([run.encode(films[i].frames[:given]) for i in some])
                known = [labels[i] for i in some]
                drawn = [
                    run.go_on(begun, actions[some.start : some.stop], known, streams=some, **sampling.how)
                    for actions in (own, others)
                ]
            advance(2 * len(some) * codes)
            for i, *clip in zip(some, *drawn, strict=True):
                versions = np.stack([films[i].frames, *(run.decode(one) for one in clip)])
                name = f"{i + 1:03d}"
                strip = pixels.sheet(np.concatenate([*versions]), corpus.frames)
                pixels.write(folder / f"{name}{PNG}", larger(strip))
                beside = np.stack([pixels.sheet(frame, len(versions)) for frame in versions.swapaxes(0, 1)])
                put(folder / f"{name}{GIF}", pixels.gif(larger(beside)))
                report.picture(strip, f"{name}: {held_out[i].label}")
                rows = [("its own", *said(own[i])), ("others", *said(others[i]))]
                report.table(("actions", *map(str, range(1, corpus.frames + 1))), rows)
                told.add()
    page = report.write(folder / PAGE)
    told.end()
    console.print(f"written: {page}", soft_wrap=True, highlight=False)


def redirected(film: Film, given: int, other: NDArray[np.int64], action: str | None) -> NDArray[np.int64]:
    """The actions ``[T]`` of a clip, after the given frames those of ``other`` or ``action`` again and again."""
    actions = film.actions.copy()
    actions[given:] = other[given:] if action is None else ACTIONS.index(action)
    return actions


def said(actions: NDArray[np.int64]) -> list[str]:
    """Their names."""
    return [ACTIONS[one] for one in actions]


def larger(images: pixels.Pixels) -> pixels.Pixels:
    """Images ``[..., H, W, 3]`` with squares for pixels."""
    return images.repeat(LARGER, -3).repeat(LARGER, -2)
