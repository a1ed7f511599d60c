"""The learned prior p(codes | label): ancestral sampling from it gives speech, or pictures, from nothing.

Van den Oord et al. 2017, section 3.3: after training, an autoregressive distribution is fitted to the codes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.contracts import Batch, GridSampler, Sampler, StepLoss
from wavevq.distributed import total, world_size
from wavevq.nn.encoders import valid
from wavevq.nn.pixelcnn import PixelCNN
from wavevq.nn.transformer import Transformer
from wavevq.nn.video import VideoPixelNetwork
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import DROP, derived, uniform
from wavevq.sampling.reference import one_thread

CODES_A_CALL = 32  # drawn before it is looked whether every clip has ended


class Prior(nn.Module):
    """An autoregressive distribution over a grid of codes, in raster order, given a label or none.

    network: over K classes, or over K + 1 where sequences end (``ends``): the last then says that the clip is over. A
    PixelCNN sees a grid (h, w, G) as such, a VideoPixelNetwork (t, h, w, G); to the others any grid is a sequence.
    labels: how many; 0 for an unconditional prior. dim: width of their embedding. drop: chance that a training example
    is shown without its label, so that the prior may be asked without one.
    """

    def __init__(
        self,
        network: WaveNet | Transformer | PixelCNN | VideoPixelNetwork,
        *,
        codes: int,
        labels: int,
        dim: int,
        drop: float,
        seed: int,
    ) -> None:
        super().__init__()
        self.network, self.codes, self.labels, self.drop, self.seed = network, codes, labels, drop, seed
        self.label = nn.Embedding(labels + 1, dim)  # the last stands for none

    @property
    def ends(self) -> bool:
        """Whether a sequence may end before it is as long as asked for."""
        return self.network.classes > self.codes

    @property
    def nobody(self) -> int:
        """The label that stands for none."""
        return self.labels

    @property
    def gridded(self) -> bool:
        """Whether the network sees a grid as such."""
        return isinstance(self.network, PixelCNN | VideoPixelNetwork)

    def given(self, batch: Batch) -> Tensor | None:
        """Of video the actions int64 ``[B, t]``, which a batch of its codes has as ``cond``; of all else None."""
        return batch.cond if isinstance(self.network, VideoPixelNetwork) else None

    def logits(self, codes: Tensor, label: Tensor, given: Tensor | None = None) -> Tensor:
        """Teacher-forced logits ``[B, N, Q]`` of codes int64 ``[B, N]`` (or rows, as ``nll``) and labels ``[B]``.

        Of a PixelCNN ``[B, h, w, G, Q]`` of codes int64 ``[B, h, w, G]``; of video with t before h, ``given`` its
        actions int64 ``[B, t]``.
        """
        cond = self.conditioning(label)
        if isinstance(self.network, VideoPixelNetwork):
            assert given is not None, "video's codes depend on actions"
            return self.network(codes, given, cond)  # type: ignore[no-any-return]
        if isinstance(self.network, Transformer):
            cond = cond[:, 0]
        return self.network(codes, cond)  # type: ignore[no-any-return]

    def conditioning(self, label: Tensor) -> Tensor:
        """``[B, 1, ...]`` of labels int64 ``[B]``, as the network's sampler takes it; one not known is nobody's.

        Of video ``[B, C']``, which the network's maps take.
        """
        c: Tensor = self.label(label.clamp(max=self.nobody))[:, None]
        match self.network:
            case WaveNet():
                return self.network.conditioning(c)
            case PixelCNN():
                return c[:, None]
            case VideoPixelNetwork():
                return c[:, 0]
            case _:
                return c

    def nll(self, codes: Tensor, label: Tensor, mask: Tensor, given: Tensor | None = None) -> Tensor:
        """Nats ``[B]``, float32, summed over the positions where ``mask`` is true.

        codes: int64 ``[B, *grid]`` in [0, Q), mask: bool ``[B, *grid]``, label: int64 ``[B]``, given: as ``logits``'s.
        Or, where the network sees no grid, codes as one-hot rows, float ``[B, *grid, Q]``: a gradient then passes
        through them, as targets and as inputs.
        """
        flat = codes.flatten(1, mask.ndim - 1)
        logits = self.logits(codes if self.gridded else flat, label, given).flatten(1, -2)
        logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
        targets = flat.transpose(1, 2) if flat.is_floating_point() else flat
        nats = F.cross_entropy(logits.transpose(1, 2), targets, reduction="none")
        return (nats * mask.flatten(1)).sum(1)

    def taught(self, batch: Batch) -> Tensor:
        """Mask bool ``[B, *grid]`` of the codes to learn from.

        batch.cond: int64 ``[B]``, 1 where a row begins mid-clip: its first code follows others that are not shown, and
        is there to be read only. None where all are whole; clips of video always are, and cond is what is given.
        """
        grid = batch.x.shape[:-1] if batch.x.is_floating_point() else batch.x.shape
        mask = valid(batch.lengths, grid[1])
        if batch.cond is not None and self.given(batch) is None:
            mask[:, 0] &= batch.cond == 0
        return mask.view(*mask.shape, *[1] * (len(grid) - 2)).expand(grid)

    def training_loss(self, batch: Batch) -> StepLoss:
        """Nats a code, over all ranks, of what is ``taught``; batch.x: codes as ``nll`` takes them."""
        mask = self.taught(batch)
        noise = uniform(derived(self.seed, DROP), batch.index.tolist(), 1)[:, 0].to(batch.label.device)
        label = torch.where(noise < self.drop, self.nobody, batch.label)
        nats = self.nll(batch.x, label, mask, self.given(batch)).sum()
        count = total(mask.sum())
        return StepLoss(nats / (count / world_size()), {"bits_per_code": total(nats) / count / math.log(2)})

    @torch.no_grad()
    def sample(
        self,
        label: Tensor,
        noise: Tensor,
        sampler: Sampler,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prefix: Tensor | None = None,
        advance: Callable[[int], object] = lambda codes: None,
    ) -> list[Tensor]:
        """Codes int64 ``[n]`` a row of a sequence, n from 0 to N: fewer where the clip ended, the end left out.

        label: int64 ``[B]``; noise: uniform ``[B, N]``; prefix: int64 ``[B, P]``, codes to go on from.
        advance: called with how many of the B x N have been drawn since, or need no longer be.
        """
        cond = self.conditioning(label)
        state: Any = None
        parts: list[Tensor] = []
        ended = torch.zeros(len(label), dtype=torch.bool, device=label.device)
        for start in range(0, noise.shape[1], CODES_A_CALL):
            some = noise[:, start : start + CODES_A_CALL]
            drawn, state = sampler(self.network, cond, some, temperature, top_p, prefix, state)
            prefix = None
            parts.append(drawn)
            ended |= (drawn == self.codes).any(1)
            if ended.all():
                advance(noise[:, start:].numel())
                break
            advance(some.numel())
        rows = torch.cat(parts, 1) if parts else torch.empty(len(label), 0, dtype=torch.int64)
        return [row[: int((row == self.codes).int().argmax())] if (row == self.codes).any() else row for row in rows]

    @torch.no_grad()
    def sample_grid(
        self, label: Tensor, noise: Tensor, sampler: GridSampler, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        """Codes int64 ``[B, h, w, G]`` from a PixelCNN; label: int64 ``[B]``; noise: uniform ``[B, h, w, G]``."""
        return sampler(self.network, self.conditioning(label), noise, temperature, top_p)

    @torch.no_grad()
    def sample_frames(
        self,
        label: Tensor,
        actions: Tensor,
        begun: Tensor,
        noise: Tensor,
        sampler: GridSampler,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Tensor:
        """Codes int64 ``[B, n + m, h, w, G]`` of video: those begun with, ``[B, n, h, w, G]``, and m more frames.

        A frame after the other, each drawn as an image. label: int64 ``[B]``; actions: int64 ``[B, n + m]``; noise:
        uniform ``[B, m, h, w, G]``. What is drawn for a clip depends on nothing of the others, to the last bit.
        """
        network = self.network
        assert isinstance(network, VideoPixelNetwork), "what draws frames is a prior of video"
        codes, cond = begun, self.conditioning(label)
        for further in noise.unbind(1):
            seen = actions[:, : codes.shape[1] + 1]
            with one_thread(codes.device):  # alone, since products of several clips round differently
                rows = [slice(i, i + 1) for i in range(len(codes))]
                maps = [network.maps(codes[row], seen[row], cond[row])[:, -1] for row in rows]
            drawn = sampler(network.frame, torch.cat(maps), further, temperature, top_p)
            codes = torch.cat([codes, drawn[:, None]], 1)
        return codes
