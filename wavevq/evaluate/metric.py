"""What a metric of ``wavevq evaluate`` is: a function of a ``Subject`` that returns ``Findings``.

Of images, of an ``ImageSubject``; of video, of a ``VideoSubject``.

Adding one is one file with such a function, and one line in ``metrics.METRICS``.
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wavevq.errors import WavevqError
from wavevq.evaluate.report import Take
from wavevq.pixels import Pixels

if TYPE_CHECKING:
    from matplotlib import figure

EXTRA = "pip install wavevq[eval]"


class NotMeasured(WavevqError):
    """A metric cannot be had here: of this corpus, of this run, or without a package. Its words say why.

    A row of the table where every metric was asked for, an error where this one was (``--only``).
    """


@dataclass(frozen=True)
class Figure:
    """A named number with its unit; None where there is none, and ``note`` says why. note: how to read it, if need be.

    A name is unique among the figures of its metric: the scoreboard finds it by metric and name.
    """

    name: str
    value: float | None
    unit: str
    note: str = ""

    def __post_init__(self) -> None:
        if self.value is not None and not math.isfinite(self.value):
            raise ValueError(f"{self.name} is {self.value}: a figure is a finite number, or None with a note")


@dataclass(frozen=True)
class Table:
    """For the report: cells are shown as ``str`` makes them."""

    caption: str
    headers: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]


@dataclass(frozen=True)
class Plot:
    """For the report."""

    figure: figure.Figure
    caption: str


@dataclass(frozen=True)
class Listen:
    """For the report: clips side by side."""

    caption: str
    takes: tuple[Take, ...]


@dataclass(frozen=True)
class Sheet:
    """For the report: an image uint8 ``[H, W, 3]``."""

    image: Pixels
    caption: str


@dataclass(frozen=True)
class Findings:
    """What a metric found. text: what a reader must know to read the figures; paragraphs between empty lines."""

    figures: tuple[Figure, ...]
    text: str = ""
    parts: tuple[Table | Plot | Listen | Sheet, ...] = ()


@dataclass(frozen=True)
class Metric:
    """title: of its table. measure: of a ``Subject``, of whatever signal; raises ``NotMeasured`` where it cannot be.

    packages: the optional ones, by the names they import as. Where one is missing, ``--only`` refuses the metric before
    any work; else the metric measures what it can without and says of the rest what is lacking (``optional``).
    """

    title: str
    measure: Callable[[Any], Findings]
    packages: tuple[str, ...] = ()


def optional(package: str) -> Any:
    """The module ``package``, or ``NotMeasured`` with what lacks, it or one of its own, and how to install it."""
    try:
        return importlib.import_module(package)
    except ImportError as error:
        lacking = f"{error.name} is missing" if isinstance(error, ModuleNotFoundError) else f"{package}: {error}"
        raise NotMeasured(f"not measured: {EXTRA} ({lacking})") from None
