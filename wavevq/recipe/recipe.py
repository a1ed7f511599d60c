"""The whole of a recipe, and what its sections ask of each other."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from wavevq.recipe.data import Data
from wavevq.recipe.model import Model
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
        """Samples a code."""
        return self.model.encoder.hop

    @model_validator(mode="after")
    def _sections_fit(self) -> Recipe:
        mistakes = [cut_frame(self.train.crop, self.hop)]
        if self.prior is not None and self.model.bottleneck.codes is None:
            mistakes.append(f"prior: a bottleneck of kind {self.model.bottleneck.kind!r} has no codes to learn")
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
