"""Which audio stands in which batch: pure functions of seed, step and the example's global number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, overload

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.audio import Signal
from wavevq.contracts import Batch
from wavevq.data.corpora import Split
from wavevq.errors import WavevqError
from wavevq.noise import OFFSETS, ORDER, derived, uniform

if TYPE_CHECKING:
    from wavevq.data.corpus import Corpus
    from wavevq.data.store import Store, StoredClip

PADDING = 0.2  # share of a batch of whole clips that may be padding, on which the time is wasted


@dataclass(frozen=True)
class Place:
    """A training example: its global number, the place of its clip among the clips, and where in the clip it begins."""

    number: int
    clip: int
    start: int


class Windows:
    """Which windows of ``crop`` of clips so long are taken at which step, ``batch`` of them over all ranks together.

    A clip of n makes max(1, ceil(n / crop)) windows an epoch, so that clips are covered evenly whatever their
    lengths; each epoch takes all windows in an order of its own, each window at a random place of its clip. rate: how
    many of what is counted are one ``unit`` of signal. named (the clips) and section (of the recipe): for messages.
    """

    section = "train"

    def __init__(
        self,
        named: Sequence[str],
        lengths: Sequence[int],
        crop: int,
        batch: int,
        rate: float,
        seed: int,
        unit: str = "audio_seconds",
    ) -> None:
        self.named, self.lengths, self.crop, self.batch, self.unit = named, lengths, crop, batch, unit
        self.amount = batch * crop / rate  # of signal in a step's batch, padding included
        windows = [max(1, -(-length // crop)) for length in lengths]
        self._clip_of_window = np.repeat(np.arange(len(lengths)), windows)
        self._order_seed, self._offset_seed = derived(seed, ORDER), derived(seed, OFFSETS)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._clip_of_window) // self.batch)

    def places(self, step: int, rank: int, world: int) -> list[Place]:
        """The examples of ``step`` that ``rank`` takes: rows rank::world; the number is step * batch + row.

        A clip shorter than the crop starts at 0.
        """
        if self.batch % world:
            raise WavevqError(
                f"{self.section}.batch {self.batch} must be a multiple of the number of processes, {world}"
            )
        numbers = range(step * self.batch + rank, (step + 1) * self.batch, world)
        draws = uniform(self._offset_seed, numbers, 1)[:, 0].tolist()
        clips = [self._clip(number) for number in numbers]
        starts = [int(u * (max(0, self.lengths[i] - self.crop) + 1)) for u, i in zip(draws, clips, strict=True)]
        return [Place(*one) for one in zip(numbers, clips, starts, strict=True)]

    def names(self, step: int, rank: int = 0, world: int = 1) -> list[str]:
        """The clips of ``places``."""
        return [self.named[one.clip] for one in self.places(step, rank, world)]

    def _clip(self, number: int) -> int:
        epoch, place = divmod(number, len(self._clip_of_window))
        window = order(self._order_seed, epoch, len(self._clip_of_window))[place]
        return int(self._clip_of_window[window])


class Crops(Windows):
    """Training crops of ``crop`` samples of a store's audio."""

    def __init__(self, store: Store, crop: int, batch: int, seed: int) -> None:
        self.store, self.clips = store, store.split("train")
        super().__init__(
            [clip.name for clip in self.clips], [clip.length for clip in self.clips], crop, batch, store.rate, seed
        )

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of ``step`` that ``rank`` takes. x float32 ``[B, 1, crop]``, zeros after a shorter clip.

        cond: int64 ``[B, 2]``, how many samples of the clip lie before and after the crop.
        """
        places = self.places(step, rank, world)
        clips = [self.clips[one.clip] for one in places]
        audio = [self.store.audio(self.clips[one.clip], one.start, one.start + self.crop) for one in places]
        around = [[p.start, max(0, c.length - p.start - self.crop)] for p, c in zip(places, clips, strict=True)]
        made = _batch(self.store, clips, audio, self.crop, [one.number for one in places])
        return replace(made, cond=torch.tensor(around))


@dataclass(frozen=True, eq=False)
class Whole(Sequence[Batch]):
    """Batches read from a corpus when they are asked for. members: places in the split, of each batch."""

    corpus: Corpus
    split: Split
    members: list[list[int]]
    hop: int

    def __len__(self) -> int:
        return len(self.members)

    @overload
    def __getitem__(self, at: int) -> Batch: ...
    @overload
    def __getitem__(self, at: slice) -> Whole: ...
    def __getitem__(self, at: int | slice) -> Batch | Whole:
        if isinstance(at, slice):
            return replace(self, members=self.members[at])
        return self.corpus.examples(self.split, self.members[at], self.hop)


def whole_clips(store: Store, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Whole:
    """The whole clips of a split, ``grouped`` by length, at most ``batch`` at a time; x float32 ``[B, 1, T]``.

    T is the longest of the batch rounded up to a multiple of ``hop``. index is the clip's place in
    ``store.split(split)``. ``limit`` takes that many, evenly spread over the split (sorted by name, so over its
    speakers too). The label is -1 where the speaker was not in training (val_unseen).
    """
    clips = store.split(split)
    chosen = spread(len(clips), limit)
    members = [[chosen[place] for place in group] for group in grouped([clips[i].length for i in chosen], batch)]
    return Whole(store, split, members, hop)


def clips_at(store: Store, split: Split, places: Sequence[int], hop: int) -> Batch:
    """The batch of some clips of a split, as in ``whole_clips``."""
    every = store.split(split)
    clips = [every[i] for i in places]
    width = -(-max(clip.length for clip in clips) // hop) * hop
    return _batch(store, clips, [store.audio(clip) for clip in clips], width, places)


def in_order(corpus: Corpus, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Whole:
    """Examples of one size, ``batch`` at a time in the order of their split; ``limit`` of them, spread over it."""
    chosen = spread(len(corpus.split(split)), limit)
    return Whole(corpus, split, [chosen[first : first + batch] for first in range(0, len(chosen), batch)], hop)


def spread(count: int, limit: int | None) -> list[int]:
    """Places in [0, count), all or ``limit`` of them, evenly spread."""
    taken = count if limit is None else min(limit, count)
    return [(2 * i + 1) * count // (2 * taken) for i in range(taken)]


def grouped(lengths: Sequence[int], most: int) -> list[list[int]]:
    """Places in ``lengths``, sorted by length, at most ``most`` of them and PADDING of padding in a group."""
    groups: list[list[int]] = []
    heard = 0
    for place in sorted(range(len(lengths)), key=lambda place: (lengths[place], place)):
        heard += lengths[place]
        size = len(groups[-1]) + 1 if groups else 0
        if not 0 < size <= most or heard < (1 - PADDING) * size * lengths[place]:
            groups.append([])
            heard = lengths[place]
        groups[-1].append(place)
    return groups


def _batch(store: Store, clips: list[StoredClip], audio: list[Signal], width: int, index: Sequence[int]) -> Batch:
    x = np.zeros((len(clips), 1, width), np.float32)
    for row, samples in enumerate(audio):
        x[row, 0, : len(samples)] = samples
    labels = {speaker: label for label, speaker in enumerate(store.speakers)}
    return Batch(
        x=torch.from_numpy(x),
        label=torch.tensor([labels.get(clip.speaker, -1) for clip in clips]),
        lengths=torch.tensor([len(samples) for samples in audio]),
        index=torch.tensor(index),
    )


@lru_cache(maxsize=2)  # a batch may straddle two epochs
def order(seed: int, epoch: int, windows: int) -> NDArray[np.int64]:
    """A permutation of the windows, another for each epoch."""
    # Sorting uniform numbers rather than Generator.permutation, whose stream numpy may change between versions.
    return np.argsort(uniform(seed, [epoch], windows)[0].numpy(), kind="stable")
