"""The codes of a corpus of images as a corpus: what another model is trained on (Van den Oord et al. 2017, 4.2)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

from wavevq.contracts import Batch
from wavevq.data.batches import Whole, in_order
from wavevq.data.codes import CodeCrops, Codes
from wavevq.data.corpora import Split
from wavevq.data.corpus import Corpus, Example


@dataclass(frozen=True, eq=False)
class CodedCorpus:
    """Signals int64 ``[B, G, h, w]`` in [0, K), as signals lie: the G codes of a position in the place of colours.

    base: the corpus whose codes they are; examples, labels and splits are its own. folder: a name in the cache that
    changes with the codes. name: of the run that made them. grid: h, w, G. size: K. codes: of a split, in its order.
    """

    ends: ClassVar = False

    folder: Path
    base: Corpus
    name: str
    grid: tuple[int, ...]
    size: int
    codes: Callable[[Split], Codes]

    @property
    def items(self) -> str:
        return self.base.items

    @property
    def whose(self) -> str:
        return self.base.whose

    @property
    def labels(self) -> tuple[str, ...]:
        return self.base.labels

    @property
    def about(self) -> Mapping[str, str]:
        return self.base.about

    def split(self, name: Split) -> Sequence[Example]:
        return self.base.split(name)

    def crops(self, crop: int, batch: int, seed: int) -> CodedCrops:
        """Training batches of whole grids; crop: their height."""
        return CodedCrops(self.codes("train"), crop, batch, crop, seed, unit=self.items)

    def code_crops(self, codes: Codes, crop: int, batch: int, hop: int, seed: int) -> CodeCrops:
        """Training batches of whole grids of these codes' codes; crop: their height."""
        return CodeCrops(codes, crop, batch, crop, seed, unit=self.items)

    def whole(self, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Whole:
        """As ``in_order``."""
        return in_order(self, split, batch, hop, limit)

    def examples(self, split: Split, places: Sequence[int], hop: int = 1) -> Batch:
        """Examples by their places in a split; x int64 ``[B, G, h, w]``."""
        return as_signal(self.codes(split).batch(places))

    def given(self, split: Split) -> None:
        """Nothing is."""

    def describe(self) -> str:
        """What it is made from, and in one line what it is."""
        height, width, groups = self.grid
        return f"{self.base.describe()}\nits codes: {height} x {width} x {groups} of {self.size}, by {self.name}"


class CodedCrops(CodeCrops):
    """Grids of codes to learn from as signals are: every epoch takes each once."""

    section = "train"

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of ``step`` that ``rank`` takes. x int64 ``[B, G, h, w]``."""
        return as_signal(super().at(step, rank, world))


def as_signal(batch: Batch) -> Batch:
    """Grids of codes ``[B, h, w, G]`` as a signal ``[B, G, h, w]``; they are whole, so none begins in its middle."""
    return replace(batch, x=batch.x.movedim(-1, 1).contiguous(), cond=None)
