"""The metrics of ``wavevq evaluate``, in the order of the report: a new one is a line here."""

from __future__ import annotations

from wavevq.evaluate import abx, codebook, evidence, leakage, phonemes, samples
from wavevq.evaluate.metric import Metric

METRICS: dict[str, Metric] = {
    "codebook": Metric(codebook.metric),
    "likelihood": Metric(evidence.metric),
    "leakage": Metric(leakage.metric),
    "phonemes": Metric(phonemes.metric),
    "abx": Metric(abx.metric),
    "samples": Metric(samples.metric),
}
