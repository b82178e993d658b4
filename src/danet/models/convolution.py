"""3×3 convolutions by the fastest way that a CPU has to the same sums; docs/performance.md has what each brings."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from danet.ops.processor import AMX
from danet.ops.winograd import convolution_3x3, convolutions_3x3, fullness

GROUP = 512
"""Input channels whose rows a core's cache still holds under a 3×3 kernel."""
WIDE, TILES, FULL = 128, 128, 0.75
"""From so many channels in and out, tiles, and such a share of them inside the map, Winograd's algorithm is faster."""


def quicken(model: nn.Module) -> None:
    """Let the 3×3 convolutions of `model` take the fastest way; names, parameters and function stay the same."""
    for layer in model.modules():
        if (
            type(layer) is nn.Conv2d
            and (layer.kernel_size, layer.stride, layer.groups) == ((3, 3), (1, 1), 1)
            and layer.padding == layer.dilation
            and layer.dilation[0] == layer.dilation[1]
            and layer.padding_mode == "zeros"
            and min(layer.in_channels, layer.out_channels) >= WIDE
        ):
            layer.__class__ = QuickConvolution


def shared(features: Float[Tensor, "b c h w"], layers: Sequence[nn.Conv2d]) -> list[Float[Tensor, "b _ h w"]] | None:
    """What each of `layers` makes of the same features while they learn, with the tiles made once; None if that is no
    faster."""
    quick = [layer for layer in layers if isinstance(layer, QuickConvolution) and layer.dilation == layers[0].dilation]
    if len(quick) < len(layers) or not torch.is_grad_enabled() or not quick[0].by_winograd(features):
        return None
    maps = convolutions_3x3(features, [layer.weight for layer in quick], quick[0].dilation[0])
    return [layer.biased(sums) for layer, sums in zip(quick, maps, strict=True)]


class QuickConvolution(nn.Conv2d):
    """A 3×3 convolution that on a CPU goes by Winograd's algorithm in float32, where its map is large enough.

    Without a gradient, one of many channels that does not is the sum of convolutions of `GROUP` input channels each.
    """

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        if self.by_winograd(input):
            return self.biased(convolution_3x3(input, self.weight, self.dilation[0]))
        usual = input.device.type != "cpu" or torch.compiler.is_compiling() or torch.is_grad_enabled()
        # Where whole matrices are multiplied in lower precision, groups bring nothing in it.
        if usual or self.in_channels <= GROUP or (AMX and torch.is_autocast_enabled("cpu")):
            return super().forward(input)
        groups, weights = input.split(GROUP, 1), self.weight.split(GROUP, 1)
        total = F.conv2d(groups[0], weights[0].contiguous(), self.bias, 1, self.dilation, self.dilation)
        for group, weight in list(zip(groups, weights, strict=True))[1:]:
            total += F.conv2d(group, weight.contiguous(), None, 1, self.dilation, self.dilation)
        return total

    def by_winograd(self, input: Float[Tensor, "b c h w"]) -> bool:
        """Whether Winograd's algorithm is the faster way for `input`."""
        # In bfloat16, where the processor has that, the plain sum is as fast and more exact.
        if input.dtype != torch.float32 or input.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return False
        tiles, full = fullness(input.shape, self.dilation[0])
        return not torch.compiler.is_compiling() and tiles >= TILES and full >= FULL

    def biased(self, sums: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
        """The sums with the bias, if there is one."""
        return sums if self.bias is None else sums + self.bias.view(-1, 1, 1)
