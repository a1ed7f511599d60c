"""Speech from nothing before judges that know real speech only: is it the speaker that was asked for, and is it words?

Clips are float32 ``[T]`` at one rate, levelled alike; lengths are in seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavevq.audio import SILENCE_RMS, Signal
from wavevq.evaluate.probes import SpeakerProbe, WordProbe

LEAST_SECONDS = 0.05  # of a clip that can be judged at all: less than a syllable
SURE = 0.05  # share of real held-out clips that are less sure than what is called sure


@dataclass(frozen=True)
class Voices:
    """Whose voice generated clips are heard as.

    own: clips heard as the speaker they were drawn for, of ``clips``; ``unheard`` of these are too short or too quiet
    to be judged and count as wrong. ceiling: share of real held-out clips heard as their speaker. confusion: int64
    ``[S, S]``, rows the speakers asked for, columns those heard.
    """

    speakers: tuple[str, ...]
    confusion: NDArray[np.int64]
    unheard: int
    ceiling: float

    @property
    def clips(self) -> int:
        return int(self.confusion.sum()) + self.unheard

    @property
    def own(self) -> int:
        return int(self.confusion.trace())

    @property
    def share(self) -> float:
        return self.own / self.clips

    @property
    def chance(self) -> float:
        """Of a judge whose answers have nothing to do with what was asked for, each speaker asked for as often."""
        return 1 / len(self.speakers)

    @property
    def p(self) -> float:
        """Probability of ``own`` or more at ``chance``: one-sided binomial test."""
        from scipy.stats import binomtest

        return float(binomtest(self.own, self.clips, self.chance, alternative="greater").pvalue)


@dataclass(frozen=True)
class Words:
    """How surely clips are heard as a word of the vocabulary.

    Sure is what lies as far on its word's side of the nearest other word as all but SURE of the real held-out clips.
    sure: share of the generated clips. floor: of the clips that the same codes give in random order. distinct: words
    among the sure ones, of ``vocabulary``. ceiling: share of real held-out clips that are heard as their word.
    """

    sure: float
    floor: float
    distinct: int
    vocabulary: int
    ceiling: float


@dataclass(frozen=True)
class Lengths:
    """Seconds. ended: share of clips that the prior has ended before the most it was given."""

    median: float
    low: float  # 5th percentile
    high: float  # 95th
    ended: float = 1.0


def voices(
    probe: SpeakerProbe, drawn: Sequence[Signal], asked: Sequence[str], real: Sequence[Signal], spoken: Sequence[str]
) -> Voices:
    """drawn: generated clips, ``asked`` for these speakers, each as often. real: held-out clips by ``spoken``."""
    names = tuple(sorted(set(asked)))
    if len(set(map(list(asked).count, names))) > 1:
        raise ValueError("every speaker must be asked for as often, or chance is not one in their number")
    heard = [i for i, clip in enumerate(drawn) if audible(clip, probe.rate)]
    confusion = np.zeros((len(names), len(names)), np.int64)
    for i, guess in zip(heard, probe.judge([drawn[i] for i in heard]), strict=True):
        confusion[names.index(asked[i]), names.index(guess)] += 1
    ceiling = probe.score("real", real, spoken).value
    return Voices(names, confusion, len(drawn) - len(heard), ceiling)


def words(
    probe: WordProbe, drawn: Sequence[Signal], scrambled: Sequence[Signal], real: Sequence[Signal], said: Sequence[str]
) -> Words:
    """drawn: generated clips. scrambled: what their codes give in random order. real: held-out clips of ``said``."""
    least = np.quantile(probe.margins(real), SURE)
    sure, floor = ([clip for clip in some if audible(clip, probe.rate)] for some in (drawn, scrambled))
    sure, floor = ([c for c, m in zip(some, probe.margins(some), strict=True) if m >= least] for some in (sure, floor))
    return Words(
        sure=len(sure) / len(drawn),
        floor=len(floor) / len(scrambled),
        distinct=len(set(probe.judge(sure))),
        vocabulary=len(set(said)),
        ceiling=probe.score("real", real, said).value,
    )


def lengths(clips: Sequence[Signal], rate: int, most: float | None = None) -> Lengths:
    """Of clips at ``rate`` Hz. most: seconds that a generated clip could have."""
    seconds = np.array([len(clip) / rate for clip in clips])
    low, median, high = np.quantile(seconds, [0.05, 0.5, 0.95])
    ended = 1.0 if most is None else float(np.mean(seconds < most))
    return Lengths(float(median), float(low), float(high), ended)


def audible(clip: Signal, rate: int) -> bool:
    """Whether there is anything to judge."""
    return len(clip) >= LEAST_SECONDS * rate and float(clip.std()) > SILENCE_RMS


def confusion_table(found: Voices) -> tuple[tuple[str, ...], list[tuple[Any, ...]]]:
    """Headers and rows: speakers asked for, heard as."""
    rows = [(name, *row) for name, row in zip(found.speakers, found.confusion.tolist(), strict=True)]
    return ("asked for", *(f"heard as {name}" for name in found.speakers)), rows
