from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
import torchaudio.functional

from wavevq import audio
from wavevq.audio import LEVEL_RMS, Recording
from wavevq.errors import WavevqError

MakeAudio = Callable[..., Path]


def rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x.astype(np.float64) ** 2)))


def tone(seconds: float = 1.0, rate: int = 16_000, pitch: float = 440.0) -> np.ndarray:
    return np.sin(2 * np.pi * pitch * np.arange(round(seconds * rate)) / rate).astype(np.float32)


# --- files --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".wav", ".flac", ".aiff", ".ogg", ".opus", ".mp3"])
def test_what_is_written_reads_back(tmp_path: Path, suffix: str) -> None:
    x = 0.3 * tone()
    audio.write(tmp_path / f"x{suffix}", x, 16_000)
    back = audio.read(tmp_path / f"x{suffix}")
    assert [path.name for path in tmp_path.iterdir()] == [f"x{suffix}"]
    if suffix in (".wav", ".flac", ".aiff"):
        assert back.rate == 16_000
        # Half a 16-bit step of rounding, and 32767 against 32768 at the worst.
        np.testing.assert_allclose(back.samples, x, atol=2 / 32768)
    else:  # lossy, and opus and mp3 may pad: the tone must still be there
        assert len(back.samples) / back.rate == pytest.approx(1, abs=0.15)
        assert rms(back.samples) == pytest.approx(rms(x), rel=0.1)


def test_what_is_louder_than_full_scale_is_clipped(tmp_path: Path) -> None:
    audio.write(tmp_path / "x.wav", np.array([2.0, -2.0, 0.0], np.float32), 8000)
    np.testing.assert_allclose(audio.read(tmp_path / "x.wav").samples, [1, -1, 0], atol=1 / 32767)


def test_channels_are_averaged_in_any_format_and_from_a_stream(tmp_path: Path) -> None:
    left, right = tone(), 0.5 * tone(pitch=100)
    soundfile.write(tmp_path / "x.wav", np.stack([left, right], 1), 44_100, subtype="FLOAT")
    from_file = audio.read(tmp_path / "x.wav")
    from_stream = audio.read(io.BytesIO((tmp_path / "x.wav").read_bytes()))
    assert from_file.rate == from_stream.rate == 44_100
    np.testing.assert_allclose(from_file.samples, (left + right) / 2, atol=1e-7)
    np.testing.assert_array_equal(from_file.samples, from_stream.samples)
    assert from_file.samples.dtype == np.float32


def test_what_is_no_recording_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("this is no audio")
    (tmp_path / "nothing.wav").write_bytes(b"")
    (tmp_path / "bare.raw").write_bytes(bytes(64))
    soundfile.write(tmp_path / "empty.wav", np.zeros(0), 8000)
    for name, value in (("nan.wav", np.nan), ("inf.wav", np.inf)):
        soundfile.write(tmp_path / name, np.array([0.1, value, 0.1]), 8000, subtype="FLOAT")
    for name, word in {
        "absent.wav": "no such file",
        "text.wav": "not an audio file",
        "nothing.wav": "not an audio file",
        "bare.raw": "not an audio file",
        "empty.wav": "no samples",
        "nan.wav": "NaN",
        "inf.wav": "NaN or infinite",
        ".": "directory",
    }.items():
        with pytest.raises(WavevqError, match=word) as caught:
            audio.read(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "rate", "word"),
    [
        ("x.xyz", 8000, r"suffix must be one of \.wav"),
        ("x", 8000, "suffix must be one of"),
        ("absent/x.wav", 8000, "there is no folder"),
        ("x.mp3", 12_345, "12345 Hz cannot be written"),
    ],
)
def test_what_cannot_be_written_leaves_nothing(tmp_path: Path, name: str, rate: int, word: str) -> None:
    with pytest.raises(WavevqError, match=word):
        audio.write(tmp_path / name, tone(), rate)
    assert not list(tmp_path.iterdir())


def test_a_failing_block_replaces_nothing(tmp_path: Path) -> None:
    target = tmp_path / "x.npy"
    target.write_text("before")

    def interrupted() -> None:
        with audio.replacing(target) as temporary:
            temporary.write_text("half of it")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert target.read_text() == "before"
    with audio.replacing(target) as temporary:
        temporary.write_text("after")
    assert target.read_text() == "after"
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]
    with pytest.raises(WavevqError, match="cannot be written"), audio.replacing(target):
        raise OSError(28, "No space left on device")


# --- signals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "target"), [(48_000, 16_000), (8000, 16_000), (44_100, 22_050), (16_000, 16_000)])
def test_a_resampled_tone_is_the_tone_at_the_other_rate(source: int, target: int) -> None:
    out = audio.resample(tone(rate=source), source, target)
    expected = tone(rate=target)
    assert len(out) == len(expected)
    inner = slice(target // 20, -target // 20)  # the filter sees silence beyond both ends
    np.testing.assert_allclose(out[inner], expected[inner], atol=1e-3)


def test_resampling_leaves_no_alias() -> None:
    out = audio.resample(tone(rate=48_000, pitch=11_000), 48_000, 16_000)
    assert rms(out[800:-800]) < 1e-4 * rms(tone())  # 80 dB, less than HQ promises


def test_one_sample_survives_resampling() -> None:
    assert len(audio.resample(np.ones(1, np.float32), 48_000, 8000)) == 1


@pytest.mark.parametrize("offset", [0.0, 0.25, -8400 / 32768])
@pytest.mark.parametrize("gain", [0.001, 0.5])
@pytest.mark.parametrize("trim_db", [None, 30.0])
def test_level_and_offset_do_not_depend_on_the_recording(offset: float, gain: float, trim_db: float | None) -> None:
    speech = np.concatenate([np.zeros(8000, np.float32), tone(), np.zeros(12_000, np.float32)])
    heard = audio.normalise(Recording((gain * speech + offset).astype(np.float32), 16_000), 16_000, trim_db)
    part = heard.samples[heard.kept]
    # float32 cannot hold a quiet tone on a large offset better than to 3e-8 of 1e-3.
    assert rms(part) == pytest.approx(LEVEL_RMS, rel=1e-3)
    assert abs(part.mean()) < 1e-4
    assert len(heard.samples) == len(speech)
    assert heard.samples.dtype == np.float32
    if trim_db is None:
        assert len(part) == len(speech)
    else:  # within a frame
        frame = audio.TRIM_FRAME * 16_000
        assert 8000 - frame <= heard.kept.start <= 8000
        assert 24_000 <= heard.kept.stop <= 24_000 + frame


def test_silence_around_an_utterance_does_not_change_its_level_when_trimmed() -> None:
    alone = audio.normalise(Recording(tone(), 16_000), 16_000, 30.0)
    padded = np.concatenate([np.zeros(16_000, np.float32), tone(), np.zeros(16_000, np.float32)])
    among = audio.normalise(Recording(padded, 16_000), 16_000, 30.0)
    # Up to a frame of silence stays at either end: 2 * 0.064 s of 1 s.
    assert rms(among.samples[16_000:32_000]) == pytest.approx(rms(alone.samples), rel=0.07)
    whole = audio.normalise(Recording(padded, 16_000), 16_000, None)
    assert rms(whole.samples[16_000:32_000]) == pytest.approx(np.sqrt(3) * LEVEL_RMS, rel=1e-3)


def test_peaks_are_clipped_to_full_scale() -> None:
    click = np.zeros(16_000, np.float32)
    click[8000] = 1
    assert np.abs(audio.normalise(Recording(click, 16_000), 16_000, None).samples).max() == 1


@pytest.mark.parametrize("rate", [8000, 16_000])
@pytest.mark.parametrize("trim_db", [None, 40.0])
@pytest.mark.parametrize("value", [0.0, 0.1, -8400 / 32768])
def test_silence_is_refused_by_name(value: float, trim_db: float | None, rate: int) -> None:
    with pytest.raises(WavevqError, match=r"^hush: holds only silence$"):
        audio.normalise(Recording(np.full(5000, value, np.float32), 8000, "hush"), rate, trim_db)


@pytest.mark.parametrize("length", [1, 2, 100])
def test_very_short_signals_pass(length: int) -> None:
    x = np.linspace(-1, 1, length, dtype=np.float32) if length > 1 else None
    if x is None:  # a single sample is all offset
        with pytest.raises(WavevqError, match="silence"):
            audio.normalise(Recording(np.ones(1, np.float32), 8000), 16_000, 40.0)
    else:
        assert len(audio.normalise(Recording(x, 8000), 8000, 40.0).samples) == length


# --- mu-law -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", [2, 3, 16, 255, 256, 257, 1024, 32_768, 65_536])
def test_every_class_survives_decoding(classes: int) -> None:
    codes = torch.arange(classes)
    x = audio.mu_law_decode(codes, classes)
    assert x.dtype == torch.float32
    assert (x.diff() > 0).all()
    assert x.abs().max() <= 1
    torch.testing.assert_close(x[[0, -1]], torch.tensor([-1.0, 1.0]), atol=1e-6, rtol=0)  # a few float32 roundings
    back = audio.mu_law_encode(x, classes)
    assert back.dtype == torch.int64
    assert torch.equal(back, codes)


def test_mu_law_is_torchaudios() -> None:
    x = torch.linspace(-1, 1, 100_001)
    codes = audio.mu_law_encode(x, 256)
    assert torch.equal(codes, torchaudio.functional.mu_law_encoding(x, 256))
    # expm1 here, exp() - 1 there: they differ by the rounding of numbers near 1.
    torch.testing.assert_close(
        audio.mu_law_decode(codes, 256), torchaudio.functional.mu_law_decoding(codes, 256), atol=3e-7, rtol=1e-6
    )


def test_mu_law_clips_and_keeps_shape() -> None:
    codes = audio.mu_law_encode(torch.tensor([[-3.0, 3.0]], dtype=torch.bfloat16), 256)
    assert codes.tolist() == [[0, 255]]
    assert audio.mu_law_decode(codes, 256).tolist() == [[-1, 1]]


# --- real recordings ----------------------------------------------------------------------------------------


def test_48_khz_originals_match_their_16_khz_partners(test_data: Path) -> None:
    """Twelve recordings are in both VCTK samples, the 16 kHz ones resampled by others, cut and scaled."""
    below = Path("VCTK-Corpus-0.92/wav48_silence_trimmed")
    highpass = scipy.signal.butter(4, 60, "highpass", fs=16_000, output="sos")
    pairs = 0
    for fine in sorted((test_data / "vctk48_sample" / below).glob("*/*.flac")):
        coarse = test_data / "vctk_sample" / below / fine.parent.name / fine.name
        if not coarse.exists():
            continue
        pairs += 1
        whole, part = (audio.read(path) for path in (fine, coarse))
        ours = scipy.signal.sosfiltfilt(highpass, audio.resample(whole.samples, whole.rate, 16_000))
        theirs = scipy.signal.sosfiltfilt(highpass, part.samples)
        lag = int(np.argmax(scipy.signal.correlate(ours, theirs, "valid")))
        # The filter's start-up at the cut edges of the partner is no property of the resampler.
        inner = slice(800, -800)
        correlation = np.corrcoef(ours[lag : lag + len(theirs)][inner], theirs[inner])[0, 1]
        assert correlation > 0.999, fine.name
    assert pairs == 12


def test_extreme_offsets_of_real_recordings_are_removed(test_data: Path) -> None:
    found = sorted((test_data / "librispeech_sample/LibriSpeech").glob("*/445/*/*.flac"))
    assert found
    for path in found:
        recording = audio.read(path)
        assert recording.samples.mean() * 32768 == pytest.approx(-8400, abs=200)
        for rate in (8000, 16_000):
            heard = audio.normalise(recording, rate, None).samples
            assert abs(heard.mean()) < 1e-5
            assert rms(heard) == pytest.approx(LEVEL_RMS, rel=0.01)  # clipped peaks take a little
            # An offset resampled would ring at the edges, far above what stands there otherwise.
            assert np.abs(heard[:80]).max() < 0.2


@pytest.mark.parametrize("rate", [8000, 16_000, 22_050])
def test_trimming_is_librosas(rate: int) -> None:
    rng = np.random.default_rng(0)
    for length in (2, 7, 300, rate, rate + 77, 2 * rate):
        loudness = np.repeat(10 ** rng.uniform(-6, 0, -(-length // 400)), 400)[:length]
        samples = (loudness * rng.standard_normal(length)).astype(np.float32)
        centred = (samples - samples.mean(dtype=np.float64)).astype(np.float32)
        hop = max(1, round(audio.TRIM_FRAME * rate / 4))
        for trim_db in (10.0, 30.0, 55.0):
            _, (start, stop) = librosa.effects.trim(centred, top_db=trim_db, frame_length=4 * hop, hop_length=hop)
            assert audio.normalise(Recording(samples, rate), rate, trim_db).kept == slice(start, stop)


def test_trimming_real_recordings_keeps_the_speech(test_data: Path) -> None:
    below = "vctk48_sample/VCTK-Corpus-0.92/wav48_silence_trimmed/p225/p225_003_mic1.flac"
    heard = audio.normalise(audio.read(test_data / below), 16_000, 25.0)
    energy = heard.samples.astype(np.float64) ** 2
    assert energy[heard.kept].sum() > 0.99 * energy.sum()
    assert len(energy[heard.kept]) < 0.9 * len(energy)  # about a second of room noise stands before it
    assert rms(heard.samples[heard.kept]) == pytest.approx(LEVEL_RMS, rel=0.02)  # clipping
