"""Moving shapes: clips that are made when they are asked for, of a shape that goes where it is told.

They stand in for the paper's DeepMind Lab (Van den Oord et al. 2017, section 4.4). A clip's colour and where its shape
begins are drawn by the seed and the clip's number, and so is the action of every frame: it turns the shape to one side,
or lets it go on as before. At a wall it turns back. So the frames before do not tell those after them, but with the
actions they do, to the pixel.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.contracts import Batch
from wavevq.data.batches import Whole, Windows, in_order
from wavevq.data.codes import CodeCrops, Codes
from wavevq.data.corpora import Split
from wavevq.noise import SHAPES, derived, uniform
from wavevq.pixels import Pixels, to_signal

FORMAT = 1  # raise it whenever a clip of the same number becomes another one
KINDS = ("cross", "disc", "square", "triangle")
ACTIONS = ("on", "left", "right", "up", "down")  # in the order of their numbers
TOWARDS = np.array([[0, 0], [0, -1], [0, 1], [-1, 0], [1, 0]])  # rows and columns, of each action
GOES_ON = 0.7  # chance of "on"; the others are equally likely
INKS = np.array([[230, 60, 60], [60, 200, 80], [80, 120, 250]], np.uint8)
GROUND = np.array([16, 16, 24], np.uint8)
FIRST = 4  # draws before those of the actions


@dataclass(frozen=True, eq=False)
class Film:
    """frames: uint8 ``[T, H, W, 3]``. actions: int64 ``[T]``, of each the one that led to it; the first is "on"."""

    frames: Pixels
    actions: NDArray[np.int64]


@dataclass(frozen=True)
class Clip:
    """number: among all clips of the corpus, that of its random numbers. label: the shape."""

    name: str
    label: str
    number: int


@dataclass(frozen=True)
class Shapes:
    """size: H and W. frames: T. clips: to train on; held_out: to validate on, and as many again to test. seed: of all.

    A clip's label is the place of its shape's name among ``labels``. folder: only its name means anything.
    """

    items: ClassVar = "clips"
    whose: ClassVar = "shape"
    ends: ClassVar = False

    size: int
    frames: int
    clips: int
    held_out: int
    seed: int

    @property
    def folder(self) -> Path:
        return Path(f"shapes-{FORMAT}-{self.size}-{self.frames}-{self.clips}-{self.held_out}-{self.seed}")

    @property
    def labels(self) -> tuple[str, ...]:
        return KINDS

    @property
    def about(self) -> Mapping[str, str]:
        return {}

    def split(self, name: Split) -> Sequence[Clip]:
        return self._splits.get(name, [])

    @cached_property
    def _splits(self) -> dict[Split, list[Clip]]:
        splits: dict[Split, list[Clip]] = {}
        number = 0
        sizes: tuple[tuple[Split, int], ...] = ("train", self.clips), ("val", self.held_out), ("test", self.held_out)
        for name, count in sizes:
            numbers = range(number, number := number + count)
            splits[name] = [Clip(f"{one:06d}", KINDS[one % len(KINDS)], one) for one in numbers]
        return splits

    def film(self, clip: Clip, actions: NDArray[np.int64] | None = None) -> Film:
        """The clip itself, or what it would be under other actions ``[T]``."""
        draws = uniform(derived(self.seed, SHAPES), [clip.number], FIRST + self.frames)[0].numpy()
        actions = acted(draws[FIRST:]) if actions is None else actions
        radius = self.size * 5 // 32
        where = path(draws[:3], actions, radius, self.size)
        shape = drawn(clip.label, where, radius, self.size)
        return Film(np.where(shape[..., None], INKS[int(draws[3] * len(INKS))], GROUND), actions)

    def crops(self, crop: int, batch: int, seed: int) -> FilmCrops:
        """Training batches; crop: T."""
        return FilmCrops(self, crop, batch, seed)

    def code_crops(self, codes: Codes, crop: int, batch: int, hop: int, seed: int) -> CodeCrops:
        """Training batches of the codes of whole clips; crop: T."""
        return CodeCrops(codes, crop, batch, crop, seed, unit="clips")

    def whole(self, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Whole:
        """As ``in_order``."""
        return in_order(self, split, batch, hop, limit)

    def examples(self, split: Split, places: Sequence[int], hop: int = 1) -> Batch:
        """Clips by their places in a split; x float32 ``[B, 3, T, size, size]``, cond int64 ``[B, T]``: the actions."""
        clips = self.split(split)
        return self.batch([clips[i] for i in places], places)

    def batch(self, clips: Sequence[Clip], index: Sequence[int]) -> Batch:
        films = [self.film(one) for one in clips]
        return Batch(
            x=to_signal(np.stack([one.frames for one in films])),
            label=torch.tensor([KINDS.index(one.label) for one in clips]),
            lengths=torch.full((len(clips),), self.frames),
            index=torch.tensor(index),
            cond=torch.from_numpy(np.stack([one.actions for one in films])),
        )

    def given(self, split: Split) -> Sequence[NDArray[np.int64]]:
        """The actions of every clip of a split."""
        seed = derived(self.seed, SHAPES)
        return [acted(uniform(seed, [one.number], self.frames, FIRST)[0].numpy()) for one in self.split(split)]

    def describe(self) -> str:
        counts = ", ".join(f"{len(self.split(name))} {name}" for name in self._splits)
        return f"corpus: {counts} clips, {self.frames} frames of {self.size} x {self.size} pixels, {len(KINDS)} shapes"


class FilmCrops(Windows):
    """Training clips: every epoch takes each once, in an order of its own."""

    def __init__(self, shapes: Shapes, crop: int, batch: int, seed: int) -> None:
        assert crop == shapes.frames, "the recipe's grammar sees to it"
        self.shapes, self.clips = shapes, shapes.split("train")
        names = [one.name for one in self.clips]
        super().__init__(names, [crop] * len(names), crop, batch, crop, seed, unit="clips")

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of ``step`` that ``rank`` takes, as ``Shapes.examples``."""
        places = self.places(step, rank, world)
        return self.shapes.batch([self.clips[one.clip] for one in places], [one.number for one in places])


def acted(draws: NDArray[np.float64]) -> NDArray[np.int64]:
    """Actions int64 ``[T]`` of uniform numbers; nothing leads to the first frame."""
    turns = 1 + (draws - GOES_ON) / (1 - GOES_ON) * (len(ACTIONS) - 1)
    actions: NDArray[np.int64] = np.where(draws < GOES_ON, 0, turns).astype(np.int64)
    actions[0] = 0
    return actions


def path(begin: NDArray[np.float64], actions: NDArray[np.int64], radius: int, size: int) -> NDArray[np.int64]:
    """Where the middle of a shape is, row and column ``[T, 2]``, whose edge never leaves the picture.

    begin: three uniform numbers, of the row, the column and the direction before the first action.
    """

    def steps() -> Iterator[NDArray[np.int64]]:
        stride = size // 16
        last = (size - 1 - 2 * radius) // stride
        at = (begin[:2] * (last + 1)).astype(np.int64)
        towards = TOWARDS[1 + int(begin[2] * (len(TOWARDS) - 1))]
        yield radius + stride * at
        for action in actions[1:]:
            towards = TOWARDS[action] if action else towards
            towards = np.where((at + towards < 0) | (at + towards > last), -towards, towards)
            at = at + towards
            yield radius + stride * at

    return np.stack([*steps()])


def drawn(kind: str, where: NDArray[np.int64], radius: int, size: int) -> NDArray[np.bool_]:
    """Bool ``[T, H, W]``: the pixels of a shape whose middle is at ``where``, ``[T, 2]``."""
    down = np.arange(size)[None, :, None] - where[:, :1, None]
    across = np.arange(size)[None, None, :] - where[:, 1:, None]
    far = np.maximum(abs(down), abs(across))
    shape: NDArray[np.bool_]
    match kind:
        case "cross":
            shape = (far <= radius) & (np.minimum(abs(down), abs(across)) <= radius // 3)
        case "disc":
            shape = down**2 + across**2 <= radius**2
        case "square":
            shape = far < radius
        case _:
            shape = (abs(down) <= radius) & (2 * abs(across) <= down + radius)
    return shape
