"""Which run folder is meant, and the recipe in it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from wavevq.errors import WavevqError
from wavevq.plain import from_yaml
from wavevq.recipe.reading import parse_recipe
from wavevq.recipe.recipe import Recipe

RUNS = Path("runs")
RECIPE = "recipe.yaml"
SHIPPED = Path(__file__).parents[1] / "models"  # runs that come with wavevq, with what inference needs of them
DEFAULT = "voices"  # of those, the one that is taken where nothing else is there


def folder_named(name: str | Path) -> Path:
    """The folder of a run: as named, under ``runs/``, or one that is shipped; the first that is a run folder.

    Raises WavevqError where there is none.
    """
    for folder in (Path(name), RUNS / name):
        if os.path.isfile(folder / RECIPE):  # noqa: PTH113  pathlib's raises for a name that is too long
            refuse_ways_out(folder)
            return folder
    if str(name) in shipped():
        return SHIPPED / name
    known = f"; shipped with wavevq: {', '.join(shipped())}" if shipped() else ""
    raise WavevqError(f"{name}: not a run folder, and there is no run of this name under {RUNS}/{known}")


def shipped() -> list[str]:
    """The names of the runs that come with wavevq, sorted."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{RECIPE}"))


def is_shipped(folder: Path) -> bool:
    """Whether a run folder is the package's own, where nothing may be written."""
    return Path(os.path.realpath(folder)).parent == Path(os.path.realpath(SHIPPED))


def refuse_shipped(folder: Path) -> None:
    """Raises WavevqError for a run folder that is the package's own: nothing may be written there."""
    if is_shipped(folder):
        copy = RUNS / folder.name
        raise WavevqError(
            f"{folder.name}: is shipped with wavevq, and nothing is written there; a copy is a run of yours, and comes "
            f"before it: mkdir -p {RUNS}; cp -r {shlex.quote(str(folder))} {copy}"
        )


def refuse_ways_out(folder: Path) -> None:
    """Raises WavevqError for a link in a run folder that leads out of it, and for what is neither file nor folder.

    So a folder from elsewhere can have nothing read or written beside it, and nothing that is read never ends.
    """
    top = os.path.realpath(folder)
    for parent, folders, files in os.walk(top):
        for path in (Path(parent, name) for name in (*folders, *files)):
            target = os.path.realpath(path)
            if path.is_symlink() and not target.startswith(f"{top}{os.sep}"):
                raise WavevqError(f"{path}: is a link that leads out of the run folder, to {target}")
            if path.exists() and not path.is_file() and not path.is_dir():
                raise WavevqError(f"{path}: is neither a file nor a folder")


def read_recipe(folder: Path, root: str | None = None, above: tuple[Path, ...] = ()) -> Recipe:
    """The resolved recipe of a run; root: another ``data.root``; above: runs that are made of its codes.

    Raises WavevqError for one that cannot be read.
    """
    path = folder / RECIPE
    try:
        tree = from_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ValueError as error:
        raise WavevqError(f"{path}: cannot be read ({error})") from None
    if root is not None and isinstance(tree, dict) and isinstance(tree.get("data"), dict):
        tree["data"]["root"] = root
    return parse_recipe(tree, str(path), above)
