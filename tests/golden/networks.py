"""The golden networks: their weights, and how far a model of ours is from what the real implementations computed.

Weights are a function of each tensor's name (fill.py); outputs were computed in float64 and stored in float32.
"""

import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from danet.models.segmentation import SegmentationModel
from tests.golden.fill import fill, image

GOLDEN = Path(__file__).parent
NETWORKS = ("original-danet-r50", "original-dranet-r50", "mmseg-danet-r50")


def weights(name: str) -> dict[str, Tensor]:
    """The network's state dict, with their names, in their order."""
    tensors = json.loads((GOLDEN / f"{name}.json").read_text())["tensors"]
    return {key: torch.from_numpy(np.asarray(fill(key, tuple(shape)))) for key, shape in tensors}


def differences(model: SegmentationModel, name: str, dtype: torch.dtype) -> dict[str, float]:
    """The largest absolute difference of each of the network's outputs, where `model` computes in `dtype`.

    Outputs are logits: the original's at the input's size, mmsegmentation's at stride 8.
    """
    expected = np.load(GOLDEN / f"{name}.npz")
    shape = json.loads((GOLDEN / f"{name}.json").read_text())["input"]
    images = torch.from_numpy(image(tuple(shape))).to(dtype)
    model = model.eval().to(dtype)
    with torch.inference_mode():
        maps = model.extract(images)
        head = model.head(maps)
        found = {"fused": head.logits, **head.branches}
        if model.auxiliary is not None:
            found["aux"] = model.auxiliary(maps[:-1]).logits
        if name.startswith("original"):
            found = {key: model.enlarge(value, images.shape[-2:]) for key, value in found.items()}
            assert torch.equal(found["fused"], model(images).logits)
    model.float()
    assert set(found) == set(expected.files)
    return {key: (value.double() - torch.from_numpy(expected[key])).abs().max().item() for key, value in found.items()}
