"""Output distributions: what every one of them promises, whatever its classes are."""

from __future__ import annotations

import pytest
import torch

from wavevq.nn.distributions import MuLawCategorical

# A new distribution's line goes here.
DISTRIBUTIONS = {
    "mu-law 256": MuLawCategorical(256),
    "mu-law 2": MuLawCategorical(2),
    "mu-law 31": MuLawCategorical(31),
}
each = pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)


@each
def test_probabilities_sum_to_one(distribution: MuLawCategorical) -> None:
    logits = 5 * torch.randn(3, 1, distribution.classes, generator=torch.Generator().manual_seed(0))
    every = torch.arange(distribution.classes)
    nats = distribution.nll(logits.double().expand(-1, len(every), -1), every.expand(3, -1))
    # float64 rounding of at most 256 terms
    torch.testing.assert_close((-nats).exp().sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


@each
def test_a_decoded_class_is_encoded_as_itself(distribution: MuLawCategorical) -> None:
    every = torch.arange(distribution.classes)
    samples = distribution.decode(every)
    assert torch.equal(distribution.encode(samples), every)
    assert samples.abs().max() <= 1
    assert bool((samples.diff() > 0).all())


@each
def test_low_precision_logits_are_summed_in_float32(distribution: MuLawCategorical) -> None:
    logits = torch.randn(4, distribution.classes, generator=torch.Generator().manual_seed(1)).bfloat16()
    classes = torch.zeros(4, dtype=torch.int64)
    nats = distribution.nll(logits, classes)
    assert nats.dtype == torch.float32
    assert torch.equal(nats, distribution.nll(logits.float(), classes))
