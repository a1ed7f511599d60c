"""Who is heard: models that convert, that do not, and labels that are swapped."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import sounds
from sounds import figures

from wavevq.audio import Signal
from wavevq.data.store import Store
from wavevq.evaluate import speaker
from wavevq.evaluate.metric import Listen, NotMeasured
from wavevq.evaluate.speaker import likeness


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return sounds.spoken_corpus(tmp_path_factory.mktemp("spoken"))


def test_a_model_that_converts(store: Store) -> None:
    found = figures(speaker.metric(sounds.subject_of(store)))
    assert (found["target, conversion"], found["source, conversion"], found["chance"]) == (1, 0, pytest.approx(1 / 3))
    for version in speaker.VERSIONS:
        assert found[f"own speaker, {version}"] == 1


def test_conversions_are_there_to_hear(store: Store) -> None:
    subject = sounds.subject_of(store)
    rows = [part for part in speaker.metric(subject).parts if isinstance(part, Listen)]
    assert [row.caption for row in rows] == [subject.utterances[i].clip.name for i in (0, 4, 8)]
    for row, place in zip(rows, (0, 4, 8), strict=True):
        target = subject.utterances[place].target
        assert [take.caption for take in row.takes] == ["original", f"conversion to {target}"]
        assert np.array_equal(row.takes[1].samples, subject.heard("conversion")[place])


def test_a_model_that_keeps_the_voice(store: Store) -> None:
    found = figures(speaker.metric(sounds.subject_of(store, speaks=False)))
    assert (found["target, conversion"], found["source, conversion"]) == (0, 1)
    assert found["own speaker, reconstruction"] == 1


def test_swapped_labels(store: Store) -> None:
    """The same clips under each other's names: what was all target is all source."""
    subject = sounds.subject_of(store)
    judge = subject.judges.speaker
    assert judge is not None
    targets, sources = ([f(one) for one in subject.utterances] for f in (lambda u: u.target, lambda u: u.clip.speaker))
    clips = subject.judged_as("conversion")
    right = speaker.conversions(judge, clips, targets, sources)
    swapped = speaker.conversions(judge, clips, sources, targets)
    assert (right.target, right.source, swapped.target, swapped.source) == (1, 0, 0, 1)
    assert np.array_equal(right.confusion, np.diag(right.confusion.diagonal()))
    assert swapped.confusion.trace() == 0
    assert right.confusion.sum() == swapped.confusion.sum() == len(clips)


def test_the_judge_has_heard_no_held_out_clip(store: Store) -> None:
    subject = sounds.subject_of(sounds.turned(store))
    assert figures(speaker.metric(subject))["own speaker, original"] == 0


def test_every_speaker_is_converted_to_every_other(store: Store) -> None:
    pairs = [(one.clip.speaker, one.target) for one in sounds.subject_of(store, judged=18).utterances]
    assert len(set(pairs)) == 6
    assert all(source != target for source, target in pairs)


def test_likeness() -> None:
    cosines = np.array([[0.9, 0.1], [0.8, 0.6], [0.0, 1.0]])
    assert (likeness(cosines, [0, 1, 1]).cosine, likeness(cosines, [0, 1, 1]).nearest) == (
        pytest.approx(2.5 / 3),
        pytest.approx(2 / 3),
    )


def test_an_encoder_that_hears_the_spectrum(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In Resemblyzer's place: the metric around it, with an embedding whose answers are known."""

    def embed(clip: Signal, rate: int) -> np.ndarray:
        voice = np.array([np.abs(np.fft.rfft(clip, 512 * 16)).reshape(-1)[:4096].reshape(16, 256).sum(1)])[0]
        return voice / np.linalg.norm(voice)

    monkeypatch.setattr(speaker, "resemblyzer", lambda: embed)
    found = figures(speaker.encoder_metric(sounds.subject_of(store)))
    assert (found["nearest to target, conversion"], found["nearest to source, conversion"]) == (1, 0)
    assert found["nearest to own speaker, original"] == 1
    own, other = found["cosine to own speaker, original"], found["cosine to another speaker, original"]
    assert own is not None
    assert other is not None
    assert 1 >= own > other
    kept = figures(speaker.encoder_metric(sounds.subject_of(store, speaks=False)))
    assert (kept["nearest to target, conversion"], kept["nearest to source, conversion"]) == (0, 1)


def test_without_resemblyzer_it_says_what_to_install(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resemblyzer", None)
    with pytest.raises(NotMeasured, match=r"not measured: pip install wavevq\[eval\] \(resemblyzer is missing\)"):
        speaker.encoder_metric(sounds.subject_of(store))


def test_resemblyzer_tells_voices_apart(store: Store) -> None:
    pytest.importorskip("resemblyzer", reason='needs pip install "wavevq[eval]"', exc_type=ImportError)
    found = figures(speaker.encoder_metric(sounds.subject_of(store)))
    own, other = found["cosine to own speaker, original"], found["cosine to another speaker, original"]
    assert own is not None
    assert other is not None
    assert own > other
