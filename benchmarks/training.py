"""One step of training DANet-ResNet50, ours and mmsegmentation's in turn: time and peak memory, and what losses hold.

    python benchmarks/training.py [--mmseg PYTHON] [--out results/training.csv]

A step is forward in training mode, the losses of the three classifiers and of the auxiliary head, backward, and SGD
with momentum, from random weights, on the CPU. Two processes wait, ours and theirs, and do one step each in turn, so
that a slow moment meets both; after one step to warm up, seconds are the median, and `ratio` is that to theirs in the
same type. Memory is the peak of a fresh process over two steps (the second has SGD's momentum), libraries and weights
included (on Linux).

PYTHON is the interpreter of an environment with mmsegmentation 1.2.2, which mmseg_worker.py says how to make; without
it only ours is measured. "all resized logits kept" is our network with its losses as they are usually written: every
classifier's logits at the masks' size live until the backward. Takes about ten minutes on two cores, of which
nothing else may take any.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danet.config import OptimConfig, Preprocess, RunConfig
from danet.data.labels import IGNORE_INDEX
from danet.data.transforms import normalise
from danet.inference.device import Precision, autocast
from danet.models.segmentation import SegmentationModel, create_model
from danet.training.losses import Criterion
from danet.training.provenance import describe_run
from danet.training.state import State
from danet.training.step import Stepper
from table import write_table
from worker import Worker, peak_gigabytes, seconds, serve

CPU = torch.device("cpu")
REPETITIONS = 3
STEPS = 2  # the second has SGD's momentum
OURS, NAIVE = "danet", "danet, all resized logits kept"
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")


class Task(NamedTuple):
    """What a step is done on."""

    batch: int
    size: tuple[int, int]
    classes: int
    precision: Precision

    def arguments(self) -> list[str]:
        size = map(str, self.size)
        rest = ["--batch", str(self.batch), "--classes", str(self.classes), "--precision", self.precision]
        return ["--size", *size, *rest]


TIMED = [Task(1, (768, 768), 19, precision) for precision in PRECISIONS]
LOSSES = [Task(2, (384, 384), classes, "float32") for classes in (19, 150)]


def our_step(
    task: Task, backbone: str = "resnet50c", device: torch.device = CPU
) -> tuple[nn.Module, Callable[[], object]]:
    """Our network, and one step of its training as `danet train` takes it, gradient norm and checks included."""
    optim = OptimConfig(optimizer="sgd", lr=0.01, momentum=0.9, weight_decay=0, gate_factor=1)
    config = RunConfig(precision=task.precision, optim=optim)
    model = network(task, backbone).to(device)
    state = State.of(model, config, device)
    stepper = Stepper(config, state, Criterion(), device, task.precision)
    images, masks = batch(task)
    return model, lambda: stepper.step(0, images, masks, ["a batch of noise"])


def naive_step(task: Task) -> tuple[nn.Module, Callable[[], object]]:
    """The same network; its losses written as is usual."""
    model = network(task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, masks = batch(task)
    rule = Preprocess()

    def step() -> None:
        with autocast(CPU, task.precision):
            small = model.classify(normalise(images, rule.mean, rule.std, rule.range))
        large = {name: model.enlarge(logits, masks.shape[1:]) for name, logits in small.items()}
        losses = [
            (0.4 if name == "auxiliary" else 1.0) * F.cross_entropy(logits, masks, ignore_index=IGNORE_INDEX)
            for name, logits in large.items()
        ]
        optimizer.zero_grad()
        torch.stack(losses).sum().backward()
        optimizer.step()

    return model, step


def network(task: Task, backbone: str = "resnet50c") -> SegmentationModel:
    torch.manual_seed(0)
    model = create_model("danet", backbone, task.classes, auxiliary=True)
    return model.to(memory_format=torch.channels_last).train()


def batch(task: Task) -> tuple[Tensor, Tensor]:
    """Noise, as images and masks are read; some pixels are never labelled."""
    images = torch.randint(256, (task.batch, 3, *task.size), dtype=torch.uint8)
    masks = torch.randint(task.classes, (task.batch, *task.size))
    masks[:, :8] = IGNORE_INDEX
    return images, masks


def table(commands: dict[str, list[str]], naive: list[str]) -> list[dict[str, Any]]:
    """Every row; the last of `commands` is what ratios are to, if there is more than one."""
    rows = []
    for task in TIMED:
        print("measuring", *task, file=sys.stderr, flush=True)
        told = {name: [*command, *task.arguments()] for name, command in commands.items()}
        took = {name: statistics.median(times) for name, times in seconds(told, REPETITIONS).items()}
        for name, command in told.items():
            row = {"network": name, **describe(task), "seconds": round(took[name], 2)}
            if len(commands) > 1:
                row["ratio"] = round(took[name] / took[list(commands)[-1]], 3)
            rows.append(row | {"peak_gigabytes": round(peak_gigabytes(command, STEPS), 2)})
    for task in LOSSES:
        print("measuring", *task, file=sys.stderr, flush=True)
        for name, command in {NAIVE: naive, **commands}.items():
            peak = peak_gigabytes([*command, *task.arguments()], STEPS)
            rows.append({"network": name, **describe(task), "peak_gigabytes": round(peak, 2)})
    return rows


def describe(task: Task) -> dict[str, Any]:
    size = "×".join(map(str, (task.batch, 3, *task.size)))
    return {"images": size, "classes": task.classes, "type": task.precision}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mmseg", metavar="PYTHON", help="the interpreter of an environment with mmsegmentation")
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    worker = parser.add_argument_group("for its own processes")
    worker.add_argument("--worker", choices=["ours", "naive"])
    worker.add_argument("--size", type=int, nargs=2)
    worker.add_argument("--batch", type=int)
    worker.add_argument("--classes", type=int)
    worker.add_argument("--precision")
    options = parser.parse_args()
    if options.worker:
        task = Task(options.batch, tuple(options.size), options.classes, options.precision)
        model, step = naive_step(task) if options.worker == "naive" else our_step(task)
        return serve({"parameters": sum(p.numel() for p in model.parameters())}, step)
    ours = [sys.executable, __file__, "--worker"]
    commands = {OURS: [*ours, "ours"]}
    if options.mmseg:
        theirs = [options.mmseg, str(Path(__file__).with_name("mmseg_worker.py"))]
        worker = Worker([*theirs, *Task(2, (64, 64), 19, "float32").arguments()])
        worker.end()
        commands[worker.facts["name"]] = theirs
    rows = table(commands, [*ours, "naive"])
    where = describe_run(CPU, "in each row", seed=0)
    for row in rows:
        print(row)
    if options.out:
        fields = ["network", "images", "classes", "type", "seconds", "ratio", "peak_gigabytes", *where]
        write_table(options.out, ({**row, **where} for row in rows), fields)
    return None


if __name__ == "__main__":
    main()
