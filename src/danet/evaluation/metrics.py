"""A confusion matrix, and the scores that follow from it; counts are int64, ignored pixels never count."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from danet.data.labels import IGNORE_INDEX


def confusion_matrix(
    prediction: UInt8[np.ndarray, "h w"],
    truth: UInt8[np.ndarray, "h w"],
    num_classes: int,
    within: Bool[np.ndarray, "h w"] | None = None,
) -> Int64[np.ndarray, "k k"]:
    """Pixels of true class i (row) predicted as class j (column), of the whole image or of those `within`.

    Raises ValueError for different shapes and for a class outside 0 … num_classes − 1 in either.
    """
    if prediction.shape != truth.shape:
        raise ValueError(f"The prediction is {prediction.shape}, its truth {truth.shape}; they must be alike.")
    valid = truth != IGNORE_INDEX if within is None else within & (truth != IGNORE_INDEX)
    predicted, true = prediction[valid].astype(np.int64), truth[valid].astype(np.int64)
    for what, values in (("prediction", predicted), ("truth", true)):
        if values.max(initial=0) >= num_classes:
            raise ValueError(f"The {what} holds class {values.max()}; there are {num_classes}.")
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """What a confusion matrix says. Classes absent from truth and prediction have no IoU and count in no mean."""

    names: tuple[str, ...]
    confusion: Int64[np.ndarray, "k k"]

    @property
    def iou(self) -> dict[str, float | None]:
        """Intersection over union of each class; None where the class is neither there nor predicted."""
        hits = np.diag(self.confusion)
        union = self.confusion.sum(0) + self.confusion.sum(1) - hits
        return {n: int(h) / int(u) if u else None for n, h, u in zip(self.names, hits, union, strict=True)}

    @property
    def accuracy(self) -> dict[str, float | None]:
        """Each class's share of pixels that are found; None where the class is not there."""
        hits, there = np.diag(self.confusion), self.confusion.sum(1)
        return {n: int(h) / int(t) if t else None for n, h, t in zip(self.names, hits, there, strict=True)}

    @property
    def dice(self) -> dict[str, float | None]:
        """Twice the intersection over the sum of both areas (the class's F1); None where that sum is 0."""
        hits, sizes = np.diag(self.confusion), self.confusion.sum(0) + self.confusion.sum(1)
        return {n: 2 * int(h) / int(s) if s else None for n, h, s in zip(self.names, hits, sizes, strict=True)}

    @property
    def miou(self) -> float | None:
        """The mean of the IoUs that there are; None, as all that follows, where no pixel counts."""
        return mean_of(self.iou)

    @property
    def mean_accuracy(self) -> float | None:
        """The mean accuracy of the classes that are there."""
        return mean_of(self.accuracy)

    @property
    def mean_dice(self) -> float | None:
        """The mean of the Dice scores that there are."""
        return mean_of(self.dice)

    @property
    def frequency_weighted_iou(self) -> float | None:
        """The IoUs, each weighted by its class's share of the true pixels (Long et al., 2015)."""
        there = self.confusion.sum(1)
        found = sum(int(count) * (iou or 0.0) for count, iou in zip(there, self.iou.values(), strict=True))
        return found / self.pixels if self.pixels else None

    @property
    def pixel_accuracy(self) -> float | None:
        """The share of all counted pixels that are right."""
        return int(np.trace(self.confusion)) / self.pixels if self.pixels else None

    @property
    def majority(self) -> float | None:
        """The share of the most frequent true class: what the accuracy would be without looking."""
        return int(self.confusion.sum(1).max()) / self.pixels if self.pixels else None

    @property
    def pixels(self) -> int:
        """How many pixels count."""
        return int(self.confusion.sum())

    @property
    def absent(self) -> tuple[str, ...]:
        """The classes that no mean counts."""
        return tuple(name for name, value in self.iou.items() if value is None)

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values."""
        return {
            "miou": self.miou,
            "pixel_accuracy": self.pixel_accuracy,
            "mean_accuracy": self.mean_accuracy,
            "mean_dice": self.mean_dice,
            "frequency_weighted_iou": self.frequency_weighted_iou,
            "iou": self.iou,
            "accuracy": self.accuracy,
            "dice": self.dice,
            "absent": list(self.absent),
        }


def mean_of(values: dict[str, float | None]) -> float | None:
    """The mean of the scores that there are; None where there is none."""
    there = [value for value in values.values() if value is not None]
    return sum(there) / len(there) if there else None
