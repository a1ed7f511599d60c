"""The reference sampler is the definition of right, so it is held against the parallel forward in float64."""

from __future__ import annotations

from typing import Literal

import pytest
import torch
from replay import faithful, mismatches
from torch import Tensor
from torch.nn import functional as F

from wavevq.nn.wavenet import WaveNet
from wavevq.noise import uniform
from wavevq.sampling.reference import Reference, pick, rounded, start, step


def network(kernel: int, cycle: int, layers: int) -> WaveNet:
    torch.manual_seed(2)
    net = WaveNet(
        classes=13, layers=layers, cycle=cycle, kernel=kernel, residual=5, gate=6, skip=4, head=8, cond_dim=3
    ).double()
    torch.nn.init.normal_(net.output.weight)
    return net


def conditioning(net: WaveNet, batch: int, frames: int) -> Tensor:
    return net.conditioning(torch.randn(batch, frames, 3, dtype=torch.float64)).detach()


# kernel, cycle, layers, frames, hop: one frame, hop 1, three taps, dilations longer than the signal
@pytest.mark.parametrize(
    ("kernel", "cycle", "layers", "frames", "hop"), [(2, 3, 5, 6, 4), (3, 2, 3, 9, 1), (2, 6, 6, 1, 7)]
)
def test_every_step_gives_the_logits_of_the_parallel_forward(
    kernel: int, cycle: int, layers: int, frames: int, hop: int
) -> None:
    net = network(kernel, cycle, layers)
    cond = conditioning(net, 2, frames)
    drawn, _ = Reference("float32")(net, cond, uniform(0, [0, 1], frames * hop))
    parallel = net(drawn, cond)
    state = start(net, 2)
    for t in range(frames * hop):
        logits = step(net, cond[:, t // hop], state)
        # the same sums in another order, float64
        torch.testing.assert_close(logits, parallel[:, t], rtol=1e-10, atol=1e-10)
        state.present = net.embedding[drawn[:, t]].detach()
        state.position += 1


def test_replay_the_samples_are_the_picks_of_the_parallel_forward() -> None:
    net = network(2, 3, 5)
    cond = conditioning(net, 3, 6)
    noise = uniform(5, range(3), 30)
    drawn, _ = Reference("float32")(net, cond, noise, temperature=0.8, top_p=0.9)
    again = torch.stack(
        [pick(logits, u, 0.8, 0.9) for logits, u in zip(net(drawn, cond).unbind(1), noise.T, strict=True)], 1
    )
    assert torch.equal(drawn, again)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_replay_in_float32(precision: Literal["float32", "bfloat16"]) -> None:
    net = network(2, 3, 5)
    cond = conditioning(net, 3, 40).float()
    net = net.float()
    noise = uniform(5, range(3), 400)
    drawn, _ = Reference(precision)(net, cond, noise)
    assert faithful(*mismatches(rounded(net) if precision == "bfloat16" else net, cond, drawn, noise))


def test_replay_notices_a_lost_tap() -> None:
    net = network(2, 3, 5)
    cond = conditioning(net, 3, 6)
    noise = uniform(5, range(3), 60)
    drawn, _ = Reference("float32")(net, cond, noise)
    with torch.no_grad():
        net.taps[2, 0] = 0
    again = torch.stack([pick(logits, u) for logits, u in zip(net(drawn, cond).unbind(1), noise.T, strict=True)], 1)
    assert not torch.equal(drawn, again)


def test_a_stream_cut_anywhere_goes_on_as_if_whole() -> None:
    net = network(3, 2, 4)
    cond = conditioning(net, 2, 6)
    noise = uniform(1, [4, 9], 24)
    whole, _ = Reference("float32")(net, cond, noise)
    first, state = Reference("float32")(net, cond[:, :2], noise[:, :8])
    second, _ = Reference("float32")(net, cond[:, 2:], noise[:, 8:], state=state)
    assert torch.equal(torch.cat([first, second], 1), whole)


def test_a_prefix_stands_where_samples_were() -> None:
    net = network(2, 3, 4)
    cond = conditioning(net, 1, 6)
    noise = uniform(1, [0], 24)
    whole, _ = Reference("float32")(net, cond, noise)
    rest, _ = Reference("float32")(net, cond, noise[:, 10:], prefix=whole[:, :10])
    assert torch.equal(rest, whole[:, 10:])


@pytest.mark.parametrize("u", [0.0, 1e-12, 0.25, 0.5, 1 - 1e-12, 1 - 2**-53])
def test_pick_is_the_inverse_of_the_cumulated_probability(u: float) -> None:
    probability = torch.tensor([0.0, 0.25, 0.25, 0.0, 0.5, 0.0], dtype=torch.float64)
    picked = int(pick(probability.log()[None], torch.tensor([u], dtype=torch.float64)))
    assert picked == (1 if u < 0.25 else 2 if u < 0.5 else 4)


def test_pick_draws_each_class_as_often_as_its_probability_says() -> None:
    logits = torch.randn(5, dtype=torch.float64)
    noise = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    counts = torch.bincount(pick(logits.expand(10_000, 5), noise), minlength=5) / 10_000
    # an even grid of noise meets each interval within one step at both ends
    torch.testing.assert_close(counts.double(), F.softmax(logits, 0), atol=2e-4, rtol=0)


def test_temperature_and_top_p_narrow_the_choice() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0], dtype=torch.float64).expand(1000, 4)
    noise = (torch.arange(1000, dtype=torch.float64) + 0.5) / 1000
    assert set(pick(logits, noise, top_p=0.6).tolist()) == {0}
    assert set(pick(logits, noise, top_p=0.7).tolist()) == {0, 1}
    assert (pick(logits, noise, temperature=0.5) == 0).sum() > (pick(logits, noise) == 0).sum()
    assert set(pick(logits, noise, temperature=1e-3).tolist()) == {0}
