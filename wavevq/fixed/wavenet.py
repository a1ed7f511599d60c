"""The WaveNet in integers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wavevq.fixed.products import (
    ACTIVATION,
    CHUNK,
    Integers,
    Linear,
    fraction,
    integers,
    magnitudes,
    product,
    proven,
    scaled,
    weights,
)
from wavevq.fixed.tables import FRACTION, TABLE, TANH, table
from wavevq.nn.wavenet import WaveNet


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
