"""A short run on real streets: the recipe learns, and its model finds roads."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
def test_the_recipe_learns_on_real_images(camvid_root, tmp_path):
    command = [sys.executable, "-m", "danet", "train", "camvid-r18", "--data.root", str(camvid_root), "--json"]
    quick = ["--optim.steps", "80", "--data.crop", "[120, 160]", "--optim.ema", "0", "--validate_every", "80"]
    found = subprocess.run([*command, *quick], cwd=tmp_path, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    scores = json.loads(found.stdout)
    assert scores["pixel_accuracy"] > 0.5  # the most frequent class alone gives 0.3
    assert scores["iou"]["road"] > 0.5
    assert scores["absent"] == []
