"""The contract of every head: any size, one output type, exact identity while gates are shut, all parameters learn."""

import pytest
import torch
from torch import nn

from danet.errors import InputError
from danet.models.attention import ChannelAttention, PositionAttention
from danet.models.segmentation import SegmentationOutput, create_model

HEADS = ("danet", "pam", "cam", "fcn")


def small(head: str, **settings):
    """ResNet-18's first two stages: quick, and stride 8 without dilation."""
    torch.manual_seed(0)
    return create_model(head, "resnet18", 5, **dict(out_indices=(2,), channels=16) | settings)


def open_gates(model: nn.Module) -> None:
    """Gates, and the last norm of timm's residual blocks, start at 0; nothing behind them would be tested."""
    for parameter in model.parameters():
        if parameter.ndim == 1 and not parameter.any():
            nn.init.constant_(parameter, 0.5)


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("size", [(32, 32), (33, 47), (64, 96), (97, 130)])
def test_any_size_gives_logits_at_that_size(head, size):
    model = small(head).eval()
    open_gates(model)
    output = model(torch.randn(2, 3, *size))
    assert isinstance(output, SegmentationOutput)
    assert output.logits.shape == (2, 5, *size)
    assert output.logits.isfinite().all()
    assert set(output.branches) == ({"position", "channel"} if head == "danet" else set())


@pytest.mark.parametrize("head", HEADS)
def test_every_parameter_gets_a_gradient(head):
    model = small(head, out_indices=(1, 2), auxiliary=True)
    open_gates(model)
    output = model(torch.randn(2, 3, 64, 64))
    total = sum(tensor.square().mean() for tensor in (output.logits, output.auxiliary, *output.branches.values()))
    total.backward()
    silent = [
        name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()
    ]
    # A bias before a softmax over keys shifts every energy of a row alike: the key's gradient is exactly rounding.
    assert [name for name in silent if not name.endswith("key.bias")] == []


def test_a_fresh_danet_equals_its_attention_free_twin_and_its_gates_learn():
    model = small("danet")
    images = torch.randn(2, 3, 64, 80)
    with_attention = model(images).logits
    with_attention.square().mean().backward()
    assert model.head.position.gate.grad.abs() > 0
    assert model.head.channel.gate.grad.abs() > 0
    model.eval()
    with_attention = model(images).logits
    model.head.position = model.head.channel = nn.Identity()
    assert torch.equal(with_attention, model(images).logits)


def test_open_gates_change_the_result():
    model = small("danet").eval()
    images = torch.randn(1, 3, 64, 80)
    shut = model(images).logits
    open_gates(model)
    assert (model(images).logits - shut).abs().max() > 1e-3


@pytest.mark.parametrize("head", HEADS)
def test_trace_agrees_with_forward(head):
    model = small(head).eval()
    open_gates(model)
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        output, traces = model.trace(images)
        assert torch.allclose(output.logits, model(images).logits, atol=1e-5)
    branches = {"danet": {"position", "channel"}, "pam": {"position"}, "cam": {"channel"}, "fcn": set()}
    assert set(traces) == branches[head]
    for name, trace in traces.items():
        assert trace.gate == 0.5
        assert (trace.share > 0).all()
        if name == "position":
            assert trace.query.shape == trace.key.shape == (2, 35, 2)
            energy = trace.query.double() @ trace.key.double().transpose(1, 2)
            assert torch.allclose(energy.logsumexp(-1), trace.logsumexp.double(), atol=1e-4)


@pytest.mark.parametrize("head", HEADS)
def test_trace_keeps_what_each_branch_attends_to(head):
    model = small(head, channel_rule="paper").eval()
    seen = {}
    for name, module in model.head.named_modules():
        if isinstance(module, PositionAttention | ChannelAttention):
            branch = "position" if isinstance(module, PositionAttention) else "channel"
            into = {"position": "position_in", "channel": "channel_in", "attention": "before"}[name]
            getattr(model.head, into).register_forward_hook(lambda *args, branch=branch: seen.update({branch: args[2]}))
    traces = model.trace(torch.randn(2, 3, 40, 56))[1]
    assert set(traces) == set(seen)
    for name, trace in traces.items():
        assert torch.equal(trace.features, seen[name])
        assert trace.rule == ("paper" if name == "channel" else None)


@pytest.mark.parametrize("head", ["danet", "pam"])
def test_without_places_is_the_network_in_which_nobody_can_look_there(head):
    model = small(head).eval()
    open_gates(model)
    attention = model.head.position if head == "danet" else model.head.attention
    nn.init.normal_(attention.query.weight)
    images, size = torch.randn(2, 3, 40, 56), torch.Size((40, 56))
    with torch.no_grad():
        output, traces = model.trace(images)
        none = torch.zeros(35, dtype=torch.bool)
        assert torch.allclose(model.without(traces, none, size), output.logits, atol=1e-5)
        removed = torch.arange(35) % 3 == 0
        found = model.without(traces, removed, size)
        assert (found - output.logits).abs().max() > 1e-3
        # What lies at places that nobody can look at changes nobody else's result, but its own.
        features = traces["position"].features
        other = torch.where(removed.view(5, 7), features + 1, features)
        kept = ~removed.view(5, 7)
        before, after = (attention.without(each, removed)[..., kept] for each in (features, other))
        assert torch.allclose(before, after, atol=1e-5)
        assert not torch.allclose(attention(features)[..., kept], attention(other)[..., kept], atol=1e-3)


@pytest.mark.parametrize(("stride", "places"), [(8, (9, 13)), (16, (5, 7)), (32, (3, 4))])
def test_output_stride(stride, places):
    model = create_model("fcn", "resnet18", 3, output_stride=stride).eval()
    assert model.extract(torch.randn(1, 3, 65, 97))[-1].shape[-2:] == places


def test_multi_grid_sets_the_last_stage():
    backbone = create_model("fcn", "resnet50", 3, multi_grid=(4, 8, 16)).backbone
    assert [block.conv2.dilation for block in backbone.layer4] == [(4, 4), (8, 8), (16, 16)]
    assert [block.conv2.dilation[0] for block in backbone.layer3] == [1, 2, 2, 2, 2, 2]


def test_channels_of_the_input():
    model = small("danet", in_channels=5).eval()
    assert model(torch.randn(1, 5, 32, 40)).logits.shape == (1, 5, 32, 40)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (dict(backbone="resnet81"), ("resnet81", "Did you mean resnet")),
        (dict(backbone="qqqqqqqq"), ("qqqqqqqq", "list_models")),
        (dict(backbone="hrnet_w18_small"), ("hrnet_w18_small", "output stride 8", "try")),
        (dict(backbone="resnet18", multi_grid=(4, 8, 16)), ("multi_grid", "2 blocks")),
        (dict(head="upernet"), ("upernet", "'fcn', 'pam', 'cam' or 'danet'")),
        (dict(multigrid=(4, 8, 16)), ("multigrid", "Did you mean multi_grid")),
        (dict(backbone="resnet18", out_indices=(2,), auxiliary=True), ("two feature maps", "(2,)")),
    ],
)
def test_wrong_settings_are_one_line(settings, words):
    with pytest.raises(InputError) as caught:
        create_model(**dict(backbone="resnet18") | settings)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


def test_too_small_an_input_is_refused():
    with pytest.raises(InputError, match="31×64 pixels"):
        small("danet")(torch.randn(1, 3, 31, 64))
