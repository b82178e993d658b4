"""Files that belong together, as items: two folders by stem, or named pairs; and those that make no pair."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from danet.config import Channels, Folders, Preprocess, Split, nearest, read_yaml, validate
from danet.data.dataset import Item
from danet.data.images import image_suffixes, read_colours, read_mask, read_pair, readable
from danet.data.labels import LabelSpace
from danet.data.pairs import find_pairs
from danet.errors import InputError

Source = tuple[list[Item], LabelSpace]
ReadMask = Callable[[str | Path], np.ndarray]
UNSET = Preprocess()
"""Nothing set: images are read in the data set's own channels."""


class Stray(NamedTuple):
    """A file that makes no pair: what to do about it, and whether training refuses it (a spare mask it leaves out)."""

    path: Path
    told: str
    refused: bool


def known_split(split: str, known: Sequence[str]) -> None:
    if split not in known:
        raise InputError(f"There is no split {split!r}. {nearest(split, list(known))}")


def existing(path: Path, get: str) -> Path:
    """`path`; raises InputError where it does not exist, with `get`: where it comes from and where it goes."""
    if not path.exists():
        raise InputError(f"{path} does not exist. {get}")
    return path


def first_existing(paths: Iterable[Path], get: str) -> Path:
    """The first of `paths` that exists, else InputError as `existing` for the last."""
    paths = list(paths)
    return next((path for path in paths if path.exists()), None) or existing(paths[-1], get)


def reader(labels: LabelSpace) -> ReadMask:
    """What reads mask files as `labels` spell them."""
    return read_colours if labels.masks == "colours" else read_mask


def stem_pairs(
    images: Path,
    masks: Path,
    channels: Channels = UNSET,
    strays: list[Stray] | None = None,
    read: ReadMask = read_mask,
    suffix: str = "",
    complete: bool = True,
) -> list[Item]:
    """The images of a folder in the order of their names, each with the mask of its stem (and `suffix`; `find_pairs`).

    Raises InputError for a missing folder, an empty one, two files of one stem and, if they are to be `complete`, an
    image without mask; the last two are put into `strays` instead where that is given, and spare masks too.
    """
    for path in (images, masks):
        if not path.is_dir():
            raise InputError(
                f"The folder {path} does not exist; put the {'images' if path == images else 'masks'} there."
            )
    suffixes = image_suffixes(channels)
    pairs = find_pairs(images, masks, suffixes, suffix)
    if not pairs.both and not pairs.images:
        raise InputError(f"The folder {images} holds no image; put some there ({', '.join(suffixes)}).")
    twice = [f"{first} and {path} have the same stem; rename or remove one of them." for first, path in pairs.twice]
    lacking = pairs.images if complete else []
    wanted = [masks / path.relative_to(images).with_name(f"{path.stem}{suffix}.png") for path in lacking]
    others = {path.with_suffix(".png"): path.name for path in masks.rglob("*.*")} if lacking and images != masks else {}
    told = [
        f"{path} has no mask: there is no {mask}" + (f", but {others[mask]}" if mask in others else "")
        for path, mask in zip(lacking, wanted, strict=True)
    ]
    mend = "Add the mask, or leave the image out."
    if strays is None and twice:
        raise InputError(twice[0])
    if strays is None and told:
        count = len(pairs.both) + len(lacking)
        raise InputError(f"{told[0]} ({len(lacking)} of {count} images lack theirs). {mend}")
    if strays is not None:
        strays += [Stray(path, what, True) for (_, path), what in zip(pairs.twice, twice, strict=True)]
        strays += [Stray(path, f"{what}. {mend}", True) for path, what in zip(lacking, told, strict=True)]
        strays += [
            Stray(path, f"{path} has no image in {images} ({', '.join(suffixes)}). Add the image.", False)
            for path in pairs.masks
        ]
    return [item(picture, mask, channels, read) for picture, mask in pairs.both.values()]


def named_pairs(
    pairs: Sequence[tuple[Path, Path]],
    get: str,
    channels: Channels = UNSET,
    read: ReadMask = read_mask,
    strays: list[Stray] | None = None,
) -> list[Item]:
    """Pairs of paths in their own order.

    Raises InputError for no pairs and for a file that does not exist (put into `strays` instead where that is given),
    with `get`: where it comes from.
    """
    if not pairs:
        raise InputError(f"No image is listed. {get}")
    missing = {path for pair in pairs for path in pair if not path.is_file()}
    if missing and strays is None:
        first = next(path for pair in pairs for path in pair if path in missing)
        raise InputError(f"{first} does not exist ({len(missing)} of {2 * len(pairs)} files are missing). {get}")
    if strays is not None:
        strays += [Stray(path, f"{path} does not exist. {get}", True) for path in sorted(missing)]
    return [item(image, mask, channels, read) for image, mask in pairs if not {image, mask} & missing]


def item(image: Path, mask: Path, channels: Channels = UNSET, read: ReadMask = read_mask) -> Item:
    """An image file and its mask file, which `read` reads."""
    return Item(str(image), partial(read_pair, image, mask, channels, read), str(mask))


def read_layout(path: Path) -> tuple[Folders, Split]:
    """Where images and masks lie, and which are held out, by a labels.yaml; raises InputError as `validate` does."""
    values = read_yaml(path)
    told = {key: values.get(key) or {} for key in ("folders", "split")}
    wrong = next((key for key, value in told.items() if not isinstance(value, dict)), None)
    if wrong is not None:
        raise InputError(f"{path}: {wrong} is {told[wrong]!r}; write its fields, such as {_EXAMPLES[wrong]}.")
    return validate(Folders, told["folders"], f"{path}, folders"), validate(Split, told["split"], f"{path}, split")


_EXAMPLES = {"folders": "images: photos", "split": "val: 0.2"}


def read_list(path: Path) -> list[tuple[Path, Path]]:
    """Image and mask by line, relative to the list's folder: parted by commas in a .csv, else by a tab or blanks.

    A first line without file names, such as `image,mask`, is left out. Raises InputError for other lines.
    """
    with readable(path):
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    if path.suffix == ".csv":
        rows = list(csv.reader(lines))
    else:
        rows = [line.split("\t") if "\t" in line else line.split() for line in lines]
    pairs = []
    for number, row in enumerate(rows, start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or (number == 1 and not any(Path(cell).suffix for cell in cells)):
            continue
        if len(cells) != 2:
            raise InputError(
                f"{path}, line {number}: {' '.join(cells)!r} has {len(cells)} columns; write an image and its mask, "
                "parted by a tab, or by a comma in a .csv."
            )
        pairs.append((path.parent / cells[0], path.parent / cells[1]))
    return pairs
