"""Class colours over an image, with thin outlines and a legend of what is there; and pictures side by side."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, UInt8
from PIL import Image, ImageDraw

from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.viz.text import GROUND, INK, MUTED, font, font_size, wrap


def overlay(
    image: UInt8[np.ndarray, "h w 3"],
    labels: UInt8[np.ndarray, "h w"],
    space: LabelSpace,
    alpha: float = 0.55,
    legend: bool = True,
) -> Image.Image:
    """The image under its class colours; pixels without a label (255) stay as they are.

    The image keeps its size, at the top left; the legend stands to its right and may be taller. `alpha` is the
    colours' weight, 0 to 1. Raises ValueError where image and labels differ in size or a label is no class.
    """
    if image.shape != (*labels.shape, 3):
        raise ValueError(f"image {image.shape} and labels {labels.shape} differ in size; resize the labels first")
    labelled = labels != IGNORE_INDEX
    if labels[labelled].max(initial=0) >= space.num_classes:
        raise ValueError(f"label {labels[labelled].max()} is none of {space.num_classes} classes; use to_indices first")
    blend = np.where(
        labelled[..., None], image + alpha * (space.colour_image(labels) - image.astype(np.float32)), image
    )
    edge = outlines(labels, thickness=max(1, round(min(labels.shape) / 400)))[..., None]
    blend = np.where(edge, blend + 0.7 * (255 - blend), blend)
    picture = Image.fromarray(np.rint(blend).astype(np.uint8))
    return _beside(picture, legend_picture(labels, space)) if legend else picture


def outlines(labels: UInt8[np.ndarray, "h w"], thickness: int = 1) -> Bool[np.ndarray, "h w"]:
    """True on the pixels whose right or lower neighbour, up to `thickness` away, has another label."""
    edge = np.zeros(labels.shape, bool)
    for step in range(1, thickness + 1):
        edge[:, :-step] |= labels[:, :-step] != labels[:, step:]
        edge[:-step] |= labels[:-step] != labels[step:]
    return edge


def class_shares(labels: UInt8[np.ndarray, "h w"], space: LabelSpace) -> dict[str, float]:
    """Share of all pixels of each class that is present, largest first. Unlabelled pixels belong to no class."""
    counts = np.bincount(labels.ravel(), minlength=256)[: space.num_classes]
    order = [index for index in np.argsort(-counts, kind="stable") if counts[index]]
    return {space.names[index]: float(counts[index] / labels.size) for index in order}


def legend_picture(labels: UInt8[np.ndarray, "h w"], space: LabelSpace) -> Image.Image:
    """Colour, name and share of each class present, in as many columns as the picture's height asks for."""
    face = font(font_size(*labels.shape))
    line, em = round(1.6 * face.size), face.size
    rows = [
        (name, f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %")
        for name, share in class_shares(labels, space).items()
    ]
    per_column = max(labels.shape[0] // line - 1, min(len(rows), 12), 1)
    name_width = max((face.getlength(name) for name, _ in rows), default=0)
    column = round(name_width + face.getlength("< 0.1 %") + 4.2 * em)
    columns = -(-len(rows) // per_column)
    picture = Image.new("RGB", (max(1, column * columns), line * min(len(rows), per_column) + line), GROUND)
    draw = ImageDraw.Draw(picture)
    for place, (name, share) in enumerate(rows):
        x, y = place // per_column * column + em, place % per_column * line + line
        draw.rectangle((x, y - em // 2, x + em, y + em // 2), fill=space.colours[space.index(name)])
        draw.text((x + 1.6 * em, y), name, fill=INK, font=face, anchor="lm")
        draw.text((x + column - 1.6 * em, y), share, fill=MUTED, font=face, anchor="rm")
    return picture


def side_by_side(images: Sequence[Image.Image], titles: Sequence[str]) -> Image.Image:
    """The pictures in a row, tops aligned, each at its own size under its title (wrapped to the picture's width)."""
    em = font_size(min(image.height for image in images), min(image.width for image in images))
    face, gap, line = font(em), em, round(1.4 * em)
    headings = [wrap(title, face, image.width) for image, title in zip(images, titles, strict=True)]
    widths = [
        max([image.width, *(round(face.getlength(text) + 0.5) for text in heading)])
        for image, heading in zip(images, headings, strict=True)
    ]
    top = max(len(heading) for heading in headings) * line + gap
    size = (sum(widths) + gap * (len(images) + 1), top + max(image.height for image in images) + gap)
    canvas = Image.new("RGB", size, GROUND)
    draw, x = ImageDraw.Draw(canvas), gap
    for image, heading, width in zip(images, headings, widths, strict=True):
        for row, text in enumerate(reversed(heading)):
            draw.text((x, top - gap // 2 - row * line), text, fill=INK, font=face, anchor="ls")
        canvas.paste(image, (x, top))
        x += width + gap
    return canvas


def _beside(picture: Image.Image, legend: Image.Image) -> Image.Image:
    canvas = Image.new("RGB", (picture.width + legend.width, max(picture.height, legend.height)), GROUND)
    canvas.paste(picture, (0, 0))
    canvas.paste(legend, (picture.width, 0))
    return canvas
