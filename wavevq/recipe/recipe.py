"""The whole of a recipe, and what its sections ask of each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from wavevq.errors import WavevqError
from wavevq.recipe.data import Coded, Data, OfSpeech, Shapes, Speech
from wavevq.recipe.model import GridEncoder, Model
from wavevq.recipe.section import Number, Section
from wavevq.recipe.training import Evaluation, Prior, Schedule, Train

LEAST_DIM = 3  # of normalised vectors that differ by more than a sign
LONGEST_HOP = 2**16  # what is encoded is padded to a multiple of it, however short it is


class Recipe(Section):
    """One experiment."""

    seed: Annotated[int, Number, Field(ge=0, lt=2**63)] = 0
    data: Data
    model: Model
    train: Train
    prior: Prior | None = None
    evaluation: Evaluation = Evaluation()

    @property
    def hop(self) -> int:
        """Samples a code; of images the pixels of its side, of another run's codes the positions; of video a frame."""
        return self.model.encoder.hop

    @property
    def size(self) -> int:
        """H and W of the images, through however many runs. Raises WavevqError where the corpus is of speech."""
        if isinstance(self.data, Speech):
            raise WavevqError(f"data.kind {self.data.kind!r}: is of {self.data.signal}; what is asked for needs images")
        return self.data.first.size if isinstance(self.data, Coded) else self.data.size

    @property
    def space(self) -> tuple[int, int]:
        """Of what the encoder reads of an image, pixels or another run's codes: H and W. Raises as ``size``."""
        if not isinstance(self.data, Coded):
            return self.size, self.size
        height, width = self.data.first.grid[-3:-1]
        return height, width

    @property
    def grid(self) -> tuple[int, ...]:
        """Of an example's codes: of an image h, w and G, of video t before them. Raises as ``size``."""
        height, width = self.space
        encoder = self.model.encoder
        assert isinstance(encoder, GridEncoder), "it fits the corpus"
        frames = [self.data.frames] if isinstance(self.data, Shapes) else []
        return *frames, height // encoder.side, width // encoder.side, encoder.groups

    @property
    def speech(self) -> OfSpeech:
        """The corpus. Raises WavevqError where it is none of speech."""
        if isinstance(self.data, Speech):
            return self.data
        raise WavevqError(f"data.kind {self.data.kind!r}: is of {self.data.signal}; what is asked for needs speech")

    @model_validator(mode="after")
    def _images_are_taken_whole(self) -> Recipe:
        """So a recipe of images, or of their codes, says no crop: it is their height, and that of a prior's codes.

        Of video it is the number of frames.
        """
        encoder = self.model.encoder
        if not isinstance(encoder, GridEncoder) or encoder.signal != self.data.signal or isinstance(self.data, Speech):
            return self
        height, width = self.space
        whole = self.data.frames if isinstance(self.data, Shapes) else height
        rows = whole // self.hop
        items = "clips of video" if self.data.signal == "video" else self.data.signal
        mistakes = [
            f"{name}.crop {plan.crop}: {items} are taken whole; leave it out"
            for name, plan, crop in (("train", self.train, whole), ("prior", self.prior, rows))
            if plan is not None and "crop" in plan.model_fields_set and plan.crop != crop
        ]
        if height % encoder.side or width % encoder.side:
            there = f"data.run's codes, {height} x {width}," if isinstance(self.data, Coded) else f"data.size {height}"
            mistakes.append(f"{there} must be a multiple of the hop, {encoder.side}")
        if isinstance(self.data, Shapes) and self.evaluation.given >= whole:
            mistakes.append(f"evaluation.given {self.evaluation.given}: must leave some of data.frames, {whole}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        prior = self.prior and self.prior.model_copy(update={"crop": rows})
        return self.model_copy(update={"train": self.train.model_copy(update={"crop": whole}), "prior": prior})

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        mistakes = [cut_frame(self.train.crop, self.hop)]
        if self.data.signal != self.model.encoder.signal:
            mistakes.append(
                f"model.encoder: kind {self.model.encoder.kind!r} reads {self.model.encoder.signal}, "
                f"and data of kind {self.data.kind!r} are {self.data.signal}"
            )
        if self.model.encoder.norm == "layer" and self.model.bottleneck.dim < LEAST_DIM:
            mistakes.append(
                f"model.bottleneck.dim {self.model.bottleneck.dim} must be at least {LEAST_DIM} with "
                "model.encoder.norm layer, which takes two dimensions from every vector"
            )
        if self.prior is not None and self.model.bottleneck.codes is None:
            mistakes.append(f"prior: a bottleneck of kind {self.model.bottleneck.kind!r} has no codes to learn")
        if self.prior is not None and self.data.signal not in self.prior.network.signals:
            fitting = {"speech": "wavenet or transformer", "video": "video"}.get(self.data.signal, "pixelcnn")
            mistakes.append(
                f"prior.network: kind {self.prior.network.kind!r} is for {' or '.join(self.prior.network.signals)}; "
                f"for {self.data.signal} must be {fitting}"
            )
        if self.hop > LONGEST_HOP:
            mistakes.append(f"model.encoder: a code stands for {self.hop} samples; at most {LONGEST_HOP} are allowed")
        if self.prior is not None and self.data.signal == "speech" and self.prior.crop < 2:
            mistakes.append(f"prior.crop {self.prior.crop} is not allowed: must be 2 or more codes of speech")
        if self.prior is not None and self.prior.joint is not None and self.data.signal != "speech":
            mistakes.append("prior.joint: is for speech; leave it out")
        if self.prior is not None and self.prior.joint is not None and self.model.bottleneck.kind == "vimco":
            mistakes.append("prior.joint: wants a bottleneck of kind vq or ema, not 'vimco'")
        if any(mistakes):
            raise ValueError("; ".join(filter(None, mistakes)))
        return self

    @model_validator(mode="after")
    def _joint_training_has_one_schedule(self) -> Recipe:
        if self.prior is None or self.prior.joint is None:
            return self
        schedule = {key: getattr(self.train, key) for key in Schedule.model_fields} | {
            "crop": self.train.crop // self.hop
        }
        if schedule["crop"] < 2:
            raise ValueError(f"train.crop {self.train.crop} is one code; joint training wants two or more")
        other = [
            key for key in schedule if key in self.prior.model_fields_set and getattr(self.prior, key) != schedule[key]
        ]
        if other:
            raise ValueError(
                f"prior.{', prior.'.join(other)}: joint training goes by train; the recipe must leave this out"
            )
        return self.model_copy(update={"prior": self.prior.model_copy(update=schedule)})


def cut_frame(crop: int, hop: int) -> str | None:
    return f"train.crop {crop} must be a multiple of the hop, {hop}" if crop % hop else None
