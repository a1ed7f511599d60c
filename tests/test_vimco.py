"""VIMCO against its definition: the bound, what a sample adds to it, and an estimate whose mean is the gradient."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor

from wavevq.build import build_bottleneck, build_decoder, build_encoder, values_a_latent
from wavevq.contracts import Batch
from wavevq.errors import WavevqError
from wavevq.nn.bottlenecks import Drawn
from wavevq.noise import POSTERIOR, derived, uniform
from wavevq.recipe import Model, parse_recipe
from wavevq.vimco import VimcoVae, gains
from wavevq.vqvae import VqVae


def model(codes: int = 3, samples: int = 2, groups: int = 1) -> VimcoVae:
    """A float64 model of images of 4 x 4 pixels a position."""
    widths = {"channels": 4, "residual": 3, "residual_blocks": 1}
    plan = Model.model_validate(
        {
            "encoder": {"kind": "image", "groups": groups, **widths},
            "bottleneck": {"kind": "vimco", "codes": codes, "dim": 2, "samples": samples},
            "decoder": {"kind": "image", **widths},
        }
    )
    parts = (
        build_encoder(plan.encoder, 2, None),
        build_bottleneck(plan.bottleneck, values_a_latent(plan.encoder), seed=0),
        build_decoder(plan, 1),
    )
    made = VimcoVae(VqVae(*parts, hop=4, seed=0), samples=samples).double()
    generator = torch.Generator().manual_seed(4)
    for p in made.parameters():
        p.data = 0.4 * torch.randn(p.shape, generator=generator, dtype=p.dtype)
    return made.eval()  # the encoder's statistics stay


def batch(count: int = 1, height: int = 4, width: int = 4) -> Batch:
    x = torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0)).double() * 2 - 1
    return Batch(x, torch.zeros(count).long(), torch.full((count,), height), 5 + torch.arange(count))


def drawing(made: VimcoVae, monkeypatch: pytest.MonkeyPatch, codes: Tensor) -> None:
    monkeypatch.setattr(made.bottleneck, "draw", lambda log_q, index, samples: codes)


def test_the_mean_of_the_estimate_is_the_gradient_of_the_mean_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    """Over all nine drawings of two samples of three codes: what a score, weighted by chance, must add up to."""
    made, given = model(), batch()
    parameters = dict(made.named_parameters())
    mask = torch.ones(1, 1, 1, 1, dtype=torch.bool)
    log_q = made.bottleneck.log_q(made.encoder(given.x, given.lengths), mask).flatten()
    z = made.bottleneck.lookup(torch.arange(3)).view(3, 1, 1, 1, 2)
    pixels = torch.ones(3, 4, 4, dtype=torch.bool)
    nats = made.decoder.nll(given.x.expand(3, -1, -1, -1), z, given.label.expand(3), pixels)
    weights = -nats - log_q - math.log(3)  # log p(x, c) / q(c | x)
    expected: Any = 0.0
    for one, other in product(range(3), repeat=2):
        bound = torch.logaddexp(weights[one], weights[other]) - math.log(2)
        expected = expected + (log_q[one] + log_q[other]).exp() * bound
    exact = torch.autograd.grad(-expected / given.x.numel(), parameters.values(), allow_unused=True)
    found = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for one, other in product(range(3), repeat=2):
        drawing(made, monkeypatch, torch.tensor([one, other]).view(2, 1, 1, 1, 1))
        chance = (log_q[one] + log_q[other]).exp().item()
        loss = made.training_loss(given).loss
        for (name, p), g in zip(
            parameters.items(), torch.autograd.grad(loss, parameters.values(), allow_unused=True), strict=True
        ):
            found[name] += chance * (torch.zeros_like(p) if g is None else g)
    for (name, gradient), other_gradient in zip(found.items(), exact, strict=True):
        assert other_gradient is not None, name
        # float64
        torch.testing.assert_close(gradient, other_gradient, rtol=1e-8, atol=1e-12, msg=name)
    assert found["encoder.project.weight"].abs().max() > 1e-6


def test_what_a_sample_adds_is_the_definition() -> None:
    log_weights = 3 * torch.randn(4, 2, generator=torch.Generator().manual_seed(1)).double()
    found = gains(log_weights)
    for s, b in product(range(4), range(2)):
        others = [log_weights[i, b].item() for i in range(4) if i != s]
        instead = [*others, sum(others) / 3]
        every = [*others, log_weights[s, b].item()]
        expected = math.log(sum(map(math.exp, every))) - math.log(sum(map(math.exp, instead)))
        assert found[s, b].item() == pytest.approx(expected, rel=1e-9)


def test_gains_of_far_weights_are_finite() -> None:
    assert gains(torch.tensor([[-1e5], [-9e4], [-2e5]])).isfinite().all()


def test_the_bound_tightens_with_samples_and_is_the_losss() -> None:
    made, given = model(codes=4), batch(64, 8, 12)
    one, two, many = (made.bound(given, samples).mean().item() for samples in (1, 2, 50))
    assert one > two > many
    found = made.training_loss(given)
    dims = 64 * 3 * 8 * 12
    assert found.loss.item() == pytest.approx(two * 64 / dims, rel=1e-10)
    assert found.metrics["bits_per_dim"].item() == pytest.approx(two * 64 / dims / math.log(2), rel=1e-10)
    latents = made.encode(given.x, given.lengths, given.index)
    nats = made.decoder.nll(given.x, latents.z, given.label, torch.ones(64, 8, 12, dtype=torch.bool))
    assert (nats + latents.rate).mean().item() == pytest.approx(one, rel=1e-10)


def test_codes_follow_their_softmax_and_their_examples_noise() -> None:
    bottleneck = model(codes=5).bottleneck
    log_q = torch.randn(3, 2, 2, 5, generator=torch.Generator().manual_seed(1)).log_softmax(-1)
    index = torch.tensor([4, 9, 7])
    drawn = bottleneck.draw(log_q, index, 3000)
    assert drawn.shape == (3000, 3, 2, 2)
    shares = torch.nn.functional.one_hot(drawn, 5).double().mean(0)
    # Four standard errors of 3,000 drawings
    assert (shares - log_q.exp()).abs().max() < 4 * 0.5 / math.sqrt(3000)
    assert torch.equal(bottleneck.draw(log_q[1:2], index[1:2], 3000), drawn[:, 1:2])
    noise = uniform(derived(0, POSTERIOR), [9], 4).view(2, 2)
    passed = (log_q[1].exp().cumsum(-1) <= noise[..., None]).sum(-1)
    assert torch.equal(drawn[0, 1], passed)


def test_without_numbers_the_likeliest_codes() -> None:
    made, given = model(), batch(2, 8, 8)
    latents = made.encode(given.x, given.lengths)
    mask = torch.ones(2, 2, 2, 1, dtype=torch.bool)
    log_q = made.bottleneck.log_q(made.encoder(given.x, given.lengths), mask)
    assert torch.equal(latents.codes, log_q.argmax(-1))
    assert torch.equal(latents.z, made.bottleneck.codebook[latents.codes])
    rate = (log_q.max(-1).values + math.log(3)).flatten(1).sum(1)
    torch.testing.assert_close(latents.rate, rate)


def test_padding_has_neither_codes_nor_rate() -> None:
    bottleneck = Drawn(4, 3)
    z_e = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(6) < torch.tensor([[6], [2]])
    clean, filthy = (bottleneck(torch.where(mask[..., None], z_e, filler), mask, torch.arange(2)) for filler in (0, 9))
    assert torch.equal(clean.codes, filthy.codes)
    assert torch.equal(clean.rate, filthy.rate)
    assert not clean.codes[~mask].any()
    assert not clean.z[~mask].any()


def test_every_parameter_gets_gradient_and_a_few_steps_raise_the_bound() -> None:
    made, given = model(codes=4, samples=5, groups=2).train(), batch(8, 8, 8)
    optimizer = torch.optim.Adam(made.parameters(), 0.01)
    told = []
    for _ in range(25):
        found = made.training_loss(given)
        found.loss.backward()
        for name, p in made.named_parameters():
            assert p.grad is not None, name
            assert p.grad.abs().max() > 0, name
        optimizer.step()
        optimizer.zero_grad()
        told.append(found.metrics["bits_per_dim"].item())
    assert told[-1] < told[0] - 0.1


def of_speech() -> dict[str, Any]:
    model = {"encoder": {"kind": "waveform"}, "bottleneck": {"kind": "vimco"}, "decoder": {"kind": "wavenet"}}
    return {"data": {"kind": "folder"}, "model": model, "train": {"steps": 1}}


@pytest.mark.parametrize("told", ["jitter 0.1", "past_gain 6", "adversary 0.1", "augmentation"])
def test_what_its_loss_leaves_out_is_refused(told: str) -> None:
    key, _, value = told.partition(" ")
    tree = of_speech()
    tree["model"][key] = float(value) if value else {}
    with pytest.raises(WavevqError, match=f"{told}: not with a bottleneck of kind 'vimco'"):
        parse_recipe(tree, "tiny")


def test_joint_training_wants_a_quantizer() -> None:
    tree = of_speech() | {"prior": {"joint": True, "network": {"kind": "wavenet"}}}
    with pytest.raises(WavevqError, match=r"prior.joint: wants a bottleneck of kind vq or ema, not 'vimco'"):
        parse_recipe(tree, "tiny")
