"""timm backbones as feature extractors with a chosen output stride; the only file that knows timm."""

from collections.abc import Sequence
from typing import cast

import timm
from timm.models import FeatureInfo
from torch import nn

from danet.config import nearest
from danet.errors import InputError


def create_backbone(
    name: str,
    *,
    in_channels: int = 3,
    output_stride: int = 8,
    multi_grid: Sequence[int] = (),
    out_indices: Sequence[int] = (-2, -1),
    pretrained: bool = False,
) -> nn.Module:
    """A timm network that returns the feature maps at `out_indices`, dilated beyond `output_stride`.

    Its `feature_info` tells each map's channels and reduction. Parameters keep timm's names. The first block of a
    dilated stage uses half its dilation, as the original's does. Raises InputError for an unknown backbone, stride or
    multi-grid.
    """
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"model.backbone is {name!r}, which timm does not know. {_nearest_backbone(name)}")
    try:
        backbone = timm.create_model(
            name,
            pretrained=pretrained,
            features_only=True,
            out_indices=tuple(out_indices),
            in_chans=in_channels,
            output_stride=output_stride,
        )
    except (AssertionError, TypeError, IndexError, NotImplementedError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"model.backbone {name} gives no feature maps {tuple(out_indices)} at output stride {output_stride} "
            f"({reason}); try output_stride 32, other out_indices, or a ResNet."
        ) from None
    except OSError as error:
        raise InputError(
            f"The published weights of {name} cannot be fetched ({type(error).__name__}); go on without them by "
            "--model.pretrained false."
        ) from None
    if multi_grid:
        _set_multi_grid(backbone, name, multi_grid)
    return backbone


def feature_widths(backbone: nn.Module) -> list[int]:
    """The channels of each feature map that `backbone` returns."""
    return cast(FeatureInfo, backbone.feature_info).channels()


def _set_multi_grid(backbone: nn.Module, name: str, dilations: Sequence[int]) -> None:
    """Dilations of the last stage's 3×3 convolutions, one for each block (paper, section 4.2.2; timm has no option)."""
    stage = getattr(backbone, "layer4", None)
    if stage is None or len(stage) != len(dilations):
        blocks = "no such stage" if stage is None else f"{len(stage)} blocks"
        raise InputError(
            f"model.multi_grid is {tuple(dilations)}, but the last stage (layer4) of {name} has {blocks}; "
            "give one dilation a block, or none."
        )
    for block, dilation in zip(stage, dilations, strict=True):
        for layer in block.modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3):
                layer.dilation, layer.padding = (dilation, dilation), (dilation, dilation)


def _nearest_backbone(name: str) -> str:
    """timm has over a thousand networks: name the nearest, never list them."""
    hint = nearest(name, timm.list_models())
    return hint if hint.startswith("Did") else "`timm.list_models()` lists its networks."
