"""What every section is, frozen and without unknown keys, and the kinds of number in it."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


def _no_truth(value: Any) -> Any:
    if isinstance(value, bool):  # a ValueError, for that is what pydantic collects
        raise ValueError(f"{str(value).lower()} is not allowed: must be a number")  # noqa: TRY004
    return value


Number = BeforeValidator(_no_truth)  # pydantic would take true for 1
Count = Annotated[int, Number, Field(gt=0)]
Whole = Annotated[int, Number, Field(ge=0)]
Layers = Annotated[int, Number, Field(gt=0, le=1000)]  # each is built, before it is known whether memory is there
Blocks = Annotated[int, Number, Field(ge=0, le=1000)]
Share = Annotated[float, Number, Field(ge=0, lt=1)]
Decibels = Annotated[float, Number, Field(ge=0, le=60)]
BelowFullScale = Annotated[float, Number, Field(ge=-120, le=0)]  # dB
NonNegative = Annotated[float, Number, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Number, Field(gt=0, allow_inf_nan=False)]


Signal = Literal["speech", "images", "codes", "video"]  # what a corpus holds, an encoder reads and a decoder makes


class Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")
