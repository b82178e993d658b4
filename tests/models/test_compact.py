"""Compact attention is what its equations say, in float64 and written naively (tests/reference.py)."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from danet.models.compact import LEVELS, CompactChannelAttention, CompactPositionAttention, CrossLevelGate, pyramid
from tests.reference import centres, channel_attention, position_map

SIZES = [(1, 1), (1, 8), (5, 3), (6, 6), (7, 11), (13, 8)]


def position(channels: int = 24) -> CompactPositionAttention:
    """In float64, with the statistics of a trained one, and maps that are neither flat nor one-hot."""
    torch.manual_seed(0)
    module = CompactPositionAttention(channels).double().eval()
    nn.init.constant_(module.gate, 0.7)
    for level in module.levels:
        nn.init.uniform_(level.norm.running_mean, -0.3, 0.3)
        nn.init.uniform_(level.norm.running_var, 0.2, 2)
    with torch.no_grad():
        module.query.weight.mul_(6)
    return module


def naive(module: CompactPositionAttention, features: Tensor, removed: Tensor) -> tuple[Tensor, Tensor]:
    """The module's output by the equations, and its map over places (b×n×n)."""
    flat = features.flatten(2).mT
    means, seen = centres(features, LEVELS, removed)
    level_of = [level for level, side in zip(module.levels, LEVELS, strict=True) for _ in range(side**2)]
    pairs = zip(level_of, means.unbind(1), strict=True)
    encoded = torch.stack([level(mean[:, :, None, None])[:, :, 0, 0] for level, mean in pairs], dim=1)
    query = flat @ module.query.weight[:, :, 0, 0].T + module.query.bias
    key = encoded @ module.key.weight.T + module.key.bias
    energy = torch.einsum("bnd,bmd->bnm", query, key).masked_fill(~seen, -torch.inf)
    attention = energy.softmax(-1)
    gathered = attention @ (encoded @ module.value.weight.T + module.value.bias)
    ones = torch.eye(flat.shape[1], dtype=features.dtype).view(1, -1, *features.shape[-2:])
    return features + module.gate * gathered.mT.view_as(features), attention @ centres(ones, LEVELS, removed)[0][0]


@pytest.mark.parametrize("size", SIZES)
def test_the_pyramid_is_adaptive_pooling(size):
    features = torch.randn(2, 3, *size, dtype=torch.float64)
    pooled = torch.cat([F.adaptive_avg_pool2d(features, side).flatten(2) for side in LEVELS], dim=2)
    weights = pyramid(*size, dtype=torch.float64)
    assert torch.allclose(features.flatten(2) @ weights.T, pooled, atol=1e-12)
    assert torch.allclose(weights.sum(1), torch.ones(50, dtype=torch.float64))


@pytest.mark.parametrize("size", SIZES)
def test_position_attention_is_its_equations(size):
    module, features = position(), torch.randn(2, 24, *size, dtype=torch.float64)
    expected, over_places = naive(module, features, torch.zeros(size, dtype=torch.bool))
    assert torch.allclose(module(features), expected, atol=1e-10)
    output, trace = module.trace(features)
    assert torch.allclose(output, expected, atol=1e-10)
    assert torch.allclose(position_map(trace.query, trace.key) @ trace.pool, over_places, atol=1e-10)
    assert torch.allclose((trace.query @ trace.key.mT).logsumexp(-1), trace.logsumexp)
    share = (expected - features).flatten(1).norm(dim=1) / features.flatten(1).norm(dim=1)
    assert torch.allclose(trace.share, share.float())
    if size != (1, 1):
        assert over_places.amax(-1).mean() < 0.9
        assert over_places.std(-1).amax() > 0.01


@pytest.mark.parametrize("size", SIZES[1:])
@pytest.mark.parametrize("kept", ["some", "one corner"])
def test_without_places_centres_are_means_of_the_others(size, kept):
    module, features = position(), torch.randn(2, 24, *size, dtype=torch.float64)
    removed = torch.rand(size, generator=torch.Generator().manual_seed(1)) < 0.4
    if kept == "one corner":  # most of the 36 smallest regions have no place left
        removed[:] = True
    removed[0, 0] = False
    expected, over_places = naive(module, features, removed)
    assert torch.allclose(module.without(features, removed.ravel()), expected, atol=1e-10)
    assert (over_places[..., removed.ravel()] == 0).all()
    assert torch.allclose(over_places.sum(-1), torch.ones((), dtype=torch.float64))
    assert not torch.allclose(module(features), expected, atol=1e-3)


@pytest.mark.parametrize("rule", ["official", "paper"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_channel_attention_is_its_equations(rule, layout):
    torch.manual_seed(0)
    module = CompactChannelAttention(48, rule).double().eval()
    nn.init.constant_(module.gate, 0.7)
    features = torch.randn(2, 48, 5, 7, dtype=torch.float64).contiguous(memory_format=layout)
    query, compact = features.flatten(2), module.compact(features).flatten(2)
    assert compact.shape[1] == 3
    expected = features + 0.7 * channel_attention(query, compact, compact, rule).view(features.shape)
    assert torch.allclose(module(features), expected, atol=1e-10)
    output, trace = module.trace(features)
    assert torch.allclose(output, expected, atol=1e-10)
    assert torch.equal(trace.key, compact)
    assert trace.rule == rule


def test_energies_are_not_rounded_to_bfloat16():
    module, features = position().float(), torch.randn(2, 24, 5, 7)
    plain = module.project(features, module.pool(features))
    with torch.autocast("cpu", torch.bfloat16):
        query, key, value = module.project(features, module.pool(features))
    assert torch.equal(query, plain[0])
    assert torch.equal(key, plain[1])
    assert value.dtype == torch.bfloat16


def test_a_shut_decoder_lets_no_fine_feature_through():
    torch.manual_seed(0)
    decoder = CrossLevelGate(16, 12).eval()
    fine, high = torch.randn(2, 1, 16, 9, 13), torch.randn(1, 12, 5, 7)
    open_, other = decoder(fine[0], high), decoder(fine[1], high)
    assert open_.shape == (1, 12, 9, 13)
    assert (open_ - other).abs().max() > 1e-3
    nn.init.zeros_(decoder.gate)
    assert torch.equal(decoder(fine[0], high), decoder(fine[1], high))
