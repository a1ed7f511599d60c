"""Which images a corpus holds, of which class they are, and which are for training.

Validation is a share of the training images; what a corpus sets apart itself is its split ``test``.
"""

from __future__ import annotations

import csv
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from wavevq.data import corpora
from wavevq.data.corpora import Split, existing, no_corpus
from wavevq.errors import WavevqError
from wavevq.pixels import SUFFIXES, Pixels, read

# In the order of their labels in the dataset's files, which is that of their names.
CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
CIFAR10_FOLDER = "cifar-10-batches-py"
SIDE = 32  # of an image of CIFAR-10, pixels
BATCHES: dict[str, Literal["train", "test"]] = {
    **{f"data_batch_{i}": "train" for i in range(1, 6)},
    "test_batch": "test",
}
STRIP = 1000  # images in a file, one below the other
LAYOUT = "<class>/*.png, .jpg or .webp"


@dataclass(frozen=True)
class Picture:
    """An image. name: unique in its corpus. label: its class. row: its place among those of its file, or its store."""

    name: str
    label: str
    split: Split
    row: int


File = tuple[Path, tuple[Picture, ...]]  # and what is in it


@dataclass(frozen=True)
class Images:
    """A corpus: its files in order, each with the pictures in it.

    side: H and W of every image. read: the images uint8 ``[n, side, side, 3]`` of a file. missing: files that it
    should hold and that are not there.
    """

    root: Path
    files: tuple[File, ...]
    side: int
    read: Callable[[Path], Pixels]
    missing: int = 0


# --- the kinds of corpora -----------------------------------------------------------------------------------


def cifar10(root: str | Path, held_out: float) -> Images:
    """CIFAR-10: the official pickles, or PNG files of 1,000 images one below the other beside train.csv and test.csv.

    Validation is the end of the training files. Raises WavevqError where neither is there, or they are damaged.
    """
    top = existing(root, "cifar10")
    if (top / "train.csv").is_file():
        tables = [top / f"{split}.csv" for split in ("train", "test")]
        files = [file for table in tables if table.is_file() for file in _strips(table)]
        return _held_out(top, files, _read_strip, held_out)
    for base in (top / CIFAR10_FOLDER, top):
        if (base / "data_batch_1").is_file():
            found = {base / name: split for name, split in BATCHES.items()}
            files = [(path, tuple(_pictures(path, split)) if path.is_file() else ()) for path, split in found.items()]
            return _held_out(top, files, lambda path: _batch(path)[0], held_out)
    raise no_corpus(root, f"{CIFAR10_FOLDER}/data_batch_1 or train.csv with train_00.png", "cifar10")


def folder(root: str | Path, side: int, held_out: float, seed: int) -> Images:
    """Any folder of images with one folder a class, however deep the files lie in it, resized to ``side``.

    Where there is a folder ``train`` in it, that holds them, and ``val`` and ``test`` beside it are the split test. But
    one of images alone, beside folders of other names, is a class.
    """
    top = existing(root)
    beside = {path.name for path in top.glob("[!.]*") if path.is_dir()}
    divided = beside <= {"train", "val", "test"} or any(path.is_dir() for path in top.glob("train/[!.]*"))
    trains = top / "train" if "train" in beside and divided else top
    listing = corpora.folder(trains, held_out, seed, SUFFIXES, LAYOUT)
    files: list[File] = [(clip.path, (Picture(clip.name, clip.speaker, clip.split, 0),)) for clip in listing.clips]
    trained = {clip.speaker for clip in listing.clips if clip.split == "train"}
    for apart in (top / "val", top / "test"):
        if trains != top and apart.is_dir():
            found, place = corpora.below(apart, SUFFIXES, LAYOUT)
            for path in sorted(found, key=Path.as_posix):
                label = path.relative_to(place).parts[0]
                split = corpora.by_speaker("test", label, trained)
                files.append((path, (Picture(path.relative_to(top).as_posix(), label, split, 0),)))
    return Images(top, tuple(files), side, partial(_read_one, side), listing.missing)


def _read_one(side: int, path: Path) -> Pixels:
    return read(path, side)[None]


def _held_out(top: Path, files: Sequence[File], read: Callable[[Path], Pixels], share: float) -> Images:
    """CIFAR-10 with the last ``share`` of its training images, at least one, in the split val."""
    there = [file for file in files if file[0].is_file()]
    trained = sum(one.split == "train" for _, pictures in there for one in pictures)
    if trained < 2:
        raise WavevqError(f"data.root: {top} must hold an image to train on and one to validate on")
    last = trained - min(max(1, round(share * trained)), trained - 1)
    found: list[File] = []
    done = 0
    for path, pictures in there:
        splits: list[Split] = []
        for one in pictures:
            splits.append("val" if one.split == "train" and done >= last else one.split)
            done += one.split == "train"
        found.append((path, tuple(replace(one, split=split) for one, split in zip(pictures, splits, strict=True))))
    return Images(top, tuple(found), SIDE, read, len(files) - len(there))


# --- CIFAR-10's files ---------------------------------------------------------------------------------------


class _ArraysOnly(pickle.Unpickler):
    """Builds numpy's arrays and Python's own values: what names anything else is refused, not run."""

    KNOWN: ClassVar = {
        ("numpy.core.multiarray", "_reconstruct"): np.empty(0).__reduce__()[0],  # where it lies differs by version
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
    }

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self.KNOWN:
            raise pickle.UnpicklingError(f"it names {module}.{name}, and arrays alone are allowed")
        return self.KNOWN[module, name]


def _unpickled(path: Path) -> Any:
    try:
        with path.open("rb") as file:
            return _ArraysOnly(file, encoding="bytes").load()
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except Exception as error:  # of a damaged pickle: nearly any
        raise _no_batch(path, str(error) or type(error).__name__) from None


def _batch(path: Path) -> tuple[Pixels, list[int], list[str]]:
    """Images, labels and names of an official file. Raises WavevqError for a file that is none."""
    found = _unpickled(path)
    if not isinstance(found, dict) or not {b"data", b"labels", b"filenames"} <= found.keys():
        raise _no_batch(path, "no data, labels and filenames")
    data, labels, names = found[b"data"], found[b"labels"], found[b"filenames"]
    if not isinstance(data, np.ndarray) or data.dtype != np.uint8 or data.shape[1:] != (3 * SIDE * SIDE,):
        raise _no_batch(path, f"data is not an array of {3 * SIDE * SIDE} bytes a row")
    if (
        not isinstance(labels, list)
        or len(labels) != len(data)
        or any(type(one) is not int or not 0 <= one < len(CIFAR10) for one in labels)
    ):
        raise _no_batch(path, "labels are not one of 0 to 9 for each row")
    if not isinstance(names, list) or len(names) != len(data) or not all(isinstance(name, bytes) for name in names):
        raise _no_batch(path, "filenames are not one for each row")
    colours = data.reshape(-1, 3, SIDE, SIDE)
    return np.ascontiguousarray(colours.transpose(0, 2, 3, 1)), labels, [name.decode("latin-1") for name in names]


def _no_batch(path: Path, reason: str) -> WavevqError:
    return WavevqError(f"{path}: not a file of CIFAR-10's python version ({' '.join(reason.split())})")


def _pictures(path: Path, split: Split) -> Iterator[Picture]:
    _, labels, names = _batch(path)
    for row, (label, name) in enumerate(zip(labels, names, strict=True)):
        yield Picture(f"{path.name}/{row}/{name}", CIFAR10[label], split, row)


def _strips(table: Path) -> list[File]:
    """The files ``train_00.png`` and on, as train.csv describes them, or those of test.csv."""
    split: Split = "train" if table.stem == "train" else "test"
    files: dict[Path, list[Picture]] = {}
    try:
        with table.open(encoding="utf-8", newline="") as file:
            for place, line in enumerate(csv.DictReader(file)):
                number, row = divmod(place, STRIP)
                if int(line["index"]) != place or not 0 <= int(line["label"]) < len(CIFAR10):
                    raise ValueError(f"line {place + 2}: index {line['index']}, label {line['label']}")
                one = Picture(f"{split}/{place}/{line['filename']}", CIFAR10[int(line["label"])], split, row)
                files.setdefault(table.with_name(f"{split}_{number:02}.png"), []).append(one)
    except OSError as error:
        raise WavevqError(f"{table}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except (ValueError, KeyError, TypeError) as error:
        raise WavevqError(f"{table}: not a table of index, label and filename ({error})") from None
    return [(path, tuple(pictures)) for path, pictures in files.items()]


def _read_strip(path: Path) -> Pixels:
    strip = read(path)
    if strip.shape[1] != SIDE or strip.shape[0] % SIDE:
        raise WavevqError(
            f"{path}: {strip.shape[1]} x {strip.shape[0]} pixels; a strip is {SIDE} wide and n x {SIDE} high"
        )
    return strip.reshape(-1, SIDE, SIDE, 3)
