"""The PixelCNN: what a value sees, by gradient; and its naive sampler, held against the parallel forward."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from wavevq.nn.pixelcnn import PixelCNN
from wavevq.noise import uniform
from wavevq.sampling.pixelcnn_reference import GridReference
from wavevq.sampling.reference import pick

# h, w, G: square, wide, tall, one row, one column, one position
GRIDS = [(5, 5, 1), (3, 7, 1), (7, 3, 2), (1, 6, 2), (6, 1, 3), (1, 1, 4)]


def network(grid: tuple[int, ...], classes: int = 11, layers: int = 4, kernel: int = 3, cond_dim: int = 3) -> PixelCNN:
    torch.manual_seed(3)
    made = PixelCNN(
        classes=classes,
        groups=grid[2],
        layers=layers,
        kernel=kernel,
        residual=12,
        gate=5,
        head=24,  # of which some pass their ReLU at every position
        cond_dim=cond_dim,
    ).double()
    torch.nn.init.normal_(made.output, std=0.5)  # it starts at zero, which would hide everything before it
    torch.nn.init.normal_(made.hidden_bias)
    torch.nn.init.normal_(made.output_bias)
    return made


def seen(net: PixelCNN, grid: tuple[int, ...], place: tuple[int, ...]) -> Tensor:
    """Bool ``[h, w, G]``: the gradient of the logits at ``place`` reaches these values.

    Every value is a class of its own, so that its row of the tables has its gradient alone.
    """
    x = torch.arange(math.prod(grid)).view(1, *grid)
    net.zero_grad()
    net(x, torch.ones(1, 1, 1, 3, dtype=torch.float64))[(0, *place)].square().sum().backward()
    reached = torch.zeros(grid, dtype=torch.bool)
    for tables in (net.embedding, net.within):
        for g, table in enumerate(tables):
            if table.grad is not None:
                reached[..., g] |= (table.grad[x[0, ..., g]] != 0).any(-1)
    return reached


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("grid", GRIDS)
def test_a_value_sees_every_earlier_one_and_none_other(grid: tuple[int, ...], kernel: int) -> None:
    net = network(grid, classes=math.prod(grid), layers=6, kernel=kernel)  # deep enough for the widest of the grids
    earlier = torch.zeros(math.prod(grid), dtype=torch.bool)
    for place in torch.cartesian_prod(*map(torch.arange, grid)).tolist():
        assert torch.equal(seen(net, grid, tuple(place)), earlier.view(grid)), place
        earlier[(place[0] * grid[1] + place[1]) * grid[2] + place[2]] = True


@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_how_far_it_sees(kernel: int) -> None:
    grid, layers = (9, 11, 1), 2
    far = layers * (kernel // 2) + 1
    reached = seen(network(grid, classes=99, layers=layers, kernel=kernel), grid, (7, 5, 0))[..., 0]
    assert reached[7 - far : 7, 5].all() and not reached[: 7 - far].any()  # noqa: PT018
    assert reached[7, 5 - far : 5].all() and not reached[7, : max(0, 5 - far)].any()  # noqa: PT018


@pytest.mark.parametrize("grid", GRIDS)
def test_changing_a_value_changes_later_logits_only(grid: tuple[int, ...]) -> None:
    net = network(grid, layers=6)
    x = torch.randint(net.classes, (1, *grid))
    c = torch.randn(1, *grid[:2], 3, dtype=torch.float64)
    before = net(x, c).flatten(0, 3)
    for place in range(x.numel()):
        changed = x.clone()
        changed.view(-1)[place] = (x.view(-1)[place] + 1) % net.classes
        differs = (net(changed, c).flatten(0, 3) != before).any(-1)
        assert not differs[: place + 1].any()
        assert differs[place + 1 : place + 2].all()


def test_conditioning_of_a_position_reaches_its_row_and_those_below() -> None:
    net = network((4, 5, 2))
    x = torch.randint(net.classes, (1, 4, 5, 2))
    c = torch.randn(1, 4, 5, 3, dtype=torch.float64)
    changed = c.clone()
    changed[0, 2, 1] += 1
    differs = (net(x, changed) != net(x, c)).flatten(3).any(-1)[0]
    assert not differs[:2].any()
    assert differs[2, 1:].all()
    assert differs[3].all()  # by the vertical stack, which spreads a column a layer
    one = c[:, :1, :1]
    # float64, in products of other heights
    torch.testing.assert_close(net(x, one), net(x, one.expand_as(c)), rtol=1e-10, atol=1e-10)


def test_starts_at_the_uniform_distribution() -> None:
    net = PixelCNN(classes=7, groups=2, layers=2, kernel=3, residual=4, gate=4, head=4, cond_dim=2)
    assert torch.equal(net(torch.randint(7, (2, 3, 4, 2)), torch.randn(2, 1, 1, 2)), torch.zeros(2, 3, 4, 2, 7))


def test_every_parameter_is_trained() -> None:
    net = network((4, 4, 3)).float()
    loss = net(torch.randint(net.classes, (2, 4, 4, 3)), torch.randn(2, 1, 1, 3)).square().mean()
    loss.backward()
    assert [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_bfloat16_autocast_stays_near_float32() -> None:
    net = network((5, 6, 2)).float()
    x, c = torch.randint(net.classes, (2, 5, 6, 2)), torch.randn(2, 1, 1, 3)
    exact = net(x, c)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x, c)
    # bfloat16 keeps 8 bits; errors of four layers add up to a few of its steps
    assert (rough.float() - exact).abs().max() < 0.05 * exact.abs().max()


# --- the naive sampler --------------------------------------------------------------------------------------


@pytest.mark.parametrize("grid", GRIDS)
def test_the_naive_samples_are_the_picks_of_the_parallel_forward(grid: tuple[int, ...]) -> None:
    net = network(grid)
    cond = torch.randn(2, *grid[:2], 3, dtype=torch.float64)
    noise = uniform(5, range(2), math.prod(grid)).view(2, *grid)
    drawn = GridReference("float32")(net, cond, noise, temperature=0.8, top_p=0.9)
    logits = net(drawn, cond).flatten(0, 3)
    assert torch.equal(drawn.flatten(), pick(logits, noise.flatten(), 0.8, 0.9))
    assert torch.equal(GridReference("float32")(net, cond[1:], noise[1:], 0.8, 0.9), drawn[1:])
