import struct
import zlib

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from danet.data.images import read_image, read_mask, read_pair, to_rgb
from danet.errors import InputError
from tests.data.trees import save_image, save_mask

RAMP = np.linspace(0, 255, 40 * 48).astype(np.uint8).reshape(40, 48)


@pytest.mark.parametrize(
    ("mode", "ending"),
    [("RGB", "png"), ("RGBA", "png"), ("L", "png"), ("LA", "png"), ("P", "png"), ("P", "gif"), ("CMYK", "tif"),
     ("CMYK", "jpg"), ("YCbCr", "jpg")],
)  # fmt: skip
def test_every_mode_becomes_rgb(tmp_path, mode, ending):
    colour = np.stack([RAMP, RAMP // 2, 255 - RAMP], 2) if mode not in ("L", "LA") else np.stack([RAMP] * 3, 2)
    path = tmp_path / f"a.{ending}"
    Image.fromarray(colour).convert(mode).save(path)
    read = read_image(path)
    assert (read.shape, read.dtype) == ((40, 48, 3), np.uint8)
    tolerance = {"P": 60, "CMYK": 6 if ending == "jpg" else 0, "YCbCr": 10}.get(mode, 0)
    assert np.abs(read.astype(int) - colour).max() <= tolerance


def test_palettes_with_transparency_and_black_and_white(tmp_path):
    image = Image.fromarray(RAMP).convert("P")
    image.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    assert np.array_equal(read_image(tmp_path / "p.png")[..., 0], RAMP)
    Image.fromarray(RAMP > 99).save(tmp_path / "1.png")
    assert np.array_equal(read_image(tmp_path / "1.png")[..., 2], np.where(RAMP > 99, 255, 0))


def test_of_16_bits_the_high_8_are_kept(tmp_path):
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "a.png")
    Image.fromarray(RAMP.astype(np.int32) * 257).save(tmp_path / "a.tif")
    for name in ("a.png", "a.tif"):
        assert np.array_equal(read_image(tmp_path / name), np.stack([RAMP] * 3, 2))
    Image.fromarray(RAMP.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(InputError, match=r"f\.tif holds floating-point values; save it"):
        read_image(tmp_path / "f.tif")


def test_exif_orientation_is_honoured(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn a quarter clockwise
    colour = np.stack([RAMP, RAMP // 2, 255 - RAMP], 2)
    Image.fromarray(colour).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png"), np.rot90(colour, -1))
    save_mask(tmp_path / "m.png", width=40, height=48)
    image, mask = read_pair(tmp_path / "a.png", tmp_path / "m.png")
    assert image.shape[:2] == mask.shape == (48, 40)


def test_masks_are_indices_in_every_one_channel_mode(tmp_path):
    values = RAMP % 7
    indexed = Image.fromarray(values)
    indexed.putpalette([9, 9, 9] * 256)  # all indices look alike: a reader of colours would fail
    for name, image in {
        "l": Image.fromarray(values),
        "p": indexed,
        "w": Image.fromarray(values.astype(np.uint16)),
    }.items():
        image.save(tmp_path / f"{name}.png")
        assert np.array_equal(read_mask(tmp_path / f"{name}.png"), values)
    Image.fromarray(values.astype(np.uint16) * 9000).save(tmp_path / "w.png")
    assert read_mask(tmp_path / "w.png").dtype == np.uint16
    assert read_mask(tmp_path / "w.png").max() == 54000
    Image.fromarray(values > 3).save(tmp_path / "1.png")
    assert np.array_equal(read_mask(tmp_path / "1.png"), values > 3)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA"])
def test_a_mask_with_channels_is_refused(tmp_path, mode):
    Image.fromarray(RAMP).convert(mode).save(tmp_path / "m.png")
    with pytest.raises(InputError, match=rf"m\.png is {mode}; a mask is one channel of class indices"):
        read_mask(tmp_path / "m.png")


def test_sizes_that_differ_are_both_named(tmp_path):
    image, mask = save_image(tmp_path / "a.png", 48, 40), save_mask(tmp_path / "m.png", width=50, height=41)
    with pytest.raises(InputError, match=r"m\.png is 50×41 pixels, its image .*a\.png 48×40"):
        read_pair(image, mask)


@pytest.mark.parametrize("size", [(1, 1), (31, 400), (400, 31)])
def test_an_image_below_32_pixels_is_refused(tmp_path, size):
    with pytest.raises(InputError, match=rf"a\.png is {size[0]}×{size[1]} pixels; an image needs at least 32×32"):
        read_image(save_image(tmp_path / "a.png", *size))
    with pytest.raises(InputError, match="at least 32×32"):
        to_rgb(Image.new("RGB", size))


def test_files_that_are_missing_cut_or_no_images(tmp_path):
    with pytest.raises(InputError, match=r"none\.png does not exist"):
        read_image(tmp_path / "none.png")
    with pytest.raises(InputError, match=r"cannot be read: .*directory"):
        read_image(tmp_path)
    for name, content in {"text.png": b"not an image", "empty.png": b""}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} cannot be read: it is no image of a known format"):
            read_image(tmp_path / name)
    for name in ("cut.png", "cut.jpg"):
        path = save_image(tmp_path / name)
        path.write_bytes(path.read_bytes()[:-300])
        for read in (read_image, read_mask):
            with pytest.raises(InputError, match=rf"{name} cannot be read: .*truncated.* again\.$"):
                read(path)


def test_a_decompression_bomb_is_refused(tmp_path):
    path = save_image(tmp_path / "bomb.png")
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 30_000, 30_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"bomb\.png is too large to open safely: Image size \(900000000 pixels\)"):
        read_image(path)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(ending=st.sampled_from(["png", "jpg", "tif", "bmp"]), data=st.data())
def test_a_damaged_file_is_read_or_named(tmp_path, ending, data):
    path = save_image(tmp_path / f"whole.{ending}")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, min(len(content) - 1, 400)))] = data.draw(st.integers(0, 255))
    damaged = tmp_path / f"damaged.{ending}"
    damaged.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    for read in (read_image, read_mask):
        try:
            assert read(damaged).ndim in (2, 3)
        except InputError as error:
            assert str(damaged) in str(error) and "\n" not in str(error)  # noqa: PT017, PT018 - either way is right
