"""What a pixel attends to, as light on a dimmed image; and the caption without which no map is shown."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageDraw

from danet.viz.text import GROUND, INK, font, font_size, wrap

SHUT = 0.02
# One hue, black to ivory, in even steps of OKLab lightness (0, 0.16 … 0.96).
HEAT = np.array([(0, 0, 0), (33, 2, 0), (95, 20, 3), (161, 51, 26), (226, 91, 56), (250, 166, 133), (255, 236, 225)])


def caption(gate: float, share: float) -> str:
    """What belongs under a map of position attention: its gate α and the share ‖αE‖/‖A‖ (1 is 100 %) on this image;
    where the share is below 2 %, with a warning."""
    alpha = f"{gate:z.{2 if abs(gate) >= 0.1 else 3}f}".replace("-", "−")
    figures = f"position gate α = {alpha} · share ‖αE‖/‖A‖ = {100 * share:.{0 if share >= 0.1 else 1}f} %"
    return f"{figures} · this branch is nearly shut; its map explains little" if share < SHUT else figures


def heat(weight: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "h w 3"]:
    """Light of one hue, sRGB of 0 to 255, for weights of 0 to 1."""
    return np.stack([np.interp(weight, np.linspace(0, 1, len(HEAT)), channel) for channel in HEAT.T], axis=-1)


def attention_overlay(
    image: UInt8[np.ndarray, "h w 3"],
    attention: Float[np.ndarray, "mh mw"],
    at: tuple[int, int],
    caption_lines: Sequence[str] = (),
    span: tuple[float, float] | None = None,
) -> Image.Image:
    """The image, grey and dimmed, lit by the map; a ring marks the pixel `at` = (x, y) that attends.

    The map, of any size, is divided by its maximum and resized (bilinear) to the image, which takes up `span` of its
    rows and columns, by default all. Caption lines, if any, are wrapped beneath. Raises ValueError for a point outside
    the image and for a map with negative or no finite values.
    """
    height, width = image.shape[:2]
    if not (0 <= at[0] < width and 0 <= at[1] < height):
        raise ValueError(f"point {at} lies outside the image; x is 0 to {width - 1}, y is 0 to {height - 1}")
    if not np.isfinite(attention).all() or attention.min() < 0:
        raise ValueError("the attention map has negative or non-finite values; weights are 0 or more")
    weight = Image.fromarray((attention / max(attention.max(), np.finfo(np.float32).tiny)).astype(np.float32))
    rows, columns = span or attention.shape
    light = heat(np.asarray(weight.resize((width, height), Image.Resampling.BILINEAR, box=(0, 0, columns, rows))))
    grey = 0.5 * np.asarray(Image.fromarray(image).convert("L"), np.float32)[..., None]
    picture = Image.fromarray(np.rint(255 - (255 - grey) * (255 - light) / 255).astype(np.uint8))
    _mark(picture, at)
    return _captioned(picture, caption_lines) if caption_lines else picture


def _mark(picture: Image.Image, at: tuple[int, int]) -> None:
    """A white ring with a dark rim around the pixel, which stays visible inside."""
    radius = max(4, round(min(picture.size) / 50))
    draw, line = ImageDraw.Draw(picture), max(1, round(radius / 4))
    for reach, colour, width in ((radius + line, INK, 3 * line), (radius, "white", line)):
        draw.ellipse((at[0] - reach, at[1] - reach, at[0] + reach, at[1] + reach), outline=colour, width=width)


def _captioned(picture: Image.Image, lines: Sequence[str]) -> Image.Image:
    face = font(font_size(picture.height, picture.width))
    em, line = round(face.size), round(1.5 * face.size)
    rows = [row for text in lines for row in wrap(text, face, max(picture.width, 20 * em) - 2 * em)]
    width = max([picture.width, *(round(face.getlength(row)) + 2 * em for row in rows)])
    canvas = Image.new("RGB", (width, picture.height + line * len(rows) + em), GROUND)
    canvas.paste(picture, (0, 0))
    draw = ImageDraw.Draw(canvas)
    for number, row in enumerate(rows):
        draw.text((em, picture.height + em // 2 + line * (number + 0.5)), row, fill=INK, font=face, anchor="lm")
    return canvas
