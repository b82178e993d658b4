"""Other ways to bring context in, for ablations: channels rescaled, a transformer's attention, dilated classifiers.

They have no gate that starts at 0: fresh ones change their input already.
"""

import math

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.ops import SqueezeExcitation as ChannelScale

from danet.models.attention import map_to_places, places_to_map

RATES = (6, 12, 18, 24)
HEAD_WIDTH = 64


class SqueezeExcitation(ChannelScale):
    """Channels weighted by a sigmoid of all their means (Hu et al., CVPR 2018); reduced to a sixteenth in between."""

    def __init__(self, channels: int) -> None:
        super().__init__(channels, max(channels // 16, 1))


class SelfAttention(nn.Module):
    """A transformer's attention of places, in heads of 64 channels, scaled by 1/√64, and added to what it is given.

    Widths that 64 does not divide get fewer heads. Vaswani et al., NeurIPS 2017; no norm, no place encoding.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.heads = math.gcd(channels, max(channels // HEAD_WIDTH, 1))
        self.project = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        projected = self.project(map_to_places(features)).unflatten(2, (3, self.heads, -1))
        query, key, value = projected.permute(2, 0, 3, 1, 4)
        gathered = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
        return features + places_to_map(self.out(gathered), features)


class DilatedClassifiers(nn.ModuleList):
    """The sum of four classifiers whose 3×3 kernels reach 6, 12, 18 and 24 places far, as DeepLab V2's at stride 8.

    Chen et al., TPAMI 2018.
    """

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(nn.Conv2d(in_channels, num_classes, 3, padding=rate, dilation=rate) for rate in RATES)
        self.dropout = dropout

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        features = F.dropout2d(features, self.dropout, self.training)
        first, *others = self
        logits = first(features)
        for classifier in others:
            logits = logits + classifier(features)
        return logits
