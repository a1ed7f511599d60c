"""Generated clips before the judges: constructed ones, whose voice and word are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import sounds
from sounds import RATE, SPEAKERS, WORDS, figures, say

from wavevq.audio import Signal
from wavevq.evaluate import samples
from wavevq.evaluate.metric import NotMeasured
from wavevq.evaluate.probes import SpeakerProbe, WordProbe

EVERY = list(product(SPEAKERS, WORDS))


def clips(takes: range) -> list[Signal]:
    return [say(speaker, word, take) for take in takes for speaker, word in EVERY]


REAL, HELD_OUT, DRAWN = clips(range(8)), clips(range(8, 12)), clips(range(12, 16))
SPOKEN, SAID = [speaker for speaker, _ in EVERY], [word for _, word in EVERY]


@pytest.fixture(scope="module")
def speaker() -> SpeakerProbe:
    return SpeakerProbe.fit(REAL, SPOKEN * 8, RATE)


@pytest.fixture(scope="module")
def word() -> WordProbe:
    return WordProbe.fit(REAL, SAID * 8, RATE)


def test_clips_of_the_speaker_asked_for(speaker: SpeakerProbe) -> None:
    found = samples.voices(speaker, DRAWN, SPOKEN * 4, HELD_OUT, SPOKEN * 4)
    assert found.speakers == ("ann", "bob", "cid")
    assert np.array_equal(found.confusion, 12 * np.eye(3))
    assert (found.share, found.chance, found.ceiling, found.unheard) == (1.0, 1 / 3, 1.0, 0)
    assert found.p == pytest.approx((1 / 3) ** 36)


def test_clips_of_another_speaker_than_asked_for(speaker: SpeakerProbe) -> None:
    swapped = {"ann": "bob", "bob": "cid", "cid": "ann"}
    found = samples.voices(speaker, DRAWN, [swapped[name] for name in SPOKEN * 4], HELD_OUT, SPOKEN * 4)
    assert (found.share, found.p, found.ceiling) == (0.0, 1.0, 1.0)
    assert found.confusion.sum(1).tolist() == [12, 12, 12]


def test_a_voice_that_is_always_the_same_is_at_chance(speaker: SpeakerProbe) -> None:
    found = samples.voices(
        speaker, [say("bob", "up", i) for i in range(9)], ["ann", "bob", "cid"] * 3, HELD_OUT, SPOKEN * 4
    )
    assert found.share == found.chance
    # P(Binomial(9, 1/3) >= 3) = 1 - (512 + 2304 + 4608) / 19683
    assert found.p == pytest.approx(1 - 7424 / 19683)


def test_what_cannot_be_judged_counts_as_wrong(speaker: SpeakerProbe) -> None:
    drawn = [*DRAWN[:6], np.zeros(0, np.float32), np.zeros(RATE, np.float32), say("cid", "up", 0, seconds=0.04)]
    found = samples.voices(speaker, drawn, ["ann"] * 3 + ["bob"] * 3 + ["cid"] * 3, HELD_OUT, SPOKEN * 4)
    assert (found.own, found.unheard, found.clips) == (6, 3, 9)


def test_speakers_must_be_asked_for_as_often(speaker: SpeakerProbe) -> None:
    with pytest.raises(ValueError, match="as often"):
        samples.voices(speaker, DRAWN[:3], ["ann", "ann", "bob"], HELD_OUT, SPOKEN * 4)


def test_words_are_surer_than_noise(word: WordProbe) -> None:
    noise = [np.random.default_rng(i).normal(0, 0.08, 3200).astype(np.float32) for i in range(20)]
    found = samples.words(word, DRAWN, noise, HELD_OUT, SAID * 4)
    assert found.sure > 0.75  # of real ones 0.95
    assert (found.floor, found.ceiling, found.distinct, found.vocabulary) == (0.0, 1.0, 3, 3)
    backwards = samples.words(word, noise, DRAWN, HELD_OUT, SAID * 4)
    assert (backwards.sure, backwards.distinct, backwards.floor) == (0.0, 0, found.sure)


@pytest.mark.parametrize("names", [SPOKEN, ["ann" if name == "ann" else "other" for name in SPOKEN]])
def test_margins_are_distances_to_the_nearest_border(names: list[str]) -> None:
    """Half of the way from one clip's features to another's, some class must lose: there the margin is small."""
    probe = SpeakerProbe.fit(REAL, names * 8, RATE)
    margins = probe.margins(HELD_OUT)
    assert probe.judge(HELD_OUT) == names * 4
    assert (margins > 0.5).all()
    between = [(a + b) / 2 for a, b in zip(HELD_OUT, HELD_OUT[3:], strict=False)]
    mixed = probe.margins([clip for clip, a, b in zip(between, names * 4, (names * 4)[3:], strict=False) if a != b])
    assert np.median(mixed) < np.median(margins) / 2
    assert probe.margins([]).shape == (0,)


def test_lengths() -> None:
    found = samples.lengths([0.1, 0.2, 0.3, 1.0, 4.0], most=1.0)
    assert (found.median, found.high, found.ended, found.most) == (0.3, 1.0, 0.6, 1.0)
    assert found.low == pytest.approx(0.12)  # a fifth of the way from 0.1 to 0.2 s


# --- the metric ---------------------------------------------------------------------------------------------


def test_a_prior_whose_clips_are_words_of_their_speakers(tmp_path: Path) -> None:
    store = sounds.spoken_corpus(tmp_path)
    found = figures(samples.metric(sounds.subject_of(store, judged=10)))
    assert (found["own speaker"], found["own speaker, chance"], found["own speaker, real clips"]) == (1, 1 / 3, 1)
    assert found["own speaker, p"] == pytest.approx((1 / 3) ** 12)  # 10 clips, and two for each speaker to have as many
    assert found["different words"] == 1 + 2  # the digits go round
    assert (found["length, median"], found["ended by the prior"]) == (pytest.approx(0.4), 1)
    mute = figures(samples.metric(sounds.subject_of(store, judged=9, speaks=False)))
    assert mute["own speaker"] == mute["own speaker, chance"]  # all are ann's


def test_the_floor_is_the_same_codes_in_random_order(tmp_path: Path) -> None:
    subject = sounds.subject_of(sounds.spoken_corpus(tmp_path), judged=3)
    given: dict[str, list[np.ndarray]] = {}

    def draw(codes: Sequence[np.ndarray], voices: Sequence[str], streams: Sequence[int], what: str) -> list[Signal]:
        given[what] = list(codes)
        return subject.draw([np.zeros(len(one), np.int64) for one in codes], voices, streams, what)

    samples.metric(replace(subject, draw=draw, compose=lambda voices, frames: [np.arange(20)] * len(voices)))
    ordered, scrambled = given.values()
    for one, other in zip(ordered, scrambled, strict=True):
        assert one.tolist() == sorted(other) != other.tolist()


def test_without_a_prior_nothing_is_sampled(tmp_path: Path) -> None:
    with pytest.raises(NotMeasured, match="no trained prior"):
        samples.metric(sounds.subject_of(sounds.spoken_corpus(tmp_path), prior=None))
