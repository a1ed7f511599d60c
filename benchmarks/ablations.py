"""What each choice is worth, on the embedded corpus: python benchmarks/ablations.py beta (or another table).

Every cell is recipes/demo.yaml with fewer steps and one thing changed. beta: weight of the commitment loss beside the
paper's codebook loss; the paper saw no difference from 0.1 to 2.0 (section 3.2). codebook: that loss against moving
averages. revival: with dead codes moved and without. jitter: chance that a latent is replaced by its neighbour's.
input: raw waveform, log-mel or MFCC, each at 125 codes a second. latents: the encoder's matrices by Muon instead of
Adam, each latent vector normalised by itself instead of each dimension by past steps, and both. beta_muon: beta again,
with both.
"""

from __future__ import annotations

from cells import Cell, Study, by_cell, shown, study

STEPS = "train.steps=600"


def cell(name: str, *overrides: str) -> Cell:
    return Cell(name, (STEPS, *overrides))


MUON = "train.optimizer=muon"
LAYER = "model.encoder.norm=layer", "model.bottleneck.dim=8"  # a vector of D has D - 2 dimensions left


def codebook_loss(name: str, *more: str, beta: float = 0.25, revive_after: int = 100) -> Cell:
    """With the paper's quantizer; otherwise as in the recipe, but for what ``more`` overrides."""
    section = f"{{kind: vq, codes: 128, dim: 64, beta: {beta}, revive_after: {revive_after}}}"
    return cell(name, f"model.bottleneck={section}", *more)


def spectral(kind: str, bands: int) -> Cell:
    """Frames of 32 ms instead of the waveform; as many residual blocks and channels."""
    section = f"kind: {kind}, frame_hop: 64, frame_window: 256, bands: {bands}, channels: 128, residual_blocks: 2"
    return cell(kind, f"model.encoder={{{section}}}")


RECIPE = cell("ema")
GRADIENT = codebook_loss("vq")
TABLES = {
    "beta": [
        codebook_loss("vq beta 0.1", beta=0.1),
        GRADIENT,  # 0.25
        *(codebook_loss(f"vq beta {beta}", beta=beta) for beta in (0.5, 1.0, 2.0)),
    ],
    "beta_muon": [
        codebook_loss(f"vq beta {beta}, muon, layer norm, D 8", MUON, *LAYER, beta=beta)
        for beta in (0.1, 0.25, 0.5, 1.0, 2.0)
    ],
    "codebook": [GRADIENT, RECIPE],
    "revival": [
        RECIPE,
        cell("ema without revival", "model.bottleneck.revive_after=0"),
        GRADIENT,
        codebook_loss("vq without revival", revive_after=0),
    ],
    "jitter": [RECIPE, *(cell(f"jitter {chance}", f"model.jitter={chance}") for chance in (0.06, 0.12))],
    "latents": [
        RECIPE,
        cell("muon", MUON),
        cell("layer norm, D 8", *LAYER),
        cell("muon, layer norm, D 8", MUON, *LAYER),
    ],
    "input": [RECIPE, spectral("logmel", 40), spectral("mfcc", 13)],
}
COLUMNS = {
    "bits/sample": "bits_per_sample",
    "without a model, bits/sample": "marginal_bits",
    "shuffled-codes gap, bits/sample": "shuffled_codes_gap",
    "wrong-speaker gap, bits/sample": "wrong_speaker_gap",
    "codes used": "codes_used",
    "perplexity": "perplexity",
}

README = {
    "bits/sample": shown("bits_per_sample", ".3f"),
    "shuffled-codes gap": shown("shuffled_codes_gap", "+z.2f"),
    "wrong-speaker gap": shown("wrong_speaker_gap", "+z.2f"),
    "codes used": shown("codes_used", ".0f"),
    "perplexity": shown("perplexity", ".0f"),
}
PLAN = Study("ablations", TABLES, COLUMNS, summary=by_cell(README))

if __name__ == "__main__":
    study(PLAN, __doc__ or "")
