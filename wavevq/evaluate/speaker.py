"""Whose voice a converted clip is heard as, by judges that learned from real speech only."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wavevq.audio import Signal, resample
from wavevq.evaluate.metric import Figure, Findings, NotMeasured, Table, optional
from wavevq.evaluate.probes import SpeakerProbe

if TYPE_CHECKING:
    from wavevq.evaluate.subject import Subject, Version

VERSIONS: tuple[Version, ...] = ("original", "reconstruction", "shuffled codes")  # heard as their own speaker
NOTES = {"original": "ceiling: after mu-law"}
ENROLLED = 30  # training clips of a speaker behind a centroid
ENCODER_RATE = 16_000  # Hz, of Resemblyzer
TEXT = (
    "A support vector classifier on statistics of MFCC, fitted on real training clips, says who speaks. Targets go "
    "round the other voices, so that every pair of source and target comes about as often."
)
ENCODER_TEXT = (
    "Cosines of Resemblyzer's embeddings (a speaker encoder trained elsewhere) with the centroids of real training "
    "clips. They depend on the encoder and on the clips' length: hold them against the rows of the originals."
)


@dataclass(frozen=True)
class Conversions:
    """Of converted clips: the shares heard as target and as source. confusion: int64 ``[S, S]``, targets by heard."""

    speakers: tuple[str, ...]
    target: float
    source: float
    confusion: NDArray[np.int64]


@dataclass(frozen=True)
class Likeness:
    """cosine: mean, to a centroid of each clip's own. nearest: share of clips that no other centroid is nearer to."""

    cosine: float
    nearest: float


# A clip float32 [T] and its rate in Hz -> float64 [256] of length 1.
Embed = Callable[[Signal, int], NDArray[np.float64]]


def conversions(
    judge: SpeakerProbe, clips: Sequence[Signal], targets: Sequence[str], sources: Sequence[str]
) -> Conversions:
    """clips: converted, at one level and at the judge's rate."""
    guesses = judge.judge(clips)
    names = tuple(sorted({*targets, *sources, *guesses}))
    confusion = np.zeros((len(names), len(names)), np.int64)
    for target, guess in zip(targets, guesses, strict=True):
        confusion[names.index(target), names.index(guess)] += 1
    return Conversions(
        speakers=names,
        target=float(np.mean([a == b for a, b in zip(guesses, targets, strict=True)])),
        source=float(np.mean([a == b for a, b in zip(guesses, sources, strict=True)])),
        confusion=confusion,
    )


def metric(subject: Subject) -> Findings:
    """The metric ``speaker`` of ``wavevq evaluate``."""
    judge = subject.judges.speaker
    if judge is None:
        raise NotMeasured("not measured: the model has one speaker, and voices cannot be told apart")
    sources, targets = _voices(subject)
    found = conversions(judge, subject.judged_as("conversion"), targets, sources)
    chance = 1 / len(subject.speakers)
    figures = [
        Figure("target, conversion", found.target, "share", f"of {len(targets)} clips"),
        Figure("source, conversion", found.source, "share"),
        Figure("chance", chance, "share", "one in the speakers"),
    ]
    for version in subject.possible(VERSIONS):
        own = judge.score(version, subject.judged_as(version), sources).value
        figures.append(Figure(f"own speaker, {version}", own, "share", NOTES.get(version, "")))
    rows = tuple((name, *row) for name, row in zip(found.speakers, found.confusion.tolist(), strict=True))
    heard = Table("Converted clips by target and by the speaker heard.", ("target", *found.speakers), rows)
    return Findings(tuple(figures), TEXT, (heard, *subject.to_listen(("original", "conversion"))))


def encoder_metric(subject: Subject) -> Findings:
    """The metric ``speaker_encoder`` of ``wavevq evaluate``."""
    embed = resemblyzer()
    sources, targets = _voices(subject)
    subject.say(f"embedding clips with Resemblyzer: {ENROLLED} of each speaker, then the sampled ones")
    centroids = np.stack(
        [centroid(embed, subject.judges.of(name, ENROLLED), subject.rate) for name in subject.speakers]
    )
    figures = []
    rows: dict[Version, tuple[str, str]] = {
        "original": ("own speaker", "another speaker"),
        "reconstruction": ("own speaker", "another speaker"),
        "conversion": ("source", "target"),
    }
    for version, names in rows.items():
        cosines = np.stack([embed(clip, subject.rate) for clip in subject.judged_as(version)]) @ centroids.T
        for name, voices in zip(names, (sources, targets), strict=True):
            found = likeness(cosines, [subject.speakers.index(voice) for voice in voices])
            figures.append(Figure(f"cosine to {name}, {version}", found.cosine, "from -1 to 1"))
            figures.append(Figure(f"nearest to {name}, {version}", found.nearest, "share"))
    figures.append(Figure("nearest, chance", 1 / len(subject.speakers), "share", "one in the speakers"))
    return Findings(tuple(figures), ENCODER_TEXT)


def likeness(cosines: NDArray[np.float64], voices: Sequence[int]) -> Likeness:
    """Of cosines ``[N, S]`` to every speaker's centroid, to ``voices`` in particular."""
    own = cosines[np.arange(len(voices)), voices]
    return Likeness(float(own.mean()), float(np.mean(cosines.argmax(axis=1) == voices)))


def centroid(embed: Embed, clips: Sequence[Signal], rate: int) -> NDArray[np.float64]:
    """The mean direction of real clips' embeddings."""
    mean: NDArray[np.float64] = np.mean([embed(clip, rate) for clip in clips], axis=0)
    return mean / np.linalg.norm(mean)


def resemblyzer() -> Embed:
    """Resemblyzer's encoder (Wan et al. 2018), whose weights its package brings. Raises NotMeasured without it.

    Its search for speech is left out: on clips of one word it finds none.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it imports what others will remove
        encoder = optional("resemblyzer").VoiceEncoder("cpu", verbose=False)

    def embed(clip: Signal, rate: int) -> NDArray[np.float64]:
        vector: NDArray[np.float64] = encoder.embed_utterance(resample(clip, rate, ENCODER_RATE)).astype(np.float64)
        return vector

    return embed


def _voices(subject: Subject) -> tuple[list[str], list[str]]:
    """Of each clip, its speaker and whom it is converted to."""
    if not subject.possible(("conversion",)):
        raise NotMeasured("not measured: the model has one speaker, and nobody to convert to")
    return [one.clip.speaker for one in subject.utterances], [str(one.target) for one in subject.utterances]
