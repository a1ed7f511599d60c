"""Output distributions: what every one of them promises, whatever its classes are."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch
from torch import Tensor

from wavevq.nn.distributions import (
    FIRST_LOG_SCALE,
    LEAST_LOG_SCALE,
    Categorical,
    Gaussian,
    Logistics,
    MuLawCategorical,
    Pixels,
    log_interval,
)

# A new distribution's line goes here: of samples,
DISTRIBUTIONS = {
    "mu-law 256": MuLawCategorical(256),
    "mu-law 2": MuLawCategorical(2),
    "mu-law 31": MuLawCategorical(31),
}
each = pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
# or of pixels.
PIXELS = {
    "logistic": Logistics(),
    "logistic, grey": Logistics(1, 3),
    "logistics": Logistics(3, 4),
    "coupled logistics": Logistics(3, 5, coupled=True),
    "coupled logistics of two colours": Logistics(2, 2, coupled=True),
    "categorical": Categorical(),
    "gaussian": Gaussian(),
}
each_pixel = pytest.mark.parametrize("pixels", PIXELS.values(), ids=PIXELS)


@each
def test_probabilities_sum_to_one(distribution: MuLawCategorical) -> None:
    logits = 5 * torch.randn(3, 1, distribution.classes, generator=torch.Generator().manual_seed(0))
    every = torch.arange(distribution.classes)
    nats = distribution.nll(logits.double().expand(-1, len(every), -1), every.expand(3, -1))
    # float64 rounding of at most 256 terms
    torch.testing.assert_close((-nats).exp().sum(-1), torch.ones(3, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS.values(), Logistics()], ids=[*DISTRIBUTIONS, "pixels"])
def test_a_decoded_class_is_encoded_as_itself(distribution: MuLawCategorical | Pixels) -> None:
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


# --- pixels -------------------------------------------------------------------------------------------------


def parameters(pixels: Pixels, size: int = 3, spread: float = 2.0) -> Tensor:
    """Random ones, float64 ``[2, P, size, size + 1]``; scales of all sizes."""
    shape = (2, pixels.width, size, size + 1)
    return spread * torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def values(pixels: Pixels, like: Tensor, seed: int = 1) -> Tensor:
    shape = (len(like), pixels.colours, *like.shape[2:])
    drawn = torch.randint(256, shape, generator=torch.Generator().manual_seed(seed))
    drawn[0, :, 0, :2] = torch.tensor([0, 255])  # the edges too
    return drawn


@each_pixel
def test_the_values_of_a_colour_sum_to_one(pixels: Pixels) -> None:
    """Whatever the scale, from one far under a value's width to one far over the range, and wherever the mean."""
    for spread in (0.5, 2.0, 20.0):
        given = parameters(pixels, spread=spread)
        drawn = values(pixels, given)
        for colour in range(pixels.colours):
            table = pixels.table(given, drawn[:, :colour])
            assert table.shape == (2, 3, 4, 256)
            # float64 rounding of 256 terms
            torch.testing.assert_close(table.exp().sum(-1), torch.ones(2, 3, 4).double(), rtol=0, atol=1e-9)


@each_pixel
def test_nats_are_those_of_the_tables(pixels: Pixels) -> None:
    """Colour by colour, each given the ones before: so the nats of all 256^C pixels are of one distribution."""
    given = parameters(pixels)
    drawn = values(pixels, given)
    of_tables = torch.zeros(2, 3, 4).double()
    for colour in range(pixels.colours):
        table = pixels.table(given, drawn[:, :colour])
        of_tables -= table.gather(-1, drawn[:, colour, ..., None])[..., 0]
    nats = pixels.nll(given, drawn)
    assert nats.shape == (2, 3, 4)
    if isinstance(pixels, Gaussian):  # Jensen's inequality: a bound, and tails beyond the edges that it never counts
        assert (nats > of_tables).all()
    else:
        torch.testing.assert_close(nats, of_tables, rtol=1e-9, atol=1e-9)


def test_all_pixels_of_coupled_logistics_sum_to_one() -> None:
    pixels = Logistics(2, 3, coupled=True)
    given = parameters(pixels, 1)[:1, :, :, :1]
    every = torch.tensor(list(product(range(256), repeat=2)))[:, :, None, None]
    nats = pixels.nll(given.expand(len(every), -1, -1, -1), every)
    assert (-nats).exp().sum().item() == pytest.approx(1, abs=1e-9)  # 65,536 terms of float64
    slopes = given.clone()
    slopes[:, -3:] += 1
    assert not torch.allclose(pixels.nll(slopes.expand(len(every), -1, -1, -1), every), nats), "colours are coupled"


def test_coupled_logistics_are_pixelcnn_pps() -> None:
    """Salimans et al. 2017, equation 3 and section 2.2, a pixel at a time: means of green by red, of blue by both."""
    pixels = Logistics(3, 2, coupled=True)
    given = parameters(pixels, spread=0.5)
    drawn = values(pixels, given)
    nats = pixels.nll(given, drawn)
    for b, i, j in product(range(2), range(3), range(4)):
        weights, means, scales, slopes = torch.split(given[b, :, i, j], [2, 6, 6, 6])
        red, green, blue = (v.item() / 127.5 - 1 for v in drawn[b, :, i, j])
        chance = torch.zeros(2).double()
        for m in range(2):
            to_green, red_to_blue, green_to_blue = slopes[m::2].tanh()
            own = means[m::2] + torch.stack([0 * to_green, to_green * red, red_to_blue * red + green_to_blue * green])
            spread = (scales[m::2] + FIRST_LOG_SCALE).clamp(min=LEAST_LOG_SCALE).exp()
            at = torch.tensor([red, green, blue]).double()
            upper = torch.sigmoid((at + 0.5 / 127.5 - own) / spread).masked_fill(drawn[b, :, i, j] == 255, 1)
            lower = torch.sigmoid((at - 0.5 / 127.5 - own) / spread).masked_fill(drawn[b, :, i, j] == 0, 0)
            chance[m] = (upper - lower).prod()
        # Differences of sigmoids cancel digits of float64.
        expected = -math.log((weights.softmax(0) * chance).sum())
        assert nats[b, i, j].item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("pixels", [Logistics(3, 4), Categorical(), Gaussian()], ids=repr)
def test_colours_are_independent_unless_coupled(pixels: Pixels) -> None:
    given = parameters(pixels)
    one, other = values(pixels, given), values(pixels, given, seed=2)
    assert torch.equal(pixels.table(given, one[:, :2]), pixels.table(given, other[:, :2]))


def test_a_logistics_interval_is_the_difference_of_its_distribution_function() -> None:
    scales = torch.tensor([-4.0, -2.0, 0.0, 1.0]).double()[:, None]
    mean = torch.tensor(0.123).double()
    every = torch.arange(256)
    edges = (torch.arange(1, 256).double() - 0.5) / 127.5 - 1
    inner = torch.sigmoid((edges - mean) / scales.exp())
    bounds = torch.cat([torch.zeros(4, 1), inner, torch.ones(4, 1)], 1)
    found = log_interval(every, mean, scales).exp()
    torch.testing.assert_close(found, bounds.diff(dim=1), rtol=1e-9, atol=1e-14)  # differences cancel digits


@each_pixel
def test_far_values_have_finite_nats_and_gradients(pixels: Pixels) -> None:
    """In float32, the means at the one edge and the values at the other, at the finest scale and at wide ones."""
    for scale in (-30.0, LEAST_LOG_SCALE, 0.0, 10.0, 1000.0):
        given = torch.full((1, pixels.width, 1, 2), scale)
        given[:, : pixels.colours] = -1.0
        given.requires_grad_()
        nats = pixels.nll(given, torch.tensor([0, 255]).expand(1, pixels.colours, 1, 2))
        (gradient,) = torch.autograd.grad(nats.sum(), given)
        assert nats.isfinite().all()
        assert gradient.isfinite().all()


@each_pixel
def test_bf16_parameters_are_calculated_in_float32(pixels: Pixels) -> None:
    given = parameters(pixels).bfloat16()
    drawn = values(pixels, given)
    assert pixels.nll(given, drawn).dtype == torch.float32
    assert torch.equal(pixels.nll(given, drawn), pixels.nll(given.float(), drawn))
    assert pixels.table(given, drawn[:, :0]).dtype == torch.float32


# --- known entropies ----------------------------------------------------------------------------------------


def bits_of_own_samples(pixels: Pixels, given: Tensor, count: int = 40_000) -> float:
    """Mean bits a colour of values drawn from a distribution's own tables."""
    drawn = torch.empty(1, 0, 1, count, dtype=torch.int64)
    generator = torch.Generator().manual_seed(3)
    for _ in range(pixels.colours):
        table = pixels.table(given, drawn[..., :1])[0, 0, 0]
        some = torch.multinomial(table.exp(), count, replacement=True, generator=generator)
        drawn = torch.cat([drawn, some[None, None, None]], 1)
    nats = pixels.nll(given.expand(-1, -1, -1, count), drawn)
    return nats.mean().item() / pixels.colours / math.log(2)


def test_no_knowledge_is_eight_bits() -> None:
    given = torch.zeros(1, 768, 1, 1).double()
    assert bits_of_own_samples(Categorical(), given, 100) == pytest.approx(8, abs=1e-12)


def test_a_softmax_has_the_entropy_of_its_classes() -> None:
    """A quarter of the values at a time equally likely: log2 64."""
    given = torch.full((1, 3, 256), -1e4).double()
    for colour in range(3):
        given[0, colour, 64 * colour : 64 * (colour + 1)] = 0.7
    assert bits_of_own_samples(Categorical(), given.view(1, 768, 1, 1), 1000) == pytest.approx(6, abs=1e-9)


def test_a_logistic_has_its_differential_entropy() -> None:
    """log s + 2 nats with s in values, where the scale is much over a value's width and the edges are far."""
    scale = 6 / 127.5
    given = torch.tensor([0.0, 0.1, math.log(scale) - FIRST_LOG_SCALE], dtype=torch.float64).repeat(3).view(1, 9, 1, 1)
    # The deviation of a logistic's nats is 1: 0.007 bits of the mean of 40,000 x 3; four of them
    assert bits_of_own_samples(Logistics(), given) == pytest.approx((math.log(6) + 2) / math.log(2), abs=0.02)


def test_a_gaussian_has_its_differential_entropy() -> None:
    """log(s sqrt(2 pi e)) and what dequantising costs, 1 / 24 s^2 of it by the noise's own variance."""
    s = 6.0
    given = torch.tensor([-0.2, math.log(s / 127.5) - FIRST_LOG_SCALE], dtype=torch.float64).repeat(3).view(1, 6, 1, 1)
    expected = math.log(s * math.sqrt(2 * math.pi * math.e)) / math.log(2)
    assert bits_of_own_samples(Gaussian(), given) == pytest.approx(expected, abs=0.02)  # as above, deviation 0.7


def test_uniform_dequantisation_in_closed_form_is_its_mean_over_noise() -> None:
    pixels = Gaussian(1)
    given = torch.tensor([0.3, math.log(0.8 / 127.5) - FIRST_LOG_SCALE], dtype=torch.float64).view(1, 2, 1, 1)
    mean, deviation = (0.3 + 1) * 127.5, 0.8
    noise = (torch.arange(10_000).double() + 0.5) / 10_000 - 0.5
    for value in (164, 165, 166, 200):
        density = torch.distributions.Normal(mean, deviation).log_prob(value + noise)
        found = pixels.nll(given, torch.tensor([[[[value]]]]))
        assert found.item() == pytest.approx(-density.mean().item(), rel=1e-6)  # of the sum over the noise


# --- the mean -----------------------------------------------------------------------------------------------


def scales(pixels: Pixels) -> list[int]:
    """Which parameters are logarithms of scales."""
    match pixels:
        case Gaussian():
            return list(range(1, pixels.width, 2))
        case Logistics(c, m, coupled):
            first = [m * (1 + c)] if coupled else [3 * m * colour + 2 * m for colour in range(c)]
            return [start + i for start in first for i in range(m * c if coupled else m)]
        case _:
            return []


@each_pixel
def test_the_mean_is_that_of_the_tables(pixels: Pixels) -> None:
    """Where nothing lies beyond the edges. Of the second colour too, over all 256 values of the first."""
    given = parameters(pixels, 1, spread=0.3)[:1, :, :, :1]
    given[:, scales(pixels)] -= 3.5 + FIRST_LOG_SCALE
    signal = torch.arange(256).double() / 127.5 - 1
    first = pixels.table(given, torch.empty(1, 0, 1, 1, dtype=torch.int64)).exp().flatten()
    found = pixels.mean(given).flatten()
    # A grid of values against an integral, and float32 scales of tails: a hundredth of a value's distance
    assert found[0].item() == pytest.approx((first @ signal).item(), abs=1e-4)
    if pixels.colours > 1:
        rows = given.expand(256, -1, -1, -1)
        second = pixels.table(rows, torch.arange(256).view(-1, 1, 1, 1)).exp().view(256, 256)
        assert found[1].item() == pytest.approx((first @ second @ signal).item(), abs=1e-4)


def test_a_mean_never_leaves_the_range() -> None:
    for pixels in (Logistics(), Logistics(3, 2, coupled=True), Gaussian()):
        assert pixels.mean(9 + parameters(pixels)).abs().max() <= 1
