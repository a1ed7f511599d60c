"""How near a sampled reconstruction comes to its original: spectrum, pitch and intelligibility.

Sampled, never teacher-forced. Frame i of two clips of one length is the same moment. Each measure stands beside its
ceiling, the original after mu-law and back, and its floor, what the codes of another clip of the speaker give.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from wavevq.audio import SILENCE_RMS, Signal
from wavevq.evaluate.metric import Figure, Findings, optional
from wavevq.evaluate.probes import BANDS, RANGE_DB, WINDOW_SECONDS, hop, mfcc

if TYPE_CHECKING:
    from wavevq.evaluate.subject import Subject, Version

COEFFICIENTS = 13  # of the mel cepstrum, the level left out
LOWEST_HZ, HIGHEST_HZ = 60.0, 400.0  # of a voice's pitch
PITCH_STEP = 0.25  # semitones
STOI_SECONDS = 0.384  # that STOI looks at at once
QUIET_DB = 10  # below the original: half as loud
VERSIONS: tuple[Version, ...] = ("mu-law", "reconstruction", "shuffled codes")
NOTES = {"mu-law": "ceiling", "shuffled codes": "floor"}
MEASURES = (
    ("mel-cepstral distortion", "dB", "cepstral"),
    ("mel-cepstral distortion, aligned", "dB", "warped"),
    ("log-spectral distance", "dB", "spectral"),
    ("F0 RMSE", "Hz", "hertz"),
    ("F0 RMSE in cents", "cents", "cents"),
    ("voicing error", "share of frames", "voicing"),
)
TEXT = (
    "Each clip's codes decoded again for its own speaker, sampled. Frame by frame beside the original; mu-law is the "
    "original after 8-bit mu-law and back, the best that the model could give, shuffled codes are those of another "
    "clip of the speaker. Two samples of one sound differ in their noise, so distances of 0 are not to be had: hold "
    "them against ceiling and floor. Only the level tells of clips that come out too quiet: everything else, and every "
    "judge of words and voices, hears them at one level."
)


@dataclass(frozen=True)
class Analysis:
    """One clip in frames. cepstrum: dB ``[frames, COEFFICIENTS]``; spectrum: dB ``[frames, bins]``, cut RANGE_DB below
    its loudest bin; pitch: Hz ``[frames]``, NaN where there is no voice."""

    cepstrum: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    pitch: NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """Means over the frames of all clips.

    cepstral: mel-cepstral distortion in dB (Kubichek 1993), 10 / ln 10 x sqrt(2 sum over d of (c_d - c'_d)^2) for
    cepstra of natural-log amplitudes: the root of the mean squared difference, over mel bands, of spectra smoothed by
    the cut after COEFFICIENTS, whatever their levels. warped: the same along the best alignment (DTW). spectral:
    log-spectral distance in dB, the root over the bins of a frame (Gray and Markel 1976). hertz, cents: root mean
    squared difference of pitch where both clips have one, None where there is no such frame. voicing: share of frames
    that have a pitch in one clip only. pitched: share that have one in both.
    """

    cepstral: float
    warped: float
    spectral: float
    hertz: float | None
    cents: float | None
    voicing: float
    pitched: float


def analyse(clip: Signal, rate: int) -> Analysis:
    """A clip float32 ``[T]`` at ``rate`` Hz; frames every FRAME_SECONDS."""
    import librosa

    points = 2 ** math.ceil(math.log2(WINDOW_SECONDS * rate))
    # Two periods of the lowest pitch fit into half of this frame.
    frame = 2 ** math.ceil(math.log2(4 * rate / LOWEST_HZ))
    padded = np.pad(clip, (0, max(0, frame - len(clip))))
    frames = 1 + len(clip) // hop(rate)
    power = (
        np.abs(librosa.stft(padded, n_fft=points, win_length=round(WINDOW_SECONDS * rate), hop_length=hop(rate))) ** 2
    )
    spectrum = librosa.power_to_db(power[:, :frames], amin=1e-10, top_db=RANGE_DB)
    pitch, _, _ = librosa.pyin(
        padded,
        fmin=LOWEST_HZ,
        fmax=HIGHEST_HZ,
        sr=rate,
        frame_length=frame,
        hop_length=hop(rate),
        resolution=PITCH_STEP,
    )
    return Analysis(mfcc(clip, rate, COEFFICIENTS + 1)[1:].T, spectrum.T.astype(np.float64), pitch[:frames])


def compare(originals: Sequence[Analysis], others: Sequence[Analysis]) -> Fidelity:
    """Pairs of clips of one length."""
    import librosa

    # By Parseval's theorem for the orthonormal transform of BANDS bands in dB: the citation's formula.
    scale = math.sqrt(BANDS)
    pairs = list(zip(originals, others, strict=True))
    cepstral = [np.linalg.norm(a.cepstrum - b.cepstrum, axis=1) / scale for a, b in pairs]
    steps, warped = 0, 0.0
    for a, b in pairs:
        costs, path = librosa.sequence.dtw(a.cepstrum.T, b.cepstrum.T)
        steps, warped = steps + len(path), warped + float(costs[-1, -1]) / scale
    spectral = [np.sqrt(np.mean((a.spectrum - b.spectrum) ** 2, axis=1)) for a, b in pairs]
    pitch, other = (np.concatenate([pair[side].pitch for pair in pairs]) for side in (0, 1))
    both = ~np.isnan(pitch) & ~np.isnan(other)
    return Fidelity(
        cepstral=float(np.concatenate(cepstral).mean()),
        warped=warped / steps,
        spectral=float(np.concatenate(spectral).mean()),
        hertz=_rms(other[both] - pitch[both]),
        cents=_rms(1200 * np.log2(other[both] / pitch[both])),
        voicing=float(np.mean(np.isnan(pitch) != np.isnan(other))),
        pitched=float(np.mean(both)),
    )


def levels(originals: Sequence[Signal], others: Sequence[Signal]) -> NDArray[np.float64]:
    """What clips' RMS are in dB beside those of their originals, float64 ``[N]``; silence counts as SILENCE_RMS."""
    own, heard = (
        np.array([max(SILENCE_RMS, _rms(clip.astype(np.float64)) or 0.0) for clip in clips])
        for clips in (originals, others)
    )
    return np.asarray(20 * np.log10(heard / own), np.float64)


def intelligibility(
    originals: Sequence[Signal], others: Sequence[Signal], speakers: Sequence[str], rate: int
) -> float | None:
    """STOI (Taal et al. 2011), mean over the speakers, all clips of each in one piece; None of less than it can use.

    It looks at STOI_SECONDS at once, longer than many a word: on single short clips it says nothing.
    """
    stoi = optional("pystoi").stoi
    found = []
    for speaker in sorted(set(speakers)):
        mine = [i for i, name in enumerate(speakers) if name == speaker]
        clean, heard = (np.concatenate([clips[i] for i in mine]) for clips in (originals, others))
        if len(clean) < STOI_SECONDS * rate:  # which its code does not foresee
            return None
        with warnings.catch_warnings():
            warnings.simplefilter("error", RuntimeWarning)
            try:
                found.append(float(stoi(clean, heard, rate)))
            except RuntimeWarning:  # its way to say that there is too little
                return None
    return float(np.mean(found))


def too_quiet(found: NDArray[np.float64]) -> float:
    """The share of clips whose ``levels`` are below -QUIET_DB."""
    return float(np.mean(found < -QUIET_DB))


def metric(subject: Subject) -> Findings:
    """The metric ``reconstruction`` of ``wavevq evaluate``."""
    versions = subject.possible(VERSIONS)
    heard = {version: subject.heard(version) for version in versions}
    subject.say(f"pitch and spectra of {len(versions) + 1} x {len(subject.utterances)} clips")
    originals = [analyse(clip, subject.rate) for clip in subject.heard("original")]
    found = {
        version: compare(originals, [analyse(clip, subject.rate) for clip in clips]) for version, clips in heard.items()
    }
    figures = [
        Figure(f"{name}, {version}", getattr(one, key), unit, _note(version, key, one))
        for name, unit, key in MEASURES
        for version, one in found.items()
    ]
    for version in subject.possible((*versions, "conversion")):
        found_levels = levels(subject.heard("original"), subject.heard(version))
        quiet = too_quiet(found_levels)
        figures.append(Figure(f"level, {version}", float(np.median(found_levels)), "dB", "median of the clips"))
        figures.append(Figure(f"{QUIET_DB} dB too quiet, {version}", quiet, "share of clips", NOTES.get(version, "")))
    return Findings(tuple(figures), TEXT, subject.to_listen(("original", *versions)))


def stoi_metric(subject: Subject) -> Findings:
    """The metric ``stoi`` of ``wavevq evaluate``."""
    optional("pystoi")  # before anything is sampled
    speakers = [one.clip.speaker for one in subject.utterances]
    figures = []
    for version in subject.possible(VERSIONS):
        value = intelligibility(subject.heard("original"), subject.heard(version), speakers, subject.rate)
        note = "not measured: too short" if value is None else NOTES.get(version, "")
        figures.append(Figure(f"STOI, {version}", value, "from 0 to 1", note))
    return Findings(
        tuple(figures),
        "STOI of each speaker's clips in one piece; 1: identical.",
    )


def _note(version: Version, key: str, found: Fidelity) -> str:
    place = NOTES.get(version, "")
    if key not in ("hertz", "cents"):
        return place
    pitched = f"{found.pitched:.0%} of frames have a pitch in both"
    return f"{place}; {pitched}" if place else pitched


def _rms(values: NDArray[Any]) -> float | None:
    return float(np.sqrt(np.mean(values**2))) if len(values) else None
