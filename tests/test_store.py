from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import trainings

from wavevq import audio
from wavevq.data import corpora, store
from wavevq.data.store import Store, open_store, prepare
from wavevq.errors import WavevqError

MakeAudio = Callable[..., Path]

# A process of its own that prepares the corpus argv[1], all of whose files of this suffix it takes for some.
PREPARE = """
import sys
from wavevq.data import corpora, store
corpora._is_file = lambda path, _: path.suffix == ".wav"
store.prepare(corpora.folder(sys.argv[1], 0.1, 0), 8000, None)
"""


def small(root: Path, rate: int = 8000, trim_db: float | None = None) -> Store:
    return prepare(corpora.folder(root, 0.1, 0), rate, trim_db)


def test_stored_audio_is_the_normalised_recording(small_corpus: Path, cache: Path) -> None:
    made = small(small_corpus, rate=16_000)
    assert made.rate == 16_000
    assert made.speakers == ("ann", "bob")
    assert len(made.clips) == 10
    assert made.missing == 0
    assert made.broken == ()
    for clip in made.clips:
        expected = audio.normalise(audio.read(small_corpus / clip.name), 16_000, None).samples
        heard = made.audio(clip)
        assert heard.dtype == np.float32
        np.testing.assert_allclose(heard, expected, atol=0.51 / store.FULL_SCALE)  # rounding to 16 bit
        np.testing.assert_array_equal(made.audio(clip, 10, 30), heard[10:30])
        np.testing.assert_array_equal(made.audio(clip, clip.length - 5, clip.length + 5), heard[-5:])
    assert made.seconds == pytest.approx(2 * (0.2 + 0.3 + 0.4 + 0.5 + 0.6), abs=1e-3)
    assert made.folder.parent == cache
    assert not list(small_corpus.glob("**/*.i16"))


def test_a_prepared_store_is_opened_and_not_made_again(
    small_corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = small(small_corpus)
    with monkeypatch.context() as patch:
        patch.setattr(store, "read", lambda path: pytest.fail(f"{path} was read again"))
        again = small(small_corpus)
    assert (again.clips, again.speakers, again.folder) == (first.clips, first.speakers, first.folder)
    assert open_store(first.folder).clips == first.clips


def test_whatever_the_store_is_made_from_makes_another(small_corpus: Path, cache: Path, make_audio: MakeAudio) -> None:
    folders = {
        small(small_corpus).folder,
        small(small_corpus, rate=16_000).folder,
        small(small_corpus, 8000, 30.0).folder,
    }
    folders.add(prepare(corpora.folder(small_corpus, 0.1, 1), 8000, None).folder)
    path = make_audio(small_corpus / "ann/ann_0.wav", seconds=0.9)
    folders.add(small(small_corpus).folder)
    os.utime(path, (1, 1))
    folders.add(small(small_corpus).folder)
    (small_corpus / "ann/ann_0.phones.tsv").write_text("0\t0.1\ta\n")
    folders.add(small(small_corpus).folder)
    assert len(folders) == 7


def test_broken_recordings_are_left_out_and_told(small_corpus: Path, cache: Path) -> None:
    (small_corpus / "ann/noise.wav").write_text("no audio")
    soundfile.write(small_corpus / "ann/hush.wav", np.zeros(500), 8000)
    soundfile.write(small_corpus / "ann/none.wav", np.zeros(0), 8000)
    (small_corpus / "bob/bob_1.phones.tsv").write_text("0\t0.1\n")
    made = small(small_corpus)
    reasons = {one.name: one.reason for one in made.broken}
    assert reasons.keys() == {"ann/noise.wav", "ann/hush.wav", "ann/none.wav", "bob/bob_1.wav"}
    assert "not an audio file" in reasons["ann/noise.wav"]
    assert "silence" in reasons["ann/hush.wav"]
    assert "no samples" in reasons["ann/none.wav"]
    assert "line 1" in reasons["bob/bob_1.wav"]
    assert len(made.clips) == 9


def test_a_speaker_without_a_sound_training_clip_is_unseen(small_corpus: Path, cache: Path) -> None:
    for i in range(1, 5):
        (small_corpus / f"bob/bob_{i}.wav").write_text("no audio")
    (small_corpus / "val.txt").write_text("bob/bob_0.wav\nann/ann_0.wav\n")
    made = small(small_corpus)
    assert made.speakers == ("ann",)
    assert [clip.speaker for clip in made.split("val")] == ["ann"]
    assert [clip.speaker for clip in made.split("val_unseen")] == ["bob"]


def test_nothing_to_train_on_is_an_error_that_leaves_nothing(tmp_path: Path, cache: Path) -> None:
    for name in ("ann/1.wav", "ann/2.wav"):
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_text("no audio")
    with pytest.raises(WavevqError, match=r"none of 2 recordings can be trained on; .*not an audio file"):
        small(tmp_path / "corpus")
    assert not [path for path in cache.iterdir() if path.suffix != ".lock"]


def test_phones_move_with_the_trimming(tmp_path: Path, cache: Path, make_audio: MakeAudio) -> None:
    speech = soundfile.read(make_audio(tmp_path / "hum.wav", seconds=1.0))[0]
    for i in range(2):
        path = tmp_path / f"corpus/ann/{i}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, np.concatenate([np.zeros(8000), speech, np.zeros(8000)]), 8000)
        path.with_name(f"{i}.phones.tsv").write_text(
            "start_seconds\tend_seconds\tsymbol\n0.0\t0.5\t_\n0.5\t1.0\t#\n1.0\t1.5\ta\n1.5\t2.5\tb\n"
        )
    whole, trimmed = small(tmp_path / "corpus"), small(tmp_path / "corpus", trim_db=30.0)
    assert whole.clips[0].phones == ((0, 0.5, "_"), (0.5, 1, "#"), (1, 1.5, "a"), (1.5, 2.5, "b"))
    clip = trimmed.clips[0]
    assert clip.phones is not None
    assert [phone[2] for phone in clip.phones] == ["#", "a", "b"]
    assert clip.phones[0][0] == 0
    assert clip.phones[-1][1] == pytest.approx(clip.length / 8000)
    begin = clip.phones[1][0]  # where the speech starts in what is left
    assert begin <= audio.TRIM_FRAME
    heard = trimmed.audio(clip)
    assert np.abs(heard[: round(begin * 8000) - 1]).max(initial=0) < 0.01
    assert np.abs(heard[round(begin * 8000) :][:100]).max() > 0.05


def test_a_damaged_store_is_refused_and_made_again(small_corpus: Path, cache: Path) -> None:
    made = small(small_corpus)
    whole = made.samples.tobytes()
    index = (made.folder / "index.json").read_text()
    old = json.dumps(json.loads(index) | {"format": 0})
    for name, content in {
        "samples.i16": whole[:-2],
        "index.json": index[: len(index) // 2].encode(),
        "./index.json": old.encode(),
    }.items():
        (made.folder / name).write_bytes(content)
        with pytest.raises(WavevqError, match=str(made.folder)):
            open_store(made.folder)
        assert small(small_corpus).samples.tobytes() == whole
    with pytest.raises(WavevqError, match="not a store"):
        open_store(small_corpus)


def test_a_cache_that_cannot_be_written_is_told(
    small_corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("WAVEVQ_CACHE", str(tmp_path / "file"))
    with pytest.raises(WavevqError, match="WAVEVQ_CACHE"):
        small(small_corpus)


def prepare_together(root: Path, place: Path) -> None:
    """The store, which is not begun before another process asks for it; who makes it, and what is read, is noted."""
    own, make = str(os.getpid()), store._make

    def slowly(*given: Any) -> None:
        (place / f"makes-{own}").touch()
        deadline = time.monotonic() + 60
        while len([*place.glob("asks-*")]) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.5)  # until it stands at the lock
        make(*given)

    store._make = slowly
    (place / f"asks-{own}").touch()
    made = small(root)
    (place / f"read-{own}").write_bytes(made.samples.tobytes())


def test_of_two_processes_that_prepare_at_once_one_does(small_corpus: Path, cache: Path, tmp_path: Path) -> None:
    both = [*trainings.start(prepare_together, small_corpus, tmp_path)]
    both += trainings.start(prepare_together, small_corpus, tmp_path)
    assert trainings.finish(both) == [0, 0]
    read = [path.read_bytes() for path in tmp_path.glob("read-*")]
    assert read == [small(small_corpus).samples.tobytes()] * 2
    assert len([*tmp_path.glob("makes-*")]) == 1
    assert len([path for path in cache.iterdir() if path.is_dir()]) == 1


def test_a_killed_preparation_leaves_nothing_that_is_trusted(
    small_corpus: Path, cache: Path, make_audio: MakeAudio
) -> None:
    # One clip never decodes: its reader waits on a pipe that nobody writes to.
    os.mkfifo(small_corpus / "bob/bob_9.wav")
    process = subprocess.Popen([sys.executable, "-c", PREPARE, str(small_corpus)], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(cache.glob("*.partial/samples.i16")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    (left,) = cache.glob("*.partial")
    assert not [path for path in cache.iterdir() if path.is_dir() and path != left]
    # The same listing again, the pipe now a recording; its key differs, so the half is put under the new one too.
    (small_corpus / "bob/bob_9.wav").unlink()
    make_audio(small_corpus / "bob/bob_9.wav")
    listing = corpora.folder(small_corpus, 0.1, 0)
    left.rename(cache / f"{store._key(listing, 8000, None)}.partial")
    made = prepare(listing, 8000, None)
    assert len(made.clips) == 11
    assert made.samples.nbytes == (made.folder / "samples.i16").stat().st_size
    assert not list(cache.glob("*.partial"))


@pytest.mark.timeout(300)
def test_real_corpora_are_prepared_at_the_level_promised(test_data: Path, cache: Path) -> None:
    listings = [
        corpora.fsdd(test_data / "fsdd", 0.05, 0),
        corpora.vctk(test_data / "vctk48_sample", "mic1", 0.05, 0),
        corpora.librispeech(test_data / "librispeech_sample", 0.05, 0),
    ]
    for listing, rate, seconds in zip(listings, (8000, 16_000, 16_000), (1183.0, 237.2, 1222.4), strict=True):
        made = prepare(listing, rate, None)
        assert made.broken == ()
        assert made.seconds == pytest.approx(seconds, abs=0.1)
        assert len(made.clips) == len(listing.clips)
        levels = [float(np.sqrt(np.mean(made.audio(clip) ** 2))) for clip in made.clips]
        np.testing.assert_allclose(np.median(levels), audio.LEVEL_RMS, rtol=1e-3)
        np.testing.assert_allclose(levels, audio.LEVEL_RMS, rtol=0.05)  # where peaks are clipped
        means = [float(made.audio(clip).mean(dtype=np.float64)) for clip in made.clips]
        np.testing.assert_allclose(means, 0, atol=1e-3)
