"""A gated PixelCNN without a blind spot (Van den Oord et al. 2016, arXiv:1606.05328).

One class serves as the prior over a grid of codes and as the decoder over pixels. A position's features come from
strictly earlier positions only: the vertical stack reads the rows above, the horizontal one what stands to the left,
and above by the vertical. Nothing is masked: the inputs are shifted by one row and by one column, and the kernels
reach up and to the left only.

As in the paper's figure 2, but that the vertical stack is residual too, passes its activation on after the gate, and
that all layers have one kernel: with ``layers`` of them a position sees layers x (kernel // 2) + 1 rows above.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from wavevq.nn.embedding import waves


class PixelCNN(nn.Module):
    """p(x_i | x_<i, c) over ``classes`` values on a grid of positions, each of G of them, in raster order, G innermost.

    classes Q, groups G, layers L, kernel n (odd): the vertical stack reads (n + 1) / 2 rows of n columns, the
    horizontal (n + 1) / 2 positions; widths R (residual), W (gate), H (head), cond_dim the width C of the conditioning.
    The g-th value of a position is given the features of earlier positions and, by tables of their own, the values
    before it in its position.
    """

    def __init__(
        self,
        *,
        classes: int,
        groups: int,
        layers: int,
        kernel: int,
        residual: int,
        gate: int,
        head: int,
        cond_dim: int,
    ) -> None:
        super().__init__()
        assert kernel % 2, "a kernel has a middle column"
        self.classes, self.groups, self.layers, self.gate = classes, groups, layers, gate
        reach = kernel // 2 + 1

        def scaled(depth: int, *shape: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(*shape) * depth**-0.5)

        def tables(count: int) -> nn.ParameterList:
            return nn.ParameterList(waves(classes, residual) * groups**-0.5 for _ in range(count))

        self.embedding = tables(groups)
        # vertical[l, a, b] reads reach - 1 - a rows above, b - kernel // 2 columns to the right; horizontal[l, b] as
        # many positions to the left as there are taps after it.
        self.vertical = scaled(reach * kernel * residual, layers, reach, kernel, residual, 2 * gate)
        self.horizontal = scaled(reach * residual, layers, reach, residual, 2 * gate)
        self.link = scaled(gate, layers, gate, 2 * gate)  # from the vertical stack's gate to the horizontal one's
        # The last layer's vertical output would reach nothing, so it does not exist.
        self.vertical_out = scaled(2 * gate * layers, layers - 1, gate, residual)
        self.horizontal_out = scaled(2 * gate * layers, layers, gate, residual)
        self.condition = nn.Linear(cond_dim, layers * 4 * gate)
        self.within = tables(groups - 1)
        self.hidden = scaled(residual, groups, residual, head)
        self.hidden_bias = nn.Parameter(torch.zeros(groups, head))
        # Start at the uniform distribution, as the WaveNet does.
        self.output = nn.Parameter(torch.zeros(groups, head, classes))
        self.output_bias = nn.Parameter(torch.zeros(groups, classes))

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        """Teacher-forced logits ``[B, h, w, G, Q]`` of x int64 ``[B, h, w, G]`` in [0, Q).

        c: conditioning, ``[B, 1, 1, C]`` for all positions or ``[B, h, w, C]``, of each its own.
        """
        return self.head(self.features(x, c), x)

    def conditioning(self, c: Tensor, layer: int) -> tuple[Tensor, Tensor]:
        """A layer's gate inputs, ``[..., 2W]`` of the vertical and of the horizontal stack, of c ``[..., C]``."""
        rows = slice(layer * 4 * self.gate, (layer + 1) * 4 * self.gate)
        gates = F.linear(c, self.condition.weight[rows], self.condition.bias[rows])
        return gates[..., : 2 * self.gate], gates[..., 2 * self.gate :]

    def features(self, x: Tensor, c: Tensor) -> Tensor:
        """What ``[B, h, w, R]`` each position knows of those before it; arguments as ``forward``."""
        values = torch.stack([F.embedding(x[..., g], table) for g, table in enumerate(self.embedding)]).sum(0)
        above = F.pad(values[:, :-1], (0, 0, 0, 0, 1, 0))  # zeros stand before the first row and the first column
        left = F.pad(values[:, :, :-1], (0, 0, 1, 0))
        reach, columns = self.vertical.shape[1:3]
        for layer in range(self.layers):
            down, across = self.conditioning(c, layer)
            sides = columns // 2, columns // 2
            gated = _gated(_convolved(above, self.vertical[layer], sides, reach - 1) + down)
            gates = _convolved(left, self.horizontal[layer][None], (reach - 1, 0), 0)
            left = left + _gated(gates + gated @ self.link[layer] + across) @ self.horizontal_out[layer]
            if layer < self.layers - 1:
                above = above + gated @ self.vertical_out[layer]
        return left

    def head(self, features: Tensor, x: Tensor) -> Tensor:
        """Logits ``[B, h, w, G, Q]`` of ``features`` and of the values x, of which the g-th sees those before it."""
        seen = [features]
        for g, table in enumerate(self.within):
            seen.append(seen[-1] + F.embedding(x[..., g], table))
        inputs = F.relu(torch.stack([one.flatten(0, 2) for one in seen]))
        hidden = F.relu(torch.baddbmm(self.hidden_bias[:, None], inputs, self.hidden))
        logits = torch.baddbmm(self.output_bias[:, None], hidden, self.output)
        return logits.transpose(0, 1).reshape(*x.shape, self.classes)


def _gated(gates: Tensor) -> Tensor:
    filtered, gate = gates.chunk(2, dim=-1)
    return torch.tanh(filtered) * torch.sigmoid(gate)


def _convolved(x: Tensor, taps: Tensor, sides: tuple[int, int], above: int) -> Tensor:
    """x ``[B, h, w, R]``, with zeros at both sides and above, convolved with taps ``[rows, columns, R, 2W]``."""
    padded = F.pad(x, (0, 0, *sides, above, 0)).permute(0, 3, 1, 2)  # channels-last in memory, as it is fast
    return F.conv2d(padded, taps.permute(3, 2, 0, 1)).permute(0, 2, 3, 1)
