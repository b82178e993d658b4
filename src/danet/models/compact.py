"""DRANet's compact attention, and the decoder that adds fine detail to what it found (Fu et al., IEEE TNNLS 2020).

Places gather from the means of 50 regions instead of from one another, channels from a sixteenth as many channels.
Parameters correspond to the authors' `CPAMEnc`, `CPAMDec`, `CCAMDec` and `CLGD`.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from danet.config import ChannelRule
from danet.models.attention import Attention, BranchTrace, map_to_places, places_to_map, trace
from danet.models.layers import ConvNormAct
from danet.ops.channel import channel_attention
from danet.ops.position import position_attention

LEVELS = (1, 2, 3, 6)
"""Each level of the pyramid cuts the picture into so many rows and columns of regions."""
LOW = 32
"""Channels that the decoder keeps of the fine features."""


class CompactPositionAttention(Attention):
    """Every place gathers from 50 centres: E = gate · softmax(Q Kᵀ) V + A, without a scale of 1/√d.

    A centre is the mean of a region of a pyramid, sent through a 1×1 convolution of its level; keys and values are
    linear in it. Query and key are `key_channels` wide, by default a quarter of `channels`.
    """

    branch = "position"

    def __init__(self, channels: int, key_channels: int | None = None) -> None:
        super().__init__()
        key_channels = key_channels or max(channels // 4, 1)
        self.levels = nn.ModuleList(ConvNormAct(channels, channels, kernel_size=1) for _ in LEVELS)
        self.query = nn.Conv2d(channels, key_channels, 1)
        self.key = nn.Linear(channels, key_channels)
        self.value = nn.Linear(channels, channels)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        gathered = position_attention(*self.project(features, self.pool(features)))
        return features + self.gate * places_to_map(gathered, features)

    def pool(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "50 h*w"]:
        """The pyramid of these features' size."""
        height, width = features.shape[-2:]
        return pyramid(height, width, self.query.weight.dtype, features.device)

    def project(
        self, features: Float[Tensor, "b c h w"], pool: Float[Tensor, "50 h*w"]
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b 50 d"], Float[Tensor, "b 50 c"]]:
        """The query of every place, key and value of every centre."""
        # As in PositionAttention: what energies follow from is not rounded to bfloat16.
        with torch.autocast(features.device.type, enabled=False):
            precise = features.to(self.query.weight.dtype)
            centres = self.encode(pool @ map_to_places(precise))
            query, key = self.query(precise), self.key(centres)
        return map_to_places(query), key, self.value(centres)

    def encode(self, means: Float[Tensor, "b 50 c"]) -> Float[Tensor, "b 50 c"]:
        """The regions' means through the convolution of their level."""
        parts = means.mT.unsqueeze(3).split([side**2 for side in LEVELS], dim=2)
        encoded = torch.cat([level(part) for level, part in zip(self.levels, parts, strict=True)], dim=2)
        return map_to_places(encoded)

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], BranchTrace]:
        """`forward`, and what its map follows from."""
        pool = self.pool(features)
        query, key, value = self.project(features, pool)
        gathered, logsumexp = position_attention(query, key, value, return_logsumexp=True)
        gathered = places_to_map(gathered, features)
        traced = trace(self.gate, gathered, features)._replace(
            query=query, key=key, value=value, logsumexp=logsumexp, pool=pool
        )
        return features + self.gate * gathered, traced

    def without(self, features: Float[Tensor, "b c h w"], removed: Bool[Tensor, " h*w"]) -> Float[Tensor, "b c h w"]:
        """`forward`, as if no place could look at the places `removed`: centres are means of the others alone.

        A centre without any place left is no key.
        """
        pool = self.pool(features) * ~removed
        left = pool.sum(1)
        seen = left > 0
        query, key, value = self.project(features, pool / left.where(seen, 1)[:, None])
        gathered = position_attention(query, key[:, seen], value[:, seen])
        return features + self.gate * places_to_map(gathered, features)


class CompactChannelAttention(Attention):
    """Every channel gathers from a sixteenth as many: E = gate · X B + A with the c×c/16 map X of A and B.

    B is a 1×1 convolution of A. `rule` as in ChannelAttention; the authors' code has "official", softmax(max − A Bᵀ).
    """

    branch = "channel"

    def __init__(self, channels: int, rule: ChannelRule = "official") -> None:
        super().__init__()
        self.rule: ChannelRule = rule
        self.compact = ConvNormAct(channels, max(channels // 16, 1), kernel_size=1)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        return features + self.gate * self.gather(features, self.compact(features))

    def gather(self, features: Float[Tensor, "b c h w"], compact: Float[Tensor, "b m h w"]) -> Float[Tensor, "b c h w"]:
        """X B: each channel as its map mixes the compact ones."""
        centres = compact.flatten(2)
        return channel_attention(features.flatten(2), centres, centres, self.rule).view_as(features)

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[Float[Tensor, "b c h w"], BranchTrace]:
        """`forward`, and what its map follows from."""
        compact = self.compact(features)
        gathered = self.gather(features, compact)
        traced = trace(self.gate, gathered, features)._replace(rule=self.rule, key=compact.flatten(2))
        return features + self.gate * gathered, traced


class CrossLevelGate(nn.Module):
    """High-level features at the size of finer ones, of which only that comes in what both let through.

    The fine features are reduced to 32 channels and weighted place by place by gate · sigmoid; this gate starts at 1.
    """

    def __init__(self, low_channels: int, channels: int) -> None:
        super().__init__()
        self.low = ConvNormAct(low_channels, LOW)
        self.attention = nn.Conv2d(LOW + channels, 1, 1)
        self.gate = nn.Parameter(torch.ones(1))
        self.merge = ConvNormAct(LOW + channels, channels)
        self.out = ConvNormAct(channels, channels)

    def forward(self, fine: Float[Tensor, "b f H W"], high: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
        return self.join(self.low(fine), high)

    def join(self, low: Float[Tensor, "b l H W"], high: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c H W"]:
        """`forward`, from fine features that are reduced already."""
        high = F.interpolate(high, size=low.shape[-2:], mode="bilinear", align_corners=True)
        weight = self.gate * torch.sigmoid(self.attention(torch.cat([low, high], dim=1)))
        return self.out(self.merge(torch.cat([weight * low, high], dim=1)))


def pyramid(
    height: int, width: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None
) -> Float[Tensor, "50 height*width"]:
    """Which mean of places each centre is: rows of weights that sum to 1, the windows of adaptive average pooling.

    Levels of 1, 2, 3 and 6 rows and columns one after the other, each row by row.
    """
    regions = [(side, row, column) for side in LEVELS for row in range(side) for column in range(side)]
    side, row, column = torch.tensor(regions, device=device).mT.unsqueeze(2)
    down, across = _windows(height, side, row).to(dtype), _windows(width, side, column).to(dtype)
    down, across = down / down.sum(1, keepdim=True), across / across.sum(1, keepdim=True)
    return (down.unsqueeze(2) * across.unsqueeze(1)).flatten(1)


def _windows(length: int, side: Int[Tensor, "50 1"], index: Int[Tensor, "50 1"]) -> Bool[Tensor, "50 length"]:
    """Which places are in window `index` of `side` windows over `length`; they overlap where it cannot be divided."""
    place = torch.arange(length, device=side.device)
    return (index * length // side <= place) & (place * side < (index + 1) * length)
