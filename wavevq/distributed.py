"""Sums and gathers over the ranks of a distributed run, and what one does before the others."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from traceback import clear_frames
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from wavevq.errors import WavevqError

T = TypeVar("T")

PATIENCE = timedelta(days=7)  # for what one process does while the others wait, which may take hours


def world_size() -> int:
    """Number of ranks, 1 without a process group."""
    return dist.get_world_size() if _grouped() else 1


def rank() -> int:
    """This process's rank, 0 without a process group."""
    return dist.get_rank() if world_size() > 1 else 0


def total(tensor: Tensor) -> Tensor:
    """The sum of ``tensor`` over ranks, any shape; detached. The argument itself when there is one rank."""
    if world_size() == 1:
        return tensor.detach()
    summed = tensor.detach().clone()
    dist.all_reduce(summed)
    return summed


def interleaved(rows: Tensor) -> Tensor:
    """Rows ``[N, ...]`` of every rank in the order of the joined batch, ``[N x ranks, ...]``.

    Rank r holds rows r::ranks of the joined batch (see ``data.batches``), N is the same on every rank.
    """
    ranks = world_size()
    if ranks == 1:
        return rows.detach()
    parts = [torch.empty_like(rows) for _ in range(ranks)]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.stack(parts, dim=1).flatten(0, 1)


def gathered(one: T) -> list[T]:
    """What each rank gives, in their order, on every rank. Whatever can be pickled: the ranks are one program."""
    if world_size() == 1:
        return [one]
    every: list[Any] = [None] * world_size()
    dist.all_gather_object(every, one)
    return every


def alone(work: Callable[[], object]) -> None:
    """``work`` on rank 0 while the others wait. Every rank raises the WavevqError that it raises."""
    if world_size() == 1:
        work()
        return
    said: tuple[str, ...] = ()
    if rank() == 0:
        try:
            work()
        except WavevqError as error:
            said = error.args
    if told := gathered(said)[0]:
        raise WavevqError(*told)


def first(work: Callable[[], T]) -> T:
    """``work`` on rank 0, then on the others, who find what it has prepared; errors as in ``alone``."""
    made: list[T] = []
    alone(lambda: made.append(work()))
    return made[0] if made else work()


@contextmanager
def joined() -> Iterator[None]:
    """The processes that torchrun has started, as one group over gloo, each with a GPU of its machine; else nothing."""
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("gloo", timeout=PATIENCE)
    with as_group():
        yield


@contextmanager
def as_group() -> Iterator[None]:
    """The work of a process group, which ends with it: its threads, left to the interpreter's end, may abort that.

    Not where its end would wait for what is pending: after a KeyboardInterrupt, and where another rank has ended, which
    breaks the connections to it: one line then, in place of the backend's traceback. Raises WavevqError. A command then
    ends by ``leave``.
    """
    try:
        yield
    except Exception as error:  # whatever the work raises: the group is ended before it goes on its way
        told = isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))
        if told and world_size() > 1:
            raise WavevqError(
                f"process {rank()} of {world_size()}: stopped, for another has ended (what it said last tells why)"
            ) from None
        if world_size() > 1:
            # DDP, which an error's frames hold, must not outlive the group: it would end it with the interpreter locked
            # and wait for a thread of gloo that waits for the interpreter, to let go of its last tensor.
            clear_frames(error.__traceback__)
        _end_group()
        raise
    _end_group()


def leave(code: int) -> None:
    """End this process with an exit code where it is in a group still, whose threads nothing may wait for."""
    if _grouped():
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError):  # nobody reads it any more
                stream.flush()
        os._exit(code)


def _end_group() -> None:
    if _grouped():
        dist.destroy_process_group()


def _grouped() -> bool:
    return dist.is_available() and dist.is_initialized()
