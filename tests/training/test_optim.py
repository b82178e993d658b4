"""Rates and decay: who learns how fast."""

import pytest
import torch

from danet.config import OptimConfig
from danet.models.segmentation import create_model
from danet.training.optim import create_optimizer, learning_rate, set_learning_rate


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_every_parameter_has_its_rate_and_decay(optimizer):
    model = create_model("danet", "resnet18", 3, out_indices=(1, 2), channels=8, auxiliary=True)
    config = OptimConfig(optimizer=optimizer, lr=0.1, head_factor=10, gate_factor=5, weight_decay=0.01)
    groups = create_optimizer(model, config)
    set_learning_rate(groups, 0.01)
    found = {id(p): (g["lr"], g["weight_decay"]) for g in groups.param_groups for p in g["params"]}
    named = {name: found.pop(id(parameter)) for name, parameter in model.named_parameters()}
    assert found == {}
    assert named["backbone.conv1.weight"] == (0.01, 0.01)
    assert named["backbone.bn1.weight"] == (0.01, 0)
    assert named["head.position.query.weight"] == (pytest.approx(0.1), 0.01)
    assert named["head.position.query.bias"] == (pytest.approx(0.1), 0)
    assert named["head.position.gate"] == named["head.channel.gate"] == (pytest.approx(0.5), 0)
    assert named["auxiliary.classifier.weight"] == (pytest.approx(0.1), 0.01)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_gates_decay_only_where_they_are_asked_to(optimizer):
    """With no gradient but 0, a step changes a gate by its decay alone."""
    model = create_model("danet", "resnet18", 3, out_indices=(1,), channels=8)
    moved = {}
    for decay in (0.0, 0.4):
        torch.nn.init.ones_(model.head.position.gate)
        steps = create_optimizer(model, OptimConfig(optimizer=optimizer, lr=0.1, gate_factor=1, gate_decay=decay))
        model.head.position.gate.grad = torch.zeros(1)
        steps.step()
        moved[decay] = model.head.position.gate.item()
    assert moved == {0.0: 1.0, 0.4: pytest.approx(0.96)}
    assert OptimConfig().gate_decay == 0


def test_the_schedule_may_be_a_cosine_and_end_above_0():
    config = OptimConfig(lr=2.0, end_lr=0.5, steps=100, schedule="cosine")
    rates = [learning_rate(step, config) for step in range(101)]
    assert [rates[0], rates[50], rates[100]] == pytest.approx([2.0, 1.25, 0.5])
    assert rates[25] == pytest.approx(0.5 + 1.5 * (1 + 2**-0.5) / 2)
    # mmsegmentation's PolyLR: (base − eta_min) · (1 − t/T)^power + eta_min
    config = OptimConfig(lr=0.01, end_lr=1e-4, steps=40_000, power=0.9)
    assert learning_rate(10_000, config) == pytest.approx((0.01 - 1e-4) * 0.75**0.9 + 1e-4)


def test_the_schedule_is_warm_up_and_poly():
    config = OptimConfig(lr=2.0, steps=100, power=0.9, warmup=4)
    rates = [learning_rate(step, config) for step in range(101)]
    assert rates[0] == pytest.approx(2.0 / 5)
    assert rates[4:] == pytest.approx([2.0 * (1 - step / 100) ** 0.9 for step in range(4, 101)])
    assert rates[:5] == sorted(rates[:5])
    assert torch.tensor(rates[5:]).diff().lt(0).all()
    assert rates[100] == 0
