"""The layers that every head is made of."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from danet.models.convolution import shared


class ConvNormAct(nn.Sequential):
    """Convolution (3×3 or 1×1) → BatchNorm → ReLU, as before and after each attention module (paper, figure 2)."""

    conv: nn.Conv2d
    norm: nn.BatchNorm2d
    act: nn.ReLU

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int = 3) -> None:
        super().__init__()
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, bias=False)
        self.add_module("conv", convolution)
        self.add_module("norm", nn.BatchNorm2d(out_channels))
        self.add_module("act", nn.ReLU(inplace=True))


def side_by_side(features: Float[Tensor, "b c h w"], *layers: ConvNormAct) -> list[Float[Tensor, "b _ h w"]]:
    """What each of `layers` makes of the same features; while they learn on a CPU, their convolutions share work."""
    maps = shared(features, [layer.conv for layer in layers])
    if maps is None:
        return [layer(features) for layer in layers]
    return [layer.act(layer.norm(found)) for layer, found in zip(layers, maps, strict=True)]


class Classifier(nn.Conv2d):
    """Dropout of whole channels, then a 1×1 convolution to class logits."""

    def __init__(self, in_channels: int, num_classes: int, dropout: float = 0.1) -> None:
        super().__init__(in_channels, num_classes, 1)
        self.dropout = dropout

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        return super().forward(F.dropout2d(input, self.dropout, self.training))


def resize(logits: Float[Tensor, "b k h w"], size: torch.Size, align_corners: bool) -> Float[Tensor, "b k H W"]:
    """Logits (never labels) at another size, bilinear, in float32 at least: it runs once, just before the argmax."""
    precise = logits if logits.dtype == torch.float64 else logits.float()
    if precise.requires_grad and precise.device.type == "cpu" and not torch.compiler.is_compiling():
        return by_products(precise, size, align_corners)
    return F.interpolate(precise, size=size, mode="bilinear", align_corners=align_corners)


def by_products(logits: Float[Tensor, "b k h w"], size: torch.Size, align_corners: bool) -> Float[Tensor, "b k H W"]:
    """The same as R logits Cᵀ, a matrix for rows and one for columns: there and back several times faster on a CPU."""

    def matrix(side: int, length: int) -> Float[Tensor, "length side"]:
        unit = torch.eye(side, dtype=logits.dtype)[None]
        return F.interpolate(unit, size=length, mode="linear", align_corners=align_corners)[0].mT

    rows, columns = map(matrix, logits.shape[-2:], size)
    return rows @ (logits @ columns.mT)
