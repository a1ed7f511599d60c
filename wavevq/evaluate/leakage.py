"""How much of the speaker the codes alone give away: less is better (Van den Oord et al. 2017, section 4.3).

A classifier hears nothing but how often each code, and each pair of codes in a row, occurs in a clip. What it reaches
is a lower bound of what the codes hold. Beside it stands what MFCC of the same clips give away, and chance; and, where
each clip holds one word of a closed vocabulary, what the same codes tell of the word, which a decoder could say.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wavevq.evaluate.metric import Figure, Findings, NotMeasured
from wavevq.evaluate.probes import Clip, Score, SpeakerProbe
from wavevq.evaluate.subject import Subject

Codes = Sequence[NDArray[np.integer[Any]]]  # of each clip, [F]

MOST_CLIPS = 3000  # training clips that the classifiers are fitted on, spread evenly over the corpus
LOOSENESS = 10.0  # of the classifier's regularisation (scikit-learn's C), for features whose squares sum to 2


def from_codes(
    codes: Codes, labels: Sequence[str], held_codes: Codes, held_labels: Sequence[str], of: str = "speaker"
) -> Score:
    """The share of held-out clips whose label their codes tell; of: what the labels are.

    codes, labels: of the training clips. Raises NotMeasured where all have one label.
    """
    from sklearn.feature_extraction import DictVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if len(set(labels)) < 2:
        raise NotMeasured(f"not measured: the training clips are all of one {of}, and there is nothing to give away")
    classifier = make_pipeline(DictVectorizer(), LogisticRegression(C=LOOSENESS, max_iter=1000))
    classifier.fit([_shares(one) for one in codes], list(labels))
    guesses = classifier.predict([_shares(one) for one in held_codes])
    return _score(f"{of} told by the codes", guesses, labels, held_labels)


def from_audio(
    clips: Iterable[Clip],
    speakers: Sequence[str],
    held_clips: Iterable[Clip],
    held_speakers: Sequence[str],
    rate: int,
) -> Score:
    """The same by mean and deviation of the MFCC of levelled audio at ``rate`` Hz; one clip is held at a time."""
    guesses = SpeakerProbe.fit(clips, speakers, rate).judge(held_clips)
    return _score("speaker told by MFCC", guesses, speakers, held_speakers)


def _score(name: str, guesses: Any, labels: Sequence[str], held_labels: Sequence[str]) -> Score:
    """Chance is what the guess of the label with most training clips reaches."""
    right = [guess == truth for guess, truth in zip(guesses, held_labels, strict=True)]
    [(usual, _)] = Counter(sorted(labels)).most_common(1)
    chance = sum(truth == usual for truth in held_labels) / len(held_labels)
    return Score(name, float(np.mean(right)), chance, "share of clips")


def _shares(codes: NDArray[np.integer[Any]]) -> dict[str, float]:
    """Roots of the frequencies in a clip of each code and each pair of codes in a row.

    Roots, so that a frequent code does not drown the rare ones that a voice prefers.
    """
    names = [str(code) for code in codes.tolist()]
    pairs = [f"{one} {two}" for one, two in pairwise(names)]
    return {name: math.sqrt(count / len(some)) for some in (names, pairs) for name, count in Counter(some).items()}


def metric(subject: Subject) -> Findings:
    """The metric ``leakage`` of ``wavevq evaluate``."""
    clips = subject.learned
    most = min(MOST_CLIPS, len(clips))
    places = [i * len(clips) // most for i in range(most)]
    speakers = [clips[i].speaker for i in places]
    held = [clip.speaker for clip in subject.clips]
    learned = [subject.training_codes[i] for i in places]
    codes, words = from_codes(learned, speakers, subject.codes, held), _words(subject, places, learned)
    audio = from_audio(
        (subject.store.audio(clips[i]) for i in places),
        speakers,
        map(subject.store.audio, subject.clips),
        held,
        subject.rate,
    )
    return Findings(
        (
            Figure("speaker told by the codes", codes.value, codes.unit, "less is better"),
            Figure("speaker told by MFCC", audio.value, audio.unit, "of the same clips' audio"),
            Figure("chance", codes.chance, codes.unit, "always the speaker with most training clips"),
            *words,
        ),
        f"Two classifiers, fitted on {len(places)} training clips, say who speaks in {len(held)} held-out ones: one "
        "sees how often each code and each pair of codes occurs in a clip, the other mean and deviation of its MFCC. "
        "What the first reaches is a lower bound of what the codes give away."
        + (" Others of the first kind say which word." if words else ""),
    )


def _words(subject: Subject, places: Sequence[int], codes: Codes) -> list[Figure]:
    """The word told by the codes, by what those of the training clips in ``places`` teach; none without words.

    And by what those of the other speakers alone teach: in codes that a conversion can say, a word is no speaker's.
    """
    if subject.word_of is None:
        return []
    words = [subject.word_of(subject.learned[i].name) for i in places]
    told = [subject.word_of(clip.name) for clip in subject.clips]
    try:
        found = from_codes(codes, words, subject.codes, told, of="word")
        right = sum(_of_a_stranger(subject, places, codes, words, told))
    except NotMeasured:  # all are one word, or all that are not of one speaker
        return []
    left_out = "word told by the codes, speaker left out"
    return [
        Figure(found.name, found.value, found.unit, "more is better: what a decoder could say"),
        Figure(left_out, right / len(told), found.unit, "by what the others' clips teach: what a conversion needs"),
        Figure("chance of a word", found.chance, found.unit, "always the word with most training clips"),
    ]


def _of_a_stranger(
    subject: Subject, places: Sequence[int], codes: Codes, words: Sequence[str], told: Sequence[str]
) -> Iterator[float]:
    """For each speaker, of how many held-out clips the word is told by what the other speakers' clips teach."""
    for speaker in sorted({clip.speaker for clip in subject.clips}):
        taught = [n for n, i in enumerate(places) if subject.learned[i].speaker != speaker]
        heard = [i for i, clip in enumerate(subject.clips) if clip.speaker == speaker]
        others = [codes[n] for n in taught], [words[n] for n in taught]
        theirs = [subject.codes[i] for i in heard], [told[i] for i in heard]
        yield from_codes(*others, *theirs, of="word").value * len(heard)
