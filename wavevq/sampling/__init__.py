"""Drawing from a WaveNet or a PixelCNN: a contract for each (``contracts``), their backends, and the choice."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from wavevq.contracts import GridSampler, Sampler
from wavevq.errors import WavevqError

Backend = Literal["auto", "reference", "cpu", "gpu"]
Precision = Literal["bfloat16", "float32"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def choose(backend: Backend = "auto", precision: Precision = "bfloat16", device: torch.device | str = "cpu") -> Sampler:
    """The sampler of that name for networks on ``device``; only ``auto`` chooses: what runs there and is not slow.

    precision: how the matrices are stored; the arithmetic is float32. Raises WavevqError for names that are none, and
    for a backend that cannot run there.
    """
    _check(backend, precision)
    device = torch.device(device)
    if backend == "auto":
        from wavevq.sampling.gpu import usable

        backend = "cpu" if device.type == "cpu" else "reference" if usable(device) else "gpu"
    match backend:
        case "reference":
            from wavevq.sampling.reference import Reference

            return Reference(precision)
        case "cpu":
            if device.type != "cpu":
                raise WavevqError(f"sampler cpu: the model is on {device}; give auto, gpu or reference")
            with _kept():
                from wavevq.sampling.cpu import Cpu  # numba takes its time to import
            return Cpu(precision)
        case "gpu":
            from wavevq.sampling.gpu import Gpu, usable

            if (reason := usable(device)) is not None:
                raise WavevqError(f"sampler gpu: {reason}; give auto, cpu or reference")
            return Gpu(precision)


def choose_grid(backend: Backend = "auto", precision: Precision = "bfloat16") -> GridSampler:
    """The sampler of PixelCNNs of that name, wherever the network lies; as ``choose``. On a GPU none is fast."""
    _check(backend, precision)
    match backend:
        case "auto" | "cpu":
            with _kept():
                from wavevq.sampling.pixelcnn_cpu import GridCpu
            return GridCpu(precision)
        case "reference":
            from wavevq.sampling.pixelcnn_reference import GridReference

            return GridReference(precision)
        case "gpu":
            raise WavevqError("sampler gpu: draws sequences, not grids; give auto, cpu or reference")


def _check(backend: Backend, precision: Precision) -> None:
    for what, value, known in (("sampler", backend, BACKENDS), ("precision", precision, PRECISIONS)):
        if value not in known:
            raise WavevqError(f"{what} {value}: must be one of {', '.join(known)}")


@contextmanager
def _kept() -> Iterator[None]:
    """For the import of compiled code. Raises WavevqError where it cannot be kept."""
    try:
        yield
    except RuntimeError as error:  # of numba, where it can write its cache nowhere
        raise WavevqError(
            f"sampler cpu: its compiled code cannot be kept ({error}); NUMBA_CACHE_DIR may name a folder for it"
        ) from None


def hop_of(weights: Any, cond: Tensor, noise: Tensor, prefix: Tensor | None) -> int:
    """Samples a frame of a call's arguments (``contracts.Sampler``), which it asserts to fit each other."""
    steps = noise.shape[1] + (0 if prefix is None else prefix.shape[1])
    frames = cond.shape[1]
    assert len(cond) == len(noise), "one row a stream"
    assert steps == 0 or (frames and steps % frames == 0), f"{steps} samples do not fill {frames} frames"
    if prefix is not None:
        assert len(prefix) == len(noise), "one row a stream"
        assert bool(((prefix >= 0) & (prefix < weights.classes)).all()), "a prefix holds classes"
    return steps // frames if frames else 1
