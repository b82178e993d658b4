"""Each published data set on a small tree in exactly its owners' layout and formats."""

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from danet.config import SourceName
from danet.data.dataset import Dataset
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.listing import Source, Stray
from danet.data.published import PUBLISHED, camvid_split, read_mat
from danet.data.sources import open_source
from danet.errors import InputError
from tests.data.trees import save_image, save_mask

SIDE = 40


def stripes(*values: int, dtype: type = np.uint8) -> np.ndarray:
    """A mask whose columns hold `values` from left to right, as wide as `save_image`'s pictures."""
    return np.repeat(np.array(values, dtype), 48 // len(values))[None].repeat(SIDE, axis=0)


def save_palette(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values, mode=None).convert("P")
    image.putdata(values.ravel().tolist())
    image.putpalette(LabelSpace.load("voc").palette())
    image.save(path)


def save_mat(path: Path, **variables: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    savemat(path, variables)


def save_list(path: Path, *stems: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{stem}\n" for stem in stems))


def files(source: Source) -> list[str]:
    return [Path(item.name).name for item in source[0]]


def labels_of(source: Source, index: int = 0) -> list[int]:
    """The class indices of a sample's columns."""
    sample = Dataset(*source)[index]
    assert sample.image.shape == (3, *sample.mask.shape)
    return list(dict.fromkeys(sample.mask[0].tolist()))


def camvid_tree(root: Path) -> None:
    for split in ("train", "val", "test"):
        for stem in ("b", "a"):
            save_image(root / split / f"{stem}.png")
            save_mask(root / f"{split}annot" / f"{stem}.png", stripes(0, 10, 11))


def camvid_32_tree(root: Path, width: int = 48, height: int = SIDE) -> None:
    colours = np.array([[0, 0, 0], [64, 128, 64], [64, 192, 0]], np.uint8)  # Void, Animal, Wall
    for stem in ("0016E5_08159", "0001TP_008550", "0006R0_f00930", "0016E5_08190", "Seq05VD_f00000", "0016E5_07959"):
        save_image(root / "701_StillsRaw_full" / f"{stem}.png", width, height)
        save_mask(root / "LabeledApproved_full" / f"{stem}_L.png", np.tile(colours, (height, width // 3, 1)))


def cityscapes_tree(root: Path, form: str = "labelIds", values: tuple[int, ...] = (7, 33, 0)) -> None:
    for split, cities in (("train", ("zurich", "aachen")), ("val", ("munster",)), ("test", ("bonn",))):
        for city in cities:
            for frame in (f"{city}_000001_000019", f"{city}_000000_000019"):
                save_image(root / "leftImg8bit" / split / city / f"{frame}_leftImg8bit.png")
                save_mask(root / "gtFine" / split / city / f"{frame}_gtFine_{form}.png", stripes(*values))
                save_mask(
                    root / "gtFine" / split / city / f"{frame}_gtFine_instanceIds.png", stripes(26001, dtype=np.uint16)
                )
                (root / "gtFine" / split / city / f"{frame}_gtFine_polygons.json").write_text('{"objects": []}')


def ade20k_tree(root: Path) -> None:
    for part, stem in (("training", "ADE_train_0000000"), ("validation", "ADE_val_0000000")):
        for number in (2, 1):
            save_image(root / "images" / part / f"{stem}{number}.jpg")
            save_mask(root / "annotations" / part / f"{stem}{number}.png", stripes(0, 1, 150))
    for number in (2, 1):
        save_image(root / "release_test" / "testing" / f"ADE_test_0000000{number}.jpg")


def voc_tree(root: Path) -> None:
    home = root / "VOCdevkit" / "VOC2012"
    lists = {"train": ("2007_000032", "2007_000039"), "val": ("2007_000033",)}
    for split, stems in lists.items():
        save_list(home / "ImageSets" / "Segmentation" / f"{split}.txt", *stems)
        for stem in stems:
            save_image(home / "JPEGImages" / f"{stem}.jpg")
            save_palette(home / "SegmentationClass" / f"{stem}.png", stripes(0, 20, 255))
    save_list(home / "ImageSets" / "Segmentation" / "test.txt", "2008_000006", "2008_000011")
    for stem in ("2008_000011", "2008_000006"):
        save_image(home / "JPEGImages" / f"{stem}.jpg")


def voc_sbd_tree(root: Path) -> None:
    voc_tree(root)
    sbd = root / "benchmark_RELEASE" / "dataset"
    lists = {"train": ("2008_000002", "2007_000032"), "val": ("2007_000033", "2011_003276")}
    for split, stems in lists.items():
        save_list(sbd / f"{split}.txt", *stems)
        for stem in stems:
            save_image(root / "VOCdevkit" / "VOC2012" / "JPEGImages" / f"{stem}.jpg")
            struct = {"Boundaries": np.zeros((20, 1), object), "Segmentation": stripes(0, 15), "CategoriesPresent": 15}
            save_mat(sbd / "cls" / f"{stem}.mat", GTcls=struct)


def context_tree(root: Path) -> None:
    home = root / "VOCdevkit" / "VOC2010"
    for split, stem in (("train", "2008_000008"), ("val", "2008_000002")):
        save_list(home / "ImageSets" / "Main" / f"{split}.txt", stem)
        save_image(home / "JPEGImages" / f"{stem}.jpg")
        save_mat(home / "trainval" / f"{stem}.mat", LabelMap=stripes(2, 1, 458, 459, dtype=np.uint16))


def context_png_tree(root: Path) -> None:
    for split, stem in (("train", "2008_000008"), ("val", "2008_000002")):
        save_list(root / "ImageSets" / "SegmentationContext" / f"{split}.txt", stem)
        save_image(root / "JPEGImages" / f"{stem}.jpg")
        save_mask(root / "SegmentationClassContext" / f"{stem}.png", stripes(1, 0, 59, 0))


def stuff_10k_tree(root: Path) -> None:
    for name, stems in (
        ("train", ("COCO_train2014_000000000077", "COCO_train2014_000000000030")),
        ("test", ("COCO_train2014_000000000064",)),
    ):
        save_list(root / "imageLists" / f"{name}.txt", *stems)
        for stem in stems:
            save_image(root / "images" / f"{stem}.jpg")
            save_mat(
                root / "annotations" / f"{stem}.mat",
                S=stripes(0, 1, 13, 182),
                names=np.array(["unlabeled", "person"], object),
                captions=np.array(["A street."], object),
                regionMapStuff=stripes(1, 2, dtype=np.uint16),
            )


def stuff_164k_tree(root: Path) -> None:
    for split in ("train", "val"):
        for stem in ("000000000139", "000000000009"):
            save_image(root / "images" / f"{split}2017" / f"{stem}.jpg")
            save_mask(root / "annotations" / f"{split}2017" / f"{stem}.png", stripes(255, 0, 12, 181))


TREES: list[tuple[str, Callable[[Path], None], dict[str, list[str]], str, list[int], list[str]]] = [
    (
        "camvid",
        camvid_tree,
        {split: ["a.png", "b.png"] for split in ("train", "val", "test")},
        "trainannot/a.png",
        [0, 10, IGNORE_INDEX],
        ["sky", "bicyclist"],
    ),
    (
        "camvid-32",
        camvid_32_tree,
        {
            "train": ["0006R0_f00930.png", "0016E5_08190.png"],
            "val": ["0016E5_07959.png", "0016E5_08159.png"],
            "test": ["0001TP_008550.png", "Seq05VD_f00000.png"],
        },
        "LabeledApproved_full/0006R0_f00930_L.png",
        [30, 0, 31],
        ["Void", "Animal", "Wall"],
    ),
    (
        "cityscapes",
        cityscapes_tree,
        {
            "train": [f"{city}_00000{n}_000019_leftImg8bit.png" for city in ("aachen", "zurich") for n in (0, 1)],
            "val": [f"munster_00000{n}_000019_leftImg8bit.png" for n in (0, 1)],
            "test": [f"bonn_00000{n}_000019_leftImg8bit.png" for n in (0, 1)],
        },
        "gtFine/train/zurich/zurich_000001_000019_gtFine_labelIds.png",
        [0, 18, IGNORE_INDEX],
        ["road", "bicycle"],
    ),
    (
        "ade20k",
        ade20k_tree,
        {
            "train": ["ADE_train_00000001.jpg", "ADE_train_00000002.jpg"],
            "val": ["ADE_val_00000001.jpg", "ADE_val_00000002.jpg"],
            "test": ["ADE_test_00000001.jpg", "ADE_test_00000002.jpg"],
        },
        "annotations/training/ADE_train_00000002.png",
        [IGNORE_INDEX, 0, 149],
        ["wall", "flag"],
    ),
    (
        "voc",
        voc_tree,
        {
            "train": ["2007_000032.jpg", "2007_000039.jpg"],
            "val": ["2007_000033.jpg"],
            "test": ["2008_000006.jpg", "2008_000011.jpg"],
        },
        "VOCdevkit/VOC2012/SegmentationClass/2007_000039.png",
        [0, 20, IGNORE_INDEX],
        ["background", "tvmonitor"],
    ),
    (
        "voc-sbd",
        voc_sbd_tree,
        {
            "train": ["2007_000032.jpg", "2007_000039.jpg", "2008_000002.jpg", "2011_003276.jpg"],
            "val": ["2007_000033.jpg"],
            "test": ["2008_000006.jpg", "2008_000011.jpg"],
        },
        "benchmark_RELEASE/dataset/cls/2011_003276.mat",
        [0, 20, IGNORE_INDEX],
        ["background", "tvmonitor"],
    ),
    (
        "pascal-context-59",
        context_tree,
        {"train": ["2008_000008.jpg"], "val": ["2008_000002.jpg"]},
        "VOCdevkit/VOC2010/trainval/2008_000008.mat",
        [0, IGNORE_INDEX, 58],
        ["aeroplane", "wood"],
    ),
    (
        "pascal-context-60",
        context_tree,
        {"train": ["2008_000008.jpg"], "val": ["2008_000002.jpg"]},
        "VOCdevkit/VOC2010/trainval/2008_000008.mat",
        [1, 0, 59],
        ["aeroplane", "background", "wood"],
    ),
    (
        "pascal-context-59",
        context_png_tree,
        {"train": ["2008_000008.jpg"], "val": ["2008_000002.jpg"]},
        "SegmentationClassContext/2008_000008.png",
        [0, IGNORE_INDEX, 58],
        ["aeroplane", "wood"],
    ),
    (
        "cocostuff-10k",
        stuff_10k_tree,
        {
            "train": ["COCO_train2014_000000000077.jpg", "COCO_train2014_000000000030.jpg"],
            "val": ["COCO_train2014_000000000064.jpg"],
            "test": ["COCO_train2014_000000000064.jpg"],
        },
        "annotations/COCO_train2014_000000000077.mat",
        [IGNORE_INDEX, 0, 11, 170],
        ["person", "stop sign", "wood"],
    ),
    (
        "cocostuff-164k",
        stuff_164k_tree,
        {split: ["000000000009.jpg", "000000000139.jpg"] for split in ("train", "val")},
        "annotations/train2017/000000000009.png",
        [IGNORE_INDEX, 0, 11, 170],
        ["person", "stop sign", "wood"],
    ),
]


def test_every_published_source_has_a_tree_and_can_be_asked_for():
    assert {name for name, *_ in TREES} == set(PUBLISHED)
    assert {*PUBLISHED, "folder", "table", "scenes"} == set(get_args(SourceName))


@pytest.mark.parametrize(("name", "tree"), {name: tree for name, tree, *_ in TREES}.items())
def test_the_file_system_s_order_changes_nothing(tmp_path, monkeypatch, name, tree):
    tree(tmp_path)
    if name.startswith("camvid"):  # what macOS leaves beside files
        next(tmp_path.glob("*/*.png")).with_name("._a.png").write_bytes(b"?")
    found = []
    for turned in (False, True):
        with monkeypatch.context() as patch:
            for walk in ("glob", "rglob", "iterdir"):
                real = getattr(Path, walk)
                patch.setattr(
                    Path, walk, lambda *given, real=real, turned=turned: iter(sorted(real(*given), reverse=turned))
                )
            items, _ = open_source(name, "train", root=tmp_path)
        found.append([(item.name, item.mask) for item in items])
    assert found[0] == found[1]


@pytest.mark.parametrize(("name", "tree", "splits", "mask", "indices", "classes"), TREES)
def test_layout(tmp_path, name, tree, splits, mask, indices, classes):
    """Order, classes and ignored pixels of every split; what is missing, and where it comes from."""
    tree(tmp_path)
    for split, expected in splits.items():
        source = open_source(name, split, root=str(tmp_path))
        assert files(source) == expected
        assert all(Dataset(*source)[index].mask.shape == (SIDE, 48) for index in range(len(expected)))
    source = open_source(name, "train", root=tmp_path)
    found = labels_of(source)
    assert found == indices
    assert [source[1].names[index] for index in found if index != IGNORE_INDEX] == classes
    with pytest.raises(InputError, match=r"no split 'tset'"):
        open_source(name, "tset", root=tmp_path)
    (tmp_path / mask).unlink()
    with pytest.raises(InputError, match=r"(does not exist|has no mask)") as error:
        open_source(name, "train", root=tmp_path)
    assert Path(mask).stem.split("_gtFine")[0] in str(error.value)
    assert "\n" not in str(error.value)
    strays: list[Stray] = []
    assert len(open_source(name, "train", root=tmp_path, strays=strays)[0]) == len(splits["train"]) - 1
    assert [stray.refused for stray in strays] == [True]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_a_missing_data_set_says_where_to_get_it_and_what_to_unpack_where(tmp_path, name):
    for root in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(InputError, match=r"does not exist\. Get .*https?://.*data\.root") as error:
            open_source(name, "train", root=root)
        assert str(tmp_path) in str(error.value)
        assert "\n" not in str(error.value)


def test_cityscapes_by_train_ids(tmp_path):
    cityscapes_tree(tmp_path, "labelTrainIds", (0, 18, 255))
    items, labels = open_source("cityscapes", "train", root=tmp_path)
    assert (labels.name, labels.num_classes) == ("cityscapes-trainids", 19)
    assert labels_of((items, labels)) == [0, 18, IGNORE_INDEX]
    cityscapes_tree(tmp_path)  # where both are there, the 34 ids that Cityscapes ships are read
    assert open_source("cityscapes", "train", root=tmp_path)[1].name == "cityscapes"


@pytest.mark.parametrize(
    ("name", "tree", "images"),
    [
        ("ade20k", ade20k_tree, "release_test/testing"),
        ("voc", voc_tree, "VOCdevkit/VOC2012/JPEGImages"),
        ("voc-sbd", voc_sbd_tree, "VOCdevkit/VOC2012/JPEGImages"),
    ],
)
def test_of_a_test_split_without_masks_no_pixel_counts(tmp_path, name, tree, images):
    tree(tmp_path)
    picture = Path(open_source(name, "test", root=tmp_path)[0][0].name)
    assert picture.parent == tmp_path / images
    save_image(picture, 36, 52)
    for index, size in enumerate(((52, 36), (SIDE, 48))):
        sample = Dataset(*open_source(name, "test", root=tmp_path))[index]
        assert sample.image.shape == (3, *size)
        assert sample.mask.shape == size
        assert (sample.mask == IGNORE_INDEX).all()
    shutil.rmtree(picture.parent)
    if name == "ade20k":
        told, get = "testing does not exist", "release_test.zip and unpack it into data.root"
    else:
        save_image(picture.with_name("2008_000011.jpg"))
        told, get = (
            "2008_000006.jpg does not exist",
            "Get VOC2012test.tar from .*register, and unpack it into data.root",
        )
    with pytest.raises(InputError, match=rf"{told}\. .*{get}"):
        open_source(name, "test", root=tmp_path)
    if name == "ade20k":
        picture.parent.mkdir()
        with pytest.raises(InputError, match=f"No image of the test split is there.*{get}"):
            open_source(name, "test", root=tmp_path)


@pytest.mark.parametrize("place", ["ADEChallengeData2016/images/testing", "release_test/testing"])
def test_ade20k_s_test_images_as_its_archives_have_them(tmp_path, monkeypatch, place):
    """As its README says, and where both archives are unpacked side by side."""
    ade20k_tree(tmp_path / "ADEChallengeData2016")
    (tmp_path / place).parent.mkdir(exist_ok=True)
    (tmp_path / "ADEChallengeData2016/release_test/testing").rename(tmp_path / place)
    monkeypatch.chdir(tmp_path / "ADEChallengeData2016")
    for root in (tmp_path / "ADEChallengeData2016", "."):
        assert files(open_source("ade20k", "test", root=root)) == ["ADE_test_00000001.jpg", "ADE_test_00000002.jpg"]


def test_voc_s_own_masks_come_before_sbd_s(tmp_path):
    voc_sbd_tree(tmp_path)
    source = open_source("voc-sbd", "train", root=tmp_path)
    assert [labels_of(source, index) for index in range(4)] == [[0, 20, 255], [0, 20, 255], [0, 15], [0, 15]]
    (tmp_path / "benchmark_RELEASE").rename(tmp_path / "VOCdevkit" / "VOCaug")  # as mmsegmentation's users have it
    assert files(open_source("voc-sbd", "train", root=tmp_path / "VOCdevkit")) == files(source)


def test_context_by_png_and_mat_is_the_same(tmp_path):
    context_tree(tmp_path / "mat")
    context_png_tree(tmp_path / "png")
    masks = [Dataset(*open_source("pascal-context-60", "val", root=tmp_path / form))[0].mask for form in ("mat", "png")]
    assert masks[0].equal(masks[1])


@pytest.mark.parametrize(
    ("stem", "split"),
    [
        ("0001TP_006690", "train"),
        ("0001TP_008520", "train"),
        ("0001TP_008550", "test"),
        ("0006R0_f03930", "train"),
        ("0016E5_07920", "train"),
        ("0016E5_07959", "val"),
        ("0016E5_08159", "val"),
        ("0016E5_08190", "train"),
        ("Seq05VD_f05100", "test"),
    ],
)
def test_camvid_split(stem, split):
    assert camvid_split(stem) == split


@pytest.mark.parametrize(("split", "frames"), [("train", 367), ("val", 101)])
def test_camvid_s_split_is_segnet_s(camvid_root, split, frames):
    stems = [path.stem for path in (camvid_root / split).glob("*.png")]
    assert len(stems) == frames
    assert {camvid_split(stem) for stem in stems} == {split}


def test_a_stranger_among_camvid_s_frames(tmp_path):
    camvid_32_tree(tmp_path)
    save_image(tmp_path / "701_StillsRaw_full" / "IMG_0001.png")
    with pytest.raises(InputError, match="IMG_0001 is no frame of CamVid's"):
        open_source("camvid-32", "train", root=tmp_path)


def test_colours_outside_camvid_s_are_named(tmp_path):
    camvid_32_tree(tmp_path, 960, 720)
    path = tmp_path / "LabeledApproved_full" / "0006R0_f00930_L.png"
    pixels = np.array(Image.open(path))
    pixels[2, 5] = (1, 2, 3)
    Image.fromarray(pixels).save(path)
    with pytest.raises(InputError, match=r"0006R0_f00930_L\.png holds the colour \[1, 2, 3\] at pixel \(5, 2\)"):
        Dataset(*open_source("camvid-32", "train", root=tmp_path))[0]
    Image.new("L", (960, 720)).save(path)
    with pytest.raises(InputError, match=r"0006R0_f00930_L\.png is L, but masks are colours by its labels"):
        Dataset(*open_source("camvid-32", "train", root=tmp_path))[0]


def test_mat_files(tmp_path):
    path = tmp_path / "a.mat"
    save_mat(
        path, S=stripes(1, 2).astype(float), T=stripes(300, dtype=np.uint16), names=np.array(["a"], object), D=[[0.5]]
    )
    assert (read_mat(path, "S").dtype, read_mat(path, "T").dtype) == (np.uint8, np.uint16)
    assert read_mat(path, "T").max() == 300
    for names, told in (
        (("LabelMap",), r"a\.mat holds no LabelMap"),
        (("S", "Segmentation"), r"a\.mat holds no S\.Segmentation"),
        (("names",), r"a\.mat: names is no map of labels"),
        (("D",), r"a\.mat: D is no map of labels"),
    ):
        with pytest.raises(InputError, match=told):
            read_mat(path, *names)
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(InputError, match=r"a\.mat (cannot be read|holds no)") as error:
        read_mat(path, "S")
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"nowhere\.mat does not exist"):
        read_mat(tmp_path / "nowhere.mat", "S")


def test_mat_files_need_scipy(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.io", None)
    with pytest.raises(InputError, match=r"a\.mat is a MATLAB file, which needs scipy: pip install 'danet\[mat\]'"):
        read_mat(tmp_path / "a.mat", "S")


def test_a_label_outside_pascal_context(tmp_path):
    context_tree(tmp_path)
    save_mat(tmp_path / "VOCdevkit/VOC2010/trainval/2008_000008.mat", LabelMap=stripes(460, dtype=np.uint16))
    with pytest.raises(InputError, match=r"2008_000008\.mat holds the label 460; PASCAL Context has 459"):
        Dataset(*open_source("pascal-context-59", "train", root=tmp_path))[0]
