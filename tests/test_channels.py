"""1, 3, 4 and 13 channels from the files of a data set to a prediction, through training, bundle and command line."""

import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import rasterio
import torch
import yaml
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from danet.cli import main
from danet.config import Channels, read_config
from danet.inference.segmenter import Segmenter, load
from danet.training.loop import train
from danet.training.record import read_record
from danet.training.step import Losses

BANDS = [f"b{band}" for band in range(1, 14)]


def save_bands(path: Path, values: np.ndarray) -> None:
    """All channels with all their bits, by GDAL."""
    height, width, count = values.shape
    driver = "PNG" if path.suffix == ".png" else "GTiff"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path, "w", driver, width=width, height=height, count=count, dtype=values.dtype) as file:
            file.write(values.transpose(2, 0, 1))


def save_picture(path: Path, values: np.ndarray) -> None:
    Image.fromarray(values[..., 0] if values.shape[2] == 1 else values).save(path)


def save(path: Path, values: np.ndarray) -> None:
    """By Pillow what it can hold whole, by GDAL what it cannot."""
    if path.suffix == ".npy":
        np.save(path, values)
    elif path.suffix == ".tif" or (values.dtype == np.uint16 and values.shape[2] > 1):
        save_bands(path, values)
    else:
        save_picture(path, values)


class Kind(NamedTuple):
    """A kind of image files, what labels.yaml says of them, and how many channels of which type they have."""

    ending: str
    channels: dict[str, Any] | None
    count: int
    dtype: type[np.generic]
    largest: int


KINDS = {
    "grey": Kind(".png", {"names": ["grey"]}, 1, np.uint8, 255),
    "grey of 16 bits": Kind(".png", {"names": ["grey"], "range": [0, 65535]}, 1, np.uint16, 65535),
    "RGB": Kind(".png", None, 3, np.uint8, 255),
    "RGB of 16 bits": Kind(".png", {"range": [0, 65535]}, 3, np.uint16, 65535),
    "RGB and near infrared": Kind(".png", {"names": ["red", "green", "blue", "nir"]}, 4, np.uint8, 255),
    "a TIFF of four bands": Kind(".tif", {"names": ["nir", "red", "green", "blue"]}, 4, np.uint8, 255),
    "a TIFF of thirteen": Kind(
        ".tif", {"names": BANDS, "rgb": ["b4", "b3", "b2"], "display": ["b4", "b3", "b2"], "range": [0, 10000]}, 13,
        np.uint16, 10000,
    ),
    "an array of thirteen": Kind(
        ".npy", {"names": BANDS, "display": ["b8"], "range": [-1, 1], "mean": [0.4] * 13, "std": [0.1] * 13}, 13,
        np.float32, 1,
    ),
}  # fmt: skip


def picture(kind: Kind, index: int) -> np.ndarray:
    values = np.random.default_rng(index).random((40, 48, kind.count))
    low = -1 if kind.dtype == np.float32 else 0
    return (low + values * (kind.largest - low)).astype(kind.dtype)


def save_data(root: Path, kind: Kind) -> Path:
    """Four images for training and one for validation, with masks, labels.yaml, and the recipe own.yaml beside it."""
    for split, count in (("train", 4), ("val", 1)):
        for folder in ("images", "masks"):
            (root / folder / split).mkdir(parents=True)
        for index in range(count):
            values = picture(kind, index + (split == "val") * 9)
            save(root / "images" / split / f"{index}{kind.ending}", values)
            bright = (values[..., 0] > values[..., 0].mean()).astype(np.uint8)
            Image.fromarray(bright).save(root / "masks" / split / f"{index}.png")
    space = {"names": ["dark", "bright"]} | ({"channels": kind.channels} if kind.channels else {})
    (root / "labels.yaml").write_text(yaml.safe_dump(space))
    settings = {
        "name": "own",
        "device": "cpu",
        "precision": "float32",
        "model": {"backbone": "resnet18", "out_indices": [1], "channels": 8},
        "data": {"source": "folder", "root": str(root), "crop": [32, 32], "photometric": 0.4, "batch_size": 2,
                 "workers": 0},
        "optim": {"steps": 2, "gate_start": 0.5},
    }  # fmt: skip
    (root.parent / "own.yaml").write_text(yaml.safe_dump(settings))
    return root / "images" / "val" / f"0{kind.ending}"


def by_definition(values: np.ndarray, segmenter: Segmenter) -> np.ndarray:
    """The network's input as the bundle states it, in float64."""
    rule = segmenter.preprocess
    low, high = rule.range
    return (((values.astype(np.float64) - low) / (high - low) - rule.mean) / rule.std).transpose(2, 0, 1)


@contextmanager
def inputs_of_training() -> Iterator[list[torch.Tensor]]:
    """What networks in training are given meanwhile."""
    seen: list[torch.Tensor] = []

    def note(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if isinstance(module, Losses):
            seen.append(inputs[0].detach().clone())

    handle = torch.nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        handle.remove()


@pytest.mark.parametrize("name", KINDS)
def test_from_files_to_a_prediction(name, tmp_path, monkeypatch, capsys):
    kind = KINDS[name]
    monkeypatch.chdir(tmp_path)
    image = save_data(tmp_path / "own", kind)
    with inputs_of_training() as seen:
        for _ in train(read_config("own.yaml")):
            pass
    segmenter = load("runs/own", "cpu", "float32")
    learned_from = np.stack([by_definition(picture(kind, index), segmenter) for index in range(4)])
    assert [batch.shape for batch in seen] == [(2, kind.count, 32, 32)] * 2
    for batch in seen:  # random light stays within the range
        assert learned_from.min() - 0.02 < float(batch.min()) < float(batch.max()) < learned_from.max() + 0.02
        assert 0.7 < float(batch.std()) / learned_from.std() < 1.4
    stated = Channels.model_validate(kind.channels or {})
    assert segmenter.preprocess.model_dump(exclude={"longest"}) == stated.model_dump()
    assert read_config("runs/own/config.yaml").model.in_channels == kind.count

    values = picture(kind, 9)
    pixels = values if kind.dtype == np.uint8 else values.astype(np.float32)
    assert np.allclose(segmenter.prepare(pixels)[0], by_definition(values, segmenter), atol=1e-5)
    prediction = segmenter.predict(image)
    for same in (values, values[..., 0] if kind.count == 1 else values.astype(values.dtype.newbyteorder())):
        assert torch.equal(segmenter.predict(same).probabilities, prediction.probabilities)
    if not (kind.dtype == np.uint16 and kind.count > 1) and kind.ending == ".png":  # of which Pillow loses 8 bits
        with Image.open(image) as opened:
            assert torch.equal(segmenter.predict(opened).probabilities, prediction.probabilities)
    assert (prediction.image.shape, prediction.image.dtype) == ((40, 48, 3), np.uint8)
    assert not torch.equal(segmenter.predict(np.roll(values, 7, axis=1)).probabilities, prediction.probabilities)

    code = main(["predict", str(image.parent), "--model", "runs/own", "-o", "out", "--json", "--device", "cpu",
                 "--precision", "float32"])  # fmt: skip
    captured = capsys.readouterr()
    assert (code, json.loads(captured.out)["failed"]) == (0, []), captured.err
    with Image.open("out/0.png") as labels:
        assert np.array_equal(np.array(labels), prediction.labels)


def test_every_command_takes_thirteen_channels(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    image = save_data(tmp_path / "own", KINDS["a TIFF of thirteen"])

    def run(*arguments):
        code = main([*map(str, arguments), "--json"])
        captured = capsys.readouterr()
        assert code == 0, captured.err
        assert "Warning" not in captured.err
        return json.loads(captured.out)

    found = run("train", "own.yaml", "--optim.steps", "1")
    assert Path(found["report"]).read_text().count("data:image/jpeg") >= 2
    assert run("evaluate", "runs/own")["miou"] == found["miou"]
    for _ in range(2):  # the second finds the first's run, and does it not again
        run("ablate", "own.yaml", "--name", "many", "--heads", "danet", "--seeds", "0", "--optim.steps", "1")
    assert [record["event"] for record in read_record(tmp_path / "runs/many/danet-seed-0")].count("step") == 1
    bundle = (tmp_path / "runs/own/best").rename(tmp_path / "bundle")
    run("attend", image, "--at", "5,5", "--model", bundle, "-o", "out", "--html", "page.html")
    (tmp_path / "own" / "labels.yaml").write_text("names: [dark, bright]\n")  # the model knows its channels by itself
    data = ("--data.source", "folder", "--data.root", tmp_path / "own")
    assert run("evaluate", bundle, *data)["miou"] == found["miou"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--model.in_channels", "3"), "model.in_channels is 3, but folder has images of 4 channels (nir, red,"),
        (("--preprocess.names", "[a, b]"), "0.tif has 4 channels, but the model takes 2 (a, b)"),
        (
            ("--preprocess.mean", "[0.1, 0.2, 0.3]"),
            "preprocess: mean is (0.1, 0.2, 0.3); it must be a finite number for",
        ),
    ],
)
def test_a_recipe_that_contradicts_the_data_set_is_refused_in_one_line(arguments, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_data(tmp_path / "own", KINDS["a TIFF of four bands"])
    assert main(["train", "own.yaml", *arguments]) == 2
    told = capsys.readouterr().err.splitlines()
    assert words in told[-1]
    assert not (tmp_path / "runs").exists()
