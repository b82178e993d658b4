"""The bytes of a request as an image: its type by its content, its pixels counted before any is decoded."""

import math
import warnings
from io import BytesIO

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from danet.config import SMALLEST_SIDE
from danet.data.images import to_rgb
from danet.errors import InputError
from danet.inference.views import network_size
from danet.serving.limits import DECODED, Limits
from danet.serving.problems import Problem

FORMATS = ("PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF")
"""Of Pillow's formats those that hold pixels alone: none that names a file, runs a program or is drawn from a text."""
NOT_AN_IMAGE = "send the bytes of a PNG, JPEG, WebP, TIFF, GIF, BMP or AVIF file."


def decode(body: bytes, limits: Limits, longest: int | None) -> UInt8[np.ndarray, "h w 3"]:
    """The image, upright, in RGB, shrunk to `longest` if it is larger; of several frames the first.

    Raises Problem for what is no image or damaged, and for too many or too few pixels.
    """
    try:
        # What Pillow warns of is either a limit, which is checked here, or a fault that does not matter.
        with warnings.catch_warnings(action="ignore"), Image.open(BytesIO(body), formats=FORMATS) as image:
            _check_size(image.width, image.height, limits, longest)
            if longest is not None:
                image.draft("RGB", (longest, longest))
            pixels = to_rgb(image)
    except InputError as error:
        raise Problem("not_an_image", f"{error}") from None
    except Problem:
        raise
    except Image.DecompressionBombError:
        raise Problem(
            "too_large_pixels", f"The image has far more than {limits.pixels:,} pixels; shrink it.", limit=limits.pixels
        ) from None
    except Exception:  # whatever a decoder finds in foreign bytes
        raise Problem("not_an_image", f"The body is no image, or is damaged; {NOT_AN_IMAGE}") from None
    height, width, _ = pixels.shape
    rows, columns = network_size(height, width, longest)
    if (rows, columns) == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((columns, rows), Image.Resampling.LANCZOS))


def _check_size(width: int, height: int, limits: Limits, longest: int | None) -> None:
    """Raises Problem, before anything is decoded."""
    size = f"The image has {width:,}×{height:,} pixels"
    if min(width, height) < SMALLEST_SIDE:
        raise Problem(
            "too_small",
            f"{size}; each side must be at least {SMALLEST_SIDE}: enlarge it first.",
            limit=SMALLEST_SIDE,
        )
    asked = network_size(height, width, longest)
    if math.prod(asked) <= limits.pixels and width * height <= DECODED * limits.pixels:
        return
    if width * height > DECODED * limits.pixels:
        limit = DECODED * limits.pixels
        raise Problem("too_large_pixels", f"{size}, more than {limit:,}; shrink it.", limit=limit)
    fitting = math.floor(max(width, height) * math.sqrt(limits.pixels / (width * height)))
    raise Problem(
        "too_large_pixels",
        f"{size}, more than {limits.pixels:,}; shrink it, or ask with longest={fitting}.",
        limit=limits.pixels,
        longest=fitting,
    )
