"""CIFAR-10 in bits/dim: python benchmarks/cifar.py --root PATH. VQ-VAE, VAE and VIMCO side by side (paper, 4.1).

cifar: all have the encoder and the feed-forward decoder of recipes/cifar10.yaml, and about equal time without the prior
of the VQ-VAE, with which it takes less than twenty minutes of a core. VQ-VAE and VAE have equal steps, VIMCO a fifth,
since its decoder makes five images for one. Its codes are the VQ-VAE's, 8 x 8 x 10 of 512; the VAE has 8 x 8 latents of
64 dimensions. longer: the same of two and a half times the steps.

pixelcnn: the autoregressive decoder of recipes/cifar10_pixelcnn.yaml, which could do without latents (paper, 4.2). The
gap of shuffled latents says whether it reads them: a VQ-VAE and a VAE, of equal steps, 8 x 8 latents of 32 dimensions.

Figures are of all test images, in bits per 8-bit value, a bound on -log2 p(x): distortion -log2 p(x | latents); rate,
of codes under the uniform prior (log2 K a code) or the learned one, of the others the divergence; of VIMCO the bound of
50 samples, as in the paper, whose rate and distortion are means of one. minutes: of all steps, the prior's included.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cells import Cell, Column, Figures, Record, Rows, Study, shown, study

from wavevq.data.corpora import Split
from wavevq.data.corpus import Corpus
from wavevq.evaluate.joint import codes_of
from wavevq.evaluate.likelihood import measure
from wavevq.evaluate.rate import counts
from wavevq.evaluate.rate import measure as measure_rate
from wavevq.image_run import ImageRun
from wavevq.vimco import VimcoVae

PAPER = {"VQ-VAE": 4.67, "VAE": 4.51, "VIMCO": 5.14}  # section 4.1, 250,000 steps
SAMPLES = 50  # of VIMCO's bound
NO_PRIOR = "prior="
RECIPE = "recipes/cifar10.yaml"
PIXELCNN = "recipes/cifar10_pixelcnn.yaml"
VAE = NO_PRIOR, "model.encoder.groups=1", "model.bottleneck={kind: vae, dim: 64}"
VIMCO = NO_PRIOR, "model.bottleneck={kind: vimco, codes: 512, dim: 16, samples: 5}"
LONGER, LONGER_VIMCO = "train.steps=15000", "train.steps=3000"
SHORT = "train.steps=800"  # a quarter of an hour of one core, nearly half an hour of the VAE
TABLES = {
    "cifar": [
        Cell("VQ-VAE", (), RECIPE),
        Cell("VAE", VAE, RECIPE),
        Cell("VIMCO", (*VIMCO, "train.steps=1200"), RECIPE),
    ],
    "longer": [
        Cell("VQ-VAE, longer", (LONGER,), RECIPE),
        Cell("VAE, longer", (*VAE, LONGER), RECIPE),
        Cell("VIMCO, longer", (*VIMCO, LONGER_VIMCO), RECIPE),
    ],
    "pixelcnn": [
        Cell("VQ-VAE, PixelCNN decoder", (NO_PRIOR, SHORT), PIXELCNN),
        Cell("VAE, PixelCNN decoder", (NO_PRIOR, SHORT, "model.bottleneck={kind: vae, dim: 32}"), PIXELCNN),
    ],
}
COLUMNS = {
    "bits/dim": "bits_per_dim",
    "learned prior": "learned_bits_per_dim",
    "distortion": "distortion_bits_per_dim",
    "rate": "rate_bits_per_dim",
    "shuffled gap": "shuffled_gap",
    "perplexity": "perplexity",
}


def figures(run: ImageRun, corpus: Corpus) -> Figures:
    """Measured on the corpus's own test images, where it has some."""
    split: Split = "test" if corpus.split("test") else "val"
    batch, seed = run.recipe.evaluation.batch, run.recipe.seed
    found = measure(run.model, corpus, split, batch=batch, limit=None, others=0, seed=seed)
    told = {
        "shuffled_gap": found.shuffled_gap or 0.0,
        "marginal_bits": found.marginal,
        "images": found.clips,
    }
    if found.usage is not None:
        told["perplexity"] = found.usage.perplexity
    if found.rate is not None:  # of what is drawn, and a part of the bits
        bound = bits_of_samples(run.model, corpus, split, batch) if isinstance(run.model, VimcoVae) else found.bits
        return {
            **told,
            "bits_per_dim": bound,
            "distortion_bits_per_dim": found.bits - found.rate,
            "rate_bits_per_dim": found.rate,
        }
    h, w, groups = run.recipe.grid
    codes_a_dim = h * w * groups * found.clips / found.samples
    uniform = math.log2(run.model.size) * codes_a_dim
    told |= {
        "bits_per_dim": found.bits + uniform,
        "distortion_bits_per_dim": found.bits,
        "rate_bits_per_dim": uniform,
    }
    if run.prior is None:
        return told
    prior, _ = run.prior
    training, held_out = (codes_of(run.model, corpus, one, batch) for one in ("train", split))
    learned = measure_rate(prior, held_out, counts(training, prior.codes), batch=batch, others=2, seed=seed)
    return {
        **told,
        "learned_bits_per_dim": found.bits + learned.bits * codes_a_dim,
        "learned_rate_bits_per_dim": learned.bits * codes_a_dim,
        "wrong_class_gap_bits_per_code": learned.wrong_label_gap or 0.0,
    }


def bits_of_samples(model: VimcoVae, corpus: Corpus, split: Split, batch: int) -> float:
    """The bound of SAMPLES samples in bits/dim, over a whole split."""
    nats = values = 0.0
    device = next(model.parameters()).device
    for some in corpus.whole(split, max(1, batch // SAMPLES), model.hop):
        nats += model.bound(some.to(device), SAMPLES).double().sum().item()
        values += some.x.numel()
    return nats / values / math.log(2)


def summary(records: Mapping[str, Record]) -> Rows:
    """A row a cell, below the paper's of its model."""
    columns = {heading: shown(key, ".4g") for heading, key in COLUMNS.items()}
    rows = [["model", "steps", *columns, "minutes"]]
    for model, bits in PAPER.items():
        rows.append([f"{model}, the paper's", "250,000", str(bits), *"–" * len(columns)])
        rows += [row(name, record, columns) for name, record in records.items() if name in (model, f"{model}, longer")]
    others = [cell.name for cell in TABLES["pixelcnn"]]
    return [*rows, *(row(name, records[name], columns) for name in others if name in records)]


def row(name: str, record: Record, columns: Mapping[str, Column]) -> list[str]:
    minutes = record["seconds_of_steps"] / 60
    return [name, f"{record['steps']:,}", *(tell(record["figures"]) for tell in columns.values()), f"{minutes:.0f}"]


PLAN = Study("cifar", TABLES, COLUMNS, figures, summary)

if __name__ == "__main__":
    study(PLAN, __doc__ or "")
