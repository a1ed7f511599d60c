"""The demonstration: embedded speech, minutes of training, sampled clips judged beside their chance levels, a page.

What it shows is that training works. Intelligible conversion needs hours: the table says how far it is.
"""

from __future__ import annotations

import math
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from wavevq import experiment
from wavevq.audio import Recording, Signal, level, write
from wavevq.build import build_store
from wavevq.data.alignments import Phone
from wavevq.data.batches import whole_clips
from wavevq.data.store import Store, StoredClip
from wavevq.errors import WavevqError
from wavevq.evaluate.codebook import usage
from wavevq.evaluate.judges import levelled, spoken
from wavevq.evaluate.likelihood import derangement, encode_all, fitted
from wavevq.evaluate.probes import PhoneProbe, Score, SpeakerProbe
from wavevq.evaluate.report import Report, Take, curve_figure, usage_figure
from wavevq.recipe import Recipe, load_recipe
from wavevq.recipe import trained as shipping
from wavevq.run import Run, load_run
from wavevq.run_folder import RECIPE, SUMMARY, prior_folder, read_recipe
from wavevq.train.log import read_metrics
from wavevq.train.loop import Interrupted

CLIPS = 30  # held-out clips that are sampled: with six voices each pair of source and target comes once
SECONDS = 1.5  # of each
HEARD = 3  # clips on the page
PLAIN = (
    "Where training works, held-out bits/sample fall from one validation to the next, and both gaps are above 0: codes "
    "and speaker are used. Minutes of it do not give intelligible conversion, which takes hours: hold the phones of "
    "reconstruction and conversion against those of the original, of shuffled codes (another clip's, so that only the "
    "voice can be right) and of chance."
)


@dataclass(frozen=True)
class Utterance:
    """The beginning of a held-out clip, as the model hears it.

    samples: float32 ``[T]`` at the model's rate and level, after mu-law and back. target: the voice to convert to.
    """

    name: str
    speaker: str
    target: str
    samples: Signal
    phones: tuple[Phone, ...]


@dataclass(frozen=True)
class Row:
    """One version of every utterance, float32 ``[T]`` each, and its scores against phones and voices of the source."""

    name: str
    clips: tuple[Signal, ...]
    phones: Score
    target: Score
    source: Score


def main(folder: Path, console: Console) -> None:
    """Train the recipe of the demonstration in ``folder / "run"``, score it, write ``folder / "report.html"``."""
    demonstrate(load_recipe(recipe_path()), folder, console)


def demonstrate(recipe: Recipe, folder: Path, console: Console) -> Path:
    """The same for any recipe of a corpus with phones, two speakers or more and two held-out clips of each.

    Returns the page.

    Raises WavevqError where ``folder / "run"`` is something else than a run of this recipe.
    """
    run = trained(recipe, folder / "run", console)
    store = build_store(recipe)
    said = utterances(run, store)
    console.print(f"sampling {3 * len(said)} clips of {SECONDS:g} s, all at once: {run.sampler}", highlight=False)
    clips = versions(run, said)
    console.print("judging them by probes that have learned from real recordings", highlight=False)
    rows = judged(run, store, said, clips)
    for table in (progress_table(run), score_table(rows)):
        console.print(table)
    console.print(f"{PLAIN}\n{uncertainty(said)}", highlight=False)
    page = write_report(run, store, said, rows, folder)
    for path in (page, *write_audio(run, said, rows, folder / "audio")):
        console.print(str(path), soft_wrap=True, highlight=False)
    return page


def recipe_path() -> Path:
    """Of the demonstration: in the checkout, else where the wheel has put it."""
    below = Path("recipes") / "demo.yaml"
    checkout = Path(__file__).parents[1] / below
    return checkout if checkout.is_file() else Path(sysconfig.get_path("data")) / "share" / "wavevq" / below


# --- training -----------------------------------------------------------------------------------------------


def trained(recipe: Recipe, folder: Path, console: Console) -> Run:
    """The finished run of speech in ``folder``: as it is there, or carried on, or made."""
    finish(recipe, folder, console)
    return load_run(folder, enrolled=False)


def finish(recipe: Recipe, folder: Path, console: Console) -> None:
    """Train what a recipe says in ``folder``, from where it stands there, unless that is done."""
    if (folder / RECIPE).is_file() and read_recipe(folder) != recipe:
        raise WavevqError(f"{folder}: holds a run of another recipe; delete it or name another place with --out")
    last = prior_folder(folder, recipe) if recipe.prior else folder
    if (last / SUMMARY).is_file():
        console.print(f"{folder}: already trained; delete it to train again", soft_wrap=True, highlight=False)
    else:
        console.print(
            f"training {recipe.train.steps} steps: some minutes on two cores, if nothing else uses them",
            soft_wrap=True,
            highlight=False,
        )
        try:
            experiment.train(recipe, folder, resume=folder.exists(), console=console)
        except Interrupted:
            console.print("stopped and saved; the same command goes on", highlight=False)
            raise KeyboardInterrupt from None


# --- clips --------------------------------------------------------------------------------------------------


def utterances(run: Run, store: Store) -> list[Utterance]:
    """About CLIPS held-out beginnings, as many of each voice, their targets going round the other voices."""
    said = []
    for place, speaker in enumerate(run.speakers):
        clips = [clip for clip in store.split("val") if clip.speaker == speaker]
        others = run.speakers[place + 1 :] + run.speakers[:place]
        for i, clip in enumerate(clips[: max(2, CLIPS // len(run.speakers))]):
            heard, phones = beginning(run, store, clip)
            said.append(Utterance(clip.name, speaker, others[i % len(others)], heard, phones))
    return said


def beginning(run: Run, store: Store, clip: StoredClip) -> tuple[Signal, tuple[Phone, ...]]:
    """The first SECONDS of a clip in whole codes, levelled, after mu-law and back; and the phones in it."""
    length = min(clip.length, round(SECONDS * run.rate)) // run.recipe.hop * run.recipe.hop
    samples = torch.from_numpy(level(store.audio(clip, 0, length), clip.name))
    distribution = run.model.decoder.distribution
    heard = distribution.decode(distribution.encode(samples)).numpy()
    return heard, spoken(clip, length / run.rate)


def versions(run: Run, said: Sequence[Utterance]) -> dict[str, list[Signal]]:
    """Original, and what is sampled from its codes, from them for another voice, and from another clip's codes."""
    codes = [run.encode(Recording(one.samples, run.rate, one.name)) for one in said]
    donors = derangement([one.speaker for one in said], run.recipe.seed)
    others = [fitted(torch.from_numpy(codes[donors[i]]), len(own)).numpy() for i, own in enumerate(codes)]
    own, targets = [one.speaker for one in said], [one.target for one in said]
    drawn = run.decode_batch([*codes, *codes, *others], [*own, *targets, *own], seed=run.recipe.seed)
    heard = [levelled(clip) for clip in drawn]
    n = len(said)
    return {
        "original": [one.samples for one in said],
        "reconstruction": heard[:n],
        "conversion": heard[n : 2 * n],
        "shuffled codes": heard[2 * n :],
    }


def judged(run: Run, store: Store, said: Sequence[Utterance], clips: dict[str, list[Signal]]) -> list[Row]:
    """Each version of the clips under the same three questions; the probes learn from the training clips."""
    learned = store.split("train")
    real = [beginning(run, store, clip) for clip in learned]
    phones = PhoneProbe.fit([one[0] for one in real], [one[1] for one in real], run.rate, run.recipe.seed)
    voices = SpeakerProbe.fit([one[0] for one in real], [clip.speaker for clip in learned], run.rate)
    return [
        Row(
            name,
            tuple(heard),
            phones.score(f"{name}: phones right", heard, [one.phones for one in said]),
            voices.score(f"{name}: voice judged target", heard, [one.target for one in said]),
            voices.score(f"{name}: voice judged source", heard, [one.speaker for one in said]),
        )
        for name, heard in clips.items()
    ]


# --- telling ------------------------------------------------------------------------------------------------


def progress_table(run: Run) -> Table:
    """The validations of the run."""
    table = Table("step", "bits/sample", "without a model", "codes used", "shuffled-codes gap", "wrong-speaker gap")
    table.title = "held-out likelihood (bits/sample) while training"
    for column in table.columns:
        column.justify = "right"
    for line in read_metrics(run.folder, "validation"):
        table.add_row(
            str(line["step"]),
            f"{line['bits_per_sample']:.3f}",
            f"{line['marginal_bits']:.3f}",
            f"{line['codes_used']:.0f} of {line['codes']:.0f}",
            f"{line['shuffled_codes_gap']:+.3f}",
            f"{line['wrong_speaker_gap']:+.3f}",
        )
    return table


def score_table(rows: Sequence[Row]) -> Table:
    """Every score with its chance level."""
    table = Table("held-out clips", "phones right", "voice judged target", "voice judged source")
    table.title = "what probes hear, and what chance alone would score"
    for row in rows:
        scores = (row.phones, row.target, row.source)
        table.add_row(row.name, *(f"{score.value:.2f} (chance {score.chance:.2f})" for score in scores))
    return table


def uncertainty(said: Sequence[Utterance]) -> str:
    """How far the shares can be trusted."""
    error = math.sqrt(0.25 / len(said))
    return f"{len(said)} clips of {SECONDS:g} s: the share of a voice has a standard error of up to {error:.2f}."


def write_report(run: Run, store: Store, said: Sequence[Utterance], rows: Sequence[Row], folder: Path) -> Path:
    """The page: scores, sound, curves and codebook."""
    page = Report("wavevq: a demonstration")
    page.text(f"{PLAIN}\n\n{uncertainty(said)} Trained for {run.step} steps; {store.describe()}.")
    page.heading("What probes hear").scores([s for row in rows for s in (row.phones, row.target, row.source)])
    page.text(
        "Source and target are the voices of each conversion, for the other rows too. The originals have gone through "
        "mu-law and back, as everything that the model hears. Chance is the share of the most frequent class."
    )
    page.heading("Listen")
    for i in shown(said):
        takes = [Take(caption(row, said[i]), kind(row), row.clips[i], run.rate) for row in rows]
        page.listen(f"{said[i].name}, voice {said[i].speaker}", takes)
    if takes_shipped := by_shipped(run, [said[i] for i in shown(said)]):
        page.heading("The same by a model that is shipped")
        page.text(
            f"Above speaks the model that this demonstration has trained. This is {shipping.DEFAULT}, which comes with "
            "wavevq, has been trained for longer on recordings of people, and has never heard a voice of espeak-ng."
        )
        for i, take in zip(shown(said), takes_shipped, strict=True):
            page.listen(f"{said[i].name}, voice {said[i].speaker}", [take])
    page.heading("Training")
    lines = read_metrics(run.folder, "validation")
    for ylabel, names in (
        ("bits/sample", {"held-out": "bits_per_sample", "without a model": "marginal_bits"}),
        ("bits/sample", {"shuffled-codes gap": "shuffled_codes_gap", "wrong-speaker gap": "wrong_speaker_gap"}),
        ("codes", {"used": "codes_used", "perplexity": "perplexity"}),
    ):
        curves = {name: [(int(line["step"]), float(line[key])) for line in lines] for name, key in names.items()}
        page.figure(curve_figure(curves, ylabel, ""), f"Held-out: {', '.join(names)}")
    codes = encode_all(run.model, whole_clips(store, "val", run.recipe.evaluation.batch, run.recipe.hop))
    counts = usage(list(codes.values()), run.codebook()).counts
    page.figure(usage_figure(counts.numpy(), ""), "Use of the codebook over all held-out clips")
    return page.write(folder / "report.html")


def by_shipped(run: Run, said: Sequence[Utterance]) -> list[Take]:
    """What the shipped model for whoever has no other makes of the originals, in voices of its own; none without it."""
    if shipping.DEFAULT not in shipping.shipped():
        return []
    model = load_run(shipping.SHIPPED / shipping.DEFAULT, enrolled=False)
    voices = model.speakers[-len(said) :]
    takes = []
    for one, voice in zip(said, voices * len(said), strict=False):
        heard = model.convert(Recording(one.samples, run.rate, one.name), voice, seed=run.recipe.seed)
        takes.append(Take(f"{shipping.DEFAULT}, to {voice}", "sampled", levelled(heard), model.rate))
    return takes


def write_audio(run: Run, said: Sequence[Utterance], rows: Sequence[Row], folder: Path) -> list[Path]:
    """The page's clips as wav files."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for number, i in enumerate(shown(said), 1):
        for row in rows:
            voice = said[i].target if row.name == "conversion" else said[i].speaker
            paths.append(folder / f"{number}-{row.name.replace(' ', '-')}-{voice}.wav")
            write(paths[-1], row.clips[i], run.rate)
    return paths


def shown(said: Sequence[Utterance]) -> list[int]:
    """The clips on the page, spread over the voices."""
    return [int(i) for i in np.linspace(0, len(said) - 1, min(HEARD, len(said))).round()]


def caption(row: Row, one: Utterance) -> str:
    return f"{row.name} to {one.target}" if row.name == "conversion" else row.name


def kind(row: Row) -> Literal["original", "sampled"]:
    return "original" if row.name == "original" else "sampled"
