"""A run folder: the resolved recipe, speakers, metrics and checkpoints."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import yaml

from wavevq.audio import make_folder, replacing, writing
from wavevq.errors import WavevqError
from wavevq.recipe import Recipe, parse_recipe
from wavevq.train.state import checkpoints, fingerprint

RUNS = Path("runs")
RECIPE, SPEAKERS, SUMMARY, CHECKPOINTS = "recipe.yaml", "speakers.json", "summary.json", "checkpoints"
PRIOR = "prior"  # folder of the prior's own checkpoints, metrics and summary
TRAINED_ON = "trained-on"  # file in it: the fingerprint of the VQ-VAE's weights whose codes it learns


def find_run(name: str | Path | None) -> Path:
    """The folder of a run: as named, or under ``runs/``; for None ``$WAVEVQ_RUN``, else the newest finished one."""
    name = name or os.environ.get("WAVEVQ_RUN")
    if name:
        for folder in (Path(name), RUNS / name):
            if os.path.isfile(folder / RECIPE):  # noqa: PTH113  pathlib's raises for a name that is too long
                return folder
        raise WavevqError(f"{name}: not a run folder, and there is no run of this name under {RUNS}/")
    finished = sorted(RUNS.glob(f"*/{SUMMARY}"), key=lambda path: path.stat().st_mtime_ns)
    if not finished:
        raise WavevqError(f"no finished run under {RUNS}/: train one (wavevq train RECIPE) or name one with --run")
    return finished[-1].parent


def create(folder: Path, recipe: Recipe, speakers: Sequence[str], about: Mapping[str, str] | None = None) -> None:
    """Begin a run folder, which is there with all of it or not at all. about: what the corpus says of its speakers."""
    begun = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(begun, ignore_errors=True)  # of a training that was killed
    with writing(folder):
        begun.mkdir(parents=True)
        known = {"speakers": list(speakers), "about": {name: (about or {}).get(name, "") for name in speakers}}
        text = json.dumps(known, indent=1, ensure_ascii=False) + "\n"
        (begun / SPEAKERS).write_text(text, encoding="utf-8")
        write_recipe(begun, recipe)
        begun.rename(folder)


def write_recipe(folder: Path, recipe: Recipe) -> None:
    """The resolved recipe, every default written out."""
    text = yaml.safe_dump(recipe.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    with replacing(folder / RECIPE) as partial:
        partial.write_text(text, encoding="utf-8")


def read_recipe(folder: Path) -> Recipe:
    """Raises WavevqError for one that cannot be read."""
    path = folder / RECIPE
    try:
        return parse_recipe(yaml.safe_load(path.read_text(encoding="utf-8")), str(path))
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that does not exist
        raise WavevqError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None


def read_speakers(folder: Path) -> tuple[str, ...]:
    """Raises WavevqError for a list that cannot be read."""
    path = folder / SPEAKERS
    try:
        speakers = json.loads(path.read_text(encoding="utf-8"))["speakers"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WavevqError(f"{path}: not a list of speakers ({error!r})") from None
    if not isinstance(speakers, list) or not speakers or not all(isinstance(name, str) for name in speakers):
        raise WavevqError(f"{path}: not a list of speakers")
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


def record_weights(folder: Path) -> None:
    """Write down for ``refuse_stale`` whose codes the prior is about to learn: those of the VQ-VAE's newest weights."""
    path = folder / PRIOR / TRAINED_ON
    make_folder(path)
    with replacing(path) as partial:
        partial.write_text(fingerprint(newest_checkpoint(folder)) + "\n")


def refuse_stale(folder: Path) -> None:
    """Raises WavevqError unless the prior is known to have learned the codes of the weights that the VQ-VAE has now."""
    place = folder / PRIOR
    again = "delete it, and train another with --stage prior"
    try:
        recorded = (place / TRAINED_ON).read_bytes()
    except OSError as error:
        raise WavevqError(
            f"{place}: does not tell whose codes it has learned ({TRAINED_ON}: "
            f"{(error.strerror or str(error)).lower()}); {again}"
        ) from None
    if recorded.strip() != fingerprint(newest_checkpoint(folder)).encode():
        raise WavevqError(f"{place}: was trained on the codes of other weights than {folder} has now; {again}")
