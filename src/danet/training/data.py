"""What a run learns from: its data sets, read and checked before the first step, and its endless batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.data import DataLoader

from danet.config import ModelConfig, RunConfig
from danet.data.dataset import Dataset, EpochBatches
from danet.data.doctor import check
from danet.data.labels import LabelSpace
from danet.data.parallel import Progress
from danet.data.scenes import far_from_things
from danet.data.sources import open_source
from danet.data.transforms import collate, training_transform
from danet.errors import InputError
from danet.evaluation.evaluate import Region
from danet.training.losses import enet_weights

CHECK_THREADS = 4


@dataclass(frozen=True)
class RunData:
    """Training and validation set, their classes, and the model's configuration with as many of them."""

    train: Dataset
    val: Dataset
    labels: LabelSpace
    model: ModelConfig
    class_weights: Float[Tensor, " k"] | None


def open_data(config: RunConfig, progress: Callable[[str], Progress]) -> RunData:
    """Both sets, every file read and checked; drawn scenes stay in memory. Raises InputError for the first fault."""
    data = config.data
    items, labels = open_source(data.source, "train", root=data.root, count=data.count, size=data.size)
    mean = config.preprocess.mean
    transform = training_transform(data.crop, data.scale, data.flip, data.photometric, mean)
    train = Dataset(items, labels, transform, config.seed)
    val = open_val(config)
    for name, dataset in (("training", train), ("validation", val)):
        if data.source == "scenes":
            dataset.preload(0, progress(f"draw {name} scenes"))  # threads only slow NumPy's small steps down
    summary = check(train, CHECK_THREADS, progress("check training data"))
    check(val, CHECK_THREADS, progress("check validation data"))
    model = config.model
    if "num_classes" in model.model_fields_set and model.num_classes != labels.num_classes:
        raise InputError(
            f"model.num_classes is {model.num_classes}, but labels {labels.name} have {labels.num_classes} classes; "
            "leave it out."
        )
    model = model.model_copy(update={"num_classes": labels.num_classes})
    weights = enet_weights(torch.from_numpy(summary.pixels)) if config.optim.class_weights == "enet" else None
    return RunData(train, val, labels, model, weights)


def open_val(config: RunConfig) -> Dataset:
    """The validation set of a run, without augmentation."""
    data = config.data
    return Dataset(*open_source(data.source, "val", root=data.root, count=data.count, size=data.size))


def batches(config: RunConfig, dataset: Dataset, start_step: int) -> Iterator[tuple[Tensor, Tensor, list[str]]]:
    """Batches of images (uint8 B×3×H×W), masks (int64 B×H×W) and names without end, from step `start_step` on.

    Raises InputError where the data do not fill a batch, and for a file that went bad since it was checked.
    """
    loader = DataLoader(
        dataset,
        batch_sampler=EpochBatches(len(dataset), config.data.batch_size, config.seed, start_step),
        num_workers=config.data.workers,
        collate_fn=collate,
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
