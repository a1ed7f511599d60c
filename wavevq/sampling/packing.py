"""What the CPU samplers share: a network's matrices as ``kernel`` reads them, and streams shared out to threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from wavevq.sampling import Precision
from wavevq.sampling.kernel import LANES, PANEL


def shared_out(share: Callable[[int, int], None], batch: int) -> None:
    """Calls ``share(first, last)`` for parts of ``batch`` streams, on as many threads as torch has."""
    threads = min(batch, torch.get_num_threads())
    edges = [batch * i // threads for i in range(threads + 1)] if batch else [0]
    if threads == 1:
        share(0, batch)
    else:
        with ThreadPoolExecutor(max(1, threads)) as pool:
            list(pool.map(share, edges[:-1], edges[1:]))


def told(temperature: float) -> float:
    """The temperature within what a float32 tells from 0 and from infinity."""
    return min(max(float(temperature), 1e-30), 1e30)


def empty(size: int) -> NDArray[np.float32]:
    """Memory that the kernel writes before it reads it."""
    return np.empty(size, np.float32)


def panels(matrices: Tensor, precision: Precision) -> NDArray[Any]:
    """Matrices ``[..., rows, columns]`` as ``[..., panels, rows, words]``, flat.

    A panel is PANEL columns; its row is PANEL float32, or LANES 32-bit words with the bfloat16 of column c in the
    low half of word c and that of column c + LANES in the high half.
    """
    wide = whole_panels(matrices.float())
    parted = wide.view(*wide.shape[:-1], wide.shape[-1] // PANEL, PANEL).movedim(-2, -3).contiguous()
    if precision == "float32":
        return parted.flatten().numpy()
    words = parted.to(torch.bfloat16).view(torch.int16).numpy().view(np.uint16).astype(np.uint32)
    packed: NDArray[np.uint32] = words[..., :LANES] | words[..., LANES:] << np.uint32(16)
    return packed.reshape(-1)


def padded_gates(gates: Tensor, columns: int) -> Tensor:
    """Filters and gates ``[..., 2W]`` with each half padded to half of ``columns``."""
    if gates.shape[-1] == columns:
        return gates.contiguous()
    halves = gates.reshape(*gates.shape[:-1], 2, gates.shape[-1] // 2)
    return F.pad(halves, (0, columns // 2 - halves.shape[-1])).flatten(-2)


def whole_panels(x: Tensor, value: float = 0.0) -> Tensor:
    return F.pad(x, (0, up(x.shape[-1], PANEL) - x.shape[-1]), value=value)


def up(size: int, step: int) -> int:
    return -(-size // step) * step
