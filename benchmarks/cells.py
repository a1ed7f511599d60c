"""Trainings that are compared: what ablations.py, collapse.py and other studies share.

A study is a script of a few lines: it names its cells, imports this as ``cells`` and calls ``study``. A cell is a
recipe with overrides; it is trained to its end in a run folder of its own, measured, and kept in
``results/STUDY.json``. A cell that stands there already, of the same resolved recipe, is skipped; a training that was
stopped goes on:

    python benchmarks/STUDY.py [TABLE ...] [--list] [--root PATH] [--out DIR] [--json FILE] [--threads N]
                               [--markdown FILE] [--set KEY=VALUE]

``--markdown README.md`` writes what stands in the results between the study's marks in there. ``--set`` is for trying
the script out, and asks for a ``--json`` of its own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from rich.console import Console

from wavevq.audio import replacing
from wavevq.build import build_corpus
from wavevq.demo import finish
from wavevq.errors import WavevqError
from wavevq.image_run import ImageRun, load_any
from wavevq.recipe import Recipe, Schedule, Speech, load_recipe
from wavevq.run import Run
from wavevq.run_folder import PRIOR, SUMMARY
from wavevq.scoreboard import put
from wavevq.train.log import read_metrics

ROOT = Path(__file__).parent.parent
Figures = dict[str, float]
Record = dict[str, Any]  # of one cell, as it stands in the file of results
Measure = Callable[[Any, Any], Figures]  # of a finished run and its corpus
Column = Callable[[Figures], str]
Rows = list[list[str]]  # the headings first


@dataclass(frozen=True)
class Cell:
    """One training. name: of its row and record, unique in its study."""

    name: str
    overrides: tuple[str, ...] = ()
    recipe: str = "recipes/demo.yaml"

    @property
    def folder(self) -> str:
        """The name of its run folder."""
        return self.name.replace(" ", "-")

    def resolved(self, more: Sequence[str] = ()) -> Recipe:
        return load_recipe(ROOT / self.recipe, (*self.overrides, *more))


@dataclass(frozen=True)
class Study:
    """name: of the file of results. tables: the cells of each; a cell may stand in several and is trained once.

    columns: heading to the figure's key. measure: the figures of a finished run, by default of its last validation.
    summary: what the README shows of all that stands in the results, by default ``columns`` of each cell. picture: a
    plot of them, drawn beside the run folders.
    """

    name: str
    tables: Mapping[str, Sequence[Cell]]
    columns: Mapping[str, str]
    measure: Measure = lambda run, corpus: validated(run, corpus)
    summary: Callable[[Mapping[str, Record]], Rows] | None = None
    picture: Callable[[Mapping[str, Record]], Figure] | None = None

    def block(self, records: Mapping[str, Record]) -> str:
        """The summary between its marks."""
        made = self.summary or by_cell({heading: shown(key, ".4g") for heading, key in self.columns.items()})
        begin, end = self.marks
        return f"{begin}\n\n{table(made(records))}\n\n{end}"

    @property
    def marks(self) -> tuple[str, str]:
        return f"<!-- benchmarks/{self.name}.py -->", f"<!-- /benchmarks/{self.name}.py -->"


@dataclass(frozen=True)
class Options:
    """tables: those asked for. out: where the run folders go. json: the file of results.

    markdown: the file of the summary, None for none. root: the corpus's folder, where a recipe needs one. more:
    overrides of every recipe. words: what of the command line the figures depend on, without this machine's places.
    """

    tables: tuple[str, ...]
    out: Path
    json: Path
    markdown: Path | None
    root: str | None
    more: tuple[str, ...]
    list: bool
    threads: int
    words: tuple[str, ...]

    @property
    def overrides(self) -> tuple[str, ...]:
        """Of every recipe, the corpus's folder included."""
        return (*((f"data.root={self.root}",) if self.root else ()), *self.more)


def validated(run: Run | ImageRun, corpus: Any) -> Figures:
    """The figures of the run's last validation, over all validation clips."""
    line = json.loads((run.folder / SUMMARY).read_text(encoding="utf-8"))
    return {key: value for key, value in line.items() if key not in ("finished", "step", "kind", "seconds")}


def study(plan: Study, description: str) -> dict[str, Record]:
    """Train and measure what lacks, print the tables. Returns the records of the tables asked for, by cell."""
    given = options(plan, description)
    console = Console(markup=False)
    records: dict[str, Record] = {}
    try:
        for cell in dict.fromkeys(cell for name in given.tables for cell in plan.tables[name]):
            record = finished(cell, given)
            if record is None and not given.list:
                console.rule(cell.name)
                record = made(cell, plan.measure, given, console)
            if record is not None:
                records[cell.name] = record
        for name in given.tables:
            print(f"\n{name}\n\n{table(tabled(plan.tables[name], plan.columns, records))}")
        if plan.picture and records:
            given.out.mkdir(parents=True, exist_ok=True)
            plan.picture(records).savefig(given.out / f"{plan.name}.png", dpi=150)
            print(f"\nplot: {given.out / plan.name}.png")
        if given.markdown:
            print(f"\nwritten: {put(plan.block(records_in(given.json)), given.markdown, *plan.marks)}")
    except WavevqError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    return records


def options(plan: Study, description: str) -> Options:
    """The command line's; sets torch's number of threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="*", metavar="TABLE", help=f"of {', '.join(plan.tables)}; by default all")
    parser.add_argument("--list", action="store_true", help="print what is there, train nothing")
    parser.add_argument("--out", type=Path, default=Path("runs") / plan.name, metavar="DIR", help="for the run folders")
    parser.add_argument("--root", metavar="PATH", help="the corpus's folder, data.root, where a recipe needs one")
    kept = ROOT / "results" / f"{plan.name}.json"
    parser.add_argument("--json", type=Path, default=kept, metavar="FILE", help="the results, read and written")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="write their summary between its marks there")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of every recipe, for a try")
    parser.add_argument("--threads", type=int, default=2, metavar="N", help="torch threads (default 2)")
    given = parser.parse_args()
    if unknown := sorted(set(given.tables) - plan.tables.keys()):
        parser.error(f"{unknown[0]}: no such table; there are {', '.join(plan.tables)}")
    if given.set and given.json == kept:
        parser.error("--set: makes other cells than those of the results; name a file for them with --json")
    torch.set_num_threads(given.threads)
    tables = tuple(given.tables) or tuple(plan.tables)
    root = ("--root", "PATH") if given.root else ()
    words = (*given.tables, *root, "--threads", str(given.threads), *(f"--set={one}" for one in given.set))
    return Options(
        tables, given.out, given.json, given.markdown, given.root, tuple(given.set), given.list, given.threads, words
    )


def finished(cell: Cell, given: Options) -> Record | None:
    """The cell's record, where it is of this recipe."""
    found = records_in(given.json).get(cell.name)
    return found if found and found["recipe_sha256"] == digest(cell.resolved(given.more)) else None


def made(cell: Cell, measure: Measure, given: Options, console: Console) -> Record:
    """Train and measure a cell, and keep its record."""
    recipe = cell.resolved(given.overrides)
    given.out.mkdir(parents=True, exist_ok=True)
    place = given.out / cell.folder
    finish(recipe, place, console)
    run = load_any(place)
    record = {
        "recipe": cell.recipe,
        "set": [*cell.overrides, *given.more],
        "recipe_sha256": digest(recipe),
        "data": f"{recipe.data.kind}, {positions(recipe)} {'Hz' if isinstance(recipe.data, Speech) else 'pixels'}",
        "steps": run.step,
        "seed": recipe.seed,
        "seconds_of_steps": round(seconds_of_steps(run.folder, recipe), 1),
        "hardware": f"{processor()}, {given.threads} threads",
        "command": shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *given.words]),
        "date": datetime.now().date().isoformat(),
        "figures": measure(run, build_corpus(recipe)),
    }
    records = {**records_in(given.json), cell.name: record}
    with replacing(given.json) as partial:
        partial.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    return record


def records_in(path: Path) -> dict[str, Record]:
    """What a file of results holds; nothing where there is none."""
    if not path.is_file():
        return {}
    try:
        records: dict[str, Record] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WavevqError(f"{path}: not a file of results ({error})") from None
    return records


def digest(recipe: Recipe) -> str:
    """Of what the recipe says but for the corpus's place.

    Defaults are left out: a key that the grammar gains leaves old results as they are.
    """
    said = json.dumps(recipe.model_dump(mode="json", exclude_defaults=True, exclude={"data": {"root"}}), sort_keys=True)
    return hashlib.sha256(said.encode()).hexdigest()


def seconds_of_steps(folder: Path, recipe: Recipe) -> float:
    """What the training took without its validations, as its logs say; a stop between two lines is not seen.

    A prior of its own stage is a part of it.
    """
    unit = "audio_seconds" if isinstance(recipe.data, Speech) else "images"
    stages: list[tuple[Path, Schedule, float]] = [(folder, recipe.train, positions(recipe))]
    if recipe.prior and not recipe.prior.joint:
        stages.append((folder / PRIOR, recipe.prior, positions(recipe) / recipe.hop))
    seconds = 0.0
    for place, plan, rate in stages:
        before = 0
        for line in read_metrics(place, "train"):
            signal = (line["step"] - before) * plan.batch * plan.crop / rate
            seconds += signal / line[f"{unit}_per_second"]
            before = line["step"]
    return seconds


def positions(recipe: Recipe) -> int:
    """Of a second of speech, or of an image's first axis."""
    return recipe.data.rate if isinstance(recipe.data, Speech) else recipe.space[0]


def processor() -> str:
    """The CPU's name, as far as the system tells."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def tabled(cells: Sequence[Cell], columns: Mapping[str, str], records: Mapping[str, Record]) -> Rows:
    """The cells' figures; a dash where there is none."""
    rows = [["cell", *columns]]
    for cell in cells:
        figures = records[cell.name]["figures"] if cell.name in records else {}
        rows.append([cell.name, *(shown(key, ".4g")(figures) for key in columns.values())])
    return rows


def by_cell(columns: Mapping[str, Column]) -> Callable[[Mapping[str, Record]], Rows]:
    """A summary with a row a cell."""

    def made(records: Mapping[str, Record]) -> Rows:
        told = ((name, record["figures"]) for name, record in records.items())
        return [["cell", *columns], *([name, *(column(found) for column in columns.values())] for name, found in told)]

    return made


def shown(key: str, form: str, times: float = 1) -> Column:
    """A figure as a number, a dash where there is none."""
    return lambda figures: format(times * figures[key], form) if key in figures else "–"


def table(rows: Rows) -> str:
    """As Markdown."""
    heading, *others = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in (heading, ["---"] * len(heading), *others))
