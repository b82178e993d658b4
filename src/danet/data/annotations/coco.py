"""COCO's JSON: polygons and run lengths; polygons are written."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8

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
from danet.errors import InputError
from danet.files import written_aside


def write_coco(path: Path, images: Iterable[Labelled], names: tuple[str, ...]) -> None:
    """Label maps as COCO's JSON: a polygon for every connected region, the largest first; holes are filled.

    Category i + 1 is class i. Memory is that of one image: annotations are written as they come.
    """
    categories = [{"id": number, "name": name} for number, name in enumerate(names, start=1)]
    listed: list[str] = []
    count = 0
    with written_aside(path) as aside, aside.open("w", encoding="utf-8") as file:
        file.write(f'{{"categories": {json.dumps(categories)},\n"annotations": [')
        for number, (name, _, labels) in enumerate(images, start=1):
            height, width = labels.shape
            image = {"id": number, "file_name": str(name), "width": width, "height": height}
            listed.append(json.dumps(image))
            for region in regions(labels, TOLERANCE):
                (left, top), (right, bottom) = region.outline.min(0).tolist(), region.outline.max(0).tolist()
                annotation = {
                    "id": count + 1,
                    "image_id": number,
                    "category_id": region.index + 1,
                    "segmentation": [region.outline.ravel().tolist()],
                    "area": region.area,
                    "bbox": [left, top, right - left, bottom - top],
                    "iscrowd": 0,
                }
                file.write(("," if count else "") + "\n" + json.dumps(annotation))
                count += 1
        file.write('],\n"images": [\n' + ",\n".join(listed) + "]}\n")


def read_coco(root: Path, files: dict[Path, Any]) -> Annotations | None:
    """COCO's JSON: polygons and run lengths; smaller regions lie on larger ones, unless they are all of one class."""
    found = {
        path: values
        for path, values in files.items()
        if isinstance(values, dict) and {"images", "annotations", "categories"} <= values.keys()
    }
    if not found:
        return None
    classes: dict[int, str] = {}
    regions: dict[Path, tuple[Path, dict[str, Any], Size, list[dict[str, Any]]]] = {}
    notes, images = [], Images(root)
    for path, values in found.items():
        with whole(path, "COCO's JSON"):
            for category in values["categories"]:
                if classes.setdefault(int(category["id"]), str(category["name"])) != category["name"]:
                    raise InputError(f"{path}: category {category['id']} is {category['name']!r}, elsewhere another.")
            marked = defaultdict(list)
            for one in values["annotations"]:
                if int(one["category_id"]) not in classes:
                    raise InputError(f"{path}: annotation {one['id']} has the unknown category {one['category_id']}.")
                marked[one["image_id"]].append(one)
            for image in values["images"]:
                picture = images.find(image["file_name"], path)
                if picture in regions:
                    raise InputError(f"{path} annotates {picture}, as does {regions[picture][0]}; leave one of them.")
                told = (int(image["height"]), int(image["width"]))
                regions[picture] = (path, image, told, marked[image["id"]])
    boxes = sum(not one.get("segmentation") for _, _, _, marked in regions.values() for one in marked)
    if boxes:
        notes.append(f"Boxes without a region are left out: {boxes}.")
    names = with_background(classes[number] for number in sorted(classes))
    index = {number: names.index(plain(name)) for number, name in classes.items()}
    drawings = [
        Drawing(picture, partial(_from_regions, marked, index, told, f"{path}: {image['file_name']}"))
        for picture, (path, image, told, marked) in regions.items()
    ]
    return Annotations("COCO's JSON", names, class_colours(names), drawings, notes)


def _from_regions(
    marked: list[dict[str, Any]], index: dict[int, int], told: Size, source: str, size: Size
) -> UInt8[np.ndarray, "h w"]:
    refuse_other_size(told, size, source)
    regions = [
        (index[int(one["category_id"])], _region(one, size, source)) for one in marked if one.get("segmentation")
    ]
    indices = np.zeros(size, np.uint8)
    for category, region in sorted(regions, key=lambda one: -int(one[1].sum())):
        indices[region] = category
    return indices


def _region(annotation: dict[str, Any], size: Size, source: str) -> Bool[np.ndarray, "h w"]:
    """COCO's polygons, run lengths, or compressed run lengths."""
    try:
        from pycocotools import mask
    except ImportError:
        raise InputError(f"{source}: COCO's JSON needs pycocotools: pip install 'danet[coco]'.") from None
    masks: Any = mask  # its types know one region alone
    region, where = annotation["segmentation"], f"{source}, annotation {annotation.get('id')}"
    try:
        if isinstance(region, dict):
            if tuple(region["size"]) != size or not _covers(region["counts"], size):
                raise InputError(
                    f"{where} is of {region['size']} pixels (height, width), or its runs are not; its image is of "
                    f"{list(size)}. Correct or remove it."
                )
            coded = masks.frPyObjects(region, *size) if isinstance(region["counts"], list) else region
        else:
            polygons = [[float(value) for value in polygon] for polygon in region]
            coded = masks.merge(masks.frPyObjects(polygons, *size))
        return masks.decode(coded).astype(bool)
    except InputError:
        raise
    except Exception as error:  # whatever the run lengths hold
        raise InputError(f"{where} is no region: {' '.join(str(error).split())}. Correct or remove it.") from None


def _covers(counts: list[int] | str, size: Size) -> bool:
    """Whether run lengths add up to the image: of fewer, pycocotools leaves the rest of its memory as it was."""
    return sum(counts if isinstance(counts, list) else _unpacked(counts)) == size[0] * size[1]


def _unpacked(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a character, the lowest first; from the third on as differences to the
    last but one (rleToString in cocoapi's maskApi.c)."""
    counts: list[int] = []
    value = shift = 0
    for character in text.encode():
        bits = character - 48
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            if bits & 16:
                value -= 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    return counts
