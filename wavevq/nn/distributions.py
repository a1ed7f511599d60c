"""Output distributions: what a network's last layer says about a sample."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.audio import mu_law_decode, mu_law_encode


@dataclass(frozen=True)
class MuLawCategorical:
    """A softmax over the classes of a mu-law companded sample (Van den Oord et al. 2016, section 2.2).

    The likelihood is that of the class, not of the 16-bit sample: bits/sample are bits per mu-law class.
    """

    classes: int = 256

    def encode(self, x: Tensor) -> Tensor:
        """Classes int64 of samples in [-1, 1], any shape."""
        return mu_law_encode(x, self.classes)

    def decode(self, classes: Tensor) -> Tensor:
        """Samples float32 in [-1, 1] of classes, any shape."""
        return mu_law_decode(classes, self.classes)

    def nll(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Nats a sample, float32 (float64 of float64 logits) ``[...]``, of logits ``[..., Q]`` and classes."""
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        nats = F.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
        return nats.view(classes.shape)
