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
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from danet.config import ModelConfig, Preprocess, validate
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.models.segmentation import SegmentationModel, build_model

FORMAT = 1
WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"


@dataclass(frozen=True)
class Bundle:
    """A model with all that is needed to use it."""

    model: SegmentationModel
    model_config: ModelConfig
    labels: LabelSpace
    preprocess: Preprocess
    scores: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)


def save_bundle(folder: str | Path, bundle: Bundle, half: bool = False) -> None:
    """Write `bundle` as `folder`, in place of what was there; `half` stores floating-point tensors in 16 bits."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        state = {name: _storable(tensor, half) for name, tensor in bundle.model.state_dict().items()}
        save_file(state, aside / WEIGHTS)
        config = {
            "format": FORMAT,
            "danet": version("danet"),
            "model": bundle.model_config.model_dump(mode="json"),
            "labels": bundle.labels.to_dict(),
            "preprocess": bundle.preprocess.model_dump(mode="json"),
            "scores": bundle.scores,
            "provenance": bundle.provenance,
            "sha256": _sha256(aside / WEIGHTS),
        }
        (aside / CONFIG).write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
        (aside / CARD).write_text(_card(bundle), encoding="utf-8")
        aside.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        aside.rename(folder)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)
        raise


def load_bundle(folder: str | Path) -> Bundle:
    """Read a bundle; its model is in eval mode, in float32, on the CPU.

    Raises InputError for a missing, altered or foreign file.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder; a bundle is a folder with {WEIGHTS} and {CONFIG}.")
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(
                f"{folder} has no {name}; a bundle is a folder with {WEIGHTS} and {CONFIG}: copy it whole."
            )
    config = _read_config(folder / CONFIG)
    digest = _sha256(folder / WEIGHTS)
    if digest != config["sha256"]:
        raise InputError(
            f"{folder / WEIGHTS} has SHA-256 {digest[:12]}…, but {CONFIG} says {config['sha256'][:12]}…: "
            "it was altered or cut short; copy the bundle again."
        )
    model_config = validate(ModelConfig, config["model"] | {"pretrained": False}, str(folder / CONFIG))
    model = build_model(model_config)
    try:
        model.load_state_dict(
            {
                name: tensor.float() if tensor.is_floating_point() else tensor
                for name, tensor in load_file(folder / WEIGHTS).items()
            }
        )
    except (RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{folder / WEIGHTS} does not fit the model that {CONFIG} describes: {reason}.") from None
    labels = LabelSpace.from_dict(config["labels"])
    if labels.num_classes != model_config.num_classes:
        raise InputError(
            f"{folder / CONFIG} names {labels.num_classes} classes for a model of {model_config.num_classes}; "
            "copy the bundle again."
        )
    preprocess = validate(Preprocess, config["preprocess"], str(folder / CONFIG))
    return Bundle(model.eval(), model_config, labels, preprocess, config["scores"], config["provenance"])


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not JSON ({error}); copy the bundle again.") from None
    wanted = {"format", "model", "labels", "preprocess", "scores", "provenance", "sha256"}
    missing = sorted(wanted - set(config)) if isinstance(config, dict) else sorted(wanted)
    if missing:
        raise InputError(f"{path} has no {missing[0]!r}; copy the bundle again.")
    if config["format"] != FORMAT:
        raise InputError(f"{path} has format {config['format']!r}; this version reads {FORMAT}: use a newer danet.")
    return config


def _storable(tensor: torch.Tensor, half: bool) -> torch.Tensor:
    """Plain, contiguous and on the CPU, as safetensors wants it."""
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if half and tensor.is_floating_point() else tensor


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _card(bundle: Bundle) -> str:
    """What a person should know before using the weights."""
    config = bundle.model_config
    parameters = sum(parameter.numel() for parameter in bundle.model.parameters())
    lines = [
        f"# {config.head} on {config.backbone}, {bundle.labels.name}",
        "",
        f"Scene segmentation into {config.num_classes} classes: {', '.join(bundle.labels.names)}.",
        f"{parameters / 1e6:.1f} million parameters, output stride {config.output_stride}.",
        "",
        "```python",
        "import danet",
        'prediction = danet.load("this-folder")("image.jpg")',
        "```",
        "",
    ]
    for title, facts in (("Scores", bundle.scores), ("Where it comes from", bundle.provenance)):
        if facts:
            lines += [f"## {title}", "", *(f"- {name}: {value}" for name, value in facts.items()), ""]
    return "\n".join(lines)
