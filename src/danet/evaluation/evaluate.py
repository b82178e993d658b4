"""One protocol, one report: images through the Segmenter, scored in counts that are summed over all of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from danet.data.dataset import Dataset, Sample
from danet.data.labels import IGNORE_INDEX
from danet.data.parallel import Progress, ahead
from danet.errors import InputError
from danet.evaluation.binary import THRESHOLDS, BinaryScores, positive_counts
from danet.evaluation.boundary import BoundaryScores, boundary_counts
from danet.evaluation.calibration import BINS, Calibration, calibration_counts, mean_loss
from danet.evaluation.metrics import Scores, confusion_matrix
from danet.inference.prediction import Prediction
from danet.inference.protocol import Protocol, as_protocol
from danet.inference.segmenter import Segmenter
from danet.processes import ALONE, Processes

Region = Callable[[UInt8[np.ndarray, "h w"]], Bool[np.ndarray, "h w"]]
Keep = Callable[[str, UInt8[np.ndarray, "h w"]], None]
"""Takes an image's name and its predicted class indices."""


class ImageScore(NamedTuple):
    """How one image went; `pixels` count, `loss` is their mean cross entropy in nats, where it was asked for.

    An image without a pixel that counts has no score.
    """

    name: str
    pixel_accuracy: float | None
    miou: float | None
    loss: float | None
    pixels: int


@dataclass(frozen=True)
class Report:
    """Scores of a model on a data set by a protocol, from which they can be made again; `images` in the set's order.

    `region` holds the scores of the pixels of a region asked for apart. `boundary` and `calibration` are there if
    details were asked for, and then `binary`, if there are two classes. device, precision: what it was computed on and
    in; sha256: what tells the model from every other (`weights.bundle.digest`); data_fields: the split, and the fields
    of the configuration by which it was opened. What is not known is empty.
    """

    protocol: Protocol
    scores: Scores
    images: list[ImageScore]
    region: Scores | None = None
    boundary: BoundaryScores | None = None
    calibration: Calibration | None = None
    binary: BinaryScores | None = None
    model: str = ""
    data: str = ""
    device: str = ""
    precision: str = ""
    sha256: str = ""
    data_fields: dict[str, Any] = field(default_factory=dict)

    @property
    def majority(self) -> float | None:
        """The share of the region's most frequent class: what its accuracy would be without looking."""
        return self.region.majority if self.region is not None else None

    @property
    def loss(self) -> float | None:
        """The mean cross entropy of all pixels that count, in nats, where it was asked for."""
        if self.calibration is None or not self.scores.pixels:
            return None
        return sum((image.loss or 0.0) * image.pixels for image in self.images) / self.scores.pixels

    def worst(self, count: int | None = None) -> list[ImageScore]:
        """The images, or `count` of them, worst first: by loss, where there is one, else by pixel accuracy.

        Those without a pixel that counts come last.
        """

        def goodness(image: ImageScore) -> tuple[bool, float]:
            return image.pixels == 0, (image.pixel_accuracy or 0.0) if image.loss is None else -image.loss

        return sorted(self.images, key=goodness)[:count]

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, its images worst first; a file of it is a protocol to `read_protocol`.

        `context` is the region's accuracy, `majority` what guessing would get there.
        """
        parts = {"boundary": self.boundary, "calibration": self.calibration, "binary": self.binary}
        made = {key: getattr(self, key) for key in ("sha256", "device", "precision", "data_fields")}
        return {
            "protocol": self.protocol.to_dict(),
            "model": self.model,
            "data": self.data,
            **{key: value for key, value in made.items() if value},
            "danet": version("danet"),
            "image_count": len(self.images),
            **self.scores.to_dict(),
            "context": self.region.pixel_accuracy if self.region is not None else None,
            "majority": self.majority,
            **({} if self.calibration is None else {"loss": self.loss}),
            **{name: part.to_dict() for name, part in parts.items() if part is not None},
            "images": [image._asdict() for image in self.worst()],
        }


def evaluate(
    segmenter: Segmenter,
    dataset: Dataset,
    protocol: Protocol | str = "whole",
    region: Region | None = None,
    progress: Progress | None = None,
    processes: Processes = ALONE,
    *,
    details: bool = True,
    keep: Keep | None = None,
) -> Report:
    """Score `segmenter` on every image of `dataset` by `protocol`: a Protocol, or what `read_protocol` takes.

    Where the protocol names classes, only they are predicted, and pixels of others do not count.
    region: true masks (indices, H×W) to the pixels that are also scored apart. processes: those that share the images,
    each once, and all get the whole report. details: also boundary IoU, calibration and losses, which take all classes'
    probabilities. keep: is given every prediction, by the process that made it.
    Raises InputError for an unknown protocol or class, where the data set's classes are not the model's, and for a
    model whose answers are no numbers.
    """
    protocol = as_protocol(protocol)
    names = segmenter.labels.names
    if dataset.labels.names != names:
        different = next((n for n in dataset.labels.names if n not in names), f"{dataset.labels.num_classes} classes")
        raise InputError(
            f"The data set's classes are not the model's: {different!r} against {', '.join(names)}; "
            "score it on data with the classes that it was trained for."
        )
    kept = sorted(map(segmenter.labels.index, protocol.classes)) or list(range(len(names)))
    table = np.full(256, IGNORE_INDEX, np.uint8)
    table[kept] = kept
    counts, rows = _Counts(len(names)), dict[int, ImageScore]()
    indices = range(processes.rank, len(dataset), processes.count)
    with closing(_samples(dataset, indices)) as samples:
        for index, sample in zip(indices, samples, strict=True):
            mask = sample.mask.numpy()
            truth, prediction = table[mask], segmenter.predict(sample.pixels, protocol)
            confusion = confusion_matrix(prediction.labels, truth, len(names))
            counts.confusion += confusion
            if region is not None:
                counts.apart += confusion_matrix(prediction.labels, truth, len(names), region(mask))
            loss = None
            if details:
                loss = mean_loss(prediction.probabilities, truth)
                if loss is not None and math.isnan(loss):
                    raise InputError(
                        f"What the model says of {sample.name} is no number; its weights are damaged, or its precision "
                        "is too small: try --precision float32."
                    )
                counts.add_details(prediction, truth, kept)
            scores = Scores(names, confusion)
            rows[index] = ImageScore(sample.name, scores.pixel_accuracy, scores.miou, loss, scores.pixels)
            if keep is not None:
                keep(sample.name, prediction.labels)
            if progress is not None:
                progress(index + 1, len(dataset))
    counts.sum(processes)
    everywhere = {index: row for found in processes.gather(rows) for index, row in found.items()}
    counted = tuple(names[index] for index in kept)
    return Report(
        protocol,
        Scores(counted, counts.confusion[np.ix_(kept, kept)]),
        [everywhere[index] for index in sorted(everywhere)],
        Scores(counted, counts.apart[np.ix_(kept, kept)]) if region is not None else None,
        BoundaryScores(counted, counts.boundary[:, kept]) if details else None,
        Calibration(counts.calibration, counts.confidence) if details else None,
        BinaryScores(counted[1], counts.positives) if details and len(kept) == 2 else None,
        segmenter.facts.name,
        dataset.labels.name,
        str(segmenter.device),
        segmenter.precision,
    )


class _Counts:
    """What is counted over images: in int64, but for the sums of confidence, in float64."""

    def __init__(self, num_classes: int) -> None:
        self.confusion, self.apart = np.zeros((2, num_classes, num_classes), np.int64)
        self.boundary = np.zeros((2, num_classes), np.int64)
        self.calibration, self.confidence = np.zeros((2, BINS), np.int64), np.zeros(BINS)
        self.positives = np.zeros((2, len(THRESHOLDS)), np.int64)

    def add_details(self, prediction: Prediction, truth: UInt8[np.ndarray, "h w"], kept: Sequence[int]) -> None:
        """Count one image's outlines and probabilities; where two classes are `kept`, by the second's probability."""
        self.boundary += boundary_counts(prediction.labels, truth, len(self.confusion))
        pixels, confidence = calibration_counts(prediction.confidence, prediction.labels, truth)
        self.calibration += pixels
        self.confidence += confidence
        if len(kept) == 2:
            self.positives += positive_counts(prediction.probabilities[kept[1]].numpy(), truth, kept[1])

    def sum(self, processes: Processes) -> None:
        """Put the sum over all processes in the place of each count."""
        for array in vars(self).values():
            processes.sum(torch.from_numpy(array))


def _samples(dataset: Dataset, indices: Sequence[int]) -> Generator[Sample, None, None]:
    """Samples in order, read ahead in threads; one after the other where they draw from torch's one generator."""
    if dataset.transform is None:
        yield from ahead(dataset.__getitem__, indices)
    else:
        yield from map(dataset.__getitem__, indices)
