"""An encoded corpus: what priors are trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save

from wavevq.audio import replacing
from wavevq.contracts import Batch
from wavevq.data.batches import Windows
from wavevq.errors import WavevqError

if TYPE_CHECKING:
    from wavevq.data.corpus import Corpus, Example


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a split and their labels: int64 ``[n]`` each, the end class included, or grids ``[h, w, G]``.

    given: of video, ``[t, h, w, G]``, the actions ``[t]`` of each; else None.
    names: of what was encoded, where they are known, for messages.
    """

    sequences: Sequence[NDArray[np.int64]]
    labels: Sequence[int]
    given: Sequence[NDArray[np.int64]] | None = None
    names: Sequence[str] = ()

    def batch(self, members: Sequence[int]) -> Batch:
        """Whole sequences, by their place. x: int64 ``[B, longest]``, zeros after each; or grids ``[B, h, w, G]``.

        cond: what is given, of video, or zeros: none begins mid-clip.
        """
        return _batch(
            [self.sequences[i] for i in members],
            [self.labels[i] for i in members],
            members,
            [0] * len(members) if self.given is None else [self.given[i] for i in members],
        )


def labelled(
    rows: Sequence[NDArray[np.int64]],
    examples: Sequence[Example],
    corpus: Corpus,
    size: int,
    given: Sequence[NDArray[np.int64]] | None = None,
) -> Codes:
    """The codes of examples of a corpus, each in [0, size): where examples end, with the class ``size`` after them.

    given: as ``Codes``'s.
    """
    labels = {name: label for label, name in enumerate(corpus.labels)}
    sequences = [np.append(one, size) for one in rows] if corpus.ends else rows
    return Codes(sequences, [labels[one.label] for one in examples], given, [one.name for one in examples])


class CodeCrops(Windows):
    """Training crops of ``crop`` codes of the first axis of their grid; rate: of them a ``unit`` of signal."""

    section = "prior"

    def __init__(
        self, codes: Codes, crop: int, batch: int, rate: float, seed: int, unit: str = "audio_seconds"
    ) -> None:
        self.codes = codes
        names = codes.names or [f"sequence {i}" for i in range(len(codes.sequences))]
        super().__init__(names, [len(one) for one in codes.sequences], crop, batch, rate, seed, unit)

    def at(self, step: int, rank: int = 0, world: int = 1) -> Batch:
        """The examples of ``step`` that ``rank`` takes.

        x: int64 ``[B, crop]``, or ``[B, crop, w, G]``; cond: 1 where one begins mid-clip. A window that is not the
        clip's first begins with the code before it, which is there to be read only. Of video, whose clips are taken
        whole, cond is what is given.
        """
        places = self.places(step, rank, world)
        given = self.codes.given
        return _batch(
            [self.codes.sequences[one.clip][one.start : one.start + self.crop] for one in places],
            [self.codes.labels[one.clip] for one in places],
            [one.number for one in places],
            [int(one.start > 0) for one in places] if given is None else [given[one.clip] for one in places],
            self.crop,
        )


def _batch(
    rows: Sequence[NDArray[np.int64]],
    labels: Sequence[int],
    index: Sequence[int],
    cond: Sequence[int] | Sequence[NDArray[np.int64]],
    width: int = 0,
) -> Batch:
    x = np.zeros((len(rows), max(width, *(len(row) for row in rows)), *rows[0].shape[1:]), np.int64)
    for place, row in enumerate(rows):
        x[place, : len(row)] = row
    return Batch(
        x=torch.from_numpy(x),
        label=torch.tensor(labels),
        lengths=torch.tensor([len(row) for row in rows]),
        index=torch.tensor(index),
        cond=torch.from_numpy(np.stack([np.asarray(one, np.int64) for one in cond])),
    )


def save_codes(path: Path, rows: Sequence[NDArray[np.integer[Any]]]) -> None:
    """Codes ``[n]`` or ``[h, w, G]`` of each example: int32, one after the other, and their lengths."""
    codes = np.concatenate([*rows] or [np.zeros(0, np.int32)]).astype(np.int32)
    with replacing(path) as partial:
        partial.write_bytes(save({"codes": codes, "lengths": np.array([len(row) for row in rows], np.int64)}))


def load_codes(path: Path, count: int, size: int) -> list[NDArray[np.int64]]:
    """What ``save_codes`` wrote of ``count`` examples, codes in [0, size). Raises WavevqError for anything else."""
    try:
        tensors = load_file(path)
        codes, lengths = tensors["codes"], tensors["lengths"]
    except (OSError, SafetensorError, KeyError, AttributeError) as error:  # the last: a type of tomorrow's
        raise WavevqError(f"{path}: not the codes of a corpus ({error})") from None
    if codes.dtype != np.int32 or lengths.dtype != np.int64:
        raise WavevqError(f"{path}: not the codes of a corpus ({codes.dtype}, their lengths {lengths.dtype})")
    outside = (lengths < 0) | (lengths > len(codes)) if codes.ndim else np.True_
    if lengths.shape != (count,) or outside.any() or lengths.sum() != len(codes):
        raise WavevqError(f"{path}: not the codes of {count} examples")
    if codes.size and not (codes.min() >= 0 and codes.max() < size):
        raise WavevqError(f"{path}: codes from {codes.min()} to {codes.max()} are none of a codebook of {size}")
    return np.split(codes.astype(np.int64), np.cumsum(lengths))[:-1]
