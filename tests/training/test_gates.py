"""What lets attention in: where it starts, which way it may go, and how much comes through."""

import numpy as np
import pytest
import torch

from danet.config import OptimConfig, Preprocess, read_config
from danet.data.dataset import Dataset
from danet.data.sources import scenes
from danet.inference.segmenter import Segmenter
from danet.models.attention import PositionAttention, attention_modules, gates
from danet.models.segmentation import create_model
from danet.training.events import Step
from danet.training.gates import branch_shares, keep_sign, start_attention
from danet.training.loop import train
from danet.training.optim import create_optimizer


def network(head: str):
    torch.manual_seed(0)
    return create_model(head, "resnet18", 3, out_indices=(1,), channels=16)


@pytest.mark.parametrize("head", ["danet", "dranet", "pam", "cam", "fcn"])
def test_the_defaults_leave_a_fresh_network_as_it_is(head):
    model = network(head)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_attention(model, OptimConfig())
    keep_sign(model, OptimConfig())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert (
        gates(model)
        == {
            "danet": {"position": 0.0, "channel": 0.0},
            "dranet": {"position": 0.0, "channel": 0.0},
            "pam": {"position": 0.0},
            "cam": {"channel": 0.0},
            "fcn": {},
        }[head]
    )


@pytest.mark.parametrize("head", ["danet", "dranet"])
def test_gates_keys_and_queries_start_where_they_are_asked_to(head):
    model = network(head)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start_attention(model, OptimConfig(gate_start=-0.25, key_start="query", query_gain=3))
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])}
    parts = ("query", "key")
    assert changed == {
        "head.position.gate",
        "head.channel.gate",
        *(f"head.position.{part}.{kind}" for part in parts for kind in ("weight", "bias")),
    }
    assert gates(model) == {"position": -0.25, "channel": -0.25}
    position = model.head.position
    for kind in ("weight", "bias"):
        query = before[f"head.position.query.{kind}"]
        key = getattr(position.key, kind)
        assert torch.equal(key, query.view_as(key))  # the gain is the queries' alone
        assert torch.equal(getattr(position.query, kind), 3 * query)


def step_against_the_gates(model, config: OptimConfig, steps: int) -> list[dict[str, float]]:
    """The gates after each of some real training steps whose loss pushes them down."""
    start_attention(model, config)
    optimizer = create_optimizer(model, config)
    found = []
    for _ in range(steps):
        optimizer.zero_grad()
        torch.stack([module.gate.sum() for _, module in attention_modules(model)]).sum().backward()
        optimizer.step()
        keep_sign(model, config)
        found.append(gates(model))
    return found


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("head", ["danet", "dranet", "pam", "cam"])
def test_only_a_free_gate_goes_negative(head, optimizer):
    settings = {"optimizer": optimizer, "lr": 0.02, "gate_factor": 1, "gate_start": 0.03}
    positive = step_against_the_gates(network(head), OptimConfig(**settings, gate_sign="positive"), 3)
    free = step_against_the_gates(network(head), OptimConfig(**settings), 3)
    for branch in free[0]:
        assert positive[0][branch] == free[0][branch] == pytest.approx(0.01)  # nothing to put back yet
        assert [one[branch] for one in positive[1:]] == [0, 0]
        assert all(one[branch] < -0.005 for one in free[1:])


def test_a_run_starts_its_gates_and_keeps_their_sign(own_data, tmp_path):
    found = {}
    for sign in ("free", "positive"):
        changes = {"optim.gate_start": "-0.1", "optim.gate_sign": sign, "optim.lr": "0.001"}
        events = train(read_config(tmp_path / "own.yaml", changes), runs=tmp_path / sign)
        found[sign] = [gate for event in events if isinstance(event, Step) for gate in event.gates.values()]
    assert found["free"][:2] == pytest.approx([-0.1, -0.1], abs=0.011)  # Adam's first step is the gates' rate, 0.01
    assert found["positive"][:2] == [0, 0]
    assert min(found["positive"]) == 0


@pytest.mark.parametrize("shape", [(2, 16, 5, 7), (1, 16, 1, 1)])
def test_a_negative_gate_is_no_other_network(shape):
    """(α, V) and (−α, −V) are the same function, so the sign of α alone says nothing."""
    torch.manual_seed(0)
    module = PositionAttention(16)
    with torch.no_grad():
        module.gate.fill_(0.7)
        features = torch.randn(shape)
        expected = module(features)
        module.gate.neg_()
        assert not torch.allclose(module(features), expected)
        for parameter in module.value.parameters():
            parameter.neg_()
        assert torch.equal(module(features), expected)


@pytest.mark.parametrize("head", ["danet", "dranet", "pam", "cam"])
def test_shares_are_what_the_modules_add_to_what_they_are_given(head):
    """‖αE‖/‖A‖ of eight of ten images, evenly spaced, from the modules' own inputs and outputs."""
    model = network(head)
    start_attention(model, OptimConfig(gate_start=0.5))
    items, labels = scenes("val", 10, 48, 64)
    dataset = Dataset(items, labels)
    segmenter = Segmenter(model, labels, Preprocess(), "cpu", "float32")
    found: dict[str, list[float]] = {}

    def note(module, inputs, output):
        added, given = (output - inputs[0]).norm(), inputs[0].norm()
        found.setdefault(module.branch, []).append((added / given).item())

    hooks = [module.register_forward_hook(note) for _, module in attention_modules(segmenter.model)]
    for index in (0, 1, 2, 3, 5, 6, 7, 8):
        segmenter.predict(np.ascontiguousarray(dataset[index].image.permute(1, 2, 0).numpy()))
    for hook in hooks:
        hook.remove()
    shares = branch_shares(segmenter, dataset)
    assert shares == {branch: pytest.approx(np.mean(values), rel=1e-4) for branch, values in found.items()}
    assert set(shares) == set(gates(model))
    assert all(share > 0.01 for share in shares.values())


def test_a_fresh_branch_lets_nothing_through_and_an_fcn_has_none():
    dataset = Dataset(*scenes("val", 3, 48, 64))
    shares = {
        head: branch_shares(Segmenter(network(head), dataset.labels, Preprocess(), "cpu", "float32"), dataset)
        for head in ("danet", "fcn")
    }
    assert shares == {"danet": {"position": 0.0, "channel": 0.0}, "fcn": {}}
