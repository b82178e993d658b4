"""Reads a whole data set before training does: its first fault, or what it holds."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from danet.data.dataset import Dataset
from danet.data.labels import IGNORE_INDEX
from danet.data.parallel import Progress, parallel_map
from danet.errors import InputError


class Summary(NamedTuple):
    """What a data set holds: its number of files, pixels a class (by class index) and pixels ignored."""

    files: int
    pixels: Int64[np.ndarray, " classes"]
    ignored: int


def check(dataset: Dataset, workers: int = 0, progress: Progress | None = None) -> Summary:
    """Read every image and mask (those in memory are not read again), in `workers` threads.

    Raises InputError for the first fault in the order of the items, and for masks that hold nothing to learn.
    """

    def histogram(index: int) -> Int64[np.ndarray, " 256"]:
        _, indices = dataset.arrays(index)
        return np.bincount(indices.ravel(), minlength=256)

    counts = sum(parallel_map(histogram, range(len(dataset)), workers, progress), np.zeros(256, np.int64))
    summary = Summary(len(dataset), counts[: dataset.labels.num_classes], int(counts[IGNORE_INDEX]))
    if not summary.pixels.any():
        raise InputError(f"{_masks(dataset)} hold nothing but ignored values; take out of ignore what is a class.")
    return summary


def refuse_binary_with_ignored(dataset: Dataset, summary: Summary) -> None:
    """Raise InputError for training masks of 0 and 255 alone: where 255 is ignored, nothing would be learnt."""
    labels = dataset.labels
    only_zero_and_255 = summary.ignored and not summary.pixels[1:].any() and labels.ignore == (IGNORE_INDEX,)
    if only_zero_and_255 and labels.num_classes > 1:
        raise InputError(
            f"{_masks(dataset)} hold nothing but {labels.names[0]} and 255, which is ignored. If 255 is "
            f"{labels.names[1]}, write ids: {{0: 0, 255: 1}} and ignore: [] in labels.yaml."
        )


def _masks(dataset: Dataset) -> str:
    return f"The {len(dataset)} masks ({dataset.items[0].mask or dataset.items[0].name}, …)"
