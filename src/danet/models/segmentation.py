"""The whole network: backbone, head, and logits at the input's own size."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from danet.errors import InputError
from danet.models.attention import BranchTrace
from danet.models.backbone import create_backbone
from danet.models.heads import BranchHead, DANetHead, FCNHead, HeadOutput
from danet.models.layers import resize

SMALLEST_SIDE = 32


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

    def extract(self, images: Float[Tensor, "b c H W"]) -> list[Float[Tensor, "b c h w"]]:
        """The backbone's feature maps; too small an input would lose all of its places."""
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            size = "×".join(str(side) for side in images.shape[-2:])
            raise InputError(f"The input is {size} pixels; each side must be at least {SMALLEST_SIDE}: enlarge it first.")
        return self.backbone(images)

    def assemble(
        self, images: Float[Tensor, "b c H W"], features: list[Float[Tensor, "b c h w"]], head: HeadOutput
    ) -> SegmentationOutput:
        """The head's output with its logits at the images' size, and the auxiliary head's while training."""
        auxiliary = self.auxiliary(features[-2]).logits if self.auxiliary is not None and self.training else None
        return SegmentationOutput(
            resize(head.logits, images.shape[-2:], self.align_corners), head.branches, auxiliary
        )


def create_model(
    head: Literal["danet", "pam", "cam", "fcn"] = "danet",
    backbone: str = "resnet50",
    num_classes: int = 19,
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    multi_grid: Sequence[int] = (),
    out_indices: Sequence[int] = (-2, -1),
    channels: int | None = None,
    auxiliary: bool = False,
    align_corners: bool = False,
    channel_rule: Literal["official", "paper"] = "official",
    dropout: float = 0.1,
    pretrained: bool = False,
) -> SegmentationModel:
    """A segmentation network by name; danet.config.ModelConfig explains the arguments.

    Raises InputError for a head, backbone, stride or multi-grid that does not exist.
    """
    body = create_backbone(
        backbone,
        in_channels=in_channels,
        output_stride=output_stride,
        multi_grid=multi_grid,
        out_indices=out_indices,
        pretrained=pretrained,
    )
    widths: list[int] = body.feature_info.channels()  # pyright: ignore[reportAttributeAccessIssue, reportCallIssue]
    width = channels or max(widths[-1] // 4, 1)
    match head:
        case "danet":
            top = DANetHead(widths[-1], num_classes, width, dropout, channel_rule)
        case "pam":
            top = BranchHead(widths[-1], num_classes, width, "position", dropout)
        case "cam":
            top = BranchHead(widths[-1], num_classes, width, "channel", dropout, channel_rule)
        case "fcn":
            top = FCNHead(widths[-1], num_classes, width, dropout)
        case _:
            raise InputError(f"head is {head!r}; it must be danet, pam, cam or fcn.")
    side = None
    if auxiliary:
        if len(widths) < 2:
            raise InputError(f"An auxiliary head needs two feature maps; out_indices is {tuple(out_indices)}: add one.")
        side = FCNHead(widths[-2], num_classes, max(widths[-2] // 4, 1), dropout, depth=1)
    return SegmentationModel(body, top, side, align_corners)
