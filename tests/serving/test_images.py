"""Bytes as images: by their content alone, upright, within the limits, whatever the format."""

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from danet.serving.images import decode
from danet.serving.limits import Limits
from danet.serving.problems import Problem
from tests.serving.process import photograph, png, saved

LIMITS = Limits(pixels=10_000)


def problem(body: bytes, longest: int | None = None, limits: Limits = LIMITS):
    with pytest.raises(Problem) as caught:
        decode(body, limits, longest)
    details = caught.value.details
    assert "\n" not in details.message
    return details


def header(width: int, height: int) -> bytes:
    """A PNG file that says it is of this size, with hardly any pixels in it."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    size = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", size) + chunk(b"IDAT", zlib.compress(b"0")) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG", "AVIF"])
def test_every_format_is_known_by_its_content(kind):
    pixels = photograph(1)
    found = decode(saved(Image.fromarray(pixels), kind, **({"lossless": True} if kind == "WEBP" else {})), LIMITS, None)
    assert found.shape == (48, 64, 3)
    assert np.abs(found.astype(int) - pixels).mean() <= (0 if kind in ("PNG", "BMP", "TIFF", "WEBP") else 20)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "I;16"])
def test_every_mode_becomes_rgb(mode):
    image = Image.fromarray(photograph()).convert("L" if mode == "I;16" else mode)
    body = saved(Image.fromarray(np.asarray(image).astype(np.uint16) << 8) if mode == "I;16" else image, "PNG")
    found = decode(body, LIMITS, None)
    assert (found.shape, found.dtype) == ((48, 64, 3), np.uint8)
    if mode in ("L", "LA", "I;16"):
        assert np.abs(found[..., 0].astype(int) - np.asarray(Image.fromarray(photograph()).convert("L"))).max() <= 1


def test_the_camera_that_was_turned_is_turned_back():
    image = Image.fromarray(photograph())
    turned = image.getexif()
    turned[0x0112] = 6
    body = saved(image, "PNG", exif=turned)
    assert np.array_equal(decode(body, LIMITS, None), np.rot90(photograph(), -1))
    assert decode(body, LIMITS, 43).shape == (43, 32, 3)


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.fromarray(photograph(seed)).quantize() for seed in (1, 2)]
    body = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.abs(decode(body, LIMITS, None).astype(int) - np.asarray(frames[0].convert("RGB"))).mean() < 2


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_a_large_image_is_shrunk_if_that_is_asked_for(kind):
    body = saved(Image.fromarray(photograph(0, 120, 160)), kind)
    details = problem(body)
    assert (details.code, details.limit, details.longest) == ("too_large_pixels", 10_000, 115)
    assert details.message == "The image has 160×120 pixels, more than 10,000; shrink it, or ask with longest=115."
    assert decode(body, LIMITS, 115).shape == (86, 115, 3)
    assert problem(body, 130).code == "too_large_pixels"
    expected = np.asarray(Image.fromarray(photograph(0, 120, 160)).resize((80, 60), Image.Resampling.LANCZOS))
    assert np.abs(decode(body, LIMITS, 80).astype(int) - expected).mean() < 3


def test_pixels_are_counted_before_any_is_decoded():
    for width, height, longest in ((101, 100, None), (60_000, 60_000, None), (60_000, 60_000, 64), (100_000, 32, None)):
        assert problem(header(width, height), longest).code == "too_large_pixels"
    assert problem(header(100_000, 32)).limit == 80_000, "what is decoded has a limit of its own"
    assert problem(header(100, 100)).code == "not_an_image", "only this one was decoded"


def test_an_image_too_small_for_a_place_says_so():
    details = problem(png(photograph(0, 31, 60)))
    assert (details.code, details.limit) == ("too_small", 32)
    assert details.message == "The image has 60×31 pixels; each side must be at least 32: enlarge it first."


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"/etc/passwd",
        b"https://example.org/street.jpg",
        b'{"image": "street.jpg"}',
        b"<svg xmlns='http://www.w3.org/2000/svg' width='64' height='64'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n",
        b"%PDF-1.7\n",
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.",
        b"P3 64 64 255 " + b"1 2 3 " * 4096,
        png(photograph())[:-30],
        png(photograph())[:40],
    ],
)
def test_what_is_no_whole_raster_image_is_refused(body):
    assert problem(body).code == "not_an_image"


def test_formats_that_are_drawn_from_a_text_or_by_a_program_are_refused():
    for kind in ("EPS", "PPM", "PDF", "ICNS", "XBM"):
        file = BytesIO()
        Image.fromarray(photograph()).convert("1" if kind == "XBM" else "RGB").save(file, kind)
        assert problem(file.getvalue()).code == "not_an_image"


def test_floating_point_values_are_refused_in_words():
    details = problem(saved(Image.fromarray(np.ones((40, 40), np.float32)), "TIFF"))
    assert (details.code, "floating-point" in details.message) == ("not_an_image", True)
