"""The commands that make a run, or fetch what one is made from."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wavevq.cli import options
from wavevq.errors import WavevqError

if TYPE_CHECKING:
    from wavevq.experiment import Stage
    from wavevq.sampling import Precision


@click.command()
@click.argument("recipe")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a value: train.steps=200.")
@click.option("--stage", type=click.Choice(["vqvae", "prior"]), help="Train this stage alone, not one after another.")
@click.option("--run", metavar="FOLDER", help="Run folder to write; by default runs/RECIPE-TIME.")
@click.option("--resume", is_flag=True, help="Go on with --run, by default with the recipe's newest run.")
def train(recipe: str, overrides: tuple[str, ...], stage: Stage | None, run: str | None, resume: bool) -> None:
    """Train what the YAML file RECIPE says.

    \b
    wavevq train recipes/vctk.yaml --set data.root=/data/vctk --set train.steps=20000
    """
    from wavevq.recipe import load_recipe

    plan = load_recipe(recipe, overrides)  # its mistakes are told before torch is imported

    from wavevq import experiment
    from wavevq.train.loop import Interrupted

    if run is not None:
        folder = _named(run)
    else:
        newest = resume or stage == "prior"
        folder = experiment.newest_folder(recipe) if newest else experiment.new_folder(recipe)
    try:
        experiment.train(plan, folder, resume, options.console(stderr=False), stage)
    except Interrupted as stopped:
        sets = [word for override in overrides for word in ("--set", override)]
        only = ["--stage", stage] if stage else []
        again = shlex.join(["wavevq", "train", recipe, *sets, *only, "--run", str(stopped), "--resume"])
        click.echo(f"wavevq: stopped and saved; to go on: {again}", err=True)
        raise click.exceptions.Exit(options.INTERRUPTED) from None


def _named(run: str) -> Path:
    """A run folder to write, with a name even where it is given as ``.``."""
    folder = Path(run)
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    if not folder.name:
        raise WavevqError(f"--run {run}: names no folder that a run could be written to")
    return folder


@click.command()
@click.argument("name")
@click.argument("clips", nargs=-1, required=True, metavar="CLIPS...")
@click.option("--steps", type=click.IntRange(min=1), default=400, show_default=True, help="At most; may end earlier.")
@click.option(
    "--rate", type=click.FloatRange(min=0, min_open=True), default=0.01, show_default=True, help="Of Adam; falls to 0."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shares held out and the order.")
@click.option("--replace", is_flag=True, help="Replace a speaker who is enrolled already.")
@options.run
def enroll(
    name: str, clips: tuple[str, ...], steps: int, rate: float, seed: int, replace: bool, run: str | None
) -> None:
    """Teach a run the voice of a speaker that it has never heard, NAME, from about a minute of audio.

    CLIPS are recordings or folders of them. Only an embedding is fitted, kept in the run's folder as
    speakers/NAME.safetensors; convert and decode then take --speaker NAME.

    \b
    wavevq enroll ann recordings/ann --run runs/vctk
    """
    from wavevq.audio import read
    from wavevq.enroll import enroll as fit
    from wavevq.jobs import recordings

    console = options.console(stderr=False)
    trained = options.load(options.find(run, "speech"), console, enrolled=False)
    found = [read(path) for path in recordings(clips)]
    fit(trained, name, found, console, steps=steps, rate=rate, seed=seed, replace=replace)


@click.command()
@click.argument("folder", metavar="FOLDER")
@click.option(
    "--precision",
    type=click.Choice(["bfloat16", "float32"]),
    default="bfloat16",
    show_default=True,
    help="How the weights are stored.",
)
@options.run
def export(folder: str, precision: Precision, run: str | None) -> None:
    """Copy a run without what only its training needs, to be handed on: averaged weights, recipe, speakers, log.

    FOLDER is a run like any other, but for train --resume.

    \b
    wavevq export small --run runs/digits
    """
    from wavevq import export as exporting

    console = options.console(stderr=False)
    source = options.find(run)
    options.tell(console)
    taken = exporting.export(source, Path(folder), precision)
    size = sum(path.stat().st_size for path in taken.rglob("*") if path.is_file())
    console.print(f"written: {taken}, {size / 1e6:.1f} MB", soft_wrap=True, highlight=False)
    if not (taken / exporting.LICENCE).exists():
        console.print(f"no {exporting.LICENCE}: wavevq knows none of this corpus", highlight=False)


@click.command()
@click.option("--out", metavar="DIR", default="demo", show_default=True, help="Folder for the run and the report.")
def demo(out: str) -> None:
    """Train on embedded speech, measure, and write a report page with audio: minutes on two CPU cores."""
    from wavevq.demo import main as show

    show(Path(out), options.console(stderr=False))


@click.command()
@click.argument("name")
@click.argument("folder", metavar="DIR")
@click.option("--subset", help="Of LibriSpeech; by default train-clean-100.")
def download(name: str, folder: str, subset: str | None) -> None:
    """Fetch a corpus, vctk, librispeech or cifar10, into DIR."""
    from wavevq.data.download import LIBRISPEECH_SUBSET
    from wavevq.data.download import download as fetch

    console = options.console()
    console.print(f"{name}: in {fetch(name, folder, subset or LIBRISPEECH_SUBSET)}", soft_wrap=True, highlight=False)
