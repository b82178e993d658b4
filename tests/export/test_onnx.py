"""Exported models beside the originals, in ONNX Runtime; run.py in a process that has neither torch nor danet."""

import importlib.util
import json
import resource
import subprocess
import sys
from copy import deepcopy
from dataclasses import replace
from importlib.metadata import distribution
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from packaging.requirements import Requirement
from PIL import Image
from torch import nn

import danet
from danet.cli import main
from danet.config import HEADS, ModelConfig, Preprocess
from danet.data.images import to_rgb
from danet.data.labels import LabelSpace
from danet.data.scenes import scene
from danet.data.transforms import normalise
from danet.errors import InputError
from danet.export import onnx as exporting
from danet.export.attend import FORMS, OPSET
from danet.export.onnx import SIZES, Parity, ParityError, export_onnx, refuse_far, write_model
from danet.models.layers import resize
from danet.models.segmentation import SegmentationModel
from danet.weights.bundle import Bundle, save_bundle
from tests.models.test_contract import network


def config_of(head: str, channels: int = 3) -> ModelConfig:
    """DRANet's fine map apart, one stage is enough: an export takes its time by the operator."""
    indices = (0, 1) if head == "dranet" else (0,)
    settings = {"backbone": "test_resnet", "num_classes": 5, "channels": 16, "in_channels": channels}
    return ModelConfig(head=head, out_indices=indices, **settings)


def model_of(head: str, channels: int = 3) -> SegmentationModel:
    return network(config_of(head, channels))


def bundle_of(model: SegmentationModel, rule: Preprocess) -> Bundle:
    # what is built from it again is the FCN of `model_of`
    return Bundle(model, config_of("fcn", len(rule.names)), LabelSpace("five", ("a", "b", "c", "d", "e")), rule)


def run(path: Path, images: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(["logits"], {"images": images.numpy()})[0])


@pytest.mark.parametrize(
    "head", [head if head == "danet" else pytest.param(head, marks=pytest.mark.slow) for head in HEADS]
)
def test_every_head_at_sizes_that_were_not_traced(head, tmp_path):
    model, rule = model_of(head), Preprocess()
    write_model(tmp_path / "model.onnx", model, rule, "float32")
    written = onnx.load(tmp_path / "model.onnx")
    onnx.checker.check_model(written, full_check=True)
    assert [(one.domain, one.version) for one in written.opset_import] == [("", OPSET)]
    assert not written.functions
    for count, *size in ((2, 71, 95), (1, 33, 47), (3, 64, 40), (1, 32, 32)):
        images = torch.rand(count, 3, *size, generator=torch.Generator().manual_seed(1)) * 255
        with torch.no_grad():
            expected = model(normalise(images, rule.mean, rule.std)).logits
        found = run(tmp_path / "model.onnx", images)
        assert found.dtype == torch.float32
        assert found.shape == expected.shape
        assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


PEAK = """
import sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
logits = session.run(["logits"], {"images": numpy.load(sys.argv[2])})[0]
numpy.save(sys.argv[3], logits)
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read from /proc")
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_by_blocks_the_map_is_never_whole(precision, tmp_path):
    model, peaks, logits = model_of("danet"), [], []
    images = torch.rand(1, 3, 381, 384, generator=torch.Generator().manual_seed(1)) * 255  # 96×96 places
    np.save(tmp_path / "images.npy", images.numpy())
    for form in FORMS:
        path, output = tmp_path / f"{form}.onnx", tmp_path / f"{form}.npy"
        write_model(path, model, Preprocess(), precision, form)
        command = [sys.executable, "-c", PEAK, path, tmp_path / "images.npy", output]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
        peaks.append(int(done.stdout) // 1024)
        logits.append(np.load(output))
    blocks, whole = peaks
    assert whole - blocks > 200  # MB: the map has 9,216 × 9,216 entries of 4 bytes
    assert np.abs(logits[0] - logits[1]).max() <= {"float32": 1e-5, "float16": 1e-2}[precision] * np.abs(logits).max()


def test_a_graph_of_torch_export_takes_sizes_whose_products_onednn_would_make():
    module, free = danet.ChannelAttention().eval(), torch.export.Dim.DYNAMIC
    nn.init.constant_(module.gate, 0.5)
    sizes = ({2: free, 3: free},)
    with torch.no_grad():
        program = torch.export.export(module, (torch.ones(1, 16, 8, 8),), dynamic_shapes=sizes, strict=False)
        features = torch.randn(1, 16, 512, 256, generator=torch.Generator().manual_seed(1)) / 100
        assert torch.allclose(program.module()(features), module(features), atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["test_convnext", "test_vit"])
def test_backbones_of_other_kinds(backbone, tmp_path):
    model = network(ModelConfig(head="danet", backbone=backbone, num_classes=5, channels=16))
    assert len(export_onnx(tmp_path / "new", bundle_of(model, Preprocess()), "one")) == len(SIZES)


@pytest.mark.slow
def test_images_of_other_channels(tmp_path):
    rule = Preprocess.model_validate({"names": ["red", "green", "blue", "nir"], "range": [0, 65535]})
    parity = export_onnx(tmp_path / "new", bundle_of(model_of("danet", 4), rule), "one")
    assert max(one.largest_difference for one in parity) < 1e-4
    image = tmp_path / "image.png"
    Image.new("RGB", (64, 64)).save(image)
    done = alone(tmp_path / "new", image, tmp_path / "site")
    assert done.returncode == 1
    assert "nir" in done.stderr


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """street-tiny as the command writes it."""
    folder = tmp_path_factory.mktemp("exported") / "street"
    assert main(["export", "--to", "onnx", "-o", str(folder), "--json"]) == 0
    return folder


def test_the_folder_explains_itself(exported):
    assert sorted(path.name for path in exported.iterdir()) == ["labels.json", "model.onnx", "run.py"]
    assert [path.name for path in exported.parent.iterdir()] == ["street"]
    facts, segmenter = json.loads((exported / "labels.json").read_text()), danet.load(device="cpu")
    assert facts["names"] == list(segmenter.labels.names)
    assert facts["colours"] == [list(colour) for colour in segmenter.labels.colours]
    assert facts["size"]["longest"] == segmenter.preprocess.longest
    assert facts["opset"] == onnx.load(exported / "model.onnx").opset_import[0].version
    assert facts["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert [(one["height"], one["width"], one["images"]) for one in facts["parity"]] == [(*size, 3) for size in SIZES]
    assert any(height % 2 and width % 2 for height, width in SIZES)
    for one in facts["parity"]:
        assert 0 < one["largest_difference"] < 1e-3
        assert one["agreement"] > 0.999
    assert len((exported / "run.py").read_text().splitlines()) <= 80


def alone(folder: Path, image: Path, site: Path) -> subprocess.CompletedProcess[str]:
    """run.py in a process that finds numpy, Pillow, onnxruntime and what these need, and nothing else."""
    if not site.is_dir():
        site.mkdir()
        wanted, seen = ["numpy", "pillow", "onnxruntime"], set()
        while wanted:
            if (name := wanted.pop()) in seen:
                continue
            seen.add(name)
            found = distribution(name)
            needs = [Requirement(text) for text in found.requires or ()]
            wanted += [need.name for need in needs if need.marker is None or need.marker.evaluate({"extra": ""})]
            for top in {file.parts[0] for file in found.files or () if file.parts[0] not in ("..", "__pycache__")}:
                link = site / top
                if not link.exists():
                    link.symlink_to(Path(str(found.locate_file(top))).resolve())
    code = (
        "import importlib.util, runpy, sys; sys.path.append(sys.argv[1]); sys.argv = sys.argv[2:]; "
        "assert not any(map(importlib.util.find_spec, ('torch', 'torchvision', 'danet', 'onnx'))); "
        "runpy.run_path(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-I", "-S", "-c", code, str(site), str(folder / "run.py"), str(image)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("size", [(97, 131), (300, 1300)])
def test_run_py_gives_the_segmenters_labels(size, exported, tmp_path):
    image, segmenter = tmp_path / "street.png", danet.load(device="cpu", precision="float32")
    Image.fromarray(scene(3, 0, *size).image).save(image)
    done = alone(exported, image, tmp_path / "site")
    assert (done.returncode, done.stderr) == (0, "")
    path = tmp_path / "street-labels.png"
    assert done.stdout.strip() == str(path)
    with Image.open(path) as picture:
        assert picture.mode == "P"
        assert picture.getpalette()[: 3 * len(segmenter.labels.names)] == list(sum(segmenter.labels.colours, ()))
        agree = (np.asarray(picture) == segmenter(image).labels).mean()
    # torch and Pillow round a thousandth of the shrunk image's values to either side
    assert agree == 1 if max(size) <= 1024 else agree > 0.9995
    before = path.read_bytes()
    again = alone(exported, image, tmp_path / "site")
    assert (again.returncode, again.stderr.count("\n")) == (1, 1)
    assert f"{path} exists" in again.stderr
    assert path.read_bytes() == before
    assert sorted(one.name for one in tmp_path.iterdir()) == ["site", "street-labels.png", "street.png"]


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_run_py_says_in_a_line_what_is_no_image(content, exported, tmp_path):
    image = tmp_path / "street.png"
    if content is not None:
        image.write_bytes(content)
    done = subprocess.run([sys.executable, exported / "run.py", image], capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)
    assert str(image) in done.stderr


@pytest.fixture
def script(exported: Path) -> ModuleType:
    """run.py as a module."""
    spec = importlib.util.spec_from_file_location("exported_run", exported / "run.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pictures() -> dict[str, Image.Image]:
    colours = Image.fromarray(scene(1, 0, 40, 56).image)
    clear = colours.copy()
    clear.putalpha(120)
    palette = colours.quantize(16)
    palette.info["transparency"] = 3
    grey = Image.fromarray((np.arange(40 * 56, dtype=np.uint16) * 29).reshape(40, 56))
    return {
        "RGB": colours,
        "RGBA": clear,
        "P": palette,
        "L": colours.convert("L"),
        "1": colours.convert("1"),
        "16": grey,
    }


@pytest.mark.parametrize("mode", pictures())
def test_run_py_reads_as_danet_does(mode, script, tmp_path):
    path, exif = tmp_path / "one.png", Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    pictures()[mode].save(path, exif=exif)
    with Image.open(path) as image:
        expected = to_rgb(image)
    found = np.asarray(script.read(path))
    assert found.shape == (56, 40, 3)
    assert np.array_equal(found, expected)


@pytest.mark.parametrize("align_corners", [False, True])
def test_run_py_enlarges_as_danet_does(align_corners, script, monkeypatch):
    logits, size = torch.randn(5, 33, 40, generator=torch.Generator().manual_seed(2)), torch.Size((97, 130))
    expected = resize(logits[None], size, align_corners)[0].argmax(0).numpy()
    monkeypatch.setitem(script.SIZE, "align_corners", align_corners)
    assert (script.labels(logits.numpy(), 130, 97) == expected).mean() > 0.999
    monkeypatch.setitem(script.SIZE, "align_corners", not align_corners)
    assert (script.labels(logits.numpy(), 130, 97) == expected).mean() < 0.99
    same = logits.argmax(0).numpy()
    assert np.array_equal(script.labels(logits.numpy(), 40, 33), same)
    assert not script.labels(np.zeros((3, 33, 40), np.float32), 130, 97).any()  # the first of equal ones, as argmax


def test_what_differs_from_the_original_is_not_kept(tmp_path, monkeypatch, capsys):
    def altered(path: Path, model: SegmentationModel, *others) -> None:
        model = deepcopy(model)
        with torch.no_grad():
            model.head.classifier.bias[0] += 0.01
        write_model(path, model, *others)

    save_bundle(tmp_path / "model", bundle_of(model_of("fcn"), Preprocess()))
    monkeypatch.setattr(exporting, "write_model", altered)
    assert main(["export", "--model", str(tmp_path / "model"), "--to", "onnx", "-o", str(tmp_path / "new")]) == 1
    error = [line for line in capsys.readouterr().err.splitlines() if "differ" in line]
    assert len(error) == 1
    assert "by up to 0.01" in error[0]
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_leaves_no_folder(tmp_path, capsys):
    save_bundle(tmp_path / "model", bundle_of(model_of("fcn"), Preprocess()))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, before[1]))
    try:
        code = main(["export", "--model", str(tmp_path / "model"), "--to", "onnx", "-o", str(tmp_path / "new")])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert code == 2
    assert f"{tmp_path / 'new'} cannot be written (File too large)" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize(
    ("difference", "agreement", "precision", "refused"),
    [
        (0.9e-3, 1, "float32", False),
        (1.1e-3, 1, "float32", True),
        (0, 0.9989, "float32", True),
        (float("nan"), 1, "float32", True),
        (0.2, 0.9991, "float16", False),
        (0.2, 0.9989, "float16", True),
    ],
)
def test_tolerance(difference, agreement, precision, refused):
    parity = [Parity(32, 32, 3, 0, 1), Parity(33, 35, 3, difference, agreement)]
    if not refused:
        refuse_far(parity, precision)
        return
    with pytest.raises(ParityError, match="At 35×33 pixels"):
        refuse_far(parity, precision)


@pytest.mark.parametrize("form", FORMS)
def test_attention_in_the_form_that_was_asked_for(form, tmp_path):
    bundle = replace(bundle_of(model_of("pam"), Preprocess()), model_config=config_of("pam"))
    save_bundle(tmp_path / "model", bundle)
    command = ["export", "--model", str(tmp_path / "model"), "--to", "onnx", "-o", str(tmp_path / "new")]
    assert main([*command, "--attention", form]) == 0
    assert json.loads((tmp_path / "new" / "labels.json").read_text())["attention"] == form
    looped = "Loop" in {node.op_type for node in onnx.load(tmp_path / "new" / "model.onnx").graph.node}
    assert looped == (form == "blocks")


def test_float16_keeps_the_labels(tmp_path):
    assert main(["export", "--to", "onnx", "-o", str(tmp_path / "half"), "--precision", "float16"]) == 0
    facts = json.loads((tmp_path / "half" / "labels.json").read_text())
    assert all(one["agreement"] > 0.999 for one in facts["parity"])
    written = onnx.load(tmp_path / "half" / "model.onnx")
    kinds = [one.data_type for one in written.graph.initializer if len(one.dims) == 4]
    assert set(kinds) == {onnx.TensorProto.FLOAT16}


def test_an_operator_that_cannot_be_exported_is_named(tmp_path):
    class Bessel(nn.Module):
        def forward(self, features):
            return torch.special.bessel_j0(features)

    model = model_of("fcn")
    model.head.layers.append(Bessel())
    with pytest.raises(InputError, match=r"model: No ONNX function found for .*bessel_j0[^;]*>; use another backbone"):
        export_onnx(tmp_path / "new", bundle_of(model, Preprocess()), "one")
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_replaced(tmp_path, capsys):
    (tmp_path / "own.txt").write_text("mine")
    assert main(["export", "--to", "onnx", "-o", str(tmp_path)]) == 2
    assert f"{tmp_path} exists" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["own.txt"]


@pytest.mark.parametrize("package", ["onnx", "onnxscript", "onnxruntime"])
def test_a_missing_package_is_one_line(package, tmp_path, monkeypatch, capsys):
    for name in ("attend", "onnx"):
        monkeypatch.delitem(sys.modules, f"danet.export.{name}")
    monkeypatch.setitem(sys.modules, package, None)
    assert main(["export", "--to", "onnx", "-o", str(tmp_path / "new")]) == 2
    assert "pip install 'danet[export]'" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
