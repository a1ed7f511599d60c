"""How a VQ-VAE and its prior are trained and measured."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from wavevq.recipe.model import PixelCnn, PixelCnnLayers, refuse_far
from wavevq.recipe.section import Count, Layers, NonNegative, Number, Positive, Section, Share, Signal, Whole


class Schedule(Section):
    """What every training has."""

    steps: Count
    batch: Count = 8  # examples of one step over all ranks together
    crop: Count  # positions of an example
    learning_rate: Positive = 4e-4
    warmup: Whole = 200  # steps of linear rise
    cooldown: Annotated[float, Number, Field(ge=0, le=1)] = 0.5  # last share of the steps: the rate falls to zero
    clip: Positive = 1.0  # largest norm of the gradient
    average: Share = 0.999  # decay of the averaged weights
    log_every: Count = 50
    validate_every: Count = 1000
    save_every: Count = 1000
    keep: Count = 2  # newest checkpoints kept


class Train(Schedule):
    """Of the VQ-VAE; precision and determinism are those of the whole run."""

    crop: Count = 8192  # samples
    precision: Literal["32-true", "bf16-mixed"] = "32-true"
    deterministic: bool = False  # bit-identical on CUDA too, at some speed
    optimizer: Literal["adam", "muon"] = "adam"  # muon: of the encoder's matrices; Adam of everything else
    start: str | None = None  # a run whose weights it begins with, of the same encoder, decoder, codebook and speakers


class WaveNetPrior(Section):
    """The WaveNet of the decoder over codes: the fast sampler serves it."""

    signals: ClassVar[tuple[Signal, ...]] = ("speech",)
    kind: Literal["wavenet"]
    layers: Layers = 20
    cycle: Annotated[int, Number, Field(gt=0, le=20)] = 5
    kernel: Annotated[int, Number, Field(ge=2, le=8)] = 2
    residual: Count = 128
    gate: Count = 128
    skip: Count = 128
    head: Count = 256

    @model_validator(mode="after")
    def _sees_no_farther_than_it_may(self) -> Self:
        refuse_far(self.layers, self.cycle, self.kernel)
        return self


class TransformerPrior(Section):
    """A causal transformer with rotary positions."""

    signals: ClassVar[tuple[Signal, ...]] = ("speech",)
    kind: Literal["transformer"]
    layers: Layers = 6
    width: Count = 256
    heads: Count = 4

    @model_validator(mode="after")
    def _heads_are_even(self) -> TransformerPrior:
        if self.width % (2 * self.heads):
            raise ValueError(f"width {self.width} must be a multiple of twice the heads, {2 * self.heads}")
        return self


class PixelCnnPrior(PixelCnn):
    """A gated PixelCNN over the grid of an image's codes (Van den Oord et al. 2016)."""


class VideoPrior(PixelCnnLayers):
    """A PixelCNN over the grid of each frame's codes, told of earlier frames and of actions (wavevq/nn/video.py)."""

    signals: ClassVar[tuple[Signal, ...]] = ("video",)
    kind: Literal["video"]
    past: Count = 64  # width of the network over earlier frames
    past_layers: Annotated[int, Number, Field(ge=1, le=8)] = 4  # of n, 2^n earlier frames are seen


class Joint(Section):
    """The prior's likelihood of the current codes as a part of the VQ-VAE's loss (wavevq/joint.py)."""

    weight: NonNegative = 1.0  # of the rate against the distortion
    tau: Positive = 1.0  # of the softmax(-d^2 / tau) that its gradient takes; latents have variance 1


def _shorthand(value: Any) -> Any:
    return ({} if value else None) if isinstance(value, bool) else value


class Prior(Schedule):
    """p(codes | speaker), trained on the codes of the finished VQ-VAE, an end class after each clip.

    Of images p(codes | class) over their whole grid, of video p(codes | class, actions) over that of all frames.
    Or together with it (``joint``, true for its defaults): the schedule is then that of ``train``, and none is given
    here.
    """

    steps: Count = 0  # required, but in joint training
    joint: Annotated[Joint | None, BeforeValidator(_shorthand)] = None
    network: Annotated[WaveNetPrior | TransformerPrior | PixelCnnPrior | VideoPrior, Field(discriminator="kind")]
    crop: Count = 512  # codes, of speech two or more: the first of a crop within its clip is only read
    speaker_dim: Whole = 64  # width of the embedding of the speaker, or class of images; 0: unconditional
    drop_speaker: Share = 0.1  # chance that an example is shown without it, for sampling without one

    @model_validator(mode="after")
    def _has_steps(self) -> Prior:
        if not self.steps and not self.joint:
            raise ValueError("steps is missing; only joint training goes by those of train")
        return self


class Evaluation(Section):
    clips: Count | None = None  # validation clips in the passes during training; the last pass takes all
    speakers: Count | None = None  # other speakers tried a clip for the wrong-speaker gap; null: all
    batch: Count = 8
    sampled: Whole = 2  # clips sampled to listen to at each validation; 0: none
    sampled_seconds: Positive = 2.0  # of each
    given: Count = 6  # frames of a clip of video that the others are predicted from
    # Of wavevq evaluate:
    split: Literal["val", "train", "test"] = "val"  # whose clips are measured; test: of images alone
    judged: Count = 120  # clips that are sampled anew for the metrics that listen
    judged_seconds: Positive = 3.0  # of each
    temperature: Positive = 1.0  # that a run draws at where nobody says another; below 1 is less random
    # Of torchaudio, that listens where the vocabulary is open; its weights are fetched once
    recogniser: Literal["WAV2VEC2_ASR_BASE_960H", "WAV2VEC2_ASR_LARGE_960H", "HUBERT_ASR_LARGE"] | None = None
    enumerated: Count = 20_000  # sequences of codes at most that p(x) of a short signal is summed over
    enumerated_clips: Count = 1  # such signals of each speaker
