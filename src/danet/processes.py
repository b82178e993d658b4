"""The processes that work on one run: one alone, or those that torchrun has started, each with its own rank."""

from __future__ import annotations

import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple, TypeVar
from uuid import uuid4

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from danet.errors import InputError

PATIENCE = timedelta(hours=2)
"""So long the others wait for one that reads data or validates; one that dies is noticed at once."""
_LOST = re.compile(r"by peer|remote (worker|process)|broken pipe", re.I)
"""What gloo and NCCL say where another process is gone."""

Value = TypeVar("Value")


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

    def of_main(self, value: Value) -> Value:
        """The main process's `value`, for all."""
        return self.gather(value)[0]


ALONE = Processes()


def launched() -> Processes:
    """What torchrun and its like told this process by its environment; ALONE if nothing did.

    Raises InputError where they told only a part.
    """
    if "WORLD_SIZE" not in os.environ:
        # accelerate's launcher sets the port where it was asked for more than one process, and on CPUs no more than it
        if "MASTER_PORT" in os.environ and any(name.startswith("ACCELERATE_") for name in os.environ):
            warnings.warn(
                "accelerate was asked for several processes and started one, as it does on CPUs; "
                "torchrun --nproc-per-node N starts them.",
                stacklevel=2,
            )
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


def launch() -> str:
    """What tells the torchrun that started this process from every other: the folder that it made for its records.

    Processes that it starts anew have the same; "" where there is none.
    """
    path = Path(os.environ.get("TORCHELASTIC_ERROR_FILE", ""))
    return str(path.parents[2]) if len(path.parts) > 3 and path.parents[1].name.startswith("attempt_") else ""


@contextmanager
def joined() -> Iterator[Processes]:
    """The processes of this run, connected for as long as it takes: gloo between CPUs, NCCL between GPUs.

    Where one of them is lost, the others raise InputError.
    """
    processes = launched()
    if processes.count == 1 or dist.is_initialized():
        yield processes
        return
    if torch.cuda.is_available():
        torch.cuda.set_device(processes.local)
    store, rank, count = next(rendezvous("env://", timeout=PATIENCE))
    dist.init_process_group(store=_fresh(store, processes), rank=rank, world_size=count, timeout=PATIENCE)
    try:
        yield processes
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not _LOST.search(str(error)):
            raise
        raise InputError("Another process of this run has ended, and so does this one; that one told why.") from None
    finally:
        dist.destroy_process_group()


def _fresh(store: Store, processes: Processes) -> Store:
    """A part of `store` that no earlier processes have written to.

    torchrun keeps the store when it starts processes anew, and gloo and NCCL would read addresses of lost ones there.
    What torchrun says of restarts differs between machines, so the main process makes up a name, each other answers
    with a word of its own, and hears it again: an old name stays without that echo.
    """
    word = uuid4().hex
    if processes.main:
        store.set("danet", word)
        for rank in range(1, processes.count):
            store.set(f"{word}/heard/{rank}", store.get(f"{word}/{rank}").decode())
        return PrefixStore(word, store)
    while True:
        name = store.get("danet").decode()
        heard = f"{name}/heard/{processes.rank}"
        store.set(f"{name}/{processes.rank}", word)
        while store.get("danet").decode() == name:
            if store.check([heard]) and store.get(heard).decode() == word:
                return PrefixStore(name, store)
            time.sleep(0.05)
