"""The classes of masks that nobody has described: their values, or their colours, as the entries of a labels.yaml."""

from __future__ import annotations

from collections import Counter
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
_HIGHEST = 181
"""No published numbering of classes goes beyond it (COCO-Stuff), but for 255."""
_RARE = 1e-5
"""A smaller share of all pixels is worth a note."""
_MANY = 10
"""Among so many masks, a value that is in one alone is worth a note."""


class Seen(NamedTuple):
    """What is in a mask: pixels of each value (of a mask in colours red << 16 | green << 8 | blue), and its palette's
    colours."""

    counts: Mapping[int, int]
    in_colours: bool = False
    palette: Mapping[int, Colour] = {}


def see(path: Path) -> Seen:
    """The values of a mask file, of one channel or in colours; raises InputError for what is neither, or damaged."""
    mode = file_mode(path).mode
    if mode in ("RGB", "RGBA"):
        red, green, blue = (channel.astype(np.uint32) for channel in np.moveaxis(read_image(path), 2, 0))
        colours, pixels = np.unique(red << 16 | green << 8 | blue, return_counts=True)
        return Seen(dict(zip(colours.tolist(), pixels.tolist(), strict=True)), in_colours=True)
    pixels = np.bincount(read_mask(path).ravel())
    values = np.flatnonzero(pixels).tolist()
    counts = {value: int(pixels[value]) for value in values}
    return Seen(counts, palette=_palette(path, values) if mode == "P" else {})


def find_classes(masks: Mapping[Path, Seen]) -> tuple[dict[str, Any], list[str]]:
    """The entries names, colours, ids, ignore and masks of a labels.yaml for these masks; and notes on the decisions.

    0 and 255 alone are two classes. Beside two other values or more 255 means "not labelled", unless all are evenly
    spread greys; so does white in masks whose colours are all grey. Raises InputError for masks of different kinds, for
    too few or too many values, and for masks of 0 and 255 with soft edges.
    """
    of_kind = {
        kind: next((path for path, seen in masks.items() if seen.in_colours is kind), None) for kind in (True, False)
    }
    if of_kind[True] and of_kind[False]:
        raise InputError(f"{of_kind[True]} has colours, {of_kind[False]} one channel; masks are all of one kind.")
    values = sorted(set().union(*(seen.counts for seen in masks.values())))
    in_colours = of_kind[True] is not None
    grey = in_colours and all(value == (value & 255) * 0x010101 for value in values)
    if grey:
        masks = {p: Seen({value & 255: count for value, count in seen.counts.items()}) for p, seen in masks.items()}
        values, in_colours = [value & 255 for value in values], False
    if not in_colours:
        _refuse_soft(masks, values)
    first = next(iter(masks))
    if len(values) > MOST + 1 or (not in_colours and len(_classes(values)) > MOST):
        raise InputError(
            f"The {len(masks)} masks ({first}, …) hold {len(values)} different "
            f"{'colours' if in_colours else 'values'}; of classes there are at most {MOST}. If these are the masks, "
            "they were blurred, compressed as JPEG, or number things instead of classes: export them anew."
        )
    if len(values) < 2:
        raise InputError(
            f"All masks ({first}, …) hold nothing but {_told(values[0], in_colours)}; that teaches nothing."
        )
    rare = _rare(masks, in_colours)
    if in_colours:
        return _in_colours(values), rare
    if grey:
        note = "The masks' colours are all grey: numbers saved as RGB, each a class; one channel would be enough."
        return _in_greys(values), [note] * (values != [0, 255]) + _on_255(values, "ignore_colours") + rare
    palette = {value: colour for seen in masks.values() for value, colour in seen.palette.items()}
    return _in_values(values, palette), _on_255(values, "ignore") + rare


def _in_colours(values: list[int]) -> dict[str, Any]:
    return {
        "names": [_told(value, True) for value in values],
        "colours": [_colour(value) for value in values],
        "ignore": [],
        "masks": "colours",
    }


def _in_greys(values: list[int]) -> dict[str, Any]:
    """Numbers of classes that were saved as RGB: each stays its own colour, which tells it in the files."""
    classes = _classes(values)
    colours = [[value] * 3 for value in classes]
    found = {"names": _names(classes), "colours": colours, "ignore": [], "masks": "colours"}
    return found if classes == values else found | {"ignore_colours": [[IGNORE_INDEX] * 3]}


def _in_values(values: list[int], palette: Mapping[int, Colour]) -> dict[str, Any]:
    if values == [0, IGNORE_INDEX]:
        return {"names": BINARY, "colours": [[0, 0, 0], [255, 255, 255]], "ids": {0: 0, 255: 1}, "ignore": []}
    classes = _classes(values)
    found: dict[str, Any] = {"names": _names(classes), "colours": _colours(classes, palette)}
    if classes != list(range(len(classes))):
        found["ids"] = {value: index for index, value in enumerate(classes)}
    return found | {"ignore": [] if IGNORE_INDEX in classes else [IGNORE_INDEX]}


def _classes(values: list[int]) -> list[int]:
    """The values without 255, where it means "not labelled"."""
    return values if len(values) < 3 or _evenly_spread(values) else [one for one in values if one != IGNORE_INDEX]


def _names(classes: list[int]) -> list[str]:
    return BINARY if classes in ([0, 1], [0, 255]) else [f"class {value}" for value in classes]


def _evenly_spread(values: list[int]) -> bool:
    """Whether the values are greys at equal distances from 0 to 255."""
    step = 255 / (len(values) - 1)
    return step > 2 and all(abs(value - step * place) <= 1 for place, value in enumerate(values))


def _on_255(values: list[int], key: str) -> list[str]:
    if IGNORE_INDEX not in values or values == [0, IGNORE_INDEX]:
        return []
    if len(values) == 2:
        return [f"255 is taken for a class, as there is none but {values[0]} beside it."]
    if _evenly_spread(values):
        return [f'{", ".join(map(str, values))} are evenly spread, so 255 is a class and not "not labelled".']
    return [f'255 is taken for "not labelled"; if it is a class, move it from {key} to the classes.']


def _rare(masks: Mapping[Path, Seen], in_colours: bool) -> list[str]:
    """A note on values that are in one mask of many, or in very few pixels: often slips of the tool or the hand."""
    pixels: Counter[int] = Counter()
    where: dict[int, list[Path]] = {}
    for path, seen in masks.items():
        pixels.update(seen.counts)
        for value in seen.counts:
            where.setdefault(value, []).append(path)
    few = _RARE * pixels.total()
    rare = [v for v in sorted(pixels) if pixels[v] < few or (len(where[v]) == 1 and len(masks) >= _MANY)]
    if not rare:
        return []
    listed = [f"{_told(value, in_colours)} (pixels: {pixels[value]}, first in {where[value][0]})" for value in rare[:5]]
    more = f", and {len(rare) - 5} more" if len(rare) > 5 else ""
    return [f"In one mask alone, or in very few pixels: {', '.join(listed)}{more}; a class, or a slip in the mask?"]


def _refuse_soft(masks: Mapping[Path, Seen], values: list[int]) -> None:
    """Refuse masks of 0 and 255 whose edges were blurred: values in between, also above what classes are numbered."""
    pixels: Counter[int] = Counter()
    for seen in masks.values():
        pixels.update(seen.counts)
    held = pixels[0] + pixels[255]
    if min(pixels[0], pixels[255]) == 0 or values[-1] > 255 or _evenly_spread(values) or 2 * held <= pixels.total():
        return
    soft = [value for value in values if _HIGHEST < value < 255]
    if len(soft) < 3 or max(pixels[value] for value in values if 0 < value < 255) > min(pixels[0], pixels[255]):
        return
    path, between = next((path, found) for path, seen in masks.items() if (found := set(seen.counts) - {0, 255}))
    raise InputError(
        f"{path} holds {len(between)} values between 0 and 255, which hold {held / pixels.total():.0%} of all masks' "
        "pixels: its edges were blurred, or resized with interpolation. Export it again without (nearest neighbour)."
    )


def _colours(classes: list[int], palette: Mapping[int, Colour]) -> list[list[int]]:
    """The palette's colours, where it tells the classes apart by more than shades of grey; else distinct ones."""
    chosen = [palette.get(value, (0, 0, 0)) for value in classes]
    grey = all(red == green == blue for red, green, blue in chosen)
    if len(set(chosen)) < len(chosen) or grey:
        chosen = list(default_colours(len(classes)))  # none black, which shows what is not labelled
    return [list(colour) for colour in chosen]


def _palette(path: Path, values: list[int]) -> dict[int, Colour]:
    with Image.open(path) as image:
        flat = image.getpalette("RGB") or []
    return {
        value: (flat[3 * value], flat[3 * value + 1], flat[3 * value + 2]) for value in values if 3 * value < len(flat)
    }


def _told(value: int, in_colours: bool) -> str:
    return f"#{value:06x}" if in_colours else str(value)


def _colour(value: int) -> list[int]:
    return [value >> 16, value >> 8 & 255, value & 255]
