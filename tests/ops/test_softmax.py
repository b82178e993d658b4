"""Weights are those of softmax, and none of them is a number that processors are slow with."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danet.ops import channel_attention_map, tiles
from danet.ops.softmax import powers_, smallest_power, softmax_
from tests.ops.inputs import small_tiles, tensors

SHARP = 60.0
"""Standard deviation of scores: a tenth of their exponentials beside the greatest are subnormal."""


def subnormal(x):
    return (x != 0) & (x.abs() < torch.finfo(x.dtype).tiny)


def scores(n=200, m=300, dtype=torch.float32, spread=SHARP):
    return (spread * torch.randn(n, m, generator=torch.Generator().manual_seed(0), dtype=torch.float64)).to(dtype)


def test_the_usual_softmax_has_subnormal_weights():
    """Or the tests below would show nothing."""
    assert subnormal(torch.softmax(scores(), -1)).float().mean() > 0.01
    assert subnormal(torch.exp2(scores() - scores().amax(-1, keepdim=True))).float().mean() > 0.01


@given(st.floats(0.1, 1e4), st.integers(1, 40), st.sampled_from([torch.float32, torch.float64]))
def test_softmax_is_softmax(spread, m, dtype):
    given = scores(7, m, dtype, spread)
    expected = torch.softmax(given.double(), -1)
    found = softmax_(given.clone())
    assert (found - expected).abs().max() < 8 * torch.finfo(dtype).eps * max(spread, 1)
    left = found[found != 0]
    assert left.min() > 2.0 ** smallest_power(dtype) / m
    assert not subnormal(left * left.min()).any()  # nor will a gradient as small make it one


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_powers_are_powers_of_two(dtype):
    given = -scores(dtype=dtype).abs() * (1 if dtype == torch.float32 else 10)
    found = powers_(given.clone())
    assert (found - torch.exp2(given)).abs().max() <= 2.0 ** smallest_power(dtype)
    assert not subnormal(found).any()


def test_gradients_of_every_order_are_those_of_softmax():
    given = scores(3, 20, torch.float64, 300.0).requires_grad_()
    taken_over = lambda x: softmax_(1 * x)  # noqa: E731
    assert torch.autograd.gradcheck(taken_over, given)
    assert torch.autograd.gradgradcheck(taken_over, given)


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf])
def test_what_is_not_finite_is_told(wrong):
    given = scores(2, 5)
    given[0, 3] = wrong
    found = softmax_(given.clone())
    assert found[0].isnan().all()
    assert found[1].isfinite().all()
    assert powers_(given - wrong)[0, 3].isnan()


@pytest.mark.parametrize("rule", ["official", "paper"])
def test_maps_over_channels(rule):
    features = 2 * torch.randn(2, 64, 300, generator=torch.Generator().manual_seed(0)).relu()
    assert (channel_attention_map(features, rule=rule) == 0).any()
    assert not subnormal(channel_attention_map(features, rule=rule)).any()


def test_tiles_of_the_map_over_places(monkeypatch):
    """What tiles multiply with values, and with gradients as small as those of a long training."""
    factors = []

    def spy(left, right):
        factors.extend([left, right])
        return left @ right

    monkeypatch.setattr(tiles, "product", spy)
    query, key, value = tensors((1,), 150, 170, 8, 16, torch.float32, spread=SHARP)
    with small_tiles():
        output, logsumexp = tiles.attend(query, key, value, 1.0)
        grad = 1e-9 * torch.randn(output.shape, generator=torch.Generator().manual_seed(1))
        tiles.attend_backward(grad, query, key, value, output, logsumexp, 1.0)
    assert len(factors) > 100
    assert not any(subnormal(factor).any() for factor in factors)
