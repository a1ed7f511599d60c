"""Functions as tables of integers, whose checksums are known."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import cache

import numpy as np

from wavevq.errors import WavevqError
from wavevq.fixed.products import Integers

TABLE, FRACTION = 10, 16  # tables have 2^10 entries a unit, of values that count 2^-16
TANH, NORMAL = 6 << TABLE + 1, 5 << TABLE  # entries on each side of 0: up to 6 (by half steps) and 5
POWERS, POWER = 28 << TABLE, 28  # entries down to 2^-28, which they count
TURN = 14  # sines of 2^14 parts of a turn


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
