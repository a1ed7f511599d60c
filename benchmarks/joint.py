"""VQ-VAE and prior trained together against one after the other, on the embedded corpus: python benchmarks/joint.py

Every row is recipes/demo.yaml with fewer steps and one prior, a WaveNet that sees as many codes as a crop holds. All
have equal steps, batches and crops for the VQ-VAE and for the prior. two-stage: the prior learns the finished VQ-VAE's
codes. joint: it learns the codes of the moment, and its likelihood reaches the encoder with the weight named; at weight
1 the VQ-VAE minimises rate + distortion, at 0 it is that of two-stage.

Figures are of all validation clips, whole: the prior's bits/code under the true speaker and those of the codes' own
frequencies in training; distortion -log2 p(x | codes, speaker); rate, the prior's bits of a clip's codes and of its
end, over its samples. seconds: of the steps of both, validations left out.
"""

from __future__ import annotations

from cells import Cell, Figures, Study, by_cell, seconds_of_steps, shown, study

from wavevq.data.store import Store
from wavevq.evaluate.joint import codes_of
from wavevq.evaluate.likelihood import measure
from wavevq.evaluate.rate import counts
from wavevq.evaluate.rate import measure as measure_rate
from wavevq.run import Run

NETWORK = "prior.network={kind: wavenet, layers: 8, cycle: 4, residual: 64, gate: 64, skip: 64, head: 128}"
STEPS = 1000


def cell(name: str, *overrides: str) -> Cell:
    return Cell(name, (f"train.steps={STEPS}", "train.validate_every=500", NETWORK, *overrides))


def schedule() -> tuple[str, ...]:
    """The prior's own, as that of the recipe's train section: 2048 samples are 32 codes."""
    train = Cell("train").resolved().train
    keys = ("batch", "learning_rate", "warmup", "cooldown", "average")
    same = (f"prior.{key}={getattr(train, key)}" for key in keys)
    return (f"prior.steps={STEPS}", "prior.crop=32", "prior.validate_every=500", "prior.save_every=200", *same)


TABLE = [
    cell("two-stage", *schedule()),
    *(cell(f"joint {weight:g}", f"prior.joint.weight={weight}") for weight in (0, 0.1, 1)),
]
COLUMNS = {
    "bits/code": "bits_per_code",
    "by frequency": "unigram_bits",
    "distortion, bits/sample": "bits_per_sample",
    "rate, bits/sample": "rate_per_sample",
    "rate + distortion": "total_per_sample",
    "perplexity": "perplexity",
    "codes used": "codes_used",
    "shuffled-codes gap": "shuffled_codes_gap",
    "wrong-speaker gap": "wrong_speaker_gap",
    "seconds": "seconds",
}


def figures(run: Run, store: Store) -> Figures:
    """Measured anew and in the same way for both kinds of training."""
    assert run.prior is not None, "every row has one"
    prior, _ = run.prior
    batch, seed = run.recipe.evaluation.batch, run.recipe.seed
    signal = measure(run.model, store, "val", batch=batch, limit=None, others=run.recipe.evaluation.speakers, seed=seed)
    assert signal.usage is not None, "and codes"
    training, held_out = (codes_of(run.model, store, split, batch) for split in ("train", "val"))
    rates = measure_rate(prior, held_out, counts(training, prior.codes), batch=64, others=0, seed=seed)
    rate = rates.bits * rates.codes / signal.samples
    return {
        "bits_per_code": rates.bits,
        "unigram_bits": rates.unigram,
        "bits_per_sample": signal.bits,
        "rate_per_sample": rate,
        "total_per_sample": signal.bits + rate,
        "perplexity": signal.usage.perplexity,
        "codes_used": signal.usage.used,
        "shuffled_codes_gap": signal.shuffled_gap or 0.0,
        "wrong_speaker_gap": signal.wrong_speaker_gap or 0.0,
        "marginal_bits": signal.marginal,
        "seconds": seconds_of_steps(run.folder, run.recipe),
    }


README = {
    "bits/code": shown("bits_per_code", ".2f"),
    "by frequency": shown("unigram_bits", ".2f"),
    "distortion": shown("bits_per_sample", ".3f"),
    "rate + distortion": shown("total_per_sample", ".3f"),
    "perplexity": shown("perplexity", ".1f"),
    "codes used": shown("codes_used", ".0f"),
    "shuffled-codes gap": shown("shuffled_codes_gap", "+z.2f"),
}
PLAN = Study("joint", {"joint": TABLE}, COLUMNS, figures, by_cell(README))

if __name__ == "__main__":
    study(PLAN, __doc__ or "")
