"""The commands. Everything heavy is imported inside them, so that ``--help`` is quick."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from wavevq import __version__
from wavevq.errors import WavevqError

if TYPE_CHECKING:
    from typing import BinaryIO

    from rich.console import Console

    from wavevq.experiment import Stage
    from wavevq.image_run import ImageRun
    from wavevq.run import Run
    from wavevq.sampling import Backend, Precision

F = TypeVar("F", bound=Callable[..., Any])

MISTAKE, INTERRUPTED = 2, 130  # exit codes; click's own mistakes are 2 as well


class Commands(click.Group):
    """A user's mistake is told in its lines, without a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except WavevqError as error:
            for line in str(error).splitlines():
                click.echo(f"wavevq: {line}", err=True)
            ctx.exit(MISTAKE)
        except KeyboardInterrupt:
            ctx.exit(INTERRUPTED)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="wavevq")
def main() -> None:
    """Speech as discrete codes: train a VQ-VAE, encode, decode, convert voices."""


# --- training -----------------------------------------------------------------------------------------------


@main.command()
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
        experiment.train(plan, folder, resume, _console(stderr=False), stage)
    except Interrupted as stopped:
        sets = [word for override in overrides for word in ("--set", override)]
        only = ["--stage", stage] if stage else []
        again = shlex.join(["wavevq", "train", recipe, *sets, *only, "--run", str(stopped), "--resume"])
        click.echo(f"wavevq: stopped and saved; to go on: {again}", err=True)
        raise click.exceptions.Exit(INTERRUPTED) from None


def _named(run: str) -> Path:
    """A run folder to write, with a name even where it is given as ``.``."""
    folder = Path(run)
    folder = folder if folder.name not in ("", "..") else folder.resolve()
    if not folder.name:
        raise WavevqError(f"--run {run}: names no folder that a run could be written to")
    return folder


# --- codes and audio ----------------------------------------------------------------------------------------


def _paths(command: F) -> F:
    command = click.argument("paths", nargs=-1, required=True, metavar="IN [OUT]")(command)
    return click.option("--out", metavar="DIR", help="For several inputs and folders: where outputs go.")(command)


def _run(command: F) -> F:
    said = "A run's folder, or its name under runs/; by default $WAVEVQ_RUN, else the newest finished one."
    return click.option("--run", metavar="RUN", help=said)(command)


def _sampling(command: F) -> F:
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
        click.option("--temperature", type=float, default=1.0, show_default=True, help="Below 1 is less random."),
        click.option("--seed", type=int, default=0, show_default=True, help="Equal seeds give equal audio."),
    ):
        command = option(command)
    return command


_SPEAKER = click.option("--speaker", required=True, metavar="S", help="Whose voice; wavevq info lists them.")
_LABEL = "--speaker", "--label", "speaker"  # names of one option: a class of images is to them what a speaker is


def _of_images(run: str | None) -> bool:
    """Whether a run, named as for the commands, is of images."""
    from wavevq.run_folder import find_run, read_recipe

    return read_recipe(find_run(run)).data.signal == "images"


@main.command()
@_paths
@_run
def encode(paths: tuple[str, ...], out: str | None, run: str | None) -> None:
    """Audio or images to codes: IN.wav CODES.npy, for a run of images IN.png CODES.npy.

    IN is audio of any rate, channels and format that soundfile reads, CODES an int32 array, one code a hop. Or an image
    that Pillow reads, its middle square brought to the model's size, CODES [h, w, G]. Several inputs and folders want
    --out DIR. A - as IN is standard input, as OUT standard output (.npy).
    """
    from wavevq import files

    console = _console()
    if _of_images(run):
        from wavevq import image_files
        from wavevq.pixels import SUFFIXES

        of_images = _load_images(run, console)
        jobs = files.plan(paths, out, takes=SUFFIXES, gives=files.CODES, streams=_streams())
        image_files.encode(of_images, jobs, console)
        return
    trained = _load(run, console)
    jobs = files.plan(paths, out, takes=files.AUDIO, gives=files.CODES, rate=trained.rate, streams=_streams())
    files.encode(trained, jobs, console)


@main.command()
@_paths
@click.option(
    *_LABEL, metavar="S", help="Whose voice, or of which class, where the model asks; wavevq info lists them."
)
@_sampling
@_run
def decode(
    paths: tuple[str, ...],
    out: str | None,
    speaker: str | None,
    run: str | None,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    """Codes to audio or images: CODES.npy OUT.wav, for a run of images CODES.npy OUT.png.

    OUT is mono at the model's rate, in the format of its suffix; a - is raw 16-bit little-endian samples on
    standard output, written as they are made, and with - as CODES while codes arrive. Several inputs and folders
    want --out DIR.
    """
    from wavevq import files

    console = _console()
    sampling = files.Sampling(**how)
    if _of_images(run):
        from wavevq import image_files

        of_images = _load_images(run, console, sampler, precision)
        jobs = files.plan(paths, out, takes=[files.CODES], gives=files.PNG, streams=_streams())
        image_files.decode(of_images, jobs, speaker, sampling, console)
        return
    if speaker is None:
        raise click.MissingParameter(param_type="option", param_hint="'--speaker'")
    trained = _load(run, console, sampler, precision)
    jobs = files.plan(paths, out, takes=[files.CODES], gives=".wav", rate=trained.rate, streams=_streams())
    files.decode(trained, jobs, speaker, sampling, console)


@main.command()
@_paths
@_SPEAKER
@_sampling
@_run
def convert(
    paths: tuple[str, ...],
    out: str | None,
    speaker: str,
    run: str | None,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    """Audio in another voice: IN.wav [OUT.wav], by default IN_S.wav beside it.

    OUT lasts as long as IN, mono at the model's rate, in the format of its suffix; a - is raw 16-bit
    little-endian samples on standard output, written as they are made. Several inputs and folders want --out DIR.
    """
    from wavevq import files

    console = _console()
    sampling = files.Sampling(**how)
    trained = _load(run, console, sampler, precision)
    trained.speaker(speaker)  # it is part of OUT's name
    jobs = files.plan(
        paths,
        out,
        takes=files.AUDIO,
        gives=".wav",
        rate=trained.rate,
        default=lambda source: source.parent / f"{source.stem}_{speaker}.wav",
        streams=_streams(),
    )
    files.convert(trained, jobs, speaker, sampling, console)


@main.command()
@_paths
@click.option("--speaker", metavar="S", help="Who speaks, and in whose voice it is decoded; needed among several.")
@_run
def compress(paths: tuple[str, ...], out: str | None, speaker: str | None, run: str | None) -> None:
    """Audio to a small file: IN.wav OUT.wvq, for a run with a prior.

    Its codes are arithmetic-coded with the prior. Several inputs and folders want --out DIR. A - as IN is standard
    input, as OUT standard output.
    """
    from wavevq import compress as packing
    from wavevq import files

    console = _console()
    trained = _load(run, console, enrolled=False)  # a file belongs to the run as it was trained
    jobs = files.plan(paths, out, takes=files.AUDIO, gives=files.PACKED, rate=trained.rate, streams=_streams())
    packing.compress(trained, jobs, speaker, console)


@main.command()
@_paths
@_sampling
@_run
def decompress(
    paths: tuple[str, ...], out: str | None, run: str | None, sampler: Backend, precision: Precision, **how: Any
) -> None:
    """What compress wrote to audio: IN.wvq OUT.wav, with the run that compressed it.

    OUT is what decode makes of the same codes, speaker and seed, cut to the length of the recording: mono at the
    model's rate, in the format of its suffix; a - is raw 16-bit little-endian samples on standard output. Several
    inputs and folders want --out DIR.
    """
    from wavevq import compress as packing
    from wavevq import files

    console = _console()
    sampling = files.Sampling(**how)
    trained = _load(run, console, sampler, precision, enrolled=False)
    jobs = files.plan(paths, out, takes=[files.PACKED], gives=".wav", rate=trained.rate, streams=_streams())
    packing.decompress(trained, jobs, sampling, console)


@main.command()
@click.argument("folder", metavar="[OUTDIR]", default="samples")
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many clips or images.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="A clip's most: it may end earlier.")
@click.option("--prime", metavar="IN", help="A recording that every clip goes on from.")
@click.option(*_LABEL, metavar="S", help="Whose voice, or of which class; by default drawn by the seed for each.")
@click.option(
    "--guidance",
    type=float,
    default=1.0,
    show_default=True,
    metavar="W",
    help="Above 1, more of the speaker: logits = nobody + W (speaker - nobody); by the reference sampler, slowly.",
)
@_sampling
@_run
def sample(
    folder: str,
    count: int,
    seconds: float,
    prime: str | None,
    speaker: str | None,
    guidance: float,
    run: str | None,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    """Speech or images from nothing: new codes from the run's prior, as audio or images, codes and a page in OUTDIR.

    \b
    wavevq sample --label ship --count 64 ships --run runs/cifar10
    """
    from wavevq import generate
    from wavevq.audio import read

    console = _console()
    if _of_images(run):
        from wavevq import files, image_files

        given = click.get_current_context().get_parameter_source
        for name in ("seconds", "prime", "guidance"):
            if given(name) == click.core.ParameterSource.COMMANDLINE:
                raise WavevqError(f"--{name}: is for runs of speech, and this one is of images")
        sampling = files.Sampling(**how)
        of_images = _load_images(run, console, sampler, precision)
        image_files.sample(of_images, Path(folder), count, console, label=speaker, sampling=sampling)
        return
    trained = _load(run, console, sampler, precision)
    begun = read(prime) if prime else None
    generate.sample(
        trained, Path(folder), count, seconds, console, speaker=speaker, prime=begun, guidance=guidance, **how
    )


@main.command()
@click.argument("name")
@click.argument("clips", nargs=-1, required=True, metavar="CLIPS...")
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True, help="At most; may end earlier.")
@click.option("--rate", type=click.FloatRange(min=0, min_open=True), default=0.03, show_default=True, help="Of Adam.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of the shares held out and the order.")
@click.option("--replace", is_flag=True, help="Replace a speaker who is enrolled already.")
@_run
def enroll(
    name: str, clips: tuple[str, ...], steps: int, rate: float, seed: int, replace: bool, run: str | None
) -> None:
    """Teach a run the voice of a speaker that it has never heard, NAME, from about a minute of audio.

    CLIPS are recordings or folders of them. Only an embedding is fitted, kept in the run's folder as
    speakers/NAME.safetensors; convert and decode then take --speaker NAME.

    \b
    wavevq enroll ann recordings/ann --run runs/vctk
    """
    from wavevq import files
    from wavevq.audio import read
    from wavevq.enroll import enroll as fit

    console = _console(stderr=False)
    trained = _load(run, console, enrolled=False)
    found = [read(path) for path in files.recordings(clips)]
    fit(trained, name, found, console, steps=steps, rate=rate, seed=seed, replace=replace)


@main.command()
@click.option("--only", multiple=True, metavar="NAME", help="This metric alone; may be repeated.")
@click.option("--output", metavar="DIR", help="Where the results go; by default evaluation/ in the run's folder.")
@click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override data.root or a value of evaluation."
)
@_run
def evaluate(only: tuple[str, ...], output: str | None, overrides: tuple[str, ...], run: str | None) -> None:
    """Measure a run on held-out clips: a table, evaluation.json and a report page with plots and audio.

    \b
    wavevq evaluate --run runs/digits --only codebook --set data.root=/data/fsdd
    """
    from wavevq import evaluation

    evaluation.check(only)
    console = _console(stderr=False)
    trained = _load(run, console, "auto", enrolled=False)
    folder = Path(output) if output else trained.folder / evaluation.FOLDER
    evaluation.evaluate(trained, only, folder, overrides, console)


@main.command()
@click.argument("paths", nargs=-1, metavar="[FILES or FOLDERS...]")
@click.option("--markdown", metavar="FILE", help="Also write the table there: a new file, or between a file's marks.")
def scoreboard(paths: tuple[str, ...], markdown: str | None) -> None:
    """The paper's numbers beside ours, from evaluations and the results of studies; by default the checkout's.

    A folder stands for the .json files in it and in its evaluation/. The newest file with a figure counts.

    \b
    wavevq scoreboard runs/digits --markdown board.md
    """
    from wavevq import scoreboard as board

    board.scoreboard([Path(path) for path in paths], Path(markdown) if markdown else None, _console(stderr=False))


def _load(
    name: str | None,
    console: Console,
    sampler: Backend | None = None,
    precision: Precision = "bfloat16",
    enrolled: bool = True,
) -> Run:
    """The run that is meant; says which where it was not named, and what draws.

    sampler: None where nothing is sampled, and no time to be lost on importing what would.
    """
    from wavevq.run import load_run

    run = load_run(name, sampler=sampler or "reference", precision=precision, enrolled=enrolled)
    run.codebook()  # every command that loads a model works on codes
    _told(name, run.folder, console)
    if sampler is not None:
        console.print(f"sampler: {run.sampler}", soft_wrap=True, highlight=False)
    return run


def _load_images(
    name: str | None, console: Console, sampler: Backend = "auto", precision: Precision = "bfloat16"
) -> ImageRun:
    """The run of images that is meant; says as ``_load``."""
    from wavevq.image_run import load_image_run

    run = load_image_run(name, sampler=sampler, precision=precision)
    _told(name, run.folder, console)
    return run


def _told(name: str | None, folder: Path, console: Console) -> None:
    if not name:
        by = "$WAVEVQ_RUN" if os.environ.get("WAVEVQ_RUN") else "the newest finished one; --run names another"
        console.print(f"run: {folder} ({by})", soft_wrap=True, highlight=False)


# --- what there is ------------------------------------------------------------------------------------------


@main.command()
@click.argument("what", metavar="RUN|FILE", required=False)
@_run
def info(what: str | None, run: str | None) -> None:
    """Describe a run (by default the one that the other commands would take), a file of codes, or a .wvq file.

    For codes, --run names the run whose rate and hop give their duration.
    """
    from wavevq import about
    from wavevq.files import PACKED

    file = what is not None and (what == "-" or Path(what).is_file())
    packed = file and Path(str(what)).suffix.lower() == PACKED
    if what is not None and run is not None and (packed or not file):
        raise WavevqError(f"{what}: no file of codes; --run goes with one")
    if packed:
        table = about.of_packed(Path(str(what)))
    elif what is not None and file:
        table = about.of_codes(sys.stdin.buffer if what == "-" else what, what, run)
    else:
        table = about.of_run(what if what is not None else run)
    _console(stderr=False).print(table)


# --- the rest -----------------------------------------------------------------------------------------------


@main.command()
@click.argument("name")
@click.argument("folder", metavar="DIR")
@click.option("--subset", help="Of LibriSpeech; by default train-clean-100.")
def download(name: str, folder: str, subset: str | None) -> None:
    """Fetch a corpus, vctk, librispeech or cifar10, into DIR."""
    from wavevq.data.download import LIBRISPEECH_SUBSET
    from wavevq.data.download import download as fetch

    console = _console()
    console.print(f"{name}: in {fetch(name, folder, subset or LIBRISPEECH_SUBSET)}", soft_wrap=True, highlight=False)


@main.command()
@click.option("--out", metavar="DIR", default="demo", show_default=True, help="Folder for the run and the report.")
def demo(out: str) -> None:
    """Train on embedded speech, measure, and write a report page with audio: minutes on two CPU cores."""
    from wavevq.demo import main as show

    show(Path(out), _console(stderr=False))


def _console(stderr: bool = True) -> Console:
    """Where messages go: standard error for the commands whose output may be piped."""
    from rich.console import Console

    return Console(stderr=stderr)


def _streams() -> tuple[BinaryIO, BinaryIO]:
    return sys.stdin.buffer, sys.stdout.buffer
