"""The report page stands alone, shows what it was given, and trusts no text."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.figure import Figure

from wavevq.errors import WavevqError
from wavevq.evaluate.probes import Score
from wavevq.evaluate.report import Report, Take, curve_figure, spectrogram_figure, usage_figure

NASTY = '<script>alert("1")</script> & \'quoted\' "text"'
VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """The tags, attributes and text of a page; a tag that is not closed in order is an error."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data

    def sources(self, tag: str) -> list[str]:
        return [value for name, attribute, value in self.attributes if (name, attribute) == (tag, "src")]


def tone(rate: int = 8000, seconds: float = 0.5, pitch: float = 440.0) -> np.ndarray:
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(round(rate * seconds)) / rate)).astype(np.float32)


@pytest.fixture(scope="module")
def page() -> Page:
    report = Report(NASTY)
    report.heading(NASTY).text(f"one\n\ntwo {NASTY}").table([NASTY, "n"], [[NASTY, 1.5], ["x", "40 %"]])
    report.scores([Score(NASTY, 0.91, 1 / 6)]).figure(usage_figure([3, 0, 1], NASTY), NASTY)
    report.audio(tone(), 8000, NASTY)
    report.listen(
        NASTY,
        [
            Take("as spoken", "original", tone(), 8000),
            Take(NASTY, "sampled", tone(), 8000),
            Take("from the true past", "teacher-forced", tone(), 8000),
        ],
    )
    return Page(report.html())


def test_the_page_needs_nothing_from_outside(page: Page) -> None:
    sources = [value for _, name, value in page.attributes if name in ("src", "href", "srcset", "data")]
    assert len(sources) == 1 + 1 + 2 * 3
    assert all(source.startswith("data:") for source in sources)
    assert "script" not in page.tags
    assert "link" not in page.tags


def test_text_is_escaped_and_comes_back(page: Page) -> None:
    assert page.words.count(NASTY) == 11
    assert {value for _, name, value in page.attributes if name == "alt"} >= {NASTY}
    assert not any(name.startswith("on") for _, name, _ in page.attributes)


def test_every_take_names_its_kind(page: Page) -> None:
    assert all(kind in page.words for kind in ("original", "sampled", "teacher-forced"))


def test_the_chance_level_stands_beside_the_score(page: Page) -> None:
    assert "0.910" in page.words
    assert "0.167" in page.words


def test_images_are_png(page: Page) -> None:
    assert len(page.sources("img")) == 4
    for source in page.sources("img"):
        assert base64.b64decode(source.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")


@pytest.mark.parametrize("gain", [1.0, 3.0])
def test_audio_decodes_to_the_samples(gain: float) -> None:
    samples = gain * tone()
    (source,) = Page(Report("t").audio(samples, 8000, "c").html()).sources("audio")
    decoded, rate = soundfile.read(io.BytesIO(base64.b64decode(source.removeprefix("data:audio/wav;base64,"))))
    assert rate == 8000
    np.testing.assert_allclose(decoded, np.clip(samples, -1, 1), atol=1.01 / 32768)  # one step of 16 bits


def test_writing_replaces_the_old_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.html"
    Report("old").write(path)
    assert Report("new").text("ä π").write(path) == path
    assert "ä π" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_a_failed_write_keeps_the_old_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Report("old").write(tmp_path / "report.html")
    before = path.read_text()
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(WavevqError, match="full"):
        Report("new").write(path)
    assert path.read_text() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("rate", [8000, 16000, 48000])
def test_a_spectrogram_shows_a_tone_at_its_pitch_and_level(rate: int) -> None:
    (axes,) = spectrogram_figure(2 * tone(rate, pitch=1000.0), rate, "tone").axes
    (image,) = axes.images
    picture = np.asarray(image.get_array())
    ticks = dict(zip((label.get_text() for label in axes.get_yticklabels()), axes.get_yticks(), strict=True))
    assert picture.mean(axis=1).argmax() + 0.5 == pytest.approx(ticks["1000"], abs=1.0)  # within a band
    # A full-scale sine reads 0 dB, less what the triangle of its band takes away: 3 dB where two triangles cross.
    assert -3.5 < np.median(picture.max(axis=0)) < 0.5


@pytest.mark.parametrize(
    "figure",
    [
        spectrogram_figure(np.zeros(3, np.float32), 8000, "three samples of silence"),
        curve_figure({}, "bits", "nothing yet"),
        curve_figure({"train": [(1, 5.0), (2, 4.0)], "held out": [(2, float("nan"))]}, "bits a sample", "loss"),
        usage_figure([], "no code"),
        usage_figure([0, 0, 0], "no code used"),
        usage_figure(np.arange(5000), "more codes than bars"),
    ],
)
def test_odd_figures_are_drawn(figure: Figure) -> None:
    assert len(Page(Report("t").figure(figure, "c").html()).sources("img")) == 1


def test_usage_is_sorted_and_counts_the_used_codes() -> None:
    (axes,) = usage_figure([0, 5, 2, 3, 0], "usage").axes
    assert "3 of 5 used" in axes.get_xlabel()
