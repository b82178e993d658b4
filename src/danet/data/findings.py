"""What can be wrong with a data set: each kind of fault, found in what its files hold, with the mend."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt64

from danet.config import Channels
from danet.data.channels import to_display
from danet.data.dataset import Dataset, Item
from danet.data.doctor import refuse_binary_with_ignored, refuse_without_labels, summarise
from danet.data.duplicates import BITS, difference_hash, nearest
from danet.data.images import FileMode, file_mode, read_mask
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.listing import Stray
from danet.errors import InputError

LARGE = 4096
"""Pixels of an image's longer side, above which it is worth cutting."""
ALIKE = 4
"""Bits of 64 in which the hashes of two pictures that look alike differ at most."""
_GREY = ("1", "L", "LA", "I")
_SHOWN = 12

Level = Literal["error", "warning"]
Kind = Literal["set-up", "pair", "file", "value", "label", "class", "depth", "colour", "size", "duplicate"]


class Finding(NamedTuple):
    """One kind of fault: what is wrong in the first of its files and how to mend it, and all its files."""

    level: Level
    kind: Kind
    told: str
    files: tuple[str, ...] = ()


class Fault(NamedTuple):
    """What is wrong with one file, and how to mend it; alike: the same for all files that have the same fault."""

    kind: Kind
    file: str
    told: str
    alike: str


class Look(NamedTuple):
    """What one pair of files holds, as far as it can be read.

    modes: of the image file and of the mask file; values: of the mask, each with its pixels; counts: pixels by index.
    """

    item: Item
    faults: tuple[Fault, ...] = ()
    modes: tuple[FileMode, ...] = ()
    size: tuple[int, int] | None = None
    hash: int | None = None
    values: tuple[tuple[int, int], ...] = ()
    counts: Int64[np.ndarray, " 256"] | None = None


def look(item: Item, labels: LabelSpace, channels: Channels) -> Look:
    """Read one item; whatever goes wrong becomes a fault."""
    seen = Look(item, modes=tuple(file_mode(path) for path in (item.name, item.mask) if Path(path).is_file()))
    try:
        image, mask = item.load()
        size, code = (image.shape[1], image.shape[0]), difference_hash(to_display(image, channels))
    except Exception as error:  # a source may raise nearly anything; every other file is still looked at
        told = str(error) if isinstance(error, InputError) else f"{item.name} cannot be read: {error!r}."
        return seen._replace(faults=(_fault("file", item, told), *_of_mask_alone(item, labels, told)))
    seen = seen._replace(size=size, hash=code)
    if mask.ndim == 2:
        counts = np.bincount(mask.ravel())
        seen = seen._replace(values=tuple((int(value), int(counts[value])) for value in counts.nonzero()[0]))
    try:
        indices = labels.to_indices(mask, item.mask or f"The mask of {item.name}")
    except InputError as error:
        return seen._replace(faults=(_fault("value", item, str(error)),))
    return seen._replace(counts=np.bincount(indices.ravel(), minlength=256))


def _of_mask_alone(item: Item, labels: LabelSpace, told: str) -> list[Fault]:
    """Where an image cannot be read: what is wrong with its mask, so that both are mended at once."""
    if told.startswith(item.mask) or labels.masks != "indices" or Path(item.mask).suffix.lower() != ".png":
        return []
    try:
        read_mask(item.mask)
    except InputError as error:
        return [_fault("file", item, str(error))]
    return []


def of_files(looks: Sequence[Look], channels: Channels) -> list[Finding]:
    """Files that cannot be read or do not fit each other; and images that can, but lose something by it."""
    found = _grouped("error", (fault for one in looks for fault in one.faults if fault.kind == "file"))
    large = [(one.item.name, one.size) for one in looks if one.size and max(one.size) > LARGE]
    if large:
        name, (width, height) = large[0]
        told = (
            f"{name} is {width}×{height} pixels; over {LARGE:,} a side, a crop is a small part of what is read for it. "
            "Cut such images and masks: danet data tile."
        )
        found.append(Finding("warning", "size", told, tuple(name for name, _ in large)))
    if channels.picture:
        found += _of_modes({one.item.name: one.modes[0].mode for one in looks if one.modes})
    return found


def _of_modes(modes: Mapping[str, str]) -> list[Finding]:
    """Pictures that are not like the others, or lose bits."""
    found: list[Finding] = []
    deep = [name for name, mode in modes.items() if mode.startswith("I") or mode.endswith("16 bits")]
    if deep:
        told = (
            f"{deep[0]} has 16 bits a channel, of which a picture keeps the high 8. To keep all, list its channels and "
            "their range in labels.yaml, such as channels: {names: [grey], range: [0, 65535]}."
        )
        found.append(Finding("warning", "depth", told, tuple(deep)))
    grey = [name for name, mode in modes.items() if mode.partition(";")[0] in _GREY]
    colour = [name for name, mode in modes.items() if mode.partition(";")[0] not in _GREY]
    if grey and colour:
        few, kinds = (grey, ("grey", "in colour")) if len(grey) <= len(colour) else (colour, ("in colour", "grey"))
        told = (
            f"{few[0]} is {kinds[0]}, most other images are {kinds[1]}. Leave the rarer kind out, unless what is to be "
            "predicted is mixed, too."
        )
        found.append(Finding("warning", "colour", told, tuple(few)))
    return found


def of_values(looks: Sequence[Look], labels: LabelSpace) -> list[Finding]:
    """Masks with values that are no class: one finding, since one map of ids mends all."""
    faults = [fault for one in looks for fault in one.faults if fault.kind == "value"]
    if not faults:
        return []
    pixels: Counter[int] = Counter()
    for one in looks:
        pixels.update(dict(one.values))
    known = {*labels.ids, *labels.ignore}
    unknown = {value: count for value, count in pixels.items() if value not in known}
    told = faults[0].told
    if unknown:
        told += f" In all {sum(unknown.values()):,} pixels hold {_some(unknown)}."
        told += _mend(set(pixels), set(unknown), labels)
    return [Finding("error", "value", told, tuple(fault.file for fault in faults))]


def _mend(values: set[int], unknown: set[int], labels: LabelSpace) -> str:
    """What masks with these file values, some of them unknown, probably mean; empty where it is anyone's guess."""
    count = labels.num_classes
    if count == 2 and len(values) == 2 and 0 in values and len(unknown) == 1:
        (value,) = unknown
        return f" If {value} is {labels.names[1]}, write ids: {{0: 0, {value}: 1}} and ignore: [] in labels.yaml."
    if unknown == {count} and labels.ids == {index: index for index in range(count)}:
        ids = ", ".join(f"{index + 1}: {index}" for index in range(count))
        return f" If 0 means not labelled, write ids: {{{ids}}} and ignore: [0, 255] in labels.yaml."
    if len(unknown) > max(16, count):
        return (
            " So many values come from masks that were compressed (JPEG), resized with interpolation or drawn with soft"
            " edges; export them again without."
        )
    return ""


def of_labels(split: str, looks: Sequence[Look], labels: LabelSpace) -> list[Finding]:
    """Masks that are valid and teach nothing, or not all classes."""
    counted = [(one.item, one.counts) for one in looks if one.counts is not None]
    if not counted:
        return []
    dataset = Dataset([item for item, _ in counted], labels)
    summary = summarise(dataset, np.stack([counts for _, counts in counted]))
    try:
        refuse_without_labels(dataset, summary)
        if split == "train":
            refuse_binary_with_ignored(dataset, summary)
    except InputError as error:
        return [Finding("error", "label", str(error))]
    found: list[Finding] = []
    empty = [item.mask or item.name for item, counts in counted if not counts[:IGNORE_INDEX].any()]
    if empty:
        told = f"{empty[0]} holds nothing but ignored values. Leave it out."
        found.append(Finding("warning", "label", told, tuple(empty)))
    absent = [name for name, pixels in zip(labels.names, summary.pixels, strict=True) if not pixels]
    if absent:
        lack = "cannot be learnt" if split == "train" else "have no score"
        told = f"{split} has no pixel of {', '.join(absent)}, which {lack}. Move images that show them into {split}."
        found.append(Finding("warning", "class", told))
    if labels.num_classes == 1:
        told = f"Labels {labels.name} have one class, so that nothing is told from it. Name what is around it, too."
        found.append(Finding("warning", "class", told))
    return found


def of_duplicates(seen: Mapping[str, Sequence[Look]]) -> list[Finding]:
    """Images of one split that look like one of another: one finding for two splits."""
    found: list[Finding] = []
    for other, split in combinations(seen, 2):
        those, these = ([one for one in seen[name] if one.hash is not None] for name in (other, split))
        indices, bits = nearest(_hashes(these), _hashes(those), ALIKE)
        alike = [place for place, index in enumerate(indices) if index >= 0]
        if alike:
            one, like = these[alike[0]].item.name, those[indices[alike[0]]].item.name
            told = (
                f"{one} ({split}) looks like {like} ({other}): {bits[alike[0]]} of the {BITS} bits of their hashes "
                "differ. Keep such images in one split, or scores come out too good."
            )
            found.append(Finding("warning", "duplicate", told, tuple(these[place].item.name for place in alike)))
    return found


def _hashes(looks: Sequence[Look]) -> UInt64[np.ndarray, " n"]:
    return np.array([one.hash for one in looks], np.uint64)


def of_strays(strays: Sequence[Stray]) -> list[Finding]:
    """Files that make no pair."""
    refused = _grouped("error", (_stray(stray) for stray in strays if stray.refused))
    return refused + _grouped("warning", (_stray(stray) for stray in strays if not stray.refused))


def _grouped(level: Level, faults: Iterable[Fault]) -> list[Finding]:
    """One finding for all faults that are alike."""
    groups: dict[str, list[Fault]] = {}
    for fault in faults:
        groups.setdefault(fault.alike, []).append(fault)
    return [
        Finding(level, group[0].kind, group[0].told, tuple(fault.file for fault in group)) for group in groups.values()
    ]


def _fault(kind: Kind, item: Item, told: str) -> Fault:
    file = item.mask if item.mask and told.startswith(item.mask) else item.name
    return Fault(kind, file, told, _alike(told, item.name, item.mask))


def _stray(stray: Stray) -> Fault:
    names = str(stray.path), f"{os.sep}{stray.path.stem}."
    return Fault("pair", str(stray.path), stray.told, _alike(stray.told, *names))


def _alike(told: str, *names: str) -> str:
    """`told` without what differs from file to file: names and numbers."""
    for name in sorted(filter(None, names), key=len, reverse=True):
        told = told.replace(name, "…")
    return re.sub(r"\S*[\\/]\S*|[-.\d]+", "…", told)


def _some(values: Iterable[int]) -> str:
    first = sorted(values)
    return ", ".join(map(str, first[:_SHOWN])) + (f" and {len(first) - _SHOWN} more values" * (len(first) > _SHOWN))
