"""What makes latents forget who speaks: an adversary that learns to tell it by them, and unteaches their encoder.

Sources: Ganin and Lempitsky 2015, "Unsupervised domain adaptation by backpropagation", section 3 (the layer that
reverses the gradient); Chou et al. 2018, "Multi-target voice conversion without parallel data by adversarially learning
disentangled audio representations" (of speakers, in an autoencoder).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from wavevq.nn.distributions import softmax_nats

WIDTH, KERNEL = 128, 5  # two layers: it hears nine latents at a time


class Adversary(nn.Module):
    """Tells labels by latents of sequences, of width ``dim``, D.

    weight: of the gradient, of nats a latent, that goes on to the latents, reversed. The adversary's own weights get
    the whole of it. It is there in training only.
    """

    def __init__(self, dim: int, labels: int, weight: float) -> None:
        super().__init__()
        self.weight = weight
        self.layers = nn.ModuleList(nn.Conv1d(width, WIDTH, KERNEL, padding=KERNEL // 2) for width in (dim, WIDTH))
        self.head = nn.Linear(WIDTH, labels)

    def forward(self, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """-log p(label) in nats, float32 ``[]``, summed over the latents that ``mask``, bool ``[B, F]``, has.

        z: float ``[B, F, D]``. label: int64 ``[B]`` in [0, labels).
        """
        turned: Tensor = Reversed.apply(z, self.weight)  # type: ignore[no-untyped-call]
        h = turned.transpose(1, 2)
        for layer in self.layers:
            h = layer(h * mask[:, None]).relu()
        return (softmax_nats(self.head(h.transpose(1, 2)), label[:, None].expand_as(mask)) * mask).sum()


class Reversed(torch.autograd.Function):
    """The identity, whose gradient is reversed, times a weight."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return -ctx.weight * gradients[0], None
