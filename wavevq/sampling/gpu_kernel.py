"""The GPU sampler's kernel: a program draws 16 streams, the whole loop over samples inside it.

Within a step everything that a stream is stays in the registers of its program: residual stream, skip sum, logits. Only
past inputs go through device memory, and the weights come from L2 once a step for all 16 streams, the next layer's
while the present one is multiplied (Triton's pipelining of the loop over layers).

One path for every number of streams, 16 rows a program with empty rows where there are fewer: two paths would add in
two orders, and a stream's samples would depend on its batch. For a single stream the empty rows cost tensor-core time
that would be idle anyway, since the time goes into the chain of layers.

This module is imported when the first stream is drawn: it needs triton, and triton reads TRITON_INTERPRET then. No
postponed annotations here, since the interpreter would not know a constexpr by its name.
"""

# mypy: disable-error-code="no-untyped-def, untyped-decorator"

import triton  # type: ignore[import-untyped]
import triton.language as tl  # type: ignore[import-untyped]

# The interpreter cannot multiply bfloat16; the values are the same in float32.
OPERAND = tl.constexpr(tl.float32 if triton.knobs.runtime.interpret else tl.bfloat16)


@triton.jit
def _leading(x):
    """The first 8 bits of each float32's significand: a value of bfloat16."""
    return (x.to(tl.int32, bitcast=True) & -65536).to(tl.float32, bitcast=True)


@triton.jit
def _product(x, matrix, total):
    """total + x @ matrix in float32: x float32 ``[ROWS, K]``, matrix ``[K, N]``.

    A float32's 24 bits are exactly three bfloat16, and a product of two bfloat16 is exact in float32: three products of
    the tensor cores, which read bfloat16 weights as they are stored, lose nothing but the sum's rounding. Rounding x to
    one bfloat16 would be three times less work and 60,000 times less exact; unpacking the weights to float32 would cost
    more than the two products it saves. Float32 weights go through three TF32 products, exact to about 2^-21.
    """
    if matrix.dtype == tl.float32:
        total = tl.dot(x, matrix, total, input_precision="tf32x3")
    else:
        narrow = matrix.to(OPERAND)
        high = _leading(x)
        middle = _leading(x - high)
        low = x - high - middle
        # Smallest first.
        total = tl.dot(low.to(OPERAND), narrow, total)
        total = tl.dot(middle.to(OPERAND), narrow, total)
        total = tl.dot(high.to(OPERAND), narrow, total)
    return total


@triton.jit
def _gated(filtered, gate):
    """tanh(filtered) x sigmoid(gate) with one division; the bounds change no float32 result and keep e^x finite."""
    a = tl.exp(-2 * tl.minimum(tl.maximum(filtered, -15.0), 15.0))
    b = tl.exp(-tl.minimum(tl.maximum(gate, -40.0), 40.0))
    return (1 - a) / ((1 + a) * (1 + b))


@triton.jit
def _nucleus(p, top_p, ROWS: tl.constexpr):
    """p ``[ROWS, Q']`` with zeros outside the fewest likeliest classes that reach ``top_p`` of its sum.

    Among equals the first comes first. Not by sorting but by bisection: floats of one sign are ordered as their bits.
    """
    bits = p.to(tl.int32, bitcast=True)
    enough = tl.maximum(top_p * tl.sum(p, 1), 1e-30)
    # What exceeds `low` reaches enough, what exceeds `high` does not; `high` begins at 1.0, the likeliest class's p.
    low = tl.full([ROWS], -1, tl.int32)
    high = tl.full([ROWS], 0x3F800000, tl.int32)
    for _ in range(30):
        middle = (low + high) >> 1
        short = tl.sum(tl.where(bits > middle[:, None], p, 0.0), 1) < enough
        low = tl.where(short, low, middle)
        high = tl.where(short, middle, high)
    above = tl.sum(tl.where(bits > high[:, None], p, 0.0), 1)
    equal = bits == high[:, None]
    earlier = tl.cumsum(equal.to(tl.int32), 1) - 1
    needed = equal & (above[:, None] + earlier.to(tl.float32) * p < enough[:, None])
    return tl.where((bits > high[:, None]) | needed, p, 0.0)


@triton.jit
def _pick(logits, noise, temperature, top_p, CLASSES: tl.constexpr, Q: tl.constexpr, ROWS: tl.constexpr):
    """``reference.pick`` of logits ``[ROWS, Q']`` and noise ``[ROWS]``: int32 ``[ROWS]`` in [0, CLASSES)."""
    column = tl.arange(0, Q)[None, :]
    score = tl.where(column < CLASSES, logits, float("-inf"))
    p = tl.exp((score - tl.max(score, 1)[:, None]) / temperature)
    if top_p < 1:
        p = _nucleus(p, top_p, ROWS)
    cumulated = tl.cumsum(p, 1)
    target = noise * tl.max(cumulated, 1)
    # Sums taken in parallel may round across an impossible class, so it is excluded by name.
    possible = p > 0
    first = tl.min(tl.where(possible & (cumulated > target[:, None]), column, Q), 1)
    last = tl.max(tl.where(possible, column, 0), 1)
    return tl.minimum(first, last)


# Triton would compile anew for numbers that are 1 or divisible by 16.
_NUMBERS = ["batch", "frames", "hop", "position", "begin", "end", "steps", "given", "silent"]


@triton.jit(do_not_specialize=_NUMBERS)
def draw(
    embedding, taps, residual, skip, hidden, hidden_bias, output, output_bias,
    schedule, rings, present, cond, noise, classes, logits,
    batch, frames, hop, position, begin, end, steps, given, silent,
    temperature, top_p,
    LAYERS: tl.constexpr, TAPS: tl.constexpr, SLOTS: tl.constexpr, CLASSES: tl.constexpr, GATE: tl.constexpr,
    L: tl.constexpr, R: tl.constexpr, W: tl.constexpr, S: tl.constexpr, H: tl.constexpr, Q: tl.constexpr,
    W_TILE: tl.constexpr, H_TILE: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Steps ``begin`` to ``end`` of a call of ``steps`` that began at sample ``position`` of its streams.

    Tensors as in ``gpu.Packed`` and ``gpu.State`` and, for B streams, cond float32 ``[B, F, L, GATE, 2]``, noise
    float32 ``[B, steps - given]``, classes int64 ``[B, steps]``, of which the first ``given`` are there already, and
    logits float32 ``[B, steps, CLASSES]`` or None. Before step ``silent`` no logits are calculated.
    L, R, W, S, H, Q: number of layers and widths as padded in memory.

    A ring is longer than the past of its layer: no step reads what it writes, so that no thread waits for others before
    the step ends, and the pipeline may read a layer's past before the layer above has ended.
    """
    group = tl.program_id(0).to(tl.int64)
    row = tl.arange(0, ROWS)
    stream = group * ROWS + row
    real = stream < batch
    r = tl.arange(0, R)
    s = tl.arange(0, S)
    q = tl.arange(0, Q)
    ring = rings + group * SLOTS * ROWS * R + row[:, None] * R + r[None, :]
    # In registers, since addresses that come from memory would take the place of the weights in the pipeline.
    every = tl.arange(0, L)
    dilations = tl.load(schedule + every)
    starts = tl.load(schedule + L + every)
    lengths = tl.load(schedule + 2 * L + every)
    source = tl.load(present + stream)
    # Not range(begin, end): NumPy 2.4 does not let the interpreter make a bound of a number given at run time.
    t = begin
    while t < end:
        x = tl.load(embedding + source[:, None] * R + r[None, :])
        total = tl.full([ROWS, S], 0.0, tl.float32)
        conditions = cond + (stream * frames + t // hop) * (LAYERS * 2 * GATE)
        for layer in range(LAYERS):
            mine = every == layer
            dilation = tl.sum(tl.where(mine, dilations, 0))
            start = tl.sum(tl.where(mine, starts, 0)).to(tl.int64)
            length = tl.sum(tl.where(mine, lengths, 0))
            tl.store(ring + (start + (position + t & length - 1)) * (ROWS * R), x)
            following = x
            for tile in range(W // W_TILE):
                w = tile * W_TILE + tl.arange(0, W_TILE)
                g = tile * (2 * W_TILE) + tl.arange(0, 2 * W_TILE)
                # Loaded first and added last: so it arrives while the products are made.
                inside = real[:, None] & (g < 2 * GATE)[None, :]
                condition = tl.load(conditions[:, None] + layer * (2 * GATE) + g[None, :], mask=inside, other=0.0)
                gates = tl.full([ROWS, 2 * W_TILE], 0.0, tl.float32)
                matrix = taps + layer * (TAPS * R * 2 * W) + r[:, None] * (2 * W) + g[None, :]
                for tap in tl.static_range(TAPS - 1):
                    slot = start + (position + t - (TAPS - 1 - tap) * dilation & length - 1)
                    past = tl.load(ring + slot * (ROWS * R))
                    gates = _product(past, tl.load(matrix + tap * (R * 2 * W)), gates)
                gates = _product(x, tl.load(matrix + (TAPS - 1) * (R * 2 * W)), gates)
                # A filter and its gate lie side by side, in registers of one thread.
                filtered, gate = tl.split(tl.reshape(gates + condition, [ROWS, W_TILE, 2]))
                h = _gated(filtered, gate)
                onward = residual + layer * (W * R) + w[:, None] * R + r[None, :]
                following = _product(h, tl.load(onward), following)
                aside = skip + layer * (W * S) + w[:, None] * S + s[None, :]
                total = _product(h, tl.load(aside), total)
            x = following
        source = tl.load(classes + stream * steps + t, mask=real, other=0).to(tl.int32)
        if t >= silent:
            skipped = tl.maximum(total, 0.0)
            scores = tl.full([ROWS, Q], 0.0, tl.float32) + tl.load(output_bias + q)[None, :]
            for tile in range(H // H_TILE):
                h = tile * H_TILE + tl.arange(0, H_TILE)
                level = tl.full([ROWS, H_TILE], 0.0, tl.float32) + tl.load(hidden_bias + h)[None, :]
                level = _product(skipped, tl.load(hidden + s[:, None] * H + h[None, :]), level)
                level = tl.maximum(level, 0.0)
                scores = _product(level, tl.load(output + h[:, None] * Q + q[None, :]), scores)
            if logits is not None:
                place = logits + (stream * steps + t)[:, None] * CLASSES + q[None, :]
                tl.store(place, scores, mask=real[:, None] & (q < CLASSES)[None, :])
            drawing = t >= given
            u = tl.load(noise + stream * (steps - given) + t - given, mask=real & drawing, other=0.0)
            drawn = _pick(scores, u, temperature, top_p, CLASSES, Q, ROWS)
            source = tl.where(drawing, drawn, source)
            tl.store(classes + stream * steps + t, source.to(tl.int64), mask=real)
        # The next steps' past inputs are read by other threads than wrote them.
        tl.debug_barrier()
        t += 1
    tl.store(present + stream, source)
