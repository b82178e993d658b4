"""Image and mask files as arrays, whatever mode they were saved in; every fault names the file."""

from __future__ import annotations

import logging
import os
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float32, Num, UInt8, UInt16
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from danet.config import SMALLEST_SIDE, Channels
from danet.data.channels import RGB, as_channels
from danet.errors import InputError

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


TIFF = (".tif", ".tiff")
Encoded: TypeAlias = str | Path | bytes
"""An image file: its path, or what it holds."""
_MAGIC = {b"II*\0": ".tif", b"MM\0*": ".tif", b"II+\0": ".tif", b"MM\0+": ".tif", b"\x93NUM": ".npy"}
"""How files begin that have a way of their own."""
_ANIMATIONS = ("GIF", "PNG", "WEBP", "AVIF")
_HEIF = (b"ftypheic", b"ftypheix", b"ftyphevc", b"ftypmif1")
_SAMPLES, _NODATA = 277, 42113  # TIFF tags: a pixel's count of values; what GDAL calls no data
_WARNINGS = threading.Lock()
_HEADERS = threading.Lock()
"""Held while an array's header is parsed: Python 3.11's parser may fail where threads do that at once (gh-106905)."""
logging.getLogger("PIL").addHandler(logging.NullHandler())  # what it would print, an error says in its one line


def image_suffixes(channels: Channels) -> tuple[str, ...]:
    """The endings of image files in a folder; an array file is an image only where images are no pictures."""
    return IMAGE_SUFFIXES if channels.picture else (*IMAGE_SUFFIXES, ".npy")


def read_image(image: Encoded, channels: Channels = RGB) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """An image file's values in `channels`, upright by its EXIF orientation (see `as_channels` for the type).

    As a picture any file is turned into RGB (`to_rgb`). Other channels are read as they are, with all their bits: from
    what Pillow keeps whole, .npy files of height × width × channels, and, by rasterio, TIFF and PNG of any number and
    depth; a single channel of 8 bits is the grey of any file of 8 bits. Of an animation it is the first frame, and a
    warning says so.
    Raises InputError for a file that is missing, damaged, no image, of other channels, larger than Pillow's limit, or
    smaller than 32×32; and for a file that needs rasterio where it is not installed.
    """
    refuse_no_file(image)
    if _kind(image) == ".npy":
        return as_channels(_array(image), channels, named(image))
    if (_kind(image) in TIFF or not channels.picture) and _needs_rasterio(image, channels):
        return as_channels(read_bands(image, channels), channels, named(image))
    with _opened(image) as opened:
        return to_channels(opened, channels, named(image))


def named(image: Encoded) -> str:
    """What messages call an image file."""
    return "The image" if isinstance(image, bytes) else str(image)


def refuse_no_file(image: Encoded) -> None:
    """Raises InputError for what is empty, a folder, a link to nothing, or may never end, as a pipe or a device."""
    mend = "give the path of an image file"
    if isinstance(image, bytes) or os.path.isfile(image):
        if not (len(image) if isinstance(image, bytes) else os.path.getsize(image)):
            raise InputError(f"{named(image)} cannot be read: it is empty. Copy or export the file again.")
    elif os.path.exists(image):
        kind = "directory" if os.path.isdir(image) else "pipe or a device"
        raise InputError(f"{image} cannot be read: it is a {kind}; {mend}.")
    elif os.path.islink(image):
        raise InputError(f"{image} is a link to {os.readlink(image)}, which does not exist; mend or remove it.")
    else:
        raise InputError(f"{image} does not exist; {mend}.")


def to_channels(
    image: Image.Image, channels: Channels = RGB, source: str = "The image"
) -> UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"]:
    """An open image's values in `channels`; raises InputError as `to_rgb` and `as_channels` do, and for lost bits."""
    if channels.picture:
        return to_rgb(image, source)
    if _deep_colour(image):
        raise InputError(f"{source} has 16 bits a channel, of which Pillow keeps 8; give the path of its file instead.")
    refuse_small(image.size, source)
    image = ImageOps.exif_transpose(image)
    if image.mode == "P":
        image = image.convert("RGBA" if "transparency" in image.info else "RGB")
    if is_grey(channels) and not image.mode.startswith(("I", "F")):
        image = image.convert("L")
    elif image.mode not in ("L", "LA", "RGB", "RGBA", "F") and not image.mode.startswith("I"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    values = np.array(image)
    return as_channels(values if values.ndim == 3 else values[..., None], channels, source)


def to_rgb(image: Image.Image, source: str = "The image") -> UInt8[np.ndarray, "h w 3"]:
    """An open image of any mode but float as RGB, upright: transparency is dropped, of 16 bits the high 8 are kept.

    Raises InputError, beginning with `source`, for a floating-point image or one smaller than 32×32.
    """
    refuse_small(image.size, source)
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
            return FileMode(f"{image.mode} of 16 bits" if _deep_colour(image) else image.mode, is_turned(image))
    except Exception:  # whatever is wrong, `_opened` tells
        return FileMode(Path(path).suffix.lower().removeprefix(".") or "unknown")


def is_turned(image: Image.Image) -> bool:
    """Whether an open image file is to be turned or mirrored by its EXIF orientation."""
    # For a PNG file without EXIF, asking for it would decode the whole.
    known = image.format != "PNG" or "exif" in image.info
    return known and image.getexif().get(ExifTags.Base.Orientation, 1) != 1


def _kind(image: Encoded) -> str:
    """The ending of an image file; of bytes, that of files which begin so."""
    return _MAGIC.get(image[:4], "") if isinstance(image, bytes) else Path(image).suffix.lower()


def _source(image: Encoded) -> str | Path | BytesIO:
    """What Pillow opens."""
    return BytesIO(image) if isinstance(image, bytes) else image


def _array(image: Encoded) -> Num[np.ndarray, "h w *c"]:
    """A .npy file's array; it is mapped before it is read, so that a false size in its header takes no memory."""
    with readable(named(image)):
        values = open_array(image)
        _refuse_large(values.shape[:2], named(image))
        values = np.array(values)
    if values.ndim in (2, 3):
        refuse_small(values.shape[1::-1], named(image))
    return values


def open_array(image: Encoded) -> np.ndarray:
    """A .npy file's array, a file's mapped; raises OSError or ValueError for what is none, or a pickle."""
    with _HEADERS:
        if isinstance(image, bytes):
            return np.load(BytesIO(image), allow_pickle=False)
        return np.lib.format.open_memmap(image, mode="r")  # which reads no pickle


def read_bands(image: Encoded, channels: Channels = RGB) -> Num[np.ndarray, "h w c"]:
    """All bands of a TIFF or PNG file, with all their bits; see `raster_values` for what they call no data."""
    try:
        import rasterio
    except ImportError:
        raise InputError(
            f"{named(image)} is no ordinary picture, and other TIFF and 16-bit colour files need rasterio: "
            "pip install 'danet[raster]'."
        ) from None
    with readable(named(image)):
        with nullcontext(BytesIO(image)) if isinstance(image, bytes) else Path(image).open("rb") as file:
            driver = "PNG" if file.read(4) == b"\x89PNG" else "GTiff"
        with ExitStack() as held:
            path = held.enter_context(rasterio.MemoryFile(image)).name if isinstance(image, bytes) else image
            raster = held.enter_context(open_raster(path, driver=driver))
            _refuse_large((raster.height, raster.width), named(image))
            refuse_small((raster.width, raster.height), named(image))
            return raster_values(raster, channels).transpose(1, 2, 0)


def open_raster(path: str | Path, mode: str = "r", **options: Any) -> Any:
    """What rasterio opens, without its warning of files that have no place on earth."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    with _WARNINGS, warnings.catch_warnings():  # which works in one thread at a time alone
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        return rasterio.open(path, mode, **options)


def raster_values(
    raster: Any,
    channels: Channels,
    bands: Sequence[int] | None = None,
    window: tuple[tuple[int, int], tuple[int, int]] | None = None,
) -> Num[np.ndarray, "c h w"]:
    """An open raster's values: of all `bands` (counted from 1), or some; whole, or in a window of rows and columns.

    What the raster calls no data is the channels' mean where no number in their range says so: -9999, or NaN, would
    outshout all around it in a network.
    """
    from rasterio.errors import RasterioIOError

    bands = list(bands or raster.indexes)
    nodata = [raster.nodatavals[band - 1] for band in bands]
    low, high = channels.range
    try:
        values = raster.read(bands, window=window)
        if len(bands) == len(channels.names) and any(one is not None and not low <= one <= high for one in nodata):
            void = raster.read_masks(bands, window=window) == 0
            means = low + (high - low) * np.array(channels.mean, np.float32)
            values = np.where(void, means[:, None, None], values.astype(np.float32))
        return values
    except RasterioIOError as error:
        raise OSError(str(error.__cause__ or error)) from None


def _deep_colour(image: Image.Image) -> bool:
    """Whether an image is that of a PNG file with several channels of 16 bits, of which Pillow keeps 8."""
    if image.format != "PNG" or image.mode.startswith("I"):
        return False
    if tiles := getattr(image, "tile", None):  # not decoded yet
        return ";16" in str(tiles[0][3])
    path = Path(getattr(image, "filename", ""))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        depth, colour = file.read(26)[24:]
    return depth == 16 and colour != 0


def _needs_rasterio(image: Encoded, channels: Channels) -> bool:
    """Whether Pillow does not know a TIFF, or would lose or change something of the channels that are asked for."""
    try:
        with Image.open(_source(image)) as opened:
            tags = getattr(opened, "tag_v2", {})
            told = (tags.get(_SAMPLES, 1) > 1 or _NODATA in tags) and not is_grey(channels)
            return not channels.picture and (told or _deep_colour(opened))
    except UnidentifiedImageError:
        return _kind(image) in TIFF
    except Exception:  # whatever else is wrong, `_opened` tells
        return False


def is_grey(channels: Channels) -> bool:
    """Whether the single channel of 8 bits is asked for that any picture can be turned into."""
    return len(channels.names) == 1 and channels.range == (0, 255)


def refuse_small(size: tuple[int, ...], source: str) -> None:
    """Raises InputError, beginning with `source`, for a width or height under 32."""
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
def _opened(image: Encoded) -> Iterator[Image.Image]:
    """The decoded image, of several frames the first; raises InputError as `refuse_no_file` and `readable` do."""
    refuse_no_file(image)
    with readable(named(image)), Image.open(_source(image)) as opened:
        if opened.format in _ANIMATIONS and getattr(opened, "is_animated", False):
            warnings.warn(f"{named(image)} is animated; its first frame is taken.", stacklevel=2)
        opened.load()
        yield opened


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
    except UnidentifiedImageError:
        raise InputError(f"{path} cannot be read: {_unknown(path)}. Save it as PNG or JPEG.") from None
    except Exception as error:  # decoders of damaged files raise nearly anything
        reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
        if reason.startswith("decoder error"):  # libtiff's number, and no word
            reason = f"it is damaged, or compressed in a way that is not known here ({reason})"
        raise InputError(f"{path} cannot be read: {reason}. Copy or export the file again.") from None


def _unknown(path: str | Path) -> str:
    """What a file is that is no image to Pillow; of bytes, which have no path, no more than that."""
    if os.path.isfile(path):
        with Path(path).open("rb") as file:
            if file.read(12)[4:] in _HEIF:
                return "it is HEIC, whose codec is not here"
    return "it is no image of a known format"


def _size(size: tuple[int, ...]) -> str:
    return "×".join(map(str, size))
