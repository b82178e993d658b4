"""Label Studio's PNG export, a file a brush stroke, with the JSON export that knows the images' names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from danet.data.annotations.drawing import (
    BACKGROUND,
    BACKGROUNDS,
    Annotations,
    Drawing,
    Images,
    Size,
    class_colours,
    plain,
    refuse_other_size,
    whole,
)
from danet.data.pairs import list_files
from danet.errors import InputError

_EXPORTED = re.compile(r"task-(\d+)-annotation-(\d+)-by-.+\.png", re.IGNORECASE)


def read_label_studio(root: Path, files: dict[Path, Any]) -> Annotations | None:
    """task-…-annotation-…-by-….png, a brush stroke each, with the JSON export that tells which image a task is."""
    pngs = {path: found for path in list_files(root, (".png",)) if (found := _EXPORTED.fullmatch(path.name))}
    if not pngs:
        return None
    exports = {
        path: values for path, values in files.items() if isinstance(values, list) and any(map(_is_task, values))
    }
    if not exports:
        raise InputError(
            f"{root} holds Label Studio's PNG export, which does not tell the images' names; export the project as "
            "JSON too, and put that file beside it."
        )
    by_annotation: dict[tuple[str, str], list[Path]] = defaultdict(list)
    for path, found in pngs.items():
        by_annotation[found[1], found[2]].append(path)
    strokes: dict[Path, list[tuple[str, Path]]] = {}
    images = Images(root, pngs.keys())
    for path, tasks in exports.items():
        with whole(path, "JSON export of Label Studio"):
            for task in filter(_is_task, tasks):
                kept = [one for one in task["annotations"] if not one.get("was_cancelled")]
                if kept:
                    drawn = by_annotation.get((str(task["id"]), str(kept[-1]["id"])), [])
                    strokes[images.of_task(task)] = list(_strokes(kept[-1], drawn, root))
    if not strokes:
        raise InputError(f"{root}: no task of the JSON export has an annotation; export the project again.")
    labels = sorted({label for drawn in strokes.values() for label, _ in drawn} - set(BACKGROUNDS))
    names = (BACKGROUND, *labels)
    drawings = [
        Drawing(image, partial(_from_strokes, [(names.index(plain(label)), path) for label, path in drawn]))
        for image, drawn in strokes.items()
    ]
    return Annotations("Label Studio's PNG export", names, class_colours(names), drawings, [], pngs.keys())


def _is_task(task: Any) -> bool:
    return isinstance(task, dict) and {"id", "data", "annotations"} <= task.keys()


def _strokes(annotation: dict[str, Any], drawn: list[Path], root: Path) -> Iterator[tuple[str, Path]]:
    """An annotation's brush strokes in their order: label and PNG, whose name ends on tool, labels and a count."""
    counts: Counter[str] = Counter()
    for result in annotation.get("result", []):
        value = result.get("value", {})
        labels = value.get("brushlabels") or value.get("labels")
        if "rle" not in value or not labels:
            continue
        name = f"{result['from_name']}-{'-'.join(labels)}"
        ending = f"-{name}-{counts[name]}.png"
        counts[name] += 1
        path = next((path for path in drawn if path.name.endswith(ending.replace("/", "-"))), None)
        if path is None:
            raise InputError(
                f"{root}: annotation {annotation['id']} has a stroke of {labels[0]!r}, but there is no PNG that ends "
                f"on {ending}; export PNGs and JSON of the same state."
            )
        yield labels[0], path


def _from_strokes(strokes: list[tuple[int, Path]], size: Size) -> UInt8[np.ndarray, "h w"]:
    indices = np.zeros(size, np.uint8)
    for index, path in strokes:
        try:
            with Image.open(path) as image:
                marked = np.array(image.convert("L")) > 0
        except Exception as error:  # decoders of damaged files raise nearly anything
            raise InputError(f"{path} cannot be read: {' '.join(str(error).split())}. Export it again.") from None
        refuse_other_size(marked.shape, size, str(path))
        indices[marked] = index
    return indices
