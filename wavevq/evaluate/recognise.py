"""Speech recognisers for open vocabularies, and how far one transcript is from another."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException
from itertools import groupby
from pickle import UnpicklingError
from typing import Any, Protocol

import torch
from torch import Tensor

from wavevq.audio import Signal, resample
from wavevq.evaluate.metric import NotMeasured

PATIENCE = 10.0  # seconds without an answer from the weights' server
BLANK, BETWEEN = "-", "|"  # of torchaudio's labels: no new letter, and the end of a word


class Recogniser(Protocol):
    """What turns speech into words. Any will do: errors are counted against its own words for the original."""

    def transcribe(self, samples: Signal, rate: int) -> str:
        """Words with spaces between, of float32 ``[T]`` in [-1, 1] at ``rate`` Hz."""
        ...


@dataclass(frozen=True)
class Wav2Vec2:
    """A pipeline of torchaudio, whose letters are picked greedily (CTC). rate: Hz, that it was trained at."""

    model: Any
    labels: Sequence[str]
    rate: int

    @torch.no_grad()
    def transcribe(self, samples: Signal, rate: int) -> str:
        emission, _ = self.model(torch.from_numpy(resample(samples, rate, self.rate))[None])
        return greedy(emission[0], self.labels)


def load(name: str) -> Wav2Vec2:
    """A recogniser of torchaudio by name, with weights from torch's cache, or fetched into it.

    Raises NotMeasured where they are neither there nor to be had, and where what is there is damaged.
    """
    import torchaudio

    bundle = getattr(torchaudio.pipelines, name)
    try:
        with patience(PATIENCE):
            model = bundle.get_model()
    except (OSError, HTTPException, RuntimeError, EOFError, UnpicklingError) as error:
        # A download that fails and a file that was cut raise the same kinds.
        said = str(error).split("\n")[0].split(". ")[0] or type(error).__name__
        raise NotMeasured(
            f"not measured: the weights of {name} cannot be fetched, or those in {torch.hub.get_dir()}/checkpoints are "
            f"damaged and must be deleted ({said})"
        ) from None
    return Wav2Vec2(model.eval(), bundle.get_labels(), int(bundle.sample_rate))


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """A server that does not answer for so long is an OSError: torch's download would wait for ever."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def greedy(emission: Tensor, labels: Sequence[str]) -> str:
    """The words of scores ``[frames, labels]``: the best label a frame, repetitions and blanks left out."""
    best = [labels[i] for i, _ in groupby(emission.argmax(-1).tolist())]
    return " ".join("".join(letter for letter in best if letter != BLANK).replace(BETWEEN, " ").split())


def error_rate(said: Sequence[str], heard: Sequence[str], units: Callable[[str], Sequence[str]]) -> float | None:
    """Edits from each transcript of ``said`` to that of ``heard``, as a share of the units of ``said``.

    units: ``str.split`` for words, ``list`` for characters. None where nothing was said. May exceed 1.
    """
    from torchaudio.functional import edit_distance

    total = sum(len(units(one)) for one in said)
    edits = sum(edit_distance(units(a), units(b)) for a, b in zip(said, heard, strict=True))
    return edits / total if total else None
