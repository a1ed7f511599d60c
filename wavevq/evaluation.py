"""``wavevq evaluate``: a run and its corpus as a ``Subject``, every metric of it, and what is written of them."""

from __future__ import annotations

import importlib.util
import shlex
import time
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from wavevq import __version__
from wavevq.audio import Signal, make_folder
from wavevq.build import build_corpus, build_words
from wavevq.data.batches import grouped
from wavevq.data.coded import CodedCorpus
from wavevq.data.corpora import Split
from wavevq.data.corpus import Corpus
from wavevq.data.image_store import ImageStore
from wavevq.data.shapes import Shapes
from wavevq.data.store import Store
from wavevq.errors import WavevqError
from wavevq.evaluate.films import VideoSubject
from wavevq.evaluate.likelihood import encoded
from wavevq.evaluate.metric import EXTRA, Figure, Findings, Metric, NotMeasured, Plot, Sheet, Table
from wavevq.evaluate.metrics import CODED_METRICS, IMAGE_METRICS, METRICS, VIDEO_METRICS
from wavevq.evaluate.pictures import ImageSubject
from wavevq.evaluate.record import FORMAT, Record, Section, Weights, write_record
from wavevq.evaluate.report import Report
from wavevq.evaluate.subject import Subject
from wavevq.files import AT_ONCE
from wavevq.image_run import ImageRun
from wavevq.pixels import Pixels
from wavevq.progress import Say, seconds_bar
from wavevq.recipe import Evaluation, Recipe, overridden
from wavevq.recipe.data import PLACES, is_place
from wavevq.recipe.trained import is_shipped
from wavevq.run import Run
from wavevq.run_folder import CHECKPOINTS, RECIPE, newest_checkpoint, prior_folder
from wavevq.train.state import AVERAGE, checkpoints, fingerprint, read_state
from wavevq.video_run import VideoRun

FOLDER, RECORD, PAGE = "evaluation", "evaluation.json", "evaluation.html"
# What --set may change beside PLACES: nothing that the trained model depends on.
IN_TRAINING = {"clips", "sampled", "sampled_seconds"}  # of the recipe's evaluation: what only a training looks at
OPTIONS = tuple(f"evaluation.{key}" for key in Evaluation.model_fields if key not in IN_TRAINING)


def evaluate(
    run: Run | ImageRun | VideoRun, only: Sequence[str], folder: Path, overrides: tuple[str, ...], console: Console
) -> Record:
    """Measure a run by every metric, or by ``only`` some, and write RECORD and PAGE into ``folder``.

    Raises WavevqError for an unknown metric, one of ``only`` that cannot be had here, a value that may not be set,
    a folder that cannot be made, and a corpus that is not the run's.
    """
    started = time.monotonic()
    metrics = metrics_of(run.recipe)
    check(only, metrics)
    recipe = with_overrides(run, overrides)
    make_folder(folder / RECORD)
    subject: Subject | ImageSubject | VideoSubject
    match run:
        case Run():
            subject = subject_of(run, recipe, console)
        case ImageRun():
            subject = image_subject_of(run, recipe, console)
        case VideoRun():
            subject = video_subject_of(run, recipe, console)
    measured: list[tuple[Section, Findings]] = []
    for name in dict.fromkeys(only or metrics):
        console.print(f"{name} ...", highlight=False)
        measured.append(measure(name, metrics[name], subject, bool(only)))
    record = Record(
        format=FORMAT,
        wavevq=__version__,
        command=command(run, only, overrides),
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        run=run.folder.resolve().name,
        model=weights(run.folder / CHECKPOINTS),
        prior=weights(prior_folder(run.folder, run.recipe) / CHECKPOINTS) if run.prior else None,
        data=recipe.data.kind,
        speakers=len(run.labels),
        codes=subject.size,
        rate=run.rate if isinstance(run, Run) else 0,
        hop=run.model.hop,
        split=recipe.evaluation.split,
        clips=len(subject.clips),
        seconds=subject.seconds,
        judged=subject.judged,
        seed=subject.seed,
        sections=tuple(section for section, _ in measured),
        took=round(time.monotonic() - started, 1),
        temperature=recipe.evaluation.temperature,
    )
    items = "images" if isinstance(run, ImageRun) else "clips"
    console.print(f"{record.run}: {record.clips} {items} of {record.split}", soft_wrap=True, highlight=False)
    for one in tables(record):
        console.print(one)
    for path in (
        write_record(record, folder / RECORD),
        page(record, [one for _, one in measured], folder / PAGE, items),
    ):
        console.print(f"written: {path}", soft_wrap=True, highlight=False)
    return record


def place(folder: Path) -> Path:
    """Where results go if nothing else is said: into the run, or of one that is shipped into ``evaluation/NAME``."""
    return Path(FOLDER, folder.name) if is_shipped(folder) else folder / FOLDER


# --- what is measured ---------------------------------------------------------------------------------------


def metrics_of(recipe: Recipe) -> Mapping[str, Metric]:
    """The metrics of its signal."""
    known = {"speech": METRICS, "images": IMAGE_METRICS, "codes": CODED_METRICS, "video": VIDEO_METRICS}
    return known[recipe.data.signal]


def check(only: Sequence[str], metrics: Mapping[str, Metric]) -> None:
    """Raises WavevqError for a metric that there is not, and NotMeasured for one whose packages are missing."""
    for name in only:
        if name not in metrics:
            raise WavevqError(f"--only {name}: there is no such metric; there are {', '.join(metrics)}")
    for name in only:
        lacking = [package for package in metrics[name].packages if importlib.util.find_spec(package) is None]
        if lacking:
            raise NotMeasured(f"--only {name}: {EXTRA} ({', '.join(lacking)} is missing)")


def with_overrides(run: Run | ImageRun | VideoRun, overrides: tuple[str, ...]) -> Recipe:
    """The run's recipe, changed where the trained model does not depend on it. Raises WavevqError for other keys."""
    wrong = [one for one in overrides if not is_place(key := one.partition("=")[0]) and key not in OPTIONS]
    if wrong:
        allowed = f"{', '.join(PLACES + OPTIONS)}: the run is trained"
        raise WavevqError(*(f"--set {one}: may not change here, only {allowed}" for one in wrong))
    return overridden(run.recipe.model_dump(mode="json"), overrides, str(run.folder / RECIPE))


def subject_of(run: Run, recipe: Recipe, console: Console) -> Subject:
    """What the metrics are given.

    Raises WavevqError for a run without codes, a corpus of other speakers, and where nothing is held out.
    """
    store = fitting_corpus(run, recipe, console)
    assert isinstance(store, Store), "of a recipe of speech"
    how = drawing(recipe)
    console.print(
        f"measured: the split {recipe.evaluation.split}; sampler: {run.sampler}", soft_wrap=True, highlight=False
    )
    newest = newest_checkpoint(run.folder) / AVERAGE

    def draw(
        codes: Sequence[NDArray[np.int64]], speakers: Sequence[str], streams: Sequence[int], what: str
    ) -> list[Signal]:
        seconds = sum(map(len, codes)) * recipe.hop / run.rate
        console.print(f"  sampling {len(codes)} clips, {seconds:.1f} s: {what}", highlight=False)
        audio: dict[int, Signal] = {}
        with seconds_bar(seconds, console) as advance:
            for group in grouped([len(one) for one in codes], AT_ONCE):
                drawn = run.decode_batch(
                    [codes[i] for i in group],
                    [speakers[i] for i in group],
                    **how,
                    streams=[streams[i] for i in group],
                    advance=lambda samples: advance(samples / run.rate),
                )
                audio |= zip(group, drawn, strict=True)
        return [audio[i] for i in range(len(codes))]

    return Subject(
        model=run.model,
        prior=run.prior[0] if run.prior else None,
        store=store,
        plan=recipe.evaluation,
        seed=recipe.seed,
        encoded=lambda split: encoded(run.model, newest, store, split),
        draw=draw,
        compose=lambda speakers, frames: run.sample_codes(speakers, frames, **how),
        word_of=build_words(recipe.data),
        say=indented(console),
    )


def image_subject_of(run: ImageRun, recipe: Recipe, console: Console) -> ImageSubject:
    """What the metrics of images are given; errors as ``subject_of``."""
    corpus = fitting_corpus(run, recipe, console)
    return image_subject(run, recipe, corpus, console)


def image_subject(run: ImageRun, recipe: Recipe, corpus: Corpus, console: Console) -> ImageSubject:
    """Of a run and its corpus, and below it of the run whose codes that holds."""
    assert isinstance(corpus, ImageStore | CodedCorpus), "of a recipe of images"
    newest, how = newest_checkpoint(run.folder) / AVERAGE, drawing(recipe)
    below = None
    if isinstance(corpus, CodedCorpus):
        assert run.below is not None, "of a recipe of codes"
        below = image_subject(run.below, recipe, corpus.base, console)

    def show(codes: Sequence[NDArray[np.int64]], labels: Sequence[str | None], what: str) -> Pixels:
        console.print(f"  decoding {len(codes)} images: {what}", highlight=False)
        there = enumerate(zip(codes, labels, strict=True))
        return np.stack([run.decode(one, label, stream=i, **how) for i, (one, label) in there])

    return ImageSubject(
        model=run.model,
        prior=run.prior[0] if run.prior else None,
        corpus=corpus,
        plan=recipe.evaluation,
        seed=recipe.seed,
        encoded=lambda split: encoded(run.model, newest, corpus, split),
        show=show,
        compose=lambda labels: run.sample_codes(labels, **how),
        say=indented(console),
        below=below,
    )


def video_subject_of(run: VideoRun, recipe: Recipe, console: Console) -> VideoSubject:
    """What the metrics of video are given; errors as ``subject_of``."""
    corpus = fitting_corpus(run, recipe, console)
    assert isinstance(corpus, Shapes), "of a recipe of video"
    newest = newest_checkpoint(run.folder) / AVERAGE

    def go_on(
        begun: NDArray[np.int64], actions: NDArray[np.int64], labels: Sequence[int], what: str
    ) -> NDArray[np.int64]:
        console.print(f"  going on with {len(begun)} clips: {what}", highlight=False)
        return run.go_on(begun, actions, labels, **drawing(recipe))

    return VideoSubject(
        model=run.model,
        prior=run.prior[0] if run.prior else None,
        corpus=corpus,
        plan=recipe.evaluation,
        seed=recipe.seed,
        encoded=lambda split: encoded(run.model, newest, corpus, split),
        show=lambda codes: np.stack([run.decode(one) for one in codes]),
        go_on=go_on,
        say=indented(console),
    )


def indented(console: Console) -> Say:
    """What a metric tells takes time, below its name."""
    return lambda words: console.print(f"  {words}", soft_wrap=True, highlight=False)


def drawing(recipe: Recipe) -> dict[str, Any]:
    """What everything that is drawn is drawn by."""
    return {"seed": recipe.seed, "temperature": recipe.evaluation.temperature}


def fitting_corpus(run: Run | ImageRun | VideoRun, recipe: Recipe, console: Console) -> Corpus:
    """The corpus that a run is measured on, described. Raises WavevqError without codes, and for an unfit one."""
    run.codebook()
    corpus = build_corpus(recipe)
    refuse_unfit(run, corpus, recipe.evaluation.split)
    console.print(corpus.describe(), soft_wrap=True, highlight=False)
    return corpus


def refuse_unfit(run: Run | ImageRun | VideoRun, corpus: Corpus, split: Split) -> None:
    """Raises WavevqError for a corpus of other labels than the run's, and where nothing is there to be measured on."""
    if corpus.labels != run.labels:
        several = "speakers" if corpus.whose == "speaker" else "classes"
        raise WavevqError(
            f"{run.folder}: knows the {several} {', '.join(run.labels)}; the corpus has {', '.join(corpus.labels)}"
        )
    if not corpus.split(split):
        raise WavevqError(
            f"data: the corpus holds no {corpus.items[:-1]} of the split {split}, so there is nothing to measure on"
        )


def measure(
    name: str, metric: Metric, subject: Subject | ImageSubject | VideoSubject, asked: bool
) -> tuple[Section, Findings]:
    """One metric. Where it cannot be had: a row that says why, or NotMeasured where it was ``asked`` for."""
    started = time.monotonic()
    note = ""
    try:
        found = metric.measure(subject)
    except NotMeasured as reason:
        if asked:
            raise NotMeasured(f"--only {name}: {reason}") from None
        found, note = Findings((), str(reason)), str(reason)
    return Section(name, metric.title, found.figures, round(time.monotonic() - started, 1), note), found


def weights(folder: Path) -> Weights:
    """The newest averaged weights below ``folder``."""
    newest = checkpoints(folder)[-1]
    return Weights(read_state(newest)["step"], fingerprint(newest))


def command(run: Run | ImageRun | VideoRun, only: Sequence[str], overrides: Sequence[str]) -> str:
    """The command line, without this machine's places: PATH stands for those of the corpus."""
    words = ["wavevq", "evaluate", "--run", run.folder.resolve().name]
    words += [word for name in only for word in ("--only", name)]
    for one in overrides:
        key = one.partition("=")[0]
        words += ["--set", f"{key}=PATH" if is_place(key) else one]
    return shlex.join(words)


# --- what is told -------------------------------------------------------------------------------------------


def tables(record: Record) -> Iterator[RichTable]:
    """Every figure, a table for each metric."""
    for section in record.sections:
        made = RichTable(title=section.title, title_justify="left", title_style="bold", box=None, show_header=False)
        for justify in ("left", "right", "left", "left"):
            made.add_column(justify=justify)
        for figure in section.figures:
            made.add_row(*map(Text, (figure.name, shown(figure), figure.unit, figure.note)))
        if section.note:
            made.add_row(Text(section.note))  # [eval] is no markup
        yield made


def shown(figure: Figure) -> str:
    """A figure's value as people read it."""
    if figure.value is None:
        return "-"
    return f"{figure.value:,.0f}" if figure.value == int(figure.value) else f"{figure.value:,.4g}"


def page(record: Record, findings: Sequence[Findings], path: Path, items: str) -> Path:
    """The report: one file that stands alone. items: what was measured, in the plural."""
    report = Report(f"{record.run}, measured")
    trained = f"{record.model.step} training steps" + (f", prior {record.prior.step}" if record.prior else "")
    of = f"of the split {record.split} of {record.data}"
    if record.rate:
        measured = (
            f"{record.clips} clips {of}, {record.seconds:.1f} s, {record.rate} Hz, {record.speakers} speakers. "
            f"K = {record.codes}, {record.rate / record.hop:.4g} codes/s"
        )
    else:
        measured = f"{record.clips} {items} {of}, {record.speakers} classes. K = {record.codes}"
    report.text(
        f"{measured}. {trained}. wavevq {record.wavevq}, {record.date}. Drawn by seed {record.seed} at temperature "
        f"{record.temperature:g}.\n\n{record.command}"
    )
    for section, found in zip(record.sections, findings, strict=True):
        report.heading(section.title)
        if found.text:
            report.text(found.text)
        if section.figures:
            rows = [(one.name, shown(one), one.unit, one.note) for one in section.figures]
            report.table(("figure", "value", "unit", "note"), rows)
        for part in found.parts:
            if isinstance(part, Table):
                report.text(part.caption).table(part.headers, part.rows)
            elif isinstance(part, Plot):
                report.figure(part.figure, part.caption)
            elif isinstance(part, Sheet):
                report.picture(part.image, part.caption)
            else:
                report.listen(part.caption, part.takes)
    return report.write(path)
