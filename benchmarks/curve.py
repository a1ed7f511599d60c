"""What more training brings: every checkpoint that a run keeps before the judges of `wavevq evaluate`.

python benchmarks/curve.py --run RUN [--set data.root=PATH] [--json FILE]; train with train.keep above the number of
checkpoints, else the older ones are gone. --quick: of 60 clips in place of evaluation.judged.

A row a checkpoint: the shares of sampled clips whose word is recognised, reconstructed and converted; of conversions
heard as the target; held-out bits/sample where that step was validated.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from common import options
from rich.console import Console
from rich.table import Table

from wavevq.errors import WavevqError
from wavevq.evaluation import evaluate
from wavevq.run import load_run
from wavevq.run_folder import CHECKPOINTS, RECIPE, SPEAKERS, find_run
from wavevq.train.log import read_metrics
from wavevq.train.state import checkpoints, read_state

AIM = 0.8  # share
SHARES = {
    "words_reconstruction": ("content", "words, reconstruction"),
    "words_conversion": ("content", "words, conversion"),
    "target_conversion": ("speaker", "target, conversion"),
}


def main() -> None:
    given = options(__doc__ or "", takes_run=True, takes_sets=True)
    sets = (*given.sets, *(["evaluation.judged=60"] if given.quick else []))
    try:
        found = curve(find_run(given.run), sets)
    except WavevqError as error:
        print(error, file=sys.stderr)
        raise SystemExit(2) from None
    Console(markup=False).print(table(found["rows"]))
    if given.json:
        given.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def curve(folder: Path, sets: tuple[str, ...]) -> dict[str, Any]:
    """Of every checkpoint. Raises WavevqError where there is none, and for what ``evaluate`` refuses."""
    validated = {line["step"]: line["bits_per_sample"] for line in read_metrics(folder, "validation")}
    rows = []
    for checkpoint in checkpoints(folder / CHECKPOINTS):
        step = read_state(checkpoint)["step"]
        rows.append({"step": step, **shares(folder, checkpoint, sets), "bits_per_sample": validated.get(step)})
    if not rows:
        raise WavevqError(f"{folder}: holds no checkpoint yet; train it first")
    return {
        "command": "python benchmarks/curve.py --run RUN --set data.root=PATH",
        "date": datetime.now().date().isoformat(),
        "aim": AIM,
        "rows": rows,
    }


def shares(folder: Path, checkpoint: Path, sets: tuple[str, ...]) -> dict[str, float]:
    """SHARES of one checkpoint, in a run folder that has no other."""
    with tempfile.TemporaryDirectory() as place:
        alone = Path(place) / checkpoint.name
        (alone / CHECKPOINTS).mkdir(parents=True)
        for name in (RECIPE, SPEAKERS):
            shutil.copy(folder / name, alone / name)
        shutil.copytree(checkpoint, alone / CHECKPOINTS / checkpoint.name)  # no link may lead out of a run folder
        run = replace(load_run(alone, "cpu"), prior=None)
        record = evaluate(
            run, list(dict.fromkeys(metric for metric, _ in SHARES.values())), alone, sets, Console(markup=False)
        )
    figures = {(section.metric, one.name): one.value for section in record.sections for one in section.figures}
    found = {name: value for name, where in SHARES.items() if (value := figures.get(where)) is not None}
    if len(found) < len(SHARES):
        raise WavevqError(f"{folder}: wants a corpus of words of a closed vocabulary, said by several speakers")
    return found


def table(rows: list[dict[str, float | None]]) -> Table:
    made = Table(*rows[0])
    for row in rows:
        made.add_row(*(f"{value:.4g}" if isinstance(value, float) else str(value or "-") for value in row.values()))
    return made


if __name__ == "__main__":
    main()
