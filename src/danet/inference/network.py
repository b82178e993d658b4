"""A network made ready for inference: the same function, less to compute, nothing to train.

docs/performance.md has what each step brings.
"""

import copy
from collections.abc import Iterator
from typing import cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from danet.models.layers import ConvNormAct
from danet.models.segmentation import SegmentationModel

# Input channels whose rows a core's cache still holds under a 3×3 kernel.
GROUP = 512


def ready(model: SegmentationModel, device: torch.device) -> SegmentationModel:
    """A frozen copy of `model` in eval mode on `device`, channels last, each BatchNorm folded into its convolution.

    On CPU the heads' 3×3 convolutions of many channels become sums over groups of these.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for convolution, norm in list(_with_norm(model)):
        layers = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(map(model.get_submodule, (convolution, norm))))
        model.set_submodule(convolution, fuse_conv_bn_eval(*layers))
        model.set_submodule(norm, nn.Identity())
    if device.type == "cpu":
        for layer in model.modules():
            if isinstance(layer, ConvNormAct) and layer.conv.kernel_size == (3, 3) and layer.conv.in_channels > GROUP:
                layer.conv = GroupSum(layer.conv)  # pyright: ignore[reportAttributeAccessIssue]
    return model.to(device).to(memory_format=torch.channels_last)


class GroupSum(nn.Module):
    """The 3×3 convolution of a ConvNormAct as the sum of convolutions of `GROUP` input channels each."""

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weights = nn.ParameterList(
            nn.Parameter(weight.contiguous(), requires_grad=False) for weight in convolution.weight.split(GROUP, dim=1)
        )
        self.bias = convolution.bias

    def forward(self, features: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        groups = features.split(GROUP, dim=1)
        total = F.conv2d(groups[0], self.weights[0], self.bias, padding=1)
        for group, weight in list(zip(groups, self.weights, strict=True))[1:]:
            total += F.conv2d(group, weight, padding=1)
        return total


def _with_norm(model: SegmentationModel) -> Iterator[tuple[str, str]]:
    """The names of each convolution that feeds a BatchNorm and nothing else, and of that BatchNorm."""
    for name, layer in model.named_modules():
        if isinstance(layer, ConvNormAct):
            yield f"{name}.conv", f"{name}.norm"
    try:
        traced = fx.symbolic_trace(model.backbone)
    except Exception:  # whatever a foreign network does in its forward: unfolded it is as right, and a little slower
        return
    layers = dict(traced.named_modules())
    calls = {node: str(node.target) for node in traced.graph.nodes if node.op == "call_module"}
    for node, norm in calls.items():
        source = node.args[0]
        convolution = calls.get(source) if isinstance(source, fx.Node) and len(source.users) == 1 else None
        if convolution and type(layers[convolution]) is nn.Conv2d and type(layers[norm]) is nn.BatchNorm2d:
            yield f"backbone.{convolution}", f"backbone.{norm}"
