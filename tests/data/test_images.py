import os
import struct
import sys
import warnings
import zlib
from functools import partial
from io import BytesIO

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from danet.config import Channels
from danet.data.channels import RGB
from danet.data.images import read_image, read_mask, read_pair, to_channels, to_rgb
from danet.data.parallel import parallel_map
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
    for name, content, reason in (
        ("text.png", b"not an image", "it is no image of a known format. Save it as PNG or JPEG."),
        ("empty.png", b"", "it is empty. Copy or export"),
        ("empty.tif", b"", "it is empty. Copy or export"),
        ("empty.npy", b"", "it is empty. Copy or export"),
        ("phone.jpg", b"\0\0\0\x24ftypheic\0\0\0\0mif1heic", "it is HEIC, whose codec is not here. Save it as PNG"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(InputError, match=rf"{name} cannot be read: {reason}"):
            read_image(tmp_path / name)
    for name in ("cut.png", "cut.jpg", "cut.tif", "cut.webp", "cut.bmp"):
        path = save_image(tmp_path / name)
        path.write_bytes(path.read_bytes()[:-300])
        for read in (read_image, read_mask):
            with pytest.raises(InputError, match=rf"{name} cannot be read: .*(truncated|decoder).* again\.$"):
                read(path)


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "link.png").symlink_to("gone.png")
    for name, reason in (
        ("pipe.png", "cannot be read: it is a pipe or a device"),
        ("folder.png", "cannot be read: it is a directory"),
        ("link.png", "is a link to gone.png, which does not exist"),
    ):
        for channels in (RGB, FIVE):
            with pytest.raises(InputError, match=rf"{name} {reason}"):
                read_image(tmp_path / name, channels)
    with pytest.raises(InputError, match="/dev/zero cannot be read: it is a pipe or a device"):
        read_image("/dev/zero")
    (tmp_path / "link.png").unlink()
    (tmp_path / "link.png").symlink_to(save_image(tmp_path / "there.png"))
    assert np.array_equal(read_image(tmp_path / "link.png"), read_image(tmp_path / "there.png"))


@pytest.mark.parametrize("ending", ["gif", "png", "webp", "avif"])
def test_the_first_frame_of_an_animation_is_taken_and_said(tmp_path, ending):
    frames = [Image.fromarray(np.full((40, 48, 3), value, np.uint8)) for value in (50, 150, 250)]
    options = {"lossless": True} if ending == "webp" else {"quality": 100} if ending == "avif" else {}
    frames[0].save(tmp_path / f"a.{ending}", save_all=True, append_images=frames[1:], **options)
    with pytest.warns(UserWarning, match=rf"a\.{ending} is animated; its first frame is taken"):
        pixels = read_image(tmp_path / f"a.{ending}")
    assert np.abs(pixels.astype(int) - 50).max() <= 1
    frames[2].save(tmp_path / f"b.{ending}", **options)
    assert np.abs(read_image(tmp_path / f"b.{ending}").astype(int) - 250).max() <= 1


def test_bytes_are_read_as_their_file_is(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    colour = np.stack([RAMP, RAMP // 2, 255 - RAMP], 2)
    Image.fromarray(colour).save(tmp_path / "turned.png", exif=exif)
    Image.fromarray(colour).save(tmp_path / "a.tif")
    Image.fromarray(RAMP.astype(np.uint16) * 257).save(tmp_path / "deep.png")
    save_bands(tmp_path / "five.tif", deep(5))
    save_bands(tmp_path / "deep3.png", deep(3))
    np.save(tmp_path / "five.npy", deep(5))
    for name, channels in (
        ("turned.png", RGB),
        ("turned.png", GREY),
        ("a.tif", RGB),
        ("deep.png", RGB),
        ("deep.png", DEEP),
        ("deep3.png", RGB),
        ("deep3.png", DEEP_RGB),
        ("five.tif", FIVE),
        ("five.npy", FIVE),
    ):
        pixels, expected = (read_image(image, channels) for image in ((tmp_path / name).read_bytes(), tmp_path / name))
        assert pixels.dtype == expected.dtype
        assert np.array_equal(pixels, expected)
    for content, channels, reason in (
        (b"", RGB, "cannot be read: it is empty"),
        (b"", FIVE, "cannot be read: it is empty"),
        (b"text", FIVE, "cannot be read: it is no image of a known format"),
        ((tmp_path / "turned.png").read_bytes()[:-300], RGB, "cannot be read: .*[Tt]runcated"),
        ((tmp_path / "five.tif").read_bytes()[:2000], FIVE, "cannot be read: "),
        ((tmp_path / "five.npy").read_bytes()[:2000], FIVE, "cannot be read: "),
    ):
        with pytest.raises(InputError, match=f"^The image {reason}") as error:
            read_image(content, channels)
        assert "\n" not in str(error.value)


def test_a_compression_that_pillow_does_not_know(tmp_path):
    save_bands(tmp_path / "lerc.tif", deep(3, np.uint8), compress="LERC")
    assert np.array_equal(read_image(tmp_path / "lerc.tif"), deep(3, np.uint8))  # by rasterio
    save_bands(tmp_path / "webp.tif", deep(3, np.uint8), compress="WEBP", webp_lossless=True)
    with pytest.raises(
        InputError, match=r"webp\.tif cannot be read: it is damaged, or compressed in a way that is not"
    ):
        read_image(tmp_path / "webp.tif")


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


GREY = Channels(names=("grey",))
DEEP = Channels(names=("grey",), range=(0, 65535))
DEEP_RGB = Channels(range=(0, 65535))
FIVE = Channels(names=tuple("abcde"), range=(0, 10000))


def save_bands(path, values, **options):
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    height, width, count = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        size = {"width": width, "height": height, "count": count, "dtype": values.dtype}
        with rasterio.open(path, "w", driver, **size, **options) as file:
            file.write(values.transpose(2, 0, 1))
    return path


def deep(count, dtype=np.uint16):
    return (np.arange(40 * 48 * count).reshape(40, 48, count) * 7919 % 65536).astype(dtype)


def test_grey_of_whatever_has_8_bits(tmp_path):
    colour = Image.fromarray(np.stack([RAMP, RAMP, RAMP], 2))
    for mode in ("L", "LA", "RGB", "RGBA", "CMYK"):
        assert np.array_equal(to_channels(colour.convert(mode), GREY)[..., 0], RAMP)
        for ending in ("tif",) if mode == "CMYK" else ("png", "tif"):
            colour.convert(mode).save(tmp_path / f"a.{ending}")
            assert np.array_equal(read_image(tmp_path / f"a.{ending}", GREY)[..., 0], RAMP)
    for ending in ("png", "tif"):
        Image.fromarray(RAMP > 99).save(tmp_path / f"1.{ending}")
        assert np.array_equal(read_image(tmp_path / f"1.{ending}", GREY)[..., 0], np.where(RAMP > 99, 255, 0))


def test_what_pillow_keeps_whole_needs_no_rasterio(tmp_path, monkeypatch):
    Image.fromarray(deep(1)[..., 0]).save(tmp_path / "deep.tif")
    Image.fromarray(deep(1, np.float32)[..., 0]).save(tmp_path / "float.tif")
    Image.fromarray(deep(4, np.uint8)).save(tmp_path / "four.png")
    monkeypatch.setitem(sys.modules, "rasterio", None)
    for name in ("deep.tif", "float.tif"):
        assert np.array_equal(read_image(tmp_path / name, DEEP), deep(1))
    four = Channels(names=("a", "b", "c", "d"))
    assert np.array_equal(read_image(tmp_path / "four.png", four), deep(4, np.uint8))


@pytest.mark.parametrize("ending", ["png", "tif"])
def test_all_bits_of_all_channels_are_read(tmp_path, ending):
    for count, channels in ((1, DEEP), (3, DEEP_RGB)):
        path = save_bands(tmp_path / f"{count}.{ending}", deep(count))
        assert np.array_equal(read_image(path, channels), deep(count))
    eight = save_bands(tmp_path / f"8.{ending}", deep(4, np.uint8))
    four = Channels(names=("red", "green", "blue", "nir"))
    assert read_image(eight, four).dtype == np.uint8
    assert np.array_equal(read_image(eight, four), deep(4, np.uint8))
    if ending == "tif":  # whose fourth channel Pillow leaves out
        save_bands(eight, deep(4, np.uint8), photometric="rgb")
        assert np.array_equal(read_image(eight, four), deep(4, np.uint8))
    # Stated is stated: 8-bit values count in the same range.
    assert np.array_equal(read_image(eight, four.model_copy(update={"range": (0, 10000)})), deep(4, np.uint8))


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32, np.float64])
def test_tiff_and_npy_of_five_channels(tmp_path, dtype):
    values = deep(5, np.uint8 if dtype == np.uint8 else np.int16).astype(dtype)
    np.save(tmp_path / "a.npy", values)
    assert np.array_equal(read_image(tmp_path / "a.npy", FIVE), values)
    assert np.array_equal(read_image(save_bands(tmp_path / "a.tif", values), FIVE), values)


def test_orientation_counts_for_other_channels_too(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RAMP).save(tmp_path / "a.png", exif=exif)
    assert np.array_equal(read_image(tmp_path / "a.png", GREY)[..., 0], np.rot90(RAMP, -1))


def test_warnings_of_threads_stay_their_own(tmp_path, request):
    path = save_bands(tmp_path / "a.tif", deep(5))
    before = list(warnings.filters)
    request.addfinalizer(partial(sys.setswitchinterval, sys.getswitchinterval()))
    sys.setswitchinterval(1e-6)
    for pixels in parallel_map(lambda _: read_image(path, FIVE), range(400), workers=4):
        assert np.array_equal(pixels, deep(5))
    assert warnings.filters == before


def test_wrong_files_of_other_channels_in_one_line(tmp_path, monkeypatch, caplog):
    save_bands(tmp_path / "five.tif", deep(5))
    save_bands(tmp_path / "deep.png", deep(3))
    save_bands(tmp_path / "wide.tif", deep(3))
    save_bands(tmp_path / "nan.tif", np.where(deep(5) == deep(5)[3, 4, 1], np.nan, 1).astype(np.float32))
    save_bands(tmp_path / "dot.tif", deep(5)[:9])
    save_image(tmp_path / "rgb.png")
    Image.fromarray(deep(1)[..., 0]).save(tmp_path / "grey.png")
    np.save(tmp_path / "dot.npy", deep(5)[:9])
    np.save(tmp_path / "flat.npy", deep(5).ravel())
    np.save(tmp_path / "object.npy", np.array([{}]))
    (tmp_path / "text.npy").write_text("no array")
    (tmp_path / "text.tif").write_text("no raster")
    (tmp_path / "cut.npy").write_bytes((tmp_path / "dot.npy").read_bytes()[:500])
    (tmp_path / "cut.tif").write_bytes((tmp_path / "five.tif").read_bytes()[:2000])
    for name, channels, words in (
        ("five.tif", RGB, "five.tif has 5 channels, but the model takes 3 (red, green, blue)"),
        ("wide.tif", RGB, "wide.tif is uint16 (40, 48, 3); an image is uint8"),
        ("rgb.png", FIVE, "rgb.png has 3 channels, but the model takes 5 (a, b, c, d, e)"),
        ("rgb.png", DEEP, "rgb.png has 3 channels, but the model takes 1 (grey)"),
        ("grey.png", GREY, "but channels.range is 0 to 255; state the range of such files"),
        (
            "nan.tif",
            FIVE,
            "nan.tif holds nan at pixel (4, 3) of b, which float32 does not hold as a number; fill what is missing",
        ),
        ("dot.tif", FIVE, "dot.tif is 48×9 pixels; an image needs at least 32×32"),
        ("dot.npy", FIVE, "dot.npy is 48×9 pixels; an image needs at least 32×32"),
        ("flat.npy", FIVE, "flat.npy is uint16 (9600,); an image is integers or floats of height × width × 5"),
        ("object.npy", FIVE, "object.npy cannot be read: "),
        ("text.npy", FIVE, "text.npy cannot be read: "),
        ("cut.npy", FIVE, "cut.npy cannot be read: "),
        ("cut.tif", FIVE, "cut.tif cannot be read: "),
        ("text.tif", FIVE, "text.tif cannot be read: "),
        ("none.npy", FIVE, "none.npy does not exist"),
        ("none.tif", FIVE, "none.tif does not exist"),
    ):
        with pytest.raises(InputError) as error:
            read_image(tmp_path / name, channels)
        assert words in str(error.value)
        assert "\n" not in str(error.value)
        assert "See previous" not in str(error.value)
    for source in (tmp_path / "deep.png", BytesIO((tmp_path / "deep.png").read_bytes())):
        with Image.open(source) as image, pytest.raises(InputError, match="of which Pillow keeps 8; give"):
            to_channels(image, DEEP_RGB)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    for name in ("five.tif", "dot.npy"):
        if name == "dot.npy":
            np.save(tmp_path / name, deep(5))
        with pytest.raises(InputError, match=rf"{name} is too large to open safely: 48×40 pixels"):
            read_image(tmp_path / name, FIVE)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    with pytest.raises(InputError, match=r"five\.tif .* need rasterio: pip install 'danet\[raster\]'"):
        read_image(tmp_path / "five.tif", FIVE)
