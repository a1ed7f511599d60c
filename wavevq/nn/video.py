"""Networks of video: every frame through those of images, and what a frame is told of those before it.

The prior's is a Video Pixel Network (Kalchbrenner et al. 2016, arXiv:1610.00527) over codes: a PixelCNN makes each
frame in raster order, conditioned on a map that convolutions causal in time make of earlier frames and of the actions.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.nn.encoders import valid
from wavevq.nn.images import ImageEncoder, keep_variance
from wavevq.nn.pixelcnn import PixelCNN


def folded(x: Tensor) -> Tensor:
    """The frames of clips ``[B, C, T, H, W]`` as images ``[B T, C, H, W]``."""
    return x.movedim(2, 1).flatten(0, 1)


def unfolded(images: Tensor, clips: int) -> Tensor:
    """Images as ``folded`` made them of so many clips, as clips again."""
    return images.view(clips, -1, *images.shape[1:]).movedim(1, 2)


class FrameEncoder(nn.Module):
    """The image encoder, of every frame by itself: its codes do not know what moves."""

    def __init__(self, image: ImageEncoder) -> None:
        super().__init__()
        self.image = image

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """z_e ``[B, t, h, w, G, D]`` of ``[B, C, T, H, W]``, t = T; lengths: int64 ``[B]``, frames of each clip."""
        rows = valid(lengths, x.shape[2]).flatten() * x.shape[3]  # a frame of padding has none
        z: Tensor = self.image(folded(x), rows)
        return z.view(len(x), -1, *z.shape[1:])


class CausalBlock(nn.Module):
    """ReLU, 3 x 3 over a frame and that ``dilation`` before it, ReLU, 3 x 3, added to its input ``[B, t, C, h, w]``."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.wide = nn.Conv2d(2 * channels, channels, 3, padding=1)
        self.narrow = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        pair = torch.cat([x, later(x, self.dilation)], 2).flatten(0, 1)
        hidden: Tensor = self.narrow(F.relu(self.wide(F.relu(pair))))
        return x + hidden.view(x.shape)


def later(x: Tensor, frames: int) -> Tensor:
    """x ``[B, t, ...]`` that many frames later, zeros before it, of the same length."""
    return torch.cat([torch.zeros_like(x[:, :frames]), x[:, : max(0, x.shape[1] - frames)]], 1)


class Past(nn.Module):
    """What each frame is told: of the codes of frames before it, and of actions up to its own.

    Block l reads a frame and that 2^l before it, so with L layers a frame sees 2^L frames before it, of each 2 L
    positions to every side. codes K, groups G; width: C of what comes out.
    """

    def __init__(self, *, codes: int, groups: int, actions: int, width: int, layers: int) -> None:
        super().__init__()
        self.embedding = nn.ModuleList(nn.Embedding(codes, width) for _ in range(groups))
        self.action = nn.Embedding(actions, width)
        self.blocks = nn.ModuleList(CausalBlock(width, 2**layer) for layer in range(layers))
        keep_variance(self)

    def forward(self, x: Tensor, actions: Tensor) -> Tensor:
        """``[B, t, h, w, C]`` of actions int64 ``[B, t]`` and codes int64 ``[B, t, h, w, G]``; the last is not read.

        It may be missing: then there is one frame of codes less than there are actions.
        """
        values = torch.stack([table(x[..., g]) for g, table in enumerate(self.embedding)]).sum(0)
        before = F.pad(values, (0, 0, 0, 0, 0, 0, 1, 0))[:, : actions.shape[1]]
        hidden: Tensor = (before + self.action(actions)[:, :, None, None]).permute(0, 1, 4, 2, 3)
        for block in self.blocks:
            hidden = block(hidden)
        return hidden.permute(0, 1, 3, 4, 2)


class VideoPixelNetwork(nn.Module):
    """p(x_i | x_<i, actions, c) over the codes of a clip, frame after frame, each frame's in raster order.

    frame: the PixelCNN over a frame's grid, whose conditioning is as wide as ``past``'s output and c together.
    """

    def __init__(self, past: Past, frame: PixelCNN) -> None:
        super().__init__()
        self.past, self.frame = past, frame

    @property
    def classes(self) -> int:
        return self.frame.classes

    def forward(self, x: Tensor, actions: Tensor, c: Tensor) -> Tensor:
        """Teacher-forced logits ``[B, t, h, w, G, Q]`` of x int64 ``[B, t, h, w, G]`` in [0, Q); others as ``maps``."""
        maps = self.maps(x, actions, c)
        logits: Tensor = self.frame(x.flatten(0, 1), maps.flatten(0, 1))
        return logits.view(*x.shape, -1)

    def maps(self, x: Tensor, actions: Tensor, c: Tensor) -> Tensor:
        """The PixelCNN's conditioning of every frame, ``[B, t, h, w, C]``.

        actions: int64 ``[B, t]``, of each frame the one that led to it. x: the codes as ``Past`` takes them. c: what
        holds for the whole clip, ``[B, C']``.
        """
        past = self.past(x, actions)
        return torch.cat([past, c[:, None, None, None].expand(*past.shape[:-1], -1).to(past.dtype)], dim=-1)
