"""Recipes read: from a file or plain data, with overrides, every mistake told in a line of its own."""

from __future__ import annotations

from pathlib import Path
from reprlib import Repr
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wavevq.errors import WavevqError
from wavevq.plain import from_yaml
from wavevq.recipe.model import Encoder
from wavevq.recipe.recipe import Recipe, cut_frame
from wavevq.recipe.training import Train

TOLD = 30  # mistakes of a recipe
_SHORT = Repr()  # of a value that is not allowed, however large it is
_SHORT.maxstring = _SHORT.maxother = 80


def load_recipe(path: str | Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """The recipe in a YAML file, with ``key.key=value`` overrides. All mistakes are told at once.

    Raises WavevqError for a missing file, a file that is not YAML, unknown keys and values out of range.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise WavevqError(f"{path}: there is no such recipe{_recipes_near(path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise WavevqError(f"{path}: cannot be read as a recipe ({str(reason).lower()})") from None
    try:
        tree = from_yaml(text)
    except ValueError as error:
        raise WavevqError(f"{path}: not YAML ({error})") from None
    if not isinstance(tree, dict):
        raise WavevqError(f"{path}: a recipe is a mapping with the keys {', '.join(Recipe.model_fields)}")
    return overridden(tree, overrides, str(path))


def overridden(tree: dict[str, Any], overrides: tuple[str, ...], source: str) -> Recipe:
    """A recipe from plain data, which ``key.key=value`` overrides change. Raises WavevqError as ``parse_recipe``."""
    mistakes = [mistake for override in overrides if (mistake := _apply(tree, override))]
    try:
        recipe = parse_recipe(tree, source)
    except WavevqError as error:
        mistakes += error.args
    if mistakes:
        raise WavevqError(*mistakes)
    return recipe


def parse_recipe(tree: Any, source: str, above: tuple[Path, ...] = ()) -> Recipe:
    """A recipe from plain data. Raises WavevqError, one line for each mistake, each beginning with ``source``.

    above: the folders of the runs that are made of its codes.
    """
    try:
        return Recipe.model_validate(tree, context={"above": above})
    except ValidationError as error:
        mistakes = [_mistake(tree, one) for one in error.errors()]
        # pydantic looks at a whole section only when all of its parts are right.
        if all(one["loc"] for one in error.errors()) and (more := _mistaken_crop(tree)):
            mistakes.append(f"recipe: {more}")
        if len(mistakes) > TOLD:
            mistakes[TOLD:] = [f"and {len(mistakes) - TOLD} mistakes more"]
        raise WavevqError(*(f"{source}: {mistake}" for mistake in mistakes)) from None


def _mistaken_crop(tree: Any) -> str | None:
    """What is wrong with the crop of a recipe that has other mistakes, as far as those let one tell."""
    try:
        encoder = TypeAdapter[Encoder](Encoder).validate_python(tree["model"]["encoder"])
        crop = tree["train"].get("crop", Train.model_fields["crop"].default)
    except (ValidationError, LookupError, TypeError, AttributeError):
        return None  # they stand in the way, and are told
    # Images are taken whole, whatever crop another signal's default is.
    return cut_frame(crop, encoder.hop) if type(crop) is int and encoder.signal == "speech" else None


def _apply(tree: dict[str, Any], override: str) -> str | None:
    """Puts ``key.key=value`` into the tree; returns what is wrong with it, if anything."""
    path, equals, text = override.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        return f"--set {override}: must look like train.steps=200"
    try:
        value = from_yaml(text)
    except ValueError:
        return f"--set {override}: {text} is not a YAML value"
    section: Any = tree
    for depth, key in enumerate(keys):
        place: Any = key
        if isinstance(section, list):
            numbers = [str(number) for number in range(len(section))]
            if key not in numbers:
                there = f"numbered {', '.join(numbers)}" if numbers else "of which there are none"
                return f"--set {override}: {key} is none of the parts of {'.'.join(keys[:depth])}, {there}"
            place = numbers.index(key)
        elif not isinstance(section, dict):
            return f"--set {override}: {keys[depth - 1]} is a value, not a section"
        if depth == len(keys) - 1:
            section[place] = value
        elif isinstance(section, dict) and section.get(place) is None:  # absent, or with nothing in it
            section[place] = {}
        section = section[place]
    return None


def _mistake(tree: Any, error: Any) -> str:
    # pydantic puts the name of a union's chosen member into the location; it is no key of the file.
    keys: list[str] = []
    node = tree
    for part in error["loc"]:
        if isinstance(node, dict) and part not in node and part == node.get("kind"):
            continue
        keys.append(str(part) if str(part).isprintable() else _SHORT.repr(part))
        node = node[part] if isinstance(node, dict | list) and _holds(node, part) else None
    where = ".".join(keys) or "recipe"
    if error["type"] == "missing":
        return f"{where}: missing"
    if error["type"] in ("union_tag_invalid", "union_tag_not_found"):
        kinds = ", ".join(_kinds(_section(error["loc"])))
        given = error["ctx"].get("tag")
        said = f"{_SHORT.repr(given)} is not allowed" if given else "missing"
        return f"{where}.kind: {said}; allowed are {kinds}"
    if error["type"] == "extra_forbidden":
        return f"{where}: unknown key; allowed are {', '.join(_section(error['loc'][:-1]).model_fields)}"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return f"{where}: {message}"
    return f"{where}: {_SHORT.repr(error['input'])} is not allowed: {message}"


def _holds(node: dict[Any, Any] | list[Any], part: Any) -> bool:
    return part in node if isinstance(node, dict) else isinstance(part, int) and part < len(node)


def _section(location: tuple[Any, ...]) -> Any:
    """The section, or the union of sections, that a pydantic error location leads to."""
    here: Any = Recipe
    for part in location:
        if isinstance(part, int):  # a section of several in a list: tuple[Annotated[section, ...], ...]
            here = here.__args__[0].__origin__
            continue
        members = _members(here)
        one = len(members) == 1
        here = members[0].model_fields[part].annotation if one else next(m for m in members if part in _kinds(m))
    return here if len(_members(here)) > 1 else _members(here)[0]


def _members(section: Any) -> list[Any]:
    """Of a union of sections, without the None of an optional one; of a section itself."""
    return [one for one in getattr(section, "__args__", (section,)) if one is not type(None)]


def _kinds(section: Any) -> tuple[str, ...]:
    """The values of ``kind`` that lead to a section or to one of a union."""
    return tuple(kind for one in _members(section) for kind in one.model_fields["kind"].annotation.__args__)


def _recipes_near(path: Path) -> str:
    """The recipes that may have been meant."""
    for folder in (path.parent, Path("recipes")):
        if found := sorted(str(one) for one in folder.glob("*.yaml")):
            return f"; there are {', '.join(found)}"
    return ""
