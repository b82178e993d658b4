"""Position and channel attention as drop-in modules: B×C×H×W in, the same out (paper, sections 3.2 and 3.3).

Each adds what it gathers to its input through a gate that starts at 0, so a fresh module is the identity. The maths is
in danet.ops; parameters correspond to the authors' `PAM_Module` and `CAM_Module`.
"""

from collections.abc import Iterator
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from danet.config import ChannelRule
from danet.ops.channel import channel_attention
from danet.ops.position import position_attention

SIGNS = {"position": "α", "channel": "β"}
"""What the paper calls each branch's gate."""


class BranchTrace(NamedTuple):
    """What one branch did on one batch: how open it is, and what any row or column of its map follows from.

    `share` is ‖gate · E‖ / ‖A‖ for each image, `features` are A, `grid` their height and width. Position attention has
    query, key, value and log-sum-exp here, channel attention its rule. Compact attention has m keys that are centres:
    `pool` tells how much of each place is in each centre of position attention, rows summing to 1; the centres of
    channel attention, c/16 maps, are `key`. `low` are the reduced fine features with which DRANet's decoder goes on.
    """

    gate: float
    share: Float[Tensor, " b"]
    grid: tuple[int, int]
    features: Float[Tensor, "b c h w"]
    query: Float[Tensor, "b n d"] | None = None
    key: Float[Tensor, "b m d"] | None = None
    value: Float[Tensor, "b m c"] | None = None
    logsumexp: Float[Tensor, "b n"] | None = None
    rule: ChannelRule | None = None
    pool: Float[Tensor, "m n"] | None = None
    low: Float[Tensor, "b l H W"] | None = None


class Attention(nn.Module):
    """What all attention modules have: the branch that they are, and the gate of what they gather."""

    branch: ClassVar[str]
    gate: nn.Parameter

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], BranchTrace]:
        """`forward`, and what its map follows from."""
        raise NotImplementedError


class PositionAttention(Attention):
    """Every place gathers from all places that resemble it: E = gate · softmax(Q Kᵀ) V + A, without a scale of 1/√d.

    Memory is linear in H·W. Query and key are `key_channels` wide, by default an eighth of `channels`.
    """

    branch = "position"

    def __init__(self, channels: int, key_channels: int | None = None) -> None:
        super().__init__()
        key_channels = key_channels or max(channels // 8, 1)
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Conv2d(channels, key_channels, 1)
        self.value = nn.Conv2d(channels, channels, 1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        query, key, value = self.project(features)
        gathered = position_attention(query, key, value)
        return features + self.gate * places_to_map(gathered, features)

    def project(
        self, features: Float[Tensor, "b c h w"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b n d"], Float[Tensor, "b n c"]]:
        """Query, key and value of every place."""
        # An energy of 50 rounded to bfloat16 is off by 0.1, which the softmax turns into 10 %: no autocast here.
        with torch.autocast(features.device.type, enabled=False):
            precise = features.to(self.query.weight.dtype)
            query, key = self.query(precise), self.key(precise)
        return map_to_places(query), map_to_places(key), map_to_places(self.value(features))

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], BranchTrace]:
        """`forward`, and what its map follows from."""
        query, key, value = self.project(features)
        gathered, logsumexp = position_attention(query, key, value, return_logsumexp=True)
        gathered = places_to_map(gathered, features)
        traced = trace(self.gate, gathered, features)._replace(query=query, key=key, value=value, logsumexp=logsumexp)
        return features + self.gate * gathered, traced

    def without(self, features: Float[Tensor, "b c h w"], removed: Bool[Tensor, " h*w"]) -> Float[Tensor, "b c h w"]:
        """`forward`, as if no place could look at the places `removed`: they are queries, but no keys."""
        query, key, value = self.project(features)
        gathered = position_attention(query, key[:, ~removed], value[:, ~removed])
        return features + self.gate * places_to_map(gathered, features)


class ChannelAttention(Attention):
    """Every channel gathers from the other channels: E = gate · X A + A with the C×C map X; no convolutions.

    `rule` is "official", softmax(max − A Aᵀ) as in the authors' code, or "paper", softmax(A Aᵀ) as in their text.
    """

    branch = "channel"

    def __init__(self, rule: ChannelRule = "official") -> None:
        super().__init__()
        self.rule: ChannelRule = rule
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return features + self.gate * self.gather(features)

    def gather(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        """X A: each channel as its map mixes it."""
        return channel_attention(features.flatten(2), rule=self.rule).view_as(features)

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], BranchTrace]:
        """`forward`, and how much it changed."""
        gathered = self.gather(features)
        return features + self.gate * gathered, trace(self.gate, gathered, features)._replace(rule=self.rule)


def map_to_places(features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
    """Feature maps as a list of places, row by row; a view, and free for channels-last maps."""
    return features.flatten(2).transpose(1, 2)


def places_to_map(places: Float[Tensor, "b n c"], like: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
    """The inverse of `map_to_places`, with the height and width of `like`."""
    return places.transpose(1, 2).unflatten(2, like.shape[2:])


def trace(
    gate: Float[Tensor, "1"], gathered: Float[Tensor, "b c h w"], features: Float[Tensor, "b c h w"]
) -> BranchTrace:
    """How open a branch is, and how much of its output comes through its attention, image by image."""
    energy = (gate * gathered).float().flatten(1).norm(dim=1)
    share = energy / features.float().flatten(1).norm(dim=1).clamp_min(1e-12)
    height, width = features.shape[-2:]
    return BranchTrace(gate.item(), share.detach(), (height, width), features)


def gates(model: nn.Module) -> dict[str, float]:
    """The gates α ("position") and β ("channel") of a model's attention modules."""
    return {branch: module.gate.item() for branch, module in attention_modules(model)}


def attention_modules(model: nn.Module) -> Iterator[tuple[str, Attention]]:
    """A model's attention modules, with the names of their branches."""
    for module in model.modules():
        if isinstance(module, Attention):
            yield module.branch, module
