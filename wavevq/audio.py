"""Audio files and signals: read, resample, level, trim, mu-law, write.

T samples. Signals are float32 ``[T]``, mono; rates are in Hz. Everything that a model hears, in training or
afterwards, went through ``Heard``; the level matters because the likelihood depends on it. Files may be longer than
memory: they are read a block at a time, as often as wanted.
"""

from __future__ import annotations

import io
import math
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol, cast

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
BLOCK = 65_536  # samples held at once; and libsndfile's Vorbis encoder overflows the stack with a long signal in one
STREAM_IN_MEMORY = 2**24  # bytes of a stream that are kept there; more are on disk, in $TMPDIR

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


class Sound(Protocol):
    """A recording, in memory or not. rate: Hz. name: for messages. length: T >= 1. mean: of its samples."""

    @property
    def rate(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def length(self) -> int: ...
    @property
    def mean(self) -> float: ...

    def blocks(self) -> Iterator[Signal]:
        """Its samples, the mean of the file's channels, finite: ``BLOCK`` at a time and the rest; from the start."""
        ...


@dataclass(frozen=True)
class Recording:
    """A ``Sound`` in memory. samples: float32 ``[T]``."""

    samples: Signal
    rate: int
    name: str = "recording"

    @property
    def length(self) -> int:
        return len(self.samples)

    @property
    def mean(self) -> float:
        return _extent(self.blocks())[1]

    def blocks(self) -> Iterator[Signal]:
        return cut([self.samples], BLOCK)


@dataclass(frozen=True)
class Reading:
    """A ``Sound`` in a file, which is decoded anew each time; made by ``opened``."""

    data: BinaryIO
    rate: int
    name: str
    length: int
    mean: float

    def blocks(self) -> Iterator[Signal]:
        return cut(_decoded(self.data, self.name), BLOCK)


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
    with opened(source) as sound:
        return Recording(np.concatenate(list(sound.blocks())), sound.rate, sound.name)


@contextmanager
def opened(source: str | Path | BinaryIO) -> Iterator[Reading]:
    """``read`` for a recording of any length, which is held a block at a time. It has been read to its end once."""
    name = str(source) if isinstance(source, str | Path) else str(getattr(source, "name", "stream"))
    with ExitStack() as stack:
        try:
            data = stack.enter_context(Path(source).open("rb")) if isinstance(source, str | Path) else source
            if data is source or not Path(name).is_file():
                # A pipe cannot seek, which soundfile wants, and can be read only once.
                kept = cast(BinaryIO, stack.enter_context(tempfile.SpooledTemporaryFile(STREAM_IN_MEMORY)))
                shutil.copyfileobj(data, kept)
                data = kept
        except OSError as error:
            raise WavevqError(f"{name}: cannot be read ({(error.strerror or str(error)).lower()})") from None
        length, mean = _extent(_decoded(data, name))
        if not length:
            raise WavevqError(f"{name}: holds no samples")
        yield Reading(data, _rate(data), name, length, mean)


class _Forward(soundfile.SoundFile):  # type: ignore[misc]
    """Seeks nowhere: soundfile does after every block, to where it is, and there an mp3's decoder begins anew."""

    def seekable(self) -> bool:
        return False


def _decoded(data: BinaryIO, name: str) -> Iterator[Signal]:
    """The means of the channels of a file that can seek, from its start, in blocks of any size."""
    data.seek(0)
    try:
        with _Forward(data) as file:
            while len(channels := file.read(max(1, BLOCK // file.channels), dtype="float32", always_2d=True)):
                if not np.isfinite(channels).all():
                    raise WavevqError(f"{name}: holds samples that are NaN or infinite")
                yield channels.mean(axis=1, dtype=np.float32)
    except (soundfile.SoundFileError, TypeError, ValueError) as error:
        # TypeError and ValueError: soundfile wants to be told the rate of headerless audio.
        reason = getattr(error, "error_string", str(error)).strip().rstrip(".").lower()
        raise WavevqError(
            f"{name}: not an audio file that can be read, such as wav, flac, ogg or mp3 ({reason})"
        ) from None


def _rate(data: BinaryIO) -> int:
    data.seek(0)
    with soundfile.SoundFile(data) as file:
        return int(file.samplerate)


def _extent(blocks: Iterable[Signal]) -> tuple[int, float]:
    """How many samples, and their mean."""
    length, total = 0, 0.0
    for block in blocks:
        length += len(block)
        total += float(block.sum(dtype=np.float64))
    return length, total / max(1, length)


def cut(parts: Iterable[Signal], size: int) -> Iterator[Signal]:
    """``parts`` cut anew into signals of ``size`` samples and what is left, each as soon as it is whole."""
    held: list[Signal] = []
    samples = 0
    for part in parts:
        held.append(part)
        samples += len(part)
        if samples >= size:
            signal = np.concatenate(held)
            left = samples % size
            yield from np.split(signal[: samples - left], samples // size)
            held, samples = [signal[samples - left :]], left
    if samples:
        yield np.concatenate(held)


def write(path: str | Path, samples: NDArray[np.floating], rate: int) -> None:
    """Write ``samples`` ``[T]``, clipped to [-1, 1], in the format of the suffix, 16-bit where that has bits.

    Raises WavevqError for an unknown suffix, or a place or a rate that does not work; nothing half-written is left.
    """
    with writing(path, rate) as put_on:
        put_on(samples)


@contextmanager
def writing(path: str | Path, rate: int) -> Iterator[Callable[[NDArray[np.floating]], None]]:
    """``write`` piece by piece: what the block is given takes more samples. There is no file unless it ends well."""
    path = Path(path)
    container, coding = check_format(path, rate)
    with replacing(path) as temporary:
        try:
            name = os.fsencode(temporary)  # of a name that is no text soundfile can make nothing
            with soundfile.SoundFile(name, "w", rate, 1, subtype=coding, format=container) as file:

                def put_on(samples: NDArray[np.floating]) -> None:
                    for start in range(0, len(samples), BLOCK):
                        file.write(np.clip(samples[start : start + BLOCK], -1, 1).astype(np.float32))

                yield put_on
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
        with unwritable(path):
            yield temporary
            temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def unwritable(path: Path) -> Iterator[None]:
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


class Heard:
    """A recording as the models hear it: at ``rate``, without offset, at RMS 0.08, clipped to [-1, 1].

    It is read once here, for offset and level, and once each time by ``blocks``, and never held. Encoding takes the
    whole of it, training the part ``kept``, from the first to the last frame within ``trim_db`` of the loudest (all
    of it for None). Offset and RMS are those of that part, so that silence around an utterance does not change its
    level. length: T at ``rate``. Raises WavevqError for silence.
    """

    def __init__(self, sound: Sound, rate: int, trim_db: float | None) -> None:
        self.sound, self.rate = sound, rate
        # Trimming is librosa.effects.trim's, whose import takes longer than all the rest of a command's start.
        hop = max(1, round(TRIM_FRAME * rate / 4))
        length, hops = 0, []
        for block in cut(self._resampled(), max(1, BLOCK // hop) * hop):
            rows = np.pad(block, (0, -len(block) % hop)).astype(np.float64).reshape(-1, hop)
            hops.append(np.stack([rows.sum(1), (rows**2).sum(1)]))
            length += len(block)
        sums, squares = np.concatenate(hops, axis=1)
        first, last = 0, len(sums)
        if trim_db is not None:
            mean = sums.sum() / length
            counts = np.diff(np.minimum(np.arange(len(sums) + 1) * hop, length))
            about = np.maximum(squares - 2 * mean * sums + counts * mean**2, 0)  # the squares about the mean
            # Frames of four hops, one at each hop's start and one at the end.
            energy = np.convolve(about, np.ones(4))[1 : 2 + length // hop]
            energy = np.maximum(energy, 4 * hop * FLOOR**2)
            loud = np.flatnonzero(energy > energy.max() * 10 ** (-trim_db / 10))
            first, last = int(loud[0]), int(loud[-1]) + 1
        self.length, self.kept = length, slice(first * hop, min(length, last * hop))
        count = self.kept.stop - self.kept.start
        self.offset = float(sums[first:last].sum() / count)
        self.gain = _gain(float(squares[first:last].sum() / count) - self.offset**2, sound.name)

    def blocks(self) -> Iterator[Signal]:
        """Its samples, float32 in [-1, 1], in blocks of any size. Raises WavevqError where the file has changed."""
        length = 0
        for block in self._resampled():
            length += len(block)
            yield _levelled(block, self.offset, self.gain)
        if length != self.length:
            raise WavevqError(f"{self.sound.name}: has changed while it was read")

    def _resampled(self) -> Iterator[Signal]:
        # An offset would ring at both ends of the resampled signal and hide silence from trimming, so it goes first.
        mean = self.sound.mean
        centred = ((block - np.float64(mean)).astype(np.float32) for block in self.sound.blocks())
        return _resampled(centred, self.sound.rate, self.rate)


def normalise(recording: Recording, rate: int, trim_db: float | None) -> Levelled:
    """``Heard`` in memory. Raises WavevqError for silence."""
    heard = Heard(recording, rate, trim_db)
    return Levelled(np.concatenate(list(heard.blocks())), heard.kept)


def resample(samples: Signal, source: int, target: int) -> Signal:
    """``samples`` ``[T]`` at ``source`` Hz brought to ``target`` Hz: float32, at least one sample."""
    return np.concatenate(list(_resampled([samples], source, target)))


def _resampled(blocks: Iterable[Signal], source: int, target: int) -> Iterator[Signal]:
    """``resample`` of what the blocks are together, to the last bit: soxr keeps what it has not yet used of one."""
    if source == target:
        yield from blocks
        return
    stream = soxr.ResampleStream(source, target, 1, dtype="float32", quality="HQ")
    first, made = np.empty(0, np.float32), 0
    for block in blocks:
        first = first if len(first) else block[:1]
        out = stream.resample_chunk(block)
        made += len(out)
        yield out
    out = stream.resample_chunk(np.empty(0, np.float32), last=True)
    # soxr rounds the length, and a few samples at a high rate can round to none.
    yield out if made + len(out) else first


def level(samples: Signal, name: str = "recording") -> Signal:
    """``samples`` ``[T]`` without offset at RMS 0.08, clipped to [-1, 1]: float32. Raises WavevqError for silence."""
    offset = float(samples.mean(dtype=np.float64))
    return _levelled(samples, offset, _gain(float(np.mean((samples.astype(np.float64) - offset) ** 2)), name))


def _gain(power: float, name: str) -> float:
    """What brings a signal without offset of a mean square to RMS 0.08."""
    rms = math.sqrt(max(0.0, power))
    if rms < SILENCE_RMS:
        raise WavevqError(f"{name}: holds only silence")
    return LEVEL_RMS / rms


def _levelled(samples: Signal, offset: float, gain: float) -> Signal:
    return cast(Signal, np.clip((samples.astype(np.float64) - offset) * gain, -1, 1).astype(np.float32))


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
