"""Drawing from a WaveNet: one contract (``contracts.Sampler``), three backends, and the choice among them."""

from __future__ import annotations

from typing import Literal, get_args

import torch

from wavevq.contracts import Sampler
from wavevq.errors import WavevqError

Backend = Literal["auto", "reference", "cpu", "gpu"]
Precision = Literal["bfloat16", "float32"]
BACKENDS: tuple[Backend, ...] = get_args(Backend)
PRECISIONS: tuple[Precision, ...] = get_args(Precision)


def choose(backend: Backend = "auto", precision: Precision = "bfloat16", device: torch.device | str = "cpu") -> Sampler:
    """The sampler of that name for networks on ``device``; only ``auto`` chooses.

    precision: how the matrices are stored; the arithmetic is float32. Raises WavevqError for a backend that cannot
    run there.
    """
    device = torch.device(device)
    if backend == "auto":
        backend = "gpu" if device.type == "cuda" else "cpu"
    match backend:
        case "reference":
            from wavevq.sampling.reference import Reference

            return Reference(precision)
        case "cpu":
            if device.type != "cpu":
                raise WavevqError(f"sampler cpu: the model is on {device}; give auto, gpu or reference")
            from wavevq.sampling.cpu import Cpu  # numba takes its time to import

            return Cpu(precision)
        case "gpu":
            from wavevq.sampling.gpu import Gpu, usable

            if (reason := usable(device)) is not None:
                raise WavevqError(f"sampler gpu: {reason}; give auto, cpu or reference")
            return Gpu(precision)
