"""How much of the speaker the codes alone give away: less is better (Van den Oord et al. 2017, section 4.3).

A classifier hears nothing but how often each code, and each pair of codes in a row, occurs in a clip. What it reaches
is a lower bound of what the codes hold. Beside it stands what MFCC of the same clips give away, and chance.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavevq.errors import WavevqError
from wavevq.evaluate.probes import Clip, Score, SpeakerProbe

Codes = Sequence[NDArray[np.integer[Any]]]  # of each clip, [F]

LOOSENESS = 10.0  # of the classifier's regularisation (scikit-learn's C), for features whose squares sum to 2


def from_codes(codes: Codes, speakers: Sequence[str], held_codes: Codes, held_speakers: Sequence[str]) -> Score:
    """The share of held-out clips whose speaker their codes tell.

    codes, speakers: of the training clips. Raises WavevqError where they are all of one speaker.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(speakers)) < 2:
        raise WavevqError("leakage: the training clips are all of one speaker: there is nothing to give away")
    classifier = make_pipeline(DictVectorizer(), LogisticRegression(C=LOOSENESS, max_iter=1000))
    classifier.fit([_shares(one) for one in codes], list(speakers))
    guesses = classifier.predict([_shares(one) for one in held_codes])
    return _score("speaker told by the codes", guesses, speakers, held_speakers)


def from_audio(
    clips: Sequence[Clip],
    speakers: Sequence[str],
    held_clips: Sequence[Clip],
    held_speakers: Sequence[str],
    rate: int,
) -> Score:
    """The same by mean and deviation of the MFCC of levelled audio at ``rate`` Hz."""
    guesses = SpeakerProbe.fit(clips, speakers, rate).judge(held_clips)
    return _score("speaker told by MFCC", guesses, speakers, held_speakers)


def _score(name: str, guesses: Any, speakers: Sequence[str], held_speakers: Sequence[str]) -> Score:
    """Chance is what the guess of the speaker with most training clips reaches."""
    right = [guess == truth for guess, truth in zip(guesses, held_speakers, strict=True)]
    [(usual, _)] = Counter(sorted(speakers)).most_common(1)
    chance = sum(truth == usual for truth in held_speakers) / len(held_speakers)
    return Score(name, float(np.mean(right)), chance, "share of clips")


def _shares(codes: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Roots of the frequencies in a clip of each code and each pair of codes in a row.

    Roots, so that a frequent code does not drown the rare ones that a voice prefers.
    """
    names = [str(code) for code in codes.tolist()]
    pairs = [f"{one} {two}" for one, two in pairwise(names)]
    return {name: math.sqrt(count / len(some)) for some in (names, pairs) for name, count in Counter(some).items()}
