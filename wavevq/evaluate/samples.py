"""Speech from nothing before judges that know real speech only: is it the speaker that was asked for, and is it words?

Clips are float32 ``[T]`` at one rate, levelled alike; lengths are in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wavevq.audio import SILENCE_RMS, Signal
from wavevq.evaluate.judges import levelled
from wavevq.evaluate.metric import Figure, Findings, Listen, NotMeasured, Table
from wavevq.evaluate.probes import SpeakerProbe, WordProbe
from wavevq.evaluate.report import Take

if TYPE_CHECKING:
    from wavevq.evaluate.subject import Subject

LEAST_SECONDS = 0.05  # of a clip that can be judged at all: less than a syllable
SURE = 0.05  # share of real held-out clips that are less sure than what is called sure
SHOWN = 6  # clips on the page
TEXT = (
    "New codes from the learned prior, decoded and sampled, and judged by probes that have heard real training clips "
    "only. The decoder is told the speaker as well as the prior is: what the codes in random order still get right, "
    "the decoder does without the prior's order."
)


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
    """Seconds, cut at ``most``. ended: share of clips that are shorter than that."""

    median: float
    low: float  # 5th percentile
    high: float  # 95th
    ended: float
    most: float


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
    least = least_margin(probe, real)
    sure, floor = ([clip for clip in some if audible(clip, probe.rate)] for some in (drawn, scrambled))
    sure, floor = ([c for c, m in zip(some, probe.margins(some), strict=True) if m >= least] for some in (sure, floor))
    return Words(
        sure=len(sure) / len(drawn),
        floor=len(floor) / len(scrambled),
        distinct=len(set(probe.judge(sure))),
        vocabulary=len(probe.classes),
        ceiling=probe.score("real", real, said).value,
    )


def least_margin(probe: WordProbe, real: Sequence[Signal]) -> float:
    """What is sure lies as far on its word's side: SURE of ``real``, held-out clips, lie nearer to the border."""
    return float(np.quantile(probe.margins(real), SURE))


def lengths(seconds: Sequence[float], most: float) -> Lengths:
    """Of clips that last so many seconds each."""
    cut = np.minimum(seconds, most)
    low, median, high = np.quantile(cut, [0.05, 0.5, 0.95])
    return Lengths(float(median), float(low), float(high), float(np.mean(cut < most)), most)


def audible(clip: Signal, rate: int) -> bool:
    """Whether there is anything to judge."""
    return len(clip) >= LEAST_SECONDS * rate and float(clip.std()) > SILENCE_RMS


def metric(subject: Subject) -> Findings:
    """The metric ``samples`` of ``wavevq evaluate``: at least ``plan.judged`` new clips, each speaker's as often."""
    if subject.prior is None:
        raise NotMeasured("not measured: the run has no trained prior")
    judge = subject.judges.speaker
    if judge is None:
        raise NotMeasured("not measured: the model has one speaker, and voices cannot be told apart")
    asked = [*subject.speakers] * -(-subject.plan.judged // len(subject.speakers))
    codes = subject.compose(asked, subject.most)
    dice = np.random.default_rng(subject.seed)
    drawn = decoded(subject, codes, asked, "codes of the prior")
    scrambled = decoded(subject, [dice.permutation(one) for one in codes], asked, "the same codes in random order")
    real, spoken = subject.judges.beginnings(subject.clips), [clip.speaker for clip in subject.clips]
    found = voices(judge, drawn, asked, real, spoken)
    floor = voices(judge, scrambled, asked, real, spoken)
    seconds = subject.most * subject.hop / subject.rate
    figures = [
        Figure(
            "own speaker", found.share, "share", f"{found.own} of {found.clips} clips heard as the speaker asked for"
        ),
        Figure("own speaker, chance", found.chance, "share", "one in the speakers, asked for equally often"),
        Figure("own speaker, p", found.p, "probability", "of as many by chance: one-sided binomial test"),
        Figure("own speaker, codes in random order", floor.share, "share", "the voice that the decoder alone gives"),
        Figure("own speaker, real clips", found.ceiling, "share", f"ceiling: {len(real)} held-out clips"),
        Figure("too short or silent", found.unheard, "clips", "count as wrong"),
    ]
    if (judge_of_words := subject.judges.word) is not None and subject.word_of is not None:
        said = [subject.word_of(clip.name) for clip in subject.clips]
        figures += word_figures(words(judge_of_words, drawn, scrambled, real, said))
    figures += length_figures(
        lengths([len(one) * subject.hop / subject.rate for one in codes], seconds),
        lengths([clip.length / subject.rate for clip in subject.clips], seconds),
    )
    rows = tuple((name, *row) for name, row in zip(found.speakers, found.confusion.tolist(), strict=True))
    confusion = Table("Clips by the speaker asked for and the speaker heard.", ("asked for", *found.speakers), rows)
    shown = [i for i in range(len(subject.speakers)) if audible(drawn[i], subject.rate)][:SHOWN]
    takes = tuple(Take(f"new, {asked[i]}", "sampled", drawn[i], subject.rate) for i in shown)
    return Findings(tuple(figures), TEXT, (confusion, Listen("New clips", takes)))


def decoded(subject: Subject, codes: Sequence[NDArray[np.int64]], asked: Sequence[str], what: str) -> list[Signal]:
    """Audio for the judges of each clip's codes ``[n]``; of none, none. The i-th draws from stream i."""
    there = [i for i, one in enumerate(codes) if len(one)]
    audio = subject.draw([codes[i] for i in there], [asked[i] for i in there], there, what)
    made = dict(zip(there, audio, strict=True))
    return [levelled(made.get(i, np.zeros(0, np.float32))) for i in range(len(codes))]


def word_figures(found: Words) -> list[Figure]:
    sure = f"as surely as {1 - SURE:.0%} of real held-out clips"
    return [
        Figure("surely a word", found.sure, "share", sure),
        Figure("surely a word, codes in random order", found.floor, "share", "the same codes, and no word's order"),
        Figure("word, real clips", found.ceiling, "share", "heard as the word that they hold: ceiling"),
        Figure("different words", found.distinct, "words", f"among the sure ones, of {found.vocabulary}"),
    ]


def length_figures(drawn: Lengths, real: Lengths) -> list[Figure]:
    return [
        Figure("length, median", drawn.median, "s", f"real {real.median:.3g} s"),
        Figure("length, 5th percentile", drawn.low, "s", f"real {real.low:.3g} s"),
        Figure("length, 95th percentile", drawn.high, "s", f"real {real.high:.3g} s"),
        Figure("ended by the prior", drawn.ended, "share", f"of {drawn.most:g} s; of real clips {real.ended:.3g}"),
    ]
