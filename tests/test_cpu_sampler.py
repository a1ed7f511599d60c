"""The compiled CPU sampler against the reference: logits, picks, replays, and what must not change a stream."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numba
import numpy as np
import pytest
import torch
import trainings
from filelock import FileLock
from llvmlite import ir
from numba import njit
from numba.core import caching
from replay import faithful, mismatches
from torch import Tensor

from wavevq.errors import WavevqError
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import uniform
from wavevq.sampling import choose, cpu, kernel, packing, reference
from wavevq.sampling.cpu import Cpu
from wavevq.sampling.kernel import LANES, PANEL
from wavevq.sampling.reference import Reference, pick, rounded

PRECISIONS = ("float32", "bfloat16")
# Whole vectors and ragged widths, three taps, no tap but the present, more panels than a tile is wide.
SHAPES = {
    "even": {"classes": 64, "layers": 8, "cycle": 8, "kernel": 2, "residual": 32, "gate": 32, "skip": 32, "head": 64},
    "ragged": {"classes": 37, "layers": 7, "cycle": 5, "kernel": 2, "residual": 5, "gate": 19, "skip": 33, "head": 7},
    "taps": {"classes": 20, "layers": 6, "cycle": 4, "kernel": 3, "residual": 18, "gate": 8, "skip": 3, "head": 40},
    "no past": {"classes": 9, "layers": 2, "cycle": 1, "kernel": 1, "residual": 4, "gate": 4, "skip": 4, "head": 4},
    "codes": {"classes": 513, "layers": 4, "cycle": 2, "kernel": 2, "residual": 64, "gate": 64, "skip": 64, "head": 64},
    "wide": {"classes": 130, "layers": 3, "cycle": 3, "kernel": 2, "residual": 150, "gate": 70, "skip": 40, "head": 9},
}  # fmt: skip


def network(shape: str, seed: int = 3) -> WaveNet:
    torch.manual_seed(seed)
    net = WaveNet(**SHAPES[shape], cond_dim=6)
    torch.nn.init.normal_(net.output.weight, std=SHAPES[shape]["head"] ** -0.5)
    torch.nn.init.normal_(net.output.bias)
    return net


def conditioning(net: WaveNet, batch: int, frames: int) -> Tensor:
    return net.conditioning(torch.randn(batch, frames, 6)).detach()


def as_stored(net: WaveNet, precision: str) -> WaveNet:
    return rounded(net) if precision == "bfloat16" else net


# --- vector code --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
def test_multiply_is_the_matrix_product_and_no_row_depends_on_the_others(precision: str) -> None:
    rng = np.random.default_rng(0)
    for depth, columns in ((1, PANEL), (7, 5 * PANEL), (64, 4 * PANEL)):
        matrix = torch.from_numpy(rng.standard_normal((depth, columns)).astype(np.float32))
        words = LANES if precision == "bfloat16" else PANEL
        packed = packing.panels(matrix, precision)
        stored = matrix.to(getattr(torch, precision)).double().numpy()
        x = rng.standard_normal((19, depth)).astype(np.float32)
        before = rng.standard_normal((19, columns)).astype(np.float32)
        alone = before.copy()
        for row in range(19):
            kernel.multiply(alone.reshape(-1), row * columns, columns, x.reshape(-1), row * depth, depth, packed, 0, words, 1, depth, columns)  # fmt: skip  # noqa: E501
        # depth + 1 roundings of sums that are below some 40
        np.testing.assert_allclose(
            alone,
            kernel.plain_multiply(before.astype(np.float64), x.astype(np.float64), stored),
            atol=(depth + 1) * 40 * 2**-24,
        )
        for rows in (2, 3, 4, 5, 8, 9, 12, 19):
            out = before.copy()
            kernel.multiply(out.reshape(-1), 0, columns, x.reshape(-1), 0, depth, packed, 0, words, rows, depth, columns)  # fmt: skip  # noqa: E501
            np.testing.assert_array_equal(out[:rows], alone[:rows])
            np.testing.assert_array_equal(out[rows:], before[rows:])


@njit
def all_gates(out, gates, cond):  # type: ignore[no-untyped-def]
    for at in range(0, out.size, LANES):
        kernel._gate(out, at, gates, at, cond, at, out.size)


@njit
def powers(values, most, scale):  # type: ignore[no-untyped-def]
    return kernel._powers(values, 0, values.size, np.float32(most), np.float32(scale))


@njit
def largest(values):  # type: ignore[no-untyped-def]
    return kernel._largest(values, 0, values.size)


def test_gates_are_within_their_stated_error() -> None:
    one = np.concatenate([np.linspace(-12, 12, 301), [-1e4, -90, 0, 90, 1e4], np.geomspace(1e-8, 1, 14)])
    f, g = (side.ravel().astype(np.float32) for side in np.meshgrid(one, one))
    out = np.full(f.size, np.nan, np.float32)
    cond = np.where(np.arange(2 * f.size) % 3, 0, np.float32(0.5)).astype(np.float32)
    gates = np.concatenate([f, g]) - cond  # rounded where they differ in magnitude, so added again
    all_gates(out, gates, cond)
    f, g = (gates + cond).reshape(2, -1)
    assert np.abs(out - kernel.plain_gate(f.astype(np.float64), g.astype(np.float64))).max() < 3e-7


def test_powers_are_within_their_stated_error() -> None:
    values = np.linspace(-80, 3, 16 * 500).astype(np.float32)
    out = values.copy()
    total = powers(out, 3.0, 0.5)
    right = kernel.plain_powers(values.astype(np.float64), 3.0, 0.5)
    assert (np.abs(out / right - 1) < 2e-7 * (1 + (3 - values) / 2)).all()
    assert abs(total / right.sum() - 1) < 1e-6  # the terms' own errors
    low = np.full(LANES, -1e30, np.float32)
    powers(low, 0.0, 1.0)
    assert 0 < low.max() < 2e-38


def test_the_largest_may_stand_anywhere() -> None:
    values = np.random.default_rng(0).standard_normal(5 * LANES).astype(np.float32)
    for place in range(values.size):
        peaked = values.copy()
        peaked[place] = 9
        assert largest(peaked) == 9
    assert largest(-np.abs(values)) == (-np.abs(values)).max()


# --- picking ------------------------------------------------------------------------------------------------


def picked(logits: Tensor, u: float, temperature: float = 1.0, top_p: float = 1.0) -> int:
    room = np.full(-(-logits.numel() // PANEL) * PANEL, -np.inf, np.float32)
    room[: logits.numel()] = logits.numpy()
    return int(kernel.pick(room, 0, logits.numel(), u, temperature, top_p))


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, 1.0), (0.6, 1.0), (1.7, 0.9), (1.0, 0.5), (1.0, 1e-9)])
def test_picks_are_those_of_the_reference(temperature: float, top_p: float) -> None:
    generator = torch.Generator().manual_seed(0)
    noise = uniform(1, [0], 600)[0]
    differing = 0
    for u in noise.tolist():
        logits = 3 * torch.randn(97, generator=generator)
        expected = int(pick(logits[None], torch.tensor([u]).double(), temperature, top_p))
        differing += picked(logits, u, temperature, top_p) != expected
    # 97 boundaries, each shifted by some 1e-7: one in a thousand draws would be many
    assert differing <= 1


@pytest.mark.parametrize("u", [0.0, 1e-300, 1e-12, 1 - 1e-9, 1 - 2**-53])
def test_picks_at_the_ends_are_classes_that_can_be(u: float) -> None:
    logits = torch.full((50,), -3.0)
    assert picked(logits, u) == (0 if u < 0.5 else 49)
    logits[20] = 60.0  # all that float32 can tell
    assert picked(logits, u, top_p=0.5) == 20
    peaked = torch.full((50,), 0.0)
    peaked[[7, 33]] = 40.0
    assert picked(peaked, u, top_p=0.9) == (7 if u < 0.5 else 33)


def test_no_class_is_drawn_that_cannot_be() -> None:
    """Where rounding leaves the target above the sum of all, the last class that counts is drawn, not the last."""
    for seed in range(300):
        scale = np.float32(1 + seed % 7)
        logits = torch.from_numpy(-scale * ((np.arange(256, dtype=np.float32) - 128) / 8) ** 2)
        logits += 0.1 * torch.randn(256, generator=torch.Generator().manual_seed(seed))
        assert logits.double().softmax(-1)[picked(logits, 1 - 2**-53)] > 1e-18


@pytest.mark.parametrize(("temperature", "expected"), [(1e-300, {7}), (1e-12, {7}), (1e300, set(range(9)))])
def test_extreme_temperatures(temperature: float, expected: set[int]) -> None:
    net = network("no past")
    cond = conditioning(net, 1, 1)
    net.output.weight.data.zero_()
    net.output.bias.data[7] = 5
    drawn, _ = Cpu()(net, cond, uniform(0, [0], 500), temperature)
    assert set(drawn[0].tolist()) == expected


def test_the_nucleus_takes_the_first_of_equals() -> None:
    logits = torch.zeros(10)  # a tenth each: 0.25 is reached by three
    found = {picked(logits, u, top_p=0.25) for u in np.linspace(0, 0.999, 50)}
    assert found == {0, 1, 2}


# --- logits and replays -------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_are_those_of_the_reference(shape: str, precision: str) -> None:
    net = network(shape)
    stored = as_stored(net, precision)
    batch, steps, hop = 2, 40, 4
    cond = conditioning(net, batch, steps // hop)
    classes = torch.randint(net.classes, (batch, steps))
    packed = cpu.pack(net, precision)
    streams, room = cpu.start(packed, batch), cpu.scratch(packed, batch)
    gates = packing.padded_gates(cond, packed.widths.gates).numpy().reshape(-1)
    right = reference.start(stored, batch)
    for t in range(steps):
        kernel.step(packed, streams, room, gates, cond.shape[1], t // hop, t, 0, batch)
        kernel.head(packed, room, batch)
        logits = torch.from_numpy(room.logits.reshape(batch, -1)[:, : net.classes].copy())
        with torch.no_grad():
            expected = reference.step(stored, cond[:, t // hop], right)
        assert (logits - expected).abs().max() <= 1e-4 * max(1.0, expected.abs().max())
        streams.present[:] = classes[:, t].numpy()
        right.present = stored.embedding[classes[:, t]].detach()
        right.position += 1


# shape, frames, hop: one frame, hop 1, fewer samples than the longest dilation
REPLAYS = [("even", 30, 64), ("ragged", 50, 16), ("taps", 1, 700), ("no past", 300, 1), ("wide", 40, 10), ("codes", 500, 1), ("even", 1, 1)]  # fmt: skip  # noqa: E501


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("shape", "frames", "hop"), REPLAYS)
def test_replay(shape: str, frames: int, hop: int, precision: str) -> None:
    net = network(shape)
    cond = conditioning(net, 2, frames)
    noise = uniform(7, range(2), frames * hop)
    drawn, _ = Cpu(precision)(net, cond, noise)
    assert faithful(*mismatches(as_stored(net, precision), cond, drawn, noise))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.7, 1.0), (1.0, 0.8), (1.3, 0.95)])
def test_replay_with_temperature_and_top_p(temperature: float, top_p: float) -> None:
    net = network("even")
    cond = conditioning(net, 2, 16)
    noise = uniform(8, range(2), 16 * 50)
    drawn, _ = Cpu("float32")(net, cond, noise, temperature, top_p)
    assert faithful(*mismatches(net, cond, drawn, noise, temperature, top_p))


@pytest.mark.parametrize("layer", [0, 3, 7])
def test_replay_notices_a_layer_that_lost_its_past_tap(layer: int) -> None:
    net, broken = network("even"), network("even")
    broken.taps.data[layer, 0] = 0
    cond = conditioning(net, 2, 30)
    noise = uniform(7, range(2), 30 * 64)
    drawn, _ = Cpu("float32")(broken, cond, noise)
    assert not faithful(*mismatches(net, cond, drawn, noise))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_the_reference_draws_the_same(precision: str) -> None:
    net = network("ragged")
    cond = conditioning(net, 2, 12)
    noise = uniform(1, range(2), 60)
    fast, _ = Cpu(precision)(net, cond, noise)
    slow, _ = Reference(precision)(net, cond, noise)
    assert torch.equal(fast, slow)


# --- what changes nothing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_neither_the_batch_nor_the_threads_change_a_stream(shape: str) -> None:
    net = network(shape)
    cond = conditioning(net, 13, 6)
    noise = uniform(2, range(13), 6 * 20)
    drawn, _ = Cpu()(net, cond, noise)
    threads = torch.get_num_threads()
    try:
        for count in (1, 2, 3):
            torch.set_num_threads(count)
            assert torch.equal(Cpu()(net, cond, noise)[0], drawn)
    finally:
        torch.set_num_threads(threads)
    for row in (0, 6, 12):
        alone, _ = Cpu()(net, cond[row : row + 1], noise[row : row + 1])
        assert torch.equal(alone[0], drawn[row])


@pytest.mark.parametrize("shape", SHAPES)
def test_threads_may_change_between_two_calls(shape: str) -> None:
    """Also where a block of steps has been looked ahead for by another share of the streams."""
    net = network(shape)
    cond = conditioning(net, 3, 30)
    noise = uniform(4, range(3), 30)
    whole, _ = Cpu()(net, cond, noise)
    threads = torch.get_num_threads()
    parts, state = [], None
    try:
        for call, (first, last) in enumerate(pairwise((0, 1, 4, 7, 8, 13, 22, 30))):
            torch.set_num_threads(1 + call % 3)
            part, state = Cpu()(net, cond[:, first:last], noise[:, first:last], state=state)
            parts.append(part)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_any_dilations() -> None:
    net = network("taps")
    net.dilations = (3, 1, 12, 7, 9, 100)
    cond = conditioning(net, 2, 100)
    noise = uniform(4, range(2), 400)
    drawn, _ = Cpu("float32")(net, cond, noise)
    assert faithful(*mismatches(net, cond, drawn, noise))
    again, _ = Cpu("float32")(net, cond[[0, 1, 0, 1]], noise[[0, 1, 0, 1]])  # without looking ahead
    assert torch.equal(again[:2], drawn)


@pytest.mark.parametrize(
    ("triple", "processor", "multiply_add"),
    [
        ("x86_64-unknown-linux-gnu", "x86-64-v3", r"vfmadd\d+ps\s.*ymm"),
        ("aarch64-unknown-linux-gnu", "", r"\bfmla\b.*4s"),
    ],
)
def test_vector_code_lowers_to_other_processors(triple: str, processor: str, multiply_add: str) -> None:
    """To AVX2 and NEON: vectors of theirs, and no call of a scalar fma a lane."""
    module = ir.Module()
    kind = ir.FunctionType(ir.VoidType(), [ir.FloatType().as_pointer()] * 2)
    function = ir.Function(module, kind, "vectors")
    builder = ir.IRBuilder(function.append_basic_block())
    source, target = function.args
    x = kernel._load(builder, source, 0, kernel._VECTOR)
    factor = kernel._spread(builder, builder.load(source))
    total = kernel._fma(builder, factor, kernel._exp(builder, kernel._clamp(builder, x, -10, 10)), x)
    kernel._store(builder, total, target, 0)
    builder.ret_void()
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple(triple).create_target_machine(cpu=processor, opt=3)
    assembly = machine.emit_assembly(llvm.parse_assembly(str(module)))
    assert len(re.findall(multiply_add, assembly)) >= 8 * 2  # of each vector of sixteen at least two
    assert "fmaf" not in assembly


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("cuts", [(0, 1, 2, 3, 9, 40), (0, 17, 40), (0, 0, 40)])
def test_a_stream_goes_on_where_it_stopped(shape: str, cuts: tuple[int, ...]) -> None:
    net = network(shape)
    hop = 3
    cond = conditioning(net, 3, 40)
    noise = uniform(4, range(3), 40 * hop)
    whole, _ = Cpu()(net, cond, noise)
    parts, state = [], None
    for first, last in pairwise(cuts):
        part, state = Cpu()(net, cond[:, first:last], noise[:, first * hop : last * hop], state=state)
        parts.append(part)
    assert torch.equal(torch.cat(parts, 1), whole)


def test_a_prefix_is_as_if_it_had_been_drawn() -> None:
    net = network("even")
    cond = conditioning(net, 2, 20)
    noise = uniform(4, range(2), 100)
    whole, _ = Cpu()(net, cond, noise)
    rest, _ = Cpu()(net, cond, noise[:, 37:], prefix=whole[:, :37])
    assert torch.equal(rest, whole[:, 37:])


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_read_before_it_is_written(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(shape)
    cond = conditioning(net, 5, 6)
    noise = uniform(2, range(5), 6 * 20)
    drawn, _ = Cpu()(net, cond, noise)
    monkeypatch.setattr(packing, "empty", lambda size: np.full(size, np.nan, np.float32))
    assert torch.equal(Cpu()(net, cond, noise)[0], drawn)


def test_no_streams_and_no_samples() -> None:
    net = network("ragged")
    assert Cpu()(net, conditioning(net, 0, 4), uniform(0, [], 8))[0].shape == (0, 8)
    drawn, state = Cpu()(net, conditioning(net, 2, 0), uniform(0, [0, 1], 0))
    assert drawn.shape == (2, 0)
    assert state.position == 0


# --- choosing -----------------------------------------------------------------------------------------------


def test_only_auto_chooses() -> None:
    assert isinstance(choose("auto"), Cpu)
    assert isinstance(choose("cpu", "float32"), Cpu)
    assert isinstance(choose("reference"), Reference)
    assert "bfloat16" in str(choose())
    assert "float32" in str(choose("reference", "float32"))
    with pytest.raises(WavevqError, match="meta"):
        choose("cpu", device="meta")
    if not torch.cuda.is_available() and os.environ.get("TRITON_INTERPRET") != "1":
        with pytest.raises(WavevqError, match="sampler gpu"):
            choose("gpu")


def test_compiled_code_is_kept_on_disk(tmp_path: Path) -> None:
    code = """
import torch
from wavevq.nn.wavenet import WaveNet
from wavevq.sampling import kernel
from wavevq.sampling.cpu import Cpu
net = WaveNet(classes=4, layers=1, cycle=1, kernel=2, residual=4, gate=4, skip=4, head=4, cond_dim=2)
Cpu()(net, net.conditioning(torch.zeros(1, 1, 2)), torch.full((1, 2), 0.5))
print(sum(kernel.draw.stats.cache_hits.values()), sum(kernel.draw.stats.cache_misses.values()))
"""
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    for hits in ("0 1", "1 0"):
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.split("\n")[0] == hits


# --- numba's cache ------------------------------------------------------------------------------------------


def twice(x: Any) -> Any:
    return x + x


def compile_slowly(folder: str, kind: str) -> None:
    """``twice`` of one type, with numba's cache in ``folder``; leaves there what came out and whether it was cached."""
    numba.config.CACHE_DIR = folder
    save = caching.IndexDataCacheFile._save_index

    def slowly(self: Any, overloads: Any) -> None:
        time.sleep(1)  # the other process reads the index that this one has read
        save(self, overloads)

    caching.IndexDataCacheFile._save_index = slowly
    compiled = kernel._compiled(twice)
    found = compiled(np.float32(1.5) if kind == "float" else np.int64(3))
    Path(folder, kind).write_text(f"{found} {sum(compiled.stats.cache_hits.values())}")


def test_two_processes_compiling_at_once_do_not_take_each_others_code(tmp_path: Path) -> None:
    def told(*kinds: str) -> list[str]:
        processes = [trainings.start(compile_slowly, str(tmp_path), kind)[0] for kind in kinds]
        assert trainings.finish(processes) == [0] * len(kinds)
        return [(tmp_path / kind).read_text() for kind in kinds]

    assert told("float", "int") == ["3.0 0", "6 0"]
    assert told("float", "int") == ["3.0 1", "6 1"]


def test_threads_that_compile_at_once_share_one_lock(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A function and one that it calls, compiled by two threads: a lock a thread would wait for the other's."""

    def slowly(path: Path) -> FileLock:
        time.sleep(0.2)  # long enough for the other thread to make one, too
        return FileLock(tmp_path / "lock")

    monkeypatch.setattr(kernel, "FileLock", slowly)
    kernel._lock_of.cache_clear()

    def twice(x: int) -> int:
        return 2 * x

    inner = kernel._compiled(twice)

    def more(x: int) -> int:
        return int(inner(x)) + 1

    outer = kernel._compiled(more)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(outer, [3, 4])) == [7, 9]
    kernel._lock_of.cache_clear()
