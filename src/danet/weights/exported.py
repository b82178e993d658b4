"""The folder of an exported model: model.onnx, and labels.json, which says what it is and what goes in and out."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator
from pydantic_core import PydanticCustomError

from danet.config import Channels, Preprocess, Section, validate
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.files import sha256

FORMAT = 1
MODEL, LABELS = "model.onnx", "labels.json"
DATA = f"{MODEL}.data"
"""Where the tensors are of a model that is too large for one file."""
ExportPrecision = Literal["float32", "float16"]
Form = Literal["blocks", "whole"]
"""How position attention was written."""
Byte = Annotated[int, Field(ge=0, le=255)]


class Size(Section):
    """What `longest` of Preprocess and SMALLEST_SIDE allow, and how logits are enlarged."""

    longest: int | None
    smallest: int
    align_corners: bool


class Exported(Section):
    """What labels.json holds. The graph takes file values: what `channels` says of mean and spread is inside it."""

    format: Literal[1]
    model: str
    head: str
    backbone: str
    labels: str
    names: list[str]
    colours: list[tuple[Byte, Byte, Byte]]
    channels: Channels
    size: Size
    input: str
    output: str
    precision: ExportPrecision
    attention: Form
    opset: int
    versions: dict[str, str]
    parity: list[dict[str, int | float]]
    files: dict[str, str]
    """The SHA-256 of model.onnx, and of what is beside it for its sake."""

    @field_validator("files")
    @classmethod
    def _of_the_model(cls, files: dict[str, str]) -> dict[str, str]:
        if MODEL not in files:
            raise PydanticCustomError("files", "it must have the SHA-256 of model.onnx")
        return files

    def space(self, where: str) -> LabelSpace:
        """Names and colours of the classes."""
        return LabelSpace.from_dict({"name": self.labels, "names": self.names, "colours": self.colours}, where)

    def preprocess(self, where: str) -> Preprocess:
        """What is left to do for an image: a mean and spread that leave file values as they are."""
        low, high = self.channels.range
        count = len(self.channels.names)
        as_is = {"mean": [-low / (high - low)] * count, "std": [1 / (high - low)] * count}
        values = self.channels.model_dump() | as_is | {"longest": self.size.longest}
        return validate(Preprocess, values, where)


def is_exported(folder: Path) -> bool:
    """Whether `folder` is of an exported model, perhaps a damaged one."""
    return (folder / MODEL).is_file()


def read_exported(folder: Path) -> Exported:
    """What labels.json says; raises InputError for a missing, altered or foreign file."""
    path, again = folder / LABELS, f"copy the folder again, or export it again: danet export -o {folder}"
    try:
        values: Any = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{folder} has {MODEL}, but no {LABELS}, which danet export writes beside it; {again}."
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not JSON ({error}); {again}.") from None
    if not isinstance(values, dict) or values.get("format") != FORMAT:
        raise InputError(f"{path} is none of danet export's, or another version's; {again}.")
    told = validate(Exported, values, str(path))
    for name, expected in told.files.items():
        file = folder / Path(name).name
        if not file.is_file():
            raise InputError(f"{folder} has no {name}, which {LABELS} names; {again}.")
        if (found := sha256(file)) != expected:
            raise InputError(
                f"{file} has SHA-256 {found[:12]}…, but {LABELS} says {expected[:12]}…: it was altered or cut short; "
                f"{again}."
            )
    return told
