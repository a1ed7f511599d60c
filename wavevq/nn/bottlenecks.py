"""What stands between encoder and decoder: the contract, and the bottlenecks that are no quantizers.

Those are there to be compared with: a plain autoencoder's, a variational one's (Kingma and Welling 2014), which with a
strong decoder leaves its latents unused (Van den Oord et al. 2017, section 1), and one whose codes are drawn.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.contracts import Latents
from wavevq.distributed import total, world_size
from wavevq.noise import POSTERIOR, derived, normal, uniform

# The prior's is 0, and a wider posterior costs more and tells less; a signal unlike all others must not draw noise
# without bounds.
MOST_LOG_VARIANCE = 2.0


class Bottleneck(nn.Module, ABC):
    """What stands between encoder and decoder. codes: K of its codebook, or None where latents are vectors only."""

    codes: int | None = None

    @abstractmethod
    def forward(self, z_e: Tensor, mask: Tensor, index: Tensor | None = None) -> Latents:
        """Latents of the encoder's output: float ``[B, *grid, D]``; mask: bool ``[B, *grid]``, true where valid.

        index: int64 ``[B]``, the global number of each example, where a bottleneck that draws noise shall draw it.
        Where the mask is false, z and codes are 0 and nothing else depends on z_e.
        """

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors ``[B, *grid, D]`` of codes int64 ``[B, *grid]``; without a codebook vectors are given."""
        return codes


class Plain(Bottleneck):
    """An autoencoder's: the encoder's output, in its own precision, and no loss."""

    def forward(self, z_e: Tensor, mask: Tensor, index: Tensor | None = None) -> Latents:
        z = torch.where(mask[..., None], z_e, 0)
        return Latents(z=z, codes=None, rate=None, loss=z_e.new_zeros((), dtype=torch.float32))


class Variational(Bottleneck):
    """A Gaussian of diagonal covariance a position, its KL divergence to N(0, 1) the rate.

    Drawn by reparameterisation wherever examples are numbered (``index``): in training, and where a likelihood is
    measured, so that it is the evidence's bound, by one sample. Without numbers z is the mean.

    dim: D. hop: samples, or 8-bit values of an image, that a position stands for. weight: of the divergence in the
    loss, 1 for the bound. anneal: training steps over which it rises linearly from 0 (Bowman et al. 2016). free_bits:
    bits a dimension and position that cost nothing, the divergence of each dimension averaged over the joined batch of
    all ranks (Kingma et al. 2016, appendix C.8). seed: of the noise.

    Buffer: updates, int64 ``[]``, training steps seen; a batch without a valid position is none.
    """

    updates: Tensor

    def __init__(self, dim: int, hop: float, weight: float, anneal: int, free_bits: float, seed: int = 0) -> None:
        super().__init__()
        self.hop, self.weight, self.anneal, self.seed = hop, weight, anneal, seed
        self.free_nats = free_bits * math.log(2)
        self.posterior = nn.Linear(dim, 2 * dim)  # mean and log variance
        self.register_buffer("updates", torch.tensor(0))

    def forward(self, z_e: Tensor, mask: Tensor, index: Tensor | None = None) -> Latents:
        assert index is not None or not self.training, "training draws"
        with torch.autocast(z_e.device.type, enabled=False):
            valid = mask[..., None]
            vectors = torch.where(valid, z_e.to(self.posterior.weight.dtype), 0)
            z, log_variance = self.posterior(vectors).chunk(2, dim=-1)
            log_variance = log_variance.clamp(max=MOST_LOG_VARIANCE)
            divergence = (z.square() + log_variance.exp() - 1 - log_variance) / 2 * valid
            if index is not None:
                noise = normal(derived(self.seed, POSTERIOR), index.tolist(), z[0].numel())
                z = z + (log_variance / 2).exp() * noise.to(z).view_as(z)
            return Latents(
                z=(z * valid).to(z_e.dtype),
                codes=None,
                rate=divergence.flatten(1).sum(1),
                loss=self._loss(divergence.flatten(0, -2).sum(0), mask.sum()),
            )

    def _loss(self, nats: Tensor, count: Tensor) -> Tensor:
        """The loss ``[]`` in nats a sample, of the divergence ``[D]`` summed over ``count`` positions of this rank."""
        # DDP averages gradients over the ranks, so a sum divided by this is the joined batch's mean.
        ranks = world_size() if self.training else 1
        if self.training:
            count = total(count)
        nats = nats / (count.clamp(min=1) / ranks)
        mean = total(nats) / ranks if self.training else nats.detach()
        weight = self.weight * (torch.clamp(self.updates / self.anneal, max=1) if self.anneal else 1)
        loss = weight * torch.where(mean > self.free_nats, nats, self.free_nats).sum() / self.hop
        if self.training:
            self.updates.add_(count > 0)
        return loss


class Drawn(Bottleneck):
    """Codes drawn from q(code | x), a softmax at every position; p(code) is uniform, 1 / K (Mnih and Rezende 2016).

    For latents without a gradient of their own: ``wavevq.vimco`` trains it. K = 2 are Bernoulli latents. Drawn wherever
    examples are numbered (``index``), one code a position; the rate then is log q - log p of those codes, whose mean is
    the divergence. Without numbers the likeliest codes. codes: K. dim: D. seed: of the noise.
    """

    codes: int

    def __init__(self, codes: int, dim: int, seed: int = 0) -> None:
        super().__init__()
        self.codes, self.seed = codes, seed
        self.posterior = nn.Linear(dim, codes)
        self.codebook = nn.Parameter(torch.randn(codes, dim))

    def forward(self, z_e: Tensor, mask: Tensor, index: Tensor | None = None) -> Latents:
        log_q = self.log_q(z_e, mask)
        codes = log_q.argmax(-1) if index is None else self.draw(log_q, index, 1)[0]
        codes = codes.masked_fill(~mask, 0)
        z = self.lookup(codes) * mask[..., None]
        return Latents(z.to(z_e.dtype), codes, self.rate(log_q, codes, mask), z_e.new_zeros((), dtype=torch.float32))

    def log_q(self, z_e: Tensor, mask: Tensor) -> Tensor:
        """log q(code | x), float32 ``[B, *grid, K]``, of the encoder's output; arguments as ``forward``."""
        with torch.autocast(z_e.device.type, enabled=False):
            vectors = torch.where(mask[..., None], z_e.to(self.codebook.dtype), 0)
            logs: Tensor = self.posterior(vectors).log_softmax(-1)
            return logs

    @torch.no_grad()
    def draw(self, log_q: Tensor, index: Tensor, samples: int) -> Tensor:
        """Codes int64 ``[samples, B, *grid]``, by inverse distribution function with the noise of ``index``."""
        grid = log_q.shape[1:-1]
        noise = uniform(derived(self.seed, POSTERIOR), index.tolist(), samples * math.prod(grid))
        targets = noise.to(log_q).view(len(log_q), samples, *grid).movedim(1, -1).contiguous()
        cumulated = log_q.exp().cumsum(-1)
        found = torch.searchsorted(cumulated, targets * cumulated[..., -1:], right=True).clamp(max=self.codes - 1)
        return found.movedim(-1, 0)

    def rate(self, log_q: Tensor, codes: Tensor, mask: Tensor) -> Tensor:
        """log q - log p ``[..., B]`` of codes int64 ``[..., B, *grid]``, in nats summed over the valid positions."""
        logs = log_q.expand(*codes.shape, -1).gather(-1, codes[..., None])[..., 0]
        return ((logs + math.log(self.codes)) * mask).flatten(-mask.ndim + 1).sum(-1)

    def lookup(self, codes: Tensor) -> Tensor:
        """The vectors ``[B, *grid, D]`` of codes int64 ``[B, *grid]`` in [0, K)."""
        return F.embedding(codes, self.codebook)
