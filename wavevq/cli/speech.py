"""The commands that turn audio or images, codes and .wvq files into each other, and make new ones."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wavevq.cli import images, options, video

if TYPE_CHECKING:
    from wavevq.sampling import Backend, Precision


@click.command()
@options.paths
@options.run
def encode(paths: tuple[str, ...], out: str | None, run: str | None) -> None:
    """Audio or images to codes: IN.wav CODES.npy, for a run of images IN.png CODES.npy.

    IN is audio of any rate, channels and format that soundfile reads, CODES an int32 array, one code a hop. Or an image
    that Pillow reads, its middle square brought to the model's size, CODES [h, w, G]. Several inputs and folders want
    --out DIR. A - as IN is standard input, as OUT standard output (.npy). Under torchrun, processes share the files.
    """
    folder = images.find(run, paths)
    if images.meant(folder):
        images.encode(paths, out, folder)
        return
    from wavevq import files
    from wavevq.jobs import AUDIO, CODES, plan

    console = options.console()
    with options.ranks(console):
        trained = options.load(folder, console)
        jobs = plan(paths, out, takes=AUDIO, gives=CODES, rate=trained.rate, streams=options.streams())
        files.encode(trained, jobs, console)


@click.command()
@options.paths
@click.option(*options.LABEL, metavar="S", help="Whose voice, or what class where the model asks; info lists them.")
@options.sampling
@options.run
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
    folder = images.find(run, paths)
    if images.meant(folder):
        images.decode(paths, out, speaker, folder, sampler, precision, **how)
        return
    if speaker is None:
        raise click.MissingParameter(param_type="option", param_hint="'--speaker'")
    from wavevq import files
    from wavevq.jobs import CODES, plan

    console = options.console()
    sampling = files.Sampling(**how)
    trained = options.load(folder, console, sampler, precision)
    jobs = plan(paths, out, takes=[CODES], gives=".wav", rate=trained.rate, streams=options.streams())
    files.decode(trained, jobs, speaker, sampling, console)


@click.command()
@options.paths
@options.SPEAKER
@options.sampling
@options.run
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
    from wavevq.jobs import AUDIO, plan

    console = options.console()
    sampling = files.Sampling(**how)
    trained = options.load(options.find(run, "speech"), console, sampler, precision)
    trained.speaker(speaker)  # it is part of OUT's name
    jobs = plan(
        paths,
        out,
        takes=AUDIO,
        gives=".wav",
        rate=trained.rate,
        default=lambda source: source.parent / f"{source.stem}_{speaker}.wav",
        streams=options.streams(),
    )
    files.convert(trained, jobs, speaker, sampling, console)
    if len(paths) == 1 and out is None:  # the output was not named
        console.print(f"written: {jobs[0].target}", soft_wrap=True, highlight=False)


@click.command()
@options.paths
@click.option("--speaker", metavar="S", help="Who speaks, and in whose voice it is decoded; needed among several.")
@options.run
def compress(paths: tuple[str, ...], out: str | None, speaker: str | None, run: str | None) -> None:
    """Audio to a small file: IN.wav OUT.wvq, for a run with a prior.

    Its codes are arithmetic-coded with the prior. Several inputs and folders want --out DIR. A - as IN is standard
    input, as OUT standard output.
    """
    from wavevq import compress as packing
    from wavevq.jobs import AUDIO, PACKED, plan

    console = options.console()
    found = options.find(run, "speech")
    trained = options.load(found, console, enrolled=False)  # a file belongs to the run as it was trained
    jobs = plan(paths, out, takes=AUDIO, gives=PACKED, rate=trained.rate, streams=options.streams())
    packing.compress(trained, jobs, speaker, console)


@click.command()
@options.paths
@options.sampling
@options.run
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
    from wavevq.jobs import PACKED, plan

    console = options.console()
    sampling = files.Sampling(**how)
    trained = options.load(options.find(run, "speech"), console, sampler, precision, enrolled=False)
    jobs = plan(paths, out, takes=[PACKED], gives=".wav", rate=trained.rate, streams=options.streams())
    packing.decompress(trained, jobs, sampling, console)


@click.command()
@click.argument("folder", metavar="[OUTDIR]", default="samples")
@click.option("--count", type=click.IntRange(min=1), default=16, show_default=True, help="How many clips or images.")
@click.option("--seconds", type=float, default=3.0, show_default=True, help="Of a clip at most, after the prime.")
@click.option("--prime", metavar="IN", help="A recording that every clip begins with and goes on from.")
@click.option(*options.LABEL, metavar="S", help="Whose voice, or what class; by default drawn by the seed for each.")
@click.option(
    "--guidance",
    type=float,
    default=1.0,
    show_default=True,
    metavar="W",
    help="Above 1, more of the speaker: logits = nobody + W (speaker - nobody); for a prior that was trained with "
    "drop_speaker, by the reference sampler, slowly.",
)
@click.option("--action", metavar="A", help="Of video: others' actions are A again and again; else another clip's.")
@options.sampling
@options.run
def sample(
    folder: str,
    count: int,
    seconds: float,
    prime: str | None,
    speaker: str | None,
    guidance: float,
    action: str | None,
    run: str | None,
    sampler: Backend,
    precision: Precision,
    **how: Any,
) -> None:
    """Speech or images from nothing: new codes from the run's prior, as files and a page in OUTDIR (samples).

    For a run of video, held-out clips that go on from their first frames, given their actions and given others.

    \b
    wavevq sample ships --label ship --count 64 --run runs/cifar10
    wavevq sample later --action left --count 8 --run runs/shapes
    """
    found = options.find(run)
    if video.meant(found):
        video.sample(folder, count, action, found, sampler, precision, **how)
        return
    options.refuse_of("video", "speech or images", "action")
    if images.meant(found):
        images.sample(folder, count, speaker, found, sampler, precision, **how)
        return
    from wavevq import generate
    from wavevq.audio import read

    console = options.console()
    trained = options.load(found, console, sampler, precision)
    begun = read(prime) if prime else None
    generate.sample(
        trained, Path(folder), count, seconds, console, speaker=speaker, prime=begun, guidance=guidance, **how
    )
