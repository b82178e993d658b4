"""A canvas for small worlds: a camera over flat ground, light, haze, and shapes with smooth edges.

The world is in metres (x to the right, y up from the ground, z ahead of the camera, which stands at (0, eye, 0)), the
picture in pixels, colours are 3×1×1 in 0..1. The same strokes give the same bytes on every machine: pixels come from
+ - × ÷ √ floor, comparisons and tables alone, because NumPy's sin, exp and power differ between CPUs.
"""

from collections.abc import Sequence
from math import ceil, floor, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]  # of float32, in fact
Size = Array | np.floating | float
Box = tuple[slice, slice]  # rows and columns
Point = tuple[float, ...]  # x, y and, where it is not 0, z


def colours(names: str) -> list[Array]:
    return [np.array(list(bytes.fromhex(name)), np.float32).reshape(3, 1, 1) / 255 for name in names.split()]


def fractal(size: int = 1024) -> Array:
    """Soft noise of five wavelengths that repeats without a seam: clouds, stains, leaves."""
    random, at, total = np.random.Generator(np.random.Philox(5)).random, np.arange(size, dtype=np.float32), 0.0
    for cells, weight in (8, 0.5), (16, 0.25), (32, 0.13), (64, 0.07), (128, 0.05):
        corners, low = random((cells, cells), np.float32), np.arange(size) * cells // size
        high, t = (low + 1) % cells, at * (cells / size) - low.astype(np.float32)
        t = t * t * (3 - 2 * t)
        rows = corners[low] * (1 - t)[:, None] + corners[high] * t[:, None]
        total = total + weight * (rows[:, low] * (1 - t) + rows[:, high] * t)
    return np.ascontiguousarray(total)


def look_up(table: Array, x: Array, y: Array) -> Array:
    """The table's cell at (x, y); it repeats in both directions."""
    size = len(table)  # a power of two
    return table.take((np.floor(y).astype(np.int32) & size - 1) * size + (np.floor(x).astype(np.int32) & size - 1))


def clip(x: Array) -> Array:
    return np.minimum(np.maximum(x, 0), 1)


def within(x: Array, low: Size, high: Size, step: Size) -> Array:
    """The share of a pixel around x, step wide, that lies between low and high: edges come out smooth."""
    return clip(np.minimum(x - low, high - x) / step + 0.5)


def lines(x: Array, width: float, step: Size) -> Array:
    """Lines at the whole numbers, blurred and paler where a pixel, step wide, is wider than they are."""
    wide = np.maximum(step, width)
    return within(np.abs(x - np.floor(x + 0.5)), -wide, 0.5 * wide, step) * (width / wide)


def pixels(low: float, high: float, size: int) -> slice:
    """The rows or columns that low..high touches."""
    return slice(min(max(floor(low) - 1, 0), size), min(max(ceil(high) + 1, 0), size))


def distance(x: float, y: float) -> float:
    return sqrt(x * x + y * y)


NOISE, FRACTAL = np.random.Generator(np.random.Philox(7)).random((256, 256), np.float32), fractal()


class Light(NamedTuple):
    """The light of an hour: colours and figures."""

    zenith: Array
    horizon: Array
    sun: Array  # on what the sun reaches
    shade: Array  # on what it does not
    haze: Array
    contrast: float  # how much the two differ: 1 under a clear sky
    slope: float  # rise of the sun's rays
    lamps: float  # share of windows that are lit


class Canvas:
    """A picture in the making. A pixel's ray has slopes dx, dy: z metres ahead it is at (z dx, eye - z dy)."""

    def __init__(
        self, height: int, width: int, focal: float, vanish: tuple[float, float], eye: float, light: Light, sun: int
    ) -> None:
        """`focal` length and `vanish`ing point (column, row) in pixels; `sun`: -1 on the left, 1 on the right."""
        self.height, self.width, self.focal, self.eye, self.light, self.sun = height, width, focal, eye, light, sun
        self.column, self.row = vanish
        self.x, self.y = np.arange(width, dtype=np.float32) + 0.5, np.arange(height, dtype=np.float32)[:, None] + 0.5
        self.dx, self.dy = (self.x - self.column) / focal, (self.y - self.row) / focal
        self.image, self.labels = np.zeros((3, height, width), np.float32), np.zeros((height, width), np.uint8)

    def developed(self) -> NDArray[np.uint8]:
        """The picture, H×W×3, with a little grain."""
        image = clip(self.image + 0.02 * (np.resize(NOISE, self.labels.shape) - 0.5)) * 255 + 0.5
        return np.ascontiguousarray(image.astype(np.uint8).transpose(1, 2, 0))

    def project(self, x: float, y: float, z: float) -> tuple[float, float]:
        """The column and row of a point, in pixels."""
        return self.column + self.focal * x / z, self.row + self.focal * (self.eye - y) / z

    def box(self, points: Sequence[tuple[float, float]]) -> Box:
        """The rows and columns around points of the picture."""
        xs, ys = zip(*points, strict=True)
        return pixels(min(ys), max(ys), self.height), pixels(min(xs), max(xs), self.width)

    def oval(self, x: float, y: float, rx: float, ry: float) -> tuple[Box, Array, Array]:
        """The box around an ellipse of the picture, in pixels, and where each pixel is in it: -1..1 across and down."""
        box = self.box([(x - rx, y - ry), (x + rx, y + ry)])
        return box, (self.x[box[1]] - x) / rx, (self.y[box[0]] - y) / ry

    def blend(self, box: Box, cover: Array, colour: Array, label: int) -> None:
        """Paint over a box as far as each pixel is covered (0..1); the label is that of the greater part."""
        part = self.image[:, *box]
        part += cover * (colour - part)
        self.labels[box][cover > 0.5] = label

    def lit(self, colour: Array, sunlit: Size, z: Size) -> Array:
        """A surface's colour where sunlit of the sun (0..1) comes, through z metres of haze."""
        light, clear = self.light, 1 / (1 + z * z * (1 / 7000))
        bright = light.shade + (0.6 + light.contrast * (0.7 * sunlit - 0.35)) * (light.sun - light.shade)
        return light.haze + clear * (colour * bright - light.haze)


class Figure:
    """A drawing board that stands at (x, z) and faces the camera: shapes in metres from its foot, all of one label."""

    def __init__(self, canvas: Canvas, x: float, z: float, sunlit: float, label: int) -> None:
        self.canvas, self.x, self.z, self.sunlit, self.label = canvas, x, z, sunlit, label
        self.scale = canvas.focal / z  # pixels a metre

    def project(self, x: float, y: float, z: float = 0.0) -> tuple[float, float]:
        return self.canvas.project(self.x + x, y, self.z + z)

    def fill(self, box: Box, inside: Array, colour: Array, label: int | None = None) -> None:
        """A shape, by how many pixels each pixel is inside its border; the side to the sun is brighter."""
        across = self.canvas.x[box[1]]
        side = (across - across[:1]) / max(len(across), 1) - 0.5
        lit = self.canvas.lit(colour, self.sunlit, self.z) * (1 + 0.3 * self.canvas.sun * side)
        self.canvas.blend(box, clip(inside + 0.5), lit, self.label if label is None else label)

    def polygon(self, points: Sequence[Point], colour: Array, label: int | None = None) -> None:
        """A convex face, its corners clockwise; seen from behind it is not drawn."""
        corners = [self.project(*point) for point in points]
        edges = list(zip(corners, corners[1:] + corners[:1], strict=True))
        if sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in edges) <= 0:
            return
        box, borders = self.canvas.box(corners), []
        x, y = self.canvas.x[box[1]], self.canvas.y[box[0]]
        for (x0, y0), (x1, y1) in edges:
            length = distance(x1 - x0, y1 - y0) + 1e-6
            borders.append((y - y0) * ((x1 - x0) / length) - (x - x0) * ((y1 - y0) / length))
        self.fill(box, np.minimum.reduce(borders), colour, label)

    def limb(
        self, start: Point, end: Point, thick: float, thin: float, colour: Array, label: int | None = None
    ) -> None:
        """A bar between two points, so thick at its start and so thin at its end."""
        (x0, y0), (x1, y1) = start, end
        length = 2 * distance(x1 - x0, y1 - y0)
        nx, ny = (y1 - y0) / length, (x0 - x1) / length
        (a, b), (c, d) = (thick * nx, thick * ny), (thin * nx, thin * ny)
        self.polygon([(x0 - a, y0 - b), (x1 - c, y1 - d), (x1 + c, y1 + d), (x0 + a, y0 + b)], colour, label)

    def frustum(self, low: Point, high: Point, colour: Array, glass: Array | None = None) -> None:
        """A body tapering from low to high (each: half its width, height, front, back), with windows if of glass."""
        (w, y, f, b), (w1, y1, f1, b1) = low, high
        lid = [(-w1, y1, f1), (-w1, y1, b1), (w1, y1, b1), (w1, y1, f1)]
        right = [(w, y, f), (w1, y1, f1), (w1, y1, b1), (w, y, b)]
        left = [(-x, y, z) for x, y, z in reversed(right)]
        front = [(-w, y, f), (-w1, y1, f1), (w1, y1, f1), (w, y, f)]
        for face, shade in (lid, 1.15), (right, 0.82), (left, 0.82), (front, 1.0):
            self.polygon(face, shade * colour)
            if glass is not None and face is not lid:
                middle = [0.16 * sum(values) / 4 for values in zip(*face, strict=True)]
                self.polygon([tuple(0.84 * p + m for p, m in zip(point, middle, strict=True)) for point in face], glass)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Array, ring: float = np.inf) -> None:
        """An ellipse, or a ring so thick; at least a pixel or so of it."""
        rx, ry = max(rx * self.scale, 0.7), max(ry * self.scale, 0.7)
        box, dx, dy = self.canvas.oval(*self.project(x, y), rx, ry)
        inside = (1 - np.sqrt(dx * dx + dy * dy)) * min(rx, ry)
        self.fill(box, np.minimum(inside, max(ring * self.scale, 1.0) - inside), colour)

    def tuft(self, x: float, y: float, radius: float, colour: Array) -> None:
        """Leaves: a ball with a ragged border, brighter above."""
        cx, cy = self.project(x, y)
        box, dx, dy = self.canvas.oval(cx, cy, 1.3 * radius * self.scale, 1.1 * radius * self.scale)
        leaf = look_up(FRACTAL, 110 * radius * dx + 194 * cx / self.scale, 110 * radius * dy) - 0.5
        inside = (0.8 - np.sqrt(dx * dx + dy * dy) - 0.7 * leaf) * (radius * self.scale)
        self.fill(box, inside, colour * (1 + 0.9 * leaf - 0.25 * dy))
