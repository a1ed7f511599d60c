"""The house's floors: a module imports from lower floors or from its own package only."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import wavevq

ROOT = Path(wavevq.__file__).parent
FLOORS = {
    "errors": 0,
    "folders": 0,
    "plain": 0,
    "contracts": 0,
    "recipe": 0,
    "audio": 0,
    "pixels": 0,
    "noise": 0,
    "distributed": 0,
    "codes_file": 1,
    "jobs": 1,
    "progress": 1,
    "data": 1,
    "nn": 1,
    "sampling": 2,
    "vqvae": 3,
    "decoders": 3,
    "prior": 3,
    "joint": 3,
    "vimco": 3,
    "fixed": 4,
    "train": 4,
    "evaluate": 4,
    "build": 5,
    "voices": 5,
    "paper": 5,
    "wvq": 5,
    "run_folder": 5,
    "run": 6,
    "experiment": 7,
    "files": 7,
    "image_run": 7,
    "video_run": 7,
    "enroll": 8,
    "export": 8,
    "about": 8,
    "generate": 8,
    "compress": 8,
    "image_files": 8,
    "video_files": 8,
    "demo": 8,
    "doctor": 8,
    "evaluation": 8,
    "scoreboard": 8,
    "cli": 9,
}
# The only imports within a floor, each one way. What a validation found is told in the types that the log declares.
LEVEL = {
    ("audio", "wavevq.errors."),
    ("distributed", "wavevq.errors."),
    ("plain", "wavevq.errors."),
    ("recipe", "wavevq.plain."),
    ("recipe", "wavevq.errors."),
    ("pixels", "wavevq.errors."),
    ("pixels", "wavevq.audio."),
    ("vqvae", "wavevq.decoders."),
    ("joint", "wavevq.vqvae."),
    ("vimco", "wavevq.vqvae."),
    ("joint", "wavevq.prior."),
    ("evaluate", "wavevq.train.log."),
    ("build", "wavevq.run_folder."),
}
MODULES = sorted(path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py")


def imports(source: str, package: tuple[str, ...]) -> Iterator[str]:
    """The dotted names that ``source``, a module of ``package``, imports anywhere, also inside functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            base = ".".join((*above, *([node.module] if node.module else [])))
            yield from (f"{base}.{alias.name}" for alias in node.names)


def of(path: Path) -> list[str]:
    return list(imports(path.read_text("utf-8"), ("wavevq", *path.relative_to(ROOT).parent.parts)))


def house(name: str) -> str | None:
    """The module or package of the house that a dotted name lies in."""
    first, _, rest = name.partition(".")
    return rest.split(".")[0] if first == "wavevq" and rest else None


def part(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def climbs(here: str, names: list[str]) -> list[str]:
    """Those of ``names`` that a module of ``here`` may not import."""
    found = []
    for name in names:
        there = house(name)
        if there in (None, here, "__version__"):
            continue
        level = any(here == one and f"{name}.".startswith(other) for one, other in LEVEL)
        if FLOORS[str(there)] >= FLOORS[here] and not level:
            found.append(name)
    return found


def test_every_module_has_a_floor() -> None:
    assert {part(path) for path in MODULES} <= FLOORS.keys()


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_imports_only_from_lower_floors(path: Path) -> None:
    assert climbs(part(path), of(path)) == []


def test_the_rule_sees_every_form_of_import() -> None:
    source = (
        "import wavevq.cli\nfrom wavevq import run\ndef f():\n    from ..evaluate import likelihood\nfrom . import log"
    )
    names = list(imports(source, ("wavevq", "train")))
    assert names == ["wavevq.cli", "wavevq.run", "wavevq.train.log", "wavevq.evaluate.likelihood"]
    assert climbs("train", names) == ["wavevq.cli", "wavevq.run", "wavevq.evaluate.likelihood"]
    assert climbs("evaluate", ["wavevq.train.log.Clip", "wavevq.train.loop.fit"]) == ["wavevq.train.loop.fit"]


@pytest.mark.parametrize("path", [p for p in MODULES if part(p) == "nn"], ids=lambda path: path.name)
def test_networks_never_see_the_recipe(path: Path) -> None:
    assert [name for name in of(path) if house(name) == "recipe" or name.split(".")[0] == "pydantic"] == []


@pytest.mark.parametrize("module", ["wavevq.recipe", "wavevq.cli"])
def test_imports_no_torch(module: str) -> None:
    code = f"import sys, {module}; print(*sorted({{'torch', 'numpy', 'lightning'}} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
