"""Models by name: what a name stands for, and the one that comes with the package."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from danet.cli import main
from danet.config import read_config
from danet.data.dataset import Dataset
from danet.data.scenes import far_from_things, scene
from danet.data.sources import scenes
from danet.errors import InputError
from danet.evaluation.context import context_scores
from danet.evaluation.evaluate import evaluate
from danet.inference.segmenter import load
from danet.models.attention import gates
from danet.weights.bundle import CARD, CONFIG, WEIGHTS
from danet.weights.zoo import DEFAULT, embedded, find_bundle


def test_a_folder_comes_before_a_name(tiny_folder, tmp_path, monkeypatch):
    assert find_bundle(tiny_folder) == tiny_folder
    run = tmp_path / "run"
    shutil.copytree(tiny_folder, run / "best")
    assert find_bundle(str(run)) == run / "best"
    assert find_bundle(DEFAULT).parent.name == "weights"
    monkeypatch.chdir(tmp_path)
    shutil.copytree(tiny_folder, tmp_path / DEFAULT)
    assert find_bundle(DEFAULT) == Path(DEFAULT)
    assert load(run).labels.names == load(DEFAULT).labels.names == ("road", "car", "tree")


@pytest.mark.parametrize("name", ["strete-tiny", "street.png"])
def test_an_unknown_name_is_one_line(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("street.png").touch()
    with pytest.raises(InputError, match=rf"^{name} is no folder, and no model .* \(street-tiny\); give .*$"):
        find_bundle(name)


def test_a_run_without_a_model_says_how_to_go_on(tmp_path):
    (tmp_path / "config.yaml").touch()
    with pytest.raises(InputError, match="has validated no model yet; go on with: danet train --resume"):
        find_bundle(tmp_path)


def test_street_tiny_is_small_and_says_what_it_is():
    folder = find_bundle(DEFAULT)
    assert embedded() == [DEFAULT]
    assert (folder / WEIGHTS).stat().st_size <= 8 * 2**20
    assert {t.dtype for t in load_file(folder / WEIGHTS).values() if t.is_floating_point()} == {torch.float16}
    config, card = json.loads((folder / CONFIG).read_text()), (folder / CARD).read_text()
    recipe = read_config(DEFAULT)
    assert config["model"] == recipe.model.model_copy(update={"num_classes": 11}).model_dump(mode="json")
    assert config["preprocess"] == recipe.preprocess.model_dump(mode="json")
    assert "+" not in config["provenance"]["danet"], "trained by uncommitted code"
    assert "a toy, trained on drawn streets alone" in card
    for branch, sign in (("position", "α"), ("channel", "β")):
        assert f"{branch} {sign}: {gates(load(DEFAULT).model)[branch]:.3f}" in card
    for name in ("miou", "context", "majority", "follows", "control"):
        assert f"{name}: {config['scores'][name]}" in card


def test_street_tiny_follows_what_stands_far_away():
    """Eight streets that nothing was ever trained or chosen on, and their twins."""
    segmenter = load(DEFAULT, "cpu", "float32")
    streets = [scene(3, index, twin=twin) for index in range(8) for twin in (False, True)]
    far = [(segmenter(street.image).labels == street.labels)[far_from_things(street.labels)] for street in streets]
    assert sum(right.sum() for right in far) / sum(right.size for right in far) > 0.8


@pytest.mark.slow
def test_the_scores_in_street_tiny_s_card_are_its_own():
    segmenter = load(DEFAULT, "cpu", "float32")
    fresh, twins, control = (Dataset(*scenes(split, 100, 192, 256, seed=1)) for split in ("val", "twins", "control"))
    kept = json.loads((find_bundle(DEFAULT) / CONFIG).read_text())["scores"]
    assert evaluate(segmenter, fresh).scores.miou == pytest.approx(kept["miou"], abs=2e-3)
    for name, value in context_scores(segmenter, fresh, twins, control)._asdict().items():
        assert value == pytest.approx(kept[name], abs=2e-3), name


def test_without_a_model_commands_take_street_tiny_and_say_so(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(scene(3, 0, 96, 128).image).save("street.png")
    for command in (
        ("predict", "street.png"),
        ("attend", "street.png", "--at", "60,80", "--html", "street.html"),
        ("evaluate", "--data.count", "10"),
    ):
        assert main([*command, "--json"]) == 0
        said = capsys.readouterr()
        assert "a toy trained on drawn streets" in said.err
        json.loads(said.out)
    assert main(["predict", "street.png", "--model", DEFAULT]) == 0
    assert "toy" not in capsys.readouterr().err
    assert Path("predictions/street.json").is_file()
    assert Path("street.html").is_file()
