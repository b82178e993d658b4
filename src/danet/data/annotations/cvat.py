"""CVAT's "Segmentation mask 1.1": labelmap.txt and masks in its colours, in an archive or unpacked."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable
from functools import partial
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from danet.data.annotations.drawing import (
    BACKGROUND,
    BACKGROUNDS,
    Annotations,
    Drawing,
    Images,
    Labelled,
    Size,
    plain,
    refuse_other_size,
)
from danet.data.labels import IGNORE_INDEX, Colour, default_colours
from danet.data.pairs import list_files
from danet.errors import InputError
from danet.files import written_aside

_OF_CVAT = {"SegmentationClass", "SegmentationObject"}
_LABELMAP = re.compile(r"(.+?):(\d+),(\d+),(\d+)(:[^:]*:[^:]*)?")


def write_cvat(path: Path, images: Iterable[Labelled], names: tuple[str, ...]) -> None:
    """Label maps as CVAT's "Segmentation mask 1.1", a zip archive: exact, one mask a class and image.

    CVAT wants a background, which is black and is not imported; a class of that name is it, else it has no pixels.
    The others' colours are PASCAL VOC's, in the order of the classes: SegmentationObject has no others either.
    Raises InputError as `refuse_names` does.
    """
    refuse_names(names)
    listed: list[str] = []
    black = [plain(name) == BACKGROUND for name in names]
    drawn = zip(black, default_colours(len(names)), strict=True)
    colours = np.array([(0, 0, 0) if background else colour for background, colour in drawn], np.uint8)
    lines = [f"{name}:{','.join(map(str, colour))}::" for name, colour in zip(names, colours.tolist(), strict=True)]
    with written_aside(path) as aside, zipfile.ZipFile(aside, "w") as archive:
        for name, _, labels in images:
            coded = BytesIO()
            Image.fromarray(colours[labels]).save(coded, format="PNG")
            for folder in ("SegmentationClass", "SegmentationObject"):
                archive.writestr(f"{folder}/{name.with_suffix('.png')}", coded.getvalue())
            listed.append(str(name.with_suffix("")))
        archive.writestr("ImageSets/Segmentation/default.txt", "".join(f"{name}\n" for name in listed))
        head = ["# label:color_rgb:parts:actions"] + [f"{BACKGROUND}:0,0,0::"] * (not any(black))
        archive.writestr("labelmap.txt", "\n".join([*head, *lines, ""]))


def refuse_names(names: tuple[str, ...]) -> None:
    """Raises InputError for a class name that labelmap.txt cannot hold."""
    wrong = next((name for name in names if ":" in name or name.startswith("#")), None)
    if wrong is not None:
        raise InputError(f"CVAT's labelmap.txt cannot hold the class name {wrong!r}: no ':' in it, no '#' before it.")


def read_cvat(root: Path, files: dict[Path, Any]) -> Annotations | None:
    """labelmap.txt with SegmentationClass/*.png, unpacked or in one zip archive (CVAT's "Segmentation mask 1.1")."""
    archives = [path for path in list_files(root, (".zip",)) if _labelmap_in(path) is not None]
    maps = [path for path in list_files(root, (".txt",)) if path.name == "labelmap.txt"]
    if not archives and not maps:
        return None
    if len(archives) + len(maps) > 1:
        raise InputError(
            f"{root} holds several labelmap.txt: {', '.join(map(str, [*maps, *archives][:3]))}; leave one there."
        )
    if archives:
        where, inside = archives[0], str(_labelmap_in(archives[0]))
        with zipfile.ZipFile(where) as archive:
            text, listed = archive.read(inside), archive.namelist()
        parent = inside.removesuffix("labelmap.txt")
        masks = {name: partial(_from_zip, where, name) for name in listed}
    else:
        where, text, parent = maps[0], maps[0].read_bytes(), ""
        below = list_files(maps[0].parent, (".png",))
        masks = {path.relative_to(maps[0].parent).as_posix(): path.read_bytes for path in below}
    names, colours = _labelmap(text, where)
    prefix = f"{parent}SegmentationClass/"
    wanted = {
        name.removeprefix(prefix): read
        for name, read in masks.items()
        if name.startswith(prefix) and name.lower().endswith(".png")
    }
    if not wanted:
        raise InputError(f"{where}: there is no mask in SegmentationClass/; export the task from CVAT again.")
    own = frozenset(path for path in list_files(root, (".png",)) if _OF_CVAT & set(path.relative_to(root).parts))
    images = Images(root, own)
    drawings = [
        Drawing(images.find(name, where), partial(_from_colours, read, colours, f"{where}: {prefix}{name}"))
        for name, read in sorted(wanted.items())
    ]
    return Annotations("masks of CVAT", names, colours, drawings, [], own)


def refuse_no_archive(path: Path) -> None:
    """Raises InputError where `path` cannot be opened as a zip archive."""
    try:
        zipfile.ZipFile(path).close()
    except (OSError, ValueError, zipfile.BadZipFile):
        raise InputError(f"{path} is no zip archive; export it again, or move it away.") from None


def _labelmap_in(archive: Path) -> str | None:
    """The archive's labelmap.txt; None where there is none, or no archive."""
    try:
        refuse_no_archive(archive)
    except InputError:
        return None
    with zipfile.ZipFile(archive) as opened:
        return next((name for name in opened.namelist() if PurePosixPath(name).name == "labelmap.txt"), None)


def _from_zip(archive: Path, name: str) -> bytes:
    with zipfile.ZipFile(archive) as opened:
        return opened.read(name)


def _labelmap(text: bytes, where: Path) -> tuple[tuple[str, ...], tuple[Colour, ...]]:
    """Classes and colours of a labelmap.txt (`name:red,green,blue:parts:actions`), the background first."""
    classes: dict[str, Colour] = {}
    for line in text.decode("utf-8-sig", errors="replace").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        found = _LABELMAP.fullmatch(line.strip())
        if found is None:
            raise InputError(f"{where}: labelmap.txt holds {line!r}; a line is name:red,green,blue:parts:actions.")
        colour = (int(found[2]), int(found[3]), int(found[4]))
        if max(colour) > 255 or colour in classes.values() or found[1] in classes:
            raise InputError(f"{where}: labelmap.txt holds {line!r}; each class has a name and a colour of its own.")
        classes[found[1]] = colour
    if not classes:
        raise InputError(f"{where}: labelmap.txt names no class; export the task from CVAT again.")
    order = sorted(classes, key=lambda name: name not in BACKGROUNDS)
    return tuple(order), tuple(classes[name] for name in order)


def _from_colours(
    read: Callable[[], bytes], colours: tuple[Colour, ...], source: str, size: Size
) -> UInt8[np.ndarray, "h w"]:
    """A mask in the classes' colours as indices; black that is no class is not labelled."""
    try:
        with Image.open(BytesIO(read())) as image:
            pixels = np.array(image.convert("RGB"), np.uint32)
    except Exception as error:  # decoders of damaged files raise nearly anything
        raise InputError(f"{source} cannot be read: {' '.join(str(error).split())}. Export it again.") from None
    packed = pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2]
    table = {red << 16 | green << 8 | blue: index for index, (red, green, blue) in enumerate(colours)}
    indices = np.full(packed.shape, IGNORE_INDEX, np.uint8)
    for value, index in table.items():
        indices[packed == value] = index
    unknown = (indices == IGNORE_INDEX) & (packed != 0)
    if unknown.any():
        y, x = (int(place) for place in np.unravel_index(unknown.argmax(), unknown.shape))
        raise InputError(
            f"{source} holds the colour {pixels[y, x].tolist()} at pixel ({x}, {y}), which labelmap.txt does not list; "
            "export masks and labelmap.txt together."
        )
    refuse_other_size(indices.shape, size, source)
    return indices
