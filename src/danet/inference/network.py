"""A network made ready for inference: the same function, less to compute, nothing to train.

docs/performance.md has what each step brings.
"""

import copy
from collections.abc import Iterator
from typing import cast

import torch
from torch import fx, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from danet.models.convolution import QuickConvolution, quicken
from danet.models.layers import ConvNormAct
from danet.models.segmentation import SegmentationModel


def ready(model: SegmentationModel, device: torch.device) -> SegmentationModel:
    """A frozen copy of `model` in eval mode on `device`, channels last, each BatchNorm folded into its convolution.

    On CPU 3×3 convolutions of many channels take the fastest way that there is.
    """
    model = copy.deepcopy(model).eval().requires_grad_(False)
    for convolution, norm in list(_with_norm(model)):
        layers = cast(tuple[nn.Conv2d, nn.BatchNorm2d], tuple(map(model.get_submodule, (convolution, norm))))
        model.set_submodule(convolution, fuse_conv_bn_eval(*layers))
        model.set_submodule(norm, nn.Identity())
    if device.type == "cpu":
        quicken(model)
    return model.to(device).to(memory_format=torch.channels_last)


def _with_norm(model: SegmentationModel) -> Iterator[tuple[str, str]]:
    """The names of each convolution that feeds a BatchNorm and nothing else, and of that BatchNorm."""
    for name, layer in model.named_modules():
        if isinstance(layer, ConvNormAct):
            yield f"{name}.conv", f"{name}.norm"
    try:
        graph = _Tracer().trace(model.backbone)
    except Exception:  # whatever a foreign network does in its forward: unfolded it is as right, and a little slower
        return
    layers = dict(model.backbone.named_modules())
    calls = {node: str(node.target) for node in graph.nodes if node.op == "call_module"}
    for node, norm in calls.items():
        source = node.args[0]
        convolution = calls.get(source) if isinstance(source, fx.Node) and len(source.users) == 1 else None
        plain = convolution and type(layers[convolution]) in (nn.Conv2d, QuickConvolution)
        if plain and type(layers[norm]) is nn.BatchNorm2d:
            yield f"backbone.{convolution}", f"backbone.{norm}"


class _Tracer(fx.Tracer):
    """Does not look into a convolution that was quickened for training."""

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return isinstance(m, QuickConvolution) or super().is_leaf_module(m, module_qualified_name)
