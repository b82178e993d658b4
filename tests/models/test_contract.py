"""What every head promises on every backbone, whatever the picture's size.

The backbones of the default suite are timm's smallest ones of three kinds; the slow grid has one of each family.
"""

from copy import deepcopy
from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from danet.config import HEADS, ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import SegmentationModel, SegmentationOutput, build_model
from danet.weights.bundle import Bundle, load_bundle, save_bundle

BACKBONES = ("resnet18", "test_convnext", "test_vit")
FAMILIES = (
    "resnet18",
    "resnet14t",
    "resnet26d",
    "resnet50s",
    "resnext50_32x4d",
    "resnest14d",
    "convnext_atto",
    "efficientnet_b0",
    "mobilenetv3_small_050",
    "hrnet_w18_small",
    "swin_tiny_patch4_window7_224",
    "vit_tiny_patch16_224",
    "vit_small_patch16_dinov3",
)
BRANCHES = {
    "danet": {"position", "channel"},
    "dranet": {"position", "channel"},
    "pam": {"position"},
    "cam": {"channel"},
}
CLASSES = 5


def config(head: str, backbone: str) -> ModelConfig:
    return ModelConfig(head=head, backbone=backbone, num_classes=CLASSES, channels=64, auxiliary=True)


def network(settings: ModelConfig) -> SegmentationModel:
    """Untrained, in eval mode, with the statistics of a trained one, and nothing that starts at 0 left there."""
    torch.manual_seed(0)
    model = build_model(settings)
    for parameter in model.parameters():
        # Gates and the last norm of residual blocks start at 0, layer scale at 1e-6: what is behind would go untested.
        if parameter.ndim == 1 and parameter.abs().max() < 1e-4:
            nn.init.uniform_(parameter, 0.3, 0.7)
    for layer in model.modules():
        if hasattr(layer, "drop_prob"):  # a block that is left out at random learns nothing
            layer.drop_prob = 0.0
        if isinstance(layer, nn.BatchNorm2d) and layer.running_var is not None:
            nn.init.uniform_(layer.running_mean, -0.3, 0.3)
            nn.init.uniform_(layer.running_var, 0.5, 2)
    return model.eval()


def pictures(*size: int, count: int = 2) -> torch.Tensor:
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(1))


def loss(output: SegmentationOutput) -> torch.Tensor:
    """Something that everything trained takes part in."""
    tensors = [output.logits, *output.branches.values(), *([] if output.auxiliary is None else [output.auxiliary])]
    return torch.stack([tensor.float().sub(1).square().mean() for tensor in tensors]).sum()


def near(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> bool:
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max())


def silent_parameters(model: nn.Module) -> list[str]:
    silent = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    # A bias before a softmax over keys shifts every energy of a row alike: the key's gradient is exactly rounding.
    return [name for name in silent if not name.endswith("key.bias")]


@pytest.fixture(scope="module", params=list(product(HEADS, BACKBONES)), ids="-".join)
def model(request) -> SegmentationModel:
    """One network for all tests of a head and a backbone; what changes it takes a copy."""
    return network(config(*request.param))


@pytest.fixture
def head(model, request) -> str:
    return request.node.callspec.params["model"][0]


class TestContract:
    @pytest.mark.parametrize("size", [(32, 32), (33, 47), (97, 130)])
    def test_any_size_gives_logits_at_that_size(self, model, head, size):
        with torch.no_grad():
            output = model(pictures(*size))
        assert isinstance(output, SegmentationOutput)
        assert output.logits.shape == (2, CLASSES, *size)
        assert output.logits.dtype == torch.float32
        assert output.logits.isfinite().all()
        assert output.logits.std() > 1e-3
        assert set(output.branches) == (BRANCHES["danet"] if head == "danet" else set())
        assert output.auxiliary is None

    def test_every_parameter_gets_a_gradient(self, model):
        model = deepcopy(model).train()
        loss(model(pictures(65, 80))).backward()
        assert silent_parameters(model) == []

    def test_it_learns_from_two_pictures(self, model):
        torch.manual_seed(0)
        model, images = deepcopy(model).train(), pictures(48, 64)
        optimizer = torch.optim.Adam(model.parameters(), 3e-4)
        losses = []
        for _ in range(6):
            optimizer.zero_grad()
            losses.append(loss(model(images)))
            losses[-1].backward()
            optimizer.step()
        assert losses[-1] < 0.97 * losses[0]

    def test_one_picture_alone_is_trained_on_or_refused_in_one_line(self, model, head):
        model = deepcopy(model).train()
        if head == "dranet":
            with pytest.raises(InputError, match="batch_size") as caught:
                model(pictures(48, 64, count=1))
            assert "\n" not in str(caught.value)
        else:
            loss(model(pictures(48, 64, count=1))).backward()

    def test_a_bundle_gives_back_the_same_bits(self, model, request, tmp_path):
        settings = config(*request.node.callspec.params["model"])
        labels = LabelSpace("five", tuple("abcde"))
        save_bundle(tmp_path / "bundle", Bundle(model, settings, labels, Preprocess()))
        loaded = load_bundle(tmp_path / "bundle")
        assert loaded.model_config == settings
        with torch.no_grad():
            assert torch.equal(loaded.model(pictures(33, 47)).logits, model(pictures(33, 47)).logits)
        state = loaded.model.state_dict()
        assert state.keys() == model.state_dict().keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in model.state_dict().items())

    def test_memory_order_changes_nothing(self, model):
        images = pictures(65, 80)
        other = deepcopy(model).to(memory_format=torch.channels_last)
        with torch.no_grad():
            found = other(images.contiguous(memory_format=torch.channels_last)).logits
            assert near(found, model(images).logits, 1e-5)

    def test_bfloat16_is_near(self, model):
        with torch.no_grad():
            expected = model(pictures(65, 80)).logits
            with torch.autocast("cpu", torch.bfloat16):
                found = model(pictures(65, 80)).logits
        assert found.dtype == torch.float32
        assert not torch.equal(found, expected)
        assert near(found, expected, 0.05)

    def test_eval_is_pure(self, model):
        images = pictures(65, 80)
        before, given = deepcopy(model.state_dict()), images.clone()
        with torch.no_grad():
            first = model(images).logits
            model(pictures(48, 64, count=1))
            assert torch.equal(model(images).logits, first)
            assert near(model(images[:1]).logits, first[:1], 1e-5)
        assert torch.equal(images, given)
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())

    def test_a_trace_is_the_forward_and_taking_nothing_away_is_too(self, model, head):
        images = pictures(65, 80)
        with torch.no_grad():
            expected = model(images).logits
            output, traces = model.trace(images)
            assert near(output.logits, expected, 1e-5)
            assert set(traces) == BRANCHES.get(head, set())
            if "position" in traces:
                none = torch.zeros(traces["position"].query.shape[1], dtype=torch.bool)
                assert near(model.without(traces, none, images.shape[-2:]), expected, 1e-5)

    def test_an_exported_network_is_the_same(self, model):
        images = pictures(65, 80)
        with torch.no_grad():
            exported = torch.export.export(model, (images,)).module()
            assert near(exported(images).logits, model(images).logits, 1e-5)


@pytest.mark.parametrize("name", HEADS)
def test_a_compiled_head_is_the_same(name):
    torch._dynamo.reset()
    model = network(config(name, "test_resnet"))
    compiled = torch.compile(model.head, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        maps = model.extract(pictures(65, 80))
        assert near(compiled(maps).logits, model.head(maps).logits, 1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", FAMILIES)
@pytest.mark.parametrize("head", HEADS)
def test_every_family_trains_and_predicts(head, backbone):
    model = network(config(head, backbone)).train()
    loss(model(pictures(65, 97))).backward()
    # HRNet's parameters that make maps nobody asked for have no gradient.
    assert [name for name in silent_parameters(model) if backbone != "hrnet_w18_small" or "backbone" not in name] == []
    image = np.random.Generator(np.random.Philox(3)).integers(0, 256, (70, 97, 3), np.uint8)
    segmenter = Segmenter(model.eval(), LabelSpace("five", tuple("abcde")), Preprocess(), "cpu", "float32")
    probabilities = segmenter(image).probabilities
    with torch.no_grad():
        assert torch.allclose(probabilities, model(segmenter.prepare(image)).logits[0].softmax(0), atol=1e-4)
    if head in BRANCHES:
        encoding = segmenter.encode(image)
        assert set(encoding.traces) == BRANCHES[head]
        assert torch.allclose(encoding.prediction.probabilities, probabilities, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", BACKBONES)
def test_a_compiled_network_is_the_same(backbone):
    """With one head; the others are compiled above."""
    torch._dynamo.reset()
    model = network(config("danet", backbone))
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        assert near(compiled(pictures(65, 80)).logits, model(pictures(65, 80)).logits, 1e-5)
