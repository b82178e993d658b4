"""What happens to samples on their way to the network: varied together with their masks, batched, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Int64, Num
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from danet.data.dataset import Sample
from danet.data.labels import IGNORE_INDEX


def training_transform(
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.5,
    photometric: float = 0.0,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    span: tuple[float, float] = (0, 255),
    rgb: Sequence[int] = (0, 1, 2),
) -> v2.Transform:
    """Random scale, crop, flip and light: (image, mask) of any size → (image, mask) of `crop` (height, width).

    scale: bounds of the factor, drawn uniformly; flip: probability; photometric: strength in 0 … 1 of brightness,
    contrast and saturation (hue: a quarter of it) of the channels `rgb`; mean: the padding's colour, in 0 … 1; span:
    the values that are 0 and 1.
    """
    steps: list[v2.Transform] = [ScaledCrop(crop, scale, mean, span), v2.RandomHorizontalFlip(flip)]
    if photometric and rgb:
        steps.append(ChannelJitter((photometric, photometric, photometric, photometric / 4), span, rgb))
    return v2.Compose(steps)


class ScaledCrop(v2.Transform):
    """A window of `size` (height, width) at a random place of the randomly scaled image.

    The scaled image is never made: the window's part of the original is cut out and resized, bilinear with antialias
    (masks: nearest). Where the window is larger than the image, it shows all of it at a random place, padded with the
    mean colour (masks: IGNORE_INDEX).
    """

    def __init__(
        self, size: tuple[int, int], scale: tuple[float, float], mean: Sequence[float], span: tuple[float, float]
    ) -> None:
        super().__init__()
        self.size, self.scale = size, scale
        self.fill = [span[0] + (span[1] - span[0]) * value for value in mean]

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """The window along both axes."""
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        height, width = v2.query_size(flat_inputs)
        return {"rows": _window(height, self.size[0], factor), "columns": _window(width, self.size[1], factor)}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """`inpt` (an Image or a Mask) in the window."""
        rows, columns = params["rows"], params["columns"]
        part = inpt[..., rows.start : rows.stop, columns.start : columns.stop]  # a plain tensor, as all that follows
        size, padding = [rows.shown, columns.shown], [columns.before, rows.before, columns.after, rows.after]
        if isinstance(inpt, tv_tensors.Mask):
            shown = F.resize(part[None], size, InterpolationMode.NEAREST_EXACT)
            return tv_tensors.Mask(F.pad(shown, padding, fill=IGNORE_INDEX)[0])
        shown = F.resize(part, size, InterpolationMode.BILINEAR, antialias=True)
        fill = self.fill if shown.is_floating_point() else [float(round(value)) for value in self.fill]
        return tv_tensors.Image(F.pad(shown, padding, fill=fill))


class ChannelJitter(v2.ColorJitter):
    """ColorJitter of the three channels `rgb` of images whose `span` is 0 … 1 to it; the others stay as they are.

    strength: of brightness, contrast, saturation and hue. What it varies ends within the span.
    """

    def __init__(
        self, strength: tuple[float, float, float, float], span: tuple[float, float], rgb: Sequence[int]
    ) -> None:
        super().__init__(*strength)
        self.span, self.rgb = span, list(rgb)

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """`inpt` (an Image or a Mask), varied."""
        if isinstance(inpt, tv_tensors.Mask):
            return inpt
        low, high = self.span
        image = inpt.as_subclass(Tensor).clone()
        colour = image[self.rgb]
        if colour.is_floating_point():
            varied = super().transform(tv_tensors.Image((colour - low) / (high - low)), params)
            image[self.rgb] = varied.as_subclass(Tensor) * (high - low) + low
        else:
            image[self.rgb] = super().transform(tv_tensors.Image(colour), params).as_subclass(Tensor)
        return tv_tensors.Image(image)


class _Window(NamedTuple):
    """Along one axis: the part [start, stop) of the original, the pixels that show it, the padding on both sides."""

    start: int
    stop: int
    shown: int
    before: int = 0
    after: int = 0


def _window(length: int, wanted: int, factor: float) -> _Window:
    """A random window of `wanted` pixels on an axis of `length` pixels that is scaled by `factor`."""
    needed = max(1, round(wanted / factor))
    if needed <= length:
        start = int(torch.randint(length - needed + 1, ()))
        return _Window(start, start + needed, wanted)
    shown = min(wanted, max(1, round(length * factor)))
    before = int(torch.randint(wanted - shown + 1, ()))
    return _Window(0, length, shown, before, wanted - shown - before)


def collate(samples: Sequence[Sample]) -> tuple[Num[Tensor, "b c h w"], Int64[Tensor, "b h w"], list[str]]:
    """Samples of one size as a batch: images, masks and names."""
    images = torch.stack([sample.image.as_subclass(Tensor) for sample in samples])
    masks = torch.stack([sample.mask.as_subclass(Tensor) for sample in samples])
    return images, masks.long(), [sample.name for sample in samples]


def normalise(
    images: Num[Tensor, "b c h w"],
    mean: Sequence[float],
    std: Sequence[float],
    span: tuple[float, float] = (0, 255),
) -> Float32[Tensor, "b c h w"]:
    """((images − low) / (high − low) − mean) / std over the span (low, high): float32, channels last in memory."""
    low, high = span
    offset = torch.tensor(mean, device=images.device).view(-1, 1, 1)
    spread = torch.tensor(std, device=images.device).view(-1, 1, 1)
    pixels = images.to(torch.float32, copy=True, memory_format=torch.channels_last)
    return pixels.sub_(low + (high - low) * offset).div_((high - low) * spread)
