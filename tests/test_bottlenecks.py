"""The bottlenecks without codes against the equations, and a training with each from the recipe to the last command."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from click.testing import CliRunner
from torch import Tensor

from wavevq.build import build_bottleneck, build_model
from wavevq.cli import main
from wavevq.contracts import Batch
from wavevq.errors import WavevqError
from wavevq.nn.bottlenecks import MOST_LOG_VARIANCE, Bottleneck, Variational
from wavevq.noise import POSTERIOR, derived, normal, uniform
from wavevq.recipe import Recipe, parse_recipe

D, HOP = 3, 4
SECTIONS: dict[str, dict[str, Any]] = {"vae": {"weight": 0.7}, "none": {}}
kinds = pytest.mark.parametrize("kind", SECTIONS)


def recipe(kind: str, **more: Any) -> Recipe:
    widths = dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 4)
    tree = {
        "data": {"kind": "folder"},
        "model": {
            "encoder": {"kind": "waveform", "strides": [2, 2], "channels": 4},
            "bottleneck": {"kind": kind, "dim": D, **SECTIONS[kind], **more},
            "decoder": {"kind": "wavenet", "layers": 3, "cycle": 2, "context_layers": 1, "classes": 16, **widths},
        },
        "train": {"steps": 5, "crop": 32},
    }
    return parse_recipe(tree, "tiny")


def make(kind: str, **more: Any) -> Bottleneck:
    made = build_bottleneck(recipe(kind, **more).model.bottleneck, HOP, seed=0)
    generator = torch.Generator().manual_seed(2)
    for p in made.parameters():
        p.data = 0.5 * torch.randn(p.shape, generator=generator)
    return made.train()


def vae(**more: Any) -> Variational:
    made = make("vae", **more)
    assert isinstance(made, Variational)
    return made


def vectors(*axes: int, seed: int = 0) -> Tensor:
    return torch.randn(*axes, D, generator=torch.Generator().manual_seed(seed))


# --- the equations ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", [(2, 7), (2, 3, 4), (1, 1), (3, 0)])
@pytest.mark.parametrize("masked", [False, True])
def test_a_vaes_values_equal_the_equations(axes: tuple[int, ...], masked: bool) -> None:
    """z = mean + deviation x noise; KL(N(m, s) | N(0, 1)) = (m^2 + s^2 - 1) / 2 - log s, a dimension."""
    bottleneck, z_e = vae(), vectors(*axes)
    mask = vectors(*axes, seed=1)[..., 0] > 0 if masked else torch.ones(axes, dtype=torch.bool)
    index = 5 + torch.arange(axes[0])
    found = bottleneck(z_e, mask, index)
    weight, bias = (p.detach().double() for p in bottleneck.posterior.parameters())
    rate = [0.0] * axes[0]
    for row in range(axes[0]):
        noise = normal(derived(0, POSTERIOR), [int(index[row])], math.prod(axes[1:]) * D).view(*axes[1:], D)
        for place in torch.cartesian_prod(*(torch.arange(n) for n in axes[1:])).view(-1, len(axes) - 1).tolist():
            at = (row, *place)
            out = weight @ z_e[at].double() + bias
            mean, deviation = out[:D], (out[D:].clamp(max=MOST_LOG_VARIANCE) / 2).exp()
            drawn = mean + deviation * noise[tuple(place)] if mask[at] else torch.zeros(D)
            # float32 against float64, numbers of size 1 to 10
            torch.testing.assert_close(found.z[at].detach().double(), drawn.double(), rtol=1e-5, atol=1e-5)
            divergence = (mean.square() + deviation.square() - 1) / 2 - deviation.log()
            rate[row] += divergence.sum().item() * bool(mask[at])
    assert found.codes is None
    assert found.rate.tolist() == pytest.approx(rate, rel=1e-5)
    assert found.loss.item() == pytest.approx(0.7 * sum(rate) / max(1, int(mask.sum())) / HOP, rel=1e-5)


def test_the_divergence_of_a_standard_normal_is_nothing() -> None:
    bottleneck = vae()
    for p in bottleneck.parameters():
        p.data.zero_()
    found = bottleneck(vectors(2, 5), torch.ones(2, 5, dtype=torch.bool), torch.arange(2))
    assert found.rate.tolist() == [0, 0]
    assert found.loss == 0
    noise = normal(derived(0, POSTERIOR), [0, 1], 5 * D).view(2, 5, D)
    assert torch.equal(found.z, noise.float())


def test_an_autoencoder_passes_its_latents_through() -> None:
    bottleneck, mask = make("none"), torch.arange(7) < torch.tensor([[7], [4]])
    z_e = vectors(2, 7).requires_grad_()
    found = bottleneck(z_e, mask, torch.arange(2))
    assert torch.equal(found.z, z_e * mask[..., None])
    assert (found.codes, found.rate, found.loss.item(), found.loss.dtype) == (None, None, 0, torch.float32)
    (gradient,) = torch.autograd.grad(found.z.sum(), z_e)
    assert torch.equal(gradient, mask[..., None].expand(2, 7, D).float())
    assert not list(bottleneck.state_dict())


def test_the_weight_rises_linearly_with_the_steps() -> None:
    constant, rising = vae(), vae(anneal=4)
    z_e, mask, index = vectors(2, 5), torch.ones(2, 5, dtype=torch.bool), torch.arange(2)
    whole = constant(z_e, mask, index).loss
    shares = []
    for step in range(7):
        if step == 3:  # a batch without a valid position is no step, nor is an evaluation
            rising(z_e, torch.zeros_like(mask), index)
            rising.eval()(z_e, mask)
            other = vae(anneal=4)
            other.load_state_dict(rising.state_dict())
            rising = other
        shares.append((rising(z_e, mask, index).loss / whole).item())
    assert shares == pytest.approx([0, 0.25, 0.5, 0.75, 1, 1, 1], rel=1e-6)


def test_free_bits_of_a_dimension_cost_nothing_and_teach_nothing() -> None:
    """Means of 2, 1 and 0.1 at deviation 1: 2, 0.5 and 0.005 nats a position, of which half a bit is free."""
    bottleneck = vae(free_bits=0.5, weight=1.0)
    bottleneck.posterior.weight.data.zero_()
    bottleneck.posterior.bias.data = torch.tensor([2.0, 1.0, 0.1, 0, 0, 0])
    z_e, mask = vectors(2, 5), torch.ones(2, 5, dtype=torch.bool)
    found = bottleneck(z_e, mask, torch.arange(2))
    free = 0.5 * math.log(2)
    assert found.loss.item() == pytest.approx((2 + 0.5 + free) / HOP, rel=1e-6)
    assert found.rate.tolist() == pytest.approx([5 * 2.505] * 2, rel=1e-6)  # the rate is what it is
    (gradient,) = torch.autograd.grad(found.loss, bottleneck.posterior.bias)
    assert gradient.tolist() == pytest.approx([2 / HOP, 1 / HOP, 0, 0, 0, 0], abs=1e-7)


def test_normal_noise() -> None:
    drawn = normal(3, range(4), 25_000)
    # four standard errors of 100,000 draws
    assert drawn.mean().item() == pytest.approx(0, abs=4 / math.sqrt(1e5))
    assert drawn.std().item() == pytest.approx(1, abs=4 / math.sqrt(2e5))
    assert (drawn < -1).double().mean().item() == pytest.approx(0.158655, abs=0.005)
    assert torch.equal(normal(3, [2], 10), drawn[2:3, :10])
    assert torch.equal(torch.special.ndtr(drawn[0, :9]).round(decimals=9), uniform(3, [0], 9)[0].round(decimals=9))


def test_the_ends_of_the_uniform_noise_have_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = torch.tensor([[0.0, 1 - 2**-53]], dtype=torch.float64)
    monkeypatch.setattr("wavevq.noise.uniform", lambda *_: ends)
    assert normal(0, [0], 2).isfinite().all()


# --- masks, noise, evaluation -------------------------------------------------------------------------------


@kinds
@pytest.mark.parametrize("poison", [1e30, float("nan"), float("inf")])
def test_padding_influences_nothing(kind: str, poison: float) -> None:
    mask = torch.arange(9) < torch.tensor([[9], [4]])
    results = []
    for filler in (0.0, poison):
        bottleneck = make(kind)
        z_e = torch.where(mask[..., None], vectors(2, 9), filler).requires_grad_()
        found = bottleneck(z_e, mask, torch.arange(2))
        (found.loss + found.z.square().sum()).backward()
        assert not found.z[~mask].any()
        assert z_e.grad is not None
        assert not z_e.grad[~mask].any()
        of = [z_e.grad, found.loss.detach(), found.z.detach(), *(p.grad for p in bottleneck.parameters())]
        results.append(of + ([] if found.rate is None else [found.rate.detach()]))
    for one, other in zip(*results, strict=True):
        assert one is not None
        assert torch.equal(one, other)


def test_the_noise_belongs_to_the_example() -> None:
    """Not to its place in the batch, the batch's width or the global generator."""
    bottleneck, z_e = vae(), vectors(3, 6)
    whole = torch.ones(3, 6, dtype=torch.bool)
    together = bottleneck(z_e, whole, torch.tensor([4, 9, 7])).z
    torch.manual_seed(77)
    alone = bottleneck(z_e[1:2, :4], whole[1:2, :4], torch.tensor([9])).z
    # a product of another height may round otherwise
    torch.testing.assert_close(alone, together[1:2, :4], rtol=1e-6, atol=1e-6)
    assert not torch.allclose(bottleneck(z_e[1:2], whole[1:2], torch.tensor([8])).z, together[1:2])


def test_without_numbers_the_mean() -> None:
    bottleneck, z_e = vae(), vectors(2, 5)
    with pytest.raises(AssertionError, match="training draws"):
        bottleneck(z_e, torch.ones(2, 5, dtype=torch.bool))
    bottleneck.eval()
    before = {name: value.clone() for name, value in bottleneck.state_dict().items()}
    found = bottleneck(z_e, torch.ones(2, 5, dtype=torch.bool))
    assert torch.equal(found.z, bottleneck.posterior(z_e)[..., :D])
    assert torch.equal(bottleneck.lookup(found.z), found.z)
    drawn = bottleneck(z_e, torch.ones(2, 5, dtype=torch.bool), torch.arange(2))
    assert not torch.equal(drawn.z, found.z)
    assert torch.equal(drawn.rate, found.rate)
    assert all(torch.equal(value, before[name]) for name, value in bottleneck.state_dict().items())


def test_rates_stay_float32_under_bf16() -> None:
    z_e, mask, index = vectors(2, 50).bfloat16(), torch.ones(2, 50, dtype=torch.bool), torch.arange(2)
    expected = vae()(z_e.float(), mask, index)
    with torch.autocast("cpu", torch.bfloat16):
        found = vae()(z_e, mask, index)
    assert (found.z.dtype, found.rate.dtype, found.loss.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    assert torch.equal(found.rate, expected.rate)
    assert torch.equal(found.loss, expected.loss)


def test_a_signal_unlike_all_others_draws_bounded_noise() -> None:
    """Latents far outside of what training saw: a linear log variance would be 50, and the noise of 1e10."""
    bottleneck, z_e = vae(), 1000 * vectors(2, 7)
    found = bottleneck(z_e, torch.ones(2, 7, dtype=torch.bool), torch.arange(2))
    mean, log_variance = bottleneck.posterior(z_e).chunk(2, dim=-1)
    assert log_variance.max() > 100
    assert (found.z - mean).abs().max() < 6 * math.exp(MOST_LOG_VARIANCE / 2)  # no normal draw of 56 is beyond 6
    assert found.rate.isfinite().all()


# --- ranks --------------------------------------------------------------------------------------------------


def test_two_ranks_equal_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Threads stand for the processes: what is summed over ranks, and what DDP averages, is the joined batch's."""
    z_e, mask, index = vectors(4, 6), torch.arange(6) < torch.tensor([[6], [1], [3], [5]]), torch.arange(4)
    section = {"anneal": 4, "free_bits": 0.7}

    def step(bottleneck: Variational, rows: slice) -> Tensor:
        for _ in range(2):  # the first has a weight of 0
            loss = bottleneck(z_e[rows], mask[rows], index[rows]).loss
        loss.backward()
        return loss.detach()

    alone = vae(**section)
    whole = step(alone, slice(None))
    meeting, brought = threading.Barrier(2, timeout=60), {}

    def total(own: Tensor) -> Tensor:
        brought[threading.get_ident()] = own.detach()
        meeting.wait()
        summed = sum(brought.values(), torch.zeros(()))
        meeting.wait()  # nobody brings the next before all have read
        return summed

    monkeypatch.setattr("wavevq.nn.bottlenecks.total", total)
    monkeypatch.setattr("wavevq.nn.bottlenecks.world_size", lambda: 2)
    ranks = [vae(**section) for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        losses = list(pool.map(step, ranks, [slice(rank, None, 2) for rank in range(2)]))
    free = (alone.posterior.bias.grad == 0)[:D]
    assert 0 < free.sum() < D, "some dimensions must be free and some not"
    # float32 sums of 15 positions in another order
    assert sum(losses).item() / 2 == pytest.approx(whole.item(), rel=1e-5)
    for name, p in alone.named_parameters():
        mean = torch.stack([dict(rank.named_parameters())[name].grad for rank in ranks]).mean(0)
        torch.testing.assert_close(mean, p.grad, rtol=1e-5, atol=1e-6, msg=name)
    assert [int(rank.updates) for rank in ranks] == [2, 2]


# --- the whole model ----------------------------------------------------------------------------------------


@kinds
def test_every_parameter_gets_gradient_and_the_loss_is_the_bound(kind: str) -> None:
    model = build_model(recipe(kind, **({"weight": 1.0} if kind == "vae" else {})), 2).train()
    for p in model.parameters():
        p.data = torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())) * 0.5
    x = 0.3 * vectors(2, 32)[..., 0][:, None].clamp(-1, 1)
    found = model.training_loss(Batch(x, torch.arange(2), torch.full((2,), 32), torch.arange(2)))
    found.loss.backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert p.grad.abs().max() > 0, name
    # Whole frames: the loss a sample and the bound are the same.
    assert found.metrics["bits_per_sample"].item() * math.log(2) == pytest.approx(found.loss.item(), rel=1e-5)
    assert ("rate_bits_per_sample" in found.metrics, "codes_used" in found.metrics) == (kind == "vae", False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, make_audio: Callable[..., Path]) -> Path:
    """A folder with a corpus and a finished run of each kind."""
    place = tmp_path_factory.mktemp("trained")
    for speaker, pitch in (("ann", 120.0), ("bob", 300.0)):
        for i in range(4):
            make_audio(place / "corpus" / speaker / f"{speaker}_{i}.wav", seconds=0.05 + 0.02 * i, pitch=pitch)
    for kind in SECTIONS:
        tree = recipe(kind).model_dump(mode="json")
        tree["data"] = {"kind": "folder", "root": str(place / "corpus"), "rate": 8000, "held_out": 0.3}
        tree["train"] = {"steps": 3, "batch": 2, "crop": 64}
        tree["evaluation"] = {"sampled": 1, "sampled_seconds": 0.01}
        (place / f"{kind}.yaml").write_text(yaml.safe_dump(tree))
        result = CliRunner().invoke(main, ["train", str(place / f"{kind}.yaml"), "--run", str(place / kind)])
        assert result.exit_code == 0, result.output
    return place


@kinds
def test_a_run_tells_its_likelihood_and_no_codes(trained: Path, kind: str) -> None:
    figures = json.loads((trained / kind / "summary.json").read_text())
    rows = {"bits_per_sample", "marginal_bits", "shuffled_latents_gap", "wrong_speaker_gap", "clips"}
    assert rows <= figures.keys()
    assert not {"codes", "codes_used", "perplexity", "shuffled_codes_gap"} & figures.keys()
    assert ("rate_bits_per_sample" in figures) == (kind == "vae")
    shown = CliRunner().invoke(main, ["info", str(trained / kind)]).output
    assert f"{kind}, D = {D}" in shown
    assert "bit rate" not in shown


@kinds
@pytest.mark.parametrize("command", ["encode in.wav out.npy", "decode in.npy out.wav", "convert in.wav", "sample new"])
def test_commands_on_codes_are_refused_in_one_line(trained: Path, kind: str, command: str) -> None:
    words = [*command.split(), "--run", str(trained / kind)]
    result = CliRunner().invoke(main, [*words, *(["--speaker", "ann"] if words[0] in ("decode", "convert") else [])])
    line = f"wavevq: {trained / kind}: its bottleneck is {kind!r} and has no codes; take a run with vq or ema\n"
    assert (result.exit_code, result.stderr.endswith(line)) == (2, True)
    assert not [path for path in (trained / "out.npy", trained / "out.wav", Path("new")) if path.exists()]


@kinds
def test_a_prior_wants_codes(kind: str) -> None:
    tree = recipe(kind).model_dump(mode="json") | {"prior": {"steps": 1, "network": {"kind": "wavenet"}}}
    tree["train"]["crop"] = 33
    with pytest.raises(WavevqError) as caught:
        parse_recipe(tree, "tiny")
    assert str(caught.value) == (
        "tiny: recipe: train.crop 33 must be a multiple of the hop, 4; "
        f"prior: a bottleneck of kind {kind!r} has no codes to learn"
    )
