"""How a codebook is used: how evenly, for how long at a time, and by whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavevq.evaluate.metric import Figure, Findings, Plot, Table
from wavevq.evaluate.report import usage_figure

if TYPE_CHECKING:
    from wavevq.evaluate.subject import Subject

SHUFFLES = 20  # of the speakers among the clips, for what the mutual information is where there is none


@dataclass(frozen=True)
class Usage:
    """counts: int64 ``[K]``, how often each code occurs."""

    counts: Tensor

    @property
    def used(self) -> int:
        """Codes that occur at all."""
        return int((self.counts > 0).sum())

    @property
    def perplexity(self) -> float:
        """exp of the entropy of the codes' frequencies: the number of codes in even use, 1 to K (0 of no codes)."""
        return 2 ** entropy_bits(self.counts) if self.counts.sum() else 0.0

    @property
    def share(self) -> float:
        """Perplexity / K."""
        return self.perplexity / len(self.counts)


def usage(codes: list[Tensor], size: int) -> Usage:
    """Usage of a codebook of ``size`` codes over clips' codes, each int64 of any shape."""
    counts = torch.zeros(size, dtype=torch.int64)
    for one in codes:
        counts += torch.bincount(one.flatten().cpu(), minlength=size)
    return Usage(counts)


def usage_figures(used: Usage) -> list[Figure]:
    """What the metrics of codebooks tell first, of speech and of images."""
    size = len(used.counts)
    return [
        Figure("codes", float(used.counts.sum()), "codes"),
        Figure("used", used.used, "codes", f"of K = {size}"),
        Figure("dead", size - used.used, "codes", "never used in this split"),
        Figure("perplexity", used.perplexity, "codes"),
        Figure("perplexity / K", used.share, "share"),
        Figure("entropy", entropy_bits(used.counts), "bits/code", f"log2 K is {np.log2(size):.3f}"),
    ]


def entropy_bits(counts: Tensor) -> float:
    """Entropy in bits of the frequencies behind ``counts`` ``[N]``."""
    share = counts.double() / counts.sum()
    return float(-(share[share > 0] * share[share > 0].log2()).sum())


def run_lengths(codes: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """How many codes in a row are the same, int64 ``[runs]``: no run goes over the end of its clip ``[F]``."""
    every = [np.zeros(0, np.int64)]
    for one in codes:
        if len(one):
            starts = np.flatnonzero(np.concatenate([[True], one[1:] != one[:-1]]))
            every.append(np.diff(np.append(starts, len(one))))
    return np.concatenate(every)


def chance_run(counts: Tensor, clips: int) -> float:
    """Mean run of codes drawn independently by their ``counts`` ``[K]``, in so many clips, at whose ends runs end."""
    total = counts.sum().item()
    share = counts.double() / total
    return float(total / (clips + (total - clips) * (1 - (share**2).sum())))


def mutual_bits(joint: NDArray[np.integer[Any]]) -> float:
    """Mutual information in bits of the counts ``[A, B]`` of two variables, from their frequencies as they are.

    Frequencies of few draws know more than there is: hold it against that of a shuffled variable.
    """
    table = torch.from_numpy(np.asarray(joint, np.int64))
    return entropy_bits(table.sum(0)) + entropy_bits(table.sum(1)) - entropy_bits(table.flatten())


def by_speaker(codes: Sequence[NDArray[np.int64]], labels: Sequence[int], speakers: int, size: int) -> Tensor:
    """Counts int64 ``[speakers, K]`` of the clips' codes ``[F]``."""
    counts = torch.zeros(speakers, size, dtype=torch.int64)
    for one, label in zip(codes, labels, strict=True):
        counts[label] += torch.bincount(torch.from_numpy(one), minlength=size)
    return counts


def metric(subject: Subject) -> Findings:
    """The metric ``codebook`` of ``wavevq evaluate``."""
    codes, labels = subject.codes, subject.sequences.labels
    counts = by_speaker(codes, labels, len(subject.speakers), subject.size)
    used = Usage(counts.sum(0))
    lengths = run_lengths(codes)
    dice = np.random.default_rng(subject.seed)
    shuffled = [
        mutual_bits(by_speaker(codes, dice.permutation(labels).tolist(), *counts.shape).numpy())
        for _ in range(SHUFFLES)
    ]
    figures = [
        *usage_figures(used),
        Figure("mean run", float(lengths.mean()), "codes", "the same code in a row"),
        Figure("mean run by chance", chance_run(used.counts, len(codes)), "codes", "were codes independent"),
        Figure("longest run", float(lengths.max()), "codes"),
        Figure("mutual information of code and speaker", mutual_bits(counts.numpy()), "bits/code"),
        Figure(
            "the same, speakers shuffled among clips",
            float(np.mean(shuffled)),
            "bits/code",
            f"what counting alone gives, mean of {SHUFFLES}",
        ),
        Figure("entropy of the speaker", entropy_bits(counts.sum(1)), "bits", "the most that a code could tell"),
    ]
    each = [(name, Usage(row)) for name, row in zip(subject.speakers, counts, strict=True)]
    rows = tuple(
        (name, int(own.counts.sum()), own.used, f"{own.perplexity:.1f}", f"{own.share:.3f}")
        for name, own in each
        if own.counts.sum()
    )
    return Findings(
        tuple(figures),
        "All codes of the split. The mutual information is that of one code and the speaker, so that it sees nothing "
        "that only several codes together tell; 0 is a code that says nothing of the speaker.",
        (
            Table("Each speaker's use", ("speaker", "codes", "used", "perplexity", "perplexity / K"), rows),
            Plot(usage_figure(used.counts.numpy(), ""), "Use of the codebook"),
        ),
    )
