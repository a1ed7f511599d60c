"""Generated clips before the judges: constructed ones, whose voice and word are known."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
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


# --- a folder of audio before the same judges ---------------------------------------------------------------


def test_a_folder_is_heard_as_what_was_said_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """benchmarks/heard.py, of a voice's words at another rate and level, another voice's, a hum and silence."""
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    heard = __import__("heard")
    store = sounds.spoken_corpus(tmp_path / "corpus")
    monkeypatch.setattr(heard, "subject_of", lambda run, recipe, console: sounds.subject_of(store))
    monkeypatch.setattr(heard, "with_overrides", lambda run, sets: None)
    run = SimpleNamespace(speakers=store.speakers, speaker=store.speakers.index, rate=sounds.RATE)
    monkeypatch.setattr(heard, "load_run", lambda name, device, enrolled: run)
    folder = tmp_path / "made"
    folder.mkdir()
    for digit, word in enumerate(sounds.WORDS):
        twice = np.repeat(sounds.say("bob", word, 50), 2)
        soundfile.write(folder / f"bob{digit}.wav", 0.1 * twice, 2 * sounds.RATE)
    soundfile.write(folder / "cid.wav", sounds.say("cid", "low", 50), sounds.RATE)
    noise = 0.1 * np.random.default_rng(0).normal(size=sounds.RATE // 2)
    soundfile.write(folder / "noise.wav", noise, sounds.RATE)
    soundfile.write(folder / "silence.wav", np.zeros(sounds.RATE), sounds.RATE)
    told = tmp_path / "told.json"
    monkeypatch.setattr(sys, "argv", ["heard.py", str(folder), "--run", "any", "--speaker", "bob", "--json", str(told)])
    heard.main()
    lines = [line.split("│") for line in capsys.readouterr().out.splitlines() if "│" in line]
    by_file = {name.strip(): [cell.strip() for cell in cells] for _, name, *cells, _ in lines}
    for digit in range(3):
        assert by_file[f"bob{digit}.wav"] == ["0.40", "bob", str(digit)]
    assert by_file["cid.wav"][1] == "cid"
    assert by_file["noise.wav"][2].endswith(", unsure")
    assert by_file["silence.wav"] == ["1.00", "–", "–"]
    voices, words = zip(*(cells[1:] for cells in by_file.values()), strict=True)
    sure = sum(word in ("0", "1", "2") for word in words)
    record = json.loads(told.read_text())
    assert record["files"] == 6
    assert record["heard as bob"] == pytest.approx(voices.count("bob") / 6)
    assert record["surely a word"] == pytest.approx(sure / 6)
    assert 3 <= sure <= 4
    # Without a judge nothing is said, and above all no 0.
    monkeypatch.setattr(
        heard, "subject_of", lambda run, recipe, console: replace(sounds.subject_of(store), word_of=None)
    )
    heard.main()
    record = json.loads(told.read_text())
    assert (record["heard as bob"], record["surely a word"]) == (pytest.approx(voices.count("bob") / 6), None)
    assert "surely a word not measured" in capsys.readouterr().out


def test_a_folder_that_cannot_be_heard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    run = Path(__file__).parents[1] / "wavevq/models/digits"
    monkeypatch.setattr(sys, "argv", ["heard.py", str(tmp_path), "--run", str(run), "--speaker", "nobody"])
    with pytest.raises(SystemExit) as ended:
        __import__("heard").main()
    assert ended.value.code == 2
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("nobody: not a speaker of ")
