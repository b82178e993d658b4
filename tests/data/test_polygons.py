"""Label maps as polygons that, painted one over the other, are the label map again."""

import numpy as np
import pycocotools.mask
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from danet.data.annotations.polygons import TOLERANCE, area, regions
from danet.data.scenes import scene

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
UNPAINTED = 99
LABELS = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 3))


def painted(found, shape):
    """By pycocotools, the one in whose form COCO's polygons are."""
    labels = np.full(shape, UNPAINTED, np.uint8)
    for region in found:
        coded = pycocotools.mask.frPyObjects([region.outline.ravel().astype(float).tolist()], *shape)
        labels[pycocotools.mask.decode(pycocotools.mask.merge(coded)).astype(bool)] = region.index
    return labels


def off_borders(labels, other, reach=1):
    """Where `other` is none of the labels that are at most `reach` pixels away."""
    padded = np.pad(labels, reach, mode="edge")
    height, width = labels.shape
    side = range(2 * reach + 1)
    around = [padded[y : y + height, x : x + width] for y in side for x in side]
    return ~np.any([near == other for near in around], axis=0)


@given(LABELS)
def test_painted_again_the_regions_are_exact(labels):
    assert np.array_equal(painted(regions(labels), labels.shape), labels)


@given(LABELS)
def test_the_outlines_are_those_of_regions_joined_at_their_sides(labels):
    found = regions(labels)
    seen = np.zeros(labels.shape, bool)
    count = 0
    for y, x in np.ndindex(labels.shape):  # every region, found by walking from pixel to pixel
        count += not seen[y, x]
        waiting = [(y, x)] * (not seen[y, x])
        while waiting:
            row, column = waiting.pop()
            if not seen[row, column]:
                seen[row, column] = True
                beside = ((row - 1, column), (row + 1, column), (row, column - 1), (row, column + 1))
                waiting += [
                    (r, c)
                    for r, c in beside
                    if 0 <= r < labels.shape[0] and 0 <= c < labels.shape[1] and labels[r, c] == labels[row, column]
                ]
    assert len(found) == count
    assert all(region.area >= 1 and region.area == area(region.outline) for region in found)
    assert [region.area for region in found] == sorted((region.area for region in found), reverse=True)
    corners = [tuple(corner) for region in found for corner in region.outline]
    assert all(0 <= x <= labels.shape[1] and 0 <= y <= labels.shape[0] for x, y in corners)


@given(LABELS)
def test_fewer_corners_move_a_border_by_less_than_a_pixel(labels):
    near = painted(regions(labels, TOLERANCE), labels.shape)
    assert not (off_borders(labels, near) & (near != UNPAINTED)).any()


def test_a_staircase_becomes_a_line_and_neighbours_keep_their_border():
    labels = (np.add.outer(np.arange(40), np.arange(50)) > 45).astype(np.uint8)
    found = regions(labels, TOLERANCE)
    assert [len(region.outline) for region in regions(labels)] == [82, 82]
    assert max(len(region.outline) for region in found) <= 6
    assert sum(region.area for region in found) == 40 * 50  # neither gap nor overlap


def test_a_line_of_one_pixel_stays():
    labels = np.zeros((40, 48), np.uint8)
    labels[np.arange(30), np.arange(30)] = 1
    labels[35, 5:40] = 2
    assert np.array_equal(painted(regions(labels, TOLERANCE), labels.shape), labels)


def test_on_drawn_streets_few_pixels_differ_and_corners_are_fewer():
    for index in range(4):
        labels = scene(0, index).labels
        exact, near = regions(labels), regions(labels, TOLERANCE)
        other = painted(near, labels.shape)
        assert (other != labels).mean() < 0.005
        assert (other == UNPAINTED).sum() <= 2  # where a thin region that kept all its corners has simpler neighbours
        assert not (off_borders(labels, other) & (other != UNPAINTED)).any()
        assert sum(len(region.outline) for region in near) < 0.7 * sum(len(region.outline) for region in exact)
