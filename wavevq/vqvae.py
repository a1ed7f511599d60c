"""The VQ-VAE: encoder, bottleneck, decoder (Van den Oord et al. 2017, equation 3).

With a bottleneck without codes, of which there are two to compare with, it is a VAE or a plain autoencoder.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor, nn

from wavevq.contracts import Batch, Latents, Sampler, StepLoss
from wavevq.decoders import Decoder, Noise, of_speech
from wavevq.distributed import total, world_size
from wavevq.nn.adversary import Adversary
from wavevq.nn.augmentation import Augmentation
from wavevq.nn.bottlenecks import Bottleneck
from wavevq.nn.encoders import SpectralEncoder, StridedEncoder, frames_of, in_parts, valid
from wavevq.noise import GAIN, JITTER, derived, uniform

SAMPLES_A_PART = 65_536  # of a long signal that are encoded at once


class VqVae(nn.Module):
    """An autoencoder whose latents are codes, or what its bottleneck makes of them.

    jitter: chance that a training frame's latent is replaced by its left or right neighbour's; its randomness is
    that of each example's global index under ``seed``. past_gain: dB by which in training the past that the decoder
    hears is at most louder or quieter than it was, drawn uniformly for each example: so that the level comes from the
    codes, and clips that were drawn too quiet do not go on so. Bits of the training are under that past. adversary:
    what in training unteaches the encoder what latents say of the speaker; its steps are clipped with the others'.
    augmentation: what the encoder hears in training in place of the clip.
    """

    def __init__(
        self,
        encoder: nn.Module,
        bottleneck: Bottleneck,
        decoder: Decoder,
        *,
        hop: int,
        seed: int,
        jitter: float = 0.0,
        past_gain: float = 0.0,
        adversary: Adversary | None = None,
        augmentation: Augmentation | None = None,
    ) -> None:
        super().__init__()
        self.encoder = encoder
        self.bottleneck = bottleneck
        self.decoder = decoder
        self.adversary, self.augmentation = adversary, augmentation
        self.hop, self.jitter, self.past_gain, self.seed = hop, jitter, past_gain, seed

    @property
    def size(self) -> int:
        """K. For models with codes only: those that ask have refused the others."""
        assert self.bottleneck.codes is not None, "a model without codes has been refused"
        return self.bottleneck.codes

    def encode(self, x: Tensor, lengths: Tensor, index: Tensor | None = None) -> Latents:
        """Latents ``[B, *grid, D]`` and codes int64 ``[B, *grid]`` of ``[B, C, *space]``, axes multiples of the hop.

        index: int64 ``[B]``, the examples' global numbers where a VAE's latents shall be drawn; without, its means.
        """
        return self.quantize(self.encoder(x, lengths), lengths, index)

    def quantize(self, z_e: Tensor, lengths: Tensor, index: Tensor | None = None) -> Latents:
        """``encode`` of what the encoder has made of the signal, ``[B, *grid, D]``."""
        mask = along(valid(frames_of(lengths, self.hop), z_e.shape[1]), z_e.shape[:-1])
        latents: Latents = self.bottleneck(z_e, mask, index)
        return latents

    def encode_parts(self, pieces: Iterable[Tensor]) -> Iterator[Tensor]:
        """Codes int64 ``[1, n]`` of one signal that comes in pieces ``[n]``, together those that ``encode`` finds.

        z_e are within rounding those of the whole, so a code may be another where two are equally near within that.
        """
        assert isinstance(self.encoder, StridedEncoder | SpectralEncoder), "images have been refused"
        for z_e in in_parts(self.encoder, pieces, max(1, SAMPLES_A_PART // self.hop)):
            codes = self.quantize(z_e, torch.tensor([z_e.shape[1] * self.hop], device=z_e.device)).codes
            assert codes is not None, "a model without codes has been refused"
            yield codes

    def decode(
        self,
        codes: Iterable[tuple[Tensor, Tensor]],
        label: Tensor,
        noise: Noise,
        sampler: Sampler,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Iterator[Tensor]:
        """Samples float32 ``[B, 1, n x hop]`` of codes int64 ``[B, n]`` as they come, otherwise ``decoder.stream``.

        Raises WavevqError where the decoder is not one of speech.
        """
        latents = ((self.bottleneck.lookup(some), frames) for some, frames in codes)
        return of_speech(self.decoder).stream(latents, label, noise, self.hop, sampler, temperature, top_p)

    def training_loss(self, batch: Batch) -> StepLoss:
        """Negative log-likelihood in nats a sample, of images a dim, plus the bottleneck's loss.

        Latents are of what is ``heard``. With an adversary plus its nats a latent. Divided by the valid values, or
        latents, of all ranks over the number of ranks, since DDP averages gradients.
        """
        return self.loss_of(batch, self.encode(self.heard(batch), batch.lengths, batch.index))

    def heard(self, batch: Batch) -> Tensor:
        """What the encoder hears of a batch in training, shaped as ``batch.x``."""
        if self.augmentation is None:
            return batch.x
        return self.augmentation(batch.x, batch.lengths, batch.index, self.seed)

    def loss_of(self, batch: Batch, latents: Latents) -> StepLoss:
        """``training_loss``, given the batch's latents."""
        z = latents.z
        if self.jitter:
            counts = frames_of(batch.lengths, self.hop)
            z = jittered(z, counts, uniform(derived(self.seed, JITTER), batch.index.tolist(), z.shape[1]), self.jitter)
        colours, *space = batch.x.shape[1:]
        mask = along(valid(batch.lengths, space[0]), (len(batch.x), *space))
        if self.past_gain:
            draws = uniform(derived(self.seed, GAIN), batch.index.tolist(), 1)
            past = amplified(batch.x, self.past_gain * (2 * draws - 1))
            nats = of_speech(self.decoder).nll(batch.x, z, batch.label, mask, past).sum()
        else:
            nats = self.decoder.nll(batch.x, z, batch.label, mask).sum()
        count = total(mask.sum() * colours)
        loss = nats / (count / world_size()) + latents.loss
        bits = total(nats) / count / math.log(2)
        whole, rate = f"bits_per_{self.decoder.unit}", f"rate_bits_per_{self.decoder.unit}"
        metrics = {whole: bits, "bottleneck_loss": total(latents.loss) / world_size()}
        frames = valid(frames_of(batch.lengths, self.hop), z.shape[1])
        if self.adversary is not None:
            unsure, positions = self.adversary(latents.z, batch.label, frames), total(frames.sum())
            loss = loss + unsure / (positions / world_size())
            # At the entropy of the speakers, log2 of their number where all say as much, latents tell nothing.
            metrics["speaker_bits"] = total(unsure) / positions / math.log(2)
        if latents.rate is not None:
            metrics[rate] = total(latents.rate.sum()) / count / math.log(2)
            metrics[whole] = bits + metrics[rate]  # of the evidence bound
        if self.bottleneck.codes is not None:
            assert latents.codes is not None
            heard = latents.codes[frames].flatten()
            metrics["codes_used"] = (total(torch.bincount(heard, minlength=self.bottleneck.codes)) > 0).sum()
        return StepLoss(loss, metrics)


def along(mask: Tensor, axes: Sequence[int]) -> Tensor:
    """A mask of the first axis behind B, bool ``[B, N]``, over all of them: ``[B, N, ...]``, of size ``axes``."""
    return mask.view(*mask.shape, *[1] * (len(axes) - 2)).expand(*axes)


def amplified(x: Tensor, decibels: Tensor) -> Tensor:
    """x ``[B, 1, T]``, each row louder by its ``decibels`` ``[B, 1]``; it may leave [-1, 1]."""
    return x * (10 ** (decibels / 20)).to(x)[..., None]


def jittered(z: Tensor, frames: Tensor, noise: Tensor, chance: float) -> Tensor:
    """z ``[B, F, D]`` with each frame replaced by a neighbour with probability ``chance`` (Chorowski 2019, III-C).

    Half of the replacements come from the left and half from the right, none from outside the valid frames
    (int64 ``[B]``). noise: uniform ``[B, F]``.
    """
    noise = noise.to(z.device)
    shift = (noise < chance).long() - 2 * (noise < chance / 2).long()
    own = torch.arange(z.shape[1], device=z.device)
    source = torch.minimum((own + shift).clamp(min=0), (frames[:, None] - 1).clamp(min=0))
    # Padding stays where it is.
    source = torch.where(own < frames[:, None], source, own)
    return z.gather(1, source[..., None].expand_as(z))
