"""What commands share: options, exit codes, the run they load, and where their messages go."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wavevq.errors import WavevqError, escaped

if TYPE_CHECKING:
    from pathlib import Path
    from typing import BinaryIO

    from rich.console import Console

    from wavevq.recipe.section import Signal
    from wavevq.run import Run
    from wavevq.run_folder import Found
    from wavevq.sampling import Backend, Precision

F = TypeVar("F", bound=Callable[..., Any])

MISTAKE, INTERRUPTED = 2, 130  # exit codes; click's own mistakes are 2 as well


def paths(command: F) -> F:
    command = click.argument("paths", nargs=-1, required=True, metavar="IN [OUT]")(command)
    return click.option("--out", metavar="DIR", help="For several inputs and folders: where outputs go.")(command)


def run(command: F) -> F:
    said = (
        "A run's folder, its name under runs/, or one shipped with wavevq; by default $WAVEVQ_RUN, else the newest "
        "finished one under runs/ that fits, else voices, which is shipped."
    )
    return click.option("--run", metavar="RUN", help=said)(command)


def sampling(command: F) -> F:
    for option in (
        click.option(
            "--precision",
            type=click.Choice(["bfloat16", "float32"]),
            default="bfloat16",
            show_default=True,
            help="How the sampler stores the weights; it calculates in float32.",
        ),
        click.option(
            "--sampler",
            type=click.Choice(["auto", "reference", "cpu", "gpu"]),
            default="auto",
            show_default=True,
            help="What draws the samples; only auto chooses.",
        ),
        click.option("--top-p", type=float, default=1.0, show_default=True, help="Draw from the likeliest classes."),
        click.option(
            "--temperature",
            type=float,
            show_default="the recipe's evaluation.temperature",
            help="Below 1 is less random.",
        ),
        click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal audio."),
    ):
        command = option(command)
    return command


def refuse_of(signal: str, here: str, *names: str) -> None:
    """Raises WavevqError where one of these options, which are for runs of ``signal``, was given to one of ``here``."""
    context = click.get_current_context()
    for parameter in context.command.params:
        given = context.get_parameter_source(str(parameter.name)) == click.core.ParameterSource.COMMANDLINE
        if parameter.name in names and given:
            raise WavevqError(f"{parameter.opts[-1]}: is for runs of {signal}, and this one is of {here}")


LABEL = "--speaker", "--label", "speaker"  # names of one option: a class of images is to them what a speaker is
SPEAKER = click.option("--speaker", required=True, metavar="S", help="Whose voice; wavevq info lists them.")


FOUND = "wavevq.run"  # in a context's meta: the ``Found`` of this call


def find(name: str | None, *signals: Signal) -> Path:
    """The folder of the run that is meant, as ``run_folder.found_run``, whose why ``tell`` and refusals say."""
    from wavevq.run_folder import found_run

    found = found_run(name, *signals)
    click.get_current_context().meta[FOUND] = found
    return found.folder


def tell(console: Console) -> None:
    """Says which run was taken where none was named."""
    if found := _by_default(click.get_current_context()):
        console.print(f"run: {_shown(found.folder)} ({found.why})", soft_wrap=True, highlight=False)


def refusal(line: str, context: click.Context) -> str:
    """The line of a refusal. One that is of a run which nobody named says so."""
    found = _by_default(context)
    if found is None or not re.search(rf"{re.escape(escaped(str(found.folder)))}(?![\w.-])", line):
        return line
    return f"{line} ({escaped(_shown(found.folder))} was taken by default: {found.why})"


def _by_default(context: click.Context) -> Found | None:
    found: Found | None = context.meta.get(FOUND)
    return found if found and found.why else None


def _shown(folder: Path) -> str:
    from wavevq.recipe.trained import is_shipped

    return folder.name if is_shipped(folder) else str(folder)


def load(
    folder: Path,
    console: Console,
    sampler: Backend | None = None,
    precision: Precision = "bfloat16",
    enrolled: bool = True,
) -> Run:
    """The run that ``find`` has found; says which where it was not named, and what draws.

    sampler: None where nothing is sampled, and no time to be lost on importing what would.
    """
    from wavevq.progress import told_sampler
    from wavevq.run import load_run

    tell(console)
    run = load_run(folder, sampler=sampler or "reference", precision=precision, enrolled=enrolled)
    run.codebook()  # every command that loads a model works on codes
    if sampler is not None:
        told_sampler(run.sampler, console)
    return run


@contextmanager
def ranks(console: Console) -> Iterator[None]:
    """The processes that torchrun has started share the work; the first speaks."""
    from wavevq.distributed import joined, rank

    with joined():
        console.quiet = rank() > 0
        yield


def console(stderr: bool = True) -> Console:
    """Where messages go: standard error for the commands whose output may be piped."""
    from rich.console import Console

    from wavevq.cli.shown import Shown

    made = Console(stderr=stderr, markup=False)  # names of files and speakers are shown as they are, but for
    made.push_render_hook(Shown())
    return made


def streams() -> tuple[BinaryIO, BinaryIO]:
    return sys.stdin.buffer, sys.stdout.buffer
