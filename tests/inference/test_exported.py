"""Exported models beside the originals: the same path, labels and scores, and what is said of damaged folders."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image

import danet
from danet.cli import main
from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.data.scenes import scene
from danet.export import onnx as exporting
from danet.export.onnx import export_onnx
from danet.inference.protocol import Protocol
from danet.weights.bundle import Bundle, load_bundle, save_bundle
from tests.models.test_contract import network

PROTOCOLS = {
    "whole": Protocol(),
    "windows": Protocol(size="original", crop=(48, 64), stride=(32, 40)),
    "padded windows": Protocol(size="original", crop=(160, 160), stride=(100, 100), edge="pad"),
    "scales": Protocol(size="original", scales=(0.75, 1.5), flip=True, fusion="logits"),
}


def bundle(rule: Preprocess | None = None) -> Bundle:
    """A small DANet on the scenes' classes."""
    rule, space = rule or Preprocess(), LabelSpace.load("scenes")
    settings = {"backbone": "test_resnet", "channels": 16, "in_channels": len(rule.names), "out_indices": (0,)}
    config = ModelConfig(head="danet", num_classes=space.num_classes, **settings)
    return Bundle(network(config), config, space, rule)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the bundle `own`, and `exported`, made of it."""
    folder = tmp_path_factory.mktemp("models")
    save_bundle(folder / "own", bundle())
    export_onnx(folder / "exported", load_bundle(folder / "own"), "own")
    return folder


@pytest.fixture
def damaged(models: Path, tmp_path: Path) -> Path:
    """A copy of `exported`, to be damaged."""
    return Path(shutil.copytree(models / "exported", tmp_path / "damaged"))


@pytest.mark.parametrize("name", PROTOCOLS)
def test_predictions_of_any_protocol_are_the_originals(name, models):
    image = scene(3, 0, 97, 131).image
    own = danet.load(models / "own", "cpu", "float32").predict(image, PROTOCOLS[name])
    found = danet.load(models / "exported").predict(image, PROTOCOLS[name])
    assert torch.allclose(found.probabilities, own.probabilities, atol=1e-5)
    assert (found.labels == own.labels).mean() > 0.999
    assert len(np.unique(own.labels)) > 1


def test_it_is_found_by_its_file_and_called_by_its_folder(models):
    segmenter = danet.load(models / "exported" / "model.onnx")
    assert segmenter.facts.name == "exported"
    assert (segmenter.facts.head, segmenter.facts.backbone) == ("danet", "test_resnet")
    assert segmenter.labels.names == LabelSpace.load("scenes").names
    assert segmenter.labels.colours == LabelSpace.load("scenes").colours
    assert (segmenter.device.type, segmenter.precision) == ("cpu", "float32")


@pytest.mark.parametrize("low", [-300.0, pytest.param(0.0, marks=pytest.mark.slow)])
def test_other_channels_go_in_as_the_file_has_them(low, tmp_path):
    rule = Preprocess.model_validate({"names": ["nir", "green"], "range": [low, 10000], "display": ["green"]})
    own = bundle(rule)
    save_bundle(tmp_path / "own", own)
    export_onnx(tmp_path / "exported", own, "own")
    pixels = np.random.default_rng(1).uniform(low, 10000, (61, 83, 2)).astype(np.float32)
    expected = danet.load(tmp_path / "own", "cpu", "float32")(pixels)
    segmenter = danet.load(tmp_path / "exported")
    assert torch.allclose(segmenter(pixels).probabilities, expected.probabilities, atol=1e-5)
    assert segmenter.preprocess.display == ("green",)
    assert np.array_equal(segmenter(pixels).image, expected.image)


def test_the_command_scores_it_as_the_original(models, capsys):
    told = []
    for name in ("own", "exported/model.onnx"):
        command = ["evaluate", str(models / name), "--data.source", "scenes", "--data.count", "20", "--json"]
        precision = ["--precision", "float32"] if name == "own" else []
        assert main([*command, *precision, "--protocol.crop", "[96, 128]", "--protocol.stride", "[64, 96]"]) == 0
        told.append(json.loads(capsys.readouterr().out))
    own, found = told
    assert found["miou"] == pytest.approx(own["miou"], abs=1e-3)
    assert found["pixel_accuracy"] == pytest.approx(own["pixel_accuracy"], abs=1e-3)
    assert found["sha256"] not in ("", own["sha256"])
    assert (found["model"], found["precision"]) == ("exported", "float32")


def test_the_command_predicts_with_it(models, tmp_path, capsys):
    Image.fromarray(scene(3, 0, 97, 131).image).save(tmp_path / "street.png")
    for name in ("own", "exported"):
        command = ["predict", str(tmp_path / "street.png"), "--model", str(models / name), "-o", str(tmp_path / name)]
        assert main([*command, *(["--precision", "float32"] if name == "own" else [])]) == 0
    capsys.readouterr()
    own, found = (np.asarray(Image.open(next((tmp_path / name).glob("*street*.png")))) for name in ("own", "exported"))
    assert (own == found).mean() > 0.999


@pytest.mark.slow
def test_ray_predicts_with_it(models, tmp_path, capsys):
    Image.fromarray(scene(3, 0, 97, 131).image).save(tmp_path / "street.png")
    command = ["predict", str(tmp_path / "street.png"), "--model", str(models / "exported" / "model.onnx")]
    assert main([*command, "--engine", "ray", "--write", "png", "-o", str(tmp_path / "out")]) == 0
    found = np.asarray(Image.open(next((tmp_path / "out").rglob("*street*.png"))))
    assert np.array_equal(found, danet.load(models / "exported")(tmp_path / "street.png").labels)


def test_info_tells_what_it_is(models, capsys):
    assert main(["info", str(models / "exported"), "--json"]) == 0
    (told,) = json.loads(capsys.readouterr().out).values()
    assert (told["model"], told["precision"], told["attention"]) == ("own", "float32", "blocks")
    assert [one["agreement"] > 0.999 for one in told["parity"]] == [True] * 3


@pytest.mark.parametrize(
    "command",
    [
        ["attend", "IMAGE", "--at", "5,5", "--model", "MODEL"],
        ["convert", "MODEL", "--to", "mmseg", "-o", "NEW"],
        ["export", "--model", "MODEL", "--to", "onnx", "-o", "NEW"],
        ["train", "--init", "MODEL", "--dry-run"],
    ],
)
def test_what_needs_the_original_says_so(command, models, tmp_path, capsys):
    Image.fromarray(scene(3, 0, 64, 64).image).save(tmp_path / "one.png")
    places = {"IMAGE": tmp_path / "one.png", "MODEL": models / "exported", "NEW": tmp_path / "new"}
    assert main([str(places.get(word, word)) for word in command]) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("danet:")]
    assert len(error) == 1
    assert "exported is an exported model" in error[0]
    assert "the run or the bundle" in error[0]
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("asked", "words"), [({"precision": "bfloat16"}, "in float32"), ({"device": "mps"}, "cpu")])
def test_device_and_precision_are_its_own(asked, words, models):
    with pytest.raises(danet.InputError, match=words):
        danet.load(models / "exported", **asked)


def altered(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_damaged_folders_are_told_in_a_line(damaged):
    model, labels = damaged / "model.onnx", damaged / "labels.json"
    whole, told = model.read_bytes(), labels.read_text()

    def refused(words: str) -> None:
        with pytest.raises(danet.InputError, match=words) as caught:
            danet.load(damaged)
        assert "\n" not in str(caught.value)
        model.write_bytes(whole)
        labels.write_text(told)

    model.write_bytes(whole[: len(whole) // 2])
    refused("altered or cut short; copy the folder again")
    altered(labels, files={"model.onnx": "0" * 64})
    refused("altered or cut short")
    altered(labels, files={"model.onnx": json.loads(told)["files"]["model.onnx"], "model.onnx.data": "0" * 64})
    refused("has no model.onnx.data")
    labels.unlink()
    refused("has model.onnx, but no labels.json")
    labels.write_text("{")
    refused("is not JSON")
    labels.write_text("[]")
    refused("none of danet export's")
    altered(labels, precision="int8")
    refused("precision")
    altered(labels, names=["road"], colours=[[1, 2, 3]])
    refused("logits of 1 classes")
    altered(labels, channels=json.loads(told)["channels"] | {"range": [5, 5]})
    refused("range")
    model.write_bytes(b"no graph")
    altered(labels, files={"model.onnx": exporting.sha256(model)})
    refused("ONNX Runtime cannot read")


def test_graphs_of_others_are_refused(damaged, tmp_path):
    graph = onnx.load(damaged / "model.onnx")
    graph.graph.input[0].name = "pixels"
    for node in graph.graph.node:
        for number, name in enumerate(node.input):
            if name == "images":
                node.input[number] = "pixels"
    onnx.save(graph, damaged / "model.onnx")
    altered(damaged / "labels.json", files={"model.onnx": exporting.sha256(damaged / "model.onnx")})
    with pytest.raises(danet.InputError, match=r"has pixels .*it must have float32 images of 3 channels"):
        danet.load(damaged)
    (damaged / "model.onnx").rename(tmp_path / "other.onnx")
    with pytest.raises(danet.InputError, match=r"model\.onnx, with labels\.json beside it"):
        danet.load(tmp_path / "other.onnx")


def test_onnxruntime_may_be_missing(models, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(danet.InputError, match="pip install onnxruntime"):
        danet.load(models / "exported")


def test_a_model_too_large_for_one_file_has_its_tensors_beside(models, tmp_path, monkeypatch):
    monkeypatch.setattr(exporting, "LARGEST", 10_000)
    export_onnx(tmp_path / "large", load_bundle(models / "own"), "own")
    names = ["labels.json", "model.onnx", "model.onnx.data", "run.py"]
    assert sorted(path.name for path in (tmp_path / "large").iterdir()) == names
    image = scene(3, 0, 97, 131).image
    shutil.move(tmp_path / "large", tmp_path / "moved")
    expected = danet.load(models / "exported")(image)
    assert np.array_equal(danet.load(tmp_path / "moved")(image).labels, expected.labels)
    (tmp_path / "moved" / "model.onnx.data").write_bytes(b"short")
    with pytest.raises(danet.InputError, match=r"model\.onnx\.data has SHA-256 .* altered or cut short"):
        danet.load(tmp_path / "moved")
