"""Quick convolutions are the same layers: same parameters, same values, and the way that each size takes."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from danet.models.convolution import GROUP, QuickConvolution, quicken
from danet.models.segmentation import create_model
from danet.ops import winograd


@pytest.fixture
def ways(monkeypatch):
    """How many convolutions went by Winograd's algorithm, call by call."""
    found = []

    def watched(features, dilation, *weights):
        found.append(len(weights))
        return original(features, dilation, *weights)

    original = winograd._Convolutions.apply
    monkeypatch.setattr(winograd._Convolutions, "apply", watched)
    return found


def layer(in_channels=128, out_channels=128, **settings):
    torch.manual_seed(0)
    settings = {"kernel_size": 3, "padding": 1} | settings
    return nn.Conv2d(in_channels, out_channels, **settings)


def quick(plain):
    model = nn.Sequential(deepcopy(plain))
    quicken(model)
    return model[0]


@pytest.mark.parametrize(
    ("settings", "size", "by_winograd"),
    [
        ({}, (2, 48, 48), True),
        ({"bias": False, "padding": 2, "dilation": 2}, (1, 45, 60), True),
        ({}, (1, 24, 24), False),  # too few tiles
        ({"padding": 16, "dilation": 16}, (1, 45, 60), False),  # tiles mostly outside the map
    ],
)
def test_each_way_is_the_convolution(settings, size, by_winograd, ways):
    plain = layer(**settings)
    images = torch.randn(size[0], 128, *size[1:])
    with torch.no_grad():
        found, expected = quick(plain)(images), plain(images)
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()
    assert bool(ways) == by_winograd


@pytest.mark.parametrize("bias", [False, True])
def test_without_a_gradient_many_channels_are_summed_in_groups(bias, monkeypatch):
    plain = layer(2 * GROUP + 40, 128, bias=bias)
    taken, images = [], torch.randn(1, 2 * GROUP + 40, 7, 9)
    original = torch.nn.functional.conv2d
    monkeypatch.setattr(torch.nn.functional, "conv2d", lambda *a, **k: taken.append(a[1].shape[1]) or original(*a, **k))
    with torch.no_grad():
        found, expected = quick(plain)(images), plain(images)
    assert taken[:3] == [GROUP, GROUP, 40]
    assert (found - expected).abs().max() < 1e-5 * expected.abs().max()


def test_autocast_goes_the_plain_way(ways):
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert quick(layer())(torch.randn(2, 128, 48, 48)).dtype == torch.bfloat16
    assert not ways


@pytest.mark.parametrize(
    "settings",
    [
        {"stride": 2},
        {"kernel_size": 1, "padding": 0},
        {"padding": 0},
        {"groups": 2},
        {"padding_mode": "circular"},
        {"out_channels": 64},
        {"dilation": 2, "padding": 1},
        {"padding": "same"},
    ],
)
def test_other_layers_stay(settings):
    assert type(quick(layer(**settings))) is nn.Conv2d


def test_a_quickened_network_learns_as_the_plain_one_does(ways):
    torch.manual_seed(0)
    plain = create_model("danet", "resnet18", 5, channels=128).train()
    model = deepcopy(plain)
    quicken(model)
    assert sum(isinstance(layer, QuickConvolution) for layer in model.modules()) > 5
    assert model.state_dict().keys() == plain.state_dict().keys()
    images = torch.randn(2, 3, 256, 256)
    gradients = []
    for one in (plain, model):
        torch.manual_seed(1)
        one(images).logits.square().mean().backward()
        gradients.append([parameter.grad for parameter in one.parameters()])
    assert set(ways) == {1, 2}  # the head's two first convolutions share their tiles
    pairs = [(ours, theirs) for theirs, ours in zip(*gradients, strict=True) if theirs is not None]
    assert len(pairs) > 60
    for ours, theirs in pairs:
        # A rounding that turns a ReLU's sign changes a gradient by more than a rounding; which do depends on the CPU.
        assert (ours - theirs).norm() <= 1e-2 * theirs.norm() + 1e-9


def test_an_exported_network_has_the_plain_operator():
    model = nn.Sequential(quick(layer())).eval()
    program = torch.export.export(model, (torch.randn(2, 128, 48, 48),))
    assert any("conv2d" in str(node.target) for node in program.graph.nodes)
