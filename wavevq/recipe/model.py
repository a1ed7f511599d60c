"""The parts of a VQ-VAE: encoder, bottleneck, decoder."""

from __future__ import annotations

import math
from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from wavevq.recipe.section import (
    BelowFullScale,
    Blocks,
    Count,
    Decibels,
    Layers,
    NonNegative,
    Number,
    Section,
    Share,
    Signal,
    Whole,
)

Strides = Annotated[tuple[Annotated[int, Number, Field(ge=1, le=16)], ...], Field(min_length=1, max_length=16)]
FARTHEST = 2**20  # positions that a WaveNet sees, a minute at 16 kHz: sampling keeps them, of every channel
# Each dimension to mean 0 and variance 1 by statistics of past steps, or each vector by its own.
Norm = Literal["running", "layer"]


class Strided(Section):
    """What the encoders have that begin with strided convolutions."""

    strides: Strides
    window: Count = 4  # taps of each strided convolution, at least its stride
    norm: Norm = "running"  # of the latents

    @property
    def hop(self) -> int:
        return math.prod(self.strides)

    @model_validator(mode="after")
    def _window_covers_stride(self) -> Self:
        refuse_narrow(self.window, self.strides)
        return self


class WaveformEncoder(Strided):
    """Strided 1-D convolutions on the raw waveform (Van den Oord et al. 2017, section 4.3)."""

    signal: ClassVar[Signal] = "speech"
    kind: Literal["waveform"]
    strides: Strides = (2, 2, 2, 2, 2, 2)
    channels: Count = 128
    residual_blocks: Blocks = 0  # after the last stride


class SpectralEncoder(Section):
    """Log-mel or MFCC frames instead of the waveform (Chorowski et al. 2019, section III)."""

    signal: ClassVar[Signal] = "speech"
    kind: Literal["logmel", "mfcc"]
    frame_hop: Annotated[int, Number, Field(gt=0, le=2**15)] = 128  # samples between frames
    frame_window: Annotated[int, Number, Field(gt=0, le=2**15)] = 512  # samples of a frame's window
    bands: Annotated[int, Number, Field(gt=0, le=512)] = 80  # mel bands, or for mfcc the number of coefficients kept
    # Of the convolutions after the frames.
    strides: Annotated[tuple[Annotated[int, Number, Field(ge=1, le=16)], ...], Field(max_length=16)] = ()
    window: Count = 4
    channels: Count = 128
    residual_blocks: Blocks = 2
    norm: Norm = "running"  # of the latents

    @property
    def hop(self) -> int:
        return self.frame_hop * math.prod(self.strides)

    @model_validator(mode="after")
    def _windows_cover_strides(self) -> SpectralEncoder:
        if self.frame_window < self.frame_hop:
            raise ValueError(f"frame_window {self.frame_window} must be at least frame_hop {self.frame_hop}")
        refuse_narrow(self.window, self.strides)
        return self


class GridEncoder(Strided):
    """Strided 2-D convolutions, then residual blocks (Van den Oord et al. 2017, section 4.1).

    A code stands for product(strides)^2 positions, or each of ``groups`` for a share of them.
    """

    strides: Strides = (2, 2)
    channels: Count = 256
    residual_blocks: Blocks = 2
    residual: Count = 256  # width inside a residual block
    groups: Count = 1  # codes a position (G), of one codebook

    @property
    def side(self) -> int:
        """Of the square that a code stands for, pixels."""
        return math.prod(self.strides)


class FrameEncoder(GridEncoder):
    """The image encoder, of every frame of a clip by itself (Van den Oord et al. 2017, section 4.4)."""

    signal: ClassVar[Signal] = "video"
    kind: Literal["frames"]

    @property
    def hop(self) -> int:
        """In time: each frame has its codes."""
        return 1


class ImageEncoder(GridEncoder):
    """Of pixels."""

    signal: ClassVar[Signal] = "images"
    kind: Literal["image"]


class CodesEncoder(GridEncoder):
    """Of the codes of another run, each embedded, those of a position added up."""

    signal: ClassVar[Signal] = "codes"
    kind: Literal["codes"]
    embedding: Count = 64  # width


def refuse_narrow(window: int, strides: tuple[int, ...]) -> None:
    if any(window < stride or (window - stride) % 2 for stride in strides):
        raise ValueError(f"window {window} must exceed every stride in {list(strides)} by an even number or 0")


def refuse_far(layers: int, cycle: int, kernel: int) -> None:
    seen = 1 + (kernel - 1) * sum(2 ** (layer % cycle) for layer in range(layers))
    if seen > FARTHEST:
        raise ValueError(
            f"layers {layers}, cycle {cycle} and kernel {kernel} see {seen:,} positions; "
            f"at most {FARTHEST:,} are allowed"
        )


Encoder = Annotated[
    WaveformEncoder | SpectralEncoder | ImageEncoder | CodesEncoder | FrameEncoder, Field(discriminator="kind")
]


class Codebook(Section):
    """What both quantizers have."""

    codes: Annotated[int, Number, Field(ge=2, le=2**20)] = 512  # K
    dim: Count = 64  # D
    beta: NonNegative = 0.25  # weight of commitment (equation 3)
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
    weight: NonNegative = 1.0  # of the divergence; 1: evidence bound
    anneal: Whole = 0  # steps over which the weight rises linearly from 0
    free_bits: NonNegative = 0.0  # a dimension and code position


class NoBottleneck(Continuous):
    """A plain autoencoder."""

    kind: Literal["none"]


class Vimco(Section):
    """Codes drawn from a softmax a position and trained by sampling (Mnih and Rezende 2016); there to compare with."""

    kind: Literal["vimco"]
    codes: Annotated[int, Number, Field(ge=2, le=2**20)] = 512  # K; 2 are Bernoulli latents
    dim: Count = 64  # D, of the encoder's output and of a code's vector
    samples: Annotated[int, Number, Field(ge=2, le=10_000)] = 50  # of the bound


Bottleneck = Annotated[GradientVq | EmaVq | Vae | NoBottleneck | Vimco, Field(discriminator="kind")]


class WaveNetDecoder(Section):
    """WaveNet over mu-law classes, conditioned on codes and speaker."""

    signals: ClassVar[tuple[Signal, ...]] = ("speech",)
    kind: Literal["wavenet"]
    layers: Layers = 30
    cycle: Annotated[int, Number, Field(gt=0, le=20)] = 10  # dilations 1, 2, ... 2^(cycle-1), over again
    kernel: Annotated[int, Number, Field(ge=2, le=8)] = 2
    residual: Count = 64
    gate: Count = 64  # width after the gate; filter and gate together are twice as wide
    skip: Count = 64
    head: Count = 256  # hidden width between skip sum and classes
    classes: Annotated[int, Number, Field(ge=2, le=65_536)] = 256
    context: Count = 128  # width of the conditioning network at latent rate
    context_layers: Blocks = 2
    speaker_dim: Count = 64

    @model_validator(mode="after")
    def _sees_no_farther_than_it_may(self) -> Self:
        refuse_far(self.layers, self.cycle, self.kernel)
        return self

    @property
    def size(self) -> str:
        """For ``wavevq info``."""
        return f"{self.layers} layers, {self.residual} channels"


class Logistics(Section):
    """A mixture of discretised logistics for each colour (Salimans et al. 2017)."""

    kind: Literal["logistic"]
    mixtures: Count = 1
    coupled: bool = False  # one mixture for all colours of a pixel, each seeing those before it


class Categorical(Section):
    """A softmax over the 256 values of each colour."""

    kind: Literal["categorical"]


class Gaussian(Section):
    """A normal density for each colour, dequantised uniformly: its bits are a bound."""

    kind: Literal["gaussian"]


Pixels = Annotated[Logistics | Categorical | Gaussian, Field(discriminator="kind")]


class ImageDecoderLayers(Section):
    """The image encoder's mirror image, with its strides and window; pixels independent given the codes."""

    channels: Count = 256
    residual_blocks: Blocks = 2
    residual: Count = 256  # width inside a residual block
    distribution: Pixels = Logistics(kind="logistic")

    @property
    def size(self) -> str:
        """For ``wavevq info``."""
        return f"{self.residual_blocks} residual blocks, {self.channels} channels, {self.distribution.kind}"


class ImageDecoder(ImageDecoderLayers):
    signals: ClassVar[tuple[Signal, ...]] = ("images",)
    kind: Literal["image"]


class FrameDecoder(ImageDecoderLayers):
    """The image decoder, of every frame of a clip by itself."""

    signals: ClassVar[tuple[Signal, ...]] = ("video",)
    kind: Literal["frames"]


class PixelCnnLayers(Section):
    """What all networks over grids have."""

    layers: Layers = 12
    kernel: Literal[1, 3, 5, 7] = 3  # columns that a layer reads above a position
    residual: Count = 64
    gate: Count = 64  # width after the gate; filter and gate together are twice as wide
    head: Count = 128  # hidden width between the last layer and the classes


class PixelCnn(PixelCnnLayers):
    """What both networks over the grid of an image have."""

    signals: ClassVar[tuple[Signal, ...]] = ("images", "codes")
    kind: Literal["pixelcnn"]


class PixelCnnDecoder(PixelCnn):
    """A PixelCNN over the 8-bit values of pixels, or another run's codes, conditioned on the codes.

    Van den Oord et al. 2017, section 4.2.
    """

    kernel: Literal[1, 3, 5, 7] = 5
    context: Count = 128  # width of the network, the image encoder's mirror image, that brings codes to pixels
    context_layers: Blocks = 2
    label_dim: Whole = 0  # width of the class's embedding; 0: the codes alone

    @property
    def size(self) -> str:
        """For ``wavevq info``."""
        return f"{self.layers} layers, {self.residual} channels"


Decoder = Annotated[WaveNetDecoder | ImageDecoder | PixelCnnDecoder | FrameDecoder, Field(discriminator="kind")]


class Augmentation(Section):
    """The encoder hears training clips by other microphones, before other backgrounds (wavevq/nn/augmentation.py)."""

    # RMS of what is added, dB, drawn from here to there: a clip has -22, and the quietest pauses of corpora some -60
    noise: tuple[BelowFullScale, BelowFullScale] = (-62.0, -30.0)
    tilt: Share = 0.7  # of a filter x[t] + a x[t - 1], a drawn from -tilt to tilt: up to 15 dB between bass and treble

    @model_validator(mode="after")
    def _rises(self) -> Self:
        if self.noise[0] > self.noise[1]:
            raise ValueError(f"noise {list(self.noise)}: must go from the softer to the louder")
        return self


class Model(Section):
    encoder: Encoder
    bottleneck: Bottleneck
    decoder: Decoder
    jitter: Share = 0.0  # chance that a latent is replaced by a neighbour's (Chorowski et al. 2019, section III-C)
    past_gain: Decibels = 0.0  # at most so much louder or quieter does the decoder hear its past in training
    # Of the reversed gradient, of nats a latent, that unteaches the encoder who speaks; 0: none (nn/adversary.py)
    adversary: NonNegative = 0.0
    augmentation: Augmentation | None = None  # of what the encoder hears in training

    @model_validator(mode="after")
    def _parts_fit(self) -> Model:
        if self.encoder.signal not in self.decoder.signals:
            raise ValueError(
                f"an encoder of kind {self.encoder.kind!r} reads {self.encoder.signal}, "
                f"a decoder of kind {self.decoder.kind!r} makes {' or '.join(self.decoder.signals)}"
            )
        for key, value, why in (
            ("jitter", self.jitter, "codes of an image have four neighbours"),
            ("past_gain", self.past_gain, "only a waveform has a level"),
            ("adversary", self.adversary, "it hears sequences of codes"),
            ("augmentation", self.augmentation, "only a recording has a microphone and a background"),
        ):
            said = f"{key} {value:g}" if isinstance(value, float) else key
            if value and self.encoder.signal != "speech":
                raise ValueError(f"{said} is for speech: {why}")
            if value and self.bottleneck.kind == "vimco":
                raise ValueError(f"{said}: not with a bottleneck of kind 'vimco', whose loss is its own; leave it out")
        return self
