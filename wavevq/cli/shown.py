"""What is printed, so that a terminal only shows it: names of files and what else is in them may be anything."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, ConsoleRenderable, RenderHook
from rich.segment import Segment

from wavevq.errors import escaped


class Shown(RenderHook):
    """Of a console: writes out what would steer the terminal, as ``escaped``, in whatever is printed on it."""

    def process_renderables(self, renderables: list[ConsoleRenderable]) -> list[ConsoleRenderable]:
        return [_Escaped(one) for one in renderables]


@dataclass(frozen=True)
class _Escaped:
    printed: ConsoleRenderable

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        for one in console.render(self.printed, options):
            text = "\n".join(map(escaped, one.text.split("\n")))
            yield one if one.control else Segment(text, one.style)  # control: rich's own
