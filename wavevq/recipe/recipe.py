"""The whole of a recipe, and what its sections ask of each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from wavevq.errors import WavevqError
from wavevq.recipe.data import Data, OfSpeech, Pictures, Shapes, Speech
from wavevq.recipe.model import FrameEncoder, ImageEncoder, Model
from wavevq.recipe.section import Number, Section
from wavevq.recipe.training import Evaluation, Prior, Schedule, Train


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
        """Samples a code; of images, the pixels of its side; of video, the frames: one."""
        return self.model.encoder.hop

    @property
    def grid(self) -> tuple[int, ...]:
        """Of an example's codes: of an image h, w and G, of video t before them. Raises WavevqError for speech."""
        match self.data, self.model.encoder:
            case Pictures(), ImageEncoder() as encoder:
                frames = []
            case Shapes(frames=t), FrameEncoder() as encoder:
                frames = [t]
            case _:
                said = f"data.kind {self.data.kind!r}: is of {self.data.signal}"
                raise WavevqError(f"{said}; what is asked for needs images or video")
        side = self.data.size // encoder.side
        return *frames, side, side, encoder.groups

    @property
    def speech(self) -> OfSpeech:
        """The corpus. Raises WavevqError where it is none of speech."""
        if isinstance(self.data, Speech):
            return self.data
        raise WavevqError(f"data.kind {self.data.kind!r}: is of {self.data.signal}; what is asked for needs speech")

    @model_validator(mode="after")
    def _images_are_taken_whole(self) -> Recipe:
        """So a recipe of images says no crop: it is their height, and of a prior that of their codes. Of video, T."""
        match self.data, self.model.encoder:
            case Pictures(size=size), ImageEncoder(side=side):
                whole, items = size, "images"
            case Shapes(size=size, frames=whole), FrameEncoder(side=side):
                items = "clips of video"
            case _:
                return self
        mistakes = [
            f"{name}.crop {plan.crop}: {items} are taken whole; leave it out"
            for name, plan, crop in (("train", self.train, whole), ("prior", self.prior, whole // self.hop))
            if plan is not None and "crop" in plan.model_fields_set and plan.crop != crop
        ]
        if size % side or size < 2 * side:
            mistakes.append(f"data.size {size} must be twice the hop, {side}, or another multiple of it")
        if isinstance(self.data, Shapes) and self.evaluation.given >= whole:
            mistakes.append(f"evaluation.given {self.evaluation.given}: must leave some of data.frames, {whole}")
        if mistakes:
            raise ValueError("; ".join(mistakes))
        prior = self.prior and self.prior.model_copy(update={"crop": whole // self.hop})
        return self.model_copy(update={"train": self.train.model_copy(update={"crop": whole}), "prior": prior})

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        mistakes = [cut_frame(self.train.crop, self.hop)]
        if self.data.signal != self.model.encoder.signal:
            mistakes.append(
                f"model.encoder: kind {self.model.encoder.kind!r} reads {self.model.encoder.signal}, "
                f"and data of kind {self.data.kind!r} are {self.data.signal}"
            )
        if self.prior is not None and self.model.bottleneck.codes is None:
            mistakes.append(f"prior: a bottleneck of kind {self.model.bottleneck.kind!r} has no codes to learn")
        if self.prior is not None and self.prior.network.signal != self.data.signal:
            fitting = {"speech": "wavenet or transformer", "images": "pixelcnn", "video": "video"}[self.data.signal]
            mistakes.append(
                f"prior.network: kind {self.prior.network.kind!r} is for {self.prior.network.signal}; "
                f"for {self.data.signal} must be {fitting}"
            )
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
