"""Discrete latents trained by sampling: the VIMCO of the paper's CIFAR-10 figures (Van den Oord et al. 2017, 4.1).

Source: Mnih and Rezende 2016, "Variational inference for Monte Carlo objectives".
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from wavevq.contracts import Batch, StepLoss
from wavevq.distributed import total, world_size
from wavevq.nn.bottlenecks import Drawn
from wavevq.nn.encoders import frames_of, valid
from wavevq.vqvae import VqVae, along


class VimcoVae(VqVae):
    """A model whose codes are drawn: it maximises log 1/S sum_s p(x, c_s) / q(c_s | x), c_1 .. c_S from q (equation 3).

    samples: S, two or more; the paper has 50. The bound's gradient goes through p and q as far as they have one; that
    of the drawing is estimated by the score of each c_s times what c_s adds to the bound (equations 7 and 9). The noise
    is that of each example's global index.
    """

    bottleneck: Drawn

    def __init__(self, model: VqVae, *, samples: int) -> None:
        assert samples > 1, "a sample is compared with the others"
        super().__init__(model.encoder, model.bottleneck, model.decoder, hop=model.hop, seed=model.seed)
        self.samples = samples

    def training_loss(self, batch: Batch) -> StepLoss:
        """Minus the bound in nats a sample, of images a dim, with the gradient above; divided as ``VqVae``'s is."""
        nats, rates, codes = self._drawn(batch, self.samples)
        log_weights = -(nats + rates)
        bound = _mean(log_weights)
        # rates and log q have one gradient: p is constant.
        score = (gains(log_weights.detach()) * rates).sum(0)
        count = total(batch.lengths.sum() * batch.x[0, :, 0].numel())
        loss = -(bound + score - score.detach()).sum() / (count / world_size())
        used = total(torch.bincount(codes, minlength=self.bottleneck.codes)) > 0
        metrics = {
            f"bits_per_{self.decoder.unit}": total(-bound.sum()) / count / math.log(2),
            f"rate_bits_per_{self.decoder.unit}": total(rates.mean(0).sum()) / count / math.log(2),
            "codes_used": used.sum(),
        }
        return StepLoss(loss, metrics)

    @torch.no_grad()
    def bound(self, batch: Batch, samples: int) -> Tensor:
        """Nats ``[B]`` that -log p(x) is at most, on average over the noise; the more samples, the tighter."""
        nats, rates, _ = self._drawn(batch, samples)
        return -_mean(-(nats + rates))

    def _drawn(self, batch: Batch, samples: int) -> tuple[Tensor, Tensor, Tensor]:
        """-log p(x | c_s) and log q(c_s | x) - log p(c_s), both ``[S, B]`` in nats, and all valid codes in a row."""
        z_e = self.encoder(batch.x, batch.lengths)
        frames = along(valid(frames_of(batch.lengths, self.hop), z_e.shape[1]), z_e.shape[:-1])
        log_q = self.bottleneck.log_q(z_e, frames)
        codes = self.bottleneck.draw(log_q, batch.index, samples)
        z = self.bottleneck.lookup(codes) * frames[..., None]
        mask = along(valid(batch.lengths, batch.x.shape[2]), (len(batch.x), *batch.x.shape[2:]))
        x, label, mask = (of.repeat(samples, *[1] * (of.ndim - 1)) for of in (batch.x, batch.label, mask))
        nats = self.decoder.nll(x, z.flatten(0, 1).to(z_e.dtype), label, mask)
        return nats.view(samples, -1), self.bottleneck.rate(log_q, codes, frames), codes[:, frames].flatten()


def gains(log_weights: Tensor) -> Tensor:
    """What each sample adds to the bound ``[S, B]``: less the bound with the geometric mean of the others in its place.

    So the baseline of a sample does not depend on it, and the estimate stays unbiased.
    """
    samples = len(log_weights)
    others = (log_weights.sum(0) - log_weights) / (samples - 1)
    own = torch.eye(samples, dtype=torch.bool, device=log_weights.device)[..., None]
    replaced = torch.where(own, others[:, None], log_weights[None])
    return _mean(log_weights) - _mean(replaced.transpose(0, 1))


def _mean(logs: Tensor) -> Tensor:
    """The logarithm of the mean over the first axis."""
    return logs.logsumexp(0) - math.log(len(logs))
