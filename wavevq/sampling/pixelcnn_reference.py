"""The definition of right for grids: the naive way, one full forward pass for every value that is drawn."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor

from wavevq.nn.pixelcnn import PixelCNN
from wavevq.sampling import Precision
from wavevq.sampling.reference import one_thread, pick


@dataclass(frozen=True)
class GridReference:
    """The reference backend of ``contracts.GridSampler``; runs in the dtype of the weights, on any device."""

    precision: Precision = "bfloat16"

    def __str__(self) -> str:
        return f"reference, a forward pass a value ({self.precision} weights)"

    @torch.no_grad()
    def __call__(
        self, weights: PixelCNN, cond: Tensor, noise: Tensor, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        used = rounded(weights) if self.precision == "bfloat16" else weights
        drawn = torch.zeros(noise.shape, dtype=torch.int64, device=cond.device)
        with one_thread(cond.device):
            # Alone, since products of several rows round differently.
            for row in range(len(noise)):
                one = slice(row, row + 1)
                for _ in naive(used, cond[one], noise[one], drawn[one], temperature, top_p):
                    pass
        return drawn


def naive(
    weights: PixelCNN, cond: Tensor, noise: Tensor, drawn: Tensor, temperature: float = 1.0, top_p: float = 1.0
) -> Iterator[tuple[int, int, int]]:
    """Fills ``drawn``, int64 ``[B, h, w, G]``, value by value, and yields the place (row, column, group) of each."""
    rows, columns, groups = noise.shape[1:]
    for place in product(range(rows), range(columns), range(groups)):
        at = (slice(None), *place)
        drawn[at] = pick(weights(drawn, cond)[at], noise[at], temperature, top_p)
        yield place


def rounded(weights: PixelCNN) -> PixelCNN:
    """A copy whose matrices have bfloat16's values: not the tables, the biases and the conditioning's."""
    copied = copy.deepcopy(weights)
    for matrix in (
        copied.vertical,
        copied.horizontal,
        copied.link,
        copied.vertical_out,
        copied.horizontal_out,
        copied.hidden,
        copied.output,
    ):
        matrix.data = matrix.data.to(torch.bfloat16).to(matrix.dtype)
    return copied
