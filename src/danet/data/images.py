"""Image and mask files as arrays, whatever mode they were saved in; every fault names the file."""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float32, Num, UInt8, UInt16
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from danet.config import SMALLEST_SIDE, Channels
from danet.data.channels import RGB, as_channels
from danet.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


TIFF = (".tif", ".tiff")
_SAMPLES = 277  # the TIFF tag that counts a pixel's values
_WARNINGS = threading.Lock()
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it would print, an error says in its one line


def image_suffixes(channels: Channels) -> tuple[str, ...]:
    """The endings of image files in a folder; an array file is an image only where images are no pictures."""
    return IMAGE_SUFFIXES if channels.picture else (*IMAGE_SUFFIXES, ".npy")


def read_image(path: str | Path, channels: Channels = RGB) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """An image file's values in `channels`, upright by its EXIF orientation (see `as_channels` for the type).

    As a picture any file is turned into RGB (`to_rgb`). Other channels are read as they are, with all their bits: from
    what Pillow keeps whole, .npy files of height × width × channels, and, by rasterio, TIFF and PNG of any number and
    depth; a single channel of 8 bits is the grey of any file of 8 bits.
    Raises InputError for a file that is missing, damaged, no image, of other channels, larger than Pillow's limit, or
    smaller than 32×32; and for a file that needs rasterio where it is not installed.
    """
    suffix = Path(path).suffix.lower()
    if suffix == ".npy":
        return as_channels(_array(path), channels, str(path))
    if (suffix in TIFF or not channels.picture) and _needs_rasterio(path, channels):
        return as_channels(read_bands(path), channels, str(path))
    with _opened(path) as image:
        return to_channels(image, channels, str(path))


def to_channels(
    image: Image.Image, channels: Channels = RGB, source: str = "The image"
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """An open image's values in `channels`; raises InputError as `to_rgb` and `as_channels` do, and for lost bits."""
    if channels.picture:
        return to_rgb(image, source)
    if _deep_colour(image):
        raise InputError(f"{source} has 16 bits a channel, of which Pillow keeps 8; give the path of its file instead.")
    _refuse_small(image.size, source)
    image = ImageOps.exif_transpose(image)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if _is_grey(channels) and not image.mode.startswith(("I", "F")):
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.array(image)
    return as_channels(values if values.ndim == 3 else values[..., None], channels, source)


def to_rgb(image: Image.Image, source: str = "The image") -> UInt8[np.ndarray, "h w 3"]:
    """An open image of any mode but float as RGB, upright: transparency is dropped, of 16 bits the high 8 are kept.

    Raises InputError, beginning with `source`, for a floating-point image or one smaller than 32×32.
    """
    _refuse_small(image.size, source)
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


def read_colours(path: str | Path) -> UInt8[np.ndarray, "h w 3"]:
    """A mask file's colours, of a label space whose masks are colours: RGB, RGBA or a palette's.

    Raises InputError for a file that is missing, damaged or no image, and for one without colours.
    """
    with _opened(path) as image:
        if image.mode not in ("RGB", "RGBA", "P"):
            raise InputError(
                f"{path} is {image.mode}, but masks are colours by its labels (modes RGB, RGBA or P). Save the "
                "classes' colours, or take masks: colours out of labels.yaml."
            )
        return np.array(image.convert("RGBA").convert("RGB"))


def read_pair(
    image: str | Path, mask: str | Path, channels: Channels = RGB, read: Callable[[str | Path], np.ndarray] = read_mask
) -> tuple[
    UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"],
    UInt8[np.ndarray, "h w *c"] | UInt16[np.ndarray, "h w"],
]:
    """An image and its mask, which `read` reads; raises InputError as both do, and where their sizes differ."""
    pixels, values = read_image(image, channels), read(mask)
    if pixels.shape[:2] != values.shape[:2]:
        turned = pixels.shape[1::-1] == values.shape[:2] and file_mode(image).turned
        mend = "Turn the mask as the image's EXIF orientation turns it" if turned else "Save it again at that size"
        raise InputError(
            f"{mask} is {_size(values.shape[1::-1])} pixels, its image {image} {_size(pixels.shape[1::-1])} "
            f"(width×height, upright); a mask has its image's size. {mend}."
        )
    return pixels, values


class FileMode(NamedTuple):
    """How an image file keeps its values: Pillow's mode (with a depth that Pillow would lose), and whether it is to be
    turned or mirrored by its EXIF orientation."""

    mode: str
    turned: bool = False


def file_mode(path: str | Path) -> FileMode:
    """An image file's mode, by its header alone; a file that Pillow does not know has its ending as mode."""
    try:
        with Image.open(path) as image:
            # For a PNG file without EXIF, asking for it would decode the whole.
            turned = (image.format != "PNG" or "exif" in image.info) and image.getexif().get(
                ExifTags.Base.Orientation, 1
            ) != 1
            return FileMode(f"{image.mode} of 16 bits" if _deep_colour(image) else image.mode, turned)
    except Exception:  # whatever is wrong, `_opened` tells
        return FileMode(Path(path).suffix.lower().removeprefix(".") or "unknown")


def _array(path: str | Path) -> Num[np.ndarray, "h w *c"]:
    """A .npy file's array; it is mapped before it is read, so that a false size in its header takes no memory."""
    with readable(path):
        values = np.lib.format.open_memmap(path, mode="r")  # which reads no pickle
        _refuse_large(values.shape[:2], path)
        values = np.array(values)
    if values.ndim in (2, 3):
        _refuse_small(values.shape[1::-1], str(path))
    return values


def read_bands(path: str | Path) -> Num[np.ndarray, "h w c"]:
    """All bands of a TIFF or PNG file, with all their bits."""
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning, RasterioIOError
    except ImportError:
        raise InputError(
            f"{path} is no ordinary picture, and other TIFF and 16-bit colour files need rasterio: "
            "pip install 'danet[raster]'."
        ) from None
    with readable(path):
        with Path(path).open("rb") as file:
            driver = "PNG" if file.read(4) == b"\x89PNG" else "GTiff"
        with _WARNINGS, warnings.catch_warnings():  # which works in one thread at a time alone
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            raster = rasterio.open(path, driver=driver)
        with raster:
            _refuse_large((raster.height, raster.width), path)
            _refuse_small((raster.width, raster.height), str(path))
            try:
                return raster.read().transpose(1, 2, 0)
            except RasterioIOError as error:
                raise OSError(str(error.__cause__ or error)) from None


def _deep_colour(image: Image.Image) -> bool:
    """Whether an image is that of a PNG file with several channels of 16 bits, of which Pillow keeps 8."""
    path = Path(getattr(image, "filename", ""))
    if image.format != "PNG" or not path.is_file():
        return False
    with path.open("rb") as file:
        depth, colour = file.read(26)[24:]
    return depth == 16 and colour != 0


def _needs_rasterio(path: str | Path, channels: Channels) -> bool:
    """Whether Pillow does not know a TIFF, or would lose or change something of the channels that are asked for."""
    try:
        with Image.open(path) as image:
            several = getattr(image, "tag_v2", {}).get(_SAMPLES, 1) > 1 and not _is_grey(channels)
            return not channels.picture and (several or _deep_colour(image))
    except UnidentifiedImageError:
        return Path(path).suffix.lower() in TIFF
    except Exception:  # whatever else is wrong, `_opened` tells
        return False


def _is_grey(channels: Channels) -> bool:
    """Whether the single channel of 8 bits is asked for that any picture can be turned into."""
    return len(channels.names) == 1 and channels.range == (0, 255)


def _refuse_small(size: tuple[int, ...], source: str) -> None:
    if min(size) < SMALLEST_SIDE:
        raise InputError(
            f"{source} is {_size(size)} pixels; an image needs at least {SMALLEST_SIDE}×{SMALLEST_SIDE}. "
            "Leave it out, or enlarge it."
        )


def _refuse_large(shape: tuple[int, ...], path: str | Path) -> None:
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if limit and np.prod(shape, dtype=float) > limit:
        raise InputError(f"{path} is too large to open safely: {_size(shape[::-1])} pixels. Cut it into tiles.")


@contextmanager
def _opened(path: str | Path) -> Iterator[Image.Image]:
    """The decoded image; raises InputError as `readable` does."""
    with readable(path), Image.open(path) as image:
        image.load()
        yield image


@contextmanager
def readable(path: str | Path) -> Iterator[None]:
    """Whatever goes wrong in opening and decoding becomes an InputError that names the file."""
    try:
        yield
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"{path} does not exist; give the path of an image file.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise InputError(f"{path} is too large to open safely: {error} Cut it into tiles.") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        known = not isinstance(error, UnidentifiedImageError)
        reason = (
            " ".join(str(error).split()).rstrip(".") or type(error).__name__
            if known
            else "it is no image of a known format"
        )
        raise InputError(f"{path} cannot be read: {reason}. Copy or export the file again.") from None


def _size(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
