"""The prior in integers: frequencies of the next codes."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wavevq.fixed.products import ACTIVATION, Integers, integers
from wavevq.fixed.tables import POWERS, TABLE, table
from wavevq.fixed.transformer import FixedTransformer
from wavevq.fixed.wavenet import FixedWaveNet
from wavevq.nn.wavenet import WaveNet
from wavevq.prior import Prior

TOTAL = 24  # frequencies sum to 2^24, the precision of constriction's models
NOTHING = -1  # what stands before the first code


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
