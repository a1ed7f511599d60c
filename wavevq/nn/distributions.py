"""Output distributions: what a network's last layer says of a sample of speech, the colours of a pixel, or a code."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq import pixels
from wavevq.audio import mu_law_decode, mu_law_encode
from wavevq.contracts import Unit

FIRST_LOG_SCALE = -2.0  # of [-1, 1], where a network begins, whose outputs are about 0: near to that of images
LEAST_LOG_SCALE = -7.0  # of [-1, 1]: a ninth of a value of 8 bits; finer ones gain nothing, and overflow
NARROW = 1e-6  # below it log(1 - exp(-x)) is log x in float32
REACH = 0.5 / pixels.HALF  # of a value's interval in [-1, 1], to each side


class Classes(Protocol):
    """What a signal in [-1, 1] is turned into, whose likelihood is told; unit: one of them."""

    @property
    def unit(self) -> Unit: ...

    @property
    def classes(self) -> int:
        """Q."""
        ...

    def encode(self, x: Tensor) -> Tensor:
        """Classes int64 in [0, Q) of a signal in [-1, 1], any shape."""
        ...

    def decode(self, classes: Tensor) -> Tensor:
        """The signal float32 in [-1, 1] of classes, any shape."""
        ...


@dataclass(frozen=True)
class MuLawCategorical:
    """A softmax over the classes of a mu-law companded sample (Van den Oord et al. 2016, section 2.2).

    The likelihood is that of the class, not of the 16-bit sample: bits/sample are bits per mu-law class.
    """

    unit: ClassVar[Unit] = "sample"
    classes: int = 256

    def encode(self, x: Tensor) -> Tensor:
        """Classes int64 of samples in [-1, 1], any shape."""
        return mu_law_encode(x, self.classes)

    def decode(self, classes: Tensor) -> Tensor:
        """Samples float32 in [-1, 1] of classes, any shape."""
        return mu_law_decode(classes, self.classes)

    def nll(self, logits: Tensor, classes: Tensor) -> Tensor:
        """Nats a sample, float32 (float64 of float64 logits) ``[...]``, of logits ``[..., Q]`` and classes."""
        return softmax_nats(logits, classes)


def softmax_nats(logits: Tensor, classes: Tensor) -> Tensor:
    """Nats a class, float32 (float64 of float64 logits) ``[...]``, of logits ``[..., Q]`` and classes, int64."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    nats = F.cross_entropy(logits.flatten(0, -2), classes.flatten(), reduction="none")
    return nats.view(classes.shape)


@dataclass(frozen=True)
class Codes:
    """What are classes already: another model's codes, each in [0, ``classes``). There is no signal to be told from."""

    unit: ClassVar[Unit] = "code"
    classes: int

    def encode(self, x: Tensor) -> Tensor:
        return x

    def decode(self, classes: Tensor) -> Tensor:
        return classes


@dataclass(frozen=True)
class Pixels(ABC):
    """What a decoder says of the C colours of a pixel, 8 bits each: value v is v / 127.5 - 1 in [-1, 1].

    Its parameters are a network's output, float ``[B, P, H, W]``, P = ``width``. The likelihood is that of the 8-bit
    value, so nats over C H W log 2 are honest bits/dim; it is calculated in float32 (float64 of float64).
    """

    unit: ClassVar[Unit] = "dim"
    colours: int = 3

    @property
    def classes(self) -> int:
        return pixels.VALUES

    @property
    @abstractmethod
    def width(self) -> int:
        """P: numbers that tell a pixel's distribution."""

    def encode(self, x: Tensor) -> Tensor:
        """8-bit values int64 of a signal in [-1, 1], any shape."""
        return pixels.values(x)

    def decode(self, classes: Tensor) -> Tensor:
        """The signal float32 in [-1, 1] of 8-bit values, any shape."""
        return _signal(classes, torch.float32)

    @abstractmethod
    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        """Nats a pixel ``[B, H, W]``, of all its colours, of 8-bit values int64 ``[B, C, H, W]``."""

    @abstractmethod
    def table(self, parameters: Tensor, before: Tensor) -> Tensor:
        """Log-probabilities ``[B, H, W, 256]`` of the colour that follows ``before``, int64 ``[B, c, H, W]``, c < C."""

    @abstractmethod
    def mean(self, parameters: Tensor) -> Tensor:
        """The expected signal ``[B, C, H, W]`` in [-1, 1]."""

    def _split(self, parameters: Tensor) -> Tensor:
        """Float32 or float64 ``[B, C, P / C, H, W]``: what is said of each colour by itself."""
        batch, _, height, width = parameters.shape
        wide = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        return wide.reshape(batch, self.colours, -1, height, width)


@dataclass(frozen=True)
class Categorical(Pixels):
    """A softmax over the 256 values of each colour (Van den Oord et al. 2016, "Pixel recurrent neural networks")."""

    @property
    def width(self) -> int:
        return self.colours * self.classes

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        return F.cross_entropy(self._split(parameters).transpose(1, 2), values, reduction="none").sum(1)

    def table(self, parameters: Tensor, before: Tensor) -> Tensor:
        logs: Tensor = self._split(parameters)[:, before.shape[1]].movedim(1, -1).log_softmax(-1)
        return logs

    def mean(self, parameters: Tensor) -> Tensor:
        shares = self._split(parameters).softmax(2)
        signal = _signal(torch.arange(self.classes, device=shares.device), shares.dtype)
        expected: Tensor = torch.tensordot(shares.movedim(2, -1), signal, dims=1)
        return expected


@dataclass(frozen=True)
class Gaussian(Pixels):
    """A normal density of the value after uniform dequantisation, v + u with u in [-1/2, 1/2) (Theis et al. 2016, 3.1).

    Its negative logarithm, averaged over u, bounds the nats of the 8-bit value from above by Jensen's inequality. The
    average is taken in closed form: u adds its variance, 1/12, to the squared error.
    """

    @property
    def width(self) -> int:
        return 2 * self.colours

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        mean, log_scale = self._values(parameters)
        squared = (values - mean).square() + 1 / 12
        return (log_scale + (math.log(2 * math.pi) + squared * torch.exp(-2 * log_scale)) / 2).sum(1)

    def table(self, parameters: Tensor, before: Tensor) -> Tensor:
        """Of the density's integrals over each value's unit, the first and the last with the tail outside."""
        mean, log_scale = (of[:, before.shape[1], ..., None].double() for of in self._values(parameters))
        edges = torch.arange(1, self.classes, device=mean.device) - 0.5
        bounds = (edges - mean) * torch.exp(-log_scale)
        lower, upper = F.pad(bounds, (1, 0), value=-math.inf), F.pad(bounds, (0, 1), value=math.inf)
        # From the side where the distribution function is small, else far integrals round to 0.
        flipped = lower > 0
        low, high = torch.where(flipped, -upper, lower), torch.where(flipped, -lower, upper)
        of_high = torch.special.log_ndtr(high)
        logs: Tensor = of_high + torch.log(-torch.expm1(torch.special.log_ndtr(low) - of_high))
        return logs.float() if parameters.dtype != torch.float64 else logs

    def mean(self, parameters: Tensor) -> Tensor:
        means: Tensor = self._split(parameters)[:, :, 0]
        return means.clamp(-1, 1)

    def _values(self, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and logarithm of the deviation ``[B, C, H, W]``, in 8-bit values."""
        mean, log_scale = self._split(parameters).unbind(2)
        return (mean + 1) * pixels.HALF, log_scale_of(log_scale) + math.log(pixels.HALF)


@dataclass(frozen=True)
class Logistics(Pixels):
    """A mixture of logistics, each integrated over the values' intervals, the first and last with the tail outside.

    Of Salimans et al. 2017, "PixelCNN++", section 2.1. mixtures: M, of each colour by itself. coupled: one choice of
    the component for all colours of a pixel instead, whose means go linearly with the colours before (section 2.2);
    without it the colours are independent, given the network's input.
    """

    mixtures: int = 1
    coupled: bool = False

    @property
    def width(self) -> int:
        m, c = self.mixtures, self.colours
        return m + 2 * m * c + m * c * (c - 1) // 2 if self.coupled else 3 * m * c

    def nll(self, parameters: Tensor, values: Tensor) -> Tensor:
        weights, means, log_scales = self._components(parameters, values)
        logs = log_interval(values[:, :, None], means, log_scales)
        if self.coupled:
            return -(weights[:, 0] + logs.sum(1)).logsumexp(1)
        return -(weights + logs).logsumexp(2).sum(1)

    def table(self, parameters: Tensor, before: Tensor) -> Tensor:
        at = before.shape[1]
        weights, means, log_scales = self._components(parameters, before)
        chosen = weights[:, 0 if self.coupled else at]
        if self.coupled and at:
            chosen = chosen + log_interval(before[:, :, None], means[:, :at], log_scales[:, :at]).sum(1)
        every = torch.arange(self.classes, device=parameters.device)
        logs = log_interval(every, means[:, at, ..., None], log_scales[:, at, ..., None])
        return (chosen.log_softmax(1)[..., None] + logs).logsumexp(1)

    def mean(self, parameters: Tensor) -> Tensor:
        """Of the components, each held within [-1, 1], where its own values are."""
        weights, means, _ = self._components(parameters, None)
        return (weights.exp() * means.clamp(-1, 1)).sum(2)

    def _components(self, parameters: Tensor, values: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Log weights ``[B, C or 1, M, H, W]``, means and log scales ``[B, C, M, H, W]``, in [-1, 1].

        values: int64 ``[B, c, H, W]``, the colours that are known, on which the means after them depend when coupled;
        None where each component's own means stand for them.
        """
        if not self.coupled:
            weights, means, log_scales = self._split(parameters).chunk(3, dim=2)
            return weights.log_softmax(2), means, log_scale_of(log_scales)
        m, c = self.mixtures, self.colours
        pairs = c * (c - 1) // 2
        wide = parameters.to(torch.promote_types(parameters.dtype, torch.float32))
        weights, means, log_scales, slopes = (
            of.reshape(len(of), -1, m, *of.shape[2:]) for of in torch.split(wide, [m, m * c, m * c, m * pairs], dim=1)
        )
        slopes = torch.tanh(slopes)
        given = means.clamp(-1, 1) if values is None else _signal(values, wide.dtype)[:, :, None]
        known = list(given.unbind(1))
        through = list(means.unbind(1))
        for colour in range(1, c):
            for earlier in range(min(colour, len(known))):
                pair = colour * (colour - 1) // 2 + earlier
                through[colour] = through[colour] + slopes[:, pair] * known[earlier]
            if values is None:
                known[colour] = through[colour].clamp(-1, 1)
        return weights.log_softmax(2), torch.stack(through, 1), log_scale_of(log_scales)


def log_scale_of(parameter: Tensor) -> Tensor:
    """The logarithm of a scale in [-1, 1], of what a network says."""
    return (parameter + FIRST_LOG_SCALE).clamp(min=LEAST_LOG_SCALE)


def log_interval(values: Tensor, means: Tensor, log_scales: Tensor) -> Tensor:
    """Logarithm of the logistic's integral over each 8-bit value's interval; all three broadcast.

    sigma(b) - sigma(a) = sigma(b) sigma(-a) (1 - exp(a - b)), where b - a is known from the scale alone: no digits
    cancel, however small the integral is. At an edge only the factor that is left of it stays.
    """
    inverse = torch.exp(-log_scales)
    width = 2 * REACH * inverse  # of an interval in scales
    centred = _signal(values, means.dtype) - means
    below = F.softplus((centred - REACH) * inverse)
    above = F.softplus(-(centred + REACH) * inverse)
    least, most = values == 0, values == pixels.VALUES - 1
    # log(1 - exp(-width)); of a scale that makes the width vanish, its logarithm, which stays finite.
    inner = torch.log(-torch.expm1(-width.clamp(min=NARROW)))
    inner = torch.where(width < NARROW, math.log(2 * REACH) - log_scales, inner).masked_fill(least | most, 0)
    return inner - below.masked_fill(least, 0) - above.masked_fill(most, 0)


def _signal(values: Tensor, dtype: torch.dtype) -> Tensor:
    """8-bit values in [-1, 1]."""
    return values.to(dtype) / pixels.HALF - 1
