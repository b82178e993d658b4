"""One run as typed data, two levels deep: YAML in, YAML out, every field by its dotted name on the command line.

pydantic checks types and refuses unknown keys; its structured errors become one line that names the value, the rule
and the mend (`validate`). The docstring under a field is its help text.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Collection
from importlib import resources
from math import isfinite
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, cast, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

from danet.errors import InputError

SMALLEST_SIDE = 32
"""In pixels: a network of stride 32 sees nothing in less."""

Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Side = Annotated[int, Field(ge=SMALLEST_SIDE)]
Head = Literal["fcn", "pam", "cam", "danet", "dranet", "se", "aspp", "self_attention"]
HEADS: tuple[Head, ...] = get_args(Head)
ABLATION: tuple[Head, ...] = ("fcn", "pam", "cam", "danet")
"""From the baseline to the whole, as in the paper's tables."""
SourceName = Literal[
    "camvid",
    "camvid-32",
    "cityscapes",
    "ade20k",
    "voc",
    "voc-sbd",
    "pascal-context-59",
    "pascal-context-60",
    "cocostuff-10k",
    "cocostuff-164k",
    "folder",
    "table",
    "scenes",
]
ChannelRule = Literal["official", "paper"]


class Section(BaseModel):
    """What all parts of a configuration share: no unknown key, no value that changes after it was checked."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


AnySection = TypeVar("AnySection", bound=Section)


class ModelConfig(Section):
    """The arguments of `danet.create_model`."""

    head: Head = "danet"
    """danet, its successor dranet, one branch alone (pam, cam), one without attention (fcn), or another kind of
    context to compare with (se, aspp, self_attention)."""
    backbone: str = "resnet50"
    """Any timm backbone that gives feature maps."""
    num_classes: Count = 19
    """In a run the data say it."""
    in_channels: Count = 3
    """Of the images; in a run the data say it."""
    output_stride: Count | None = None
    """Pixels per place of the last feature map; by default 8 where the backbone can be dilated, else its own."""
    multi_grid: tuple[Count, ...] = ()
    """Dilations of the last stage's blocks, such as (4, 8, 16); empty: none."""
    out_indices: Annotated[tuple[int, ...], Field(min_length=1)] = (-2, -1)
    """The backbone's feature maps to keep; the last feeds the head, the one before it the auxiliary head."""
    channels: Count | None = None
    """Width of the head; by default a quarter of the backbone's last stage (paper, section 3.2)."""
    auxiliary: bool = False
    """An FCN head on the feature map before the last, for training alone."""
    align_corners: bool = False
    """How logits are resized; true for the original's weights, false for most of mmsegmentation's."""
    channel_rule: ChannelRule = "official"
    """Channel attention's softmax: of max − energy (the authors' code) or of the energy (the paper's text)."""
    dropout: Share = 0.1
    """The share of channels that each classifier does without in a training step."""
    pretrained: bool | str = False
    """Start from timm's published weights of the backbone, or from a file of them."""


class DataConfig(Section):
    """Where images and masks come from, and how they are varied in training."""

    source: SourceName = "scenes"
    """The layout: a published data set's, a folder of your own (images/, masks/, labels.yaml), a table with columns of
    encoded images (Parquet files, or a data set of the Hugging Face Hub), or drawn scenes."""
    root: str | None = None
    """The data set's folder, or a table's name on the Hub; scenes need none."""
    columns: tuple[str, str] = ("image", "mask")
    """A table's columns of images and of masks."""
    labels: str | None = None
    """A table's classes: a packaged label space, such as ade20k, or a labels.yaml; by default that in its folder."""
    count: Count = 500
    """Drawn scenes for training (a fifth of it, at most 100, for validation)."""
    size: tuple[Side, Side] = (192, 256)
    """Height and width of drawn scenes."""
    crop: tuple[Side, Side] = (192, 256)
    """Height and width of a training crop."""
    scale: tuple[Positive, Positive] = (1.0, 1.0)
    """Smallest and largest random scale."""
    sampling: Literal["uniform", "balanced"] = "uniform"
    """balanced: a class is drawn, then an image with it, then one of its pixels as the crop's centre."""
    max_class_share: Annotated[float, Field(gt=0, le=1)] = 1.0
    """A crop is drawn again, up to ten times, while one class has more than this share of its labelled pixels."""
    flip: Share = 0.5
    """Probability of a horizontal flip."""
    photometric: Share = 0.0
    """Strength of random brightness, contrast and saturation, and of hue at a quarter of it, of the rgb channels."""
    batch_size: Count = 8
    """Images a step, over all processes and all parts of an accumulated step."""
    workers: Annotated[int, Field(ge=0)] = 1
    """Processes that read and vary samples; their number changes no result."""


class OptimConfig(Section):
    """The optimizer, its schedule and the losses."""

    optimizer: Literal["adamw", "sgd"] = "adamw"
    """AdamW, or SGD with `momentum` (the paper's)."""
    lr: Positive = 1e-3
    """Peak learning rate of the backbone."""
    schedule: Literal["poly", "cosine"] = "poly"
    """How the rate falls: poly, as (1 − step/steps)^power, or along half a cosine."""
    end_lr: Rate = 0.0
    """The backbone's rate at the schedule's end."""
    weight_decay: Rate = 1e-2
    """Not applied to norms and biases; gates have their own, `gate_decay`."""
    momentum: Share = 0.9
    """SGD's momentum."""
    head_factor: Rate = 1.0
    """The heads' learning rate as a multiple of the backbone's (10 in the paper's code)."""
    gate_factor: Rate = 10.0
    """The gates' learning rate as a multiple of the head's."""
    gate_decay: Rate = 0.0
    """Weight decay of the gates, which pulls them shut, at their own learning rate; the authors' code decays them like
    all weights."""
    gate_start: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    """Where the gates start; 0 in the paper."""
    gate_sign: Literal["free", "positive"] = "free"
    """positive: a gate that a step made negative is put back to 0."""
    key_start: Literal["random", "query"] = "random"
    """query: keys start as the queries, so that each place first attends to those that resemble it."""
    query_gain: Positive = 1.0
    """The initial queries as a multiple of their usual ones; larger: maps start sharper."""
    power: Rate = 0.9
    """Of the poly schedule."""
    steps: Count = 1000
    """Of training; one is one batch."""
    accumulate: Count = 1
    """A step's batch goes through the network in so many parts, one after the other; the gradient is that of the whole
    batch, but for norms that learn from each part alone."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Decay of the weights' moving average, which is validated and kept instead of them; 0: none."""
    clip: Rate = 0.0
    """Largest norm of the gradient; 0: unbounded."""
    norm: Literal["auto", "batch", "frozen"] = "auto"
    """Which statistics BatchNorm uses: the batch's, or frozen ones; auto: frozen where a run starts from a model and
    fewer than 8 images would share theirs."""
    class_weights: Literal["none", "enet", "median", "inverse"] = "none"
    """enet: 1 / ln(1.02 + share of the class's pixels); median: the median class frequency / the class's, each over the
    images that have the class; inverse: 1 / share of the class's pixels."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """So much of a pixel's truth is spread evenly over all classes."""
    ohem: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Online hard example mining: only pixels whose true class has less than this probability count; 0: all do."""
    ohem_kept: Share = 0.1
    """But at least this share of an image's labelled pixels, the hardest (with `ohem`)."""
    dice_weight: Rate = 0.0
    """Weight of the Dice loss beside cross-entropy."""
    lovasz_weight: Rate = 0.0
    """Weight of the Lovász-softmax loss beside cross-entropy."""
    branch_weight: Rate = 1.0
    """Weight of the position and channel classifiers' losses."""
    auxiliary_weight: Rate = 0.4
    """Weight of the auxiliary head's loss."""


RGB = ("red", "green", "blue")


class Channels(Section):
    """What the channels of an image are; in a data set's labels.yaml under `channels`."""

    names: Annotated[tuple[str, ...], Field(min_length=1)] = RGB
    """One a channel, in the files' order."""
    rgb: tuple[str, ...] = RGB
    """The three, by name, whose colour photometric changes vary; empty: none."""
    display: tuple[str, ...] = RGB
    """The three, or the one, that people are shown."""
    range: tuple[float, float] = (0.0, 255.0)
    """The file values that become 0 and 1; what lies outside stays outside."""
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    """Per channel, of values in 0 … 1."""
    std: tuple[Positive, ...] = (0.229, 0.224, 0.225)
    """Per channel, of values in 0 … 1."""

    @property
    def picture(self) -> bool:
        """Whether an image is an ordinary picture: RGB of 8 bits, which any image file can be turned into."""
        return self.names == RGB and self.range == (0, 255)

    @model_validator(mode="before")
    @classmethod
    def _follow_names(cls, values: Any) -> Any:
        """Where channels are named and the rest is not given, ImageNet's colours tell nothing of them.

        Mean and spread are then the middle of the range and a quarter of it, for every image and for good: a guess,
        but the same one in training and in use, which the network's first norm makes good.
        """
        names = values.get("names") if isinstance(values, dict) else None
        if not isinstance(names, list | tuple) or not names or tuple(names) == RGB:
            return values
        rgb = RGB if set(RGB) <= set(names) else ()
        spread = {"mean": [0.5] * len(names), "std": [0.25] * len(names)}
        return {"rgb": rgb, "display": rgb or names[:1], **spread, **values}

    @field_validator("names")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(names)) < len(names):
            raise PydanticCustomError("names", "each channel needs a name of its own")
        return names

    @field_validator("rgb", "display")
    @classmethod
    def _known(cls, chosen: tuple[str, ...], info: ValidationInfo) -> tuple[str, ...]:
        names = info.data.get("names", chosen)
        lengths = {"rgb": (0, 3), "display": (1, 3)}[str(info.field_name)]
        if len(chosen) not in lengths or len(set(chosen)) < len(chosen) or not set(chosen) <= set(names):
            rule = f"it must be {' or '.join(map(str, lengths))} of the names {', '.join(names)}"
            raise PydanticCustomError("channels", "{rule}", {"rule": rule})
        return chosen

    @field_validator("range")
    @classmethod
    def _upwards(cls, values: tuple[float, float]) -> tuple[float, float]:
        if not (isfinite(values[0]) and isfinite(values[1]) and values[0] < values[1]):
            raise PydanticCustomError("range", "it must be two finite numbers, the lower first")
        return values

    @field_validator("mean", "std")
    @classmethod
    def _one_each(cls, values: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        names = info.data.get("names")
        if (names and len(values) != len(names)) or not all(map(isfinite, values)):
            rule = f"it must be a finite number for each channel: {', '.join(names or RGB)}"
            raise PydanticCustomError("channels", "{rule}", {"rule": rule})
        return values


class Preprocess(Channels):
    """What an image goes through before the network; kept in the bundle, so that weights and input cannot drift."""

    longest: Count | None = 1024
    """Larger images are shrunk to this longest side, and their prediction is enlarged again."""

    def of(self, channels: Channels | None) -> Preprocess:
        """The same with what a data set says of its `channels` in place of all that nobody set.

        Raises InputError where what was set contradicts the rest.
        """
        told = (channels or Channels()).model_dump()
        own = self.model_dump(include=self.model_fields_set)
        return validate(Preprocess, {"longest": self.longest, **told, **own}, "preprocess")


class Folders(Section):
    """Where someone's own images and masks lie; in a data set's labels.yaml under `folders`."""

    images: str = "images"
    """The images' folder, beside labels.yaml; subfolders belong to it."""
    masks: str = "masks"
    """The masks' folder, with the same subfolders; it may be the images' own."""
    suffix: str = ""
    """What a mask's stem has more than its image's, such as _mask."""
    complete: bool = True
    """Whether each image must have a mask; false: images without one are left out."""


class Split(Section):
    """Which of someone's own images are held out; in a data set's labels.yaml under `split`."""

    val: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """The share of the groups that is held out for validation."""
    groups: str | None = None
    """What is never torn apart: folder (a subfolder's images), prefix (those whose names differ in the number at their
    end alone), or a regular expression, by its first group or else its whole match; none: each image stands alone."""
    seed: int = 0
    """Another seed holds out others."""

    @field_validator("groups")
    @classmethod
    def _compiles(cls, groups: str | None) -> str | None:
        try:
            re.compile(groups or "")
        except re.error as error:
            rule = f"it must be folder, prefix or a regular expression ({error})"
            raise PydanticCustomError("groups", "{rule}", {"rule": rule}) from None
        return groups


class RunConfig(Section):
    """One training run."""

    name: str = "run"
    """The run's folder under runs/."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Of the weights, the order of the images, their variation and dropout."""
    device: str = "auto"
    """auto: cuda, mps, xpu or cpu, in this order."""
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto: bfloat16 where this device computes faster in it; float16 trains with a scaled loss."""
    init: str | None = None
    """A model to start from: a run's or a bundle's folder, a model's name, or owner/name on the Hub. The network is
    its; classifiers are copied class by class, by name."""
    freeze: Literal["nothing", "backbone"] = "nothing"
    """backbone: only the heads learn, for tiny data sets."""
    compile: bool = False
    """Let torch.compile make the network faster, which takes a minute or more at the start."""
    checkpointing: bool = False
    """Compute the backbone's blocks a second time in the backward pass, instead of keeping what is within them."""
    validate_every: Count = 500
    """Steps between validations; the last step is always validated."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Stop after so many validations in a row without a better mIoU; 0: go on to the last step."""
    save_minutes: Positive = 10.0
    """Minutes of training between checkpoints; each validation leaves one too."""
    keep: Count = 2
    """So many of the newest checkpoints are kept, beside the best model."""
    expected: str = ""
    """What the recipe's source reports, and under which protocol."""
    model: ModelConfig = ModelConfig()
    data: DataConfig = DataConfig()
    optim: OptimConfig = OptimConfig()
    preprocess: Preprocess = Preprocess()

    @field_validator("checkpointing")
    @classmethod
    def _once(cls, checkpointing: bool, info: ValidationInfo) -> bool:
        if checkpointing and info.data.get("compile"):
            rule = "torch.compile chooses itself what to compute twice: leave it out, or compile"
            raise PydanticCustomError("checkpointing", "{rule}", {"rule": rule})
        return checkpointing

    def to_yaml(self) -> str:
        """The configuration as YAML that `read_config` takes back; what the data decide is there once they have."""
        values = self.model_dump(mode="json")
        by_data = {"model": ("num_classes", "in_channels"), "preprocess": tuple(Channels.model_fields)}
        for section, names in by_data.items():
            for name in set(names) - getattr(self, section).model_fields_set:
                del values[section][name]
        return yaml.safe_dump(values, sort_keys=False, default_flow_style=None, allow_unicode=True)


def read_config(recipe: str | Path | None = None, overrides: dict[str, str] | None = None) -> RunConfig:
    """A recipe's name or a YAML file, with fields overridden by dotted name (values are read as YAML).

    A file may begin from another, `like: camvid-r50` or `like: base.yaml` (beside it), and write only what differs.
    Raises InputError for an unknown recipe, key or value.
    """
    values, where = ({}, "command line") if recipe is None else _read_recipe(recipe)
    for name, text in (overrides or {}).items():
        *sections, field = name.split(".")
        target = values
        for section in sections:
            target = target.setdefault(section, {})
            if not isinstance(target, dict):
                raise InputError(f"{recipe}: {section} is {target!r}; it is a section of fields, such as {name}.")
        target[field] = read_value(name, text)
    return validate(RunConfig, values, where, overrides or ())


def validate(
    section: type[AnySection], values: dict[str, Any], where: str, overridden: Collection[str] = ()
) -> AnySection:
    """`values` as a checked `section`; the first fault is an InputError that begins with `where`.

    overridden: the fields (dotted) that are the command line's and not of `where`.
    """
    try:
        return section.model_validate(values)
    except ValidationError as error:
        path = ".".join(str(part) for part in error.errors(include_url=False)[0]["loc"])
        if any(path == name or path.startswith(f"{name}.") for name in overridden):
            where = "command line"
        raise InputError(f"{where}: {_describe(error, section)}") from None


def fields(section: type[Section] = RunConfig, prefix: str = "") -> dict[str, tuple[Any, str]]:
    """Every field's dotted name with its default and its help text."""
    found: dict[str, tuple[Any, str]] = {}
    for name, field in section.model_fields.items():
        if isinstance(field.default, Section):
            found |= fields(type(field.default), f"{prefix}{name}.")
        else:
            found[prefix + name] = (field.default, field.description or "")
    return found


def nearest(word: str, known: list[str]) -> str:
    """`Did you mean …?` for a mistyped word, or the list of what is known."""
    close = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
    if close:
        return f"Did you mean {close[0]}?"
    return f"Known: {', '.join(known)}." if len(known) <= 12 else "--help lists them."


def recipes() -> list[str]:
    """The names of the recipes that come with the package."""
    return sorted(
        Path(entry.name).stem for entry in resources.files("danet.recipes").iterdir() if entry.name.endswith(".yaml")
    )


def _read_recipe(recipe: str | Path, of: Path | None = None, seen: tuple[Path, ...] = ()) -> tuple[dict[str, Any], str]:
    """A recipe's values over those of the recipe that it is `like`, and what errors shall call them.

    What is a section in both is overridden field by field. `expected` is told of one file's settings, never of others.
    of: the file that is like it; seen: all those that are.
    """
    path = _find_recipe(recipe, of)
    if path.resolve() in seen:
        raise InputError(f"{of}: like is {recipe!r}, which is like it in turn; take one `like` out.")
    values = read_yaml(path)
    like = values.pop("like", None)
    if like is None:
        return values, str(recipe)
    if not isinstance(like, str):
        raise InputError(f"{path}: like is {like!r}; write a recipe's name, or a YAML file beside this one.")
    base, where = _read_recipe(like, path, (*seen, path.resolve()))
    base.pop("expected", None)
    for name, value in values.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        base[name] = {**base[name], **value} if both else value
    return base, f"{recipe}, like {where}"


def _find_recipe(recipe: str | Path, of: Path | None = None) -> Path:
    """The file of a recipe; of: the file that is to be like it."""
    path = Path(recipe)
    if path.suffix in (".yaml", ".yml"):
        return path if of is None else of.parent / path.expanduser()
    if str(recipe) not in recipes():
        where = "There" if of is None else f"{of}: like is {recipe!r}, but there"
        raise InputError(f"{where} is no recipe {str(recipe)!r}. {nearest(str(recipe), recipes())}")
    return Path(str(resources.files("danet.recipes") / f"{recipe}.yaml"))


def read_yaml(path: Path) -> dict[str, Any]:
    """A YAML file's mapping; empty for an empty file. Raises InputError for a file that is not one."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    except (yaml.YAMLError, ValueError) as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from None
    if values is not None and not isinstance(values, dict):
        raise InputError(f"{path} holds {type(values).__name__}; it must be a mapping, such as `name: value`.")
    return values or {}


def read_value(name: str, text: str) -> Any:
    """A field's value from a command line: text as it is where the field is text, else YAML."""
    default = fields().get(name, (None, ""))[0]
    if isinstance(default, str) or name in ("data.root", "data.labels", "init"):
        return text
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):
        raise InputError(f"{name} is {text!r}, which is not YAML; write a value such as 0.1 or [240, 320].") from None


def _describe(error: ValidationError, section: type[Section]) -> str:
    """The first fault in one line."""
    fault = error.errors(include_url=False)[0]
    path = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        *sections, _ = fault["loc"]
        known = list(fields(section))
        for name in sections:
            section = cast(type[Section], section.model_fields[str(name)].annotation)
        known += [".".join([*map(str, sections), name]) for name in section.model_fields]
        return f"there is no key {path}. {nearest(path, sorted(set(known)))}"
    if fault["type"] == "missing":
        return f"{path} is missing."
    rule = fault["msg"]
    if fault["type"] in ("tuple_type", "list_type"):
        rule = "write a list in brackets, such as '[512, 512]' or '[car, road]'"
    return f"{path} is {fault['input']!r}; {rule[0].lower()}{rule[1:]}."
