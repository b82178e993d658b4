"""What the numbers in a mask mean: class names, colours, and the way from file values to class indices.

The folder labels/ beside this file holds one YAML file a data set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from danet.config import Channels, nearest, read_yaml, validate
from danet.errors import InputError

IGNORE_INDEX = 255
"""The index of pixels that neither training nor scoring counts, in every mask inside danet."""
_UNKNOWN = 254
_MOST_CLASSES = 254
_KEYS = ("name", "names", "colours", "ids", "ignore", "channels", "masks", "ignore_colours", "folders", "split")
_PACKAGED = Path(__file__).parent / "labels"

Colour = tuple[int, int, int]
Masks = Literal["indices", "colours"]


def default_colours(count: int) -> tuple[Colour, ...]:
    """`count` distinct colours, none black: PASCAL VOC's (VOCdevkit, VOClabelcolormap.m) from entry 1 on."""

    def channel(index: int, shift: int) -> int:
        return sum((index >> (3 * bit + shift) & 1) << (7 - bit) for bit in range(8))

    return tuple((channel(i, 0), channel(i, 1), channel(i, 2)) for i in range(1, count + 1))


@dataclass(frozen=True)
class LabelSpace:
    """The classes of a data set and how its mask files spell them.

    names: one a class, in the order of the class indices; colours: RGB, by default distinct ones;
    ids: file value → class index, by default the identity; ignore: file values that mean "not labelled".
    channels: what the images' channels are, where they are not RGB of 8 bits.
    masks: whether mask files hold such values (indices) or the classes' RGB colours; ignore_colours: those that then
    mean "not labelled".
    Raises InputError where these contradict each other.
    """

    name: str
    names: tuple[str, ...]
    colours: tuple[Colour, ...] = ()
    ids: Mapping[int, int] = field(default_factory=dict, hash=False)
    ignore: tuple[int, ...] = (IGNORE_INDEX,)
    channels: Channels | None = None
    masks: Masks = "indices"
    ignore_colours: tuple[Colour, ...] = ()

    def __post_init__(self) -> None:
        count = len(self.names)
        if self.masks not in get_args(Masks):
            raise InputError(f"Labels {self.name}: masks is {self.masks!r}; write indices or colours.")
        if self.masks == "colours" and not self.colours:
            raise InputError(f"Labels {self.name}: masks are colours, but colours is empty; list each class's colour.")
        if not self.colours:
            object.__setattr__(self, "colours", default_colours(count))
        if not self.ids:
            object.__setattr__(self, "ids", {index: index for index in range(count)})
        if not 1 <= count <= _MOST_CLASSES:
            raise InputError(f"Labels {self.name}: {count} names; 1 to {_MOST_CLASSES} classes are possible.")
        twice = next((name for name in self.names if self.names.count(name) > 1), None)
        if twice is not None:
            raise InputError(f"Labels {self.name}: the name {twice!r} is there twice; give each class its own.")
        if len(self.colours) != count:
            raise InputError(
                f"Labels {self.name}: {len(self.colours)} colours for {count} names; give one a class, or none."
            )
        for colour in (*self.colours, *self.ignore_colours):
            if len(colour) != 3 or not all(0 <= value <= 255 for value in colour):
                raise InputError(f"Labels {self.name}: the colour {list(colour)} is not three values of 0 to 255.")
        for value, index in self.ids.items():
            if not 0 <= index < count:
                raise InputError(
                    f"Labels {self.name}: ids sends {value} to class {index}; classes are 0 to {count - 1}."
                )
        for value in (*self.ids, *self.ignore):
            if not 0 <= value <= 65535:
                raise InputError(f"Labels {self.name}: the file value {value} is outside 0 to 65535.")
        both = next((value for value in self.ignore if value in self.ids), None)
        if both is not None:
            raise InputError(
                f"Labels {self.name}: {both} is a class ({self.names[self.ids[both]]}) and is ignored; "
                "take it out of ignore, or list under ids (file value: class index) what is a class."
            )

        spelt = [*self.colours, *self.ignore_colours] if self.masks == "colours" else []
        again = next((colour for colour in spelt if spelt.count(colour) > 1), None)
        if again is not None:
            raise InputError(
                f"Labels {self.name}: the colour {list(again)} stands for two things, and masks are colours; give each "
                "class, and ignore_colours, their own."
            )

    @property
    def num_classes(self) -> int:
        """How many classes there are; what is ignored is none."""
        return len(self.names)

    def index(self, name: str) -> int:
        """The class index of `name`; raises InputError for an unknown one."""
        if name not in self.names:
            raise InputError(f"There is no class {name!r}. {nearest(name, list(self.names))}")
        return self.names.index(name)

    def to_indices(self, mask: Integer[np.ndarray, "h w *c"], source: str = "The mask") -> UInt8[np.ndarray, "h w"]:
        """File values (uint8 or uint16 H×W), or colours (uint8 H×W×3), as class indices, IGNORE_INDEX where ignored.

        Raises InputError for a value outside the space, beginning with `source`, with its first pixel in reading order.
        """
        if mask.ndim == 3:
            indices = self._colour_indices[_codes(mask)]
        else:
            indices = self._table[mask] if mask.dtype == np.uint16 else self._table[:256][mask]
        if indices.max(initial=0) >= _UNKNOWN and (unknown := indices == _UNKNOWN).any():
            y, x = (int(place) for place in np.unravel_index(unknown.argmax(), unknown.shape))
            value = mask[y, x].tolist()
            if mask.ndim == 3:
                told = f"the colour {value}", f"the {self.num_classes} colours of their classes"
                mend, ignored = (
                    f"list {value} under colours or ignore_colours",
                    [*map(list, self.ignore_colours)] or "none",
                )
            else:
                told = f"the value {value}", _ranges(self.ids)
                mend, ignored = f"map {value} under ids or ignore", _ranges(self.ignore)
            raise InputError(
                f"{source} holds {told[0]} at pixel ({x}, {y}); labels {self.name!r} know {told[1]} and ignore "
                f"{ignored}. Correct the mask, or {mend}."
            )
        return indices

    def palette(self) -> list[int]:
        """768 values for PIL's putpalette; what is no class is black."""
        return self._colour_table.ravel().tolist()

    def colour_image(self, indices: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w 3"]:
        """Class indices as RGB; ignored pixels are black."""
        return self._colour_table[indices]

    def to_dict(self) -> dict[str, Any]:
        """JSON and YAML values that `from_dict` takes back."""
        values = {
            "name": self.name,
            "names": list(self.names),
            "colours": [list(colour) for colour in self.colours],
            "ids": {str(value): index for value, index in self.ids.items()},
            "ignore": list(self.ignore),
        }
        if self.masks == "colours":
            values |= {"masks": self.masks, "ignore_colours": [list(colour) for colour in self.ignore_colours]}
        return values if self.channels is None else values | {"channels": self.channels.model_dump(mode="json")}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], where: str = "labels") -> LabelSpace:
        """A space from JSON or YAML values; unknown keys or wrong types raise InputError, beginning with `where`."""
        unknown = next((key for key in values if key not in _KEYS), None)
        if unknown is not None:
            raise InputError(f"{where}: there is no key {unknown!r}. {nearest(str(unknown), list(_KEYS))}")
        names = values.get("names")
        if not isinstance(names, (list, tuple)):
            raise InputError(f"{where}: names is {names!r}; list the classes, such as names: [road, car].")
        wrong = [name for name in names if not isinstance(name, str)]
        if wrong:
            raise InputError(f"{where}: the name {wrong[0]!r} is no text; YAML needs quotes around it.")
        channels = values.get("channels")
        if channels is not None and not isinstance(channels, Mapping):
            raise InputError(f"{where}: channels is {channels!r}; write its fields, such as names: [red, green, nir].")
        ids, ignore = values.get("ids") or {}, values.get("ignore", (IGNORE_INDEX,))
        if not isinstance(ids, Mapping) or not all(map(_is_whole, [*map(_number, ids), *ids.values()])):
            raise InputError(f"{where}: ids is {ids!r}; write file value: class index, such as ids: {{1: 0, 7: 1}}.")
        if not isinstance(ignore, (list, tuple)) or not all(map(_is_whole, ignore)):
            raise InputError(f"{where}: ignore is {ignore!r}; list file values, such as ignore: [255], or ignore: [].")
        return cls(
            name=str(values.get("name", where)),
            names=tuple(names),
            colours=_triples(values.get("colours") or (), f"{where}: colours"),
            ids={_number(value): index for value, index in ids.items()},
            ignore=tuple(ignore),
            channels=None if channels is None else validate(Channels, dict(channels), f"{where}, channels"),
            masks=values.get("masks", "indices"),
            ignore_colours=_triples(values.get("ignore_colours", ()), f"{where}: ignore_colours"),
        )

    @classmethod
    def load(cls, name_or_path: str | Path) -> LabelSpace:
        """A packaged space by name (`camvid`) or one from a YAML file; raises InputError.

        A file may begin from a packaged space, `like: camvid`, and write only what differs.
        """
        path = Path(name_or_path)
        if path.suffix.lower() not in (".yaml", ".yml"):
            path = _packaged(str(name_or_path))
        values = read_yaml(path)
        name = path.stem if path.parent == _PACKAGED else path.resolve().parent.name
        like = values.pop("like", None)
        base = {} if like is None else read_yaml(_packaged(str(like)))
        return cls.from_dict({"name": name, **base, **values}, str(path))

    @cached_property
    def _table(self) -> UInt8[np.ndarray, " values"]:
        table = np.full(65536, _UNKNOWN, np.uint8)
        table[list(self.ignore)] = IGNORE_INDEX
        table[list(self.ids)] = list(self.ids.values())
        return table

    @cached_property
    def _colour_indices(self) -> UInt8[np.ndarray, " colours"]:
        """The class index of every RGB colour: 16 MiB, but one look-up a pixel."""
        table = np.full(1 << 24, _UNKNOWN, np.uint8)
        table[_codes(np.array(self.ignore_colours, np.uint8).reshape(-1, 3))] = IGNORE_INDEX
        table[_codes(np.array(self.colours, np.uint8))] = np.arange(self.num_classes)
        return table

    @cached_property
    def _colour_table(self) -> UInt8[np.ndarray, "256 3"]:
        table = np.zeros((256, 3), np.uint8)
        table[: self.num_classes] = self.colours
        return table


def _packaged(name: str) -> Path:
    known = sorted(entry.stem for entry in _PACKAGED.glob("*.yaml"))
    if name not in known:
        raise InputError(f"There are no labels {name!r}. {nearest(name, known)}")
    return _PACKAGED / f"{name}.yaml"


def _codes(colours: UInt8[np.ndarray, "*shape 3"]) -> Int32[np.ndarray, "*shape"]:
    """RGB colours as numbers of 24 bits."""
    red, green, blue = np.moveaxis(colours.astype(np.int32), -1, 0)
    return red << 16 | green << 8 | blue


def _triples(colours: Any, what: str) -> tuple[Colour, ...]:
    if not isinstance(colours, (list, tuple)):
        raise InputError(f"{what} is {colours!r}; write [[r, g, b], …].")
    for colour in colours:
        if not isinstance(colour, (list, tuple)) or len(colour) != 3 or not all(map(_is_whole, colour)):
            raise InputError(f"{what} holds {colour!r}; a colour is three whole numbers, such as [128, 64, 128].")
    return tuple((red, green, blue) for red, green, blue in colours)


def _number(key: Any) -> Any:
    """A file value among the keys of ids, which JSON makes text."""
    return int(key) if isinstance(key, str) and key.isdecimal() else key


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _ranges(values: Mapping[int, int] | tuple[int, ...]) -> str:
    """`0 to 10, 255` for file values in any order."""
    runs: list[list[int]] = []
    for value in sorted(set(values)):
        if runs and value == runs[-1][-1] + 1:
            runs[-1] = [runs[-1][0], value]
        else:
            runs.append([value])
    return ", ".join(" to ".join(str(end) for end in run) for run in runs) or "nothing"
