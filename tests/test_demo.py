"""The demo: a network that cannot see far, and what it learns all the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from danet import demo
from danet.config import read_config
from danet.console import Screen
from danet.models.segmentation import build_model


def test_the_demos_network_sees_131_pixels_without_attention():
    torch.manual_seed(0)
    model = build_model(read_config("demo", {"model.head": "fcn"}).model).double().eval()
    for parameter in model.parameters():
        if parameter.ndim == 1 and not parameter.any():
            torch.nn.init.constant_(parameter, 0.5)  # timm's residual blocks start as identities
    images = torch.randn(1, 3, 192, 256, dtype=torch.float64, requires_grad=True)
    model.head(model.extract(images)).logits[0, 0, 12, 16].backward()
    seen = images.grad.abs().sum((0, 1))
    rows, columns = (seen.sum(axis).nonzero().flatten() for axis in (1, 0))
    extent = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
    assert max(extent) <= 131
    assert min(extent) >= 120


@pytest.mark.parametrize(("seconds", "heads"), [(0.1, ["danet", "fcn"]), (0.4, ["danet"])])
def test_where_time_is_short_danet_has_all_of_it(monkeypatch, tmp_path, seconds, heads):
    trained, shown = [], []
    monkeypatch.setattr(demo, "seconds_per_step", lambda config, classes: seconds)
    monkeypatch.setattr(demo, "read_data", lambda *_: None)
    monkeypatch.setattr(demo, "train", lambda config, **_: trained.append(config) or [])
    monkeypatch.setattr(demo, "report_runs", lambda folders, path, *_: shown.extend(folders) or {})
    path, _ = demo.demo(Screen(), tmp_path)
    assert path == tmp_path / "demo-1" / "report.html"
    assert [config.model.head for config in trained] == heads
    assert shown == [demo.NAMES[head] for head in heads]
    steps = {config.optim.steps for config in trained}
    assert len(steps) == 1
    assert steps.pop() * seconds * len(heads) < demo.BUDGET


def test_a_second_demo_takes_another_folder(monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "seconds_per_step", lambda config, classes: 0.1)
    monkeypatch.setattr(demo, "read_data", lambda *_: None)
    monkeypatch.setattr(demo, "train", lambda config, **_: [])
    monkeypatch.setattr(demo, "report_runs", lambda folders, path, *_: {})
    (tmp_path / "demo-1").mkdir()
    assert demo.demo(Screen(), tmp_path)[0] == tmp_path / "demo-2" / "report.html"


@pytest.mark.slow
def test_the_demo_reaches_half_and_leaves_a_report(tmp_path):
    command = [sys.executable, "-m", "danet", "demo", "--json"]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    result = json.loads(found.stdout)
    assert " left" in found.stderr
    assert set(result["scores"]) == {"DANet", "FCN"} or "Training DANet on" in found.stderr
    assert result["scores"]["DANet"]["miou"] >= 0.5
    assert result["scores"]["DANet"]["context"] is not None
    report = (tmp_path / result["report"]).read_text()
    assert report.count("<img") > 10
    assert "position gate α" in report
    assert all(name in report for name in ("bicyclist", "Context score", "commit", "torch"))
    assert Path(tmp_path / "runs/demo-1/danet/best/model.safetensors").is_file()
