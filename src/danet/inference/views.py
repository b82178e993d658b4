"""Views of one image, at several sizes and mirrored, and how their scores become one: what a Protocol asks for.

The authors' rule is that of junfu1115/DANet, encoding/models/sseg/base.py: in each window the logits of the mirrored
window are added and exp taken; that is averaged over windows and summed over sizes. mmsegmentation's are in
mmseg/models/segmentors/encoder_decoder.py (windows) and seg_tta.py (views).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
import torchvision.transforms.v2.functional as TF
from jaxtyping import Float, Num
from torch import Tensor

from danet.config import SMALLEST_SIDE
from danet.errors import InputError
from danet.inference.device import PIXELS
from danet.inference.protocol import Fusion, Protocol
from danet.inference.windows import Network, sweep
from danet.models.layers import resize

LEAST, LARGEST = -87.0, 80.0  # of a sum of logits: float32 holds exp of it, and the sum of some; beyond, classes tie


def network_size(height: int, width: int, longest: int | None) -> tuple[int, int]:
    """Height and width at which the network sees an image: its longest side at most `longest`, no side under 32."""
    if min(height, width) < SMALLEST_SIDE:
        raise InputError(f"The image is {width}×{height} pixels; each side must be at least {SMALLEST_SIDE}.")
    factor = min(1.0, (longest or max(height, width)) / max(height, width))
    return max(round(height * factor), SMALLEST_SIDE), max(round(width * factor), SMALLEST_SIDE)


def view_size(size: tuple[int, int], protocol: Protocol, scale: float, longest: int | None) -> tuple[int, int]:
    """Height and width of the view of an image of `size` at `scale`; longest: of the model's size rule."""
    height, width = network_size(*size, longest if protocol.size == "model" else None)
    if protocol.fit is not None:
        # as the authors round: the side that touches up, the other to the nearest
        fits = [math.ceil(side * scale) for side in protocol.fit]
        factor = min(fits[0] / max(size), fits[1] / min(size))
        height, width = (int(side * factor + 0.5) for side in size)
    elif scale != 1:
        height, width = (int(side * scale + 0.5) for side in (height, width))
    return max(height, SMALLEST_SIDE), max(width, SMALLEST_SIDE)


def resized(images: Num[Tensor, "1 c h w"], size: tuple[int, int], resample: str) -> Num[Tensor, "1 c H W"]:
    """File values at another size; but for aligned corners, whole numbers stay whole."""
    if images.shape[-2:] == size:
        return images
    if resample == "corners":
        return F.interpolate(images.float(), size, mode="bilinear", align_corners=True)
    return TF.resize(images, list(size), antialias=resample == "antialias")


def exponential(logits: Float[Tensor, "b k h w"]) -> Float[Tensor, "b k h w"]:
    """What the authors average and sum; finite, and never all 0."""
    return logits.clamp(LEAST, LARGEST).exp()


def fused(
    images: Num[Tensor, "1 c h w"],
    to_input: Callable[[Num[Tensor, "1 c H W"]], Float[Tensor, "1 c H W"]],
    network: Network,
    protocol: Protocol,
    *,
    longest: int | None = None,
    align_corners: bool = False,
    chosen: Sequence[int] = (),
    batch_pixels: int = PIXELS,
) -> tuple[Float[Tensor, "k h w"], Fusion]:
    """An image's scores at its own size, and what they are: the fusion's, but logits where there is a single view.

    to_input: file values to the network's input; network: to logits at its input's size; longest: the model's size
    rule; chosen: indices of the classes that count, none for all; batch_pixels: at most so many in one forward.
    """
    height, width = images.shape[-2:]
    size, sums_exp = torch.Size((height, width)), protocol.fusion == "exp"
    single = len(protocol.scales) == 1 and not protocol.flip
    fusion: Fusion = "logits" if single and not sums_exp else protocol.fusion
    black = to_input(torch.zeros_like(images[..., :1, :1])) if protocol.edge == "pad" else None

    def pair(inputs: Float[Tensor, "b c h w"]) -> tuple[Tensor, Tensor]:
        """The logits of `inputs` and of what they are mirrored, turned back."""
        sides = [inputs, inputs.flip(-1)]
        together = 2 * inputs[:, 0].numel() <= batch_pixels
        plain, mirrored = network(torch.cat(sides)).chunk(2) if together else map(network, sides)
        return plain, mirrored.flip(-1)

    def summed(inputs: Float[Tensor, "b c h w"]) -> Float[Tensor, "b k h w"]:
        plain, *mirrored = pair(inputs) if protocol.flip else (network(inputs),)
        return exponential(sum(mirrored, plain))

    def seen(inputs: Float[Tensor, "1 c h w"]) -> Iterator[Float[Tensor, "1 k h w"]]:
        """The scores of a view: of itself and of what it is mirrored, but where both are summed."""
        look = summed if sums_exp else network
        if protocol.crop is None:
            yield from pair(inputs) if protocol.flip and not sums_exp else (look(inputs),)
            return
        yield blended(inputs, look, protocol, black, batch_pixels)
        if protocol.flip and not sums_exp:
            yield blended(inputs.flip(-1), look, protocol, black, batch_pixels).flip(-1)

    total, views = None, 0
    for scale in protocol.scales:
        inputs = to_input(resized(images, view_size((height, width), protocol, scale, longest), protocol.resample))
        for scores in seen(inputs):
            scores = scores if scores.shape[-2:] == size else resize(scores, size, align_corners)
            if chosen:
                others = [index for index in range(scores.shape[1]) if index not in chosen]
                scores[:, others] = 0 if sums_exp else -torch.inf
            if fusion == "probabilities":
                scores = scores.softmax(1)
            total, views = scores if total is None else total.add_(scores), views + 1
    assert total is not None
    return total[0] if views == 1 else total[0].div_(views), fusion


def blended(
    inputs: Float[Tensor, "1 c h w"],
    network: Network,
    protocol: Protocol,
    black: Float[Tensor, "1 c 1 1"] | None,
    batch_pixels: int = PIXELS,
) -> Float[Tensor, "1 k h w"]:
    """The scores of sliding windows, at the input's size; black: what lies beyond it, where `protocol.edge` is pad."""
    height, width = inputs.shape[-2:]

    def read(top: int, left: int, rows: int, columns: int) -> Float[Tensor, "1 c h w"]:
        window = inputs[..., top : top + rows, left : left + columns]
        if black is None or window.shape[-2:] == (rows, columns):
            return window
        filled = black.repeat(1, 1, rows, columns)
        filled[..., : window.shape[-2], : window.shape[-1]] = window
        return filled

    whole: Tensor | None = None
    for top, left, scores in sweep(read, network, (height, width), protocol, batch_pixels=batch_pixels):
        if whole is None:
            whole = scores.new_empty(1, len(scores), height, width)
        whole[0, :, top : top + scores.shape[1], left : left + scores.shape[2]] = scores
    assert whole is not None
    return whole
