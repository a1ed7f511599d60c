"""Files in, files out: encode, decode and convert one or many, each output written whole or not at all."""

from __future__ import annotations

import io
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console

from wavevq.audio import Signal, make_folder, opened, put, write, writing
from wavevq.codes_file import arriving_codes, read_codes, read_header, write_codes
from wavevq.data.batches import grouped
from wavevq.distributed import rank, world_size
from wavevq.errors import WavevqError
from wavevq.jobs import Job
from wavevq.progress import Told, seconds_bar, with_bar
from wavevq.run import Run, check_sampling

AT_ONCE = 32  # clips sampled together: the weights are read once for all of them


@dataclass(frozen=True)
class Clip:
    """What is sampled for a job: codes int64 ``[F]``, in whose voice, and how many samples of it are wanted."""

    job: Job
    speaker: str
    codes: NDArray[np.int64]
    samples: int


@dataclass(frozen=True)
class Sampling:
    """How audio is drawn. temperature: None for that of the run's recipe."""

    seed: int = 0
    temperature: float | None = None
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_sampling(self.seed, self.temperature, self.top_p)

    @property
    def how(self) -> dict[str, Any]:
        """The keywords of every ``Run.decode``."""
        return {"seed": self.seed, "temperature": self.temperature, "top_p": self.top_p}


def encode(run: Run, jobs: Sequence[Job], console: Console) -> None:
    """Audio to codes, each rank its share. Inputs that cannot be used are told at the end, in a WavevqError."""
    told = Told("encoded", "encoding", console)
    for job, advance in with_bar(jobs[rank() :: world_size()], "encoding", console):
        with told.errors(), told.timing(), opened(job.source) as recording:
            write_codes(job.target, run.encode(recording, advance))
            told.add(run.duration(recording) / run.rate)
    told.end()


def decode(run: Run, jobs: Sequence[Job], speaker: str, sampling: Sampling, console: Console) -> None:
    """Codes to audio, several clips at once; errors as in ``encode``.

    A stream's audio is written while its codes arrive.
    """
    told = Told("decoded", "sampling", console)
    run.speaker(speaker)
    clips = []
    for job in jobs:
        with told.errors():
            if isinstance(job.source, Path) or isinstance(job.target, Path):
                codes = run.check_codes(read_codes(job.source, job.name), job.name)
                clips.append(Clip(job, speaker, codes, len(codes) * run.recipe.hop))
            else:
                frames, dtype = read_header(job.source, job.name)
                coming = arriving_codes(job.source, frames, dtype, job.name)
                run.warm_up()
                _pipe(run, job, speaker, coming, frames * run.recipe.hop, sampling, told, console)
    sample_clips(run, clips, sampling, told, console)
    told.end()


def convert(run: Run, jobs: Sequence[Job], speaker: str, sampling: Sampling, console: Console) -> None:
    """Audio to audio of the same duration in another voice, several clips at once; errors as in ``encode``."""
    told = Told("converted", "sampling", console)
    run.speaker(speaker)
    clips = []
    for job, advance in with_bar(jobs, "encoding", console):
        with told.errors(), opened(job.source) as recording:
            clips.append(Clip(job, speaker, run.encode(recording, advance), run.duration(recording)))
    sample_clips(run, clips, sampling, told, console)
    told.end()


def sample_clips(run: Run, clips: Sequence[Clip], sampling: Sampling, told: Told, console: Console) -> None:
    """Whole files many at a time, streams a chunk at a time."""
    if clips:
        run.warm_up()
    files = []
    for clip in clips:
        if isinstance(clip.job.target, Path):
            files.append(clip)
        else:
            with told.errors():
                _pipe(run, clip.job, clip.speaker, [clip.codes], clip.samples, sampling, told, console)
    with seconds_bar(sum(len(clip.codes) for clip in files) * run.recipe.hop / run.rate, console) as advance:
        for group in grouped([len(clip.codes) for clip in files], AT_ONCE):
            _draw([files[i] for i in group], run, sampling, told, advance)


def _draw(clips: Sequence[Clip], run: Run, sampling: Sampling, told: Told, advance: Callable[[float], object]) -> None:
    """Clips together, each written to its file while they are drawn: an hour of audio is never held."""
    drawn = run.decode_blocks([clip.codes for clip in clips], [clip.speaker for clip in clips], **sampling.how)
    with ExitStack() as stack:
        outputs = [stack.enter_context(closing(_written(clip, run, told))) for clip in clips]
        for output in outputs:
            next(output, None)
        while True:
            with told.timing():
                block = next(drawn, None)
            if block is None:
                return
            for output, part in zip(outputs, block, strict=True):
                with suppress(StopIteration):  # it has all, or could not be written, which has been told
                    output.send(part)
            advance(sum(map(len, block)) / run.rate)


def _written(clip: Clip, run: Run, told: Told) -> Generator[None, Signal, None]:
    """Takes a clip's audio, a part each time, for its file, which is there when all has come."""
    target = cast(Path, clip.job.target)
    left = min(clip.samples, len(clip.codes) * run.recipe.hop)  # rounding may want a sample more than there are
    with told.errors():
        make_folder(target)
        with writing(target, run.rate) as put_on:
            while left:
                part = (yield)[:left]
                put_on(part)
                left -= len(part)
        told.add(clip.samples / run.rate)


def _pipe(
    run: Run,
    job: Job,
    speaker: str,
    codes: Iterable[NDArray[np.integer[Any]]],
    samples: int,
    sampling: Sampling,
    told: Told,
    console: Console,
) -> None:
    """The first ``samples`` of the codes' audio on the job's stream, each chunk as soon as it is made."""
    done = 0
    try:
        with seconds_bar(samples / run.rate, console) as advance:
            chunks = run.decode_stream(told.awaited(codes), speaker, **sampling.how, name=job.name)
            while True:
                with told.timing():
                    chunk = next(chunks, None)
                if chunk is None:
                    break
                part = chunk[: samples - done]
                write_audio(job.target, part, run.rate)
                done += len(part)
                advance(len(part) / run.rate)
    except WavevqError as error:
        written = f"; {done / run.rate:.2f} s of audio have been written" if done else ""
        raise WavevqError(f"{error}{written}") from None
    told.add(samples / run.rate)


def write_audio(target: Path | BinaryIO, samples: Signal, rate: int) -> None:
    """Audio ``[T]`` in the format of the suffix, or on a stream raw: 16-bit little-endian, mono."""
    if isinstance(target, Path):
        make_folder(target)
        write(target, samples, rate)
    else:
        raw = io.BytesIO()
        soundfile.write(raw, np.clip(samples, -1, 1), rate, format="RAW", subtype="PCM_16", endian="LITTLE")
        put(target, raw.getvalue())
