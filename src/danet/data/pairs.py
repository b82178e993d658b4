"""Which image goes with which mask: by their stems, in two folders or in one."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MASK_SUFFIXES = (".png", ".bmp", ".tif", ".tiff")
"""Endings of files that keep a mask's values as they are; JPEG and WebP change them."""


class Pairs(NamedTuple):
    """both: a stem's image and mask, in the order of the stems; images and masks: those that stand alone; twice: files
    whose stem another file has already."""

    both: dict[str, tuple[Path, Path]]
    images: list[Path]
    masks: list[Path]
    twice: list[tuple[Path, Path]]


def find_pairs(images: Path, masks: Path, suffixes: tuple[str, ...], suffix: str = "") -> Pairs:
    """The images of one folder (endings `suffixes`) with the masks of another, by stem; subfolders belong to them.

    A stem is the path below the folder without its ending; the mask's has `suffix` more. In one folder for both the
    suffix tells which is which, or, without one, the ending: masks are then the PNG files, images all others.
    """
    pictures, drawn = list_files(images, suffixes), list_files(masks, MASK_SUFFIXES)
    if images.resolve() == masks.resolve():
        drawn = [path for path in drawn if _is_mask(path, suffix)]
        pictures = [path for path in pictures if path not in set(drawn)]
    elif images in masks.parents:
        pictures = [path for path in pictures if masks not in path.parents]
    elif masks in images.parents:
        drawn = [path for path in drawn if images not in path.parents]
    by_stem, again = _by_stem(pictures, images)
    masks_by_stem, masks_again = _by_stem(drawn, masks)
    both = {
        stem: (path, masks_by_stem[f"{stem}{suffix}"])
        for stem, path in by_stem.items()
        if f"{stem}{suffix}" in masks_by_stem
    }
    wanted = {f"{stem}{suffix}" for stem in by_stem}
    return Pairs(
        both,
        [path for stem, path in by_stem.items() if stem not in both],
        [path for stem, path in masks_by_stem.items() if stem not in wanted],
        again + masks_again,
    )


def list_files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    """Visible files of `folder` and its subfolders with one of `suffixes`, in either case, in the order of their names
    on every platform."""
    paths = (path for path in folder.rglob("*") if path.suffix.lower() in suffixes and path.is_file())
    visible = (path for path in paths if not any(part.startswith(".") for part in path.relative_to(folder).parts))
    return sorted(visible, key=lambda path: path.relative_to(folder).as_posix())


def stem_of(path: Path, folder: Path) -> str:
    """The path below `folder` without its ending; both spellings of an accent are the same."""
    return unicodedata.normalize("NFC", path.relative_to(folder).with_suffix("").as_posix())


def near_miss(images: Iterable[Path], masks: Iterable[Path], suffix: str = "") -> str | None:
    """What keeps the first mask from an image whose name differs in upper and lower case alone, with the mend."""
    by_stem: dict[str, list[Path]] = {}
    for image in images:
        by_stem.setdefault(f"{image.stem}{suffix}".casefold(), []).append(image)
    for mask in masks:
        for image in by_stem.get(mask.stem.casefold(), []):
            if f"{image.stem}{suffix}" != mask.stem:
                return f"{image} and {mask} differ in upper and lower case; spell such names alike."
    return None


def _by_stem(paths: Iterable[Path], folder: Path) -> tuple[dict[str, Path], list[tuple[Path, Path]]]:
    found: dict[str, Path] = {}
    twice = []
    for path in paths:
        if (first := found.setdefault(stem_of(path, folder), path)) != path:
            twice.append((first, path))
    return found, twice


def _is_mask(path: Path, suffix: str) -> bool:
    return path.stem.endswith(suffix) if suffix else path.suffix.lower() == ".png"
