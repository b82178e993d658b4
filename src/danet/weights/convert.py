"""Their checkpoints as bundles, and bundles as their checkpoints: strict, every tensor used or named.

What the tensors show is read off them: depth, stem, head, widths, classes, auxiliary head. Multi-grid, output stride
and align_corners are not in them, and wrong ones load in silence: they come from an option, from what lies beside the
weights, or from the layout, and are asked for where nothing tells.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from danet.config import Channels, ModelConfig, Preprocess, nearest, validate
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.files import sha256
from danet.models.segmentation import SegmentationModel, build_model
from danet.weights.bundle import Bundle
from danet.weights.checkpoint import Checkpoint, read_checkpoint
from danet.weights.configuration import STRIDES, read_configuration, read_name, write_configuration
from danet.weights.download import digest_in_name
from danet.weights.layouts import LAYOUTS, rename
from danet.weights.resnets import RESNETS, ResNet, find_resnet, has_deep_stem

PUBLISHED = {19: "cityscapes", 21: "voc", 150: "ade20k"}
"""The data sets that a number of classes stands for."""
SETTINGS = {
    "multi_grid": "--multi-grid 4,8,16 or none",
    "output_stride": "--output-stride 8",
    "align_corners": "--align-corners true or false",
}
"""What no tensor tells, and how to say it."""
ORIGINAL_SETTINGS = {"multi_grid": (4, 8, 16), "output_stride": 8, "align_corners": True}
LONGEST = {"cityscapes": 2048}
"""Data sets whose published networks saw larger images than our size rule lets through."""
_NOTE, _CONFIGURATION = "danet", "by the configuration in the file"
_META = ("classes", "palette")
_LAST = 4
"""The index of a ResNet's last stage; the stem's is 0."""
_LISTS = (list, tuple, np.ndarray)
_LEFT_OUT = "pretrained.fc."


def convert(
    path: str | Path,
    *,
    layout: str = "auto",
    labels: str | Path | LabelSpace | None = None,
    multi_grid: tuple[int, ...] | None = None,
    output_stride: int | None = None,
    align_corners: bool | None = None,
) -> Bundle:
    """The bundle of a published checkpoint, in eval mode and float32; its provenance says where each setting is from.

    layout: "original", "mmseg" or "auto"; labels: a packaged space's name, a YAML file or a space, by default what the
    file or its number of classes tells; the others override what the file tells. The weights may stay mapped from the
    file, so it must not be written to while the bundle is used. Raises InputError for a file that is no checkpoint, for
    a network that danet does not have, for a tensor that is missing, left over or of another shape, and for what
    nothing tells.
    """
    path = Path(path)
    checkpoint, digest = read_checkpoint(path), _digest(path)
    layout = find_layout(checkpoint.weights, layout, path)
    weights = {name: value for name, value in checkpoint.weights.items() if not name.startswith(_LEFT_OUT)}
    renamed = rename(weights, layout)
    facts = architecture(renamed, path)
    resnet = RESNETS[facts["backbone"]]
    told = _told(checkpoint, layout, resnet, path)
    given = {"multi_grid": multi_grid, "output_stride": output_stride, "align_corners": align_corners}
    settings = settle({"as asked for": given, **told}, path)
    config = validate(ModelConfig, facts | {name: value for name, (value, _) in settings.items()}, str(path))
    _check_settings(config, {name: origin for name, (_, origin) in settings.items()}, resnet, path)
    if layout == "mmseg":
        _refuse_dilated_basic(config, f"{path} is from mmsegmentation, which")
    space = find_labels(labels, checkpoint, config.num_classes, path)
    noted = {} if labels is not None and space.channels else _noted(checkpoint, "preprocess")
    preprocess = _preprocess(space, config.in_channels, noted, told.get(_CONFIGURATION, {}), path)
    with torch.device("meta"):  # nothing is filled with random numbers, only to be replaced
        model = build_model(config)
    load_strictly(model, weights, renamed, layout, path)
    left_out = [name for name in checkpoint.weights if name not in weights]
    provenance = {
        "converted from": path.name,
        "sha256": digest,
        "layout": layout,
        **{name: f"{_spelled(value)}, {origin}" for name, (value, origin) in settings.items()},
        **({"changed": "; ".join(checkpoint.changes)} if checkpoint.changes else {}),
        **({"left out": ", ".join(left_out)} if left_out else {}),
    }
    return Bundle(model.eval(), config, space, preprocess, {}, provenance)


def export(bundle: Bundle, layout: str) -> dict[str, Any]:
    """A bundle as a checkpoint of `layout`, from which `convert` gives the same model, labels and preprocessing again.

    Raises InputError for an unknown layout, and for a model that the layout cannot hold.
    """
    config, model, preprocess = bundle.model_config, bundle.model, bundle.preprocess
    # timm's tag tells which weights it began with, and nothing of the network.
    config = config.model_copy(update={"backbone": config.backbone.partition(".")[0]})
    state = model.state_dict()
    heads = ("danet", "dranet") if layout == "original" else ("danet",)
    usual = Preprocess()
    stages = [model.anatomy.indices[pick] for pick in model.anatomy.picks]
    reasons = {
        f"the head {config.head}": config.head not in heads,
        f"the backbone {config.backbone}": config.backbone not in RESNETS,
        "a head that is not on the last stage": config.backbone in RESNETS and stages[-1] != _LAST,
        "an auxiliary head that is not on the stage before the last": config.auxiliary and stages[-2] != _LAST - 1,
        "a single class": config.num_classes == 1,
        "the paper's channel rule": config.channel_rule != "official",
        f"values of the range {preprocess.range}": preprocess.range != usual.range,
        f"channels other than {', '.join(usual.names)}": preprocess.names != usual.names,
        "another normalisation than ImageNet's": layout == "original"
        and (preprocess.mean, preprocess.std) != (usual.mean, usual.std),
    }
    weights = rename(state, layout, reverse=True)
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise InputError(f"The layout {layout} cannot hold {reason}; keep the bundle, or take another layout.")
    stride = config.output_stride or model.anatomy.reductions[-1]
    config = config.model_copy(update={"output_stride": stride})
    note: dict[str, Any] = {"labels": bundle.labels.to_dict(), "preprocess": preprocess.model_dump(mode="json")}
    if layout == "original":
        return {"state_dict": weights, _NOTE: {name: getattr(config, name) for name in SETTINGS} | note}
    _refuse_dilated_basic(config, "The layout mmseg")
    meta = {
        "config": write_configuration(config, RESNETS[config.backbone], stride, preprocess),
        "CLASSES": bundle.labels.names,
        "PALETTE": [list(colour) for colour in bundle.labels.colours],
    }
    return {"state_dict": weights, "meta": meta, _NOTE: note}


def find_layout(weights: Mapping[str, Tensor], layout: str, path: Path) -> str:
    """`layout`, or for "auto" the one that the names of the weights tell."""
    if layout != "auto":
        if layout not in LAYOUTS:
            raise InputError(f"There is no layout {layout!r}. {nearest(layout, ['auto', *LAYOUTS])}")
        return layout
    if any(name.startswith("decode_head.") for name in weights):
        return "mmseg"
    if any(name.startswith(("head.conv5a.", "head.conv_cpam_b.")) for name in weights):
        return "original"
    raise InputError(
        f"{path} is no DANet or DRANet of the original repository or of mmsegmentation: its first tensor is "
        f"{next(iter(weights))}, and none begins with head.conv5a, head.conv_cpam_b or decode_head."
    )


def architecture(weights: Mapping[str, Tensor], path: Path) -> dict[str, Any]:
    """The fields of ModelConfig that weights under our names tell."""

    def shape(name: str) -> tuple[int, ...]:
        if name not in weights or weights[name].ndim < 2:
            raise InputError(
                f"{path} has nothing for {name}; it is no whole DANet or DRANet on a ResNet, or of the other layout."
            )
        return tuple(weights[name].shape)

    width, features = shape("head.position_in.conv.weight")[:2]
    classes = shape("head.classifier.weight")[0]
    if classes == 1:
        raise InputError(
            f"{path} has one output, a yes or no by a sigmoid; danet chooses among classes: train it with two."
        )
    return {
        "head": "dranet" if "head.fusion.conv.weight" in weights else "danet",
        "backbone": find_resnet(weights, path),
        "num_classes": classes,
        "in_channels": shape("backbone.conv1.0.weight" if has_deep_stem(weights) else "backbone.conv1.weight")[1],
        "channels": None if width == features // 4 else width,
        "auxiliary": "auxiliary.classifier.weight" in weights,
    }


def settle(sources: Mapping[str, Mapping[str, Any]], path: Path) -> dict[str, tuple[Any, str]]:
    """Each setting with its value and where that is from: the first source that tells."""
    settled = {}
    for name in SETTINGS:
        told = [(values[name], origin) for origin, values in sources.items() if values.get(name) is not None]
        if told:
            settled[name] = told[0]
    missing = [option for name, option in SETTINGS.items() if name not in settled]
    if missing:
        raise InputError(
            f"{path} does not tell all settings of its network, and wrong ones give wrong labels; say "
            f"{', '.join(missing)}."
        )
    return settled


def find_labels(
    labels: str | Path | LabelSpace | None, checkpoint: Checkpoint, num_classes: int, path: Path
) -> LabelSpace:
    """The label space that was given, or that the file names, or that the number of classes stands for."""
    meta = _mapping(checkpoint.beside.get("meta"))
    meta = _mapping(meta.get("dataset_meta")) or {"classes": meta.get("CLASSES"), "palette": meta.get("PALETTE")}
    classes, palette = (_list(meta.get(name)) for name in _META)
    published = LabelSpace.load(PUBLISHED[num_classes]) if num_classes in PUBLISHED else None
    if labels is not None:
        space = labels if isinstance(labels, LabelSpace) else LabelSpace.load(labels)
    elif noted := _noted(checkpoint, "labels"):
        space = LabelSpace.from_dict(noted, f"{path}, danet's note in it")
    elif classes:
        names = [str(name).strip() for name in classes]
        if published and published.names == tuple(names):
            return published
        colours = palette if len(palette) == len(names) else []
        space = LabelSpace.from_dict({"name": path.stem, "names": names, "colours": colours}, str(path))
    elif published:
        return published
    else:
        raise InputError(f"{path} has {num_classes} classes and does not name them; say --labels labels.yaml.")
    if space.num_classes != num_classes:
        raise InputError(
            f"The labels {space.name} have {space.num_classes} names, but {path} has {num_classes} classes; "
            "give its own with --labels."
        )
    return space


def load_strictly(
    model: SegmentationModel, weights: Mapping[str, Tensor], renamed: Mapping[str, Tensor], layout: str, path: Path
) -> None:
    """Make `renamed` the model's tensors; old files lack the norms' counters, which then start at 0.

    Raises InputError that names the first tensor, by the name in the file, that is missing, left over or of another
    shape, and counts the others.
    """
    wanted = model.state_dict()
    theirs = dict(zip(wanted, rename(wanted, layout, reverse=True), strict=True))
    counters = {name: torch.zeros((), dtype=torch.int64) for name in wanted if name.endswith(".num_batches_tracked")}
    found = counters | dict(renamed)
    faults = {
        "lacks": [theirs[name] for name in wanted if name not in found],
        "has a tensor too many,": [name for name, ours in zip(weights, renamed, strict=True) if ours not in wanted],
        "has a tensor of another shape,": [
            f"{theirs[name]} ({_sides(found[name])}, not {_sides(wanted[name])})"
            for name in wanted
            if name in found and found[name].shape != wanted[name].shape
        ],
    }
    for fault, names in faults.items():
        if names:
            more = f", and {len(names) - 1} more" if len(names) > 1 else ""
            raise InputError(
                f"{path} {fault} {names[0]}{more}; it is from another network than {layout}'s, or was altered: take "
                "the file that its training wrote."
            )
    model.load_state_dict(found, assign=True)


def _told(checkpoint: Checkpoint, layout: str, resnet: ResNet, path: Path) -> dict[str, Mapping[str, Any]]:
    """What tells the settings, by where it is from, the most reliable first."""
    note, meta = checkpoint.beside.get(_NOTE), _mapping(checkpoint.beside.get("meta"))
    told: dict[str, Mapping[str, Any]] = {"by danet's note in the file": _mapping(note)}
    if layout == "original":
        # the original has bottlenecks alone, so its settings tell nothing of a network with basic blocks
        return told if resnet.basic else told | {"as the original has it": ORIGINAL_SETTINGS}
    text = meta.get("config") or meta.get("cfg")
    if isinstance(text, str):
        told[_CONFIGURATION] = read_configuration(text, path)
    return told | {"by the file's name": read_name(path.name)}


def _noted(checkpoint: Checkpoint, part: str) -> dict[str, Any]:
    """A part of danet's note in the file; empty where there is none."""
    return dict(_mapping(_mapping(checkpoint.beside.get(_NOTE)).get(part)))


def _check_settings(config: ModelConfig, origins: Mapping[str, str], resnet: ResNet, path: Path) -> None:
    """Refuse what no ResNet of `resnet`'s blocks can be built with, in the words of the options."""
    if config.output_stride not in STRIDES:
        raise InputError(
            f"{path}: the output stride is {config.output_stride}, {origins['output_stride']}; it must be 8, 16 or 32: "
            "say it with --output-stride."
        )
    if config.multi_grid and len(config.multi_grid) != (count := resnet.blocks[-1]):
        raise InputError(
            f"{path}: the multi-grid is {_spelled(config.multi_grid)}, {origins['multi_grid']}; the last stage has "
            f"{count} blocks: say so many numbers with --multi-grid, or none."
        )


def _preprocess(
    labels: LabelSpace, in_channels: int, noted: dict[str, Any], norm: Mapping[str, Any], path: Path
) -> Preprocess:
    """How images are normalised: by danet's note, by the file, by the labels' channels, else as ImageNet's."""
    told = validate(Preprocess, noted, f"{path}, danet's note in it") if noted else None
    channels = told or labels.channels or Channels()
    if len(channels.names) != in_channels:
        raise InputError(
            f"{path} takes {in_channels} channels, but the labels {labels.name} have {len(channels.names)}; "
            "describe them under `channels` in a file for --labels."
        )
    if told:
        return told
    values = channels.model_dump() | {name: norm[name] for name in ("mean", "std") if name in norm}
    if labels.name in LONGEST:
        values["longest"] = LONGEST[labels.name]
    return validate(Preprocess, values, str(path))


def _refuse_dilated_basic(config: ModelConfig, which: str) -> None:
    if RESNETS[config.backbone].basic and config.output_stride != 32:
        raise InputError(
            f"{which} dilates half of the convolutions in the blocks of {config.backbone}, where timm dilates all; "
            "only output stride 32 means the same network."
        )


def _list(value: Any) -> list[Any]:
    """A list, a tuple or an array as a list; empty for anything else."""
    return list(value.tolist() if isinstance(value, np.ndarray) else value) if isinstance(value, _LISTS) else []


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _sides(tensor: Tensor) -> str:
    return "×".join(map(str, tensor.shape)) or "a number"


def _spelled(value: Any) -> str:
    return ", ".join(map(str, value)) or "none" if isinstance(value, tuple) else str(value).lower()


def _digest(path: Path) -> str:
    """The file's SHA-256, which a published file's name begins to tell."""
    digest = sha256(path)
    if not digest.startswith(expected := digest_in_name(path.name)):
        raise InputError(
            f"{path} has SHA-256 {digest[:8]}…, but its name says {expected}: it was altered or cut short; "
            "download it again, or rename it if you altered it."
        )
    return digest
