"""What encode, decode and sample do for a run of images; their options are those for speech."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavevq.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from wavevq.image_run import ImageRun
    from wavevq.sampling import Backend, Precision


def meant(run: str | None) -> bool:
    """Whether the run that is named, as for ``find_run``, is of images, or of the codes of a run that is."""
    from wavevq.run_folder import find_run, read_recipe

    return read_recipe(find_run(run)).data.signal != "speech"


def encode(paths: tuple[str, ...], out: str | None, run: str | None) -> None:
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
    run: str | None,
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
    run: str | None,
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


def load(name: str | None, console: Console, sampler: Backend = "auto", precision: Precision = "bfloat16") -> ImageRun:
    """As ``options.load``; what draws is said where something does."""
    from wavevq.image_run import load_image_run

    run = load_image_run(name, sampler=sampler, precision=precision)
    run.codebook()
    options.tell(name, run.folder, console)
    return run
