"""Large images and their masks cut into tiles that overlap: the same windows of both, and an index of them."""

from __future__ import annotations

import csv
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import yaml
from jaxtyping import Num
from PIL import ExifTags, Image, ImageOps

from danet.config import SMALLEST_SIDE, read_yaml
from danet.data.images import IMAGE_SUFFIXES, TIFF, file_mode, read_colours, read_mask, readable
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.listing import Stray, read_layout
from danet.data.pairs import list_files, stem_of
from danet.data.parallel import Progress
from danet.data.sources import folder
from danet.data.split import LISTS, SPLITS, in_folders
from danet.errors import InputError
from danet.files import built_aside

INDEX = "index.csv"
_SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
_SPLITS = (*SPLITS, "test")
_MOST_PIXELS = 2**30
"""Of an image that has to be held whole, since its format cannot be read in parts."""


class Window(NamedTuple):
    """A tile's place in its source, in pixels from the upper left."""

    x: int
    y: int
    width: int
    height: int


class Tile(NamedTuple):
    """A line of the index: paths below the output and the input folder, the window, and which share of it is void."""

    tile: str
    source: str
    x: int
    y: int
    width: int
    height: int
    void_share: float


class Cut(NamedTuple):
    """The tiles that were written, and how many were left out as void."""

    tiles: list[Tile]
    left_out: int


def starts(length: int, size: int, overlap: int) -> list[int]:
    """Where tiles of `size` pixels begin on an axis of `length`: they cover it, and overlap by `overlap` or more.

    All lie within it; the last is moved back where it would reach beyond. A shorter axis has one tile, as long as it.
    """
    last = max(length - size, 0)
    return [*range(0, last, size - overlap), last]


def windows(width: int, height: int, size: int, overlap: int) -> list[Window]:
    """The tiles of an image, row by row."""
    across, down = starts(width, size, overlap), starts(height, size, overlap)
    return [Window(x, y, min(size, width), min(size, height)) for y, x in product(down, across)]


def cut(
    source: Path,
    output: Path,
    size: int = 512,
    overlap: int = 64,
    void: float = 0.95,
    progress: Progress = lambda done, total: None,
) -> Cut:
    """Cut `source` into tiles of `size`×`size` pixels in the new folder `output`, with an index.csv.

    source: someone's own data (images/, masks/, labels.yaml), which becomes data of the same form, each tile in the
    split of its image; or an image, or a folder of images. Tiles are PNG; those of TIFF files and of PNG files of 16
    bits a channel are TIFF with the part's georeference, those of .npy files .npy: no value changes. TIFF and .npy are
    read in parts, other files whole. void: a tile is left out where more than this share of it is ignored in its mask,
    or, without masks, is no data in its TIFF file.
    Raises InputError for settings that cannot be, for what cannot be read, for sizes that differ, and for an `output`
    that is there or lies in `source`; then nothing is written.
    """
    _refuse_settings(size, overlap, void)
    labels, pairs = _listed(source)
    _refuse_output(output, source)
    below = source if source.is_dir() else source.parent
    tiles: list[Tile] = []
    with _no_limit():
        plan = {stem: _planned(image, mask, size, overlap) for stem, (image, mask) in pairs.items()}
        total, done = sum(map(len, plan.values())), 0
        with built_aside(output.resolve()) as aside:
            for stem, (image, mask) in pairs.items():
                with _opened(image) as picture, _opened(mask or image) as truth:
                    for window in plan[stem]:
                        name = f"{stem}-x{window.x}-y{window.y}"
                        if mask is None or labels is None:
                            share = picture.void_share(window)
                        else:
                            part = truth.write(window, aside / "masks" / name)
                            share = _ignored_share(part, labels, f"The part of {mask} at ({window.x}, {window.y})")
                            if share > void:
                                part.unlink()
                        if share <= void:
                            path = picture.write(window, aside / "images" / name)
                            told = path.relative_to(aside).as_posix(), _below(image, below).as_posix()
                            tiles.append(Tile(*told, *window, round(share, 4)))
                        done += 1
                        progress(done, total)
            if not tiles:
                raise InputError(f"All {total} tiles of {source} are void; allow more than {void:g} with --void.")
            if labels is not None:
                told = {key: value for key, value in read_yaml(source / "labels.yaml").items() if key not in _PLACES}
                text = yaml.safe_dump(told, sort_keys=False, allow_unicode=True)
                (aside / "labels.yaml").write_text(text, encoding="utf-8")
            with (aside / INDEX).open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(Tile._fields)
                writer.writerows(tiles)
    return Cut(tiles, total - len(tiles))


_PLACES = ("folders", "split")  # what labels.yaml says of where files lie; tiles lie elsewhere


def _refuse_settings(size: int, overlap: int, void: float) -> None:
    if size < SMALLEST_SIDE:
        raise InputError(f"The size {size} is too small; a tile needs at least {SMALLEST_SIDE} pixels a side.")
    if not 0 <= overlap < size:
        raise InputError(f"The overlap {overlap} does not fit tiles of {size} pixels; give 0 to {size - 1}.")
    if not 0 <= void <= 1:
        raise InputError(f"The void share {void:g} is no share; give 0 to 1.")


def _refuse_output(output: Path, source: Path) -> None:
    there = output.resolve()
    if there.exists() and (not there.is_dir() or any(there.iterdir()) or there == Path.cwd()):
        raise InputError(f"{output} is there already; choose another folder with -o.")
    if there.is_relative_to(source.resolve()):
        raise InputError(f"{output} lies in {source}, which is cut; choose a folder outside it with -o.")


def _listed(source: Path) -> tuple[LabelSpace | None, Mapping[str, tuple[Path, Path | None]]]:
    """The label space, where `source` is someone's own data, and by stem each image with its mask."""
    if source.is_file():
        return None, {source.stem: (source, None)}
    if not source.is_dir():
        raise InputError(
            f"{source} does not exist; give an image, a folder of images, or images/, masks/, labels.yaml."
        )
    if not (source / "labels.yaml").is_file():
        if all((source / kind).is_dir() for kind in ("images", "masks")):
            raise InputError(
                f"{source} has images/ and masks/, but no labels.yaml that says what the masks mean; have it written "
                f"first: danet data init {source}"
            )
        found: dict[str, tuple[Path, Path | None]] = {}
        for path in list_files(source, _SUFFIXES):
            other = found.setdefault(stem_of(path, source), (path, None))[0]
            if other != path:
                raise InputError(f"{other} and {path} have the same stem; rename or remove one of them.")
        if not found:
            raise InputError(f"The folder {source} holds no image ({', '.join(_SUFFIXES)}).")
        return None, found
    return _own_data(source)


def _own_data(source: Path) -> tuple[LabelSpace, dict[str, tuple[Path, Path | None]]]:
    """The same for all splits that there are; stems begin with the split."""
    faults: list[InputError] = []
    strays: list[Stray] = []
    labels, pairs, named = None, {}, _named_splits(source)
    for split in named or SPLITS:
        try:
            items, labels = folder(source, split, strays=strays)
        except InputError as error:
            if named:
                raise
            faults.append(error)  # by their names a few large images may all fall into one split
            continue
        for item in items:
            pair = Path(item.name), Path(item.mask)
            stem = _below(pair[0], source).with_suffix("").as_posix()
            stem = f"{split}/{stem.removeprefix('images/').removeprefix(f'{split}/')}"
            if (other := pairs.setdefault(stem, pair)) != pair:
                both = " and ".join(f"{image} with {mask}" for image, mask in (other, pair))
                raise InputError(f"{both} would have the same tiles, {stem}-…; rename or remove one of them.")
    refused = next((stray for stray in strays if stray.refused), None)
    if refused is not None:
        raise InputError(refused.told)
    if labels is None:
        raise faults[0]
    return labels, pairs


def _named_splits(source: Path) -> list[str]:
    """The splits that lists name, else folders; none where the images' names alone decide (`folder`)."""
    layout, _ = read_layout(source / "labels.yaml")
    images, masks = source / layout.images, source / layout.masks
    lists = {Path(name).stem for name in LISTS if (source / name).exists()}
    listed = [split for split in _SPLITS if split in lists]
    apart = in_folders(images)
    return listed or [split for split in _SPLITS if apart and ((images / split).is_dir() or (masks / split).is_dir())]


def _below(path: Path, folder: Path) -> Path:
    """`path` as seen from `folder`, in which it must lie; links count as what they stand for there."""
    try:
        return Path(os.path.abspath(path)).relative_to(os.path.abspath(folder))
    except ValueError:
        raise InputError(f"{path} lies outside {folder}, by which tiles are named; move it there.") from None


def _planned(image: Path, mask: Path | None, size: int, overlap: int) -> list[Window]:
    """The windows of an image, whose mask must be as large."""
    with _opened(image) as picture, _opened(mask or image) as truth:
        if picture.size != truth.size:
            sizes = ["×".join(map(str, one.size)) for one in (truth, picture)]
            raise InputError(
                f"{mask} is {sizes[0]} pixels, its image {image} {sizes[1]} (width×height, upright); a mask has its "
                "image's size. Save it again at that size."
            )
        return windows(*picture.size, size, overlap)


def _ignored_share(tile: Path, labels: LabelSpace, where: str) -> float:
    """How much of a mask's tile is not labelled; raises InputError, beginning with `where`, as training would."""
    try:
        values = read_colours(tile) if labels.masks == "colours" else read_mask(tile)
    except InputError as error:
        raise InputError(str(error).replace(str(tile), where)) from None
    return float((labels.to_indices(values, where) == IGNORE_INDEX).mean())


class _Opened(Protocol):
    """A file of pixels, of which parts can be read and written. size: width and height, upright."""

    @property
    def size(self) -> tuple[int, int]: ...

    def void_share(self, window: Window) -> float:
        """The share of the window that the file itself calls no data."""
        ...

    def write(self, window: Window, stem: Path) -> Path:
        """Save the window under `stem` and the ending of its kind; returns the path."""
        ...


@contextmanager
def _opened(path: Path) -> Iterator[_Opened]:
    """The file, by what can read parts of its kind; every fault of reading names it."""
    if path.suffix.lower() == ".npy":
        with readable(path):
            values = np.lib.format.open_memmap(path, mode="r")  # which reads no pickle
        yield _Array(values)
    elif path.suffix.lower() in TIFF or file_mode(path).mode.endswith("of 16 bits"):
        yield from _raster(path)
    else:
        with readable(path):
            image = Image.open(path)
        with image:
            yield _Picture(image, path)


class _Array(NamedTuple):
    """An array of height × width (× channels), mapped."""

    values: Num[np.ndarray, "h w *c"]

    @property
    def size(self) -> tuple[int, int]:
        return self.values.shape[1], self.values.shape[0]

    def void_share(self, window: Window) -> float:
        return 0.0

    def write(self, window: Window, stem: Path) -> Path:
        path, (x, y, width, height) = _made(stem, ".npy"), window
        np.save(path, self.values[y : y + height, x : x + width])
        return path


class _Picture:
    """An image that Pillow reads, upright; it is decoded where its first window is read."""

    def __init__(self, image: Image.Image, path: Path) -> None:
        self.image, self.path, self._decoded = image, path, False
        lying = file_mode(path).turned and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        self.size = (image.height, image.width) if lying else (image.width, image.height)
        if image.width * image.height > _MOST_PIXELS:
            raise InputError(
                f"{path} is too large to be read whole: {image.width}×{image.height} pixels. Save it as TIFF, which "
                "is read in parts."
            )

    def void_share(self, window: Window) -> float:
        return 0.0

    def write(self, window: Window, stem: Path) -> Path:
        path = _made(stem, ".png")
        self._part(window).save(path)
        return path

    def _part(self, window: Window) -> Image.Image:
        if not self._decoded:
            with readable(self.path):
                self.image = _storable(ImageOps.exif_transpose(self.image), self.path)
            self._decoded = True
        x, y, width, height = window
        return self.image.crop((x, y, x + width, y + height))


def _storable(image: Image.Image, path: Path) -> Image.Image:
    """The image in a mode that PNG has, with the same values."""
    if image.mode.startswith("I"):
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise InputError(f"{path} holds values of 32 bits; save it as TIFF or .npy.")
        return Image.fromarray(values.astype(np.uint16))
    return image if image.mode in ("1", "L", "LA", "P", "RGB", "RGBA") else image.convert("RGB")


def _raster(path: Path) -> Iterator[_Opened]:
    try:
        import rasterio
        from rasterio.errors import NotGeoreferencedWarning
    except ImportError:
        raise InputError(f"{path} can be read in parts by rasterio alone: pip install 'danet[raster]'.") from None
    if file_mode(path).turned:
        raise InputError(f"{path} is stored turned or mirrored (EXIF); save it upright.")
    with warnings.catch_warnings(), rasterio.Env(GDAL_CACHEMAX=2**27):  # bytes; by default a twentieth of the memory
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with readable(path):
            file = rasterio.open(path)
        with file:
            yield _Raster(file, path)


class _Raster:
    """A file that rasterio reads by windows."""

    def __init__(self, file: Any, path: Path) -> None:
        self.file, self.path, self.size = file, path, (file.width, file.height)

    def void_share(self, window: Window) -> float:
        with readable(self.path):
            return float((self.file.dataset_mask(window=_span(window)) == 0).mean())

    def write(self, window: Window, stem: Path) -> Path:
        import rasterio

        path, file = _made(stem, ".tif"), self.file
        profile: dict[str, Any] = {"count": file.count, "dtype": file.dtypes[0], "crs": file.crs, "nodata": file.nodata}
        if not file.transform.is_identity:  # else a part's place in its image would pass for one on earth
            a, b, c, d, e, f = file.transform[:6]
            x, y = window.x, window.y
            profile["transform"] = rasterio.Affine(a, b, c + a * x + b * y, d, e, f + d * x + e * y)
        size = {"width": window.width, "height": window.height}
        with rasterio.open(path, "w", driver="GTiff", compress="deflate", **size, **profile) as part:
            part.colorinterp = file.colorinterp
            if file.colorinterp[0].name == "palette":
                part.write_colormap(1, file.colormap(1))
            part.descriptions = file.descriptions
            with readable(self.path):
                values = file.read(window=_span(window))
            part.write(values)
        return path


def _span(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    """Rows and columns, as rasterio has windows."""
    return (window.y, window.y + window.height), (window.x, window.x + window.width)


def _made(stem: Path, suffix: str) -> Path:
    """The path of a new file, whose folder is there."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    return stem.with_name(stem.name + suffix)


@contextmanager
def _no_limit() -> Iterator[None]:
    """Pillow opens images of any size: what is too large to be opened safely is what is cut."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before
