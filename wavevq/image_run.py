"""A trained run of images: the model in a run folder, which encodes, decodes and draws.

run = load_image_run("runs/cifar10-20261121-090000")
codes = run.encode(read("in.png", run.size))
image = run.decode(codes)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.build import COLOURS
from wavevq.codes_file import refuse_noncodes
from wavevq.contracts import GridSampler
from wavevq.decoders import sampler_for
from wavevq.errors import WavevqError
from wavevq.noise import BELOW, CODES, derived, uniform
from wavevq.pixels import Pixels, to_images, to_signal
from wavevq.prior import Prior
from wavevq.recipe import Recipe
from wavevq.run import (
    Run,
    check_sampling,
    codebook,
    default_device,
    drawn_at,
    load_model,
    load_prior,
    load_run,
    no_prior,
)
from wavevq.run_folder import find_run, read_recipe, read_speakers, trained_on
from wavevq.sampling import Backend, Precision, choose_grid
from wavevq.vqvae import VqVae


@dataclass(frozen=True)
class ImageRun:
    """A trained model and what belongs to it.

    labels: names of the classes, in the order of their numbers. size: H and W of its images. step: training steps that
    its weights have seen. sampler: what draws pixels, None where the decoder needs none. prior: of codes, with what
    draws from it, or None where none has been trained. below: the run whose codes the model encodes and decodes in the
    place of pixels, or None (Van den Oord et al. 2017, section 4.2).
    """

    folder: Path
    recipe: Recipe
    labels: tuple[str, ...]
    model: VqVae
    step: int
    size: int
    sampler: Any
    prior: tuple[Prior, GridSampler] | None = None
    below: ImageRun | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def codebook(self) -> int:
        """K, as ``Run.codebook``."""
        return codebook(self.folder, self.recipe, self.model)

    @property
    def stride(self) -> int:
        """Pixels of the side of what a position of the codes stands for: all hops multiplied."""
        return self.model.hop * (1 if self.below is None else self.below.stride)

    @property
    def labelled(self) -> bool:
        """Whether images depend on the class that is named, given their codes."""
        return self.model.decoder.labelled or (self.below is not None and self.below.labelled)

    def label(self, name: str | None) -> int:
        """The number of a class, or 0 of None where no decoder needs one. Raises WavevqError for an unknown one."""
        if name is None and not self.labelled:
            return 0
        if name not in self.labels:
            said = "its decoder needs a class" if name is None else f"{name}: not a class"
            raise WavevqError(f"{said} of {self.folder}; it knows {', '.join(self.labels)}")
        return self.labels.index(name)

    def known_label(self, name: str) -> int:
        """The number of a class that images are asked of. Raises WavevqError where prior and decoder know none."""
        if not (self.trained_prior()[0].labels or self.labelled):
            raise WavevqError(f"{self.folder}: knows no classes that an image could be asked of")
        return self.label(name)

    @torch.no_grad()
    def encode(self, image: Pixels) -> NDArray[np.int64]:
        """Codes int64 ``[h, w, G]`` of an image ``[H, W, 3]``, H and W any multiples of ``stride``.

        Raises WavevqError for another, and for a model without codes.
        """
        self.codebook()
        height, width = image.shape[:2]
        if height % self.stride or width % self.stride or not image.size:
            raise WavevqError(f"an image of {width} x {height} pixels: both must be multiples of {self.stride}")
        x = (
            to_signal(image[None])
            if self.below is None
            else torch.from_numpy(self.below.encode(image)).movedim(-1, 0)[None]
        )
        x = x.to(self.device)
        codes = self.model.encode(x, torch.tensor([x.shape[2]], device=self.device)).codes
        assert codes is not None
        return codes[0].cpu().numpy()

    @torch.no_grad()
    def decode(
        self,
        codes: NDArray[np.integer[Any]],
        label: str | None = None,
        *,
        seed: int = 0,
        stream: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
    ) -> Pixels:
        """The image uint8 ``[h x hop, w x hop, 3]`` that codes ``[h, w, G]`` tell of, of any height and width.

        The expected one; a decoder whose pixels, or codes, depend on each other draws one, with stream ``stream`` of
        ``seed``, and those below it of seeds derived from that. Raises WavevqError for codes of another codebook.
        """
        check_sampling(seed, temperature, top_p)
        found = torch.from_numpy(self.check_codes(codes))[None].to(self.device)
        values = COLOURS if self.below is None else self.below.recipe.grid[2]
        shape = (1, values, *(side * self.model.hop for side in codes.shape[:2]))
        noise = uniform(seed, [stream], int(np.prod(shape))).view(shape).to(self.device)
        number = torch.tensor([self.label(label)], device=self.device)
        z = self.model.bottleneck.lookup(found)
        x = self.model.decoder.reconstruct(z, number, noise, self.sampler, drawn_at(temperature, self.recipe), top_p)
        if self.below is not None:
            lower, then = x[0].movedim(0, -1).cpu().numpy(), derived(seed, BELOW)
            return self.below.decode(lower, label, seed=then, stream=stream, temperature=temperature, top_p=top_p)
        image: Pixels = to_images(x)[0]
        return image

    @torch.no_grad()
    def sample_codes(
        self,
        labels: Sequence[str | None],
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        streams: Sequence[int] | None = None,
    ) -> NDArray[np.int64]:
        """New codes int64 ``[N, h, w, G]`` from the prior, of images of the classes named, None for no one's.

        The i-th draws from stream i of ``seed``, or its own of ``streams``, as it does alone. Raises WavevqError where
        the run has no prior, or one that cannot do what is asked.
        """
        check_sampling(seed, temperature, top_p)
        prior, sampler = self.trained_prior()
        known = [prior.nobody if name is None else min(self.known_label(name), prior.nobody) for name in labels]
        if None in labels and prior.labels and not prior.drop:
            raise WavevqError(f"{self.folder}: its prior needs a class of {', '.join(self.labels)}")
        grid = self.recipe.grid
        noise = uniform(derived(seed, CODES), streams or range(len(labels)), int(np.prod(grid))).to(self.device)
        label = torch.tensor(known, device=self.device)
        warmth = drawn_at(temperature, self.recipe)
        return prior.sample_grid(label, noise.view(-1, *grid), sampler, warmth, top_p).cpu().numpy()

    def trained_prior(self) -> tuple[Prior, GridSampler]:
        """The prior and what draws from it. Raises WavevqError where none has been trained."""
        if self.prior is None:
            raise no_prior(self.folder, self.recipe)
        return self.prior

    def check_codes(self, codes: NDArray[Any], name: str = "codes") -> NDArray[np.int64]:
        """Codes as int64 ``[h, w, G]``. Raises WavevqError, with ``name``, where they are not this model's."""
        size, groups = self.codebook(), self.recipe.grid[-1]
        refuse_noncodes(codes.dtype, codes.shape, name, 3)
        if codes.shape[2] != groups:
            raise WavevqError(f"{name}: has {codes.shape[2]} codes a position; {self.folder} has {groups}")
        low, high = int(codes.min()), int(codes.max())
        if low < 0 or high >= size:
            raise WavevqError(f"{name}: codes from {low} to {high}; the codebook of {self.folder} has 0 to {size - 1}")
        return codes.astype(np.int64)


def load_image_run(
    name: str | Path | None = None,
    device: str | torch.device | None = None,
    sampler: Backend = "auto",
    precision: Precision = "bfloat16",
) -> ImageRun:
    """The run of images in a folder, or of that name under ``runs/``; arguments and errors as ``run.load_run``'s."""
    folder = find_run(name, "images", "codes")
    recipe, labels = read_recipe(folder), read_speakers(folder)
    if recipe.data.signal in ("speech", "video"):
        raise WavevqError(f"{folder}: is a run of {recipe.data.signal}; what is asked for needs one of images")
    device = device or default_device(sampler)
    first = trained_on(folder, recipe)
    below = None if first is None else load_image_run(first, device, sampler, precision)
    model, step = load_model(folder, recipe, len(labels))
    learned = load_prior(folder, recipe, len(labels))
    prior = None if learned is None else (learned.eval().to(device), choose_grid(sampler, precision))
    model = model.eval().to(device)
    draws = sampler_for(model.decoder, sampler, precision)
    return ImageRun(folder, recipe, labels, model, step, recipe.size, draws, prior, below)


def load_any(name: str | Path | None = None, device: str | torch.device | None = None) -> Run | ImageRun:
    """A run as it was trained, whatever it is of; arguments and errors as ``run.load_run``'s."""
    folder = find_run(name)
    if read_recipe(folder).data.signal != "speech":
        return load_image_run(folder, device)
    return load_run(folder, device, enrolled=False)
