"""WaveNet (Van den Oord et al. 2016): causal, dilated, gated, residual and skip, with a categorical output.

One class serves as the decoder over samples and as the prior over codes. The residual stack is one autograd
function in a time-major ``[T x B, channels]`` layout: a tap that looks d steps back is the same buffer d x B rows
higher, so nothing is padded or copied per layer, and every product is a plain matrix product into memory that is
already there. It runs through the rows in blocks that stay in the processor's cache. ``plain_stack`` is its slow,
obvious twin.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from wavevq.nn.embedding import embedded, waves

ROWS_A_BLOCK = 4096  # measured on CPU: a block's gate activations stay in L2; a GPU takes all rows at once


class WaveNet(nn.Module):
    """p(x_t | x_<t, cond) over ``classes`` values.

    classes Q, layers L, dilations 1, 2, ... 2^(cycle - 1) over again, kernel k taps, widths R (residual),
    W (gate), S (skip), H (head), cond_dim the width of the conditioning vectors.

    The convolutions after the gate have no bias: a constant added to the residual stream or to the skip sum is
    absorbed by the biases of the gate (which come with the conditioning) and of the head.
    """

    def __init__(
        self,
        *,
        classes: int,
        layers: int,
        cycle: int,
        kernel: int,
        residual: int,
        gate: int,
        skip: int,
        head: int,
        cond_dim: int,
    ) -> None:
        super().__init__()
        self.classes = classes
        self.gate = gate
        self.dilations: tuple[int, ...] = tuple(1 << layer % cycle for layer in range(layers))
        self.embedding = nn.Parameter(waves(classes, residual))
        # taps[l, j] reads the input of layer l, (k - 1 - j) x dilation steps back: the last tap is the present.
        self.taps = nn.Parameter(torch.randn(layers, kernel, residual, 2 * gate) * (kernel * residual) ** -0.5)
        # The last layer's residual output would reach nothing, so it does not exist.
        self.residual = nn.Parameter(torch.randn(layers - 1, gate, residual) * (2 * gate * layers) ** -0.5)
        self.skip = nn.Parameter(torch.randn(layers, gate, skip) * (gate * layers) ** -0.5)
        self.condition = nn.Linear(cond_dim, layers * 2 * gate)
        self.hidden = nn.Linear(skip, head)
        self.output = nn.Linear(head, classes)
        # Start at the uniform distribution: the first steps then learn the marginal, not to undo noise.
        nn.init.zeros_(self.output.weight)
        nn.init.zeros_(self.output.bias)

    @property
    def receptive_field(self) -> int:
        """How many earlier samples a prediction sees."""
        return 1 + (self.taps.shape[1] - 1) * sum(self.dilations)

    def conditioning(self, c: Tensor) -> Tensor:
        """Gate inputs ``[B, F, L, 2W]`` of conditioning vectors ``[B, F, cond_dim]``, biases included.

        Computed at latent rate, for all layers in one product; each frame's row serves its hop of samples.
        """
        gates: Tensor = self.condition(c)
        return gates.view(*gates.shape[:-1], len(self.dilations), 2 * self.gate)

    def forward(self, x: Tensor, cond: Tensor) -> Tensor:
        """Teacher-forced logits ``[B, T, Q]``; arguments as ``skips``."""
        return self.head(self.skips(x, cond))

    def skips(self, x: Tensor, cond: Tensor) -> Tensor:
        """Teacher-forced sums of the skip outputs ``[B, T, S]``: position t sees ``x[:, :t]`` only.

        x: int64 ``[B, T]`` in [0, Q), or rows as ``embedded`` takes. cond: ``[B, F, L, 2W]`` with T a multiple of F.
        """
        # Nothing precedes the first sample: its input is the zero vector, as the zero padding before it.
        inputs = F.pad(embedded(x[:, :-1], self.embedding), (0, 0, 1, 0))
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else inputs.dtype
        skips: Tensor = _ResidualStack.apply(  # type: ignore[no-untyped-call]
            inputs.transpose(0, 1).to(dtype),
            cond.transpose(0, 1).to(dtype),
            self.taps.to(dtype),
            self.residual.to(dtype),
            self.skip.to(dtype),
            self.dilations,
            torch.is_grad_enabled(),
        )
        return skips.transpose(0, 1)

    def head(self, skips: Tensor) -> Tensor:
        """Logits ``[..., Q]`` of the summed skip outputs ``[..., S]``."""
        logits: Tensor = self.output(F.relu(self.hidden(F.relu(skips))))
        return logits


def plain_stack(
    x: Tensor, cond: Tensor, taps: Tensor, residual: Tensor, skip: Tensor, dilations: Sequence[int]
) -> Tensor:
    """The residual stack written plainly, any dtype: the definition that the fast one is tested against.

    x: ``[T, B, R]``, cond: ``[F, B, L, 2W]``, taps: ``[L, k, R, 2W]``, residual: ``[L - 1, W, R]``,
    skip: ``[L, W, S]``. Returns the sum of the skip outputs, ``[T, B, S]``.
    """
    frames = cond.repeat_interleave(len(x) // len(cond), dim=0)
    total = x.new_zeros(*x.shape[:2], skip.shape[2])
    for layer, dilation in enumerate(dilations):
        past = taps.shape[1] - 1
        padded = F.pad(x, (0, 0, 0, 0, past * dilation, 0))
        gates = frames[:, :, layer]
        for tap, weight in enumerate(taps[layer]):
            gates = gates + padded[tap * dilation : tap * dilation + len(x)] @ weight
        filtered, gate = gates.chunk(2, dim=-1)
        hidden = torch.tanh(filtered) * torch.sigmoid(gate)
        total = total + hidden @ skip[layer]
        if layer < len(residual):
            x = x + hidden @ residual[layer]
    return total


class _ResidualStack(torch.autograd.Function):
    """``plain_stack`` with everything in place; arguments and result as there. ``keep`` what backward needs."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        cond: Tensor,
        taps: Tensor,
        residual: Tensor,
        skip: Tensor,
        dilations: tuple[int, ...],
        keep: bool = True,
    ) -> Tensor:
        steps, batch, width = x.shape
        rows = steps * batch
        layers, kernel = taps.shape[:2]
        gated = taps.shape[3] // 2
        total = x.new_zeros(rows, skip.shape[2])
        above = [(kernel - 1) * dilation * batch for dilation in dilations]
        # Inputs that no backward will want take turns in two places.
        spare = [] if keep else [_below_zeros(x, rows, max(above)) for _ in range(2)]
        source = _below_zeros(x, rows, above[0]) if keep else spare[0][-rows - above[0] :]
        source[-rows:] = x.reshape(rows, width)
        inputs, gates = [], []
        blocks = _blocks(steps, len(cond), batch, x.device)
        hidden = x.new_empty(blocks[0][1], gated)
        passing = None if keep else x.new_empty(blocks[0][1], 2 * gated)
        for layer, dilation in enumerate(dilations):
            shift = dilation * batch
            if keep:
                gates.append(x.new_empty(rows, 2 * gated))
                inputs.append(source)
            if layer < layers - 1:
                room = _below_zeros(x, rows, above[layer + 1]) if keep else spare[(layer + 1) % 2]
                target = room[-rows - above[layer + 1] :]
            for start, stop, first, last in blocks:
                gate = gates[-1][start:stop] if passing is None else passing[: stop - start]
                torch.mm(source[start:stop], taps[layer, 0], out=gate)
                for tap in range(1, kernel):
                    gate.addmm_(source[tap * shift + start : tap * shift + stop], taps[layer, tap])
                gate.view(last - first, -1, batch, 2 * gated).add_(cond[first:last, None, :, layer])
                filtered, opened = gate[:, :gated], gate[:, gated:]
                filtered.tanh_()
                opened.sigmoid_()
                h = torch.mul(filtered, opened, out=hidden[: stop - start])
                total[start:stop].addmm_(h, skip[layer])
                if layer < layers - 1:
                    present = source[(kernel - 1) * shift :][start:stop]
                    torch.addmm(present, h, residual[layer], out=target[-rows:][start:stop])
            if layer < layers - 1:
                source = target
        ctx.save_for_backward(cond, taps, residual, skip, *gates, *inputs)
        ctx.dilations, ctx.blocks = dilations, blocks
        return total.view(steps, batch, -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_total: Tensor) -> tuple[Tensor | None, ...]:
        cond, taps, residual, skip, *saved = ctx.saved_tensors
        steps, batch = d_total.shape[:2]
        layers, kernel, width, _ = taps.shape
        gates, inputs = saved[:layers], saved[layers:]
        gated = taps.shape[3] // 2
        d_total = d_total.reshape(steps * batch, -1)
        # Sums over blocks in float32: bfloat16 would lose the later ones.
        wide = torch.promote_types(taps.dtype, torch.float32)
        d_taps, d_residual, d_skip = (torch.zeros_like(w, dtype=wide) for w in (taps, residual, skip))
        learns = any(ctx.needs_input_grad[2:5])  # not where a speaker is enrolled: a third of the products fewer
        d_cond = torch.empty_like(cond)
        # Rows above the first sample collect what the earliest taps send into the zero padding.
        above = (kernel - 1) * max(ctx.dilations) * batch
        d_x = d_total.new_zeros(above + steps * batch, width)
        most = ctx.blocks[0][1]
        hidden, d_hidden = d_total.new_empty(2, most, gated)
        d_gates, d_opened = d_total.new_empty(2, most, 2 * gated)
        for layer in range(layers - 1, -1, -1):
            source, shift = inputs[layer], ctx.dilations[layer] * batch
            # Blocks run forwards in time: a tap adds only to rows whose own gradient has been used already.
            for start, stop, first, last in ctx.blocks:
                rows = stop - start
                gate = gates[layer][start:stop]
                filtered, opened = gate[:, :gated], gate[:, gated:]
                if learns:
                    h = torch.mul(filtered, opened, out=hidden[:rows])
                    d_skip[layer].add_(h.t() @ d_total[start:stop])
                d_h = torch.mm(d_total[start:stop], skip[layer].t(), out=d_hidden[:rows])
                if layer < layers - 1:
                    d_present = d_x[above + start : above + stop]
                    if learns:
                        d_residual[layer].add_(h.t() @ d_present)
                    d_h.addmm_(d_present, residual[layer].t())
                d_out, d_gate = d_opened[:rows], d_gates[:rows]
                torch.mul(d_h, opened, out=d_out[:, :gated])
                torch.mul(d_h, filtered, out=d_out[:, gated:])
                torch.ops.aten.tanh_backward.grad_input(d_out[:, :gated], filtered, grad_input=d_gate[:, :gated])
                torch.ops.aten.sigmoid_backward.grad_input(d_out[:, gated:], opened, grad_input=d_gate[:, gated:])
                torch.sum(d_gate.view(last - first, -1, batch, 2 * gated), 1, out=d_cond[first:last, :, layer])
                for tap in range(kernel):
                    if learns:
                        d_taps[layer, tap].add_(source[tap * shift + start : tap * shift + stop].t() @ d_gate)
                    back = above - (kernel - 1 - tap) * shift
                    d_x[back + start : back + stop].addmm_(d_gate, taps[layer, tap].t())
        d_input = d_x[above:].view(steps, batch, width)
        return d_input, d_cond, d_taps.to(taps.dtype), d_residual.to(taps.dtype), d_skip.to(taps.dtype), None, None


def _below_zeros(like: Tensor, rows: int, above: int) -> Tensor:
    """Room for ``rows`` rows of ``[T, B, R]`` below ``above`` rows of zeros."""
    buffer = like.new_empty(above + rows, like.shape[2])
    buffer[:above] = 0
    return buffer


def _blocks(steps: int, frames: int, batch: int, device: torch.device) -> list[tuple[int, int, int, int]]:
    """Runs of whole frames as (first row, end row, first frame, end frame); the first is the longest."""
    rows_a_frame = steps // frames * batch
    size = max(1, ROWS_A_BLOCK // rows_a_frame) if device.type == "cpu" else frames
    edges = [*range(0, frames, size), frames]
    return [(a * rows_a_frame, b * rows_a_frame, a, b) for a, b in pairwise(edges)]
