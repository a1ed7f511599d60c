"""Classes to vectors."""

from __future__ import annotations

import math

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


def waves(classes: int, width: int) -> Tensor:
    """An initial embedding ``[Q, R]`` that knows the order of the classes: sines of Q's half to one fourth wavelengths.

    Neighbouring classes begin alike, as neighbouring amplitudes are; independent rows would have to learn that.
    """
    frequency = torch.logspace(0, math.log10(classes / 4), width)
    phase = torch.rand(width) * 2 * math.pi
    return math.sqrt(2) * torch.sin(torch.linspace(-math.pi / 2, math.pi / 2, classes)[:, None] * frequency + phase)
