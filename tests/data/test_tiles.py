"""Tiles put together again are what was cut; and nothing is left behind where cutting fails."""

import csv
import io
import json
import warnings
from pathlib import Path

import numpy as np
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.errors import NotGeoreferencedWarning

from danet.cli import main
from danet.config import Preprocess
from danet.data.images import read_image
from danet.data.sources import folder
from danet.data.tiles import Tile, cut, starts
from danet.errors import InputError
from tests.data.trees import save_folder, save_image, save_mask

RANDOM = np.random.default_rng(0)


def put_together(tiles: list[Tile], output: Path, shape: tuple[int, ...], read=np.asarray, kind="images") -> np.ndarray:
    """The source of the tiles; every pixel must have been in one of them."""
    whole, seen = np.zeros(shape, int), np.zeros(shape[:2], bool)
    for tile in tiles:
        with Image.open(output / tile.tile.replace("images", kind, 1)) as image:
            values = read(image)
        assert values.shape[:2] == (tile.height, tile.width)
        place = slice(tile.y, tile.y + tile.height), slice(tile.x, tile.x + tile.width)
        whole[place], seen[place] = values, True
    assert seen.all()
    return whole


def read_raster(path: Path) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(path) as file:
            return file.read()


def save_raster(path: Path, values: np.ndarray, driver: str = "GTiff", **profile) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    count, height, width = values.shape
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with rasterio.open(
            path, "w", driver=driver, count=count, height=height, width=width, dtype=values.dtype, **profile
        ) as file:
            file.write(values)
    return path


@given(st.integers(1, 3000), st.integers(32, 700), st.data())
def test_tiles_cover_an_axis_and_overlap(length: int, size: int, data: st.DataObject):
    overlap = data.draw(st.integers(0, size - 1))
    if (length - size) / (size - overlap) > 2000:
        overlap = 0
    begins = starts(length, size, overlap)
    assert begins[0] == 0
    assert begins[-1] + min(size, length) == length
    steps = np.diff(begins)
    assert (steps > 0).all()
    assert (steps <= size - overlap).all()
    assert (steps[:-1] == size - overlap).all()


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(width=st.integers(32, 150), height=st.integers(32, 150), size=st.integers(32, 90), overlap=st.integers(0, 31))
def test_tiles_put_together_are_the_image_and_the_mask(tmp_path_factory, width, height, size, overlap):
    root = tmp_path_factory.mktemp("large")
    pixels = RANDOM.integers(0, 256, (height, width, 3), np.uint8)
    mask = RANDOM.integers(0, 3, (height, width), np.uint8)
    for path, values in ((root / "in/images/ä 1.PNG", pixels), (root / "in/masks/ä 1.png", mask)):
        path.parent.mkdir(parents=True)
        Image.fromarray(values).save(path)
    (root / "in/labels.yaml").write_text("names: [road, car, tree]\n")
    found = cut(root / "in", root / "out", size, overlap)
    assert (found.left_out, {tile.source for tile in found.tiles}) == (0, {"images/ä 1.PNG"})
    assert np.array_equal(put_together(found.tiles, root / "out", pixels.shape), pixels)
    assert np.array_equal(put_together(found.tiles, root / "out", mask.shape, kind="masks"), mask)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16", "CMYK"])
def test_no_mode_changes_a_value(tmp_path, mode):
    grey = Image.fromarray(RANDOM.integers(0, 256, (70, 80), np.uint8))
    image = Image.fromarray(RANDOM.integers(0, 65536, (70, 80), np.uint16)) if mode == "I;16" else grey.convert(mode)
    image.save(tmp_path / f"a.{'jpg' if mode == 'CMYK' else 'png'}")
    with Image.open(next(tmp_path.iterdir())) as kept:
        expected = np.asarray(kept.convert("RGB") if mode == "CMYK" else kept)
    found = cut(next(tmp_path.iterdir()), tmp_path / "out", 40, 8)
    assert np.array_equal(put_together(found.tiles, tmp_path / "out", expected.shape), expected)


def test_a_photograph_on_its_side_is_cut_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(RANDOM.integers(0, 256, (50, 90, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    found = cut(tmp_path / "a.jpg", tmp_path / "out", 40, 8)
    upright = read_image(tmp_path / "a.jpg")
    assert upright.shape == (90, 50, 3)
    assert np.array_equal(put_together(found.tiles, tmp_path / "out", upright.shape), upright)


def test_a_raster_keeps_its_bands_bits_and_place_on_earth(tmp_path):
    values = RANDOM.integers(0, 9000, (4, 100, 130), np.uint16)
    values[:, :40, :40] = 0
    place = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000), "nodata": 0}
    save_raster(tmp_path / "scene.tif", values, tiled=True, blockxsize=32, blockysize=32, **place)
    found = cut(tmp_path / "scene.tif", tmp_path / "out", 40, 8, void=0.9)
    assert found.left_out == 1  # the corner without data
    whole = np.zeros_like(values)
    for tile in found.tiles:
        with rasterio.open(tmp_path / "out" / tile.tile) as part:
            assert (part.crs, part.nodata) == ("EPSG:32633", 0)
            assert part.transform[:6] == (10, 0, 500_000 + 10 * tile.x, 0, -10, 5_000_000 - 10 * tile.y)
            whole[:, tile.y : tile.y + tile.height, tile.x : tile.x + tile.width] = part.read()
    assert np.array_equal(whole, values)


def test_a_raster_without_a_place_gets_none(tmp_path):
    values = RANDOM.random((2, 64, 64), np.float32)
    save_raster(tmp_path / "a.tif", values)
    found = cut(tmp_path / "a.tif", tmp_path / "out", 32, 0)
    assert np.array_equal(read_raster(tmp_path / "out" / found.tiles[-1].tile), values[:, 32:, 32:])
    with pytest.warns(NotGeoreferencedWarning):
        rasterio.open(tmp_path / "out" / found.tiles[-1].tile).close()


def test_arrays_and_deep_colours_are_cut_with_all_their_bits(tmp_path):
    values = RANDOM.random((50, 60, 5))
    np.save(tmp_path / "a.npy", values)
    save_raster(tmp_path / "b.png", (values[..., :3] * 65535).astype(np.uint16).transpose(2, 0, 1), "PNG")
    for name in ("a.npy", "b.png"):
        found = cut(tmp_path / name, tmp_path / f"{name}-tiles", 32, 0)
        last = tmp_path / f"{name}-tiles" / found.tiles[-1].tile
        if name == "a.npy":
            assert np.array_equal(np.load(last), values[18:, 28:])
        else:
            assert np.array_equal(read_raster(last), read_raster(tmp_path / "b.png")[:, 18:, 28:])


def test_void_tiles_are_left_out_and_the_index_tells_the_rest(tmp_path):
    root = save_folder(tmp_path / "in", ["a", "b"])
    mask = np.zeros((96, 96), np.uint8)
    mask[:48, :48], mask[48:, :24] = 255, 255
    for name in "ab":
        save_image(root / "images" / f"{name}.png", 96, 96)
        save_mask(root / "masks" / f"{name}.png", mask)
    found = cut(root, tmp_path / "out", 48, 0, void=0.95)
    assert found.left_out == 2
    with (tmp_path / "out/index.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["tile", "source", "x", "y", "width", "height", "void_share"]
    assert [(row["source"], row["x"], row["y"], float(row["void_share"])) for row in rows] == [
        (f"images/{name}.png", *rest) for name in "ab" for rest in (("48", "0", 0), ("0", "48", 0.5), ("48", "48", 0))
    ]
    written = {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*.png")}
    assert written == {row["tile"].replace("images", kind, 1) for row in rows for kind in ("images", "masks")}


def test_tiles_are_data_to_train_on_in_the_splits_of_their_images(tmp_path):
    root = save_folder(tmp_path / "in", [f"{n:02}" for n in range(12)])
    (root / "labels.yaml").write_text("names: [Straße, car, tree]\nids: {0: 0, 1: 1, 2: 2}\n", encoding="utf-8")
    found = cut(root, tmp_path / "out", 32, 8)
    splits = {split: folder(tmp_path / "out", split, Preprocess()) for split in ("train", "val")}
    assert sum(len(items) for items, _ in splits.values()) == len(found.tiles) == 48
    sources = {split: {Path(item.name).stem.split("-")[0] for item in items} for split, (items, _) in splits.items()}
    assert len(sources["train"]) + len(sources["val"]) == 12, "no image is in both"
    labels = splits["val"][1]
    assert labels.names == ("Straße", "car", "tree")
    image, mask = splits["val"][0][0].load()
    assert image.shape[:2] == mask.shape == (32, 32)


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("size", "The size 16 is too small; a tile needs at least 32"),
        ("overlap", "The overlap 40 does not fit tiles of 40 pixels; give 0 to 39"),
        ("void", "The void share 1.5 is no share"),
        ("missing", "nowhere does not exist; give an image"),
        ("there", "out is there already; choose another folder with -o"),
        ("lonely", r"c\.png has no mask"),
        ("value", r"The part of .*b\.png at \(0, 0\) holds the value 9 at pixel \(0, 0\)"),
        ("other size", r"masks/b\.png is 50×40 pixels, its image .*b\.png 48×40"),
        ("colours", r"The part of .*b\.png at \(0, 0\) is RGB; a mask is one channel"),
        ("cut off", r"b\.png cannot be read: .* Copy or export the file again"),
        ("void all", "All .* tiles of .* are void; allow more than 0.95 with --void"),
        ("empty", r"holds no image \(\.png, "),
        ("stems", r"a\.jpg and .*a\.png have the same stem"),
        (
            "one stem by list",
            r"images/a\.jpg with .*a\.png and .*images/a\.png with .*b\.png would have the same tiles",
        ),
        ("elsewhere by list", r"in/\.\./c\.png lies outside .*in, by which tiles are named; move it there"),
        ("elsewhere by folder", r"pictures/a\.png lies outside .*in, by which tiles are named; move it there"),
        ("a list", r"val\.csv, line 1: 'images/b\.png' has 1 columns"),
        ("a part", r"The folder .*masks/val does not exist"),
        ("within", r"in/images/tiles lies in .*in, which is cut; choose a folder outside it with -o"),
        ("here", r"^\. is there already; choose another folder with -o"),
        ("not described", "no labels.yaml that says what the masks mean; have it written first: danet data init .*in"),
    ],
)
def test_a_fault_is_told_and_leaves_nothing(tmp_path, monkeypatch, damage, told):
    source, settings, out = save_folder(tmp_path / "in", ["a", "b"]), {}, tmp_path / "out"
    mask = source / "masks" / "b.png"
    match damage:
        case "size" | "overlap" | "void":
            settings = {"size": 16 if damage == "size" else 40, "overlap": 40 if damage == "overlap" else 4}
            settings["void"] = 1.5 if damage == "void" else 0.9
        case "missing":
            source = tmp_path / "nowhere"
        case "there":
            save_image(out / "a.png")
        case "lonely":
            save_image(source / "images" / "c.png")
        case "value":
            save_mask(mask, np.full((40, 48), 9, np.uint8))
        case "other size":
            save_mask(mask, np.zeros((40, 50), np.uint8))
        case "colours":
            save_image(mask)
        case "cut off":
            picture = source / "images" / "b.png"
            picture.write_bytes(picture.read_bytes()[:3000])
        case "void all":
            for name in "ab":
                save_mask(source / "masks" / f"{name}.png", np.full((40, 48), 255, np.uint8))
        case "empty":
            (source := tmp_path / "empty").mkdir()
        case "stems":
            source = save_image(tmp_path / "pictures" / "a.png").parent
            save_image(source / "a.jpg")
        case "one stem by list":
            save_image(source / "images" / "a.jpg")
            (source / "train.txt").write_text("images/a.jpg masks/a.png\nimages/a.png masks/b.png\n")
        case "elsewhere by list":
            save_image(tmp_path / "c.png")
            (source / "train.txt").write_text("images/a.png masks/a.png\n../c.png masks/b.png\n")
        case "elsewhere by folder":
            (source / "images").rename(tmp_path / "pictures")
            (source / "labels.yaml").write_text("names: [road, car, tree]\nfolders: {images: ../pictures}\n")
        case "a list":
            (source / "train.csv").write_text("images/a.png,masks/a.png\n")
            (source / "val.csv").write_text("images/b.png\n")
        case "a part":
            save_folder(source, ["c"], "train")
            save_image(source / "images" / "val" / "d.png")
        case "within":
            out = source / "images" / "tiles"
        case "here":
            (tmp_path / "empty").mkdir()
            monkeypatch.chdir(tmp_path / "empty")
            out = Path(".")
        case "not described":
            (source / "labels.yaml").unlink()
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match=told):
        cut(source, out, **settings)
    assert sorted(tmp_path.rglob("*")) == before


def test_nothing_that_was_there_is_removed(tmp_path):
    kept = save_image(tmp_path / ".out.part" / "a.png")
    cut(save_image(tmp_path / "a.png"), tmp_path / "out", 32, 0)
    assert kept.is_file()
    assert sorted(path.name for path in tmp_path.iterdir()) == [".out.part", "a.png", "out"]
    assert (tmp_path / "out").stat().st_mode == kept.parent.stat().st_mode


@pytest.mark.parametrize("splits", [["val"], ["train", "test"]])
def test_a_split_that_is_absent_is_passed_over(tmp_path, splits):
    for split in splits:
        save_folder(tmp_path / "folders", ["a"], split)
        save_folder(tmp_path / "lists", [split])
        (tmp_path / "lists" / f"{split}.txt").write_text(f"images/{split}.png masks/{split}.png\n")
    for name in ("folders", "lists"):
        found = cut(tmp_path / name, tmp_path / f"{name} cut", 64, 0)
        assert [Path(tile.tile).parts[1] for tile in found.tiles] == splits


def test_what_is_too_large_to_open_is_cut_and_the_limit_is_back(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 900)
    save_image(tmp_path / "a.png")
    with pytest.raises(InputError, match="too large to open safely"):
        read_image(tmp_path / "a.png")
    assert len(cut(tmp_path / "a.png", tmp_path / "out", 32, 0).tiles) == 4
    assert Image.MAX_IMAGE_PIXELS == 900
    monkeypatch.setattr("danet.data.tiles._MOST_PIXELS", 1000)
    with pytest.raises(InputError, match=r"a\.png is too large to be read whole: 48×40 pixels\. Save it as TIFF"):
        cut(tmp_path / "a.png", tmp_path / "out 2", 32, 0)


def test_the_command(tmp_path, capsys):
    root, out = save_folder(tmp_path / "in", ["a"]), tmp_path / "out"
    assert main(["data", "tile", str(root), "-o", str(out), "--size", "32", "--overlap", "8", "--json"]) == 0
    assert json.load(io.StringIO(capsys.readouterr().out)) == {"folder": str(out), "tiles": 4, "left_out": 0}
    assert main(["data", "tile", str(root), "-o", str(out)]) == 2
    assert "is there already" in capsys.readouterr().err
