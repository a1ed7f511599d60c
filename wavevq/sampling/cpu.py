"""The CPU sampler: ``kernel``'s compiled loops behind the contract, streams shared out to threads."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.nn.wavenet import WaveNet
from wavevq.sampling import Precision, hop_of, kernel, packing
from wavevq.sampling.kernel import BLOCK, LANES, PANEL, Packed, Scratch, Streams, Widths
from wavevq.sampling.packing import padded_gates, panels, shared_out, told, up, whole_panels


@dataclass
class State:
    """A packed network and the streams that it draws. position: samples so far."""

    net: Packed
    streams: Streams
    position: int


@dataclass(frozen=True)
class Cpu:
    """The CPU backend of ``contracts.Sampler``, on as many threads as torch has: each draws streams of its own."""

    precision: Precision = "bfloat16"

    def __str__(self) -> str:
        threads = torch.get_num_threads()
        return f"cpu ({self.precision} weights, {threads} thread{'s' if threads > 1 else ''})"

    @torch.no_grad()
    def __call__(
        self,
        weights: WaveNet,
        cond: Tensor,
        noise: Tensor,
        temperature: float = 1.0,
        top_p: float = 1.0,
        prefix: Tensor | None = None,
        state: State | None = None,
    ) -> tuple[Tensor, State]:
        hop_of(weights, cond, noise, prefix)
        batch, count = noise.shape
        if state is None:
            net = pack(weights, self.precision)
            state = State(net, start(net, batch), 0)
        assert len(state.streams.present) == batch, "a state goes on with its own streams"
        assert cond.shape[2:] == (len(weights.dilations), 2 * weights.gate)
        given = torch.empty(batch, 0, dtype=torch.int64) if prefix is None else prefix
        gates = padded_gates(cond.float(), state.net.widths.gates).numpy().reshape(-1)
        frames = cond.shape[1]
        uniforms, classes = noise.double().contiguous().numpy(), given.contiguous().numpy()
        drawn = np.empty((batch, count), np.int64)

        def share(first: int, last: int) -> None:
            room = scratch(state.net, last - first)
            where = (state.position, first, last)
            how = told(temperature), float(top_p)
            kernel.draw(state.net, state.streams, room, gates, frames, uniforms, classes, drawn, *where, *how)

        shared_out(share, batch)
        state.position += given.shape[1] + count
        return torch.from_numpy(drawn), state


def pack(weights: WaveNet, precision: Precision) -> Packed:
    """The network as the kernel reads it; ``precision`` is that of the matrices."""
    layers, taps, residual, gates = weights.taps.shape
    width, skip = gates // 2, weights.skip.shape[2]
    row = up(residual, PANEL)
    padded = padded_gates(weights.taps.detach(), 2 * up(width, LANES))
    # Residual beside skip; the last layer's residual output, which does not exist, becomes zero.
    out = torch.zeros(layers, width, row + up(skip, PANEL))
    out[:-1, :, :residual] = weights.residual.detach()
    out[:, :, row : row + skip] = weights.skip.detach()
    return Packed(
        embedding=F.pad(weights.embedding.detach().float(), (0, row - residual, 0, 1)).flatten().numpy(),
        past=panels(padded[:, :-1], precision),
        now=panels(padded[:, -1], precision),
        out=panels(out, precision),
        hidden=panels(weights.hidden.weight.detach().t(), precision),
        hidden_bias=whole_panels(weights.hidden.bias.detach().float()).numpy(),
        output=panels(weights.output.weight.detach().t(), precision),
        output_bias=whole_panels(weights.output.bias.detach().float(), -torch.inf).numpy(),
        dilations=np.array(weights.dilations, np.int64),
        widths=Widths(
            classes=weights.classes,
            past=taps - 1,
            residual=residual,
            gate=width,
            skip=skip,
            head=weights.hidden.out_features,
            row=row,
            gates=padded.shape[-1],
            stream=out.shape[-1],
            words=PANEL if precision == "float32" else LANES,
        ),
    )


def start(net: Packed, batch: int) -> Streams:
    """Streams before their first sample: everything that precedes it is zero."""
    w = net.widths
    sizes = [1 << (w.past * d - 1).bit_length() if w.past else 0 for d in net.dilations.tolist()]
    starts = np.concatenate([[0], np.cumsum(sizes) * w.row])
    return Streams(
        present=np.full(batch, w.classes, np.int64),
        rings=np.zeros(batch * starts[-1], np.float32),
        starts=starts,
        sizes=np.array(sizes, np.int64),
        block=BLOCK if batch < 4 and w.past else 1,
        ahead=packing.empty(len(sizes) * batch * BLOCK * w.gates if w.past else 0),
    )


def scratch(net: Packed, batch: int) -> Scratch:
    """Room for a step of ``batch`` streams."""
    w = net.widths
    return Scratch(
        stream=packing.empty(batch * w.stream),
        gates=packing.empty(batch * w.gates),
        gated=packing.empty(batch * w.gates // 2),
        hidden=packing.empty(batch * len(net.hidden_bias)),
        logits=packing.empty(batch * len(net.output_bias)),
        early=packing.empty(batch * BLOCK * w.row),
    )
