"""Image and mask files as arrays, whatever mode they were saved in; every fault names the file."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jaxtyping import UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from danet.config import SMALLEST_SIDE
from danet.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def read_image(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """An image file as RGB, upright by its EXIF orientation (see `to_rgb` for the modes).

    Raises InputError for a file that is missing, damaged, no image, of a mode that has no one meaning as RGB, larger
    than Pillow's limit, or smaller than 32×32.
    """
    with _opened(path) as image:
        return to_rgb(image, str(path))


def to_rgb(image: Image.Image, source: str = "The image") -> UInt8[np.ndarray, "h w 3"]:
    """An open image of any mode but float as RGB, upright: transparency is dropped, of 16 bits the high 8 are kept.

    Raises InputError, beginning with `source`, for a floating-point image or one smaller than 32×32.
    """
    if min(image.size) < SMALLEST_SIDE:
        raise InputError(
            f"{source} is {_size(image.size)} pixels; an image needs at least {SMALLEST_SIDE}×{SMALLEST_SIDE}. "
            "Leave it out, or enlarge it."
        )
    if image.mode == "F":
        raise InputError(f"{source} holds floating-point values; save it with 8 or 16 bits a channel.")
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I"):  # 16-bit grey, or (mode I) what Pillow widened from it
        grey = (np.clip(np.asarray(image), 0, 65535) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns about the direct way
        image = image.convert("RGBA")
    return np.array(image.convert("RGB"))


def read_mask(path: str | Path) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
    """A mask file's values: grey of 1, 8 or 16 bits, or a palette's indices (not its colours).

    Raises InputError for a file that is missing, damaged or no image, and for one with several channels.
    """
    with _opened(path) as image:
        if image.mode in ("1", "L", "P"):
            return np.array(image, dtype=np.uint8)
        if image.mode.startswith("I"):
            values = np.asarray(image)
            if values.min() >= 0 and values.max() <= 65535:
                return values.astype(np.uint16)
        raise InputError(
            f"{path} is {image.mode}; a mask is one channel of class indices (modes L, P, 1, or I up to 65535). "
            "Save each pixel's class index instead of its colour."
        )


def read_pair(
    image: str | Path, mask: str | Path
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]]:
    """An image and its mask; raises InputError as `read_image` and `read_mask` do, and where their sizes differ."""
    pixels, values = read_image(image), read_mask(mask)
    if pixels.shape[:2] != values.shape:
        raise InputError(
            f"{mask} is {_size(values.shape[::-1])} pixels, its image {image} {_size(pixels.shape[1::-1])} "
            "(width×height, upright); a mask has its image's size. Save it again at that size."
        )
    return pixels, values


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The decoded image; whatever goes wrong in opening and decoding becomes an InputError that names the file."""
    try:
        with Image.open(path) as image:
            image.load()
            yield image
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of an image file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} is too large to open safely: {error} Cut it into tiles.") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        known = not isinstance(error, UnidentifiedImageError)
        reason = " ".join(str(error).split()) or type(error).__name__ if known else "it is no image of a known format"
        raise InputError(f"{path} cannot be read: {reason}. Copy or export the file again.") from None


def _size(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
