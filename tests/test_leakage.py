"""Codes that are the speaker give it away, codes that know nothing of it do not."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import sounds

from wavevq.data.codes import Codes
from wavevq.data.corpora import Split
from wavevq.evaluate import leakage
from wavevq.evaluate.metric import NotMeasured

STRANGER = "word told by the codes, speaker left out"
SIZE, VOICES, CLIPS = 16, ("ann", "bob", "cat", "dan"), 200


def drawn(seed: int, likely: dict[str, np.ndarray] | None = None) -> tuple[list[np.ndarray], list[str]]:
    """Clips of 20 to 60 codes, their voices in turn; ``likely`` holds the codes' chances for a voice."""
    draw = np.random.default_rng(seed)
    speakers = [VOICES[i % len(VOICES)] for i in range(CLIPS)]
    chances = likely or dict.fromkeys(VOICES, np.full(SIZE, 1 / SIZE))
    return [draw.choice(SIZE, draw.integers(20, 60), p=chances[name]) for name in speakers], speakers


def within(share: float, chance: float, deviations: float = 4.0) -> bool:
    """Whether guessing gives ``share`` of CLIPS: four standard deviations are passed once in 16,000 draws."""
    return abs(share - chance) < deviations * np.sqrt(chance * (1 - chance) / CLIPS)


def test_a_code_that_equals_the_speaker_gives_it_away() -> None:
    speakers = [VOICES[i % len(VOICES)] for i in range(CLIPS)]
    codes = [np.full(5 + i % 7, VOICES.index(name)) for i, name in enumerate(speakers)]
    score = leakage.from_codes(codes, speakers, codes[:41], speakers[:41])
    assert score.value == 1.0
    assert score.chance == pytest.approx(11 / 41)  # ann's share of the held-out: of equals the first name counts


def test_codes_that_are_independent_of_the_speaker_leave_chance() -> None:
    score = leakage.from_codes(*drawn(0), *drawn(1))
    assert score.chance == 0.25
    assert within(score.value, 0.25)


def test_a_preferred_code_leaks_part_of_the_speaker() -> None:
    likely = {name: np.full(SIZE, 1 / SIZE) for name in VOICES}
    for i, name in enumerate(VOICES):
        likely[name] = likely[name] * 0.9
        likely[name][i] += 0.1
    assert 0.5 < leakage.from_codes(*drawn(0, likely), *drawn(1, likely)).value < 1


def test_the_order_of_codes_leaks_too() -> None:
    """Both voices use both codes equally often; one alternates them and one repeats each."""
    codes = [np.arange(40) % 2 if i % 2 else np.arange(40) // 2 % 2 for i in range(40)]
    speakers = ["ann" if i % 2 else "bob" for i in range(40)]
    assert leakage.from_codes(codes[:30], speakers[:30], codes[30:], speakers[30:]).value == 1.0


def test_shuffled_speakers_leave_chance() -> None:
    codes, speakers = drawn(0, {name: np.eye(SIZE)[i] for i, name in enumerate(VOICES)})
    shuffled = np.random.default_rng(0).permutation(speakers).tolist()
    held, held_speakers = drawn(1)
    assert within(leakage.from_codes(codes, shuffled, held, held_speakers).value, 0.25)


def test_mfcc_of_hums_give_their_pitch_away() -> None:
    draw = np.random.default_rng(0)
    speakers = ["low" if i % 2 else "high" for i in range(20)]
    time = np.arange(4000) / 8000
    clips = [
        (0.1 * np.sin(2 * np.pi * (200 if name == "low" else 900) * time) + draw.normal(0, 0.01, 4000)).astype("f4")
        for name in speakers
    ]
    score = leakage.from_audio(clips[:12], speakers[:12], clips[12:], speakers[12:], 8000)
    assert (score.value, score.chance) == (1.0, 0.5)


def test_clips_are_heard_one_at_a_time() -> None:
    """However many there are: whoever asks for a third must have let go of the first."""
    speakers = ["low" if i % 2 else "high" for i in range(12)]
    heard: list[weakref.ref[np.ndarray]] = []

    def clips() -> Iterator[np.ndarray]:
        for name in speakers:
            assert sum(one() is not None for one in heard) < 2
            hum = np.sin(2 * np.pi * (200 if name == "low" else 900) * np.arange(2000) / 8000)
            clip = (0.1 * hum).astype("f4")
            heard.append(weakref.ref(clip))
            yield clip

    assert leakage.from_audio(clips(), speakers, clips(), speakers, 8000).value == 1.0
    assert len(heard) == 24


def test_clips_of_one_codes_length_have_no_pairs() -> None:
    codes = [np.array([i % 2]) for i in range(10)]
    speakers = ["ann" if i % 2 else "bob" for i in range(10)]
    assert leakage.from_codes(codes, speakers, codes, speakers).value == 1.0


def test_the_metric_learns_from_training_clips_and_tells_of_held_out_ones(tmp_path: Path) -> None:
    store = sounds.spoken_corpus(tmp_path)

    def voices(split: Split) -> Codes:
        """Codes that are the speaker, by the name that a clip really has."""
        labels = [store.speakers.index(clip.speaker) for clip in store.split(split)]
        return Codes([np.array([label] * 8 + [9]) for label in labels], labels)

    for corpus, right in ((store, 1.0), (sounds.turned(store), 0.0)):
        found = sounds.figures(leakage.metric(replace(sounds.subject_of(corpus), encoded=voices)))
        assert (found["speaker told by the codes"], found["speaker told by MFCC"]) == (right, right)
        assert found["chance"] == pytest.approx(1 / 3)


def test_the_word_is_told_where_words_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Codes that are the word tell it of every clip, and codes that are always the same of none but the usual one."""
    monkeypatch.setattr(leakage, "MOST_CLIPS", 10)  # of 45: each fourth or fifth
    store = sounds.spoken_corpus(tmp_path)
    subject = sounds.subject_of(store)
    assert subject.word_of is not None
    word = subject.word_of

    def same(split: Split) -> Codes:
        return Codes([np.zeros(8, int) for _ in store.split(split)], [0] * len(store.split(split)))

    found = sounds.figures(leakage.metric(subject))
    assert found["word told by the codes"] == found[STRANGER] == 1.0 > found["speaker told by the codes"]
    found = sounds.figures(leakage.metric(replace(subject, encoded=same)))
    assert found["word told by the codes"] == found["chance of a word"] < 1.0

    def own(split: Split) -> Codes:
        """Each speaker has codes of its own for the words."""
        clips = store.split(split)
        return Codes(
            [np.full(8, 3 * int(word(c.name)) + store.speakers.index(c.speaker)) for c in clips], [0] * len(clips)
        )

    found = sounds.figures(leakage.metric(replace(subject, encoded=own)))
    assert found["word told by the codes"] == 1.0 > found[STRANGER] == found["chance of a word"]
    for unknown in (None, lambda name: "one"):
        found = sounds.figures(leakage.metric(replace(subject, word_of=unknown)))
        assert "word told by the codes" not in found
        assert "speaker told by the codes" in found


def test_one_speaker_is_refused() -> None:
    codes = [np.array([0, 1])] * 2
    with pytest.raises(NotMeasured, match="not measured: the training clips are all of one speaker"):
        leakage.from_codes(codes, ["ann", "ann"], codes, ["ann", "ann"])
