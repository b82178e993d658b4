"""LabelMe's JSON: a file an image, with polygons, rectangles, circles and masks; polygons are written."""

from __future__ import annotations

import base64
import binascii
import json
import os
from collections import Counter
from collections.abc import Iterable
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw

from danet.data.annotations.drawing import (
    Annotations,
    Drawing,
    Images,
    Labelled,
    Size,
    class_colours,
    plain,
    refuse_other_size,
    whole,
    with_background,
)
from danet.data.annotations.polygons import TOLERANCE, regions
from danet.data.labels import IGNORE_INDEX
from danet.errors import InputError
from danet.files import written_aside

IGNORED = "__ignore__"
"""LabelMe's name of what is not to be learnt."""
_SHAPES = ("polygon", "rectangle", "circle", "mask")
_VERSION = "5.5.0"
"""Of LabelMe, whose form is written."""


def write_labelme(folder: Path, images: Iterable[Labelled], names: tuple[str, ...]) -> None:
    """Label maps as LabelMe's JSON, FOLDER/NAME.json for each: polygons of connected regions, the largest first.

    It names the image by its path from there, and holds no copy of it.
    """
    for name, image, labels in images:
        path = folder / name.with_suffix(".json")
        path.parent.mkdir(parents=True, exist_ok=True)
        shapes = [
            {
                "label": names[region.index],
                "points": region.outline.tolist(),
                "group_id": None,
                "description": "",
                "shape_type": "polygon",
                "flags": {},
                "mask": None,
            }
            for region in regions(labels, TOLERANCE)
        ]
        values = {
            "version": _VERSION,
            "flags": {},
            "shapes": shapes,
            "imagePath": Path(os.path.relpath(image.resolve(), path.parent.resolve())).as_posix(),
            "imageData": None,
            "imageHeight": labels.shape[0],
            "imageWidth": labels.shape[1],
        }
        with written_aside(path) as aside:
            aside.write_text(json.dumps(values), encoding="utf-8")


def read_labelme(root: Path, files: dict[Path, Any]) -> Annotations | None:
    """LabelMe's JSON, one an image: polygons, rectangles, circles and masks, later ones over earlier ones."""
    found = {
        path: values
        for path, values in files.items()
        if isinstance(values, dict) and {"shapes", "imagePath"} <= values.keys()
    }
    if not found:
        return None
    labels: set[str] = set()
    kinds: Counter[str] = Counter()
    images, drawn = Images(root), {}
    for path, values in found.items():
        with whole(path, "LabelMe's JSON"):
            picture = images.find(values["imagePath"], path)
            if picture in drawn:
                raise InputError(f"{path} annotates {picture}, as does {drawn[picture][0]}; remove one of them.")
            areas = [shape for shape in values["shapes"] if _kind(shape) in _SHAPES]
            kinds.update(_kind(shape) for shape in values["shapes"] if _kind(shape) not in _SHAPES)
            labels |= {str(shape["label"]) for shape in areas}
            told = (int(values["imageHeight"]), int(values["imageWidth"]))
            drawn[picture] = (path, told, areas)
    names = with_background(sorted(labels - {IGNORED}))
    drawings = [
        Drawing(picture, partial(_from_shapes, areas, names, told, str(path)))
        for picture, (path, told, areas) in drawn.items()
    ]
    notes = [f"Shapes of the type {kind}, which have no area, are left out: {count}." for kind, count in kinds.items()]
    return Annotations("LabelMe's JSON", names, class_colours(names), drawings, notes)


def _kind(shape: dict[str, Any]) -> str:
    return shape.get("shape_type") or "polygon"


def _from_shapes(
    shapes: list[dict[str, Any]], names: tuple[str, ...], told: Size, source: str, size: Size
) -> UInt8[np.ndarray, "h w"]:
    refuse_other_size(told, size, source)
    canvas = Image.new("L", (size[1], size[0]))
    draw = ImageDraw.Draw(canvas)
    for number, shape in enumerate(shapes, start=1):
        label, kind = plain(str(shape["label"])), _kind(shape)
        index = IGNORE_INDEX if label == IGNORED else names.index(label)
        try:
            points = [(float(x), float(y)) for x, y in shape["points"]]
            if kind == "polygon":
                draw.polygon(points, fill=index)
            elif kind == "circle":
                (x, y), (edge_x, edge_y) = points
                draw.circle((x, y), float(np.hypot(edge_x - x, edge_y - y)), fill=index)
            else:
                (left, right), (top, bottom) = (sorted(axis) for axis in zip(*points, strict=True))
                if kind == "rectangle":
                    draw.rectangle((left, top, right, bottom), fill=index)
                else:
                    with Image.open(BytesIO(base64.b64decode(shape["mask"]))) as part:
                        marked = Image.fromarray(np.asarray(part.convert("L")) > 0)
                    canvas.paste(index, (round(left), round(top)), marked)
        except (ValueError, TypeError, KeyError, OSError, binascii.Error) as error:
            raise InputError(
                f"{source}: shape {number} ({label}) is no {kind}: {' '.join(str(error).split())}. "
                "Correct or remove it."
            ) from None
    return np.array(canvas)
