"""Classifier-free guidance: codes that show more of their label than the network alone gives them.

Ho & Salimans 2022 (arXiv:2207.12598): a network trained with and without its label is asked both ways, and
logits = nobody + W (label - nobody), their equation 6 with W = w + 1. W = 1 is the network alone, W = 0 without label.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wavevq.sampling.reference import OneByOne, Stream


@dataclass(frozen=True, eq=False)
class Guided(OneByOne):
    """A slow sampler that asks every stream twice; cond is the label's.

    nobody: ``[1, ...]``, the conditioning without a label, the same at every position. weight: W.
    """

    plain: OneByOne
    nobody: Tensor
    weight: float

    def __str__(self) -> str:
        return f"{self.plain}, guidance {self.weight:g}"

    def begin(self, weights: Any, batch: int) -> list[Stream]:
        both = self.plain.begin(weights, 2 * batch)
        pairs = zip(both[:batch], both[batch:], strict=True)
        return [_Pair(label, nobody, self.nobody, self.weight) for label, nobody in pairs]


@dataclass(frozen=True, eq=False)
class _Pair:
    """A stream with its label and the same one without."""

    label: Stream
    nobody: Stream
    without: Tensor
    weight: float

    def logits(self, cond: Tensor) -> Tensor:
        label, nobody = self.label.logits(cond), self.nobody.logits(self.without)
        return label + (self.weight - 1) * (label - nobody)  # so written, W = 1 changes no bit

    def take(self, drawn: Tensor) -> None:
        self.label.take(drawn)
        self.nobody.take(drawn)
