"""What makes latents forget who speaks: an adversary that learns to tell it by them, and an encoder that it unteaches.

Sources: Ganin and Lempitsky 2015, "Unsupervised domain adaptation by backpropagation" (the reversed gradient); Chou et
al. 2018, "Multi-target voice conversion without parallel data by adversarially learning disentangled audio
representations" (of speakers, in an autoencoder).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

WIDTH, KERNEL = 128, 5  # two layers: it hears nine latents at a time


class Adversary(nn.Module):
    """Tells labels by latents of sequences. weight: of the gradient that goes on to the latents, reversed.

    In training only; the adversary's own weights get the whole gradient, whatever the weight.
    """

    def __init__(self, dim: int, labels: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.layers = nn.ModuleList(nn.Conv1d(width, WIDTH, KERNEL, padding=KERNEL // 2) for width in (dim, WIDTH))
        self.head = nn.Linear(WIDTH, labels)

    def forward(self, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """-log p(label) ``[]`` in nats, summed over the latents ``[B, F, D]`` where ``mask`` ``[B, F]`` is true."""
        turned: Tensor = Reversed.apply(z, self.weight)  # type: ignore[no-untyped-call]
        h = turned.transpose(1, 2)
        for layer in self.layers:
            h = layer(h * mask[:, None]).relu()
        logits = self.head(h.transpose(1, 2)).transpose(1, 2)
        return (F.cross_entropy(logits, label[:, None].expand_as(mask), reduction="none") * mask).sum()


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is reversed, times a weight (Ganin and Lempitsky 2015, equations 14 and 15)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None
