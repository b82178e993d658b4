"""What a command is given to predict, image by image, and where the results of each go."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from danet.errors import InputError
from danet.inference.prediction import output_paths
from danet.inference.video import VIDEO_SUFFIXES, video_paths

LIST = ".txt"


class Planned(NamedTuple):
    """An image, raster or video, and the folder and the stem of its results."""

    path: Path
    folder: Path
    stem: str

    @property
    def is_video(self) -> bool:
        return self.path.suffix.lower() in VIDEO_SUFFIXES

    @property
    def results(self) -> dict[str, Path]:
        """What may be written for it; a raster's .tif goes by its .json, which all have."""
        return (video_paths if self.is_video else output_paths)(self.folder, self.stem)


def plan(inputs: Sequence[Path], output: Path, suffixes: tuple[str, ...]) -> list[Planned]:
    """Each image once, however its path is spelt, in the order of `inputs`: files, folders, and lists.

    A folder stands for its files of `suffixes`, by name, and keeps its structure, among several folders within its own
    name. A list is a text file with a path in each line, relative to its folder, whose structure is kept; what lies
    elsewhere keeps the structure below the folder that all of that have in common. What a list names may be missing;
    that is told when it is read.
    Raises InputError for an input that does not exist or holds no image, a list that cannot be read, and where a result
    would replace an image or another result.
    """
    several, own = sum(path.is_dir() for path in inputs) > 1, output.resolve()
    found: dict[Path, Planned] = {}
    folders: dict[Path, Path] = {}
    for path in inputs:
        if path.is_dir():
            files = [file for file in sorted(path.rglob("*")) if file.suffix.lower() in suffixes and not file.is_dir()]
            root = path.resolve()
            inside = root in own.parents
            images = [
                file
                for file in files
                if not file.name.startswith(".") and not (inside and own in (root / file.relative_to(path)).parents)
            ]
            if not images:
                raise InputError(
                    f"The folder {path} holds no image ({', '.join(suffixes)}); videos are named one by one."
                )
            target = output / path.resolve().name if several else output
            places = {image: image.parent.relative_to(path) for image in images}
        elif path.suffix.lower() == LIST and path.is_file():
            target, places = output, _listed(path)
        elif os.path.lexists(path):
            target, places = output, {path: Path()}
        else:
            if str(path).startswith(("http:/", "https:/")):
                raise InputError(f"{path} is an address, which is not fetched; download the image first.")
            raise InputError(f"{path} does not exist; give an image, a folder of images, or a list of paths (.txt).")
        for image, place in places.items():
            if image.parent not in folders:
                folders[image.parent] = image.parent.resolve()
            # However it is spelt; but a link is an image of its own, for its results have its name.
            found.setdefault(folders[image.parent] / image.name, Planned(image, target / place, image.stem))
    _refuse_replaced(list(found.values()))
    return list(found.values())


def _listed(path: Path) -> dict[Path, Path]:
    """A list's paths, each with the place of its results below the output folder."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"The list {path} cannot be read ({error}); write a path a line, in UTF-8.") from None
    names = [os.path.normpath(line.strip()) for line in lines if line.strip()]
    if not names:
        raise InputError(f"The list {path} holds no path; write one a line.")
    inside = {name: not os.path.isabs(name) and name.split(os.sep)[0] != os.pardir for name in names}
    outside = [os.path.abspath(path.parent / name) for name in names if not inside[name]]
    common = os.path.commonpath([os.path.dirname(name) for name in outside]) if outside else ""
    return {
        path.parent / name: Path(name).parent
        if inside[name]
        else Path(os.path.abspath(path.parent / name)).parent.relative_to(common)
        for name in names
    }


def _refuse_replaced(planned: Sequence[Planned]) -> None:
    images = [one.path.resolve() for one in planned]
    taken = dict(zip(images, (one.path for one in planned), strict=True))
    folders = {folder: folder.resolve() for folder in {one.folder for one in planned}}
    for one, image in zip(planned, images, strict=True):
        for result in one.results.values():
            place = folders[one.folder] / result.name  # itself: a link there is replaced, not what it leads to
            other = taken.setdefault(place, one.path)
            if other != one.path or place == image:
                replaced = "it" if other == one.path else f"that of {other}"
                raise InputError(
                    f"The result {result} of {one.path} would replace {replaced}; choose another folder with -o, or "
                    "rename one."
                )
