"""A data set at a glance: its images with their masks, and crops as training sees them, as a page and as one picture.

The page's look is in sheet.html beside this file, and in the report's report.css.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int64, UInt8
from jinja2 import Environment, StrictUndefined
from markupsafe import Markup
from PIL import Image, ImageDraw

from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.viz.attention_page import policy
from danet.viz.overlay import overlay
from danet.viz.report import colour, jpeg, label_png, percent
from danet.viz.text import GROUND, INK, font, wrap

ROW = 150
"""Height of a picture on the contact sheet, in pixels."""
_GAP, _EM = 8, 13


class View(NamedTuple):
    """An image as people see it, and its class indices (255 is unlabelled)."""

    image: UInt8[np.ndarray, "h w 3"]
    labels: UInt8[np.ndarray, "h w"]


class Shown(NamedTuple):
    """One image of the data set, and crops of it."""

    name: str
    whole: View
    crops: Sequence[View]


def page(
    title: str,
    shown: Sequence[Shown],
    space: LabelSpace,
    counts: Int64[np.ndarray, "n 256"],
    facts: Mapping[str, str],
) -> str:
    """The page as text; every name that comes from outside is escaped. counts: pixels of each class in each image."""
    here = files("danet.viz")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    environment.filters |= {"percent": percent, "jpeg": lambda pixels: jpeg(Image.fromarray(pixels))}
    environment.filters |= {
        "mask": lambda labels: label_png(labels, space),
        "overlay": lambda view: jpeg(overlay(view.image, view.labels, space, legend=False)),
    }
    return environment.from_string(here.joinpath("sheet.html").read_text("utf-8")).render(
        title=title,
        style=Markup(here.joinpath("report.css").read_text("utf-8")),
        policy=policy(scripted=False),
        classes=class_rows(space, counts),
        images=len(counts),
        ignored=counts[:, IGNORE_INDEX].sum() / max(counts.sum(), 1),
        shown=shown,
        facts=facts,
    )


def class_rows(space: LabelSpace, counts: Int64[np.ndarray, "n 256"]) -> list[dict[str, Any]]:
    """Each class's colour, share of the labelled pixels, and number of images with it."""
    labelled = counts[:, : space.num_classes]
    pixels, total = labelled.sum(axis=0), max(int(labelled.sum()), 1)
    return [
        {
            "name": name,
            "colour": colour(space, index),
            "share": int(pixels[index]) / total,
            "images": int((labelled[:, index] > 0).sum()),
        }
        for index, name in enumerate(space.names)
    ]


def contact_sheet(shown: Sequence[Shown], space: LabelSpace) -> Image.Image:
    """A row an image: itself, its mask, the overlay, and the crops with their classes; its name above it."""
    face = font(_EM)
    rows = []
    for one in shown:
        image, labels = one.whole
        whole = [Image.fromarray(image), Image.fromarray(space.colour_image(labels))]
        views = [overlay(*view, space, legend=False) for view in (one.whole, *one.crops)]
        rows.append([_scaled(picture) for picture in (*whole, *views)])
    width = max(sum(picture.width + _GAP for picture in row) for row in rows) + _GAP
    names = [wrap(one.name, face, width - 2 * _GAP) for one in shown]
    line = round(1.4 * _EM)
    height = sum(ROW + _GAP + line * len(name) for name in names) + _GAP
    sheet = Image.new("RGB", (width, height), GROUND)
    draw, y = ImageDraw.Draw(sheet), _GAP
    for row, name in zip(rows, names, strict=True):
        for text in name:
            draw.text((_GAP, y), text, fill=INK, font=face)
            y += line
        x = _GAP
        for picture in row:
            sheet.paste(picture, (x, y))
            x += picture.width + _GAP
        y += ROW + _GAP
    return sheet


def _scaled(picture: Image.Image) -> Image.Image:
    return picture.resize((max(1, round(picture.width * ROW / picture.height)), ROW), Image.Resampling.BOX)
