"""Weights and activations as integers that count powers of two, and their products, proven exact."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numba
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from wavevq.errors import WavevqError

Integers = NDArray[np.float64]  # integers held in float64
Weights = NDArray[np.int16]

ACTIVATION = 14  # an activation counts 2^-14
WEIGHT = 14  # the largest weight of a matrix has so many bits, and its sign: 16-bit integers hold it
LIMIT = 2.0**52  # of sums: half of what float64 holds exactly, so that the proof's own rounding does not matter
CHUNK = 256  # positions evaluated at once


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
