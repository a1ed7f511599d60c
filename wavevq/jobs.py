"""What a command line asks for: the inputs and their outputs, all checked before any work."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from wavevq.audio import FORMATS, check_format
from wavevq.errors import WavevqError
from wavevq.folders import walk

AUDIO, CODES, PACKED, PNG, GIF = tuple(FORMATS), ".npy", ".wvq", ".png", ".gif"
PAGE = "index.html"  # of what has been sampled


@dataclass(frozen=True)
class Job:
    """One input and its output, a path each, or a stream where that is ``-``."""

    source: Path | BinaryIO
    target: Path | BinaryIO

    @property
    def name(self) -> str:
        """Of the input, for messages."""
        return str(self.source) if isinstance(self.source, Path) else str(getattr(self.source, "name", "stream"))


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
    ``streams``, input and output; where IN is a folder, OUT is ``out``. With it, they are inputs and folders, searched
    for the suffixes ``takes``; each output goes below ``out``, under its input's path with the suffix ``gives``. rate:
    Hz of audio outputs.
    Raises WavevqError, one line for each output that cannot be.
    """
    if out is None and len(paths) == 2 and Path(paths[0]).is_dir() and paths[1] != "-":
        paths, out = paths[:1], paths[1]
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
            wrong += error.args
    if wrong:
        raise WavevqError(*dict.fromkeys(wrong))
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
    for parent, files in walk(folder):
        found += [parent / name for name in files if not name.startswith(".")]
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
        raise WavevqError(f"{folder}: is there already; name another OUTDIR, a new or an empty folder")
