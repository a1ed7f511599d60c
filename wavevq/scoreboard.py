"""``wavevq scoreboard``: the paper's numbers beside ours, read from evaluations and from the results of studies.

A row's own study comes before evaluations of any run. Figures of different corpora stand in rows of their own; where
several files have those of one corpus, the newest counts, whatever it says: to take the best would be to choose by the
held-out clips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import FiniteFloat, TypeAdapter, ValidationError
from rich.console import Console
from rich.table import Table
from rich.text import Text

from wavevq.audio import replacing
from wavevq.errors import WavevqError
from wavevq.evaluate.record import Record, read_record
from wavevq.paper import CLAIMS, RUN, Claim, Place, Source
from wavevq.plain import from_json
from wavevq.run_folder import SPEAKERS, SUMMARY

COMMITTED = Path(__file__).parents[1] / "results"  # of a checkout
BEGIN, END = "<!-- wavevq scoreboard -->", "<!-- /wavevq scoreboard -->"
HEADERS = ("section", "experiment", "paper", "wavevq", "data", "steps", "seed", "command", "date")
CAPTION = (
    "Sections, experiments and values of Van den Oord et al. 2017; ours are read from evaluations and from the results "
    "of studies. A row's own study comes before evaluations of a run; where several have a figure of one corpus, the "
    "newest counts, not the best. Data, rates and budgets are not the paper's: each row names its own."
)


@dataclass(frozen=True)
class CellRecord:
    """What the board reads of a cell in a study's results (``benchmarks/cells.py`` writes them)."""

    figures: dict[str, FiniteFloat]
    data: str
    steps: int
    seed: int
    command: str
    date: str


@dataclass(frozen=True)
class Group:
    """A metric's figures or a cell's, and where they come from. notes: why a value is None, "" of the whole group."""

    values: Mapping[str, float | None]
    data: str
    steps: str
    seed: int
    command: str
    date: str  # ISO 8601
    notes: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Evidence:
    """One file. study: its name, None for an evaluation. groups: by metric, or by cell."""

    path: Path
    study: str | None
    groups: Mapping[str, Group]

    def value(self, place: Place) -> float | None:
        group = self.groups.get(place[0])
        return group.values.get(place[1]) if group else None


@dataclass(frozen=True)
class Row:
    """A claim and what stands beside it. ours: None where there is nothing, and ``why`` says so."""

    claim: Claim
    ours: str | None = None
    why: str = ""
    data: str = ""
    steps: str = ""
    seed: str = ""
    command: str = ""
    date: str = ""


def scoreboard(paths: Sequence[Path], file: Path | None, console: Console) -> list[Row]:
    """Print the board of the files and folders, COMMITTED where none is named, and write it into ``file``."""
    every, foreign = read_all(paths or [committed()])
    rows = board(every)
    console.print(table(rows))
    console.print(CAPTION, highlight=False)
    if others := [one for one in foreign if not is_own(one)]:
        names = ", ".join(one.name for one in others)
        console.print(f"left out, no evaluations and no studies: {names}", soft_wrap=True, highlight=False)
    if file is not None:
        console.print(f"written: {write(rows, file)}", soft_wrap=True, highlight=False)
    return rows


def is_own(path: Path) -> bool:
    """Whether wavevq itself writes the file, for other readers: results of benchmarks, what lies in a run folder."""
    return path.parent.resolve() in [place.resolve() for place in checkouts()] or path.name in (SPEAKERS, SUMMARY)


# --- reading ------------------------------------------------------------------------------------------------


def checkouts() -> tuple[Path, Path]:
    """Where the results of a checkout may lie: beside this package, and in the folder that one works in."""
    return COMMITTED, Path(COMMITTED.name)


def committed() -> Path:
    """The results of the checkout that this is, or works in. Raises WavevqError where there is none."""
    for place in checkouts():
        if place.is_dir():
            return place
    raise WavevqError("scoreboard: there is no checkout with results/ here; name evaluation.json files or folders")


def read_all(paths: Iterable[Path]) -> tuple[list[Evidence], list[Path]]:
    """Every file, and those that lie in a folder and are neither an evaluation nor a study's results.

    A folder stands for the ``*.json`` in it and in its ``evaluation/``. Raises WavevqError, a line a file, for damaged
    ones, those that are named and foreign, and for paths that hold none.
    """
    found: list[Evidence] = []
    foreign: list[Path] = []
    wrong: list[str] = []
    for path in paths:
        inside = sorted([*path.glob("*.json"), *path.glob("evaluation/*.json")]) if path.is_dir() else [path]
        if not inside:
            wrong.append(f"{path}: no *.json in it or in its evaluation/")
        for one in inside:
            try:
                evidence = read(one)
            except WavevqError as error:
                wrong += error.args
                continue
            if evidence is not None:
                found.append(evidence)
            elif path.is_dir():
                foreign.append(one)
            else:
                wrong.append(f"{one}: neither an evaluation nor a study's results")
    if wrong:
        raise WavevqError(*wrong)
    return found, foreign


def read(path: Path) -> Evidence | None:
    """An evaluation or a study's results, None for JSON of another kind. Raises WavevqError for a damaged file."""
    try:
        tree = from_json(path.read_bytes())
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ValueError as error:
        raise WavevqError(f"{path}: not JSON ({error})") from None
    if not isinstance(tree, dict):
        return None
    if tree.keys() & {"sections", "judged"}:
        return Evidence(path, None, groups_of(read_record(path)))
    if any(isinstance(one, dict) and "recipe_sha256" in one for one in tree.values()):
        return Evidence(path, path.stem, cells_of(tree, path))
    return None


def groups_of(record: Record) -> dict[str, Group]:
    """An evaluation's figures by metric, and facts of its run."""
    origin: dict[str, Any] = {
        "data": f"{record.data}, {record.rate} Hz",
        "steps": f"{record.model.step}" + (f", prior {record.prior.step}" if record.prior else ""),
        "seed": record.seed,
        "command": record.command,
        "date": record.date,
    }
    facts = {
        "codes": float(record.codes),
        "codes a second": record.rate / record.hop,
        "hop": float(record.hop),
        "speakers": float(record.speakers),
    }
    groups = {RUN: Group(facts, **origin)}
    for section in record.sections:
        values = {figure.name: figure.value for figure in section.figures}
        notes = {figure.name: figure.note for figure in section.figures if figure.value is None}
        groups[section.metric] = Group(values, **origin, notes={"": section.note, **notes} if section.note else notes)
    return groups


def cells_of(tree: object, path: Path) -> dict[str, Group]:
    """A study's figures by cell. Raises WavevqError for what is no such file after all."""
    try:
        cells = _CELLS.validate_python(tree)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WavevqError(f"{path}: not a study's results ({where}: {first['msg']})") from None
    return {
        name: Group(cell.figures, cell.data, f"{cell.steps}", cell.seed, cell.command, cell.date)
        for name, cell in cells.items()
    }


_CELLS = TypeAdapter(dict[str, CellRecord])


# --- choosing -----------------------------------------------------------------------------------------------


def board(every: Sequence[Evidence]) -> list[Row]:
    """All rows, in the paper's order."""
    return [row for claim in CLAIMS for row in rows_of(claim, every)]


def rows_of(claim: Claim, every: Sequence[Evidence]) -> list[Row]:
    """What the first source with all of its values says, of each corpus from the newest file that has them."""
    for source in claim.sources:
        having = [one for one in every if fits(source, one) and all(one.value(p) is not None for p in source.places)]
        newest_last = sorted(having, key=lambda one: (date_of(source, one), str(one.path)))
        if by_corpus := {row.data: row for row in (told(claim, source, one) for one in newest_last)}:
            return [by_corpus[data] for data in sorted(by_corpus)]
    return [Row(claim, why=reason(claim, every))]


def fits(source: Source, evidence: Evidence) -> bool:
    """Whether the file is of the source's kind, and its run has the facts that are asked for."""
    return evidence.study == source.study and all(
        evidence.value((RUN, fact)) == wanted for fact, wanted in source.fits.items()
    )


def date_of(source: Source, evidence: Evidence) -> str:
    """When the last of the source's values was found."""
    return max(evidence.groups[group].date for group, _ in source.places)


def told(claim: Claim, source: Source, evidence: Evidence) -> Row:
    """The row of the values; of cells that differ in where they come from, all that they say."""
    used = [evidence.groups[group] for group in dict.fromkeys(group for group, _ in source.places)]

    def each(*said: object) -> str:
        return "; ".join(dict.fromkeys(map(str, said)))

    return Row(
        claim,
        source.say(*(evidence.value(place) for place in source.places)),
        data=each(*(one.data for one in used)),
        steps=each(*(one.steps for one in used)),
        seed=each(*(one.seed for one in used)),
        command=each(*(one.command for one in used)),
        date=each(*(one.date[:10] for one in used)),
    )


def reason(claim: Claim, every: Sequence[Evidence]) -> str:
    """Why there is no value: what the newest file that could have it says, else what has not been run."""
    for source in claim.sources:
        for one in sorted(every, key=lambda one: max(group.date for group in one.groups.values()), reverse=True):
            for group, name in source.places if fits(source, one) else ():
                notes = one.groups[group].notes if group in one.groups else {}
                if note := notes.get(name) or notes.get(""):
                    return note if note.startswith("not measured") else f"not measured: {note}"
    return f"not run: needs {claim.needs}"


# --- showing ------------------------------------------------------------------------------------------------


def table(rows: Sequence[Row]) -> Table:
    """For the terminal: the paper's value stands under its experiment, and under ours what it comes from."""
    made = Table(title="Van den Oord et al. 2017 and wavevq", title_justify="left", show_lines=True, expand=True)
    made.add_column(", ".join(HEADERS[:3]), overflow="fold", ratio=3)
    made.add_column(HEADERS[3], overflow="fold", ratio=4)
    for row in rows:
        origin = f"{row.data}; steps {row.steps}; seed {row.seed}; {row.date}\n{row.command}"
        ours = Text(row.why) if row.ours is None else Text.assemble((row.ours, "bold"), "\n", (origin, "dim"))
        paper = f"{row.claim.section}  {row.claim.experiment}\npaper: {row.claim.value}"
        made.add_row(Text(paper), ours)
    return made


def markdown(rows: Sequence[Row]) -> str:
    """The block that a README holds, with its marks."""
    lines = [HEADERS, ("---",) * len(HEADERS)]
    for row in rows:
        claim, command = row.claim, f"`{row.command}`" if row.command else ""
        ours = row.why if row.ours is None else f"**{row.ours}**"
        lines.append(
            (claim.section, claim.experiment, claim.value, ours, row.data, row.steps, row.seed, command, row.date)
        )
    cells = (f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)
    return "\n".join([BEGIN, "", *cells, "", CAPTION, "", END])


def write(rows: Sequence[Row], path: Path) -> Path:
    """A new file of the table, or a file that is there with the table between its marks replaced."""
    return put(markdown(rows), path, BEGIN, END)


def put(block: str, path: Path, begin: str, end: str) -> Path:
    """A new file of a block, or a file that is there with the block in place of what its marks enclose, and of them.

    Raises WavevqError for one that has no marks.
    """
    text = f"{begin}{end}\n"
    if path.is_file():
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise WavevqError(f"{path}: cannot be read ({error})") from None
    before, _, rest = text.partition(begin)
    _, found, after = rest.partition(end)
    if not found:  # without the first mark there is no rest
        raise WavevqError(f"{path}: is there already, and has no lines {begin} and {end} to put the table between")
    with replacing(path) as unfinished:
        unfinished.write_text(f"{before}{block}{after}", encoding="utf-8")
    return path
