"""Rasters against the same windows in memory: whatever the file, and whatever happens to the process."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import rasterio
import torch
from PIL import Image
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC
from rasterio.shutil import copy as copy_raster
from rasterio.vrt import WarpedVRT
from torch import nn

from danet.config import Channels, Preprocess
from danet.data.images import open_raster, read_image
from danet.errors import InputError
from danet.files import claimed
from danet.inference import raster
from danet.inference.protocol import PROTOCOLS, Protocol
from danet.inference.raster import Window, is_raster, predict_raster, raster_protocol
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import SegmentationOutput
from tests.conftest import NAMES

HEIGHT, WIDTH = 150, 190
WINDOWS = Protocol(size="original", crop=(64, 80), stride=(40, 56), blend="gaussian")
UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_000_000)}
NINE = Channels(names=tuple("abcdefghi"), range=(0, 10000))


class Convolutions(nn.Module):
    """A network that sees 3 pixels to each side, of any number of channels; no normalisation hides what it is given."""

    align_corners = False
    sight = 3

    def __init__(self, channels: int) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.layers = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, len(NAMES), 5, padding=2)
        )

    def forward(self, images: torch.Tensor) -> SegmentationOutput:
        return SegmentationOutput(self.layers(images), {}, None)


@pytest.fixture
def segmenter(tiny):
    """With attention, so that a pixel's label follows from the whole window."""
    return Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")


def convolutional(tiny, channels: Channels | None = None) -> Segmenter:
    preprocess = Preprocess().of(channels)
    segmenter = Segmenter(tiny.model, tiny.labels, preprocess, "cpu", "float32")
    segmenter.model = Convolutions(len(preprocess.names)).eval()
    return segmenter


def picture(bands: int = 3, high: int = 255, dtype: type = np.uint8, height: int = HEIGHT, width: int = WIDTH):
    """Blocks of 10 pixels and noise: height × width × bands."""
    generator = np.random.Generator(np.random.Philox(7))
    blocks = generator.integers(0, high * 3 // 4, (-(-height // 10), -(-width // 10), bands))
    noise = generator.integers(0, high // 4, (height, width, bands))
    return (np.kron(blocks, np.ones((10, 10, 1), int))[:height, :width] + noise).astype(dtype)


def save(path: Path, values: np.ndarray, driver: str = "GTiff", **options) -> Path:
    height, width, count = values.shape
    size = {"width": width, "height": height, "count": count, "dtype": values.dtype}
    with open_raster(path, "w", driver=driver, **size, **options) as file:
        file.write(values.transpose(2, 0, 1))
    return path


def labels_of(path: Path) -> np.ndarray:
    with open_raster(path) as file:
        return file.read(1)


TILINGS = {
    "strips": {"compress": "deflate", "blockysize": 7},
    "tiles": {"compress": "lzw", "tiled": True, "blockxsize": 16, "blockysize": 32},
    "large tiles": {"compress": "zstd", "tiled": True, "blockxsize": 512, "blockysize": 512},
    "bands": {"compress": "deflate", "interleave": "band", "tiled": True, "blockxsize": 64, "blockysize": 64},
    "BigTIFF": {"bigtiff": "yes"},
    "COG": {"driver": "COG", "blocksize": 128, "overviews": "auto"},
    "JPEG 2000": {"driver": "JP2OpenJPEG", "quality": "100", "reversible": "yes"},
    "PNG": {"driver": "PNG"},
    "elsewhere": UTM,
}


def test_labels_are_those_of_the_same_windows_in_memory_whatever_the_tiling(segmenter, tmp_path):
    expected = segmenter.predict(picture(), WINDOWS).labels
    assert len(np.unique(expected)) == 3
    for name, options in TILINGS.items():
        path, told = save(tmp_path / f"{name}.any", picture(), **options), []
        made = predict_raster(segmenter, path, tmp_path / "out", name, WINDOWS, lambda *now, to=told: to.append(now))
        assert np.array_equal(labels_of(made["labels"]), expected), name
        assert told == [(done, 12) for done in range(1, 13)]
    vrt = tmp_path / "of.vrt"
    with rasterio.open(tmp_path / "elsewhere.any") as file, WarpedVRT(file, crs="EPSG:32633") as warped:
        copy_raster(warped, vrt, driver="VRT")
    assert np.array_equal(
        labels_of(predict_raster(segmenter, vrt, tmp_path / "out", "vrt", WINDOWS)["labels"]), expected
    )
    assert {path.suffix for path in (tmp_path / "out").iterdir()} == {".tif", ".json"}


@pytest.mark.parametrize(
    "changes",
    [{"blend": "uniform"}, {"edge": "pad", "stride": (50, 61)}, {"classes": ("tree", "road")}, {"crop": (999, 70)},
     {"fusion": "exp", "blend": "uniform", "edge": "pad"}, {"fusion": "logits", "stride": (64, 80)}],
)  # fmt: skip
def test_labels_are_those_in_memory_whatever_the_windows(segmenter, tmp_path, changes):
    protocol = Protocol(**{**WINDOWS.to_dict(), **changes})
    path = save(tmp_path / "a.tif", picture(), **UTM)
    expected = segmenter.predict(picture(), protocol).labels
    assert np.array_equal(labels_of(predict_raster(segmenter, path, tmp_path, "b", protocol)["labels"]), expected)
    assert len(np.unique(expected)) == (2 if "classes" in changes else 3)


def test_a_convolutional_network_sees_no_seams(tiny, tmp_path):
    """Beyond its sight from each window's border, each window says what the network says of the whole image."""
    segmenter, protocol = convolutional(tiny), Protocol(**{**WINDOWS.to_dict(), "stride": (64, 80), "edge": "pad"})
    path = save(tmp_path / "a.tif", picture(), **UTM)
    found = labels_of(predict_raster(segmenter, path, tmp_path, "b", protocol)["labels"])
    whole = segmenter.predict(picture(), PROTOCOLS["whole-original"][0]).labels
    inner = np.ones((HEIGHT, WIDTH), bool)
    for axis, crop in enumerate(WINDOWS.crop):
        for seam in range(crop, inner.shape[axis], crop):
            np.moveaxis(inner, axis, 0)[seam - Convolutions.sight : seam + Convolutions.sight] = False
        np.moveaxis(inner, axis, 0)[-Convolutions.sight :] = False  # where windows reach beyond
    assert inner.mean() > 0.8
    assert np.array_equal(found[inner], whole[inner])
    assert (found != whole).any()  # at the seams: where windows overlap they are blended away
    blended = labels_of(predict_raster(segmenter, path, tmp_path, "c", WINDOWS)["labels"])
    assert (blended != whole).mean() < (found != whole).mean()


def test_place_palette_and_names_are_kept(segmenter, tmp_path):
    turned = {"crs": "EPSG:32633", "transform": rasterio.Affine(0.4, 0.3, 500_000, 0.3, -0.4, 5_000_000)}
    path = save(tmp_path / "a.tif", picture(), **turned)
    made = predict_raster(segmenter, path, tmp_path / "out", "a", WINDOWS)
    with rasterio.open(made["labels"]) as file:
        assert (file.crs, file.transform) == (turned["crs"], turned["transform"])
        assert (file.dtypes, file.nodata, file.block_shapes) == (("uint8",), 255, [(512, 512)])
        assert file.compression.name == "deflate"
        assert file.colorinterp == (ColorInterp.palette,)
        colours = [file.colormap(1)[index][:3] for index in range(3)]
        assert colours == [tuple(colour) for colour in segmenter.labels.colours]
        assert file.tags(1) == {"class_0": "road", "class_1": "car", "class_2": "tree"}
        labels = file.read(1)
    facts = json.loads(made["json"].read_text())
    assert {key: facts[key] for key in ("width", "height", "windows", "no_data")} == {
        "width": WIDTH, "height": HEIGHT, "windows": 12, "no_data": 0,
    }  # fmt: skip
    assert facts["shares"] == {
        name: pytest.approx((labels == index).mean(), abs=1e-6) for index, name in enumerate(NAMES)
    }
    assert Protocol(**facts["protocol"]) == WINDOWS
    assert facts["seconds"] >= 0
    with Image.open(made["labels"]) as image:  # an ordinary viewer sees the colours
        assert image.mode == "P"
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a.tif"]

    points = [
        GroundControlPoint(row, column, 500_000 + column, 5_000_000 - 2 * row) for row in (0, 99) for column in (0, 88)
    ]
    with rasterio.open(save(tmp_path / "b.tif", picture(), gcps=points, crs="EPSG:32633")) as file:
        expected = [point.asdict() for point in file.gcps[0]]
    with rasterio.open(predict_raster(segmenter, tmp_path / "b.tif", tmp_path / "out", "b", WINDOWS)["labels"]) as file:
        found, crs = file.gcps
        assert crs == "EPSG:32633"
        assert [point.asdict() | {"id": None} for point in found] == [point | {"id": None} for point in expected]
    numbers = {f"{side}_{part}_coeff": [1.0, *range(19)] for side in ("line", "samp") for part in ("num", "den")}
    offsets = {f"{what}_{part}": 3.0 for what in ("height", "lat", "long", "line", "samp") for part in ("off", "scale")}
    model = RPC(**numbers, **offsets)
    save(tmp_path / "c.tif", picture(), rpcs=model)
    with open_raster(predict_raster(segmenter, tmp_path / "c.tif", tmp_path / "out", "c", WINDOWS)["labels"]) as file:
        found, expected = file.rpcs.to_dict(), model.to_dict()
        assert all(found[key] == expected[key] for key in (*numbers, *offsets))
    assert len(list((tmp_path / "out").iterdir())) == 6


def test_no_data_is_255_and_the_rest_as_in_memory(tiny, tmp_path):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[30:70, 50:120] = True
    segmenter, values = convolutional(tiny), np.where(hole[..., None], 0, picture().clip(1))
    expected = np.where(hole, 255, segmenter.predict(values.astype(np.uint8), WINDOWS).labels)
    path = save(tmp_path / "black.tif", values.astype(np.uint8), nodata=0, **UTM)
    made = predict_raster(segmenter, path, tmp_path / "out", "black", WINDOWS)
    assert np.array_equal(labels_of(made["labels"]), expected)
    facts = json.loads(made["json"].read_text())
    assert facts["no_data"] == pytest.approx(hole.mean(), abs=1e-6)
    assert sum(facts["shares"].values()) == pytest.approx(1, abs=1e-5)
    clear = np.concatenate([values, np.where(hole, 0, 200)[..., None]], 2).astype(np.uint8)
    path = save(tmp_path / "clear.tif", clear, photometric="rgb", alpha="unspecified", **UTM)
    with rasterio.open(path, "r+") as file:
        file.colorinterp = (*file.colorinterp[:3], ColorInterp.alpha)
    made = predict_raster(segmenter, path, tmp_path / "out", "clear", WINDOWS)
    assert np.array_equal(labels_of(made["labels"]), expected)


@pytest.mark.parametrize("none", [np.nan, -9999.0, -3.4028234663852886e38])
def test_what_is_no_number_in_range_does_not_reach_the_network(tiny, tmp_path, none):
    hole = np.zeros((HEIGHT, WIDTH), bool)
    hole[30:70, 50:120] = True
    for channels in (NINE, Channels(names=("height",), range=(0, 10000))):
        segmenter, count = convolutional(tiny, channels), len(channels.names)
        values = picture(count, 10000, np.float32)
        mean = np.where(hole[..., None], 5000, values).astype(np.float32)  # of a range, where nobody measured it
        expected = np.where(hole, 255, segmenter.predict(mean, WINDOWS).labels)
        assert len(np.unique(expected)) > 2
        path = save(tmp_path / "a.tif", np.where(hole[..., None], np.float32(none), values), nodata=none, **UTM)
        assert np.array_equal(read_image(path, channels), mean)  # in training, too
        made = predict_raster(segmenter, path, tmp_path / "out", "a", WINDOWS)
        assert np.array_equal(labels_of(made["labels"]), expected)


GREY = Channels(names=("grey",))
RAMP = picture(3, height=64, width=96)


def kinds(folder: Path) -> dict[str, Path]:
    """Files of all kinds that are pictures to people."""
    image, found = Image.fromarray(RAMP), {}
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1", "YCbCr"):
        found[mode] = folder / f"{mode}.tif"
        image.convert(mode).save(found[mode], compression="jpeg" if mode == "YCbCr" else None)
    Image.fromarray(RAMP[..., 0].astype(np.uint16) * 257).save(folder / "16.tif")
    found["16"] = folder / "16.tif"
    found["white is 0"] = save(folder / "white.tif", RAMP[..., :1], photometric="miniswhite")
    for bits in (1, 2, 4):
        values = RAMP[..., :1] >> (8 - bits)
        found[f"{bits} bits"] = save(folder / f"{bits}.tif", values, nbits=bits)
        found[f"{bits} bits, white is 0"] = save(folder / f"{bits}w.tif", values, nbits=bits, photometric="miniswhite")
    found["fourth band"] = save(
        folder / "nir.tif", picture(4, height=64, width=96), photometric="rgb", alpha="unspecified"
    )
    return found


@pytest.mark.parametrize("channels", [Channels(), GREY])
def test_parts_of_files_of_all_kinds_are_parts_of_what_is_read_whole(tmp_path, channels):
    for kind, path in kinds(tmp_path).items():
        if (kind, channels) == ("16", GREY):
            continue
        whole = read_image(path, channels)
        with raster._opened(path, channels, WINDOWS) as source:
            for window in (Window(0, 0, 64, 96), Window(13, 7, 32, 40), Window(40, 90, 32, 32)):
                part = source.pixels(window)
                expected = whole[window.top : window.top + window.height, window.left : window.left + window.width]
                differs = part[: expected.shape[0], : expected.shape[1]].astype(int) - expected
                assert np.abs(differs).max() <= (kind == "YCbCr"), kind  # two decoders of JPEG round apart
                assert part.shape[:2] == window[2:]
                assert part[expected.shape[0] :].sum() == part[:, expected.shape[1] :].sum() == 0


def test_alpha_is_dropped_where_bands_are_counted(tmp_path):
    values = picture(4, 65535, np.uint16, 64, 96)
    path = save(tmp_path / "a.tif", values, photometric="rgb", alpha="yes")
    for names in (("red", "green", "blue"), ("red", "green", "blue", "nir")):
        with raster._opened(path, Channels(names=names, range=(0, 65535)), WINDOWS) as source:
            assert np.array_equal(source.pixels(Window(0, 0, 64, 96)), values[..., : len(names)])


CHILD = """
import sys, time
import torch
from danet.inference.protocol import Protocol
from danet.inference.raster import predict_raster
from danet.inference.segmenter import load

torch.set_num_threads(1)
model, path, folder, protocol = sys.argv[1:5]
def tell(done, total):
    print(done, flush=True)
    time.sleep(3600 if done == int(sys.argv[6]) else float(sys.argv[5]))
predict_raster(load(model, "cpu", "float32"), path, folder, "a", Protocol.model_validate_json(protocol), tell)
"""


def child(model: Path, path: Path, folder: Path, pause: float = 0, last: int = 0) -> subprocess.Popen[str]:
    """A process that rests after each window, and after the `last` for good."""
    command = [sys.executable, "-W", "error", "-c", CHILD, model, path, folder, WINDOWS.model_dump_json(), pause, last]
    return subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, text=True)


def test_a_killed_run_is_gone_on_with(segmenter, tiny_folder, tmp_path):
    path = save(tmp_path / "a.tif", picture(), **UTM)
    with child(tiny_folder, path, tmp_path / "out", last=8) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.strip() == "8":
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    left = sorted(os.listdir(tmp_path / "out"))
    assert [name for name in left if not name.startswith(".")] == ["a.tif.part", "a.tif.part.json"]
    with (tmp_path / "out" / "a.tif.part").open("ab") as file:
        file.write(b"\1" * 99)  # of a row that was being written
    (tmp_path / "out" / ".a.tif.1.part").write_bytes(b"half a GeoTIFF")
    told = []
    model = load_as_the_child_did(tiny_folder)
    made = predict_raster(model, path, tmp_path / "out", "a", WINDOWS, lambda *now: told.append(now))
    assert told == [(done, 12) for done in range(7, 13)]  # two rows of four were done
    assert np.array_equal(labels_of(made["labels"]), segmenter.predict(picture(), WINDOWS).labels)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a.tif"]


def load_as_the_child_did(folder: Path) -> Segmenter:
    from danet.inference.segmenter import load

    return load(folder, "cpu", "float32")


def stopped(segmenter: Segmenter, path: Path, folder: Path, at_the_end: bool = False) -> None:
    """A run that Ctrl-C ends in the third row of four, or after the last."""

    def stop(done: int, total: int) -> None:
        if done == 8 and not at_the_end:
            raise KeyboardInterrupt

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        if at_the_end:
            patch.setattr(raster, "_write", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict_raster(segmenter, path, folder, "a", WINDOWS, stop)


def test_what_is_of_something_else_is_begun_anew_with_a_sentence(segmenter, tiny, tmp_path):
    path, out = save(tmp_path / "a.tif", picture(), **UTM), tmp_path / "out"
    other = Segmenter(tiny.model, tiny.labels, tiny.preprocess, "cpu", "float32")
    with torch.no_grad():
        next(other.model.parameters()).mul_(1.01)
    part = out / "a.tif.part"

    def touched() -> None:
        os.utime(path, (1, 1))

    for change, with_model, protocol, words in (
        (lambda: None, other, WINDOWS, "is of another model; the raster is begun anew"),
        (lambda: None, segmenter, WINDOWS.model_copy(update={"blend": "uniform"}), "is of another protocol;"),
        (touched, segmenter, WINDOWS, "is of another image;"),
        (lambda: part.write_bytes(part.read_bytes()[:-1]), segmenter, WINDOWS, "is damaged; the raster is begun anew"),
        (lambda: (out / "a.tif.part.json").write_text("{"), segmenter, WINDOWS, "is damaged;"),
        (part.unlink, segmenter, WINDOWS, "is damaged;"),
    ):
        stopped(segmenter, path, out)
        change()
        with pytest.warns(UserWarning, match=re.escape(f"{part} {words}")):
            made = predict_raster(with_model, path, out, "a", protocol)
        assert np.array_equal(labels_of(made["labels"]), with_model.predict(picture(), protocol).labels), words
    stopped(segmenter, path, out)
    told = []
    predict_raster(segmenter, path, out, "a", WINDOWS, lambda *now: told.append(now), resume=False)
    assert told[0] == (1, 12)


def refused(segmenter: Segmenter, path: Path, folder: Path, words: str, protocol: Protocol = WINDOWS) -> None:
    with pytest.raises(InputError) as error:
        predict_raster(segmenter, path, folder, "a", protocol)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "See previous" not in str(error.value)
    assert not (folder / "a.tif").exists()


def test_bad_input_is_one_line_and_leaves_nothing(segmenter, tmp_path, capfd):
    whole = save(tmp_path / "whole.tif", picture(), compress="deflate", **UTM)
    (tmp_path / "cut.tif").write_bytes(whole.read_bytes()[:20_000])
    (tmp_path / "start.tif").write_bytes(whole.read_bytes()[:100])
    (tmp_path / "empty.tif").write_bytes(b"")
    (tmp_path / "text.tif").write_text("no raster")
    Image.fromarray(picture()).save(tmp_path / "cut.jpg", quality=95)
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:-300])
    Image.fromarray(picture()).save(tmp_path / "cut.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "cut.png").read_bytes()[:9000])
    turned = Image.Exif()
    turned[274] = 6
    for ending in ("tif", "jpg", "png"):
        Image.fromarray(picture()).save(tmp_path / f"turned.{ending}", exif=turned)
    save(tmp_path / "five.tif", picture(5), **UTM)
    save(tmp_path / "two.tif", picture(2), **UTM)
    save(tmp_path / "float.tif", picture(3, dtype=np.float32), **UTM)
    save(tmp_path / "small.tif", picture(height=31, width=400), **UTM)
    (tmp_path / "of.vrt").write_text("<VRTDataset><nonsense/></VRTDataset>")
    for name, words in {
        "none.tif": "none.tif does not exist; give the path of an image file",
        "cut.tif": "cut.tif cannot be read: ",
        "start.tif": "start.tif cannot be read: ",
        "empty.tif": "empty.tif cannot be read: ",
        "text.tif": "text.tif cannot be read: ",
        "cut.jpg": "cut.jpg cannot be read: ",
        "cut.png": "cut.png cannot be read: ",
        "of.vrt": "of.vrt cannot be read: ",
        "turned.tif": "turned.tif is stored turned or mirrored (EXIF); save it upright",
        "turned.jpg": "turned.jpg is stored turned",
        "turned.png": "turned.png is stored turned",
        "five.tif": "five.tif has 5 channels, but the model takes 3 (red, green, blue)",
        "two.tif": "two.tif has 2 channels, but the model takes 3",
        "float.tif": "float.tif is float32 (64, 80, 3); an image is uint8",
        "small.tif": "small.tif is 400×31 pixels; an image needs at least 32×32",
    }.items():
        refused(segmenter, tmp_path / name, tmp_path / "out" / name, words)
    assert capfd.readouterr() == ("", "")


def test_values_are_refused_by_their_place_in_the_image(tiny, tmp_path):
    segmenter, values = convolutional(tiny, NINE), picture(9, 10000, np.float32)
    values[100, 150, 2] = np.inf
    path = save(tmp_path / "a.tif", values, **UTM)
    refused(segmenter, path, tmp_path / "out", "a.tif, seen from pixel (110, 40) on, holds inf at pixel (40, 60) of c")


def test_floats_of_0_to_1_are_refused_by_the_whole_as_in_memory(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(raster, "_TILE", 64)
    channels = Channels(names=("near", "far"))
    segmenter, values = convolutional(tiny, channels), picture(2, dtype=np.float32)
    values[:70] = np.minimum(values[:70], 1)
    path = save(tmp_path / "dark.tif", values, **UTM)  # above, and as bright as others below
    made = predict_raster(segmenter, path, tmp_path / "out", "a", WINDOWS)
    assert np.array_equal(labels_of(made["labels"]), segmenter.predict(values, WINDOWS).labels)
    early, late = np.zeros_like(values), np.zeros_like(values)
    early[0, 0] = late[-1, -1] = 1
    for name, pixels in {"early": early, "late": late}.items():
        path, told = save(tmp_path / f"{name}.tif", pixels, **UTM), []
        with pytest.raises(InputError) as whole:
            read_image(path, channels)
        assert f"{name}.tif holds floats of 0 to 1, which are black" in str(whole.value)
        refused(segmenter, path, tmp_path / name, str(whole.value))
        with pytest.raises(InputError):
            predict_raster(segmenter, path, tmp_path / name, "a", WINDOWS, lambda *now, to=told: to.append(now))
        assert told == [(0, 12)] * 9
    black = save(tmp_path / "black.tif", np.zeros_like(values), **UTM)  # is black in any range
    assert predict_raster(segmenter, black, tmp_path / "black", "a", WINDOWS)["labels"].exists()


def test_a_lack_of_memory_is_one_line_and_no_fault_of_ours_is(tiny, tmp_path, monkeypatch):
    segmenter, path = convolutional(tiny), save(tmp_path / "a.tif", picture(), **UTM)
    monkeypatch.setattr(segmenter, "logits", lambda images: torch.empty(2**60))  # more than any machine has
    refused(
        segmenter,
        path,
        tmp_path / "out",
        "a.tif needs more memory than there is; take smaller windows, as with --protocol.crop '[32,40]'.",
    )

    def broken(images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(segmenter, "logits", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        predict_raster(segmenter, path, tmp_path / "out", "a", WINDOWS)


def test_targets_that_cannot_be_written(segmenter, tmp_path, capfd):
    path = save(tmp_path / "a.tif", picture(), **UTM)
    (tmp_path / "file").write_text("")
    for folder, reason in {"file": "File exists", "file/below": "Not a directory"}.items():
        with pytest.raises(InputError, match=rf"{folder}/a\.tif cannot be written \({reason}\); mend that, or choose"):
            predict_raster(segmenter, path, tmp_path / folder, "a", WINDOWS)
    out = tmp_path / "out"
    out.mkdir()

    def full(done: int, total: int) -> None:
        if done == 1:
            (out / "a.tif.part").symlink_to("/dev/full")

    with pytest.raises(InputError, match=r"out/a\.tif cannot be written \(No space left on device\); mend that"):
        predict_raster(segmenter, path, out, "a", WINDOWS, full)
    (out / "a.tif.part").unlink()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    assert capfd.readouterr() == ("", "")
    size = predict_raster(segmenter, path, tmp_path / "whole", "a", WINDOWS)["labels"].stat().st_size
    # Where labels are kept; and, after they were, where the GeoTIFF is made, and where GDAL fails without a word.
    for limit in (HEIGHT * WIDTH - 1, 3000, size - 100):
        if limit == 3000:
            stopped(segmenter, path, out, at_the_end=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
        try:
            refused(segmenter, path, out, "a.tif cannot be written (")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    told = []
    made = predict_raster(segmenter, path, out, "a", WINDOWS, lambda *now: told.append(now))
    assert told == []  # all that was done was kept
    assert np.array_equal(labels_of(made["labels"]), segmenter.predict(picture(), WINDOWS).labels)
    assert sorted(os.listdir(out)) == ["a.json", "a.tif"]


def test_an_image_is_not_its_own_output(segmenter, tmp_path):
    path = save(tmp_path / "a.tif", picture(), **UTM)
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"a\.tif is the image itself; choose another folder with -o"):
        predict_raster(segmenter, path, tmp_path, "a", WINDOWS)
    assert path.read_bytes() == before


def test_an_output_in_work_elsewhere_is_left_alone(segmenter, tmp_path):
    path = save(tmp_path / "a.tif", picture(), **UTM)
    (tmp_path / "out").mkdir()
    with claimed(tmp_path / "out", ".a.tif.lock"):
        refused(segmenter, path, tmp_path / "out", "out is in use by another process; wait for its end")
        predict_raster(segmenter, path, tmp_path / "out", "b", WINDOWS)  # another output is


def test_it_works_in_a_thread_beside_others(segmenter, tmp_path):
    path, made = save(tmp_path / "a.tif", picture(), compress="deflate"), {}

    def predict(stem: str) -> None:
        made[stem] = predict_raster(segmenter, path, tmp_path / "out", stem, WINDOWS)

    threads = [Thread(target=predict, args=(stem,)) for stem in ("a", "b")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    expected = segmenter.predict(picture(), WINDOWS).labels
    for stem in ("a", "b"):
        assert np.array_equal(labels_of(made[stem]["labels"]), expected)


def test_which_images_are_rasters(tmp_path, monkeypatch):
    values, rgb = picture(), Channels()
    assert is_raster(save(tmp_path / "placed.tif", values, **UTM), rgb)
    assert is_raster(save(tmp_path / "big.tif", values, bigtiff="yes"), rgb)
    assert is_raster(tmp_path / "any.jp2", rgb)
    points = [GroundControlPoint(0, 0, 1, 1)]
    assert is_raster(save(tmp_path / "points.tif", values, gcps=points, crs="EPSG:4326"), rgb)
    plain = save(tmp_path / "plain.tif", values)
    (tmp_path / "text.tif").write_text("no raster")
    for path in (plain, tmp_path / "text.tif", tmp_path / "none.tif", tmp_path):
        assert not is_raster(path, rgb)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT)
    assert not is_raster(plain, rgb)
    assert is_raster(plain, NINE)  # which holds three times as much
    assert not is_raster(plain, GREY)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", WIDTH * HEIGHT - 1)
    assert is_raster(plain, rgb)
    assert is_raster(plain, GREY)  # which Pillow would warn of as well
    monkeypatch.setitem(sys.modules, "rasterio", None)
    assert not is_raster(plain, rgb)


def test_without_rasterio_one_line_says_so(segmenter, tmp_path, monkeypatch):
    path = save(tmp_path / "a.tif", picture(), **UTM)
    monkeypatch.setitem(sys.modules, "rasterio", None)
    refused(segmenter, path, tmp_path / "out", "a.tif is a raster, which needs rasterio: pip install 'danet[raster]'.")


def test_windows_of_rasters():
    rule = Preprocess()
    usual = raster_protocol(PROTOCOLS["whole"][0], rule)
    assert (usual.name, usual.size, usual.crop, usual.stride) == ("raster", "original", (512, 512), (384, 384))
    assert (usual.blend, raster_protocol(usual, rule)) == ("gaussian", usual)
    assert raster_protocol(Protocol(), Preprocess(longest=256)).crop == (256, 256)  # no larger than it has ever seen
    assert raster_protocol(Protocol(), Preprocess(longest=None)).crop == (512, 512)
    assert raster_protocol(Protocol(), Preprocess(longest=9)).crop == (32, 32)
    assert raster_protocol(Protocol(fusion="exp"), rule).blend == "uniform"
    own = Protocol(name="mine", crop=(64, 64), stride=(64, 64))
    assert raster_protocol(own, rule) == own.model_copy(update={"size": "original"})
    for fields, words in (
        ({"size": "fit", "fit": (2048, 1024)}, "has images fitted into (2048, 1024), but a raster is predicted at its"),
        (
            {"scales": (0.5, 1)},
            "has scales [0.5, 1.0], but a raster is predicted at its own size, window by window; give",
        ),
        (
            {"flip": True},
            "has flip: true, but a raster is predicted at its own size, window by window; give flip: false.",
        ),
    ):
        with pytest.raises(InputError, match=re.escape(words)):
            raster_protocol(Protocol(**fields), rule)


@pytest.mark.slow
def test_killed_at_any_moment_it_is_gone_on_with(segmenter, tiny_folder, tmp_path):
    """Also while it reads, notes a row, or makes the GeoTIFF: each process works for a little longer than the last."""
    path, generator = save(tmp_path / "a.tif", picture(), **UTM), np.random.Generator(np.random.Philox(1))
    killed = 0
    while killed < 12:
        with child(tiny_folder, path, tmp_path / "out", 0.02) as process:
            assert process.stdout is not None
            if process.stdout.readline():  # it has begun
                time.sleep(generator.uniform(0, 0.3))
                process.send_signal(signal.SIGKILL)
        if (tmp_path / "out" / "a.json").exists():  # it is done, if perhaps not yet ended
            break
        assert process.returncode == -signal.SIGKILL
        killed += 1
    assert killed, "once at least before it was done"
    made = predict_raster(load_as_the_child_did(tiny_folder), path, tmp_path / "out", "a", WINDOWS)
    assert np.array_equal(labels_of(made["labels"]), segmenter.predict(picture(), WINDOWS).labels)
    assert sorted(os.listdir(tmp_path / "out")) == ["a.json", "a.tif"]


HUGE = """
import sys
from pathlib import Path
import torch
from danet.config import Preprocess
from danet.inference.protocol import Protocol
from danet.inference.raster import predict_raster
from danet.inference.segmenter import load
from tests.inference.test_raster import Convolutions

torch.set_num_threads(1)
segmenter = load(sys.argv[1], "cpu", "float32")
segmenter.model = Convolutions(3).eval()
predict_raster(segmenter, sys.argv[2], sys.argv[3], "huge", Protocol())
print(next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM")))
"""


@pytest.mark.slow
@pytest.mark.parametrize("tiling", ["strips", "large tiles"])
def test_memory_is_under_a_gigabyte_at_20000_pixels_a_side(tiny_folder, tmp_path, tiling):
    side, tile = 20_000, picture(height=512, width=512).transpose(2, 0, 1)
    row, options = np.tile(tile, (1, 1, 40))[..., :side], {"zlevel": 1, "interleave": "pixel", "bigtiff": "if_safer"}
    size = {"width": side, "height": side, "count": 3, "dtype": "uint8"}
    path = tmp_path / "huge.tif"
    with rasterio.open(
        path, "w", driver="GTiff", **size, **{**TILINGS[tiling], **options, "compress": "deflate"}, **UTM
    ) as file:
        for top in range(0, side, 512):
            file.write(row[:, : side - top], window=((top, min(top + 512, side)), (0, side)))
    command = [sys.executable, "-W", "error", "-c", HUGE, tiny_folder, path, tmp_path / "out"]
    told = subprocess.run(list(map(str, command)), stdout=subprocess.PIPE, text=True, check=True).stdout
    assert int(told.split()[1]) * 1024 < 2**30, told
    with rasterio.open(tmp_path / "out" / "huge.tif") as file:
        assert (file.width, file.height) == (side, side)
        first = file.read(1, window=((512, 1024), (512, 1024)))
        assert len(np.unique(first)) == 3
