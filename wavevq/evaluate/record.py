"""``evaluation.json``: what ``wavevq evaluate`` found, of which model, on which data. Tables are made from them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from wavevq.audio import make_folder, replacing
from wavevq.errors import WavevqError
from wavevq.evaluate.metric import Figure

FORMAT: Literal[1] = 1  # raise it whenever an older reader must not take a file for what it knows


@dataclass(frozen=True)
class Section:
    """One metric's figures. metric: its name in ``metrics.METRICS``. seconds: that it took, shared work included.

    Where nothing was measured there are no figures, and ``note`` says why.
    """

    metric: str
    title: str
    figures: tuple[Figure, ...]
    seconds: float
    note: str = ""


@dataclass(frozen=True)
class Weights:
    """step: training steps that they have seen. sha256: of the averaged weights' file, in hexadecimal."""

    step: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """The whole file, one JSON object of these keys.

    format: of the file. wavevq: its version. command: repeats it (RUN and PATH stand for places of one machine).
    date: ISO 8601, UTC, when it ended. run: the folder's name. model, prior: the weights, null where there is no prior.
    data: the corpus's kind. speakers: how many. codes: K. rate: Hz. hop: samples a code. split, clips, seconds: what
    was measured, how many clips and how much audio. judged: how many of them were sampled anew, 0 where no metric
    listened. seed: of everything drawn. sections: in the order of the report. took: seconds, of everything.
    temperature: of everything drawn; files from before it was kept do not tell.
    Of images: speakers are classes, clips are images, rate and seconds are 0, hop is the side of a code in pixels. Of
    video: speakers are shapes, judged are the clips drawn anew, rate and seconds are 0, hop is 1, a frame.
    """

    format: Literal[1]
    wavevq: str
    command: str
    date: str
    run: str
    model: Weights
    prior: Weights | None
    data: str
    speakers: int
    codes: int
    rate: int
    hop: int
    split: str
    clips: int
    seconds: float
    judged: int
    seed: int
    sections: tuple[Section, ...]
    took: float
    temperature: float = 1.0

    def figure(self, metric: str, name: str) -> Figure | None:
        """The figure of that name, or None where that metric was not measured or has no such figure."""
        every = (one for section in self.sections if section.metric == metric for one in section.figures)
        return next((one for one in every if one.name == name), None)


def write_record(record: Record, path: Path) -> Path:
    """Writes the file, in a folder that is made where it is not there."""
    make_folder(path)
    text = json.dumps(asdict(record), indent=1, ensure_ascii=False, allow_nan=False)
    with replacing(path) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8", errors="backslashreplace")  # as JSON escapes such
    return path


def read_record(path: Path) -> Record:
    """What ``write_record`` wrote. Raises WavevqError, one line, for anything else."""
    try:
        return _RECORD.validate_json(path.read_bytes())
    except OSError as error:
        raise WavevqError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()})") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise WavevqError(f"{path}: not an evaluation of format {FORMAT} ({where or 'file'}: {first['msg']})") from None


_RECORD = TypeAdapter(Record)
