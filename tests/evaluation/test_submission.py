"""Submissions, read back: Cityscapes' by its own evaluation, ADE20K's and VOC's to the labels that were predicted."""

import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from danet.cli import main
from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.evaluation.submission import submission
from danet.inference.segmenter import load
from danet.models.segmentation import build_model
from danet.weights.bundle import Bundle, save_bundle
from tests.data.trees import save_image, save_mask

SIZES = ((48, 40), (40, 56))
"""Width and height of the two images of each tree."""


def write_cityscapes(root: Path, values: np.ndarray) -> dict[str, Path]:
    images = {}
    for number, (width, height) in enumerate(SIZES):
        stem = f"munster_00000{number}_000019"
        masks = root / "gtFine/val/munster" / f"{stem}_gtFine_"
        images[stem] = save_image(root / "leftImg8bit/val/munster" / f"{stem}_leftImg8bit.png", width, height, number)
        save_mask(Path(f"{masks}labelIds.png"), drawn(values, width, height))
        save_mask(Path(f"{masks}instanceIds.png"), np.zeros((height, width), np.uint16))
    return images


def write_ade20k(root: Path, values: np.ndarray) -> dict[str, Path]:
    images = {}
    for number, (width, height) in enumerate(SIZES):
        stem = f"ADE_val_0000000{number}"
        images[stem] = save_image(root / "images/validation" / f"{stem}.jpg", width, height, number)
        save_mask(root / "annotations/validation" / f"{stem}.png", drawn(values, width, height))
    return images


def write_ade20k_test(root: Path, _: np.ndarray) -> dict[str, Path]:
    stems = [f"ADE_test_0000000{number}" for number in range(len(SIZES))]
    return {
        stem: save_image(root / "release_test/testing" / f"{stem}.jpg", *SIZES[number], number)
        for number, stem in enumerate(stems)
    }


def write_voc_test(root: Path, _: np.ndarray) -> dict[str, Path]:
    home, stems = root / "VOCdevkit/VOC2012", [f"2008_00000{number}" for number in range(len(SIZES))]
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    (home / "ImageSets/Segmentation/test.txt").write_text("".join(f"{stem}\n" for stem in stems))
    return {
        stem: save_image(home / "JPEGImages" / f"{stem}.jpg", *SIZES[number], number)
        for number, stem in enumerate(stems)
    }


def write_voc(root: Path, values: np.ndarray) -> dict[str, Path]:
    home, images = root / "VOCdevkit/VOC2012", {}
    for number, (width, height) in enumerate(SIZES):
        stem = f"2007_00003{number}"
        images[stem] = save_image(home / "JPEGImages" / f"{stem}.jpg", width, height, number)
        save_mask(home / "SegmentationClass" / f"{stem}.png", drawn(values, width, height))
    (home / "ImageSets/Segmentation").mkdir(parents=True)
    (home / "ImageSets/Segmentation/val.txt").write_text("".join(f"{stem}\n" for stem in images))
    return images


def drawn(values: np.ndarray, width: int, height: int) -> np.ndarray:
    """A mask of 8×8 blocks of these file values."""
    generator = np.random.Generator(np.random.Philox(width))
    return np.kron(generator.choice(values, (height // 8, width // 8)), np.ones((8, 8), np.uint8))


@pytest.fixture
def sent(request, tmp_path, capsys):
    """Images by stem, what `danet evaluate --submission` said of them, the model, and the submission's folder."""
    name, write, split = request.param
    space = LabelSpace.load(name.removesuffix("-sbd"))
    images = write(tmp_path / "data", np.array([*space.ids, space.ignore[0]], np.uint8))
    torch.manual_seed(0)
    config = ModelConfig(backbone="resnet18", out_indices=(1,), channels=8, num_classes=space.num_classes)
    model = build_model(config)
    torch.nn.init.normal_(model.head.classifier.weight)  # so that it says many classes
    save_bundle(tmp_path / "model", Bundle(model, config, space, Preprocess(), {}, {}))
    told = ["evaluate", tmp_path / "model", "--data.source", name, "--data.root", tmp_path / "data"]
    options = [
        "--submission",
        tmp_path / "sent",
        "--split",
        split,
        "--device",
        "cpu",
        "--precision",
        "float32",
        "--json",
    ]
    assert main(list(map(str, [*told, *options]))) == 0
    found = json.loads(capsys.readouterr().out)
    assert not list(tmp_path.glob(".*"))
    return images, found, load(tmp_path / "model", "cpu", "float32"), tmp_path / "sent"


@pytest.mark.parametrize("sent", [("cityscapes", write_cityscapes, "val")], indirect=True)
def test_cityscapes_own_evaluation_finds_the_same_scores(sent, tmp_path):
    images, found, _, folder = sent
    assert sorted(path.name for path in folder.rglob("*")) == [f"{stem}_pred_labelIds.png" for stem in images]
    places = {"CITYSCAPES_DATASET": str(tmp_path / "data"), "CITYSCAPES_RESULTS": str(folder)}
    code = """
import numpy as np
np.in1d = np.isin  # which NumPy 2.4 has no more
import cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling as evaluation
evaluation.main()
"""
    done = subprocess.run([sys.executable, "-c", code], env=os.environ | places, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = json.loads((tmp_path / "data/evaluationResults/resultPixelLevelSemanticLabeling.json").read_text())
    assert theirs["averageScoreClasses"] == pytest.approx(found["miou"], abs=1e-6)
    ours = {name: np.nan if iou is None else iou for name, iou in found["iou"].items()}
    assert {name: theirs["classScores"][name] for name in ours} == pytest.approx(ours, abs=1e-6, nan_ok=True)
    assert sum(iou > 0 for iou in ours.values()) > 1  # it is no comparison of zeros


@pytest.mark.parametrize(
    "sent", [("ade20k", write_ade20k, "val"), ("ade20k", write_ade20k_test, "test")], indirect=True
)
def test_ade20k_has_an_index_from_1_on_under_the_images_name(sent):
    images, found, segmenter, folder = sent
    assert (found["miou"] is None) == (found["data_fields"]["split"] == "test")
    assert sorted(path.relative_to(folder).name for path in folder.rglob("*")) == [f"{stem}.png" for stem in images]
    for stem, image in images.items():
        with Image.open(folder / f"{stem}.png") as file:
            assert file.mode == "L"
            assert np.array_equal(np.array(file), segmenter(image).labels + 1)


@pytest.mark.parametrize("sent", [("voc", write_voc, "val"), ("voc-sbd", write_voc_test, "test")], indirect=True)
def test_voc_has_indices_under_its_palette_in_its_folders(sent, tmp_path):
    images, found, segmenter, folder = sent
    split = found["data_fields"]["split"]
    assert (found["miou"] is None) == (split == "test")
    assert (folder / f"{split}.txt").read_text().split() == list(images)
    with tarfile.open(tmp_path / "results.tgz", "w:gz") as archive:
        archive.add(folder / "results", "results")
    with tarfile.open(tmp_path / "results.tgz") as archive:
        files = sorted(one.name for one in archive.getmembers() if one.isfile())
    assert files == [f"results/VOC2012/Segmentation/comp6_{split}_cls/{stem}.png" for stem in images]
    for stem, image in images.items():
        with Image.open(folder / f"results/VOC2012/Segmentation/comp6_{split}_cls/{stem}.png") as file:
            assert file.mode == "P"
            assert file.getpalette()[:6] == [0, 0, 0, 128, 0, 0]
            assert np.array_equal(np.array(file), segmenter(image).labels)


def test_what_failed_leaves_nothing(tmp_path):
    (tmp_path / "sent").mkdir()

    def fail():
        with submission(tmp_path / "sent", "ade20k", "val") as keep:
            keep("a/b.jpg", np.zeros((4, 4), np.uint8))
            assert not (tmp_path / "sent").exists()
            _ = 1 / 0

    with pytest.raises(ZeroDivisionError):
        fail()
    assert not list(tmp_path.iterdir())
    with submission(tmp_path / "sent", "ade20k", "val") as keep:
        keep("a/b.jpg", np.zeros((4, 4), np.uint8))
    assert [path.name for path in (tmp_path / "sent").iterdir()] == ["b.png"]


def test_other_data_sets_and_places_are_refused(tmp_path, capsys):
    with (
        pytest.raises(InputError, match=r"camvid has no server that we know; .* cityscapes, ade20k, voc, voc-sbd"),
        submission(tmp_path / "sent", "camvid", "val"),
    ):
        pass
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match=r"sent cannot be written .*--submission"),
        submission(tmp_path / "file/sent", "voc", "val"),
    ):
        pass
    for place, words in (("file", "exists; choose another with --submission"), ("file/x", "no folder to write to")):
        assert main(["evaluate", "--submission", str(tmp_path / place)]) == 2
        assert words in capsys.readouterr().err
    assert main(["evaluate", "--submission", str(tmp_path / "sent")]) == 2
    assert "scenes has no server that we know" in capsys.readouterr().err
    assert main(["evaluate", "--submission", str(tmp_path / "sent"), "-o", str(tmp_path / "x/../sent")]) == 2
    assert "would both be" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
