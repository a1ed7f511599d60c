"""``wavevq scoreboard``: values are read from files, the newest counts, and the README holds what comes out."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from wavevq import scoreboard as board
from wavevq.cli import main
from wavevq.errors import WavevqError
from wavevq.evaluate.metric import Figure
from wavevq.evaluate.record import Record, Section, Weights, write_record
from wavevq.paper import BETAS, CLAIMS, LAYERS, RUN, Claim, Source

ROOT = Path(__file__).parents[1]
QUIET = Console(quiet=True)
SOURCES = [(claim, source) for claim in CLAIMS for source in claim.sources]
RECORD = Record(
    format=1,
    wavevq="0.1.0",
    command="wavevq evaluate --run a",
    date="2026-01-02T03:04:05+00:00",
    run="a",
    model=Weights(3000, "0" * 64),
    prior=Weights(600, "1" * 64),
    data="fsdd",
    speakers=6,
    codes=128,
    rate=8000,
    hop=64,
    split="val",
    clips=300,
    seconds=132.0,
    judged=120,
    seed=7,
    sections=(),
    took=1.0,
)
CELL = {
    "recipe_sha256": "2" * 64,
    "data": "synthetic, 8000 Hz",
    "steps": 1200,
    "seed": 3,
    "command": "python benchmarks/ablations.py beta",
    "date": "2026-01-02",
}


def evaluation(source: Source, values: Sequence[float], **changed: object) -> Record:
    """A record of the source's figures, of a run that fits it."""
    facts = {**dict(zip((name for _, name in source.places), values, strict=True)), **source.fits}
    sections = tuple(
        Section(metric, metric, (Figure(name, value, "share"),), 0.1)
        for (metric, name), value in zip(source.places, values, strict=True)
        if metric != RUN
    )
    hop = round(8000 / facts["codes a second"]) if "codes a second" in facts else round(facts.get("hop", RECORD.hop))
    run = {name: round(facts[name]) for name in ("codes", "speakers") if name in facts}
    return replace(RECORD, hop=hop, **run, sections=merged(sections), **changed)  # type: ignore[arg-type]


def merged(sections: Sequence[Section]) -> tuple[Section, ...]:
    """One section a metric."""
    names = dict.fromkeys(section.metric for section in sections)
    return tuple(
        Section(name, name, tuple(f for one in sections if one.metric == name for f in one.figures), 0.1)
        for name in names
    )


def written(folder: Path, source: Source, values: Sequence[float]) -> Path:
    """A file with the source's values."""
    if source.study is None:
        return write_record(evaluation(source, values), folder / "evaluation" / "a.json")
    cells: dict[str, dict[str, object]] = {}
    for (cell, key), value in zip(source.places, values, strict=True):
        figures = cells.get(cell, {}).get("figures", {})
        assert isinstance(figures, dict)
        cells[cell] = {**CELL, "figures": {**figures, key: value}}
    path = folder / f"{source.study}.json"
    path.write_text(json.dumps(cells))
    return path


def numbers(source: Source) -> list[float]:
    """Values that tell places apart, whole where they are of the run; those that it must have."""
    given = {"hop": 64.0, "codes": 97.0, "speakers": 11.0}
    return [
        source.fits.get(name, given[name]) if group == RUN else 0.123 + 0.05 * i
        for i, (group, name) in enumerate(source.places)
    ]


def call(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["scoreboard", *map(str, words)], terminal_width=200)


def row(claim: Claim, *paths: Path) -> board.Row:
    [found] = board.rows_of(claim, board.read_all(paths)[0])
    return found


# --- the committed results ----------------------------------------------------------------------------------


def test_the_readme_holds_the_board_of_the_committed_results() -> None:
    every, _ = board.read_all([ROOT / "results"])
    made = board.markdown(board.board(every))
    assert made in (ROOT / "README.md").read_text("utf-8"), "run: wavevq scoreboard --markdown README.md"


@pytest.mark.parametrize("name", sorted({source.study for _, source in SOURCES if source.study}))
def test_the_studies_have_the_cells_and_the_figures(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    plan: ModuleType = __import__(name)
    tables = getattr(plan, "TABLES", None) or {"": plan.TABLE}
    cells = {cell.name for table in tables.values() for cell in table}
    for _, source in SOURCES:
        if source.study == name:
            assert {cell for cell, _ in source.places} <= cells
            assert {key for _, key in source.places} <= set(plan.COLUMNS.values())
    if name == "ablations":
        assert sorted(BETAS) == sorted(cell.name for cell in tables["beta"])
    if name == "collapse":
        assert plan.LAYERS == LAYERS


# --- values -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("claim", "source"), SOURCES)
def test_a_value_is_what_the_file_says(claim: Claim, source: Source, tmp_path: Path) -> None:
    values = numbers(source)
    found = row(claim, written(tmp_path, source, values))
    assert found.ours == source.say(*values)
    assert found.why == ""
    if source.study is None:
        assert (found.data, found.steps, found.seed) == ("fsdd, 8000 Hz", "3000, prior 600", "7")
        assert (found.command, found.date) == ("wavevq evaluate --run a", "2026-01-02")
    else:
        assert (found.data, found.steps, found.seed) == (CELL["data"], "1200", "3")
        assert (found.command, found.date) == (CELL["command"], "2026-01-02")
    # Another value is another row: nothing is typed.
    if all(group != RUN for group, _ in source.places):
        assert row(claim, written(tmp_path, source, [0.7 * one for one in values])).ours != found.ours


def phonemes() -> tuple[Claim, Source]:
    [found] = [(c, s) for c, s in SOURCES if s.places == (("phonemes", "accuracy"),)]
    return found


def test_the_newest_counts_not_the_best(tmp_path: Path) -> None:
    claim, source = phonemes()
    for name, share, date in (("b", 0.9, "2026-01-02"), ("a", 0.4, "2026-03-01"), ("c", 0.8, "2025-12-31")):
        record = evaluation(source, [share], date=f"{date}T00:00:00+00:00")
        write_record(record, tmp_path / "evaluation" / f"{name}.json")
    assert row(claim, tmp_path).ours == "40.0 %"
    # A newer one without the figure hides nothing.
    write_record(replace(RECORD, date="2027-01-01T00:00:00+00:00"), tmp_path / "evaluation" / "d.json")
    assert row(claim, tmp_path).ours == "40.0 %"


def test_each_corpus_has_its_row_and_of_each_the_newest_counts(tmp_path: Path) -> None:
    claim, source = phonemes()
    runs = (("vctk", 0.9, "2026-01-02"), ("fsdd", 0.4, "2026-03-01"), ("vctk", 0.5, "2026-02-01"))
    for i, (data, share, date) in enumerate(runs):
        record = evaluation(source, [share], date=f"{date}T00:00:00+00:00")
        write_record(replace(record, data=data), tmp_path / "evaluation" / f"{i}.json")
    rows = board.rows_of(claim, board.read_all([tmp_path])[0])
    assert [(one.data, one.ours) for one in rows] == [("fsdd, 8000 Hz", "40.0 %"), ("vctk, 8000 Hz", "50.0 %")]


def test_the_study_of_the_row_comes_before_evaluations(tmp_path: Path) -> None:
    claim, source = phonemes()
    write_record(evaluation(source, [0.9], date="2027-01-01T00:00:00+00:00"), tmp_path / "new.json")
    written(tmp_path, claim.sources[0], [0.2])
    assert row(claim, tmp_path).ours == "20.0 %"


@pytest.mark.parametrize("changed", [{"codes": 256}, {"hop": 160}, {"rate": 16000}])
def test_a_run_of_other_rates_is_no_value(changed: dict[str, int], tmp_path: Path) -> None:
    claim, source = phonemes()
    record = evaluation(source, [0.9])
    assert row(claim, write_record(record, tmp_path / "a.json")).ours == "90.0 %"
    assert row(claim, write_record(replace(record, **changed), tmp_path / "a.json")).ours is None  # type: ignore[arg-type]


def test_cells_from_several_trainings_say_so(tmp_path: Path) -> None:
    [(claim, source)] = [(c, s) for c, s in SOURCES if s.study == "ablations" and len(s.places) == 2]
    path = written(tmp_path, source, [4.5, 4.6])
    cells = json.loads(path.read_text())
    cells["vq"] |= {"steps": 1300, "date": "2026-02-01", "command": "python benchmarks/ablations.py codebook"}
    path.write_text(json.dumps(cells))
    found = row(claim, path)
    assert (found.steps, found.seed, found.date) == ("1200; 1300", "3", "2026-01-02; 2026-02-01")
    assert found.command.count("ablations.py") == 2
    # A part of the cells is no value.
    path.write_text(json.dumps({"vq": cells["vq"]}))
    assert row(claim, path).ours is None


# --- why there is none --------------------------------------------------------------------------------------


def test_a_row_without_a_value_says_why(tmp_path: Path) -> None:
    rows = board.board([])
    assert [one.claim for one in rows] == list(CLAIMS)
    assert all(one.ours is None and one.why == f"not run: needs {one.claim.needs}" for one in rows)
    claim, source = phonemes()
    record = evaluation(source, [0.1])
    for note in ("the run has no phones", "not measured: the run has no phones"):
        for section in (
            Section("phonemes", "Phonemes", (Figure("accuracy", None, "share", note),), 0.1),
            Section("phonemes", "Phonemes", (), 0.1, note),
        ):
            path = write_record(replace(record, sections=(section,)), tmp_path / "a.json")
            assert row(claim, path).why == "not measured: the run has no phones"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "not JSON"),
        ("\xff\xfe", "not JSON"),
        ('{"format": 2, "sections": []}', "not an evaluation of format 1 (format:"),
        ('{"judged": 3}', "not an evaluation of format 1"),
        ('{"a": {"recipe_sha256": "x", "figures": {"k": 1}}}', "not a study's results (a.data: Field required)"),
        (json.dumps({"a": {**CELL, "figures": {"k": float("nan")}}}), "not a study's results (a.figures.k:"),
        ("[1]", "neither an evaluation nor a study's results"),
        ('{"figures": {"speed": 2.0}}', "neither an evaluation nor a study's results"),
    ],
)
def test_damaged_and_foreign_files_are_told_by_name(text: str, said: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.json"
    bad.write_bytes(text.encode("latin-1"))
    result = call(bad, tmp_path / "none.json")
    assert result.exit_code == 2
    first, second = result.stderr.splitlines()
    assert first.startswith(f"wavevq: {bad}: {said}")
    assert second == f"wavevq: {tmp_path / 'none.json'}: cannot be read (no such file or directory)"
    # In a folder, what belongs to others is left out, and what is damaged is not.
    result = call(tmp_path)
    assert result.exit_code == (0 if said.startswith("neither") else 2)
    assert "left out, no evaluations and no studies: bad.json" in result.output or result.exit_code == 2


def test_a_folder_without_results_and_an_installation_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(WavevqError, match=r"no \*\.json in it or in its evaluation/"):
        board.read_all([tmp_path])
    monkeypatch.setattr(board, "COMMITTED", tmp_path / "installed" / "results")
    monkeypatch.chdir(tmp_path)
    result = call()
    assert result.exit_code == 2
    assert "name evaluation.json files or folders" in result.stderr
    # Installed, and called in a checkout.
    write_record(evaluation(phonemes()[1], [0.5]), tmp_path / "results" / "evaluation" / "run.json")
    result = call()
    assert result.exit_code == 0, result.output
    assert "50.0 %" in result.output


# --- what is written ----------------------------------------------------------------------------------------


def test_the_table_is_written_between_the_marks(tmp_path: Path) -> None:
    claim, source = phonemes()
    run = write_record(evaluation(source, [0.5], command="a | b"), tmp_path / "run" / "evaluation" / "evaluation.json")
    page = tmp_path / "page.md"
    page.write_text(f"above\n{board.BEGIN}\nold\n{board.END}\nbelow\n")
    result = call(run.parents[1], "--markdown", page)
    assert result.exit_code == 0, result.output
    first = page.read_text()
    assert first.startswith(f"above\n{board.BEGIN}\n")
    assert first.endswith(f"{board.END}\nbelow\n")
    assert "old" not in first
    line = f"| {claim.section} | {claim.experiment} | 49.3 % | **50.0 %** | fsdd, 8000 Hz | 3000, prior 600 | 7 |"
    assert f"{line} `a \\| b` | 2026-01-02 |" in first.splitlines()
    assert all(one.replace("\\|", "").count("|") == 10 for one in first.splitlines() if one.startswith("|"))
    assert call(run.parents[1], "--markdown", page).exit_code == 0
    assert page.read_text() == first
    new = tmp_path / "new.md"
    assert call(run.parents[1], "--markdown", new).exit_code == 0
    assert new.read_text().rstrip("\n") in first


@pytest.mark.parametrize("text", ["", "mine\n", board.BEGIN, board.END + board.BEGIN])
def test_a_file_without_marks_is_left_alone(text: str, tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(text)
    result = call("--markdown", page)
    assert result.exit_code == 2
    assert "is there already, and has no lines" in result.stderr
    assert page.read_text() == text


def test_the_board_is_readable_in_80_columns(tmp_path: Path) -> None:
    console = Console(width=80, record=True, file=io.StringIO())
    rows = board.scoreboard([ROOT / "results"], None, console)
    text = console.export_text()
    assert "left out" not in text  # the project's own files are no strangers
    lines = [line for line in text.splitlines() if line.startswith("│")]
    assert len(lines) < 6 * len(rows)
    assert all(len(line) == 80 for line in lines)
    words = {word for line in lines for word in line.split()}
    for row in rows:  # nothing is broken within a word
        assert set(f"{row.claim.experiment} {row.claim.value} {row.ours or ''} {row.command}".split()) <= words


def test_files_of_others_are_told_and_those_of_a_run_are_not(tmp_path: Path) -> None:
    _, source = phonemes()
    write_record(evaluation(source, [0.5]), tmp_path / "evaluation" / "evaluation.json")
    for name in ("summary.json", "speakers.json"):
        (tmp_path / name).write_text("{}")
    assert "left out" not in call(tmp_path).output
    (tmp_path / "mine.json").write_text("{}")
    assert "left out, no evaluations and no studies: mine.json\n" in call(tmp_path).output


def test_the_terminal_shows_every_row_and_where_it_comes_from(tmp_path: Path) -> None:
    claim, source = phonemes()
    path = write_record(evaluation(source, [0.5], command="wavevq evaluate --set a=[b]"), tmp_path / "a.json")
    console = Console(width=240, record=True, quiet=False, file=io.StringIO())
    rows = board.scoreboard([path], None, console)
    text = console.export_text()
    assert all(one.claim.experiment in text and one.claim.value in text for one in rows)
    assert all(word in text for word in ("50.0 %", "fsdd, 8000 Hz; steps 3000, prior 600; seed 7; 2026-01-02"))
    assert "wavevq evaluate --set a=[b]" in text
    assert claim in [one.claim for one in rows if one.ours]
