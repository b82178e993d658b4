"""What nobody said about a run on one's own data, from the images' sizes, their number and the device."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from danet.config import Preprocess, RunConfig, read_config
from danet.data.dataset import Dataset
from danet.errors import InputError
from danet.inference.device import choose_device, choose_precision
from danet.models.segmentation import build_model
from danet.training.data import open_data

LOOKED_AT = 32
"""So many images tell the usual size."""
EPOCHS = 60
MULTIPLE = 32
_BYTES_A_PIXEL = 10_000
"""Of a training step: ResNet-50 at stride 8 with three heads took 3.3 GiB for 2×360×480 pixels in float32."""


class Facts(NamedTuple):
    """What the defaults follow from: images for training, their usual height and width, the device's kind, and its
    memory in bytes (of a CPU none is asked)."""

    images: int
    size: tuple[int, int]
    device: str
    memory: int = 0


def own_config(overrides: dict[str, str]) -> RunConfig:
    """The configuration of a run on the data that `overrides` name by their root, as `own_settings` has it."""
    return read_config(None, own_settings(overrides))


def own_settings(overrides: dict[str, str]) -> dict[str, str]:
    """`overrides` (fields as on a command line), with those for the data that they name by their root.

    What they set stays as it is. Published weights of the backbone are taken where they can be had. Raises InputError
    as `read_config` and `open_data` do.
    """
    root = Path(overrides["data.root"]).expanduser()
    named = {"name": root.resolve().name, "data.source": "folder"} | overrides
    config = read_config(None, named)
    device = choose_device(config.device)
    facts = _facts(open_data(config).train, device)
    steps = config.optim.steps if "optim.steps" in overrides else None
    chosen = choose(facts, config.preprocess.longest, steps) | {"precision": choose_precision(config.precision, device)}
    told = {name: value if isinstance(value, str) else json.dumps(value) for name, value in chosen.items()}
    if config.init is not None:  # which brings its own network
        return {name: text for name, text in told.items() if not name.startswith("model.")} | named
    told = {"model.pretrained": "true"} | told | named
    if "model.pretrained" not in overrides and not _can_be_had(read_config(None, told)):
        told["model.pretrained"] = "false"
    return told


def choose(facts: Facts, longest: int | None = Preprocess().longest, steps: int | None = None) -> dict[str, Any]:
    """Fields of a configuration for `facts`; longest: the side to which larger images are shrunk in use.

    On a CPU the network and the settings are those of the recipe camvid-r18, on other devices a whole ResNet-50. Scale
    is around that of use. EPOCHS epochs, but at least 500 steps, at most 2,000 on a CPU and 20,000 elsewhere, or the
    `steps` that are asked for; warm-up, moving average and validations follow them.
    """
    cpu = facts.device == "cpu"
    shrunk = min(1.0, longest / max(facts.size)) if longest else 1.0
    seen = [shrunk * side for side in facts.size]
    wanted = 240 * 320 if cpu else 512 * 512
    smaller = min(1.0, (wanted / (seen[0] * seen[1])) ** 0.5)
    crop = [max(MULTIPLE, round(smaller * side / MULTIPLE) * MULTIPLE) for side in seen]
    fitting = 8 if cpu else int(0.5 * facts.memory / (_BYTES_A_PIXEL * crop[0] * crop[1])) or 16
    batch = max(1, min(8 if cpu else 16, fitting, facts.images))
    steps = steps or min(max(500, EPOCHS * facts.images // batch), 2_000 if cpu else 20_000)
    network = {"backbone": "resnet18", "out_indices": [3], "channels": 128} if cpu else {"backbone": "resnet50"}
    return {
        **{f"model.{field}": value for field, value in network.items()},
        "data.crop": crop,
        "data.scale": [round(0.6 * shrunk, 3), round(1.6 * shrunk, 3)],
        "data.photometric": 0.2,
        "data.batch_size": batch,
        "data.workers": 1 if cpu else 4,
        "optim.lr": 1e-3 if cpu else 3e-4,
        "optim.warmup": min(50, steps // 10),
        "optim.ema": min(0.99, max(0.0, round(1 - 5 / steps, 3))),  # of the last fifth of a short run
        "optim.class_weights": "enet",
        "optim.steps": steps,
        "validate_every": max(1, steps // 5),
    }


def _facts(train: Dataset, device: torch.device) -> Facts:
    """Of `train`, by at most LOOKED_AT images, evenly spread."""
    chosen = sorted({round(place) for place in np.linspace(0, len(train) - 1, min(LOOKED_AT, len(train)))})
    sizes = [train.items[place].load()[0].shape[:2] for place in chosen]
    height, width = (int(np.median(side)) for side in zip(*sizes, strict=True))
    memory = torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else 0
    return Facts(len(train), (height, width), device.type, memory)


def _can_be_had(config: RunConfig) -> bool:
    """Whether the backbone's published weights are in the Hub's cache, or can be fetched now."""
    try:
        build_model(config.model)
    except InputError:
        return False
    return True
