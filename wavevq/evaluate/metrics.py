"""The metrics of ``wavevq evaluate``, in the order of the report: a new one is a line here."""

from __future__ import annotations

from wavevq.evaluate import (
    abx,
    codebook,
    content,
    evidence,
    films,
    leakage,
    phonemes,
    pictures,
    reconstruction,
    samples,
    speaker,
)
from wavevq.evaluate.metric import Metric

METRICS: dict[str, Metric] = {
    "codebook": Metric("Codebook", codebook.metric),
    "likelihood": Metric("Likelihood", evidence.metric),
    "reconstruction": Metric("Reconstruction", reconstruction.metric),
    "stoi": Metric("STOI", reconstruction.stoi_metric, ("pystoi",)),
    "content": Metric("Content", content.metric),
    "transcripts": Metric("Transcripts", content.transcript_metric),
    "speaker": Metric("Speaker", speaker.metric),
    "speaker_encoder": Metric("Speaker encoder", speaker.encoder_metric, ("resemblyzer",)),
    "leakage": Metric("Leakage", leakage.metric),
    "phonemes": Metric("Phonemes", phonemes.metric),
    "abx": Metric("ABX", abx.metric),
    "samples": Metric("Samples of the prior", samples.metric),
}

# Of images; other names, for a figure is known by its metric's and its own.
IMAGE_METRICS: dict[str, Metric] = {
    "bits_per_dim": Metric("Bits/dim", pictures.bits),
    "image_codebook": Metric("Codebook", pictures.codebook),
    "image_reconstruction": Metric("Reconstruction", pictures.reconstruction),
    "image_samples": Metric("Samples of the prior", pictures.samples),
}

# Of the codes of images: in bits of each of these codes, and in bits of their pixels.
CODED_METRICS: dict[str, Metric] = {
    "bits_per_code": Metric("Bits/code", pictures.bits),
    **IMAGE_METRICS,
    "bits_per_dim": Metric("Bits/dim through all levels", pictures.through_levels),
}

VIDEO_METRICS: dict[str, Metric] = {
    "video_bits": Metric("Bits/dim", pictures.bits),
    "video_future": Metric("Frames to come", films.future),
    "video_motion": Metric("Motion of what is drawn", films.motion),
}
