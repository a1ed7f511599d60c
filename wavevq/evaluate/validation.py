"""What a training run looks at while it trains, with the averaged weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wavevq.data.corpus import Corpus
from wavevq.evaluate import likelihood
from wavevq.evaluate.report import usage_figure
from wavevq.evaluate.shown import SHOWN
from wavevq.progress import Say
from wavevq.recipe import Evaluation
from wavevq.train.log import Validation
from wavevq.vqvae import VqVae

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLLAPSED = 0.05  # perplexity / K below which a codebook has collapsed


class Validator:
    """Called by the training loop: held-out likelihoods and the alarms, curves' pictures, clips and images.

    The last pass takes all validation examples, the others ``plan.clips`` of them; ``say`` is told how many, first.
    """

    def __init__(
        self, model: VqVae, corpus: Corpus, plan: Evaluation, steps: int, seed: int, say: Say = lambda words: None
    ) -> None:
        self.model, self.corpus, self.plan, self.steps, self.seed, self.say = model, corpus, plan, steps, seed, say

    def __call__(self, step: int) -> Validation:
        limit = None if step == self.steps else self.plan.clips
        there = len(self.corpus.split("val"))
        self.say(f"validating: {there if limit is None else min(limit, there)} {self.corpus.items}")
        found = likelihood.measure(
            self.model,
            self.corpus,
            "val",
            batch=self.plan.batch,
            limit=limit,
            others=self.plan.speakers,
            seed=self.seed,
        )
        unit, whose = self.model.decoder.unit, self.corpus.whose
        scalars: dict[str, float] = {f"bits_per_{unit}": found.bits, "marginal_bits": found.marginal}
        if found.rate is not None:
            scalars[f"rate_bits_per_{unit}"] = found.rate
        if found.shuffled_gap is not None:
            scalars[f"shuffled_{transmitted(found)}_gap"] = found.shuffled_gap
        if found.wrong_speaker_gap is not None:
            scalars[f"wrong_{whose}_gap"] = found.wrong_speaker_gap
        figures: dict[str, Figure] = {}
        if found.usage is not None:
            scalars |= {
                "codes_used": found.usage.used,
                "codes": len(found.usage.counts),
                "perplexity": found.usage.perplexity,
                "perplexity_share": found.usage.share,
            }
            figures["codebook usage"] = usage_figure(found.usage.counts.numpy(), f"codebook usage at step {step}")
        scalars[self.corpus.items] = found.clips
        shown = SHOWN[unit](self.model, self.corpus, self.plan, self.seed)
        said = tuple(warnings(found, unit, whose))
        return Validation(scalars, figures | shown.figures, shown.clips, said, shown.images)


def transmitted(found: likelihood.Likelihoods) -> str:
    """What the decoder is given: codes, or the latents of a model that has none."""
    return "latents" if found.usage is None else "codes"


def warnings(found: likelihood.Likelihoods, unit: str = "sample", whose: str = "speaker") -> list[str]:
    """What must be said aloud; in bits a ``unit``, labels being the names of a ``whose``."""
    said = []
    use = found.usage
    if use is not None and (use.share < COLLAPSED or use.used == 1):  # one code of a small codebook is a large share
        size = len(use.counts)
        said.append(f"the codebook has collapsed: {use.used} of {size} codes, perplexity {use.perplexity:.1f}")
    if found.shuffled_gap is not None and found.shuffled_gap <= 0:
        other = "another clip's" if unit == "sample" else "another image's"
        said.append(
            f"the decoder ignores its {transmitted(found)}: {other} serve as well "
            f"({found.shuffled_gap:+.3f} bits/{unit})"
        )
    if found.wrong_speaker_gap is not None and found.wrong_speaker_gap <= 0:
        said.append(
            f"the decoder ignores the {whose}: any other serves as well ({found.wrong_speaker_gap:+.3f} bits/{unit})"
        )
    return said
