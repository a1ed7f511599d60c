"""Images in, images out: encode, decode and sample, each output written whole or not at all."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.console import Console

from wavevq import pixels
from wavevq.audio import make_folder
from wavevq.codes_file import read_codes, write_codes
from wavevq.distributed import rank, world_size
from wavevq.errors import WavevqError
from wavevq.evaluate.report import Report
from wavevq.files import Sampling
from wavevq.image_run import ImageRun
from wavevq.jobs import CODES, PAGE, PNG, Job, refuse_full
from wavevq.progress import Told, codes_bar, told_sampler, with_bar
from wavevq.run import drawn_labels

AT_ONCE = 32  # images whose codes are drawn together
COLUMNS = 8  # of a contact sheet
SHEET = "sheet.png"


def encode(run: ImageRun, jobs: Sequence[Job], console: Console) -> None:
    """Images, brought to the size of the model's, to codes, each rank its share; errors as of ``files.encode``."""
    told = Told("encoded", "encoding", console, audio=False)
    for job, _ in with_bar(jobs[rank() :: world_size()], "encoding", console):
        with told.errors(), told.timing():
            write_codes(job.target, run.encode(pixels.read(job.source, run.size)))
            told.add()
    told.end()


def decode(run: ImageRun, jobs: Sequence[Job], label: str | None, sampling: Sampling, console: Console) -> None:
    """Codes to images, PNG; errors as in ``encode``. label: the class, where the decoder needs one.

    Raises WavevqError for a class that is unknown, or that the decoder would not look at.
    """
    told = Told("decoded", "decoding", console, audio=False)
    run.label(label)
    if label is not None and not run.labelled:
        raise WavevqError(f"{label}: the decoder of {run.folder} goes by the codes alone; ask for no class")
    told_sampler(run.sampler, console)
    for job, _ in with_bar(jobs, "decoding", console):
        with told.errors(), told.timing():
            codes = run.check_codes(read_codes(job.source, job.name, axes=(3,)), job.name)
            pixels.write(job.target, run.decode(codes, label, **sampling.how))
            told.add()
    told.end()


def sample(
    run: ImageRun, folder: Path, count: int, console: Console, *, label: str | None = None, sampling: Sampling
) -> pixels.Pixels:
    """Draw ``count`` new images and write them below ``folder``: png, codes, a contact sheet and a page.

    label: their class; None draws each one's by the seed, where the prior knows classes. Returns the images uint8
    ``[N, H, W, 3]``. Raises WavevqError, before any work, for a folder that holds something or cannot be made and for
    what cannot be had.
    """
    refuse_full(folder)
    prior, sampler = run.trained_prior()
    labels: list[str | None] = [label] * count
    if label is not None:
        run.known_label(label)
    elif prior.labels or run.labelled:
        labels = [*drawn_labels(run.labels, count, sampling.seed)]
    told = Told("sampled", "sampling", console, audio=False)
    told_sampler(sampler, console)
    make_folder(folder / PAGE)  # what cannot be written is told before the work
    images = []
    with codes_bar(count * int(np.prod(run.recipe.grid)), console) as advance:
        for first in range(0, count, AT_ONCE):
            some = range(first, min(count, first + AT_ONCE))
            with told.timing():
                codes = run.sample_codes([labels[i] for i in some], streams=some, **sampling.how)
                there = zip(some, codes, strict=True)
                made = [run.decode(one, labels[i], stream=i, **sampling.how) for i, one in there]
            advance(codes.size)
            for i, one, image in zip(some, codes, made, strict=True):
                pixels.write(folder / f"{i + 1:03d}{PNG}", image)
                write_codes(folder / f"{i + 1:03d}{CODES}", one)
                told.add()
            images += made
    every = np.stack(images)
    paper = pixels.sheet(every, min(COLUMNS, count))
    pixels.write(folder / SHEET, paper)
    page(run, labels, paper, folder / PAGE)
    told.end()
    console.print(f"written: {folder / PAGE}", soft_wrap=True, highlight=False)
    return every


def page(run: ImageRun, labels: Sequence[str | None], paper: pixels.Pixels, path: Path) -> Path:
    """A page to look at."""
    report = Report(f"Sampled from {run.folder.name}")
    report.text("New codes from the prior, and what the decoder makes of them: nobody has taken these pictures.")
    report.picture(paper, f"{len(labels)} images, in rows from the left")
    report.table(("image", "class"), [(f"{i + 1:03d}", name or "–") for i, name in enumerate(labels)])
    return report.write(path)
