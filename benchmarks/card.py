"""The model card of a run, beside its weights: what is shipped in wavevq/models/ has one.

python benchmarks/card.py FOLDER --failures FILE [--evaluation FILE] [--hardware TEXT] [--set data.root=PATH]

FOLDER is what `wavevq export` wrote, and has been measured by `wavevq evaluate`: every figure of the card is read from
that evaluation, which must be of these weights, or from the training's own log, recipe and corpus. FILE of --failures
is Markdown: what the model is known to do wrong, told by whoever has listened. Written are README.md, curves.png and a
few clips that the model makes, reconstructions and conversions of held-out recordings (whose words the card names and
whose audio stays where it is) and clips from nothing.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cells import processor, table
from rich.console import Console

from wavevq.audio import make_folder, write
from wavevq.build import build_listing, build_store
from wavevq.data.corpora import SPLITS, transcript
from wavevq.data.store import Store
from wavevq.errors import WavevqError
from wavevq.evaluate.metrics import METRICS
from wavevq.evaluate.record import Record, read_record
from wavevq.evaluate.report import curve_figure
from wavevq.evaluation import RECORD, place, shown, subject_of, with_overrides
from wavevq.export import LICENCE, sources
from wavevq.recipe import Recipe, Schedule
from wavevq.run import Run, load_run
from wavevq.run_folder import newest_checkpoint, prior_folder
from wavevq.train.log import read_metrics
from wavevq.train.state import fingerprint

CARD, CURVES, CLIPS = "README.md", "curves.png", "clips"
CLIPS_OF_A_KIND, SECONDS = 4, 5.0  # and how much of each at most
LARGEST = 1e6  # bytes of all clips together


@dataclass(frozen=True)
class Take:
    """A clip of the model's own making. file: in CLIPS. what: it is, with the words in it where they are known."""

    file: str
    what: str


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="an exported run")
    parser.add_argument("--failures", type=Path, required=True, metavar="FILE", help="known failures, as Markdown")
    parser.add_argument("--evaluation", type=Path, metavar="FILE", help="by default where wavevq evaluate writes it")
    parser.add_argument("--hardware", default=processor(), metavar="TEXT", help="of the training; by default this CPU")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="such as data.root=PATH")
    given = parser.parse_args()
    try:
        found = given.evaluation or place(given.folder) / RECORD
        written = card(given.folder, found, given.failures, given.hardware, tuple(given.set), Console(markup=False))
    except WavevqError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    print(f"written: {written}")


def card(
    folder: Path, evaluation: Path, failures: Path, hardware: str, sets: tuple[str, ...], console: Console
) -> Path:
    """Writes CARD, CURVES and CLIPS. Raises WavevqError for an evaluation of other weights, and what cannot be read."""
    run = load_run(folder, "cpu")
    record = read_record(evaluation)
    if record.model.sha256 != fingerprint(newest_checkpoint(folder)):
        raise WavevqError(f"{evaluation}: is of other weights than {folder} holds; evaluate that first")
    if lacking := METRICS.keys() - {section.metric for section in record.sections}:
        raise WavevqError(f"{evaluation}: lacks {', '.join(sorted(lacking))}; a card has all that evaluate measures")
    try:
        told = failures.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise WavevqError(f"{failures}: cannot be read ({error})") from None
    recipe = with_overrides(run, sets)
    store = build_store(recipe)
    takes = clips(run, recipe, store, folder / CLIPS, console)
    curve_figure(curves(folder), "bits/sample", "").savefig(folder / CURVES, dpi=80)
    parts = [
        *heading(run, folder),
        *corpus(recipe, store),
        *training(run, folder, hardware),
        *figures(record),
        "## Known failures",
        told,
        "## Clips",
        "All of it is the model's own output, drawn once by the seed of its recipe; clips of val are evenly spread.",
        *(f"- [{take.what}]({CLIPS}/{take.file})" for take in takes),
    ]
    (folder / CARD).write_text("\n\n".join(parts).replace("\n\n- ", "\n- ") + "\n", encoding="utf-8")
    return folder / CARD


def heading(run: Run, folder: Path) -> Iterator[str]:
    model = run.recipe.model
    yield f"# {folder.name}"
    rate = f"{run.rate / run.recipe.hop:.4g} codes a second, K = {run.codebook()}"
    yield (
        f"A VQ-VAE for speech at {run.rate} Hz with a WaveNet decoder ({model.decoder.size}): {rate}"
        f"{', with a prior of its codes' if run.prior else ''}. It knows {len(run.speakers)} voices: "
        f"{', '.join(run.speakers)}."
    )
    yield f"    wavevq convert --run {folder.name} --speaker {shlex.quote(run.speakers[0])} in.wav"
    if (folder / LICENCE).is_file():
        yield f"Licence: {(folder / LICENCE).read_text('utf-8').splitlines()[0]} ([{LICENCE}]({LICENCE}))."


def corpus(recipe: Recipe, store: Store) -> Iterator[str]:
    """What it was trained on, and what was held out."""
    yield "## Data"
    for one in sources(recipe) or []:
        yield f"- {one.name}, {one.by}; {one.licence}"
    rows = [["split", "clips", "minutes", "speakers"]]
    for split in SPLITS:
        some = store.split(split)
        minutes = sum(clip.length for clip in some) / store.rate / 60
        rows += [[split, str(len(some)), f"{minutes:.1f}", str(len({clip.speaker for clip in some}))]] if some else []
    yield table(rows)
    yield "Trained on train alone; val is of the same speakers, val_unseen of others. All is levelled to one RMS."


def training(run: Run, folder: Path, hardware: str) -> Iterator[str]:
    recipe = run.recipe
    yield "## Training"
    stages: list[tuple[str, Path, Schedule]] = [("VQ-VAE", folder, recipe.train)]
    if recipe.prior and run.prior and not recipe.prior.joint:
        stages.append(("prior", prior_folder(folder, recipe), recipe.prior))
    rows = [["", "steps", "batch", "crop", "learning rate", "minutes"]]
    for name, where, plan in stages:
        steps = max((line["step"] for line in read_metrics(where, "train")), default=0)
        shape = [str(plan.batch), str(plan.crop), f"{plan.learning_rate:g}"]
        rows.append([name, f"{steps} of {plan.steps}", *shape, f"{seconds(where) / 60:.0f}"])
    yield table(rows)
    if recipe.train.start is not None:
        yield f"It began with the weights of a run, `{recipe.train.start}`; the steps are those since."
    yield (
        f"Seed {recipe.seed}, {recipe.train.optimizer}, {recipe.train.precision}; validations and whatever else the "
        f"machine did are in the minutes. Hardware: {hardware}. The whole recipe is [recipe.yaml](recipe.yaml)."
    )
    yield f"![held-out bits/sample while training]({CURVES})"


def seconds(folder: Path) -> float:
    """Of a training, as its log has them: the clock starts anew where it was resumed."""
    lines = [line for kind in ("train", "validation") for line in read_metrics(folder, kind)]
    last = total = 0.0
    for line in sorted(lines, key=lambda line: (line["step"], line["kind"])):
        total += 0 if line["seconds"] >= last else last
        last = line["seconds"]
    return total + last


def curves(folder: Path) -> Mapping[str, list[tuple[int, float]]]:
    """Bits/sample after so many steps."""
    names = {"train": "of training crops", "validation": "held out"}
    return {
        name: [(line["step"], line["bits_per_sample"]) for line in read_metrics(folder, kind)]
        for kind, name in names.items()
    }


def figures(record: Record) -> Iterator[str]:
    """Every figure, a table for each metric."""
    yield "## Figures"
    yield (
        f"`{record.command}`, {record.date[:10]}, wavevq {record.wavevq}, seed {record.seed}: {record.clips} clips of "
        f"the split {record.split}, {record.seconds:.1f} s, {record.judged} of them sampled anew to be listened to."
    )
    for section in record.sections:
        yield f"**{section.title}**"
        if section.figures:
            rows = [[one.name, shown(one), one.unit, one.note] for one in section.figures]
            yield table(
                [["figure", "value", "unit", ""], *([cell.replace("|", "\\|") for cell in row] for row in rows)]
            )
        if section.note:
            yield section.note


# --- clips --------------------------------------------------------------------------------------------------


def clips(run: Run, recipe: Recipe, store: Store, folder: Path, console: Console) -> list[Take]:
    """CLIPS_OF_A_KIND reconstructions, conversions and new clips. Raises WavevqError where they are too large."""
    change: dict[str, Any] = {"split": "val", "judged": CLIPS_OF_A_KIND, "judged_seconds": SECONDS}
    plan = recipe.model_copy(update={"evaluation": recipe.evaluation.model_copy(update=change)})
    subject = subject_of(run, plan, console)
    paths = {clip.name: clip.path for clip in build_listing(recipe.speech, recipe.seed).clips}
    made = []
    for version in ("reconstruction", "conversion") if len(run.speakers) > 1 else ("reconstruction",):
        for number, (one, audio) in enumerate(zip(subject.utterances, subject.heard(version), strict=True), 1):
            said = transcript(paths[one.clip.name]) or one.clip.name
            to = f", {one.clip.speaker} to {one.target}" if version == "conversion" else f" of {one.clip.speaker}"
            made.append((f"{version}-{number}", f"{version}{to}: {said}", audio))
    if run.prior:
        voices = [run.speakers[i * len(run.speakers) // CLIPS_OF_A_KIND] for i in range(CLIPS_OF_A_KIND)]
        codes = run.sample_codes(voices, round(SECONDS * run.rate / run.recipe.hop), seed=recipe.seed)
        there = [(voice, one) for voice, one in zip(voices, codes, strict=True) if len(one)]
        drawn = run.decode_batch([one for _, one in there], [voice for voice, _ in there], seed=recipe.seed)
        for number, ((voice, _), audio) in enumerate(zip(there, drawn, strict=True), 1):
            made.append((f"new-{number}", f"from nothing, as {voice}", audio))
    takes = []
    for name, what, audio in made:
        path = folder / f"{name}.ogg"
        make_folder(path)
        write(path, audio, run.rate)
        takes.append(Take(path.name, what))
    size = sum((folder / take.file).stat().st_size for take in takes)
    if size > LARGEST:
        raise WavevqError(f"{folder}: {size / 1e6:.2f} MB of clips, at most {LARGEST / 1e6:g} are allowed")
    return takes


if __name__ == "__main__":
    main()
