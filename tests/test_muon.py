"""Muon: orthogonal steps for some matrices, Adam's own for everything else."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from wavevq.train.muon import MUON, RATE, MuonAdam, orthogonal


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("shape", [(8, 8), (4, 30), (30, 4), (1, 5), (5, 1)])
@pytest.mark.parametrize("size", [1e-8, 1.0, 1e6])
def test_a_matrix_keeps_its_directions_and_loses_their_sizes(shape: tuple[int, int], size: float) -> None:
    u, s, v = torch.linalg.svd(random(*shape), full_matrices=False)
    spread = u @ torch.diag(torch.logspace(0, -1.5, len(s))) @ v  # one thirty times the other
    found = orthogonal(size * spread).float()
    sizes = (u.T @ found @ v.T).diagonal()
    # Jordan's quintic ends between 0.68 and 1.13; the root of bfloat16's rounding is about 0.06 a product.
    assert ((sizes > 0.5) & (sizes < 1.3)).all()
    torch.testing.assert_close(u @ torch.diag(sizes) @ v, found, rtol=0, atol=0.1)


def test_nothing_stays_nothing() -> None:
    assert torch.equal(orthogonal(torch.zeros(3, 4)), torch.zeros(3, 4, dtype=torch.bfloat16))


def test_the_others_go_by_adam_to_the_bit() -> None:
    ours, theirs = (nn.ParameterList([nn.Parameter(random(4, 3, 2)), nn.Parameter(random(5))]) for _ in range(2))
    mixed = MuonAdam([{"params": [ours[0]], MUON: True}, {"params": [ours[1]], MUON: False}], lr=0.01, fused=True)
    plain = torch.optim.Adam([theirs[1]], lr=0.01, fused=True)
    for step in range(4):
        for parameters in (ours, theirs):
            for i, parameter in enumerate(parameters):
                parameter.grad = random(*parameter.shape, seed=10 * step + i)
        before = ours[0].detach().clone()
        mixed.step()
        plain.step()
        moved = ours[0].detach() - before
        # All of a 4 x 6 matrix's four singular values are about 1, so its mean square is 4 / 24.
        assert moved.square().mean().sqrt().item() == pytest.approx(0.01 * RATE * 6**0.5 * (4 / 24) ** 0.5, rel=0.25)
    assert torch.equal(ours[1], theirs[1])
    assert len(mixed.param_groups) == 2  # as before the steps


def test_a_step_is_of_the_size_of_adams() -> None:
    """The same rate serves both: the root mean square of a first step, of a square matrix."""
    steps = []
    for muon in (False, True):
        weight = nn.Parameter(torch.zeros(64, 64))
        optimizer = MuonAdam([{"params": [weight], MUON: muon}], lr=1.0)
        weight.grad = random(64, 64)
        optimizer.step()
        steps.append(weight.detach().square().mean().sqrt().item())
    assert steps[0] == pytest.approx(1, rel=1e-3)
    assert steps[1] == pytest.approx(RATE, rel=0.25)  # Adam's later steps are of that size (Liu et al. 2025)


def test_what_one_direction_drowns_is_learned_sooner() -> None:
    """A regression whose gradient lies a hundred times more in one direction: Adam comes to the others late."""
    inputs = random(256, 8) @ torch.diag(torch.logspace(0, -2, 8)) @ torch.linalg.qr(random(8, 8, seed=1))[0]
    target = random(4, 8, seed=2)
    errors = []
    for muon in (False, True):
        weight = nn.Parameter(torch.zeros(4, 8))
        optimizer = MuonAdam([{"params": [weight], MUON: muon}], lr=0.05)
        for _ in range(200):
            optimizer.zero_grad()
            (inputs @ (weight - target).T).square().mean().backward()
            optimizer.step()
        errors.append((weight - target).square().mean().item())
    assert errors[1] < 0.7 * errors[0]


def test_a_state_goes_on_where_it_was() -> None:
    def begun() -> tuple[nn.Parameter, MuonAdam]:
        weight = nn.Parameter(torch.ones(3, 4))
        return weight, MuonAdam([{"params": [weight], MUON: True}], lr=0.1)

    weight, optimizer = begun()
    for step in range(3):
        weight.grad = random(3, 4, seed=step)
        optimizer.step()
        if step == 1:
            other, resumed = begun()
            other.data.copy_(weight.data)
            resumed.load_state_dict(deepcopy(optimizer.state_dict()))
    other.grad = weight.grad
    resumed.step()
    assert torch.equal(other, weight)
