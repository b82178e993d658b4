import numpy as np
import pytest

from danet.config import Channels
from danet.data.channels import as_channels, to_display
from danet.errors import InputError

GREY = Channels(names=("grey",))
DEEP = Channels(names=("grey",), range=(0, 65535))
PAIR = Channels(names=("red", "nir"), range=(-1, 3))


def ramp(count: int, dtype: type = np.uint8) -> np.ndarray:
    return np.arange(40 * 48 * count).reshape(40, 48, count).astype(dtype)


def test_values_stay_what_they_are():
    assert as_channels(ramp(3)).dtype == np.uint8
    assert np.array_equal(as_channels(ramp(3)), ramp(3))
    assert np.array_equal(as_channels(ramp(1)[..., 0], GREY), ramp(1))
    for dtype in (np.uint8, np.uint16, np.int32, np.float16, np.float64, np.dtype(">u2")):
        values = ramp(2, dtype) % 99
        found = as_channels(values, PAIR)
        assert found.dtype == np.float32
        assert np.array_equal(found, values)


def test_no_image_is_scaled_by_its_own_maximum():
    bright = ramp(1, np.uint16) * 30
    dark = bright // 2
    assert np.allclose(2.0 * as_channels(dark, DEEP), as_channels(bright, DEEP), atol=1)
    shown = [to_display(as_channels(values, DEEP), DEEP).astype(int) for values in (bright, dark)]
    assert np.abs(shown[0] - 2 * shown[1]).max() <= 1


@pytest.mark.parametrize(
    ("values", "channels", "words"),
    [
        (ramp(4), Channels(), "The array has 4 channels, but the model takes 3 (red, green, blue); give images that"),
        (ramp(1), PAIR, "has 1 channel, but the model takes 2 (red, nir)"),
        (ramp(1)[..., 0], PAIR, "uint8 (40, 48); an image is integers or floats of height × width × 2 (red, nir)"),
        (ramp(2)[None], PAIR, "uint8 (1, 40, 48, 2); an image is"),
        (ramp(3, np.uint16), Channels(), "uint16 (40, 48, 3); an image is uint8 of height × width × 3"),
        (ramp(2, bool), PAIR, "bool (40, 48, 2); an image is"),
        (ramp(2, complex), PAIR, "complex128 (40, 48, 2); an image is"),
        (ramp(1, np.uint16), GREY, "holds the value 1919, but channels.range is 0 to 255; state the range"),
        (
            np.where(ramp(2) == 5, np.nan, 1),
            PAIR,
            "holds nan at pixel (2, 0) of nir, which float32 does not hold as a number; fill",
        ),
        (np.where(ramp(2) == 6, 1e300, 1), PAIR, "holds 1e+300 at pixel (3, 0) of red, which float32 does not"),
        (
            ramp(1, float) / 2048,
            GREY,
            "holds floats of 0 to 1, which are black where channels.range is 0 to 255; state it",
        ),
    ],
)
def test_wrong_values_are_refused_in_one_line(values, channels, words):
    with pytest.raises(InputError) as error:
        as_channels(values, channels)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_people_see_the_display_channels():
    picture = ramp(3)
    assert to_display(picture, Channels()) is picture
    four = Channels(names=("nir", "red", "green", "blue"))
    assert np.array_equal(to_display(ramp(4), four), ramp(4)[..., 1:])
    assert np.array_equal(to_display(ramp(1), GREY), np.repeat(ramp(1), 3, axis=2))
    shown = to_display(np.array([-5, -1, 0, 1, 3, 9], np.float32).reshape(1, 3, 2), PAIR)  # red: -5, 0, 3
    assert (shown.dtype, shown[0].tolist()) == (np.uint8, [[0] * 3, [64] * 3, [255] * 3])
