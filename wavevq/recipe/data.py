"""The corpora."""

from __future__ import annotations

import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field, ValidationInfo, model_validator

from wavevq.errors import WavevqError
from wavevq.recipe.section import Number, Positive, Section, Signal

if TYPE_CHECKING:
    from wavevq.recipe.recipe import Recipe


class Speech(Section):
    """What every speech corpus has. rate in Hz; trim_db in dB below the loudest frame, null keeps silence."""

    signal: ClassVar[Signal] = "speech"
    rate: Annotated[int, Number, Field(ge=1000, le=192_000)] = 16_000
    trim_db: Positive | None = None
    held_out: Annotated[float, Number, Field(gt=0, lt=1)] = 0.05  # share of utterances, where the corpus has no val.txt
    without: tuple[str, ...] = ()  # speakers kept out of training: their clips are val_unseen


class OnDisk(Speech):
    root: str = "data"  # the corpus, or a folder that holds it
    alignments: str | None = None  # a folder of TextGrid or CTM files with its phones; null: those beside the audio


# What may be another on another machine: keys of a recipe, N for the number of one of several that are joined.
PLACES = "data.root", "data.alignments", "data.of.N.root", "data.of.N.alignments"


def is_place(key: str) -> bool:
    """Whether a key of a recipe, ``data.of.0.root``, is one of PLACES."""
    return re.sub(r"\.[0-9]+\.", ".N.", key) in PLACES


class Vctk(OnDisk):
    kind: Literal["vctk"]
    microphone: Literal["mic1", "mic2"] = "mic1"


class LibriSpeech(OnDisk):
    kind: Literal["librispeech"]


class Folder(OnDisk):
    kind: Literal["folder"]


class Fsdd(OnDisk):
    kind: Literal["fsdd"]


class Synthetic(Speech):
    """Speech made by espeak-ng, with exact phoneme boundaries."""

    kind: Literal["synthetic"]
    voices: Annotated[int, Number, Field(ge=2, le=10)] = 6
    sentences: Annotated[int, Number, Field(ge=4, le=2000)] = 100  # a voice


Recorded = Vctk | LibriSpeech | Folder | Fsdd | Synthetic


class Joined(Speech):
    """Several corpora as one. What every speech corpus has is said here, once for all; each holds out its own share."""

    kind: Literal["joined"]
    root: str = "."  # the folder that the roots of the others are relative to
    of: tuple[Annotated[Recorded, Field(discriminator="kind")], ...]

    @model_validator(mode="after")
    def _what_all_have_is_said_once(self) -> Self:
        if len(self.of) < 2:
            raise ValueError(f"of: names {len(self.of)} corpora; must be two or more, or the one without kind joined")
        # None of the parts keeps speakers out by itself: ``without`` is of them all.
        shared = {key: getattr(self, key) for key in Speech.model_fields} | {"without": ()}
        for place, part in enumerate(self.of):
            for key in sorted(part.model_fields_set & shared.keys()):
                if (given := getattr(part, key)) != shared[key]:
                    raise ValueError(f"of.{place}.{key} {given}: leave it out; data.{key} is of all that are joined")
        return self.model_copy(update={"of": tuple(part.model_copy(update=shared) for part in self.of)})

    @property
    def named(self) -> dict[str, Recorded]:
        """The parts, each under its kind (where that comes again folder-2), their roots below this one's."""
        parts: dict[str, Recorded] = {}
        for part in self.of:
            again = sum(other.kind == part.kind for other in parts.values()) + 1
            place = {"root": str(Path(self.root) / part.root)} if isinstance(part, OnDisk) else {}
            parts[part.kind if again == 1 else f"{part.kind}-{again}"] = part.model_copy(update=place)
        return parts


class Pictures(Section):
    """What every corpus of images has."""

    signal: ClassVar[Signal] = "images"
    root: str = "data"  # the corpus, or a folder that holds it
    held_out: Annotated[float, Number, Field(gt=0, lt=1)] = 0.05  # share of the training images
    flip: bool = False  # training images are mirrored, left and right, by chance


class Cifar10(Pictures):
    """The official pickles, or strips of PNG with tables of labels. Validation is the end of the training images."""

    kind: Literal["cifar10"]
    size: ClassVar[int] = 32  # H and W of what the model sees, pixels


class Images(Pictures):
    """Any folder of images with one folder a class."""

    kind: Literal["images"]
    # The shorter side is brought to it, with the margin, and the middle square kept.
    size: Annotated[int, Number, Field(gt=0, le=1024)] = 128
    # Pixels more on every side, over which training images move.
    margin: Annotated[int, Number, Field(ge=0, le=1024)] = 0


class Shapes(Section):
    """Clips of a shape that moves as it is told, made when they are asked for (wavevq/data/shapes.py)."""

    signal: ClassVar[Signal] = "video"
    kind: Literal["shapes"]
    # Limits: a run folder from elsewhere says what is made, and no weight of its is of these sizes.
    size: Annotated[int, Number, Field(ge=16, le=256)] = 32  # H and W, pixels
    frames: Annotated[int, Number, Field(ge=2, le=256)] = 16  # T
    clips: Annotated[int, Number, Field(gt=0, le=100_000)] = 2000  # to train on
    held_out: Annotated[float, Number, Field(gt=0, lt=1)] = 0.1  # so many more to validate on, and again to test


class Coded(Section):
    """The codes that a trained run of images has for its corpus (Van den Oord et al. 2017, section 4.2).

    That run's own recipe says what they are, and is read with this one.
    """

    signal: ClassVar[Signal] = "codes"
    kind: Literal["codes"]
    run: str  # its folder, or its name under runs/
    root: str | None = None  # where that run's corpus lies; null: where its recipe says

    @cached_property
    def first(self) -> Recipe:
        """That run's recipe. Raises WavevqError where it cannot be read."""
        return self._read(())

    def _read(self, above: tuple[Path, ...]) -> Recipe:
        """above: the runs that are made of this one's codes, which it must not be one of."""
        from wavevq.recipe.trained import folder_named, read_recipe  # they know the whole grammar

        folder = folder_named(self.run)
        if folder.resolve() in above:
            raise WavevqError(f"{self.run}: is made of its own codes")
        return read_recipe(folder, self.root, (*above, folder.resolve()))

    @model_validator(mode="after")
    def _run_has_grids_of_codes(self, info: ValidationInfo) -> Self:
        try:
            first = self._read((info.context or {}).get("above", ()))
        except WavevqError as error:
            raise ValueError(f"run {'; '.join(error.args)}") from None
        if first.data.signal in ("speech", "video"):
            raise ValueError(
                f"run {self.run}: is of {first.data.signal}; must be of images, or of the codes of such a run"
            )
        if first.model.bottleneck.codes is None:
            raise ValueError(f"run {self.run}: its bottleneck is {first.model.bottleneck.kind!r} and has no codes")
        return self


OfSpeech = Recorded | Joined
OfImages = Cifar10 | Images
Data = Annotated[OfSpeech | OfImages | Coded | Shapes, Field(discriminator="kind")]
