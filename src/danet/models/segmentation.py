"""The whole network: backbone, head, and logits at the input's own size."""

from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from danet.config import SMALLEST_SIDE, Head, ModelConfig, validate
from danet.errors import InputError
from danet.models.attention import BranchTrace
from danet.models.backbone import create_backbone, feature_widths
from danet.models.heads import BranchHead, DANetHead, FCNHead, HeadOutput
from danet.models.layers import resize


class SegmentationOutput(NamedTuple):
    """What every model returns: `logits` at the input's size; the rest, for training, at the features' size."""

    logits: Float[Tensor, "b k H W"]
    branches: dict[str, Float[Tensor, "b k h w"]]
    auxiliary: Float[Tensor, "b k h w"] | None


class SegmentationModel(nn.Module):
    """Images (B×C×H×W, normalised, each side at least 32) to a SegmentationOutput."""

    def __init__(
        self, backbone: nn.Module, head: nn.Module, auxiliary: FCNHead | None = None, align_corners: bool = False
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head
        self.auxiliary = auxiliary
        self.align_corners = align_corners

    def forward(self, images: Float[Tensor, "b c H W"]) -> SegmentationOutput:
        features = self.extract(images)
        return self.assemble(images, features, self.head(features[-1]))

    def trace(self, images: Float[Tensor, "b c H W"]) -> tuple[SegmentationOutput, dict[str, BranchTrace]]:
        """`forward`, and for each attention branch what its map follows from; empty for heads without attention."""
        features = self.extract(images)
        trace = getattr(self.head, "trace", None)
        output, traces = trace(features[-1]) if trace else (self.head(features[-1]), {})
        return self.assemble(images, features, output), traces

    def without(
        self, traces: dict[str, BranchTrace], removed: Bool[Tensor, " n"], size: torch.Size
    ) -> Float[Tensor, "b k H W"]:
        """The logits of what was traced, at `size`, as if no place could look at the places `removed`.

        It runs what comes after the features A alone, and is for heads with position attention.
        """
        logits = cast(DANetHead | BranchHead, self.head).without(traces, removed).logits
        return resize(logits, size, self.align_corners)

    def extract(self, images: Float[Tensor, "b c H W"]) -> list[Float[Tensor, "b c h w"]]:
        """The backbone's feature maps; too small an input would lose all of its places."""
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            size = "×".join(str(side) for side in images.shape[-2:])
            raise InputError(
                f"The input is {size} pixels; each side must be at least {SMALLEST_SIDE}: enlarge it first."
            )
        return self.backbone(images)

    def assemble(
        self, images: Float[Tensor, "b c H W"], features: list[Float[Tensor, "b c h w"]], head: HeadOutput
    ) -> SegmentationOutput:
        """The head's output with its logits at the images' size, and the auxiliary head's while training."""
        auxiliary = self.auxiliary(features[-2]).logits if self.auxiliary is not None and self.training else None
        return SegmentationOutput(resize(head.logits, images.shape[-2:], self.align_corners), head.branches, auxiliary)


def create_model(
    head: Head = "danet", backbone: str = "resnet50", num_classes: int = 19, **settings: Any
) -> SegmentationModel:
    """A segmentation network by name; `settings` are the other fields of danet.config.ModelConfig, which explains them.

    Raises InputError for an unknown setting, and for a backbone, stride or multi-grid that does not exist.
    """
    values = {"head": head, "backbone": backbone, "num_classes": num_classes, **settings}
    return build_model(validate(ModelConfig, values, "create_model"))


def build_model(config: ModelConfig) -> SegmentationModel:
    """The network that `config` describes; raises InputError as `create_model` does."""
    backbone = create_backbone(
        config.backbone,
        in_channels=config.in_channels,
        output_stride=config.output_stride,
        multi_grid=config.multi_grid,
        out_indices=config.out_indices,
        pretrained=config.pretrained,
    )
    widths = feature_widths(backbone)
    auxiliary = None
    if config.auxiliary:
        if len(widths) < 2:
            raise InputError(
                f"An auxiliary head needs two feature maps; model.out_indices is {config.out_indices}: add one."
            )
        auxiliary = FCNHead(widths[-2], config.num_classes, max(widths[-2] // 4, 1), config.dropout, depth=1)
    return SegmentationModel(backbone, build_head(config, widths[-1]), auxiliary, config.align_corners)


def build_head(config: ModelConfig, in_channels: int) -> nn.Module:
    """The head on feature maps of `in_channels`; its width is a quarter of them, if nobody says otherwise."""
    width = config.channels or max(in_channels // 4, 1)
    match config.head:
        case "danet":
            return DANetHead(in_channels, config.num_classes, width, config.dropout, config.channel_rule)
        case "pam":
            return BranchHead(in_channels, config.num_classes, width, "position", config.dropout)
        case "cam":
            return BranchHead(in_channels, config.num_classes, width, "channel", config.dropout, config.channel_rule)
        case "fcn":
            return FCNHead(in_channels, config.num_classes, width, config.dropout)
