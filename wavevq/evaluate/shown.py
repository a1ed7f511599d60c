"""What a validation lets one hear or see: examples, and what the decoder makes of their codes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wavevq import pixels
from wavevq.data.corpus import Corpus
from wavevq.data.store import Store
from wavevq.decoders import sampler_for
from wavevq.evaluate.pictures import code_map
from wavevq.evaluate.report import spectrogram_figure
from wavevq.nn.encoders import frames_of, valid
from wavevq.noise import uniform
from wavevq.recipe import Evaluation
from wavevq.train.log import Clip
from wavevq.vqvae import VqVae

if TYPE_CHECKING:
    from matplotlib.figure import Figure


A_CODE = 4  # pixels of its side


@dataclass(frozen=True)
class Shown:
    """Figures, clips and images by their names."""

    figures: dict[str, Figure] = field(default_factory=dict)
    clips: dict[str, Clip] = field(default_factory=dict)
    images: dict[str, pixels.Pixels] = field(default_factory=dict)


def clips(model: VqVae, store: Store, plan: Evaluation, seed: int) -> Shown:
    """The first seconds of some clips, and what sampling from their codes gives."""
    shown = Shown()
    for batch in store.whole("val", plan.batch, model.hop, plan.sampled):
        most = max(1, int(plan.sampled_seconds * store.rate) // model.hop) * model.hop
        device = next(model.parameters()).device
        x, lengths = batch.x[..., :most].to(device), batch.lengths.clamp(max=most).to(device)
        latents = model.encode(x, lengths)
        noise = uniform(seed, batch.index.tolist(), x.shape[-1]).to(device)
        frames = valid(frames_of(lengths, model.hop), latents.z.shape[1])
        sampler = sampler_for(model.decoder)
        drawn = model.decoder.sample(latents.z, batch.label.to(device), noise, sampler, frames=frames)
        for row, length in enumerate(lengths.tolist()):
            name = store.split("val")[int(batch.index[row])].name
            for kind, audio in (("original", x), ("reconstruction, sampled", drawn)):
                clip = Clip(audio[row, 0, :length].cpu().numpy(), store.rate)
                shown.clips[f"{name} {kind}"] = clip
                shown.figures[f"spectrogram/{name} {kind}"] = spectrogram_figure(clip.samples, clip.rate, name)
    return shown


def images(
    model: VqVae,
    corpus: Corpus,
    plan: Evaluation,
    seed: int,
    paint: Callable[[Tensor], pixels.Pixels] = pixels.to_images,
) -> Shown:
    """Some images in a row, under each its reconstruction, and under that one that is drawn from the same codes.

    Of clips of video the frames.
    """
    rows: list[list[Tensor]] = []
    device = next(model.parameters()).device
    for batch in corpus.whole("val", plan.batch, model.hop, plan.sampled):
        one = batch.to(device)
        z = model.encode(one.x, one.lengths).z
        noise = uniform(seed, batch.index.tolist(), one.x[0].numel()).view(one.x.shape).to(device)
        sampler = sampler_for(model.decoder)
        drawn = model.decoder.sample(z, one.label, noise, sampler)
        every = one.x, model.decoder.reconstruct(z, one.label, noise, sampler), drawn
        rows.append([x.movedim(1, -3).flatten(0, -4) for x in every])
    if not rows:
        return Shown()
    columns = [torch.cat(part) for part in zip(*rows, strict=True)]
    return Shown(images={"reconstructions": pixels.sheet(paint(torch.cat(columns)), len(columns[0]))})


def codes(model: VqVae, corpus: Corpus, plan: Evaluation, seed: int) -> Shown:
    """As ``images``, of another model's codes: a colour stands for each."""

    def paint(x: Tensor) -> pixels.Pixels:
        grids = x.movedim(1, -1).cpu().numpy()
        return np.stack([code_map(one, model.decoder.distribution.classes, A_CODE) for one in grids])

    return images(model, corpus, plan, seed, paint)


# By the decoder's unit.
SHOWN: dict[str, Callable[[VqVae, Any, Evaluation, int], Shown]] = {"sample": clips, "dim": images, "code": codes}
