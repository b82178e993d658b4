"""Boundary IoU against a naive one and against what the published code computes."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from danet.data.labels import IGNORE_INDEX
from danet.evaluation.boundary import BoundaryScores, boundary_counts, outlines

K = 3
SIZES = st.tuples(st.integers(1, 12), st.integers(1, 12))
LABELS = st.sampled_from([*range(K), IGNORE_INDEX])


def mask_to_boundary(mask: np.ndarray, dilation_ratio: float) -> np.ndarray:
    """As https://github.com/bowenc0221/boundary-iou-api has it, with cv2's calls written out: copyMakeBorder by one
    pixel of zeros, and erode by a 3×3 square, to which what is outside sets no bound, `dilation` times."""
    height, width = mask.shape
    dilation = max(round(dilation_ratio * np.sqrt(height**2 + width**2)), 1)
    eroded = np.pad(mask, 1)
    for _ in range(dilation):
        bordered = np.pad(eroded, 1, constant_values=1)
        shifted = [bordered[y : y + height + 2, x : x + width + 2] for y in range(3) for x in range(3)]
        eroded = np.minimum.reduce(shifted)
    return mask - eroded[1:-1, 1:-1]


@settings(deadline=None)
@given(st.data(), SIZES, st.sampled_from([0.02, 0.1, 0.3]))
def test_counts_are_those_of_the_published_code(data, size, width):
    """Of each class's masks, where ignored pixels are in neither."""
    truth = data.draw(arrays(np.uint8, size, elements=LABELS))
    prediction = data.draw(arrays(np.uint8, size, elements=st.integers(0, K - 1)))
    found = boundary_counts(prediction, truth, K, width)
    assert found.dtype == np.int64
    for index in range(K):
        masks = [((one == index) & (truth != IGNORE_INDEX)).astype(np.uint8) for one in (truth, prediction)]
        true, said = (mask_to_boundary(mask, width) for mask in masks)
        assert found[:, index].tolist() == [(true * said > 0).sum(), (true + said > 0).sum()]


@settings(deadline=None)
@given(st.data(), SIZES, st.integers(1, 5))
def test_outlines_are_near_another_label_or_the_end(data, size, distance):
    labels = data.draw(arrays(np.uint8, size, elements=LABELS))
    found = outlines(labels, distance)
    for y, x in np.ndindex(size):
        rows, columns = (range(place - distance, place + distance + 1) for place in (y, x))
        inside = rows[0] >= 0 and columns[0] >= 0 and rows[-1] < size[0] and columns[-1] < size[1]
        near = labels[max(rows[0], 0) : rows[-1] + 1, max(columns[0], 0) : columns[-1] + 1]
        assert found[y, x] == (labels[y, x] != IGNORE_INDEX and not (inside and (near == labels[y, x]).all()))


@settings(deadline=None)
@given(st.data(), SIZES)
def test_what_is_predicted_at_ignored_pixels_changes_nothing(data, size):
    truth = data.draw(arrays(np.uint8, size, elements=LABELS))
    prediction, other = (data.draw(arrays(np.uint8, size, elements=st.integers(0, K - 1))) for _ in range(2))
    changed = np.where(truth == IGNORE_INDEX, other, prediction)
    assert np.array_equal(boundary_counts(prediction, truth, K), boundary_counts(changed, truth, K))


def test_a_shifted_square_scores_lower_on_its_outline():
    """A square of 20×20 in 60×80, where 2 % of the diagonal are 2 pixels, and the same one pixel to the right."""
    truth, prediction = np.zeros((2, 60, 80), np.uint8)
    truth[20:40, 30:50], prediction[20:40, 31:51] = 1, 1
    scores = BoundaryScores(("ground", "square", "none"), boundary_counts(prediction, truth, 3))
    assert round(0.02 * math.hypot(60, 80)) == 2
    # of the two outlines' 144 pixels each, the upper and lower rows share 2·2·19, the left and right columns 2·16
    assert scores.counts[:, 1].tolist() == [2 * 2 * 19 + 2 * 16, 2 * 144 - (2 * 2 * 19 + 2 * 16)]
    assert scores.iou["none"] is None
    assert scores.miou == pytest.approx((scores.iou["ground"] + scores.iou["square"]) / 2)
    assert scores.iou["square"] < 380 / 420
