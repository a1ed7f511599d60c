"""A corpus of images decoded once, in one memory-mapped file of 8-bit values, and the batches drawn from it.

A store is a folder of the cache with two files: ``images.u8``, the images ``[N, side, side, 3]``, and ``index.json``,
which says what they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.contracts import Batch
from wavevq.data.batches import Whole, Windows, in_order
from wavevq.data.cache import Broken, left_out, outcomes, prepared, read_index, stamp, to_disk, write_index
from wavevq.data.codes import CodeCrops, Codes
from wavevq.data.corpora import Split, by_speaker
from wavevq.data.images import Images, Picture
from wavevq.errors import WavevqError
from wavevq.noise import uniform
from wavevq.pixels import Pixels, to_signal

FORMAT = 1  # raise it whenever a store made by older code must not be used again


@dataclass(frozen=True, eq=False)
class ImageStore:
    """labels: sorted classes of the training split; an image's label is its class's place among them.

    pixels: uint8 ``[N, side, side, 3]``. size: H and W of what models see, at most the side: the middle, in training a
    square anywhere. flip: whether training images are mirrored, left and right, by chance. about: nothing is told of a
    class but its name.
    """

    items: ClassVar = "images"
    whose: ClassVar = "class"
    ends: ClassVar = False

    folder: Path
    labels: tuple[str, ...]
    pictures: tuple[Picture, ...]
    missing: int
    broken: tuple[Broken, ...]
    pixels: Pixels
    size: int
    flip: bool = False

    @property
    def about(self) -> dict[str, str]:
        return {}

    def split(self, name: Split) -> list[Picture]:
        return self._splits.get(name, [])

    @cached_property
    def _splits(self) -> dict[Split, list[Picture]]:
        splits: dict[Split, list[Picture]] = {}
        for one in self.pictures:
            splits.setdefault(one.split, []).append(one)
        return splits

    def crops(self, crop: int, batch: int, seed: int) -> ImageCrops:
        """Training batches; crop: the size."""
        return ImageCrops(self, crop, batch, seed)

    def code_crops(self, codes: Codes, crop: int, batch: int, hop: int, seed: int) -> CodeCrops:
        """Training batches of whole grids of codes; crop: their height."""
        return CodeCrops(codes, crop, batch, crop, seed, unit="images")

    def whole(self, split: Split, batch: int, hop: int = 1, limit: int | None = None) -> Whole:
        """As ``in_order``."""
        return in_order(self, split, batch, hop, limit)

    def examples(self, split: Split, places: Sequence[int], hop: int = 1) -> Batch:
        """Images by their places in a split; x float32 ``[B, 3, size, size]``. label -1: a class not in training."""
        pictures = self.split(split)
        edge = (self.pixels.shape[1] - self.size) // 2
        return self.batch([pictures[i] for i in places], places, [(edge, edge, False)] * len(places))

    def batch(self, pictures: Sequence[Picture], index: Sequence[int], views: Sequence[tuple[int, int, bool]]) -> Batch:
        """Images with where their squares begin, down and across, and whether they are mirrored."""
        x = np.empty((len(pictures), self.size, self.size, 3), np.uint8)
        for row, one, (top, left, mirrored) in zip(x, pictures, views, strict=True):
            square = self.pixels[one.row, top : top + self.size, left : left + self.size]
            row[:] = square[:, ::-1] if mirrored else square
        labels = {name: label for label, name in enumerate(self.labels)}
        return Batch(
            x=to_signal(x),
            label=torch.tensor([labels.get(one.label, -1) for one in pictures]),
            lengths=torch.full((len(pictures),), self.size),
            index=torch.tensor(index),
        )

    def given(self, split: Split) -> None:
        """Nothing is."""

    def describe(self) -> str:
        """The corpus in one line, and one for each file that was left out, as far as NAMED."""
        counts = {name: len(self.split(name)) for name in ("train", "val", "test", "val_unseen")}
        splits = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        lacking = f"; {self.missing} files missing, {len(self.broken)} broken" if self.missing or self.broken else ""
        size = f"{self.size} x {self.size} pixels, {len(self.labels)} classes"
        return "\n".join([f"corpus: {splits} images, {size}{lacking}", *left_out(self.broken, self.folder)])


class ImageCrops(Windows):
    """Training images: every epoch takes each once, in an order of its own, from a place and a side of its own."""

    def __init__(self, store: ImageStore, crop: int, batch: int, seed: int) -> None:
        assert crop == store.size, "the recipe's grammar sees to it"
        self.store, self.pictures = store, store.split("train")
        names = [one.name for one in self.pictures]
        super().__init__(names, [crop] * len(names), crop, batch, crop, seed, unit="images")

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of ``step`` that ``rank`` takes. x float32 ``[B, 3, size, size]``."""
        places = self.places(step, rank, world)
        numbers = [one.number for one in places]
        draws = uniform(self._offset_seed, numbers, 3).numpy()  # a window's own place, by the first, is always 0
        room = self.store.pixels.shape[1] - self.store.size + 1
        views = [(int(down * room), int(across * room), self.store.flip and side < 0.5) for down, across, side in draws]
        return self.store.batch([self.pictures[one.clip] for one in places], numbers, views)


def prepare(images: Images, size: int, flip: bool = False) -> ImageStore:
    """The store of a corpus: opened if the cache holds it, else made, with a progress bar on stderr.

    Files that cannot be used are left out and told in ``broken``. Raises WavevqError if nothing is left to train on.
    """
    made = prepared(_key(images), open_store, lambda folder: _make(images, folder))
    return replace(made, size=size, flip=flip)


def open_store(folder: str | Path) -> ImageStore:
    """The store in ``folder``, its images whole. Raises WavevqError if it is none, or its files do not fit."""
    folder = Path(folder)
    try:
        index = read_index(folder, FORMAT)
        pictures = tuple(Picture(name, label, split, row) for row, (name, label, split) in enumerate(index["pictures"]))
        shape = (len(pictures), index["side"], index["side"], 3)
        pixels = np.memmap(folder / "images.u8", np.uint8, mode="r")
        return ImageStore(
            folder,
            tuple(sorted({one.label for one in pictures if one.split == "train"})),
            pictures,
            index["missing"],
            tuple(Broken(**one) for one in index["broken"]),
            pixels.reshape(shape),
            index["side"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise WavevqError(f"{folder}: not a store that can be used ({error})") from None


def _key(images: Images) -> str:
    """A name that changes with everything that the store is made from."""
    files = [[stamp(path), [[one.name, one.label, one.split] for one in held]] for path, held in images.files]
    made_from = ["images", FORMAT, images.side, str(images.root.resolve()), images.missing, files]
    return hashlib.sha256(json.dumps(made_from).encode()).hexdigest()[:32]


def _make(images: Images, folder: Path) -> None:
    entries: list[tuple[str, str, Split]] = []
    broken: list[dict[str, str]] = []
    held = dict(images.files)

    def decode(path: Path) -> NDArray[np.uint8]:
        found = images.read(path)
        if len(found) != len(held[path]):
            raise WavevqError(f"{path}: holds {len(found)} images, not {len(held[path])}")
        return found

    with (folder / "images.u8").open("wb") as file:
        for path, outcome in outcomes(decode, list(held)):
            if isinstance(outcome, WavevqError):
                broken.append({"name": path.relative_to(images.root).as_posix(), "reason": str(outcome)})
                continue
            file.write(outcome.tobytes())
            entries += [(one.name, one.label, one.split) for one in held[path]]
        to_disk(file)
    trained = {label for _, label, split in entries if split == "train"}
    if not trained:
        raise WavevqError(
            f"{images.root}: none of {len(held)} files of images can be trained on; "
            f"the first that is broken: {broken[0]['reason']}"
        )
    index: dict[str, Any] = {
        "format": FORMAT,
        "side": images.side,
        "root": str(images.root),
        "missing": images.missing,
        "broken": broken,
        # A class whose training images are all broken was not seen in training.
        "pictures": [(name, label, by_speaker(split, label, trained)) for name, label, split in entries],
    }
    write_index(folder, index)
