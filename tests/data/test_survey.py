import json
import shutil

import numpy as np
import pytest
import yaml
from PIL import Image, ImageFilter

from danet.config import Channels
from danet.data.labels import LabelSpace
from danet.data.sources import folder
from danet.data.survey import _replaced, init
from danet.errors import InputError
from tests.data.trees import save_image, save_mask


def mask_of(values, seed=0, height=40, width=48):
    return np.random.default_rng(seed).choice(np.array(values, np.uint8), (height, width))


def data_set(root, values=(0, 1, 2), count=10, image="images/{}.jpg", mask="masks/{}.png"):
    for number in range(count):
        save_image(root / image.format(number), seed=number)
        save_mask(root / mask.format(number), mask_of(values))
    return root


def written(root):
    return yaml.safe_load((root / "labels.yaml").read_text(encoding="utf-8"))


def splits(root):
    return {split: {item.name for item in folder(root, split)[0]} for split in ("train", "val")}


def values_of(item, labels):
    return set(labels.to_indices(item.load()[1]).ravel().tolist())


@pytest.mark.parametrize(
    ("image", "mask", "folders"),
    [
        ("images/街景 {}.JPG", "masks/街景 {}.PNG", None),
        ("photos/a b{}.png", "ground truth/a b{}_labels.png", ("photos", "ground truth", "_labels")),
        ("{}.jpg", "masks/{}.png", (".", "masks", "")),
        ("{}.JPG", "{}.png", (".", ".", "")),
        ("photo-{}.png", "photo-{}_mask.png", (".", ".", "_mask")),
        ("JPEGImages/{}.jpg", "SegmentationClass/{}.png", ("JPEGImages", "SegmentationClass", "")),
        ("data/in/{}.png", "data/out/{}.png", ("data/in", "data/out", "")),
    ],
)
def test_images_and_masks_are_found_wherever_they_lie(tmp_path, image, mask, folders):
    data_set(tmp_path, image=image, mask=mask)
    found = init(tmp_path)
    assert sum(found.images.values()) == 10
    assert found.notes == []
    told = written(tmp_path).get("folders")
    expected = folders and dict(zip(("images", "masks", "suffix"), folders, strict=True))
    assert told == (expected and {k: v for k, v in expected.items() if v not in (k, "")})
    parts = splits(tmp_path)
    assert sorted(parts["train"] | parts["val"]) == sorted(str(tmp_path / image.format(n)) for n in range(10))
    assert {name: len(part) for name, part in parts.items()} == found.images == {"train": 8, "val": 2}
    item = folder(tmp_path, "train")[0][0]
    assert item.load()[0].shape == (40, 48, 3)
    assert values_of(item, found.labels) == {0, 1, 2}


@pytest.mark.parametrize(
    ("values", "entries"),
    [
        ((0, 255), {"names": ["background", "foreground"], "ids": {0: 0, 255: 1}, "ignore": []}),
        ((0, 1), {"names": ["background", "foreground"], "ignore": [255]}),
        ((0, 1, 255), {"names": ["background", "foreground"], "ignore": [255]}),
        ((1, 2, 5), {"names": ["class 1", "class 2", "class 5"], "ids": {1: 0, 2: 1, 5: 2}, "ignore": [255]}),
        ((0, 15, 255), {"names": ["class 0", "class 15"], "ids": {0: 0, 15: 1}, "ignore": [255]}),
        ((1, 2, 7, 255), {"names": ["class 1", "class 2", "class 7"], "ids": {1: 0, 2: 1, 7: 2}, "ignore": [255]}),
        ((0, 128, 255), {"names": ["class 0", "class 128", "class 255"], "ids": {0: 0, 128: 1, 255: 2}, "ignore": []}),
    ],
)
def test_values_become_classes(tmp_path, values, entries):
    found = init(data_set(tmp_path, values))
    assert {key: value for key, value in written(tmp_path).items() if key not in ("colours", "split")} == entries
    items, labels = folder(tmp_path, "train")
    seen = set(range(len(entries["names"]))) | ({255} if 255 in values and 255 in entries["ignore"] else set())
    assert values_of(items[0], labels) == seen
    assert labels == found.labels
    assert "background" in labels.names or (0, 0, 0) not in labels.colours


def test_a_palette_gives_the_colours(tmp_path):
    data_set(tmp_path)
    for path in (tmp_path / "masks").iterdir():
        with Image.open(path) as image:
            image.putpalette([9, 8, 7, 0, 255, 0, 0, 0, 255])
            image.save(path)
    assert written(init(data_set(tmp_path, count=0)).path.parent)["colours"] == [[9, 8, 7], [0, 255, 0], [0, 0, 255]]


@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_colours_become_classes(tmp_path, mode):
    data_set(tmp_path)
    table = np.array([[255, 0, 255], [0, 0, 0], [0, 128, 0]], np.uint8)
    for path in (tmp_path / "masks").iterdir():
        Image.fromarray(table[np.array(Image.open(path))]).convert(mode).save(path)
    init(tmp_path)
    entries = written(tmp_path)
    assert entries["names"] == ["#000000", "#008000", "#ff00ff"]
    assert (entries["masks"], entries["colours"]) == ("colours", [[0, 0, 0], [0, 128, 0], [255, 0, 255]])
    items, labels = folder(tmp_path, "train")
    assert values_of(items[0], labels) == {0, 1, 2}


def test_groups_stay_together_and_the_split_is_chosen_for_its_shares_and_classes(tmp_path):
    for drive in range(10):
        for number in range(4):
            save_image(tmp_path / "images" / f"drive{drive}_f{number}.jpg", seed=drive)
            values = (0, 1, 2) if drive in (2, 7) else (0, 1)
            save_mask(tmp_path / "masks" / f"drive{drive}_f{number}.png", mask_of(values))
    found = init(tmp_path)
    assert (found.groups, found.images) == ("10 groups by prefix, such as 'drive0'", {"train": 32, "val": 8})
    drives = {split: {name[-8] for name in part} for split, part in splits(tmp_path).items()}
    assert not drives["train"] & drives["val"]
    assert all(drives[split] & {"2", "7"} for split in drives)
    assert init(tmp_path, groups="none", force=True).groups == "each image alone"
    assert init(tmp_path, groups="drive([0-4])?", force=True).groups.startswith("6 groups by drive([0-4])?")
    (tmp_path / "labels.yaml").write_text("names: [a, b, c]\nsplit: {val: 0.5, groups: prefix, seed: 1}\n")
    assert {len(part) % 4 for part in splits(tmp_path).values()} == {0}


def test_subfolders_are_groups_and_train_and_val_are_splits(tmp_path):
    data_set(tmp_path / "a", count=0)
    for patient in ("甲", "b", "c", "d"):
        data_set(tmp_path / "a", image=f"images/{patient}/{{}}.png", mask=f"masks/{patient}/{{}}.png", count=4)
    found = init(tmp_path / "a", val=0.25)
    assert (found.groups[:18], found.images) == ("4 groups by folder", {"train": 12, "val": 4})
    for split, count in (("train", 5), ("val", 2)):
        data_set(tmp_path / "b", image=f"images/{split}/{{}}.png", mask=f"masks/{split}/{{}}.png", count=count)
    found = init(tmp_path / "b")
    assert found.images == {split: len(part) for split, part in splits(tmp_path / "b").items()}
    assert "split" not in written(tmp_path / "b")


def save_with(path, pixels):
    path.parent.mkdir(parents=True, exist_ok=True)
    np.save(path, pixels) if path.suffix == ".npy" else Image.fromarray(pixels).save(path)


@pytest.mark.parametrize(
    ("ending", "pixels", "expected"),
    [
        ("png", np.full((40, 48), 51, np.uint8), Channels(names=("grey",), mean=(0.2,), std=(0.01,))),
        (
            "png",
            np.full((40, 48), 3000, np.uint16),
            Channels(names=("grey",), range=(0, 4095), mean=(0.7326,), std=(0.01,)),
        ),
        (
            "npy",
            np.full((40, 48, 4), [0.5, 0.25, 0, 1], np.float32),
            Channels(
                names=("channel 1", "channel 2", "channel 3", "channel 4"),
                range=(0, 1),
                mean=(0.5, 0.25, 0, 1),
                std=(0.01,) * 4,
            ),
        ),
    ],
)
def test_channels_that_are_no_picture_are_measured(tmp_path, ending, pixels, expected):
    for number in range(6):
        save_with(tmp_path / "images" / f"{number}.{ending}", pixels)
        save_mask(tmp_path / "masks" / f"{number}.png")
    found = init(tmp_path)
    assert found.labels.channels == expected
    assert folder(tmp_path, "train")[0][0].load()[0].shape == (40, 48, len(expected.names))


def test_a_deviation_is_that_of_all_pixels(tmp_path):
    for number in range(6):
        save_with(tmp_path / "images" / f"{number}.png", np.full((40, 48), 100 + number % 2 * 50, np.uint8))
        save_mask(tmp_path / "masks" / f"{number}.png")
    channels = init(tmp_path).labels.channels
    assert channels.mean == pytest.approx([125 / 255], abs=1e-4)
    assert channels.std == pytest.approx([25 / 255], abs=1e-4)


def labelme(root, names):
    square = {"label": "车", "points": [[10, 5], [29, 5], [29, 19], [10, 19]], "shape_type": "polygon"}
    for name in names:
        save_image(root / f"{name}.JPG")
        facts = {"imagePath": f"{name}.JPG", "imageHeight": 40, "imageWidth": 48, "shapes": [square]}
        (root / f"{name}.json").write_text(json.dumps(facts), encoding="utf-8")


def test_annotations_are_drawn_once_into_masks(tmp_path):
    labelme(tmp_path, [f"街 {number}" for number in range(6)])
    save_image(tmp_path / "not annotated.png")
    found = init(tmp_path)
    assert found.kind == "LabelMe's JSON"
    assert found.notes == [f"1 image has no annotation ({tmp_path / 'not annotated.png'})."]
    assert sum(found.images.values()) == sum(map(len, splits(tmp_path).values())) == 6
    item = folder(tmp_path, "train")[0][0]
    assert np.bincount(item.load()[1].ravel()).tolist() == [40 * 48 - 300, 300]
    with Image.open(item.mask) as mask:
        assert mask.mode == "P"
        assert mask.getpalette()[:6] == [0, 0, 0, *found.labels.colours[1]]
    with pytest.raises(InputError, match=r"labels\.yaml is there already; edit it, or .*--force"):
        init(tmp_path)
    (tmp_path / "labels.yaml").unlink()
    with pytest.raises(InputError, match="masks is there already; have the masks drawn anew with --force"):
        init(tmp_path)
    assert init(tmp_path, force=True).images == found.images
    save_mask(tmp_path / "masks" / "by hand.png")
    with pytest.raises(InputError, match=r"by hand\.png was not drawn by danet data init, which would replace it"):
        init(tmp_path, force=True)
    assert not list(tmp_path.glob(".*"))


def test_nothing_is_written_where_anything_is_wrong(tmp_path):
    labelme(tmp_path, ["a", "b", "c"])
    (tmp_path / "c.JPG").write_bytes((tmp_path / "c.JPG").read_bytes()[:300])
    before = sorted(path.name for path in tmp_path.rglob("*"))
    with pytest.raises(InputError, match=r"c\.JPG cannot be read"):
        init(tmp_path)
    assert sorted(path.name for path in tmp_path.rglob("*")) == before


def no_masks(root):
    save_image(root / "images" / "a.jpg")


def one_class(root):
    data_set(root, (0,))


def a_photograph_as_mask(root):
    data_set(root, range(256))


def colours_and_values(root):
    save_image(data_set(root) / "masks" / "3.png")


def one_image(root):
    data_set(root, count=1)


def two_folders_of_masks(root):
    data_set(data_set(root, mask="fine/{}.png"), mask="coarse/{}.png")


def a_cut_mask(root):
    path = data_set(root) / "masks" / "3.png"
    path.write_bytes(path.read_bytes()[:100])


def other_channels(root):
    data_set(root)
    Image.fromarray(np.zeros((40, 48), np.uint16)).save(root / "images" / "10.png")
    save_mask(root / "masks" / "10.png")


@pytest.mark.parametrize(
    ("build", "options", "told"),
    [
        (no_masks, {}, r"holds no mask \(\.png, .*\) with an image of its name; put images into images/"),
        (one_class, {}, r"All masks \(.*0\.png, …\) hold nothing but 0; that teaches nothing"),
        (a_photograph_as_mask, {}, "hold 256 different values; of classes there are at most 254"),
        (colours_and_values, {}, r"3\.png has colours, .*0\.png one channel"),
        (one_image, {}, r"Too little to split .* \(images: 1, groups by image: 1\)"),
        (two_folders_of_masks, {}, "coarse and fine may each be the masks; say which with --images and --masks"),
        (two_folders_of_masks, {"masks": "find"}, "has no folder find"),
        (a_cut_mask, {}, r"masks/3\.png cannot be read"),
        (other_channels, {}, r"10\.png and .* differ in channels \(1 and 3\); images of one data set have as many"),
        (data_set, {"groups": "("}, "--groups: groups is .* folder, prefix or a regular expression"),
        (data_set, {"val": 1.0}, "--val is 1; the share of validation lies between 0 and 1"),
    ],
)
def test_what_is_wrong_is_told_in_one_line(tmp_path, build, options, told):
    build(tmp_path)
    with pytest.raises(InputError, match=told) as error:
        init(tmp_path, **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "labels.yaml").exists()


def test_folders_that_are_named_are_taken(tmp_path):
    two_folders_of_masks(tmp_path)
    init(tmp_path, masks="coarse")
    assert written(tmp_path)["folders"] == {"masks": "coarse"}
    assert folder(tmp_path, "val")[0][0].mask.startswith(str(tmp_path / "coarse"))


def test_an_image_without_mask_is_left_out_and_told(tmp_path):
    save_image(data_set(tmp_path) / "images" / "spare.jpg")
    save_mask(tmp_path / "masks" / "lone.png")
    found = init(tmp_path)
    assert [note.split(" (")[0] for note in found.notes] == ["1 image has no mask", "1 mask has no image"]
    assert written(tmp_path)["folders"] == {"complete": False}
    assert sum(map(len, splits(tmp_path).values())) == 10
    assert LabelSpace.load(tmp_path / "labels.yaml") == found.labels


def test_what_255_became_and_a_value_that_is_rare_are_told(tmp_path):
    mask = mask_of((0, 1, 255))
    save_mask(data_set(tmp_path, (0, 1, 255)) / "masks" / "3.png", np.where(np.arange(48) == 7, 204, mask))
    told = "\n".join(init(tmp_path).notes)
    assert written(tmp_path)["ignore"] == [255]
    assert '255 is taken for "not labelled"; if it is a class, move it from ignore' in told
    assert f"204 (pixels: 40, first in {tmp_path / 'masks' / '3.png'})" in told
    data_set(tmp_path, (0, 85, 170, 255))
    assert "0, 85, 170, 255 are evenly spread, so 255 is a class" in init(tmp_path, force=True).notes[0]


def test_soft_edges_are_refused(tmp_path):
    data_set(tmp_path, (0, 255), count=6)
    block = np.zeros((40, 48), np.uint8)
    block[8:30, 10:36] = 255
    for number in range(6):
        Image.fromarray(block).save(tmp_path / "masks" / f"{number}.png")
    assert init(tmp_path).notes == []
    soft = Image.fromarray(block).filter(ImageFilter.GaussianBlur(2))
    for mode in ("L", "RGB"):
        for number in range(6):
            (soft if number == 4 else Image.fromarray(block)).convert(mode).save(tmp_path / "masks" / f"{number}.png")
        with pytest.raises(InputError, match=r"4\.png holds \d+ values between 0 and 255.*Export it again without"):
            init(tmp_path, force=True)


def test_numbers_saved_as_rgb_are_told_and_white_among_them_is_ignored(tmp_path):
    data_set(tmp_path, (0, 1, 2, 255))
    for path in (tmp_path / "masks").iterdir():
        Image.open(path).convert("RGB").save(path)
    found = init(tmp_path)
    assert found.labels.names == ("class 0", "class 1", "class 2")
    assert written(tmp_path)["ignore_colours"] == [[255, 255, 255]]
    assert "all grey: numbers saved as RGB" in found.notes[0]
    items, labels = folder(tmp_path, "train")
    assert values_of(items[0], labels) == {0, 1, 2, 255}


def test_folders_of_splits_are_never_mixed(tmp_path):
    for split, longer, count in (("train", "training", 7), ("val", "validation", 6)):
        data_set(tmp_path / "a", image=f"{split}/images/{{}}.png", mask=f"{split}/masks/{{}}.png")
        data_set(tmp_path / "c", image=f"images/{longer}/{{}}.png", mask=f"masks/{longer}/{{}}.png", count=count)
        data_set(tmp_path / "b", image=f"{split}/{{}}.png", mask=f"{split}annot/{{}}.png", count=count)
    with pytest.raises(
        InputError, match=r"within (train|val)/ and within (val|train)/; .* val/images becomes images/val"
    ):
        init(tmp_path / "a")
    named = init(tmp_path / "a", images="train/images", masks="train/masks")
    assert sum(named.images.values()) == 10
    assert init(tmp_path / "b").notes == ["val/ and valannot/ hold pairs as well, which are left out: 6."]
    assert init(tmp_path / "c").notes[0].startswith("training, validation: such folders tell no split")


@pytest.mark.parametrize(
    ("others", "told"),
    [
        (["valid"], r"val/ holds no image; rename valid/ to val/, and the masks alike"),
        (["test"], r"val/ holds no image; move some into val/"),
        ([], r"val/ holds no image; move some into val/"),
    ],
)
def test_folders_without_val_are_refused_before_anything_is_written(tmp_path, others, told):
    for split in ("train", *others):
        data_set(tmp_path, image=f"images/{split}/{{}}.png", mask=f"masks/{split}/{{}}.png")
    with pytest.raises(InputError, match=told):
        init(tmp_path)
    assert not (tmp_path / "labels.yaml").exists()


def test_the_counts_are_those_of_training(tmp_path):
    for split, count in (("train", 5), ("val", 2), ("test", 3)):
        data_set(tmp_path, image=f"images/{split}/{{}}.png", mask=f"masks/{split}/{{}}.png", count=count)
    found = init(tmp_path)
    assert found.images == {split: len(part) for split, part in splits(tmp_path).items()} == {"train": 5, "val": 2}
    assert found.notes == ["Images outside train/ and val/ are left out: 3."]
    (tmp_path / "train.txt").write_text("images/test/0.png masks/test/0.png\n")
    with pytest.raises(InputError, match=r"has train\.txt, by which val has no image; write val\.txt as well"):
        init(tmp_path, force=True)
    (tmp_path / "val.txt").write_text("images/test/1.png masks/test/1.png\n")
    assert init(tmp_path, force=True).images == {split: len(part) for split, part in splits(tmp_path).items()}


def test_earlier_masks_come_back_where_the_new_ones_cannot_take_their_place(tmp_path):
    labelme(tmp_path, [f"{number}" for number in range(6)])
    init(tmp_path)
    with pytest.raises(FileNotFoundError), _replaced(tmp_path / "masks", force=True) as aside:
        shutil.rmtree(aside)
    assert len(list((tmp_path / "masks").iterdir())) == 6
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_is_no_annotation_is_a_note_beside_images_and_masks(tmp_path):
    (tmp_path / "notes.json").write_text("{")
    (tmp_path / "old.zip").write_text("no archive")
    with pytest.raises(InputError, match=r"notes\.json is no JSON"):
        init(tmp_path)
    told = init(data_set(tmp_path)).notes
    assert [note.split(" is no ")[1][:3] for note in told] == ["JSO", "zip"]
    labelme(tmp_path, ["a"])
    with pytest.raises(InputError, match=r"notes\.json is no JSON"):
        init(tmp_path, force=True)


def test_names_that_differ_in_case_are_named(tmp_path):
    data_set(tmp_path / "a", image="images/IMG_{}.jpg", mask="masks/img_{}.png")
    with pytest.raises(InputError, match=r"IMG_0\.jpg and .*img_0\.png differ in upper and lower case"):
        init(tmp_path / "a")
    data_set(tmp_path / "b")
    (tmp_path / "b" / "masks" / "3.png").unlink()
    save_image(tmp_path / "b" / "images" / "Spare.jpg")
    save_mask(tmp_path / "b" / "masks" / "spare.png")
    assert "Spare.jpg and" in init(tmp_path / "b").notes[-1]
