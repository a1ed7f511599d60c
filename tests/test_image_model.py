"""Networks of images and the model they make: shapes, the equation, gradients, and that what is random is given."""

from __future__ import annotations

import copy
import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from wavevq.build import build_bottleneck, build_decoder, build_encoder, seeded, values_a_latent
from wavevq.contracts import Batch
from wavevq.decoders import ImageDecoder, of_speech
from wavevq.errors import WavevqError
from wavevq.nn.distributions import Categorical
from wavevq.nn.images import ImageEncoder, ImageUpsampler, keep_variance
from wavevq.nn.quantizers import VectorQuantizer
from wavevq.noise import uniform
from wavevq.recipe import Model
from wavevq.sampling import choose
from wavevq.vqvae import VqVae

K, D, G, BETA = 6, 3, 2, 0.3
PIXELS: dict[str, dict[str, Any]] = {
    "logistic": {"mixtures": 2},
    "logistic, coupled": {"mixtures": 2, "coupled": True},
    "categorical": {},
    "gaussian": {},
}
BOTTLENECKS: dict[str, dict[str, Any]] = {
    **{kind: {"codes": K, "beta": BETA, "revive_after": 0} for kind in ("vq", "ema")},
    "vae": {},
    "none": {},
}
each = pytest.mark.parametrize("bottleneck", BOTTLENECKS)
each_pixel = pytest.mark.parametrize("pixels", PIXELS)


def tree(bottleneck: str = "ema", pixels: str = "logistic") -> dict[str, Any]:
    widths = {"channels": 5, "residual": 4, "residual_blocks": 1}
    distribution = {"kind": pixels.split(",")[0], **PIXELS[pixels]}
    return {
        "encoder": {"kind": "image", "groups": G, **widths},
        "bottleneck": {"kind": bottleneck, "dim": D, **BOTTLENECKS[bottleneck]},
        "decoder": {"kind": "image", "distribution": distribution, **widths},
    }


def fresh(bottleneck: str = "ema", pixels: str = "logistic") -> VqVae:
    """A model as training begins with it."""
    plan = Model.model_validate(tree(bottleneck, pixels))
    with seeded(0):
        parts = (
            build_encoder(plan.encoder, plan.bottleneck.dim, None),
            build_bottleneck(plan.bottleneck, values_a_latent(plan.encoder), seed=0),
            build_decoder(plan, speakers=3),
        )
    return VqVae(*parts, hop=plan.encoder.hop, seed=0).train()


def model(bottleneck: str = "ema", pixels: str = "logistic") -> VqVae:
    """A float64 model in training mode, its weights random, also those that begin at zero."""
    made = fresh(bottleneck, pixels).double()
    generator = torch.Generator().manual_seed(2)
    for p in made.parameters():
        p.data = torch.randn(p.shape, generator=generator, dtype=p.dtype) * 0.3
    if isinstance(made.bottleneck, VectorQuantizer):
        made.bottleneck.codebook.data.mul_(3)
        made.bottleneck.initialised.fill_(True)
    made.encoder.standardise.initialised.fill_(True)
    return made


def batch(count: int = 3, height: int = 8, width: int = 12, seed: int = 0) -> Batch:
    values = torch.randint(256, (count, 3, height, width), generator=torch.Generator().manual_seed(seed))
    return Batch(
        values.double() / 127.5 - 1, torch.arange(count), torch.full((count,), height), 7 * torch.arange(count)
    )


# --- places -------------------------------------------------------------------------------------------------


def box(seen: Tensor) -> tuple[int, int, int, int]:
    """First and last row and column of what is not 0 in ``[H, W]``."""
    at = seen.nonzero()
    (top, left), (bottom, right) = at.min(0).values.tolist(), at.max(0).values.tolist()
    return top, bottom, left, right


@pytest.mark.parametrize(("strides", "window"), [((2,), 4), ((2, 2), 4), ((4, 2), 6), ((1, 2), 2), ((2, 2, 2), 4)])
def test_a_latent_stands_where_it_looks_and_is_looked_at(strides: tuple[int, ...], window: int) -> None:
    """What a position sees, and what it makes, is centred on its own hop x hop pixels; height is not width."""
    if any((window - stride) % 2 for stride in strides):
        strides = tuple(stride for stride in strides if (window - stride) % 2 == 0)
    with seeded(0):
        encoder = ImageEncoder(3, strides, window, 16, 1, 16, G, D).eval().double()
        upsampler = ImageUpsampler(G * D, strides, window, 16, 1, 16, 5).eval().double()
    hop = math.prod(strides)
    x = torch.randn(2, 3, 11 * hop, 12 * hop, generator=torch.Generator().manual_seed(0)).double().requires_grad_()
    z = encoder(x, torch.full((2,), 11 * hop))
    assert encoder.hop == hop
    assert z.shape == (2, 11, 12, G, D)
    out = upsampler(z)
    assert out.shape == (2, 5, 11 * hop, 12 * hop)
    centre = 5 * hop + (hop - 1) / 2
    (seen,) = torch.autograd.grad(z[1, 5, 5].abs().sum(), x, retain_graph=True)
    assert not seen[0].any()
    top, bottom, left, right = box(seen[1].abs().sum(0))
    assert (top + bottom) / 2 == (left + right) / 2 == centre
    poked = z.detach().clone()
    poked[1, 5, 5] += 1
    made = (upsampler(poked) - upsampler(z.detach())).abs()
    assert not made[0].any()
    top, bottom, left, right = box(made[1].sum(0) > 1e-12)  # a rounding of the sums is no effect
    assert (top + bottom) / 2 == (left + right) / 2 == centre


@pytest.mark.parametrize("strides", [(2, 2), (4, 2)])
def test_a_signal_keeps_its_variance_on_its_way_up(strides: tuple[int, ...]) -> None:
    with seeded(0):
        upsampler = ImageUpsampler(32, strides, 4, 32, 0, 1, 32)
        keep_variance(upsampler)
        out = upsampler(torch.randn(4, 8, 8, 1, 32))
    # The first layer, before which no ReLU halves the signal, doubles it.
    assert 0.5 < out[..., 4:-4, 4:-4].var().item() / 2 < 2


def test_images_do_not_mix() -> None:
    vae, given = model().eval(), batch()
    together = vae.encode(given.x, given.lengths)
    alone = vae.encode(given.x[1:2], given.lengths[1:2])
    assert torch.equal(together.codes[1:2], alone.codes)
    mask = torch.ones(3, 8, 12, dtype=torch.bool)
    nats = vae.decoder.nll(given.x, together.z, given.label, mask)
    one = vae.decoder.nll(given.x[1:2], alone.z, given.label[1:2], mask[1:2])
    # float64; products of another height
    torch.testing.assert_close(nats[1:2], one, rtol=1e-10, atol=0)


def test_pixels_outside_the_mask_cost_nothing() -> None:
    vae, given = model(), batch()
    z = vae.encode(given.x, given.lengths).z
    mask = torch.zeros(3, 8, 12, dtype=torch.bool)
    mask[:, 2:5, 7] = True
    nats = vae.decoder.nll(given.x, z, given.label, mask)
    parameters = vae.decoder.network(z)
    expected = vae.decoder.distribution.nll(parameters, vae.decoder.distribution.encode(given.x))[:, 2:5, 7].sum(1)
    torch.testing.assert_close(nats, expected, rtol=1e-12, atol=0)


# --- the loss -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bottleneck", ["vq", "ema"])
def test_the_loss_equals_the_equation(bottleneck: str) -> None:
    """- log p(x | z_q) in nats an 8-bit value + the bottleneck's loss, one value at a time by sigmoids."""
    vae, given = model(bottleneck), batch()
    vae.decoder.network.strided[-1].weight.data.mul_(0.1)  # no value so far out that a sigmoid rounds to 0 or 1
    codebook = vae.bottleneck.codebook.detach().clone()
    with torch.no_grad():
        z_e = copy.deepcopy(vae.encoder).eval()(given.x, given.lengths)
        z_q = codebook[torch.cdist(z_e.reshape(1, -1, D), codebook[None]).argmin(-1)].view_as(z_e)
        out = vae.decoder.network(z_q)
    nats = 0.0
    bits = (given.x * 127.5 + 127.5).round().long()
    for image in range(3):
        for colour in range(3):
            weights, means, scales = (out[image, 6 * colour + 2 * i :][:2] for i in range(3))
            for y in range(8):
                for x in range(12):
                    v = int(bits[image, colour, y, x])
                    upper = (v + 0.5) / 127.5 - 1 if v < 255 else math.inf
                    lower = (v - 0.5) / 127.5 - 1 if v > 0 else -math.inf
                    share, scale = weights[:, y, x].softmax(0), (scales[:, y, x] - 2).clamp(min=-7).exp()
                    cdf = [torch.sigmoid((edge - means[:, y, x]) / scale) for edge in (upper, lower)]
                    nats -= math.log((share * (cdf[0] - cdf[1])).sum())
    squares = (z_e - z_q).square().mean().item()
    weight = BETA if bottleneck == "ema" else 1 + BETA
    found = vae.training_loss(given)
    dims = given.x.numel()
    # The difference of sigmoids cancels some digits of float64.
    assert found.loss.item() == pytest.approx(nats / dims + weight * squares, rel=1e-8)
    assert found.metrics["bits_per_dim"].item() == pytest.approx(nats / dims / math.log(2), rel=1e-8)
    assert found.metrics["bottleneck_loss"].item() == pytest.approx(weight * squares, rel=1e-10)
    assert found.metrics.keys() == {"bits_per_dim", "bottleneck_loss", "codes_used"}


def test_a_vaes_loss_is_its_bound_in_nats_a_dim() -> None:
    vae, given = model("vae"), batch()
    latents = copy.deepcopy(vae).encode(given.x, given.lengths, given.index)
    found = vae.training_loss(given)
    nats = vae.decoder.nll(given.x, latents.z, given.label, torch.ones(3, 8, 12, dtype=torch.bool)) + latents.rate
    assert found.loss.item() == pytest.approx(nats.sum().item() / given.x.numel(), rel=1e-10)
    assert found.metrics["bits_per_dim"].item() * math.log(2) == pytest.approx(found.loss.item(), rel=1e-10)
    rate = latents.rate.sum().item() / given.x.numel() / math.log(2)
    assert found.metrics["rate_bits_per_dim"].item() == pytest.approx(rate, rel=1e-10)


@each
@each_pixel
def test_every_parameter_gets_gradient(bottleneck: str, pixels: str) -> None:
    vae = model(bottleneck, pixels)
    vae.training_loss(batch()).loss.backward()
    for name, p in vae.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name


def test_the_latents_of_a_position_are_standardised_each_by_itself() -> None:
    """A code is used by all G of a position: their means and variances are one."""
    vae, given = model(), batch(64)
    vae.encoder.standardise.initialised.fill_(False)
    z = vae.encoder(given.x, given.lengths).flatten(0, 2)
    assert z.mean(0).abs().max() < 1e-9
    assert (z.var(0, unbiased=False) - 1).abs().max() < 1e-3  # SMALL in the encoder's root


def test_training_learns_a_few_images() -> None:
    vae, given = fresh(), batch(8, 8, 8)
    smooth = nn.functional.avg_pool2d(given.x.float(), 5, 1, 2).clamp(-1, 1)
    given = Batch(smooth, given.label, given.lengths, given.index)
    optimizer = torch.optim.Adam(vae.parameters(), 0.01)
    told = []
    for _ in range(30):
        found = vae.training_loss(given)
        found.loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        told.append(found.metrics["bits_per_dim"].item())
    assert told[-1] < told[0] - 0.3
    assert found.metrics["codes_used"] == K


# --- drawing ------------------------------------------------------------------------------------------------


def decoder(pixels: str) -> ImageDecoder:
    made = model("none", pixels).decoder
    assert isinstance(made, ImageDecoder)
    return made.eval()


def drawn(made: ImageDecoder, z: Tensor, noise: Tensor, **more: float) -> Tensor:
    return made.sample(z, torch.zeros(len(z), dtype=torch.int64), noise, choose("reference"), **more)


@each_pixel
def test_a_drawn_image_is_a_function_of_its_latents_and_noise(pixels: str) -> None:
    made = decoder(pixels)
    z = torch.randn(3, 2, 3, G, D, generator=torch.Generator().manual_seed(5)).double()
    noise = uniform(1, range(3), 3 * 8 * 12).view(3, 3, 8, 12)
    together = drawn(made, z, noise)
    assert together.shape == (3, 3, 8, 12)
    assert torch.equal(together[1:2], drawn(made, z[1:2], noise[1:2]))
    assert torch.equal(made.distribution.decode(made.distribution.encode(together)), together), "8-bit values"
    other = drawn(made, z, uniform(2, range(3), 3 * 8 * 12).view(3, 3, 8, 12))
    assert not torch.equal(together, other)


@each_pixel
def test_drawn_values_follow_the_tables(pixels: str) -> None:
    """Each value is the first whose cumulated probability, given the colours before it, passes its noise."""
    made = decoder(pixels)
    z = torch.randn(1, 2, 2, G, D, generator=torch.Generator().manual_seed(5)).double()
    noise = uniform(1, [0], 3 * 64).view(1, 3, 8, 8)
    noise[0, :, 0, 0], noise[0, :, 0, 1] = 0.0, 1 - 2**-53
    values = made.distribution.encode(drawn(made, z, noise))
    parameters = made.network(z)
    for colour in range(3):
        cumulated = made.distribution.table(parameters, values[:, :colour]).exp().cumsum(-1)
        upper = cumulated.gather(-1, values[:, colour, ..., None])[..., 0]
        lower = below(cumulated, values[:, colour])
        # Rounding of the sums of 256 terms of float64
        assert (noise[:, colour] <= upper + 1e-9).all()
        assert (noise[:, colour] >= lower - 1e-9).all()


def below(cumulated: Tensor, values: Tensor) -> Tensor:
    """The cumulated probability below each value."""
    return nn.functional.pad(cumulated, (1, 0))[..., :-1].gather(-1, values[..., None])[..., 0]


def test_a_low_temperature_draws_the_likeliest_value() -> None:
    made = decoder("categorical")
    z = torch.randn(1, 2, 2, G, D, generator=torch.Generator().manual_seed(5)).double()
    noise = uniform(1, [0], 3 * 64).view(1, 3, 8, 8)
    cold = made.distribution.encode(drawn(made, z, noise, temperature=1e-4))
    assert torch.equal(cold, made.network(z).view(1, 3, 256, 8, 8).argmax(2))
    assert torch.equal(made.distribution.encode(drawn(made, z, noise, top_p=1e-6)), cold)


@each_pixel
def test_the_mean_is_nearer_than_a_drawn_image(pixels: str) -> None:
    made = decoder(pixels)
    z = torch.randn(4, 2, 2, G, D, generator=torch.Generator().manual_seed(5)).double()
    images = [drawn(made, z, uniform(seed, range(4), 3 * 64).view(4, 3, 8, 8)) for seed in range(8)]
    mean = made.mean(z)
    assert mean.dtype == torch.float32
    assert mean.abs().max() <= 1
    to_mean = torch.stack([(one - mean).square().mean() for one in images]).mean()
    among = torch.stack([(one - other).square().mean() for one, other in pairwise(images)]).mean()
    # Twice the variance lies between two drawings, and once between one and their mean; edges cut a little off.
    assert 0.4 < to_mean / among < 0.65


# --- what is for speech alone -------------------------------------------------------------------------------


def test_a_model_of_images_has_no_voices() -> None:
    with pytest.raises(WavevqError, match="makes images"):
        of_speech(model().decoder)
    with pytest.raises(WavevqError, match="makes images"):
        model().decode([], torch.zeros(1, dtype=torch.int64), lambda start, count: torch.zeros(1, count), choose())


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({"decoder": {"kind": "wavenet"}}, "kind 'image' reads images, a decoder of kind 'wavenet' makes speech"),
        ({"encoder": {"kind": "mfcc"}}, "kind 'mfcc' reads speech, a decoder of kind 'image' makes images"),
        ({"jitter": 0.1}, "jitter 0.1 is for speech"),
        ({"past_gain": 6.0}, "past_gain 6 is for speech"),
        ({"adversary": 0.1}, "adversary 0.1 is for speech"),
        ({"augmentation": {}}, "augmentation is for speech"),
        ({"encoder": {"kind": "image", "window": 3}}, "window 3 must exceed every stride"),
        ({"decoder": {"kind": "image", "distribution": {"kind": "poisson"}}}, "'poisson'"),
    ],
)
def test_parts_that_do_not_fit_are_refused(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Model.model_validate({**tree(), **section})


def test_a_pixels_distribution_gives_the_decoder_its_width() -> None:
    made = model("none", "categorical").decoder
    assert isinstance(made.distribution, Categorical)
    assert made.network.strided[-1].out_channels == 768
