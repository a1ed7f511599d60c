"""The metrics of ``wavevq evaluate``, in the order of the report: a new one is a line here."""

from __future__ import annotations

from wavevq.evaluate import abx, codebook, content, evidence, leakage, phonemes, reconstruction, samples, speaker
from wavevq.evaluate.metric import Metric

METRICS: dict[str, Metric] = {
    "codebook": Metric(codebook.metric),
    "likelihood": Metric(evidence.metric),
    "reconstruction": Metric(reconstruction.metric),
    "stoi": Metric(reconstruction.stoi_metric, ("pystoi",)),
    "content": Metric(content.metric),
    "transcripts": Metric(content.transcript_metric),
    "speaker": Metric(speaker.metric),
    "speaker_encoder": Metric(speaker.encoder_metric, ("resemblyzer",)),
    "leakage": Metric(leakage.metric),
    "phonemes": Metric(phonemes.metric),
    "abx": Metric(abx.metric),
    "samples": Metric(samples.metric),
}
