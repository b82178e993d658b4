"""What a Segmenter takes as an image, and its file values."""

from __future__ import annotations

from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float32, Num, UInt8
from PIL import Image
from torch import Tensor

from danet.config import Channels
from danet.data.channels import as_channels, as_picture
from danet.data.images import read_image, readable, refuse_small, to_channels
from danet.errors import InputError

ImageLike: TypeAlias = str | Path | bytes | Image.Image | np.ndarray | Tensor
"""A file's path or its bytes; an image of Pillow's; an array, height × width × channels; or a tensor, channels × height
× width, on any device. An array or tensor may be grey, without channels."""
Pixels: TypeAlias = UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]


def as_pixels(image: ImageLike, channels: Channels) -> Pixels:
    """The file values of an image in `channels`, upright, in memory of their own.

    For a model of ordinary pictures see `danet.data.images.to_rgb` and `danet.data.channels.as_picture`; one of other
    channels takes these alone, as they are in files (`danet.data.channels.as_channels`). Raises InputError for others.
    """
    if isinstance(image, str | Path | bytes):
        return read_image(image, channels)
    if isinstance(image, Image.Image):
        with readable("The image"):  # decoded only now
            return to_channels(image, channels)
    source = "The tensor" if isinstance(image, Tensor) else "The array"
    values = _channels_last(image) if isinstance(image, Tensor) else image
    pixels = as_picture(values, source) if channels.picture else as_channels(values, channels, source)
    refuse_small(pixels.shape[1::-1], source)
    return pixels.copy() if np.shares_memory(pixels, values) else pixels


def _channels_last(image: Tensor) -> Num[np.ndarray, "h w *c"]:
    if image.ndim == 3 and image.shape[0] > 4 and image.shape[2] <= 4:
        raise InputError(
            f"The tensor is {image.dtype} {tuple(image.shape)}; a tensor's channels come first: permute(2, 0, 1)."
        )
    if image.ndim not in (2, 3):
        raise InputError(f"The tensor is {image.dtype} {tuple(image.shape)}; give one image, C×H×W or H×W.")
    image = image.detach().cpu()
    values = (image.float() if image.dtype == torch.bfloat16 else image).numpy()
    return values if values.ndim == 2 else values.transpose(1, 2, 0)
