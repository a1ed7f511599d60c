"""The GPU sampler against the definition of right: through Triton's interpreter, and on a GPU where there is one.

Triton decides when it is imported whether it compiles or interprets, so the checks are run twice: by a process of their
own that interprets, on a small network, and here on the GPU, on one of the usual size.
"""

from __future__ import annotations

import copy
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from replay import faithful, mismatches
from torch import Tensor

from wavevq.errors import WavevqError
from wavevq.nn.wavenet import WaveNet
from wavevq.noise import uniform
from wavevq.sampling import choose, gpu
from wavevq.sampling.gpu import Gpu, usable
from wavevq.sampling.reference import Reference, rounded, step
from wavevq.sampling.reference import start as reference_start

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
HERE = [] if INTERPRETED else [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and there is none"),
]  # fmt: skip
H200_SHARED = 232_448  # bytes of shared memory that a program may have there


def check(test: Callable[..., None]) -> Callable[..., None]:
    for mark in HERE:
        test = mark(test)
    return test


def network(**changed: int) -> WaveNet:
    """Small for the interpreter, with no width a power of two; on a GPU the decoder of recipes/vctk.yaml."""
    sizes = {"classes": 13, "layers": 4, "cycle": 3, "residual": 20, "gate": 18, "skip": 7, "head": 24}
    if not INTERPRETED:
        sizes |= {"classes": 256, "layers": 30, "cycle": 10, "residual": 64, "gate": 64, "skip": 64, "head": 256}
    torch.manual_seed(2)
    net = WaveNet(**({"kernel": 2, "cond_dim": 3} | sizes | changed))
    torch.nn.init.normal_(net.output.weight)
    return net.to(DEVICE)


def conditioning(net: WaveNet, batch: int, frames: int) -> Tensor:
    torch.manual_seed(3)
    return net.conditioning(torch.randn(batch, frames, 3).to(DEVICE)).detach()


def stored(net: WaveNet, precision: str) -> WaveNet:
    """The network whose weights the sampler calculates with."""
    return rounded(net) if precision == "bfloat16" else net


@check
@pytest.mark.parametrize(
    ("precision", "temperature", "top_p"),
    [("bfloat16", 1.0, 1.0), ("float32", 1.0, 1.0), ("bfloat16", 0.7, 0.8), ("float32", 1.3, 0.95)],
)
def test_replay(precision: str, temperature: float, top_p: float) -> None:
    net = network()
    cond = conditioning(net, 17, 5)
    noise = uniform(5, range(17), 25)
    drawn, _ = Gpu(precision)(net, cond, noise, temperature, top_p)
    assert drawn.unique().numel() > 5
    assert faithful(*mismatches(stored(net, precision), cond, drawn, noise, temperature, top_p))


@check
def test_replay_notices_a_lost_tap() -> None:
    net = network()
    cond = conditioning(net, 17, 5)
    noise = uniform(5, range(17), 25)
    state = gpu.start(net, "bfloat16", 17)
    state.net.taps[2, 0] = 0
    drawn, _ = Gpu()(net, cond, noise, state=state)
    assert not faithful(*mismatches(rounded(net), cond, drawn, noise))


SHAPES = {
    "one frame, dilations beyond the signal": ({"cycle": 6, "layers": 6}, 1, 7),
    "hop 1, three taps": ({"kernel": 3, "cycle": 2, "layers": 3}, 9, 1),
    "one tap": ({"kernel": 1, "layers": 2}, 2, 3),
    "one layer": ({"layers": 1}, 2, 3),
    "several tiles": ({"residual": 5, "gate": 70, "skip": 3, "head": 130, "classes": 65, "layers": 2}, 3, 2),
    "two classes": ({"classes": 2, "layers": 2, "residual": 1, "gate": 1, "skip": 1, "head": 1}, 3, 2),
}


@check
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
@pytest.mark.parametrize("shape", SHAPES)
def test_logits_and_picks_of_odd_shapes(shape: str, precision: str) -> None:
    changed, frames, hop = SHAPES[shape]
    net = network(**changed)
    cond = conditioning(net, 3, frames)
    noise = uniform(1, range(3), frames * hop)
    drawn, _ = Gpu(precision)(net, cond, noise)
    exact = copy.deepcopy(stored(net, precision)).double()
    assert faithful(*mismatches(exact, cond, drawn, noise))
    state = reference_start(exact, 3)
    logits = Gpu(precision).logits(net, cond, drawn)
    with torch.no_grad():
        for t in range(frames * hop):
            right = step(exact, cond[:, t // hop].double(), state)
            # the contract of every sampler
            assert (logits[:, t] - right).abs().max() <= 1e-4 * max(1.0, float(right.abs().max()))
            state.present = exact.embedding[drawn[:, t]]
            state.position += 1


@check
def test_noise_near_0_and_1_draws_the_first_and_the_last_possible_class() -> None:
    net = network(classes=13)
    with torch.no_grad():
        # e^-1000 is zero in float64 too
        net.output.bias[[0, 6, 12]] = -1000.0
    cond = conditioning(net, 6, 1)
    noise = torch.tensor([0.0, 1e-300, 1e-12, 1 - 1e-12, 1 - 2**-53, 0.5], dtype=torch.float64)[:, None].expand(6, 8)
    drawn, _ = Gpu()(net, cond, noise)
    assert (drawn[:3] == 1).all()
    assert (drawn[3:5] == 11).all()
    assert set(drawn[5].tolist()).isdisjoint({0, 6, 12})


@check
def test_of_equally_likely_classes_the_nucleus_keeps_the_first() -> None:
    net = network(classes=13)
    torch.nn.init.zeros_(net.output.weight)
    torch.nn.init.zeros_(net.output.bias)
    cond = conditioning(net, 16, 1)
    noise = (torch.arange(16, dtype=torch.float64) + 0.5)[:, None] / 16
    drawn, _ = Gpu()(net, cond, noise, top_p=0.5)
    # 6 / 13 < 0.5 < 7 / 13: seven classes reach it
    assert drawn.flatten().tolist() == [int((i + 0.5) / 16 * 7) for i in range(16)]
    drawn, _ = Gpu()(net, cond, noise, top_p=1e-40)
    assert (drawn == 0).all()


@check
def test_a_temperature_near_zero_draws_the_likeliest_class() -> None:
    net = network()
    cond = conditioning(net, 2, 1)
    drawn, _ = Gpu("float32")(net, cond, uniform(1, range(2), 4), temperature=1e-40)
    assert torch.equal(drawn, Gpu("float32").logits(net, cond, drawn).argmax(-1))


@check
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_a_stream_depends_on_neither_batch_nor_padding(precision: str) -> None:
    net = network()
    cond = conditioning(net, 17, 2)
    noise = uniform(1, range(17), 12)
    together, _ = Gpu(precision)(net, cond, noise, top_p=0.9)
    for row in (0, 9, 16):
        state = gpu.start(net, precision, 1)
        # not NaN: NumPy warns of it, though none of this reaches a stream
        state.rings[:, :, 1:] = 1e4
        one = slice(row, row + 1)
        alone, _ = Gpu(precision)(net, cond[one], noise[one], top_p=0.9, state=state)
        assert torch.equal(alone, together[one])


@check
def test_a_stream_depends_on_neither_calls_nor_launches(monkeypatch: pytest.MonkeyPatch) -> None:
    net = network(kernel=3)
    cond = conditioning(net, 2, 6)
    noise = uniform(1, [4, 9], 24)
    whole, _ = Gpu()(net, cond, noise)
    monkeypatch.setattr(gpu, "STEPS_A_LAUNCH", 5)
    first, state = Gpu()(net, cond[:, :1], noise[:, :4])
    state.position += gpu.FOREVER
    second, state = Gpu()(net, cond[:, 1:4], noise[:, 4:16], state=state)
    third, _ = Gpu()(net, cond[:, 4:], noise[:, 16:], state=state)
    assert torch.equal(torch.cat([first, second, third], 1), whole)


@check
def test_a_prefix_stands_where_samples_were() -> None:
    net = network()
    cond = conditioning(net, 2, 6)
    noise = uniform(1, range(2), 24)
    whole, _ = Gpu()(net, cond, noise)
    rest, _ = Gpu()(net, cond, noise[:, 10:], prefix=whole[:, :10])
    assert torch.equal(rest, whole[:, 10:])
    nothing, state = Gpu()(net, cond[:, :2], noise[:, :0], prefix=whole[:, :8])
    assert nothing.shape == (2, 0)
    later, _ = Gpu()(net, cond[:, 2:], noise[:, 8:], state=state)
    assert torch.equal(later, whole[:, 8:])


@check
def test_no_stream_and_no_sample() -> None:
    net = network()
    none, _ = Gpu()(net, conditioning(net, 0, 2), torch.empty(0, 4, dtype=torch.float64))
    assert none.shape == (0, 4)
    none, _ = Gpu()(net, conditioning(net, 2, 0), torch.empty(2, 0, dtype=torch.float64))
    assert none.shape == (2, 0)


@pytest.mark.skipif(INTERPRETED, reason="this is the process that it starts")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_every_check_holds_through_the_interpreter() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=5", __file__],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.skipif(INTERPRETED, reason="compiles")
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
@pytest.mark.parametrize(("width", "precision"), [(64, "bfloat16"), (256, "bfloat16"), (256, "float32")])
def test_compiles_for_an_h200_and_fits_into_it(
    width: int, precision: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The interpreter takes what the compiler refuses, so it compiles, which takes no GPU: vctk's and vctk_large's."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.runtime.jit import mangle_type

    from wavevq.sampling import gpu_kernel

    kernel = gpu_kernel.draw
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    class Recorder:
        def __getitem__(self, grid: tuple[int]) -> Callable[..., None]:
            return lambda *values, **options: calls.append((values, options))

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(gpu_kernel, "draw", Recorder())
    monkeypatch.setattr(gpu, "_room", lambda device: gpu.SHARED * H200_SHARED)
    net = WaveNet(
        classes=256, layers=30, cycle=10, kernel=2, residual=width, gate=width, skip=width, head=256, cond_dim=3
    )
    Gpu(precision)(net, net.conditioning(torch.zeros(1, 1, 3)).detach(), torch.zeros(1, 4, dtype=torch.float64))
    ((values, options),) = calls
    names = kernel.arg_names
    constants = {name: value for name, value in options.items() if name in names} | {"logits": None}
    signature = {name: mangle_type(value) for name, value in zip(names, values, strict=False)}
    compiled = triton.compile(
        ASTSource(
            kernel,
            signature | dict.fromkeys(constants, "constexpr"),
            {(names.index(name),): value for name, value in constants.items()},
            {(i,): [["tt.divisibility", 16]] for i, value in enumerate(values) if torch.is_tensor(value)},
        ),
        target=GPUTarget("cuda", 90, 32),
        options={name: value for name, value in options.items() if name not in names},
    )
    assert compiled.metadata.shared <= H200_SHARED
    if precision == "bfloat16":
        # Two places for each matrix: one is filled while the other is used.
        assert set(re.findall(r"local_alloc : \(\) -> !ttg.memdesc<(\d+)x", compiled.asm["ttgir"])) == {"2"}


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_says_why_it_cannot_run(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu = torch.device("cpu")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert usable(cpu) is None
    monkeypatch.delenv("TRITON_INTERPRET")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert usable(cpu) == "the model is on cpu"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability 7.5" in str(usable(torch.device("cuda")))
    assert isinstance(choose("auto", device="cuda"), Reference)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(WavevqError, match="there is no CUDA device; give auto, cpu or reference"):
        choose("gpu")
    monkeypatch.setattr(gpu, "find_spec", lambda name: None)
    assert usable(cpu) == "triton is not installed"


def test_says_what_it_is() -> None:
    assert str(Gpu()) == "gpu (bfloat16 weights)"
