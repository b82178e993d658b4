"""Exported models beside the originals: the same path, labels and scores, and what is said of damaged folders."""

import json
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnxruntime.capi.onnxruntime_pybind11_state import Fail
from PIL import Image

import danet
from danet.cli import main
from danet.config import Channels, ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.data.scenes import scene
from danet.data.transforms import normalise
from danet.export import onnx as exporting
from danet.export.onnx import export_onnx
from danet.inference.protocol import Protocol
from danet.weights.bundle import Bundle, load_bundle, save_bundle
from danet.weights.exported import read_exported
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


def test_a_run_beside_it_gives_the_data_and_neither_device_nor_precision(models, tmp_path, capsys):
    folder = Path(shutil.copytree(models / "exported", tmp_path / "street" / "onnx"))
    (folder.parent / "config.yaml").write_text("data: {source: scenes, count: 4}\ndevice: cuda\nprecision: bfloat16\n")
    assert main(["evaluate", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["precision"] == "float32"


def test_an_image_too_large_for_memory_is_named_and_the_rest_goes_on(models, tmp_path, capsys, monkeypatch):
    for name, width in (("large", 200), ("small", 64)):
        Image.fromarray(scene(3, 0, 64, width).image).save(tmp_path / f"{name}.png")
    monkeypatch.setattr(onnxruntime, "InferenceSession", partial(Narrow, onnxruntime.InferenceSession))
    places = [str(tmp_path / f"{name}.png") for name in ("large", "small")]
    assert main(["predict", *places, "--model", str(models / "exported"), "-o", str(tmp_path / "out")]) == 3
    assert "large.png needs more memory than there is; " in " ".join(capsys.readouterr().err.split())
    assert [path.name for path in (tmp_path / "out").glob("*.png") if "large" in path.name] == []
    assert [path.name for path in (tmp_path / "out").glob("small*.png")] != []


class Narrow:
    """A session without memory for wide images."""

    def __init__(self, kind: type[onnxruntime.InferenceSession], *arguments: Any, **options: Any) -> None:
        self.session = kind(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def run(self, names: list[str], inputs: dict[str, np.ndarray]) -> list[Any]:
        if inputs["images"].shape[-1] > 100:
            raise Fail(
                "[ONNXRuntimeError] : 1 : FAIL : Failed to allocate memory for requested buffer of size 50331648"
            )
        return self.session.run(names, inputs)


@pytest.mark.parametrize("asked", [["--device", "cuda"], ["--precision", "bfloat16"]])
def test_ray_is_not_started_for_a_device_or_precision_that_is_not_its_own(asked, models, tmp_path, capsys):
    pytest.importorskip("ray")
    Image.fromarray(scene(3, 0, 64, 64).image).save(tmp_path / "one.png")
    command = ["predict", str(tmp_path), "--engine", "ray", "--model", str(models / "exported")]
    assert main([*command, "-o", str(tmp_path / "out"), *asked]) == 2
    assert f"danet: {asked[0][2:]} is {asked[1]!r}" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


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
        ["serve", "--model", "MODEL", "--port", "0"],
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


@pytest.mark.parametrize("name", ["exported", "exported/model.onnx"])
def test_it_is_no_checkpoint(name, models, tmp_path, capsys):
    assert main(["convert", str(models / name), "-o", str(tmp_path / "new")]) == 2
    assert "is an exported model; give the checkpoint that it came from" in capsys.readouterr().err


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
    altered(labels, files={})
    refused(r"labels\.json: files.*SHA-256 of model\.onnx")
    altered(labels, size=json.loads(told)["size"] | {"longest": 0})
    refused(r"labels\.json: longest")
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


@pytest.mark.parametrize("sizes", [("n", 3, 64, 64), (1, 3, "h", "w"), ("n", 3)])
def test_graphs_of_fixed_sizes_are_refused(sizes, damaged):
    ends = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, (*sizes[:1], width, *sizes[2:]))
        for name, width in (("images", 3), ("logits", 11))
    ]
    weights = onnx.numpy_helper.from_array(np.ones((11, 3, *(1 for _ in sizes[2:])), np.float32), "weights")
    node = onnx.helper.make_node("Conv", ["images", "weights"], ["logits"])
    if len(sizes) == 2:
        node = onnx.helper.make_node("Gemm", ["images", "weights"], ["logits"], transB=1)
    graph = onnx.helper.make_graph([node], "other", ends[:1], ends[1:], [weights])
    opset = onnx.helper.make_opsetid("", 18)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=10), damaged / "model.onnx")
    altered(damaged / "labels.json", files={"model.onnx": exporting.sha256(damaged / "model.onnx")})
    with pytest.raises(danet.InputError, match="of any number and size"):
        danet.load(damaged)


@given(low=st.floats(-1e4, 1e4), width=st.floats(0.5, 1e5), share=st.floats(-0.5, 1.5))
def test_file_values_are_left_as_they_are(low, width, share, models):
    channels = Channels.model_validate({"names": ["nir"], "range": [low, low + width]})
    rule = read_exported(models / "exported").model_copy(update={"channels": channels}).preprocess("labels.json")
    value = low + share * width
    found = normalise(torch.full((1, 1, 1, 1), value), rule.mean, rule.std, rule.range).item()
    assert found == pytest.approx(value, abs=1e-6 * (abs(low) + width))


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
