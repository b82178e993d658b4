"""Attention maps: where the light falls, where the mark sits, and the caption that always goes with them."""

import numpy as np
import pytest

from danet.viz.attention import attention_overlay, caption, heat
from danet.viz.text import font, wrap


def light(attention: np.ndarray, height: int, width: int, at: tuple[int, int]) -> np.ndarray:
    """Red channel of a map drawn over a black image: the light alone, and the mark."""
    picture = attention_overlay(np.zeros((height, width, 3), np.uint8), attention, at)
    assert picture.size == (width, height)
    return np.asarray(picture)[..., 0].astype(int)


def test_the_light_is_brightest_at_the_maximum_and_zero_weight_adds_no_light():
    attention = np.zeros((9, 13))
    attention[6, 3] = 0.4
    shown = light(attention, 72, 104, at=(90, 10))
    bright = np.argwhere(shown[20:, :70] >= 0.98 * shown[20:, :70].max()).mean(0)
    assert abs(bright[0] + 20 - 51.5) <= 1
    assert abs(bright[1] - 27.5) <= 1
    assert shown[20:, :70].max() >= 240
    assert shown[20:40, :70].max() == 0


def test_maps_are_shown_relative_to_their_maximum():
    attention = np.random.default_rng(0).random((5, 7))
    image = np.random.default_rng(1).integers(0, 256, (50, 70, 3), np.uint8)
    a, b = (attention_overlay(image, factor * attention, (3, 4)) for factor in (1.0, 1e-6))
    assert np.abs(np.asarray(a).astype(int) - np.asarray(b)).max() <= 1


def test_a_map_that_reaches_beyond_the_image_is_cut_off_not_squeezed():
    attention = np.random.default_rng(0).random((5, 9))
    whole = attention_overlay(np.zeros((70, 126, 3), np.uint8), attention, (20, 30))
    found = attention_overlay(np.zeros((61, 113, 3), np.uint8), attention, (20, 30), span=(61 / 14, 113 / 14))
    assert np.abs(np.asarray(whole)[:61, :113].astype(int) - np.asarray(found)).max() <= 1


def test_without_weight_the_image_is_grey_and_dimmed():
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    picture = np.asarray(attention_overlay(image, np.zeros((6, 8)), (70, 50)))[:40, :60].astype(float)
    assert (picture.max(-1) == picture.min(-1)).all()
    np.testing.assert_allclose(picture.mean(), image[:40, :60].mean() / 2, rtol=0.05)


@pytest.mark.parametrize("size", [(64, 64), (1024, 2048)])
@pytest.mark.parametrize("corner", [(0.0, 0.0), (0.5, 0.25), (1.0, 1.0)])
def test_the_mark_is_a_ring_around_the_point(size: tuple[int, int], corner: tuple[float, float]):
    height, width = size
    at = round(corner[0] * (width - 1)), round(corner[1] * (height - 1))
    shown = light(np.zeros((4, 4)), height, width, at)
    assert shown[at[1], at[0]] == 0, "the pixel itself stays visible"
    ys, xs = np.nonzero(shown == 255)
    distance = np.hypot(ys - at[1], xs - at[0])
    assert len(distance)
    assert distance.max() - distance.min() <= max(3, distance.max() / 3)


def test_heat_is_one_hue_that_grows_evenly_lighter():
    colours = heat(np.linspace(0, 1, 67)[None])[0] / 255
    linear = np.where(colours <= 0.04045, colours / 12.92, ((colours + 0.055) / 1.055) ** 2.4)
    lms = np.cbrt(linear @ np.array([(0.4122, 0.5363, 0.0514), (0.2119, 0.6807, 0.1074), (0.0883, 0.2817, 0.6300)]).T)
    lightness, a, b = np.array([(0.2105, 0.7936, -0.0041), (1.978, -2.4286, 0.4506), (0.0259, 0.7828, -0.8087)]) @ lms.T
    assert np.diff(lightness).min() > 0
    np.testing.assert_allclose(lightness[np.arange(7) * 11], 0.16 * np.arange(7), atol=0.01)
    hue = np.degrees(np.arctan2(b, a))[8:]
    assert hue.min() > 15
    assert hue.max() < 60


def test_the_caption_names_gate_and_share_and_warns_when_the_branch_is_nearly_shut():
    assert caption(0.42, 0.31) == "position gate α = 0.42 · share ‖αE‖/‖A‖ = 31 %"
    shut = caption(-0.0031, 0.0123)
    assert shut.startswith("position gate α = −0.003 · share ‖αE‖/‖A‖ = 1.2 %")
    assert shut.endswith("this branch is nearly shut; its map explains little")
    assert "nearly shut" in caption(0.5, 0.0199)
    assert "nearly shut" not in caption(0.5, 0.02)
    assert caption(-0.0, 0.0).startswith("position gate α = 0.000 ")


@pytest.mark.parametrize("size", [(64, 64), (360, 480), (1024, 2048)])
def test_caption_lines_stand_beneath_the_whole_picture(size: tuple[int, int]):
    image = np.full((*size, 3), 90, np.uint8)
    bare = attention_overlay(image, np.ones((4, 4)), (5, 5))
    both = attention_overlay(image, np.ones((4, 4)), (5, 5), [caption(0.004, 0.012)])
    assert both.crop((0, 0, bare.width, bare.height)).tobytes() == bare.tobytes()
    beneath = (np.asarray(both)[bare.height :] == (0xFB, 0xFA, 0xF7)).all(-1)
    assert not beneath.all()
    assert beneath[-1].all()
    assert beneath[:, 0].all()
    assert beneath[:, -1].all()


def test_lines_break_at_blanks_but_not_before_percent():
    face = font(12)
    text = "share = 31 % of all that there is"
    lines = wrap(text, face, face.getlength("share = 31"))
    assert all(face.getlength(line) <= face.getlength("share = 31") for line in lines)
    assert " ".join(lines).replace("\N{NO-BREAK SPACE}", " ") == text
    assert not any(line.startswith("%") for line in lines)


def test_points_outside_and_broken_maps_are_refused():
    image = np.zeros((20, 30, 3), np.uint8)
    with pytest.raises(ValueError, match=r"\(30, 5\).*0 to 29"):
        attention_overlay(image, np.ones((2, 3)), (30, 5))
    for value in (np.nan, np.inf, -0.1):
        with pytest.raises(ValueError, match="negative or non-finite"):
            attention_overlay(image, np.array([[1.0, value]]), (3, 5))
