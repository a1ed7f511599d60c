"""Sampling from a transformer, one position after the other over a cache of keys and values."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from wavevq.nn.transformer import Cache, Transformer
from wavevq.sampling import hop_of
from wavevq.sampling.reference import one_thread, pick


@dataclass
class State:
    """One cache a stream, and the present inputs int64 ``[B]``."""

    caches: list[Cache]
    present: list[int]


@dataclass(frozen=True)
class Cached:
    """The one sampler of transformers, as ``contracts.Sampler``; cond is ``[B, 1, cond_dim]``, float32 or float64.

    Streams are drawn one after the other: products of several rows round differently from those of one.
    """

    def __str__(self) -> str:
        return "transformer with a key-value cache (float32 weights)"

    @torch.no_grad()
    def __call__(
        self,
        weights: Transformer,
        cond: Tensor,
        noise: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prefix: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        hop_of(weights, cond, noise, prefix)
        if state is None:
            state = State([weights.start(1) for _ in cond], [weights.classes] * len(cond))
        given = 0 if prefix is None else prefix.shape[1]
        drawn = torch.empty(noise.shape, dtype=torch.int64, device=cond.device)
        with one_thread(cond.device):
            for row, cache in enumerate(state.caches):
                for t in range(given + noise.shape[1]):
                    before = torch.tensor([[state.present[row]]], device=cond.device)
                    logits = weights.logits(before, cond[row : row + 1, 0], cache)[:, 0]
                    if prefix is not None and t < given:
                        state.present[row] = int(prefix[row, t])
                        continue
                    found = pick(logits, noise[row : row + 1, t - given], temperature, top_p)
                    drawn[row, t - given] = found
                    state.present[row] = int(found)
        return drawn, state
