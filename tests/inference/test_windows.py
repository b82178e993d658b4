"""Sliding windows against MONAI's, mmsegmentation's loop written out, and what must hold of any."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from monai.inferers import sliding_window_inference
from torch import Tensor, nn

from danet.inference.protocol import Protocol
from danet.inference.views import blended
from danet.inference.windows import starts, sweep

K = 3


@pytest.fixture
def network():
    """Not translation-invariant: what a pixel scores depends on where in the window it lies."""
    torch.manual_seed(1)
    convolution = nn.Conv2d(2, K, 3, padding=1)

    def look(images: Tensor) -> Tensor:
        with torch.no_grad():
            return convolution(images) * torch.linspace(0.5, 2, images.shape[-1]) + images.mean((1, 2, 3), keepdim=True)

    return look


def windowed(crop: int, stride: int, blend: str = "uniform", edge: str = "shift") -> Protocol:
    return Protocol(crop=(crop, crop), stride=(stride, stride), blend=blend, edge=edge)


@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
@pytest.mark.parametrize(("height", "width", "overlap"), [(97, 130, 0.25), (64, 64, 0.5), (33, 200, 0.5), (64, 65, 0)])
def test_windows_are_blended_as_monai_does(network, blend, height, width, overlap):
    images = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(2))
    crop = 32
    mode = "constant" if blend == "uniform" else blend
    expected = sliding_window_inference(images, (crop, crop), 4, network, overlap=overlap, mode=mode)
    found = blended(images, network, windowed(crop, int(crop * (1 - overlap)), blend), None)
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


def mmsegmentation_slide(images: Tensor, network, crop: int, stride: int) -> Tensor:
    """`slide_inference` of mmsegmentation 1.2.2, models/segmentors/encoder_decoder.py, as it is described there."""
    height, width = images.shape[-2:]
    rows, columns = (max(side - crop + stride - 1, 0) // stride + 1 for side in (height, width))
    sums, counts = torch.zeros(1, K, height, width), torch.zeros(1, 1, height, width)
    for row in range(rows):
        for column in range(columns):
            bottom, right = min(row * stride + crop, height), min(column * stride + crop, width)
            top, left = max(bottom - crop, 0), max(right - crop, 0)
            sums[..., top:bottom, left:right] += network(images[..., top:bottom, left:right])
            counts[..., top:bottom, left:right] += 1
    return sums / counts


@pytest.mark.parametrize(("height", "width", "stride"), [(97, 130, 21), (32, 100, 32), (40, 36, 30), (80, 33, 5)])
def test_windows_are_averaged_as_mmsegmentation_does(network, height, width, stride):
    images = torch.randn(1, 2, height, width, generator=torch.Generator().manual_seed(3))
    expected = mmsegmentation_slide(images, network, 32, stride)
    found = blended(images, network, windowed(32, stride), None)
    assert (found - expected).abs().max() < 1e-6 * expected.abs().max()


SIDE = st.integers(32, 150)


@given(SIDE, SIDE, st.integers(32, 70), st.integers(1, 70), st.sampled_from(["shift", "pad"]))
def test_windows_leave_no_pixel_out_and_make_each_block_once(height, width, crop, stride, edge):
    protocol = windowed(crop, min(stride + 10, crop), edge=edge)
    image = torch.arange(height * width, dtype=torch.float64).view(1, 1, height, width)

    def read(top: int, left: int, rows: int, columns: int) -> Tensor:
        assert edge == "pad" or (top + rows <= height and left + columns <= width)
        window = image[..., top : top + rows, left : left + columns]
        return F.pad(window, (0, columns - window.shape[3], 0, rows - window.shape[2]))

    seen, last = torch.full((height, width), -1.0, dtype=torch.float64), (-1, -1)
    for top, left, scores in sweep(read, lambda images: images, (height, width), protocol):
        assert (top, left) > last
        last = (top, left)
        target = seen[top : top + scores.shape[1], left : left + scores.shape[2]]
        assert (target == -1).all()
        target.copy_(scores[0])
    # What a network that only copies says of a pixel is the pixel, whatever the windows.
    assert torch.allclose(seen, image[0, 0], rtol=1e-12)


@pytest.mark.parametrize("blend", ["uniform", "gaussian"])
def test_a_sweep_begun_at_any_row_gives_the_same_bits(network, blend):
    images = torch.randn(1, 2, 150, 90, generator=torch.Generator().manual_seed(4))
    protocol = windowed(40, 15, blend)

    def read(top: int, left: int, rows: int, columns: int) -> Tensor:
        return images[..., top : top + rows, left : left + columns]

    whole = list(sweep(read, network, (150, 90), protocol))
    tops = starts(150, 40, 15, "shift")
    for done in range(len(tops) + 1):
        rest = list(sweep(read, network, (150, 90), protocol, done))
        expected = [block for block in whole if block.top >= (tops[done] if done < len(tops) else 150)]
        assert [(top, left) for top, left, _ in rest] == [(top, left) for top, left, _ in expected]
        assert all(torch.equal(one.scores, other.scores) for one, other in zip(rest, expected, strict=True))


def test_windows_of_a_row_go_through_the_network_together(network):
    images, sizes = torch.randn(1, 2, 64, 160, generator=torch.Generator().manual_seed(5)), []

    def counting(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return network(batch)

    blended(images, counting, windowed(32, 32), None, batch_pixels=3 * 32 * 32)
    assert sizes == [3, 2, 3, 2]


def test_blocks_hold_no_more_than_a_strip(network):
    """A tall image's sums are never in memory at once: the reader gives windows of an image that does not exist."""

    def read(top: int, left: int, rows: int, columns: int) -> Tensor:
        return torch.full((1, 2, rows, columns), float(top % 7))

    largest = total = 0
    for _, _, scores in sweep(read, network, (100_000, 64), windowed(64, 64)):
        storage = scores.untyped_storage().nbytes() // scores.element_size()
        largest, total = max(largest, storage), total + scores.numel()
    assert total == K * 100_000 * 64
    assert largest <= (K + 1) * 64 * 64


def test_starts():
    assert starts(100, 40, 30, "shift") == [0, 30, 60]
    assert starts(101, 40, 30, "shift") == [0, 30, 60, 61]
    assert starts(101, 40, 30, "pad") == [0, 30, 60, 90]
    assert starts(20, 40, 30, "shift") == starts(20, 40, 30, "pad") == [0]
    assert np.diff(starts(1000, 64, 48, "shift")).max() == 48
