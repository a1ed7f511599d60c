"""What sample does for a run of video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavevq.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from wavevq.sampling import Backend, Precision
    from wavevq.video_run import VideoRun


def meant(run: str | None) -> bool:
    """Whether the run that is named, as for ``find_run``, is of video."""
    from wavevq.run_folder import find_run, read_recipe

    return read_recipe(find_run(run)).data.signal == "video"


def sample(
    folder: str,
    count: int,
    action: str | None,
    run: str | None,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    from wavevq import video_files
    from wavevq.files import Sampling

    options.refuse_of("speech", "video", "seconds", "prime", "guidance")
    options.refuse_of("speech or images", "video", "speaker")
    console = options.console()
    sampling = Sampling(**how)
    trained = load(run, console, sampler, precision)
    video_files.sample(trained, Path(folder), count, console, action=action, sampling=sampling)


def load(name: str | None, console: Console, sampler: Backend = "auto", precision: Precision = "bfloat16") -> VideoRun:
    """As ``options.load``."""
    from wavevq.video_run import load_video_run

    run = load_video_run(name, sampler=sampler, precision=precision)
    options.tell(name, run.folder, console)
    return run
