"""The map from codes to phonemes, on codes and phones with known answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wavevq.data import corpora
from wavevq.data.alignments import Phone
from wavevq.data.codes import Codes
from wavevq.data.corpora import Split
from wavevq.data.store import prepare
from wavevq.evaluate import phonemes
from wavevq.evaluate.metric import NotMeasured
from wavevq.evaluate.phonemes import Spoken, mapped, measure
from wavevq.evaluate.phones import CLASSES, IPA, NOWHERE, SILENCE, class_of, frame_classes, phone_at
from wavevq.evaluate.subject import Subject
from wavevq.recipe import Evaluation

HOP = 0.04
SYMBOLS = [symbols[0] for symbols in IPA.values()]


def spoken(classes: list[np.ndarray], codes: list[np.ndarray] | None = None) -> Spoken:
    """Clips with one phone a frame; the codes are the classes where none are given."""
    phones = [[(i * HOP, (i + 1) * HOP, SYMBOLS[c]) for i, c in enumerate(clip)] for clip in classes]
    return Spoken(codes or classes, phones, [f"clip {i}" for i in range(len(classes))])


def drawn(seed: int, clips: int = 60, frames: int = 60, low: int = 0) -> list[np.ndarray]:
    return list(np.random.default_rng(seed).integers(low, len(CLASSES), (clips, frames)))


# --- classes ------------------------------------------------------------------------------------------------


def test_there_are_41_classes_and_no_symbol_is_in_two() -> None:
    assert len(CLASSES) == 41
    symbols = [symbol for some in IPA.values() for symbol in some]
    assert len(symbols) == len(set(symbols))


# What espeak-ng's en-US says of all words of the grammar by all ten voices, and of 25,000 words of English texts.
ESPEAK = """
    _ n ɪ d t ə l ð s z w ɹ ɚ uː k æ ɛ f iː p v ʃ aʊ m dʒ ʌ b j eɪ aɪ h oʊ i θ ᵻ tʃ ʊ ɜː ɡ ɑː ɐ ɔːɹ ɛɹ ɔː əl ɔɪ ɑːɹ ŋ ʒ
    ɔ ɾ ʊɹ ɪɹ aɪɚ aɪə iə ʔ n̩ r x ɬ
"""


def test_all_that_espeak_says_has_a_class() -> None:
    assert {CLASSES[class_of(symbol, "")] for symbol in ESPEAK.split()} == set(CLASSES)


def test_every_symbol_of_the_embedded_corpus_has_a_class(tmp_path: Path) -> None:
    pytest.importorskip("espeakng_loader", reason='needs pip install "wavevq[synthetic]"')
    from wavevq.data.synthetic import synthesize

    corpus = synthesize(1, 400, 0, tmp_path)
    sidecars = [path.read_text("utf-8").splitlines()[1:] for path in corpus.rglob("*.phones.tsv")]
    heard = {line.split("\t")[2] for lines in sidecars for line in lines}
    assert {CLASSES[class_of(symbol, "")] for symbol in heard} == set(CLASSES)


@pytest.mark.parametrize(
    ("symbol", "name"),
    [("AH0", "AX"), ("AH1", "AH"), ("IY2", "IY"), ("er0", "ER"), ("K", "K"), ("ɚ", "ER"), ("aɪɚ", "AY"), ("p", "P")]
    + [(pause, SILENCE) for pause in ("", "_", "sil", "sp", "SIL", "<eps>")],
)
def test_both_notations_lead_to_the_same_classes(symbol: str, name: str) -> None:
    assert CLASSES[class_of(symbol, "a")] == name


def test_unknown_speech_has_no_class() -> None:
    assert class_of("spn", "a") == NOWHERE


@pytest.mark.parametrize("symbol", ["ɮ", "AA9", "QQ1", "hello"])
def test_an_unknown_symbol_is_named(symbol: str) -> None:
    with pytest.raises(NotMeasured, match=rf"ann/1\.wav: the phone '{symbol}' is in none of the 41 classes.*ARPAbet"):
        class_of(symbol, "ann/1.wav")


def test_a_frames_phone_is_the_one_at_its_centre() -> None:
    phones: list[Phone] = [(0.0, 0.1, "p"), (0.1, 0.25, "iː"), (0.3, 0.4, "_")]
    assert phone_at(phones, np.array([-0.01, 0.0, 0.0999, 0.1, 0.25, 0.35, 0.4])).tolist() == [-1, 0, 0, 1, -1, 2, -1]
    # Centres at 0.05, 0.15, 0.25 (in a gap), 0.35 and 0.45 (past the end).
    names = [CLASSES[c] if c != NOWHERE else None for c in frame_classes(phones, 5, 0.1, "a")]
    assert names == ["P", "IY", None, "SIL", None]
    assert frame_classes([], 3, 0.1, "a").tolist() == [NOWHERE] * 3


# --- the map ------------------------------------------------------------------------------------------------


def test_by_hand() -> None:
    # Code 0 is mostly class 5, code 1 always 6, code 2 is unseen and so the most frequent class, which is 5.
    codes, classes = np.array([0, 0, 0, 1, 1, 3, 3]), np.array([5, 5, 6, 6, 6, 5, 5])
    assert mapped(codes, classes, np.array([0, 0, 1, 2]), np.array([5, 6, 6, 5]), 4) == 0.75


def test_a_code_that_equals_the_phoneme_is_always_right() -> None:
    found = measure(spoken(drawn(0)), spoken(drawn(1)), len(CLASSES), HOP, 0)
    assert (found.accuracy, found.speech, found.in_context) == (1.0, 1.0, 1.0)
    assert abs(found.random - 1 / 41) < 4 * np.sqrt(1 / 41 / found.frames)  # four standard deviations
    assert found.frames == 3600


def test_several_codes_of_one_phoneme_lose_nothing_and_shared_codes_do() -> None:
    train, held = drawn(0), drawn(1)
    tripled = [spoken(some, [clip * 3 + np.arange(len(clip)) % 3 for clip in some]) for some in (train, held)]
    assert measure(*tripled, 3 * len(CLASSES), HOP, 0).accuracy == 1.0
    halved = [spoken(some, [clip // 2 for clip in some]) for some in (train, held)]
    # Pairs of equally frequent classes share a code (the last class has one alone): about half is right.
    assert measure(*halved, len(CLASSES), HOP, 0).accuracy == pytest.approx(21 / 41, abs=0.04)


def test_codes_independent_of_the_phoneme_reach_chance() -> None:
    other = [spoken(drawn(seed), drawn(seed + 2)) for seed in (0, 1)]
    found = measure(*other, len(CLASSES), HOP, 0)
    error = 4 * np.sqrt(1 / 41 / found.frames)  # four standard deviations
    for share in (found.accuracy, found.random, found.majority, found.silence, found.in_context):
        assert abs(share - 1 / 41) < error


def test_silence_and_majority_are_told_apart_from_speech() -> None:
    """Half of the frames silence, and codes that know nothing but that."""
    silence = CLASSES.index(SILENCE)
    classes = drawn(0, low=1), drawn(1, low=1)
    for some in classes:
        for clip in some:
            clip[::2] = silence
    known = [spoken(some, [(clip == silence).astype(int) for clip in some]) for some in classes]
    found = measure(*known, 2, HOP, 0)
    assert found.majority == pytest.approx(0.5, abs=0.03)  # some of the other half is silence too
    assert found.silence == found.majority
    assert found.accuracy == pytest.approx(found.silence + 0.5 / 39, abs=0.03)
    assert found.speech == found.majority_speech < 0.06
    assert found.random == pytest.approx(found.majority, abs=0.02)


def test_neighbours_tell_what_a_code_alone_does_not() -> None:
    """Each code is the phone of the frame before it."""
    late = [spoken(some, [np.roll(clip, 1) for clip in some]) for some in (drawn(0), drawn(1))]
    found = measure(*late, len(CLASSES), HOP, 0)
    assert found.accuracy < 0.06
    assert found.in_context > 0.95  # of a clip the last phone is in no code


def test_frames_without_a_phone_do_not_count() -> None:
    short = [
        Spoken(one.codes, [said[:30] for said in one.phones], one.names) for one in map(spoken, (drawn(0), drawn(1)))
    ]
    assert measure(short[0], short[1], len(CLASSES), HOP, 0).frames == 60 * 30


def test_unknown_speech_is_neither_learned_nor_counted() -> None:
    """Of codes that are the phones, but where the aligner gave up: there they are drawn, and nothing is lost."""
    parts = []
    for seed in (0, 1):
        clean = spoken(drawn(seed))
        gone = np.random.default_rng(seed + 5).random((60, 60)) < 0.3
        phones = [
            [(a, b, "spn" if lost else symbol) for (a, b, symbol), lost in zip(clip, row, strict=True)]
            for clip, row in zip(clean.phones, gone, strict=True)
        ]
        codes = [np.where(row, other, own) for row, other, own in zip(gone, drawn(seed + 7), clean.codes, strict=True)]
        parts.append((Spoken(codes, phones, clean.names), int((~gone).sum())))
    (training, _), (held, frames) = parts
    found = measure(training, held, len(CLASSES), HOP, 0)
    # Around a frame stand codes of any kind, so what sees them too may err now and then.
    assert (found.accuracy, found.speech, found.frames) == (1.0, 1.0, frames)
    assert found.in_context > 0.99


def test_measuring_twice_gives_the_same() -> None:
    parts = [spoken(drawn(seed), drawn(seed + 2)) for seed in (0, 1)]
    assert measure(*parts, len(CLASSES), HOP, 0) == measure(*parts, len(CLASSES), HOP, 0)


def test_the_classifier_is_fitted_on_a_share_of_many_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(phonemes, "MOST_FRAMES", 2000)
    found = measure(spoken(drawn(0)), spoken(drawn(1)), len(CLASSES), HOP, 0)
    assert found.in_context > 0.99


@dataclass(frozen=True, eq=False)
class Knowing(Subject):
    """Its codes are the classes of the phones."""

    @property
    def hop(self) -> int:
        return 400

    @property
    def size(self) -> int:
        return len(CLASSES)


def subject(
    corpus: Path, make_audio: Callable[..., Path], split: str = "val", phones: bool = True, told: int = 0
) -> Knowing:
    """told: the held-out clips' codes are of the phone so many further in the cycle."""
    symbols = ("AA1", "B", "sil", "IY0", "K")
    for speaker in ("ann", "bob"):
        for i in range(6):
            path = make_audio(corpus / speaker / f"{i}.wav", seconds=0.5)
            if phones:
                said = [f"{i} 1 {0.1 * j} 0.1 {symbols[(i + j) % 5]}\n" for j in range(5)]
                path.with_suffix(".ctm").write_text("".join(said))
    store = prepare(corpora.folder(corpus, 0.3, 0), 8000, None)

    def encoded(which: Split) -> Codes:
        every = [frame_classes(clip.phones or (), 10, 0.05, clip.name) for clip in store.split(which)]
        cycle = [class_of(symbol, "") for symbol in symbols]
        if which == "val" and phones:
            every = [np.array([cycle[(cycle.index(c) + told) % 5] for c in one]) for one in every]
        return Codes([np.append(np.maximum(one, 0), len(CLASSES)) for one in every], [0] * len(every))

    given: dict[str, Any] = {"store": store, "plan": Evaluation(split=split), "seed": 0, "encoded": encoded}
    return Knowing(**{field.name: given.get(field.name) for field in fields(Subject)})


def test_the_metric_hears_codes_that_are_phones(tmp_path: Path, make_audio: Callable[..., Path], cache: Path) -> None:
    figures = {one.name: one.value for one in phonemes.metric(subject(tmp_path / "corpus", make_audio)).figures}
    assert figures["accuracy"] == figures["accuracy without silence"] == 1.0
    assert figures["silence"] == pytest.approx(0.2)
    assert figures["frames"] == 40  # 30 % of 12 clips, ten codes each


def test_the_map_is_that_of_the_training_clips(tmp_path: Path, make_audio: Callable[..., Path], cache: Path) -> None:
    """Held-out codes that mean the next phone are always wrong, in training they are always right."""
    found = phonemes.metric(subject(tmp_path / "corpus", make_audio, told=1)).figures
    assert [one.value for one in found if one.name.startswith("accuracy")] == [0.0, 0.0, 0.0]  # alone and in context


def test_the_metric_needs_phones_and_held_out_clips(
    tmp_path: Path, make_audio: Callable[..., Path], cache: Path
) -> None:
    with pytest.raises(NotMeasured, match=r"needs phone boundaries: .*data\.alignments"):
        phonemes.metric(subject(tmp_path / "mute", make_audio, phones=False))
    with pytest.raises(NotMeasured, match=r"evaluation\.split is train"):
        phonemes.metric(subject(tmp_path / "corpus", make_audio, split="train"))


def test_mistakes_are_named() -> None:
    good = spoken(drawn(0, 2, 5))
    bad = Spoken([np.zeros(3, int)], [[(0.0, 1.0, "ɮ")]], ["bob/2.wav"])
    with pytest.raises(NotMeasured, match=r"^not measured: bob/2\.wav: the phone 'ɮ'"):
        measure(good, bad, len(CLASSES), HOP, 0)
    silent = Spoken([np.zeros(3, int)], [[(0.0, 1.0, "_")]], ["bob/2.wav"])
    with pytest.raises(NotMeasured, match="no frame of speech has a phone"):
        measure(good, silent, len(CLASSES), HOP, 0)
