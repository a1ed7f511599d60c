"""Tiny trainings in processes of their own, one or several ranks, that can be made to die at an exact moment.

The processes are forked from a server that has imported everything, which saves the seconds of importing torch.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import load_file

from wavevq.build import build_model
from wavevq.recipe import Recipe
from wavevq.train.loop import optimizer_of, parts
from wavevq.train.state import Average, TrainState

Moment = Callable[[], None]  # called in the process before it trains; picklable

RATE, STEPS = 8000, 14
RECIPE = {
    "data": {"kind": "folder", "root": "corpus", "rate": RATE, "held_out": 0.2},
    "model": {
        "encoder": {"kind": "waveform", "strides": [2, 2, 2], "channels": 6, "residual_blocks": 1},
        "bottleneck": {"kind": "ema", "codes": 40, "dim": 3, "revive_after": 2},
        "decoder": {
            "kind": "wavenet",
            "layers": 3,
            "cycle": 2,
            "context_layers": 1,
            **dict.fromkeys(("residual", "gate", "skip", "head", "context", "speaker_dim"), 5),
        },
        "jitter": 0.2,
        "past_gain": 6.0,
    },
    # Saving and validating out of step with each other, and a checkpoint where neither a line nor a validation is due.
    "train": {
        "steps": STEPS,
        "batch": 4,
        "crop": 512,  # longer than some clips: padding too
        "learning_rate": 0.01,
        "warmup": 3,
        "average": 0.8,
        "log_every": 2,
        "validate_every": 4,
        "save_every": 2,
    },
    "evaluation": {"sampled": 0},
}
PRIOR = {
    "steps": 6,
    "crop": 32,
    "network": {"kind": "wavenet", "layers": 2, "cycle": 2, **dict.fromkeys(("residual", "gate", "skip", "head"), 6)},
}


def workplace(folder: Path, make_audio: Callable[..., Path], kind: str = "ema") -> Path:
    """A folder with a corpus of two speakers and ``tiny.yaml``, whose quantizer is of ``kind``."""
    for speaker, pitch in (("ann", 120.0), ("bob", 300.0)):
        for i in range(5):
            make_audio(folder / "corpus" / speaker / f"{speaker}_{i}.wav", seconds=0.05 + 0.02 * i, pitch=pitch)
    tree = json.loads(json.dumps(RECIPE))
    tree["model"]["bottleneck"]["kind"] = kind
    if kind == "vq":  # the one of each choice of a training here, the other there
        tree["train"]["optimizer"], tree["model"]["encoder"]["norm"] = "muon", "layer"
        tree["model"]["adversary"] = 0.1
        tree["model"]["bottleneck"]["dim"] = 6  # on the circle that is left of three, 40 codes tie
    (folder / "tiny.yaml").write_text(yaml.safe_dump(tree))
    return folder


def tiny_state(recipe: Recipe) -> TrainState:
    """As a training of a recipe with Muon has it before its first step, with gradients of all zeros."""
    model = build_model(recipe, 2)
    for one in model.parameters():
        one.grad = torch.zeros_like(one)
    return TrainState(model, optimizer_of(parts(model, None), model.encoder, 0.01), Average(model, 0.9))


# --- processes ----------------------------------------------------------------------------------------------


def start(target: Callable[..., Any], *arguments: Any, ranks: int = 1) -> list[Any]:
    """Processes that run ``target``; several get the environment that torchrun gives its own."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["wavevq.cli", "wavevq.experiment", "torch.utils.tensorboard", "matplotlib.pyplot"])
    port = free_port()
    processes = []
    for rank in range(ranks):
        there = {
            "WAVEVQ_CACHE": os.environ["WAVEVQ_CACHE"],
            **({name: str(rank) for name in ("RANK", "LOCAL_RANK")} if ranks > 1 else {}),
            **({name: str(ranks) for name in ("WORLD_SIZE", "LOCAL_WORLD_SIZE")} if ranks > 1 else {}),
        }
        if ranks > 1:
            there |= {"GROUP_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            there |= {"TORCHELASTIC_RUN_ID": "none"}
        process = context.Process(target=_entered, args=(there, target, arguments))
        process.start()
        processes.append(process)
    return processes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


def finish(processes: Sequence[Any], seconds: float = 300) -> list[int]:
    """Exit codes, negative for a signal; a process that does not end is killed and fails the test."""
    try:
        for process in processes:
            process.join(seconds)
        assert all(process.exitcode is not None for process in processes), "a process hangs"
        return [process.exitcode for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.join()


def command(place: Path, *words: str, moments: Sequence[Moment | None] = (None,)) -> list[int]:
    """``wavevq WORDS`` in a folder, one rank a moment: exit codes. Their outputs: ``said``."""
    return finish(launched(place, *words, moments=moments))


def launched(place: Path, *words: str, moments: Sequence[Moment | None] = (None,)) -> list[Any]:
    """The processes of ``command``, which are running."""
    (place / "said").mkdir(exist_ok=True)
    return start(_command, str(place), words, tuple(moments), ranks=len(moments))


def said(place: Path, rank: int = 0) -> str:
    """What the last command's process wrote to its standard output and error."""
    return (place / "said" / str(rank)).read_text()


def _entered(environment: dict[str, str], target: Callable[..., Any], arguments: Sequence[Any]) -> None:
    os.environ.update(environment)
    torch.set_num_threads(1)
    target(*arguments)


def _command(place: str, words: Sequence[str], moments: Sequence[Moment | None]) -> None:
    from wavevq.cli import main

    os.chdir(place)
    rank = int(os.environ.get("RANK", "0"))
    with Path("said", str(rank)).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    if moment := moments[rank]:
        moment()
    main([*words])


# --- moments ------------------------------------------------------------------------------------------------


def before_step(step: int, number: int = signal.SIGKILL) -> Moment:
    """The process gets a signal when it takes the batch of ``step``."""
    return partial(_before_step, step, number)


def _before_step(step: int, number: int) -> None:
    from wavevq.data.batches import Crops

    at = Crops.at

    def watched(self: Crops, asked: int, rank: int = 0, world: int = 1) -> Any:
        if asked == step:
            signal.raise_signal(number)
        return at(self, asked, rank, world)

    Crops.at = watched  # type: ignore[method-assign]


def within_step(step: int) -> Moment:
    """Killed when the weights of ``step``, of whatever is trained, have changed and nothing is saved of it."""
    return partial(_within_step, step)


def _within_step(step: int) -> None:
    update = Average.update

    def watched(self: Average, module: torch.nn.Module, done: int) -> None:
        if done == step:
            signal.raise_signal(signal.SIGKILL)
        update(self, module, done)

    Average.update = watched  # type: ignore[method-assign]


def waiting_at(step: int) -> Moment:
    """The process makes the file ``waits`` when it takes the batch of ``step``, and goes on when that is gone."""
    return partial(_waiting_at, step)


def _waiting_at(step: int) -> None:
    from wavevq.data.batches import Crops

    at = Crops.at

    def watched(self: Crops, asked: int, rank: int = 0, world: int = 1) -> Any:
        if asked == step:
            Path("waits").touch()
            while Path("waits").exists():
                time.sleep(0.01)
        return at(self, asked, rank, world)

    Crops.at = watched  # type: ignore[method-assign]


def while_saving(step: int, name: str) -> Moment:
    """Killed when half of the file ``name`` of the checkpoint ``step`` is written."""
    return partial(_while_saving, step, name)


def _while_saving(step: int, name: str) -> None:
    from wavevq.train import state

    write = state.write_synced

    def watched(path: Path, data: bytes) -> None:
        if path.parent.name == f".partial-{step:08d}" and path.name == name:
            write(path, data[: len(data) // 2])
            signal.raise_signal(signal.SIGKILL)
        write(path, data)

    state.write_synced = watched


def while_deleting(name: str) -> Moment:
    """Killed when a file of the old checkpoint ``name`` has been deleted."""
    return partial(_while_deleting, name)


def _while_deleting(name: str) -> None:
    rmtree = shutil.rmtree

    def watched(path: Path, *more: Any, **options: Any) -> None:
        if Path(path).name == name:
            min(Path(path).iterdir()).unlink()
            signal.raise_signal(signal.SIGKILL)
        rmtree(path, *more, **options)

    shutil.rmtree = watched  # type: ignore[assignment]


def while_validating(step: int) -> Moment:
    return partial(_while_validating, step)


def _while_validating(step: int) -> None:
    from wavevq.evaluate.validation import Validator

    call = Validator.__call__

    def watched(self: Validator, asked: int) -> Any:
        if asked == step:
            signal.raise_signal(signal.SIGKILL)
        return call(self, asked)

    Validator.__call__ = watched  # type: ignore[method-assign]


def while_logging(step: int, kind: str) -> Moment:
    """Killed in the middle of a line of metrics.jsonl."""
    return partial(_while_logging, step, kind)


def _while_logging(step: int, kind: str) -> None:
    from wavevq.train.log import Log

    write = Log._write

    def watched(self: Log, asked: int, what: str, scalars: dict[str, float]) -> None:
        write(self, asked, what, scalars)
        if (asked, what) == (step, kind):
            os.truncate(self.path, self.path.stat().st_size - 10)
            signal.raise_signal(signal.SIGKILL)

    Log._write = watched  # type: ignore[method-assign]


def noting_revivals() -> None:
    """Leaves a line in ``placed`` for every time that codes are placed on vectors: the first is the beginning."""
    from wavevq.nn.quantizers import EmaQuantizer, GradientQuantizer

    for quantizer in (EmaQuantizer, GradientQuantizer):

        def watched(self: Any, rows: Any, vectors: Any, share: Any, place: Any = quantizer._place) -> None:
            with Path("placed").open("a") as file:
                file.write(f"{len(rows)}\n")
            place(self, rows, vectors, share)

        quantizer._place = watched  # type: ignore[method-assign]


# --- what a training leaves ---------------------------------------------------------------------------------


def tensors(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Everything in a checkpoint's three files of tensors."""
    return {
        f"{path.name}/{name}": value
        for path in sorted(checkpoint.glob("*.safetensors"))
        for name, value in load_file(path).items()
    }


def seal(checkpoint: Path) -> None:
    """The checksums of a checkpoint that a test has altered, as if it had been written so."""
    names = sorted(path.name for path in checkpoint.iterdir() if path.name != "SHA256SUMS")
    sums = [f"{hashlib.sha256((checkpoint / name).read_bytes()).hexdigest()}  {name}\n" for name in names]
    (checkpoint / "SHA256SUMS").write_text("".join(sums))


def assert_equal_runs(one: Path, other: Path) -> None:
    """Bit for bit the same newest checkpoint, and the same lines of metrics but for the clock."""
    last = [max((run / "checkpoints").glob("step-*")) for run in (one, other)]
    assert last[0].name == last[1].name
    found, expected = tensors(last[0]), tensors(last[1])
    assert found.keys() == expected.keys()
    assert {name.split("/")[0] for name in found} == {f"{n}.safetensors" for n in ("model", "average", "optimizer")}
    for name in found:
        assert torch.equal(found[name], expected[name]), name
    assert (last[0] / "state.json").read_bytes() == (last[1] / "state.json").read_bytes()
    assert metrics(one) == metrics(other)


def metrics(run: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl without what the clock says, in their order."""
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds" and not k.endswith("_per_second")} for line in lines]
