"""Held-out likelihoods of a VQ-VAE, teacher-forced, in bits a sample, and whether it uses its codes and speakers.

All are of the mu-law classes of the levelled signal, so they compare only with numbers of the same level and classes:
the marginal entropy of those classes stands beside them. Of images a sample is an 8-bit value, of a colour of a pixel,
a clip is an image, and a speaker is its class.
"""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavevq.contracts import Batch
from wavevq.data.cache import cache_folder, reserved
from wavevq.data.codes import Codes, labelled, load_codes, save_codes
from wavevq.data.corpora import Split
from wavevq.data.corpus import Corpus
from wavevq.distributed import alone, gathered, rank, world_size
from wavevq.errors import WavevqError
from wavevq.evaluate.codebook import Usage, entropy_bits, usage
from wavevq.nn.encoders import frames_of, valid
from wavevq.progress import Say
from wavevq.vqvae import VqVae, along

ENCODED = 16  # examples encoded together


@dataclass(frozen=True)
class Likelihoods:
    """bits: -log2 p(x | codes, speaker) a sample. marginal: entropy of the classes without any model, bits a sample.

    shuffled_gap: bits a sample more with the codes of another clip of the same speaker; None where no clip has one.
    wrong_speaker_gap: bits a sample more with another speaker's label, mean over the others; None with one speaker, and
    where the decoder does not look at labels.
    usage: of the codes over these clips; None for a model without codes, whose latents take their place in all this.
    rate: the KL divergence of latents or codes that are drawn, bits a sample, else None; ``bits`` then are the evidence
    bound, rate included, by one drawing of each clip's. clips, samples: how many were measured.
    """

    bits: float
    marginal: float
    shuffled_gap: float | None
    wrong_speaker_gap: float | None
    usage: Usage | None
    clips: int
    samples: int
    rate: float | None = None

    @property
    def distortion(self) -> float:
        """``bits`` without the rate, where that is included."""
        return self.bits - (self.rate or 0.0)


@torch.no_grad()
def measure(
    model: VqVae, corpus: Corpus, split: Split, *, batch: int, limit: int | None, others: int | None, seed: int
) -> Likelihoods:
    """Likelihoods of whole examples of a split whose labels the model knows, on the model's device.

    batch: examples at once. limit: examples at most, None for all. others: wrong labels tried each, None for all.
    The model must be in evaluation mode; nothing in it changes.
    """
    device = next(model.parameters()).device
    distribution = model.decoder.distribution
    batches = corpus.whole(split, batch, model.hop, limit)
    codes, rate = _encoded(model, batches)
    donors = _donors(model, corpus, split, codes, seed)
    wrong = other_labels(len(corpus.labels), others, seed) if model.decoder.labelled else []
    own, shuffled, shuffled_own, mistaken = 0.0, 0.0, 0.0, 0.0
    samples = shuffled_samples = 0
    classes = torch.zeros(distribution.classes, dtype=torch.int64)
    for one in batches:
        if (one.label < 0).any():
            raise ValueError(f"{split} holds labels that were not in training: they have no likelihood")
        one = one.to(device)
        mask = along(valid(one.lengths, one.x.shape[2]), (len(one.x), *one.x.shape[2:]))
        counts = mask.flatten(1).sum(1) * one.x.shape[1]
        index = one.index.tolist()
        bits = _bits(model, one, [codes[i] for i in index], one.label, mask)
        own += bits.sum().item()
        samples += int(counts.sum())
        seen = distribution.encode(one.x)[mask[:, None].expand_as(one.x)]
        classes += torch.bincount(seen.cpu(), minlength=len(classes))
        has = torch.tensor([i in donors for i in index])
        if has.any():
            replaced = [donors.get(i, codes[i]) for i in index]
            shuffled += _bits(model, one, replaced, one.label, mask)[has].sum().item()
            shuffled_own += bits[has].sum().item()
            shuffled_samples += int(counts[has].sum())
        for offset in wrong:
            label = (one.label + offset) % len(corpus.labels)
            mistaken += _bits(model, one, [codes[i] for i in index], label, mask).sum().item()
    return Likelihoods(
        bits=(own + (rate or 0)) / samples,
        marginal=entropy_bits(classes),
        shuffled_gap=(shuffled - shuffled_own) / shuffled_samples if shuffled_samples else None,
        wrong_speaker_gap=(mistaken / len(wrong) - own) / samples if wrong else None,
        usage=usage(list(codes.values()), model.bottleneck.codes) if model.bottleneck.codes else None,
        clips=len(codes),
        samples=samples,
        rate=None if rate is None else rate / samples,
    )


@torch.no_grad()
def encode_all(model: VqVae, batches: Sequence[Batch]) -> dict[int, Tensor]:
    """Codes int64 ``[*grid]`` of every example, by its place in the split; without codes its latents ``[*grid, D]``."""
    return _encoded(model, batches)[0]


def encoded(model: VqVae, weights: Path, corpus: Corpus, split: Split, say: Say = lambda words: None) -> Codes:
    """The codes of a split by a model of these weights, its own; from the cache where it has them already.

    Else every rank encodes its share of them, which ``say`` is told first. Two trainings may ask at once.
    """
    path = codes_place(weights, corpus)
    path = path.with_name(f"{path.name}-{split}.safetensors")
    examples = corpus.split(split)

    def find() -> list[NDArray[np.int64]] | None:
        """What every rank can read, or none."""
        rows = None
        with suppress(WavevqError):  # not there, or damaged
            rows = load_codes(path, len(examples), model.size)
        return rows if all(gathered(rows is not None)) else None

    if (rows := find()) is None:
        with reserved(path.name) if rank() == 0 else nullcontext():
            if (rows := find()) is None:
                say(f"encoding {len(examples)} {corpus.items} of the split {split} for the prior")
                share = encode_all(model, corpus.whole(split, ENCODED, model.hop)[rank() :: world_size()])
                shares = gathered({place: row.cpu().numpy() for place, row in share.items()})
                made = {place: row for one in shares for place, row in one.items()}
                rows = [made[place] for place in range(len(examples))]
                alone(lambda: save_codes(path, rows))
    return labelled(rows, examples, corpus, model.size, corpus.given(split))


def codes_place(weights: Path, corpus: Corpus) -> Path:
    """Where in the cache the codes of a corpus by these weights lie: what the names of their files begin with."""
    key = hashlib.sha256(weights.read_bytes() + corpus.folder.name.encode()).hexdigest()[:32]
    return cache_folder() / f"codes-{key}"


def _encoded(model: VqVae, batches: Sequence[Batch]) -> tuple[dict[int, Tensor], float | None]:
    """``encode_all`` and the latents' rate in bits over all clips, None where it is a constant or there is none."""
    device = next(model.parameters()).device
    codes, rate = {}, None
    for one in batches:
        found = model.encode(one.x.to(device), one.lengths.to(device), one.index)
        if found.rate is not None:
            rate = (rate or 0.0) + found.rate.double().sum().item() / math.log(2)
        rows = found.z if found.codes is None else found.codes
        for row, frames in enumerate(frames_of(one.lengths, model.hop).tolist()):
            codes[int(one.index[row])] = rows[row, :frames]
    return codes, rate


def derangement(groups: list[str], seed: int) -> dict[int, int]:
    """For each place in ``groups`` another place of the same group, each taken once; alone in a group: left out."""
    members = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    taken: dict[int, int] = {}
    for group in sorted(members):
        # One cycle through a random order: nobody is their own donor.
        order = (
            np.random.default_rng([seed, *group.encode(errors="surrogateescape")]).permutation(members[group]).tolist()
        )
        if len(order) > 1:
            taken.update(zip(order, order[1:] + order[:1], strict=True))
    return taken


def fitted(codes: Tensor, frames: int) -> Tensor:
    """Codes int64 ``[F, ...]`` or latents ``[F, ..., D]`` cut or repeated to ``frames`` of them."""
    return codes[torch.arange(frames, device=codes.device) % len(codes)]


def _donors(model: VqVae, corpus: Corpus, split: Split, codes: dict[int, Tensor], seed: int) -> dict[int, Tensor]:
    """Another example's codes for each, of the same label, as long as its own.

    A label's only example of the split takes the codes of a training example of it.
    """
    places = sorted(codes)
    examples = corpus.split(split)
    taken = derangement([examples[i].label for i in places], seed)
    donors = {places[a]: fitted(codes[places[b]], len(codes[places[a]])) for a, b in taken.items()}
    for place in places:
        if place not in donors and split != "train":
            found = _training_codes(model, corpus, examples[place].label)
            if found is not None:
                donors[place] = fitted(found, len(codes[place]))
    return donors


def _training_codes(model: VqVae, corpus: Corpus, label: str) -> Tensor | None:
    for place, one in enumerate(corpus.split("train")):
        if one.label == label:
            return encode_all(model, [corpus.examples("train", [place], model.hop)])[place]
    return None


def _bits(model: VqVae, batch: Batch, codes: list[Tensor], label: Tensor, mask: Tensor) -> Tensor:
    """Bits ``[B]`` of each example given its codes and a label."""
    padded = codes[0].new_zeros(len(codes), batch.x.shape[2] // model.hop, *codes[0].shape[1:])
    for row, one in zip(padded, codes, strict=True):
        row[: len(one)] = one
    z = model.bottleneck.lookup(padded)
    return model.decoder.nll(batch.x, z, label, mask).double() / math.log(2)


def other_labels(labels: int, others: int | None, seed: int) -> list[int]:
    """Which wrong labels are tried: label + offset, modulo their number; ``others`` of them, None for all."""
    every = np.arange(1, labels)
    if others is None or others >= len(every):
        return every.tolist()
    return sorted(np.random.default_rng(seed).choice(every, others, replace=False).tolist())
