"""What sample does for a run of video."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from wavevq.cli import options

if TYPE_CHECKING:
    from rich.console import Console

    from wavevq.sampling import Backend, Precision
    from wavevq.video_run import VideoRun


def meant(folder: Path) -> bool:
    """Whether a run is of video."""
    from wavevq.run_folder import read_recipe

    return read_recipe(folder).data.signal == "video"


def sample(
    folder: str,
    count: int,
    action: str | None,
    run: Path,
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


def load(folder: Path, console: Console, sampler: Backend = "auto", precision: Precision = "bfloat16") -> VideoRun:
    """As ``options.load``."""
    from wavevq.video_run import load_video_run

    options.tell(console)
    return load_video_run(folder, sampler=sampler, precision=precision)
