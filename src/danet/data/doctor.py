"""Reads a whole data set before training does: its first fault, or what it holds (`examination` tells all faults)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Int64

from danet.data.dataset import Dataset
from danet.data.labels import IGNORE_INDEX
from danet.data.parallel import Progress
from danet.data.sampling import Counts, class_counts
from danet.errors import InputError


class Summary(NamedTuple):
    """What a data set holds: its number of files, pixels a class (by class index) and pixels ignored, and these counts
    file by file."""

    files: int
    pixels: Int64[np.ndarray, " classes"]
    ignored: int
    counts: Counts


def check(dataset: Dataset, workers: int = 0, progress: Progress | None = None, reading: str = "") -> Summary:
    """Read every image and mask (those in memory are not read again), in `workers` threads.

    reading: as in `class_counts`, which keeps what it counted. Raises InputError for the first fault in the order of
    the items, and for masks that hold nothing to learn.
    """
    summary = summarise(dataset, class_counts(dataset, reading, workers, progress))
    refuse_without_labels(dataset, summary)
    return summary


def summarise(dataset: Dataset, counts: Counts) -> Summary:
    """A data set's pixels by those of its files."""
    total = counts.sum(axis=0)
    return Summary(len(counts), total[: dataset.labels.num_classes], int(total[IGNORE_INDEX]), counts)


def refuse_without_labels(dataset: Dataset, summary: Summary) -> None:
    """Raise InputError for masks without a single labelled pixel."""
    if not summary.pixels.any():
        raise InputError(f"{_masks(dataset)} hold nothing but ignored values; take out of ignore what is a class.")


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
