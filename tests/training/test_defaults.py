"""Training on one's own data without a recipe."""

import json

import pytest
import yaml
from huggingface_hub import constants

from danet.cli import main
from danet.config import RunConfig, read_config
from danet.errors import InputError
from danet.training.defaults import Facts, choose, own_config
from danet.training.start import resolve

OWN = {"model.pretrained": "false"}


@pytest.fixture(autouse=True)
def no_hub(monkeypatch, tmp_path):
    """A Hub that nobody answers for, and an empty cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        (Facts(367, (360, 480), "cpu"), {"crop": [256, 320], "scale": [0.6, 1.6], "batch_size": 8, "steps": 2000}),
        (Facts(5, (40, 48), "cpu"), {"crop": [32, 64], "scale": [0.6, 1.6], "batch_size": 5, "steps": 500}),
        (Facts(80, (3024, 4032), "cpu"), {"crop": [256, 320], "scale": [0.152, 0.406], "batch_size": 8, "steps": 600}),
        (
            Facts(3000, (1024, 2048), "cuda", 24 << 30),
            {"crop": [352, 736], "scale": [0.3, 0.8], "batch_size": 4, "steps": 20000},
        ),
        (Facts(3000, (512, 512), "mps"), {"crop": [512, 512], "scale": [0.6, 1.6], "batch_size": 16, "steps": 11250}),
    ],
)
def test_settings_follow_from_sizes_number_and_device(facts, expected):
    chosen = choose(facts)
    assert {name: chosen[f"{'optim' if name == 'steps' else 'data'}.{name}"] for name in expected} == expected
    assert chosen["model.backbone"] == ("resnet18" if facts.device == "cpu" else "resnet50")
    assert chosen["validate_every"] == expected["steps"] // 5


@pytest.mark.parametrize(
    ("steps", "warmup", "average"), [(None, 50, 0.99), (5000, 50, 0.99), (30, 3, 0.833), (4, 0, 0.0)]
)
def test_a_run_of_few_steps_is_still_a_run(steps, warmup, average):
    chosen = choose(Facts(24, (96, 128), "cpu"), steps=steps)
    assert (chosen["optim.warmup"], chosen["optim.ema"]) == (warmup, average)
    assert chosen["validate_every"] == max(1, chosen["optim.steps"] // 5)


def test_a_root_is_all_that_must_be_named(own_data):
    config = own_config({"data.root": str(own_data), "device": "cpu", **OWN})
    assert (config.name, config.data.source, config.data.root) == ("own", "folder", str(own_data))
    assert (config.data.crop, config.data.batch_size, config.optim.steps) == ((64, 64), 8, 500)
    assert config.precision in ("float32", "bfloat16")
    assert read_config(None, {"data.root": "x"}).data.source == "scenes"


def test_what_is_said_stays(own_data):
    said = {"name": "mine", "data.crop": "[32, 32]", "optim.steps": "3", "model.backbone": "resnet34", "device": "cpu"}
    config = own_config({"data.root": str(own_data), "precision": "float32", **said, **OWN})
    assert (config.name, config.data.crop, config.optim.steps) == ("mine", (32, 32), 3)
    assert (config.optim.warmup, config.optim.ema) == (0, 0.0)
    assert (config.model.backbone, config.precision) == ("resnet34", "float32")
    with pytest.raises(InputError, match=r"no key optim\.stepz\. Did you mean optim\.steps"):
        own_config({"data.root": str(own_data), "optim.stepz": "3", **OWN})
    with pytest.raises(InputError, match="nowhere does not exist"):
        own_config({"data.root": "nowhere", **OWN})


def test_without_the_hub_training_starts_from_scratch_at_once(own_data):
    config = own_config({"data.root": str(own_data), "device": "cpu"})
    assert config.model.pretrained is False
    assert not constants.HF_HUB_OFFLINE


def test_from_a_bare_folder_to_a_model_in_two_commands(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (own_data / "labels.yaml").unlink()
    assert main(["data", "init", str(own_data), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["classes"], found["images"]) == (["class 0", "class 1", "class 2"], {"train": 8, "val": 2})
    said = ["--data.root", str(own_data), "--device", "cpu", "--precision", "float32", "--data.workers", "0"]
    assert main(["train", *said, "--optim.steps", "2", "--data.crop", "[32, 32]"]) == 0
    told = capsys.readouterr()
    assert "mean IoU" in told.out
    assert "The published weights of resnet18 cannot be had, so training starts from scratch" in told.err
    resolved = yaml.safe_load((tmp_path / "runs" / "own" / "config.yaml").read_text())
    assert resolved["optim"]["ema"] == 0.0
    assert "batch_size: 8" in told.err
    assert main(["train", *said, "--print_config"]) == 0
    assert RunConfig.model_validate(yaml.safe_load(capsys.readouterr().out)).data.crop == (64, 64)
    assert main(["data", "init", str(own_data)]) == 2


def test_an_ablation_of_own_data_has_their_settings(own_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    said = ["--data.root", str(own_data), "--device", "cpu", "--precision", "float32", "--data.workers", "0"]
    assert main(["ablate", *said, "--heads", "fcn,danet", "--seeds", "0", "--optim.steps", "2"]) == 0
    for head in ("fcn", "danet"):
        config = read_config(tmp_path / "runs" / "own" / f"{head}-seed-0" / "config.yaml")
        assert (config.data.source, config.model.head, config.model.backbone) == ("folder", head, "resnet18")
        assert (config.data.crop, config.optim.steps) == ((64, 64), 2)


def test_own_data_from_a_model_take_its_network(own_data, tiny_folder):
    config = resolve(own_config({"data.root": str(own_data), "init": str(tiny_folder)}))
    assert (config.model.backbone, config.model.channels, config.model.out_indices) == ("resnet18", 8, (2,))
    assert not config.model.pretrained
    assert config.optim.head_factor == 10
