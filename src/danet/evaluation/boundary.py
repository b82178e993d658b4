"""Boundary IoU: how well outlines are met (Cheng et al., CVPR 2021), in int64 counts, summed over images.

As their code has it (https://github.com/bowenc0221/boundary-iou-api, utils/boundary_utils.py), an image's edge is an
outline too; so is the rim of what is ignored, which itself never counts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt8

from danet.data.labels import IGNORE_INDEX
from danet.evaluation.metrics import mean_of

WIDTH = 0.02
"""The outlines' width as a share of the image's diagonal; theirs for ordinary images (0.005 for Cityscapes)."""


def outlines(labels: UInt8[np.ndarray, "h w"], distance: int) -> Bool[np.ndarray, "h w"]:
    """The pixels with another label, or the image's end, within `distance` in both directions.

    Those of class k are what erosion by a 3×3 square, `distance` times, takes from k's mask; so one pass does for all
    classes.
    """
    padded = np.pad(labels, distance, constant_values=IGNORE_INDEX)
    width = 2 * distance + 1
    least, most = (_slid(_slid(padded, width, extreme).T, width, extreme).T for extreme in (np.minimum, np.maximum))
    return (least != most) & (labels != IGNORE_INDEX)


def boundary_counts(
    prediction: UInt8[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], num_classes: int, width: float = WIDTH
) -> Int64[np.ndarray, "2 k"]:
    """Pixels of each class's true and predicted outlines: of both at once, and of either one."""
    distance = max(1, round(width * math.hypot(*truth.shape)))
    prediction = np.where(truth == IGNORE_INDEX, truth, prediction)
    there, said = outlines(truth, distance), outlines(prediction, distance)
    both, true, predicted = (
        np.bincount(values, minlength=num_classes)
        for values in (truth[there & said & (truth == prediction)], truth[there], prediction[said])
    )
    return np.stack([both, true + predicted - both])


@dataclass(frozen=True)
class BoundaryScores:
    """What `boundary_counts`, summed over images, say; a class without any outline has no score."""

    names: tuple[str, ...]
    counts: Int64[np.ndarray, "2 k"]
    width: float = WIDTH

    @property
    def iou(self) -> dict[str, float | None]:
        """Boundary IoU of each class."""
        return {n: int(b) / int(e) if e else None for n, b, e in zip(self.names, *self.counts, strict=True)}

    @property
    def miou(self) -> float | None:
        """The mean of those that there are; None where there is none."""
        return mean_of(self.iou)

    def to_dict(self) -> dict[str, Any]:
        """The scores as JSON values."""
        return {"width": self.width, "miou": self.miou, "iou": self.iou}


def _slid(values: UInt8[np.ndarray, "n m"], width: int, extreme: np.ufunc) -> UInt8[np.ndarray, "k m"]:
    """The extreme of every `width` rows that follow one another, by doubling: a few passes, however many rows."""
    size = 1
    while size < width:
        step = min(size, width - size)
        values = extreme(values[:-step], values[step:])
        size += step
    return values
