"""The report page: one HTML file that holds its plots and its audio, and the plots that TensorBoard shows too.

Figures are made without pyplot: it keeps every figure of the process alive, and a training run makes many.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import soundfile
from matplotlib.figure import Figure

from wavevq.audio import replacing
from wavevq.pixels import Pixels, png

if TYPE_CHECKING:
    from wavevq.evaluate.probes import Score

Samples = np.ndarray[Any, np.dtype[Any]]

# Text of 10 points is readable (10 CSS pixels or more) in a plot across a phone, 360 px, and in a card of 250.
DOTS_PER_INCH = 160
PLOT, CARD = (4.8, 2.6), (3.2, 2.2)  # inches
LOUDEST_DB, QUIETEST_DB = -20.0, -90.0  # colours of a spectrogram, relative to a full-scale sine: comparable clips
CODES_DRAWN = 2000  # bars of a usage plot


@dataclass(frozen=True)
class Take:
    """One clip of a listening row: float ``samples`` ``[T]`` in [-1, 1], and how they came about.

    "sampled": drawn from the decoder, each sample fed back. "teacher-forced": predicted from the true past, which
    sounds far better than anything the model can make and is no result.
    """

    caption: str
    kind: Literal["original", "sampled", "teacher-forced"]
    samples: Samples
    rate: int  # Hz


class Report:
    """A page built from top to bottom; every method adds a part and returns the report."""

    def __init__(self, title: str) -> None:
        self._title = title
        self._parts = [f"<h1>{escape(title)}</h1>"]

    def heading(self, text: str) -> Report:
        return self._add(f"<h2>{escape(text)}</h2>")

    def text(self, text: str) -> Report:
        """A paragraph for each block of ``text`` between empty lines."""
        for paragraph in text.split("\n\n"):
            self._add(f"<p>{escape(paragraph.strip())}</p>")
        return self

    def table(self, headers: Sequence[str], rows: Sequence[Sequence[object]]) -> Report:
        """Cells are shown as ``str`` makes them; numbers stand on the right."""
        head = "".join(f'<th scope="col">{escape(header)}</th>' for header in headers)
        body = "".join(f"<tr>{''.join(_cell(value) for value in row)}</tr>" for row in rows)
        # Focusable, so that the keyboard can scroll a table that is wider than the window.
        return self._add(
            f'<div class="wide" tabindex="0" role="region" aria-label="table">'
            f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
        )

    def scores(self, scores: Sequence[Score]) -> Report:
        """A table of scores, each beside its chance level."""
        rows = [(score.name, f"{score.value:.3f}", f"{score.chance:.3f}", score.unit) for score in scores]
        return self.table(("score", "value", "chance", "unit"), rows)

    def figure(self, figure: Figure, caption: str) -> Report:
        image = f'<img src="{_png(figure)}" alt="{escape(caption)}">'
        return self._add(f"<figure>{image}<figcaption>{escape(caption)}</figcaption></figure>")

    def picture(self, image: Pixels, caption: str) -> Report:
        """An image ``[H, W, 3]``, its pixels as sharp squares."""
        data = _data_uri("image/png", io.BytesIO(png(image)))
        return self._add(
            f'<figure><img class="pixels" src="{data}" alt="{escape(caption)}">'
            f"<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def audio(self, samples: Samples, rate: int, caption: str) -> Report:
        """A player for float samples ``[T]`` in [-1, 1] at ``rate`` Hz."""
        return self._add(
            f"<figure>{_player(samples, rate, caption)}<figcaption>{escape(caption)}</figcaption></figure>"
        )

    def listen(self, caption: str, takes: Sequence[Take]) -> Report:
        """Clips side by side, each with its spectrogram and its kind: original, reconstruction, conversion ..."""
        cards = []
        for take in takes:
            picture = _png(spectrogram_figure(take.samples, take.rate, ""))
            cards.append(
                f"<figure><figcaption>{escape(take.caption)} "
                f'<span class="kind {take.kind}">{take.kind}</span></figcaption>'
                f'<img src="{picture}" alt="spectrogram of {escape(take.caption)}">'
                f"{_player(take.samples, take.rate, take.caption)}</figure>"
            )
        return self._add(f'<section><h3>{escape(caption)}</h3><div class="row">{"".join(cards)}</div></section>')

    def html(self) -> str:
        """The whole page."""
        return _PAGE.format(title=escape(self._title), style=_STYLE, body="\n".join(self._parts))

    def write(self, path: str | Path) -> Path:
        """Writes the page to ``path``: a reader finds the old page or the new one, never half of it."""
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as unfinished:
            unfinished.write_text(self.html(), encoding="utf-8", errors="backslashreplace")
        return path

    def _add(self, part: str) -> Report:
        self._parts.append(part)
        return self


# --- plots --------------------------------------------------------------------------------------------------


def spectrogram_figure(samples: Samples, rate: int, title: str) -> Figure:
    """Mel spectrogram of float samples ``[T]`` in [-1, 1], in dB; 0 is a full-scale sine, in every plot alike."""
    import librosa

    # 60 ms of zero-filled window: every one of the 64 bands holds a bin, at any rate.
    points = 2 ** int(np.ceil(np.log2(0.06 * rate)))
    window, hop = round(0.03 * rate), max(1, round(0.005 * rate))
    padded = np.pad(np.asarray(samples, dtype=np.float32), (0, max(0, points - len(samples))))
    power = librosa.feature.melspectrogram(
        y=padded, sr=rate, n_fft=points, hop_length=hop, win_length=window, n_mels=64, norm=None
    )
    # Parseval: a full-scale sine's bins hold points x window x 3/8 (Hann squared) x 1/2 (power) x 1/2 (one side).
    full_scale = points * window * 3 / 32
    decibels = librosa.power_to_db(power[:, : 1 + len(samples) // hop] / full_scale, amin=1e-10, top_db=None)
    figure, axes = _axes(title, CARD)
    axes.imshow(
        decibels,
        origin="lower",
        aspect="auto",
        cmap="magma",
        vmin=QUIETEST_DB,
        vmax=LOUDEST_DB,
        extent=(0.0, len(samples) / rate, 0.0, 64.0),
    )
    bands = librosa.mel_frequencies(n_mels=66, fmin=0, fmax=rate / 2)[1:-1]
    ticks = [tick for tick in (250, 500, 1000, 2000, 4000, 8000) if tick < bands[-1]]
    axes.set_yticks(np.interp(ticks, bands, np.arange(64) + 0.5), [f"{tick}" for tick in ticks])
    axes.set_xlabel("seconds")
    axes.set_ylabel("Hz (mel)")
    return figure


def curve_figure(series: Mapping[str, Sequence[tuple[int, float]]], ylabel: str, title: str) -> Figure:
    """One line a series of (step, value)."""
    figure, axes = _axes(title)
    for name, points in series.items():
        steps, values = [step for step, _ in points], [value for _, value in points]
        axes.plot(steps, values, label=name, marker="o" if len(points) <= 30 else None, markersize=3)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.grid(alpha=0.3)
    if series:
        axes.legend()
    return figure


def usage_figure(counts: Sequence[int] | Samples, title: str) -> Figure:
    """How often each code of the codebook was used, most used first; counts: ``[K]``."""
    ordered = np.sort(np.asarray(counts, dtype=np.float64))[::-1]
    used = int((ordered > 0).sum())
    figure, axes = _axes(title)
    axes.fill_between(
        np.arange(min(len(ordered), CODES_DRAWN) + 1),
        np.append(ordered, 0.0)[: min(len(ordered), CODES_DRAWN) + 1] / max(ordered.sum(), 1.0),
        step="post",
    )
    axes.set_xlim(0, max(min(len(ordered), CODES_DRAWN), 1))
    axes.set_ylim(bottom=0)
    axes.set_xlabel(f"codes, most used first ({used} of {len(ordered)} used)")
    axes.set_ylabel("share")
    axes.grid(alpha=0.3)
    return figure


def _axes(title: str, inches: tuple[float, float] = PLOT) -> tuple[Figure, Any]:
    figure = Figure(figsize=inches, dpi=DOTS_PER_INCH, layout="constrained")
    axes = figure.add_subplot()
    if title:
        axes.set_title(title, fontsize="medium", wrap=True)
    return figure, axes


# --- html ---------------------------------------------------------------------------------------------------


def _cell(value: object) -> str:
    try:
        float(str(value).strip("%x "))
    except ValueError:
        return f"<td>{escape(str(value))}</td>"
    return f'<td class="number">{escape(str(value))}</td>'


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return _data_uri("image/png", file)


def _player(samples: Samples, rate: int, caption: str) -> str:
    file = io.BytesIO()
    # PCM_16 wraps nothing: soundfile clips what lies outside [-1, 1].
    soundfile.write(file, np.asarray(samples, dtype=np.float32), rate, format="WAV", subtype="PCM_16")
    source = _data_uri("audio/wav", file)
    return f'<audio controls preload="metadata" aria-label="{escape(caption)}" src="{source}"></audio>'


def _data_uri(kind: str, file: io.BytesIO) -> str:
    return f"data:{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


_STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --page: #ffffff; --faint: #57606a; --line: #d0d7de; --card: #f6f8fa }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --page: #0d1117; --faint: #9198a1; --line: #3d444d; --card: #161b22 }
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 1rem; max-width: 75rem; font: 1rem/1.5 system-ui, sans-serif;
  color: var(--ink); background: var(--page); overflow-wrap: break-word }
h1 { font-size: 1.6rem; line-height: 1.2 } h2 { margin-top: 2rem; border-bottom: 1px solid var(--line) }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem }
p { max-width: 45rem; white-space: pre-line }
.wide { overflow-x: auto }
table { border-collapse: collapse }
th, td { padding: .3rem .7rem; border-bottom: 1px solid var(--line); text-align: left }
th { color: var(--faint) } .number { text-align: right; font-variant-numeric: tabular-nums }
figure { margin: 1rem 0; max-width: 36rem } figcaption { color: var(--faint); font-size: .9rem }
.pixels { image-rendering: pixelated }
img { display: block; width: 100%; height: auto; border-radius: 4px; background: #ffffff }
audio { display: block; width: 100%; min-width: 0; margin-top: .4rem }
.row { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 16rem), 1fr)); gap: 1rem }
.row figure { margin: 0; padding: .7rem; background: var(--card); border: 1px solid var(--line); border-radius: 6px }
.row figcaption { color: var(--ink); margin-bottom: .4rem }
.kind { padding: 0 .45em; border: 1px solid currentcolor; border-radius: 1em; font-size: .8rem; color: var(--faint);
  white-space: nowrap }
.kind.teacher-forced { border-style: dashed }
@media (max-width: 40rem) { table { font-size: .9rem } th, td { padding: .3rem .4rem } }
"""

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
