"""Forward, codebook update and backward of the EMA quantizer against vector-quantize-pytorch's, on the CPU.

32,768 vectors of 64; the same vectors, decay, commitment weight and plain straight-through gradient for both, no
k-means in the timing. Memory is the peak of a fresh process that runs ours only, above what it held after its imports.

Figures: vq_k512_vs_lucidrains, vq_k8192_vs_lucidrains (their time over ours), vq_k8192_mib.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from common import medians, options, peer, report
from torch import Tensor

from wavevq.nn.quantizers import EmaQuantizer

CLIPS, FRAMES, DIM = 8, 4096, 64
DECAY, BETA = 0.99, 0.25


def vectors() -> Tensor:
    return torch.randn(CLIPS, FRAMES, DIM, generator=torch.Generator().manual_seed(0))


def ours(codes: int) -> Callable[[], None]:
    """One training step of our quantizer; the first call initialises the codebook."""
    quantizer = EmaQuantizer(codes, DIM, BETA, revive_after=100, decay=DECAY)
    z_e = vectors().requires_grad_()
    mask = torch.ones(CLIPS, FRAMES, dtype=torch.bool)

    def step() -> None:
        z_e.grad = None
        latents = quantizer(z_e, mask)
        (latents.z.sum() + latents.loss).backward()

    return step


def theirs(codes: int) -> Callable[[], None]:
    module = peer("vector_quantize_pytorch", "vector-quantize-pytorch")
    quantizer = module.VectorQuantize(
        dim=DIM, codebook_size=codes, decay=DECAY, commitment_weight=BETA, rotation_trick=False
    )
    z_e = vectors().requires_grad_()

    def step() -> None:
        z_e.grad = None
        quantized, _, loss = quantizer(z_e)
        (quantized.sum() + loss.sum()).backward()

    return step


def resident(field: str) -> float:
    """MiB of this process: VmRSS now, VmHWM at its peak. (getrusage's peak would be inherited from the parent.)"""
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found
    return int(found[1]) / 1024


def print_memory(codes: int, threads: int) -> None:
    """MiB of the peak over three training steps, initialisation included, above the start."""
    torch.set_num_threads(threads)
    start = resident("VmRSS")
    step = ours(codes)
    for _ in range(3):
        step()
    print(resident("VmHWM") - start)


def memory(codes: int, threads: int) -> float:
    here = Path(__file__).resolve().parent
    path = os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")])
    code = f"import quantizer; quantizer.print_memory({codes}, {threads})"
    run = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, stdout=subprocess.PIPE, check=True
    )
    return float(run.stdout)


def main() -> None:
    given = options(__doc__ or "")
    figures: dict[str, float] = {}
    for codes, repeats in ((512, 7 if given.quick else 25), (8192, 2 if given.quick else 5)):
        seconds = medians({"ours": ours(codes), "theirs": theirs(codes)}, repeats)
        print(
            f"K {codes}: ours {seconds['ours'] * 1e3:.0f} ms, vector-quantize-pytorch {seconds['theirs'] * 1e3:.0f} ms"
        )
        figures[f"vq_k{codes}_vs_lucidrains"] = seconds["theirs"] / seconds["ours"]
    figures["vq_k8192_mib"] = memory(8192, given.threads)
    report(figures, given)


if __name__ == "__main__":
    main()
