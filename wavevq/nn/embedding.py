"""Classes to vectors."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def embedded(x: Tensor, table: Tensor) -> Tensor:
    """Rows ``[..., R]`` of a table ``[Q, R]``.

    x: classes int64 ``[...]`` in [0, Q), or the same as one-hot rows, float ``[..., Q]``, through which a gradient
    passes.
    """
    if not x.is_floating_point():
        return F.embedding(x, table)
    with torch.autocast(x.device.type, enabled=False):  # so that both are the same numbers
        return x.to(table.dtype) @ table
