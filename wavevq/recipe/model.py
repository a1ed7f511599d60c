"""The parts of a VQ-VAE: encoder, bottleneck, decoder."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, model_validator

from wavevq.recipe.section import Count, Number, Section, Share, Whole


class WaveformEncoder(Section):
    """Strided 1-D convolutions on the raw waveform (Van den Oord et al. 2017, section 4.3)."""

    kind: Literal["waveform"]
    strides: Annotated[tuple[Annotated[int, Number, Field(ge=1, le=16)], ...], Field(min_length=1)] = (2, 2, 2, 2, 2, 2)
    window: Count = 4  # taps of each strided convolution, at least its stride
    channels: Count = 128
    residual_blocks: Whole = 0  # after the last stride

    @property
    def hop(self) -> int:
        return math.prod(self.strides)

    @model_validator(mode="after")
    def _window_covers_stride(self) -> WaveformEncoder:
        if any(self.window < stride or (self.window - stride) % 2 for stride in self.strides):
            raise ValueError(
                f"window {self.window} must exceed every stride in {list(self.strides)} by an even number or 0"
            )
        return self


class SpectralEncoder(Section):
    """Log-mel or MFCC frames instead of the waveform (Chorowski et al. 2019, section III)."""

    kind: Literal["logmel", "mfcc"]
    frame_hop: Count = 128  # samples between frames
    frame_window: Count = 512  # samples of a frame's window
    bands: Count = 80  # mel bands, or for mfcc the number of coefficients kept
    strides: tuple[Annotated[int, Number, Field(ge=1, le=16)], ...] = ()  # of the convolutions after the frames
    window: Count = 4
    channels: Count = 128
    residual_blocks: Whole = 2

    @property
    def hop(self) -> int:
        return self.frame_hop * math.prod(self.strides)

    @model_validator(mode="after")
    def _windows_cover_strides(self) -> SpectralEncoder:
        if self.frame_window < self.frame_hop:
            raise ValueError(f"frame_window {self.frame_window} must be at least frame_hop {self.frame_hop}")
        if any(self.window < stride or (self.window - stride) % 2 for stride in self.strides):
            raise ValueError(
                f"window {self.window} must exceed every stride in {list(self.strides)} by an even number or 0"
            )
        return self


Encoder = Annotated[WaveformEncoder | SpectralEncoder, Field(discriminator="kind")]


class Codebook(Section):
    """What both quantizers have."""

    codes: Annotated[int, Number, Field(ge=2, le=2**20)] = 512  # K
    dim: Count = 64  # D
    beta: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 0.25  # weight of commitment (equation 3)
    revive_after: Whole = 100  # training steps without use before a code is moved onto a live vector; 0: never


class GradientVq(Codebook):
    """The paper's quantizer: the codebook learns by its own loss (equation 3)."""

    kind: Literal["vq"]


class EmaVq(Codebook):
    """The codebook follows moving averages of the vectors assigned to it (appendix A.1)."""

    kind: Literal["ema"]
    decay: Annotated[float, Number, Field(ge=0, lt=1)] = 0.99


class Continuous(Section):
    """What the bottlenecks without a codebook have: there to be compared with."""

    dim: Count = 64  # D

    @property
    def codes(self) -> None:
        """There are none: no codes to write, no prior."""


class Vae(Continuous):
    """Gaussian latents, their KL divergence to N(0, 1) in the loss."""

    kind: Literal["vae"]
    weight: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 1.0  # of the divergence; 1: evidence bound
    anneal: Whole = 0  # steps over which the weight rises linearly from 0
    free_bits: Annotated[float, Number, Field(ge=0, allow_inf_nan=False)] = 0.0  # a dimension and code position


class NoBottleneck(Continuous):
    """A plain autoencoder."""

    kind: Literal["none"]


Bottleneck = Annotated[GradientVq | EmaVq | Vae | NoBottleneck, Field(discriminator="kind")]


class WaveNetDecoder(Section):
    """WaveNet over mu-law classes, conditioned on codes and speaker."""

    kind: Literal["wavenet"]
    layers: Count = 30
    cycle: Annotated[int, Number, Field(gt=0, le=20)] = 10  # dilations 1, 2, ... 2^(cycle-1), over again
    kernel: Annotated[int, Number, Field(ge=2, le=8)] = 2
    residual: Count = 64
    gate: Count = 64  # width after the gate; filter and gate together are twice as wide
    skip: Count = 64
    head: Count = 256  # hidden width between skip sum and classes
    classes: Annotated[int, Number, Field(ge=2, le=65_536)] = 256
    context: Count = 128  # width of the conditioning network at latent rate
    context_layers: Whole = 2
    speaker_dim: Count = 64


class Model(Section):
    encoder: Encoder
    bottleneck: Bottleneck
    decoder: WaveNetDecoder
    jitter: Share = 0.0  # chance that a latent is replaced by a neighbour's (Chorowski et al. 2019, section III-C)
