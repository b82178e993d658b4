"""The networks give what the authors' and mmsegmentation's code gives for the same weights (tests/golden)."""

import pytest
import torch

from danet.models.segmentation import create_model
from danet.weights.layouts import rename
from tests.golden.networks import differences, weights

SETTINGS = {
    "original-danet-r50": dict(backbone="resnet50", multi_grid=(4, 8, 16), align_corners=True),
    "original-dranet-r50": dict(
        head="dranet", backbone="resnet50s", multi_grid=(4, 8, 16), align_corners=True, auxiliary=True
    ),
    "mmseg-danet-r50": dict(backbone="resnet50c", auxiliary=True),
}


def model(name: str, **changes):
    built = create_model(num_classes=19, **SETTINGS[name] | changes)
    built.load_state_dict(rename(weights(name), name.partition("-")[0]))
    return built


@pytest.mark.parametrize("name", SETTINGS)
def test_outputs_agree_with_the_real_implementation(name):
    found = differences(model(name), name, torch.float64)
    assert max(found.values()) < 1e-5, found


@pytest.mark.parametrize("change", [dict(multi_grid=()), dict(channel_rule="paper"), dict(align_corners=False)])
def test_the_golden_outputs_notice_a_wrong_setting(change):
    assert differences(model("original-danet-r50", **change), "original-danet-r50", torch.float32)["fused"] > 1


@pytest.mark.parametrize("change", [dict(multi_grid=()), dict(channel_rule="paper"), dict(align_corners=False)])
def test_so_do_those_of_dranet(change):
    assert differences(model("original-dranet-r50", **change), "original-dranet-r50", torch.float32)["fused"] > 0.5
