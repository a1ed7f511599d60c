"""A corpus decoded, resampled and levelled once, in one memory-mapped file of 16-bit samples.

A store is a folder of the cache with two files: ``samples.i16``, the clips one after the other, native byte
order, full scale 32767; and ``index.json``, which says whose they are. It appears under its name only when whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, TypeAdapter

from wavevq.audio import Signal, normalise, read
from wavevq.contracts import Batch
from wavevq.data.alignments import Phone, read_phones
from wavevq.data.batches import Crops, Whole, clips_at, whole_clips
from wavevq.data.cache import Broken, left_out, outcomes, prepared, read_index, stamp, to_disk, write_index
from wavevq.data.codes import CodeCrops, Codes
from wavevq.data.corpora import SPLITS, Clip, Listing, Split, by_speaker
from wavevq.errors import WavevqError

FORMAT = 1  # raise it whenever a store made by older code must not be used again
FULL_SCALE = 32_767


@dataclass(frozen=True)
class _Entry:
    """A clip in the index."""

    name: str
    speaker: str
    split: Split
    length: Annotated[int, Field(gt=0)]
    phones: tuple[Phone, ...] | None


@dataclass(frozen=True)
class _Index:
    rate: Annotated[int, Field(gt=0)]
    missing: int
    broken: tuple[Broken, ...]
    about: dict[str, str]
    clips: tuple[_Entry, ...]


_INDEX = TypeAdapter(_Index)


@dataclass(frozen=True)
class StoredClip:
    """start, length: samples in the store. phones: within [0, length / rate] seconds, or None if not known."""

    name: str
    speaker: str
    split: Split
    start: int
    length: int
    phones: tuple[Phone, ...] | None

    @property
    def label(self) -> str:
        return self.speaker


@dataclass(frozen=True, eq=False)
class Store:
    """speakers: sorted names of the training split; a clip's label is its speaker's place among them.

    rate: Hz. missing: recordings that the corpus should hold and does not. about: the corpus's words on a speaker.
    """

    items: ClassVar = "clips"
    whose: ClassVar = "speaker"
    ends: ClassVar = True

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

    @property
    def labels(self) -> tuple[str, ...]:
        return self.speakers

    def split(self, name: Split) -> list[StoredClip]:
        return [clip for clip in self.clips if clip.split == name]

    def crops(self, crop: int, batch: int, seed: int) -> Crops:
        """Training batches of ``crop`` samples."""
        return Crops(self, crop, batch, seed)

    def whole(self, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Whole:
        """As ``batches.whole_clips``."""
        return whole_clips(self, split, batch, hop, limit)

    def examples(self, split: Split, places: Sequence[int], hop: int = 1) -> Batch:
        """Some clips of a split, as ``batches.whole_clips`` has them."""
        return clips_at(self, split, places, hop)

    def code_crops(self, codes: Codes, crop: int, batch: int, hop: int, seed: int) -> CodeCrops:
        """Training batches of ``crop`` codes; hop: samples a code."""
        return CodeCrops(codes, crop, batch, self.rate / hop, seed)

    def given(self, split: Split) -> None:
        """Nothing is."""

    def describe(self) -> str:
        """The corpus in one line, and one for each recording that was left out, as far as NAMED."""
        counts = {name: len(self.split(name)) for name in SPLITS}
        splits = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        lacking = f"; {self.missing} files missing, {len(self.broken)} broken" if self.missing or self.broken else ""
        size = f"{self.seconds / 60:.1f} minutes at {self.rate} Hz, {len(self.speakers)} speakers"
        return "\n".join([f"corpus: {splits} clips, {size}{lacking}", *left_out(self.broken, self.folder)])

    def audio(self, clip: StoredClip, start: int = 0, stop: int | None = None) -> Signal:
        """Samples ``start`` to ``stop`` of ``clip``, fewer where it ends earlier: float32 ``[n]`` in [-1, 1]."""
        stop = clip.length if stop is None else min(stop, clip.length)
        return self.samples[clip.start + start : clip.start + stop].astype(np.float32) / np.float32(FULL_SCALE)


def prepare(listing: Listing, rate: int, trim_db: float | None) -> Store:
    """The store of ``listing`` at ``rate``: opened if the cache holds it, else made, with a progress bar on stderr.

    Recordings that cannot be used are left out and told in ``broken``. Raises WavevqError if none is left to train on.
    """
    key = _key(listing, rate, trim_db)
    return prepared(key, open_store, lambda folder: _make(listing, rate, trim_db, folder))


def open_store(folder: str | Path) -> Store:
    """The store in ``folder``. Raises WavevqError if it is none, or its two files do not fit each other."""
    folder = Path(folder)
    try:
        index = _INDEX.validate_python(read_index(folder, FORMAT))
        clips = tuple(_clips(index.clips))
        size = (folder / "samples.i16").stat().st_size
        if size != 2 * sum(clip.length for clip in clips):
            raise WavevqError(f"{folder / 'samples.i16'}: {size} bytes, which is not what index.json tells of")
        return Store(
            folder,
            index.rate,
            tuple(sorted({clip.speaker for clip in clips if clip.split == "train"})),
            clips,
            index.missing,
            index.broken,
            index.about,
            np.memmap(folder / "samples.i16", np.int16, mode="r"),
        )
    except (OSError, ValueError) as error:
        raise WavevqError(f"{folder}: not a store that can be used ({' '.join(str(error).split())})") from None


def _clips(entries: Sequence[_Entry]) -> Iterator[StoredClip]:
    start = 0
    for one in entries:
        yield StoredClip(one.name, one.speaker, one.split, start, one.length, one.phones)
        start += one.length


def _key(listing: Listing, rate: int, trim_db: float | None) -> str:
    """A name that changes with everything that the store is made from."""
    clips = [[c.name, c.speaker, c.split, stamp(c.path), c.phones and stamp(c.phones)] for c in listing.clips]
    made_from = [FORMAT, rate, trim_db, str(listing.root.resolve()), listing.missing, dict(listing.about), clips]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _make(listing: Listing, rate: int, trim_db: float | None, folder: Path) -> None:
    entries, broken = _write_samples(listing, rate, trim_db, folder / "samples.i16")
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
    write_index(folder, index)


def _write_samples(
    listing: Listing, rate: int, trim_db: float | None, path: Path
) -> tuple[list[dict[str, Any]], list[dict[str, str]]]:
    """Write the samples of all clips; returns the index's entries of those that are in, and the broken ones."""
    entries: list[dict[str, Any]] = []
    broken: list[dict[str, str]] = []

    def decode(clip: Clip) -> tuple[NDArray[np.int16], list[Phone] | None]:
        signal = normalise(read(clip.path), rate, trim_db)
        kept = np.rint(signal.samples[signal.kept] * FULL_SCALE).astype(np.int16)
        return kept, _phones(clip, signal.kept.start / rate, len(kept) / rate)

    with path.open("wb") as file:
        for clip, outcome in outcomes(decode, listing.clips):
            if isinstance(outcome, WavevqError):
                broken.append({"name": clip.name, "reason": str(outcome)})
                continue
            kept, phones = outcome
            file.write(kept.tobytes())
            told = {"name": clip.name, "speaker": clip.speaker, "split": clip.split}
            entries.append({**told, "length": len(kept), "phones": phones})
        to_disk(file)
    trained = {entry["speaker"] for entry in entries if entry["split"] == "train"}
    if not trained:
        raise WavevqError(
            f"{listing.root}: none of {len(listing.clips)} recordings can be trained on; "
            f"the first that is broken: {broken[0]['reason']}"
        )
    for entry in entries:  # a speaker whose training clips are all broken was not heard in training
        entry["split"] = by_speaker(entry["split"], entry["speaker"], trained)
    return entries, broken


def _phones(clip: Clip, shift: float, seconds: float) -> list[Phone] | None:
    """A clip's phones, ``shift`` seconds earlier and cut to [0, seconds]; those wholly outside are dropped."""
    if clip.phones is None:
        return None
    moved = ((start - shift, end - shift, symbol) for start, end, symbol in read_phones(clip.phones, clip.path))
    cut = ((max(0.0, start), min(seconds, end), symbol) for start, end, symbol in moved)
    return [phone for phone in cut if phone[1] > phone[0]]
