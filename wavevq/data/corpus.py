"""What training, validation and the run folder ask of a corpus, of whatever signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wavevq.contracts import Batch
from wavevq.data.codes import Codes
from wavevq.data.corpora import Split


class Batches(Protocol):
    """Where training batches come from: ``at`` is a pure function of its arguments."""

    @property
    def unit(self) -> str:
        """Of ``amount``."""
        ...

    @property
    def amount(self) -> float:
        """How much of the signal is in one global batch."""
        ...

    def at(self, step: int, rank: int, world: int) -> Batch: ...

    def names(self, step: int, rank: int, world: int) -> list[str]:
        """Of the examples in that batch."""
        ...


class Epochs(Batches, Protocol):
    """Batches of a corpus that are gone through again and again."""

    @property
    def steps_per_epoch(self) -> int: ...


class Example(Protocol):
    """A clip or an image. name: unique in its corpus. label: who speaks, or what is seen."""

    @property
    def name(self) -> str: ...
    @property
    def label(self) -> str: ...


class Corpus(Protocol):
    """A prepared corpus. folder: where. labels: names, in the order of their numbers. about: what is known of some.

    items: what its examples are called, in the plural. whose: what a label is the name of. ends: whether examples are
    of many lengths, so that the codes of one end with a class of their own.
    """

    @property
    def items(self) -> str: ...
    @property
    def whose(self) -> str: ...
    @property
    def ends(self) -> bool: ...
    @property
    def folder(self) -> Path: ...
    @property
    def labels(self) -> tuple[str, ...]: ...
    @property
    def about(self) -> Mapping[str, str]: ...

    def split(self, name: Split) -> Sequence[Example]: ...

    def crops(self, crop: int, batch: int, seed: int) -> Epochs:
        """Training batches of ``crop`` positions of the first signal axis."""
        ...

    def whole(self, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Sequence[Batch]:
        """Whole examples, at most ``batch`` at a time, all or ``limit`` of them, evenly spread over the split."""
        ...

    def code_crops(self, codes: Codes, crop: int, batch: int, hop: int, seed: int) -> Epochs:
        """Training batches of this corpus's codes, ``crop`` of the first axis of their grid; hop: positions a code."""
        ...

    def examples(self, split: Split, places: Sequence[int], hop: int = 1) -> Batch:
        """Whole examples by their places in ``split``, in one batch.

        x: ``[B, C, *space]``, padded to a multiple of ``hop``. index: the places. label: -1 where it is not a label
        of training.
        """
        ...

    def given(self, split: Split) -> Sequence[NDArray[np.int64]] | None:
        """What is known of each example's codes beforehand: of video the action of every frame, ``[T]``; or None."""
        ...

    def describe(self) -> str:
        """What it holds, in a line, and one for each of some files that were left out."""
        ...
