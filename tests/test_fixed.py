"""The prior in integers: the same one by one and many at once, near the float prior, and proven or refused."""

from __future__ import annotations

import math

import mpmath
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits
from torch import nn

from wavevq.errors import WavevqError
from wavevq.fixed import CHUNK, NOTHING, TOTAL, FixedPrior
from wavevq.fixed.products import product
from wavevq.fixed.tables import TABLES, TURN, table
from wavevq.nn.transformer import Transformer
from wavevq.nn.wavenet import WaveNet
from wavevq.prior import Prior

K, LABELS, DIM = 11, 3, 5
# Widths that no vector register divides, one layer, a reach of more than a chunk, no end class, no label.
NETWORKS = {
    "wavenet": {"layers": 5, "cycle": 3, "kernel": 2, "residual": 16, "gate": 16, "skip": 16, "head": 16},
    "wavenet, odd": {"layers": 4, "cycle": 2, "kernel": 3, "residual": 5, "gate": 7, "skip": 3, "head": 9},
    "wavenet, long": {"layers": 9, "cycle": 9, "kernel": 4, "residual": 6, "gate": 3, "skip": 5, "head": 2},
    "wavenet, one layer": {"layers": 1, "cycle": 1, "kernel": 2, "residual": 4, "gate": 4, "skip": 4, "head": 4},
    "transformer": {"layers": 3, "width": 32, "heads": 4},
    "transformer, odd": {"layers": 2, "width": 18, "heads": 3},
}


def prior(name: str, ends: bool = True, labels: int = LABELS, scale: float = 1.0) -> Prior:
    torch.manual_seed(len(name))
    kind = WaveNet if name.startswith("wavenet") else Transformer
    network = kind(classes=K + ends, cond_dim=DIM, **NETWORKS[name])
    nn.init.normal_(network.output.weight, std=scale)
    nn.init.normal_(network.output.bias, std=0.5)
    for module in network.modules():
        if isinstance(module, nn.LayerNorm):
            nn.init.normal_(module.weight, 1, 0.3)
            nn.init.normal_(module.bias, 0, 0.3)
    return Prior(network, codes=K, labels=labels, dim=DIM, drop=0.1, seed=0).eval()


def codes(count: int) -> NDArray[np.int64]:
    return np.random.default_rng(count).integers(0, K, count)


def evaluated(fixed: FixedPrior, some: NDArray[np.int64], label: int, steps: list[int]) -> NDArray[np.int64]:
    """Frequencies of a sequence, so many positions at a time, and the last of these numbers over again."""
    state, before = fixed.start(label), np.append(NOTHING, some[:-1])
    parts, start = [], 0
    while start < len(some):
        step = steps.pop(0) if len(steps) > 1 else steps[0]
        parts.append(fixed.frequencies(state, before[start : start + step]))
        start += step
    return np.concatenate(parts)


@pytest.mark.parametrize("name", NETWORKS)
def test_one_by_one_and_many_at_once_are_the_same_integers(name: str) -> None:
    some = codes(700)
    fixed = FixedPrior(prior(name))
    whole = evaluated(fixed, some, 1, [CHUNK])
    np.testing.assert_array_equal(evaluated(fixed, some, 1, [1]), whole)
    np.testing.assert_array_equal(evaluated(fixed, some, 1, [1, 2, 255, 1, 1, 256, 3, 77]), whole)
    with threadpool_limits(3):
        np.testing.assert_array_equal(evaluated(FixedPrior(prior(name)), some, 1, [100]), whole)


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(("ends", "labels", "label"), [(True, LABELS, LABELS), (False, 0, 0), (True, LABELS, 0)])
def test_frequencies_are_the_float_priors(name: str, ends: bool, labels: int, label: int) -> None:
    made, some = prior(name, ends, labels), codes(300)
    found = evaluated(FixedPrior(made), some, label, [CHUNK])
    assert (found >= 1).all()
    assert (found.sum(1) == 1 << TOTAL).all()
    with torch.no_grad():
        logits = made.double().logits(torch.from_numpy(some)[None], torch.tensor([label]))[0, :, :K]
    log = torch.log_softmax(logits, 1).numpy()
    lost = (np.exp(log) * (log - np.log(found / 2**TOTAL))).sum(1) / math.log(2)
    # Roundings of 2^-14 in some thousand terms: an error of logits near 1e-3, which costs its square.
    assert lost.max() < 1e-4
    assert lost.mean() < 1e-5


@pytest.mark.parametrize("name", ["wavenet", "transformer"])
def test_a_label_and_the_past_matter_and_the_future_does_not(name: str) -> None:
    fixed, some = FixedPrior(prior(name)), codes(40)
    whole = evaluated(fixed, some, 0, [CHUNK])
    assert (evaluated(fixed, some, 1, [CHUNK]) != whole).any(1).all()
    other = some.copy()
    other[20] = (other[20] + 1) % K
    differs = (evaluated(fixed, other, 0, [CHUNK]) != whole).any(1)
    assert not differs[:21].any()
    assert differs[21]


def test_a_prior_that_is_sure_of_itself() -> None:
    """Every code keeps a frequency, so that any sequence can be coded."""
    found = evaluated(FixedPrior(prior("wavenet", scale=1000.0)), codes(50), 0, [CHUNK])
    assert found.min() == 1
    assert found.max() > 0.99 * 2**TOTAL
    assert (found.sum(1) == 1 << TOTAL).all()


def test_products_are_exact_up_to_what_is_allowed() -> None:
    rng = np.random.default_rng(0)
    weights = rng.integers(-(2**14), 2**14 + 1, (67, 45)).astype(np.int16)
    x = rng.integers(-(2**31), 2**31, (5, 67))  # sums of up to 2^51
    exact = x.astype(object) @ weights.astype(object)
    np.testing.assert_array_equal(product(x.astype(np.float64), weights), exact.astype(np.float64))
    for row in range(5):
        np.testing.assert_array_equal(
            product(x[row : row + 1].astype(np.float64), weights)[0], exact[row].astype(float)
        )


@pytest.mark.parametrize("name", ["wavenet", "transformer"])
def test_what_cannot_be_proven_is_refused(name: str) -> None:
    made = prior(name)
    made.network.output.bias.data *= 2.0**30
    with pytest.raises(WavevqError, match=r"too large to code with: sums may take \d+ bits"):
        FixedPrior(made)
    made.network.output.bias.data[0] = math.nan
    with pytest.raises(WavevqError, match="not finite"):
        FixedPrior(made)


EXACT = {
    "tanh": lambda i: mpmath.tanh(mpmath.mpf(i - (len(table("tanh")) - 1) // 2) / 2**11),
    "normal": lambda i: mpmath.ncdf(mpmath.mpf(i - (len(table("normal")) - 1) // 2) / 2**10),
    "sine": lambda i: mpmath.sin(2 * mpmath.pi * i / 2**TURN),
    "power": lambda i: mpmath.mpf(2) ** (-mpmath.mpf(i) / 2**10),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_are_the_functions_correctly_rounded(name: str) -> None:
    found, bits = table(name), TABLES[name][1]
    with mpmath.workdps(30):
        for i in range(0, len(found) - 1, 37):
            assert found[i] == mpmath.nint(EXACT[name](i) * 2**bits)


def test_another_mathematical_library_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    make, bits, checksum = TABLES["tanh"]
    monkeypatch.setitem(TABLES, "other", (lambda: make() * (1 + 2.0**-15), bits, checksum))
    with pytest.raises(WavevqError, match="fixed-point table other: this machine's mathematical library"):
        table("other")
