"""Where each data set keeps its files: one function a layout, from a split's name to its items and their labels."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from danet.config import Preprocess, nearest
from danet.data.dataset import Item
from danet.data.labels import LabelSpace
from danet.data.listing import (
    UNSET,
    Source,
    Stray,
    existing,
    known_split,
    named_pairs,
    read_layout,
    read_list,
    reader,
    stem_pairs,
)
from danet.data.pairs import stem_of
from danet.data.published import PUBLISHED
from danet.data.scenes import scene
from danet.data.split import LISTS, assign_split, in_folders
from danet.data.tables import table
from danet.errors import InputError

_OWN = "data.root is a folder with labels.yaml, images/ and masks/."
_LIST_MEND = "Correct the list of images and masks, or put the files there."


def folder(root: str | Path, split: str, preprocess: Preprocess = UNSET, strays: list[Stray] | None = None) -> Source:
    """Someone's own data: ROOT/images/STEM.(png, jpg, …), ROOT/masks/STEM.png and ROOT/labels.yaml (a LabelSpace).

    With lists train.txt and val.txt, or train.csv and val.csv, an image and its mask by line, relative to ROOT, these
    are the splits; else with subfolders train/ and val/ in both, those. Without, the stem decides alone, so that a file
    stays in its part whatever else comes or goes: by `split` in labels.yaml, else about every fifth is val. `folders`
    there says where images and masks lie instead.
    Images are read in the channels that `preprocess` sets, else in those of labels.yaml, else as RGB.
    Raises InputError for what is missing or empty, and for an image without mask; the last is put into `strays`
    instead where that is given.
    """
    root = existing(Path(root), _OWN)
    known_split(split, ("train", "val", "test"))
    lists = {path.stem: path for path in root.glob("*.*") if path.name in LISTS}
    if not (root / "labels.yaml").is_file():
        raise InputError(
            f"{root} has no labels.yaml; write one, such as names: [road, car], or have it written: "
            f"danet data init {root}"
        )
    labels, folders, rule = LabelSpace.load(root / "labels.yaml"), *read_layout(root / "labels.yaml")
    channels = preprocess.of(labels.channels)
    if lists:
        return named_pairs(_listed(lists, split), _LIST_MEND, channels, reader(labels), strays), labels
    images, masks = root / folders.images, root / folders.masks
    for path, what in ((images, "images"), (masks, "masks as PNG, each with its image's stem")):
        if not path.is_dir():
            raise InputError(f"{root} has no folder {path.relative_to(root)}/; put the {what} there.")
    told = (channels, strays, reader(labels), folders.suffix, folders.complete)
    if in_folders(images):
        return stem_pairs(images / split, masks / split, *told), labels
    if split not in ("train", "val"):
        raise InputError(
            f"{root} has no part {split}: names are split into train and val alone. Make subfolders train/, val/ and "
            f"{split}/ in both folders."
        )
    items = stem_pairs(images, masks, *told)
    stems = {stem_of(Path(item.name), images): item for item in items}
    chosen = [stems[stem] for stem, part in assign_split(stems, rule).items() if part == split]
    if not chosen:
        raise InputError(
            f"None of the {len(items)} images in {images} falls into {split} by their names; write another seed or "
            "share under split in labels.yaml, or make subfolders train/ and val/ in both folders."
        )
    return chosen, labels


def scenes(split: str, count: int, height: int, width: int, seed: int = 0) -> Source:
    """`count` drawn scenes of `height`×`width` pixels; train draws from seed 2·seed, val from 2·seed + 1.

    Two more splits show val's streets again: `twins` with the roles of road and pavement exchanged, `control` without
    the things that tell the two apart.
    """
    known_split(split, ("train", "val", "twins", "control"))
    drawn = 2 * seed + (split != "train")
    other = {"twins": {"twin": True}, "control": {"things": False}}.get(split, {})
    note = f" ({split})" if other else ""
    items = [
        Item(f"scenes{note} seed {drawn} index {index}", partial(_draw, drawn, index, height, width, **other))
        for index in range(count)
    ]
    return items, LabelSpace.load("scenes")


def open_source(
    source: str,
    split: str,
    *,
    root: str | Path | None = None,
    count: int = 500,
    size: tuple[int, int] = (192, 256),
    columns: tuple[str, str] = ("image", "mask"),
    labels: str | None = None,
    preprocess: Preprocess = UNSET,
    strays: list[Stray] | None = None,
) -> Source:
    """The source of that name: folder, table, scenes, or one of `PUBLISHED`.

    count: scenes of train; val has a fifth of it, at most 100. columns, labels: see `table`. preprocess: in which
    channels files are read, where it sets them; scenes are drawn as RGB, from no root. strays: where given, takes what
    makes no pair, which raises InputError otherwise.
    """
    if source == "scenes":
        if root is not None:
            raise InputError(
                f"data.root is {root}, but the source scenes draws its images; name the source as well, such as "
                "--data.source folder, or leave data.root out."
            )
        if not preprocess.picture:
            raise InputError(
                f"Drawn scenes are RGB of 8 bits, but preprocess has the channels {', '.join(preprocess.names)} "
                f"from {preprocess.range[0]:g} to {preprocess.range[1]:g}; leave its names and range out."
            )
        return scenes(split, count if split == "train" else max(1, min(100, count // 5)), *size)
    layouts = {"folder": folder, **PUBLISHED}
    if source not in (*layouts, "table"):
        raise InputError(f"There is no source {source!r}. {nearest(source, [*layouts, 'table', 'scenes'])}")
    if root is None:
        raise InputError(f"The source {source} needs its folder; give data.root.")
    if source == "table":
        return table(root, split, columns, labels, preprocess)
    return layouts[source](Path(root), split, preprocess, strays)


def _listed(lists: dict[str, Path], split: str) -> list[tuple[Path, Path]]:
    if split not in lists:
        there = ", ".join(sorted(path.name for path in lists.values()))
        raise InputError(
            f"{next(iter(lists.values())).parent} has {there}, but no {split}.txt; write that list as well."
        )
    return read_list(lists[split])


def _draw(seed: int, index: int, height: int, width: int, **other: bool) -> tuple[np.ndarray, np.ndarray]:
    drawn = scene(seed, index, height, width, **other)
    return drawn.image, drawn.labels
