"""Overlays, pixel by pixel: colours, outlines, unlabelled pixels, the legend, and pictures in a row."""

import numpy as np
import pytest
from PIL import Image

from danet.data.labels import LabelSpace
from danet.viz.overlay import class_shares, legend_picture, outlines, overlay, side_by_side
from danet.viz.text import font

SPACE = LabelSpace("three", ("sky", "road", "tree"), ((10, 20, 250), (200, 60, 200), (0, 200, 0)))


def streets(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """A random image; the upper half is sky, the lower road, the last row unlabelled."""
    image = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    labels = np.repeat(np.arange(height) * 2 // height, width).reshape(height, width).astype(np.uint8)
    labels[-1] = 255
    return image, labels


def colours_in(picture: Image.Image) -> set[tuple[int, int, int]]:
    return {tuple(pixel) for pixel in np.unique(np.asarray(picture).reshape(-1, 3), axis=0).tolist()}


def test_inside_a_class_the_picture_is_the_blend_and_unlabelled_pixels_are_the_image():
    image, labels = streets(40, 30)
    picture = np.asarray(overlay(image, labels, SPACE, alpha=0.25, legend=False))
    assert picture.shape == image.shape
    expected = 0.75 * image + 0.25 * SPACE.colour_image(labels)
    inside = (labels != 255) & ~outlines(labels)
    np.testing.assert_allclose(picture[inside], expected[inside], atol=0.51)
    np.testing.assert_array_equal(picture[-1], image[-1])
    changed = labels.copy()
    changed[5:10, 5:10] = 2
    differs = (
        np.asarray(overlay(image, changed, SPACE, legend=False))
        != np.asarray(overlay(image, labels, SPACE, legend=False))
    ).any(-1)
    assert differs[5:9, 5:9].all()
    assert not differs[:4].any()
    assert not differs[11:].any()


def test_outlines_lie_on_the_border_and_are_brighter():
    labels = np.zeros((6, 6), np.uint8)
    labels[3:, 2:] = 1
    expected = np.zeros((6, 6), bool)
    expected[2, 2:] = True
    expected[3:, 1] = True
    np.testing.assert_array_equal(outlines(labels), expected)
    picture = np.asarray(overlay(np.zeros((6, 6, 3), np.uint8), labels, SPACE, legend=False)).astype(int)
    assert picture[2, 3].min() > 170 > picture[0, 0].max()
    thick = outlines(np.repeat(np.arange(2, dtype=np.uint8), 50).reshape(1, 100), thickness=3)
    np.testing.assert_array_equal(np.flatnonzero(thick), [47, 48, 49])


def test_shares_are_of_all_pixels_largest_first():
    labels = np.array([[1, 1, 1, 1, 0, 0, 255, 255]], np.uint8)
    assert list(class_shares(labels, SPACE).items()) == [("road", 0.5), ("sky", 0.25)]


def test_the_legend_names_exactly_the_classes_present():
    _, labels = streets(64, 64)
    legend = legend_picture(labels, SPACE)
    assert colours_in(legend) & set(SPACE.colours) == set(SPACE.colours[:2])
    absent_renamed = LabelSpace("other", ("sky", "road", "bush"), SPACE.colours)
    present_renamed = LabelSpace("other", ("sky", "street", "tree"), SPACE.colours)
    assert legend_picture(labels, absent_renamed).tobytes() == legend.tobytes()
    assert legend_picture(labels, present_renamed).tobytes() != legend.tobytes()
    long_name = "a name that takes a good deal more room"
    wide = legend_picture(labels, LabelSpace("other", ("sky", long_name, "tree"), SPACE.colours))
    assert wide.width - legend.width >= font(12).getlength(long_name) - font(12).getlength("road") - 1
    assert colours_in(legend_picture(np.full((64, 64), 255, np.uint8), SPACE)) == {(0xFB, 0xFA, 0xF7)}


@pytest.mark.parametrize("size", [(64, 64), (360, 480), (1024, 2048), (40, 900), (900, 40)])
def test_the_legend_stands_beside_the_image_and_nothing_is_cut_off(size: tuple[int, int]):
    image, labels = streets(*size)
    picture, bare = overlay(image, labels, SPACE), overlay(image, labels, SPACE, legend=False)
    assert picture.crop((0, 0, bare.width, bare.height)).tobytes() == bare.tobytes()
    beside = np.asarray(picture)[:, bare.width :]
    ground = (beside == (0xFB, 0xFA, 0xF7)).all(-1)
    assert not ground.all()
    assert ground[0].all()
    assert ground[-1].all()
    assert ground[:, 0].all()
    assert ground[:, -1].all()
    swatch = (beside == SPACE.colours[0]).all(-1)
    assert 12 <= swatch.any(1).sum() <= max(14, min(size) / 30)


def test_many_classes_fill_several_columns():
    space = LabelSpace("many", tuple(f"class number {index}" for index in range(150)))
    labels = np.arange(150, dtype=np.uint8).repeat(100).reshape(150, 100)
    legend = legend_picture(labels, space)
    assert set(space.colours) <= colours_in(legend)
    assert legend.height < 300


def test_wrong_sizes_and_labels_are_named():
    image, labels = streets(8, 8)
    with pytest.raises(ValueError, match=r"\(8, 8, 3\).*\(8, 7\)"):
        overlay(image, labels[:, :7], SPACE)
    with pytest.raises(ValueError, match="label 3 is none of 3 classes"):
        overlay(image, np.full((8, 8), 3, np.uint8), SPACE)


def test_side_by_side_keeps_the_pictures_and_their_order():
    rng = np.random.default_rng(1)
    pictures = [Image.fromarray(rng.integers(0, 256, (height, 90, 3), np.uint8)) for height in (60, 80)]
    row = np.asarray(side_by_side(pictures, ["first", "a second title that takes more than one line"]))
    places = []
    for picture in pictures:
        corner = np.asarray(picture)[0, 0]
        found = [
            (x, y)
            for y, x in np.argwhere((row == corner).all(-1))
            if row[y : y + picture.height, x : x + 90].tobytes() == np.asarray(picture).tobytes()
        ]
        assert len(found) == 1
        places += found
    assert places[0][1] == places[1][1]
    assert places[0][0] + 90 < places[1][0]
    with pytest.raises(ValueError, match="shorter"):
        side_by_side(pictures, ["only one"])
