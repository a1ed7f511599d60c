"""What codes know of phonemes at four rates, on the embedded corpus: python benchmarks/phonemes.py rates (or input).

recipes/phonemes.yaml, raw waveform and 128 codes, with other strides at each rate; the paper has 49.3 % at 25 codes a
second (section 4.3), and 7.2 % by the most frequent of its 41 classes. input: log-mel in place of the waveform. Each
column is a share of held-out frames, but for speaker (clips whose voice the codes, or MFCC, give away) and ABX (error
of phones within and across speakers, by z_q). clusters: k-means of MFCC at the same rate, as many as there are codes,
in their place: a scale of what can be had without learning.
"""

from __future__ import annotations

import numpy as np
from cells import Cell, Figures, Study, by_cell, shown, study, validated
from rich.console import Console

from wavevq.data.store import Store
from wavevq.evaluate.abx import mfcc
from wavevq.evaluate.metrics import METRICS
from wavevq.evaluate.phonemes import measure, spoken
from wavevq.evaluate.subject import Subject
from wavevq.evaluation import subject_of
from wavevq.run import Run

RECIPE = "recipes/phonemes.yaml"


def raw(rate: int, strides: list[int]) -> Cell:
    """At ``rate`` codes a second: the strides multiply to 8000 / rate."""
    return Cell(f"{rate} Hz", (f"model.encoder.strides={strides}",), RECIPE)


def logmel(rate: int, strides: list[int]) -> Cell:
    """Frames of 32 ms every 10 ms, then convolutions down to the rate."""
    section = f"kind: logmel, frame_hop: 80, frame_window: 256, bands: 40, strides: {strides}, window: 4"
    encoder = f"{{{section}, channels: 128, residual_blocks: 2}}"
    return Cell(f"log-mel {rate} Hz", (f"model.encoder={encoder}",), RECIPE)


TABLES = {
    "rates": [raw(25, [4, 4, 2, 10]), raw(50, [4, 4, 10]), raw(125, [4, 4, 4]), raw(250, [2, 4, 4])],
    "input": [raw(25, [4, 4, 2, 10]), logmel(25, [2, 2]), raw(50, [4, 4, 10]), logmel(50, [2])],
}
COLUMNS = {
    "accuracy": "accuracy",
    "in context": "in_context",
    "without silence": "speech",
    "random codes": "random",
    "most frequent class": "majority",
    "silence": "silence",
    "clusters": "clusters",
    "speaker": "speaker",
    "speaker by MFCC": "speaker_mfcc",
    "chance": "speaker_chance",
    "ABX": "abx",
    "ABX across": "abx_across",
    "codes used": "codes_used",
    "bits/sample": "bits_per_sample",
}
# Column to the metric and the name of its figure.
FIGURES = {
    "accuracy": ("phonemes", "accuracy"),
    "in_context": ("phonemes", "accuracy in context"),
    "speech": ("phonemes", "accuracy without silence"),
    "random": ("phonemes", "random codes"),
    "majority": ("phonemes", "most frequent class"),
    "silence": ("phonemes", "silence"),
    "frames": ("phonemes", "frames"),
    "speaker": ("leakage", "speaker told by the codes"),
    "speaker_mfcc": ("leakage", "speaker told by MFCC"),
    "speaker_chance": ("leakage", "chance"),
    "abx": ("abx", "z_q, phones, within speakers"),
    "abx_across": ("abx", "z_q, phones, across speakers"),
    "abx_mfcc": ("abx", "MFCC, phones, within speakers"),
    "abx_mfcc_across": ("abx", "MFCC, phones, across speakers"),
}


def measured(run: Run, store: Store) -> Figures:
    subject = subject_of(run, run.recipe, Console(quiet=True))
    found = {
        (name, one.name): one.value
        for name in ("phonemes", "leakage", "abx")
        for one in METRICS[name].measure(subject).figures
    }
    figures = {key: value for key, place in FIGURES.items() if (value := found[place]) is not None}
    return {**validated(run, store), **figures, "clusters": clustered(subject)}


def clustered(subject: Subject) -> float:
    """The accuracy of clusters of MFCC, as many as there are codes, fitted without phones on the training clips."""
    from sklearn.cluster import MiniBatchKMeans

    store, hop_seconds = subject.store, subject.hop / subject.rate
    parts = (store.split("train"), subject.clips)
    training, held_out = ([mfcc(store.audio(clip), subject.rate, hop_seconds) for clip in clips] for clips in parts)
    model = MiniBatchKMeans(subject.size, random_state=subject.seed, n_init=3, batch_size=4096)
    model.fit(np.concatenate(training))
    said = [
        spoken(clips, [model.predict(one) for one in frames])
        for clips, frames in zip(parts, (training, held_out), strict=True)
    ]
    return measure(said[0], said[1], subject.size, hop_seconds, subject.seed).accuracy


README = {
    "one phone a code": shown("accuracy", ".1f", 100),
    "in context": shown("in_context", ".1f", 100),
    "random codes": shown("random", ".1f", 100),
    "most frequent": shown("majority", ".1f", 100),
    "clusters of MFCC": shown("clusters", ".1f", 100),
    "ABX": shown("abx", ".1f", 100),
    "codes used": shown("codes_used", ".0f"),
    "perplexity": shown("perplexity", ".0f"),
    "bits/sample": shown("bits_per_sample", ".2f"),
}
PLAN = Study("phonemes", TABLES, COLUMNS, measured, by_cell(README))

if __name__ == "__main__":
    study(PLAN, __doc__ or "")
