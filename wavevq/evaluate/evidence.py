"""log p(x) of held-out signals under a VQ-VAE and the prior of its codes: the metric ``likelihood``.

    log p(x) >= log p(x | z_q(x)) + log p(z_q(x))

(Van den Oord et al. 2017, sections 3.2 and 3.3.) p(x) is a sum over every sequence of codes z of p(x | z) p(z). The
right side is one term of it, that of the encoder's own codes, so it is a lower bound on log p(x), and what is printed,
its negative, an upper bound on the true bits: of every figure here that is not called a sum, the truth is at most so
large. It is the bound of a variational autoencoder whose posterior is deterministic, all of it on z_q(x). The paper
takes it for nearly an equality (section 3.2): a decoder that is trained with the encoder's codes should end up with no
probability mass on p(x | z) for any other z. Here that is measured: ``enumerate_signal`` sums over every z for signals
so short that one can, and gives the best single term too, the true MAP, which need not be the encoder's.

All bits are of the mu-law classes of the signal as the model hears it: resampled, trimmed where the recipe trims,
levelled to one RMS. They are not bits of the 16-bit recording, and compare only with numbers of the same classes and
level. Speaker labels are given, not paid for. Distortion, -log2 p(x | z_q(x)), and rate, -log2 p(z_q(x)), add up to the
bits of the signal. With the uniform prior a code costs log2 K; with the learned one what the prior says, the end of
each clip included. A lossless coder would reach the learned rate to within some bits a file.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wavevq.evaluate import likelihood, rate
from wavevq.evaluate.metric import Figure, Findings, Table
from wavevq.prior import Prior
from wavevq.vqvae import VqVae

if TYPE_CHECKING:
    from wavevq.evaluate.subject import Subject

SAMPLES_AT_ONCE = 2**13  # of all sequences together, in one pass; on CPU more are no faster
NO_PRIOR = "the run has no prior"


@dataclass(frozen=True)
class Enumerated:
    """-log2 of what may stand for p(x), in bits of the whole signal.

    own: the term of the encoder's codes. best: the largest term. summed: the sum of all, p(x) itself; summed <= best
    <= own. found: whether the encoder's codes are the best ones.
    """

    own: float
    best: float
    summed: float
    found: bool

    @property
    def gap(self) -> float:
        """Bits that the encoder's term is larger than the sum's: -log2 of the encoder's codes' posterior."""
        return self.own - self.summed


def enumerated(prior: Tensor, distortion: Tensor, own: int) -> Enumerated:
    """From -log2 p(z) and -log2 p(x | z), bits ``[N]`` of every sequence; the encoder's is number ``own``."""
    bits = prior.double() + distortion.double()
    best = int(bits.argmin())
    summed = -torch.logsumexp(-bits * math.log(2), 0).item() / math.log(2)
    return Enumerated(bits[own].item(), bits[best].item(), summed, best == own)


def sequences(size: int, frames: int) -> Tensor:
    """Every sequence of ``frames`` codes of K = ``size``: int64 ``[K^F, F]``, each at its number to base K."""
    numbers = torch.arange(size**frames)
    return torch.stack([numbers // size**place % size for place in reversed(range(frames))], 1)


def longest(size: int, budget: int) -> int:
    """The largest F for which K^F <= ``budget``: 0 where there are more codes than that."""
    frames = 0
    while size ** (frames + 1) <= budget:
        frames += 1
    return frames


@torch.no_grad()
def distortions(model: VqVae, x: Tensor, label: int, codes: Tensor) -> Tensor:
    """-log2 p(x | z, label), bits float64 ``[N]``, of one signal ``[T]`` in [-1, 1] and many z, int64 ``[N, F]``.

    T = F x hop. On the model's device, teacher-forced, SAMPLES_AT_ONCE at a time.
    """
    device = next(model.parameters()).device
    found = []
    for some in torch.split(codes.to(device), max(1, SAMPLES_AT_ONCE // len(x))):
        signal = x.to(device).expand(len(some), 1, -1)
        mask = torch.ones(len(some), len(x), dtype=torch.bool, device=device)
        labels = torch.full((len(some),), label, device=device)
        found.append(model.decoder.nll(signal, model.bottleneck.lookup(some), labels, mask).double())
    return torch.cat(found).cpu() / math.log(2)


@torch.no_grad()
def prior_bits(prior: Prior | None, size: int, label: int, codes: Tensor) -> Tensor:
    """-log2 p(z | label), bits float64 ``[N]``, of z int64 ``[N, F]``; None: the uniform prior over K = ``size`` codes.

    Of the beginning of a clip: that it ends after these codes is not among what is paid for.
    """
    if prior is None:
        return torch.full((len(codes),), codes.shape[1] * math.log2(size), dtype=torch.float64)
    device = next(prior.parameters()).device
    found = []
    for some in torch.split(codes.to(device), max(1, SAMPLES_AT_ONCE // codes.shape[1])):
        labels = torch.full((len(some),), label, device=device)
        found.append(prior.nll(some, labels, torch.ones_like(some, dtype=torch.bool)).double())
    return torch.cat(found).cpu() / math.log(2)


@torch.no_grad()
def enumerate_signal(model: VqVae, priors: Sequence[Prior | None], x: Tensor, label: int) -> list[Enumerated]:
    """Of a signal ``[T]`` in [-1, 1] of whole hops, with each of ``priors`` (None: uniform), over all K^(T / hop) z."""
    device = next(model.parameters()).device
    size, frames = model.size, len(x) // model.hop
    found = model.encode(x[None, None].to(device), torch.tensor([len(x)], device=device)).codes
    assert found is not None
    own = 0
    for code in found[0].tolist():
        own = own * size + code
    every = sequences(size, frames)
    distortion = distortions(model, x, label, every)
    return [enumerated(prior_bits(prior, size, label, every), distortion, own) for prior in priors]


# --- the metric ---------------------------------------------------------------------------------------------


def metric(subject: Subject) -> Findings:
    """The metric ``likelihood`` of ``wavevq evaluate``."""
    plan = subject.plan
    subject.say("bits of whole clips, teacher-forced, with their own codes and others")
    found = likelihood.measure(
        subject.model,
        subject.store,
        plan.split,
        batch=plan.batch,
        limit=None,
        others=plan.speakers,
        seed=subject.seed,
    )
    counts = rate.counts(subject.training_sequences, subject.size)
    rates = None
    if subject.prior is not None:
        rates = rate.measure(
            subject.prior, subject.sequences, counts, batch=64, others=plan.speakers, seed=subject.seed
        )
    summed, table = _summed(subject)
    return Findings(
        (*_distortion(found), *_rate(subject, rates, found, counts), *summed),
        "Bits of the mu-law classes of the levelled signal, given the speaker. Distortion + rate = total, an upper "
        "bound on -log2 p(x): it is the one term of p(x) = sum over z of p(x | z) p(z) that belongs to the encoder's "
        "codes. The sum is taken over all codes where that can be done: of the first codes of some clips, taken as "
        "signals of their own. The gap is what the single term misses.",
        table,
    )


def _distortion(found: likelihood.Likelihoods) -> list[Figure]:
    alone = "" if found.shuffled_gap is not None else "no speaker has a second clip"
    single = "" if found.wrong_speaker_gap is not None else "the model has one speaker"
    return [
        Figure("distortion", found.distortion, "bits/sample", "-log2 p(x | z_q(x))"),
        Figure("entropy of the classes", found.marginal, "bits/sample", "without a model"),
        Figure("shuffled-codes gap", found.shuffled_gap, "bits/sample", alone),
        Figure("wrong-speaker gap", found.wrong_speaker_gap, "bits/sample", single),
    ]


def _rate(subject: Subject, rates: rate.Rates | None, found: likelihood.Likelihoods, counts: Tensor) -> list[Figure]:
    """Of the uniform prior and of the learned one."""
    codes = sum(map(len, subject.codes))
    each, a_second = codes / found.samples, codes / (found.samples / subject.rate)
    uniform = math.log2(subject.size)
    ends = "each clip's end included" if subject.prior is not None and subject.prior.ends else ""
    learned = rates.bits if rates else None
    note = ends if rates else NO_PRIOR

    def times(factor: float, value: float | None, more: float = 0.0) -> float | None:
        return None if value is None else factor * value + more

    return [
        Figure("rate, uniform prior", each * uniform, "bits/sample", "log2 K a code"),
        Figure("rate, learned prior", times(each, learned), "bits/sample", note),
        Figure("total, uniform prior", found.distortion + each * uniform, "bits/sample"),
        Figure("total, learned prior", times(each, learned, found.distortion), "bits/sample", note),
        Figure("a code, uniform prior", uniform, "bits/code", f"log2 {subject.size}"),
        Figure("a code, by frequency", rate.by_frequency(np.concatenate(subject.codes), counts), "bits/code"),
        Figure("a code, learned prior", learned, "bits/code", note),
        Figure("learned / uniform", times(1 / uniform, learned), "share", note),
        Figure(
            "a code, learned prior, without the speaker",
            rates.unlabelled if rates else None,
            "bits/code",
            NO_PRIOR if rates is None else ends if rates.unlabelled is not None else "never trained so",
        ),
        Figure(
            "wrong-speaker gap of the prior",
            rates.wrong_label_gap if rates else None,
            "bits/code",
            NO_PRIOR if rates is None else "" if rates.wrong_label_gap is not None else "knows no speakers",
        ),
        Figure("bit rate, uniform prior", a_second * uniform, "bit/s"),
        Figure(
            "bit rate, learned prior", times(a_second, learned), "bit/s", note or "what a lossless coder would reach"
        ),
    ]


def _summed(subject: Subject) -> tuple[list[Figure], tuple[Table, ...]]:
    """The encoder's term, the best one and the full sum, of the beginnings of some clips of each speaker."""
    frames = longest(subject.size, subject.plan.enumerated)
    if not frames:
        why = f"evaluation.enumerated allows {subject.plan.enumerated:,}, and one code has {subject.size:,}"
        return [Figure("enumerated sequences", None, "sequences", why)], ()
    length = frames * subject.hop
    chosen = _beginnings(subject, length)
    priors = {"uniform": None, **({"learned": subject.prior} if subject.prior is not None else {})}
    subject.say(
        f"every one of {subject.size**frames:,} sequences of {frames} codes, for {len(chosen)} beginnings of clips"
    )
    signals = [torch.from_numpy(subject.store.audio(subject.clips[place], 0, length)) for place in chosen]
    labels = [subject.sequences.labels[place] for place in chosen]
    every = [
        enumerate_signal(subject.model, list(priors.values()), x, label)
        for x, label in zip(signals, labels, strict=True)
    ]
    figures = [
        Figure("enumerated signals", len(chosen), "signals", f"the first {frames} codes, {length} samples, of clips"),
        Figure("enumerated sequences", subject.size**frames, "sequences"),
    ]
    for i, name in enumerate(priors):
        own = [one[i] for one in every]
        if own:
            figures += _gaps(own, name, length)
    rows = tuple(
        (
            subject.clips[place].name,
            name,
            *(f"{value / length:.4f}" for value in (one.own, one.best, one.summed)),
            f"{one.gap:.2f}",
            "yes" if one.found else "no",
        )
        for place, some in zip(chosen, every, strict=True)
        for name, one in zip(priors, some, strict=True)
    )
    headers = ("clip", "prior", "encoder's codes", "best codes", "sum", "gap, bits", "encoder's are the best")
    return figures, (Table(f"The first {frames} codes of clips: bits/sample, and the gap in bits", headers, rows),)


def _gaps(own: Sequence[Enumerated], name: str, length: int) -> list[Figure]:
    gaps = np.array([one.gap for one in own])
    return [
        Figure(f"encoder's term, {name} prior", float(np.mean([one.own for one in own])) / length, "bits/sample"),
        Figure(f"best term, {name} prior", float(np.mean([one.best for one in own])) / length, "bits/sample"),
        Figure(
            f"sum over all codes, {name} prior", float(np.mean([one.summed for one in own])) / length, "bits/sample"
        ),
        Figure(f"gap, {name} prior, mean", float(gaps.mean()), "bits", "the encoder's term - the sum"),
        Figure(f"gap, {name} prior, largest", float(gaps.max()), "bits"),
        Figure(f"gap, {name} prior, a sample", float(gaps.mean()) / length, "bits/sample"),
        Figure(
            f"posterior of the encoder's codes, {name} prior",
            float(np.mean(2.0**-gaps)),
            "share",
            "mean; the paper has 1",
        ),
        Figure(
            f"encoder's codes are the best, {name} prior",
            float(np.mean([one.found for one in own])),
            "share of signals",
        ),
    ]


def _beginnings(subject: Subject, length: int) -> list[int]:
    """Places of ``plan.enumerated_clips`` clips of each speaker, spread evenly over those of ``length`` and more."""
    chosen = []
    for speaker in subject.speakers:
        own = [i for i, clip in enumerate(subject.clips) if clip.speaker == speaker and clip.length >= length]
        count = min(subject.plan.enumerated_clips, len(own))
        chosen += [own[(2 * i + 1) * len(own) // (2 * count)] for i in range(count)]
    return chosen
