"""A network made ready for inference is the same function."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

from danet.inference.network import ready
from danet.inference.segmenter import Segmenter
from danet.models.convolution import quicken
from danet.models.segmentation import create_model

CPU = torch.device("cpu")


def network(backbone, **settings):
    """Untrained, but with the statistics, scales, biases and gates of a trained one."""
    torch.manual_seed(0)
    model = create_model("danet", backbone, 5, **settings).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for tensor, low, high in (
                (layer.running_mean, -0.5, 0.5),
                (layer.running_var, 0.5, 2),
                (layer.weight, 0.5, 1.5),
                (layer.bias, -0.3, 0.3),
            ):
                nn.init.uniform_(tensor, low, high)
    for module in (model.head.position, model.head.channel):
        nn.init.constant_(module.gate, 0.5)
    return model


@pytest.mark.parametrize(
    ("backbone", "settings", "traced"),
    [
        ("resnet18", {"out_indices": (2,), "channels": 16}, True),
        ("resnet26", {"multi_grid": (4, 8), "channels": 8}, True),  # 2,048 channels
        ("mobilenetv3_small_050", {"channels": 8}, False),  # norms that hold their activation
        ("resnet26d", {"channels": 8}, False),  # asks for its input's size, so it cannot be traced
        ("resnest14d", {"channels": 8}, False),
        ("hrnet_w18_small", {"channels": 8}, True),
        ("convnext_atto", {"channels": 8}, True),  # has no BatchNorm, as those that follow
        ("swin_tiny_patch4_window7_224", {"channels": 8}, True),
        ("vit_tiny_patch16_224", {"channels": 8}, True),
        ("eva02_tiny_patch14_224", {"channels": 8}, True),
    ],
)
def test_ready_computes_the_same(backbone, settings, traced):
    model = network(backbone, **settings)
    images = torch.randn(2, 3, 65, 90, generator=torch.Generator().manual_seed(1))
    folded = ready(model, CPU)
    with torch.no_grad():
        expected, found = model(images), folded(images)
    pairs = [(found.logits, expected.logits)]
    pairs += [(found.branches[name], logits) for name, logits in expected.branches.items()]
    for mine, theirs in pairs:
        assert (mine - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert norms(folded.head) == 0
    assert (norms(folded.backbone) == 0) == traced


def norms(network):
    return sum(isinstance(layer, nn.BatchNorm2d) for layer in network.modules())


def test_a_network_that_has_trained_on_this_cpu_is_folded_as_well():
    model = network("resnet18", channels=128)
    images = torch.randn(1, 3, 65, 90)
    expected = ready(model, CPU)(images).logits
    quicken(model)
    folded = ready(model, CPU)
    assert norms(folded) == 0
    assert torch.equal(folded(images).logits, expected)


def test_the_model_itself_stays_as_it_is():
    model = network("resnet18", out_indices=(2,), channels=8).train()
    before = deepcopy(model.state_dict())
    frozen = ready(model, CPU)
    frozen(torch.randn(1, 3, 40, 40))
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert not {parameter.data_ptr() for parameter in model.parameters()} & {p.data_ptr() for p in frozen.parameters()}


def test_a_segmenter_predicts_with_the_model_as_it_was(tiny):
    picture = np.random.Generator(np.random.Philox(3)).integers(0, 256, (50, 70, 3), np.uint8)
    segmenter = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    first = segmenter(picture).probabilities
    nn.init.zeros_(tiny.model.head.classifier.weight)
    assert torch.equal(segmenter(picture).probabilities, first)
    later = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    assert not torch.allclose(later(picture).probabilities, first)
