"""Decoders are likelihoods, p(x | z, label): each has ``nll`` and ``sample`` (``contracts.Likelihood``)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from wavevq.nn.distributions import MuLawCategorical
from wavevq.nn.encoders import ResidualBlock
from wavevq.nn.wavenet import WaveNet
from wavevq.sampling.reference import Reference

LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}  # on CPU they stay in the cache


class WaveNetDecoder(nn.Module):
    """A WaveNet over mu-law classes, conditioned on latents and speaker (Van den Oord et al. 2017, section 4.3).

    The latents ``[B, F, D]`` pass a small network at latent rate, are joined by the speaker's embedding, and give
    every layer's gate input once a frame; a frame's row serves its hop of samples.
    """

    def __init__(
        self,
        wavenet: WaveNet,
        distribution: MuLawCategorical,
        *,
        dim: int,
        speakers: int,
        speaker_dim: int,
        context: int,
        context_layers: int,
    ) -> None:
        super().__init__()
        self.wavenet = wavenet
        self.distribution = distribution
        self.widen = nn.Conv1d(dim, context, 1)
        self.context = nn.ModuleList(ResidualBlock(context) for _ in range(context_layers))
        self.speaker = nn.Embedding(speakers, speaker_dim)

    def conditioning(self, z: Tensor, label: Tensor, frames: Tensor) -> Tensor:
        """Gate inputs ``[B, F, L, 2W]``. z: ``[B, F, D]``, label: int64 ``[B]``, frames: bool ``[B, F]``, the valid."""
        mask = frames[:, None]
        hidden = self.widen(z.transpose(1, 2)) * mask
        for block in self.context:
            hidden = block(hidden, mask)
        speaker = self.speaker(label)[:, None].expand(-1, z.shape[1], -1)
        return self.wavenet.conditioning(torch.cat([hidden.transpose(1, 2), speaker.to(hidden.dtype)], dim=-1))

    def nll(self, x: Tensor, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Nats ``[B]``, float32, summed over valid samples.

        x: ``[B, 1, T]`` in [-1, 1]; z: ``[B, F, D]``, T a multiple of F; label: int64 ``[B]``; mask: bool ``[B, T]``.
        """
        classes = self.distribution.encode(x[:, 0])
        hop = x.shape[-1] // z.shape[1]
        frames = mask[:, ::hop]  # a frame is valid if it holds one valid sample, and the first is the first to be
        skips = self.wavenet.skips(classes, self.conditioning(z, label, frames))
        # The logits are the largest tensor there is: those of a long clip never stand there at once.
        size = max(1, LOGITS_AT_ONCE[x.device.type] // (len(x) * self.wavenet.classes))
        parts = zip(*(torch.split(whole, size, 1) for whole in (skips, classes, mask)), strict=True)
        nats = [(self.distribution.nll(self.wavenet.head(s), c) * m).sum(1) for s, c, m in parts]
        return torch.stack(nats).sum(0)

    @torch.no_grad()
    def sample(
        self,
        z: Tensor,
        label: Tensor,
        noise: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        frames: Tensor | None = None,
    ) -> Tensor:
        """Samples float32 ``[B, 1, T]`` in [-1, 1], drawn with uniform noise ``[B, T]``; T a multiple of F.

        frames: bool ``[B, F]``, the valid ones of shorter clips; None for all.
        """
        if frames is None:
            frames = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        cond = self.conditioning(z, label, frames)
        classes, _ = Reference()(self.wavenet, cond, noise, temperature, top_p)
        return self.distribution.decode(classes)[:, None]
