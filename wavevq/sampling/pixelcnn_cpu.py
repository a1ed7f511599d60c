"""The CPU sampler of grids: nothing is calculated twice.

A row's vertical stack is calculated once, all of its positions together, when the rows above are drawn; the horizontal
stack position by position, from the inputs that its layers have kept of the positions before. ``kernel`` has the loops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wavevq.nn.pixelcnn import PixelCNN
from wavevq.sampling import Precision, cpu, kernel, packing
from wavevq.sampling.kernel import Floats
from wavevq.sampling.packing import padded_gates, panels, shared_out, told, up, whole_panels

TOGETHER = 8  # images of a thread that are drawn side by side: a tile of ``kernel.multiply`` is as many rows high


class GridWidths(NamedTuple):
    """classes Q, groups G, layers L, reach (n + 1) / 2 of kernel n; the others as ``kernel.Widths``'s. cond: C."""

    classes: int
    groups: int
    layers: int
    reach: int
    kernel: int
    residual: int
    gate: int
    head: int
    cond: int
    row: int  # R'
    gates: int  # 2W'
    words: int  # of a panel's row


class GridPacked(NamedTuple):
    """A network as the loops read it; matrices as in ``kernel.Packed``.

    embedding: ``[G, Q, R']``, within: ``[G - 1, Q, R']``; vertical: ``[L, reach, n]`` matrices of R rows and 2W'
    columns, horizontal: ``[L, reach]`` such; link: L of W rows and 2W' columns; vertical_out: L - 1, horizontal_out: L
    of W rows and R' columns; condition: L of C rows and 4W' columns, float32, with its bias; hidden, R rows, and
    output, H rows: G of each, with biases ``[G, H']`` and ``[G, Q']``.
    """

    embedding: Floats
    within: Floats
    vertical: Any
    horizontal: Any
    link: Any
    vertical_out: Any
    horizontal_out: Any
    condition: Floats
    condition_bias: Floats
    hidden: Any
    hidden_bias: Floats
    output: Any
    output_bias: Floats
    widths: GridWidths


class Room(NamedTuple):
    """What B images keep: above, ``[B, L, reach, w + n - 1, R']``, the vertical layers' inputs of the last rows, row i
    at i modulo reach; left, ``[B, L, reach - 1 + w, R']``, the horizontal layers' of this row; links,
    ``[B, L, w, 2W']``, what this row's vertical stack says. Zeros stand around the grid.

    And what is at hand: features and seen ``[B, R']``, gates, gated and cond of max(B, w) positions, hidden, logits.
    """

    above: Floats
    left: Floats
    links: Floats
    features: Floats
    seen: Floats
    gates: Floats
    gated: Floats
    cond: Floats
    hidden: Floats
    logits: Floats


@dataclass(frozen=True)
class GridCpu:
    """The CPU backend of ``contracts.GridSampler``, on as many threads as torch has; for a network on any device."""

    precision: Precision = "bfloat16"

    def __str__(self) -> str:
        return f"{cpu.Cpu(self.precision)}, of grids"

    @torch.no_grad()
    def __call__(
        self, weights: PixelCNN, cond: Tensor, noise: Tensor, temperature: float = 1.0, top_p: float = 1.0
    ) -> Tensor:
        batch, height, width, _ = noise.shape
        assert cond.shape[:3] in ((batch, 1, 1), (batch, height, width)), "a conditioning for all positions or each"
        net = pack(weights, self.precision)
        given = cond.detach().cpu().float().contiguous().numpy()
        uniforms = noise.cpu().double().contiguous().numpy()
        drawn = np.empty(noise.shape, np.int64)
        how = told(temperature), float(top_p)

        def share(first: int, last: int) -> None:
            for start in range(first, last, TOGETHER):
                end = min(last, start + TOGETHER)
                kernel.grid_draw(net, room(net, end - start, width), given, uniforms, drawn, start, end, *how)

        shared_out(share, batch)
        return torch.from_numpy(drawn).to(cond.device)


def pack(weights: PixelCNN, precision: Precision) -> GridPacked:
    """The network as the kernel reads it; ``precision`` is that of the matrices but the conditioning's."""
    layers, reach, columns, residual, gates = weights.vertical.shape
    width, head = gates // 2, weights.hidden.shape[2]
    wide = 2 * up(width, kernel.LANES)

    def packed(matrices: Tensor, gated: bool = False) -> NDArray[Any]:
        there = matrices.detach().cpu()
        return panels(padded_gates(there, wide) if gated else there, precision)

    def rows(tables: list[Tensor], value: float = 0.0) -> Floats:
        every = [whole_panels(table.detach().cpu().float(), value).flatten() for table in tables]
        return torch.cat(every).numpy() if every else np.zeros(0, np.float32)

    condition = weights.condition.weight.detach().cpu().view(layers, 2, gates, -1).permute(0, 3, 1, 2)
    bias = weights.condition.bias.detach().cpu().float().view(layers, 2, gates)
    return GridPacked(
        embedding=rows(list(weights.embedding)),
        within=rows(list(weights.within)),
        vertical=packed(weights.vertical, gated=True),
        horizontal=packed(weights.horizontal, gated=True),
        link=packed(weights.link, gated=True),
        vertical_out=packed(weights.vertical_out),
        horizontal_out=packed(weights.horizontal_out),
        condition=panels(padded_gates(condition, wide).flatten(-2), "float32"),
        condition_bias=padded_gates(bias, wide).flatten().numpy(),
        hidden=packed(weights.hidden),
        hidden_bias=rows([weights.hidden_bias]),
        output=packed(weights.output),
        output_bias=rows([weights.output_bias], -torch.inf),
        widths=GridWidths(
            classes=weights.classes,
            groups=weights.groups,
            layers=layers,
            reach=reach,
            kernel=columns,
            residual=residual,
            gate=width,
            head=head,
            cond=condition.shape[1],
            row=up(residual, kernel.PANEL),
            gates=wide,
            words=kernel.PANEL if precision == "float32" else kernel.LANES,
        ),
    )


def room(net: GridPacked, batch: int, columns: int) -> Room:
    """Room for ``batch`` images of ``columns`` columns, before their first row."""
    w = net.widths
    most = max(batch, columns)
    return Room(
        above=np.zeros(batch * w.layers * w.reach * (columns + w.kernel - 1) * w.row, np.float32),
        left=np.zeros(batch * w.layers * (w.reach - 1 + columns) * w.row, np.float32),
        links=packing.empty(batch * w.layers * columns * w.gates),
        features=packing.empty(batch * w.row),
        seen=packing.empty(batch * w.row),
        gates=packing.empty(most * w.gates),
        gated=packing.empty(most * w.gates // 2),
        cond=packing.empty(columns * 2 * w.gates),
        hidden=packing.empty(batch * len(net.hidden_bias) // w.groups),
        logits=packing.empty(batch * len(net.output_bias) // w.groups),
    )
