"""What a joint training of VQ-VAE and prior looks at while it trains."""

from __future__ import annotations

from wavevq.data.codes import Codes, labelled
from wavevq.data.corpora import Split
from wavevq.data.corpus import Corpus
from wavevq.evaluate.likelihood import encode_all
from wavevq.evaluate.rate import PriorValidator
from wavevq.evaluate.validation import Validator
from wavevq.joint import JointVqVae
from wavevq.progress import Say
from wavevq.recipe import Evaluation
from wavevq.train.log import Validation
from wavevq.vqvae import VqVae


class JointValidator:
    """Called by the training loop: the validations of both stages, on the codes of the moment.

    The last pass encodes the whole corpus, the others ``plan.clips`` of training and validation each.
    """

    def __init__(
        self, model: JointVqVae, corpus: Corpus, plan: Evaluation, steps: int, seed: int, say: Say = lambda words: None
    ) -> None:
        self.model, self.corpus, self.plan, self.steps, self.seed = model, corpus, plan, steps, seed
        self.signal = Validator(model, corpus, plan, steps, seed, say)

    def __call__(self, step: int) -> Validation:
        limit = None if step == self.steps else self.plan.clips
        signal = self.signal(step)
        training, held_out = (
            codes_of(self.model, self.corpus, split, self.plan.batch, limit) for split in ("train", "val")
        )
        prior = PriorValidator(self.model.prior, training, held_out, self.plan, self.seed, self.corpus)(step)
        # Both know a wrong speaker; how many clips and codes there are has been said.
        scalars = {key: value for key, value in prior.scalars.items() if key not in signal.scalars}
        if "wrong_speaker_gap" in prior.scalars:
            scalars["prior_wrong_speaker_gap"] = prior.scalars["wrong_speaker_gap"]
        return Validation(
            signal.scalars | scalars, signal.figures, signal.clips, signal.warnings + prior.warnings, signal.images
        )


def codes_of(model: VqVae, corpus: Corpus, split: Split, batch: int, limit: int | None = None) -> Codes:
    """The sequences of a split as the prior knows them, of ``limit`` clips at most; batch: clips encoded together."""
    found = encode_all(model, corpus.whole(split, batch, model.hop, limit))
    examples = corpus.split(split)
    rows = [found[place].cpu().numpy() for place in sorted(found)]
    return labelled(rows, [examples[place] for place in sorted(found)], corpus, model.size)
