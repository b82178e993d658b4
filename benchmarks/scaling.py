"""What a second process is worth: steps of camvid-r18's network by one process and by two, each with one thread.

    python benchmarks/scaling.py [--out results/scaling.csv]

A step is what `danet train` does once a batch is there: forward, losses, backward, the gradients' sum over processes,
AdamW and the moving average, in float32, on crops of 240×320 of noise. Two processes wait; for each row either the
first steps alone, or both do, and the rows take turns, so that a slow moment meets all. The processes are started four
times, for some starts exchange faster than others: seconds are the median of the four medians, `least` and `most` the
others' ends. The first round of each start is left out.

- strong: two processes share the batch of one, so twice as fast would be an efficiency of 1
- weak: each of two has as many images as one had, so as fast would be an efficiency of 1
- "apart" are two processes that each take steps of their own at the same time: what two lose to the machine, before
  they exchange anything

norm is optim.norm: `batch` synchronises the statistics of all BatchNorms, `frozen` exchanges gradients alone.
Takes about six minutes on two cores, of which nothing else may take any.
"""

import argparse
import multiprocessing
import os
import statistics
import sys
import time
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from danet.config import RunConfig, read_config
from danet.data.labels import IGNORE_INDEX
from danet.models.segmentation import build_model
from danet.processes import ALONE, Processes, joined
from danet.training.losses import Criterion
from danet.training.provenance import describe_run
from danet.training.state import State
from danet.training.step import Stepper
from table import write_table

CPU = torch.device("cpu")
CLASSES, BATCH, STARTS, REPETITIONS = 11, 8, 4, 5
FIELDS = ("norm", "processes", "together", "images", "seconds", "least", "most", "images_per_second", "strong", "weak")


class Task(NamedTuple):
    """A step that is timed: of so many images in all, by so many processes, which exchange gradients or not."""

    norm: str
    processes: int
    together: bool
    images: int


TASKS = [
    task
    for norm in ("batch", "frozen")
    for task in (Task(norm, 1, False, BATCH), Task(norm, 1, False, BATCH // 2), Task(norm, 2, True, BATCH))
] + [Task("batch", 2, False, BATCH)]


def serve(rank: int, port: int, pipe: Connection) -> None:
    """What each process does: steps, when told to."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in told.items()} | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    torch.set_num_threads(1)
    with joined() as both:

        @cache
        def learner(norm: str, together: bool) -> Stepper:
            return stepper(norm, both if together else ALONE)

        while task := pipe.recv():
            count = task.images // task.processes
            images, masks = batch(count, rank)
            learner(task.norm, task.together).step(0, images, masks, ["noise"])
            pipe.send(None)


def config(norm: str) -> RunConfig:
    fields = {
        "precision": "float32",
        "optim.norm": norm,
        "model.num_classes": str(CLASSES),
        "optim.class_weights": "none",
    }
    return read_config("camvid-r18", fields)


def stepper(norm: str, processes: Processes) -> Stepper:
    torch.manual_seed(0)
    run = config(norm)
    model = build_model(run.model).to(memory_format=torch.channels_last)
    return Stepper(run, State.of(model, run, CPU), Criterion(), CPU, "float32", processes)


@cache
def batch(count: int, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Noise, as images and masks are read; some pixels are never labelled."""
    crop, generator = config("batch").data.crop, torch.Generator().manual_seed(rank)
    images = torch.randint(256, (count, 3, *crop), dtype=torch.uint8, generator=generator)
    masks = torch.randint(CLASSES, (count, *crop), generator=generator)
    masks[:, :8] = IGNORE_INDEX
    return images, masks


def seconds() -> dict[Task, float]:
    """The median of each task; they take turns."""
    spawned = multiprocessing.get_context("spawn")
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # as torchrun keeps one
    pipes, ends = zip(*(spawned.Pipe() for _ in range(2)), strict=True)
    workers = [spawned.Process(target=serve, args=(rank, store.port, end)) for rank, end in enumerate(ends)]
    for worker in workers:
        worker.start()
    times: dict[Task, list[float]] = {task: [] for task in TASKS}
    for repetition in range(REPETITIONS + 1):
        for task in TASKS:
            start = time.perf_counter()
            for pipe in pipes[: task.processes]:
                pipe.send(task)
            for pipe in pipes[: task.processes]:
                pipe.recv()
            if repetition:  # the first is for warming up
                times[task].append(time.perf_counter() - start)
    for pipe, worker in zip(pipes, workers, strict=True):
        pipe.send(None)
        worker.join()
    return {task: statistics.median(values) for task, values in times.items()}


def table(starts: dict[Task, list[float]]) -> list[dict[str, Any]]:
    """Every row; efficiencies are to the one process of the same norm."""
    took = {task: statistics.median(medians) for task, medians in starts.items()}
    rows = []
    for task, one in took.items():
        row: dict[str, Any] = task._asdict() | {"seconds": round(one, 3)}
        row |= {"least": round(min(starts[task]), 3), "most": round(max(starts[task]), 3)}
        row["images_per_second"] = round(task.images / one, 2)
        if task.processes == 2:
            whole, half = (took[Task(task.norm, 1, False, images)] for images in (task.images, task.images // 2))
            if task.together:
                row["strong"] = round(whole / one / 2, 3)
            row["weak"] = round(half / one, 3)
        rows.append(row)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    starts: dict[Task, list[float]] = {task: [] for task in TASKS}
    for start in range(1, STARTS + 1):
        print(f"start {start} of {STARTS}", file=sys.stderr, flush=True)
        for task, median in seconds().items():
            starts[task].append(median)
    rows = table(starts)
    where = describe_run(CPU, "float32", seed=0)
    for row in rows:
        print(row)
    if options.out:
        write_table(options.out, ({**row, **where} for row in rows), [*FIELDS, *where])


if __name__ == "__main__":
    main()
