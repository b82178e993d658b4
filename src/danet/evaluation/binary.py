"""Two classes: precision, recall and F1 of the second, by the threshold that its probability has to reach."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int64, UInt8

from danet.data.labels import IGNORE_INDEX

THRESHOLDS = np.arange(1000, dtype=np.float32) / np.float32(1000)


def positive_counts(
    probability: Float[np.ndarray, "h w"], truth: UInt8[np.ndarray, "h w"], positive: int
) -> Int64[np.ndarray, "2 thresholds"]:
    """By the highest of THRESHOLDS that a pixel's `probability` of class `positive` reaches: those that are not of that
    class, and those that are."""
    counted = truth != IGNORE_INDEX
    places = np.searchsorted(THRESHOLDS, probability[counted], side="right") - 1
    there = truth[counted] == positive
    return np.stack([np.bincount(places[held], minlength=len(THRESHOLDS)) for held in (~there, there)])


class Point(NamedTuple):
    """What calling every pixel the class whose probability reaches `threshold` comes to."""

    threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class BinaryScores:
    """What `positive_counts` of class `name`, summed over images, say."""

    name: str
    counts: Int64[np.ndarray, "2 thresholds"]

    @cached_property
    def curve(self) -> list[Point]:
        """A point a threshold; 0 is the precision where nothing is called the class, the recall where nothing is it.

        There is none where no pixel counts.
        """
        if not self.counts.any():
            return []
        false, true = self.counts[:, ::-1].cumsum(1)[:, ::-1]
        there = int(self.counts[1].sum())
        return [
            Point(
                round(float(t), 3),
                hit / max(hit + wrong, 1),
                hit / max(there, 1),
                2 * hit / max(hit + wrong + there, 1),
            )
            for t, hit, wrong in zip(THRESHOLDS, true.tolist(), false.tolist(), strict=True)
        ]

    @property
    def best(self) -> Point | None:
        """The point of the highest F1, of several the one with the lowest threshold; None where no pixel counts."""
        return max(self.curve, key=lambda point: point.f1, default=None)

    def to_dict(self) -> dict[str, Any]:
        """The class and its best point as JSON values."""
        return {"class": self.name, **(self.best._asdict() if self.best else dict.fromkeys(Point._fields))}
