"""Encoders: a waveform ``[B, 1, T]`` to latents ``[B, F, D]``, F = T / hop.

Padding touches nothing: activations past a clip's end are zeroed after every layer, as if the clip ended there.
No batch normalisation: it would mix clips.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio import functional as AF


def valid(lengths: Tensor, size: int) -> Tensor:
    """Mask bool ``[B, size]`` of the positions before each length, int64 ``[B]``."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def frames_of(lengths: Tensor, hop: int) -> Tensor:
    """Frames that hold at least one valid sample, int64 ``[B]``."""
    return (lengths + hop - 1) // hop


class ResidualBlock(nn.Module):
    """ReLU, three taps, ReLU, one tap, added to its input ``[B, C, F]``; zero outside ``mask`` ``[B, 1, F]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(channels, channels, 3, padding=1)
        self.narrow = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = F.relu(self.wide(F.relu(x))) * mask
        return (x + self.narrow(hidden)) * mask


class StridedEncoder(nn.Module):
    """Strided convolutions, then residual blocks at latent rate, then a projection to D.

    Each strided convolution pads (window - stride) / 2 on both sides, so T / stride positions come out.
    """

    def __init__(
        self, inputs: int, strides: Sequence[int], window: int, channels: int, residual_blocks: int, dim: int
    ) -> None:
        super().__init__()
        self.strides = tuple(strides)
        self.strided = nn.ModuleList(
            nn.Conv1d(inputs if i == 0 else channels, channels, window, stride, padding=(window - stride) // 2)
            for i, stride in enumerate(strides)
        )
        width = channels if strides else inputs
        self.widen = nn.Identity() if width == channels else nn.Conv1d(width, channels, 1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(residual_blocks))
        self.project = nn.Conv1d(channels, dim, 1)

    @property
    def hop(self) -> int:
        return math.prod(self.strides)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: ``[B, C, T]``, T a multiple of the hop; lengths: int64 ``[B]``. Returns z_e ``[B, F, D]``."""
        x = x * valid(lengths, x.shape[-1])[:, None]
        for convolution, stride in zip(self.strided, self.strides, strict=True):
            lengths = frames_of(lengths, stride)
            x = convolution(x)
            x = F.relu(x) * valid(lengths, x.shape[-1])[:, None]
        mask = valid(lengths, x.shape[-1])[:, None]
        x = self.widen(x)
        for block in self.blocks:
            x = block(x, mask)
        return (self.project(F.relu(x)) * mask).transpose(1, 2)


class SpectralEncoder(nn.Module):
    """Log-mel frames or MFCC in place of the raw waveform (Chorowski et al. 2019, section III-A).

    rate in Hz; frame_hop and frame_window in samples. Frame f is centred on samples f x frame_hop to
    (f + 1) x frame_hop, so the frames keep the raw encoder's alignment.
    """

    def __init__(
        self, kind: str, rate: int, frame_hop: int, frame_window: int, bands: int, strided: StridedEncoder
    ) -> None:
        super().__init__()
        self.frame_hop, self.frame_window = frame_hop, frame_window
        self.strided = strided
        mels = bands if kind == "logmel" else max(bands, 40)
        filters = AF.melscale_fbanks(frame_window // 2 + 1, 0.0, rate / 2, mels, rate)
        cosines = AF.create_dct(bands, mels, "ortho") if kind == "mfcc" else torch.eye(mels)
        # Derived from the recipe, so not part of the weights.
        self.register_buffer("filters", filters, persistent=False)
        self.register_buffer("cosines", cosines, persistent=False)
        self.register_buffer("hann", torch.hann_window(frame_window), persistent=False)

    filters: Tensor
    cosines: Tensor
    hann: Tensor

    @property
    def hop(self) -> int:
        return self.frame_hop * self.strided.hop

    def features(self, x: Tensor) -> Tensor:
        """Log-mel or MFCC, float32 ``[B, bands, T / frame_hop]``, of ``[B, 1, T]``."""
        around = self.frame_window - self.frame_hop
        padded = F.pad(x[:, 0].float(), (around // 2, around - around // 2))
        spectrum = torch.stft(
            padded, self.frame_window, self.frame_hop, window=self.hann, center=False, return_complex=True
        )
        power = spectrum.abs().square().transpose(1, 2) @ self.filters
        # -60 dB under a full-scale sine's power stops the logarithm; 1/4 brings speech to about unit variance.
        floor = 1e-6 * self.frame_window
        return (torch.log(power + floor) / 4 @ self.cosines).transpose(1, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: ``[B, 1, T]``, T a multiple of the hop; lengths: int64 ``[B]``. Returns z_e ``[B, F, D]``."""
        x = x * valid(lengths, x.shape[-1])[:, None]
        with torch.autocast(x.device.type, enabled=False):
            features = self.features(x)
        z: Tensor = self.strided(features, frames_of(lengths, self.frame_hop))
        return z
