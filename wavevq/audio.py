"""Audio files and signals: read, resample, level, trim, mu-law, write.

T samples. Signals are float32 ``[T]``, mono; rates are in Hz. Everything that a model hears, in training or
afterwards, went through ``normalise``; the level matters because the likelihood depends on it.
"""

from __future__ import annotations

import io
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import soundfile
import soxr
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavevq.errors import WavevqError

Signal = NDArray[np.float32]

LEVEL_RMS = 0.08
SILENCE_RMS = 1e-6  # -120 dB of full scale: what rounding leaves of a constant, or one stray 16-bit step a second
FLOOR = 1e-5  # RMS below which all frames are equally silent to trimming
TRIM_FRAME = 0.064  # seconds of the frames whose loudness decides what is trimmed; they start every quarter of it
WRITE_BLOCK = 65_536  # libsndfile's Vorbis encoder overflows the stack when a long signal comes in one block

# What libsndfile also knows as 16-bit or as a lossy coding, by the suffixes people use.
FORMATS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".aiff": ("AIFF", "PCM_16"),
    ".aif": ("AIFF", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


@dataclass(frozen=True)
class Recording:
    """samples: float32 ``[T]``, the mean of the file's channels, T >= 1, finite. rate: Hz. name: for messages."""

    samples: Signal
    rate: int
    name: str = "recording"


@dataclass(frozen=True)
class Levelled:
    """samples: float32 ``[T]`` in [-1, 1], the whole signal. kept: the part that trimming leaves of it."""

    samples: Signal
    kept: slice


# --- files --------------------------------------------------------------------------------------------------


def read(source: str | Path | BinaryIO) -> Recording:
    """The recording in a file or a stream, of any format, rate and number of channels that soundfile reads.

    Raises WavevqError where there is no such file, no audio in it, no samples, or samples that are not finite.
    """
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "stream"))
    try:
        # A pipe cannot seek, which soundfile wants.
        data = io.BytesIO(Path(source).read_bytes() if isinstance(source, str | Path) else source.read())
    except OSError as error:
        raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    try:
        channels, rate = soundfile.read(data, dtype="float32", always_2d=True)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        # TypeError and ValueError: soundfile wants to be told the rate of headerless audio.
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".").lower()
        raise WavevqError(
            f"{name}: not an audio file that can be read, such as wav, flac, ogg or mp3 ({reason})"
        ) from None
    if not len(channels):
        raise WavevqError(f"{name}: holds no samples")
    if not np.isfinite(channels).all():
        raise WavevqError(f"{name}: holds samples that are NaN or infinite")
    return Recording(channels.mean(axis=1, dtype=np.float32), int(rate), name)


def write(path: str | Path, samples: NDArray[np.floating], rate: int) -> None:
    """Write ``samples`` ``[T]``, clipped to [-1, 1], in the format of the suffix, 16-bit where that has bits.

    Raises WavevqError for an unknown suffix, or a place or a rate that does not work; nothing half-written is left.
    """
    path = Path(path)
    container, coding = check_format(path, rate)
    clipped = np.clip(samples, -1, 1).astype(np.float32)
    with replacing(path) as temporary:
        try:
            with soundfile.SoundFile(temporary, "w", rate, 1, subtype=coding, format=container) as file:
                for start in range(0, len(clipped), WRITE_BLOCK):
                    file.write(clipped[start : start + WRITE_BLOCK])
        except soundfile.SoundFileError as error:
            raise WavevqError(f"{path}: cannot be written ({str(error).strip().rstrip('.')})") from None


def check_format(path: Path, rate: int) -> tuple[str, str]:
    """Container and coding of the suffix. Raises WavevqError for an unknown one and where it cannot have ``rate``."""
    if path.suffix.lower() not in FORMATS:
        raise WavevqError(f"{path}: the suffix must be one of {', '.join(FORMATS)}")
    container, coding = FORMATS[path.suffix.lower()]
    try:
        soundfile.SoundFile(io.BytesIO(), "w", rate, 1, subtype=coding, format=container).close()
    except (soundfile.SoundFileError, ValueError) as error:
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".")
        raise WavevqError(f"{path}: {container} at {rate} Hz cannot be written ({reason})") from None
    return container, coding


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, of the same suffix, that becomes ``path`` if the block ends well.

    Raises WavevqError for a folder that does not exist or cannot be written to.
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise WavevqError(f"{path}: there is no folder {path.parent}")
    if path.is_dir():
        raise WavevqError(f"{path}: is a folder, not a file")
    temporary = path.with_name(f".{uuid.uuid4().hex}{path.suffix}")
    try:
        with writing(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Raises WavevqError, naming ``path``, for what cannot be written: a full disk above all."""
    try:
        yield
    except OSError as error:
        raise WavevqError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from None


def put(target: Path | BinaryIO, data: bytes) -> None:
    """Raises WavevqError for a place that cannot be written to; the folder of a file is made."""
    if isinstance(target, Path):
        make_folder(target)
        with replacing(target) as temporary:
            temporary.write_bytes(data)
    else:
        try:
            target.write(data)
            target.flush()
        except BrokenPipeError:  # who reads has heard enough
            raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise WavevqError(f"{getattr(target, 'name', 'stream')}: cannot be written ({reason})") from None


def make_folder(target: Path) -> None:
    """The folder of a file. Raises WavevqError where it cannot be made or written to."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WavevqError(f"{target.parent}: cannot be made ({(error.strerror or str(error)).lower()})") from None
    if not os.access(target.parent, os.W_OK):
        raise WavevqError(f"{target.parent}: cannot be written to")


# --- signals ------------------------------------------------------------------------------------------------


def normalise(recording: Recording, rate: int, trim_db: float | None) -> Levelled:
    """A recording as the models hear it: at ``rate``, without offset, at RMS 0.08, clipped to [-1, 1].

    Encoding takes the whole of it, training the part ``kept`` (all of it where ``trim_db`` is None). Raises
    WavevqError for silence.
    """
    # An offset would ring at both ends of the resampled signal and hide silence from trimming, so it goes first.
    samples = resample(_centre(recording.samples), recording.rate, rate)
    kept = trim(samples, rate, trim_db)
    return Levelled(level(samples, kept, recording.name), kept)


def resample(samples: Signal, source: int, target: int) -> Signal:
    """``samples`` ``[T]`` at ``source`` Hz brought to ``target`` Hz: float32, at least one sample."""
    if source == target:
        return samples
    # soxr rounds the length, and a few samples at a high rate can round to none.
    out = np.asarray(soxr.resample(samples, source, target, quality="HQ"), dtype=np.float32)
    return out if len(out) else samples[:1]


def level(samples: Signal, measured: slice, name: str = "recording") -> Signal:
    """``samples`` ``[T]`` scaled to RMS 0.08 without offset, clipped to [-1, 1]: float32 ``[T]``.

    Offset and RMS are those of the part ``measured``, what trimming leaves, so that silence around an utterance
    does not change its level. Raises WavevqError, with ``name``, for silence.
    """
    part = samples[measured].astype(np.float64)
    offset = part.mean()
    rms = math.sqrt(np.mean((part - offset) ** 2))
    if rms < SILENCE_RMS:
        raise WavevqError(f"{name}: holds only silence")
    return cast(Signal, np.clip((samples - offset) * (LEVEL_RMS / rms), -1, 1).astype(np.float32))


def trim(samples: Signal, rate: int, trim_db: float | None) -> slice:
    """The part of ``samples`` from the first to the last frame within ``trim_db`` of the loudest; all for None."""
    if trim_db is None:
        return slice(0, len(samples))
    # As librosa.effects.trim, whose import takes longer than all the rest of a command's start.
    hop = max(1, round(TRIM_FRAME * rate / 4))
    squares = _centre(samples).astype(np.float64) ** 2
    blocks = np.pad(squares, (0, -len(squares) % hop)).reshape(-1, hop).sum(1)
    # Frames of four blocks, one at each block's start and one at the end.
    energy = np.convolve(blocks, np.ones(4))[1 : 2 + len(samples) // hop]
    energy = np.maximum(energy, 4 * hop * FLOOR**2)
    loud = np.flatnonzero(energy > energy.max() * 10 ** (-trim_db / 10))
    return slice(int(loud[0]) * hop, min(len(samples), (int(loud[-1]) + 1) * hop))


def _centre(samples: Signal) -> Signal:
    return cast(Signal, (samples - samples.mean(dtype=np.float64)).astype(np.float32))


# --- mu-law -------------------------------------------------------------------------------------------------


def mu_law_encode(x: Tensor, classes: int) -> Tensor:
    """Classes int64 in [0, classes) of float ``x``, any shape, in [-1, 1] (clipped to it). ITU-T G.711."""
    mu = torch.tensor(classes - 1, dtype=torch.float32)
    x = x.float().clamp(-1, 1)
    companded = torch.sign(x) * torch.log1p(mu * x.abs()) / torch.log1p(mu)
    return ((companded + 1) / 2 * mu + 0.5).to(torch.int64)


def mu_law_decode(codes: Tensor, classes: int) -> Tensor:
    """The middle of each class's interval (on the companded scale): float32 in [-1, 1], the shape of ``codes``."""
    mu = torch.tensor(classes - 1, dtype=torch.float32)
    companded = codes.float() / mu * 2 - 1
    x = torch.sign(companded) * torch.expm1(companded.abs() * torch.log1p(mu)) / mu
    return x.clamp(-1, 1)  # rounding can take the outer classes past it
