"""What a Segmenter takes as an image, and its file values."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, UInt8
from PIL import Image

from danet.config import Channels
from danet.data.channels import as_channels
from danet.data.images import read_image, to_channels

ImageLike: TypeAlias = str | Path | Image.Image | np.ndarray
Pixels: TypeAlias = UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]


def as_pixels(image: ImageLike, channels: Channels) -> Pixels:
    """The file values of a path, a PIL image, or an array that holds them already, in `channels`."""
    if isinstance(image, str | Path):
        return read_image(image, channels)
    if isinstance(image, Image.Image):
        return to_channels(image, channels)
    return as_channels(image, channels)
