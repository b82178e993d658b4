"""How often each class is in each image, counted once and kept; and crops drawn by class."""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int64

from danet.data.dataset import Dataset
from danet.data.parallel import Progress, parallel_map
from danet.errors import InputError
from danet.files import written_aside
from danet.weights.zoo import cache_folder

Counts = Int64[np.ndarray, "n 256"]
"""Pixels of each class index in each item, IGNORE_INDEX (255) among them."""


class ByClass(NamedTuple):
    """Draws (item, class): a class that the data have, and then an item with it, both evenly.

    holders: by class index the items that have it; it draws from torch's CPU generator.
    """

    holders: tuple[tuple[int, Int64[np.ndarray, " items"]], ...]

    def __call__(self) -> tuple[int, int]:
        index, items = self.holders[int(torch.randint(len(self.holders), ()))]
        return int(items[int(torch.randint(len(items), ()))]), index


def by_class(counts: Counts, num_classes: int) -> ByClass:
    """The draw for items with these counts; raises InputError where they have no class at all."""
    present = np.flatnonzero(counts[:, :num_classes].any(axis=0))
    if not present.size:
        raise InputError(f"None of the {len(counts)} masks has a labelled pixel; balanced sampling needs some.")
    return ByClass(tuple((int(index), np.flatnonzero(counts[:, index])) for index in present))


def class_counts(dataset: Dataset, reading: str = "", workers: int = 0, progress: Progress | None = None) -> Counts:
    """Every image and mask is read, in `workers` threads, and the classes' pixels are counted.

    Of files that are as they were (name, size, time of change) the counts are taken from the user's cache folder;
    reading: what else decides whether a file is sound, such as the channels it is read in.
    Raises InputError for the first fault in the order of the items.
    """
    kept = _kept_counts(dataset, reading)
    if kept is not None and kept.is_file():
        with suppress(Exception), kept.open("rb") as file:  # what cannot be read, for any reason, is counted again
            counts = np.load(file, allow_pickle=False)["counts"]
            if counts.shape == (len(dataset), 256):
                return counts

    def histogram(index: int) -> Int64[np.ndarray, " 256"]:
        _, indices = dataset.arrays(index)
        return np.bincount(indices.ravel(), minlength=256)

    counts = np.stack(list(parallel_map(histogram, range(len(dataset)), workers, progress)))
    if kept is not None:
        with suppress(OSError):  # a cache folder that cannot be written costs time, no more
            kept.parent.mkdir(parents=True, exist_ok=True)
            with written_aside(kept) as aside, aside.open("wb") as file:
                np.savez_compressed(file, counts=counts)
    return counts


def _kept_counts(dataset: Dataset, reading: str) -> Path | None:
    """Where the counts of these files are kept; None where the items are no files."""
    paths = [path for item in dataset.items for path in (item.name, item.mask)]
    try:
        files = [
            (os.path.abspath(path), status.st_size, status.st_mtime_ns) for path in paths if (status := os.stat(path))
        ]
    except OSError:
        return None
    told = json.dumps([version("danet"), dataset.labels.to_dict(), reading, files], sort_keys=True)
    return cache_folder() / "counts" / f"{hashlib.sha256(told.encode()).hexdigest()[:32]}.npz"
