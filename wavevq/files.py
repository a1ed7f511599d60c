"""Files in, files out: encode, decode and convert one or many, each output written whole or not at all."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import numpy as np
import soundfile
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from wavevq.audio import FORMATS, Signal, check_format, make_folder, put, read, write
from wavevq.codes_file import arriving_codes, read_codes, read_header, write_codes
from wavevq.data.batches import grouped
from wavevq.errors import WavevqError
from wavevq.run import Run, check_sampling

T = TypeVar("T")

AUDIO, CODES, PACKED, PNG = tuple(FORMATS), ".npy", ".wvq", ".png"
PAGE = "index.html"  # of what has been sampled
AT_ONCE = 32  # clips sampled together: the weights are read once for all of them


@dataclass(frozen=True)
class Job:
    """One input and its output, a path each, or a stream where that is ``-``."""

    source: Path | BinaryIO
    target: Path | BinaryIO

    @property
    def name(self) -> str:
        """Of the input, for messages."""
        return str(self.source) if isinstance(self.source, Path) else str(getattr(self.source, "name", "stream"))


@dataclass(frozen=True)
class Clip:
    """What is sampled for a job: codes int64 ``[F]``, in whose voice, and how many samples of it are wanted."""

    job: Job
    speaker: str
    codes: NDArray[np.int64]
    samples: int


@dataclass(frozen=True)
class Sampling:
    """How audio is drawn."""

    seed: int = 0
    temperature: float = 1.0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        check_sampling(self.seed, self.temperature, self.top_p)

    @property
    def how(self) -> dict[str, Any]:
        """The keywords of every ``Run.decode``."""
        return {"seed": self.seed, "temperature": self.temperature, "top_p": self.top_p}


# --- the three commands -------------------------------------------------------------------------------------


def encode(run: Run, jobs: Sequence[Job], console: Console) -> None:
    """Audio to codes. Inputs that cannot be used are told at the end, in a WavevqError; the others are done."""
    told = Told("encoded", "encoding", console)
    for job in with_bar(jobs, "encoding", console):
        with told.errors(), told.timing():
            recording = read(job.source)
            write_codes(job.target, run.encode(recording))
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
                _pipe(run, job, speaker, coming, frames * run.recipe.hop, sampling, told, console)
    sample_clips(run, clips, sampling, told, console)
    told.end()


def convert(run: Run, jobs: Sequence[Job], speaker: str, sampling: Sampling, console: Console) -> None:
    """Audio to audio of the same duration in another voice, several clips at once; errors as in ``encode``."""
    told = Told("converted", "sampling", console)
    run.speaker(speaker)
    clips = []
    for job in with_bar(jobs, "encoding", console):
        with told.errors():
            recording = read(job.source)
            clips.append(Clip(job, speaker, run.encode(recording), run.duration(recording)))
    sample_clips(run, clips, sampling, told, console)
    told.end()


def sample_clips(run: Run, clips: Sequence[Clip], sampling: Sampling, told: Told, console: Console) -> None:
    """Whole files many at a time, streams a chunk at a time."""
    files = []
    for clip in clips:
        if isinstance(clip.job.target, Path):
            files.append(clip)
        else:
            with told.errors():
                _pipe(run, clip.job, clip.speaker, [clip.codes], clip.samples, sampling, told, console)
    with seconds_bar(sum(len(clip.codes) for clip in files) * run.recipe.hop / run.rate, console) as advance:
        for group in grouped([len(clip.codes) for clip in files], AT_ONCE):
            batch = [files[i] for i in group]
            with told.timing():
                drawn = run.decode_batch(
                    [clip.codes for clip in batch],
                    [clip.speaker for clip in batch],
                    **sampling.how,
                    advance=lambda samples: advance(samples / run.rate),
                )
            for clip, audio in zip(batch, drawn, strict=True):
                with told.errors():
                    write_audio(clip.job.target, audio[: clip.samples], run.rate)
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


class Told:
    """Counts what is done, collects what is wrong, and says both at the end."""

    def __init__(self, did: str, work: str, console: Console, audio: bool = True) -> None:
        self.did, self.work, self.console, self.audio = did, work, console, audio
        self.files, self.seconds, self.worked = 0, 0.0, 0.0
        self.wrong: list[str] = []
        self.started = time.monotonic()

    @contextmanager
    def errors(self) -> Iterator[None]:
        """A mistake in one file leaves the others to be done."""
        try:
            yield
        except WavevqError as error:
            self.wrong.append(str(error))

    @contextmanager
    def timing(self) -> Iterator[None]:
        """What is done here is the work whose speed is told."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.worked += time.monotonic() - started

    def awaited(self, coming: Iterable[T]) -> Iterator[T]:
        """The same; waiting for them is no work."""
        every = iter(coming)
        while True:
            started = time.monotonic()
            try:
                one = next(every)
            except StopIteration:
                return
            finally:
                self.worked -= time.monotonic() - started
            yield one

    def add(self, seconds: float = 0.0) -> None:
        """One output, of so many seconds of audio, is written."""
        self.files += 1
        self.seconds += seconds

    def end(self) -> None:
        """Prints how long it took. Raises WavevqError, a line for each input that could not be used."""
        if self.files:
            count = "1 file" if self.files == 1 else f"{self.files} files"
            heard = f", {self.seconds:.2f} s of audio," if self.audio else ""
            speed = f", {self.seconds / self.worked:.3g} times real time" if self.audio else ""
            self.console.print(
                f"{self.did} {count}{heard} in {time.monotonic() - self.started:.2f} s; "
                f"{self.work}: {self.worked:.2f} s{speed}",
                soft_wrap=True,
                highlight=False,
            )
        if self.wrong:
            raise WavevqError("\n".join(self.wrong))


# --- which files --------------------------------------------------------------------------------------------


def plan(
    paths: Sequence[str],
    out: str | None,
    *,
    takes: Sequence[str],
    gives: str,
    rate: int = 0,
    default: Callable[[Path], Path] | None = None,
    streams: tuple[BinaryIO, BinaryIO],
) -> list[Job]:
    """The jobs of a command line, every output checked before any work.

    Without ``out``, ``paths`` are IN [OUT]: ``default`` makes the OUT that is not given, and ``-`` stands for one of
    ``streams``, input and output. With it, they are inputs and folders, searched for the suffixes ``takes``; each
    output goes below ``out``, under its input's path with the suffix ``gives``. rate: Hz of audio outputs.
    Raises WavevqError, one line for each output that cannot be.
    """
    jobs = _many(paths, Path(out), takes, gives) if out is not None else [_one(paths, default, streams)]
    sources = {_identity(job.source): job.source for job in jobs if isinstance(job.source, Path)}
    taken: dict[tuple[object, ...], Job] = {}
    wrong = []
    for job in jobs:
        if not isinstance(job.target, Path):
            continue
        key = _identity(job.target)
        if key in sources:
            wrong.append(f"{job.target}: is an input as well; name another output")
        elif key in taken:
            wrong.append(f"{job.target}: would be the output of both {taken[key].name} and {job.name}")
        taken[key] = job
        try:
            _check_target(job.target, gives, rate, Path(out) if out is not None else None)
        except WavevqError as error:
            wrong.append(str(error))
    if wrong:
        raise WavevqError("\n".join(dict.fromkeys(wrong)))
    return jobs


def _one(paths: Sequence[str], default: Callable[[Path], Path] | None, streams: tuple[BinaryIO, BinaryIO]) -> Job:
    if len(paths) > 2:
        raise WavevqError(f"{len(paths)} paths: give IN and OUT, or several inputs with --out DIR")
    if Path(paths[0]).is_dir():
        raise WavevqError(f"{paths[0]}: is a folder; say with --out DIR where its files' outputs go")
    source = streams[0] if paths[0] == "-" else Path(paths[0])
    if len(paths) == 2:
        return Job(source, streams[1] if paths[1] == "-" else Path(paths[1]))
    if default is None or not isinstance(source, Path):
        raise WavevqError(f"{paths[0]}: say where its output goes: IN OUT, OUT being a file or -")
    return Job(source, default(source))


def _many(paths: Sequence[str], out: Path, takes: Sequence[str], gives: str) -> list[Job]:
    jobs = []
    for path in map(Path, paths):
        if str(path) == "-":
            raise WavevqError("-: standard input has no name to give its output below --out; name OUT instead")
        if not path.is_dir():
            jobs.append(Job(path, out / f"{path.stem}{gives}"))
            continue
        found = _below(path, takes, out)
        jobs += [Job(one, out / one.relative_to(path).with_suffix(gives)) for one in found]
    return jobs


def recordings(paths: Sequence[str]) -> list[Path]:
    """The audio files that are named, and those below the folders that are, each once. Raises for a folder without."""
    found: dict[tuple[object, ...], Path] = {}
    for path in map(Path, paths):
        for one in _below(path, AUDIO) if path.is_dir() else [path]:
            found.setdefault(_identity(one), one)
    return list(found.values())


def _below(folder: Path, takes: Sequence[str], out: Path | None = None) -> list[Path]:
    """Files below a folder of certain suffixes, not those below ``out``. Raises WavevqError where there are none."""
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    kept = sorted(path for path in found if path.suffix.lower() in takes and path.is_file())
    if out is not None:
        kept = [path for path in kept if not _is_made(path, folder, out)]
    if not kept:
        raise WavevqError(f"{folder}: no file below it ends in one of {', '.join(takes)}")
    return kept


def _is_made(path: Path, folder: Path, out: Path) -> bool:
    """Whether a path is an earlier call's output: ``out`` may lie in the folder that is searched."""
    return out.resolve() != folder.resolve() and path.resolve().is_relative_to(out.resolve())


def _identity(path: Path) -> tuple[object, ...]:
    """The same for two names of one file."""
    try:
        status = path.stat()
    except OSError:
        return (os.path.realpath(path),)
    return status.st_dev, status.st_ino


def _check_target(path: Path, gives: str, rate: int, out: Path | None) -> None:
    named = {CODES: "codes", PACKED: "compressed codes", PNG: "an image"}
    if gives not in named:
        check_format(path, rate)
    elif path.suffix.lower() != gives:
        raise WavevqError(f"{path}: the suffix of {named[gives]} must be {gives}")
    if path.is_dir():
        raise WavevqError(f"{path}: is a folder; name a file in it, or give --out {path}")
    # The folder named by --out is made, and those below it.
    parent = path.parent if out is None else out if out.is_dir() else out.parent
    if not parent.is_dir():
        raise WavevqError(f"{path if out is None else out}: there is no folder {parent}")
    if not os.access(parent, os.W_OK):
        raise WavevqError(f"{path if out is None else out}: the folder {parent} cannot be written to")
    if out is not None and out.exists() and not out.is_dir():
        raise WavevqError(f"{out}: is a file; --out names a folder")


def refuse_full(folder: Path) -> None:
    """Raises WavevqError for what is no empty folder, nor a new one."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise WavevqError(f"{folder}: is there already; name an empty folder or a new one")


# --- reading and writing ------------------------------------------------------------------------------------


def write_audio(target: Path | BinaryIO, samples: Signal, rate: int) -> None:
    """Audio ``[T]`` in the format of the suffix, or on a stream raw: 16-bit little-endian, mono."""
    if isinstance(target, Path):
        make_folder(target)
        write(target, samples, rate)
    else:
        raw = io.BytesIO()
        soundfile.write(raw, np.clip(samples, -1, 1), rate, format="RAW", subtype="PCM_16", endian="LITTLE")
        put(target, raw.getvalue())


class RealTime(ProgressColumn):
    """Seconds of audio a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.3g} times real time" if task.speed else "")


def with_bar(jobs: Sequence[Job], label: str, console: Console) -> Iterator[Job]:
    with _bar(label, len(jobs), console, MofNCompleteColumn()) as advance:
        for job in jobs:
            yield job
            advance(1)


def seconds_bar(
    total: float, console: Console, label: str = "sampling"
) -> AbstractContextManager[Callable[[float], None]]:
    return _bar(label, total, console, TextColumn("{task.completed:.1f}/{task.total:.1f} s"), RealTime())


def codes_bar(total: float, console: Console) -> AbstractContextManager[Callable[[float], None]]:
    return _bar("drawing codes", total, console, MofNCompleteColumn())


@contextmanager
def _bar(label: str, total: float, console: Console, *columns: ProgressColumn) -> Iterator[Callable[[float], None]]:
    """A progress bar on a terminal; call what it yields with what has been done since."""
    shown = (TextColumn(label), BarColumn(), *columns, TimeRemainingColumn())
    with Progress(*shown, console=console, disable=not (total and console.is_terminal)) as progress:
        task = progress.add_task(label, total=total)
        yield lambda done: progress.advance(task, done)
