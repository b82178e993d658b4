"""From backbone features to class logits: DANet and DRANet, DANet's branches alone, and what they are measured against.

Every head takes the backbone's list of maps, of which the last is the one to label. Parameter names are for good:
bundles store them, and danet.weights.layouts maps the published names to them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from danet.config import ChannelRule, ModelConfig
from danet.models.attention import Attention, BranchTrace, ChannelAttention, PositionAttention
from danet.models.compact import CompactChannelAttention, CompactPositionAttention, CrossLevelGate
from danet.models.comparison import DilatedClassifiers, SelfAttention, SqueezeExcitation
from danet.models.layers import Classifier, ConvNormAct, side_by_side


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

    def forward(self, maps: Sequence[Float[Tensor, "b c h w"]]) -> HeadOutput:
        position, channel = side_by_side(maps[-1], self.position_in, self.channel_in)
        return self.classify(self.position_out(self.position(position)), self.channel_out(self.channel(channel)))

    def classify(self, position: Float[Tensor, "b c h w"], channel: Float[Tensor, "b c h w"]) -> HeadOutput:
        """The three classifiers, on the sum of both branches and on each."""
        branches = {"position": self.position_classifier(position), "channel": self.channel_classifier(channel)}
        return HeadOutput(self.classifier(position + channel), branches)

    def trace(self, maps: Sequence[Float[Tensor, "b c h w"]]) -> tuple[HeadOutput, dict[str, BranchTrace]]:
        """`forward`, and what each branch's map follows from."""
        position, channel = side_by_side(maps[-1], self.position_in, self.channel_in)
        position, position_trace = self.position.trace(position)
        channel, channel_trace = self.channel.trace(channel)
        output = self.classify(self.position_out(position), self.channel_out(channel))
        return output, {"position": position_trace, "channel": channel_trace}

    def again(
        self, traces: dict[str, BranchTrace], positions: Iterable[Float[Tensor, "b c h w"]]
    ) -> Iterator[HeadOutput]:
        """What was traced, with each of `positions` in place of what position attention gave."""
        channel = self.channel_out(self.channel(traces["channel"].features))
        return (self.classify(self.position_out(position), channel) for position in positions)


class DRANetHead(nn.Module):
    """Compact position and channel attention, concatenated, refined by the backbone's finest map, which comes first.

    Its logits have that map's size. Source: encoding/models/sseg/dran.py of the authors' code.
    """

    def __init__(
        self,
        in_channels: int,
        fine_channels: int,
        num_classes: int,
        channels: int,
        dropout: float = 0.1,
        channel_rule: ChannelRule = "official",
    ) -> None:
        super().__init__()
        fused = max(channels // 2, 1)
        self.position_in = ConvNormAct(in_channels, channels)
        self.position = CompactPositionAttention(channels)
        self.position_out = ConvNormAct(channels, channels)
        self.channel_in = ConvNormAct(in_channels, channels)
        self.channel = CompactChannelAttention(channels, channel_rule)
        self.channel_out = ConvNormAct(channels, channels)
        self.fusion = ConvNormAct(2 * channels, fused)
        self.decoder = CrossLevelGate(fine_channels, fused)
        self.classifier = Classifier(fused, num_classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> HeadOutput:
        position = self.position(self.position_in(maps[-1]))
        channel = self.channel(self.channel_in(maps[-1]))
        return self.classify(self.position_out(position), self.channel_out(channel), self.decoder.low(maps[0]))

    def classify(
        self, position: Float[Tensor, "b c h w"], channel: Float[Tensor, "b c h w"], low: Float[Tensor, "b l H W"]
    ) -> HeadOutput:
        """Fusion of both branches, decoder and classifier."""
        fused = self.fusion(torch.cat([position, channel], dim=1))
        return HeadOutput(self.classifier(self.decoder.join(low, fused)), {})

    def trace(self, maps: Sequence[Float[Tensor, "b _ _ _"]]) -> tuple[HeadOutput, dict[str, BranchTrace]]:
        """`forward`, and what each branch's map follows from."""
        position, position_trace = self.position.trace(self.position_in(maps[-1]))
        channel, channel_trace = self.channel.trace(self.channel_in(maps[-1]))
        low = self.decoder.low(maps[0])
        traces = {"position": position_trace._replace(low=low), "channel": channel_trace}
        return self.classify(self.position_out(position), self.channel_out(channel), low), traces

    def again(
        self, traces: dict[str, BranchTrace], positions: Iterable[Float[Tensor, "b c h w"]]
    ) -> Iterator[HeadOutput]:
        """What was traced, with each of `positions` in place of what position attention gave."""
        channel, low = self.channel_out(self.channel(traces["channel"].features)), cast(Tensor, traces["position"].low)
        return (self.classify(self.position_out(position), channel, low) for position in positions)


class ContextHead(nn.Module):
    """Convolution, a module that brings context in, convolution, classifier, for ablations (paper, table 2).

    DANet's branches alone and other kinds of context differ in that module and in nothing else; `create` makes it for
    a width.
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        channels: int,
        create: Callable[[int], nn.Module],
        dropout: float = 0.1,
    ) -> None:
        super().__init__()
        self.before = ConvNormAct(in_channels, channels)
        self.attention = create(channels)
        self.after = ConvNormAct(channels, channels)
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "b c h w"]]) -> HeadOutput:
        return self.classify(self.attention(self.before(maps[-1])))

    def classify(self, attended: Float[Tensor, "b c h w"]) -> HeadOutput:
        """What comes after the context."""
        return HeadOutput(self.classifier(self.after(attended)), {})

    def trace(self, maps: Sequence[Float[Tensor, "b c h w"]]) -> tuple[HeadOutput, dict[str, BranchTrace]]:
        """`forward`, and what the branch's map follows from; nothing for a module that is no branch of DANet's."""
        if not isinstance(self.attention, Attention):
            return self(maps), {}
        attended, trace = self.attention.trace(self.before(maps[-1]))
        return self.classify(attended), {self.attention.branch: trace}

    def again(
        self, traces: dict[str, BranchTrace], positions: Iterable[Float[Tensor, "b c h w"]]
    ) -> Iterator[HeadOutput]:
        """What comes after position attention, for each of `positions` in place of what it gave."""
        return map(self.classify, positions)


class DilatedHead(nn.Module):
    """DeepLab V2's classifiers, straight on the backbone's map; it has no width of its own."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__()
        self.classifier = DilatedClassifiers(in_channels, num_classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "b c h w"]]) -> HeadOutput:
        return HeadOutput(self.classifier(maps[-1]), {})


class FCNHead(nn.Module):
    """`depth` convolutions and a classifier: with 2 one branch without its attention, with 1 the auxiliary head."""

    def __init__(self, in_channels: int, num_classes: int, channels: int, dropout: float = 0.1, depth: int = 2) -> None:
        super().__init__()
        widths = [in_channels, *[channels] * depth]
        self.layers = nn.Sequential(*(ConvNormAct(before, after) for before, after in pairwise(widths)))
        self.classifier = Classifier(channels, num_classes, dropout)

    def forward(self, maps: Sequence[Float[Tensor, "b c h w"]]) -> HeadOutput:
        return HeadOutput(self.classifier(self.layers(maps[-1])), {})


def create_head(config: ModelConfig, widths: Sequence[int]) -> nn.Module:
    """The head on maps of `widths` channels; its own width is a quarter of the last, if nobody says otherwise."""
    last, classes, dropout = widths[-1], config.num_classes, config.dropout
    width = config.channels or max(last // 4, 1)
    match config.head:
        case "danet":
            return DANetHead(last, classes, width, dropout, config.channel_rule)
        case "dranet":
            return DRANetHead(last, widths[0], classes, width, dropout, config.channel_rule)
        case "pam":
            return ContextHead(last, classes, width, PositionAttention, dropout)
        case "cam":
            return ContextHead(last, classes, width, lambda _: ChannelAttention(config.channel_rule), dropout)
        case "se":
            return ContextHead(last, classes, width, SqueezeExcitation, dropout)
        case "self_attention":
            return ContextHead(last, classes, width, SelfAttention, dropout)
        case "aspp":
            return DilatedHead(last, classes, dropout)
        case "fcn":
            return FCNHead(last, classes, width, dropout)
