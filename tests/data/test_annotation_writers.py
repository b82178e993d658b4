"""Label maps written for annotation tools: the tool's own reader takes them, and ours reads the same back."""

import io
import json
import zipfile
from contextlib import redirect_stdout
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
from PIL import Image
from pycocotools.coco import COCO

from danet.data.annotations.coco import write_coco
from danet.data.annotations.cvat import write_cvat
from danet.data.annotations.drawing import Labelled
from danet.data.annotations.find import find_annotations
from danet.data.annotations.labelme import write_labelme
from danet.data.labels import default_colours
from danet.data.scenes import scene
from danet.data.survey import init
from danet.errors import InputError
from tests.data.test_polygons import off_borders

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
NAMES = (*(f"class {index}" for index in range(9)), "straße", "background")
COUNT = 3


@pytest.fixture
def images(tmp_path):
    """Drawn streets as images in two folders, with their label maps."""
    found = []
    for index in range(COUNT):
        drawn = scene(0, index)
        name = PurePosixPath("one" if index else "two", f"街 {index}.jpg")
        path = tmp_path / "own" / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(drawn.image).save(path)
        found.append(Labelled(name, path, drawn.labels))
    return found


def read_back(root, images, names=NAMES):
    """Our reader's label maps, as indices of `names`; what is no class of these is 255."""
    found = find_annotations(root)
    by_path = {drawing.image: drawing for drawing in found.drawings}
    assert by_path.keys() == {image for _, image, _ in images}
    table = np.array([names.index(name) if name in names else 255 for name in found.names], np.uint8)
    return [table[by_path[image].draw(labels.shape)] for _, image, labels in images]


def test_coco_is_read_by_pycocotools_and_by_us(images, tmp_path):
    path = tmp_path / "own" / "annotations.json"
    write_coco(path, iter(images), NAMES)
    with redirect_stdout(io.StringIO()):
        coco = COCO(path)
    assert [coco.cats[number]["name"] for number in sorted(coco.cats)] == list(NAMES)
    for number, (name, _, labels) in enumerate(images, start=1):
        assert coco.imgs[number]["file_name"] == str(name)
        annotations = coco.loadAnns(coco.getAnnIds(number))
        label_map = np.full(labels.shape, 255, np.uint8)
        for one in annotations:  # the largest first
            mask = coco.annToMask(one).astype(bool)
            label_map[mask] = one["category_id"] - 1
            assert abs(mask.sum() - one["area"]) <= 2 * len(one["segmentation"][0])
        assert (label_map != labels).mean() < 0.01
        for index in np.unique(labels):
            both, either = (op(label_map == index, labels == index).sum() for op in (np.logical_and, np.logical_or))
            assert both / either > 0.9
    for (_, _, labels), read in zip(images, read_back(tmp_path / "own", images), strict=True):
        assert (read != labels).mean() < 0.01


def test_labelme_has_the_images_path_and_we_read_it(images, tmp_path):
    write_labelme(tmp_path / "own" / "labelme", iter(images), NAMES)
    for name, image, labels in images:
        path = tmp_path / "own" / "labelme" / name.with_suffix(".json")
        values = json.loads(path.read_text())
        assert (path.parent / values["imagePath"]).resolve() == image.resolve()
        assert (values["imageHeight"], values["imageWidth"]) == labels.shape
        assert values["imageData"] is None
        assert {shape["label"] for shape in values["shapes"]} == {NAMES[index] for index in np.unique(labels)}
    for (_, _, labels), read in zip(images, read_back(tmp_path / "own", images), strict=True):
        assert (read != labels).mean() < 0.03  # Pillow's polygons hold the pixels right and below of their corners
        assert not off_borders(labels, read, 2).any()


@pytest.mark.parametrize("names", [NAMES, ("none", *NAMES[1:10], "lawn")])
def test_cvat_is_exact(images, tmp_path, names):
    write_cvat(tmp_path / "own" / "cvat.zip", iter(images), names)
    for (_, _, labels), read in zip(images, read_back(tmp_path / "own", images, names), strict=True):
        assert np.array_equal(read, labels)
    with zipfile.ZipFile(tmp_path / "own" / "cvat.zip") as archive:
        listed = archive.read("ImageSets/Segmentation/default.txt").decode().splitlines()
        assert listed == [str(name.with_suffix("")) for name, _, _ in images]
        lines = archive.read("labelmap.txt").decode().splitlines()[1:]
        assert sum(line.startswith("background:0,0,0::") for line in lines) == 1
        for name in listed:
            with Image.open(io.BytesIO(archive.read(f"SegmentationObject/{name}.png"))) as instances:
                assert instances.mode == "RGB"
                used = {colour for _, colour in instances.getcolors(256)}
                assert used <= {(0, 0, 0), *default_colours(255)}  # those alone that CVAT knows as instances


def test_cvat_refuses_a_name_that_breaks_its_lines(images, tmp_path):
    with pytest.raises(InputError, match="'a:b': no ':' in it"):
        write_cvat(tmp_path / "cvat.zip", images, ("a:b", *NAMES[1:]))
    assert not (tmp_path / "cvat.zip").exists()


@pytest.mark.parametrize("tool", ["coco", "labelme", "cvat"])
def test_data_init_makes_masks_of_them(images, tmp_path, tool):
    root = tmp_path / "own"
    write = {"coco": write_coco, "labelme": write_labelme, "cvat": write_cvat}[tool]
    write(root / {"coco": "coco.json", "labelme": "labelme", "cvat": "cvat.zip"}[tool], images, NAMES)
    found = init(root)
    for name, _, labels in images:
        with Image.open(Path(root, "masks", name).with_suffix(".png")) as mask:
            values = np.array(mask)
        names = np.array(found.labels.names)[values]
        assert (names != np.array(NAMES)[labels]).mean() < (1e-9 if tool == "cvat" else 0.03)


def test_a_failed_write_leaves_nothing(images, tmp_path):
    def broken():
        yield images[0]
        raise InputError("a label map that is gone")

    (tmp_path / "out").mkdir()
    for write in (write_coco, write_cvat):
        with pytest.raises(InputError, match="gone"):
            write(tmp_path / "out" / "annotations", broken(), NAMES)
    assert list((tmp_path / "out").iterdir()) == []
