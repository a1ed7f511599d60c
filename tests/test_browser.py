"""The pages that wavevq writes, opened in headless Chromium (the demonstration's: tests/test_demo.py)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from browser import Browser, assert_readable
from click.testing import CliRunner
from matplotlib.figure import Figure

from wavevq import evaluation, generate
from wavevq.cli import main
from wavevq.evaluate.report import DOTS_PER_INCH, Report, Take, curve_figure, usage_figure


@pytest.mark.usefixtures("evaluated")
def test_the_page_of_an_evaluation(browser: Browser, finished: Path) -> None:
    assert_readable(browser, finished / "run" / evaluation.FOLDER / evaluation.PAGE)


def test_the_page_of_samples(browser: Browser, finished: Path, tmp_path: Path) -> None:
    words = ["--run", str(finished / "run"), "--count", "2", "--seconds", "0.1", str(tmp_path / "new")]
    result = CliRunner().invoke(main, ["sample", *words])
    assert result.exit_code == 0, result.output
    assert_readable(browser, tmp_path / "new" / generate.PAGE)


def test_everything_that_a_page_can_hold_at_its_largest(browser: Browser, tmp_path: Path) -> None:
    tone = np.sin(np.arange(4000)).astype(np.float32)
    long = "an_utterance_whose_name_has_no_place_to_break_and_goes_on_and_on_" * 3
    report = Report(long).heading(long).text(f"{long}\n\n{long}").table([long, "n"], [[long, 1.5]] * 2)
    report.table([f"speaker {i}" for i in range(40)], [range(40)] * 2)
    report.figure(usage_figure([3, 0, 1], ""), long).figure(curve_figure({"all": [(1, 2.0)]}, "bits", ""), long)
    report.audio(tone, 8000, long)
    report.listen(long, [Take(long, "original", tone, 8000), *[Take("b", "teacher-forced", tone, 16000)] * 4])
    assert_readable(browser, report.write(tmp_path / "page.html"))


# --- what is wrong is found ---------------------------------------------------------------------------------

WIDE = '<div style="width: 500px">wide</div>'  # more than a phone
SILENCE = Report("").audio(np.zeros(800, np.float32), 8000, "").html().split('src="')[1].split('"')[0]
SOUND = f'<p>text</p><div style="overflow-x: auto">{WIDE}</div><audio controls src="{SILENCE}"></audio>'
VIEWPORT = '<meta name="viewport" content="width=device-width">'
FLAWS = {
    "broken image": ('<img src="data:image/png;base64,AAAA" alt="">', "an image shows nothing"),
    "missing image": ('<img src="nowhere.png" alt="">', "not loaded: net::ERR_FILE_NOT_FOUND"),
    "foreign image": ('<img src="https://example.org/a.png" alt="">', "asks for https://example.org/a.png"),
    "foreign style": ('<link rel="stylesheet" href="https://example.org/a.css">', "asks for https://example.org/a.css"),
    "foreign data": (
        "<script>fetch('https://example.org/a').catch(() => 0)</script>",
        "asks for https://example.org/a",
    ),
    "console error": ("<script>console.error('what', 1)</script>", "console: error: what 1"),
    "exception": ("<script>null.what</script>", "exception: TypeError"),
    "rejection": ("<script>Promise.reject(Error('what'))</script>", "exception: Error: what"),
    "rubbish for audio": ('<audio controls src="data:audio/wav;base64,AAAA"></audio>', "audio that does not play"),
    "audio of nothing": ("<audio controls></audio>", "audio that does not play"),
    "audio without controls": (f'<audio src="{SILENCE}"></audio>', "nobody can start it"),
    "wide table": (f"<table><tr><td>{WIDE}</td></tr></table>", "px wide in a window of 390"),
    "cut off at the side": (
        f'<div style="overflow: hidden"><p style="width: 500px">{"text " * 40}</p></div>',
        "clipped text",
    ),
    "cut off below": ('<p style="height: 1em; overflow: hidden">text<br>text</p>', "clipped text"),
    "beside the window": ('<p style="position: absolute; left: -2em">text</p>', "clipped text"),
    "small text": ('<p style="font-size: 11px">text</p>', "text below 12 px"),
    "faint text": ('<p style="color: #999999">text</p>', "faint text, contrast 2.8"),
}


def opened(browser: Browser, folder: Path, head: str, body: str) -> tuple[str, ...]:
    """What is wrong with a page on a phone."""
    path = folder / "page.html"
    path.write_text(f'<!doctype html><html lang="en"><head>{head}<title>t</title></head><body>{body}</body></html>')
    return browser.open(path, 390).problems


def test_nothing_is_wrong_with_a_sound_page(browser: Browser, tmp_path: Path) -> None:
    assert opened(browser, tmp_path, VIEWPORT, SOUND) == ()


@pytest.mark.parametrize("flaw", FLAWS)
def test_a_flaw_is_found(browser: Browser, tmp_path: Path, flaw: str) -> None:
    body, found = FLAWS[flaw]
    assert found in "\n".join(opened(browser, tmp_path, VIEWPORT, SOUND + body))


def test_a_page_that_minds_no_phone_is_found(browser: Browser, tmp_path: Path) -> None:
    assert "the page is 980 px wide in a window of 390" in opened(browser, tmp_path, "", SOUND)


def test_a_plot_whose_text_is_too_small_is_found(browser: Browser, tmp_path: Path) -> None:
    report = Report("t").audio(np.zeros(800, np.float32), 8000, "c")
    report.figure(Figure(figsize=(12.0, 3.0), dpi=DOTS_PER_INCH), "c")
    with pytest.raises(AssertionError, match=r"page.html at 1280 px: the text of a plot is 6\.7 px"):
        assert_readable(browser, report.write(tmp_path / "page.html"))
