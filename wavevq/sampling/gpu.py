"""The GPU sampler: one launch of ``gpu_kernel`` draws many samples of all streams."""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from wavevq.nn.wavenet import WaveNet
from wavevq.sampling import Precision, hop_of

ROWS = 16  # streams a program: the least that a tensor core multiplies
STEPS_A_LAUNCH = 8192  # well under a second: a display's driver kills kernels of several, and Ctrl-C waits for one
SHARED = 0.85  # of a program's shared memory for what the pipeline brings; the rest is for exchange between threads
FOREVER = 1 << 30  # positions repeat after it, a multiple of every ring's length: they fit into 32 bits
TINY = 1e-30  # a float32 that is not zero


def usable(device: torch.device) -> str | None:
    """None if the GPU sampler can run on ``device``, else why it cannot."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return None
    if not torch.cuda.is_available():
        return "there is no CUDA device"
    if device.type != "cuda":
        return f"the model is on {device}"
    major, minor = torch.cuda.get_device_capability(device)
    if major < 8:
        return f"the CUDA device has compute capability {major}.{minor}, and bfloat16 products need 8.0"
    return None


@dataclass(frozen=True)
class Packed:
    """A network as the kernel reads it.

    Matrices in the precision of the weights, row-major, the rest float32; widths padded with zeros to powers of two,
    16 or more, written with a prime. taps: ``[L, k, R', W', 2]``, filter beside gate. residual: ``[L, W', R']``, the
    last layer's zero. skip: ``[L, W', S']``. hidden: ``[S', H']``. output: ``[H', Q']``. embedding: ``[Q + 1, R']``,
    the last row zero, the input before the first sample. schedule: int32 ``[3, L']``, each layer's dilation, and
    the first slot and the length of its ring. slots: those of all rings.
    """

    embedding: Tensor
    taps: Tensor
    residual: Tensor
    skip: Tensor
    hidden: Tensor
    hidden_bias: Tensor
    output: Tensor
    output_bias: Tensor
    schedule: Tensor
    slots: int


@dataclass
class State:
    """A packed network and where its streams stand.

    rings: float32 ``[groups, slots, ROWS, R']``, each layer's past inputs at their time modulo the ring's
    length, which is a power of two above (k - 1) x dilation.
    present: int32 ``[groups x ROWS]``, the class that is the next input, Q before the first. position: samples so far.
    """

    net: Packed
    rings: Tensor
    present: Tensor
    position: int


@dataclass(frozen=True)
class Gpu:
    """The GPU backend of ``contracts.Sampler``: matrices stored in ``precision``, arithmetic in float32."""

    precision: Precision = "bfloat16"

    def __str__(self) -> str:
        return f"gpu ({self.precision} weights)"

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
        if state is None:
            state = start(weights, self.precision, len(noise))
        if prefix is None:
            prefix = torch.empty(len(noise), 0, dtype=torch.int64, device=cond.device)
        given = prefix.shape[1]
        classes = torch.cat([prefix, torch.zeros_like(noise, dtype=torch.int64, device=cond.device)], 1)
        _launch(weights, state, cond, noise, classes, given, None, temperature, top_p)
        return classes[:, given:], state

    @torch.no_grad()
    def logits(self, weights: WaveNet, cond: Tensor, classes: Tensor) -> Tensor:
        """Float32 ``[B, T, Q]``: what the kernel picks from where ``classes`` ``[B, T]`` were drawn before.

        For the tests: nothing else can see the kernel's logits.
        """
        batch, steps = classes.shape
        scores = torch.empty(batch, steps, weights.classes, device=cond.device)
        state = start(weights, self.precision, batch)
        _launch(weights, state, cond, scores.new_empty(batch, 0), classes.clone(), steps, scores, 1.0, 1.0)
        return scores


def start(weights: WaveNet, precision: Precision, batch: int) -> State:
    """The state before the first sample: everything that precedes it is zero."""
    net = pack(weights, precision)
    groups = -(-batch // ROWS)
    rings = torch.zeros(groups, net.slots, ROWS, net.embedding.shape[1], device=net.embedding.device)
    present = torch.full((groups * ROWS,), weights.classes, dtype=torch.int32, device=rings.device)
    return State(net, rings, present, 0)


def pack(weights: WaveNet, precision: Precision) -> Packed:
    """The network as the kernel reads it, matrices in ``precision``, on the device of the weights."""
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    past = weights.taps.shape[1] - 1
    lengths = [1 << (past * dilation).bit_length() for dilation in weights.dilations]
    starts = [sum(lengths[:layer]) for layer in range(len(lengths))]
    taps = _padded(torch.stack(weights.taps.chunk(2, -1), 2), 2, dtype)
    schedule = _padded(torch.tensor([weights.dilations, starts, lengths]), 1, torch.int32)
    return Packed(
        embedding=_padded(F.pad(weights.embedding, (0, 0, 0, 1)), 1, torch.float32),
        taps=taps.movedim(2, -1).contiguous(),
        residual=_padded(F.pad(weights.residual, (0, 0, 0, 0, 0, 1)), 2, dtype),
        skip=_padded(weights.skip, 2, dtype),
        hidden=_padded(weights.hidden.weight.t(), 2, dtype),
        hidden_bias=_padded(weights.hidden.bias, 1, torch.float32),
        output=_padded(weights.output.weight.t(), 2, dtype),
        output_bias=_padded(weights.output.bias, 1, torch.float32),
        schedule=schedule.to(weights.taps.device),
        slots=sum(lengths),
    )


def _padded(x: Tensor, axes: int, dtype: torch.dtype) -> Tensor:
    """x in ``dtype`` with its last ``axes`` axes padded with zeros to powers of two, 16 or more."""
    missing = [max(16, 1 << (size - 1).bit_length()) - size for size in x.shape[-axes:]]
    return F.pad(x.detach().to(dtype), [n for size in reversed(missing) for n in (0, size)]).contiguous()


def _launch(
    weights: WaveNet,
    state: State,
    cond: Tensor,
    noise: Tensor,
    classes: Tensor,
    given: int,
    logits: Tensor | None,
    temperature: float,
    top_p: float,
) -> None:
    """Draw ``classes`` ``[B, P + T]`` in place from their ``given``-th on; write all ``logits`` if there are any."""
    from wavevq.sampling.gpu_kernel import draw  # triton, which reads TRITON_INTERPRET, and is slow to import

    net = state.net
    batch, steps = classes.shape
    layers, kernel, r, w, _ = net.taps.shape
    s, h, q = net.skip.shape[2], *net.output.shape
    w_tile, h_tile, stages = _tiles(net)
    widest = max(r, w, s, h, q)
    frames = cond.shape[1]
    paired = torch.stack(cond.float().chunk(2, -1), -1)
    # Below 1, as float64 noise is, and a float32's nearest may not be.
    noise = noise.to(cond.device, torch.float32).clamp(max=1 - 2**-24).contiguous()
    with torch.cuda.device(cond.get_device()):  # -1 on the CPU, which means none
        for begin in range(0, steps, STEPS_A_LAUNCH):
            draw[(len(state.rings),)](
                net.embedding, net.taps, net.residual, net.skip,
                net.hidden, net.hidden_bias, net.output, net.output_bias,
                net.schedule, state.rings, state.present, paired, noise, classes, logits,
                batch, frames, steps // frames, state.position % FOREVER,
                begin, min(steps, begin + STEPS_A_LAUNCH), steps, given, given if logits is None else 0,
                max(float(temperature), TINY), max(float(top_p), TINY),
                LAYERS=layers, TAPS=kernel, SLOTS=net.slots, CLASSES=weights.classes, GATE=weights.gate,
                L=net.schedule.shape[1], R=r, W=w, S=s, H=h, Q=q, W_TILE=w_tile, H_TILE=h_tile, ROWS=ROWS,
                num_warps=4 if widest <= 256 else 8 if widest <= 1024 else 16, num_stages=stages,
            )  # fmt: skip
    state.position += steps


def _tiles(net: Packed) -> tuple[int, int, int]:
    """How many columns of the gate and of the head are multiplied at once, and the stages of the pipeline.

    Three stages are two tiles in shared memory: one is multiplied while the next one arrives.
    """
    _, kernel, r, w, _ = net.taps.shape
    s, h, q = net.skip.shape[2], *net.output.shape
    size = net.taps.element_size()
    past = (kernel - 1) * ROWS * r * 4  # the past inputs come with a layer's weights
    room = _room(net.taps.device)
    w_column, h_column = (2 * kernel * r + r + s) * size, (s + q) * size
    w_tile, h_tile = _tile(w, w_column, room / 2 - past), _tile(h, h_column, room / 2)
    largest = max(w_tile * w_column + past, h_tile * h_column)
    return w_tile, h_tile, 1 + min(2, int(room // largest))


def _tile(width: int, column: int, room: float) -> int:
    """How many of ``width`` columns of ``column`` bytes to take at once, within ``room`` if possible.

    A power of two, as the width is: 16, which tensor cores need, to 64, which is enough for them.
    """
    tile = min(width, 64)
    while tile > 16 and tile * column > room:
        tile //= 2
    return tile


def _room(device: torch.device) -> float:
    """Bytes of a program's shared memory that the pipeline may fill."""
    if device.type != "cuda":
        return 1e5  # the interpreter has no such memory; tiles as on a usual GPU
    return SHARED * float(torch.cuda.get_device_properties(device).shared_memory_per_block_optin)  # type: ignore[attr-defined]
