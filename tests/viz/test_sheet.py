"""A data set at a glance: the page and the picture show what is in the files, and nothing from outside gets through."""

import json

import numpy as np
import pytest
from PIL import Image

from danet.cli import main
from danet.viz.sheet import ROW, Shown, View, class_rows, contact_sheet, page
from tests.viz.test_report import NASTY, SPACE, Page


def view(height: int, width: int, label: int) -> View:
    return View(np.full((height, width, 3), 90, np.uint8), np.full((height, width), label, np.uint8))


def shown(name: str = NASTY) -> Shown:
    return Shown(name, view(60, 80, 0), [view(30, 30, label) for label in (0, 1, 255)])


def counted() -> np.ndarray:
    counts = np.zeros((4, 256), np.int64)
    counts[:, 0], counts[:2, 1], counts[3, 255] = 75, 50, 100
    return counts


def test_classes_have_shares_of_labelled_pixels_and_their_images():
    rows = class_rows(SPACE, counted())
    assert [(row["share"], row["images"]) for row in rows] == [(0.75, 4), (0.25, 2), (0, 0)]
    assert [row["share"] for row in class_rows(SPACE, np.zeros((1, 256), np.int64))] == [0, 0, 0]


def test_the_page_shows_everything_escaped_and_loads_nothing():
    text = page(f"Title {NASTY}", [shown(), shown("second")], SPACE, counted(), {f"crop {NASTY}": "30"})
    found = Page(text)
    assert "<script>" not in text
    assert "<b>kerb" not in text
    assert not found.all("script")
    assert all((image["src"] or "").startswith("data:image/") for image in found.all("img"))
    assert len(found.all("img")) == 2 * (3 + 2 * 3)
    for words in ("4 images to train on, 3 classes; 20.0 % of the pixels", "75.0 %", NASTY, "second", "sky", "tree"):
        assert words in found.text


def test_the_contact_sheet_has_a_row_an_image():
    one, two = contact_sheet([shown()], SPACE), contact_sheet([shown(), shown("a long name " * 40)], SPACE)
    assert one.width == two.width == 3 * (200 + 8) + 3 * (ROW + 8) + 8
    assert two.height > 2 * (one.height - 8)
    pixels = np.asarray(one)
    middle = pixels[one.height - ROW // 2 - 8]
    assert middle[8 + 100].tolist() == [90, 90, 90]
    assert middle[8 + 208 + 100].tolist() == list(SPACE.colours[0])
    assert middle[8 + 416 + 100].tolist() not in ([90, 90, 90], list(SPACE.colours[0]))
    assert middle[-8 - ROW // 2].tolist() == [90, 90, 90], "what is not labelled stays as it is"


@pytest.mark.parametrize("sampling", ["uniform", "balanced"])
def test_the_command_shows_what_training_sees(own_data, tmp_path, capsys, sampling):
    path = tmp_path / "shown" / "own.html"
    fields = ["--data.crop", "[32, 48]", "--data.sampling", sampling]
    assert main(["data", "show", str(own_data), "-o", str(path), "--count", "3", "--json", *fields]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told == {"page": str(path), "sheet": str(path.with_suffix(".png"))}
    found = Page(path.read_text(encoding="utf-8"))
    assert len(found.all("img")) == 3 * (3 + 2 * 3)
    for words in ("own", "8 images to train on, 3 classes", "0.png", "7.png", "road", "car", "tree", sampling):
        assert words in found.text
    with Image.open(told["sheet"]) as sheet:
        assert sheet.height > 3 * ROW
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["own.html", "own.png"]


def test_the_page_is_named_after_the_data_and_replaces_nothing(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    sheet = tmp_path / "own-data.png"
    sheet.write_text("mine")
    assert main(["data", "show", str(own_data), "--count", "1"]) == 2
    assert "own-data.png exists; choose another with -o, or remove it" in capsys.readouterr().err
    assert (sheet.read_text(), (tmp_path / "own-data.html").exists()) == ("mine", False)
    sheet.unlink()
    assert main(["data", "show", str(own_data), "--count", "1"]) == 0
    with Image.open(sheet) as picture:
        assert picture.height > ROW
    page = (tmp_path / "own-data.html").read_bytes()
    assert main(["data", "show", str(own_data), "--count", "1"]) == 2
    assert "own-data.html exists" in capsys.readouterr().err
    assert (tmp_path / "own-data.html").read_bytes() == page


def test_any_channels_are_shown(own_data, tmp_path):
    for number, image in enumerate(sorted((own_data / "images").rglob("*.png"))):
        values = np.random.default_rng(number).integers(0, 10_000, (48, 64, 4), np.uint16)
        np.save(image.with_suffix(".npy"), values)
        image.unlink()
    channels = "channels: {names: [blue, green, red, nir], range: [0, 10000]}\n"
    (own_data / "labels.yaml").write_text(f"names: [road, car, tree]\n{channels}")
    assert main(["data", "show", str(own_data), "-o", str(tmp_path / "a.html"), "--count", "2"]) == 0
    assert "0.npy" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["-o", "page.png"], "The page page.png is no .html file; give -o one, such as page.html"),
        (["-o", "."], ". exists; choose another with -o"),
        (["--count", "0"], "The count is 0; show at least 1 image"),
    ],
)
def test_wrong_use_is_told(own_data, tmp_path, monkeypatch, capsys, arguments, told):
    monkeypatch.chdir(tmp_path)
    assert main(["data", "show", str(own_data), *arguments]) == 2
    assert told in capsys.readouterr().err


def test_a_bad_mask_is_told_and_nothing_is_written(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.full((48, 64), 7, np.uint8)).save(own_data / "masks" / "train" / "3.png")
    before = sorted(tmp_path.iterdir())
    assert main(["data", "show", str(own_data)]) == 2
    assert "holds the value 7" in capsys.readouterr().err
    assert sorted(tmp_path.iterdir()) == before
