"""A trained run of video: the model in a run folder, which encodes and decodes clips and goes on with them.

run = load_video_run("runs/shapes-20261121-090000")
codes = run.encode(frames[:6])
later = run.go_on(codes[None], actions[None])[0]
frames = run.decode(later)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from wavevq.contracts import GridSampler
from wavevq.errors import WavevqError
from wavevq.noise import CODES, derived, uniform
from wavevq.pixels import Pixels, to_images, to_signal
from wavevq.prior import Prior
from wavevq.recipe import Recipe
from wavevq.run import check_sampling, codebook, default_device, drawn_at, load_model, load_prior
from wavevq.run_folder import find_run, read_recipe, read_speakers
from wavevq.sampling import Backend, Precision, choose_grid
from wavevq.vqvae import VqVae


@dataclass(frozen=True)
class VideoRun:
    """A trained model and what belongs to it.

    labels: what its clips show, in the order of their numbers. step: training steps that its weights have seen. prior:
    of codes, with what draws from it, or None where none has been trained.
    """

    folder: Path
    recipe: Recipe
    labels: tuple[str, ...]
    model: VqVae
    step: int
    prior: tuple[Prior, GridSampler] | None = None

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def codebook(self) -> int:
        """K. Raises WavevqError where the model has no codes."""
        return codebook(self.folder, self.recipe, self.model)

    @torch.no_grad()
    def encode(self, frames: Pixels) -> NDArray[np.int64]:
        """Codes int64 ``[t, h, w, G]`` of frames ``[T, H, W, 3]``, t = T, whose sides are multiples of a code's."""
        self.codebook()
        x = to_signal(frames[None]).to(self.device)
        codes = self.model.encode(x, torch.tensor([x.shape[2]], device=self.device)).codes
        assert codes is not None
        return codes[0].cpu().numpy()

    @torch.no_grad()
    def decode(self, codes: NDArray[np.integer[Any]]) -> Pixels:
        """The expected frames uint8 ``[T, H, W, 3]`` of codes ``[t, h, w, G]`` in [0, K)."""
        found = torch.from_numpy(codes.astype(np.int64))[None].to(self.device)
        label = torch.zeros(1, dtype=torch.int64, device=self.device)  # a decoder of frames does not look at it
        x = self.model.decoder.reconstruct(self.model.bottleneck.lookup(found), label, torch.empty(0), None)
        frames: Pixels = to_images(x)[0]
        return frames

    @torch.no_grad()
    def go_on(
        self,
        begun: NDArray[np.int64],
        actions: NDArray[np.int64],
        labels: Sequence[int] | None = None,
        *,
        seed: int = 0,
        temperature: float | None = None,
        top_p: float = 1.0,
        streams: Sequence[int] | None = None,
    ) -> NDArray[np.int64]:
        """Codes int64 ``[N, t, h, w, G]`` of clips: those ``begun`` with, ``[N, n, h, w, G]``, and t - n frames more.

        actions: int64 ``[N, t]``, of each frame the one that leads to it. labels: numbers of what the clips show, None
        where that is not told. The i-th clip draws from stream i of ``seed``, or its own of ``streams``, as it does
        alone. Raises WavevqError where the run has no prior, or for values that nothing can be drawn with.
        """
        check_sampling(seed, temperature, top_p)
        prior, sampler = self.trained_prior()
        count, given, *grid = begun.shape
        further = actions.shape[1] - given
        noise = uniform(derived(seed, CODES), streams or range(count), further * int(np.prod(grid)))
        drawn = prior.sample_frames(
            torch.tensor(labels or [prior.nobody] * count, device=self.device),
            torch.from_numpy(actions).to(self.device),
            torch.from_numpy(begun).to(self.device),
            noise.view(count, further, *grid).to(self.device),
            sampler,
            drawn_at(temperature, self.recipe),
            top_p,
        )
        return drawn.cpu().numpy()

    def trained_prior(self) -> tuple[Prior, GridSampler]:
        """The prior and what draws from it. Raises WavevqError where none has been trained."""
        if self.prior is None:
            raise WavevqError(f"{self.folder}: has no trained prior; its recipe needs a prior section, and training")
        return self.prior


def load_video_run(
    name: str | Path | None = None,
    device: str | torch.device | None = None,
    sampler: Backend = "auto",
    precision: Precision = "bfloat16",
) -> VideoRun:
    """The run of video in a folder, or of that name under ``runs/``; arguments and errors as ``run.load_run``'s."""
    folder = find_run(name, "video")
    recipe, labels = read_recipe(folder), read_speakers(folder)
    if recipe.data.signal != "video":
        raise WavevqError(f"{folder}: is a run of {recipe.data.signal}; what is asked for needs one of video")
    device = device or default_device(sampler)
    model, step = load_model(folder, recipe, len(labels))
    learned = load_prior(folder, recipe, len(labels))
    prior = None if learned is None else (learned.eval().to(device), choose_grid(sampler, precision))
    return VideoRun(folder, recipe, labels, model.eval().to(device), step, prior)
