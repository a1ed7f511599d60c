"""The prior in integers: frequencies for an entropy coder that are the same on every machine.

Float networks do not agree bit for bit across machines, threads and batch shapes, and one differing bit is the end
of an arithmetic code. Here weights and activations are integers that count powers of two (Ballé, Johnston and Minnen
2019, "Integer Networks for Data Compression with Latent-Variable Models"), held in float64:

- a product sums integers whose absolute values sum to less than 2^53, so it is exact in whatever order it is summed;
  that is proven from the weights when a prior is made, and a prior for which it cannot be is refused;
- elsewhere each value is rounded by a single IEEE operation (+, -, x, /, square root, to an integer, by powers of two);
- tanh, the normal distribution, sine and powers of two come from tables of integers, whose checksums are known.

So positions may be evaluated one by one (a decoder) or many at once (an encoder): the integers are the same. Any
change to them is a new version of the .wvq format.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal, localcontext
from functools import cache
from typing import Protocol

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wavevq.errors import WavevqError
from wavevq.nn.transformer import BASE, Block, Transformer
from wavevq.nn.wavenet import WaveNet
from wavevq.prior import Prior

Integers = NDArray[np.float64]  # integers held in float64
Weights = NDArray[np.int16]

ACTIVATION = 14  # an activation counts 2^-14
WEIGHT = 14  # the largest weight of a matrix has so many bits, and its sign: 16-bit integers hold it
ATTENDED = 12  # queries and keys count 2^-12, whose products are summed
TOTAL = 24  # frequencies sum to 2^24, the precision of constriction's models
LIMIT = 2.0**52  # of sums: half of what float64 holds exactly, so that the proof's own rounding does not matter
TABLE, FRACTION = 10, 16  # tables have 2^10 entries a unit, of values that count 2^-16
TANH, NORMAL = 6 << TABLE + 1, 5 << TABLE  # entries on each side of 0: up to 6 (by half steps) and 5
POWERS, POWER = 28 << TABLE, 28  # entries down to 2^-28, which they count
TURN = 14  # sines of 2^14 parts of a turn
CHUNK = 256  # positions evaluated at once
NOTHING = -1  # what stands before the first code


# --- tables -------------------------------------------------------------------------------------------------


def _tanh() -> Integers:
    found: Integers = np.tanh(np.arange(-TANH, TANH + 1) / 2.0 ** (TABLE + 1))
    return found


def _normal() -> Integers:
    return np.array([math.erfc(-i / 2**TABLE / math.sqrt(2)) / 2 for i in range(-NORMAL, NORMAL + 1)])


def _sine() -> Integers:
    found: Integers = np.sin(np.arange(1 << TURN) * (2 * math.pi / (1 << TURN)))
    return found


def _power() -> Integers:
    return np.append(np.exp2(-np.arange(POWERS) / 2.0**TABLE), 0.0)


# Each table with the bits of its values and its checksum. No value lies so near to a tie that a mathematical library
# with errors in the last digits would round it otherwise; one that did would be noticed by the checksum.
TABLES: dict[str, tuple[Callable[[], Integers], int, int]] = {
    "tanh": (_tanh, FRACTION, 0x0BF988FB),
    "normal": (_normal, FRACTION, 0x02E71419),
    "sine": (_sine, FRACTION, 0x978A4A99),
    "power": (_power, POWER, 0x5C7CB6D7),
}


@cache
def table(name: str) -> Integers:
    """A table of integers: the function's values times a power of two, rounded."""
    make, bits, checksum = TABLES[name]
    values = np.rint(np.ldexp(make(), bits))
    if zlib.crc32(values.astype("<i4").tobytes()) != checksum:
        raise WavevqError(f"fixed-point table {name}: this machine's mathematical library gives other values")
    return values


# --- products -----------------------------------------------------------------------------------------------


def integers(values: Tensor, bits: int) -> Integers:
    """``values`` in units of 2^-``bits``."""
    found: Integers = np.rint(np.ldexp(values.detach().cpu().double().numpy(), bits))
    if not np.isfinite(found).all():
        raise WavevqError("the prior's weights are not finite, so nothing can be coded with it")
    return found


def fraction(*weights: Tensor) -> int:
    """Bits after the point, 0 to twice ``WEIGHT``, that give the largest weight ``WEIGHT`` bits."""
    largest = max(float(some.detach().abs().max()) for some in weights if some.numel())
    return min(max(0, WEIGHT - math.frexp(largest)[1]), 2 * WEIGHT) if math.isfinite(largest) else WEIGHT


def proven(bound: Integers) -> Integers:
    """Bounds of absolute values. Raises WavevqError where a sum might not be exact."""
    if not (bound < LIMIT).all():
        bits = math.log2(bound.max())
        raise WavevqError(
            f"the prior's weights are too large to code with: sums may take {bits:.0f} bits, at most 52 are exact"
        )
    return bound


def scaled(values: Integers, bits: int) -> Integers:
    """``values`` in units 2^``bits`` times as large, rounded."""
    found: Integers = np.rint(values * 2.0**-bits)
    return found


def weights(values: Tensor, bits: int) -> Weights:
    """Weights in units of 2^-``bits``."""
    return np.ascontiguousarray(integers(values, bits).astype(np.int16))


def magnitudes(weights: Weights) -> Integers:
    return np.abs(weights.astype(np.float64))


def product(x: Integers, weights: Weights) -> Integers:
    """x ``[T, n]`` @ weights ``[n, m]``, exact. One row alone costs as long as its weights take to be read."""
    if len(x) > 1:
        return x @ weights.astype(np.float64)
    out = np.zeros((1, weights.shape[1]))
    _add_product(x[0], weights, out[0])
    return out


@numba.njit(cache=True, nogil=True)
def _add_product(x: Integers, weights: Weights, out: Integers) -> None:
    n, m = weights.shape
    for i in range(0, n - 3, 4):
        a, b, c, d = x[i], x[i + 1], x[i + 2], x[i + 3]
        for j in range(m):
            out[j] += a * weights[i, j] + b * weights[i + 1, j] + c * weights[i + 2, j] + d * weights[i + 3, j]
    for i in range(n - n % 4, n):
        for j in range(m):
            out[j] += x[i] * weights[i, j]


@dataclass(frozen=True)
class Linear:
    """weights ``[n, m]`` and bias ``[m]`` such that x @ weights + bias counts units 2^-shift times those of x."""

    weights: Weights
    bias: Integers
    shift: int

    @classmethod
    def of(cls, layer: nn.Linear) -> Linear:
        shift = fraction(layer.weight)
        bias = integers(layer.bias, ACTIVATION + shift) if layer.bias is not None else np.zeros(layer.out_features)
        return cls(weights(layer.weight.T, shift), bias, shift)

    def __call__(self, x: Integers) -> Integers:
        return scaled(product(x, self.weights) + self.bias, self.shift)

    def bound(self, x: Integers) -> Integers:
        """Of the absolute values of outputs, from those of inputs; proves the sums on the way."""
        return scaled(proven(x @ magnitudes(self.weights) + np.abs(self.bias)), self.shift) + 1


class Network(Protocol):
    """A prior's network in integers, of one label at a time."""

    def start(self, label: Integers) -> State:
        """The state before the first code. label: the embedding, in units of 2^-ACTIVATION."""
        ...


class State(Protocol):
    """What has been seen of a sequence."""

    def logits(self, before: NDArray[np.int64]) -> Integers:
        """Logits ``[T, Q]`` in units of 2^-ACTIVATION of the next T positions, at most CHUNK.

        before: ``[T]``, the code before each, NOTHING before the first.
        """
        ...


# --- WaveNet ------------------------------------------------------------------------------------------------


class FixedWaveNet:
    """``nn.wavenet.WaveNet`` in integers."""

    def __init__(self, network: WaveNet, label: Integers) -> None:
        """label: bound of the absolute values of the labels' embeddings, ``[cond_dim]``."""
        self.dilations, self.width = network.dilations, network.gate
        self.kernel, channels = network.taps.shape[1:3]
        embedded = integers(network.embedding, ACTIVATION)
        self.embedding = np.concatenate([embedded, np.zeros((1, channels))])  # NOTHING takes the last row
        self.condition = Linear.of(network.condition)
        self.hidden, self.output = Linear.of(network.hidden), Linear.of(network.output)
        self.tap_shift = fraction(network.taps)
        self.taps = weights(network.taps.flatten(1, 2), self.tap_shift)
        # The last layer's output is its skip alone. One product gives both.
        self.out_shift = fraction(network.residual, network.skip)
        residual, skip = weights(network.residual, self.out_shift), weights(network.skip, self.out_shift)
        self.outs = [np.concatenate([*residual[i : i + 1], one], axis=1) for i, one in enumerate(skip)]
        # To the table's steps: of the filter, and of half the gate, whose sigmoid is (1 + tanh(x / 2)) / 2.
        steps = np.repeat([TABLE + 1.0, TABLE], self.width)
        self.to_steps = np.exp2(steps - ACTIVATION - self.tap_shift)
        self.tanh = table("tanh")
        self._prove(label)

    def _prove(self, label: Integers) -> None:
        gates = self.condition.bound(label).reshape(len(self.dilations), -1) * 2.0**self.tap_shift
        x, total = np.abs(self.embedding).max(0), np.zeros(self.hidden.weights.shape[0])
        h = np.full(self.width, 2.0**ACTIVATION)
        for taps, gate, out in zip(self.taps, gates, self.outs, strict=True):
            proven(np.tile(x, self.kernel) @ magnitudes(taps) + gate)
            made = proven(h @ magnitudes(out))
            total = proven(total + made[-len(total) :])
            x = x + scaled(made[: -len(total)], self.out_shift) + 1 if len(made) > len(total) else x
        self.output.bound(self.hidden.bound(scaled(total, self.out_shift) + 1))

    def start(self, label: Integers) -> WaveNetState:
        conditions = self.condition(label).reshape(len(self.dilations), -1) * 2.0**self.tap_shift
        channels = self.embedding.shape[1]
        return WaveNetState(self, conditions, [Past((self.kernel - 1) * d, channels) for d in self.dilations])


class Past:
    """The last inputs ``[n, R]`` of a layer, as far back as its taps reach; zeros before the first."""

    def __init__(self, reach: int, channels: int) -> None:
        self.reach, self.end = reach, reach
        self.rows = np.zeros((reach + max(reach, CHUNK), channels))

    def extended(self, x: Integers) -> Integers:
        """Those and ``x`` ``[T, R]``, together ``[reach + T, R]``."""
        if self.end + len(x) > len(self.rows):
            self.rows[: self.reach] = self.rows[self.end - self.reach : self.end]
            self.end = self.reach
        self.rows[self.end : self.end + len(x)] = x
        self.end += len(x)
        return self.rows[self.end - len(x) - self.reach : self.end]


@dataclass
class WaveNetState:
    network: FixedWaveNet
    conditions: Integers  # [L, 2W], in the units of the gates' sums
    pasts: list[Past]

    def logits(self, before: NDArray[np.int64]) -> Integers:
        net, steps = self.network, len(before)
        x: Integers = net.embedding[before]
        total = np.zeros((steps, net.hidden.weights.shape[0]))
        skip = total.shape[1]
        for layer, dilation in enumerate(net.dilations):
            seen = self.pasts[layer].extended(x)
            read = np.concatenate([seen[tap * dilation :][:steps] for tap in range(net.kernel)], axis=1)
            gates = (product(read, net.taps[layer]) + self.conditions[layer]) * net.to_steps
            found = net.tanh[np.clip(np.rint(gates), -TANH, TANH).astype(np.intp) + TANH]
            h = scaled(found[:, : net.width] * (found[:, net.width :] + 2.0**FRACTION), 2 * FRACTION + 1 - ACTIVATION)
            out = product(h, net.outs[layer])
            total += out[:, -skip:]
            if out.shape[1] > skip:
                x = x + scaled(out[:, :-skip], net.out_shift)
        summed = scaled(np.maximum(total, 0), net.out_shift)
        return net.output(np.maximum(net.hidden(summed), 0))


# --- transformer --------------------------------------------------------------------------------------------


class FixedNorm:
    """A LayerNorm in integers, of any scale: it divides by the deviation anyway."""

    BITS = 20  # of the deviations whose squares are summed

    def __init__(self, norm: nn.LayerNorm) -> None:
        self.gain = np.ldexp(norm.weight.detach().cpu().double().numpy(), ACTIVATION)
        self.bias = integers(norm.bias, ACTIVATION)
        self.eps = norm.eps * 4.0**ACTIVATION
        width = len(self.bias)
        proven(np.array([width * 4.0**self.BITS]))
        # One deviation is at most the root of the sum of all squares.
        self.limit: Integers = np.rint(math.sqrt(width) * np.abs(self.gain)) + np.abs(self.bias) + 2

    def bound(self, x: Integers) -> Integers:
        """Of the absolute values of outputs, from those of inputs; proves the sum."""
        proven(2 * x.sum(keepdims=True))
        return self.limit

    def __call__(self, x: Integers) -> Integers:
        width = x.shape[1]
        apart = x - np.rint(x.sum(1, keepdims=True) / width)
        _, bits = np.frexp(np.abs(apart).max(1, keepdims=True))
        shift = np.maximum(bits - self.BITS, 0)
        apart = np.rint(np.ldexp(apart, -shift))
        variance = (apart * apart).sum(1, keepdims=True) / width + np.ldexp(self.eps, -2 * shift)
        normed: Integers = np.rint(apart / np.sqrt(variance) * self.gain) + self.bias
        return normed


class FixedBlock:
    """``nn.transformer.Block`` in integers."""

    def __init__(self, block: Block) -> None:
        self.first, self.second = FixedNorm(block.first), FixedNorm(block.second)
        self.queries_keys_values, self.out = Linear.of(block.queries_keys_values), Linear.of(block.out)
        self.wide, self.narrow = Linear.of(block.wide), Linear.of(block.narrow)
        self.heads = block.heads
        size = block.out.in_features // block.heads
        # From sums of products to the steps of the table of powers of two.
        self.to_steps = math.log2(math.e) / math.sqrt(size) * 2.0 ** (TABLE - 2 * ATTENDED)
        self.normal = table("normal")

    def bound(self, x: Integers) -> Integers:
        made = self.queries_keys_values.bound(self.first.bound(x)).reshape(3, self.heads, -1)
        # A rotation makes nothing longer than root 2 times its longest; of it 2^-16 is lost in the table.
        products = (scaled(made[:2].max(axis=2), ACTIVATION - ATTENDED) + 1) * 1.5 + 1
        proven(products[0] * products[1] * made.shape[2])
        proven(made[:2] * 2.0 ** (FRACTION + 1))
        self.value = made[2].max()
        x = x + self.out.bound(made[2].ravel() + 1)
        wide = self.wide.bound(self.second.bound(x))
        proven(wide * 2.0**FRACTION)
        return x + self.narrow.bound(wide + 1)

    def __call__(self, x: Integers, seen: Attended, turns: Integers) -> Integers:
        steps = len(x)
        made = self.queries_keys_values(self.first(x)).reshape(steps, 3, self.heads, -1).transpose(1, 2, 0, 3)
        keys, values = seen.extended(_rotated(made[1], turns), made[2])
        mixed = self._attend(_rotated(made[0], turns), keys, values)
        x = x + self.out(mixed.transpose(1, 0, 2).reshape(steps, -1))
        wide = self.wide(self.second(x))
        place = np.clip(scaled(wide, ACTIVATION - TABLE), -NORMAL, NORMAL).astype(np.intp) + NORMAL
        return x + self.narrow(scaled(wide * self.normal[place], FRACTION))

    def _attend(self, queries: Integers, keys: Integers, values: Integers) -> Integers:
        """Values ``[heads, T, D]`` mixed for queries ``[heads, T, D]`` by keys ``[heads, t, D]`` up to their own."""
        steps, there = queries.shape[1], keys.shape[1]
        proven(np.array([there * 2.0**FRACTION * self.value]))
        products = queries @ keys.transpose(0, 2, 1)
        hidden = np.arange(there) > np.arange(there - steps, there)[:, None]
        largest = np.where(hidden, -np.inf, products).max(2, keepdims=True)
        place = np.where(hidden, POWERS, np.rint((largest - products) * self.to_steps))
        share = scaled(table("power")[np.minimum(place, POWERS).astype(np.intp)], POWER - FRACTION)
        mixed: Integers = np.rint((share @ values) / share.sum(2, keepdims=True))
        return mixed


def _rotated(x: Integers, turns: Integers) -> Integers:
    """``nn.transformer.rotated``: ``[heads, T, D]``, now in units of 2^-ATTENDED. turns: as ``turns`` returns them."""
    a, b = np.split(x, 2, axis=2)
    cos, sin = turns
    turned = np.concatenate([a * cos - b * sin, a * sin + b * cos], 2)
    return scaled(turned, ACTIVATION + FRACTION - ATTENDED)


class FixedTransformer:
    """``nn.transformer.Transformer`` in integers."""

    def __init__(self, network: Transformer, label: Integers) -> None:
        """label: bound of the absolute values of the labels' embeddings, ``[cond_dim]``."""
        self.embedding = integers(network.embedding.weight, ACTIVATION)  # NOTHING takes the last row
        self.condition, self.output = Linear.of(network.condition), Linear.of(network.output)
        self.blocks = [FixedBlock(block) for block in network.blocks if isinstance(block, Block)]
        self.norm = FixedNorm(network.norm)
        self.heads, self.head_width = network.heads, self.embedding.shape[1] // network.heads
        self.frequencies = _frequencies(self.head_width // 2)
        x = np.abs(self.embedding).max(0) + self.condition.bound(label)
        for block in self.blocks:
            x = block.bound(x)
        self.output.bound(self.norm.bound(x))

    def start(self, label: Integers) -> TransformerState:
        seen = [Attended(self.heads, self.head_width) for _ in self.blocks]
        return TransformerState(self, self.condition(label), seen)

    def turns(self, first: int, count: int) -> Integers:
        """Cosines and sines ``[2, count, D / 2]`` of positions ``first`` on, in units of 2^-FRACTION."""
        position = np.arange(first, first + count, dtype=np.uint64)[:, None]
        # Parts of a turn, modulo a turn: products of unsigned integers wrap around.
        part = (position * self.frequencies + np.uint64(1 << 63 - TURN)) >> np.uint64(64 - TURN)
        place = part.astype(np.intp)
        sine = table("sine")
        return np.stack([sine[(place + (1 << TURN - 2)) % (1 << TURN)], sine[place]])


def _frequencies(half: int) -> NDArray[np.uint64]:
    """Of the rotary positions, in 2^-64 turns a position. Decimal arithmetic is the same everywhere."""
    with localcontext() as context:
        context.prec = 40
        turn = 2 * Decimal("3.14159265358979323846264338327950288419716939937510")
        each = [Decimal(BASE) ** (Decimal(-i) / Decimal(half)) / turn for i in range(half)]
        return np.array([int(one * 2**64) for one in each], np.uint64)


class Attended:
    """Keys and values ``[heads, t, D]`` so far."""

    def __init__(self, heads: int, width: int) -> None:
        self.kept, self.count = np.zeros((2, heads, CHUNK, width)), 0

    def extended(self, keys: Integers, values: Integers) -> tuple[Integers, Integers]:
        """Those and the next."""
        stop = self.count + keys.shape[1]
        if stop > self.kept.shape[2]:
            self.kept = np.concatenate([self.kept, np.zeros_like(self.kept)], axis=2)
        self.kept[0, :, self.count : stop], self.kept[1, :, self.count : stop] = keys, values
        self.count = stop
        return self.kept[0, :, :stop], self.kept[1, :, :stop]


@dataclass
class TransformerState:
    network: FixedTransformer
    condition: Integers  # [width]
    seen: list[Attended]
    position: int = 0

    def logits(self, before: NDArray[np.int64]) -> Integers:
        turns = self.network.turns(self.position, len(before))
        self.position += len(before)
        x = self.network.embedding[before] + self.condition
        for block, seen in zip(self.network.blocks, self.seen, strict=True):
            x = block(x, seen, turns)
        return self.network.output(self.network.norm(x))


# --- the prior ----------------------------------------------------------------------------------------------


class FixedPrior:
    """A prior whose probabilities are integers. Raises WavevqError for one whose sums cannot be proven exact."""

    def __init__(self, prior: Prior) -> None:
        self.codes, self.nobody = prior.codes, prior.nobody
        self.embedding = integers(prior.label.weight, ACTIVATION)
        bound = np.abs(self.embedding).max(0)
        if isinstance(prior.network, WaveNet):
            self.network: Network = FixedWaveNet(prior.network, bound)
        else:
            self.network = FixedTransformer(prior.network, bound)

    def start(self, label: int) -> State:
        """The state before the first code, under a label; one that the prior does not know is nobody's."""
        return self.network.start(self.embedding[min(label, self.nobody)])

    def frequencies(self, state: State, before: NDArray[np.int64]) -> NDArray[np.int64]:
        """Frequencies ``[T, K]``, each at least 1, that sum to 2^TOTAL, of the codes at the next T <= CHUNK positions.

        before: ``[T]``, the code before each, NOTHING before the first. A sequence's end has no part in them: whoever
        codes a sequence says how long it is.
        """
        logits = state.logits(before)[:, : self.codes]
        below = (logits.max(1, keepdims=True) - logits) * (math.log2(math.e) * 2.0 ** (TABLE - ACTIVATION))
        share = table("power")[np.minimum(np.rint(below), POWERS).astype(np.intp)].astype(np.int64)
        left = (1 << TOTAL) - self.codes
        found: NDArray[np.int64] = 1 + share * left // share.sum(1, keepdims=True)
        # What rounding down has left over is the likeliest code's.
        found[np.arange(len(found)), logits.argmax(1)] += (1 << TOTAL) - found.sum(1)
        return found
