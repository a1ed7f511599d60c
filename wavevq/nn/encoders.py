"""Encoders: a waveform ``[B, 1, T]`` to latents ``[B, F, D]``, F = T / hop.

Padding touches nothing: activations past a clip's end are zeroed after every layer, as if the clip ended there.
No batch normalisation: it would mix clips. Each has a ``reach``, by which a signal longer than memory is encoded
``in_parts``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchaudio import functional as AF

from wavevq.distributed import total

STATISTICS_STEP = 0.05  # share of a step in the running statistics: they follow within some twenty steps
SMALL = 1e-5


def valid(lengths: Tensor, size: int) -> Tensor:
    """Mask bool ``[B, size]`` of the positions before each length, int64 ``[B]``."""
    return torch.arange(size, device=lengths.device) < lengths[:, None]


def frames_of(lengths: Tensor, hop: int) -> Tensor:
    """Frames that hold at least one valid sample, int64 ``[B]``."""
    return (lengths + hop - 1) // hop


def in_parts(encoder: StridedEncoder | SpectralEncoder, pieces: Iterable[Tensor], frames: int) -> Iterator[Tensor]:
    """z_e ``[1, n, D]`` of a signal that comes in pieces ``[n]`` of any size: what ``encoder`` makes of the whole.

    Each part, of ``frames`` frames and the rest, is encoded with as much of the signal before and after it as its
    latents see, so what the layers put beyond a part's edges reaches none of them; at the signal's own edges that is
    what they put beyond the whole.
    """
    hop = encoder.hop
    before, after = (-(-samples // hop) for samples in encoder.reach)
    held, done = torch.empty(0), 0  # done: frames at the start of what is held that are there to be seen only

    def part(window: Tensor, end: int) -> Tensor:
        padded = F.pad(window, (0, -len(window) % hop))[None, None]
        z: Tensor = encoder(padded, torch.tensor([len(window)], device=window.device))
        return z[:, done:end]

    for piece in pieces:
        held = torch.cat([held.to(piece), piece])
        while len(held) >= (done + frames + after) * hop:
            yield part(held[: (done + frames + after) * hop], done + frames)
            seen = max(0, done + frames - before)
            held, done = held[seen * hop :], done + frames - seen
    if len(held) > done * hop:
        yield part(held, -(-len(held) // hop))


class ResidualBlock(nn.Module):
    """ReLU, three taps, ReLU, one tap, added to its input ``[B, C, F]``; zero outside ``mask`` ``[B, 1, F]``."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.wide = nn.Conv1d(channels, channels, 3, padding=1)
        self.narrow = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = F.relu(self.wide(F.relu(x))) * mask
        out: Tensor = (x + self.narrow(hidden)) * mask
        return out


class Standardise(nn.Module):
    """Latents ``[B, *grid, D]`` brought to mean 0 and variance 1 in each dimension, by statistics of past steps.

    Before a decoder has learned to read its codes, the commitment loss is the encoder's only teacher, and Adam follows
    it at full speed: the latents shrink faster than a codebook follows, and nearly all of them end in one code. Here
    the scale is out of the encoder's hands. Unlike batch normalisation, nothing of the batch enters its own latents
    (but in the very first step, which sets the statistics), so clips do not mix, and a long file may be encoded in
    parts. The statistics are those of the joined batch of all ranks; evaluation changes none.
    """

    mean: Tensor
    variance: Tensor
    initialised: Tensor

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("variance", torch.ones(dim))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """z: ``[B, *grid, D]``, mask: bool ``[B, *grid]``. Returns float32 (float64 of such), zero outside the mask."""
        z = z.to(self.mean.dtype)
        if self.training and not self.initialised:
            self._follow(z, mask, 1.0)
        out = (z - self.mean) * (self.variance + SMALL).rsqrt() * mask[..., None]
        if self.training:
            self._follow(z, mask, STATISTICS_STEP)
        return out

    @torch.no_grad()
    def _follow(self, z: Tensor, mask: Tensor, weight: float) -> None:
        with torch.autocast(z.device.type, enabled=False):
            rows, axes = z * mask[..., None], tuple(range(mask.ndim))
            count, first = total(mask.sum()), total(rows.sum(axes))
            if not count or not first.isfinite().all():  # of the joined batch: every rank sees the same
                return
            mean = first / count
            variance = total((((z - mean) * mask[..., None]) ** 2).sum(axes)) / count
        # Not in place: this step's graph reads the old values.
        self.mean = self.mean.lerp(mean, weight)
        self.variance = self.variance.lerp(variance, weight)
        self.initialised.fill_(True)


class UnitVectors(nn.Module):
    """Latents ``[B, *grid, D]`` of which each vector by itself has mean 0 and variance 1: layer normalisation.

    As Standardise it takes the scale out of the encoder's hands, but the gradient knows of it: what is said once more
    and louder gains nothing, so that the dimensions do not all end up saying the same. groups: G codes a position,
    ``[B, *grid, G D]``, each a vector of its own.
    """

    def __init__(self, dim: int, groups: int = 1) -> None:
        super().__init__()
        self.dim, self.groups = dim, groups

    def forward(self, z: Tensor, mask: Tensor) -> Tensor:
        """z: ``[B, *grid, G D]``, mask: bool ``[B, *grid]``. Returns float32 (float64 of such), zero outside of it."""
        wide = z.to(torch.promote_types(z.dtype, torch.float32))
        vectors = F.layer_norm(wide.reshape(*z.shape[:-1], self.groups, self.dim), (self.dim,))
        return vectors.flatten(-2) * mask[..., None]


class StridedEncoder(nn.Module):
    """Strided convolutions, then residual blocks at latent rate, then a projection to D.

    Each strided convolution pads (window - stride) / 2 on both sides, so T / stride positions come out. ``scale``
    brings the input to about variance 1. norm: of the latents, Standardise by default.
    """

    def __init__(
        self,
        inputs: int,
        strides: Sequence[int],
        window: int,
        channels: int,
        residual_blocks: int,
        dim: int,
        scale: float = 1.0,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.scale = scale
        self.strides = tuple(strides)
        self.strided = nn.ModuleList(
            nn.Conv1d(inputs if i == 0 else channels, channels, window, stride, padding=(window - stride) // 2)
            for i, stride in enumerate(strides)
        )
        width = channels if strides else inputs
        self.widen = nn.Identity() if width == channels else nn.Conv1d(width, channels, 1)
        self.blocks = nn.ModuleList(ResidualBlock(channels) for _ in range(residual_blocks))
        self.project = nn.Conv1d(channels, dim, 1)
        self.standardise = norm or Standardise(dim)
        # Keep the signal's variance through the ReLUs: with PyTorch's defaults it fades until the biases are all
        # that is left, every frame looks the same, and the codebook begins collapsed.
        for layer in self.modules():
            if isinstance(layer, nn.Conv1d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                assert layer.bias is not None
                nn.init.zeros_(layer.bias)

    @property
    def hop(self) -> int:
        return math.prod(self.strides)

    @property
    def reach(self) -> tuple[int, int]:
        """Samples before and after its own hop that a latent sees."""
        before = after = 0
        # From the last layer back; they are registered in the order in which they are applied. Around a block there is
        # a way past it, which sees no more.
        for layer in reversed([one for one in self.modules() if isinstance(one, nn.Conv1d)]):
            assert not isinstance(layer.padding, str), "in numbers"
            (window,), (stride,), (padding,) = layer.kernel_size, layer.stride, layer.padding
            before, after = before * stride + padding, after * stride + window - stride - padding
        return before, after

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: ``[B, C, T]``, T a multiple of the hop; lengths: int64 ``[B]``. Returns z_e ``[B, F, D]``."""
        x = x * self.scale * valid(lengths, x.shape[-1])[:, None]
        for convolution, stride in zip(self.strided, self.strides, strict=True):
            lengths = frames_of(lengths, stride)
            x = convolution(x)
            x = F.relu(x) * valid(lengths, x.shape[-1])[:, None]
        mask = valid(lengths, x.shape[-1])[:, None]
        x = self.widen(x) * mask
        for block in self.blocks:
            x = block(x, mask)
        z: Tensor = self.standardise(self.project(F.relu(x)).transpose(1, 2), mask[:, 0])
        return z


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
        with torch.device("cpu"):  # torchaudio looks at their values, which a model of shapes alone has not
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

    @property
    def reach(self) -> tuple[int, int]:
        """Samples before and after its own hop that a latent sees."""
        around = self.frame_window - self.frame_hop
        before, after = (frames * self.frame_hop for frames in self.strided.reach)
        return before + around // 2, after + around - around // 2

    def features(self, x: Tensor) -> Tensor:
        """Log-mel or MFCC, float32 ``[B, bands, T / frame_hop]``, of ``[B, 1, T]``."""
        around = self.frame_window - self.frame_hop
        padded = F.pad(x[:, 0].float(), (around // 2, around - around // 2))
        spectrum = torch.stft(
            padded, self.frame_window, self.frame_hop, window=self.hann, center=False, return_complex=True
        )
        power = spectrum.abs().square().transpose(1, 2) @ self.filters
        # -60 dB under a full-scale sine's power stops the logarithm; 1/4 brings speech to about unit variance.
        floor = 1e-6 * (self.frame_window / 4) ** 2
        return (torch.log(power + floor) / 4 @ self.cosines).transpose(1, 2)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """x: ``[B, 1, T]``, T a multiple of the hop; lengths: int64 ``[B]``. Returns z_e ``[B, F, D]``."""
        x = x * valid(lengths, x.shape[-1])[:, None]
        with torch.autocast(x.device.type, enabled=False):
            features = self.features(x)
        z: Tensor = self.strided(features, frames_of(lengths, self.frame_hop))
        return z
