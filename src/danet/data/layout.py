"""Where the images and masks of someone's own folder lie, found by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from itertools import product
from pathlib import Path

import numpy as np

from danet.config import Folders
from danet.data.images import IMAGE_SUFFIXES, file_mode, read_image, read_mask
from danet.data.pairs import MASK_SUFFIXES, list_files, near_miss, stem_of
from danet.data.split import SPELT
from danet.errors import InputError

IMAGES = (*IMAGE_SUFFIXES, ".npy")
"""Endings of what may be an image."""
_DEEPEST = 3
"""So many folders below one another are looked into."""
_USUAL = (("images", "masks"), ("JPEGImages", "SegmentationClass"))


def find_folders(root: Path, images: str | None = None, masks: str | None = None) -> tuple[Folders, list[str]]:
    """The folders below ROOT in which most masks have an image of their stem, and what their stems have more; and notes
    on others that hold such pairs as well.

    images, masks: the folders, where someone has said which. Two folders are looked for first, then one with both side
    by side; folders of different splits never. Raises InputError where no mask has an image, where two folders may be
    the masks, and where several splits have folders of images and masks of their own.
    """
    for name in (images, masks):
        if name is not None and not (root / name).is_dir():
            raise InputError(f"{root} has no folder {name}; give folders below {root}.")
    known = [(name, other) for name, other in _USUAL if (root / name).is_dir() and (root / other).is_dir()]
    if images is None and masks is None and known:
        images, masks = known[0]
    places = ["."] + [path.relative_to(root).as_posix() for path in _folders(root, _DEEPEST)]
    stems = {place: _stems(root / place, IMAGES) for place in ([images] if images else places)}
    masked = {place: _stems(root / place, MASK_SUFFIXES) for place in ([masks] if masks else places)}
    ranked: list[tuple[int, int, str, str, str]] = []
    for pictures, drawn in product(stems, masked):
        inside = pictures != drawn and f"{pictures}/".startswith(f"{drawn}/")
        if not inside and len({*_splits(pictures), *_splits(drawn)}) < 2:
            suffix, count = _suffix(stems[pictures], masked[drawn], same=pictures == drawn)
            ranked += [(-count, pictures.count("/") + drawn.count("/"), pictures, drawn, suffix)] if count else []
    if not ranked:
        missed = near_miss(list_files(root, IMAGES), list_files(root, MASK_SUFFIXES))
        if missed is not None:
            raise InputError(f"{root} holds no mask with an image of its name: {missed}")
        raise InputError(
            f"{root} holds no mask ({', '.join(MASK_SUFFIXES)}) with an image of its name; put images into images/ and "
            "masks into masks/, or say where they are with --images and --masks."
        )
    best = [one for one in sorted(ranked) if one[:2] == min(ranked)[:2]]
    apart = [one for one in best if one[2] != one[3]] or best[:1]
    pictures = max({one[2] for one in apart}, key=lambda place: _looks(root / place))
    masked_by = {drawn: suffix for _, _, place, drawn, suffix in apart if place == pictures}
    if len(masked_by) > 1:
        several = " and ".join(sorted(masked_by))
        raise InputError(f"{root}: {several} may each be the masks; say which with --images and --masks.")
    [(drawn, suffix)] = masked_by.items()
    if images is None and masks is None:
        _refuse_several_splits(root, pictures, drawn)
    return Folders(images=pictures, masks=drawn, suffix=suffix), _others(sorted(ranked), [pictures, drawn])


def _splits(place: str) -> list[str]:
    """The splits that the folders of `place` are called like; two letters tell train and training from all others."""
    return [part.casefold()[:2] for part in place.split("/") if part.casefold() in SPELT]


def _refuse_several_splits(root: Path, images: str, masks: str) -> None:
    """Refuse train/images with train/masks where val/images is there too: they are one data set."""
    parts, drawn = images.split("/"), masks.split("/")
    for depth, split in enumerate(parts[:-1]):
        if split.casefold() not in SPELT or parts[: depth + 1] != drawn[: depth + 1] or len(drawn) == depth + 1:
            continue
        parent = root.joinpath(*parts[:depth])
        for other in sorted(path.name for path in parent.iterdir()):
            beside = other != split and other.casefold() in SPELT
            if beside and parent.joinpath(other, *parts[depth + 1 :]).is_dir():
                raise InputError(
                    f"{parent} has images and masks within {split}/ and within {other}/; put the splits into both "
                    f"instead: {images} becomes images/{split}, {masks} masks/{split}, and so on, with the names train "
                    "and val."
                )


def _others(ranked: list[tuple[int, int, str, str, str]], taken: list[str]) -> list[str]:
    """Notes on the folders that hold pairs too, apart from those that are taken."""
    notes = []
    for count, _, images, masks, _ in ranked:
        if images != masks and not any(_overlap(one, other) for one in (images, masks) for other in taken):
            notes.append(f"{images}/ and {masks}/ hold pairs as well, which are left out: {-count}.")
            taken = [*taken, images, masks]
    return notes


def _overlap(one: str, other: str) -> bool:
    return "." in (one, other) or f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _folders(parent: Path, depth: int) -> Iterator[Path]:
    for path in sorted(parent.iterdir(), key=lambda path: path.name):
        if path.is_dir() and not path.name.startswith("."):
            yield path
            if depth > 1:
                yield from _folders(path, depth - 1)


def _stems(folder: Path, suffixes: tuple[str, ...]) -> dict[str, set[str]]:
    """Stems below `folder`, each with its files' endings."""
    found: dict[str, set[str]] = {}
    for path in list_files(folder, suffixes):
        found.setdefault(stem_of(path, folder), set()).add(path.suffix.lower())
    return found


def _suffix(pictures: dict[str, set[str]], masks: Collection[str], same: bool) -> tuple[str, int]:
    """What most masks' stems have more than an image's, and how many do; in the `same` folder none is its own image."""
    found: Counter[str] = Counter()
    if same:
        found[""] = sum(".png" in endings and len(endings) > 1 for endings in pictures.values())
    for stem in masks:
        for end in range(len(stem) - same, 0, -1):
            if stem[:end] in pictures and (end == len(stem) or not stem[end].isalnum()):
                found[stem[end:]] += 1
                break
    return max(found.items(), key=lambda one: (one[1], -len(one[0])), default=("", 0))


def _looks(folder: Path) -> tuple[int, int, str]:
    """How much the folder's first file looks like a photograph: channels, different values; by name where these tie."""
    path = list_files(folder, IMAGES)[0]
    if path.suffix.lower() == ".npy":
        return 4, 0, str(folder)
    mode = file_mode(path).mode
    values = read_mask(path) if mode in ("1", "L", "P") else read_image(path)
    flat = values.reshape(-1, values.shape[2] if values.ndim == 3 else 1)
    return flat.shape[1], len(np.unique(flat, axis=0)), str(folder)
