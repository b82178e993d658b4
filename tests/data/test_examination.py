"""Every file is read whatever is wrong with it, and all that is wrong is told, with the right files and mends."""

import json
import re
import warnings
from functools import partial

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from PIL import ExifTags, Image

from danet.cli import main
from danet.config import RunConfig, read_config
from danet.data.dataset import Item
from danet.data.examination import Report, examine
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.training.data import open_data, open_split, read_data
from tests.data.broken import CORPUS, TRAIN, VAL, Broken, image, image_and_mask_both, mask, sound
from tests.data.trees import save_folder, save_mask

MODES = ("1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "HSV", "I", "I;16", "F")


def configured(root) -> RunConfig:
    return read_config(None, {"data.source": "folder", "data.root": str(root)})


def examined(root, workers: int = 0) -> Report:
    return examine(partial(open_split, configured(root)), workers=workers)


@pytest.mark.parametrize("broken", CORPUS, ids=lambda broken: f"{broken.name}-{broken.kind}")
def test_each_failure_is_told_with_its_files_and_mend(tmp_path, broken: Broken):
    broken.breaks(sound(tmp_path))
    report = examined(tmp_path)
    found = [one for one in report.findings if re.search(broken.told, one.told)]
    assert len(found) == 1, report.findings
    (one,) = found
    assert (one.level, one.kind) == (broken.level, broken.kind)
    files = tuple(str(tmp_path / file) for file in broken.files)
    assert tuple(file.replace(".jpg", ".png") for file in one.files) == files
    assert "\n" not in one.told
    assert sum(other.level == "error" for other in report.findings if other != one) == (
        broken.breaks is image_and_mask_both
    )


@pytest.mark.parametrize(
    "broken", [one for one in CORPUS if one.refused], ids=lambda broken: f"{broken.name}-{broken.kind}"
)
def test_a_run_refuses_what_is_an_error_in_the_same_words_and_nothing_else(tmp_path, broken: Broken):
    broken.breaks(sound(tmp_path))
    config = configured(tmp_path)

    def read():
        read_data(config, open_data(config), lambda phase: lambda done, total: None)

    if broken.level == "warning":
        read()
        return
    with pytest.raises(InputError) as refusal:
        read()
    words = re.sub(r" \(\d of \d images lack theirs\)", "", str(refusal.value))
    assert any(one.level == "error" and one.told.startswith(words) for one in examined(tmp_path).findings)


def test_a_sound_data_set_is_counted_and_nothing_is_wrong(tmp_path):
    sound(tmp_path)
    save_mask(mask(tmp_path, "03"), np.vstack([np.full((10, 48), 255), np.zeros((30, 48))]).astype(np.uint8))
    report = examined(tmp_path, workers=2)
    assert report.findings == ()
    assert report.names == ("road", "car", "tree")
    train, val = report.splits["train"], report.splits["val"]
    files = [np.asarray(Image.open(mask(tmp_path, stem))) for stem in TRAIN]
    assert train.pixels.tolist() == [sum(int((values == index).sum()) for values in files) for index in range(3)]
    assert train.images.tolist() == [8, 7, 7]
    assert (train.files, train.ignored, train.sizes, train.turned) == (8, 480, {"48×40": 8}, 0)
    assert train.values == {0: train.pixels[0], 1: train.pixels[1], 2: train.pixels[2], 255: 480}
    assert (dict(train.image_modes), dict(train.mask_modes)) == ({"RGB": 8}, {"L": 8})
    assert train.shares == (train.pixels / train.pixels.sum()).tolist()
    assert train.ignored_share == 480 / (8 * 40 * 48)
    assert (val.files, val.ignored, val.values.get(255, 0)) == (3, 0, 0)


def test_all_that_is_wrong_is_told_at_once_errors_first(tmp_path):
    sound(tmp_path)
    for broken in CORPUS:
        if broken.name in ("truncated_image", "truncated_mask", "image_without_mask", "mask_without_image"):
            broken.breaks(tmp_path)
    save_mask(mask(tmp_path, "01"), np.full((40, 48), 9, np.uint8))
    report = examined(tmp_path, workers=2)
    assert [(one.level, one.kind, len(one.files)) for one in report.findings] == [
        ("error", "file", 1),
        ("error", "value", 1),
        ("error", "pair", 2),
        ("warning", "pair", 1),
    ]
    assert report.splits["train"].files == 7


def test_images_that_exif_turns_are_counted_and_fit_their_upright_masks(tmp_path):
    sound(tmp_path)
    for stem, orientation in (("01", 3), ("02", 6), ("03", 1)):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = orientation
        with Image.open(image(tmp_path, stem)) as upright:
            upright.save(image(tmp_path, stem), exif=exif)
    save_mask(mask(tmp_path, "02"), width=40, height=48)
    report = examined(tmp_path)
    assert report.findings == ()
    assert (report.splits["train"].turned, report.splits["train"].sizes) == (2, {"48×40": 7, "40×48": 1})


def test_strays_of_a_folder_without_splits_are_told_once(tmp_path):
    stems = [f"a picture {number}" for number in range(40)]
    save_folder(tmp_path, stems)
    for stem in stems[:5]:
        (tmp_path / "masks" / f"{stem}.png").unlink()
    phases = []

    def progress(phase):
        phases.append(phase)
        return lambda done, total: phases.append((done, total))

    report = examine(partial(open_split, configured(tmp_path)), progress=progress)
    (error,) = (one for one in report.findings if one.level == "error")
    assert sorted(error.files) == [str(tmp_path / "images" / f"{stem}.png") for stem in stems[:5]]
    train, val = (report.splits[split].files for split in ("train", "val"))
    assert train + val == 35
    assert phases[0] == "check train data"
    assert phases[1 : train + 1] == [(done, train) for done in range(1, train + 1)]


def test_the_command_tells_it_in_tables_and_by_its_exit_code(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    sound(tmp_path)
    assert main(["data", "check", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert re.search(r"road +│ +\d\d\.\d\d % █", told)
    assert "Nothing is wrong." in told
    save_mask(mask(tmp_path, "spare[red]"))
    assert main(["data", "check", str(tmp_path)]) == 3
    assert re.search(r"│ warning │ .*spare\[red\].png", capsys.readouterr().out)
    for stem in TRAIN:
        image(tmp_path, stem).write_text("?")
    assert main(["data", "check", str(tmp_path), "--json"]) == 2
    found = json.loads(capsys.readouterr().out)
    assert (found["errors"], found["warnings"]) == (1, 1)
    assert found["findings"][0]["files"] == [str(image(tmp_path, stem)) for stem in TRAIN]
    assert found["splits"]["val"]["classes"]["road"]["images"] == len(VAL)
    assert main(["data", "check", str(tmp_path)]) == 2
    told = capsys.readouterr().out
    assert "and 5 more" in told
    assert "Errors: 1, warnings: 1." in told


def test_the_command_without_data_and_with_a_source(tmp_path, capsys):
    assert main(["data", "check"]) == 2
    assert "needs a folder with images/ and masks/, or --data.source" in capsys.readouterr().err
    assert main(["data", "check", str(tmp_path / "gone")]) == 2
    assert "gone does not exist" in " ".join(capsys.readouterr().out.split())
    assert main(["data", "check", "--data.source", "scenes", "--data.count", "2", "--data.size", "[48, 64]"]) in (0, 3)


def test_camvid_is_whole(camvid_root):
    config = read_config(None, {"data.source": "camvid", "data.root": str(camvid_root)})
    report = examine(partial(open_split, config), workers=2)
    assert report.findings == ()
    assert [held.files for held in report.splits.values()] == [367, 101]


@given(
    mode=st.sampled_from(MODES),
    mask_mode=st.sampled_from(MODES),
    size=st.tuples(st.integers(1, 70), st.integers(1, 70)),
    mask_size=st.none() | st.tuples(st.integers(1, 70), st.integers(1, 70)),
    seed=st.integers(0, 99),
)
def test_no_mode_type_or_size_crashes_it(tmp_path_factory, mode, mask_mode, size, mask_size, seed):
    root = tmp_path_factory.mktemp("any")
    values = np.random.default_rng(seed).integers(0, 256, (80, 80, 3), np.uint8)
    for folder, one_mode, one_size in (("images", mode, size), ("masks", mask_mode, mask_size or size)):
        (root / folder / "train").mkdir(parents=True)
        kind = "TIFF" if one_mode in ("F", "CMYK", "YCbCr", "LAB") else "PNG"
        picture = Image.fromarray(values).resize(one_size).convert("RGB")
        if one_mode in ("I", "I;16"):
            picture = Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
        elif one_mode == "LAB":
            picture = Image.frombytes("LAB", one_size, picture.tobytes())
        else:
            picture = picture.convert(one_mode)
        picture = picture.convert("RGB") if one_mode == "HSV" else picture
        picture.save(root / folder / "train" / "a.png", format=kind)
    (root / "labels.yaml").write_text("names: [road, car]\n")
    report = examined(root)
    told = " ".join(one.told for one in report.findings)
    single = mask_mode in ("1", "L", "P", "I", "I;16")
    if min(size) < 32:
        assert f"{root / 'images' / 'train' / 'a.png'} is {size[0]}×{size[1]} pixels" in told
    elif mode != "F" and not single:
        assert "a mask is one channel" in told
    elif mode != "F" and mask_size not in (None, size):
        assert "a mask has its image's size" in told
    assert "cannot be read" not in told


def fails() -> tuple[np.ndarray, np.ndarray]:
    raise ZeroDivisionError("somewhere in a decoder")


def test_what_a_source_raises_is_told_and_the_rest_goes_on():
    good = Item("good", lambda: (np.zeros((40, 48, 3), np.uint8), np.zeros((40, 48), np.uint8)))
    labels = LabelSpace("any", ("road", "car"))
    report = examine(lambda split, strays: ([Item("bad", fails), good], labels), splits=("train",))
    (error,) = (one for one in report.findings if one.level == "error")
    assert error.files == ("bad",)
    assert "bad cannot be read: ZeroDivisionError('somewhere in a decoder')" in error.told
    assert report.splits["train"].pixels.tolist() == [40 * 48, 0]


def test_the_depth_that_pillow_loses_is_seen(tmp_path):
    path = sound(tmp_path) / "deep.png"
    size = {"width": 48, "height": 40, "count": 3, "dtype": "uint16"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", rasterio.errors.NotGeoreferencedWarning)
        with rasterio.open(path, "w", "PNG", **size) as file:
            file.write(np.random.default_rng(0).integers(0, 65536, (3, 40, 48), np.uint16))
    path.rename(image(tmp_path))
    (warning,) = examined(tmp_path).findings
    assert (warning.kind, warning.files) == ("depth", (str(image(tmp_path)),))
