"""Sums and gathers over the ranks of a distributed run; the identity when there is one process."""

from __future__ import annotations

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def total(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over ranks, any shape; detached. The argument itself when there is one rank."""
    if world_size() == 1:
        return tensor.detach()
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def interleaved(rows: Tensor) -> Tensor:
    """Rows ``[N, ...]`` of every rank in the order of the joined batch, ``[N x ranks, ...]``.

    Rank r holds rows r::ranks of the joined batch (see ``data.batches``), N is the same on every rank.
    """
    ranks = world_size()
    if ranks == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(ranks)]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)
