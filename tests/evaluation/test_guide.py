"""The guide's commands, run as they stand on a small run and a small Cityscapes; and what its tables name."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.evaluation.evaluate import ImageScore
from danet.evaluation.folder import PARTS, REPORT
from danet.evaluation.submission import SERVERS
from danet.inference.protocol import PROTOCOLS
from danet.models.segmentation import build_model
from danet.weights.bundle import Bundle, save_bundle
from tests.evaluation.test_submission import write_cityscapes

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "evaluate.md").read_text(encoding="utf-8")


def test_the_guide_names_every_preset_file_and_server():
    for name, (_, text) in PROTOCOLS.items():
        assert f"| `{name}` | {text} |\n" in GUIDE
    for name in (*PARTS, REPORT, *SERVERS):
        assert f"`{name}`" in GUIDE
    for server in SERVERS.values():
        place = re.sub(r"\{(\w+)\}", r"<\1>", server.place).replace("<stem>", "<image>")
        assert place.replace("<image>_pred", "<city>_<sequence>_<frame>_pred") in GUIDE
    assert ImageScore._fields == ("name", "pixel_accuracy", "miou", "loss", "pixels")  # as images.csv's row tells


@pytest.mark.slow
def test_the_guides_commands_run(tmp_path: Path):
    """In a folder whose name is no single word of a shell, and no single cell of a CSV without quotes."""
    tmp_path = tmp_path / "a, b"
    space = LabelSpace.load("cityscapes")
    write_cityscapes(tmp_path / "cityscapes", np.array([*space.ids, 0], np.uint8))
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18", out_indices=(1,), channels=8, num_classes=19)
    save_bundle(tmp_path / "runs/city/best", Bundle(build_model(config), config, space, Preprocess(), {}, {}))
    root = tmp_path / "cityscapes"
    (tmp_path / "runs/city/config.yaml").write_text(
        f"name: city\nprecision: float32\ndevice: cpu\ndata: {{source: cityscapes, root: '{root}'}}\n"
    )
    examples = re.findall(r"```(sh|python)\n(.*?)```", GUIDE, re.DOTALL)
    assert [kind for kind, _ in examples] == ["sh", "sh", "python", "sh", "sh"]
    for kind, text in examples:
        text = re.sub("^danet ", "python -m danet ", text, flags=re.MULTILINE)
        text = re.sub("^python ", f"{sys.executable} ", text, flags=re.MULTILINE)
        command = ["sh", "-e", "-c"] if kind == "sh" else [sys.executable, "-c"]
        done = subprocess.run([*command, text], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    reports = [(tmp_path / name / REPORT).is_file() for name in ("city-ms", "city-own")]
    assert reports == [True, True]
    assert len(list((tmp_path / "city-sent").iterdir())) == 2
    assert len(list((tmp_path / "worst").glob("*-overlay.png"))) == 2
