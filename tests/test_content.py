"""What is heard: models that say the right word, always the same one, and transcripts whose errors are counted."""

from __future__ import annotations

import importlib.util
import socket
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import pytest
import sounds
import torch
import torchaudio
from sounds import WORDS, figures

from wavevq.audio import Signal, level
from wavevq.data import corpora
from wavevq.data.store import Store
from wavevq.evaluate import content, recognise
from wavevq.evaluate.metric import NotMeasured
from wavevq.evaluate.probes import WordProbe
from wavevq.evaluate.recognise import Wav2Vec2, error_rate, greedy


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return sounds.spoken_corpus(tmp_path_factory.mktemp("spoken"))


def test_a_model_that_says_the_word(store: Store) -> None:
    subject = sounds.subject_of(store)
    found = figures(content.metric(subject))
    assert (found["words, original"], found["words, reconstruction"], found["words, conversion"]) == (1, 1, 1)
    assert found["words, chance"] == pytest.approx(1 / 3)
    same = [one.donor is not None and one.donor[0] == one.codes[0] for one in subject.utterances]
    assert found["words, shuffled codes"] == pytest.approx(np.mean(same))  # another clip may hold the same word
    assert not all(same)


def test_a_model_that_says_one_word(store: Store) -> None:
    found = figures(content.metric(sounds.subject_of(store, hears=False)))
    assert found["words, original"] == 1
    assert found["words, reconstruction"] == found["words, shuffled codes"] == pytest.approx(1 / 3)


def test_the_original_is_judged_after_mu_law_as_all_that_a_model_says(store: Store) -> None:
    subject = sounds.subject_of(store)
    heard, bent = subject.judged_as("original"), subject.heard("mu-law")
    for one, other, clip in zip(heard, bent, subject.heard("original"), strict=True):
        assert np.array_equal(one, level(other))
        assert not np.array_equal(one, level(clip))


def known(take: int) -> bool:
    """Of the first takes, which are trained on, and of the last, which are held out: of neither all."""
    return take not in (0, 6)


def test_phones_of_the_clips_that_have_them(tmp_path: Path) -> None:
    store = sounds.spoken_corpus(tmp_path, phones=known)
    assert {clip.phones is None for split in ("train", "val") for clip in store.split(split)} == {True, False}
    hearing = figures(content.metric(replace(sounds.subject_of(store, judged=27), word_of=None)))
    assert hearing["phones, chance"] == pytest.approx(4 / 6, abs=0.02)  # p is in four halves of six
    for version in ("original", "reconstruction", "conversion"):
        assert (hearing[f"phones, {version}"] or 0) > 0.9  # but for frames in the middle of a glide
    deaf = figures(content.metric(replace(sounds.subject_of(store, judged=27, hears=False), word_of=None)))
    # It says "up": right all through, in no half, and in one.
    assert deaf["phones, reconstruction"] == pytest.approx(1 / 2, abs=0.05)


def test_speech_that_an_aligner_did_not_know_is_neither_learned_nor_judged(tmp_path: Path) -> None:
    """In one word it stands in place of both phones: the judge knows p and t, and hears those of the other words."""
    store = sounds.spoken_corpus(tmp_path, phones=known)
    clips = tuple(
        replace(one, phones=tuple((a, b, "spn") for a, b, _ in one.phones))
        if one.phones and corpora.digit(one.name) == "0"
        else one
        for one in store.clips
    )
    subject = replace(sounds.subject_of(replace(store, clips=clips), judged=27), word_of=None)
    assert subject.judges.phone is not None
    assert list(subject.judges.phone.classifier.classes_) == ["p", "t"]
    found = figures(content.metric(subject))
    assert (found["phones, original"] or 0) > 0.9
    assert found["phones, chance"] == pytest.approx(3 / 4, abs=0.02)  # p, in three of the four halves that are left


def test_one_phone_alone_is_nothing_to_tell_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sounds, "PHONES", dict.fromkeys(WORDS, "pp"))
    found = figures(content.metric(sounds.subject_of(sounds.spoken_corpus(tmp_path, phones=known))))
    assert {name.partition(",")[0] for name in found} == {"words"}


def test_one_word_alone_is_nothing_to_tell_apart(store: Store) -> None:
    with pytest.raises(NotMeasured, match="no words of a closed vocabulary"):
        content.metric(replace(sounds.subject_of(store), word_of=lambda name: "zero"))


# --- recognisers --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Listener:
    """Hears the constructed words, and between two of them says "then"."""

    probe: WordProbe

    def transcribe(self, samples: Signal, rate: int) -> str:
        assert rate == sounds.RATE
        return f"said {list(WORDS)[int(self.probe.judge([samples])[0])]}"


def test_errors_of_a_recogniser_against_its_own_words(store: Store) -> None:
    pytest.importorskip("espeakng_loader", reason='needs pip install "wavevq[synthetic]"')
    subject = sounds.subject_of(store)
    assert subject.judges.word is not None
    listener = Listener(subject.judges.word)
    rows = {one.name: one.value for one in content.transcript_figures(subject, listener)}
    assert (rows["word error rate, original"], rows["word error rate, reconstruction"]) == (0, 0)
    donors = [one.donor is not None and one.donor[0] != one.codes[0] for one in subject.utterances]
    assert rows["word error rate, shuffled codes"] == pytest.approx(np.mean(donors) / 2)  # one word of two
    said = [listener.transcribe(clip, sounds.RATE) for clip in subject.heard("original")]
    others = [a != b for a, b in zip(said, said[1:] + said[:1], strict=True)]
    assert rows["word error rate, chance"] == pytest.approx(np.mean(others) / 2)
    assert rows["character error rate, conversion"] == 0
    assert rows["phone error rate, reconstruction"] == 0 < rows["phone error rate, chance"]
    deaf = sounds.subject_of(store, hears=False)
    rows = {one.name: one.value for one in content.transcript_figures(deaf, listener)}
    assert rows["word error rate, reconstruction"] == pytest.approx(1 / 3)  # wrong in two clips of three


def test_wrong_words_that_sound_alike_have_the_right_phones(store: Store) -> None:
    pytest.importorskip("espeakng_loader", reason='needs pip install "wavevq[synthetic]"')
    said = iter(["two knights write"] + ["too nights right"] * 5)
    listener = SimpleNamespace(transcribe=lambda samples, rate: next(said))
    rows = {one.name: one.value for one in content.transcript_figures(sounds.subject_of(store, judged=1), listener)}
    assert rows["word error rate, conversion"] == 1
    assert rows["phone error rate, conversion"] == 0
    assert 0 < rows["character error rate, conversion"] < 1


def test_without_espeak_there_are_no_phones_and_the_rest_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "espeakng_loader" else find(name))
    listener = SimpleNamespace(transcribe=lambda samples, rate: "word")
    *rows, last = content.transcript_figures(sounds.subject_of(store, judged=1), listener)
    assert (last.name, last.value) == ("phone error rate", None)
    assert last.note == 'phones of a text need espeak-ng: pip install "wavevq[synthetic]"'
    assert {one.name.partition(",")[0] for one in rows} == {"word error rate", "character error rate"}


def test_of_one_clip_there_is_no_other_for_chance(store: Store) -> None:
    listener = SimpleNamespace(transcribe=lambda samples, rate: "word")
    found = [one.name for one in content.transcript_figures(sounds.subject_of(store, judged=1), listener)]
    assert "word error rate, original" in found
    assert not [name for name in found if "chance" in name]


def test_a_recogniser_that_hears_nothing(store: Store) -> None:
    silent = SimpleNamespace(transcribe=lambda samples, rate: "")
    for one in content.transcript_figures(sounds.subject_of(store), silent):
        assert (one.value, one.note) == (None, "the recogniser hears no words in the originals")


@pytest.mark.parametrize(
    ("said", "heard", "words", "characters"),
    [
        (["a b c"], ["a b c"], 0, 0),
        (["a b c"], ["a x c"], 1 / 3, 1 / 5),
        (["a b c", "d"], ["a c", ""], 2 / 4, 3 / 6),
        (["a"], ["b a c"], 2, 4),
        ([""], ["a"], None, None),
    ],
)
def test_error_rates(said: list[str], heard: list[str], words: float | None, characters: float | None) -> None:
    assert error_rate(said, heard, str.split) == words
    assert error_rate(said, heard, list) == characters


def test_greedy_letters() -> None:
    labels = ("-", "|", "A", "B")
    frames = [0, 2, 2, 0, 2, 1, 1, 0, 1, 3, 3, 0]  # -AA-A||-|BB-
    assert greedy(torch.eye(4)[frames], labels) == "AA B"
    assert greedy(torch.eye(4)[[0, 0, 1]], labels) == ""


def test_a_pipeline_is_given_audio_at_its_rate() -> None:
    given = []

    def model(x: torch.Tensor) -> tuple[torch.Tensor, None]:
        given.append(x.shape)
        return torch.eye(3)[[2, 0]][None], None

    assert Wav2Vec2(model, ("-", "|", "A"), 16_000).transcribe(np.zeros(4000, np.float32), 8000) == "A"
    assert given == [(1, 8000)]


def test_weights_that_cannot_be_had_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = []

    def unreachable() -> None:
        waits.append(socket.getdefaulttimeout())
        raise URLError("no such host")

    bundle = SimpleNamespace(get_model=unreachable)
    monkeypatch.setattr(torchaudio.pipelines, "WAV2VEC2_ASR_BASE_960H", bundle)
    with pytest.raises(NotMeasured, match=r"the weights of WAV2VEC2_ASR_BASE_960H cannot be fetched, .*no such host"):
        recognise.load("WAV2VEC2_ASR_BASE_960H")
    assert waits == [recognise.PATIENCE]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("kept", [0, 10, 0.5, "<html>no such page</html>"])
def test_weights_that_are_damaged_are_one_line(
    kept: float | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As torch reads them: a download that was empty, one that was cut, and a server's excuse in their place."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    file = tmp_path / "hub" / "checkpoints" / "weights.pth"
    file.parent.mkdir(parents=True)
    torch.save({"weight": torch.zeros(1000)}, file)
    whole = file.read_bytes()
    file.write_bytes(kept.encode() if isinstance(kept, str) else whole[: int(kept if kept >= 1 else kept * len(whole))])
    bundle = SimpleNamespace(get_model=lambda: torch.hub.load_state_dict_from_url("https://example.org/weights.pth"))
    monkeypatch.setattr(torchaudio.pipelines, "HUBERT_ASR_LARGE", bundle)
    with pytest.raises(NotMeasured) as told:
        recognise.load("HUBERT_ASR_LARGE")
    said = str(told.value)
    assert said.startswith("not measured: the weights of HUBERT_ASR_LARGE cannot be fetched, or those in ")
    assert f"{file.parent} are damaged and must be deleted (" in said
    assert said.isprintable()


def test_every_recogniser_of_a_recipe_is_one_of_torchaudio() -> None:
    from wavevq.recipe import Evaluation

    annotation = Evaluation.model_fields["recogniser"].annotation
    names = [name for part in annotation.__args__ for name in getattr(part, "__args__", ())]
    assert len(names) == 3
    for name in names:
        assert "A" in getattr(torchaudio.pipelines, name).get_labels()


def test_what_cannot_be_heard_says_why(store: Store) -> None:
    with pytest.raises(NotMeasured, match="no words of a closed vocabulary, and their phones are not known"):
        content.metric(replace(sounds.subject_of(store), word_of=None))
    with pytest.raises(NotMeasured, match=r"--set evaluation\.recogniser=WAV2VEC2_ASR_BASE_960H"):
        content.transcript_metric(sounds.subject_of(store))


def test_the_recogniser_that_is_chosen_listens(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = sounds.subject_of(store)
    assert subject.judges.word is not None
    listener = Listener(subject.judges.word)
    monkeypatch.setattr(recognise, "load", {"HUBERT_ASR_LARGE": listener}.__getitem__)
    plan = subject.plan.model_copy(update={"recogniser": "HUBERT_ASR_LARGE"})
    found = content.transcript_metric(replace(subject, plan=plan))
    assert "HUBERT_ASR_LARGE" in found.text
    assert figures(found)["word error rate, reconstruction"] == 0
