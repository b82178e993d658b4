"""What lets attention in: where gates, queries and keys start, the sign of a gate, and how open the gates are.

None of it changes the network: whatever the settings, weights load and predict as the paper's. docs/gates.md tells what
was tried, and why the defaults are what they are.
"""

from __future__ import annotations

import torch
from torch import nn

from danet.config import OptimConfig
from danet.data.dataset import Dataset
from danet.inference.segmenter import Segmenter
from danet.models.attention import PositionAttention, attention_modules
from danet.models.compact import CompactPositionAttention

SHARE_IMAGES = 8
"""So many images tell how much comes through a branch."""


@torch.no_grad()
def start_attention(model: nn.Module, config: OptimConfig) -> None:
    """Set gates, queries and keys to where `config` lets them start."""
    for _, module in attention_modules(model):
        module.gate.fill_(config.gate_start)
        if isinstance(module, PositionAttention | CompactPositionAttention):
            if config.key_start == "query":
                for key, query in zip(module.key.parameters(), module.query.parameters(), strict=True):
                    key.copy_(query.view_as(key))
            for parameter in module.query.parameters():
                parameter.mul_(config.query_gain)


@torch.no_grad()
def keep_sign(model: nn.Module, config: OptimConfig) -> None:
    """Put gates that a step made negative back to 0, where `config` asks for positive ones."""
    if config.gate_sign == "positive":
        for _, module in attention_modules(model):
            module.gate.clamp_(min=0)


def branch_shares(segmenter: Segmenter, dataset: Dataset) -> dict[str, float]:
    """Each branch's share ‖gate · E‖ / ‖A‖, the mean over eight images of `dataset`, or all if it has fewer."""
    count = min(SHARE_IMAGES, len(dataset))
    found: dict[str, list[float]] = {branch: [] for branch, _ in attention_modules(segmenter.model)}
    for number in range(count if found else 0):
        for branch, trace in segmenter.encode(dataset[number * len(dataset) // count].pixels).traces.items():
            found[branch].append(trace.share.item())
    return {branch: sum(shares) / count for branch, shares in found.items()}
