"""VQ-VAE and prior trained together, which Van den Oord et al. 2017 leave for future research (section 3.3).

The loss is the VQ-VAE's own, of equation 3, and the prior's negative log-likelihood of the current codes. Minimised
alone, the latter makes all codes one; so the way of its gradient is laid out:

- Targets are one-hot rows forward and softmax(-d^2 / tau) backward, d the distances of the encoder's output to the
  codebook's vectors. Where the prior finds a near code likelier than the nearest, the encoder is drawn towards it.
- Inputs are straight-through: the embedding of the nearest code forward; backward, the gradient passes to the encoder
  through the same soft rows.
- Nothing of it reaches the codebook, whose vectors are constants here (as the step's own update has left them). They
  follow the encoder's output as ever.
- The prior's parameters get the full gradient of their nats a code, whatever the weight, which scales what reaches the
  encoder. There the unit is that of the distortion: nats summed, over the signal's valid samples. So at weight 1 the
  VQ-VAE minimises rate + distortion, and at weight 0 it is trained as without a prior, bit for bit.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.contracts import Batch, StepLoss
from wavevq.distributed import total
from wavevq.nn.encoders import frames_of, valid
from wavevq.nn.quantizers import VectorQuantizer
from wavevq.prior import Prior
from wavevq.vqvae import VqVae


class JointVqVae(VqVae):
    """A VQ-VAE and, as a part of it, the prior of its codes. weight and tau as above; the prior has an end class."""

    bottleneck: VectorQuantizer

    def __init__(self, model: VqVae, prior: Prior, *, weight: float, tau: float) -> None:
        super().__init__(
            model.encoder,
            model.bottleneck,
            model.decoder,
            hop=model.hop,
            seed=model.seed,
            jitter=model.jitter,
            past_gain=model.past_gain,
            adversary=model.adversary,
            augmentation=model.augmentation,
        )
        self.prior, self.weight, self.tau = prior, weight, tau

    def training_loss(self, batch: Batch) -> StepLoss:
        """Nats a sample plus the bottleneck's loss, plus the prior's nats a code; batch.cond as ``Crops`` makes it."""
        z_e = self.encoder(self.heard(batch), batch.lengths)
        latents = self.quantize(z_e, batch.lengths)
        assert latents.codes is not None
        distortion = self.loss_of(batch, latents)
        rate = self.prior.training_loss(self.sequences(batch, z_e, latents.codes))
        return StepLoss(distortion.loss + rate.loss, distortion.metrics | rate.metrics)

    def sequences(self, batch: Batch, z_e: Tensor, codes: Tensor) -> Batch:
        """What the prior reads and learns of a batch: x one-hot rows ``[B, F + 1, K + 1]``, from z_e and codes.

        The end class follows the last code where less than a frame of the clip is left behind the crop: crops begin
        anywhere, so nearly none ends with its clip to the sample.
        """
        assert batch.cond is not None
        before, after = batch.cond.unbind(1)
        frames = frames_of(batch.lengths, self.hop)
        ends = after < self.hop
        place = torch.arange(codes.shape[1] + 1, device=codes.device)
        last = (place == frames[:, None]) & ends[:, None]
        said = F.pad(codes, (0, 1)).masked_fill(last, self.prior.codes)
        found = Batch(said, batch.label, frames + ends, batch.index, (before > 0).long())
        if not self.weight:
            return found
        # The prior's loss is in nats a code; a sample's share of it is what reaches the encoder.
        share = total(self.prior.taught(found).sum()) / total(batch.lengths.sum())
        soft = soft_codes(z_e, self.bottleneck.codebook, self.tau) * valid(frames, z_e.shape[1])[..., None]
        rows = F.one_hot(said, self.prior.codes + 1).to(soft.dtype)
        return replace(found, x=rows + F.pad(self.weight * share * (soft - soft.detach()), (0, 1, 0, 1)))


def soft_codes(z_e: Tensor, codebook: Tensor, tau: float) -> Tensor:
    """softmax(-||z_e - e||^2 / tau) ``[B, F, K]`` of z_e ``[B, F, D]`` over the codebook ``[K, D]``, a constant."""
    with torch.autocast(z_e.device.type, enabled=False):
        table = codebook.detach()
        # Without ||z_e||^2, which is the same for all codes.
        scores = 2 * z_e.to(table.dtype) @ table.t() - table.square().sum(1)
        return torch.softmax(scores / tau, dim=-1)
