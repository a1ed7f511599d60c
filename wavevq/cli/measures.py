"""The commands that measure and describe."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wavevq.cli import images, options, video
from wavevq.errors import WavevqError
from wavevq.folders import is_file

if TYPE_CHECKING:
    from wavevq.image_run import ImageRun
    from wavevq.run import Run
    from wavevq.video_run import VideoRun


@click.command()
@click.option("--only", multiple=True, metavar="NAME", help="This metric alone; may be repeated.")
@click.option(
    "--output",
    metavar="DIR",
    help="Where the results go; by default evaluation/ in the run's folder, of one that is shipped evaluation/NAME.",
)
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override data.root or a value of evaluation."
)
@options.run
def evaluate(only: tuple[str, ...], output: str | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Measure a run on held-out clips or images: a table, evaluation.json and a page with plots, audio or images.

    \b
    wavevq evaluate --run runs/digits --only codebook --set data.root=/data/fsdd
    """
    from wavevq import evaluation
    from wavevq.run_folder import read_recipe

    found = options.find(run)
    evaluation.check(only, evaluation.metrics_of(read_recipe(found)))
    console = options.console(stderr=False)
    trained: Run | ImageRun | VideoRun
    if video.meant(found):
        trained = video.load(found, console)
    elif images.meant(found):
        trained = images.load(found, console)
    else:
        trained = options.load(found, console, "auto", enrolled=False)
    folder = Path(output) if output else evaluation.place(trained.folder)
    evaluation.evaluate(trained, only, folder, overrides, console)


@click.command()
@click.argument("paths", nargs=-1, metavar="[FILES or FOLDERS...]")
@click.option("--markdown", metavar="FILE", help="Also write the table there: a new file, or between a file's marks.")
def scoreboard(paths: tuple[str, ...], markdown: str | None) -> None:
    """The paper's numbers beside ours, from evaluations and the results of studies; by default the checkout's.

    A folder stands for the .json files in it and in its evaluation/. The newest file with a figure counts.

    \b
    wavevq scoreboard runs/digits --markdown board.md
    """
    from wavevq import scoreboard as board

    board.scoreboard(
        [Path(path) for path in paths], Path(markdown) if markdown else None, options.console(stderr=False)
    )


@click.command()
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def doctor(as_json: bool) -> None:
    """What is installed, on what it runs, where data and compiled code are kept, and a self-test of each sampler.

    To be pasted into a report of a mistake: the home folder is ~ in it, the user's name left out. Exit code 1 where a
    self-test fails.
    """
    from wavevq.doctor import doctor as examine

    if not examine(options.console(stderr=False), as_json):
        raise click.exceptions.Exit(1)


@click.command()
@click.argument("what", metavar="RUN|FILE", required=False)
@options.run
def info(what: str | None, run: str | None) -> None:
    """Describe a run (by default the one that the other commands would take), a file of codes, or a .wvq file.

    For codes, --run (or $WAVEVQ_RUN) names the run that made them, whose rate and hop give their duration.
    """
    from wavevq import about
    from wavevq.jobs import CODES, PACKED

    file = what is not None and (what == "-" or is_file(Path(what)))
    suffix = Path(what or "").suffix.lower()
    if what is not None and not file and suffix in (CODES, PACKED):
        raise WavevqError(f"{what}: there is no such file")
    packed = file and suffix == PACKED
    if what is not None and run is not None and (packed or not file):
        raise WavevqError(f"{what}: --run goes with a {CODES} file of codes only")
    if packed:
        table = about.of_packed(Path(str(what)))
    elif what is not None and file:
        table = about.of_codes(sys.stdin.buffer if what == "-" else what, what, run)
    else:
        folder = options.find(what if what is not None else run)
        options.tell(options.console())
        table = about.of_run(folder)
    options.console(stderr=False).print(table)
