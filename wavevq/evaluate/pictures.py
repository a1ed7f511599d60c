"""The metrics of runs of images, and what they are given."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq import pixels
from wavevq.data.codes import Codes
from wavevq.data.corpora import Split
from wavevq.data.corpus import Corpus, Example
from wavevq.data.image_store import ImageStore
from wavevq.evaluate import likelihood, rate
from wavevq.evaluate.codebook import usage, usage_figures
from wavevq.evaluate.likelihood import Likelihoods
from wavevq.evaluate.metric import Figure, Findings, NotMeasured, Plot, Sheet
from wavevq.evaluate.report import usage_figure
from wavevq.noise import uniform
from wavevq.pixels import Pixels
from wavevq.prior import Prior
from wavevq.progress import Say
from wavevq.recipe import Evaluation
from wavevq.vqvae import VqVae

LOOKED_AT = 10  # images in a row of the page
COMPARED = 2**23  # values of training images compared at once

# (codes [h, w, G] of each image, its class or None, what it is for) -> images [N, H, W, 3].
Show = Callable[[Sequence[NDArray[np.int64]], Sequence[str | None], str], Pixels]


@dataclass(frozen=True, eq=False)
class GridSubject:
    """What all that has grids of codes has, images and video.

    model: in evaluation mode, averaged weights. prior: of codes, or None. corpus: what the model encodes. plan: the
    options, ``plan.split`` says which examples are measured. seed: of everything that is drawn. encoded: the codes of a
    split, from the cache or made. say: tells the user what takes time now.
    """

    model: VqVae
    prior: Prior | None
    corpus: Corpus
    plan: Evaluation
    seed: int
    encoded: Callable[[Split], Codes]
    say: Say

    @property
    def seconds(self) -> float:
        """Of audio: none."""
        return 0.0

    @property
    def size(self) -> int:
        """K."""
        return self.model.size

    @property
    def clips(self) -> Sequence[Example]:
        """The images or clips that are measured: all of the split."""
        return self.corpus.split(self.plan.split)

    @property
    def judged(self) -> int:
        """How many of them are decoded."""
        return len(self.places)

    @cached_property
    def codes(self) -> Codes:
        """Of ``clips``, in their order."""
        return self.encoded(self.plan.split)

    @cached_property
    def found(self) -> Likelihoods:
        """Of ``clips``, given their codes."""
        plan = self.plan
        self.say(f"bits of {len(self.clips)} examples, with their own codes and others'")
        return likelihood.measure(
            self.model, self.corpus, plan.split, batch=plan.batch, limit=None, others=plan.speakers, seed=self.seed
        )

    @cached_property
    def rates(self) -> rate.Rates | None:
        """Of their codes; None without a prior."""
        if self.prior is None:
            return None
        plan = self.plan
        self.say(f"bits of the codes of {len(self.clips)} examples, by the prior")
        return rate.measure(
            self.prior, self.codes, self.counts, batch=plan.batch, others=plan.speakers, seed=self.seed
        )  # fmt: skip

    @cached_property
    def counts(self) -> torch.Tensor:
        """How often each code occurs in the training examples, int64 ``[K]``."""
        return rate.counts(self.encoded("train"), self.size)

    @cached_property
    def places(self) -> list[int]:
        """Places in ``clips`` of those that are decoded: ``plan.judged``, evenly spread."""
        return [int(i) for batch in self.corpus.whole(self.plan.split, 64, limit=self.plan.judged) for i in batch.index]


@dataclass(frozen=True, eq=False)
class ImageSubject(GridSubject):
    """below: where the model encodes another's codes, the same of that one; images are then shown and compared by both.

    show: what the decoder makes of codes. compose: new codes ``[N, h, w, G]`` from the prior, of an image of each class
    named.
    """

    show: Show
    compose: Callable[[Sequence[str | None]], NDArray[np.int64]]
    below: ImageSubject | None = None

    @property
    def pictures(self) -> ImageStore:
        """The images themselves."""
        if self.below is not None:
            return self.below.pictures
        assert isinstance(self.corpus, ImageStore), "codes are another model's"
        return self.corpus

    @property
    def labelled(self) -> bool:
        """Whether images depend on their class, given the codes."""
        return self.model.decoder.labelled or (self.below is not None and self.below.labelled)

    @cached_property
    def given(self) -> float:
        """Bits an image, mean, of its pixels and of all codes but this model's, given these: -log2 p(x, c_1 | c_2)."""
        own = self.found.distortion * self.found.samples / self.found.clips
        return own + (self.below.given if self.below is not None else 0.0)

    @property
    def levels(self) -> list[ImageSubject]:
        """From the one that sees pixels to this."""
        return [*(self.below.levels if self.below is not None else []), self]

    @cached_property
    def originals(self) -> Pixels:
        """The judged images, ``[N, H, W, 3]``."""
        return pixels.to_images(self.pictures.examples(self.plan.split, self.places).x)

    def shown(self, places: Sequence[int], what: str) -> Pixels:
        """What the decoder makes of the codes of ``clips``, each in the class of the judged image at its place."""
        names = [self.clips[i].label for i in self.places]
        return self.show([self.codes.sequences[i] for i in places], names, what)


# --- the metrics --------------------------------------------------------------------------------------------


def bits(subject: GridSubject) -> Findings:
    """The metric ``bits_per_dim``, of video ``video_bits``; of another model's codes ``bits_per_code``."""
    found, unit = subject.found, f"bits/{subject.model.decoder.unit}"
    codes = sum(one.size for one in subject.codes.sequences) / found.samples
    even = codes * math.log2(subject.size)
    # Codes that are drawn (VIMCO) cost less by the entropy of the drawing; those of a quantizer are certain.
    drawn = 0.0 if found.rate is None else even - found.rate
    less = f", less {drawn:.4g} of their drawing" if drawn else ""
    alike = rate.by_frequency(np.concatenate([one.ravel() for one in subject.codes.sequences]), subject.counts)
    alone = "" if found.shuffled_gap is not None else "no class has a second image"
    blind = "" if found.wrong_speaker_gap is not None else "the decoder does not look at classes"
    figures = [
        Figure("distortion", found.distortion, unit, "-log2 p(x | z_q(x))"),
        Figure("entropy of the values", found.marginal, unit, "without a model"),
        Figure("shuffled-codes gap", found.shuffled_gap, unit, alone),
        Figure("wrong-class gap", found.wrong_speaker_gap, unit, blind),
        Figure(
            "rate, uniform prior", even - drawn, unit, f"{codes:.4g} codes/{subject.model.decoder.unit} of log2 K{less}"
        ),
        Figure("total, uniform prior", found.distortion + even - drawn, unit),
        Figure("rate, codes by frequency", codes * alike - drawn, unit, "each code by itself"),
    ]
    if (rates := subject.rates) is not None:
        figures += [
            Figure("rate, learned prior", codes * rates.bits - drawn, unit, f"{rates.bits:.4g} bits/code{less}"),
            Figure("total, learned prior", found.distortion + codes * rates.bits - drawn, unit),
            Figure("prior's wrong-class gap", rates.wrong_label_gap, "bits/code"),
        ]
    each = "8-bit value of a colour" if subject.model.decoder.unit == "dim" else "code of the model below"
    return Findings(
        tuple(figures),
        f"Bits per {each}, of all {subject.corpus.items} of the split. Distortion + rate = total, an upper bound on "
        "-log2 p(x).",
    )


def through_levels(subject: ImageSubject) -> Findings:
    """The metric ``bits_per_dim`` of a model of another's codes: the bound on pixels, through each level of models."""
    dims = subject.levels[0].found.samples / subject.levels[0].found.clips
    figures = []
    for number, level in enumerate(subject.levels, 1):
        codes = level.codes.sequences[0].size
        through = f"through {number} level{'s' if number > 1 else ''}"
        even, note = codes * math.log2(level.size), f"{codes} codes of log2 {level.size} an image"
        figures.append(Figure(f"total {through}, uniform prior", (level.given + even) / dims, "bits/dim", note))
        if (rates := level.rates) is not None:
            learned, note = codes * rates.bits, f"{codes} codes of {rates.bits:.4g} bits an image"
            figures.append(Figure(f"total {through}, learned prior", (level.given + learned) / dims, "bits/dim", note))
    return Findings(
        tuple(figures),
        "Bits per 8-bit value of a colour, of all images of the split, through as many levels of models as are named: "
        "the rate of the uppermost's codes and the distortions of all, an upper bound on -log2 p(x).",
    )


def codebook(subject: ImageSubject) -> Findings:
    """The metric ``image_codebook``."""
    every = [torch.from_numpy(one) for one in subject.codes.sequences]
    used = usage(every, subject.size)
    first = subject.places[:LOOKED_AT]
    maps = np.stack([map_over(subject, i) for i in first])
    paper = pixels.sheet(np.concatenate([subject.originals[: len(first)], maps]), len(first))
    return Findings(
        tuple(usage_figures(used)),
        "All codes of the split.",
        (
            Plot(usage_figure(used.counts.numpy(), ""), "Use of the codebook"),
            Sheet(paper, "Images, and where their codes stand: one colour a code (of several a position, the first)"),
        ),
    )


def reconstruction(subject: ImageSubject) -> Findings:
    """The metric ``image_reconstruction``."""
    taken = likelihood.derangement([subject.clips[i].label for i in subject.places], subject.seed)
    own = subject.shown(subject.places, "from their own codes")
    donors = [subject.places[taken[place]] if place in taken else None for place in range(len(subject.places))]
    swapped = [place for place, donor in enumerate(donors) if donor is not None]
    figures = [Figure("PSNR", psnr(subject.originals, own), "dB", f"of the mean squared error of {len(own)} images")]
    if swapped:
        names = [subject.clips[subject.places[place]].label for place in swapped]
        codes = [subject.codes.sequences[donor] for donor in donors if donor is not None]
        other = subject.show(codes, names, "from the codes of others of their class")
        figures.append(
            Figure("PSNR, shuffled codes", psnr(subject.originals[swapped], other), "dB", "what the codes tell")
        )
    else:
        figures.append(Figure("PSNR, shuffled codes", None, "dB", "no class has a second image"))
    both = np.concatenate([subject.originals[:LOOKED_AT], own[:LOOKED_AT]])
    return Findings(tuple(figures), parts=(Sheet(pixels.sheet(both, len(both) // 2), "Images and reconstructions"),))


def samples(subject: ImageSubject) -> Findings:
    """The metric ``image_samples``: what the prior draws, and whether it is but what was trained on."""
    if subject.prior is None:
        raise NotMeasured("not measured: the run has no trained prior")
    labelled = bool(subject.prior.labels) or subject.labelled
    count, classes = len(subject.places), subject.corpus.labels
    names = [classes[i % len(classes)] if labelled else None for i in range(count)]
    subject.say(f"drawing the codes of {count} images")
    drawn = subject.show([*subject.compose(names)], names, "from the prior's codes")
    training = subject.corpus.split("train")
    subject.say(f"comparing them to {len(training)} training images")
    near, far = nearest(drawn, subject.pictures), nearest(subject.originals, subject.pictures)
    figures = (
        Figure(
            "nearest training image, median", float(np.median(near[1])), "values", "root mean square over all values"
        ),
        Figure("the same of the split's images", float(np.median(far[1])), "values", "which were not trained on"),
        Figure("nearest training image, least", float(near[1].min()), "values", "0 is a copy"),
        Figure("the same of the split's images, least", float(far[1].min()), "values"),
    )
    beside = pixels.to_images(subject.pictures.examples("train", near[0][:LOOKED_AT].tolist()).x)
    both = np.concatenate([drawn[:LOOKED_AT], beside])
    caption = "Drawn from the prior, and the training image that is nearest to each"
    return Findings(figures, parts=(Sheet(pixels.sheet(both, len(beside)), caption),))


# --- figures ------------------------------------------------------------------------------------------------


def psnr(images: Pixels, others: Pixels) -> float:
    """Peak signal-to-noise ratio in dB of 8-bit images, by their mean squared error, which is at least 1e-4."""
    error = np.square(images.astype(np.float64) - others.astype(np.float64)).mean()
    return 10 * math.log10((pixels.VALUES - 1) ** 2 / max(float(error), 1e-4))


def nearest(images: Pixels, corpus: ImageStore) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Of each image ``[N, H, W, 3]`` the place of the training image nearest to it, and their distance.

    The distance is the root of the mean squared difference of all values.
    """
    rows = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32))
    least = torch.full((len(images),), math.inf)
    place = torch.zeros(len(images), dtype=torch.int64)
    count, together = len(corpus.split("train")), max(1, COMPARED // rows.shape[1])
    for first in range(0, count, together):
        some = range(first, min(count, first + together))
        trained = pixels.values(corpus.examples("train", some).x).permute(0, 2, 3, 1).flatten(1).float()
        squares = torch.cdist(rows, trained, compute_mode="donot_use_mm_for_euclid_dist").square().min(1)
        closer = squares.values < least
        least = torch.where(closer, squares.values, least)
        place = torch.where(closer, squares.indices + first, place)
    return place.numpy(), (least / rows.shape[1]).sqrt().double().numpy()


def map_over(subject: ImageSubject, place: int) -> Pixels:
    """Where the codes of an image stand, as large as it."""
    codes = subject.codes.sequences[place]
    return code_map(codes, subject.size, subject.pictures.size // len(codes))


def code_map(codes: NDArray[np.int64], size: int, hop: int) -> Pixels:
    """Codes ``[h, w, G]`` as an image ``[h x hop, w x hop, 3]``, a colour of its own for each of K = ``size``."""
    colours = (uniform(0, range(size), 3).numpy() * pixels.VALUES).astype(np.uint8)
    return colours[codes[..., 0]].repeat(hop, 0).repeat(hop, 1)
