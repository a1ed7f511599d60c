"""How a codebook is used."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Usage:
    """counts: int64 ``[K]``, how often each code occurs."""

    counts: Tensor

    @property
    def used(self) -> int:
        """Codes that occur at all."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the codes' frequencies: the number of codes in even use, 1 to K (0 of no codes)."""
        return 2 ** entropy_bits(self.counts) if self.counts.sum() else 0.0

    @property
    def share(self) -> float:
        """Perplexity / K."""
        return self.perplexity / len(self.counts)


def usage(codes: list[Tensor], size: int) -> Usage:
    """Usage of a codebook of ``size`` codes over clips' codes, each int64 of any shape."""
    counts = torch.zeros(size, dtype=torch.int64)
    for one in codes:
        counts += torch.bincount(one.flatten().cpu(), minlength=size)
    return Usage(counts)


def entropy_bits(counts: Tensor) -> float:
    """Entropy in bits of the frequencies behind ``counts`` ``[N]``."""
    share = counts.double() / counts.sum()
    return float(-(share[share > 0] * share[share > 0].log2()).sum())
