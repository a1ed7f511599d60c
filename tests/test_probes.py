"""The probes hear what they should, and nothing when there is nothing to hear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import soundfile

from wavevq.data.alignments import Phone
from wavevq.data.synthetic import synthesize
from wavevq.evaluate.probes import Clip, PhoneProbe, SpeakerProbe, WordProbe

SENTENCES, HELD_OUT = 24, 8


@dataclass(frozen=True)
class Part:
    clips: list[Clip]
    speakers: list[str]
    phones: list[list[Phone]]


def read(path: Path) -> tuple[Clip, int]:
    samples, rate = soundfile.read(path, dtype="float32")
    samples -= samples.mean()
    return np.clip(samples * (0.08 / samples.std()), -1, 1), rate


def read_phones(audio: Path) -> list[Phone]:
    rows = audio.with_suffix(".phones.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(float(start), float(end), symbol) for start, end, symbol in (row.split("\t") for row in rows)]


@pytest.fixture(scope="module")
def speech(tmp_path_factory: pytest.TempPathFactory) -> tuple[Part, Part]:
    """Sentences to fit on, and other sentences of the same three voices, at 22,050 Hz."""
    pytest.importorskip("espeakng_loader", reason='needs pip install "wavevq[synthetic]"')
    corpus = synthesize(3, SENTENCES, 0, tmp_path_factory.mktemp("speech"))
    parts = Part([], [], []), Part([], [], [])
    for path in sorted(corpus.rglob("*.flac")):
        part = parts[int(path.stem[-4:]) > SENTENCES - HELD_OUT]
        part.clips.append(read(path)[0])
        part.speakers.append(path.parent.name)
        part.phones.append(read_phones(path))
    return parts


RATE = 22_050


def test_speakers_are_told_apart_by_other_sentences(speech: tuple[Part, Part]) -> None:
    train, test = speech
    score = SpeakerProbe.fit(train.clips, train.speakers, RATE).score("speaker", test.clips, test.speakers)
    assert score.chance == pytest.approx(1 / 3)
    assert score.value > 0.95


def test_a_speaker_probe_of_shuffled_labels_is_near_chance(speech: tuple[Part, Part]) -> None:
    train, test = speech
    names = sorted(set(train.speakers))
    shuffled = [names[i % 3] for i in range(len(train.clips))]  # each voice goes by every name
    score = SpeakerProbe.fit(train.clips, shuffled, RATE).score("speaker", test.clips, test.speakers)
    assert score.value < 1 / 3 + 3 * np.sqrt(2 / 9 / len(test.clips))  # three standard deviations of guessing


def test_phones_are_recognised_in_other_sentences(speech: tuple[Part, Part]) -> None:
    train, test = speech
    score = PhoneProbe.fit(train.clips, train.phones, RATE).score("phones", test.clips, test.phones)
    assert score.chance < 0.1
    assert score.value > 0.55  # measured: .68, frames at the borders of phones included


def test_phones_of_another_sentence_are_near_chance(speech: tuple[Part, Part]) -> None:
    train, test = speech
    probe = PhoneProbe.fit(train.clips, train.phones, RATE)
    wrong = [test.phones[(i + 1) % HELD_OUT] for i in range(len(test.clips))]
    assert probe.accuracy(test.clips, wrong) < 0.12


def test_a_later_phone_is_a_wrong_phone(speech: tuple[Part, Part]) -> None:
    """Boundaries count: half a second late, nothing fits."""
    train, test = speech
    probe = PhoneProbe.fit(train.clips, train.phones, RATE)
    late = [np.concatenate([np.zeros(RATE // 2, np.float32), clip]) for clip in test.clips]
    assert probe.accuracy(late, test.phones) < 0.15


def test_fitting_again_changes_nothing(speech: tuple[Part, Part], monkeypatch: pytest.MonkeyPatch) -> None:
    train, test = speech
    monkeypatch.setattr("wavevq.evaluate.probes.MOST_FRAMES", 2000)  # so that frames are drawn
    once, again = (PhoneProbe.fit(train.clips, train.phones, RATE).accuracy(test.clips, test.phones) for _ in range(2))
    assert once == again


def test_words_of_a_closed_vocabulary_are_told_apart(speech: tuple[Part, Part]) -> None:
    """Single phones serve as the words."""
    vocabulary = ("iː", "s", "n", "aʊ")
    clips: list[list[Clip]] = [[], []]
    words: list[list[str]] = [[], []]
    for side, part in enumerate(speech):
        for clip, phones in zip(part.clips, part.phones, strict=True):
            for start, end, symbol in phones:
                if symbol in vocabulary:
                    clips[side].append(clip[round(start * RATE) : round(end * RATE)])
                    words[side].append(symbol)
    probe = WordProbe.fit(clips[0], words[0], RATE)
    assert probe.score("word", clips[1], words[1]).value > 0.85
    rolled = words[0][1:] + words[0][:1]
    shuffled = WordProbe.fit(clips[0], rolled, RATE).score("word", clips[1], words[1])
    assert shuffled.value < 0.6


@pytest.mark.parametrize("seconds", [0.004, 0.05, 3.0])
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_any_length_at_any_rate_is_judged(seconds: float, rate: int) -> None:
    draw = np.random.default_rng(0)
    clips = [draw.normal(0, 0.1, round(seconds * rate)).astype(np.float32) for _ in range(4)]
    clips[0][:] = 0  # digital silence
    classes = ["a", "b", "a", "b"]
    for probe in (SpeakerProbe.fit(clips, classes, rate), WordProbe.fit(clips, classes, rate)):
        assert set(probe.judge(clips)) <= {"a", "b"}
        assert probe.judge([]) == []


def test_real_digits_and_speakers(test_data: Path) -> None:
    """FSDD, recordings 10-49 against 05-09; a fifth of them, for speed. Measured on all: .993 and .983."""
    root = test_data / "fsdd"
    sides = []
    for name, step in (("train", 5), ("val", 1)):
        files = (root / f"{name}.txt").read_text().split()[::step]
        clips = [read(root / file)[0] for file in files]
        sides.append(
            (clips, [file.split("/")[1] for file in files], [Path(file).stem.split("_")[1][0] for file in files])
        )
    (clips, speakers, digits), (held_out, their_speakers, their_digits) = sides
    speaker = SpeakerProbe.fit(clips, speakers, 8000).score("speaker", held_out, their_speakers)
    digit = WordProbe.fit(clips, digits, 8000).score("digit", held_out, their_digits)
    assert (speaker.chance, digit.chance) == (pytest.approx(1 / 6, abs=0.01), pytest.approx(0.1, abs=0.01))
    assert speaker.value > 0.95
    assert digit.value > 0.85
