"""The transformer in integers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal, localcontext

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wavevq.fixed.products import ACTIVATION, CHUNK, Integers, Linear, integers, proven, scaled
from wavevq.fixed.tables import FRACTION, NORMAL, POWER, POWERS, TABLE, TURN, table
from wavevq.nn.transformer import BASE, Block, Transformer

ATTENDED = 12  # queries and keys count 2^-12, whose products are summed


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
