"""Recipe to objects: the only file that matches on ``kind``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from wavevq import recipe as r
from wavevq.audio import LEVEL_RMS
from wavevq.data import corpora, image_store, images, shapes, synthetic
from wavevq.data.alignments import aligned
from wavevq.data.cache import cache_folder
from wavevq.data.coded import CodedCorpus
from wavevq.data.codes import Codes
from wavevq.data.corpora import Listing, Split
from wavevq.data.corpus import Corpus
from wavevq.data.store import Store, prepare
from wavevq.decoders import Decoder, FrameDecoder, ImageDecoder, PixelCnnDecoder, WaveNetDecoder
from wavevq.distributed import first
from wavevq.errors import WavevqError
from wavevq.evaluate.likelihood import codes_place, encoded
from wavevq.joint import JointVqVae
from wavevq.nn import distributions
from wavevq.nn.adversary import Adversary
from wavevq.nn.augmentation import Augmentation
from wavevq.nn.bottlenecks import Bottleneck, Drawn, Plain, Variational
from wavevq.nn.distributions import Categorical, Gaussian, Logistics, MuLawCategorical, Pixels
from wavevq.nn.encoders import SpectralEncoder, Standardise, StridedEncoder, UnitVectors
from wavevq.nn.images import CodesEncoder, ImageEncoder, ImageUpsampler
from wavevq.nn.pixelcnn import PixelCNN
from wavevq.nn.quantizers import EmaQuantizer, GradientQuantizer
from wavevq.nn.transformer import Transformer
from wavevq.nn.video import FrameEncoder, Past, VideoPixelNetwork
from wavevq.nn.wavenet import WaveNet
from wavevq.pixels import VALUES
from wavevq.prior import Prior
from wavevq.run_folder import first_run, newest_checkpoint, read_speakers, trained_on
from wavevq.train.state import AVERAGE, read_tensors, verify
from wavevq.vimco import VimcoVae
from wavevq.vqvae import VqVae

M = TypeVar("M", bound=nn.Module)

COLOURS = 3  # of an image


@dataclass(frozen=True)
class Values:
    """What stands at a position of a grid that is encoded: ``groups`` values in [0, ``classes``)."""

    groups: int = COLOURS
    classes: int = VALUES


PIXEL = Values()


def build_listing(data: r.OfSpeech, seed: int) -> Listing:
    """The recordings of a corpus and their alignments. Raises WavevqError where there are none."""
    listing = corpora.without(build_recordings(data, seed), data.without)
    if isinstance(data, r.OnDisk) and data.alignments is not None:
        return aligned(listing, data.alignments)
    return listing


def build_recordings(data: r.OfSpeech, seed: int) -> Listing:
    match data:
        case r.Vctk():
            return corpora.vctk(data.root, data.microphone, data.held_out, seed)
        case r.LibriSpeech():
            return corpora.librispeech(data.root, data.held_out, seed)
        case r.Fsdd():
            return corpora.fsdd(data.root, data.held_out, seed)
        case r.Folder():
            return corpora.folder(data.root, data.held_out, seed)
        case r.Synthetic():
            made = synthetic.synthesize(data.voices, data.sentences, seed, cache_folder())
            return corpora.folder(made, data.held_out, seed)
        case r.Joined():
            return corpora.joined({name: build_listing(part, seed) for name, part in data.named.items()})


def build_store(recipe: r.Recipe) -> Store:
    """The recipe's corpus of speech, decoded and levelled; made once, then taken from the cache.

    Raises WavevqError for a recipe of something else.
    """
    data = recipe.speech
    return prepare(build_listing(data, recipe.seed), data.rate, data.trim_db)


def build_corpus(recipe: r.Recipe) -> Corpus:
    """The recipe's corpus, whatever it is of; made once, by rank 0 (codes by all), then taken from the cache."""
    return build_coded(recipe.data) if isinstance(recipe.data, r.Coded) else first(lambda: _recorded(recipe))


def _recorded(recipe: r.Recipe) -> Corpus:
    match recipe.data:
        case r.Cifar10() as data:
            return image_store.prepare(images.cifar10(data.root, data.held_out), data.size, data.flip)
        case r.Images() as data:
            listing = images.folder(data.root, data.size + 2 * data.margin, data.held_out, recipe.seed)
            return image_store.prepare(listing, data.size, data.flip)
        case r.Shapes() as data:
            held_out = max(1, round(data.clips * data.held_out))
            return shapes.Shapes(data.size, data.frames, data.clips, held_out, recipe.seed)
        case _:
            return build_store(recipe)


def build_coded(data: r.Coded) -> CodedCorpus:
    """The codes that a trained run has for its corpus; those of the splits train and val are made here.

    Raises WavevqError where it is not trained, or on another run's codes than it says, and for a corpus not its own.
    """
    recipe, run = data.first, first_run(data)
    trained_on(run, recipe)
    weights = newest_checkpoint(run) / AVERAGE
    base, labels = build_corpus(recipe), read_speakers(run)
    if base.labels != labels:
        raise WavevqError(f"{run}: knows {', '.join(labels)}; the corpus in its data.root has {', '.join(base.labels)}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = trained_model(run, recipe, len(labels)).eval().to(device)

    @cache
    def codes(split: Split) -> Codes:
        return encoded(model, weights, base, split)

    for split in ("train", "val"):
        codes(split)
    return CodedCorpus(codes_place(weights, base), base, data.run, recipe.grid, model.size, codes)


def build_words(data: r.Data) -> Callable[[str], str] | None:
    """What finds the word in a clip by its name, where each clip holds one word of a closed vocabulary."""
    match data:
        case r.Fsdd():
            return corpora.digit
        case _:
            return None


def build_model(recipe: r.Recipe, speakers: int) -> VqVae:
    """The recipe's model with initial weights, a function of its seed; with the prior where both train together."""
    rate = recipe.data.rate if isinstance(recipe.data, r.Speech) else None
    values = values_of(recipe.data)
    with seeded(recipe.seed):
        model = VqVae(
            build_encoder(recipe.model.encoder, recipe.model.bottleneck.dim, rate, values),
            build_bottleneck(recipe.model.bottleneck, values_a_latent(recipe.model.encoder, values), recipe.seed),
            build_decoder(recipe.model, speakers, values),
            hop=recipe.hop,
            jitter=recipe.model.jitter,
            past_gain=recipe.model.past_gain,
            adversary=build_adversary(recipe.model, speakers),
            augmentation=build_augmentation(recipe.model),
            seed=recipe.seed,
        )
    if isinstance(recipe.model.bottleneck, r.Vimco):
        return VimcoVae(model, samples=recipe.model.bottleneck.samples)
    if recipe.prior is None or recipe.prior.joint is None:
        return model
    joint = recipe.prior.joint
    return JointVqVae(model, build_prior(recipe, recipe.prior, speakers), weight=joint.weight, tau=joint.tau)


def trained_model(folder: Path, recipe: r.Recipe, labels: int) -> VqVae:
    """The model of a run with its newest averaged weights, of as many labels. Raises WavevqError where it has none."""
    return with_average(lambda: build_model(recipe, labels), newest_checkpoint(folder), folder)


def with_average(build: Callable[[], M], checkpoint: Path, folder: Path) -> M:
    """What ``build`` builds, with a checkpoint's averaged weights.

    Not before the recipe of its run's folder is known to fit them. Raises WavevqError where it does not.
    """
    verify(checkpoint, AVERAGE)
    with weightless(str(folder)):
        expected = build()
    weights = read_tensors(checkpoint / AVERAGE, expected)
    made = build()
    made.load_state_dict(weights)
    return made


def values_of(data: r.Data) -> Values:
    """What stands at a position of a corpus's images, or of the codes of them."""
    if not isinstance(data, r.Coded):
        return PIXEL
    codes = data.first.model.bottleneck.codes
    assert codes is not None, "the recipe's grammar sees to it"
    return Values(data.first.grid[2], codes)


def shape_model(recipe: r.Recipe, speakers: int, source: str) -> VqVae:
    """The recipe's model without memory for its weights: what can be asked of a recipe that nobody vouches for."""
    with weightless(source):
        return build_model(recipe, speakers)


@contextmanager
def weightless(source: str) -> Iterator[None]:
    """What is built in here has shapes alone. Raises WavevqError, with ``source``, for shapes that cannot be."""
    try:
        with torch.device("meta"):
            yield
    except (RuntimeError, TypeError, OverflowError) as error:  # as torch finds that a size is no number of 64 bits
        raise WavevqError(f"{source}: its model is too large ({str(error).splitlines()[0]})") from None


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """What torch draws in here is a function of ``seed``, and what it draws afterwards is not."""
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield


def build_encoder(e: r.Encoder, dim: int, rate: int | None, values: Values = PIXEL) -> nn.Module:
    """rate in Hz, of speech; values: of images or codes."""
    match e:
        case r.WaveformEncoder():
            shape = e.strides, e.window, e.channels, e.residual_blocks, dim
            return StridedEncoder(1, *shape, scale=1 / LEVEL_RMS, norm=build_norm(e, dim))
        case r.SpectralEncoder():
            assert rate is not None, "the recipe's grammar sees to it"
            shape = e.strides, e.window, e.channels, e.residual_blocks, dim
            strided = StridedEncoder(e.bands, *shape, norm=build_norm(e, dim))
            return SpectralEncoder(e.kind, rate, e.frame_hop, e.frame_window, e.bands, strided)
        case r.ImageEncoder():
            return build_grid_encoder(e, values.groups, dim)
        case r.FrameEncoder():
            return FrameEncoder(build_grid_encoder(e, values.groups, dim))
        case r.CodesEncoder():
            network = build_grid_encoder(e, e.embedding, dim)
            return CodesEncoder(values.classes, values.groups, e.embedding, network)


def build_norm(
    e: r.WaveformEncoder | r.SpectralEncoder | r.GridEncoder, dim: int, groups: int = 1
) -> Standardise | UnitVectors:
    return UnitVectors(dim, groups) if e.norm == "layer" else Standardise(groups * dim)


def build_grid_encoder(e: r.GridEncoder, channels: int, dim: int) -> ImageEncoder:
    widths = e.channels, e.residual_blocks, e.residual, e.groups, dim
    return ImageEncoder(channels, e.strides, e.window, *widths, build_norm(e, dim, e.groups))


def values_a_latent(e: r.Encoder, values: Values = PIXEL) -> float:
    """Samples, or values of images or codes, that one latent vector stands for."""
    match e:
        case r.GridEncoder():
            return values.groups * e.side**2 / e.groups
        case _:
            return e.hop


def build_bottleneck(b: r.Bottleneck, hop: float, seed: int) -> Bottleneck:
    match b:
        case r.GradientVq():
            return GradientQuantizer(b.codes, b.dim, b.beta, b.revive_after, seed)
        case r.EmaVq():
            return EmaQuantizer(b.codes, b.dim, b.beta, b.revive_after, b.decay, seed)
        case r.Vae():
            return Variational(b.dim, hop, b.weight, b.anneal, b.free_bits, seed)
        case r.NoBottleneck():
            return Plain()
        case r.Vimco():
            return Drawn(b.codes, b.dim, seed)


def build_adversary(model: r.Model, speakers: int) -> Adversary | None:
    """None at weight 0."""
    return Adversary(model.bottleneck.dim, speakers, model.adversary) if model.adversary else None


def build_augmentation(model: r.Model) -> Augmentation | None:
    """None where none is said."""
    if (plan := model.augmentation) is None:
        return None
    return Augmentation(*plan.noise, plan.tilt)


def build_decoder(model: r.Model, speakers: int, values: Values = PIXEL) -> Decoder:
    """With as many speakers, or classes of images; values: of these, or of codes."""
    match model.decoder, model.encoder:
        case r.WaveNetDecoder() as d, _:
            return WaveNetDecoder(
                build_wavenet(d, d.classes, d.context + d.speaker_dim),
                MuLawCategorical(d.classes),
                dim=model.bottleneck.dim,
                speakers=speakers,
                speaker_dim=d.speaker_dim,
                context=d.context,
                context_layers=d.context_layers,
            )
        case r.ImageDecoderLayers() as d, r.GridEncoder() as e:
            pixels, latent = build_pixels(d.distribution), e.groups * model.bottleneck.dim
            image = ImageDecoder(
                ImageUpsampler(latent, e.strides, e.window, d.channels, d.residual_blocks, d.residual, pixels.width),
                pixels,
            )
            return FrameDecoder(image) if isinstance(d, r.FrameDecoder) else image
        case r.PixelCnnDecoder() as d, r.GridEncoder() as e:
            latent = e.groups * model.bottleneck.dim
            of_codes = isinstance(e, r.CodesEncoder)
            return PixelCnnDecoder(
                ImageUpsampler(latent, e.strides, e.window, d.context, d.context_layers, d.context, d.context),
                build_pixelcnn(d, values.classes, values.groups, d.context + d.label_dim),
                distributions.Codes(values.classes) if of_codes else Categorical(values.groups),
                labels=speakers,
                label_dim=d.label_dim,
            )
        case _:
            raise AssertionError("the recipe's grammar sees to it")


def build_pixels(p: r.Pixels) -> Pixels:
    match p:
        case r.Logistics():
            return Logistics(COLOURS, p.mixtures, p.coupled)
        case r.Categorical():
            return Categorical(COLOURS)
        case r.Gaussian():
            return Gaussian(COLOURS)


def build_wavenet(n: r.WaveNetDecoder | r.WaveNetPrior, classes: int, cond_dim: int) -> WaveNet:
    return WaveNet(
        classes=classes,
        layers=n.layers,
        cycle=n.cycle,
        kernel=n.kernel,
        residual=n.residual,
        gate=n.gate,
        skip=n.skip,
        head=n.head,
        cond_dim=cond_dim,
    )


def build_pixelcnn(n: r.PixelCnnLayers, classes: int, groups: int, cond_dim: int) -> PixelCNN:
    return PixelCNN(
        classes=classes,
        groups=groups,
        layers=n.layers,
        kernel=n.kernel,
        residual=n.residual,
        gate=n.gate,
        head=n.head,
        cond_dim=cond_dim,
    )


def build_prior(recipe: r.Recipe, plan: r.Prior, speakers: int) -> Prior:
    """The recipe's prior with initial weights, a function of its seed."""
    codes = recipe.model.bottleneck.codes
    assert codes is not None, "the recipe's grammar sees to it"
    labels = speakers if plan.speaker_dim else 0
    dim = plan.speaker_dim or 1
    with seeded(recipe.seed):
        drop = plan.drop_speaker if labels else 0.0
        network = build_prior_network(plan.network, codes, recipe.model.encoder, dim)
        return Prior(network, codes=codes, labels=labels, dim=dim, drop=drop, seed=recipe.seed)


def build_prior_network(
    n: r.WaveNetPrior | r.TransformerPrior | r.PixelCnnPrior | r.VideoPrior, codes: int, e: r.Encoder, dim: int
) -> WaveNet | Transformer | PixelCNN | VideoPixelNetwork:
    """Over the codes, and for sequences a class for their end."""
    match n, e:
        case r.WaveNetPrior(), _:
            return build_wavenet(n, codes + 1, dim)
        case r.TransformerPrior(), _:
            return Transformer(classes=codes + 1, layers=n.layers, width=n.width, heads=n.heads, cond_dim=dim)
        case r.PixelCnnPrior(), r.GridEncoder():
            return build_pixelcnn(n, codes, e.groups, dim)
        case r.VideoPrior(), r.FrameEncoder():
            actions = len(shapes.ACTIONS)
            past = Past(codes=codes, groups=e.groups, actions=actions, width=n.past, layers=n.past_layers)
            return VideoPixelNetwork(past, build_pixelcnn(n, codes, e.groups, n.past + dim))
        case _:
            raise AssertionError("the recipe's grammar sees to it")
