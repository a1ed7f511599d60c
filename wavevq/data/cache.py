"""Prepared data: folders of the cache that appear under their name only when they are whole."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import platformdirs
from filelock import FileLock
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wavevq.errors import WavevqError, escaped
from wavevq.plain import from_json

INDEX = "index.json"
AT_ONCE = 64  # decoded items held in memory
THREADS = 4  # decoding and resampling release the interpreter's lock
NAMED = 5  # recordings or images left out that are told by name

T = TypeVar("T")
S = TypeVar("S")


@dataclass(frozen=True)
class Broken:
    """A recording or an image that could not be used, and why."""

    name: str
    reason: str


def cache_folder() -> Path:
    """Where prepared data lies: ``$WAVEVQ_CACHE``, else the user's cache."""
    return Path(os.environ.get("WAVEVQ_CACHE") or platformdirs.user_cache_path("wavevq"))


def prepared(key: str, read: Callable[[Path], S], make: Callable[[Path], None]) -> S:
    """What ``read`` finds in the folder ``key`` of the cache, which ``make`` fills first where that is not whole.

    Two processes may ask at once. Raises WavevqError for a cache that cannot be written.
    """
    with reserved(key) as place:
        with contextlib.suppress(WavevqError):  # not there, or damaged
            return read(place)
        _whole(place, make)
        return read(place)


@contextlib.contextmanager
def reserved(key: str) -> Iterator[Path]:
    """The place ``key`` in the cache, for one process at a time.

    The lock goes with the process that holds it, however that ends. Raises WavevqError for a cache that cannot be
    written.
    """
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            yield cache / key
    except OSError as error:
        raise WavevqError(
            f"{cache}: the prepared data cannot be written ({error}); WAVEVQ_CACHE may name another folder"
        ) from None


def _whole(target: Path, make: Callable[[Path], None]) -> None:
    partial = target.with_suffix(".partial")  # ours alone: the caller holds the lock
    for stale in (partial, target):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir()
    try:
        make(partial)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def write_index(folder: Path, index: Mapping[str, Any]) -> None:
    with (folder / INDEX).open("w", encoding="utf-8") as file:
        json.dump(index, file)
        to_disk(file)


def read_index(folder: Path, format: int) -> Any:
    """What ``write_index`` wrote. Raises WavevqError for another format; OSError and ValueError where it is none."""
    index = from_json((folder / INDEX).read_text("utf-8"))
    if not isinstance(index, dict) or "format" not in index:
        raise ValueError(f"{INDEX} is none of a store")
    if index["format"] != format:
        raise WavevqError(f"{folder}: a store of format {index['format']}, not {format}")
    return index


def stamp(path: Path) -> tuple[int, int]:
    """What changes with a file: its size and when it was written."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def outcomes(work: Callable[[T], S], items: Sequence[T]) -> Iterator[tuple[T, S | WavevqError]]:
    """Each item, in order, with what ``work`` makes of it or what is wrong with it; with a progress bar on stderr."""

    def done(item: T) -> S | WavevqError:
        try:
            return work(item)
        except WavevqError as error:
            return error

    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with ThreadPoolExecutor(THREADS) as pool, Progress(*columns, console=Console(file=sys.stderr)) as progress:
        bar = progress.add_task("preparing", total=len(items))
        for first in range(0, len(items), AT_ONCE):
            some = items[first : first + AT_ONCE]
            for pair in zip(some, pool.map(done, some), strict=True):
                yield pair
                progress.advance(bar)


def to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())


def left_out(broken: tuple[Broken, ...], folder: Path) -> list[str]:
    """A line for each of ``broken``, as far as NAMED; ``folder`` has the others."""
    named = [escaped(f"{one.name} ({one.reason})") for one in broken[:NAMED]]
    if len(broken) > NAMED:
        named.append(f"and {len(broken) - NAMED} more, in {folder / INDEX}")
    return [f"  left out: {name}" for name in named]
