"""A bundle: one folder that explains itself, model.safetensors + config.json + README.md (the card).

The configuration holds what the tensors do not: architecture, classes, colours, preprocessing, scores, where it comes
from, and the SHA-256 of the weights. A bundle is written aside and renamed: it is whole, or it is not there.
"""

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from danet.config import ModelConfig, Preprocess, Section, validate
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.files import sha256, sync, sync_folder
from danet.models.attention import SIGNS, gates
from danet.models.segmentation import SegmentationModel, build_model
from danet.weights.exported import LABELS, is_exported

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True)
class Bundle:
    """A model with all that is needed to use it."""

    model: SegmentationModel = field(repr=False)
    model_config: ModelConfig
    labels: LabelSpace
    preprocess: Preprocess
    scores: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


class BundleConfig(Section):
    """What config.json holds; `seal` is a hash of all the rest, so that a file altered by hand is noticed."""

    format: int
    danet: str
    model: ModelConfig
    labels: dict[str, Any]
    preprocess: Preprocess
    scores: dict[str, Any]
    provenance: dict[str, Any]
    sha256: str
    seal: str


def save_bundle(folder: str | Path, bundle: Bundle) -> None:
    """Write `bundle` as `folder`, in place of what was there, which stays if that fails (OSError)."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in bundle.model.state_dict().items()}
        save_file(state, aside / WEIGHTS)
        (aside / WEIGHTS).chmod(0o644)  # safetensors lets nobody else read it
        config = {
            "format": FORMAT,
            "danet": version("danet"),
            "model": bundle.model_config.model_dump(mode="json") | {"pretrained": bool(bundle.model_config.pretrained)},
            "labels": bundle.labels.to_dict(),
            "preprocess": bundle.preprocess.model_dump(mode="json"),
            "scores": bundle.scores,
            "provenance": bundle.provenance,
            "sha256": sha256(aside / WEIGHTS),
        }
        text = json.dumps(config | {"seal": _seal(config)}, indent=2, ensure_ascii=False)
        (aside / CONFIG).write_text(text + "\n", encoding="utf-8")
        (aside / CARD).write_text(_card(bundle), encoding="utf-8")
        aside.chmod(0o755)
        for path in aside.iterdir():
            sync(path)
        sync_folder(aside)
        _replace(folder, aside)
    except SafetensorError as error:
        raise OSError(str(error)) from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle; its model is in eval mode, in float32, on the CPU.

    Raises InputError for a missing, altered or foreign file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; a bundle is a folder with {WEIGHTS} and {CONFIG}.")
    if is_exported(folder):
        raise InputError(f"{folder} is an exported model; for this give the run or the bundle that it came from.")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}; a bundle is a folder with {WEIGHTS} and {CONFIG}: {_again(folder)}."
            )
    config = _read_config(folder / CONFIG)
    if (digest := sha256(folder / WEIGHTS)) != config.sha256:
        raise InputError(
            f"{folder / WEIGHTS} has SHA-256 {digest[:12]}…, but {CONFIG} says {config.sha256[:12]}…: "
            f"it was altered or cut short; {_again(folder)}."
        )
    labels = LabelSpace.from_dict(config.labels, str(folder / CONFIG))
    if labels.num_classes != config.model.num_classes:
        raise InputError(
            f"{folder / CONFIG} names {labels.num_classes} classes for a model of {config.model.num_classes}; "
            f"{_again(folder)}."
        )
    if (count := len(config.preprocess.names)) != config.model.in_channels:
        raise InputError(
            f"{folder / CONFIG} normalises {count} channels for a model of {config.model.in_channels}; "
            f"{_again(folder)}."
        )
    try:
        model = restore(config.model, load_file(folder / WEIGHTS))
    except (RuntimeError, TypeError, OverflowError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / WEIGHTS} does not fit the model that {CONFIG} describes: {reason}.") from None
    return Bundle(model.eval(), config.model, labels, config.preprocess, config.scores, config.provenance)


def digest(folder: str | Path) -> str:
    """What tells a bundle, or an exported model, from every other: the SHA-256 of the file that holds its weights'."""
    folder = Path(folder)
    return sha256(folder / (LABELS if is_exported(folder) else CONFIG))


def bundle_scores(folder: Path) -> dict[str, Any] | None:
    """What the bundle `folder` says of its scores; None where there is none, or its configuration is damaged."""
    try:
        return _read_config(folder / CONFIG).scores
    except InputError:
        return None


def restore(config: ModelConfig, state: dict[str, Tensor]) -> SegmentationModel:
    """The model with the tensors of `state`, in float32 and memory of its own.

    It is built without memory first: a size that is not that of the weights is noticed before it takes any.
    """
    config = config.model_copy(update={"pretrained": False})
    state = {name: t.to(torch.float32 if t.is_floating_point() else t.dtype, copy=True) for name, t in state.items()}
    with torch.device("meta"):
        model = build_model(config)
    model.load_state_dict(state, assign=True)
    if any(buffer.is_meta for buffer in model.buffers()):  # what some backbones compute and no file holds
        model = build_model(config)
        model.load_state_dict(state, assign=True)
    return model


def _read_config(path: Path) -> BundleConfig:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not JSON ({error}); {_again(path.parent)}.") from None
    if not isinstance(values, dict):
        kind = type(values).__name__
        raise InputError(f"{path} holds {kind}, not a bundle's configuration; {_again(path.parent)}.")
    if "format" not in values:
        raise InputError(f"{path} names no format: it is no bundle of danet's; `danet convert` reads checkpoints.")
    if values["format"] != FORMAT:
        raise InputError(f"{path} has format {values['format']!r}; this version reads {FORMAT}: use a newer danet.")
    config = validate(BundleConfig, values, str(path))
    if _seal({name: value for name, value in values.items() if name != "seal"}) != config.seal:
        raise InputError(f"{path} was altered since it was written; {_again(path.parent)}.")
    return config


def _again(folder: Path) -> str:
    """How to mend a damaged bundle; one in a cache is fetched again where it is missing."""
    return f"copy the bundle again, or if danet fetched it, remove the folder {folder}"


def _replace(folder: Path, aside: Path) -> None:
    """Put `aside` in the place of `folder`; whatever happens, one of the two is there, whole."""
    old = aside.with_name(f"{aside.name}-old")
    if folder.exists():
        folder.rename(old)
    try:
        aside.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
        raise
    sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)


def recover_bundle(folder: Path) -> None:
    """Put back the bundle that a process which was killed while replacing it had moved aside, and remove its leftovers.

    No other process may be writing there.
    """
    for old in sorted(folder.parent.glob(f".{folder.name}-*-old")):
        if not folder.exists():
            old.rename(folder)
    for left in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(left, ignore_errors=True)


def _seal(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()


def _card(bundle: Bundle) -> str:
    """What a person should know before using the weights, under the front matter that the Hub reads."""
    config = bundle.model_config
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    stride = bundle.model.anatomy.reductions[-1]
    front: dict[str, Any] = {"library_name": "danet", "pipeline_tag": "image-segmentation"}
    front["tags"] = ["semantic-segmentation", config.head, config.backbone]
    if licence := bundle.provenance.get("licence"):
        front["license"] = licence
    lines = [
        "---",
        *yaml.safe_dump(front, sort_keys=False, allow_unicode=True).splitlines(),
        "---",
        "",
        f"# {config.head} on {config.backbone}, {bundle.labels.name}",
        "",
        f"Scene segmentation into {config.num_classes} classes: {', '.join(bundle.labels.names)}.",
        f"{parameters / 1e6:.1f} million parameters, output stride {stride}.",
        "",
        "```python",
        "import danet",
        "",
        'prediction = danet.load("this-folder")("image.jpg")',
        "```",
        "",
    ]
    opened = {f"{branch} {SIGNS[branch]}": f"{gate:.3f}" for branch, gate in gates(bundle.model).items()}
    for title, facts in (("Scores", bundle.scores), ("Gates", opened), ("Where it comes from", bundle.provenance)):
        if facts:
            lines += [f"## {title}", "", *(f"- {name}: {_words(value)}" for name, value in facts.items()), ""]
    return "\n".join(lines)


def _words(value: Any) -> str:
    """A fact for a person; a group of facts in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{name} {part}" for name, part in value.items())
    return str(value)
