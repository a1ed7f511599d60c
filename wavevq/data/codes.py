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
from safetensors.numpy import load_file, save_file

from wavevq.audio import replacing
from wavevq.contracts import Batch
from wavevq.data.batches import Windows
from wavevq.errors import WavevqError, escaped

if TYPE_CHECKING:
    from wavevq.data.corpus import Corpus, Example


@dataclass(frozen=True, eq=False)
class Codes:
    """The codes of a split and their labels: int64 ``[n]`` each, the end class included, or grids ``[h, w, G]``.

    given: of video, ``[t, h, w, G]``, the actions ``[t]`` of each; else None.
    """

    sequences: Sequence[NDArray[np.int64]]
    labels: Sequence[int]
    given: Sequence[NDArray[np.int64]] | None = None

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
    return Codes(sequences, [labels[one.label] for one in examples], given)


class CodeCrops(Windows):
    """Training crops of ``crop`` codes of the first axis of their grid; rate: of them a ``unit`` of signal."""

    section = "prior"

    def __init__(
        self, codes: Codes, crop: int, batch: int, rate: float, seed: int, unit: str = "audio_seconds"
    ) -> None:
        self.codes = codes
        super().__init__([len(one) for one in codes.sequences], crop, batch, rate, seed, unit)

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
        save_file({"codes": codes, "lengths": np.array([len(row) for row in rows], np.int64)}, partial)


def load_codes(path: Path, count: int, size: int) -> list[NDArray[np.int64]]:
    """What ``save_codes`` wrote of ``count`` examples, in [0, size). Raises WavevqError for anything else."""
    try:
        tensors = load_file(path)
        codes, lengths = tensors["codes"], tensors["lengths"]
        if codes.dtype != np.int32 or lengths.dtype != np.int64 or lengths.shape != (count,) or not codes.ndim:
            raise ValueError(f"codes {codes.dtype} {list(codes.shape)}, lengths {lengths.dtype} {list(lengths.shape)}")
        if ((lengths < 0) | (lengths > len(codes))).any() or lengths.sum() != len(codes):
            raise ValueError("lengths that are not those of the codes")
        if codes.size and not 0 <= codes.min() <= codes.max() < size:
            raise ValueError(f"codes from {codes.min()} to {codes.max()}, of {size}")
        return np.split(codes.astype(np.int64), np.cumsum(lengths))[:-1]
    except (OSError, SafetensorError, KeyError, ValueError, AttributeError) as error:  # the last: a type of tomorrow's
        reason = escaped(str(error))
        raise WavevqError(f"{path}: not the codes of a corpus ({reason}); delete it, and it is made anew") from None
