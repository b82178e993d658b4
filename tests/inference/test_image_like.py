"""Whatever an image comes as, it is the same image."""

import io

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image
from torchvision.tv_tensors import Image as ImageTensor

from danet.config import Channels
from danet.data.channels import RGB
from danet.errors import InputError
from danet.inference.image_like import as_pixels

PICTURE = np.random.Generator(np.random.Philox(3)).integers(0, 256, (40, 50, 3), np.uint8)
GREY = PICTURE[..., 0]
FIVE = Channels(names=tuple("abcde"), range=(0, 10000))


def png(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", **options)
    return file.getvalue()


def turned():
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def chw(values):
    return torch.from_numpy(np.ascontiguousarray(values.transpose(2, 0, 1)))


def alpha(values):
    return np.concatenate([values, np.full((40, 50, 1), 7, values.dtype)], 2)


@pytest.mark.parametrize(
    "image",
    [
        png(Image.fromarray(PICTURE)),
        png(Image.fromarray(alpha(PICTURE))),
        png(Image.fromarray(np.rot90(PICTURE)), exif=turned()),
        Image.fromarray(PICTURE),
        Image.open(io.BytesIO(png(Image.fromarray(np.rot90(PICTURE)), exif=turned()))),
        PICTURE,
        np.asfortranarray(PICTURE),
        PICTURE[::-1][::-1],
        np.asarray(Image.fromarray(PICTURE)),  # which cannot be written to
        alpha(PICTURE),
        PICTURE.astype(np.uint16) * 256 + 255,
        PICTURE.astype(">u2") * 256,
        alpha(PICTURE.astype(np.uint16) * 256),
        PICTURE / np.float32(255),
        PICTURE / 255,
        alpha((PICTURE / 255).astype(np.float16) * 0 + PICTURE / 255),
        chw(PICTURE),
        chw(alpha(PICTURE)),
        chw(PICTURE / 255),
        chw(PICTURE / 255).requires_grad_(),
        chw(PICTURE).to(memory_format=torch.contiguous_format).flip(2).flip(2),
        chw(PICTURE.astype(np.uint16) * 256),
        ImageTensor(chw(PICTURE)),
    ],
    ids=lambda image: type(image).__name__,
)  # fmt: skip
def test_every_kind_is_the_same_picture(image):
    pixels = as_pixels(image, RGB)
    assert (pixels.dtype, pixels.shape) == (np.uint8, PICTURE.shape)
    assert np.array_equal(pixels, PICTURE)
    torch.from_numpy(pixels)  # which warns of memory that cannot be written to


@pytest.mark.parametrize(
    "image",
    [
        GREY,
        GREY[..., None],
        np.stack([GREY, GREY // 2], 2),
        GREY / 255,
        GREY.astype(np.uint16) * 256 + 3,
        torch.from_numpy(GREY.copy()),
        torch.from_numpy(GREY.copy())[None],
        torch.from_numpy(GREY / np.float32(255)),
        Image.fromarray(GREY),
        Image.fromarray(GREY.astype(np.uint16) * 256),
        png(Image.fromarray(GREY.astype(np.uint16) * 256)),
    ],
    ids=lambda image: type(image).__name__,
)
def test_grey_is_repeated(image):
    assert np.array_equal(as_pixels(image, RGB), np.stack([GREY] * 3, 2))


def test_a_path_is_read(tmp_path):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    assert np.array_equal(as_pixels(tmp_path / "a.png", RGB), PICTURE)
    assert np.array_equal(as_pixels(str(tmp_path / "a.png"), RGB), PICTURE)


@given(arrays(np.uint8, (32, 33, 3)))
def test_floats_and_16_bits_lose_nothing_of_8(values):
    for image in (values / 255, values / np.float32(255), values.astype(np.uint16) << 8):
        assert np.array_equal(as_pixels(image, RGB), values)


def test_half_precision_is_rounded_alone():
    for dtype in (torch.float16, torch.bfloat16):
        pixels = as_pixels(chw(PICTURE / 255).to(dtype), RGB)
        assert np.abs(pixels.astype(int) - PICTURE).max() <= 1


def test_floats_are_rounded_to_the_nearest():
    values = np.full((32, 32), 100.7 / 255)
    assert (as_pixels(values, RGB) == 101).all()
    assert (as_pixels(values - 0.4 / 255, RGB) == 100).all()


@pytest.mark.parametrize(
    ("image", "channels"),
    [
        (PICTURE.copy(), RGB),
        (chw(PICTURE), RGB),
        (torch.from_numpy(GREY.copy()), RGB),
        (np.ones((40, 50, 5), np.float32), FIVE),
        (torch.ones(5, 40, 50), FIVE),
        (PICTURE[..., :2].copy(), Channels(names=("a", "b"))),
    ],
)
def test_pixels_are_in_memory_of_their_own(image, channels):
    pixels = as_pixels(image, channels)
    before = pixels.copy()
    image[:] = 0
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int16, np.float32])
def test_other_channels_are_taken_as_they_are(dtype):
    values = np.random.default_rng(0).integers(0, 200, (40, 50, 5)).astype(dtype)
    expected = values.astype(np.float32)
    for image in (values, torch.from_numpy(values).permute(2, 0, 1), torch.from_numpy(values).permute(2, 0, 1).clone()):
        pixels = as_pixels(image, FIVE)
        assert pixels.dtype == np.float32
        assert np.array_equal(pixels, expected)
    grey = Channels(names=("grey",), range=(0, 10000))
    assert np.array_equal(as_pixels(torch.from_numpy(values[..., 0].copy()), grey)[..., 0], expected[..., 0])
    with pytest.raises(InputError, match="The tensor has 4 channels, but the model takes 5"):
        as_pixels(torch.from_numpy(values[..., :4].copy()).permute(2, 0, 1), FIVE)


def one_of(value, dtype=np.float32):
    values = np.full((40, 50, 3), 0.5, dtype)
    values[7, 9, 1] = value
    return values


@pytest.mark.parametrize(
    ("image", "words"),
    [
        (one_of(1.01), r"The array holds the float 1.01 at pixel \(9, 7\), but floats are 0 \(black\) to 1 .* divide"),
        (one_of(255), "holds the float 255"),
        (one_of(-1e-3), "holds the float -0.001"),
        (one_of(np.nan), "holds the float nan"),
        (one_of(np.inf), "holds the float inf"),
        (chw(one_of(2)), "The tensor holds the float 2"),
        (PICTURE.astype(np.int64), r"is int64 \(40, 50, 3\); an image's values are uint8, uint16, or floats of 0 to 1"),
        (PICTURE > 9, "is bool"),
        (PICTURE.astype(np.complex64), "is complex64"),
        (PICTURE.astype(object), "is object"),
        (PICTURE.transpose(2, 0, 1), r"is uint8 \(3, 40, 50\).* Move its channels last"),
        (torch.from_numpy(PICTURE), r"is torch.uint8 \(40, 50, 3\); a tensor's channels come first"),
        (torch.zeros(2, 3, 40, 50), r"is torch.float32 \(2, 3, 40, 50\); give one image"),
        (np.zeros((2, 40, 50, 3), np.uint8), r"is uint8 \(2, 40, 50, 3\); an image is height × width"),
        (np.zeros((40, 50, 5), np.uint8), r"is uint8 \(40, 50, 5\)"),
        (np.zeros((40, 50, 0), np.uint8), r"is uint8 \(40, 50, 0\)"),
        (np.zeros((0, 0, 3), np.uint8), "is 0×0 pixels; an image needs at least 32×32"),
        (np.zeros((1, 1), np.uint8), "is 1×1 pixels"),
        (torch.zeros(3, 31, 400), "is 400×31 pixels"),
        (b"", "The image cannot be read"),
        (Image.new("RGB", (1, 1)), "is 1×1 pixels"),
        (Image.fromarray(one_of(0.5)[..., 0]), "holds floating-point values"),
        (Image.open(io.BytesIO(png(Image.fromarray(PICTURE))[:-300])), "The image cannot be read: .*truncated"),
    ],
)
def test_what_is_no_image_is_one_line(image, words):
    with pytest.raises(InputError, match=words) as error:
        as_pixels(image, RGB)
    assert "\n" not in str(error.value)


@pytest.mark.gpu
def test_a_tensor_may_be_on_a_gpu():
    assert np.array_equal(as_pixels(chw(PICTURE).cuda(), RGB), PICTURE)


@given(st.binary(max_size=200))
def test_any_bytes_are_an_image_or_one_line(content):
    with pytest.raises(InputError) as error:
        as_pixels(content, RGB)
    assert "\n" not in str(error.value)
