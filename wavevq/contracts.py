"""The shapes, the values and the protocols that every part of wavevq speaks.

Shape legend, used in every docstring::

    B batch   C channels   *space signal axes (T | H W)   *grid latent axes (F | h w | t h w)
    G codes a position     D code width                   K codes of a codebook
    L layers  R residual channels  W gate width  S skip channels  Q output classes  k kernel taps

Latents are channel-last over ``*grid``; signals are channel-first, ``[B, C, *space]``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

# What bits are told by: a sample of speech, an 8-bit value of an image (C H W of them), another model's code.
Unit = Literal["sample", "dim", "code"]


@dataclass(frozen=True)
class Batch:
    """Examples as the models receive them.

    x: float32 ``[B, C, *space]`` in [-1, 1], or another model's codes, int64 in [0, K), G in the place of C; for priors
    int64 ``[B, *grid]`` or ``[B, *grid, G]``.
    label: int64 ``[B]``, the speaker or the image class.
    lengths: int64 ``[B]``, how many positions of the first signal axis are signal; the rest is padding.
    index: int64 ``[B]``, the global number of each example: names its stream of random numbers.
    cond: extra conditioning (video: action, context frames), or None.
    """

    x: Tensor
    label: Tensor
    lengths: Tensor
    index: Tensor
    cond: Tensor | None = None

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with every tensor on ``device``."""
        moved = {f.name: value.to(device) for f in fields(self) if (value := getattr(self, f.name)) is not None}
        return replace(self, **moved)


@dataclass(frozen=True)
class Latents:
    """What a bottleneck makes of an encoder's output.

    z: float ``[B, *grid, D]``, straight-through: forward the quantized value, backward the encoder's.
    codes: int64 ``[B, *grid]`` in [0, K), or None for a bottleneck without codes. The grid of an image is (h, w, G).
    rate: nats ``[B]``, or None where it is a constant of the number of codes.
    loss: float32 ``[]``, weighted, to be added to the negative log-likelihood in nats a sample.
    """

    z: Tensor
    codes: Tensor | None
    rate: Tensor | None
    loss: Tensor


@dataclass(frozen=True)
class StepLoss:
    """A training step's loss ``[]`` (float32, to be minimised) and named detached scalars to log."""

    loss: Tensor
    metrics: dict[str, Tensor] = field(default_factory=dict)


class Likelihood(Protocol):
    """A decoder: p(x | z, label).

    unit: what its bits are told by. labelled: whether it depends on the label at all.
    """

    labelled: bool

    @property
    def unit(self) -> Unit: ...

    def nll(self, x: Tensor, z: Tensor, label: Tensor, mask: Tensor) -> Tensor:
        """Nats ``[B]``, summed over the positions of x where ``mask`` ``[B, *space]`` is true."""
        ...

    def sample(
        self,
        z: Tensor,
        label: Tensor,
        noise: Tensor,
        sampler: Any,
        temperature: float = 1.0,
        top_p: float = 1.0,
        frames: Tensor | None = None,
    ) -> Tensor:
        """x ``[B, C, *space]`` drawn with uniform ``noise`` in [0, 1), a number a value; frames: bool ``[B, *grid]``.

        noise: ``[B, *space]``, of images ``[B, C, *space]``. sampler: a ``Sampler``, of images a ``GridSampler``.
        """
        ...


class Trainable(Protocol):
    """Whatever the training loop can train."""

    def training_loss(self, batch: Batch) -> StepLoss: ...


class Sampler(Protocol):
    """Draws from an autoregressive network by inverse CDF: the randomness is an argument.

    ``str()`` says which backend it is and how it calculates.
    """

    def __call__(
        self,
        weights: Any,
        cond: Tensor,
        noise: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prefix: Tensor | None = None,
        state: Any | None = None,
    ) -> tuple[Tensor, Any]:
        """Int64 classes ``[B, T]`` in [0, Q), and the state after them.

        weights: the network (``wavevq.nn.wavenet.WaveNet``). cond: ``[B, F, L, 2W]``, the gate's conditioning at
        latent rate. noise: float ``[B, T]`` in [0, 1). temperature: above 0. top_p: in (0, 1], see
        ``sampling.reference.pick``. prefix: int64 ``[B, P]``, classes that are there already, or None. P + T is a
        multiple of F, and (P + T) / F samples share a frame. state: what an earlier call of the same sampler, network
        and batch returned, to go on where it stopped; it is used up. On the device of ``cond``. Arguments that do not
        fit each other fail an assertion.

        A stream's samples depend on its own cond, noise and prefix alone, not on the batch and not on how its frames
        are spread over calls, to the last bit.
        """
        ...


class GridSampler(Protocol):
    """``Sampler`` of networks over a grid, whose values are all drawn in one call. ``str()`` says what it is."""

    def __call__(
        self, weights: Any, cond: Tensor, noise: Tensor, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        """Int64 classes ``[B, h, w, G]`` in [0, Q), on the device of ``cond``.

        weights: the network (``wavevq.nn.pixelcnn.PixelCNN``). cond: ``[B, 1, 1, C]`` or ``[B, h, w, C]``. noise: float
        ``[B, h, w, G]`` in [0, 1). temperature and top_p: as ``Sampler``'s. What is drawn for one row of the batch
        depends on its own cond and noise alone, to the last bit.
        """
        ...
