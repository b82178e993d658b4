"""From backbone features to class logits: DANet, its branches alone, and the FCN that it is measured against.

Parameter names are for good: bundles store them, and danet.weights.layouts maps the published names to them.
"""

from itertools import pairwise
from typing import Literal, NamedTuple, cast

from jaxtyping import Bool, Float
from torch import Tensor, nn

from danet.config import ChannelRule
from danet.models.attention import BranchTrace, ChannelAttention, PositionAttention
from danet.models.layers import Classifier, ConvNormAct


class HeadOutput(NamedTuple):
    """Logits at the features' size: the ones that predict, and those of the branches, which are trained beside them."""

    logits: Float[Tensor, "b k h w"]
    branches: dict[str, Float[Tensor, "b k h w"]]


class DANetHead(nn.Module):
    """Position and channel attention side by side, summed, with a classifier each (paper, figure 2)."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        dropout: float = 0.1,
        channel_rule: ChannelRule = "official",
    ) -> None:
        super().__init__()
        self.position_in = ConvNormAct(in_channels, channels)
        self.position = PositionAttention(channels)
        self.position_out = ConvNormAct(channels, channels)
        self.channel_in = ConvNormAct(in_channels, channels)
        self.channel = ChannelAttention(channel_rule)
        self.channel_out = ConvNormAct(channels, channels)
        self.classifier = Classifier(channels, num_classes, dropout)
        self.position_classifier = Classifier(channels, num_classes, dropout)
        self.channel_classifier = Classifier(channels, num_classes, dropout)

    def forward(self, features: Float[Tensor, "b c h w"]) -> HeadOutput:
        position = self.position(self.position_in(features))
        channel = self.channel(self.channel_in(features))
        return self.classify(position, channel)

    def classify(self, position: Float[Tensor, "b c h w"], channel: Float[Tensor, "b c h w"]) -> HeadOutput:
        """The three classifiers, on the sum of both branches and on each."""
        position, channel = self.position_out(position), self.channel_out(channel)
        branches = {"position": self.position_classifier(position), "channel": self.channel_classifier(channel)}
        return HeadOutput(self.classifier(position + channel), branches)

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[HeadOutput, dict[str, BranchTrace]]:
        """`forward`, and what each branch's map follows from."""
        position, position_trace = self.position.trace(self.position_in(features))
        channel, channel_trace = self.channel.trace(self.channel_in(features))
        return self.classify(position, channel), {"position": position_trace, "channel": channel_trace}

    def without(self, traces: dict[str, BranchTrace], removed: Bool[Tensor, " n"]) -> HeadOutput:
        """What was traced, as if no place could look at the places `removed`."""
        position = self.position.without(traces["position"].features, removed)
        return self.classify(position, self.channel(traces["channel"].features))


class BranchHead(nn.Module):
    """One branch alone, for ablations (paper, table 2): convolution, attention, convolution, classifier."""

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        branch: Literal["position", "channel"],
        dropout: float = 0.1,
        channel_rule: ChannelRule = "official",
    ) -> None:
        super().__init__()
        self.branch = branch
        self.before = ConvNormAct(in_channels, channels)
        self.attention = PositionAttention(channels) if branch == "position" else ChannelAttention(channel_rule)
        self.after = ConvNormAct(channels, channels)
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, features: Float[Tensor, "b c h w"]) -> HeadOutput:
        return HeadOutput(self.classifier(self.after(self.attention(self.before(features)))), {})

    def trace(self, features: Float[Tensor, "b c h w"]) -> tuple[HeadOutput, dict[str, BranchTrace]]:
        """`forward`, and what the branch's map follows from."""
        attended, trace = self.attention.trace(self.before(features))
        return HeadOutput(self.classifier(self.after(attended)), {}), {self.branch: trace}

    def without(self, traces: dict[str, BranchTrace], removed: Bool[Tensor, " n"]) -> HeadOutput:
        """What the position branch traced, as if no place could look at the places `removed`."""
        attended = cast(PositionAttention, self.attention).without(traces["position"].features, removed)
        return HeadOutput(self.classifier(self.after(attended)), {})


class FCNHead(nn.Module):
    """`depth` convolutions and a classifier: with 2 one branch without its attention, with 1 the auxiliary head."""

    def __init__(self, in_channels: int, num_classes: int, channels: int, dropout: float = 0.1, depth: int = 2) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * depth
        self.layers = nn.Sequential(*(ConvNormAct(a, b) for a, b in pairwise(widths)))
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, features: Float[Tensor, "b c h w"]) -> HeadOutput:
        return HeadOutput(self.classifier(self.layers(features)), {})
