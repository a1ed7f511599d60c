"""Sampling from a transformer, one position after the other over a cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavevq.nn.transformer import Cache, Transformer
from wavevq.sampling.reference import OneByOne, Stream


@dataclass(frozen=True)
class Cached(OneByOne):
    """The one sampler of transformers; cond is ``[B, 1, cond_dim]``, float32 or float64."""

    def __str__(self) -> str:
        return "transformer with a key-value cache (float32 weights)"

    def begin(self, weights: Transformer, batch: int) -> list[Stream]:
        nothing = torch.tensor([weights.classes], device=weights.output.weight.device)
        return [_TransformerStream(weights, weights.start(1), nothing) for _ in range(batch)]


@dataclass
class _TransformerStream:
    """present: the next input, int64 ``[1]``."""

    weights: Transformer
    cache: Cache
    present: Tensor

    def logits(self, cond: Tensor) -> Tensor:
        return self.weights.logits(self.present[:, None], cond, self.cache)[:, 0]

    def take(self, drawn: Tensor) -> None:
        self.present = drawn
