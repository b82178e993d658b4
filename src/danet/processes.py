"""The processes that work on one run: one alone, or those that torchrun has started, each with its own rank."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from danet.errors import InputError

PATIENCE = timedelta(hours=2)
"""So long the others wait for one that reads data or validates; one that dies is noticed at once."""


class Processes(NamedTuple):
    """This process's rank among `count`; `local` among those of its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def main(self) -> bool:
        """Whether this is the one that writes files and speaks."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """`tensor`, in place, as the sum over all processes."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """Whether `flag` is true anywhere; every process must ask."""
        return bool(self.sum(torch.tensor(int(flag))))

    @contextmanager
    def main_first(self) -> Iterator[None]:
        """What is within is done by the main process, and then by the others."""
        if not self.main:
            self.gather(None)
        yield
        if self.main:
            self.gather(None)

    def gather(self, value: Any) -> list[Any]:
        """Everyone's `value`, in the order of the ranks."""
        if self.count == 1:
            return [value]
        found: list[Any] = [None] * self.count
        dist.all_gather_object(found, value)
        return found


ALONE = Processes()


def launched() -> Processes:
    """What torchrun and its like told this process by its environment; ALONE if nothing did.

    Raises InputError where they told only a part.
    """
    if "WORLD_SIZE" not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    try:
        rank, count, local = (int(os.environ[name]) for name in names)
    except (KeyError, ValueError):
        told = ", ".join(f"{name}={os.environ.get(name)}" for name in names)
        raise InputError(
            f"The environment has {told}; start several processes with torchrun, which sets all."
        ) from None
    return Processes(rank, count, local)


def restarted() -> bool:
    """Whether torchrun has started these processes anew, since one of them was lost."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this run, connected for as long as it takes: gloo between CPUs, NCCL between GPUs."""
    processes = launched()
    if processes.count == 1 or dist.is_initialized():
        yield processes
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local)
    dist.init_process_group(timeout=PATIENCE)
    try:
        yield processes
    finally:
        dist.destroy_process_group()
