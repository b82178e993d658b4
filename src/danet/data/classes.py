"""The classes of masks that nobody has described: their values, or their colours, as the entries of a labels.yaml."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from danet.data.images import file_mode, read_image, read_mask
from danet.data.labels import IGNORE_INDEX, Colour, default_colours
from danet.errors import InputError

MOST = 254
BINARY = ["background", "foreground"]
_BLACK, _WHITE = 0, 0xFFFFFF


class Seen(NamedTuple):
    """What is in a mask: its values (of a mask in colours red << 16 | green << 8 | blue), and its palette's colours."""

    values: frozenset[int]
    in_colours: bool = False
    palette: Mapping[int, Colour] = {}


def see(path: Path) -> Seen:
    """The values of a mask file, of one channel or in colours; raises InputError for what is neither, or damaged."""
    mode = file_mode(path).mode
    if mode in ("RGB", "RGBA"):
        red, green, blue = (channel.astype(np.uint32) for channel in np.moveaxis(read_image(path), 2, 0))
        return Seen(frozenset(np.unique(red << 16 | green << 8 | blue).tolist()), in_colours=True)
    values = np.flatnonzero(np.bincount(read_mask(path).ravel())).tolist()
    return Seen(frozenset(values), palette=_palette(path, values) if mode == "P" else {})


def find_classes(masks: Mapping[Path, Seen]) -> dict[str, Any]:
    """The entries names, colours, ids, ignore and masks of a labels.yaml for these masks.

    0 and 255 alone are two classes. Elsewhere 255 means "not labelled", where the other values are the small numbers
    that classes have. Raises InputError for masks of different kinds, and for too few or too many values.
    """
    of_kind = {
        kind: next((path for path, seen in masks.items() if seen.in_colours is kind), None) for kind in (True, False)
    }
    if of_kind[True] and of_kind[False]:
        raise InputError(f"{of_kind[True]} has colours, {of_kind[False]} one channel; masks are all of one kind.")
    values = sorted(set().union(*(seen.values for seen in masks.values())))
    first = next(iter(masks))
    if len(values) > MOST + 1:
        raise InputError(
            f"The {len(masks)} masks ({first}, …) hold {len(values)} different "
            f"{'colours' if of_kind[True] else 'values'}; of classes there are at most {MOST}. If these are the masks, "
            "they were blurred, compressed as JPEG, or number things instead of classes: export them anew."
        )
    if len(values) < 2:
        raise InputError(
            f"The {len(masks)} masks ({first}, …) hold nothing but {values[0]}; there is nothing to learn."
        )
    if of_kind[True]:
        return _in_colours(values)
    palette = {value: colour for seen in masks.values() for value, colour in seen.palette.items()}
    return _in_values(values, palette)


def _in_colours(values: list[int]) -> dict[str, Any]:
    names = BINARY if values == [_BLACK, _WHITE] else [f"#{value:06x}" for value in values]
    return {"names": names, "colours": [_colour(value) for value in values], "ignore": [], "masks": "colours"}


def _in_values(values: list[int], palette: Mapping[int, Colour]) -> dict[str, Any]:
    if values == [0, IGNORE_INDEX]:
        return {"names": BINARY, "colours": [[0, 0, 0], [255, 255, 255]], "ids": {0: 0, 255: 1}, "ignore": []}
    rest = [value for value in values if value != IGNORE_INDEX]
    ignored = IGNORE_INDEX in values and rest[-1] < 2 * len(rest)
    classes = rest if ignored else values
    if len(classes) > MOST:
        raise InputError(f"The masks hold {len(classes)} different values; of classes there are at most {MOST}.")
    found: dict[str, Any] = {
        "names": BINARY if classes == [0, 1] else [f"class {value}" for value in classes],
        "colours": _colours(classes, palette),
    }
    if classes != list(range(len(classes))):
        found["ids"] = {value: index for index, value in enumerate(classes)}
    return found | {"ignore": [] if IGNORE_INDEX in classes else [IGNORE_INDEX]}


def _colours(classes: list[int], palette: Mapping[int, Colour]) -> list[list[int]]:
    """The palette's colours, where it tells the classes apart by more than shades of grey; else distinct ones."""
    chosen = [palette.get(value, (0, 0, 0)) for value in classes]
    grey = all(red == green == blue for red, green, blue in chosen)
    if len(set(chosen)) < len(chosen) or grey:
        chosen = [(0, 0, 0), *default_colours(len(classes) - 1)]
    return [list(colour) for colour in chosen]


def _palette(path: Path, values: list[int]) -> dict[int, Colour]:
    with Image.open(path) as image:
        flat = image.getpalette("RGB") or []
    return {
        value: (flat[3 * value], flat[3 * value + 1], flat[3 * value + 2]) for value in values if 3 * value < len(flat)
    }


def _colour(value: int) -> list[int]:
    return [value >> 16, value >> 8 & 255, value & 255]
