"""What Van den Oord et al. 2017 report, number by number, and which figure of ours each stands beside.

The paper's values are copied from its text; ours are named only: where they stand in an ``evaluation.json`` or in a
study's results, and how they are worded. ``scoreboard`` reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Place = tuple[str, str]  # a metric and its figure; of a study a cell and its key; RUN and a fact of the run
RUN = "run"  # of an evaluation: "codes", "codes a second", "hop", "speakers"


@dataclass(frozen=True)
class Source:
    """Where a value of ours may stand, all of it in one file.

    places: of the values that ``say`` takes, in its order. study: the name of its results, None for an evaluation.
    fits: facts of the run that must be so, such as the paper's number of codes.
    """

    places: tuple[Place, ...]
    say: Callable[..., str]
    study: str | None = None
    fits: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Claim:
    """section, experiment, value: the paper's; "by ear" where it lets one listen and has no number.

    needs: what a value of ours takes. sources: the first that has one counts.
    """

    section: str
    experiment: str
    value: str
    needs: str
    sources: tuple[Source, ...] = ()


def percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def bits(value: float) -> str:
    return f"{value:.3f} bits/sample"


def spread(*values: float) -> str:
    return f"{min(values):.3f} to {max(values):.3f} bits/sample, {max(values) - min(values):.3f} apart"


def heard(version: str) -> tuple[Source, ...]:
    """Words that a probe recognises where the corpus has a closed vocabulary, else frames whose phone it does."""

    def say(unit: str) -> Callable[..., str]:
        return lambda own, original, shuffled, chance: (
            f"{unit} recognised {percent(own)} (original {percent(original)}, shuffled codes {percent(shuffled)}, "
            f"chance {percent(chance)})"
        )

    versions = (version, "original", "shuffled codes", "chance")
    return tuple(
        Source(tuple(("content", f"{unit}, {one}") for one in versions), say(unit)) for unit in ("words", "phones")
    )


def unlikely(prior: str) -> Source:
    """What the single term of the encoder's codes misses of log p(x), of signals so short that all can be summed."""
    names = (f"gap, {prior} prior, a sample", f"posterior of the encoder's codes, {prior} prior")
    return Source(
        tuple(("likelihood", name) for name in names),
        lambda gap, posterior: f"{gap:.4f} bits/sample apart; posterior of the encoder's codes {posterior:.3f}",
    )


def cifar(cell: str, *more: str) -> tuple[Source, ...]:
    """A longer run of benchmarks/cifar.py; more: keys of what it says after the bound with the uniform prior."""

    def say(bound: float, *learned: float) -> str:
        return "; ".join([f"{bound:.3f} bits/dim", *(f"with a learned prior {one:.3f}" for one in learned)])

    return (Source(tuple((f"{cell}, longer", key) for key in ("bits_per_dim", *more)), say, "cifar"),)


def gaps(*values: float) -> str:
    """Of LAYERS of each of two bottlenecks, VQ-VAE first."""
    ours, theirs = (", ".join(f"{one:.2f}" for one in half) for half in (values[: len(LAYERS)], values[len(LAYERS) :]))
    deep = ", ".join(map(str, LAYERS))
    return f"another clip's latents cost VQ-VAE {ours}, VAE {theirs} bits/sample (decoders of {deep} layers)"


CIFAR = "`python benchmarks/cifar.py longer --root PATH`"
IMAGENET = "a training of `recipes/imagenet.yaml` on ImageNet"
LAB = "images of DeepMind Lab, which wavevq does not have"
VIDEO = "video of DeepMind Lab, which wavevq does not have; `recipes/shapes.yaml` does it with moving shapes"
EVALUATION = "`wavevq evaluate` of a run, with"
AT_25_HZ = {"codes": 128.0, "codes a second": 25.0}
PHONEMES = "`python benchmarks/phonemes.py rates`, or `wavevq evaluate` of a run of 128 codes at 25 Hz, with phones"
BETAS = ("vq beta 0.1", "vq", "vq beta 0.5", "vq beta 1.0", "vq beta 2.0")  # "vq" is that of 0.25
LAYERS = (2, 5, 10)  # of the decoders of benchmarks/collapse.py
COLLAPSE = tuple((f"{name} {layers} layers", "shuffled_gap") for name in ("VQ-VAE", "VAE") for layers in LAYERS)
JOINT = tuple((name, "total_per_sample") for name in ("two-stage", "joint 0", "joint 0.1", "joint 1"))

CLAIMS = (
    Claim(
        "3.2",
        "beta of the commitment loss from 0.1 to 2.0",
        "results did not vary",
        "`python benchmarks/ablations.py beta`",
        (Source(tuple((name, "bits_per_sample") for name in BETAS), spread, "ablations"),),
    ),
    Claim(
        "3.2",
        "log p(x) and its one term log p(x | z_q) p(z_q)",
        "nearly equal",
        f"{EVALUATION} the metric likelihood",
        (unlikely("learned"), unlikely("uniform")),
    ),
    Claim(
        "3.3",
        "prior and VQ-VAE trained jointly",
        "left to the future",
        "`python benchmarks/joint.py`",
        (
            Source(
                JOINT,
                lambda two, *joint: (
                    f"rate + distortion {', '.join(f'{one:.3f}' for one in joint)} (weights 0, 0.1, 1); "
                    f"in two stages {bits(two)}"
                ),
                "joint",
            ),
        ),
    ),
    Claim("4.1", "CIFAR-10, 250,000 steps: VAE", "4.51 bits/dim", CIFAR, cifar("VAE")),
    Claim("4.1", "CIFAR-10: VQ-VAE, 8x8x10 codes", "4.67 bits/dim", CIFAR, cifar("VQ-VAE", "learned_bits_per_dim")),
    Claim("4.1", "CIFAR-10: VIMCO, 50 samples", "5.14 bits/dim", CIFAR, cifar("VIMCO")),
    Claim(
        "4.1",
        "CIFAR-10: deep convolutional VAE, quoted from Gregor et al. 2016",
        "4.54 bits/dim",
        "that model, which wavevq does not have",
    ),
    Claim("4.2", "ImageNet, 128x128x3 to 32x32x1 codes, K 512", "42.6 times fewer bits", IMAGENET),
    Claim("4.2", "DeepMind Lab, 84x84x3 to 21x21x1 codes", "nearly identical", LAB),
    Claim("4.2", "DeepMind Lab, second stage: 3 codes, K 512, an image", "3 x 9 = 27 bits", LAB),
    Claim(
        "4.2",
        "no posterior collapse under a powerful decoder, where VAEs ignore their latents",
        "latents meaningfully used",
        f"`python benchmarks/collapse.py`, or {EVALUATION} the metric likelihood",
        (
            Source(COLLAPSE, gaps, "collapse"),
            Source((("likelihood", "shuffled-codes gap"),), lambda gap: f"another clip's codes cost {bits(gap)}"),
        ),
    ),
    Claim(
        "4.2",
        "a PixelCNN decoder of images reads its latents",
        "yes",
        "`python benchmarks/cifar.py pixelcnn --root PATH`",
        (
            Source(
                tuple((f"{name}, PixelCNN decoder", "shuffled_gap") for name in ("VQ-VAE", "VAE")),
                lambda ours, theirs: f"another image's latents cost VQ-VAE {ours:.3f}, VAE {theirs:.3f} bits/dim",
                "cifar",
            ),
        ),
    ),
    Claim(
        "4.3",
        "VCTK, 109 speakers: latents fewer than samples, K 512",
        "64 times",
        f"{EVALUATION} 64 samples a code",
        (
            Source(
                tuple((RUN, fact) for fact in ("hop", "codes", "speakers")),
                lambda hop, codes, speakers: f"{hop:g} times, K {codes:g}, {speakers:g} speakers",
                fits={"hop": 64.0},
            ),
        ),
    ),
    Claim(
        "4.3",
        "reconstructions have the same content",
        "by ear",
        f"{EVALUATION} the metric content",
        heard("reconstruction"),
    ),
    Claim(
        "4.3",
        "reconstructions alter the prosody",
        "by ear",
        f"{EVALUATION} the metric reconstruction",
        (
            Source(
                tuple(
                    ("reconstruction", f"F0 RMSE in cents, {one}")
                    for one in ("reconstruction", "mu-law", "shuffled codes")
                ),
                lambda own, ceiling, floor: (
                    f"pitch {own:.1f} cents from the original's (mu-law {ceiling:.1f}, shuffled codes {floor:.1f})"
                ),
            ),
        ),
    ),
    Claim(
        "4.3",
        "samples from the prior have clear words (128 times fewer latents, 320 codes of 40,960 samples)",
        "by ear",
        f"{EVALUATION} the metric samples: a prior, and a vocabulary",
        (
            Source(
                tuple(("samples", f"surely a word{one}") for one in ("", ", codes in random order")),
                lambda own, floor: f"{percent(own)} surely a word (codes in random order {percent(floor)})",
            ),
        ),
    ),
    Claim(
        "4.3",
        "conversions have the second speaker's voice",
        "by ear",
        f"{EVALUATION} the metric speaker",
        (
            Source(
                tuple(("speaker", name) for name in ("target, conversion", "source, conversion", "chance")),
                lambda target, source, chance: (
                    f"judged the target {percent(target)}, the source {percent(source)} (chance {percent(chance)})"
                ),
            ),
        ),
    ),
    Claim(
        "4.3", "conversions have the same content", "by ear", f"{EVALUATION} the metric content", heard("conversion")
    ),
    Claim(
        "4.3",
        "codes leave out what is the speaker's",
        "by ear",
        f"{EVALUATION} the metric leakage",
        (
            Source(
                tuple(("leakage", name) for name in ("speaker told by the codes", "speaker told by MFCC", "chance")),
                lambda codes, mfcc, chance: (
                    f"speaker told by the codes {percent(codes)} (MFCC {percent(mfcc)}, chance {percent(chance)})"
                ),
            ),
        ),
    ),
    Claim(
        "4.3",
        "phonemes from 128 codes at 25 Hz, 41 classes",
        "49.3 %",
        PHONEMES,
        (
            Source((("25 Hz", "accuracy"),), percent, "phonemes"),
            Source((("phonemes", "accuracy"),), percent, fits=AT_25_HZ),
        ),
    ),
    Claim(
        "4.3",
        "phonemes from a random latent space: the most likely phoneme",
        "7.2 %",
        PHONEMES,
        (
            Source((("25 Hz", "majority"),), percent, "phonemes"),
            Source((("phonemes", "most frequent class"),), percent, fits=AT_25_HZ),
        ),
    ),
    Claim(
        "4.3",
        "phonemes by a mapping that sees the codes around (footnote 1)",
        "higher accuracy",
        PHONEMES,
        (
            Source((("25 Hz", "in_context"),), percent, "phonemes"),
            Source((("phonemes", "accuracy in context"),), percent, fits=AT_25_HZ),
        ),
    ),
    Claim("4.4", "DeepMind Lab video: 6 frames in, 10 out by actions", "shown", VIDEO),
    Claim(
        "A.1",
        "moving averages (gamma 0.99) in place of the codebook loss",
        "works well",
        "`python benchmarks/ablations.py codebook`",
        (
            Source(
                (("ema", "bits_per_sample"), ("vq", "bits_per_sample")),
                lambda averages, loss: f"{bits(averages)}; with the loss {bits(loss)}",
                "ablations",
            ),
        ),
    ),
)
