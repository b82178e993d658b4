"""Rasters of any size: window by window from a file into a GeoTIFF of labels; a run that was killed is gone on with.

Finished window rows lie beside the output under a name of their own, not compressed, with a note of what they were made
of. At the end the GeoTIFF is made of them, read back, and only then given its name.
"""

from __future__ import annotations

import glob
import hashlib
import json
import logging
import math
import os
import time
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from importlib.metadata import version
from itertools import dropwhile, product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Num, UInt8
from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from danet.config import SMALLEST_SIDE, Channels, Preprocess
from danet.data.channels import RGB, as_channels
from danet.data.images import is_grey, is_turned, open_raster, raster_values, readable, refuse_small
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.parallel import Progress
from danet.errors import InputError
from danet.files import claimed, explained, sync, written_aside
from danet.inference.device import batch_pixels, fitting
from danet.inference.image_like import Pixels
from danet.inference.protocol import Protocol
from danet.inference.segmenter import Segmenter
from danet.inference.views import exponential
from danet.inference.windows import Grid, sweep

ONLY_RASTERS = (".jp2", ".vrt")
"""The endings of files that only rasterio opens."""
_CROP, _STRIDE = 512, 384
_TILE = 512  # of the output
_CACHE = 2**24  # bytes of a file's blocks that GDAL keeps at least
_READERS = {"GTiff": TiffImageFile, "JPEG": JpegImageFile, "PNG": PngImageFile}
_MEND = "mend that, or choose another folder with -o; what is done is kept, and the same command goes on with it"
logging.getLogger("rasterio").addHandler(logging.NullHandler())  # what it would print, an error says in its one line


class Window(NamedTuple):
    """A part of an image, in pixels."""

    top: int
    left: int
    height: int
    width: int


def is_raster(path: str | Path, channels: Channels) -> bool:
    """Whether an image is one for `predict_raster`, by its header: it has a place on earth, or is a BigTIFF, a JPEG
    2000 or a VRT, or has more pixels, or more values of `channels`, than a picture that Pillow opens without a warning.

    What cannot be opened is none; nor, where rasterio is not installed, is any TIFF or picture.
    """
    path = Path(path)
    if path.suffix.lower() in ONLY_RASTERS:
        return True
    with suppress(Exception), path.open("rb") as start, open_raster(path) as file:
        big = start.read(4) in (b"II+\0", b"MM\0+")
        placed = file.crs is not None or not file.transform.is_identity or file.gcps[0] or file.rpcs
        pixels, most, colours = file.width * file.height, Image.MAX_IMAGE_PIXELS or math.inf, len(RGB.names)
        return bool(big or placed) or pixels * max(len(channels.names), colours) > most * colours
    return False


def raster_protocol(protocol: Protocol, preprocess: Preprocess) -> Protocol:
    """`protocol` for a raster, which is seen at its own size: in its windows, or in the usual ones where it has none.

    Raises InputError for what would need the whole image at once: another size, several scales, mirrored views.
    """
    name, rule = f"Protocol {protocol.name}", "but a raster is predicted at its own size, window by window"
    if protocol.size == "fit":
        raise InputError(f"{name} has images fitted into {protocol.fit}, {rule}; give size: original.")
    if protocol.scales != (1,):
        raise InputError(f"{name} has scales {list(protocol.scales)}, {rule}; give scales: [1].")
    if protocol.flip:
        raise InputError(f"{name} has flip: true, {rule}; give flip: false.")
    if protocol.crop is not None:
        return protocol.model_copy(update={"size": "original"})
    crop = max(min(_CROP, preprocess.longest or _CROP), SMALLEST_SIDE)
    stride = crop * _STRIDE // _CROP
    blend = "uniform" if protocol.fusion == "exp" else "gaussian"
    windows = {"crop": (crop, crop), "stride": (stride, stride), "blend": blend}
    return protocol.model_copy(update={"name": "raster", "size": "original", **windows})


def predict_raster(
    segmenter: Segmenter,
    path: str | Path,
    folder: str | Path,
    stem: str,
    protocol: Protocol,
    progress: Progress = lambda done, total: None,
    resume: bool = True,
) -> dict[str, Path]:
    """Write STEM.tif, the labels of the image at `path` with its place on earth, and STEM.json, what they add up to.

    What the image calls no data is 255. Memory is that of a row of windows, whatever the height; progress counts
    windows. With `resume`, what a run that ended early has left is gone on with, where image, model and protocol are
    the same; a warning tells where they are not, and all is done anew. Returns the paths of both files.
    Raises InputError for an image that cannot be read or has other channels than the model takes, a protocol that no
    raster can have, a folder that cannot be written to, an output that is in work elsewhere or is the image itself, and
    where memory lacks.
    """
    path, folder, start = Path(path), Path(folder), time.monotonic()
    protocol = raster_protocol(protocol, segmenter.preprocess)
    half = ",".join(str(max(side // 2, SMALLEST_SIDE)) for side in protocol.crop or ())
    lack = fitting(str(path), f"take smaller windows, as with --protocol.crop '[{half}]'")
    target, facts, lock = folder / f"{stem}.tif", folder / f"{stem}.json", folder / f".{stem}.tif.lock"
    with lack, _opened(path, segmenter.preprocess, protocol) as source, explained(target, _MEND):
        grid = Grid.of(source.size, protocol)
        source.refuse_black(lambda: progress(0, grid.total))
        folder.mkdir(parents=True, exist_ok=True)
        if target.exists() and target.samefile(path):
            raise InputError(f"{target} is the image itself; choose another folder with -o.")
        with claimed(folder, lock.name):
            part = _Part(folder / f"{stem}.tif.part", grid, _origin(segmenter, path, protocol), resume)
            for name in (target.name, part.note.name, facts.name):  # what a process left that was killed at the end
                for left in folder.glob(f".{glob.escape(name)}.[0-9]*.part"):
                    left.unlink()
            try:
                with torch.inference_mode():
                    for labels in _strips(segmenter, source, protocol, grid, part.done, progress):
                        part.add(labels, time.monotonic() - start)
                with written_aside(target) as aside:
                    counts = _write(aside, part, source, segmenter.labels)
                total = int(counts.sum())
                told = {
                    "width": grid.size[1],
                    "height": grid.size[0],
                    "windows": grid.total,
                    "protocol": protocol.to_dict(),
                    "shares": _shares(counts, segmenter.labels),
                    "no_data": round(int(counts[IGNORE_INDEX]) / total, 6),
                    "seconds": round(part.before + time.monotonic() - start, 1),
                }
                with written_aside(facts) as aside:
                    aside.write_text(json.dumps(told, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
                part.remove()
            finally:
                lock.unlink(missing_ok=True)
    return {"labels": target, "json": facts}


@contextmanager
def _opened(path: Path, channels: Channels, protocol: Protocol) -> Iterator[_Source]:
    """The image; GDAL keeps so much of it that no block is decoded for each window anew."""
    try:
        import rasterio
    except ImportError:
        raise InputError(f"{path} is a raster, which needs rasterio: pip install 'danet[raster]'.") from None
    with readable(path):
        path.stat()  # which says best that there is no file
        file = open_raster(path)
    with file:
        refuse_small((file.width, file.height), str(path))
        turned = False
        with suppress(Exception), _READERS[file.driver](path) as image:  # which do not mind how large it is
            turned = is_turned(image)
        if turned:
            raise InputError(f"{path} is stored turned or mirrored (EXIF); save it upright.")
        with readable(path):
            source = _Source(file, path, channels)
        with rasterio.Env(GDAL_CACHEMAX=source.cache(protocol)):  # in bytes, other than GDAL itself takes it
            yield source


class _Source:
    """An open raster, whose windows are read in the model's channels as `read_image` reads whole images."""

    def __init__(self, file: Any, path: Path, channels: Channels) -> None:
        from rasterio.enums import MaskFlags

        self.file, self.path, self.channels = file, path, channels
        self.size: tuple[int, int] = (file.height, file.width)
        self.masked = any(MaskFlags.all_valid not in flags for flags in file.mask_flag_enums)
        kinds = [kind.name for kind in file.colorinterp]
        opaque = [band for band, kind in enumerate(kinds, start=1) if kind != "alpha"]
        colours = [kinds.index(colour) + 1 for colour in RGB.names if colour in kinds]
        self.seen = channels.picture or is_grey(channels)  # as people see it, whatever it was saved as
        if self.seen:
            self.bands = colours if len(colours) == len(RGB.names) else opaque
        else:
            self.bands = list(file.indexes) if file.count == len(channels.names) else opaque
        self.palette: UInt8[np.ndarray, "values 3"] | None = None
        if kinds == ["palette"]:
            colormap = file.colormap(1)
            self.palette = np.zeros((max(256, *colormap), 3), np.uint8)
            self.palette[list(colormap)] = [colour[:3] for colour in colormap.values()]
        bits = int(file.tags(1, ns="IMAGE_STRUCTURE").get("NBITS", 8))
        self.white_is_0 = file.tags(ns="IMAGE_STRUCTURE").get("MINISWHITE") == "YES"
        self.step = 255 // (2 ** min(bits, 8) - 1)

    def cache(self, protocol: Protocol) -> int:
        """How many bytes of the file's blocks are kept: those that the windows side by side touch, which are all of a
        row of windows where blocks are as wide as the image; with those from which its mask follows."""
        assert protocol.crop is not None
        down = protocol.crop[0] + self.masked * protocol.steps[0]
        extent, found = (down, self.size[1] if self.masked else 2 * protocol.crop[1]), 0
        for blocks, kind in zip(self.file.block_shapes, self.file.dtypes, strict=True):
            axes = zip(extent, self.size, blocks, strict=True)
            touched = [min(-(-length // block) + 1, -(-side // block)) * block for length, side, block in axes]
            found += math.prod(touched) * np.dtype(kind).itemsize
        return max(found + found // 4, _CACHE)  # with what GDAL keeps beside each

    def pixels(self, window: Window) -> Pixels:
        """A window's values; what lies beyond the image is 0."""
        top, left, height, width = window
        rows, columns = (
            (start, min(start + length, side))
            for start, length, side in zip(window[:2], window[2:], self.size, strict=True)
        )
        source = str(self.path) if (top, left) == (0, 0) else f"{self.path}, seen from pixel ({left}, {top}) on,"
        with readable(self.path):
            values = raster_values(self.file, self.channels, self.bands, (rows, columns))
            pixels = as_channels(self._as_seen(values), self.channels, source, whole=False)
        return np.pad(pixels, ((0, height - pixels.shape[0]), (0, width - pixels.shape[1]), (0, 0)))

    def refuse_black(self, tell: Callable[[], None]) -> None:
        """Raises InputError, as `as_channels` does of whole images, for floats of 0 to 1 where the range is of 8 bits.

        As much is read as tells, of whatever is not dark its first tile; `tell` is called for each.
        """
        if self.channels.picture or self.channels.range != (0, 255):
            return
        brightest, (height, width) = 0.0, self.size
        for top, left in product(range(0, height, _TILE), range(0, width, _TILE)):
            tell()
            place = (top, min(top + _TILE, height)), (left, min(left + _TILE, width))
            with readable(self.path):
                values = raster_values(self.file, self.channels, self.bands, place)
            brightest = max(brightest, float(np.fmax.reduce(values, axis=None)))
            if values.dtype.kind != "f" or len(values) != len(self.channels.names) or brightest > 1:
                return
        as_channels(np.full((1, 1, len(self.channels.names)), brightest), self.channels, str(self.path))

    def void(self, top: int, end: int) -> Bool[np.ndarray, "h w"]:
        """Where rows of the image are no data."""
        with readable(self.path):
            return self.file.dataset_mask(window=((top, end), (0, self.size[1]))) == 0

    def _as_seen(self, values: Num[np.ndarray, "c h w"]) -> Num[np.ndarray, "h w *c"]:
        """The bands' values; where people see them, and they have 8 bits, in as many channels as the model takes."""
        if self.palette is not None:
            pixels = self.palette[values[0]]
        else:
            pixels = values.transpose(1, 2, 0)
            if self.channels.picture and len(values) == 1 and values.dtype.kind in "iu" and values.dtype != np.uint8:
                pixels = (np.clip(pixels, 0, 65535) >> 8).astype(np.uint8)  # as `to_rgb`
            elif values.dtype == np.uint8 and self.seen:
                pixels = pixels * np.uint8(self.step)
                pixels = 255 - pixels if self.white_is_0 else pixels
        if pixels.dtype != np.uint8 or not self.seen:
            return pixels
        if self.channels.picture:
            return np.repeat(pixels, 3, axis=2) if pixels.shape[2] == 1 else pixels
        return np.asarray(Image.fromarray(pixels).convert("L")) if pixels.shape[2] == 3 else pixels


class _Reader:
    """One thread that reads windows in their order, `depth` ahead of the one asked for: a file is not for several."""

    def __init__(self, source: _Source, windows: Iterable[Window], depth: int) -> None:
        self.source, self.depth, self.windows = source, depth, iter(windows)
        self.pool, self.waiting = ThreadPoolExecutor(1), deque[tuple[Window, Future[Pixels]]]()

    def pixels(self, window: Window) -> Pixels:
        if not self.waiting:  # the first, with which a run begins that is gone on with
            self.windows = dropwhile(lambda other: other != window, self.windows)
        while len(self.waiting) <= self.depth and (coming := next(self.windows, None)) is not None:
            self.waiting.append((coming, self.pool.submit(self.source.pixels, coming)))
        found, values = self.waiting.popleft()
        assert found == window
        return values.result()

    def void(self, top: int, end: int) -> Bool[np.ndarray, "h w"]:
        return self.pool.submit(self.source.void, top, end).result()

    def __enter__(self) -> _Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)


def _strips(
    segmenter: Segmenter, source: _Source, protocol: Protocol, grid: Grid, done: int, progress: Progress
) -> Iterator[UInt8[np.ndarray, "h w"]]:
    """The labels of the rows of pixels that each row of windows finishes, without the first `done`."""
    chosen = sorted(segmenter.labels.index(name) for name in protocol.classes)
    pixels = batch_pixels(segmenter.device)
    windows = [Window(top, left, *grid.window) for top, left in product(grid.tops, grid.lefts)]

    def network(images: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        logits = segmenter.logits(images)
        return exponential(logits) if protocol.fusion == "exp" else logits

    with _Reader(source, windows, grid.batch(pixels)) as reader:

        def read(*window: int) -> Float[Tensor, "1 c h w"]:
            return segmenter.to_input(reader.pixels(Window(*window)))

        labels, count = np.empty((0, 0), np.uint8), done * len(grid.lefts)
        for top, left, scores in sweep(read, network, source.size, protocol, done, pixels):
            found = (scores[chosen] if chosen else scores).max(0).indices  # as Prediction.labels
            block = found.byte().cpu().numpy()
            if left == 0:
                labels = np.empty((len(block), grid.size[1]), np.uint8)
            labels[:, left : left + block.shape[1]] = np.array(chosen, np.uint8)[block] if chosen else block
            count += 1
            progress(count, grid.total)
            if left + block.shape[1] == grid.size[1]:
                if source.masked:
                    labels[reader.void(top, top + len(labels))] = IGNORE_INDEX
                yield labels


class _Part:
    """The labels of the window rows that are done, and a note of what they are of and how long they took."""

    def __init__(self, path: Path, grid: Grid, origin: dict[str, Any], resume: bool) -> None:
        self.path, self.note, self.grid, self.origin = path, path.with_name(f"{path.name}.json"), grid, origin
        self.done, self.before = 0, 0.0
        if resume and self.note.exists():
            self._take_up()
        if not self.done:
            self.remove()

    def _take_up(self) -> None:
        try:
            found = json.loads(self.note.read_text(encoding="utf-8"))
            differs = [name for name, value in self.origin.items() if found["origin"].get(name) != value]
            done, before = int(found["rows"]), float(found["seconds"])
            length = [0, *self.grid.ends][done] * self.grid.size[1]
            whole = self.path.stat().st_size >= length
        except (OSError, ValueError, KeyError, IndexError, AttributeError, TypeError):
            differs, done, before, length, whole = [], 0, 0.0, 0, False
        if differs or not whole:
            why = f"is of another {' and '.join(differs)}" if differs else "is damaged"
            warnings.warn(f"{self.path} {why}; the raster is begun anew.", stacklevel=4)
            return
        os.truncate(self.path, length)  # a row that was half written
        self.done, self.before = done, before

    def add(self, labels: UInt8[np.ndarray, "h w"], seconds: float) -> None:
        """Another row of windows, which lasts before it is noted."""
        with self.path.open("ab") as file:
            file.write(labels.data)
        sync(self.path)
        self.done += 1
        told = {"origin": self.origin, "rows": self.done, "seconds": round(self.before + seconds, 1)}
        with written_aside(self.note) as aside:
            aside.write_text(json.dumps(told, indent=2), encoding="utf-8")

    def read(self, rows: int) -> Iterator[tuple[int, UInt8[np.ndarray, "h w"]]]:
        """All of it, some rows of pixels at a time, and where they begin."""
        with self.path.open("rb") as file:
            height, width = self.grid.size
            for top in range(0, height, rows):
                count = min(rows, height - top) * width
                yield top, np.fromfile(file, np.uint8, count).reshape(-1, width)

    def remove(self) -> None:
        self.note.unlink(missing_ok=True)
        self.path.unlink(missing_ok=True)


def _origin(segmenter: Segmenter, path: Path, protocol: Protocol) -> dict[str, Any]:
    """What labels follow from, by the name that a person is told where it differs."""
    weights, file = hashlib.sha256(), path.stat()
    for name, tensor in segmenter.model.state_dict().items():
        weights.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        weights.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    model = {"weights": weights.hexdigest(), "preprocess": segmenter.preprocess.model_dump(mode="json")}
    return {
        "image": [str(path.resolve()), file.st_size, file.st_mtime_ns],
        "model": model,
        "protocol": protocol.to_dict(),
        "device or precision": [str(segmenter.device), segmenter.precision],
        "version of danet or torch": [version("danet"), torch.__version__],
    }


def _write(path: Path, part: _Part, source: _Source, space: LabelSpace) -> Int64[np.ndarray, " 256"]:
    """The GeoTIFF of all labels, with the image's place on earth, read back; returns how many pixels each value has."""
    file, counts = source.file, np.zeros(256, np.int64)
    points, their_crs = file.gcps
    place: dict[str, Any] = {"crs": file.crs, "rpcs": file.rpcs}
    if points:
        place |= {"crs": their_crs, "gcps": points}
    elif not file.transform.is_identity:
        place |= {"transform": file.transform}
    height, width = source.size
    size = {"width": width, "height": height, "count": 1, "dtype": "uint8", "nodata": IGNORE_INDEX}
    form = {"tiled": True, "blockxsize": _TILE, "blockysize": _TILE, "compress": "deflate", "bigtiff": "if_safer"}
    try:
        with open_raster(path, "w", driver="GTiff", **size, **form, **place) as output:
            colours = np.reshape(space.palette(), (256, 3)).tolist()
            output.write_colormap(1, {value: (*colour, 255) for value, colour in enumerate(colours)})
            output.set_band_description(1, "class")
            output.update_tags(1, **{f"class_{index}": name for index, name in enumerate(space.names)})
            for top, labels in part.read(_TILE):
                output.write(labels, 1, window=((top, top + len(labels)), (0, width)))
                counts += np.bincount(labels.ravel(), minlength=256)
        with open_raster(path) as output:  # for what fails when a file is closed, nobody is told
            for top, labels in part.read(_TILE):
                if not np.array_equal(output.read(1, window=((top, top + len(labels)), (0, width))), labels):
                    raise OSError("what was written is not what is read")
    except Exception as error:  # rasterio raises nearly anything
        raise OSError(" ".join(str(error.__cause__ or error).split())) from None
    return counts


def _shares(counts: Int64[np.ndarray, " 256"], space: LabelSpace) -> dict[str, float]:
    """Each class's share of the pixels that are data."""
    total = max(int(counts[: space.num_classes].sum()), 1)
    return {name: round(int(count) / total, 6) for name, count in zip(space.names, counts, strict=False)}
