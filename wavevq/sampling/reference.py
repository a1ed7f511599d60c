"""The definition of right: a plain, slow loop over samples with one queue of past inputs a layer."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.nn.wavenet import WaveNet
from wavevq.sampling import Precision, hop_of


@dataclass
class Streams:
    """Where some streams stand. queues: one ``[B, (k - 1) x dilation, R]`` a layer, oldest input first at ``position``
    modulo its length; present: the next input ``[B, R]``; position: samples so far."""

    queues: list[Tensor]
    present: Tensor
    position: int


class Stream(Protocol):
    """One stream of a network: which class comes next is asked for and told, over and over."""

    def logits(self, cond: Tensor) -> Tensor:
        """Logits ``[1, Q]`` of the next sample, whose conditioning is ``cond`` ``[1, ...]``."""
        ...

    def take(self, drawn: Tensor) -> None:
        """The sample after which to go on: int64 ``[1]``."""
        ...


class OneByOne(ABC):
    """A sampler, as ``contracts.Sampler``, whose streams are drawn one after the other, and so each as it is alone.

    Products of several rows round differently from those of one. The state is the list of streams.
    """

    @abstractmethod
    def begin(self, weights: Any, batch: int) -> list[Stream]:
        """Streams before their first sample."""

    @torch.no_grad()
    def __call__(
        self,
        weights: Any,
        cond: Tensor,
        noise: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prefix: Tensor | None = None,
        state: list[Stream] | None = None,
    ) -> tuple[Tensor, list[Stream]]:
        hop = hop_of(weights, cond, noise, prefix)
        if state is None:
            state = self.begin(weights, len(cond))
        if prefix is None:
            prefix = torch.empty(len(noise), 0, dtype=torch.int64, device=cond.device)
        given, count = prefix.shape[1], noise.shape[1]
        classes = torch.cat([prefix, torch.empty(noise.shape, dtype=torch.int64, device=cond.device)], 1)
        with one_thread(cond.device):
            for row, stream in enumerate(state):
                one = slice(row, row + 1)
                for t in range(given + count):
                    logits = stream.logits(cond[one, t // hop])
                    if t >= given:
                        classes[one, t] = pick(logits, noise[one, t - given], temperature, top_p)
                    stream.take(classes[one, t])
        return classes[:, given:], state


@dataclass(frozen=True)
class Reference(OneByOne):
    """The reference backend for WaveNets; runs in the dtype of the weights, on any device."""

    precision: Precision = "bfloat16"

    def __str__(self) -> str:
        return f"reference ({self.precision} weights)"

    def begin(self, weights: WaveNet, batch: int) -> list[Stream]:
        used = rounded(weights) if self.precision == "bfloat16" else weights
        return [_WaveNetStream(used, start(used, 1)) for _ in range(batch)]


@dataclass(frozen=True)
class _WaveNetStream:
    """The network as it is calculated with, and where the stream stands."""

    weights: WaveNet
    at: Streams

    def logits(self, cond: Tensor) -> Tensor:
        return step(self.weights, cond, self.at)

    def take(self, drawn: Tensor) -> None:
        self.at.present = self.weights.embedding[drawn]
        self.at.position += 1


def rounded(weights: WaveNet) -> WaveNet:
    """A copy whose matrices have bfloat16's values: taps, residual, skip, hidden and output, not what is only added."""
    copied = copy.deepcopy(weights)
    for matrix in (copied.taps, copied.residual, copied.skip, copied.hidden.weight, copied.output.weight):
        matrix.data = matrix.data.to(torch.bfloat16).to(matrix.dtype)
    return copied


def start(weights: WaveNet, batch: int) -> Streams:
    """The state before the first sample: everything that precedes it is zero."""
    like = weights.embedding
    past = weights.taps.shape[1] - 1
    queues = [like.new_zeros(batch, past * dilation, like.shape[1]) for dilation in weights.dilations]
    return Streams(queues, like.new_zeros(batch, like.shape[1]), 0)


def step(weights: WaveNet, cond: Tensor, state: Streams) -> Tensor:
    """Logits ``[B, Q]`` of the next sample; queues its input. cond: ``[B, L, 2W]``."""
    x = state.present
    kernel = weights.taps.shape[1]
    total: Tensor | float = 0.0
    for layer, dilation in enumerate(weights.dilations):
        queue = state.queues[layer]
        length = queue.shape[1]
        gates = torch.addmm(cond[:, layer], x, weights.taps[layer, -1])
        for tap in range(kernel - 1):
            gates = gates.addmm(queue[:, (state.position + tap * dilation) % length], weights.taps[layer, tap])
        if length:
            queue[:, state.position % length] = x
        filtered, gate = gates.chunk(2, dim=1)
        hidden = torch.tanh(filtered) * torch.sigmoid(gate)
        total = total + hidden @ weights.skip[layer]
        if layer < len(weights.residual):
            x = torch.addmm(x, hidden, weights.residual[layer])
    assert isinstance(total, Tensor)
    return weights.head(total)


def pick(logits: Tensor, noise: Tensor, temperature: float = 1.0, top_p: float = 1.0) -> Tensor:
    """The class at which the cumulated probability passes ``noise``: int64 ``[B]`` of logits ``[B, Q]``, noise ``[B]``.

    temperature above 0 divides the logits; top_p in (0, 1] keeps the fewest likeliest classes that reach it.
    Probabilities are cumulated in float64, in the order of the classes; on the CPU, since a GPU's cumulated sums are
    not deterministic. The result is on the device of the logits.
    """
    probability = F.softmax(logits.cpu().double() / temperature, dim=-1)
    if top_p < 1:
        ordered, order = probability.sort(dim=-1, descending=True, stable=True)
        before = ordered.cumsum(-1) - ordered
        probability = probability.scatter(-1, order, ordered.where(before < top_p, 0.0))
    cumulated = probability.cumsum(-1)
    target = noise.cpu().double() * cumulated[..., -1]
    # The first class whose cumulated probability exceeds the target; rounding may leave the target at the top.
    passed = (cumulated <= target[..., None]).sum(-1)
    last = probability.shape[-1] - 1 - (probability.flip(-1) > 0).int().argmax(-1)
    return torch.minimum(passed, last).to(logits.device)


@contextmanager
def one_thread(device: torch.device) -> Iterator[None]:
    """One thread for the small products of a step: two wait for each other longer than they work."""
    threads = torch.get_num_threads()
    if device.type == "cpu":
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
