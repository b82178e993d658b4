"""What happens to samples on their way to the network: varied together with their masks, batched, normalised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Float32, Int64, Num, UInt8
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from danet.data.dataset import Sample
from danet.data.labels import IGNORE_INDEX

MOST_DRAWS = 10
"""So often a crop is drawn at most, where one class may have no more than a share of it."""


def training_transform(
    crop: tuple[int, int],
    scale: tuple[float, float] = (1.0, 1.0),
    flip: float = 0.5,
    photometric: float = 0.0,
    mean: Sequence[float] = (0.485, 0.456, 0.406),
    span: tuple[float, float] = (0, 255),
    rgb: Sequence[int] = (0, 1, 2),
    max_class_share: float = 1.0,
) -> TrainingTransform:
    """Random scale, crop, flip and light: (image, mask) of any size → (image, mask) of `crop` (height, width).

    scale: bounds of the factor, drawn uniformly; flip: probability; photometric: strength in 0 … 1 of brightness,
    contrast and saturation (hue: a quarter of it) of the channels `rgb`; mean: the padding's colour, in 0 … 1; span:
    the values that are 0 and 1; max_class_share: as in ScaledCrop.
    """
    steps: list[v2.Transform] = [v2.RandomHorizontalFlip(flip)]
    if photometric and rgb:
        steps.append(ChannelJitter((photometric, photometric, photometric, photometric / 4), span, rgb))
    return TrainingTransform(ScaledCrop(crop, scale, mean, span, max_class_share), v2.Compose(steps))


class TrainingTransform(NamedTuple):
    """A crop, and what follows it."""

    crop: ScaledCrop
    then: v2.Transform

    def __call__(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask, focus: int | None = None
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """`image` and `mask`, varied together; focus: the class to which the crop's centre belongs."""
        return self.then(*self.crop(image, mask, focus))


class ScaledCrop:
    """A window of `size` (height, width) at a random place of the randomly scaled image.

    The scaled image is never made: the window's part of the original is cut out and resized, bilinear with antialias
    (masks: nearest). Where the window is larger than the image, it shows all of it at a random place, padded with the
    mean colour (masks: IGNORE_INDEX). With a `max_class_share` below 1, a window of whose labelled pixels one class has
    more than that, or that has none, is drawn again, at most MOST_DRAWS times in all; with 1 none is.
    """

    def __init__(
        self,
        size: tuple[int, int],
        scale: tuple[float, float],
        mean: Sequence[float],
        span: tuple[float, float],
        max_class_share: float = 1.0,
    ) -> None:
        self.size, self.scale, self.max_class_share = size, scale, max_class_share
        self.fill = [span[0] + (span[1] - span[0]) * value for value in mean]

    def __call__(
        self, image: tv_tensors.Image, mask: tv_tensors.Mask, focus: int | None = None
    ) -> tuple[tv_tensors.Image, tv_tensors.Mask]:
        """The same window of both; around a random pixel of the class `focus`, as far as the image reaches."""
        image, mask = image.as_subclass(Tensor), mask.as_subclass(Tensor)  # pyright: ignore[reportAssignmentType]
        places = None if focus is None else (mask == focus).nonzero()
        window = self._draw(mask, places)
        for _ in range(MOST_DRAWS - 1 if self.max_class_share < 1 else 0):
            if largest_share(_cut(mask, *window)) <= self.max_class_share:
                break
            window = self._draw(mask, places)
        rows, columns = window
        size, padding = [rows.shown, columns.shown], [columns.before, rows.before, columns.after, rows.after]
        shown = F.resize(_cut(image, *window), size, InterpolationMode.BILINEAR, antialias=True)
        fill = self.fill if shown.is_floating_point() else [float(round(value)) for value in self.fill]
        labels = F.resize(_cut(mask, *window)[None], size, InterpolationMode.NEAREST_EXACT)
        return (
            tv_tensors.Image(F.pad(shown, padding, fill=fill)),
            tv_tensors.Mask(F.pad(labels, padding, fill=IGNORE_INDEX)[0]),
        )

    def _draw(self, mask: UInt8[Tensor, "h w"], places: Int64[Tensor, "n 2"] | None) -> tuple[_Window, _Window]:
        """A window along both axes; its centre is one of `places`, where there are any."""
        low, high = self.scale
        factor = low + (high - low) * float(torch.rand(()))
        y, x = (None, None) if places is None or not len(places) else places[torch.randint(len(places), ())].tolist()
        height, width = mask.shape
        return _window(height, self.size[0], factor, y), _window(width, self.size[1], factor, x)


def largest_share(mask: UInt8[Tensor, "h w"]) -> float:
    """The commonest class's share of a mask's labelled pixels; 1 where none is labelled."""
    counts = torch.bincount(mask.flatten(), minlength=IGNORE_INDEX + 1)[:IGNORE_INDEX]
    return float(counts.max() / counts.sum()) if counts.any() else 1.0


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


def _window(length: int, wanted: int, factor: float, centre: int | None) -> _Window:
    """A window of `wanted` pixels, at random where no centre is, on an axis of `length` pixels scaled by `factor`."""
    needed = max(1, round(wanted / factor))
    if needed <= length:
        last = length - needed
        start = int(torch.randint(last + 1, ())) if centre is None else min(max(centre - needed // 2, 0), last)
        return _Window(start, start + needed, wanted)
    shown = min(wanted, max(1, round(length * factor)))
    before = int(torch.randint(wanted - shown + 1, ()))
    return _Window(0, length, shown, before, wanted - shown - before)


def _cut(pixels: Num[Tensor, "*c h w"], rows: _Window, columns: _Window) -> Num[Tensor, "*c y x"]:
    return pixels[..., rows.start : rows.stop, columns.start : columns.stop]


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
