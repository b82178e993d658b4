"""`danet convert`: published files give the published outputs; what a file does not tell is asked for, not guessed."""

import argparse
import json
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from danet.cli import main
from danet.config import Channels, ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.models.segmentation import build_model, create_model
from danet.weights.bundle import CONFIG, WEIGHTS, Bundle, load_bundle
from danet.weights.configuration import read_configuration, read_name
from danet.weights.convert import ORIGINAL_SETTINGS, SETTINGS, architecture, convert, export, settle
from danet.weights.layouts import LAYOUTS, rename
from danet.weights.resnets import RESNETS
from danet.weights.zoo import DEFAULT
from tests.golden.networks import differences, weights
from tests.weights.server import Server

CONFIGURATION = """
norm_cfg = dict(type='SyncBN', requires_grad=True)
crop_size = (512, 1024)
model = dict(
    type='EncoderDecoder',
    pretrained='open-mmlab://resnet50_v1c',
    backbone=dict(type='ResNetV1c', depth=50, dilations=(1, 1, 2, 4), strides=(1, 2, 1, 1), contract_dilation=True),
    decode_head=dict(type='DAHead', in_channels=2048, align_corners=False, loss_decode=dict(**{'loss_weight': 1.0})))
img_norm_cfg = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
train_pipeline = [dict(type='Resize', ratio_range=(0.5, 2.0))]
work_dir = __import__('os').mkdir('trace')
"""
ORIGINAL = {"best_pred": np.float64(79.9), "args": argparse.Namespace(backbone="resnet50"), "optimizer": {"state": {}}}
FILES = {
    "original-danet-r50": ("module.", ORIGINAL),
    "original-dranet-r50": ("", ORIGINAL),
    "mmseg-danet-r50": ("", {"meta": {"config": CONFIGURATION, "CLASSES": None}}),
}


@pytest.fixture(scope="module", params=FILES)
def published(request, tmp_path_factory):
    """A published network's name, its weights, and the bundle that the command line makes of its file."""
    folder, state = tmp_path_factory.mktemp("published"), weights(request.param)
    prefix, beside = FILES[request.param]
    path = folder / "network.pth.tar"
    torch.save({"epoch": 3, "state_dict": {prefix + key: value for key, value in state.items()}, **beside}, path)
    assert main(["convert", str(path), "-o", str(folder / "bundle")]) == 0
    return request.param, state, load_bundle(folder / "bundle")


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-3), (torch.float64, 1e-5)])
def test_published_files_give_the_published_outputs(published, dtype, tolerance):
    name, _, bundle = published
    found = differences(bundle.model, name, dtype)
    assert max(found.values()) < tolerance, found


def test_published_files_come_back_bit_for_bit(published):
    name, state, bundle = published
    back = export(bundle, name.partition("-")[0])["state_dict"]
    assert back.keys() == state.keys()
    assert all(back[key].shape == value.shape and torch.equal(back[key], value) for key, value in state.items())


def test_what_a_published_file_tells_is_kept(published):
    name, _, bundle = published
    config, told = bundle.model_config, "by the configuration in the file"
    if name.startswith("original"):
        told = "as the original has it"
        assert (config.multi_grid, config.output_stride, config.align_corners) == ((4, 8, 16), 8, True)
    else:
        assert (config.multi_grid, config.output_stride, config.align_corners) == ((), 8, False)
    assert bundle.provenance["multi_grid"].endswith(told)
    assert bundle.provenance["converted from"] == "network.pth.tar"
    assert config.auxiliary == ("danet" not in name or name.startswith("mmseg") or "dranet" in name)
    assert bundle.labels == LabelSpace.load("cityscapes")
    assert bundle.preprocess == Preprocess(longest=2048)


@pytest.fixture
def small(tmp_path):
    """A small network, its labels, and a function that writes it as a checkpoint in a layout."""
    torch.manual_seed(0)
    model = create_model("danet", "resnet18", 3, channels=8, output_stride=32, multi_grid=(2, 3), align_corners=True)
    torch.nn.init.constant_(model.head.position.gate, 0.5)
    (tmp_path / "labels.yaml").write_text("names: [road, car, tree]\n")

    def write(layout="original", name="small.pth", change=lambda state: state, **beside):
        state = rename(model.state_dict(), layout, reverse=True)
        torch.save({"state_dict": change(state), **beside}, tmp_path / name)
        return tmp_path / name

    write.model, write.labels, write.folder = model.eval(), tmp_path / "labels.yaml", tmp_path
    write.settings = dict(labels=write.labels, multi_grid=(2, 3), output_stride=32, align_corners=True)
    return write


@pytest.mark.parametrize("layout", ["original", "mmseg"])
def test_the_tag_of_the_weights_that_a_network_began_with_is_no_obstacle(layout, small):
    bundle = convert(small(), **small.settings)
    tagged = replace(bundle, model_config=bundle.model_config.model_copy(update={"backbone": "resnet18.tv_in1k"}))
    torch.save(export(tagged, layout), small.folder / "own.pth")
    assert convert(small.folder / "own.pth", labels=small.labels).model_config == bundle.model_config


@pytest.mark.parametrize("layout", ["original", "mmseg"])
def test_a_bundle_goes_to_a_checkpoint_and_back_without_any_option(layout, small, capsys, monkeypatch):
    monkeypatch.chdir(small.folder)
    assert main(["convert", str(small(layout)), "--labels", "labels.yaml", "--multi-grid", "2,3", "--output-stride",
                 "32", "--align-corners", "true", "-o", "one", "--json"]) == 0  # fmt: skip
    facts = json.loads(capsys.readouterr().out)
    assert facts["bundle"] == "one"
    assert facts["provenance"]["multi_grid"] == "2, 3, as asked for"
    assert facts["model"]["multi_grid"] == [2, 3]
    assert main(["convert", "one", "--to", layout, "-o", "out/back.pth"]) == 0
    assert main(["convert", "out/back.pth", "--labels", "labels.yaml"]) == 0
    assert "multi_grid: 2, 3, by " in capsys.readouterr().out
    images = torch.randn(1, 3, 45, 67)
    expected = small.model(images).logits
    for folder in ("one", "back"):
        found = load_bundle(folder)
        assert found.model_config.model_dump() == load_bundle("one").model_config.model_dump()
        assert found.labels.names == ("road", "car", "tree")
        assert torch.equal(found.model(images).logits, expected)


@pytest.mark.parametrize("layout", ["original", "mmseg"])
def test_labels_and_preprocessing_come_back_too(layout, small):
    """Also for as many classes as a published data set has, which would else be taken for its own."""
    config = ModelConfig(backbone="resnet18", num_classes=21, output_stride=32, channels=8)
    names = tuple(f"kind {index}" for index in range(21))
    labels = LabelSpace("own", names, ids={index + 3: index for index in range(21)}, ignore=(0, 1))
    bundle = Bundle(build_model(config).eval(), config, labels, Preprocess(longest=None))
    torch.save(export(bundle, layout), small.folder / "own.pth")
    back = convert(small.folder / "own.pth")
    assert (back.labels, back.preprocess) == (bundle.labels, bundle.preprocess)
    assert convert(small.folder / "own.pth", labels="voc").labels.name == "voc"
    infrared = replace(labels, channels=Channels(names=("nir", "red", "green")))
    assert convert(small.folder / "own.pth", labels=infrared).preprocess.names == ("nir", "red", "green")
    for note, words in (({"labels": {"names": 3}}, "names is 3"), ({"preprocess": {"longest": -1}}, "longest is -1")):
        torch.save(export(bundle, layout) | {"danet": ORIGINAL_SETTINGS | note}, small.folder / "own.pth")
        with pytest.raises(InputError, match=rf"own\.pth, danet's note in it: {words}"):
            convert(small.folder / "own.pth", output_stride=32, multi_grid=())


def test_what_the_layout_cannot_tell_is_asked_for(small):
    with pytest.raises(InputError, match=r"say --multi-grid .*, --output-stride .*, --align-corners true or false\.$"):
        convert(small("original"), labels=small.labels)
    with pytest.raises(InputError, match=r"say --output-stride 8\.$"):
        convert(small("mmseg"), labels=small.labels, multi_grid=(), align_corners=True)
    with pytest.raises(InputError, match=r"has 3 classes and does not name them; say --labels"):
        convert(small("original"), **small.settings | {"labels": None})


def test_an_option_goes_before_the_configuration_and_that_before_the_name(small):
    text = CONFIGURATION.replace("(1, 1, 2, 4)", "(1, 1, 1, 1)").replace("(1, 2, 1, 1)", "(1, 2, 2, 2)")
    path = small("mmseg", "danet_r18-d16_769x769_mine.pth", meta={"config": text})
    bundle = convert(path, labels=small.labels, multi_grid=(2, 3))
    assert {name: bundle.provenance[name] for name in SETTINGS} == {
        "multi_grid": "2, 3, as asked for",
        "output_stride": "32, by the configuration in the file",
        "align_corners": "false, by the configuration in the file",
    }
    path = small("mmseg", "danet_r18-d32_769x769_mine.pth")
    assert convert(path, labels=small.labels).provenance["align_corners"] == "true, by the file's name"
    assert settle({"a": {"align_corners": False}, "b": ORIGINAL_SETTINGS}, path)["align_corners"] == (False, "a")


def test_labels_come_from_the_file(small):
    for meta in (
        {"CLASSES": ("road", "car ", "tree"), "PALETTE": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]},
        {"CLASSES": np.array(["road", "car", "tree"]), "PALETTE": np.arange(1, 10).reshape(3, 3)},
        {"dataset_meta": {"classes": ["road", "car", "tree"], "palette": [[1, 2, 3], [4, 5, 6], [7, 8, 9]]}},
    ):
        found = convert(small("mmseg", meta=meta), **small.settings | {"labels": None}).labels
        assert found.names == ("road", "car", "tree")
        assert found.colours == ((1, 2, 3), (4, 5, 6), (7, 8, 9))
    meta["dataset_meta"]["classes"] = ["road", "car"]
    with pytest.raises(InputError, match=r"have 2 names, but .* has 3 classes; give its own with --labels\.$"):
        convert(
            small("mmseg", meta=meta | {"palette": None}), **small.settings | {"labels": "camvid"} | {"labels": None}
        )


def test_old_files_lack_counters_and_carry_a_classifier(small):
    def change(state):
        kept = {name: value for name, value in state.items() if not name.endswith("num_batches_tracked")}
        return {name: value.half() for name, value in kept.items()} | {"pretrained.fc.weight": torch.zeros(2, 2)}

    bundle = convert(small(change=change), **small.settings)
    assert bundle.provenance["left out"] == "pretrained.fc.weight"
    assert bundle.provenance["changed"] == "float16 weights became float32"
    images, expected = torch.randn(1, 3, 64, 64), small.model(torch.zeros(1, 3, 64, 64)).logits
    assert (bundle.model(images * 0).logits - expected).abs().max() < 0.02 * expected.abs().max()
    assert all(int(value) == 0 for name, value in bundle.model.state_dict().items() if name.endswith("tracked"))


def without(*names):
    return lambda state: {name: value for name, value in state.items() if not name.startswith(names)}


def also(**tensors):
    return lambda state: state | {name.replace("__", "."): value for name, value in tensors.items()}


BLOCK = {"pretrained__layer1__0__conv2__conv__weight": torch.zeros(1)}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without("head.conv51."), "lacks head.conv51.0.weight, and 4 more; it is from another network"),
        (without("head.conv8.1.bias"), "lacks head.conv8.1.bias; it"),
        (also(extra=torch.zeros(1)), "has a tensor too many, extra; it"),
        (also(a=torch.zeros(1), b=torch.zeros(1)), "has a tensor too many, a, and 1 more"),
        (also(head__conv6__1__bias=torch.zeros(4)), "of another shape, head.conv6.1.bias (4, not 3); it"),
        (also(head__sa__gamma=torch.zeros(2)), "of another shape, head.sa.gamma (2, not 1)"),
        (also(**BLOCK), "the backbone has split attention"),
        (also(pretrained__layer2__0__downsample__2__weight=torch.zeros(1)), "the backbone has pooled shortcuts"),
        (without("pretrained.layer1."), "has no ResNet for a backbone"),
        (without("pretrained.layer2.1."), "no known backbone has basic blocks (2, 1, 2, 2)"),
        (without("head.conv5a.0."), "has nothing for head.position_in.conv.weight; it is no whole DANet"),
        (without("head."), "is no DANet or DRANet of the original repository or of mmsegmentation"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(change, words, small):
    path = small(change=change)
    with pytest.raises(InputError) as caught:
        convert(path, **small.settings)
    assert words in str(caught.value)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_other_contradictions_are_one_line(small):
    with pytest.raises(InputError, match=r"labels camvid have 11 names, but .*small\.pth has 3 classes"):
        convert(small(), **small.settings | {"labels": "camvid"})
    with pytest.raises(InputError, match=r"^There is no layout 'mmsge'. Did you mean mmseg\?$"):
        convert(small(), layout="mmsge", **small.settings)
    with pytest.raises(InputError, match="it is no whole DANet"):
        convert(small(), layout="mmseg", **small.settings)
    with pytest.raises(InputError, match=r"mmsegmentation, which dilates half of the convolutions .* of resnet18"):
        convert(small("mmseg"), **small.settings | {"output_stride": 8})
    grey = "names: [road, car, tree]\nchannels: {names: [grey], rgb: [], display: [grey], mean: [0.5], std: [0.2]}\n"
    small.labels.write_text(grey)
    with pytest.raises(InputError, match=r"takes 3 channels, but the labels .* have 1"):
        convert(small(), **small.settings)
    small.labels.write_text("names: [road, car, tree]\n")
    with pytest.raises(
        InputError, match=r"output stride is 7, as asked for; it must be 8, 16 or 32: .* --output-stride"
    ):
        convert(small(), **small.settings | {"output_stride": 7})
    with pytest.raises(InputError, match=r"multi-grid is 4, 8, 16, as asked for; the last stage has 2 .* --multi-grid"):
        convert(small(), **small.settings | {"multi_grid": (4, 8, 16)})
    single = also(head__conv8__1__weight=torch.zeros(1, 8, 1, 1))
    with pytest.raises(InputError, match=r"has one output, a yes or no by a sigmoid; danet chooses among classes"):
        convert(small(change=single), **small.settings)
    with pytest.raises(InputError, match=r"its name says 01234567: it was altered or cut short"):
        convert(small(name="danet_r18-01234567.pth"), **small.settings)


@pytest.mark.parametrize("name", RESNETS)
def test_every_backbone_is_known_by_its_tensors(name):
    with torch.device("meta"):
        state = create_model("danet", name, 150, in_channels=4).state_dict()
    for layout in LAYOUTS:
        facts = architecture(rename(rename(state, layout, reverse=True), layout), Path("x.pth"))
        assert (facts["backbone"], facts["num_classes"], facts["in_channels"]) == (name, 150, 4)
        assert (facts["head"], facts["channels"], facts["auxiliary"]) == ("danet", None, False)


@pytest.mark.parametrize(
    ("layout", "head", "backbone", "classes"),
    [
        ("original", "danet", "resnet101", 150),
        pytest.param("original", "dranet", "resnet101s", 150, marks=pytest.mark.slow),
        pytest.param("mmseg", "danet", "resnet152c", 2, marks=pytest.mark.slow),
    ],
)
def test_deeper_networks_and_other_class_counts(layout, head, backbone, classes, tmp_path):
    torch.manual_seed(0)
    model = create_model(head, backbone, classes, multi_grid=(4, 8, 16), align_corners=True).eval()
    labels = LabelSpace("numbers", tuple(map(str, range(classes))))
    note = {"multi_grid": (4, 8, 16), "output_stride": 8, "align_corners": True}
    torch.save({"state_dict": rename(model.state_dict(), layout, reverse=True)}, tmp_path / "a.pth")
    bundle = convert(tmp_path / "a.pth", labels=labels, **(note if layout == "mmseg" else {}))
    assert bundle.model_config.backbone == backbone
    images = torch.randn(1, 3, 67, 101)
    with torch.inference_mode():
        assert torch.equal(bundle.model(images).logits, model(images).logits)
    assert all(parameter.requires_grad for parameter in bundle.model.parameters())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("danet_r50-d8_512x1024_40k_cityscapes_20200605_191029-7dcabcd1.pth", ((), 8, False)),
        ("danet_r101-d8_769x769_80k_cityscapes_20200607_132826-57bbd98c.pth", ((), 8, True)),
        ("danet_r50-d8_4xb2-40k_cityscapes-769x769.pth", ((), 8, True)),
        ("danet_r101-d8_512x512_20k_voc12aug_20200618_070026-d48d23b2.pth", ((), 8, False)),
        ("mine_769x769.pth", None),
        ("DANet101.pth.tar", None),
    ],
)
def test_what_published_names_tell(name, expected):
    found = read_name(name)
    assert tuple(map(found.get, ("multi_grid", "output_stride", "align_corners"))) == (expected or (None,) * 3)


def test_the_configuration_is_read_and_never_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    usual = {"multi_grid": (), "output_stride": 8, "align_corners": False}
    usual |= {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    assert read_configuration(CONFIGURATION, "x") == usual
    assert not list(tmp_path.iterdir())
    newer = CONFIGURATION.replace("img_norm_cfg", "data_preprocessor").replace("to_rgb", "bgr_to_rgb")
    assert read_configuration(newer, "x") == usual
    grid = CONFIGURATION.replace("strides=", "multi_grid=(4, 8, 16), strides=").replace("corners=False", "corners=True")
    assert read_configuration(grid, "x") == usual | {"multi_grid": (4, 8, 16), "align_corners": True}
    stride = CONFIGURATION.replace("(1, 1, 2, 4)", "(1, 1, 1, 2)").replace("(1, 2, 1, 1)", "(1, 2, 2, 1)")
    assert read_configuration(stride, "x")["output_stride"] == 16
    for text in ("", "model = 3", "model = build()", "no python", "model = dict(backbone=None)", "img_norm_cfg = None"):
        assert read_configuration(text, "x") == {}


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("contract_dilation=True", "contract_dilation=False", "contract_dilation=False"),
        ("(1, 1, 2, 4)", "(1, 1, 1, 4)", r"strides \(1, 2, 1, 1\) with dilations \(1, 1, 1, 4\)"),
        ("depth=50", "depth=50, style='caffe'", "style='caffe'"),
        ("to_rgb=True", "to_rgb=False", "images in BGR order"),
        ("mean=[123.675, 116.28, 103.53], ", "", "images without a mean"),
    ],
)
def test_a_configuration_that_danet_cannot_build_is_one_line(old, new, words):
    assert old in CONFIGURATION
    with pytest.raises(InputError, match=rf"^x: its network was trained with {words}"):
        read_configuration(CONFIGURATION.replace(old, new), "x")


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("dilations=(1, 1, 2, 4)", "dilations=4", "backbone.dilations is 4; "),
        ("strides=(1, 2, 1, 1)", "strides='x'", "backbone.strides is 'x'; "),
        ("depth=50", "multi_grid=4", "backbone.multi_grid is 4; "),
        ("align_corners=False", "align_corners='False'", "decode_head.align_corners is 'False'; "),
        ("to_rgb=True", "to_rgb='no'", "img_norm_cfg.to_rgb is 'no'; "),
        ("mean=[123.675, 116.28, 103.53]", "mean=('x', 1, 2)", "img_norm_cfg.mean.0 is 'x'; "),
        ("img_norm_cfg = dict", "img_norm_cfg = 5\nother = dict", "img_norm_cfg is 5; "),
    ],
)
def test_a_configuration_with_other_kinds_of_values_is_one_line(old, new, words):
    assert old in CONFIGURATION
    with pytest.raises(InputError) as caught:
        read_configuration(CONFIGURATION.replace(old, new), "x.pth")
    assert str(caught.value).startswith(f"x.pth, its configuration: {words}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("layout", "settings", "words"),
    [
        ("original", dict(head="fcn"), "the head fcn"),
        ("mmseg", dict(head="dranet", backbone="resnet18"), "the head dranet"),
        ("original", dict(backbone="efficientnet_b0"), "the backbone efficientnet_b0"),
        ("original", dict(out_indices=(2,)), "a head that is not on the last stage"),
        ("mmseg", dict(out_indices=(2, 4), auxiliary=True), "an auxiliary head that is not on the stage before"),
        ("original", dict(num_classes=1), "a single class"),
        ("original", dict(channel_rule="paper"), "the paper's channel rule"),
        ("mmseg", dict(output_stride=8), "dilates half of the convolutions"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused(layout, settings, words):
    with torch.device("meta"):
        model = create_model(**{"head": "danet", "backbone": "resnet18", "num_classes": 2, **settings})
    config = ModelConfig(**{"backbone": "resnet18", "num_classes": 2, **settings})
    names = ("a", "b")[: config.num_classes]
    with pytest.raises(InputError, match=words):
        export(Bundle(model, config, LabelSpace("two", names), Preprocess()), layout)


def test_a_normalisation_of_its_own_is_kept_by_mmseg_alone(small):
    own = Preprocess(mean=(0.5, 0.4, 0.3), std=(0.2, 0.2, 0.1))
    bundle = convert(small(), **small.settings)
    changed = Bundle(bundle.model, bundle.model_config, bundle.labels, own)
    with pytest.raises(InputError, match="layout original cannot hold another normalisation"):
        export(changed, "original")
    torch.save(export(changed, "mmseg"), small.folder / "own.pth")
    assert convert(small.folder / "own.pth").preprocess == own


@pytest.fixture
def command(small, monkeypatch):
    """Runs `danet convert CHECKPOINT` for a small checkpoint in an empty folder with a cache of its own."""
    monkeypatch.chdir(small.folder)
    monkeypatch.setenv("DANET_CACHE", str(small.folder / "cache"))
    known = ["--labels", "labels.yaml", "--output-stride", "8", "--align-corners", "false"]
    return lambda checkpoint, *more, grid="none": main(["convert", checkpoint, *known, "--multi-grid", grid, *more])


def test_the_command_keeps_what_is_there(small, command, capsys):
    path = str(small())
    small.folder.joinpath("small").mkdir()
    assert command(path) == 0
    assert sorted(path.name for path in Path("small").iterdir()) == sorted(["README.md", CONFIG, WEIGHTS])
    for taken, more in (("small", ()), ("labels.yaml", ("-o", "labels.yaml"))):
        assert command(path, *more) == 2
        assert f"danet: {taken} exists; choose another with -o, or remove it." in capsys.readouterr().err
    assert main(["convert", "small", "--to", "original", "-o", "labels.yaml"]) == 2
    assert "labels.yaml exists; choose another with -o, or remove it." in capsys.readouterr().err
    assert yaml.safe_load(small.labels.read_text()) == {"names": ["road", "car", "tree"]}
    assert main(["convert", "small", "--to", "original", "--output-stride", "8"]) == 2
    for option, words in (("--align-corners", "neither true nor false"), ("--multi-grid", "no list of numbers")):
        assert main(["convert", "small.pth", option, "yes"]) == 2
        assert words in capsys.readouterr().err
    assert main(["convert", "nothing.pth"]) == 2
    assert "nothing.pth does not exist" in capsys.readouterr().err
    assert not Path("nothing").exists()


def test_where_nothing_can_be_written(small, command, capsys, monkeypatch):
    path = str(small())
    Path("here").mkdir()
    assert command(path, "-o", "n" * 300) == 2
    assert "n cannot be written (File name too long); choose another with -o" in capsys.readouterr().err
    for output in ("labels.yaml/x", "labels.yaml/x/y"):
        assert command(path, "-o", output) == 2
        assert main(["convert", DEFAULT, "--to", "original", "-o", output]) == 2
        first, second = capsys.readouterr().err.splitlines()
        for line in (first, second):
            assert line.startswith(f"danet: {output} cannot be written")
            assert "choose another with -o" in line
    monkeypatch.chdir("here")
    assert command(path, "-o", ".") == 2
    assert "danet: . exists; choose another with -o" in capsys.readouterr().err
    monkeypatch.setenv("DANET_CACHE", str(small.labels))
    assert command(small().as_uri()) == 2
    assert "cannot be written (Not a directory); name another folder in DANET_CACHE." in capsys.readouterr().err
    assert not list(Path().iterdir())


def test_what_was_fetched_is_kept_until_it_is_converted(small, command, capsys):
    with Server() as server:
        server.files["small.pth"] = data = small().read_bytes()
        server.files["other/small.pth"] = small(change=lambda state: {**state, "more": torch.zeros(1)}).read_bytes()
        assert command(server.url("small.pth"), grid="4") == 2
        assert "say so many numbers with --multi-grid" in capsys.readouterr().err
        assert command(server.url("other/small.pth")) == 2
        assert "has a tensor too many, more" in capsys.readouterr().err
        assert command(server.url("small.pth")) == 0
        assert server.asked == [("small.pth", 0), ("other/small.pth", 0), ("small.pth", len(data) - 1)]
    kept = [path.name for path in Path("cache").rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert sorted(kept) == ["small.pth", "small.pth.etag"]  # of the other address


def test_two_processes_convert_one_address(small, command):
    with Server() as server:
        server.files["small.pth"] = small().read_bytes()
        server.hold_after = 1 << 20
        arguments = ["--labels", "labels.yaml", "--multi-grid", "none", "--output-stride", "8", "--align-corners"]
        run = [sys.executable, "-m", "danet", "convert", server.url("small.pth"), *arguments, "false", "-o", "one"]
        other = subprocess.Popen(run, stdout=subprocess.DEVNULL)
        assert server.held.wait(100)
        server.hold_after = None
        threading.Timer(0.5, server.release.set).start()
        assert command(server.url("small.pth"), "-o", "two") == 0
        assert other.wait(100) == 0
        assert server.asked == [("small.pth", 0)] * 2
    assert torch.equal(*(load_bundle(name).model.head.classifier.weight for name in ("one", "two")))
