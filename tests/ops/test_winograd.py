"""Winograd's convolution is the convolution: values and gradients against torch's own, in float64 and float32."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from danet.ops.winograd import GROUP, INPUT, OUTPUT, WEIGHT, convolution_3x3, convolutions_3x3, fullness

CHANNELS_LAST = torch.channels_last


def tensors(batch, channels, out, height, width, dtype=torch.float64, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(batch, channels, height, width, generator=generator, dtype=dtype)
    weight = torch.randn(out, channels, 3, 3, generator=generator, dtype=dtype) / (3 * channels**0.5)
    return features.requires_grad_(), weight.requires_grad_()


def compared(features, weight, dilation):
    """Values and gradients, ours and torch's."""
    found = convolution_3x3(features, weight, dilation)
    expected = F.conv2d(features, weight, padding=dilation, dilation=dilation)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1)).to(expected.dtype)
    ours = (found, *torch.autograd.grad(found, (features, weight), grad))
    return list(zip(ours, (expected, *torch.autograd.grad(expected, (features, weight), grad)), strict=True))


def test_a_tile_is_the_sum_of_its_products():
    """Lavin and Gray, equation 8: Y = Aᵀ [(G g Gᵀ) ⊙ (Bᵀ d B)] A."""
    generator = torch.Generator().manual_seed(0)
    tile, kernel = (torch.randn(side, side, generator=generator, dtype=torch.float64) for side in (6, 3))
    expected = torch.stack([(tile[y : y + 3, x : x + 3] * kernel).sum() for y in range(4) for x in range(4)])
    found = OUTPUT @ ((WEIGHT @ kernel.flatten()) * (INPUT @ tile.flatten()))
    assert torch.allclose(found, expected, rtol=0, atol=1e-13)


@given(
    batch=st.integers(1, 2),
    channels=st.integers(1, 5),
    out=st.integers(1, 4),
    height=st.integers(1, 19),
    width=st.integers(1, 19),
    dilation=st.sampled_from([1, 2, 3, 4, 8]),
)
@settings(max_examples=60, deadline=None, derandomize=True)
def test_it_is_the_convolution_at_any_size(batch, channels, out, height, width, dilation):
    for ours, theirs in compared(*tensors(batch, channels, out, height, width), dilation):
        assert ours.shape == theirs.shape
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


@pytest.mark.parametrize("channels", [GROUP - 1, GROUP, 2 * GROUP + 3])
def test_channels_are_summed_in_groups(channels):
    for ours, theirs in compared(*tensors(1, channels, 3, 9, 7), 2):
        assert torch.allclose(ours, theirs, rtol=0, atol=1e-12)


def test_several_of_the_same_features_are_each_the_convolution():
    features, weight = tensors(2, GROUP + 5, 3, 9, 7)
    other = tensors(1, GROUP + 5, 6, 3, 3, seed=5)[1]
    found = convolutions_3x3(features, [weight, other.detach(), other], 2)
    expected = [F.conv2d(features, one, padding=2, dilation=2) for one in (weight, other, other)]
    grads = [torch.randn(values.shape, generator=torch.Generator().manual_seed(2)).double() for values in expected]
    ours = torch.autograd.grad(found, (features, weight, other), grads)
    features_grad, weight_grad, _ = torch.autograd.grad(expected, (features, weight, other), grads)
    (other_grad,) = torch.autograd.grad(F.conv2d(features, other, padding=2, dilation=2), other, grads[2])
    for mine, theirs in zip((*found, *ours), (*expected, features_grad, weight_grad, other_grad), strict=True):
        assert torch.allclose(mine, theirs, rtol=0, atol=1e-11)


def test_float32_is_off_by_rounding_alone():
    features, weight = tensors(1, 512, 64, 32, 32, torch.float32)
    exact = compared(features.detach().double().requires_grad_(), weight.detach().double().requires_grad_(), 1)
    for (ours, theirs), (_, truth) in zip(compared(features, weight, 1), exact, strict=True):
        assert (ours - truth).norm() < 1.5e-6 * truth.norm()
        assert not torch.equal(ours, theirs)


def test_bfloat16_is_computed_in_float32_and_rounded_once():
    features, weight = tensors(1, 96, 16, 16, 16, torch.float32)
    half = features.detach().bfloat16().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = convolution_3x3(half, weight)
    (grad,) = torch.autograd.grad(found.float().sum(), half)
    exact = F.conv2d(half.detach().float(), weight.detach(), padding=1)
    assert found.dtype == grad.dtype == torch.bfloat16
    assert (found.float() - exact).abs().max() <= exact.abs().max() * 2**-8


def test_only_what_is_asked_for_has_a_gradient():
    features, weight = tensors(1, 4, 3, 8, 8)
    (of_weight,) = torch.autograd.grad(convolution_3x3(features.detach(), weight).sum(), weight)
    (of_features,) = torch.autograd.grad(convolution_3x3(features, weight.detach()).sum(), features)
    for (_, theirs), ours in zip(compared(features, weight, 1)[1:], (of_features, of_weight), strict=True):
        assert ours.shape == theirs.shape
    assert torch.autograd.gradcheck(lambda x, w: convolution_3x3(x, w, 2), tensors(1, 2, 2, 6, 5))


@pytest.mark.parametrize("layout", [torch.contiguous_format, CHANNELS_LAST])
def test_the_result_is_channels_last_and_dense(layout):
    features, weight = tensors(2, 8, 8, 10, 7)
    found = convolution_3x3(features.detach().contiguous(memory_format=layout), weight.detach(), 2)
    assert found.is_contiguous(memory_format=CHANNELS_LAST)


@pytest.mark.parametrize(
    ("shape", "dilation", "tiles", "full"),
    [((1, 5, 96, 96), 1, 576, 1.0), ((2, 5, 8, 10), 1, 12, 80 / 96), ((1, 5, 45, 60), 16, 256, 2700 / 4096)],
)
def test_fullness(shape, dilation, tiles, full):
    assert fullness(torch.Size(shape), dilation) == (tiles, pytest.approx(full))
