"""What encode, decode and sample do for a run of images; their options are those for speech."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavevq.cli import options
from wavevq.errors import WavevqError

if TYPE_CHECKING:
    from rich.console import Console

    from wavevq.image_run import ImageRun
    from wavevq.recipe.section import Signal
    from wavevq.sampling import Backend, Precision


def signals(paths: Sequence[str]) -> tuple[Signal, ...]:
    """Of what a run must be for these files: of images or their codes, or of speech where nothing tells of an image.

    What tells is the suffix of one that is named, and of a folder's files, where pictures beside audio are its covers;
    of codes, the first.
    """
    from wavevq.codes_file import axes_of
    from wavevq.folders import is_file, walk
    from wavevq.jobs import AUDIO, CODES
    from wavevq.pixels import SUFFIXES

    top = paths[0]
    inside = [top] if is_file(Path(top)) else (str(parent / name) for parent, names in walk(top) for name in names)
    known = [one for one in inside if one.lower().endswith((*SUFFIXES, *AUDIO, CODES))]
    has = {kind: any(one.lower().endswith(kind) for one in known) for kind in (SUFFIXES, AUDIO)}
    told = any(one.lower().endswith(SUFFIXES) for one in paths) or (has[SUFFIXES] and not has[AUDIO])
    if known and known[0].lower().endswith(CODES):
        with suppress(WavevqError, OSError):  # what is wrong with it the command tells, beside the other files
            told |= axes_of(known[0]) > 1
    return ("images", "codes") if told else ("speech",)


def find(run: str | None, paths: Sequence[str]) -> Path:
    """As ``options.find``: where no run is named, one of what the files are of."""
    return options.find(run, *(() if run else signals(paths)))


def meant(folder: Path) -> bool:
    """Whether a run is of images, or of the codes of a run that is."""
    from wavevq.run_folder import read_recipe

    return read_recipe(folder).data.signal != "speech"


def encode(paths: tuple[str, ...], out: str | None, run: Path) -> None:
    from wavevq import image_files
    from wavevq.jobs import CODES, plan
    from wavevq.pixels import SUFFIXES

    console = options.console()
    with options.ranks(console):
        trained = load(run, console)
        jobs = plan(paths, out, takes=SUFFIXES, gives=CODES, streams=options.streams())
        image_files.encode(trained, jobs, console)


def decode(
    paths: tuple[str, ...],
    out: str | None,
    label: str | None,
    run: Path,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    from wavevq import image_files
    from wavevq.files import Sampling
    from wavevq.jobs import CODES, PNG, plan

    console = options.console()
    sampling = Sampling(**how)
    trained = load(run, console, sampler, precision)
    jobs = plan(paths, out, takes=[CODES], gives=PNG, streams=options.streams())
    image_files.decode(trained, jobs, label, sampling, console)


def sample(
    folder: str,
    count: int,
    label: str | None,
    run: Path,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    from wavevq import image_files
    from wavevq.files import Sampling

    options.refuse_of("speech", "images", "seconds", "prime", "guidance")
    console = options.console()
    sampling = Sampling(**how)
    trained = load(run, console, sampler, precision)
    image_files.sample(trained, Path(folder), count, console, label=label, sampling=sampling)


def load(folder: Path, console: Console, sampler: Backend = "auto", precision: Precision = "bfloat16") -> ImageRun:
    """As ``options.load``; what draws is said where something does."""
    from wavevq.image_run import load_image_run

    options.tell(console)
    run = load_image_run(folder, sampler=sampler, precision=precision)
    run.codebook()
    return run
