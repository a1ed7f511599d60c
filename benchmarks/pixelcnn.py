"""Drawing a grid of codes from a PixelCNN: the CPU sampler against a full forward pass a position, in turn.

15 layers of 64 channels over 512 codes, kernels of 3, one code a position, conditioned on a label; one grid of 32 x 32
and one of 8 x 8 on one thread. The naive way is timed on POSITIONS of them, evenly spread, one full forward pass and
one pick each, and scaled to all. Ours is timed from the network to the codes, packing of the weights included. Says
first whether both draw the same codes, on a small grid.
"""

from __future__ import annotations

import torch
from common import medians, options, report
from torch import Tensor, nn

from wavevq.nn.pixelcnn import PixelCNN
from wavevq.noise import uniform
from wavevq.sampling import choose_grid
from wavevq.sampling.pixelcnn_reference import GridReference
from wavevq.sampling.reference import pick

CODES, LAYERS, WIDTH, LABEL = 512, 15, 64, 64
POSITIONS = 64  # of the naive way
TOGETHER = 16  # images of the figure that is not compared


def network() -> PixelCNN:
    net = PixelCNN(
        classes=CODES, groups=1, layers=LAYERS, kernel=3, residual=WIDTH, gate=WIDTH, head=2 * WIDTH, cond_dim=LABEL
    )
    nn.init.normal_(net.output, std=0.1)  # zero to begin with: every class as likely as another
    return net.eval()


def noise(batch: int, height: int, width: int) -> Tensor:
    return uniform(0, range(batch), height * width).view(batch, height, width, 1)


@torch.no_grad()
def same(net: PixelCNN) -> bool:
    """Whether ours and the naive sampler draw the same codes on a grid that is not square."""
    cond, draws = torch.randn(1, 1, 1, LABEL), noise(1, 5, 9)
    return torch.equal(choose_grid("cpu")(net, cond, draws), GridReference()(net, cond, draws))


def compare(net: PixelCNN, size: int, repeats: int) -> dict[str, float]:
    """Seconds of one grid the naive way by those of ours."""
    cond, draws, sampler = torch.randn(1, 1, 1, LABEL), noise(1, size, size), choose_grid("cpu")
    codes = sampler(net, cond, draws)
    places = torch.arange(POSITIONS) * (size * size // POSITIONS)

    @torch.no_grad()
    def naive() -> None:
        for place in places.tolist():
            at = (0, place // size, place % size, 0)
            pick(net(codes, cond)[at][None], draws[at][None])

    seconds = medians({"ours": lambda: sampler(net, cond, draws), "naive": naive}, repeats)
    whole = seconds["naive"] / POSITIONS * size * size
    print(f"one grid of {size} x {size}: {1000 * seconds['ours']:.0f} ms, the naive way {whole:.2f} s")
    return {f"pixelcnn_{size}_vs_naive": whole / seconds["ours"]}


def main() -> None:
    given = options(__doc__ or "", threads=1)
    torch.manual_seed(0)
    repeats = 3 if given.quick else 9
    net = network()
    print(f"the same codes both ways on 5 x 9: {'yes' if same(net) else 'NO'}")
    figures = {**compare(net, 32, repeats), **compare(net, 8, repeats)}
    cond, draws, sampler = torch.randn(TOGETHER, 1, 1, LABEL), noise(TOGETHER, 32, 32), choose_grid("cpu")
    seconds = medians({"many": lambda: sampler(net, cond, draws)}, repeats)["many"]
    figures[f"pixelcnn_32_b{TOGETHER}_ms_a_grid"] = 1000 * seconds / TOGETHER
    report(figures, given)


if __name__ == "__main__":
    main()
