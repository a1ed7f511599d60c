"""Networks of images: ``[B, C, H, W]`` to latents ``[B, h, w, G, D]`` and back (Van den Oord et al. 2017, section 4.1).

Two strided convolutions of four taps each way, two residual blocks, in the paper. Activations lie channel-last in
memory, as convolutions like it best, and as latents are. No batch normalisation: it would mix images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.nn.encoders import Standardise, frames_of, valid


class Block(nn.Module):
    """ReLU, 3 x 3, ReLU, 1 x 1, added to its input ``[B, C, h, w]``; the hidden width is ``hidden``."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.wide = nn.Conv2d(channels, hidden, 3, padding=1)
        self.narrow = nn.Conv2d(hidden, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.narrow(F.relu(self.wide(F.relu(x))))
        return out


def keep_variance(network: nn.Module) -> None:
    """Initial weights, as of speech's encoder, with which a signal keeps its variance through ReLUs."""
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            inputs: float = layer.in_channels * math.prod(layer.kernel_size)
            if isinstance(layer, nn.ConvTranspose2d):  # of its taps, an output has one a stride
                inputs /= math.prod(layer.stride)
            nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
            assert layer.bias is not None
            nn.init.zeros_(layer.bias)


class ImageEncoder(nn.Module):
    """Strided convolutions, residual blocks, a projection to G latents of D a position.

    Each strided convolution pads (window - stride) / 2 on every side, so H / stride rows come out. norm: of the
    latents, Standardise by default.
    """

    def __init__(
        self,
        colours: int,
        strides: Sequence[int],
        window: int,
        channels: int,
        residual_blocks: int,
        residual: int,
        groups: int,
        dim: int,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.strides, self.groups = tuple(strides), groups
        self.strided = nn.ModuleList(
            nn.Conv2d(channels if i else colours, channels, window, stride, padding=(window - stride) // 2)
            for i, stride in enumerate(strides)
        )
        self.blocks = nn.ModuleList(Block(channels, residual) for _ in range(residual_blocks))
        self.project = nn.Conv2d(channels, groups * dim, 1)
        # Over all dimensions of a position, so that each of the G uses the one codebook in its whole width.
        self.standardise = norm or Standardise(groups * dim)
        keep_variance(self)

    @property
    def hop(self) -> int:
        return math.prod(self.strides)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """z_e ``[B, h, w, G, D]`` of ``[B, C, H, W]``, H and W multiples of the hop; lengths: int64 ``[B]``, H each."""
        x = x.contiguous(memory_format=torch.channels_last)
        for convolution in self.strided:
            x = F.relu(convolution(x))
        for block in self.blocks:
            x = block(x)
        z = self.project(F.relu(x)).permute(0, 2, 3, 1)
        rows = valid(frames_of(lengths, self.hop), z.shape[1])[..., None].expand(z.shape[:-1])
        latents: Tensor = self.standardise(z, rows).unflatten(-1, (self.groups, -1))
        return latents


class CodesEncoder(nn.Module):
    """Another model's codes, G a position with a table each, as vectors; their sums are encoded as an image is."""

    def __init__(self, classes: int, groups: int, width: int, encoder: ImageEncoder) -> None:
        super().__init__()
        self.classes, self.groups, self.encoder = classes, groups, encoder
        self.embedding = nn.Embedding(groups * classes, width)
        nn.init.normal_(self.embedding.weight, std=groups**-0.5)  # their sum has variance 1

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """z_e as ``ImageEncoder``'s, of codes int64 ``[B, G, H, W]`` in [0, classes)."""
        tables = torch.arange(self.groups, device=x.device)[:, None, None] * self.classes
        vectors = self.embedding(x + tables).sum(1)
        latents: Tensor = self.encoder(vectors.permute(0, 3, 1, 2), lengths)
        return latents


class ImageUpsampler(nn.Module):
    """The encoder's mirror image: ``[B, h, w, G, D]`` to ``outputs`` channels at every pixel."""

    def __init__(
        self,
        latent: int,
        strides: Sequence[int],
        window: int,
        channels: int,
        residual_blocks: int,
        residual: int,
        outputs: int,
    ) -> None:
        super().__init__()
        self.widen = nn.Conv2d(latent, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels, residual) for _ in range(residual_blocks))
        widths = [channels] * len(strides) + [outputs]
        self.strided = nn.ModuleList(
            nn.ConvTranspose2d(there, here, window, stride, padding=(window - stride) // 2)
            for there, here, stride in zip(widths, widths[1:], reversed(strides), strict=False)
        )

    def forward(self, z: Tensor) -> Tensor:
        """``[B, outputs, H, W]``, H = h times the strides' product."""
        x: Tensor = self.widen(z.flatten(3).permute(0, 3, 1, 2))
        for block in self.blocks:
            x = block(x)
        for convolution in self.strided:
            x = convolution(F.relu(x))
        return x
