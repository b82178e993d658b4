"""What all tools' annotations become: classes, and for each image a function that draws its mask; and what is written
for them: label maps of images."""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import unquote

import numpy as np
from jaxtyping import UInt8

from danet.data.images import IMAGE_SUFFIXES
from danet.data.labels import Colour, default_colours
from danet.data.pairs import list_files
from danet.errors import InputError

Size = tuple[int, int]
"""An image's height and width, upright."""
_UPLOAD = re.compile(r"[0-9a-f]{8}-")
"""What Label Studio puts before the name of an uploaded file."""
BACKGROUND = "background"
BACKGROUNDS = (BACKGROUND, "_background_", "__background__")


class Drawing(NamedTuple):
    """An annotated image, and the function that draws its mask at the image's size: uint8 class indices H×W."""

    image: Path
    draw: Callable[[Size], UInt8[np.ndarray, "h w"]]


class Annotations(NamedTuple):
    """What a tool left: its kind in words, classes and colours, an image's drawing each, what was left out, and image
    files that are the tool's own masks."""

    kind: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...]
    drawings: list[Drawing]
    notes: list[str]
    masks: Set[Path] = frozenset()


class Labelled(NamedTuple):
    """An image's label map of class indices, and what a tool calls the image: its path below where it was given."""

    name: PurePosixPath
    image: Path
    labels: UInt8[np.ndarray, "h w"]


class Images:
    """The images of a folder, but for those of `left_out`, by the names that annotations give them."""

    def __init__(self, root: Path, left_out: Set[Path] = frozenset()) -> None:
        self.root = root
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for path in list_files(root, IMAGE_SUFFIXES):
            below = path.relative_to(root)
            if below.parts[0] != "masks" and path not in left_out:
                self.by_name[normal(path.name)].append(path)
                self.by_name[normal(path.stem)].append(path)

    def find(self, name: str, source: Path) -> Path:
        """The image that `source` calls `name`, whatever folder and ending it had where it was annotated."""
        path = PurePosixPath(normal(str(name)).replace("\\", "/"))
        found = self.by_name.get(path.name) or self.by_name.get(path.stem) or []
        if len(found) > 1:  # as many parts of the path as are the same
            found = [one for one in found if normal(one.with_suffix("").as_posix()).endswith(str(path.with_suffix("")))]
        if len(found) != 1:
            there = f"{self.root} holds {len(found)} of that name" if found else f"which is not in {self.root}"
            raise InputError(f"{source} names the image {str(name)!r}, {there}; put the images there, each name once.")
        return found[0]

    def of_task(self, task: dict[str, Any]) -> Path:
        """The image of a Label Studio task: an uploaded file (without what was put before its name) or a local one."""
        given = [unquote(value.rpartition("?d=")[2]) for value in task["data"].values() if isinstance(value, str)]
        for value in given:
            name = normal(value.rpartition("/")[2])
            for known in (name, _UPLOAD.sub("", name, count=1)):
                if len(self.by_name.get(known, [])) == 1:
                    return self.by_name[known][0]
        raise InputError(
            f"Task {task['id']} of Label Studio has the image {', '.join(given)}, which is not in {self.root}; put the "
            "images there, each name once."
        )


@contextmanager
def whole(path: Path, what: str) -> Iterator[None]:
    """Within `with`, what is missing from `path` or of a wrong type becomes an InputError that names it."""
    try:
        yield
    except InputError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
        raise InputError(
            f"{path} is no whole {what} ({type(error).__name__}: {' '.join(str(error).split())}). Export it again."
        ) from None


def with_background(labels: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((BACKGROUND, *(plain(label) for label in labels))))


def plain(label: str) -> str:
    return BACKGROUND if label in BACKGROUNDS else label


def class_colours(names: tuple[str, ...]) -> tuple[Colour, ...]:
    return ((0, 0, 0), *default_colours(len(names) - 1))


def normal(name: str) -> str:
    return unicodedata.normalize("NFC", name)


def refuse_other_size(found: tuple[int, ...], size: Size, source: str) -> None:
    if found != size:
        raise InputError(
            f"{source} is {found[1]}×{found[0]} pixels, its image {size[1]}×{size[0]} (width×height, "
            "upright); export it at the image's size."
        )
