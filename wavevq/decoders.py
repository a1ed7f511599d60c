"""Decoders are likelihoods, p(x | z, label): each has ``nll`` and ``sample`` (``contracts.Likelihood``)."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.contracts import GridSampler, Likelihood, Sampler, Unit
from wavevq.errors import WavevqError
from wavevq.nn.distributions import Categorical, Classes, Codes, MuLawCategorical, Pixels, softmax_nats
from wavevq.nn.encoders import ResidualBlock
from wavevq.nn.images import ImageUpsampler, keep_variance
from wavevq.nn.pixelcnn import PixelCNN
from wavevq.nn.video import folded, unfolded
from wavevq.nn.wavenet import WaveNet
from wavevq.sampling import Backend, Precision, choose, choose_grid
from wavevq.sampling.reference import one_thread, pick

LOGITS_AT_ONCE = {"cpu": 2**20, "cuda": 2**26}  # on CPU they stay in the cache

# Matrix products of different heights round differently. So that a clip's samples depend neither on its batch nor on
# how its latents arrive, sampling computes conditioning in one shape only: this many frames of this many clips.
FRAMES_A_BLOCK = 16
CLIPS_A_BLOCK = {"cpu": 1, "cuda": 32}

Noise = Callable[[int, int], Tensor]  # (start, count) -> uniform in [0, 1), [B, count], of the positions from start on


class Decoder(nn.Module, Likelihood):
    """p(x | z, label); distribution: what of x it is the likelihood of."""

    distribution: Classes

    @property
    def unit(self) -> Unit:
        return self.distribution.unit

    def reconstruct(
        self, z: Tensor, label: Tensor, noise: Tensor, sampler: Any, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        """x ``[B, C, *space]`` as the latents tell it: here one that is drawn; arguments as ``sample``'s."""
        return self.sample(z, label, noise, sampler, temperature, top_p)


class WaveNetDecoder(Decoder):
    """A WaveNet over mu-law classes, conditioned on latents and speaker (Van den Oord et al. 2017, section 4.3).

    The latents ``[B, F, D]`` pass a small network at latent rate, are joined by the speaker's embedding, and give
    every layer's gate input once a frame; a frame's row serves its hop of samples.
    """

    labelled = True
    distribution: MuLawCategorical

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
        # What speakers who came later add to the gate inputs, float [speakers, L, 2W]; zeros of those of the training.
        self.register_buffer("added", None)
        self.added: Tensor | None

    @torch.no_grad()
    def voice(self, label: int) -> Tensor:
        """What a speaker adds to every layer's gate inputs, the same in all frames: float ``[L, 2W]``."""
        embedding = self.speaker.weight[label]
        own = (self.wavenet.condition.weight[:, -len(embedding) :] @ embedding).view(-1, 2 * self.wavenet.gate)
        return own if self.added is None else own + self.added[label]

    @torch.no_grad()
    def add_speakers(self, voices: Sequence[Tensor]) -> None:
        """More speakers, by their ``voice`` each, whose labels follow those that there are; these stay as they are.

        Their rows of the embedding's table are zeros: what was learned with the table reaches few directions of the
        gates, one a speaker of the training.
        """
        if voices:
            table, shape = self.speaker.weight, (len(self.wavenet.dilations), 2 * self.wavenet.gate)
            added = table.new_zeros(len(table), *shape) if self.added is None else self.added
            self.added = torch.cat([added, torch.stack([*voices]).to(table)])
            rows = torch.cat([table, table.new_zeros(len(voices), table.shape[1])])
            self.speaker = nn.Embedding(len(rows), rows.shape[1], _weight=rows)

    def conditioning(self, z: Tensor, label: Tensor, frames: Tensor) -> Tensor:
        """Gate inputs ``[B, F, L, 2W]``. z: ``[B, F, D]``, label: int64 ``[B]``, frames: bool ``[B, F]``, the valid."""
        return self._gates(self._context(z, frames), label)

    def _context(self, z: Tensor, frames: Tensor) -> Tensor:
        """What frames know of each other: ``[B, F, C]`` of z ``[B, F, D]``."""
        mask = frames[:, None]
        hidden: Tensor = self.widen(z.transpose(1, 2)) * mask
        for block in self.context:
            hidden = block(hidden, mask)
        return hidden.transpose(1, 2)

    def _gates(self, hidden: Tensor, label: Tensor) -> Tensor:
        """Gate inputs ``[B, F, L, 2W]`` of the context network's output ``[B, F, C]`` and labels int64 ``[B]``."""
        speaker = self.speaker(label)[:, None].expand(-1, hidden.shape[1], -1)
        gates = self.wavenet.conditioning(torch.cat([hidden, speaker.to(hidden.dtype)], dim=-1))
        return gates if self.added is None else gates + self.added[label][:, None]

    def nll(self, x: Tensor, z: Tensor, label: Tensor, mask: Tensor, past: Tensor | None = None) -> Tensor:
        """Nats ``[B]``, float32, summed over valid samples.

        x: ``[B, 1, T]`` in [-1, 1]; z: ``[B, F, D]``, T a multiple of F; label: int64 ``[B]``; mask: bool ``[B, T]``;
        past: ``[B, 1, T]``, what the network hears, clipped to [-1, 1], for the samples before each; by default x.
        """
        classes = self.distribution.encode(x[:, 0])
        heard = classes if past is None else self.distribution.encode(past[:, 0])
        hop = x.shape[-1] // z.shape[1]
        frames = mask[:, ::hop]  # a frame is valid if it holds one valid sample, and the first is the first to be
        skips = self.wavenet.skips(heard, self.conditioning(z, label, frames))
        # The logits are the largest tensor there is: those of a long clip never stand there at once.
        size = max(1, LOGITS_AT_ONCE[x.device.type] // (len(x) * self.wavenet.classes))
        parts = zip(*(torch.split(whole, size, 1) for whole in (skips, classes, mask)), strict=True)
        nats = [(self.distribution.nll(self.wavenet.head(s), c) * m).sum(1) for s, c, m in parts]
        return torch.stack(nats).sum(0)

    def sample(
        self,
        z: Tensor,
        label: Tensor,
        noise: Tensor,
        sampler: Sampler,
        temperature: float = 1.0,
        top_p: float = 1.0,
        frames: Tensor | None = None,
    ) -> Tensor:
        """Samples float32 ``[B, 1, T]`` in [-1, 1], drawn with uniform noise ``[B, T]``; T a multiple of F.

        frames: bool ``[B, F]``, the valid ones of shorter clips; None for all.
        """
        if frames is None:
            frames = torch.ones(z.shape[:2], dtype=torch.bool, device=z.device)
        hop = noise.shape[1] // z.shape[1]

        def at(start: int, count: int) -> Tensor:
            return noise[:, start : start + count]

        return torch.cat(list(self.stream([(z, frames)], label, at, hop, sampler, temperature, top_p)), dim=-1)

    @torch.no_grad()
    def stream(
        self,
        latents: Iterable[tuple[Tensor, Tensor]],
        label: Tensor,
        noise: Noise,
        hop: int,
        sampler: Sampler,
        temperature: float = 1.0,
        top_p: float = 1.0,
    ) -> Iterator[Tensor]:
        """Samples float32 ``[B, 1, n x hop]`` in [-1, 1], a block of frames at a time as the latents come.

        latents: pieces z ``[B, n, D]``, n >= 0, each with bool ``[B, n]``, the valid frames of shorter clips. A block
        is drawn as soon as the frames are there that its conditioning sees, and no piece is asked for before it is
        needed. A clip's samples do not depend on the pieces nor on the other clips, to the last bit.
        """
        state: Any = None
        done = 0
        for z, frames, count in windows(latents, FRAMES_A_BLOCK, len(self.context)):
            cond = self._block(z, frames, label)[:, :count].contiguous()
            uniform = noise(done * hop, count * hop).to(z.device)
            classes, state = sampler(self.wavenet, cond, uniform, temperature, top_p, state=state)
            yield self.distribution.decode(classes)[:, None]
            done += count

    def _block(self, z: Tensor, frames: Tensor, label: Tensor) -> Tensor:
        """Gate inputs ``[B, FRAMES_A_BLOCK, L, 2W]`` of a window's inner frames; arguments as ``conditioning``."""
        clips, halo = CLIPS_A_BLOCK[z.device.type], len(self.context)
        gates = []
        for first in range(0, len(z), clips):
            rows = slice(first, first + clips)
            lacking = clips - len(z[rows])
            # Copies: the same strides and alignment every time.
            window = z.new_zeros(clips, *z.shape[1:])
            window[: clips - lacking] = z[rows]
            with one_thread(z.device):  # so that their number changes nothing, and too small for more
                hidden = self._context(window, F.pad(frames[rows], (0, 0, 0, lacking)))
                inner = hidden[:, halo : halo + FRAMES_A_BLOCK]
                gates.append(self._gates(inner, F.pad(label[rows], (0, lacking)))[: clips - lacking])
        return torch.cat(gates)


class ImageDecoder(Decoder):
    """Pixels independent of each other given the latents ``[B, h, w, G, D]`` (Van den Oord et al. 2017, section 4.1).

    So what a picture shows must stand in its codes: there are no earlier pixels to guess it from, and no label.
    """

    labelled = False
    distribution: Pixels

    def __init__(self, network: ImageUpsampler, distribution: Pixels) -> None:
        super().__init__()
        self.network, self.distribution = network, distribution

    def nll(self, x: Tensor, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Nats ``[B]``, float32, of the 8-bit values of all colours of the pixels where the mask is true.

        x: ``[B, C, H, W]`` in [-1, 1]; label: int64 ``[B]``, not looked at; mask: bool ``[B, H, W]``.
        """
        nats = self.distribution.nll(self.network(z), self.distribution.encode(x))
        return (nats * mask).flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self,
        z: Tensor,
        label: Tensor,
        noise: Tensor,
        sampler: Sampler | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        frames: Tensor | None = None,
    ) -> Tensor:
        """x float32 ``[B, C, H, W]``, drawn with uniform noise ``[B, C, H, W]``; no sampler is needed.

        Images come one after the other, so one's pixels depend neither on the others nor on their number.
        """
        return torch.cat([self._one(z[i : i + 1], noise[i : i + 1], temperature, top_p) for i in range(len(z))])

    def _one(self, z: Tensor, noise: Tensor, temperature: float, top_p: float) -> Tensor:
        parameters = self.network(z)
        values = torch.empty_like(noise[:, :0], dtype=torch.int64)
        for colour in range(noise.shape[1]):
            logits = self.distribution.table(parameters, values)
            values = torch.cat([values, pick(logits, noise[:, colour], temperature, top_p)[:, None]], dim=1)
        return self.distribution.decode(values)

    def reconstruct(
        self, z: Tensor, label: Tensor, noise: Tensor, sampler: Any, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        """The expected image: nothing is drawn."""
        return self.mean(z)

    @torch.no_grad()
    def mean(self, z: Tensor) -> Tensor:
        """The expected image, float32 ``[B, C, H, W]`` in [-1, 1]: the reconstruction of least squared error."""
        return self.distribution.mean(self.network(z)).float()


class FrameDecoder(Decoder):
    """Clips ``[B, C, T, H, W]``, every frame by itself, of latents ``[B, t, h, w, G, D]``, t = T.

    frame: makes images; what its frames show moves as their codes say.
    """

    labelled = False
    distribution: Pixels

    def __init__(self, frame: ImageDecoder) -> None:
        super().__init__()
        self.frame, self.distribution = frame, frame.distribution

    def nll(self, x: Tensor, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Nats ``[B]``, float32, of the 8-bit values of all colours of the pixels where the mask is true.

        x: ``[B, C, T, H, W]`` in [-1, 1]; label: int64 ``[B]``, not looked at; mask: bool ``[B, T, H, W]``.
        """
        nats = self.frame.nll(folded(x), z.flatten(0, 1), label, mask.flatten(0, 1))
        return nats.view(len(x), -1).sum(1)

    def sample(
        self,
        z: Tensor,
        label: Tensor,
        noise: Tensor,
        sampler: Sampler | None = None,
        temperature: float = 1.0,
        top_p: float = 1.0,
        frames: Tensor | None = None,
    ) -> Tensor:
        """x float32 ``[B, C, T, H, W]``, drawn with uniform noise of that shape; as ``ImageDecoder.sample``."""
        drawn = self.frame.sample(z.flatten(0, 1), label, folded(noise), sampler, temperature, top_p)
        return unfolded(drawn, len(z))

    def reconstruct(
        self, z: Tensor, label: Tensor, noise: Tensor, sampler: Any, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        """The expected frames: nothing is drawn."""
        return unfolded(self.frame.mean(z.flatten(0, 1)), len(z))


class PixelCnnDecoder(Decoder):
    """A PixelCNN over the 8-bit values of pixels, the colours of one after each other, given the latents.

    Or over another model's codes: everywhere below x is then these, int64 ``[B, C, H, W]``, C the number of them at a
    position. Van den Oord et al. 2017, section 4.2: such a decoder can do without its latents, which a continuous
    bottleneck then leaves unused. context: brings latents ``[B, h, w, G, D]`` to every pixel; label_dim: width of the
    embedding of the label that joins them, 0 for none.
    """

    distribution: Categorical | Codes

    def __init__(
        self,
        context: ImageUpsampler,
        network: PixelCNN,
        distribution: Categorical | Codes,
        *,
        labels: int,
        label_dim: int,
    ) -> None:
        super().__init__()
        self.context, self.network, self.distribution = context, network, distribution
        # Else latents begin as a whisper beside the pixels, and the commitment loss, whose gradient is then the larger,
        # ends with one code before the decoder has learned to read any.
        keep_variance(context)
        self.label = nn.Embedding(labels, label_dim) if label_dim else None
        self.labelled = self.label is not None

    def conditioning(self, z: Tensor, label: Tensor) -> Tensor:
        """``[B, H, W, cond_dim]`` of z ``[B, h, w, G, D]`` and labels int64 ``[B]``."""
        there: Tensor = self.context(z).permute(0, 2, 3, 1)
        if self.label is None:
            return there
        label = self.label(label)[:, None, None].expand(-1, *there.shape[1:3], -1)
        return torch.cat([there, label.to(there.dtype)], dim=-1)

    def nll(self, x: Tensor, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Nats ``[B]``, float32, of the 8-bit values of all colours of the pixels where the mask is true.

        x: ``[B, C, H, W]`` in [-1, 1]; label: int64 ``[B]``; mask: bool ``[B, H, W]``.
        """
        values = self.distribution.encode(x).permute(0, 2, 3, 1)
        nats = softmax_nats(self.network(values, self.conditioning(z, label)), values)
        return (nats * mask[..., None]).flatten(1).sum(1)

    @torch.no_grad()
    def sample(
        self,
        z: Tensor,
        label: Tensor,
        noise: Tensor,
        sampler: GridSampler,
        temperature: float = 1.0,
        top_p: float = 1.0,
        frames: Tensor | None = None,
    ) -> Tensor:
        """x float32 ``[B, C, H, W]``, drawn with uniform noise ``[B, C, H, W]``; one's pixels are as it is alone."""
        # Conditioning comes one image after the other, since products of several round differently.
        cond = [self.conditioning(z[i : i + 1], label[i : i + 1]) for i in range(len(z))]
        values = sampler(self.network, torch.cat(cond), noise.permute(0, 2, 3, 1), temperature, top_p)
        return self.distribution.decode(values.permute(0, 3, 1, 2))


def sampler_for(decoder: Decoder, backend: Backend = "auto", precision: Precision = "bfloat16") -> Any:
    """What ``sample`` of a decoder takes, where the decoder is; None where it needs none. Raises as ``choose``."""
    match decoder:
        case WaveNetDecoder():
            return choose(backend, precision, decoder.speaker.weight.device)
        case PixelCnnDecoder():
            return choose_grid(backend, precision)
        case _:
            return None


def of_speech(decoder: Decoder) -> WaveNetDecoder:
    """The decoder, which must be one of speech. Raises WavevqError for another: what asks is for speech alone."""
    if not isinstance(decoder, WaveNetDecoder):
        raise WavevqError("this run's decoder makes images; only one of speech has voices and streams of samples")
    return decoder


def windows(pieces: Iterable[tuple[Tensor, Tensor]], block: int, halo: int) -> Iterator[tuple[Tensor, Tensor, int]]:
    """Pieces z ``[B, n, D]`` and bool ``[B, n]`` as windows of ``block`` frames with ``halo`` on both sides.

    Each window, ``[B, block + 2 halo, ...]``, comes with how many of its inner frames there are, ``block`` but for the
    last; frames before the first and after the last are False. One is yielded as soon as it is whole.
    """
    width = block + 2 * halo
    z, frames = None, torch.empty(0)
    for more, mask in pieces:
        if z is None:
            z, frames = F.pad(more, (0, 0, halo, 0)), F.pad(mask, (halo, 0))
        else:
            z, frames = torch.cat([z, more], 1), torch.cat([frames, mask], 1)
        while z.shape[1] >= width:
            yield z[:, :width], frames[:, :width], block
            z, frames = z[:, block:], frames[:, block:]
    while z is not None and (left := z.shape[1] - halo) > 0:
        lacking = width - z.shape[1]
        yield F.pad(z, (0, 0, 0, lacking)), F.pad(frames, (0, lacking)), min(block, left)
        z, frames = z[:, block:], frames[:, block:]
