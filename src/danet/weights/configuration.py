"""What mmsegmentation keeps beside its weights: a configuration, as Python text that is read and never run."""

import ast
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, StrictBool

from danet.config import ModelConfig, Positive, Preprocess, Section, validate
from danet.errors import InputError
from danet.weights.resnets import PLAIN, ResNet

STRIDES = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2)), 32: ((1, 2, 2, 2), (1, 1, 1, 1))}
"""Strides and dilations of the four stages for each output stride, as timm has them too."""


class Part(Section):
    """A part of a configuration, of which danet reads only what tells the network."""

    model_config = ConfigDict(extra="ignore")


class Backbone(Part):
    strides: tuple[int, ...] | None = None
    dilations: tuple[int, ...] | None = None
    multi_grid: tuple[int, ...] | None = None
    contract_dilation: StrictBool = False
    style: str = "pytorch"


class Head(Part):
    align_corners: StrictBool = False


class Norm(Part):
    mean: tuple[float, ...] | None = None
    std: tuple[Positive, ...] | None = None
    to_rgb: StrictBool | None = None
    bgr_to_rgb: StrictBool = False


class Configuration(Part):
    """Of values in 0 … 255, as mmsegmentation has them; None and what is not there mean the same."""

    backbone: Backbone
    decode_head: Head
    img_norm_cfg: Norm | None


def read_configuration(text: str, where: str | Path) -> dict[str, Any]:
    """multi_grid, output_stride, align_corners and, where it is told, mean and std (of values in 0 … 1).

    Empty for text that describes no network. Raises InputError, beginning with `where`, for values of another kind than
    mmsegmentation's, and for what danet cannot build.
    """
    values = _assignments(text)
    model = values.get("model")
    parts = ("backbone", "decode_head")
    if not isinstance(model, Mapping) or not all(isinstance(model.get(part), Mapping) for part in parts):
        return {}
    norms = (values.get("img_norm_cfg"), model.get("data_preprocessor"), values.get("data_preprocessor"))
    found = {part: model[part] for part in parts} | {"img_norm_cfg": next(filter(None, norms), None)}
    configuration = validate(Configuration, found, f"{where}, its configuration")
    backbone, norm = configuration.backbone, configuration.img_norm_cfg
    strides, dilations = backbone.strides or STRIDES[32][0], backbone.dilations or STRIDES[32][1]
    stride = next((stride for stride, known in STRIDES.items() if known == (strides, dilations)), None)
    reasons = {
        f"strides {strides} with dilations {dilations}": stride is None,
        "contract_dilation=False": stride != 32 and not backbone.contract_dilation,
        f"style={backbone.style!r}": backbone.style != "pytorch",
        "images in BGR order": norm and not (norm.bgr_to_rgb if norm.to_rgb is None else norm.to_rgb),
        "images without a mean and a std": norm and not (norm.mean and norm.std),
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        raise InputError(f"{where}: its network was trained with {reason}, which danet does not have.")
    return {
        "multi_grid": backbone.multi_grid or (),
        "output_stride": stride,
        "align_corners": configuration.decode_head.align_corners,
        **({"mean": _scaled(norm.mean, 1 / 255), "std": _scaled(norm.std, 1 / 255)} if norm else {}),
    }


def write_configuration(config: ModelConfig, resnet: ResNet, stride: int, preprocess: Preprocess) -> str:
    """The configuration of a DANet on `resnet`, from which `read_configuration` gives the same."""
    strides, dilations = STRIDES[stride]
    features = 512 if resnet.basic else 2048
    channels = config.channels or features // 4
    shared = {"num_classes": config.num_classes, "dropout_ratio": config.dropout}
    shared |= {"norm_cfg": {"type": "BN"}, "align_corners": config.align_corners}
    width, each = resnet.shape
    kind = {"type": "ResNet"} if width == each else {"type": "ResNeXt", "groups": width // each, "base_width": each}
    backbone = kind if resnet.stem == PLAIN else {"type": "ResNetV1c"}
    backbone |= {"depth": resnet.depth, "in_channels": config.in_channels, "strides": strides, "dilations": dilations}
    backbone |= {"multi_grid": config.multi_grid or None, "contract_dilation": True, "norm_cfg": {"type": "BN"}}
    backbone |= {"stem_channels": resnet.stem[-1]}
    head = {"type": "DAHead", "in_channels": features, "in_index": 3, "channels": channels}
    head |= {"pam_channels": max(channels // 8, 1), **shared}
    auxiliary = {"type": "FCNHead", "in_channels": features // 2, "in_index": 2, "channels": features // 8}
    auxiliary |= {"num_convs": 1, "concat_input": False, **shared}
    model = {"type": "EncoderDecoder", "backbone": backbone, "decode_head": head}
    model |= {"auxiliary_head": auxiliary} if config.auxiliary else {}
    norm = {"mean": _scaled(preprocess.mean, 255), "std": _scaled(preprocess.std, 255), "to_rgb": True}
    return f"model = {model!r}\nimg_norm_cfg = {norm!r}\n"


def read_name(name: str) -> dict[str, Any]:
    """What the published file names tell: danet_r50-d8_769x769_… (the networks of size 769 align corners)."""
    stride, size = re.match(r"danet_r\d+-d(\d+)_", name), re.search(r"(?<!\d)(\d{3,4})x(\d{3,4})(?!\d)", name)
    if not stride or not size:
        return {}
    return {"multi_grid": (), "output_stride": int(stride[1]), "align_corners": size[1] == size[2] == "769"}


def _assignments(text: str) -> dict[str, Any]:
    """The names that Python text gives literals to, dict(…) included; what is more than that is left out."""
    try:
        lines = ast.parse(text).body
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return {}
    values = {}
    for line in lines:
        if isinstance(line, ast.Assign) and len(line.targets) == 1 and isinstance(line.targets[0], ast.Name):
            try:
                values[line.targets[0].id] = _literal(line.value)
            except (ValueError, TypeError, RecursionError):
                continue
    return values


def _literal(node: ast.expr) -> Any:
    match node:
        case ast.Call(func=ast.Name(id="dict"), args=[]):
            values = {}
            for keyword in node.keywords:
                values |= {keyword.arg: _literal(keyword.value)} if keyword.arg else _literal(keyword.value)
            return values
        case ast.Dict():
            return {_literal(key): _literal(value) for key, value in zip(node.keys, node.values, strict=True) if key}
        case ast.List() | ast.Tuple():
            return tuple(_literal(element) for element in node.elts)
        case _:
            return ast.literal_eval(node)


def _scaled(values: Any, factor: float) -> tuple[float, ...]:
    """0.485 is 123.675 of 255, and nothing beside it."""
    return tuple(round(float(value) * factor, 6) for value in values)
