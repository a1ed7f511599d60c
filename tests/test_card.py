"""Model cards: every figure from the evaluation of these very weights, and clips that the model has made."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import soundfile
from click.testing import Result

from wavevq.export import export
from wavevq.run_folder import newest_checkpoint
from wavevq.train.state import fingerprint

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return __import__("card")


def refused(cards: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *words: str) -> str:
    monkeypatch.setattr(sys, "argv", ["card.py", *words])
    with pytest.raises(SystemExit) as ended:
        cards.main()
    assert ended.value.code == 2
    return capsys.readouterr().err.strip()


def test_a_card_from_an_evaluation_to_its_clips(
    cards: Any,
    finished: Path,
    evaluated: Result,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model, failures = export(str(finished / "run"), tmp_path / "tiny", "float32"), tmp_path / "failures.md"
    # The weights of the run: so its evaluation is theirs.
    assert fingerprint(newest_checkpoint(model)) == fingerprint(newest_checkpoint(finished / "run"))
    failures.write_text("- It hums.\n")
    found = finished / "run/evaluation/evaluation.json"
    words = [str(model), "--failures", str(failures), "--set", f"data.root={finished / 'corpus'}"]
    monkeypatch.setattr(sys, "argv", ["card.py", *words, "--evaluation", str(found), "--hardware", "a core"])
    cards.main()
    card = (model / cards.CARD).read_text("utf-8")
    record = json.loads(found.read_text())
    for section in record["sections"]:
        assert f"**{section['title']}**" in card
        for figure in section["figures"]:
            value = next(line for line in card.splitlines() if line.startswith(f"| {figure['name']} |")).split(" | ")[1]
            assert figure["value"] is None or float(value.replace(",", "")) == pytest.approx(figure["value"], rel=1e-3)
    assert "- It hums." in card
    assert "Hardware: a core." in card
    assert "It knows 2 voices: ann, bob." in card
    assert f"| train | {len(list((finished / 'corpus').glob('*/*.wav'))) - 4} |" in card
    for place in (str(finished), str(tmp_path)):
        assert place not in card
    clips = {path.name for path in (model / cards.CLIPS).iterdir()}
    assert clips == {name for name in (line.partition("(clips/")[2].rstrip(")") for line in card.splitlines()) if name}
    assert {name.partition("-")[0] for name in clips} == {"reconstruction", "conversion", "new"}
    for name in clips:
        assert soundfile.info(model / cards.CLIPS / name).samplerate == 8000
    assert (model / cards.CURVES).read_bytes().startswith(b"\x89PNG")

    monkeypatch.setattr(cards, "LARGEST", 10)
    assert "of clips, at most" in refused(cards, monkeypatch, capsys, *words, "--evaluation", str(found))
    missing = [word.replace("failures.md", "none.md") for word in words]
    assert "none.md: cannot be read" in refused(cards, monkeypatch, capsys, *missing, "--evaluation", str(found))
    record["sections"].pop()
    (tmp_path / "part.json").write_text(json.dumps(record))
    told = refused(cards, monkeypatch, capsys, *words, "--evaluation", str(tmp_path / "part.json"))
    assert told.endswith("lacks samples; a card has all that evaluate measures")
    other = export(str(finished / "run"), tmp_path / "other", "bfloat16")
    told = refused(cards, monkeypatch, capsys, str(other), *words[1:], "--evaluation", str(found))
    assert told == f"{found}: is of other weights than {other} holds; evaluate that first"


def test_the_clock_of_a_training_that_was_resumed(cards: Any, tmp_path: Path) -> None:
    """100 s, resumed after step 20 of them; 30 s more."""
    lines = [(10, "train", 50), (20, "train", 100), (20, "validation", 110), (30, "train", 20), (30, "validation", 30)]
    text = "".join(json.dumps({"step": s, "kind": kind, "seconds": at}) + "\n" for s, kind, at in lines)
    (tmp_path / "metrics.jsonl").write_text(text)
    assert cards.seconds(tmp_path) == 140
