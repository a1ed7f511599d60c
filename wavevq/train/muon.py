"""Muon: momentum whose matrices are made orthogonal before they are added (Jordan et al. 2024), beside Adam."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MOMENTUM = 0.95
QUINTIC = (3.4445, -4.7750, 2.0315)  # Jordan's: brings singular values near to 1 in few iterations, not exactly to it
ITERATIONS = 5
TINY = 1e-7
RATE = 0.2  # times the root of the longer side, a step has the size of one of Adam's (Liu et al. 2025, section 2.2)
MUON = "muon"  # of a group of parameters: whether they are matrices that go by it


class MuonAdam(torch.optim.Adam):
    """Adam, but for the groups that say ``muon``: of those each parameter is a matrix, ``[out, everything else]``.

    An encoder before a quantizer learns its first feature fast, and others late: nearly all of the gradient lies in
    the one direction that the decoder already reads, Adam follows it, and the latents stay on a line or a plane. A
    step that is orthogonal is of equal size in all directions. ``torch.optim.Muon`` takes two-dimensional parameters
    only, which the weights of convolutions are not.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None, "gradients are there"
        groups = self.param_groups
        for group in groups:
            if group.get(MUON):
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        self._turn(parameter, group["lr"])
        self.param_groups = [group for group in groups if not group.get(MUON)]
        try:
            super().step()
        finally:
            self.param_groups = groups

    @torch.no_grad()
    def _turn(self, parameter: Tensor, rate: float) -> None:
        gradient = parameter.grad
        assert gradient is not None
        state = self.state[parameter]
        if not state:
            state["step"] = torch.tensor(0.0)  # Adam reads it of every parameter when a state is loaded
            state["momentum"] = torch.zeros_like(parameter)
        state["step"] += 1
        momentum = state["momentum"].lerp_(gradient, 1 - MOMENTUM)
        step = orthogonal(gradient.lerp(momentum, MOMENTUM).flatten(1))  # Nesterov's
        parameter.add_(step.to(parameter.dtype).view_as(parameter), alpha=-rate * RATE * max(step.shape) ** 0.5)


def slots(group: dict[str, Any]) -> tuple[str, ...]:
    """Names of what is kept of each of a group's parameters."""
    return ("step", "momentum") if group.get(MUON) else ("step", "exp_avg", "exp_avg_sq")


def orthogonal(matrix: Tensor) -> Tensor:
    """``[m, n]`` with its singular values brought near to 1; zero stays zero. In bfloat16, float64 in its own."""
    a, b, c = QUINTIC
    x = matrix if matrix.dtype == torch.float64 else matrix.bfloat16()
    if tall := x.shape[0] > x.shape[1]:
        x = x.T
    x = x / (x.norm() + TINY)
    for _ in range(ITERATIONS):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x
