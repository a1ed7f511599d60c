"""The recipe in a run folder."""

from __future__ import annotations

import os
from pathlib import Path

import yaml

from wavevq.errors import WavevqError
from wavevq.recipe.reading import parse_recipe
from wavevq.recipe.recipe import Recipe

RUNS = Path("runs")
RECIPE = "recipe.yaml"


def folder_named(name: str | Path) -> Path:
    """The folder of a run, as named or under ``runs/``. Raises WavevqError where there is none."""
    for folder in (Path(name), RUNS / name):
        if os.path.isfile(folder / RECIPE):  # noqa: PTH113  pathlib's raises for a name that is too long
            return folder
    raise WavevqError(f"{name}: not a run folder, and there is no run of this name under {RUNS}/")


def read_recipe(folder: Path, root: str | None = None) -> Recipe:
    """The resolved recipe of a run; root: another ``data.root``. Raises WavevqError for one that cannot be read."""
    path = folder / RECIPE
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (ValueError, yaml.YAMLError) as error:  # ValueError: no UTF-8, or a date that does not exist
        raise WavevqError(f"{path}: cannot be read ({' '.join(str(error).split())})") from None
    if root is not None and isinstance(tree, dict) and isinstance(tree.get("data"), dict):
        tree["data"]["root"] = root
    return parse_recipe(tree, str(path))
