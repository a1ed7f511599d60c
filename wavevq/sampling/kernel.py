"""The CPU sampler's compiled code: vector code through LLVM, and the loops over samples that use it.

What decides the speed of one stream is how many bytes of weights pass the processor's caches a sample. So matrices are
stored in bfloat16 (unpacking is a shift), sums stay in registers, and the past taps, whose inputs are known
``dilation`` steps early, are multiplied for BLOCK steps at each reading of their weights. Everything is float32
arithmetic in an order that does not depend on the number of streams or of steps at once.

All of it stands at module level in one file, long as it is, so that numba's cache on disk is hit, and notices a change.
AMX tiles would multiply several streams three to four times as fast (measured in C); numba cannot emit them today.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from filelock import FileLock
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic
from numpy.polynomial import Chebyshev, Polynomial
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]
Integers = NDArray[np.int64]

LANES = 16  # floats of a vector: one AVX-512 register, two of AVX2, four of NEON
PANEL = 2 * LANES  # columns that are stored together: two bfloat16 a 32-bit word
START = np.int64(0)  # of an array: numba would compile a function anew for each literal 0 among its arguments
WHOLE = np.int64(PANEL)  # words of a panel's row of float32
BLOCK = 8  # steps that the past taps are multiplied for at once


class Widths(NamedTuple):
    """classes Q, taps k - 1 of the past, and depths and strides of the flat arrays in floats."""

    classes: int
    past: int
    residual: int  # R
    gate: int  # W
    skip: int  # S
    head: int  # H
    row: int  # R'
    gates: int  # 2W'
    stream: int  # R' + S'
    words: int  # of a panel's row


class Packed(NamedTuple):
    """A network as the loops read it: flat arrays, made by ``cpu.pack``.

    A prime is a width rounded up to whole vectors, R' and S' to whole panels, with zeros. A matrix is ``[panels,
    rows, words]``, words being PANEL float32, or LANES uint32 of two bfloat16 each.
    embedding: ``[Q + 1, R']``, the last row the zero input before the first sample. past: ``[L, k - 1]`` matrices of
    R rows and 2W' columns, the oldest tap first; now: L such; out: L of W rows and N = R' + S' columns, the residual
    beside the skip; hidden, S rows, and output, H rows; biases ``[H']`` and ``[Q']``. dilations: ``[L]``.
    """

    embedding: Floats
    past: Any
    now: Any
    out: Any
    hidden: Any
    hidden_bias: Floats
    output: Any
    output_bias: Floats
    dilations: Integers
    widths: Widths


class Streams(NamedTuple):
    """Where B streams stand.

    present: ``[B]``, the class that is the next input. rings: ``[B, ring]`` floats, each layer's past inputs; a
    layer's begin at ``starts[l]`` and stand at their time modulo ``sizes[l]``, a power of two; the last of ``starts``
    is ring. ahead: ``[L, B, BLOCK, 2W']``, sums of the past taps for the steps of the present block; where the block
    has fewer, the streams' steps follow each other without a gap.
    """

    present: Integers
    rings: Floats
    starts: Integers
    sizes: Integers
    block: int
    ahead: Floats


class Scratch(NamedTuple):
    """Rows of B streams within a step.

    stream: ``[B, R' + S']``, residual stream beside the sum of skips; gates: ``[B, 2W']``; gated: ``[B, W']``;
    hidden: ``[B, H']``; logits: ``[B, Q']``; early: ``[B, BLOCK, R']``, past inputs.
    """

    stream: Floats
    gates: Floats
    gated: Floats
    hidden: Floats
    logits: Floats
    early: Floats


# --- vector code --------------------------------------------------------------------------------------------

# Any: numba types what it compiles, mypy does not.
_emitted: Any = intrinsic
_emitted_by_literals: Any = intrinsic(prefer_literal=True)
_F32, _I32 = ir.FloatType(), ir.IntType(32)
_VECTOR, _WORDS = ir.VectorType(_F32, LANES), ir.VectorType(_I32, LANES)


def _address(context: Any, builder: Any, kind: Any, array: Any, at: Any) -> Any:
    """A pointer to the element ``at`` of a one-dimensional view of an array."""
    data = context.make_array(kind)(context, builder, array).data
    return builder.gep(data, [at])


def _load(builder: Any, pointer: Any, at: int, kind: Any) -> Any:
    """LANES elements from the pointer's ``at``-th on."""
    place = builder.gep(pointer, [ir.Constant(ir.IntType(64), at)])
    return builder.load(builder.bitcast(place, kind.as_pointer()), align=4)


def _store(builder: Any, value: Any, pointer: Any, at: int) -> None:
    place = builder.gep(pointer, [ir.Constant(ir.IntType(64), at)])
    builder.store(value, builder.bitcast(place, value.type.as_pointer()), align=4)


def _all(value: float) -> Any:
    return ir.Constant(_VECTOR, [float(np.float32(value))] * LANES)


def _spread(builder: Any, value: Any) -> Any:
    """A vector of equal floats."""
    zero = ir.Constant(_I32, 0)
    first = builder.insert_element(ir.Constant(_VECTOR, ir.Undefined), value, zero)
    return builder.shuffle_vector(first, ir.Constant(_VECTOR, ir.Undefined), ir.Constant(_WORDS, [0] * LANES))


def _fma(builder: Any, a: Any, b: Any, c: Any) -> Any:
    """a x b + c, rounded once."""
    kind = ir.FunctionType(_VECTOR, [_VECTOR] * 3)
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{LANES}f32"), [a, b, c])


def _clamp(builder: Any, x: Any, low: float, high: float) -> Any:
    x = builder.select(builder.fcmp_ordered("<", x, _all(low)), _all(low), x)
    return builder.select(builder.fcmp_ordered(">", x, _all(high)), _all(high), x)


# 2^r on [-1/2, 1/2], interpolated at the Chebyshev nodes: relative error below 1e-7, the highest power first.
_POWER = Chebyshev.interpolate(np.exp2, 5, domain=[-0.5, 0.5]).convert(kind=Polynomial).coef[::-1]


def _exp(builder: Any, x: Any, factor: float = 1.0) -> Any:
    """e^(factor x) for factor x in [-87, 87]; relative error below 2e-7 (1 + |factor x|)."""
    base = _all(factor / np.log(2))
    magic = _all(1.5 * 2**23)  # adding it leaves a float's integer part in its lowest bits
    shifted = _fma(builder, x, base, magic)
    r = _fma(builder, x, base, builder.fsub(magic, shifted))
    total = _all(_POWER[0])
    for coefficient in _POWER[1:]:
        total = _fma(builder, total, r, _all(coefficient))
    exponent = builder.shl(builder.bitcast(shifted, _WORDS), ir.Constant(_WORDS, [23] * LANES))
    return builder.bitcast(builder.add(builder.bitcast(total, _WORDS), exponent), _VECTOR)


@contextmanager
def _vectors(builder: Any, count: Any) -> Iterator[Any]:
    """A loop over the starts of ``count`` floats' vectors."""
    with cgutils.for_range(builder, builder.udiv(count, count.type(LANES))) as loop:
        yield builder.mul(loop.index, count.type(LANES))


def _reduced(builder: Any, operation: str, vector: Any, *begin: Any) -> Any:
    """One number of a vector's lanes."""
    kind = vector.type
    function = ir.FunctionType(kind.element, [*(one.type for one in begin), kind])
    name = f"llvm.vector.reduce.{operation}.v{LANES}{'f32' if kind.element == _F32 else 'f64'}"
    return builder.call(cgutils.get_or_insert_function(builder.module, function, name), [*begin, vector])


@_emitted_by_literals
def _tile(
    typing: Any, out: Any, out_at: Any, out_step: Any, x: Any, x_at: Any, x_step: Any, w: Any, w_at: Any, depth: Any,
    rows: Any, panels: Any,
) -> Any:  # fmt: skip
    """out[rows, panels x PANEL] += x[rows, depth] @ w[depth, panels x PANEL], the sums in registers over the depth.

    Arrays are flat, with an element to begin at and one row's step; rows and panels are literals. Each sum is taken
    in the order of the depth, whatever the tile.
    """
    narrow = w.dtype == types.uint32
    tall, wide = rows.literal_value, panels.literal_value

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        steps = given[2], given[5]
        target = _address(context, builder, kinds[0], given[0], given[1])
        source = _address(context, builder, kinds[3], given[3], given[4])
        weights = _address(context, builder, kinds[6], given[6], given[7])
        long = given[8].type
        words = LANES if narrow else PANEL  # a panel's row
        targets = [builder.gep(target, [builder.mul(steps[0], long(i))]) for i in range(tall)]
        sources = [builder.gep(source, [builder.mul(steps[1], long(i))]) for i in range(tall)]
        stored = [builder.gep(weights, [builder.mul(given[8], long(j * words))]) for j in range(wide)]
        sums = [[[cgutils.alloca_once(builder, _VECTOR) for _ in range(2)] for _ in range(wide)] for _ in range(tall)]
        places = [(i, j, half) for i in range(tall) for j in range(wide) for half in range(2)]
        for i, j, half in places:
            builder.store(_load(builder, targets[i], j * PANEL + half * LANES, _VECTOR), sums[i][j][half])
        with cgutils.for_range(builder, given[8]) as loop:
            inputs = [_spread(builder, builder.load(builder.gep(one, [loop.index]))) for one in sources]
            row = builder.mul(loop.index, long(words))
            for j in range(wide):
                pointer = builder.gep(stored[j], [row])
                if narrow:
                    pair = _load(builder, pointer, 0, _WORDS)
                    low = builder.shl(pair, ir.Constant(_WORDS, [16] * LANES))
                    high = builder.and_(pair, ir.Constant(_WORDS, [0xFFFF0000] * LANES))
                    halves = [builder.bitcast(half, _VECTOR) for half in (low, high)]
                else:
                    halves = [_load(builder, pointer, half * LANES, _VECTOR) for half in range(2)]
                for i in range(tall):
                    for half in range(2):
                        place = sums[i][j][half]
                        builder.store(_fma(builder, inputs[i], halves[half], builder.load(place)), place)
        for i, j, half in places:
            _store(builder, builder.load(sums[i][j][half]), targets[i], j * PANEL + half * LANES)
        return context.get_dummy_value()

    return types.none(out, types.intp, types.intp, x, types.intp, types.intp, w, types.intp, types.intp, rows, panels), generate  # fmt: skip # noqa: E501


@_emitted
def _gate(typing: Any, out: Any, out_at: Any, gates: Any, at: Any, cond: Any, cond_at: Any, width: Any) -> Any:
    """out = tanh(f) sigmoid(g) for LANES values; absolute error < 3e-7.

    f: the gates at ``at`` and cond at ``cond_at``, added; g: those ``width`` further.
    (1 - a) / ((1 + a) (1 + b)) with a = e^-2f and b = e^-g: one division for both.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        kinds = signature.args
        sources = [_address(context, builder, kinds[i], given[i], given[i + 1]) for i in (2, 4)]

        def added(offset: Any) -> Any:
            return builder.fadd(*(_load(builder, builder.gep(one, [offset]), 0, _VECTOR) for one in sources))

        f = _clamp(builder, added(given[6].type(0)), -10, 10)
        g = _clamp(builder, added(given[6]), -40, 40)
        a, b = _exp(builder, f, -2), _exp(builder, g, -1)
        below = builder.fmul(builder.fadd(_all(1), a), builder.fadd(_all(1), b))
        value = builder.fdiv(builder.fsub(_all(1), a), below)
        _store(builder, value, _address(context, builder, kinds[0], given[0], given[1]), 0)
        return context.get_dummy_value()

    return types.none(out, types.intp, gates, types.intp, cond, types.intp, types.intp), generate


@_emitted
def _largest(typing: Any, values: Any, at: Any, count: Any) -> Any:
    """The largest of ``count`` values, a multiple of LANES."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        source = _address(context, builder, signature.args[0], given[0], given[1])
        most = cgutils.alloca_once_value(builder, _load(builder, source, 0, _VECTOR))
        with _vectors(builder, given[2]) as start:
            x, known = _load(builder, builder.gep(source, [start]), 0, _VECTOR), builder.load(most)
            builder.store(builder.select(builder.fcmp_ordered(">", x, known), x, known), most)
        return _reduced(builder, "fmax", builder.load(most))

    return types.float32(values, types.intp, types.intp), generate


@_emitted
def _powers(typing: Any, values: Any, at: Any, count: Any, most: Any, scale: Any) -> Any:
    """values = e^((values - most) scale), in place, for ``count`` of them, a multiple of LANES; returns their sum.

    Below e^-87 it is e^-87, 1.6e-38.
    """

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        pointer = _address(context, builder, signature.args[0], given[0], given[1])
        most, scale = _spread(builder, given[3]), _spread(builder, given[4])
        wide = ir.VectorType(ir.DoubleType(), LANES)
        total = cgutils.alloca_once_value(builder, ir.Constant(wide, [0.0] * LANES))
        with _vectors(builder, given[2]) as start:
            place = builder.gep(pointer, [start])
            x = builder.fmul(builder.fsub(_load(builder, place, 0, _VECTOR), most), scale)
            power = _exp(builder, _clamp(builder, x, -87, 0))
            _store(builder, power, place, 0)
            builder.store(builder.fadd(builder.load(total), builder.fpext(power, wide)), total)
        return _reduced(builder, "fadd", builder.load(total), ir.Constant(ir.DoubleType(), 0))

    return types.float64(values, types.intp, types.intp, types.float32, types.float32), generate


@_emitted
def _copy(typing: Any, out: Any, out_at: Any, x: Any, x_at: Any) -> Any:
    """out = x for LANES values."""

    def generate(context: Any, builder: Any, signature: Any, given: Any) -> Any:
        value = _load(builder, _address(context, builder, signature.args[2], given[2], given[3]), 0, _VECTOR)
        _store(builder, value, _address(context, builder, signature.args[0], given[0], given[1]), 0)
        return context.get_dummy_value()

    return types.none(out, types.intp, x, types.intp), generate


# --- the same, plainly: what the vector code is tested against -----------------------------------------------


def plain_multiply(out: Doubles, x: Doubles, weights: Doubles) -> Doubles:
    """``multiply``: out ``[rows, columns]``, x ``[rows, depth]``, weights ``[depth, columns]``."""
    return out + x @ weights


def plain_gate(f: Doubles, g: Doubles) -> Doubles:
    """``_gate``."""
    gated: Doubles = np.tanh(f) / (1 + np.exp(-g.clip(-700)))
    return gated


def plain_powers(values: Doubles, most: float, scale: float) -> Doubles:
    """``_powers``."""
    powers: Doubles = np.exp((values - most) * scale)
    return powers


# --- loops --------------------------------------------------------------------------------------------------


def _compiled(function: Callable[..., Any]) -> Any:
    """``function`` compiled when it is first called, or taken from numba's cache on disk, by one process at a time.

    numba numbers the files of a function's versions by an index that two processes may read before either writes it:
    the one's index would name the other's code, and a later process run what is compiled for other types.
    """
    dispatcher: Any = njit(cache=True, nogil=True, error_model="numpy")(function)
    compiling, folder = dispatcher.compile, Path(dispatcher.stats.cache_path)
    lock = _lock_of(folder)  # now: threads that made it when they first compile could make two

    def alone(signature: Any) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        with lock:
            return compiling(signature)

    dispatcher.compile = alone
    return dispatcher


@cache
def _lock_of(folder: Path) -> FileLock:
    """The lock of a cache; compiling a function compiles those that it calls, so it is one that may be taken again."""
    return FileLock(folder / ".lock")


@_compiled
def multiply(out, out_at, out_step, x, x_at, x_step, weights, at, words, rows, depth, columns):
    """out[rows, columns] += x[rows, depth] @ the matrix at ``at``, in the tiles that fit the registers."""
    panels = columns // PANEL
    panel = depth * words
    done = 0
    while rows - done >= 4:
        tall = 8 if rows - done >= 8 else 4
        for j in range(panels):
            to, of = out_at + done * out_step + j * PANEL, x_at + done * x_step
            if tall == 8:
                _tile(out, to, out_step, x, of, x_step, weights, at + j * panel, depth, 8, 1)
            else:
                _tile(out, to, out_step, x, of, x_step, weights, at + j * panel, depth, 4, 1)
        done += tall
    for i in range(done, rows):
        to, of = out_at + i * out_step, x_at + i * x_step
        j = 0
        while panels - j >= 4:
            _tile(out, to + j * PANEL, out_step, x, of, x_step, weights, at + j * panel, depth, 1, 4)
            j += 4
        for rest in range(j, panels):
            _tile(out, to + rest * PANEL, out_step, x, of, x_step, weights, at + rest * panel, depth, 1, 1)


@_compiled
def look_ahead(net, streams, early, layer, position, steps, first, last):
    """``streams.ahead`` of a layer for ``steps`` steps from ``position`` on, whose past inputs are all known."""
    w = net.widths
    size, ring = streams.sizes[layer], streams.starts[-1]
    rows = (last - first) * steps
    begin = (layer * streams.present.size * streams.block + first * steps) * w.gates
    streams.ahead[begin : begin + rows * w.gates] = 0
    matrix = net.past.size // (net.dilations.size * w.past)
    for tap in range(w.past):
        past = position - (w.past - tap) * net.dilations[layer]
        for row in range(first, last):
            for i in range(steps):
                at = row * ring + streams.starts[layer] + ((past + i) & (size - 1)) * w.row
                for c in range(0, w.row, LANES):
                    _copy(early, ((row - first) * steps + i) * w.row + c, streams.rings, at + c)
        at = (layer * w.past + tap) * matrix
        multiply(streams.ahead, begin, w.gates, early, START, w.row, net.past, at, w.words, rows, w.residual, w.gates)


@_compiled
def step(net, streams, scratch, cond, frames, frame, position, first, last):
    """One step of the streams ``first`` to ``last``: ``scratch.stream`` of the next sample.

    cond: ``[B, frames, L, 2W']``, flat.
    """
    w = net.widths
    layers = net.dilations.size
    stream, gates, gated = scratch.stream, scratch.gates, scratch.gated
    rows, ring = last - first, streams.starts[-1]
    now, out = net.now.size // layers, net.out.size // layers
    for i in range(rows):
        stream[i * w.stream : (i + 1) * w.stream] = 0
        for c in range(0, w.row, LANES):
            _copy(stream, i * w.stream + c, net.embedding, streams.present[first + i] * w.row + c)
    for layer in range(layers):
        if streams.block > 1:
            steps = min(streams.block, net.dilations[layer])
            if position % steps == 0:
                look_ahead(net, streams, scratch.early, layer, position, steps, first, last)
            for i in range(rows):
                ahead = layer * streams.present.size * streams.block + (first + i) * steps + position % steps
                for c in range(0, w.gates, LANES):
                    _copy(gates, i * w.gates + c, streams.ahead, ahead * w.gates + c)
        else:
            gates[: rows * w.gates] = 0
            for tap in range(w.past):
                past = position - (w.past - tap) * net.dilations[layer]
                at = first * ring + streams.starts[layer] + (past & (streams.sizes[layer] - 1)) * w.row
                matrix = (layer * w.past + tap) * now
                multiply(
                    gates, START, w.gates, streams.rings, at, ring, net.past, matrix, w.words, rows, w.residual, w.gates
                )
        if w.past:
            for i in range(rows):
                slot = (first + i) * ring + streams.starts[layer] + (position & (streams.sizes[layer] - 1)) * w.row
                for c in range(0, w.row, LANES):
                    _copy(streams.rings, slot + c, stream, i * w.stream + c)
        multiply(
            gates, START, w.gates, stream, START, w.stream, net.now, layer * now, w.words, rows, w.residual, w.gates
        )
        width = w.gates // 2
        for i in range(rows):
            given = (((first + i) * frames + frame) * layers + layer) * w.gates
            for c in range(0, width, LANES):
                _gate(gated, i * width + c, gates, i * w.gates + c, cond, given + c, width)
        # The last layer's residual output would reach nothing: its zeros are left out.
        skipped = w.row if layer == layers - 1 else START
        at = layer * out + skipped * w.gate * w.words // PANEL
        columns = w.stream - skipped
        multiply(stream, skipped, w.stream, gated, START, width, net.out, at, w.words, rows, w.gate, columns)


@_compiled
def head(net, scratch, rows):
    """``scratch.logits`` ``[rows, Q']`` of ``scratch.stream``'s skip sums ``[rows, S']``, which it overwrites."""
    w = net.widths
    hidden, logits = net.hidden_bias.size, net.output_bias.size
    for i in range(rows):
        for c in range(i * w.stream + w.row, (i + 1) * w.stream):
            scratch.stream[c] = max(scratch.stream[c], np.float32(0))
        for c in range(0, hidden, LANES):
            _copy(scratch.hidden, i * hidden + c, net.hidden_bias, c)
        for c in range(0, logits, LANES):
            _copy(scratch.logits, i * logits + c, net.output_bias, c)
    multiply(
        scratch.hidden, START, hidden, scratch.stream, w.row, w.stream, net.hidden, START, w.words, rows, w.skip, hidden
    )
    for c in range(rows * hidden):
        scratch.hidden[c] = max(scratch.hidden[c], np.float32(0))
    multiply(
        scratch.logits, START, logits, scratch.hidden, START, hidden, net.output, START, w.words, rows, w.head, logits
    )


@_compiled
def pick(logits, at, classes, u, temperature, top_p):
    """``reference.pick`` of the ``classes`` logits at ``at``, -inf after them to whole vectors; overwrites them."""
    padded = (classes + LANES - 1) // LANES * LANES
    total = _powers(logits, at, padded, _largest(logits, at, padded), np.float32(1 / temperature))
    if top_p < 1:
        total = _nucleus(logits[at : at + classes], top_p)
    target = u * total
    passed = 0.0
    found = 0
    for c in range(classes):
        more = passed + logits[at + c]
        if more > passed:  # else it is too unlikely to be drawn, also where rounding leaves the target above all
            found = c
        passed = more
        if passed > target:
            break
    return found


@_compiled
def _nucleus(values, top_p):
    """Sets all of the positive ``values`` to 0 but the fewest largest that reach top_p of them; returns their sum.

    The smallest that is kept is sought by halving: positive floats are ordered as their bits are.
    """
    whole = 0.0
    for c in range(values.size):
        whole += values[c]
    enough = top_p * whole
    bits = values.view(np.int32)
    low, high = 0, 0x7F800000
    while high - low > 1:  # the values above low reach enough, those above high do not
        middle = (low + high) // 2
        above = 0.0
        for c in range(values.size):
            if bits[c] > middle:
                above += values[c]
        if above < enough:
            high = middle
        else:
            low = middle
    before = 0.0
    for c in range(values.size):
        if bits[c] > high:
            before += values[c]
    for c in range(values.size):
        if bits[c] == high and before < enough:  # of equals, the first ones
            before += values[c]
        elif bits[c] <= high:
            values[c] = 0
    return before


@_compiled
def draw(net, streams, scratch, cond, frames, noise, prefix, drawn, position, first, last, temperature, top_p):
    """Fills ``drawn[first:last]``, int64 ``[B, T]``, after ``prefix``, int64 ``[B, P]``; the streams go on P + T steps.

    cond: ``[B, frames, L, 2W']``, flat; noise: float64 ``[B, T]``; position: of the first of the steps.
    """
    given, count = prefix.shape[1], noise.shape[1]
    for t in range(given + count):
        step(net, streams, scratch, cond, frames, t * frames // (given + count), position + t, first, last)
        if t >= given:
            head(net, scratch, last - first)
        for row in range(first, last):
            if t < given:
                streams.present[row] = prefix[row, t]
            else:
                at = (row - first) * net.output_bias.size
                found = pick(scratch.logits, at, net.widths.classes, noise[row, t - given], temperature, top_p)
                drawn[row, t - given] = found
                streams.present[row] = found


# --- loops over grids ---------------------------------------------------------------------------------------


@_compiled
def grid_values(net, out, at, drawn, row, i, j):
    """out at ``at``: the sum of a position's embedded values, or 0 where it lies above or left of the grid."""
    w = net.widths
    out[at : at + w.row] = 0
    if i >= 0 and j >= 0:
        for g in range(w.groups):
            table = (g * w.classes + drawn[row, i, j, g]) * w.row
            for c in range(w.row):
                out[at + c] += net.embedding[table + c]


@_compiled
def grid_row(net, room, cond, drawn, row, image, i):
    """The vertical stack of row ``i`` of an image, ``room.links`` of all its positions; above it all is drawn.

    cond: float32 ``[B, 1, 1, C]`` or ``[B, h, w, C]``; row: of the image in cond and drawn, image: in ``room``.
    """
    w = net.widths
    columns = drawn.shape[2]
    wide, slot, width = columns + w.kernel - 1, i % w.reach, w.gates // 2
    flat = cond.reshape(-1)
    given = cond.shape[2]  # positions of the row with a conditioning of their own
    of_cond = (row * cond.shape[1] + min(i, cond.shape[1] - 1)) * given * w.cond
    taps = net.vertical.size // (w.layers * w.reach * w.kernel)
    for layer in range(w.layers):
        base = (image * w.layers + layer) * w.reach * wide * w.row
        here = base + (slot * wide + w.kernel // 2) * w.row
        if layer == 0:
            for j in range(columns):
                grid_values(net, room.above, here + j * w.row, drawn, row, i - 1, j)
        for j in range(given):
            for c in range(0, 2 * w.gates, LANES):
                _copy(room.cond, j * 2 * w.gates + c, net.condition_bias, layer * 2 * w.gates + c)
        at = layer * (net.condition.size // w.layers)
        multiply(
            room.cond, START, 2 * w.gates, flat, of_cond, w.cond, net.condition, at, WHOLE, given, w.cond, 2 * w.gates
        )
        room.gates[: columns * w.gates] = 0
        for a in range(max(0, w.reach - 1 - i), w.reach):  # above the grid all is zero
            past = (i - (w.reach - 1 - a)) % w.reach
            for b in range(w.kernel):
                of, at = base + (past * wide + b) * w.row, ((layer * w.reach + a) * w.kernel + b) * taps
                multiply(
                    room.gates, START, w.gates, room.above, of, w.row, net.vertical, at, w.words, columns, w.residual,
                    w.gates,
                )  # fmt: skip
        links = (image * w.layers + layer) * columns * w.gates
        for j in range(columns):
            own = min(j, given - 1) * 2 * w.gates
            for c in range(0, width, LANES):
                _gate(room.gated, j * width + c, room.gates, j * w.gates + c, room.cond, own + c, width)
            for c in range(0, w.gates, LANES):
                _copy(room.links, links + j * w.gates + c, room.cond, own + w.gates + c)
        at = layer * (net.link.size // w.layers)
        multiply(room.links, links, w.gates, room.gated, START, width, net.link, at, w.words, columns, w.gate, w.gates)
        if layer < w.layers - 1:
            below = here + w.reach * wide * w.row
            for c in range(0, columns * w.row, LANES):
                _copy(room.above, below + c, room.above, here + c)
            at = layer * (net.vertical_out.size // (w.layers - 1))
            multiply(
                room.above, below, w.row, room.gated, START, width, net.vertical_out, at, w.words, columns, w.gate,
                w.row,
            )  # fmt: skip


@_compiled
def grid_features(net, room, drawn, first, last, i, j):
    """``room.features`` of position (i, j) of the images ``first`` to ``last``, after ``grid_row`` of row i."""
    w = net.widths
    columns, width, rows = drawn.shape[2], w.gates // 2, last - first
    long = w.reach - 1 + columns
    taps = net.horizontal.size // (w.layers * w.reach)
    for image in range(rows):
        grid_values(net, room.features, image * w.row, drawn, first + image, i, j - 1)
    for layer in range(w.layers):
        for image in range(rows):
            at = ((image * w.layers + layer) * long + w.reach - 1 + j) * w.row
            for c in range(0, w.row, LANES):
                _copy(room.left, at + c, room.features, image * w.row + c)
        room.gates[: rows * w.gates] = 0
        for tap in range(w.reach):
            of, at = (layer * long + j + tap) * w.row, (layer * w.reach + tap) * taps
            multiply(
                room.gates, START, w.gates, room.left, of, w.layers * long * w.row, net.horizontal, at, w.words, rows,
                w.residual, w.gates,
            )  # fmt: skip
        for image in range(rows):
            link = ((image * w.layers + layer) * columns + j) * w.gates
            for c in range(0, width, LANES):
                _gate(room.gated, image * width + c, room.gates, image * w.gates + c, room.links, link + c, width)
        at = layer * (net.horizontal_out.size // w.layers)
        multiply(
            room.features, START, w.row, room.gated, START, width, net.horizontal_out, at, w.words, rows, w.gate, w.row
        )


@_compiled
def grid_head(net, room, rows, g):
    """``room.logits`` ``[rows, Q']`` of the g-th value, of ``room.features``."""
    w = net.widths
    hidden, logits = net.hidden_bias.size // w.groups, net.output_bias.size // w.groups
    for c in range(rows * w.row):
        room.seen[c] = max(room.features[c], np.float32(0))
    for image in range(rows):
        for c in range(0, hidden, LANES):
            _copy(room.hidden, image * hidden + c, net.hidden_bias, g * hidden + c)
        for c in range(0, logits, LANES):
            _copy(room.logits, image * logits + c, net.output_bias, g * logits + c)
    at = g * (net.hidden.size // w.groups)
    multiply(room.hidden, START, hidden, room.seen, START, w.row, net.hidden, at, w.words, rows, w.residual, hidden)
    for c in range(rows * hidden):
        room.hidden[c] = max(room.hidden[c], np.float32(0))
    at = g * (net.output.size // w.groups)
    multiply(room.logits, START, logits, room.hidden, START, hidden, net.output, at, w.words, rows, w.head, logits)


@_compiled
def grid_draw(net, room, cond, noise, drawn, first, last, temperature, top_p):
    """Fills ``drawn[first:last]``, int64 ``[B, h, w, G]``; noise: float64, alike; cond: as ``grid_row``'s."""
    w = net.widths
    logits = net.output_bias.size // w.groups
    for i in range(drawn.shape[1]):
        for image in range(last - first):
            grid_row(net, room, cond, drawn, first + image, image, i)
        for j in range(drawn.shape[2]):
            grid_features(net, room, drawn, first, last, i, j)
            for g in range(w.groups):
                grid_head(net, room, last - first, g)
                for image in range(last - first):
                    u = noise[first + image, i, j, g]
                    found = pick(room.logits, image * logits, w.classes, u, temperature, top_p)
                    drawn[first + image, i, j, g] = found
                    if g < w.groups - 1:
                        table = (g * w.classes + found) * w.row
                        for c in range(w.row):
                            room.features[image * w.row + c] += net.within[table + c]
