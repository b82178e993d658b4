"""The ResNets that published checkpoints are built on, and how their tensors tell which one it is."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from danet.errors import InputError


class ResNet(NamedTuple):
    """What tells timm's ResNets apart: blocks a stage, the stem's widths, and the shape of the first 3×3 convolution in
    a block; basic blocks have two of those, bottlenecks one."""

    blocks: tuple[int, ...]
    stem: tuple[int, ...]
    shape: tuple[int, int]
    basic: bool = False

    @property
    def depth(self) -> int:
        """The number in its name: convolutions of all blocks, the stem's and the classifier."""
        return sum(self.blocks) * (2 if self.basic else 3) + 2


PLAIN, DEEP, WIDE = (64,), (32, 64), (64, 128)
RESNETS = {
    "resnet18": ResNet((2, 2, 2, 2), PLAIN, (64, 64), basic=True),
    "resnet34": ResNet((3, 4, 6, 3), PLAIN, (64, 64), basic=True),
    "resnet50": ResNet((3, 4, 6, 3), PLAIN, (64, 64)),
    "resnet101": ResNet((3, 4, 23, 3), PLAIN, (64, 64)),
    "resnet152": ResNet((3, 8, 36, 3), PLAIN, (64, 64)),
    "resnet50c": ResNet((3, 4, 6, 3), DEEP, (64, 64)),
    "resnet101c": ResNet((3, 4, 23, 3), DEEP, (64, 64)),
    "resnet152c": ResNet((3, 8, 36, 3), DEEP, (64, 64)),
    "resnet50s": ResNet((3, 4, 6, 3), WIDE, (64, 64)),
    "resnet101s": ResNet((3, 4, 23, 3), WIDE, (64, 64)),
    "resnet152s": ResNet((3, 8, 36, 3), WIDE, (64, 64)),
    "resnext50_32x4d": ResNet((3, 4, 6, 3), PLAIN, (128, 4)),
    "resnext101_32x4d": ResNet((3, 4, 23, 3), PLAIN, (128, 4)),
    "resnext101_32x8d": ResNet((3, 4, 23, 3), PLAIN, (256, 8)),
}
"""By timm's names."""


def find_resnet(weights: Mapping[str, Tensor], path: Path) -> str:
    """The timm ResNet whose weights these are."""
    for part, what in {
        "conv2.conv.": "split attention, as ResNeSt has it",
        "downsample.2.": "pooled shortcuts (variant d), which timm pools differently where it dilates",
    }.items():
        if any(name.startswith("backbone.layer") and f".{part}" in name for name in weights):
            raise InputError(f"{path}: the backbone has {what}; danet converts plain ResNets and ResNeXts alone.")
    first = "backbone.layer1.0."
    basic = first + "conv3.weight" not in weights
    three = weights.get(first + ("conv1.weight" if basic else "conv2.weight"))
    if three is None or three.ndim != 4:
        raise InputError(f"{path} has no ResNet for a backbone; danet converts ResNets and ResNeXts alone.")
    stem = ("conv1.0", "conv1.6") if has_deep_stem(weights) else ("conv1",)
    kernels = [weights[name] for part in stem if (name := f"backbone.{part}.weight") in weights]
    widths = tuple(width for kernel in kernels for width in kernel.shape[:1])
    found = ResNet(_blocks(weights), widths, (three.shape[0], three.shape[1]), basic)
    for name, known in RESNETS.items():
        if known == found:
            return name
    raise InputError(
        f"{path}: no known backbone has {'basic' if basic else 'bottleneck'} blocks {found.blocks}, a stem of "
        f"{found.stem} and 3×3 convolutions of {found.shape}; danet converts {', '.join(RESNETS)}."
    )


def has_deep_stem(weights: Mapping[str, Tensor]) -> bool:
    """Whether three 3×3 convolutions stand for the first 7×7."""
    return "backbone.conv1.0.weight" in weights


def _blocks(weights: Mapping[str, Tensor]) -> tuple[int, ...]:
    """The number of blocks in each of the four stages."""
    found = {block[0] for name in weights if (block := re.match(r"backbone\.layer\d\.\d+\.", name))}
    return tuple(sum(block.startswith(f"backbone.layer{stage}.") for block in found) for stage in (1, 2, 3, 4))
