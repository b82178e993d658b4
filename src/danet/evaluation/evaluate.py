"""One protocol, one report: whole images through the Segmenter, scored on one confusion matrix."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from danet.config import nearest
from danet.data.dataset import Dataset
from danet.data.parallel import Progress
from danet.errors import InputError
from danet.evaluation.metrics import Scores, confusion_matrix
from danet.inference.protocol import read_protocol
from danet.inference.segmenter import Segmenter
from danet.processes import ALONE, Processes

PROTOCOLS = {
    "whole": "each image whole, by the model's own size rule, scored at its own size",
    "whole-original": "each image whole, at its own size whatever the size rule says",
}
Region = Callable[[UInt8[np.ndarray, "h w"]], Bool[np.ndarray, "h w"]]


class ImageScore(NamedTuple):
    """How one image went."""

    name: str
    pixel_accuracy: float
    miou: float


@dataclass(frozen=True)
class Report:
    """Scores of a model on a data set. `region` holds the same for the pixels of a region asked for apart."""

    protocol: str
    scores: Scores
    images: list[ImageScore]
    region: Scores | None = None

    @property
    def majority(self) -> float:
        """The share of the region's most frequent class: what its accuracy would be without looking."""
        return self.region.majority if self.region is not None else 0.0

    def worst(self, count: int) -> list[ImageScore]:
        """The images with the lowest pixel accuracy, worst first."""
        return sorted(self.images, key=lambda image: image.pixel_accuracy)[:count]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values; `context` is the region's accuracy, `majority` what guessing would get there."""
        return {
            "protocol": self.protocol,
            **self.scores.to_dict(),
            "context": self.region.pixel_accuracy if self.region is not None else None,
            "majority": self.majority if self.region is not None else None,
            "images": [image._asdict() for image in self.images],
        }


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    protocol: str = "whole",
    region: Region | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
) -> Report:
    """Score `segmenter` on every image of `dataset` by `protocol`, a name in PROTOCOLS.

    region: true masks (indices, H×W) to the pixels that are also scored apart. processes: those that share the images,
    each once, and all get the whole report.
    Raises InputError for an unknown protocol, and where the data set's classes are not the model's.
    """
    if protocol not in PROTOCOLS:
        raise InputError(f"There is no protocol {protocol!r}. {nearest(protocol, list(PROTOCOLS))}")
    names = segmenter.labels.names
    if dataset.labels.names != names:
        different = next((n for n in dataset.labels.names if n not in names), f"{dataset.labels.num_classes} classes")
        raise InputError(
            f"The data set's classes are not the model's: {different!r} against {', '.join(names)}; "
            "score it on data with the classes that it was trained for."
        )
    counts = np.zeros((2, len(names), len(names)), np.int64)
    total, apart = counts
    scored: dict[int, ImageScore] = {}
    for index in range(processes.rank, len(dataset), processes.count):
        sample = dataset[index]
        truth = sample.mask.numpy()
        predicted = segmenter.predict(sample.pixels, read_protocol(protocol)).labels
        confusion = confusion_matrix(predicted, truth, len(names))
        scores = Scores(names, confusion)
        scored[index] = ImageScore(sample.name, scores.pixel_accuracy, scores.miou)
        total += confusion
        if region is not None:
            apart += confusion_matrix(predicted, truth, len(names), region(truth))
        if progress is not None:
            progress(index + 1, len(dataset))
    processes.sum(torch.from_numpy(counts))
    everywhere = {index: score for found in processes.gather(scored) for index, score in found.items()}
    images = [everywhere[index] for index in sorted(everywhere)]
    return Report(protocol, Scores(names, total), images, Scores(names, apart) if region is not None else None)
