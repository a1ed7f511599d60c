"""The training loop. A step is a pure function of (recipe, seed, step, global example index)."""

from __future__ import annotations

import math
import signal
import sys
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
from wavevq.data.cache import NAMED
from wavevq.data.corpus import Batches
from wavevq.distributed import gathered
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
    Raises WavevqError for a non-finite step, before it reaches the weights or a codebook's statistics, and for what
    cannot be written; Interrupted after a Ctrl-C.
    """
    fabric.to_device(module)
    clipped = parts(module, apart)
    optimizer = optimizer_of(clipped, turned, plan.learning_rate)
    state = TrainState(module, optimizer, Average(module, plan.average))
    saved = folder / "checkpoints"
    if resume:
        load_newest(state, saved, console)
        refuse_apart(state.step, saved)
        console.print(f"{'going on from' if state.step < plan.steps else 'finished already, at'} step {state.step}")
    model, optimizer = fabric.setup(Step(module), optimizer)
    log = Log(folder, console, plan.steps, state.step) if fabric.is_global_zero else None
    meter = Meter(state, batches.unit, batches.amount)
    where = fabric.global_rank, fabric.world_size
    module.train()
    try:
        with _asked_to_stop() as stop:
            while state.step < plan.steps:
                # First, so that a run killed in here, after its checkpoint, does it when it goes on.
                if state.step and state.step % plan.validate_every == 0:
                    with meter.paused():
                        check(state, validate, log)
                        fabric.barrier()
                batch = batches.at(state.step, *where)
                refuse_nonfinite_batch(state.step, batch, batches, where, saved)
                batch = batch.to(fabric.device)
                for group in optimizer.param_groups:
                    group["lr"] = plan.learning_rate * rate_factor(plan, state.step)
                loss, metrics = model(vars(batch))
                fabric.backward(loss)
                norms = [nn.utils.clip_grad_norm_(part, plan.clip) for part in clipped]
                norm = torch.stack(norms).max()  # not a number where one of them is
                refuse_nonfinite(state.step, loss, norm, batches, where, saved)
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
                if (state.step % plan.save_every == 0 or last or asked) and log:
                    log.sync()
                    state.save(saved, plan.keep)
                if asked:
                    raise Interrupted(folder)
        # Outside the loop, so that a run killed during its last validation still gets one.
        check(state, validate, log)
        fabric.barrier()
    finally:
        if log:
            log.close(failed=sys.exc_info()[0] is not None)


def parts(module: nn.Module, apart: nn.Module | None) -> list[list[nn.Parameter]]:
    """The parameters of ``module``: those of its part ``apart`` by themselves, after the others."""
    own = [] if apart is None else list(apart.parameters())
    known = {id(parameter) for parameter in own}
    rest = [parameter for parameter in module.parameters() if id(parameter) not in known]
    return [part for part in (rest, own) if part]


def optimizer_of(clipped: list[list[nn.Parameter]], turned: nn.Module | None, rate: float) -> MuonAdam:
    """Of ``parts``; the matrices of ``turned`` go by Muon."""
    matrices = {id(one) for one in turned.parameters() if one.ndim > 1} if turned else set()
    groups = [
        {"params": some, MUON: muon}
        for part in clipped
        for muon in (False, True)
        if (some := [one for one in part if (id(one) in matrices) == muon])
    ]
    return MuonAdam(groups, lr=rate, fused=True)


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


def refuse_nonfinite_batch(step: int, batch: Batch, batches: Batches, where: tuple[int, int], saved: Path) -> None:
    """Stop before a forward pass that would take what is not finite into a codebook's statistics."""
    whole = batch.x.flatten(1).isfinite().all(1)
    if not whole.all():
        bad = [name for name, good in zip(batches.names(step, *where), whole.tolist(), strict=True) if not good]
        raise WavevqError(f"step {step}: NaN or infinite values in {_named(bad)}; {_last_good(saved)}")


def refuse_nonfinite(
    step: int, loss: Tensor, norm: Tensor, batches: Batches, where: tuple[int, int], saved: Path
) -> None:
    """Stop before the optimizer takes a step that would ruin the weights: every rank sees the same norm."""
    if not math.isfinite(norm.item()):
        raise WavevqError(
            f"step {step}: the loss is {loss.item()} and the gradient's norm {norm.item()}, of "
            f"{_named(batches.names(step, *where))}; {_last_good(saved)} (try a lower train.learning_rate)"
        )


def _named(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _last_good(saved: Path) -> str:
    found = checkpoints(saved)
    return f"the last good checkpoint is {found[-1] if found else 'none yet'}"


def refuse_apart(step: int, saved: Path) -> None:
    """Raises WavevqError unless all ranks have found the same checkpoint."""
    steps = gathered(step)
    if len({*steps}) > 1:
        raise WavevqError(
            f"{saved}: processes go on from different steps, {', '.join(map(str, steps))}; all of them, on whatever "
            "machine, must see one run folder"
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
    """Means of the metrics, and of what steps take in, ``amount`` each, how much a second; since the last reading.

    The metrics' sums are the state's, so that a resumed run logs what one that never stopped does.
    """

    def __init__(self, state: TrainState, unit: str, amount: float) -> None:
        self.state, self.unit, self.amount = state, unit, amount
        self.count = 0  # of the steps since, in this process
        self.since = time.monotonic()

    def add(self, metrics: dict[str, Tensor]) -> None:
        sums = self.state.meter
        for name, value in metrics.items():
            sums[name] = sums.get(name, torch.zeros(())).to(value.device) + value
        self.state.metered += 1
        self.count += 1

    def read(self) -> dict[str, float]:
        now = time.monotonic()
        means = {name: (value / self.state.metered).item() for name, value in self.state.meter.items()}
        means[f"{self.unit}_per_second"] = self.count * self.amount / max(now - self.since, 1e-9)
        self.state.meter, self.state.metered, self.count, self.since = {}, 0, 0, now
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
