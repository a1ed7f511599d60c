"""YAML and JSON as plain values: what names objects, repeats a key or grows without end is refused, not built.

And which of the texts in them can be names.
"""

from __future__ import annotations

import json
import re
from typing import Any

import yaml
from yaml.composer import ComposerError
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode

from wavevq.errors import escaped

BYTES = re.compile("[\udc80-\udcff]")  # of a file's name that is no text, as Python holds them

LONGEST = 2**17  # characters of a file; PyYAML reads some 100,000 a second
DEEPEST = 50
BITS = 128  # of an integer
MOST = 20_000  # values, each counted wherever an alias repeats it


class _Plain(yaml.SafeLoader):
    """PyYAML's safe loader, which takes the last of two equal keys and expands whatever aliases ask for."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.values = self.depth = 0
        self.within: dict[int, int] = {}  # values in each node that is whole, by its id

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        event: Any = self.peek_event()  # type: ignore[no-untyped-call]
        before = self.values
        alias, mark = isinstance(event, yaml.AliasEvent), event.start_mark
        if not alias and event.tag is not None:
            raise ComposerError(None, None, f"the tag {event.tag} is not read", mark)
        self.depth += 1
        if self.depth > DEEPEST:
            raise ComposerError(None, None, f"more than {DEEPEST} values within each other", mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        if alias and id(node) not in self.within:
            raise ComposerError(None, None, "it holds itself", mark)
        self.values += self.within[id(node)] if alias else 1
        if self.values > MOST:
            raise ComposerError(None, None, f"more than {MOST} values", mark)
        self.within[id(node)] = self.values - before
        return node

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            said = key.tag, str(key.value)
            if said in seen:
                raise ConstructorError(None, None, f"the key {key.value!r} stands there twice", key.start_mark)
            seen.add(said)
        return super().construct_mapping(node, deep)

    def construct_yaml_int(self, node: ScalarNode) -> int:
        value: int = super().construct_yaml_int(node)
        if value.bit_length() > BITS:  # in hexadecimal it may have any number
            raise ConstructorError(None, None, f"a number of {value.bit_length()} bits", node.start_mark)
        return value


_Plain.add_constructor("tag:yaml.org,2002:int", _Plain.construct_yaml_int)


def from_yaml(text: str) -> Any:
    """The values in a YAML text: mappings, lists, texts, numbers, dates, true, false and null.

    Raises ValueError, one line, for anything else, and for more than LONGEST characters or MOST values.
    """
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} characters, of at most {LONGEST}")
    try:
        return yaml.load(text, _Plain)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # the last two: a date or a number that cannot be
        raise ValueError(" ".join(str(error).split())) from None


def from_json(text: str | bytes) -> Any:
    """The values in a JSON text. Raises ValueError, one line, for anything else."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def is_name(text: str) -> bool:
    """Whether a speaker or a class may be called so: as a folder can be, and nothing that steers a terminal."""
    told = BYTES.sub("", text)
    return text not in ("", ".", "..") and "/" not in text and escaped(told) == told
