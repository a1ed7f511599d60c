"""The training loop. A step is a pure function of (recipe, seed, step, global example index)."""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

import torch
from lightning.fabric import Fabric
from rich.console import Console
from torch import Tensor, nn

from wavevq.contracts import Batch, Trainable
from wavevq.data.corpus import Batches
from wavevq.errors import WavevqError
from wavevq.recipe import Schedule
from wavevq.train.log import Log, Validation
from wavevq.train.muon import MUON, MuonAdam
from wavevq.train.state import Average, TrainState, checkpoints

Validate = Callable[[int], Validation]  # called on rank 0 with the finished steps, the averaged weights in place


class Interrupted(Exception):
    """Training was asked to stop (Ctrl-C or SIGTERM) and has saved; ``str`` of it is the run folder."""


def fit(
    fabric: Fabric,
    module: nn.Module,
    batches: Batches,
    plan: Schedule,
    folder: Path,
    validate: Validate,
    console: Console,
    resume: bool,
    apart: nn.Module | None = None,
    turned: nn.Module | None = None,
) -> None:
    """Train ``module`` (``contracts.Trainable``) to ``plan.steps``, with checkpoints and logs in ``folder``.

    apart: a part of it whose gradient's norm is clipped by itself, so that it does not shorten the others' steps.
    turned: a part of it whose matrices go by Muon, everything else by Adam (wavevq/train/muon.py).
    Raises WavevqError for a non-finite step, before it reaches the weights, and Interrupted after a Ctrl-C.
    """
    fabric.to_device(module)
    clipped = parts(module, apart)
    matrices = {id(one) for one in turned.parameters() if one.ndim > 1} if turned else set()
    groups = [
        {"params": some, MUON: muon}
        for part in clipped
        for muon in (False, True)
        if (some := [one for one in part if (id(one) in matrices) == muon])
    ]
    optimizer = MuonAdam(groups, lr=plan.learning_rate, fused=True)
    state = TrainState(module, optimizer, Average(module, plan.average))
    if resume:
        load_newest(state, folder / "checkpoints", console)
    model, optimizer = fabric.setup(Step(module), optimizer)
    log = Log(folder, console, plan.steps, state.step) if fabric.is_global_zero else None
    meter = Meter(batches.unit, batches.amount)
    module.train()
    try:
        with _asked_to_stop() as stop:
            while state.step < plan.steps:
                # First, so that a run killed in here, after its checkpoint, does it when it goes on.
                if state.step and state.step % plan.validate_every == 0:
                    with meter.paused():
                        check(state, validate, log)
                        fabric.barrier()
                batch = batches.at(state.step, fabric.global_rank, fabric.world_size).to(fabric.device)
                for group in optimizer.param_groups:
                    group["lr"] = plan.learning_rate * rate_factor(plan, state.step)
                loss, metrics = model(vars(batch))
                fabric.backward(loss)
                norms = [nn.utils.clip_grad_norm_(part, plan.clip) for part in clipped]
                norm = torch.stack(norms).max()  # not a number where one of them is
                refuse_nonfinite(state.step, loss, norm, folder / "checkpoints")
                optimizer.step()
                optimizer.zero_grad()
                state.step += 1
                state.average.update(module, state.step)
                meter.add(metrics)
                last = state.step == plan.steps
                if log:
                    log.advance(state.step)
                    if state.step % plan.log_every == 0 or last:
                        log.training(state.step, meter.read())
                asked = any_rank(fabric, stop)
                if (state.step % plan.save_every == 0 or last or asked) and fabric.is_global_zero:
                    state.save(folder / "checkpoints", plan.keep)
                if asked:
                    raise Interrupted(folder)
        # Outside the loop, so that a run killed during its last validation still gets one.
        check(state, validate, log)
        fabric.barrier()
    finally:
        if log:
            log.close()


def parts(module: nn.Module, apart: nn.Module | None) -> list[list[nn.Parameter]]:
    """The parameters of ``module``: those of its part ``apart`` by themselves, after the others."""
    own = [] if apart is None else list(apart.parameters())
    known = {id(parameter) for parameter in own}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in known]
    return [part for part in (rest, own) if part]


class Step(nn.Module):
    """A ``Trainable`` as Fabric and DDP want it: they rebuild what goes in and out, and cannot a frozen dataclass."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        losses = cast(Trainable, self.module).training_loss(Batch(**batch))
        return losses.loss, losses.metrics


def check(state: TrainState, validate: Validate, log: Log | None) -> None:
    """Validate the averaged weights, on the rank that logs, where the run has not done so before it was killed."""
    if log and not log.validated(state.step):
        with state.average.applied(state.module):
            log.validation(state.step, validate(state.step))


def rate_factor(plan: Schedule, step: int) -> float:
    """The learning rate's factor at a step: linear warm-up, constant, linear fall to zero over the cooldown."""
    rise = (step + 1) / plan.warmup if plan.warmup else 1.0
    fall = (plan.steps - step) / (plan.cooldown * plan.steps) if plan.cooldown else 1.0
    return min(1.0, rise, fall)


def refuse_nonfinite(step: int, loss: Tensor, norm: Tensor, folder: Path) -> None:
    """Stop before the optimizer takes a step that would ruin the weights: every rank sees the same norm."""
    if not math.isfinite(norm.item()):
        saved = checkpoints(folder)
        raise WavevqError(
            f"step {step}: the loss is {loss.item()} and the gradient's norm {norm.item()}; "
            f"the last good checkpoint is {saved[-1] if saved else 'none yet'} (try a lower train.learning_rate)"
        )


def load_newest(state: TrainState, folder: Path, console: Console) -> None:
    """Go on from the newest checkpoint that can be read; a damaged one is named and the one before it used.

    A run that was killed before its first begins again. Raises WavevqError where all are damaged.
    """
    found = checkpoints(folder)
    for checkpoint in reversed(found):
        try:
            state.load(checkpoint)
        except WavevqError as error:
            console.print(f"skipping a damaged checkpoint: {error}", soft_wrap=True)
        else:
            return
    if found:
        raise WavevqError(f"{folder}: no checkpoint to resume from that is not damaged")


def any_rank(fabric: Fabric, stop: list[float]) -> bool:
    """Whether any rank was asked to stop: all must leave the loop at the same step."""
    if fabric.world_size == 1:
        return bool(stop)
    return bool(cast(Tensor, fabric.all_reduce(torch.tensor(float(len(stop))), reduce_op="sum")) > 0)


class Meter:
    """Means of the metrics, and of what steps take in, ``amount`` each, how much a second; since the last reading."""

    def __init__(self, unit: str, amount: float) -> None:
        self.unit, self.amount = unit, amount
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.since = time.monotonic()

    def add(self, metrics: dict[str, Tensor]) -> None:
        for name, value in metrics.items():
            self.sums[name] = self.sums.get(name, torch.zeros(())).to(value.device) + value
        self.count += 1

    def read(self) -> dict[str, float]:
        now = time.monotonic()
        means = {name: (value / self.count).item() for name, value in self.sums.items()}
        means[f"{self.unit}_per_second"] = self.count * self.amount / max(now - self.since, 1e-9)
        self.sums, self.count, self.since = {}, 0, now
        return means

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Time that is not training."""
        before = time.monotonic()
        yield
        self.since += time.monotonic() - before


@contextmanager
def _asked_to_stop() -> Iterator[list[float]]:
    """Collects SIGINT and SIGTERM instead of dying in the middle of a step; a second one ends at once.

    Another within a second is the first again: torchrun passes a Ctrl-C on to processes that had it from the terminal.
    """
    caught: list[float] = []

    def note(number: int, frame: object) -> None:
        now = time.monotonic()
        if caught and now - caught[0] > 1:
            raise KeyboardInterrupt
        caught.append(now)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield caught
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
