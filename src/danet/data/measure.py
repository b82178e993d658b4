"""What the channels of someone's own images are: how many, of how many bits, their means and deviations."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from danet.config import Channels
from danet.data.images import file_mode, open_array, read_bands, read_image
from danet.data.parallel import Progress, parallel_map
from danet.errors import InputError

SAMPLE = 200
"""So many images are measured, drawn by a fixed seed."""
_TIFF = (".tif", ".tiff")
_DEPTHS = (8, 10, 12, 14, 16)
_SMALLEST_DEVIATION = 0.01
_RAW = (0.0, 65535.0)
_EIGHT_BITS = (0.0, 255.0)


def measure_channels(images: Sequence[Path], workers: int = 0, progress: Progress | None = None) -> Channels | None:
    """The channels of `images`; None for ordinary pictures, whose mean and deviation are best left to be ImageNet's.

    The range is that of the smallest usual depth (8, 10, 12, 14, 16 bits) that holds all values; of floats 0 to 1, or
    the smallest and largest value. Raises InputError for images of different channels, and as `read_image` does.
    """
    chosen = sorted(random.Random(0).sample(list(images), min(SAMPLE, len(images))))
    counts = {path: _count(path) for path in chosen}
    plain = all(_is_picture(path) for path in chosen)
    if plain and 3 in counts.values():
        return None
    one, other = (next(path for path in chosen if counts[path] == end(counts.values())) for end in (min, max))
    count = counts[one]
    if counts[other] != count:
        raise InputError(
            f"{one} and {other} differ in channels ({count} and {counts[other]}); images of one data set have as many. "
            "Convert some, or leave them out."
        )
    names = {1: ["grey"], 3: ["red", "green", "blue"]}.get(count, [f"channel {number + 1}" for number in range(count)])
    raw = Channels.model_validate({"names": names, "range": _EIGHT_BITS if plain else _RAW})

    def sums(path: Path) -> np.ndarray:
        values = read_image(path, raw).reshape(-1, count).astype(np.float64)
        whole = np.full(count, float((values == np.rint(values)).all()))
        size = np.full(count, float(len(values)))
        return np.stack([size, values.sum(0), (values**2).sum(0), values.min(0), values.max(0), whole])

    found = np.stack(list(parallel_map(sums, chosen, workers, progress)))
    size, total, squares = found[:, :3].sum(0)
    low, high = _range(float(found[:, 3].min()), float(found[:, 4].max()), bool(found[:, 5].all()))
    mean = total / size
    deviation = np.sqrt(np.maximum(squares / size - mean**2, 0)) / (high - low)
    return Channels.model_validate(
        {
            "names": names,
            "range": [low, high],
            "mean": [round(float(value), 4) for value in (mean - low) / (high - low)],
            "std": [round(max(float(value), _SMALLEST_DEVIATION), 4) for value in deviation],
        }
    )


def _range(low: float, high: float, whole: bool) -> tuple[float, float]:
    depth = next((depth for depth in _DEPTHS if high < 2**depth), None)
    if whole and low >= 0 and high > 1 and depth is not None:
        return 0.0, float(2**depth - 1)
    if low >= 0 and high <= 1:
        return 0.0, 1.0
    return low, max(high, low + 1)


def _is_picture(path: Path) -> bool:
    """Whether a file is an ordinary picture, of 8 bits: grey or colour, with or without transparency."""
    mode = file_mode(path).mode
    grey, colour = mode in ("1", "L", "LA"), mode in ("P", "RGB", "CMYK", "YCbCr", "HSV", "LAB")
    return grey or colour or (mode in ("RGBA", "PA") and path.suffix.lower() not in _TIFF)


def _count(path: Path) -> int:
    """The number of a file's channels, by its header; transparency is none, but in a TIFF it may be anything."""
    suffix, mode = path.suffix.lower(), file_mode(path).mode
    if suffix == ".npy":
        try:
            shape = open_array(path).shape
        except (OSError, ValueError) as error:
            raise InputError(f"{path} cannot be read: {error}. Save it again with numpy.save.") from None
        return shape[2] if len(shape) == 3 else 1
    if mode in ("1", "L", "F") or mode.startswith("I"):
        return 1
    if not _is_picture(path):
        return read_bands(path).shape[2]
    return 1 if mode == "LA" else 3
