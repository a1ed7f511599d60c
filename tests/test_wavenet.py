"""The WaveNet: its fast stack equals the plain one, it is causal, and it sees all of its receptive field."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from wavevq.nn import wavenet as module
from wavevq.nn.wavenet import WaveNet, _ResidualStack, plain_stack

# kernel, cycle, residual, gate, skip, frames, hop, batch
SHAPES = [(2, 3, 6, 5, 7, 4, 3, 2), (3, 2, 4, 4, 4, 5, 1, 3), (2, 6, 8, 8, 8, 1, 9, 1), (4, 2, 3, 5, 2, 2, 8, 2)]


def network(
    kernel: int = 2, cycle: int = 3, residual: int = 6, gate: int = 5, skip: int = 7, layers: int = 5
) -> WaveNet:
    torch.manual_seed(1)
    made = WaveNet(
        classes=11,
        layers=layers,
        cycle=cycle,
        kernel=kernel,
        residual=residual,
        gate=gate,
        skip=skip,
        head=9,
        cond_dim=3,
    ).double()
    torch.nn.init.normal_(made.output.weight)  # it starts at zero, which would hide everything before it
    return made


def arguments(net: WaveNet, frames: int, hop: int, batch: int) -> tuple[Tensor, ...]:
    width, gates = net.embedding.shape[1], 2 * net.gate
    x = torch.randn(frames * hop, batch, width, dtype=torch.float64, requires_grad=True)
    cond = torch.randn(frames, batch, len(net.dilations), gates, dtype=torch.float64, requires_grad=True)
    return x, cond, net.taps, net.residual, net.skip


@pytest.mark.parametrize("block", [1, 7, 4096])
@pytest.mark.parametrize("shape", SHAPES)
def test_fast_stack_equals_the_plain_one_and_so_do_its_gradients(
    shape: tuple[int, ...], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "ROWS_A_BLOCK", block)
    kernel, cycle, residual, gate, skip, frames, hop, batch = shape
    net = network(kernel, cycle, residual, gate, skip)
    given = arguments(net, frames, hop, batch)
    fast = _ResidualStack.apply(*given, net.dilations)
    plain = plain_stack(*given, net.dilations)
    # float64 rounding of sums of a few dozen terms
    torch.testing.assert_close(fast, plain, rtol=1e-11, atol=1e-11)
    upstream = torch.randn_like(plain)
    for a, b in zip(
        torch.autograd.grad(fast, given, upstream), torch.autograd.grad(plain, given, upstream), strict=True
    ):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)


def test_without_gradients_the_stack_keeps_nothing_and_gives_the_same() -> None:
    net = network()
    given = arguments(net, 4, 3, 2)
    with torch.no_grad():
        lean = _ResidualStack.apply(*given, net.dilations, False)
    assert torch.equal(lean, _ResidualStack.apply(*given, net.dilations, True))


def test_a_prediction_sees_the_past_and_nothing_else() -> None:
    net = network(kernel=3, cycle=2, layers=4)
    frames, hop = 8, 5
    x = torch.randint(net.classes, (1, frames * hop))
    cond = net.conditioning(torch.randn(1, frames, 3, dtype=torch.float64))
    before = net(x, cond)
    for t in (0, 7, 20):
        changed = x.clone()
        changed[0, t] = (x[0, t] + 1) % net.classes
        differs = (net(changed, cond) - before).abs().amax(-1)[0] > 0
        assert not differs[: t + 1].any(), "a prediction saw its own target or the future"
        seen = slice(t + 1, t + 1 + net.receptive_field)
        assert differs[seen].all(), "a hole in the receptive field"
        assert not differs[t + 1 + net.receptive_field :].any()


def test_conditioning_reaches_the_samples_of_its_frame() -> None:
    net = network()
    c = torch.randn(1, 4, 3, dtype=torch.float64)
    x = torch.randint(net.classes, (1, 12))
    changed = c.clone()
    changed[0, 2] += 1
    differs = (net(x, net.conditioning(changed)) - net(x, net.conditioning(c))).abs().amax(-1)[0] > 0
    assert not differs[:6].any()
    assert differs[6:9].all()


def test_bfloat16_autocast_stays_near_float32_and_trains_float32_weights() -> None:
    net = network(layers=6).float()
    x = torch.randint(net.classes, (2, 24))
    c = torch.randn(2, 8, 3)
    exact = net(x, net.conditioning(c))
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, net.conditioning(c))
    # bfloat16 keeps 8 bits; errors of six layers add up to a few of its steps
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()
    rough.float().square().mean().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in net.parameters())


def test_starts_at_the_uniform_distribution() -> None:
    net = WaveNet(classes=7, layers=2, cycle=2, kernel=2, residual=4, gate=4, skip=4, head=4, cond_dim=2)
    logits = net(torch.randint(7, (2, 6)), net.conditioning(torch.randn(2, 3, 2)))
    assert torch.equal(logits, torch.zeros(2, 6, 7))
