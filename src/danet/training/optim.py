"""Which parameters learn at which rate, and how the rate falls."""

import math

import torch
from torch import nn

from danet.config import OptimConfig
from danet.models.attention import attention_modules
from danet.models.segmentation import SegmentationModel


def parameter_groups(model: SegmentationModel, config: OptimConfig) -> list[dict]:
    """Groups with `factor` (of the learning rate) and weight decay: none on norms and biases, `gate_decay` on gates.

    Heads learn `head_factor` times as fast as the backbone (10 in the paper's code), gates `gate_factor` times as fast
    as the heads: they start at 0 and move in small steps.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    gates = {module.gate for _, module in attention_modules(model)}
    for name, parameter in model.named_parameters():
        gate = parameter in gates
        factor = 1.0 if name.startswith("backbone.") else config.head_factor
        decay = config.gate_decay if gate else 0.0 if parameter.ndim == 1 else config.weight_decay
        groups.setdefault((factor * config.gate_factor if gate else factor, decay), []).append(parameter)
    return [
        {"params": parameters, "factor": factor, "weight_decay": decay, "lr": factor * config.lr}
        for (factor, decay), parameters in groups.items()
    ]


def create_optimizer(model: SegmentationModel, config: OptimConfig) -> torch.optim.Optimizer:
    """AdamW or SGD with momentum over `parameter_groups`."""
    groups = parameter_groups(model, config)
    if config.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr)
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum)


def learning_rate(step: int, config: OptimConfig) -> float:
    """The backbone's rate in step `step`, counted from 0: linear warm-up, then from lr to end_lr along the schedule."""
    warm, done = min(1.0, (step + 1) / (config.warmup + 1)), step / config.steps
    left = (1 - done) ** config.power if config.schedule == "poly" else (1 + math.cos(math.pi * done)) / 2
    return warm * (config.end_lr + (config.lr - config.end_lr) * left)


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Give each group its own multiple of `rate`."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group["factor"]
