"""What the learned prior says of held-out codes, in bits a code."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.data.codes import Codes
from wavevq.data.corpus import Corpus
from wavevq.evaluate.likelihood import other_labels
from wavevq.nn.encoders import valid
from wavevq.prior import Prior
from wavevq.progress import Say
from wavevq.recipe import Evaluation
from wavevq.train.log import Validation
from wavevq.vqvae import along


@dataclass(frozen=True)
class Rates:
    """All in bits a code, of whole held-out sequences; the bits of a sequence's end are shared out over its codes.

    bits: under the prior and the true label. uniform: log2 K. unigram: ``by_frequency``, ends left out.
    wrong_label_gap: bits more under another label, mean over the others; None with one label. unlabelled: under no
    label, None where the prior was never shown that. wrong_actions_gap: of video, bits more under the actions of
    another clip; None of all else.
    """

    bits: float
    uniform: float
    unigram: float
    wrong_label_gap: float | None
    unlabelled: float | None
    wrong_actions_gap: float | None
    sequences: int
    codes: int


@torch.no_grad()
def measure(prior: Prior, held_out: Codes, counts: torch.Tensor, *, batch: int, others: int | None, seed: int) -> Rates:
    """Rates of held-out codes. counts: int64 ``[K]``, of the training codes. others: wrong labels tried."""
    device = next(prior.parameters()).device
    end = int(prior.ends)
    every = sorted(range(len(held_out.sequences)), key=lambda i: (len(held_out.sequences[i]), i))
    wrong = other_labels(prior.labels, others, seed)
    nats = {"own": 0.0, "wrong": 0.0, "none": 0.0, "other actions": 0.0}
    for start in range(0, len(every), batch):
        one = held_out.batch(every[start : start + batch]).to(device)
        mask = along(valid(one.lengths, one.x.shape[1]), one.x.shape)
        given = prior.given(one)
        nats["own"] += prior.nll(one.x, one.label, mask, given).double().sum().item()
        if given is not None:
            nats["other actions"] += prior.nll(one.x, one.label, mask, given.roll(1, 0)).double().sum().item()
        for offset in wrong:
            label = (one.label + offset) % prior.labels
            nats["wrong"] += prior.nll(one.x, label, mask, given).double().sum().item() / len(wrong)
        if prior.drop:
            nobody = torch.full_like(one.label, prior.nobody)
            nats["none"] += prior.nll(one.x, nobody, mask, given).double().sum().item()
    said = np.concatenate([one[: len(one) - end].ravel() for one in held_out.sequences])
    bits = {name: value / len(said) / math.log(2) for name, value in nats.items()}
    return Rates(
        bits=bits["own"],
        uniform=math.log2(prior.codes),
        unigram=by_frequency(said, counts),
        wrong_label_gap=bits["wrong"] - bits["own"] if wrong else None,
        unlabelled=bits["none"] if prior.drop else None,
        wrong_actions_gap=None if held_out.given is None else bits["other actions"] - bits["own"],
        sequences=len(held_out.sequences),
        codes=len(said),
    )


def by_frequency(codes: NDArray[np.int64], counts: torch.Tensor) -> float:
    """Cross-entropy in bits a code of codes ``[N]`` under the frequencies of training codes, ``counts`` int64 ``[K]``.

    One is added to each, so that a code that training never saw has a cost too.
    """
    share = (counts + 1).double() / (counts + 1).sum()
    return float(-share.log2()[torch.from_numpy(codes)].mean())


def counts(codes: Codes, size: int) -> torch.Tensor:
    """How often each of K = ``size`` codes occurs, int64 ``[K]``; ends are left out."""
    every = torch.from_numpy(np.concatenate([one.ravel() for one in codes.sequences]))
    return torch.bincount(every[every < size], minlength=size)


class PriorValidator:
    """Called by the training loop while a prior trains."""

    def __init__(
        self,
        prior: Prior,
        training: Codes,
        held_out: Codes,
        plan: Evaluation,
        seed: int,
        corpus: Corpus,
        say: Say = lambda words: None,
    ) -> None:
        self.prior, self.held_out, self.plan, self.seed, self.corpus = prior, held_out, plan, seed, corpus
        self.say = say
        self.counts = counts(training, prior.codes)

    def __call__(self, step: int) -> Validation:
        self.say(f"validating: the codes of {len(self.held_out.sequences)} {self.corpus.items}")
        found = measure(
            self.prior, self.held_out, self.counts, batch=64, others=self.plan.speakers, seed=self.seed
        )  # fmt: skip
        scalars = {"bits_per_code": found.bits, "uniform_bits": found.uniform, "unigram_bits": found.unigram}
        if found.wrong_label_gap is not None:
            scalars[f"wrong_{self.corpus.whose}_gap"] = found.wrong_label_gap
        if found.unlabelled is not None:
            scalars[f"bits_per_code_without_{self.corpus.whose}"] = found.unlabelled
        if found.wrong_actions_gap is not None:
            scalars["wrong_actions_gap"] = found.wrong_actions_gap
        scalars |= {self.corpus.items: found.sequences, "codes": found.codes}
        return Validation(scalars, warnings=tuple(warnings(found, self.corpus.whose)))


def warnings(found: Rates, whose: str = "speaker") -> list[str]:
    """What must be said aloud, labels being the names of a ``whose``."""
    said = []
    if found.bits >= found.unigram:
        said.append(
            f"the prior knows no more than how often each code occurs: {found.bits:.3f} bits/code, "
            f"by frequency alone {found.unigram:.3f}"
        )
    if found.wrong_label_gap is not None and found.wrong_label_gap <= 0:
        said.append(f"the prior ignores the {whose}: any other serves as well ({found.wrong_label_gap:+.3f} bits/code)")
    if found.wrong_actions_gap is not None and found.wrong_actions_gap <= 0:
        said.append(
            f"the prior ignores the actions: those of another clip serve as well "
            f"({found.wrong_actions_gap:+.3f} bits/code)"
        )
    return said
