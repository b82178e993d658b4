"""A label map as polygons, painted one over the other: an outline for every connected region, without holes.

Outlines run along the sides of pixels, whose corners are whole numbers: pixel (x, y) is the square from (x, y) to
(x + 1, y + 1). What lies in a region's hole is regions of their own, which are smaller, so that painting all outlines
from the largest to the smallest gives the label map again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, UInt8

TOLERANCE = 0.75
"""In pixels: just more than the √½ from a staircase of pixels to a straight line, so that slopes become lines."""
_SIDES = np.array([(-1, 0), (0, 1), (1, 0), (0, -1)])
"""Rows and columns from a pixel to its neighbour above, right, below and left; a side is walked clockwise."""


class Region(NamedTuple):
    """A connected region's class index and its outline as corners (x, y), clockwise; its hole, if any, is filled."""

    index: int
    outline: Int[np.ndarray, "n 2"]

    @property
    def area(self) -> float:
        """In pixels, its holes included."""
        return area(self.outline)


def regions(labels: UInt8[np.ndarray, "h w"], tolerance: float = 0.0) -> list[Region]:
    """The regions of equal label whose pixels touch at their sides, the largest outline first.

    tolerance: corners may be left out where the outline stays so near, in pixels; where three regions meet none is, so
    that neighbours keep their common border without gap or overlap. 0: painted again the regions are exact. A region
    that would lose half of its area keeps all of its corners, as lines of one pixel do.
    """
    found = [Region(index, outline) for index, outline in _outlines(labels, tolerance)]
    return sorted(found, key=lambda region: -region.area)


def area(outline: Int[np.ndarray, "n 2"]) -> float:
    """The area within, by the shoelace formula; negative if it is walked counter-clockwise, as around a hole."""
    (x, y), (next_x, next_y) = outline.T.astype(float), np.roll(outline, -1, axis=0).T.astype(float)
    return float((x * next_y - next_x * y).sum() / 2)


def _outlines(labels: UInt8[np.ndarray, "h w"], tolerance: float) -> Iterator[tuple[int, Int[np.ndarray, "n 2"]]]:
    height, width = labels.shape
    around = np.pad(labels.astype(np.int16), 1, constant_values=-1)
    sides, rows, columns = np.nonzero(
        np.stack([labels != around[1 + y : 1 + y + height, 1 + x : 1 + x + width] for y, x in _SIDES])
    )
    own = labels[rows, columns]
    # Walking along a side with its pixel to the right: the pixel ahead, and the one ahead to the left.
    ahead = np.stack([rows, columns], 1) + _SIDES[(sides + 1) % 4]
    across = ahead + _SIDES[sides]
    right = around[ahead[:, 0] + 1, ahead[:, 1] + 1] != own
    straight = ~right & (around[across[:, 0] + 1, across[:, 1] + 1] != own)
    turned = np.where(right, sides + 1, np.where(straight, sides, sides + 3)) % 4
    where = np.where(right[:, None], np.stack([rows, columns], 1), np.where(straight[:, None], ahead, across))
    numbers = (sides * height + rows) * width + columns  # in order, for nonzero gives them so
    after = np.searchsorted(numbers, (turned * height + where[:, 0]) * width + where[:, 1])

    starts = np.stack([columns + ((sides == 1) | (sides == 2)), rows + (sides >= 2)], 1)
    # A corner is where the walk turns; a junction, where three regions or four parts of two meet.
    quads = [around[starts[:, 1] + y, starts[:, 0] + x] for y, x in ((0, 0), (0, 1), (1, 0), (1, 1))]
    pairs = ((0, 1), (1, 3), (3, 2), (2, 0))
    junction = np.sum([quads[one] != quads[other] for one, other in pairs], axis=0) > 2
    for walk in _cycles(after.tolist()):
        order = np.array(walk)
        corner = sides[order] != np.roll(sides[order], 1)
        exact = starts[order[corner]]
        if area(exact) < 0:
            continue  # around a hole
        outline = exact
        if tolerance > 0:
            kept = corner | junction[order]
            outline = _simplified(starts[order[kept]], junction[order[kept]], tolerance)
            if len(outline) < 3 or area(outline) < area(exact) / 2:
                outline = exact
        yield int(own[walk[0]]), outline


def _cycles(after: list[int]) -> Iterator[list[int]]:
    """The cycles of a permutation."""
    seen = bytearray(len(after))
    for start in range(len(after)):
        if not seen[start]:
            walk, place = [], start
            while not seen[place]:
                seen[place] = 1
                walk.append(place)
                place = after[place]
            yield walk


def _simplified(
    outline: Int[np.ndarray, "n 2"], junction: Bool[np.ndarray, " n"], tolerance: float
) -> Int[np.ndarray, "m 2"]:
    """The outline arc by arc from junction to junction; without two of them, between two points far apart."""
    anchors = np.flatnonzero(junction)
    if len(anchors) < 2:
        first = anchors[0] if len(anchors) else np.lexsort(outline.T)[0]
        far = np.square(outline - outline[first]).sum(1).argmax()
        anchors = np.sort([first, far])
    parts = []
    for begin, end in zip(anchors, [*anchors[1:], anchors[0] + len(outline)], strict=True):
        arc = outline[np.arange(begin, end + 1) % len(outline)]
        # A neighbour walks the same arc the other way round, and must find the same.
        backwards = tuple(arc[0]) > tuple(arc[-1])
        kept = _line(arc[::-1] if backwards else arc, tolerance)
        parts.append((kept[::-1] if backwards else kept)[:-1])
    return np.concatenate(parts)


def _line(arc: Int[np.ndarray, "n 2"], tolerance: float) -> Int[np.ndarray, "m 2"]:
    """The arc's ends, and what it needs between them to stay within the tolerance (Douglas and Peucker, 1973)."""
    kept, open_parts = {0, len(arc) - 1}, [(0, len(arc) - 1)]
    while open_parts:
        begin, end = open_parts.pop()
        if end - begin < 2:
            continue
        distances = _distances(arc[begin + 1 : end], arc[begin], arc[end])
        worst = int(distances.argmax())
        if distances[worst] > tolerance:
            middle = begin + 1 + worst
            kept.add(middle)
            open_parts += [(begin, middle), (middle, end)]
    return arc[sorted(kept)]


def _distances(
    points: Int[np.ndarray, "n 2"], begin: Int[np.ndarray, " xy"], end: Int[np.ndarray, " xy"]
) -> Float[np.ndarray, " n"]:
    """Of points from the stretch between two ends."""
    along = (end - begin).astype(float)
    length = along @ along
    share = np.clip((points - begin) @ along / length, 0, 1) if length else np.zeros(len(points))
    return np.hypot(*(points - begin - share[:, None] * along).T)
