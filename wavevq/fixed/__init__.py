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

from wavevq.fixed.prior import NOTHING, TOTAL, FixedPrior
from wavevq.fixed.products import CHUNK

__all__ = ["CHUNK", "NOTHING", "TOTAL", "FixedPrior"]
