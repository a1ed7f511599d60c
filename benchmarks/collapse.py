"""Posterior collapse: python benchmarks/collapse.py. Who still uses its latents when the decoder grows?

An autoencoder, VAEs (KL divergence from the start, rising over the first half of the steps, with a hundredth of a bit a
dimension free) and a VQ-VAE (moving averages), each with WaveNets of 2, 5 and 10 layers (4, 32 and 1,024 samples of
past), trained alike on the embedded corpus: recipes/demo.yaml with fewer steps. Told for each: the latents' rate, KL
divergence or log2 of the codebook's perplexity; what another clip's latents cost (shuffled gap: 0 is a collapse); and
held-out bits/sample, a VAE's being the evidence bound, with the rate. An autoencoder's rate is not finite, and its
bits/sample and those of VQ-VAE are given the latents.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from cells import Cell, Figures, Record, Rows, Study, shown, study, validated
from matplotlib.figure import Figure

from wavevq.data.store import Store
from wavevq.run import Run

STEPS, LAYERS, DIM = 400, (2, 5, 10), 64
BOTTLENECKS = {
    "autoencoder": f"{{kind: none, dim: {DIM}}}",
    "VAE": f"{{kind: vae, dim: {DIM}}}",
    "VAE annealed": f"{{kind: vae, dim: {DIM}, anneal: {STEPS // 2}}}",
    "VAE free bits": f"{{kind: vae, dim: {DIM}, free_bits: 0.01}}",
    "VQ-VAE": f"{{kind: ema, codes: 128, dim: {DIM}}}",
}
COLUMNS = {
    "rate, bits a position": "rate_bits_per_position",
    "rate, bits/sample": "rate_bits_per_sample",
    "shuffled gap, bits/sample": "shuffled_gap",
    "bits/sample": "bits_per_sample",
    "given the latents": "bits_given_latents",
    "without a model": "marginal_bits",
}
PLOTTED = {"shuffled_gap": "shuffled gap, bits/sample", "rate_bits_per_position": "rate, bits a position"}


def cell(name: str, layers: int) -> Cell:
    overrides = (f"train.steps={STEPS}", f"model.bottleneck={BOTTLENECKS[name]}", f"model.decoder.layers={layers}")
    return Cell(f"{name} {layers} layers", overrides)


TABLES = {f"{layers} layers": [cell(name, layers) for name in BOTTLENECKS] for layers in LAYERS}


def measure(run: Run, store: Store) -> Figures:
    """Of the last validation, with names that hold for codes and vectors alike."""
    found = validated(run, store)
    hop, rate = run.recipe.hop, found.get("rate_bits_per_sample")
    given = found["bits_per_sample"] - (rate or 0.0)
    if "perplexity" in found:
        rate = math.log2(found["perplexity"]) / hop
    return {
        **({} if rate is None else {"rate_bits_per_sample": rate, "rate_bits_per_position": rate * hop}),
        "shuffled_gap": found["shuffled_codes_gap" if "perplexity" in found else "shuffled_latents_gap"],
        "bits_per_sample": found["bits_per_sample"],
        "bits_given_latents": given,
        "marginal_bits": found["marginal_bits"],
        "wrong_speaker_gap": found["wrong_speaker_gap"],
    }


def picture(records: Mapping[str, Record]) -> Figure:
    """Gap and rate against the decoder's layers, a line for each bottleneck."""
    figure = Figure(figsize=(9.0, 3.4), layout="constrained")
    for axes, (key, label) in zip(figure.subplots(1, len(PLOTTED)), PLOTTED.items(), strict=True):
        for name in BOTTLENECKS:
            every = {layers: records.get(f"{name} {layers} layers", {}).get("figures", {}) for layers in LAYERS}
            points = {layers: figures[key] for layers, figures in every.items() if key in figures}
            if points:
                axes.plot(list(points), list(points.values()), marker="o", label=name)
        axes.set_xlabel("layers of the decoder")
        axes.set_ylabel(label)
        axes.set_xticks(LAYERS)
        axes.grid(alpha=0.3)
    figure.axes[0].legend(fontsize="small")
    return figure


def summary(records: Mapping[str, Record]) -> Rows:
    """A row a bottleneck, a column a figure and decoder."""
    told = {
        "gap": shown("shuffled_gap", "+z.2f"),
        "rate": shown("rate_bits_per_position", ".2f"),
        "bits/sample": shown("bits_per_sample", ".2f"),
    }
    headings = [f"{name}, {layers}" for name in told for layers in LAYERS]
    rows = [["bottleneck", *headings]]
    for name in BOTTLENECKS:
        every = [records.get(f"{name} {layers} layers", {}).get("figures", {}) for layers in LAYERS]
        rows.append([name, *(column(figures) for column in told.values() for figures in every)])
    return rows


PLAN = Study("collapse", TABLES, COLUMNS, measure, summary, picture)

if __name__ == "__main__":
    study(PLAN, __doc__ or "")
