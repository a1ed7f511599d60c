"""Judges of converted and generated speech: who speaks, which word, which phones. Each is fitted on real recordings.

A clip is float32 ``[T]`` in [-1, 1], levels normalised by the caller (all clips alike, or the level gives the speaker
away). Fitting and judging are deterministic. Every score carries its chance level.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Self, cast

import numpy as np

from wavevq.data.alignments import Phone
from wavevq.evaluate.phones import NOWHERE, phone_at

Clip = np.ndarray[Any, np.dtype[np.float32]]
Features = np.ndarray[Any, np.dtype[np.float64]]

FRAME_SECONDS = 0.010  # from one frame to the next
WINDOW_SECONDS = 0.025
BANDS = 40  # mel
RANGE_DB = 50.0  # of a clip's MFCC, below its loudest band: what lies deeper is the recording's noise
SPEAKER_COEFFICIENTS = 20  # of the MFCC; the first, the level, is left out
WORD_COEFFICIENTS = 13
WORD_PARTS = 3  # in time; each reaches half a part over its edges
CONTEXT = (-8, -6, -4, -2, 0, 2, 4, 6, 8)  # frames that a phone is judged by, relative to its own
MOST_FRAMES = 40_000  # that the phone classifier is fitted on


@dataclass(frozen=True)
class Score:
    """One figure of an evaluation, in ``unit``. chance: what a judge without ears would reach."""

    name: str
    value: float
    chance: float
    unit: str = "share"


@dataclass(frozen=True)
class _ClipProbe(ABC):
    """A support vector classifier over one vector of features a clip."""

    rate: int  # Hz
    chance: float  # share of the most frequent class among the fitted clips
    classifier: Any

    @staticmethod
    @abstractmethod
    def _describe(clip: Clip, rate: int) -> Features:
        """The features of one clip."""

    @classmethod
    def _fit(cls, clips: Iterable[Clip], classes: Sequence[str], rate: int) -> Self:
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler
        from sklearn.svm import SVC

        features = np.stack([cls._describe(clip, rate) for clip in clips])
        assert len(features) == len(classes), "one class a clip"
        classifier = make_pipeline(StandardScaler(), SVC(C=10.0, decision_function_shape="ovo"))
        return cls(rate, _majority(classes), classifier.fit(features, list(classes)))

    @property
    def classes(self) -> list[str]:
        """Those that it tells apart."""
        return [str(name) for name in self.classifier.classes_]

    def judge(self, clips: Iterable[Clip]) -> list[str]:
        """The class of each clip; of clips that are made as they are asked for, none is kept."""
        features = [self._describe(clip, self.rate) for clip in clips]
        return [str(guess) for guess in self.classifier.predict(np.stack(features))] if features else []

    def margins(self, clips: Sequence[Clip]) -> Features:
        """How surely each clip ``[N]`` is of its class: its distance to the nearest border with another class.

        In units of the classifier's margin; 0 lies on the border.
        """
        if not clips:
            return np.zeros(0)
        features = np.stack([self._describe(clip, self.rate) for clip in clips])
        names = self.classes
        won = np.array([names.index(guess) for guess in self.classifier.predict(features)])
        pairs = self.classifier.decision_function(features).reshape(len(clips), -1)
        if len(names) == 2:
            return cast(Features, np.where(won == 1, pairs[:, 0], -pairs[:, 0]))
        # One column a pair of classes in order, above 0 where the first of the two is the likelier.
        nearest = np.full(len(clips), np.inf)
        for column, (first, second) in enumerate(combinations(range(len(names)), 2)):
            for winner, side in ((first, 1.0), (second, -1.0)):
                rows = won == winner
                nearest[rows] = np.minimum(nearest[rows], side * pairs[rows, column])
        return nearest

    def score(self, name: str, clips: Iterable[Clip], expected: Sequence[str]) -> Score:
        """The share of clips that are judged as expected."""
        guesses = self.judge(clips)
        right = [guess == truth for guess, truth in zip(guesses, expected, strict=True)]
        return Score(name, float(np.mean(right)), self.chance)


@dataclass(frozen=True)
class SpeakerProbe(_ClipProbe):
    """Who speaks: mean and deviation over time of MFCC and their slopes."""

    @classmethod
    def fit(cls, clips: Iterable[Clip], speakers: Sequence[str], rate: int) -> Self:
        """A probe for these speakers, from clips at ``rate`` Hz."""
        return cls._fit(clips, speakers, rate)

    @staticmethod
    def _describe(clip: Clip, rate: int) -> Features:
        coefficients = mfcc(clip, rate, SPEAKER_COEFFICIENTS)[1:]
        tracks = np.concatenate([coefficients, _slopes(coefficients)])
        return np.concatenate([tracks.mean(axis=1), tracks.std(axis=1)])


@dataclass(frozen=True)
class WordProbe(_ClipProbe):
    """Which word of a closed vocabulary a clip holds: MFCC and their slopes, averaged over each third of the clip."""

    @classmethod
    def fit(cls, clips: Iterable[Clip], words: Sequence[str], rate: int) -> Self:
        """A probe for these words, one a clip, from clips at ``rate`` Hz."""
        return cls._fit(clips, words, rate)

    @staticmethod
    def _describe(clip: Clip, rate: int) -> Features:
        coefficients = mfcc(clip, rate, WORD_COEFFICIENTS)
        tracks = np.concatenate([coefficients, _slopes(coefficients)])
        frames = tracks.shape[1]
        parts = []
        for centre in (np.arange(WORD_PARTS) + 0.5) * frames / WORD_PARTS:
            reach = max(frames / WORD_PARTS, 1.0)
            parts.append(tracks[:, max(0, int(centre - reach)) : int(centre + reach) + 1].mean(axis=1))
        return np.concatenate([*parts, tracks.mean(axis=1), tracks.std(axis=1)])


@dataclass(frozen=True)
class PhoneProbe:
    """A linear classifier of log-mel frames with context, against the known phones of the source."""

    rate: int  # Hz
    chance: float  # share of the most frequent phone among the fitted frames
    classifier: Any

    @classmethod
    def fit(cls, clips: Sequence[Clip], phones: Sequence[Sequence[Phone]], rate: int, seed: int = 0) -> Self:
        """A probe from clips at ``rate`` Hz and their phones in order; about MOST_FRAMES at most, drawn by ``seed``."""
        from sklearn.exceptions import ConvergenceWarning
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        seconds = sum(end - start for some in phones for start, end, _ in some)
        features, symbols = _frames(clips, phones, rate, MOST_FRAMES * FRAME_SECONDS / seconds, seed)
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=60))
        with warnings.catch_warnings():
            # Held-out accuracy moves by less than a per cent after these steps, which take seconds.
            warnings.simplefilter("ignore", ConvergenceWarning)
            classifier.fit(features, symbols)
        return cls(rate, _majority(symbols), classifier)

    def accuracy(self, clips: Sequence[Clip], phones: Sequence[Sequence[Phone]]) -> float:
        """The share of frames in which each clip holds the phone that stands in ``phones`` for that time."""
        features, symbols = _frames(clips, phones, self.rate)
        return float(np.mean(self.classifier.predict(features) == symbols))

    def score(self, name: str, clips: Sequence[Clip], phones: Sequence[Sequence[Phone]]) -> Score:
        """The accuracy beside its chance level."""
        return Score(name, self.accuracy(clips, phones), self.chance, "share of frames")


def _majority(classes: Sequence[str] | np.ndarray[Any, Any]) -> float:
    return max(Counter(classes).values()) / len(classes)


def _frames(
    clips: Sequence[Clip], phones: Sequence[Sequence[Phone]], rate: int, share: float = 1.0, seed: int = 0
) -> tuple[np.ndarray[Any, np.dtype[np.float32]], np.ndarray[Any, np.dtype[np.str_]]]:
    """Features ``[frames, bands x context]`` and symbols ``[frames]`` of the frames whose centre lies in a phone.

    share: of them that are taken, each by a draw: of all at once they would be gigabytes.
    """
    dice = np.random.default_rng(seed)
    features, symbols = [], []
    for clip, spoken in zip(clips, phones, strict=True):
        bands = _log_mel(clip, rate).T
        centres = np.arange(len(bands)) * hop(rate) / rate
        which = phone_at(spoken, centres)
        within = (which != NOWHERE) & (centres < len(clip) / rate) & (dice.random(len(bands)) < share)
        neighbours = [np.clip(np.arange(len(bands)) + shift, 0, len(bands) - 1) for shift in CONTEXT]
        features.append(np.concatenate([bands[index] for index in neighbours], axis=1)[within])
        symbols.append(np.array([symbol for _, _, symbol in spoken])[which[within]])
    return np.concatenate(features), np.concatenate(symbols)


def mfcc(clip: Clip, rate: int, coefficients: int) -> Features:
    """MFCC ``[coefficients, frames]``: the orthonormal cosine transform of BANDS mel bands in dB, cut at RANGE_DB."""
    import librosa

    bands = _log_mel(clip, rate)
    cepstrum = librosa.feature.mfcc(S=np.maximum(bands, bands.max() - RANGE_DB), n_mfcc=coefficients)
    return np.asarray(cepstrum, dtype=np.float64)


def _slopes(tracks: Features) -> Features:
    """The slope of each track over 5 frames."""
    import librosa

    return np.asarray(librosa.feature.delta(tracks, width=5, mode="nearest"), dtype=np.float64)


def _log_mel(clip: Clip, rate: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """Mel bands in dB ``[BANDS, frames]``, frame i centred at sample i x hop."""
    import librosa

    # Longer than the window (zeros fill it), so that the narrow low bands hold a bin each at every rate.
    points = 2 ** int(np.ceil(np.log2(0.06 * rate)))
    frames = 1 + len(clip) // hop(rate)
    padded = np.pad(clip, (0, max(0, points - len(clip))))
    power = librosa.feature.melspectrogram(
        y=padded, sr=rate, n_fft=points, hop_length=hop(rate), win_length=round(WINDOW_SECONDS * rate), n_mels=BANDS
    )
    # The floor keeps digital silence finite; it lies below the quantization noise of 16 bits.
    decibels: np.ndarray[Any, np.dtype[np.float32]] = librosa.power_to_db(power, amin=1e-8, top_db=None)
    return decibels[:, :frames].astype(np.float32)


def hop(rate: int) -> int:
    """Samples from one frame to the next."""
    return round(FRAME_SECONDS * rate)
