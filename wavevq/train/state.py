"""Everything a training step reads, saved and restored: safetensors and JSON, no pickle."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn

from wavevq.audio import make_folder, unwritable
from wavevq.data.cache import to_disk
from wavevq.errors import WavevqError
from wavevq.plain import from_json, is_name
from wavevq.train.muon import slots

FORMAT = 2
UNSUMMED = 1  # the format before: without SUMS and METER
KEPT = torch.float32, torch.float64  # what optimizers and meters keep
UNSIGNED = "step", "exp_avg_sq"  # of what optimizers keep
MODEL, AVERAGE, OPTIMIZER, STATE = "model.safetensors", "average.safetensors", "optimizer.safetensors", "state.json"
METER = "meter.safetensors"
SUMS = "SHA256SUMS"  # of the others, as ``sha256sum -c`` reads them


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
    """What a step reads besides its batch. ``step`` counts finished steps.

    meter: sums ``[]`` of the metrics, by name, over the ``metered`` steps since they were last read, for the log.
    """

    module: nn.Module
    optimizer: torch.optim.Optimizer
    average: Average
    step: int = 0
    meter: dict[str, Tensor] = field(default_factory=dict)
    metered: int = 0

    def save(self, folder: Path, keep: int) -> Path:
        """Write ``folder/step-N``: to a temporary name, synced, then renamed.

        Of the others all but the ``keep - 1`` before it go, no sooner. Later ones can only be damaged: else the run
        would have gone on from them. Raises WavevqError, naming the file, where one cannot be written; the other
        checkpoints are as they were then.
        """
        target = folder / f"step-{self.step:08d}"
        partial = folder / f".partial-{self.step:08d}"
        for stale in folder.glob(".partial-*"):  # of a training that was killed
            shutil.rmtree(stale)
        try:
            with unwritable(partial):
                partial.mkdir(parents=True)
            for name, data in self._pieces():
                write_synced(partial / name, data)
            with unwritable(target):
                _sync(partial)
                shutil.rmtree(target, ignore_errors=True)
                partial.rename(target)
                _sync(folder)
        except WavevqError:
            shutil.rmtree(partial, ignore_errors=True)  # it would take the room that the next try needs
            raise
        found = checkpoints(folder)
        place = found.index(target)
        for other in found[: max(0, place + 1 - keep)] + found[place + 1 :]:
            shutil.rmtree(other)
        return target

    def _pieces(self) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the files of a checkpoint, one at a time."""
        tensors = {
            MODEL: self.module.state_dict(),
            AVERAGE: self.average.tensors,
            OPTIMIZER: _flatten(self.optimizer.state_dict()["state"]),
            METER: self.meter,
        }
        yield from _pieces(tensors, self.step, self.metered)

    def load(self, checkpoint: Path) -> None:
        """Take everything from a checkpoint. Raises WavevqError for one that is damaged or does not fit."""
        state = read_state(checkpoint)
        verify(checkpoint)
        summed = state["format"] != UNSUMMED
        weights = read_tensors(checkpoint / MODEL, self.module)
        average = read_tensors(checkpoint / AVERAGE, self.module)
        optimizer = _of_optimizer(checkpoint / OPTIMIZER, self.optimizer)
        meter = _sums(checkpoint / METER) if summed else {}
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": optimizer})
        self.module.load_state_dict(weights)
        for name, value in average.items():
            self.average.tensors[name].copy_(value)  # onto the model's device
        self.step = state["step"]
        self.meter, self.metered = meter, state["metered"] if summed else 0


def save_average(folder: Path, step: int, average: Mapping[str, Tensor]) -> Path:
    """Write ``folder/step-N`` of averaged weights alone: what encodes and decodes, and no training goes on from."""
    target = folder / f"step-{step:08d}"
    make_folder(target / AVERAGE)
    for name, data in _pieces({AVERAGE: average}, step):
        write_synced(target / name, data)
    return target


def _pieces(tensors: Mapping[str, Mapping[str, Tensor]], step: int, metered: int = 0) -> Iterator[tuple[str, bytes]]:
    """Names and contents of the files of a checkpoint, one at a time."""
    sums = ""
    for name, held in tensors.items():
        data = save(_contiguous(held))
        sums += _sum(data, name)
        yield name, data
    data = json.dumps({"format": FORMAT, "step": step, "metered": metered}, indent=1).encode()
    yield STATE, data
    yield SUMS, (sums + _sum(data, STATE)).encode()


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
    known: dict[str, Any] = state if isinstance(state, dict) else {}
    numbers = ["step"] if known.get("format") == UNSUMMED else ["step", "metered"]
    if known.get("format") not in (UNSUMMED, FORMAT) or not all(is_step(known.get(key)) for key in numbers):
        raise WavevqError(f"{path}: not a checkpoint's state of format {FORMAT}")
    return known


def is_step(value: object) -> bool:
    return type(value) is int and value >= 0


def verify(checkpoint: Path, *names: str) -> None:
    """Raises WavevqError, naming the file, where one of a checkpoint is not as it was written; names: those to look at.

    A checkpoint of the format before has no checksums, and passes.
    """
    if read_state(checkpoint)["format"] == UNSUMMED:
        return
    path = checkpoint / SUMS
    try:
        sums = {name: said for said, _, name in (line.partition("  ") for line in path.read_text().splitlines())}
    except (OSError, ValueError) as error:
        raise WavevqError(f"{path}: cannot be read ({error})") from None
    for name in names or (MODEL, AVERAGE, OPTIMIZER, METER, STATE):
        try:
            data = (checkpoint / name).read_bytes()
        except OSError as error:
            raise WavevqError(
                f"{checkpoint / name}: cannot be read ({(error.strerror or str(error)).lower()})"
            ) from None
        if hashlib.sha256(data).hexdigest() != sums.get(name):
            raise WavevqError(f"{checkpoint / name}: is not what was written (its checksum differs from {SUMS})")


def fingerprint(checkpoint: Path) -> str:
    """Of a checkpoint's averaged weights: sha256, in hexadecimal."""
    return hashlib.sha256((checkpoint / AVERAGE).read_bytes()).hexdigest()


def read_tensors(path: Path, module: nn.Module) -> dict[str, Tensor]:
    """Tensors for a module's state. Raises WavevqError, naming the first that is missing, foreign or misshapen.

    Those in bfloat16, as models are shipped, come as the module's float32.
    """
    tensors = _read(path)
    expected = module.state_dict()
    for name in sorted(expected.keys() ^ tensors.keys()):
        raise WavevqError(f"{path}: {name!r} is {'missing' if name in expected else 'unknown to this recipe'}")
    for name, value in tensors.items():
        if value.dtype == torch.bfloat16 and expected[name].dtype == torch.float32:
            value = tensors[name] = value.float()
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
        raise WavevqError(f"{path}: cannot be read as safetensors ({error})") from None


def _contiguous(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.detach().cpu().contiguous() for name, value in tensors.items()}


def _flatten(state: dict[int, dict[str, Tensor]]) -> dict[str, Tensor]:
    """An optimizer's, of each parameter; of the groups' options nothing is kept, which recipe and code say."""
    return {f"{index}.{name}": value for index, kept in state.items() for name, value in kept.items()}


def _of_optimizer(path: Path, optimizer: torch.optim.Optimizer) -> dict[int, dict[str, Tensor]]:
    """What ``_flatten`` has flattened. Raises WavevqError for what this optimizer cannot go on from."""
    every = [(one, slots(group)) for group in optimizer.param_groups for one in group["params"]]
    expected = {
        f"{index}.{name}": [] if name == "step" else [*one.shape]
        for index, (one, names) in enumerate(every)
        for name in names
    }
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in _read(path).items():
        if [*value.shape] != expected.get(key) or value.dtype not in KEPT or not value.isfinite().all():
            raise WavevqError(f"{path}: {key!r} is not of the optimizer of this recipe's model")
        index, _, name = key.partition(".")
        if name in UNSIGNED and (value < 0).any():
            raise WavevqError(f"{path}: {key!r} holds negative values, which a step cannot go on from")
        state.setdefault(int(index), {})[name] = value
    for number, found in state.items():  # a parameter that never had a gradient is not among them
        for name in {*every[number][1]} - {*found}:
            raise WavevqError(f"{path}: '{number}.{name}' is missing")
    return state


def _sums(path: Path) -> dict[str, Tensor]:
    """Of the metrics. Raises WavevqError for what is none."""
    sums = _read(path)
    for name, value in sums.items():
        if value.shape or value.dtype not in KEPT or not is_name(name):
            raise WavevqError(f"{path}: {name!r} is no metric's sum")
    return sums


def _sum(data: bytes, name: str) -> str:
    return f"{hashlib.sha256(data).hexdigest()}  {name}\n"


def write_synced(path: Path, data: bytes) -> None:
    """A new file, on the disk when this returns. Raises as ``unwritable``."""
    with unwritable(path), path.open("wb") as file:
        file.write(data)
        to_disk(file)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
