"""How an image becomes class scores: at which sizes, in which windows, how they are put together. A report names it.

Presets state what the published scores were made with; each says where it is written.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from danet.config import Positive, Section, Side, nearest, read_value, read_yaml, validate
from danet.errors import InputError

Fusion = Literal["logits", "probabilities", "exp"]


class Protocol(Section):
    """One way to predict; the fields are written into every report, from which it can be run again."""

    name: str = "own"
    """A preset's name, or any other."""
    size: Literal["model", "original", "fit"] = "model"
    """Before any scale: shrunk by the model's own size rule, as it is, or enlarged or shrunk to just fit `fit`."""
    fit: tuple[Side, Side] | None = Field(default=None, validate_default=True)
    """The most that the longer and the shorter side may have, where size is fit."""
    resample: Literal["antialias", "bilinear", "corners"] = "antialias"
    """How the image is resized: with antialias, as in training; or without, as OpenCV, or with aligned corners, as the
    authors."""
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1.0,)
    """Each gives a view of the image at that factor of its size; their scores are fused at the image's own size."""
    flip: bool = False
    """Each view once more, mirrored."""
    crop: tuple[Side, Side] | None = None
    """Height and width of sliding windows; none: each view whole."""
    stride: tuple[Annotated[int, Field(ge=1)], Annotated[int, Field(ge=1)]] | None = None
    """Rows and columns from one window to the next, at most `crop`; by default two thirds of it."""
    blend: Literal["uniform", "gaussian"] = "uniform"
    """What a window counts at each of its pixels: the same everywhere, or less towards its borders (as MONAI)."""
    edge: Literal["shift", "pad"] = "shift"
    """The last windows are moved back into the image, or reach beyond it, filled with black (as the authors); an image
    smaller than a window is seen as it is (shift), or filled up to a window (pad)."""
    fusion: Fusion = "probabilities"
    """What is averaged over views: logits, probabilities, or exp(logits) after the mirrored logits were added. Over
    windows it is logits, or exp(logits)."""
    classes: tuple[str, ...] = ()
    """The classes that count: the model chooses among these alone, and pixels of others are not scored. None: all."""

    @field_validator("fit")
    @classmethod
    def _only_to_fit(cls, fit: tuple[int, int] | None, info: ValidationInfo) -> tuple[int, int] | None:
        if (fit is None) == (info.data.get("size") == "fit"):
            raise PydanticCustomError("fit", "it is given where size is fit, and there alone")
        if fit is not None and fit[0] < fit[1]:
            raise PydanticCustomError("fit", "it begins with the longer side")
        return fit

    @field_validator("stride")
    @classmethod
    def _without_gaps(cls, stride: tuple[int, int] | None, info: ValidationInfo) -> tuple[int, int] | None:
        crop = info.data.get("crop")
        if stride is not None and (crop is None or stride[0] > crop[0] or stride[1] > crop[1]):
            raise PydanticCustomError("stride", "it needs crop, windows that are at least as large as their stride")
        return stride

    @field_validator("blend", "edge")
    @classmethod
    def _of_windows(cls, value: str, info: ValidationInfo) -> str:
        if info.data.get("crop") is None and value != cls.model_fields[str(info.field_name)].default:
            raise PydanticCustomError("windows", "it needs crop, the windows' height and width")
        return value

    @field_validator("classes")
    @classmethod
    def _once(cls, classes: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(classes)) < len(classes):
            raise PydanticCustomError("classes", "each class is named once")
        return classes

    @field_validator("fusion")
    @classmethod
    def _as_it_was_made(cls, fusion: Fusion, info: ValidationInfo) -> Fusion:
        if fusion == "exp" and info.data.get("blend") == "gaussian":
            raise PydanticCustomError("fusion", "exp knows uniform blending alone")
        return fusion

    @property
    def steps(self) -> tuple[int, int]:
        """The windows' stride; raises ValueError without windows."""
        if self.crop is None:
            raise ValueError("There are no windows.")
        return self.stride or (max(self.crop[0] * 2 // 3, 1), max(self.crop[1] * 2 // 3, 1))

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values."""
        return self.model_dump(mode="json")


MMSEG_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
ORIGINAL_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0, 2.25)
PROTOCOLS: dict[str, tuple[Protocol, str]] = {
    protocol.name: (protocol, text)
    for protocol, text in (
        (Protocol(name="whole"), "each image whole, by the model's own size rule, scored at its own size"),
        (
            Protocol(name="whole-original", size="original"),
            "each image whole, at its own size whatever the size rule says",
        ),
        (
            # junfu1115/DANet, test.py without --ms (README: --base-size 2048 --crop-size 768), models/sseg/base.py
            Protocol(
                name="original-ss",
                size="fit",
                fit=(2048, 2048),
                resample="corners",
                crop=(768, 768),
                stride=(512, 512),
                edge="pad",
                fusion="exp",
            ),
            "the authors' single-scale rule at their Cityscapes sizes (others: fit [520, 520], crop [480, 480])",
        ),
        (
            # the same with --ms (README: --crop-size 1024)
            Protocol(
                name="original-ms",
                size="fit",
                fit=(2048, 2048),
                resample="corners",
                scales=ORIGINAL_SCALES,
                flip=True,
                crop=(1024, 1024),
                stride=(682, 682),
                edge="pad",
                fusion="exp",
            ),
            "the authors' rule over 8 scales and mirrored, exp(logits) summed",
        ),
        (
            # mmsegmentation 1.2.2, configs/_base_/datasets/cityscapes.py, test_cfg mode="whole"
            Protocol(name="mmseg-whole", size="fit", fit=(2048, 1024), resample="bilinear", fusion="logits"),
            "mmsegmentation's mode whole: fitted into 2048×1024 as for Cityscapes",
        ),
        (
            # mmsegmentation 1.2.2, configs/danet/danet_r50-d8_4xb2-40k_cityscapes-769x769.py, test_cfg mode="slide"
            Protocol(
                name="mmseg-slide",
                size="fit",
                fit=(2048, 1024),
                resample="bilinear",
                crop=(769, 769),
                stride=(513, 513),
                fusion="logits",
            ),
            "mmsegmentation's mode slide, as for its 769×769 networks: mean of the windows' logits",
        ),
        (
            # mmsegmentation 1.2.2, tta_pipeline of the same, mmseg/models/segmentors/seg_tta.py: own size × scale
            Protocol(name="mmseg-ms-flip", size="original", resample="bilinear", scales=MMSEG_SCALES, flip=True),
            "mmsegmentation's test-time augmentation: 6 scales, mirrored, mean of probabilities",
        ),
        (
            # ENet, SegNet, FC-DenseNet: 360×480 images, whole, 11 classes, void not counted
            Protocol(name="camvid", size="original", fusion="logits"),
            "CamVid's custom at 360×480: each image whole, at its own size, once",
        ),
    )
}


def read_protocol(name: str | Path = "whole", overrides: dict[str, str] | None = None) -> Protocol:
    """A preset by name, or what a file holds: a protocol's YAML or JSON, or a report with one.

    overrides: fields by name, values as YAML; the protocol is then named after both.
    Raises InputError for an unknown name, and for a file, field or value that is none.
    """
    text = str(name)
    if Path(text).suffix.lower() in (".json", ".yaml", ".yml"):
        values = read_yaml(Path(text))  # JSON is YAML
        found = values.get("protocol", values)
        if not isinstance(found, dict):
            raise InputError(f"{text}: protocol is {found!r}; it must be a mapping of a protocol's fields.")
        values, where = dict(found), text
    elif text in PROTOCOLS:
        values, where = PROTOCOLS[text][0].to_dict(), f"protocol {text}"
    else:
        raise InputError(f"There is no protocol {text!r}. {nearest(text, list(PROTOCOLS))}")
    if overrides:
        changes = {field: read_value(f"protocol.{field}", value) for field, value in overrides.items()}
        told = ", ".join(f"{field} {value}" for field, value in overrides.items())
        values |= {"name": f"{values.get('name', 'own')} with {told}", **changes}
    return validate(Protocol, values, where)


def as_protocol(protocol: Protocol | str) -> Protocol:
    """A protocol, or what `read_protocol` takes."""
    return protocol if isinstance(protocol, Protocol) else read_protocol(protocol)
