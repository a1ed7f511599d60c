"""A corpus decoded, resampled and levelled once, in one memory-mapped file of 16-bit samples.

A store is a folder of the cache with two files: ``samples.i16``, the clips one after the other, native byte
order, full scale 32767; and ``index.json``, which says whose they are. It appears under its name only when whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, TypeVar

import numpy as np
import platformdirs
from filelock import FileLock
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wavevq.audio import Signal, normalise, read
from wavevq.data.alignments import Phone, read_phones
from wavevq.data.corpora import Clip, Listing, Split, by_speaker
from wavevq.errors import WavevqError

FORMAT = 1  # raise it whenever a store made by older code must not be used again
FULL_SCALE = 32_767
AT_ONCE = 64  # decoded clips held in memory
THREADS = 4  # decoding and resampling release the interpreter's lock

T = TypeVar("T")


@dataclass(frozen=True)
class StoredClip:
    """start, length: samples in the store. phones: within [0, length / rate] seconds, or None if not known."""

    name: str
    speaker: str
    split: Split
    start: int
    length: int
    phones: tuple[Phone, ...] | None


@dataclass(frozen=True)
class Broken:
    """A recording that could not be used, and why."""

    name: str
    reason: str


@dataclass(frozen=True, eq=False)
class Store:
    """speakers: sorted names of the training split; a clip's label is its speaker's place among them.

    rate: Hz. missing: recordings that the corpus should hold and does not. about: the corpus's words on a speaker.
    """

    folder: Path
    rate: int
    speakers: tuple[str, ...]
    clips: tuple[StoredClip, ...]
    missing: int
    broken: tuple[Broken, ...]
    about: Mapping[str, str]
    samples: NDArray[np.int16]

    @property
    def seconds(self) -> float:
        return len(self.samples) / self.rate

    def split(self, name: Split) -> list[StoredClip]:
        return [clip for clip in self.clips if clip.split == name]

    def audio(self, clip: StoredClip, start: int = 0, stop: int | None = None) -> Signal:
        """Samples ``start`` to ``stop`` of ``clip``, fewer where it ends earlier: float32 ``[n]`` in [-1, 1]."""
        stop = clip.length if stop is None else min(stop, clip.length)
        return self.samples[clip.start + start : clip.start + stop].astype(np.float32) / np.float32(FULL_SCALE)


def cache_folder() -> Path:
    """Where prepared data lies: ``$WAVEVQ_CACHE``, else the user's cache."""
    return Path(os.environ.get("WAVEVQ_CACHE") or platformdirs.user_cache_path("wavevq"))


def prepare(listing: Listing, rate: int, trim_db: float | None) -> Store:
    """The store of ``listing`` at ``rate``: opened if the cache holds it, else made, with a progress bar on stderr.

    Recordings that cannot be used are left out and told in ``broken``. Raises WavevqError if none is left to train on.
    """
    key = _key(listing, rate, trim_db)
    cache = cache_folder()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with FileLock(cache / f"{key}.lock"):
            if not _is_whole(cache / key):
                _make(listing, rate, trim_db, cache / key)
            return open_store(cache / key)
    except OSError as error:
        raise WavevqError(
            f"{cache}: the prepared data cannot be written ({error}); WAVEVQ_CACHE may name another folder"
        ) from None


def open_store(folder: str | Path) -> Store:
    """The store in ``folder``. Raises WavevqError if it is none, or its two files do not fit each other."""
    folder = Path(folder)
    try:
        index = json.loads((folder / "index.json").read_text("utf-8"))
        if index["format"] != FORMAT:
            raise WavevqError(f"{folder}: a store of format {index['format']}, not {FORMAT}")
        clips = tuple(_clips(index["clips"]))
        size = (folder / "samples.i16").stat().st_size
        if size != 2 * sum(clip.length for clip in clips):
            raise WavevqError(f"{folder / 'samples.i16'}: {size} bytes, which is not what index.json tells of")
        return Store(
            folder,
            index["rate"],
            tuple(sorted({clip.speaker for clip in clips if clip.split == "train"})),
            clips,
            index["missing"],
            tuple(Broken(**one) for one in index["broken"]),
            index["about"],
            np.memmap(folder / "samples.i16", np.int16, mode="r"),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WavevqError(f"{folder}: not a store that can be used ({error})") from None


def _clips(entries: list[dict[str, Any]]) -> Iterator[StoredClip]:
    start = 0
    for entry in entries:
        phones = entry["phones"] and tuple((begin, end, symbol) for begin, end, symbol in entry["phones"])
        yield StoredClip(entry["name"], entry["speaker"], entry["split"], start, entry["length"], phones)
        start += entry["length"]


def _key(listing: Listing, rate: int, trim_db: float | None) -> str:
    """A name that changes with everything that the store is made from."""
    clips = [[c.name, c.speaker, c.split, _stamp(c.path), c.phones and _stamp(c.phones)] for c in listing.clips]
    made_from = [FORMAT, rate, trim_db, str(listing.root.resolve()), listing.missing, dict(listing.about), clips]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _stamp(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _is_whole(folder: Path) -> bool:
    try:
        open_store(folder)
    except WavevqError:
        return False
    return True


def _make(listing: Listing, rate: int, trim_db: float | None, target: Path) -> None:
    partial = target.with_suffix(".partial")  # ours alone: the caller holds the lock
    for stale in (partial, target):
        shutil.rmtree(stale, ignore_errors=True)
    partial.mkdir()
    try:
        entries, broken = _write_samples(listing, rate, trim_db, partial / "samples.i16")
        index = {
            "format": FORMAT,
            "rate": rate,
            "trim_db": trim_db,
            "root": str(listing.root),
            "missing": listing.missing,
            "broken": broken,
            "about": dict(listing.about),
            "clips": entries,
        }
        with (partial / "index.json").open("w", encoding="utf-8") as file:
            json.dump(index, file)
            _to_disk(file)
        partial.rename(target)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write_samples(
    listing: Listing, rate: int, trim_db: float | None, path: Path
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write the samples of all clips; returns the index's entries of those that are in, and the broken ones."""
    entries: list[dict[str, Any]] = []
    broken: list[dict[str, str]] = []
    with path.open("wb") as file:
        for clip, outcome in _with_bar(_decoded(listing.clips, rate, trim_db), len(listing.clips)):
            if isinstance(outcome, WavevqError):
                broken.append({"name": clip.name, "reason": str(outcome)})
                continue
            kept, phones = outcome
            file.write(kept.tobytes())
            told = {"name": clip.name, "speaker": clip.speaker, "split": clip.split}
            entries.append({**told, "length": len(kept), "phones": phones})
        _to_disk(file)
    trained = {entry["speaker"] for entry in entries if entry["split"] == "train"}
    if not trained:
        raise WavevqError(
            f"{listing.root}: none of {len(listing.clips)} recordings can be trained on; "
            f"the first that is broken: {broken[0]['reason']}"
        )
    for entry in entries:  # a speaker whose training clips are all broken was not heard in training
        entry["split"] = by_speaker(entry["split"], entry["speaker"], trained)
    return entries, broken


Decoded = tuple[NDArray[np.int16], list[Phone] | None]


def _decoded(clips: tuple[Clip, ...], rate: int, trim_db: float | None) -> Iterator[tuple[Clip, Decoded | WavevqError]]:
    """Each clip, in order, with its 16-bit samples and phones, or with what is wrong with it."""

    def decode(clip: Clip) -> Decoded | WavevqError:
        try:
            signal = normalise(read(clip.path), rate, trim_db)
            kept = np.rint(signal.samples[signal.kept] * FULL_SCALE).astype(np.int16)
            phones = _phones(clip, signal.kept.start / rate, len(kept) / rate)
            return kept, phones
        except WavevqError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        for first in range(0, len(clips), AT_ONCE):
            some = clips[first : first + AT_ONCE]
            yield from zip(some, pool.map(decode, some), strict=True)


def _phones(clip: Clip, shift: float, seconds: float) -> list[Phone] | None:
    """A clip's phones, ``shift`` seconds earlier and cut to [0, seconds]; those wholly outside are dropped."""
    if clip.phones is None:
        return None
    moved = ((start - shift, end - shift, symbol) for start, end, symbol in read_phones(clip.phones, clip.path))
    cut = ((max(0.0, start), min(seconds, end), symbol) for start, end, symbol in moved)
    return [phone for phone in cut if phone[1] > phone[0]]


def _with_bar(items: Iterator[T], total: int) -> Iterator[T]:
    columns = (TextColumn("preparing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(file=sys.stderr)) as progress:
        yield from progress.track(items, total=total)


def _to_disk(file: IO[Any]) -> None:
    file.flush()
    os.fsync(file.fileno())
