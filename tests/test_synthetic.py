"""The embedded corpus: the same bytes every time, exact boundaries, nothing half made, no voice taken on trust."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile

import wavevq
from wavevq.data import synthetic
from wavevq.data.espeak import PAUSE
from wavevq.data.sentences import make_sentences
from wavevq.data.synthetic import VOICES, pronounced, synthesize
from wavevq.errors import WavevqError

pytest.importorskip("espeakng_loader", reason='needs pip install "wavevq[synthetic]"')


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return synthesize(voices=10, sentences=12, seed=0, cache=tmp_path_factory.mktemp("speech"))


def contents(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def read_phones(audio: Path) -> list[tuple[float, float, str]]:
    rows = audio.with_suffix(".phones.tsv").read_text(encoding="utf-8").splitlines()[1:]
    return [(float(start), float(end), symbol) for start, end, symbol in (row.split("\t") for row in rows)]


def start(cache: Path) -> subprocess.Popen[str]:
    code = f"from wavevq.data.synthetic import *; print(synthesize(3, 4, 7, Path({str(cache)!r})))"
    root = Path(wavevq.__file__).parents[1]
    return subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen[str]) -> Path:
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return Path(out.strip())


def test_two_processes_make_the_same_bytes(tmp_path: Path) -> None:
    one, other = (finish(start(tmp_path / name)) for name in ("one", "other"))
    assert one.name == other.name
    assert contents(one) == contents(other)
    assert len(contents(one)) == 3 * 4 * 2 + 3


def test_two_processes_may_ask_at_once(tmp_path: Path) -> None:
    first, second = [start(tmp_path), start(tmp_path)]
    assert finish(first) == finish(second)
    assert sum(path.is_dir() for path in tmp_path.iterdir()) == 1


def test_a_made_corpus_is_not_made_again(corpus: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*args: object) -> None:
        raise AssertionError("made again")

    monkeypatch.setattr(synthetic, "_make", never)
    assert synthesize(10, 12, 0, corpus.parent) == corpus


@pytest.mark.parametrize("changed", [(3, 5, 0), (4, 4, 0), (3, 4, 1)])
def test_voices_sentences_and_seed_name_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changed: tuple[int, int, int]
) -> None:
    monkeypatch.setattr(synthetic, "_make", lambda *args: None)
    assert synthesize(3, 4, 0, tmp_path) != synthesize(*changed, tmp_path)


def test_the_split_holds_the_same_sentences_out_for_every_voice(corpus: Path) -> None:
    train, val = ((corpus / f"{name}.txt").read_text().split() for name in ("train", "val"))
    assert len(train) == 10 * 11
    assert {name.rpartition("_")[2] for name in val} == {"0012.flac"}
    assert {name.split("/")[0] for name in val} == {name.split("/")[0] for name in train}
    assert sorted(train + val) == sorted(str(path.relative_to(corpus)) for path in corpus.rglob("*.flac"))


def test_the_audio_is_16_bit_unclipped_and_every_voice_its_own(corpus: Path) -> None:
    first = set()
    for name in VOICES:
        for path in sorted((corpus / name.lower()).glob("*.flac")):
            info = soundfile.info(path)
            assert (info.samplerate, info.subtype, info.channels) == (22_050, "PCM_16", 1)
            samples, _ = soundfile.read(path, dtype="int16")
            # Below 30,000: not even the limiters of the Klatt voices, which hold at 32,000, were reached.
            assert 1_000 < np.abs(samples.astype(np.int32)).max() < 30_000
            if path.stem.endswith("_0001"):
                first.add(samples.tobytes())
    assert len(first) == len(VOICES)  # a variant that is ignored would sound like plain en-us


def test_phones_cover_the_clip_and_fit_its_sound(corpus: Path) -> None:
    pauses, hisses, vowels = [], [], []
    for path in sorted(corpus.glob("m3/*.flac")):
        samples, rate = soundfile.read(path)
        phones = read_phones(path)
        assert phones[0][0] == 0
        assert all(one[1] == other[0] for one, other in pairwise(phones))
        assert phones[-1][1] == pytest.approx(len(samples) / rate, abs=1e-6)  # six decimals are written
        assert not any(mark in symbol for _, _, symbol in phones for mark in "ˈˌ")
        for begin, end, symbol in phones:
            part = samples[round(begin * rate) : round(end * rate)]
            if symbol == PAUSE and len(part) > 500:
                pauses.append(part.std() / samples.std())
            crossings = float(np.mean(np.diff(np.sign(part)) != 0)) if len(part) > 1 else 0.0
            {"s": hisses, "iː": vowels}.get(symbol, []).append(crossings)
    assert np.median(pauses) < 0.1
    assert np.median(hisses) > 3 * np.median(vowels)  # a hiss crosses zero far more often than a vowel


def test_sentences_are_different_short_and_rich() -> None:
    sentences = make_sentences(2000, 0)
    assert sentences == make_sentences(2000, 0)
    assert sentences[:5] != make_sentences(5, 1)
    assert len(set(sentences)) == 2000
    assert all(4 <= len(sentence.split()) <= 9 for sentence in sentences)
    words = {word.strip(".,?").lower() for sentence in sentences for word in sentence.split()}
    assert len(words) > 500


def test_texts_are_pronounced_as_the_corpus_says_them() -> None:
    seven, both, nothing = pronounced(["seven", "SEVEN, two!", ""])
    assert seven == ("s", "ɛ", "v", "ə", "n")
    assert both == (*seven, "t", "uː")
    assert nothing == ()
    assert pronounced([]) == []


def test_espeak_missing_is_one_line_that_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    with pytest.raises(WavevqError, match=r'pip install "wavevq\[synthetic\]"') as error:
        synthesize(2, 4, 0, tmp_path)
    assert "\n" not in str(error.value)


def test_an_unknown_variant_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "VOICES", ("f1", "nobody"))
    with pytest.raises(WavevqError, match="no voice nobody"):
        synthesize(2, 4, 0, tmp_path)


@pytest.mark.parametrize(("voices", "sentences"), [(0, 4), (11, 4), (2, 1)])
def test_counts_out_of_range_are_errors(tmp_path: Path, voices: int, sentences: int) -> None:
    with pytest.raises(WavevqError, match="is not allowed"):
        synthesize(voices, sentences, 0, tmp_path)


def test_a_failing_voice_is_named_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = synthetic._run

    def spoilt(jobs: list[dict[str, object]], heard: Callable[[str], object]) -> None:
        run([jobs[0], {**jobs[1], "voice": "xx/none"}], heard)

    monkeypatch.setattr(synthetic, "_run", spoilt)
    with pytest.raises(WavevqError, match="voice xx/none: espeak-ng has no voice xx/none"):
        synthesize(2, 4, 0, tmp_path)
    assert not any(path.is_dir() for path in tmp_path.iterdir())
    monkeypatch.undo()
    corpus = synthesize(2, 4, 0, tmp_path)
    assert (corpus / "f1" / "f1_0001.flac").is_file()


def test_what_a_killed_process_left_is_not_trusted_and_goes(tmp_path: Path) -> None:
    corpus = synthesize(2, 4, 0, tmp_path)
    whole = contents(corpus)
    (corpus / "val.txt").unlink()
    corpus.rename(tmp_path / f".{corpus.name}.killed")
    assert contents(synthesize(2, 4, 0, tmp_path)) == whole
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == [corpus.name]
