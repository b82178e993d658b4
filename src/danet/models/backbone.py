"""timm backbones as feature extractors with a chosen output stride; the only file that knows timm.

timm's networks differ in what they take: some can be dilated, some have one stride of their own; some round odd sizes
up, others down, others take multiples of a patch alone. So each is first examined as a skeleton without weights
(`examine`), then built (`create_backbone`), and run so that every map has a place for each cell of the image begun.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, cast
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import timm
import torch
import torch.nn.functional as F
from huggingface_hub import constants
from jaxtyping import Float
from timm.layers.norm_act import convert_sync_batchnorm
from timm.models import FeatureInfo
from timm.models.resnest import ResNestBottleneck
from timm.models.resnet import BasicBlock, Bottleneck
from torch import Tensor, nn

from danet.config import nearest
from danet.errors import InputError
from danet.models.layers import resize

STRIDE = 8
"""What a network is dilated to unless told otherwise (paper, section 3.1)."""
FINE = 4
"""The smallest reduction of the fine map that a decoder joins."""


@dataclass(frozen=True)
class Anatomy:
    """What a backbone takes and gives, and how timm builds it.

    A place of a map covers reduction × reduction pixels. Inputs are padded to multiples of `step` on the right and
    below; a step of 1 is for networks that round odd sizes up themselves.
    """

    name: str
    options: dict[str, Any]
    in_channels: int
    indices: tuple[int, ...]
    """timm's numbers of the maps that the network computes, ascending."""
    picks: tuple[int, ...]
    """Which of these it gives, in the order asked for."""
    widths: tuple[int, ...]
    reductions: tuple[int, ...]
    step: int
    channels_last: bool

    def extract(self, backbone: nn.Module, images: Float[Tensor, "b c H W"]) -> list[Float[Tensor, "b c h w"]]:
        """The maps asked for, each ⌈H / reduction⌉×⌈W / reduction⌉."""
        height, width = images.shape[-2:]
        if self.step > 1:
            below, right = (cells(side, self.step) * self.step - side for side in (height, width))
            images = F.pad(images, (0, right, 0, below))
        maps = [self.channels_first(features) for features in backbone(images)]
        picked = zip((maps[pick] for pick in self.picks), self.reductions, strict=True)
        return [features[..., : cells(height, cell), : cells(width, cell)] for features, cell in picked]

    def enlarge(
        self, logits: Float[Tensor, "b k h w"], size: torch.Size, align_corners: bool
    ) -> Float[Tensor, "b k H W"]:
        """Logits at the size of one of the maps, at the image's `size`; what lies in the padding is cut off."""
        if self.step == 1:
            return resize(logits, size, align_corners)
        (rows, columns), (height, width) = logits.shape[-2:], size
        cell = next(cell for cell in sorted(self.reductions) if rows * cell >= height)
        return resize(logits, torch.Size((rows * cell, columns * cell)), align_corners)[..., :height, :width]

    def span(self, size: torch.Size) -> tuple[float, float] | None:
        """Rows and columns of the last map's places that images of `size` take up, the last ones in part; None: all."""
        cell = self.reductions[-1]
        return (size[0] / cell, size[1] / cell) if self.step > 1 else None

    def channels_first(self, features: Tensor) -> Float[Tensor, "b c h w"]:
        """A map of the network in torch's order."""
        return features.permute(0, 3, 1, 2) if self.channels_last else features


@cache
def examine(
    name: str,
    *,
    in_channels: int = 3,
    output_stride: int | None = None,
    out_indices: tuple[int, ...] = (-2, -1),
    fine: bool = False,
) -> Anatomy:
    """The Anatomy of timm's network `name` that gives the maps `out_indices`, found on a skeleton without weights.

    `output_stride` is that of its last stage: by default 8 where it can be dilated, else its own. With `fine`, its
    finest map of reduction 4 at least comes before the others. Raises InputError for an unknown backbone, one without
    feature maps or for one image size alone, and for a stride or maps that it cannot give.
    """
    if not timm.is_model(name.split(".")[0]):
        raise InputError(f"model.backbone is {name!r}, which timm does not know. {_nearest_backbone(name)}")
    options, reductions, widths = _choose_options(name, in_channels, output_stride)
    count = len(reductions)
    if not all(-count <= index < count for index in out_indices):
        raise InputError(
            f"model.out_indices is {out_indices}, but {name} has {count} feature maps, of strides "
            f"{', '.join(map(str, reductions))}: give indices from 0 to {count - 1}."
        )
    asked = [index % count for index in out_indices]
    if asked != sorted(set(asked)):
        raise InputError(
            f"model.out_indices is {out_indices}; name each map once, the finest first: the last feeds the head."
        )
    if fine:
        asked.insert(0, next(index for index, cell in enumerate(reductions) if cell >= FINE))
    indices = tuple(sorted(set(asked)))
    skeleton = _skeleton(name, in_channels, options, indices)
    channels_last = getattr(skeleton, "output_fmt", "NCHW") == "NHWC"
    anatomy = Anatomy(
        name=name,
        options=options,
        in_channels=in_channels,
        indices=indices,
        picks=tuple(map(indices.index, asked)),
        widths=tuple(widths[index] for index in asked),
        reductions=tuple(reductions[index] for index in asked),
        step=1,
        channels_last=channels_last,
    )
    native = max(cast(Any, skeleton).pretrained_cfg["input_size"][1:])
    cell = max(anatomy.reductions)
    for step in (1, cell, 2 * cell, 4 * cell, 8 * cell, native):
        if _maps_are_whole(replace(anatomy, step=step), skeleton):
            return replace(anatomy, step=step)
    raise InputError(
        f"model.backbone {name} is made for images of {native}×{native} pixels; at other sizes its maps do not cover "
        "the image: use another, such as a ResNet."
    )


def create_backbone(anatomy: Anatomy, *, multi_grid: Sequence[int] = (), pretrained: bool | str = False) -> nn.Module:
    """The network that `anatomy` describes, with timm's names of parameters.

    `multi_grid` are dilations of a ResNet's last stage, one a block. `pretrained` weights are those that timm
    publishes, or a file of them. The first block of a dilated stage uses half its dilation, as the original's does.
    Raises InputError for a multi-grid that does not fit and for weights that cannot be had.
    """
    build = partial(
        timm.create_model,
        anatomy.name,
        features_only=True,
        out_indices=anatomy.indices,
        in_chans=anatomy.in_channels,
        **anatomy.options,
    )
    if isinstance(pretrained, str):
        backbone = _with_weights_of(pretrained, anatomy.name, build)
    else:
        try:
            with _asking_the_hub_once() if pretrained else nullcontext():
                backbone = build(pretrained=pretrained)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"The published weights of {anatomy.name} cannot be had ({_reason(error)}); go on without them by "
                "--model.pretrained false, or with a local file of them: --model.pretrained FILE."
            ) from None
    if multi_grid:
        _set_multi_grid(backbone, anatomy.name, multi_grid)
    return backbone


def synchronise_norms(network: nn.Module) -> nn.Module:
    """`network` with torch's SyncBatchNorm for its norms, also for those of timm's that hold their activation."""
    return convert_sync_batchnorm(network)


@contextmanager
def _asking_the_hub_once() -> Iterator[None]:
    """Where the Hub does not answer, only its cache is asked: its library would try twelve times, for 47 seconds."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or not _answers(constants.ENDPOINT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(url: str) -> bool:
    try:
        with urlopen(Request(url, method="HEAD"), timeout=5):
            return True
    except HTTPError:
        return True
    except OSError:
        return False


def _choose_options(
    name: str, in_channels: int, output_stride: int | None
) -> tuple[dict[str, Any], list[int], list[int]]:
    """The options with which timm builds the network at `output_stride`, and its maps' reductions and widths."""
    for options, infos in _variants(name, in_channels, (output_stride or STRIDE,)):
        reductions = [info["reduction"] for info in infos]
        if output_stride in (None, reductions[-1]):
            return options, reductions, [info["num_chs"] for info in infos]
    strides = sorted({infos[-1]["reduction"] for _, infos in _variants(name, in_channels, (8, 16, 32))})
    if not strides:
        try:
            _skeleton(name, in_channels, {}, (-1,))
        except Exception as error:
            raise InputError(
                f"timm gives no feature maps of model.backbone {name} for images of {in_channels} channels "
                f"({_reason(error)}): use another, such as a ResNet."
            ) from None
    choice = " or ".join(", ".join(map(str, strides)).rsplit(", ", 1))
    raise InputError(
        f"model.output_stride is {output_stride}, but {name} gives {choice}: set model.output_stride {choice}, or "
        "leave it out."
    )


def _variants(
    name: str, in_channels: int, strides: tuple[int, ...]
) -> Iterator[tuple[dict[str, Any], list[dict[str, Any]]]]:
    """The options that timm accepts for the network, and what it then says of each feature map."""
    for options in (*({"output_stride": stride} for stride in strides), {"dynamic_img_size": True}, {}):
        try:
            skeleton = _skeleton(name, in_channels, options, (-1,))
        except Exception:  # each family refuses what it does not know in its own way
            continue
        yield options, cast(FeatureInfo, skeleton.feature_info).info


def _skeleton(name: str, in_channels: int, options: dict[str, Any], indices: tuple[int, ...]) -> nn.Module:
    """The network without weights, which is built and run in a tenth of a second."""
    with torch.device("meta"):
        network = timm.create_model(name, features_only=True, out_indices=indices, in_chans=in_channels, **options)
    return network.eval()


def _maps_are_whole(anatomy: Anatomy, skeleton: nn.Module) -> bool:
    """Whether inputs whose sides are multiples of the anatomy's step give maps with a place for each cell, no more."""
    height, width = (2 * anatomy.step, 3 * anatomy.step) if anatomy.step > 1 else (65, 97)
    try:
        with torch.no_grad():
            maps = skeleton(torch.empty(1, anatomy.in_channels, height, width, device="meta"))
    except Exception:  # each family refuses sizes in its own way
        return False
    found = [tuple(anatomy.channels_first(maps[pick]).shape[1:]) for pick in anatomy.picks]
    return found == [
        (channels, cells(height, cell), cells(width, cell))
        for channels, cell in zip(anatomy.widths, anatomy.reductions, strict=True)
    ]


def cells(side: int, cell: int) -> int:
    """How many cells of `cell` pixels a side of `side` pixels begins."""
    return (side + cell - 1) // cell  # not -(-side // cell): ONNX rounds towards 0


def _with_weights_of(file: str, name: str, build: Callable[..., nn.Module]) -> nn.Module:
    """The network with the weights of a local file of timm's."""
    if not Path(file).is_file():
        raise InputError(
            f"model.pretrained is {file!r}, which is no file; give true, false, or a file of timm's weights."
        )
    with torch.device("meta"):
        whole = timm.create_model(name)
    known, classifier = whole.state_dict(), _classifier(whole)
    try:
        state = timm.models.load_state_dict(file)
        # timm is silent about what a file lacks or has too much; old files lack the norms' counters.
        lacking = [key for key in known if not (key in state or key.startswith(classifier) or key.endswith("_tracked"))]
        foreign = sorted(key for key in state if key not in known and not key.startswith(classifier))
        if lacking:
            raise InputError(f"lacks {len(lacking)} of the {len(known)} tensors of timm's {name}, such as {lacking[0]}")
        if foreign:
            raise InputError(f"has {len(foreign)} tensors that timm's {name} has not, such as {foreign[0]}")
        return build(pretrained=True, pretrained_cfg_overlay={"state_dict": state, "custom_load": False})
    except InputError as error:
        raise InputError(f"{file} {error}; give a file that fits.") from None
    except Exception as error:  # whatever torch, safetensors or timm say of a file that is none of theirs
        raise InputError(
            f"{file} holds no weights of timm's {name} ({_reason(error)}); give a file that fits."
        ) from None


def _classifier(network: nn.Module) -> tuple[str, ...]:
    """How the names of timm's own classifiers begin, which no feature map needs."""
    names = cast(Any, network).pretrained_cfg.get("classifier") or ()
    return tuple(f"{name}." for name in ([names] if isinstance(names, str) else names))


def _set_multi_grid(backbone: nn.Module, name: str, dilations: Sequence[int]) -> None:
    """Dilations of the last stage's 3×3 convolutions, one for each block (paper, section 4.2.2; timm has no option)."""
    stage = getattr(backbone, "layer4", None)
    if stage is None:
        raise InputError(f"model.multi_grid is for ResNets, and {name} has no layer4: leave it out.")
    if len(stage) != len(dilations):
        raise InputError(
            f"model.multi_grid is {tuple(dilations)}, but the last stage (layer4) of {name} has {len(stage)} blocks; "
            "give one dilation a block, or none."
        )
    if not all(isinstance(block, BasicBlock | Bottleneck | ResNestBottleneck) for block in stage):
        raise InputError(f"model.multi_grid is for ResNets; the blocks of {name} are others: leave it out.")
    for block, dilation in zip(stage, dilations, strict=True):
        for path, layer in block.named_modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (3, 3) and not path.startswith("downsample"):
                layer.dilation, layer.padding = (dilation, dilation), (dilation, dilation)


def _nearest_backbone(name: str) -> str:
    """timm has over a thousand networks: name the nearest, never list them."""
    hint = nearest(name, timm.list_models())
    return hint if hint.startswith("Did") else "`timm.list_models()` lists its networks."


def _reason(error: Exception) -> str:
    """The first sentence of what an error says."""
    return " ".join(str(error).split()).split(". ")[0].rstrip(".") or type(error).__name__
