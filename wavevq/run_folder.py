"""A run folder: the resolved recipe, speakers, metrics and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml

from wavevq.audio import make_folder, replacing, unwritable
from wavevq.errors import WavevqError
from wavevq.plain import from_json, is_name
from wavevq.recipe import Coded, Recipe
from wavevq.recipe.section import Signal
from wavevq.recipe.trained import DEFAULT, folder_named, refuse_ways_out, shipped
from wavevq.recipe.trained import RECIPE as RECIPE
from wavevq.recipe.trained import RUNS as RUNS
from wavevq.recipe.trained import read_recipe as read_recipe
from wavevq.train.state import checkpoints, fingerprint

SPEAKERS, SUMMARY, CHECKPOINTS = "speakers.json", "summary.json", "checkpoints"
PRIOR = "prior"  # folder of the prior's own checkpoints, metrics and summary
# File beside the checkpoints of what learns codes: the fingerprint of the VQ-VAE's weights whose codes they are.
TRAINED_ON = "trained-on"
BEGUN_WITH = "begun-with"  # file of the fingerprint of the weights that a training has begun with


@dataclass(frozen=True)
class Found:
    """The folder of the run that is meant, and why it is this one: "" where it was named."""

    folder: Path
    why: str = ""


def find_run(name: str | Path | None, *signals: Signal) -> Path:
    """The folder of the run that is meant, as ``found_run``."""
    return found_run(name, *signals).folder


def found_run(name: str | Path | None, *signals: Signal) -> Found:
    """The run that is meant: as ``folder_named``; for None ``$WAVEVQ_RUN``, else the newest finished under ``runs/``.

    signals: of what that may be; of anything where none is given. A run is finished when its VQ-VAE is and, where its
    recipe has a ``prior`` that is trained after it, that too. Only where none is so far, the newest that lacks such a
    prior is taken (``--stage vqvae``, or a training that was killed), and ``why`` says so. Where there is none at all,
    DEFAULT, if that is shipped and fits. A run that cannot be read is passed over, which ``why`` says. Raises
    WavevqError for a run that is not there.
    """
    if name:
        return Found(folder_named(name))
    if named := os.environ.get("WAVEVQ_RUN"):
        try:
            return Found(folder_named(named), "$WAVEVQ_RUN")
        except WavevqError as error:
            raise WavevqError(*(f"{line} (named by $WAVEVQ_RUN)" for line in error.args)) from None
    of = f" of {signals[0]}" if signals else ""
    without_prior, unread = None, ""
    for folder in sorted((path.parent for path in RUNS.glob(f"*/{SUMMARY}")), key=_ended, reverse=True):
        try:
            refuse_ways_out(folder)
            recipe = read_recipe(folder)
        except WavevqError:
            unread = unread or f", but for {folder}, which cannot be read"
            continue
        if signals and recipe.data.signal not in signals:
            continue
        if recipe.prior is None or (prior_folder(folder, recipe) / SUMMARY).exists():
            return Found(folder, f"the newest finished one{of}{unread}; --run names another")
        without_prior = without_prior or folder
    if without_prior:
        lacks = "with a finished VQ-VAE, but no finished prior"
        return Found(without_prior, f"the newest{of} {lacks}{unread}; --run names another")
    fitting = [one for one in shipped() if not signals or read_recipe(folder_named(one)).data.signal in signals]
    none = f"no finished run{of} under {RUNS}/{unread}"
    if DEFAULT in fitting:
        return Found(folder_named(DEFAULT), f"shipped with wavevq, there being {none}; --run names another")
    others = f", such as {fitting[0]}, which is shipped with wavevq" if fitting else ""
    raise WavevqError(f"{none}: train one (wavevq train RECIPE) or name one with --run{others}")


def _ended(folder: Path) -> int:
    """When the last of a run's trainings that has ended did."""
    times = (path.stat().st_mtime_ns for path in (folder / SUMMARY, folder / PRIOR / SUMMARY) if path.exists())
    return max(times, default=0)  # of one that is deleted meanwhile


def create(folder: Path, recipe: Recipe, speakers: Sequence[str], about: Mapping[str, str] | None = None) -> None:
    """Begin a run folder, which is there with all of it or not at all. about: what the corpus says of its speakers."""
    begun = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(begun, ignore_errors=True)  # of a training that was killed
    with unwritable(folder):
        begun.mkdir(parents=True)
        known = {"speakers": list(speakers), "about": {name: (about or {}).get(name, "") for name in speakers}}
        text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
        # A folder's name may be bytes that are no text: what this makes of them, JSON reads as them.
        (begun / SPEAKERS).write_text(text, encoding="utf-8", errors="backslashreplace")
        if isinstance(recipe.data, Coded):
            record_weights(begun, first_run(recipe.data))
        if recipe.train.start is not None:
            record_weights(begun, folder_named(recipe.train.start), BEGUN_WITH)
        write_recipe(begun, recipe)
        begun.rename(folder)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe, every default written out."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with replacing(folder / RECIPE) as partial:
        partial.write_text(text, encoding="utf-8")


def read_speakers(folder: Path) -> tuple[str, ...]:
    """Raises WavevqError for a list that cannot be read."""
    path = folder / SPEAKERS
    try:
        speakers = from_json(path.read_text(encoding="utf-8"))["speakers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WavevqError(f"{path}: not a list of speakers ({error!r})") from None
    if not isinstance(speakers, list) or not speakers or not all(isinstance(name, str) for name in speakers):
        raise WavevqError(f"{path}: not a list of speakers")
    for name in speakers:
        if not is_name(name):
            raise WavevqError(f"{path}: {name!r} cannot be a speaker's name; those of folders can")
    if len(set(speakers)) < len(speakers):
        raise WavevqError(f"{path}: names a speaker twice")
    return tuple(speakers)


def newest_checkpoint(folder: Path) -> Path:
    """Of a run's VQ-VAE. Raises WavevqError where there is none."""
    found = checkpoints(folder / CHECKPOINTS)
    if not found:
        raise WavevqError(f"{folder}: holds no checkpoint yet; train it first")
    return found[-1]


def prior_folder(folder: Path, recipe: Recipe) -> Path:
    """Where the prior's checkpoints, metrics and summary lie: beside the VQ-VAE's, or with them in joint training."""
    return folder if recipe.prior is not None and recipe.prior.joint else folder / PRIOR


def first_run(data: Coded) -> Path:
    """The run whose codes are learned. Raises WavevqError where it is not trained."""
    first = folder_named(data.run)
    if not (first / SUMMARY).exists():
        raise WavevqError(f"{first}: has no finished VQ-VAE whose codes could be learned; train that first (data.run)")
    return first


def record_weights(place: Path, first: Path, name: str = TRAINED_ON) -> None:
    """Write down for ``refuse_stale`` what ``place`` is about to learn from: the newest weights of a run."""
    path = place / name
    make_folder(path)
    with replacing(path) as partial:
        partial.write_text(fingerprint(newest_checkpoint(first)) + "\n")


def refuse_stale(
    place: Path, first: Path, again: str = "delete it, and train another with --stage prior", name: str = TRAINED_ON
) -> None:
    """Raises WavevqError unless ``place`` is known to have learned from the weights that a run has now: its codes.

    again: what is to be done where it has not. name: BEGUN_WITH where it has begun with them.
    """
    what, how = "whose codes it has learned", "trained on the codes of"
    if name == BEGUN_WITH:
        what, how = "what it was begun with", "begun with"
    try:
        recorded = (place / name).read_bytes()
    except OSError as error:
        raise WavevqError(
            f"{place}: does not tell {what} ({name}: {(error.strerror or str(error)).lower()}); {again}"
        ) from None
    if recorded.strip() != fingerprint(newest_checkpoint(first)).encode():
        raise WavevqError(f"{place}: was {how} other weights than {first} has now; {again}")


def trained_on(folder: Path, recipe: Recipe) -> Path | None:
    """The run whose codes a run has learned, where there is one. Raises WavevqError where it is gone or has changed."""
    if not isinstance(recipe.data, Coded):
        return None
    first = first_run(recipe.data)
    refuse_stale(folder, first, "name the run that it was (data.run), or train this one anew")
    return first
