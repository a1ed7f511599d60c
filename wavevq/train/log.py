"""What a training run says: a progress bar, metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import os
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from wavevq.audio import replacing, unwritable
from wavevq.errors import WavevqError
from wavevq.plain import from_json, is_name
from wavevq.progress import moving

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Clip:
    """Audio to listen to: float32 ``[T]`` at ``rate`` Hz."""

    samples: np.ndarray[Any, np.dtype[np.float32]]
    rate: int


@dataclass(frozen=True)
class Validation:
    """What a validation pass found: named figures, plots, clips and images ``[H, W, 3]``, and warnings to say aloud."""

    scalars: dict[str, float]
    figures: dict[str, Figure] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    images: dict[str, NDArray[np.uint8]] = field(default_factory=dict)


METRICS = "metrics.jsonl"  # beside the checkpoints
KINDS = ("train", "validation")  # of its lines


class Log:
    """One run's log. ``first`` is the step it goes on from: lines of later steps, left by a killed run, are dropped."""

    def __init__(self, folder: Path, console: Console, steps: int, first: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self.console, self.steps = console, steps
        self.path = folder / METRICS
        kept = [line for line in _lines(self.path) if line["step"] <= first]
        with replacing(self.path) as partial:
            partial.write_text("".join(json.dumps(line) + "\n" for line in kept))
        self.curves = folder / "tensorboard"
        with unwritable(self.curves):
            self.board = SummaryWriter(self.curves, purge_step=first + 1)
        self.progress = Progress(
            TextColumn("training"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[says]}", markup=False),
            console=console,
            disable=not moving(console),
        )
        # What the thread that writes the curves cannot write is told by the next call, and needs no traceback beside.
        self.hook, threading.excepthook = threading.excepthook, self._unhandled
        self.task = self.progress.add_task("train", total=steps, completed=first, says="")
        self.progress.start()
        self.started = time.monotonic()

    def advance(self, step: int) -> None:
        """One step is done."""
        self.progress.update(self.task, completed=step)

    def training(self, step: int, scalars: dict[str, float]) -> None:
        """Averages since the last line."""
        says = "  ".join(f"{_short(value)} {name.replace('_', ' ')}" for name, value in scalars.items())
        self.progress.update(self.task, says=says)
        if not moving(self.console):
            self.console.print(f"step {step}/{self.steps}  {says}", soft_wrap=True)
        self._write(step, "train", scalars)

    def validation(self, step: int, found: Validation) -> None:
        """A validation pass after ``step`` steps."""
        says = "  ".join(f"{_short(value)} {name.replace('_', ' ')}" for name, value in found.scalars.items())
        self.console.print(f"validation at step {step}: {says}", soft_wrap=True, highlight=False)
        for warning in found.warnings:
            self.console.print(f"WARNING: {warning}", style="bold red", soft_wrap=True)
        self._write(step, "validation", found.scalars)
        with unwritable(self.curves):
            for name, figure in found.figures.items():
                self.board.add_figure(name, figure, step)
            for name, clip in found.clips.items():
                self.board.add_audio(name, clip.samples[None], step, clip.rate)
            for name, image in found.images.items():
                self.board.add_image(name, image, step, dataformats="HWC")

    def validated(self, step: int) -> bool:
        """Whether ``metrics.jsonl`` holds a validation after ``step`` steps."""
        return any(line["step"] == step for line in read_metrics(self.path.parent, "validation"))

    def sync(self) -> None:
        """Before a checkpoint: no line of the steps that it holds may be missing, whatever happens then."""
        if self.path.exists():
            with unwritable(self.path), self.path.open("rb") as file:
                os.fsync(file.fileno())

    def close(self, failed: bool) -> None:
        """failed: the training ends by an error, which is to be told in place of curves that cannot be written."""
        self.progress.stop()
        try:
            with unwritable(self.curves):
                self.board.close()
        except WavevqError:
            if not failed:
                raise
        finally:
            threading.excepthook = self.hook

    def _unhandled(self, thrown: threading.ExceptHookArgs) -> None:
        if not isinstance(thrown.exc_value, OSError):
            self.hook(thrown)

    def _write(self, step: int, kind: str, scalars: dict[str, float]) -> None:
        line = {"step": step, "kind": kind, "seconds": round(time.monotonic() - self.started, 3), **scalars}
        with unwritable(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        with unwritable(self.curves):
            for name, value in scalars.items():
                self.board.add_scalar(f"{kind}/{name}", value, step)


def read_metrics(folder: Path, kind: str) -> list[dict[str, Any]]:
    """The lines of ``metrics.jsonl`` of one kind, "train" or "validation"."""
    return [line for line in _lines(folder / METRICS) if line["kind"] == kind]


def _lines(path: Path) -> list[dict[str, Any]]:
    """Whole lines only: a killed run may leave half of one at the end."""
    if not path.exists():
        return []
    try:
        lines = [from_json(text) for text in path.read_text(encoding="utf-8").split("\n")[:-1]]
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ValueError:
        raise WavevqError(f"{path}: holds a line that is not JSON") from None
    if not all(_is_line(line) for line in lines):
        raise WavevqError(f"{path}: holds a line that is not a step, a kind and numbers")
    return lines


def _is_line(line: Any) -> bool:
    if not isinstance(line, dict) or not isinstance(line.get("step"), int) or line.get("kind") not in KINDS:
        return False
    return all(isinstance(value, int | float) and is_name(key) for key, value in line.items() if key != "kind")


def _short(value: float) -> str:
    return f"{value:z.0f}" if abs(value) >= 1000 or float(value).is_integer() else f"{value:z.3f}"
