"""Counter-based uniform noise: the number at (seed, stream, position) depends on nothing else."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor

# Each purpose that draws by the numbers of steps or examples has a seed of its own, derived from the recipe's, so
# that no two share their numbers. The quantizer draws by its updates under the recipe's seed itself.
ORDER, OFFSETS, JITTER, DROP, CODES, VOICES, POSTERIOR, BELOW, SHAPES, GAIN = range(1, 11)
ROOM, BACKGROUND = 14, 15  # 11 to 13 are free
DRAWS_A_COUNTER = 4  # Philox4x64 yields four 64-bit words for each value of its counter


def uniform(seed: int, streams: Iterable[int], count: int, start: int = 0) -> Tensor:
    """Uniform noise in [0, 1), float64 ``[streams, count]``, on the CPU.

    Row i holds positions ``start`` to ``start + count`` of stream ``streams[i]`` of ``seed``. Any split of the
    positions over calls, and of the streams over batches, gives the same numbers.
    Source: Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3" (numpy's Philox).
    """
    skipped = start % DRAWS_A_COUNTER
    rows = []
    for stream in streams:
        bits = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
        bits.advance(start // DRAWS_A_COUNTER)
        rows.append(np.random.Generator(bits).random(skipped + count)[skipped:])
    return torch.from_numpy(np.stack(rows)) if rows else torch.empty(0, count, dtype=torch.float64)


def normal(seed: int, streams: Iterable[int], count: int) -> Tensor:
    """Standard normal noise, float64 ``[streams, count]``: ``uniform`` through the inverse distribution function."""
    shares = uniform(seed, streams, count).clamp(min=2**-54)  # half of the smallest above 0
    quantiles: Tensor = torch.special.ndtri(shares)
    return quantiles


def derived(seed: int, purpose: int) -> int:
    """The seed of a purpose, in [0, 2^64)."""
    return int(np.random.SeedSequence([seed, purpose]).generate_state(1, np.uint64)[0])
