"""Distances between clips whose answers are known by construction."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import sounds
from sounds import RATE, figures, say

from wavevq.audio import Signal, resample
from wavevq.evaluate import reconstruction
from wavevq.evaluate.metric import NotMeasured
from wavevq.evaluate.probes import BANDS
from wavevq.evaluate.reconstruction import COEFFICIENTS, Analysis, analyse, compare, intelligibility, levels


def tone(hertz: float, seconds: float = 0.4) -> Signal:
    phase = 2 * np.pi * hertz * np.arange(round(seconds * RATE)) / RATE
    return (0.1 * sum(np.sin(k * phase) / k for k in range(1, 9))).astype(np.float32)


def noise(seconds: float = 0.4) -> Signal:
    return np.random.default_rng(0).normal(0, 0.1, round(seconds * RATE)).astype(np.float32)


def of(cepstrum: list[list[float]]) -> Analysis:
    rows = np.array([row + [0.0] * (COEFFICIENTS - len(row)) for row in cepstrum])
    return Analysis(rows, np.zeros((len(rows), 2)), np.full(len(rows), np.nan))


def test_a_clip_is_no_distance_from_itself() -> None:
    clips = [analyse(clip, RATE) for clip in (tone(120), say("ann", "up"))]
    found = compare(clips, clips)
    assert (found.cepstral, found.warped, found.spectral) == (0, 0, 0)
    assert (found.hertz, found.cents, found.voicing) == (0, 0, 0)
    assert found.pitched > 0.4  # the tone; a glide within a frame has no pitch


def test_half_the_level_is_6_dB_of_spectrum_and_none_of_cepstrum() -> None:
    loud, quiet = analyse(tone(120), RATE), analyse(tone(120) / 2, RATE)
    found = compare([loud], [quiet])
    assert found.spectral == pytest.approx(20 * math.log10(2), abs=1e-3)  # float32 spectra
    assert found.cepstral == pytest.approx(0, abs=1e-3)
    assert found.hertz == 0


def test_levels_are_those_of_the_originals() -> None:
    loud = np.sin(np.arange(800, dtype=np.float32))
    found = levels([loud] * 4, [loud, -loud / 2, loud / 4, 0 * loud])
    assert found[:3] == pytest.approx([0, -20 * np.log10(2), -20 * np.log10(4)], abs=1e-4)
    assert -200 < found[3] < -50
    assert levels([0 * loud], [0 * loud]) == [0]


def test_cepstral_distortion_is_the_cited_formula() -> None:
    """A mel spectrum of ln A = sum of c_d cos(d w), w in the middle of each band: 10 / ln 10 x sqrt(2 sum c_d^2)."""
    from scipy.fft import dct

    c = np.random.default_rng(0).normal(0, 0.3, COEFFICIENTS)
    w = np.pi * (np.arange(BANDS) + 0.5) / BANDS
    decibels = 20 / math.log(10) * sum(c[d - 1] * np.cos(d * w) for d in range(1, COEFFICIENTS + 1))
    cepstrum = dct(decibels, norm="ortho")[1 : COEFFICIENTS + 1]
    found = compare([of([cepstrum.tolist()])], [of([[0.0]])])
    assert found.cepstral == pytest.approx(10 / math.log(10) * math.sqrt(2 * np.sum(c**2)))
    assert found.cepstral == pytest.approx(np.sqrt(np.mean(decibels**2)))


def test_alignment_forgives_other_speeds() -> None:
    early, late = of([[0.0], [8.0], [8.0], [3.0]]), of([[0.0], [0.0], [8.0], [3.0]])
    found = compare([early], [late])
    assert found.warped == 0
    assert found.cepstral == pytest.approx(8 / math.sqrt(BANDS) / 4)
    assert (found.hertz, found.cents, found.voicing, found.pitched) == (None, None, 0, 0)


def test_alignment_is_counted_a_step() -> None:
    found = compare([of([[0.0], [0.0]])], [of([[2.0], [2.0]])])
    assert found.warped == found.cepstral == pytest.approx(2 / math.sqrt(BANDS))


def test_a_shift_of_pitch_is_measured() -> None:
    found = compare([analyse(tone(150), RATE)], [analyse(tone(165), RATE)])
    # The tracker knows quarters of a semitone: 25 cents, 2.3 Hz here.
    assert found.hertz == pytest.approx(15, abs=2.5)
    assert found.cents == pytest.approx(1200 * math.log2(1.1), abs=26)
    assert found.voicing < 0.1


def test_noise_has_no_voice() -> None:
    found = compare([analyse(tone(150), RATE)], [analyse(noise(), RATE)])
    assert found.voicing > 0.7


@pytest.mark.parametrize("clip", [np.zeros(4000, np.float32), np.zeros(20, np.float32), noise(0.01)])
@pytest.mark.parametrize("rate", [8000, 48_000])
def test_silence_and_short_clips_are_measured(clip: Signal, rate: int) -> None:
    other = np.random.default_rng(1).normal(0, 0.1, len(clip)).astype(np.float32)
    found = compare([analyse(clip, rate)], [analyse(other, rate)])
    assert all(np.isfinite([found.cepstral, found.warped, found.spectral, found.voicing]))


def test_stoi_of_a_clip_and_of_noise() -> None:
    pytest.importorskip("pystoi")
    clips = [say("ann", word, take) for word in ("up", "down") for take in range(2)]
    same = intelligibility(clips, clips, ["ann"] * 4, RATE)
    assert same == pytest.approx(1, abs=1e-6)
    worse = intelligibility(clips, [clip + noise() for clip in clips], ["ann"] * 4, RATE)
    assert worse is not None
    assert worse < 0.8
    # At another rate it is the same speech; what the resampling itself changes is less than 0.02.
    louder = [resample(clip + noise(), RATE, 2 * RATE) for clip in clips]
    other = intelligibility([resample(clip, RATE, 2 * RATE) for clip in clips], louder, ["ann"] * 4, 2 * RATE)
    assert other == pytest.approx(worse, abs=0.02)
    # Where the original is silent, nothing is to be understood.
    pauses = [np.concatenate([clip, np.zeros_like(clip)]) for clip in clips]
    filled = [np.concatenate([clip, noise()[: len(clip)]]) for clip in clips]
    heard = intelligibility(pauses, filled, ["ann"] * 4, RATE)
    assert heard is not None
    assert heard > 0.8  # measured: .88, for the frames at the edges; the other way round .26
    # Only half of the clips are noise: each speaker counts as much.
    half = intelligibility(clips, [*clips[:2], noise(), noise()], ["ann"] * 2 + ["bob"] * 2, RATE)
    lost = intelligibility(clips[2:], [noise(), noise()], ["bob"] * 2, RATE)
    assert lost is not None
    assert half == pytest.approx((1 + lost) / 2, abs=1e-6)


def test_stoi_of_too_little_is_none() -> None:
    pytest.importorskip("pystoi")
    for seconds in (0.2, 0.38, 0.01):
        assert intelligibility([say("ann", "up", 0, seconds)], [say("ann", "up", 1, seconds)], ["ann"], RATE) is None


def test_stoi_without_its_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pystoi", None)
    with pytest.raises(NotMeasured, match=r"not measured: pip install wavevq\[eval\] \(pystoi is missing\)"):
        intelligibility([tone(150)], [tone(150)], ["ann"], RATE)


def test_the_metric_orders_ceiling_model_and_floor(tmp_path: Path) -> None:
    subject = sounds.subject_of(sounds.spoken_corpus(tmp_path))
    found = figures(reconstruction.metric(subject))
    for measure in ("mel-cepstral distortion", "log-spectral distance"):
        ceiling, model, floor = (found[f"{measure}, {version}"] for version in reconstruction.VERSIONS)
        assert ceiling is not None
        assert model is not None
        assert floor is not None
        assert 0 < ceiling < model < floor
    levels = 2 * (len(reconstruction.VERSIONS) + 1)  # of conversions too
    assert len(found) == len(reconstruction.MEASURES) * len(reconstruction.VERSIONS) + levels


def test_quiet_clips_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = sounds.subject_of(sounds.spoken_corpus(tmp_path))
    heard = [*subject.heard("original")]
    heard[0] = heard[0] / 4
    monkeypatch.setitem(subject._heard, "reconstruction", heard)
    monkeypatch.setitem(subject._heard, "conversion", [heard[0] / 4, *[clip / 4 for clip in heard[1:]]])
    found = figures(reconstruction.metric(subject))
    assert found["level, reconstruction"] == pytest.approx(0, abs=1e-4)
    assert found["10 dB too quiet, reconstruction"] == pytest.approx(1 / len(heard))
    assert found["10 dB too quiet, mu-law"] == 0
    assert found["10 dB too quiet, conversion"] == 1
