import pickle
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danet.config import Preprocess
from danet.data.dataset import Dataset
from danet.data.doctor import check
from danet.data.published import camvid
from danet.data.sources import folder, open_source, scenes
from danet.errors import InputError
from tests.data.trees import save_folder, save_image, save_mask


def names(source) -> list[str]:
    return [Path(item.name).name for item in source[0]]


@pytest.mark.parametrize(("split", "pairs"), [("train", 367), ("val", 101)])
def test_camvid_itself(camvid_root, split, pairs):
    items, labels = camvid(camvid_root, split)
    summary = check(Dataset(items, labels), workers=2)
    assert summary.files == len(items) == pairs
    assert int(summary.pixels.sum()) + summary.ignored == pairs * 360 * 480
    shares = dict(zip(labels.names, summary.pixels / summary.pixels.sum(), strict=True))
    assert 0.2 < shares["road"] < 0.4
    assert 0.05 < shares["sky"] < 0.3
    assert 0.1 < shares["building"] < 0.35
    assert all(0 < shares[name] < 0.02 for name in ("pole", "sign", "pedestrian"))
    assert 0 < summary.ignored < 0.1 * pairs * 360 * 480


def test_camvid_layout(tmp_path):
    for split in ("train", "val", "test"):
        for stem in ("b", "a"):
            save_image(tmp_path / split / f"{stem}.png")
            save_mask(tmp_path / f"{split}annot" / f"{stem}.png", classes=12)
        source = open_source("camvid", split, root=tmp_path)
        assert names(source) == ["a.png", "b.png"]
        assert int(Dataset(*source)[0].mask.max()) == 255
    with pytest.raises(InputError, match=r"no split 'trian'\. Did you mean train"):
        camvid(tmp_path, "trian")
    (tmp_path / "valannot" / "b.png").unlink()
    with pytest.raises(InputError, match=r"val.b\.png has no mask: there is no .*valannot.b\.png \(1 of 2 images"):
        camvid(tmp_path, "val")


def test_folder_with_splits(tmp_path):
    save_folder(tmp_path, ["a", "b", "c"], "train")
    save_folder(tmp_path, ["d"], "val")
    assert names(folder(tmp_path, "train")) == ["a.png", "b.png", "c.png"]
    items, labels = open_source("folder", "val", root=str(tmp_path))
    assert names((items, labels)) == ["d.png"]
    assert (labels.name, labels.names) == (tmp_path.name, ("road", "car", "tree"))
    assert items[0].mask == str(tmp_path / "masks" / "val" / "d.png")


@pytest.mark.parametrize(
    ("ending", "line"),
    [
        ("txt", "raw/{stem}.png drawn/{stem}_mask.png"),
        ("txt", "raw/{stem}.png\tdrawn/{stem}_mask.png"),
        ("csv", '"raw/{stem}.png", drawn/{stem}_mask.png'),
    ],
)
def test_folder_with_lists(tmp_path, ending, line):
    """Images and masks anywhere, in the lists' own order; spaces where a tab or a comma parts the columns."""
    blank = " " if "\t" in line or ending == "csv" else "-"
    splits = {"train": [f"街景{blank}2", "a", f"街景{blank}1"], "val": ["b"], "test": ["c"]}
    for split, stems in splits.items():
        for stem in stems:
            save_image(tmp_path / "raw" / f"{stem}.png")
            save_mask(tmp_path / "drawn" / f"{stem}_mask.png")
        lines = [line.format(stem=stem) for stem in stems]
        text = "\ufeff" + ("image,mask\n" if ending == "csv" and split == "train" else "")
        (tmp_path / f"{split}.{ending}").write_text(text + "\n".join(lines) + "\n\n", encoding="utf-8")
    (tmp_path / "labels.yaml").write_text("names: [road, car, tree]\n")
    for split, stems in splits.items():
        source = folder(tmp_path, split)
        assert names(source) == [f"{stem}.png" for stem in stems]
        assert Dataset(*source)[0].mask.max() == 2
    (tmp_path / "drawn" / "a_mask.png").unlink()
    with pytest.raises(InputError, match=r"a_mask\.png does not exist \(1 of 6 files are missing\)\. Correct the list"):
        folder(tmp_path, "train")
    (tmp_path / f"val.{ending}").unlink()
    with pytest.raises(InputError, match=rf"has test\.{ending}, train\.{ending}, but no val\.txt; write that list"):
        folder(tmp_path, "val")
    (tmp_path / f"val.{ending}").write_text("raw/b.png\n")
    with pytest.raises(InputError, match=rf"val\.{ending}, line 1: 'raw/b\.png' has 1 columns; write an image and its"):
        folder(tmp_path, "val")
    (tmp_path / f"val.{ending}").write_text("\n")
    with pytest.raises(InputError, match="No image is listed"):
        folder(tmp_path, "val")


def test_folder_with_masks_in_colours(tmp_path):
    save_folder(tmp_path, ["a"], "train")
    colours = np.array([[0, 0, 0], [200, 60, 60], [60, 200, 60]], np.uint8)
    values = np.array(Image.open(tmp_path / "masks" / "train" / "a.png"))
    (tmp_path / "labels.yaml").write_text(
        "names: [car, tree]\nmasks: colours\ncolours: [[200, 60, 60], [60, 200, 60]]\nignore_colours: [[0, 0, 0]]\n"
    )
    palette = Image.fromarray(values)
    palette.putpalette(colours.ravel().tolist())
    rgb = Image.fromarray(colours[values])
    for picture in (rgb, rgb.convert("RGBA"), palette):
        picture.save(tmp_path / "masks" / "train" / "a.png")
        assert np.array_equal(Dataset(*folder(tmp_path, "train"))[0].mask.numpy(), np.array([255, 0, 1])[values])


def test_a_file_without_split_keeps_its_part(tmp_path):
    stems = [f"image {number}" for number in range(40)]
    save_folder(tmp_path, stems)
    train, val = names(folder(tmp_path, "train")), names(folder(tmp_path, "val"))
    assert sorted(train + val) == sorted(f"{stem}.png" for stem in stems)
    assert 3 <= len(val) <= 14
    for stem in stems[::2]:
        (tmp_path / "images" / f"{stem}.png").unlink()
    left = {f"{stem}.png" for stem in stems[1::2]}
    assert set(names(folder(tmp_path, "val"))) == set(val) & left
    assert set(names(folder(tmp_path, "train"))) == set(train) & left


def test_both_spellings_of_an_accent_are_in_the_same_part(tmp_path):
    stems = [f"café {number}" for number in range(30)]
    parts = {}
    for form in ("NFC", "NFD"):
        root = save_folder(tmp_path / form, [unicodedata.normalize(form, stem) for stem in stems])
        parts[form] = {unicodedata.normalize("NFC", name) for name in names(folder(root, "val"))}
    assert parts["NFC"] == parts["NFD"] != set()


def test_names_endings_and_strangers(tmp_path):
    save_folder(tmp_path, ["街景 一", "a b"], "train")
    save_image(tmp_path / "images" / "train" / "UPPER.JPG")
    save_image(tmp_path / "images" / "train" / "photo.v2.jpeg")
    save_mask(tmp_path / "masks" / "train" / "UPPER.PNG")
    save_mask(tmp_path / "masks" / "train" / "photo.v2.png")
    save_mask(tmp_path / "masks" / "train" / "spare.png")
    for stranger in (".DS_Store", "._a b.png", "Thumbs.db", "notes.txt"):
        (tmp_path / "images" / "train" / stranger).write_bytes(b"?")
    source = folder(tmp_path, "train")
    assert names(source) == ["UPPER.JPG", "a b.png", "photo.v2.jpeg", "街景 一.png"]
    assert all(sample.image.shape == (3, 40, 48) for sample in Dataset(*source))


@pytest.mark.parametrize(
    ("breaks", "told"),
    [
        ("images", "has no folder images/; put the images there"),
        ("masks", "has no folder masks/; put the masks as PNG"),
        ("labels.yaml", r"has no labels\.yaml; write one, such as names: \[road, car\]"),
        ("images/train", "/images holds no image; put some there"),
        ("masks/train", r"masks/train does not exist"),
        (
            "masks/train/b.png",
            r"images/train/b\.png has no mask: there is no .*masks/train/b\.png \(1 of 3 images lack",
        ),
        ("images/train/*", "images/train holds no image; put some there"),
    ],
)
def test_a_broken_folder_says_what_is_missing(tmp_path, breaks, told):
    save_folder(tmp_path, ["a", "b", "c"], "train")
    for path in sorted(tmp_path.glob(breaks)):
        path.rename(tmp_path.parent / f"{tmp_path.name} {path.name}")
    with pytest.raises(InputError, match=told) as error:
        folder(tmp_path, "train")
    assert "\n" not in str(error.value)


def test_a_missing_root_and_other_wrong_uses(tmp_path):
    for name in ("camvid", "folder"):
        with pytest.raises(InputError, match=r"nowhere does not exist\. .*data\.root"):
            open_source(name, "train", root=tmp_path / "nowhere")
        with pytest.raises(InputError, match=f"The source {name} needs its folder; give data.root"):
            open_source(name, "train")
    with pytest.raises(InputError, match=r"no source 'camvdi'\. Did you mean camvid"):
        open_source("camvdi", "train", root=tmp_path)
    save_folder(tmp_path, ["a"])
    with pytest.raises(InputError, match=r"None of the 1 images in .* falls into .*subfolders train/ and val/"):
        [folder(tmp_path, split) for split in ("train", "val")]
    Image.new("RGB", (40, 40)).save(tmp_path / "images" / "a.jpg")
    with pytest.raises(InputError, match=r"a\.jpg and .*a\.png have the same stem"):
        folder(tmp_path, "train")


def test_scenes_of_train_and_val_are_never_the_same():
    drawn = {
        (seed, split): {item.name for item in scenes(split, 50, 48, 64, seed)[0]}
        for seed in range(4)
        for split in ("train", "val")
    }
    assert len(set.union(*drawn.values())) == 8 * 50
    pictures = [item.load()[0].tobytes() for split in ("train", "val") for item in scenes(split, 6, 48, 64)[0]]
    assert len(set(pictures)) == 12


def test_a_folder_beside_drawn_scenes_is_not_passed_over():
    with pytest.raises(InputError, match=r"data\.root is street, but the source scenes draws its images"):
        open_source("scenes", "train", root="street")


def test_a_folder_split_by_names_has_no_test_part(own_data):
    for kind in ("images", "masks"):
        for path in (own_data / kind).glob("*/*.png"):
            path.rename(own_data / kind / f"{path.parent.name}_{path.name}")
        for part in ("train", "val"):
            (own_data / kind / part).rmdir()
    with pytest.raises(
        InputError, match=r"has no part test: .* Make subfolders train/, val/ and test/ in both folders"
    ):
        open_source("folder", "test", root=own_data)


def test_scenes_as_samples():
    items, labels = open_source("scenes", "val", count=12, size=(48, 64))
    assert (len(items), labels.name) == (2, "scenes")
    assert items[1].name == "scenes seed 1 index 1"
    sample = Dataset(items, labels)[1]
    assert (sample.image.shape, sample.mask.shape) == ((3, 48, 64), (48, 64))
    assert len(sample.mask.unique()) > 2
    again = pickle.loads(pickle.dumps(items[1])).load()
    assert all(np.array_equal(first, second) for first, second in zip(again, items[1].load(), strict=True))
    assert len(open_source("scenes", "train", count=12)[0]) == 12
    assert len(open_source("scenes", "val", count=2000)[0]) == 100
    assert len(open_source("scenes", "val", count=3)[0]) == 1
    with pytest.raises(InputError, match="no split 'test'"):
        scenes("test", 1, 48, 64)


def test_twins_and_control_show_the_streets_of_val():
    for seed in (0, 1):
        val, twins, control = (
            [item.load() for item in scenes(split, 4, 48, 64, seed)[0]] for split in ("val", "twins", "control")
        )
        for (image, labels), (twin, twin_labels), (bare, bare_labels) in zip(val, twins, control, strict=True):
            ground, exchanged = np.isin(labels, (3, 4)), (labels != twin_labels) & (labels + twin_labels == 7)
            assert exchanged[ground].mean() > 0.9
            assert np.isin(labels, (2, 5, 6, 8, 9, 10)).any()
            assert not np.isin(bare_labels, (2, 5, 6, 8, 9, 10)).any()
            assert np.array_equal(bare_labels[ground], labels[ground])
            for other in (twin, bare):
                assert np.isclose(image[ground], other[ground], atol=1).all(axis=1).mean() > 0.6


def test_twins_and_control_are_sources_like_the_others():
    names = set()
    for split in ("val", "twins", "control"):
        items, labels = open_source("scenes", split, count=15, size=(48, 64))
        again = pickle.loads(pickle.dumps(items[2])).load()
        assert all(np.array_equal(first, second) for first, second in zip(again, items[2].load(), strict=True))
        assert (len(items), labels.name) == (3, "scenes")
        names |= {item.name for item in items}
    assert len(names) == 9
    assert "scenes (twins) seed 1 index 2" in names
    with pytest.raises(InputError, match=r"no split 'xyz'\. Known: train, val, twins, control"):
        scenes("xyz", 1, 48, 64)
    with pytest.raises(InputError, match=r"no split 'twin'\. Did you mean twins"):
        scenes("twin", 1, 48, 64)


def test_images_are_read_in_the_channels_of_recipe_or_labels(tmp_path):
    save_folder(tmp_path, ["a", "b"], "train")
    (tmp_path / "images" / "train" / "a.npy").write_bytes(b"features, say")  # no image where images are pictures
    assert folder(tmp_path, "train")[0][0].load()[0].shape == (40, 48, 3)
    grey = Preprocess(names=("grey",))
    with pytest.raises(InputError, match=r"a\.npy and .*a\.png have the same stem"):
        folder(tmp_path, "train", grey)
    (tmp_path / "images" / "train" / "a.npy").unlink()
    assert folder(tmp_path, "train", grey)[0][0].load()[0].shape == (40, 48, 1)
    (tmp_path / "labels.yaml").write_text("names: [road, car, tree]\nchannels: {names: [red, nir]}\n")
    assert folder(tmp_path, "train", grey)[0][0].load()[0].shape == (40, 48, 1)
    with pytest.raises(InputError, match=r"a\.png has 3 channels, but the model takes 2 \(red, nir\)"):
        folder(tmp_path, "train")[0][0].load()
    with pytest.raises(InputError, match=r"Drawn scenes are RGB of 8 bits, but .* grey from 0 to 255; leave"):
        open_source("scenes", "val", preprocess=grey)
