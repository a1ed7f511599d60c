"""What is made of PixelCNNs: the prior over a grid of codes and the decoder over pixels; how recipes ask for them."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from replay import faithful, mismatches
from torch import Tensor, nn

from wavevq.build import build_decoder, build_prior
from wavevq.contracts import Batch
from wavevq.decoders import PixelCnnDecoder
from wavevq.errors import WavevqError
from wavevq.fixed import FixedPrior
from wavevq.nn.pixelcnn import PixelCNN
from wavevq.noise import uniform
from wavevq.prior import Prior
from wavevq.recipe import Recipe
from wavevq.sampling import choose_grid

K, G, LABELS, D = 6, 2, 3, 4
GRID = (3, 5, G)
WIDTHS = {"layers": 5, "residual": 16, "gate": 16, "head": 24}


def tree(**changes: Any) -> dict[str, Any]:
    return {
        "data": {"kind": "cifar10"},
        "model": {
            "encoder": {"kind": "image", "channels": 4, "residual": 4, "residual_blocks": 1, "groups": G},
            "bottleneck": {"kind": "ema", "codes": K, "dim": D},
            "decoder": {"kind": "pixelcnn", "context": 4, "context_layers": 1, "kernel": 3, **WIDTHS},
        },
        "train": {"steps": 1, "crop": 32},
        "prior": {"steps": 1, "network": {"kind": "pixelcnn", **WIDTHS}, "speaker_dim": 4},
        **changes,
    }


def randomised(network: PixelCNN) -> None:
    """They begin at the uniform distribution, which would hide everything before it."""
    nn.init.normal_(network.output, std=0.3)
    nn.init.normal_(network.output_bias)


def prior(random: bool = True, **plan: Any) -> Prior:
    recipe = Recipe.model_validate(tree())
    assert recipe.prior is not None
    made = build_prior(recipe, recipe.prior.model_copy(update=plan), LABELS)
    assert isinstance(made.network, PixelCNN)
    if random:
        randomised(made.network)
    return made.eval()


def decoder(label_dim: int = 0) -> PixelCnnDecoder:
    plan = tree()["model"]
    plan["decoder"]["label_dim"] = label_dim
    made = build_decoder(Recipe.model_validate(tree(model=plan)).model, LABELS)
    assert isinstance(made, PixelCnnDecoder)
    randomised(made.network)
    return made.double().eval()


def batch(codes: Tensor) -> Batch:
    count = len(codes)
    return Batch(codes, torch.arange(count) % LABELS, torch.full((count,), codes.shape[1]), torch.arange(count))


def noise(count: int, *shape: int, seed: int = 3) -> Tensor:
    return uniform(seed, range(count), math.prod(shape)).view(count, *shape)


# --- the prior over a grid ----------------------------------------------------------------------------------


def test_before_training_every_code_is_as_likely_and_nothing_ends() -> None:
    made = prior(random=False)
    assert not made.ends
    nats = made.nll(torch.randint(K, (2, *GRID)), torch.tensor([0, 2]), torch.ones(2, *GRID, dtype=torch.bool))
    torch.testing.assert_close(nats, torch.full((2,), math.prod(GRID) * math.log(K)))


def test_a_code_is_predicted_from_earlier_ones_and_the_label_alone() -> None:
    made = prior().double()
    codes, label = torch.randint(K, (1, *GRID)), torch.tensor([1])
    right = made.logits(codes, label)
    assert right.shape == (1, *GRID, K)
    for place in range(codes.numel()):
        changed = codes.clone()
        changed.view(-1)[place] = (codes.view(-1)[place] + 1) % K
        differs = (made.logits(changed, label) != right).any(-1).flatten()
        assert not differs[: place + 1].any()
        assert differs[place + 1 : place + 2].all()
    assert (made.logits(codes, label + 1) != right).any(-1).all()


def test_the_likelihood_is_the_product_of_the_softmaxes() -> None:
    made = prior(drop_speaker=0.0).double()
    codes, label = torch.randint(K, (2, *GRID)), torch.tensor([2, 0])
    mask = torch.ones(2, *GRID, dtype=torch.bool)
    mask[1, 2:] = False
    own = made.logits(codes, label).log_softmax(-1).gather(-1, codes[..., None])[..., 0]
    torch.testing.assert_close(made.nll(codes, label, mask), -(own * mask).flatten(1).sum(1))
    loss = made.training_loss(batch(codes)).loss
    every = made.nll(codes, torch.tensor([0, 1]), torch.ones_like(mask))
    torch.testing.assert_close(loss, every.sum() / codes.numel())


def test_rows_below_the_image_teach_nothing() -> None:
    made = prior()
    codes = torch.randint(K, (2, *GRID))
    short = Batch(codes, torch.tensor([0, 1]), torch.tensor([3, 2]), torch.arange(2))
    assert made.taught(short).sum((1, 2, 3)).tolist() == [math.prod(GRID), 2 * GRID[1] * G]


def test_a_dropped_label_is_nobodys() -> None:
    made = prior(drop_speaker=0.999999)
    codes = torch.randint(K, (3, *GRID))
    nobody = made.nll(codes, torch.full((3,), made.nobody), torch.ones(3, *GRID, dtype=torch.bool))
    torch.testing.assert_close(made.training_loss(batch(codes)).loss, nobody.sum() / codes.numel())
    alone = prior(speaker_dim=0)
    assert alone.labels == 0
    assert torch.equal(alone.logits(codes, torch.tensor([0, 1, 2])), alone.logits(codes, torch.tensor([2, 2, 2])))


def test_sampled_codes_follow_the_prior() -> None:
    made = prior()
    label, draws = torch.tensor([0, 2, made.nobody]), noise(3, *GRID)
    codes = made.sample_grid(label, draws, choose_grid("cpu", "float32"), temperature=0.9)
    assert codes.shape == (3, *GRID)
    assert faithful(*mismatches(made.network, made.conditioning(label).detach(), codes, draws, 0.9))


def test_it_learns_what_can_be_learned_and_samples_it() -> None:
    """A class has its code at the first position; each code is that above or to the left, one up, half of the time.

    So a position has an entropy of one bit but the first, which has none; the G codes of one are alike.
    """
    generator = torch.Generator().manual_seed(0)

    def made_up(count: int) -> Batch:
        label = torch.randint(LABELS, (count,), generator=generator)
        codes = torch.zeros(count, 3, 4, dtype=torch.int64)
        for i in range(3):
            for j in range(4):
                before = codes[:, i - 1, j] if i else codes[:, i, j - 1] if j else label
                step = torch.randint(2, (count,), generator=generator) if i or j else 0
                codes[:, i, j] = (before + step) % K
        return Batch(codes[..., None].expand(-1, -1, -1, G), label, torch.full((count,), 3), torch.arange(count))

    made = prior(random=False, drop_speaker=0.0).train()
    optimizer = torch.optim.Adam(made.parameters(), lr=0.01)
    for step in range(120):
        for group in optimizer.param_groups:
            group["lr"] = 0.01 * (1 - step / 120)
        loss = made.training_loss(made_up(32)).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    held_out = made.eval().training_loss(made_up(400)).metrics["bits_per_code"]
    true = 11 / (12 * G)
    assert true - 0.01 < held_out < true + 0.03  # of 400 images' bits, and of what is not yet learned
    label = torch.arange(LABELS).repeat(20)
    codes = made.sample_grid(label, noise(60, 3, 4, G), choose_grid())
    assert (codes[..., 0] == codes[..., 1]).float().mean() > 0.98
    assert (codes[:, 0, 0, 0] == label).float().mean() > 0.8  # chance: a sixth
    steps = (codes[:, 1:, :, 0] - codes[:, :-1, :, 0]) % K
    assert (steps <= 1).float().mean() > 0.95


def test_its_codes_cannot_be_packed() -> None:
    with pytest.raises(WavevqError, match="must be a wavenet or a transformer"):
        FixedPrior(prior())


# --- the decoder over pixels --------------------------------------------------------------------------------


def images(count: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    """x, z and labels, by which every parameter of a decoder is reached."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randint(256, (count, 3, 8, 12), generator=generator).double() / 127.5 - 1
    return x, torch.randn(count, 2, 3, G, D, generator=generator).double(), torch.arange(count) % LABELS


@pytest.mark.parametrize("label_dim", [0, 3])
def test_the_nats_of_an_image_are_those_of_its_8_bit_values(label_dim: int) -> None:
    made = decoder(label_dim)
    x, z, label = images()
    mask = torch.ones(2, 8, 12, dtype=torch.bool)
    mask[1, 6:] = False
    values = ((x + 1) * 127.5).round().long().permute(0, 2, 3, 1)
    logits = made.network(values, made.conditioning(z, label))
    own = logits.log_softmax(-1).gather(-1, values[..., None])[..., 0]
    nats = made.nll(x, z, label, mask)
    torch.testing.assert_close(nats, -(own * mask[..., None]).flatten(1).sum(1))
    nats.sum().backward()
    assert [name for name, p in made.named_parameters() if p.grad is None or not p.grad.any()] == []
    assert torch.equal(made.nll(x[:1], z[:1], label[:1] + 1, mask[:1]), nats[:1]) is (label_dim == 0)
    assert made.labelled is (label_dim > 0)


def test_every_pixel_sees_its_latents_and_no_pixel_itself_or_a_later_one() -> None:
    made = decoder()
    x, z, label = images(1)
    x.requires_grad_()
    z.requires_grad_()
    values = made.distribution.encode(x).permute(0, 2, 3, 1)
    logits = made.network(values, made.conditioning(z, label))
    (reached,) = torch.autograd.grad(logits[0, 4, 5].square().sum(), z)
    assert reached[0, 1, 1].any(), "the latent of its place"
    before = logits.detach()
    changed = values.clone()
    changed[0, 4, 5, 1] = (values[0, 4, 5, 1] + 128) % 256
    differs = (made.network(changed, made.conditioning(z, label)).detach() != before).any(-1)[0].flatten()
    place = (4 * 12 + 5) * 3 + 1
    assert not differs[: place + 1].any()
    assert differs[place + 1]


def test_a_new_decoder_hears_its_latents() -> None:
    """Where they are a whisper, the commitment loss ends with one code before the decoder has learned to read any."""
    made = decoder()
    x, z, label = images()
    values = made.distribution.encode(x).permute(0, 2, 3, 1)
    own, others = (made.network.features(values, made.conditioning(some, label)) for some in (z, z.flip(0)))
    # With torch's own initial weights it is 0.002
    assert (own - others).std() > 0.05 * own.std()


def test_a_drawn_image_is_a_function_of_its_latents_and_noise() -> None:
    made = decoder(3)
    _, z, label = images(3)
    draws = noise(3, 3, 8, 12)
    sampler = choose_grid("cpu", "float32")
    x = made.sample(z, label, draws, sampler)
    assert x.shape == (3, 3, 8, 12)
    assert x.abs().max() <= 1
    assert torch.equal(made.sample(z[1:2], label[1:2], draws[1:2], sampler), x[1:2])
    values = made.distribution.encode(x).permute(0, 2, 3, 1)
    cond = made.conditioning(z, label).detach()
    assert faithful(*mismatches(made.network, cond, values, draws.permute(0, 2, 3, 1)))


# --- recipes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("section", "told"),
    [
        (
            {"prior": {"steps": 1, "network": {"kind": "wavenet"}}},
            "'wavenet' is for speech; for images must",
        ),
        ({"prior": {"steps": 1, "network": {"kind": "pixelcnn", "kernel": 4}}}, "1, 3, 5 or 7"),
        ({"prior": {"joint": True, "network": {"kind": "pixelcnn"}}}, "prior.joint: is for speech"),
        ({"data": {"kind": "fsdd"}}, "'pixelcnn' is for images or codes; for speech must be wavenet or transformer"),
    ],
)
def test_what_does_not_fit_is_refused(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        Recipe.model_validate(tree(**section))
