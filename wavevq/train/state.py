"""Everything a training step reads, saved and restored: safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from wavevq.errors import WavevqError, escaped
from wavevq.plain import from_json

FORMAT = 1
MODEL, AVERAGE, OPTIMIZER, STATE = "model.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"


class Average:
    """Exponential moving average of a module's parameters and buffers; encoding and decoding use it.

    The first steps decay faster, (1 + n) / (10 + n), so that the initial weights are soon forgotten.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}

    @torch.no_grad()
    def update(self, module: nn.Module, step: int) -> None:
        """Take in the weights after ``step`` steps. Integers and flags are copied."""
        weight = 1 - min(self.decay, (1 + step) / (10 + step))
        current = module.state_dict()
        floats = [name for name, value in current.items() if value.is_floating_point()]
        torch._foreach_lerp_([self.tensors[n] for n in floats], [current[n] for n in floats], weight)
        for name in current.keys() - set(floats):
            self.tensors[name].copy_(current[name])

    @contextmanager
    def applied(self, module: nn.Module) -> Iterator[None]:
        """The module in evaluation mode with the averaged weights; its own weights and mode come back after."""
        own = {name: value.clone() for name, value in module.state_dict().items()}
        training = module.training
        module.load_state_dict(self.tensors)
        module.eval()
        try:
            yield
        finally:
            module.load_state_dict(own)
            module.train(training)


@dataclass
class TrainState:
    """What a step reads besides its batch. ``step`` counts finished steps."""

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    step: int = 0

    def save(self, folder: Path, keep: int) -> Path:
        """Write ``folder/step-N``: to a temporary name, synced, then renamed.

        Of the others all but the ``keep - 1`` before it go. Later ones can only be damaged: else the run would have
        gone on from them.
        """
        target = folder / f"step-{self.step:08d}"
        partial = folder / f".partial-{self.step:08d}"
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        save_file(_contiguous(self.module.state_dict()), partial / MODEL)
        save_file(_contiguous(self.average.tensors), partial / AVERAGE)
        tensors, scalars = _flatten(self.optimizer.state_dict())
        save_file(tensors, partial / OPTIMIZER)
        (partial / STATE).write_text(json.dumps({"format": FORMAT, "step": self.step, "groups": scalars}, indent=1))
        for path in (*partial.iterdir(), partial):
            _sync(path)
        shutil.rmtree(target, ignore_errors=True)
        partial.rename(target)
        _sync(folder)
        found = checkpoints(folder)
        place = found.index(target)
        for other in found[: max(0, place + 1 - keep)] + found[place + 1 :]:
            shutil.rmtree(other)
        return target

    def load(self, checkpoint: Path) -> None:
        """Take everything from a checkpoint. Raises WavevqError where it does not fit."""
        self.module.load_state_dict(read_tensors(checkpoint / MODEL, self.module))
        for name, value in read_tensors(checkpoint / AVERAGE, self.module).items():
            self.average.tensors[name].copy_(value)  # onto the model's device
        state = read_state(checkpoint)
        self.step = state["step"]
        tensors = _read(checkpoint / OPTIMIZER)
        self.optimizer.load_state_dict(_unflatten(tensors, state["groups"]))


def checkpoints(folder: Path) -> list[Path]:
    """Finished checkpoints, oldest first."""
    return sorted(folder.glob("step-*"))


def read_state(checkpoint: Path) -> dict[str, Any]:
    """``state.json`` of a checkpoint. Raises WavevqError for a missing, damaged or foreign one."""
    path = checkpoint / STATE
    try:
        state = from_json(path.read_text())
    except (OSError, ValueError) as error:
        raise WavevqError(f"{path}: not a checkpoint's state ({error})") from None
    if not isinstance(state, dict) or state.get("format") != FORMAT or not is_step(state.get("step")):
        raise WavevqError(f"{path}: not a checkpoint's state of format {FORMAT}")
    return state


def is_step(value: object) -> bool:
    return type(value) is int and value >= 0


def fingerprint(checkpoint: Path) -> str:
    """Of a checkpoint's averaged weights: sha256, in hexadecimal."""
    return hashlib.sha256((checkpoint / AVERAGE).read_bytes()).hexdigest()


def read_tensors(path: Path, module: nn.Module) -> dict[str, Tensor]:
    """Tensors for a module's state. Raises WavevqError, naming the first that is missing, foreign or misshapen."""
    tensors = _read(path)
    expected = module.state_dict()
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise WavevqError(f"{path}: {name!r} is {'missing' if name in expected else 'unknown to this recipe'}")
    for name, value in tensors.items():
        if value.shape != expected[name].shape or value.dtype != expected[name].dtype:
            there, here = (f"{t.dtype} {list(t.shape)}" for t in (value, expected[name]))
            raise WavevqError(f"{path}: {name} is {there}, the recipe's model has {here}")
        if value.is_floating_point() and not value.isfinite().all():
            raise WavevqError(f"{path}: {name} holds NaN or infinite values")
    return tensors


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise WavevqError(f"{path}: cannot be read as safetensors ({escaped(str(error))})") from None


def _contiguous(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _flatten(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    tensors = {f"{index}.{name}": value for index, slots in state["state"].items() for name, value in slots.items()}
    return _contiguous(tensors), state["param_groups"]


def _unflatten(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
