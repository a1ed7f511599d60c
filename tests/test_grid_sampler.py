"""The compiled sampler of grids against the naive one: logits, picks, replays, and what must not change an image."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from replay import faithful, mismatches
from torch import Tensor

from wavevq.errors import WavevqError
from wavevq.nn.pixelcnn import PixelCNN
from wavevq.noise import uniform
from wavevq.sampling import Precision, choose_grid, kernel, packing, pixelcnn_cpu
from wavevq.sampling.pixelcnn_cpu import TOGETHER, GridCpu
from wavevq.sampling.pixelcnn_reference import GridReference, rounded

PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
# Whole vectors and ragged widths, kernels that see no neighbour column, one layer, more panels than a tile is wide.
SHAPES = {
    "even": {"classes": 64, "layers": 6, "kernel": 3, "residual": 32, "gate": 32, "head": 64, "cond_dim": 16},
    "ragged": {"classes": 37, "layers": 4, "kernel": 5, "residual": 5, "gate": 19, "head": 7, "cond_dim": 3},
    "narrow": {"classes": 9, "layers": 3, "kernel": 1, "residual": 6, "gate": 4, "head": 12, "cond_dim": 1},
    "flat": {"classes": 20, "layers": 1, "kernel": 3, "residual": 8, "gate": 8, "head": 40, "cond_dim": 2},
    "wide": {"classes": 130, "layers": 3, "kernel": 3, "residual": 150, "gate": 70, "head": 9, "cond_dim": 4},
}
# shape of the network, h, w, G: square, wide, tall, one row, one column, one position, images of three colours
GRIDS = [
    ("even", (16, 16, 1)), ("even", (5, 23, 2)), ("ragged", (19, 4, 3)), ("ragged", (1, 40, 2)), ("narrow", (9, 7, 1)),
    ("flat", (40, 1, 3)), ("wide", (9, 10, 1)), ("wide", (1, 1, 4)), ("even", (8, 8, 10)),
]  # fmt: skip


def network(shape: str, groups: int) -> PixelCNN:
    torch.manual_seed(3)
    net = PixelCNN(**SHAPES[shape], groups=groups)
    torch.nn.init.normal_(net.output, std=2 * net.output.shape[1] ** -0.5)
    torch.nn.init.normal_(net.hidden_bias)
    torch.nn.init.normal_(net.output_bias)
    return net


def conditioning(net: PixelCNN, batch: int, grid: tuple[int, ...], everywhere: bool) -> Tensor:
    return torch.randn(batch, *(grid[:2] if everywhere else (1, 1)), net.condition.in_features)


def noise(batch: int, grid: tuple[int, ...], seed: int = 7) -> Tensor:
    return uniform(seed, range(batch), math.prod(grid)).view(batch, *grid)


def as_stored(net: PixelCNN, precision: str) -> PixelCNN:
    return rounded(net) if precision == "bfloat16" else net


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("shape", "grid"), GRIDS)
def test_logits_are_those_of_the_network(shape: str, grid: tuple[int, ...], precision: Precision) -> None:
    net = network(shape, grid[2])
    cond = conditioning(net, 2, grid, everywhere=True)
    classes = torch.randint(net.classes, (2, *grid))
    with torch.no_grad():
        right = as_stored(net, precision).double()(classes, cond.double())
    packed = pixelcnn_cpu.pack(network(shape, grid[2]), precision)
    room = pixelcnn_cpu.room(packed, 2, grid[1])
    drawn, width = classes.numpy(), packed.widths.row
    tables = packed.within.reshape(-1, net.classes, width)
    worst = 0.0
    for i in range(grid[0]):
        for image in range(2):
            kernel.grid_row(packed, room, cond.numpy(), drawn, image, image, i)
        for j in range(grid[1]):
            kernel.grid_features(packed, room, drawn, 0, 2, i, j)
            for g in range(grid[2]):
                kernel.grid_head(packed, room, 2, g)
                logits = room.logits.reshape(2, -1)[:, : net.classes]
                worst = max(worst, float(np.abs(logits - right[:, i, j, g].numpy()).max()))
                if g < grid[2] - 1:
                    room.features[:] += tables[g, drawn[:, i, j, g]].reshape(-1)
    assert worst <= 1e-4 * max(1.0, float(right.abs().max()))


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(("shape", "grid"), GRIDS)
def test_replay(shape: str, grid: tuple[int, ...], precision: Precision) -> None:
    net = network(shape, grid[2])
    for everywhere in (False, True):
        cond = conditioning(net, 3, grid, everywhere)
        drawn = GridCpu(precision)(net, cond, noise(3, grid))
        wrong, distance = mismatches(as_stored(net, precision), cond, drawn, noise(3, grid))
        assert faithful(wrong, distance)
        assert len(drawn.unique()) > 1 or drawn.numel() < 20


@pytest.mark.parametrize(("temperature", "top_p"), [(0.6, 1.0), (1.7, 0.9), (1.0, 1e-9), (1e-12, 1.0)])
def test_replay_of_other_distributions(temperature: float, top_p: float) -> None:
    grid = (6, 9, 2)
    net = network("ragged", 2)
    cond = conditioning(net, 2, grid, everywhere=True)
    drawn = GridCpu("float32")(net, cond, noise(2, grid), temperature, top_p)
    assert faithful(*mismatches(net, cond, drawn, noise(2, grid), temperature, top_p))


@pytest.mark.parametrize("u", [0.0, 1e-300, 1 - 2**-53])
def test_replay_at_the_ends_of_the_noise(u: float) -> None:
    grid = (4, 5, 3)
    net = network("even", 3)
    cond = conditioning(net, 1, grid, everywhere=False)
    ends = torch.full((1, *grid), u, dtype=torch.float64)
    assert faithful(*mismatches(net, cond, GridCpu("float32")(net, cond, ends), ends))


@pytest.mark.parametrize("grid", [(5, 4, 1), (3, 6, 3)])
def test_it_draws_what_the_naive_sampler_draws(grid: tuple[int, ...]) -> None:
    net = network("even", grid[2])
    cond = conditioning(net, 2, grid, everywhere=True)
    drawn = [backend("bfloat16")(net, cond, noise(2, grid)) for backend in (GridCpu, GridReference)]
    assert torch.equal(*drawn)


@pytest.mark.parametrize("shape", ["even", "ragged"])
def test_an_image_depends_neither_on_the_batch_nor_on_threads(shape: str) -> None:
    grid, batch = (5, 6, 2), 2 * TOGETHER + 3
    net = network(shape, 2)
    for everywhere in (False, True):
        cond = conditioning(net, batch, grid, everywhere)
        together = GridCpu()(net, cond, noise(batch, grid))
        alone = [GridCpu()(net, cond[i : i + 1], noise(batch, grid)[i : i + 1]) for i in range(batch)]
        assert torch.equal(torch.cat(alone), together)
        threads = torch.get_num_threads()
        torch.set_num_threads(3)
        try:
            assert torch.equal(GridCpu()(net, cond, noise(batch, grid)), together)
        finally:
            torch.set_num_threads(threads)


@pytest.mark.parametrize("shape", SHAPES)
def test_nothing_is_read_before_it_is_written(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = (4, 5, 2)
    net = network(shape, 2)
    cond = conditioning(net, 3, grid, everywhere=True)
    drawn = GridCpu()(net, cond, noise(3, grid))
    monkeypatch.setattr(packing, "empty", lambda size: np.full(size, np.nan, np.float32))
    assert torch.equal(GridCpu()(net, cond, noise(3, grid)), drawn)


def test_no_images() -> None:
    net = network("even", 1)
    assert GridCpu()(net, conditioning(net, 0, (4, 4), False), noise(0, (4, 4, 1))).shape == (0, 4, 4, 1)


def test_only_auto_chooses() -> None:
    assert isinstance(choose_grid(), GridCpu)
    assert isinstance(choose_grid("cpu", "float32"), GridCpu)
    assert isinstance(choose_grid("reference"), GridReference)
    assert "bfloat16" in str(choose_grid())
    assert "float32" in str(choose_grid("reference", "float32"))
    with pytest.raises(WavevqError, match="sampler gpu: draws sequences"):
        choose_grid("gpu")
    with pytest.raises(WavevqError, match="sampler quick: must be one of auto"):
        choose_grid("quick")  # type: ignore[arg-type]
