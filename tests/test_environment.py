"""Odd surroundings: no terminal, no home to write to, names that are no text, nobody else may read, no network."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trainings
from click.testing import CliRunner
from conftest import Online
from rich.console import Console

from wavevq import progress
from wavevq.cli import main

ROOT = Path(__file__).parents[1]
BAD = os.fsdecode(b"caf\xe9 \xff")  # Latin-1 and worse, with a space


def wavevq(*words: str, code: int = 0) -> str:
    """What a command says, which has neither an escape code nor a traceback in it."""
    result = CliRunner().invoke(main, words)
    assert result.exit_code == code, result.output
    assert "\x1b" not in result.output
    return result.output


@pytest.fixture
def masked() -> Iterator[None]:
    before = os.umask(0o077)
    yield
    os.umask(before)


@pytest.mark.usefixtures("masked")
def test_everything_odd_at_once(
    tmp_path: Path, cache: Path, make_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trained, described, encoded and converted in a folder whose name is no text, with a home that is none."""
    place = trainings.workplace(tmp_path / "work", make_audio).rename(tmp_path / BAD)  # soundfile cannot write there
    (place / "corpus" / "bob").rename(place / "corpus" / BAD)
    (tmp_path / "home").write_text("no folder")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("TERM", raising=False)
    monkeypatch.chdir(place)
    said = wavevq("train", "tiny.yaml", "--run", "a run", "--set", "train.steps=3")
    assert "step 2/3" in said
    assert "caf\\udce9 \\udcff" in wavevq("info", "a run")
    Path(f"{BAD}.wav").write_bytes(next(Path("corpus", BAD).glob("*.wav")).read_bytes())
    wavevq("encode", f"{BAD}.wav", "my codes.npy", "--run", "a run")
    wavevq("convert", f"{BAD}.wav", "--speaker", BAD, "--run", "a run", "--sampler", "reference")
    assert Path(f"{BAD}_{BAD}.wav").is_file()
    assert wavevq("encode", f"no {BAD}.wav", "b.npy", "--run", "a run", code=2).endswith(
        "wavevq: no caf\\udce9 \\udcff.wav: cannot be read (no such file or directory)\n"
    )
    for path in (*Path("a run").rglob("*"), Path("my codes.npy"), *cache.rglob("*")):
        assert path.stat().st_mode & 0o077 == 0, path


STEERS = "a\n\x1b[31mb"  # an end of line, and what turns a terminal red


def test_a_name_that_steers_a_terminal_is_shown_and_not_obeyed(
    tmp_path: Path, make_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a file that is named, of one in a corpus, and of a folder: in messages, and in a mistake of one line."""
    place = trainings.workplace(tmp_path / "work", make_audio)
    monkeypatch.chdir(place)
    (place / "corpus" / "ann" / f"{STEERS}.wav").write_text("no audio")
    for name in ("a", "b"):
        Path(f"{STEERS}{name}.wav").write_text("no audio")
    run = f"run {STEERS}"
    said = wavevq("train", "tiny.yaml", "--run", run, "--set", "train.steps=2")
    shown = "a\\n\\x1b[31mb"
    reason = "not an audio file that can be read, such as wav, flac, ogg or mp3 (format not recognised)"
    assert f"\n  left out: ann/{shown}.wav ({place}/corpus/ann/{shown}.wav: {reason})\n" in said
    assert "\\x1b[31mb" in wavevq("info", run)
    said = wavevq("encode", f"{STEERS}a.wav", f"{STEERS}b.wav", "--out", "made", "--run", run, code=2)
    assert said.splitlines() == [f"wavevq: {shown}{name}.wav: {reason}" for name in ("a", "b")]
    (line,) = wavevq("info", f"no{STEERS}", code=2).splitlines()
    assert line.startswith(f"wavevq: no{shown}: not a run folder, and there is no run of this name under runs/")


def test_a_home_that_cannot_be_written_to_is_told_with_the_way_out(
    tmp_path: Path, make_audio: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    place = trainings.workplace(tmp_path, make_audio)
    (tmp_path / "home").write_text("no folder")
    for name in ("WAVEVQ_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(place)
    last = wavevq("train", "tiny.yaml", "--run", "run", code=2).splitlines()[-1]
    assert last.startswith("wavevq: ")
    assert last.endswith("WAVEVQ_CACHE may name another folder")


def test_a_locale_without_letters(tmp_path: Path) -> None:
    """In a process of its own: its streams are ASCII."""
    env = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "PYTHONPATH": str(ROOT)}
    words = [sys.executable, "-c", "from wavevq.cli import main; main()", "train", f"{BAD} é.yaml"]
    done = subprocess.run(words, env=env, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 2
    assert done.stderr == rb"wavevq: caf\udce9 \udcff \udcc3\udca9.yaml: there is no such recipe" + b"\n"


@pytest.mark.parametrize("term", [None, "dumb", "xterm"])
def test_plain_lines_where_nothing_can_be_drawn_anew(term: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cannot, or none at all, gets a line now and then; another one a bar."""
    monkeypatch.setattr(progress, "LINES_EVERY", 0.0)
    environment = {"TERM": term} if term else {}
    console = Console(file=io.StringIO(), force_terminal=bool(term), width=80, _environ=environment)
    with progress.seconds_bar(10.0, console) as advance:
        for _ in range(3):
            advance(2.0)
    said = console.file.getvalue()  # type: ignore[attr-defined]
    if term == "xterm":
        assert "\x1b" in said
    else:
        assert said == "sampling: 20%\nsampling: 40%\nsampling: 60%\n"


def test_no_colour_where_none_is_wanted() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=80, _environ={"TERM": "xterm", "NO_COLOR": "1"})
    with progress.seconds_bar(10.0, console) as advance:
        advance(2.0)
    assert "\x1b[3" not in console.file.getvalue()  # type: ignore[attr-defined]


def test_no_test_reaches_beyond_this_machine() -> None:
    """And so none of what the other tests run does: this one shows that the guard is up."""
    with socket.socket() as one, pytest.raises(Online):
        one.connect(("192.0.2.1", 80))
    with pytest.raises(Online):
        socket.create_connection(("example.org", 80))
