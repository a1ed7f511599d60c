"""What makes the digits better, one change at a time: python benchmarks/search.py rate --root PATH (of FSDD).

The search began at BASE, K 128 with a past gain of 12 dB and no adversary; the recipe has its winners by now. Every
cell is BASE with one thing changed, without a prior, about ten minutes of one quiet core: a change that makes a step
dearer gets fewer steps. Each is judged as `wavevq evaluate` judges, on the validation split alone: held-out
bits/sample, what shuffled codes cost, the shares of clips whose digit is recognised, reconstructed and converted, of
conversions heard as the target, and of conversions that come out more than 10 dB too quiet. gain: how much louder or
quieter the decoder hears its past in training. rate: the learning rate. crop: length of an example, at equal audio a
step. network: the decoder's layers and channels. codes: K and D. adversary: weight of what unteaches codes their
speaker, at K 512. longer: the same, an hour or two each. second: recipes/digits_second.yaml, which goes on from the
longer one of 15,000 steps with weight 0.1, exported to runs/first. jitter: chance that a latent is replaced by its
neighbour's. hop: samples a code. upsampler: layers of the network that brings codes to the decoder. average: decay of
the averaged weights, 0 for none. BASE's run is sampled at other temperatures, too.
"""

from __future__ import annotations

from collections.abc import Mapping

from cells import Cell, Figures, Record, Rows, Study, shown, study, validated
from curve import SHARES
from rich.console import Console

from wavevq.data.store import Store
from wavevq.evaluate.metrics import METRICS
from wavevq.evaluate.reconstruction import levels, too_quiet
from wavevq.evaluation import subject_of, with_overrides
from wavevq.run import Run

QUIET = "too_quiet_conversion"
JUDGED = *SHARES, QUIET
STEPS = 3000  # of what costs as much a step as the recipe
TEMPERATURES = 0.8, 0.9  # beside 1
# What the search has changed since it began.
BEFORE = "model.bottleneck.codes=128", "model.adversary=0", "evaluation.temperature=1"
WIDE = "model.bottleneck.codes=512"  # which had won when it came to an adversary


def cell(name: str, *overrides: str, steps: int = STEPS, gain: int = 12) -> Cell:
    always = f"train.steps={steps}", "prior=null", f"model.past_gain={gain}"
    return Cell(name, (*BEFORE, *always, *overrides), "recipes/digits.yaml")


LONGER = WIDE, "train.validate_every=3000", "train.save_every=1000"
BASE = cell("past gain 12 dB")
WIDER = cell("K 512", WIDE)  # what those with an adversary differ from
TABLES = {
    "gain": [BASE, *(cell(f"past gain {gain} dB", gain=gain) for gain in (0, 6, 24))],
    "rate": [BASE, *(cell(f"learning rate {rate}", f"train.learning_rate={rate}") for rate in (0.001, 0.004))],
    "crop": [
        BASE,
        cell("16 crops of 1024", "train.batch=16", "train.crop=1024"),
        cell("4 crops of 4096", "train.batch=4", "train.crop=4096"),
    ],
    "network": [
        BASE,
        cell("20 layers", "model.decoder.layers=20", steps=1700),
        cell("96 channels", *(f"model.decoder.{width}=96" for width in ("residual", "gate", "skip")), steps=1700),
        cell("32 channels", *(f"model.decoder.{width}=32" for width in ("residual", "gate", "skip")), steps=5000),
    ],
    "codes": [
        BASE,
        cell("K 64", "model.bottleneck.codes=64"),
        WIDER,
        *(cell(f"D {width}", f"model.bottleneck.dim={width}") for width in (4, 16)),
    ],
    "adversary": [
        WIDER,
        *(cell(f"K 512, adversary {weight}", WIDE, f"model.adversary={weight}") for weight in (0.1, 0.3, 1.0)),
    ],
    "longer": [
        cell(
            f"K 512, adversary {weight}, {steps:,} steps",
            *LONGER,
            f"train.keep={steps // 1000 + 1}",
            f"model.adversary={weight}",
            steps=steps,
        )
        for weight, steps in ((0, 15_000), (0.1, 15_000), (0.3, 15_000), (0.1, 30_000))
    ],
    "second": [
        Cell(
            f"then 6,500 steps with augmentation, adversary {weight}",
            ("prior=null", f"model.adversary={weight}"),
            "recipes/digits_second.yaml",
        )
        for weight in (0.04, 0.01)
    ],
    "jitter": [BASE, *(cell(f"jitter {chance}", f"model.jitter={chance}") for chance in (0.06, 0.12))],
    "hop": [
        cell("hop 32", f"model.encoder.strides={[2] * 5}"),
        BASE,  # 64
        cell("hop 128", f"model.encoder.strides={[2] * 7}"),
    ],
    "upsampler": [
        cell("no layer over codes", "model.decoder.context_layers=0"),
        BASE,  # 2
        cell("4 layers over codes", "model.decoder.context_layers=4"),
    ],
    "average": [BASE, *(cell(f"average {decay}", f"train.average={decay}") for decay in (0.0, 0.9995))],
}
COLUMNS = {
    "bits/sample": "bits_per_sample",
    "shuffled-codes gap": "shuffled_codes_gap",
    "codes used": "codes_used",
    **{name.replace("_", ", "): name for name in SHARES},
    "too quiet": QUIET,
}


def measure(run: Run, corpus: Store) -> Figures:
    """Of the last validation, over all held-out clips, and by the judges; of BASE's run at TEMPERATURES."""
    found = {**validated(run, corpus), **judged(run)}
    if run.folder.name == BASE.folder:
        for temperature in TEMPERATURES:
            colder = judged(run, f"evaluation.temperature={temperature}")
            found |= {at(name, temperature): value for name, value in colder.items()}
    return found


def judged(run: Run, *overrides: str) -> Figures:
    """JUDGED, of clips drawn as the recipe or ``overrides`` say."""
    subject = subject_of(run, with_overrides(run, overrides), Console(markup=False))
    findings = {metric: METRICS[metric].measure(subject) for metric in dict.fromkeys(one for one, _ in SHARES.values())}
    every = {(metric, one.name): one.value for metric, found in findings.items() for one in found.figures}
    found = {name: value for name, where in SHARES.items() if (value := every[where]) is not None}
    return {**found, QUIET: too_quiet(levels(subject.heard("original"), subject.heard("conversion")))}


def at(name: str, temperature: float) -> str:
    return f"{name} at {temperature}"


def summary(records: Mapping[str, Record]) -> Rows:
    """A row a cell, as TABLES have them; below BASE's its other temperatures."""
    every = [cell.name for table in TABLES.values() for cell in table]
    columns = {
        "bits/sample": shown("bits_per_sample", ".3f"),
        "shuffled-codes gap": shown("shuffled_codes_gap", "+z.2f"),
    }
    headings = ["digit kept, %", "converted, %", "target reached, %", "too quiet, %"]
    rows = [["change", "steps", "minutes", *columns, *headings]]
    for name in sorted(records, key=every.index):
        record = records[name]
        figures = record["figures"]
        budget = [str(record["steps"]), format(record["seconds_of_steps"] / 60, ".0f")]
        shares = [shown(share, ".0f", 100)(figures) for share in JUDGED]
        rows.append([name, *budget, *(column(figures) for column in columns.values()), *shares])
        for temperature in TEMPERATURES:
            colder = [shown(at(share, temperature), ".0f", 100)(figures) for share in JUDGED]
            if name == BASE.name:
                rows.append([f"its run, temperature {temperature}", "–", "–", *("–" for _ in columns), *colder])
    return rows


PLAN = Study("search", TABLES, COLUMNS, measure, summary)

if __name__ == "__main__":
    study(PLAN, __doc__ or "")
