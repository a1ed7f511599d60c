"""An encoded corpus: what priors are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from wavevq.audio import replacing
from wavevq.contracts import Batch
from wavevq.data.batches import order
from wavevq.data.store import StoredClip
from wavevq.errors import WavevqError
from wavevq.noise import OFFSETS, ORDER, derived, uniform


@dataclass(frozen=True, eq=False)
class Codes:
    """The sequences of a split: int64 ``[n]`` each, the end class included, and their labels."""

    sequences: Sequence[NDArray[np.int64]]
    labels: Sequence[int]

    def batch(self, members: Sequence[int]) -> Batch:
        """Whole sequences, by their place. x: int64 ``[B, longest]``, zeros after each."""
        return _batch(
            [self.sequences[i] for i in members], [self.labels[i] for i in members], members, [0] * len(members)
        )


def ended(rows: Sequence[NDArray[np.int64]], clips: Sequence[StoredClip], speakers: Sequence[str], end: int) -> Codes:
    """The codes ``[n]`` of each clip with the class ``end`` after them."""
    labels = {name: label for label, name in enumerate(speakers)}
    return Codes([np.append(one, end) for one in rows], [labels[clip.speaker] for clip in clips])


class CodeCrops:
    """Training crops of ``crop`` codes, ``batch`` of them a step over all ranks together, as ``batches.Crops``.

    rate: codes a second.
    """

    def __init__(self, codes: Codes, crop: int, batch: int, rate: float, seed: int) -> None:
        self.codes, self.crop, self.batch, self.rate = codes, crop, batch, rate
        windows = [-(-len(one) // crop) for one in codes.sequences]
        self._sequence_of_window = np.repeat(np.arange(len(windows)), windows)
        self._order_seed, self._offset_seed = derived(seed, ORDER), derived(seed, OFFSETS)

    @property
    def steps_per_epoch(self) -> int:
        return -(-len(self._sequence_of_window) // self.batch)

    @property
    def seconds(self) -> float:
        """Seconds of signal in a step's batch, padding included."""
        return self.batch * self.crop / self.rate

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of ``step`` that ``rank`` takes. x: int64 ``[B, crop]``; cond: 1 where one begins mid-clip.

        A window that is not the clip's first begins with the code before it, which is there to be read only.
        """
        if self.batch % world:
            raise WavevqError(f"prior.batch {self.batch} must be a multiple of the number of processes, {world}")
        numbers = range(step * self.batch + rank, (step + 1) * self.batch, world)
        draws = uniform(self._offset_seed, numbers, 1)[:, 0].tolist()
        members = [self._sequence(number) for number in numbers]
        every = [self.codes.sequences[i] for i in members]
        starts = [int(u * (max(0, len(one) - self.crop) + 1)) for u, one in zip(draws, every, strict=True)]
        rows = [one[start : start + self.crop] for one, start in zip(every, starts, strict=True)]
        labels = [self.codes.labels[i] for i in members]
        return _batch(rows, labels, list(numbers), [int(start > 0) for start in starts], self.crop)

    def _sequence(self, number: int) -> int:
        epoch, place = divmod(number, len(self._sequence_of_window))
        return int(self._sequence_of_window[order(self._order_seed, epoch, len(self._sequence_of_window))[place]])


def _batch(
    rows: Sequence[NDArray[np.int64]],
    labels: Sequence[int],
    index: Sequence[int],
    within: Sequence[int],
    width: int = 0,
) -> Batch:
    x = np.zeros((len(rows), max(width, *(len(row) for row in rows))), np.int64)
    for place, row in enumerate(rows):
        x[place, : len(row)] = row
    return Batch(
        x=torch.from_numpy(x),
        label=torch.tensor(labels),
        lengths=torch.tensor([len(row) for row in rows]),
        index=torch.tensor(index),
        cond=torch.tensor(within),
    )


def save_codes(path: Path, rows: Sequence[NDArray[np.integer[Any]]]) -> None:
    """Clips' codes ``[n]``: int32, one after the other, and their lengths."""
    codes = np.concatenate([np.zeros(0, np.int32), *rows]).astype(np.int32)
    with replacing(path) as partial:
        save_file({"codes": codes, "lengths": np.array([len(row) for row in rows], np.int64)}, partial)


def load_codes(path: Path) -> list[NDArray[np.int64]]:
    """What ``save_codes`` wrote. Raises WavevqError for anything else."""
    try:
        tensors = load_file(path)
        return np.split(tensors["codes"].astype(np.int64), np.cumsum(tensors["lengths"]))[:-1]
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise WavevqError(f"{path}: not the codes of a corpus ({error}); delete it, and it is made anew") from None
