"""What a run learns from: its data sets, read and checked before the first step, and its endless batches."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from danet.config import ModelConfig, Preprocess, RunConfig
from danet.data.dataset import Dataset, EpochBatches
from danet.data.doctor import Summary, check, refuse_binary_with_ignored
from danet.data.labels import LabelSpace
from danet.data.parallel import Progress
from danet.data.sampling import by_class
from danet.data.scenes import far_from_things
from danet.data.sources import Source, Stray, open_source
from danet.data.transforms import collate, training_transform
from danet.errors import InputError
from danet.evaluation.evaluate import Region
from danet.processes import ALONE, Processes

CHECK_THREADS = 4


@dataclass(frozen=True)
class RunData:
    """Training and validation set, their classes, and what a model needs for as many of them and for their channels."""

    train: Dataset
    val: Dataset
    labels: LabelSpace
    model: ModelConfig
    preprocess: Preprocess


def open_data(config: RunConfig) -> RunData:
    """Both sets, listed but not yet read.

    Raises InputError for what is missing, and for a model of other classes or channels.
    """
    model = config.model
    train, preprocess = open_train(config)
    labels, names = train.labels, preprocess.names
    if "num_classes" in model.model_fields_set and model.num_classes != labels.num_classes:
        raise InputError(
            f"model.num_classes is {model.num_classes}, but labels {labels.name} have {labels.num_classes} classes; "
            "leave it out."
        )
    if "in_channels" in model.model_fields_set and model.in_channels != len(names):
        images = "RGB images" if preprocess.picture else f"images of {len(names)} channels ({', '.join(names)})"
        raise InputError(
            f"model.in_channels is {model.in_channels}, but {config.data.source} has {images}; leave it out."
        )
    told = {"num_classes": labels.num_classes, "in_channels": len(names)}
    return RunData(train, open_val(config), labels, model.model_copy(update=told), preprocess)


def open_train(config: RunConfig) -> tuple[Dataset, Preprocess]:
    """The training set of a run, varied as its recipe says, and what its images are."""
    data = config.data
    items, labels = open_split(config, "train")
    preprocess = config.preprocess.of(labels.channels)
    rgb = [preprocess.names.index(name) for name in preprocess.rgb]
    transform = training_transform(
        data.crop,
        data.scale,
        data.flip,
        data.photometric,
        preprocess.mean,
        preprocess.range,
        rgb,
        data.max_class_share,
    )
    return Dataset(items, labels, transform, config.seed), preprocess


def open_val(config: RunConfig) -> Dataset:
    """The validation set of a run, without augmentation."""
    return Dataset(*open_split(config, "val"))


def read_data(config: RunConfig, data: RunData, progress: Callable[[str], Progress]) -> Summary:
    """Read and check every file, and prepare the sampling; drawn scenes stay in memory.

    Files that were checked before and are as they were are not read again. Raises InputError for the first fault.
    """
    for name, dataset in (("training", data.train), ("validation", data.val)):
        if config.data.source == "scenes":  # in one thread: more only slow NumPy's small steps down
            dataset.preload(0, progress(f"draw {name} scenes"))
    key = reading(config, data.preprocess)
    summary = check(data.train, CHECK_THREADS, progress("check training data"), key)
    refuse_binary_with_ignored(data.train, summary)
    check(data.val, CHECK_THREADS, progress("check validation data"), key)
    if config.data.sampling == "balanced":
        data.train.draw = by_class(summary.counts, data.labels.num_classes)
    return summary


def reading(config: RunConfig, preprocess: Preprocess) -> str:
    """What decides, beside the files and their labels, whether they are sound: see `class_counts`."""
    return f"{config.data.source} as {preprocess.names} in {preprocess.range}"


def batches(
    config: RunConfig, dataset: Dataset, start_step: int, processes: Processes = ALONE
) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Batches of images (uint8 or float32 B×C×H×W), masks (int64 B×H×W) and names without end, from `start_step` on.

    Each of several processes gets its part of the batch. Raises InputError where the data do not fill a batch, for a
    batch that cannot be cut into equal parts, and for a file that went bad since it was checked.
    """
    batch, parts = config.data.batch_size, processes.count * config.optim.accumulate
    if batch % parts:
        raise InputError(
            f"data.batch_size is {batch}, but {processes.count} process(es) × optim.accumulate "
            f"{config.optim.accumulate} want equal parts: make it a multiple of {parts}."
        )
    order = EpochBatches(len(dataset), batch, config.seed, start_step, processes.rank, processes.count)
    loader = DataLoader(
        dataset,
        batch_sampler=order,
        num_workers=config.data.workers,
        collate_fn=collate,
        worker_init_fn=_leave_interrupts_to_the_run,
        generator=torch.Generator(),  # the workers' seeds must not advance the global generator
    )

    def feed() -> Iterator[tuple[Tensor, Tensor, list[str]]]:
        try:
            yield from loader
        except InputError as error:  # a worker's error comes with its traceback as text
            raise InputError(str(error).strip().splitlines()[-1].removeprefix("danet.errors.InputError: ")) from None

    return feed()


def context_region(config: RunConfig) -> Region | None:
    """Where drawn scenes hide the answer far away: the pixels that the context score counts; none for other data."""
    return far_from_things if config.data.source == "scenes" else None


def absolute_root(config: RunConfig) -> RunConfig:
    """`config` with the whole paths of its data folder and labels, so that the run can be evaluated from anywhere."""
    data = config.data
    local = {"root": data.root} if data.source != "table" or Path(data.root or "").expanduser().exists() else {}
    local |= {"labels": data.labels} if Path(data.labels or "").suffix in (".yaml", ".yml") else {}
    whole = {name: str(Path(path).expanduser().resolve()) for name, path in local.items() if path is not None}
    return config.model_copy(update={"data": data.model_copy(update=whole)})


def open_split(config: RunConfig, split: str, strays: list[Stray] | None = None) -> Source:
    """A split's items, not yet read, and their labels; strays: see `open_source`."""
    data = config.data
    return open_source(
        data.source,
        split,
        root=data.root,
        count=data.count,
        size=data.size,
        columns=data.columns,
        labels=data.labels,
        preprocess=config.preprocess,
        strays=strays,
    )


def _leave_interrupts_to_the_run(worker: int) -> None:
    """A terminal's Ctrl-C, and SIGTERM from torchrun or Slurm, reach every process; the run ends its workers itself,
    after the step at hand, with a SIGTERM of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if not hasattr(signal, "sigwaitinfo"):
        return
    run = os.getppid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != run:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()
