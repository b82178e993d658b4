"""The networks give what the authors' and mmsegmentation's code gives for the same weights (tests/golden).

Weights are a function of each tensor's name (golden/fill.py); outputs were computed by the real implementations in
float64 and stored in float32.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from danet.models.layers import resize
from danet.models.segmentation import create_model
from danet.weights.layouts import rename
from tests.golden.fill import fill, image

GOLDEN = Path(__file__).parents[1] / "golden"
SETTINGS = {
    "original-danet-r50": ("original", dict(backbone="resnet50", multi_grid=(4, 8, 16), align_corners=True)),
    "original-dranet-r50": (
        "original",
        dict(head="dranet", backbone="resnet50s", multi_grid=(4, 8, 16), align_corners=True, auxiliary=True),
    ),
    "mmseg-danet-r50": ("mmseg", dict(backbone="resnet50c", auxiliary=True)),
}


def outputs(name: str, dtype: torch.dtype, **changes) -> dict[str, torch.Tensor]:
    """Our logits under the golden file's names: at the input's size for the original's, else at stride 8."""
    layout, settings = SETTINGS[name]
    facts = json.loads((GOLDEN / f"{name}.json").read_text())
    state = {key: torch.from_numpy(np.asarray(fill(key, tuple(shape)))) for key, shape in facts["tensors"]}
    model = create_model(num_classes=19, **settings | changes)
    model.load_state_dict(rename(state, layout))
    model.eval().to(dtype)
    images = torch.from_numpy(image(tuple(facts["input"]))).to(dtype)
    with torch.inference_mode():
        features = model.extract(images)
        head = model.head(features)
        logits = {"fused": head.logits, **head.branches}
        if model.auxiliary is not None:
            logits["aux"] = model.auxiliary(features[:-1]).logits
        if layout == "original":
            logits = {key: resize(value, images.shape[-2:], model.align_corners) for key, value in logits.items()}
            assert torch.equal(logits["fused"], model(images).logits)
    return logits


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-5), (torch.float32, 2e-3)])
@pytest.mark.parametrize("name", SETTINGS)
def test_outputs_agree_with_the_real_implementation(name, dtype, tolerance):
    expected = np.load(GOLDEN / f"{name}.npz")
    found = outputs(name, dtype)
    assert set(found) == set(expected.files)
    for key in expected.files:
        difference = (found[key].double() - torch.from_numpy(expected[key]).double()).abs().max().item()
        assert difference < tolerance, f"{key}: {difference}"


@pytest.mark.parametrize("change", [dict(multi_grid=()), dict(channel_rule="paper"), dict(align_corners=False)])
def test_the_golden_outputs_notice_a_wrong_setting(change):
    expected = np.load(GOLDEN / "original-danet-r50.npz")["fused"]
    found = outputs("original-danet-r50", torch.float32, **change)["fused"]
    assert (found - torch.from_numpy(expected)).abs().max() > 1
