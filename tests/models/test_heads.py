"""What the heads with attention promise beyond the contract: shut gates, traces, and what happens without places."""

import pytest
import torch
from torch import nn

from danet.config import OptimConfig
from danet.models.attention import attention_modules, gates
from danet.models.comparison import DilatedClassifiers, SelfAttention
from danet.models.segmentation import create_model
from danet.training.gates import start_attention

ATTENDING = ("danet", "dranet", "pam", "cam")
BOTH, ONE = ("position", "channel"), ("attention",)
MODULES = {"danet": BOTH, "dranet": BOTH, "pam": ONE, "cam": ONE}


def small(head: str, **settings):
    """ResNet-18's first two stages: quick, and stride 8 without dilation."""
    torch.manual_seed(0)
    return create_model(head, "resnet18", 5, **dict(out_indices=(2,), channels=32) | settings)


def open_gates(model: nn.Module) -> None:
    """Gates, and the last norm of timm's residual blocks, start at 0; nothing behind them would be tested."""
    for parameter in model.parameters():
        if parameter.ndim == 1 and not parameter.any():
            nn.init.constant_(parameter, 0.5)


@pytest.mark.parametrize("head", ATTENDING)
def test_a_fresh_head_equals_its_attention_free_twin_and_its_gates_learn(head):
    model = small(head)
    images = torch.randn(2, 3, 64, 80)
    model(images).logits.square().mean().backward()
    for _, module in attention_modules(model):
        assert module.gate.grad.abs() > 0
    model.eval()
    with_attention = model(images).logits
    for name in MODULES[head]:
        setattr(model.head, name, nn.Identity())
    assert torch.equal(with_attention, model(images).logits)


@pytest.mark.parametrize("head", ATTENDING)
def test_open_gates_change_the_result(head):
    model = small(head).eval()
    images = torch.randn(1, 3, 64, 80)
    shut = model(images).logits
    for _, module in attention_modules(model):
        nn.init.constant_(module.gate, 5)
        assert (model(images).logits - shut).abs().max() > 5e-4
        nn.init.zeros_(module.gate)


@pytest.mark.parametrize("head", ATTENDING)
def test_a_trace_keeps_what_each_branch_attends_to(head):
    model = small(head, channel_rule="paper").eval()
    open_gates(model)
    seen = {}
    for branch, module in attention_modules(model):
        module.register_forward_pre_hook(lambda _, inputs, branch=branch: seen.update({branch: inputs[0]}))
    images = torch.randn(2, 3, 40, 56)
    with torch.no_grad():
        model(images)
        traces = model.trace(images)[1]
    assert set(traces) == set(seen)
    for name, trace in traces.items():
        assert torch.equal(trace.features, seen[name])
        assert trace.grid == (5, 7)
        assert trace.gate == 0.5
        assert (trace.share > 0).all()
        assert trace.rule == ("paper" if name == "channel" else None)
        if name == "position":
            assert trace.query.shape[:2] == (2, 35)
            energy = trace.query.double() @ trace.key.double().transpose(1, 2)
            assert torch.allclose(energy.logsumexp(-1), trace.logsumexp.double(), atol=1e-4)


@pytest.mark.parametrize("head", ["danet", "dranet", "pam"])
def test_without_places_is_the_network_in_which_nobody_can_look_there(head):
    model = small(head).eval()
    open_gates(model)
    attention = dict(attention_modules(model))["position"]
    nn.init.normal_(attention.query.weight)
    nn.init.constant_(attention.gate, 5)
    images, size = torch.randn(2, 3, 40, 56), torch.Size((40, 56))
    with torch.no_grad():
        output, traces = model.trace(images)
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


def test_the_decoders_gate_is_no_branch():
    """It starts at 1, and what opens or holds back attention leaves it there."""
    model = small("dranet", out_indices=(1, 2))
    assert gates(model) == {"position": 0.0, "channel": 0.0}
    start_attention(model, OptimConfig(gate_start=0.3))
    assert gates(model) == {"position": pytest.approx(0.3), "channel": pytest.approx(0.3)}
    assert model.head.decoder.gate.item() == 1


@pytest.mark.parametrize(("channels", "heads"), [(512, 8), (64, 1), (200, 1), (192, 3), (16, 1)])
def test_self_attention_has_heads_of_64_channels_where_it_can(channels, heads):
    assert SelfAttention(channels).heads == heads


def test_self_attention_is_torchs():
    torch.manual_seed(0)
    module, features = SelfAttention(192), torch.randn(2, 192, 5, 7)
    torchs = nn.MultiheadAttention(192, 3, batch_first=True)
    with torch.no_grad():
        torchs.in_proj_weight.copy_(module.project.weight)
        torchs.in_proj_bias.copy_(module.project.bias)
        torchs.out_proj.load_state_dict(module.out.state_dict())
    places = features.flatten(2).mT
    expected = features + torchs(places, places, places)[0].mT.view_as(features)
    assert torch.allclose(module(features), expected, atol=1e-5)


def test_dilated_classifiers_reach_as_far_as_they_say():
    classifiers = DilatedClassifiers(1, 1).eval()
    for layer in classifiers:
        nn.init.ones_(layer.weight)
        nn.init.zeros_(layer.bias)
    impulse = torch.zeros(1, 1, 61, 61)
    impulse[0, 0, 30, 30] = 1
    rows = classifiers(impulse)[0, 0].sum(1).nonzero().ravel() - 30
    assert rows.tolist() == [-24, -18, -12, -6, 0, 6, 12, 18, 24]
    assert classifiers(impulse)[0, 0, 30, 30] == 4
