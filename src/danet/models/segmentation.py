"""The whole network: backbone, head, and logits at the input's own size."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from danet.config import SMALLEST_SIDE, Head, ModelConfig, validate
from danet.errors import InputError
from danet.models.attention import Attention, BranchTrace, PositionAttention, places_to_map
from danet.models.backbone import Anatomy, create_backbone, examine
from danet.models.compact import CompactPositionAttention
from danet.models.heads import ContextHead, DANetHead, DRANetHead, FCNHead, HeadOutput, create_head


class SegmentationOutput(NamedTuple):
    """What every model returns: `logits` at the input's size; the rest, for training, at the features' size."""

    logits: Float[Tensor, "b k H W"]
    branches: dict[str, Float[Tensor, "b k h w"]]
    auxiliary: Float[Tensor, "b k h w"] | None


class SegmentationModel(nn.Module):
    """Images (B×C×H×W, normalised, each side at least 32) to a SegmentationOutput.

    Raises InputError for images of other channels or too few pixels, and for a batch too small to train on.
    """

    def __init__(
        self,
        backbone: nn.Module,
        anatomy: Anatomy,
        head: nn.Module,
        auxiliary: FCNHead | None = None,
        align_corners: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.anatomy = anatomy
        self.head = head
        self.auxiliary = auxiliary
        self.align_corners = align_corners

    def forward(self, images: Float[Tensor, "b c H W"]) -> SegmentationOutput:
        with _enough_for_norms(images):
            maps = self.extract(images)
            return self.assemble(images, maps, self.head(maps))

    def classify(self, images: Float[Tensor, "b c H W"]) -> dict[str, Float[Tensor, "b k h w"]]:
        """The logits of "fused", of each branch and of "auxiliary" at the features' size, for training."""
        with _enough_for_norms(images):
            maps = self.extract(images)
            head = self.head(maps)
            auxiliary = {"auxiliary": self.auxiliary(maps[:-1]).logits} if self.auxiliary is not None else {}
            return {"fused": head.logits, **head.branches, **auxiliary}

    def trace(self, images: Float[Tensor, "b c H W"]) -> tuple[SegmentationOutput, dict[str, BranchTrace]]:
        """`forward`, and for each attention branch what its map follows from; empty for heads without attention."""
        maps = self.extract(images)
        trace = getattr(self.head, "trace", None)
        output, traces = trace(maps) if trace else (self.head(maps), {})
        return self.assemble(images, maps, output), traces

    def without(
        self, traces: dict[str, BranchTrace], removed: Bool[Tensor, " n"], size: torch.Size
    ) -> Float[Tensor, "b k H W"]:
        """The logits of what was traced, at `size`, as if no place could look at the places `removed`.

        It runs what comes after the features A alone, and is for heads with position attention.
        """
        position = self._position.without(traces["position"].features, removed)
        return next(self._again(traces, [position], size))

    def again(
        self, traces: dict[str, BranchTrace], gathered: Iterable[Float[Tensor, "b n c"]], size: torch.Size
    ) -> Iterator[Float[Tensor, "b k H W"]]:
        """The logits of what was traced, at `size`, had position attention gathered each of `gathered` instead of E.

        It runs what comes after that alone, one after the other, and is for heads with position attention.
        """
        features, gate = traces["position"].features, self._position.gate
        positions = (features + gate * places_to_map(one, features) for one in gathered)
        return self._again(traces, positions, size)

    def _again(
        self, traces: dict[str, BranchTrace], positions: Iterable[Float[Tensor, "b c h w"]], size: torch.Size
    ) -> Iterator[Float[Tensor, "b k H W"]]:
        head = cast(DANetHead | DRANetHead | ContextHead, self.head)
        return (self.enlarge(output.logits, size) for output in head.again(traces, positions))

    @property
    def _position(self) -> PositionAttention | CompactPositionAttention:
        modules = (module for module in self.head.modules() if isinstance(module, Attention))
        return cast(PositionAttention, next(module for module in modules if module.branch == "position"))

    def enlarge(self, logits: Float[Tensor, "b k h w"], size: torch.Size) -> Float[Tensor, "b k H W"]:
        """Logits at the size of a feature map of images of `size`, at `size`."""
        return self.anatomy.enlarge(logits, size, self.align_corners)

    def extract(self, images: Float[Tensor, "b c H W"]) -> list[Float[Tensor, "b c h w"]]:
        """The backbone's feature maps; too small an input would lose all of its places."""
        if images.ndim != 4:
            raise InputError(f"The input is {_times(images.shape)}; a batch is images × channels × height × width.")
        if min(images.shape[-2:]) < SMALLEST_SIDE:
            raise InputError(
                f"The input is {_times(images.shape[-2:])} pixels; each side must be at least {SMALLEST_SIDE}: "
                "enlarge it first."
            )
        if (channels := images.shape[1]) != self.anatomy.in_channels:
            raise InputError(
                f"The images have {channels} channels; this network takes {self.anatomy.in_channels}: build it with "
                f"model.in_channels {channels}."
            )
        return self.anatomy.extract(self.backbone, images)

    def assemble(
        self, images: Float[Tensor, "b c H W"], maps: list[Float[Tensor, "b c h w"]], head: HeadOutput
    ) -> SegmentationOutput:
        """The head's output with its logits at the images' size, and the auxiliary head's while training."""
        auxiliary = self.auxiliary(maps[:-1]).logits if self.auxiliary is not None and self.training else None
        return SegmentationOutput(self.enlarge(head.logits, images.shape[-2:]), head.branches, auxiliary)


@contextmanager
def _enough_for_norms(images: Float[Tensor, "b c H W"]) -> Iterator[None]:
    """What torch's norms say of one value a channel, as after pooling a single image, in a person's words."""
    try:
        yield
    except ValueError as error:
        if not str(error).startswith("Expected more than 1 value per channel"):
            raise
        raise InputError(
            f"The batch is {len(images)} image of {_times(images.shape[-2:])} pixels, too little for this "
            "network's norms in training: use data.batch_size 2 or more, or eval mode."
        ) from None


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
    anatomy = examine(
        config.backbone,
        in_channels=config.in_channels,
        output_stride=config.output_stride,
        out_indices=config.out_indices,
        fine=config.head == "dranet",
    )
    if config.auxiliary and len(config.out_indices) < 2:
        raise InputError(
            f"An auxiliary head needs two feature maps; model.out_indices is {config.out_indices}: add one."
        )
    backbone = create_backbone(anatomy, multi_grid=config.multi_grid, pretrained=config.pretrained)
    auxiliary = None
    if config.auxiliary:
        width = anatomy.widths[-2]
        auxiliary = FCNHead(width, config.num_classes, max(width // 4, 1), config.dropout, depth=1)
    head = create_head(config, list(anatomy.widths))
    return SegmentationModel(backbone, anatomy, head, auxiliary, config.align_corners)


def _times(size: torch.Size) -> str:
    return "×".join(map(str, size))
