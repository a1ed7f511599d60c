"""How the work on many files is told: bars while it lasts, counts, speed and mistakes at its end.

Where there is no terminal there are no bars, but for work that takes long a plain line now and then.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TypeVar

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from wavevq.distributed import gathered
from wavevq.errors import WavevqError

T = TypeVar("T")

LINES_EVERY = 30.0  # seconds between lines where there is no terminal


class Told:
    """Counts what is done, collects what is wrong, and says both at the end."""

    def __init__(self, did: str, work: str, console: Console, audio: bool = True) -> None:
        self.did, self.work, self.console, self.audio = did, work, console, audio
        self.files, self.seconds, self.worked = 0, 0.0, 0.0
        self.wrong: list[str] = []
        self.started = time.monotonic()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A mistake in one file leaves the others to be done."""
        try:
            yield
        except WavevqError as error:
            self.wrong += error.args

    @contextmanager
    def timing(self) -> Iterator[None]:
        """What is done here is the work whose speed is told."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.worked += time.monotonic() - started

    def awaited(self, coming: Iterable[T]) -> Iterator[T]:
        """The same; waiting for them is no work."""
        every = iter(coming)
        while True:
            started = time.monotonic()
            try:
                one = next(every)
            except StopIteration:
                return
            finally:
                self.worked -= time.monotonic() - started
            yield one

    def add(self, seconds: float = 0.0) -> None:
        """One output, of so many seconds of audio, is written."""
        self.files += 1
        self.seconds += seconds

    def end(self) -> None:
        """Prints how long it took, over all ranks. Raises WavevqError, a line for each of this rank's failures."""
        every = gathered((self.files, self.seconds, self.worked))
        files, seconds = sum(one[0] for one in every), sum(one[1] for one in every)
        worked = max(one[2] for one in every)
        if files:
            count = "1 file" if files == 1 else f"{files} files"
            heard = f", {seconds:.2f} s of audio," if self.audio else ""
            speed = f", {seconds / worked:.3g} times real time" if self.audio else ""
            self.console.print(
                f"{self.did} {count}{heard} in {time.monotonic() - self.started:.2f} s; "
                f"{self.work}: {worked:.2f} s{speed}",
                soft_wrap=True,
                highlight=False,
            )
        if self.wrong:
            raise WavevqError(*self.wrong)


def moving(console: Console) -> bool:
    """Whether it is a terminal that can draw anew what it shows."""
    return console.is_terminal and not console.is_dumb_terminal


Say = Callable[[str], object]  # told in words what begins


def beginning(words: str, console: Console) -> None:
    """What begins and may last, said where no bar shows it."""
    if not moving(console):
        console.print(words, soft_wrap=True, highlight=False)


def listing(title: str) -> Table:
    """An empty table of what is told under a title: a name and a text a row."""
    table = Table(title=title, title_justify="left", show_header=False, box=None)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


class RealTime(ProgressColumn):
    """Seconds of audio a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g} times real time" if task.speed else "")


def with_bar(jobs: Sequence[T], label: str, console: Console) -> Iterator[tuple[T, Callable[[float], None]]]:
    """Each job, and what may be called with shares of it as they are done."""
    with _bar(label, len(jobs), console, MofNCompleteColumn(), TaskProgressColumn()) as advance:
        for job in jobs:
            left = 1.0

            def of_job(share: float) -> None:
                nonlocal left
                advance(min(share, left))
                left -= min(share, left)

            yield job, of_job
            of_job(left)


def seconds_bar(
    total: float, console: Console, label: str = "sampling"
) -> AbstractContextManager[Callable[[float], None]]:
    return _bar(label, total, console, TextColumn("{task.completed:.1f}/{task.total:.1f} s"), RealTime())


def told_sampler(sampler: object, console: Console) -> None:
    """Says what draws; None where nothing does."""
    if sampler is not None:
        console.print(f"sampler: {sampler}", soft_wrap=True, highlight=False)


def codes_bar(total: float, console: Console) -> AbstractContextManager[Callable[[float], None]]:
    return _bar("drawing codes", total, console, MofNCompleteColumn())


@contextmanager
def _bar(label: str, total: float, console: Console, *columns: ProgressColumn) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal, lines elsewhere; call what it yields with what has been done since."""
    if total and not moving(console):
        done, last = 0.0, time.monotonic()

        def line(more: float) -> None:
            nonlocal done, last
            done += more
            if time.monotonic() - last >= LINES_EVERY:
                last = time.monotonic()
                console.print(f"{label}: {done / total:.0%}", highlight=False)

        yield line
        return
    shown = (TextColumn(label), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not total) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)
