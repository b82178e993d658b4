import base64
import io
import json
import zipfile

import numpy as np
import pycocotools.mask
import pytest
from PIL import Image, ImageDraw

from danet.data.annotations.find import find_annotations
from danet.errors import InputError
from tests.data.trees import save_image, save_mask

# pycocotools 2.0.11 is older than NumPy's word about copies, which NumPy hides from all but tests
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
CAR = [10.0, 5.0, 30.0, 5.0, 30.0, 20.0, 10.0, 20.0]
LABELMAP = "# label:color_rgb:parts:actions\ncar:10,20,30::\nbackground:0,0,0::\n小路:0,128,0:a,b:\n"


def box(left, top, right, bottom, value=1):
    """A 40×48 mask with a rectangle, its right and lower edges left out."""
    mask = np.zeros((40, 48), np.uint8)
    mask[top:bottom, left:right] = value
    return mask


def drawn(found, name):
    """The mask of the image called `name`."""
    [drawing] = [drawing for drawing in found.drawings if drawing.image.name == name]
    return drawing.draw((40, 48))


def write_json(path, values):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    return path


def png(values, mode=None):
    file = io.BytesIO()
    Image.fromarray(values).convert(mode).save(file, "PNG")
    return file.getvalue()


def colour_mask(indices):
    return np.array([[0, 0, 0], [10, 20, 30], [0, 128, 0]], np.uint8)[indices]


def cvat(root, mask, zipped):
    files = {
        "labelmap.txt": LABELMAP.encode(),
        "ImageSets/Segmentation/default.txt": "街 一\n".encode(),
        "SegmentationClass/街 一.png": mask,
        "SegmentationObject/街 一.png": mask,
    }
    save_image(root / "images" / "街 一.JPG")
    if zipped:
        with zipfile.ZipFile(root / "task 1.zip", "w") as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        for name, content in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)


@pytest.mark.parametrize("zipped", [True, False])
def test_cvat_masks_in_an_archive_or_unpacked(tmp_path, zipped):
    expected = box(10, 5, 30, 20) + box(0, 30, 48, 40, 2)
    cvat(tmp_path, png(colour_mask(expected)), zipped)
    found = find_annotations(tmp_path)
    assert (found.kind, found.names) == ("masks of CVAT", ("background", "car", "小路"))
    assert found.colours == ((0, 0, 0), (10, 20, 30), (0, 128, 0))
    assert np.array_equal(drawn(found, "街 一.JPG"), expected)


def test_cvat_black_that_is_no_class_is_not_labelled(tmp_path):
    cvat(tmp_path, png(colour_mask(box(10, 5, 30, 20))), False)
    (tmp_path / "labelmap.txt").write_text("car:10,20,30::\nroad:1,1,1::\n")
    found = find_annotations(tmp_path)
    assert found.names == ("car", "road")
    assert np.array_equal(drawn(found, "街 一.JPG"), np.where(box(10, 5, 30, 20), 0, 255))


def labelme(path, image, shapes, height=40):
    facts = {"version": "5.4", "flags": {}, "imagePath": image, "imageData": None}
    return write_json(path, facts | {"shapes": shapes, "imageHeight": height, "imageWidth": 48})


def test_labelme_shapes_lie_over_one_another(tmp_path):
    save_image(tmp_path / "b c.JPG")
    part = base64.b64encode(png(np.ones((4, 6), np.uint8) * 255)).decode()
    shapes = [
        {"label": "树", "points": [[10, 5], [29, 5], [29, 19], [10, 19]], "shape_type": "polygon"},
        {"label": "car", "points": [[15, 25], [0, 30]], "shape_type": "rectangle"},
        {"label": "__ignore__", "points": [[40, 30], [40, 33]], "shape_type": "circle"},
        {"label": "car", "points": [[20, 10], [25, 13]], "shape_type": "mask", "mask": part},
        {"label": "wire", "points": [[0, 0], [9, 9]], "shape_type": "line"},
        {"label": "_background_", "points": [[0, 25], [3, 30]], "shape_type": "rectangle"},
    ]
    labelme(tmp_path / "b c.json", "..\\photos\\b c.jpg", shapes)
    found = find_annotations(tmp_path)
    assert (found.names, found.notes) == (
        ("background", "car", "树"),
        ["Shapes of the type line, which have no area, are left out: 1."],
    )
    mask = drawn(found, "b c.JPG")
    expected = box(10, 5, 30, 20, 2)
    expected[25:31, 0:16] = 1
    expected[10:14, 20:26] = 1
    expected[25:31, 0:4] = 0
    ignored = mask == 255
    assert 20 < ignored.sum() < 50
    assert ignored[30, 40]
    assert np.array_equal(mask[~ignored], expected[~ignored])


def coco(image="街 一.jpg", **changes):
    rle = {"size": [40, 48], "counts": [0, 40, 40 * 46, 40]}  # by column: the first and the last
    values = {
        "images": [{"id": 7, "file_name": image, "height": 40, "width": 48}],
        "categories": [{"id": 3, "name": "tree"}, {"id": 1, "name": "car"}, {"id": 9, "name": "sky"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 1, "segmentation": [CAR], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "segmentation": [[0, 0, 40, 0, 40, 30, 0, 30]], "iscrowd": 0},
            {"id": 3, "image_id": 7, "category_id": 9, "segmentation": rle, "iscrowd": 1},
            {"id": 4, "image_id": 7, "category_id": 9, "bbox": [0, 0, 9, 9]},
        ],
    }
    return values | changes


def test_coco_polygons_and_run_lengths_with_the_smaller_on_top(tmp_path):
    save_image(tmp_path / "images" / "街 一.JPG")
    values = coco("train/街 一.jpg")
    packed = pycocotools.mask.encode(np.asfortranarray(box(2, 35, 4, 38)))
    region = {"size": [40, 48], "counts": packed["counts"].decode()}
    values["annotations"].append({"id": 5, "image_id": 7, "category_id": 1, "segmentation": region})
    write_json(tmp_path / "instances.json", values)
    found = find_annotations(tmp_path)
    assert found.names == ("background", "car", "tree", "sky")
    assert found.notes == ["Boxes without a region are left out: 1."]
    expected = box(0, 0, 40, 30, 2)
    expected[5:20, 10:30] = 1
    expected[:, [0, 47]] = 3
    expected[35:38, 2:4] = 1
    assert np.array_equal(drawn(found, "街 一.JPG"), expected)


def label_studio(root):
    save_image(root / "photos" / "街 一.png")
    save_mask(root / "png" / "task-5-annotation-9-by-1-tag-car-0.png", box(10, 5, 30, 20, 255))
    save_mask(root / "png" / "task-5-annotation-9-by-1-tag-car-1.png", box(0, 0, 5, 5, 255))
    save_mask(root / "png" / "task-5-annotation-9-by-1-tag-fire-truck-0.png", box(20, 10, 40, 30, 255))

    def stroke(label):
        return {"from_name": "tag", "type": "brushlabels", "value": {"brushlabels": [label], "rle": [1]}}

    results = [stroke("car"), stroke("fire-truck"), stroke("car"), {"from_name": "x", "value": {"choices": ["a"]}}]
    task = {"id": 5, "data": {"image": "/data/upload/1/0badcafe-%E8%A1%97%20%E4%B8%80.png"}}
    annotations = [{"id": 9, "was_cancelled": False, "result": results}, {"id": 10, "was_cancelled": True}]
    return write_json(root / "project-1.json", [task | {"annotations": annotations}, task | {"annotations": []}])


def test_label_studio_strokes_in_their_order(tmp_path):
    label_studio(tmp_path)
    found = find_annotations(tmp_path)
    assert found.names == ("background", "car", "fire-truck")
    expected = box(10, 5, 30, 20)
    expected[10:30, 20:40] = 2
    expected[:5, :5] = 1
    assert np.array_equal(drawn(found, "街 一.png"), expected)


def test_a_folder_of_masks_has_no_annotations(tmp_path):
    save_image(tmp_path / "images" / "a.png")
    save_mask(tmp_path / "masks" / "a.png")
    write_json(tmp_path / "package.json", {"name": "no annotation"})
    assert find_annotations(tmp_path) is None


def broken_cvat(root):
    cvat(root, png(colour_mask(box(0, 0, 9, 9)) + np.uint8(1)), False)


def wrong_labelmap(root):
    cvat(root, png(colour_mask(box(0, 0, 9, 9))), False)
    (root / "labelmap.txt").write_text("car=1\n")


def small_cvat(root):
    cvat(root, png(np.zeros((30, 48, 3), np.uint8)), True)


def cut_cvat(root):
    cvat(root, png(colour_mask(box(0, 0, 9, 9)))[:60], True)


def labelme_of(shape, height=40):
    def build(root):
        save_image(root / "a.jpg")
        labelme(root / "a.json", "a.jpg", [shape], height)

    return build


def coco_of(picture="街 一.jpg", **changes):
    def build(root):
        save_image(root / picture)
        write_json(root / "c.json", coco(**changes))

    return build


def region(segmentation):
    return [{"id": 1, "image_id": 7, "category_id": 1, "segmentation": segmentation}]


def no_export(root):
    label_studio(root).unlink()


def missing_stroke(root):
    label_studio(root)
    (root / "png" / "task-5-annotation-9-by-1-tag-car-1.png").unlink()


def two_tools(root):
    label_studio(root)
    coco_of()(root)


def not_json(root):
    (root / "a.json").write_text("{")


SQUARE = {"label": "car", "points": [[0, 0], [9, 0], [9, 9]], "shape_type": "polygon"}


@pytest.mark.parametrize(
    ("build", "told"),
    [
        (
            broken_cvat,
            r"SegmentationClass/街 一\.png holds the colour \[11, 21, 31\] at pixel \(0, 0\), which labelmap",
        ),
        (wrong_labelmap, r"labelmap\.txt holds 'car=1'; a line is name:red,green,blue"),
        (small_cvat, r"task 1\.zip: SegmentationClass/街 一\.png is 48×30 pixels, its image 48×40"),
        (cut_cvat, r"task 1\.zip: SegmentationClass/街 一\.png cannot be read"),
        (labelme_of(SQUARE | {"points": [[1, "x"]]}), r"a\.json: shape 1 \(car\) is no polygon"),
        (labelme_of(SQUARE | {"shape_type": "mask", "mask": "?"}), r"a\.json: shape 1 \(car\) is no mask"),
        (labelme_of(SQUARE, height=48), r"a\.json is 48×48 pixels, its image 48×40"),
        (labelme_of({"points": []}), r"a\.json is no whole LabelMe's JSON \(KeyError: 'label'\)"),
        (coco_of("other.jpg"), r"c\.json names the image '街 一\.jpg', which is not in"),
        (coco_of(annotations=region([[1, 2]])), r"c\.json: 街 一\.jpg, annotation 1 is no region"),
        (coco_of(annotations=region({"size": [40, 48], "counts": [3]})), r"annotation 1 is of \[40, 48\] pixels"),
        (
            coco_of(annotations=region({"size": [9, 9], "counts": [81]})),
            r"annotation 1 is of \[9, 9\] pixels .*is of \[40, 48",
        ),
        (coco_of(annotations=region({"size": [40, 48], "counts": "0"})), r"annotation 1 is of \[40, 48\] pixels"),
        (coco_of(annotations=region({"size": [40, 48], "counts": "!é"})), r"annotation 1 is (no region|of)"),
        (coco_of(categories=[]), r"annotation 1 has the unknown category 1"),
        (coco_of(images=[{"id": 7}]), r"c\.json is no whole COCO's JSON \(KeyError: 'file_name'\)"),
        (no_export, r"Label Studio's PNG export, which does not tell the images' names; export the project as JSON"),
        (missing_stroke, r"has a stroke of 'car', but there is no PNG that ends on -tag-car-1\.png"),
        (two_tools, r"holds Label Studio's PNG export and COCO's JSON; leave one"),
        (not_json, r"a\.json is no JSON"),
    ],
)
def test_what_is_broken_is_named_in_one_line(tmp_path, build, told):
    build(tmp_path)
    with pytest.raises(InputError, match=told) as error:
        [drawing.draw((40, 48)) for drawing in find_annotations(tmp_path).drawings]
    assert "\n" not in str(error.value)


def test_an_image_of_two_names_is_refused(tmp_path):
    for folder in ("x", "y"):
        save_image(tmp_path / folder / "a.jpg")
    labelme(tmp_path / "x" / "a.json", "a.jpg", [SQUARE])
    with pytest.raises(InputError, match=r"names the image 'a\.jpg', .* holds 2 of that name"):
        find_annotations(tmp_path)
    labelme(tmp_path / "x" / "a.json", "y/a.jpg", [SQUARE])
    assert find_annotations(tmp_path).drawings[0].image == tmp_path / "y" / "a.jpg"


def test_polygons_are_drawn_as_pillow_draws_them(tmp_path):
    points = [(3.0, 4.0), (40.0, 9.0), (20.0, 33.0)]
    save_image(tmp_path / "a.png")
    labelme(tmp_path / "a.json", "a.png", [{"label": "car", "points": points}])
    canvas = Image.new("L", (48, 40))
    ImageDraw.Draw(canvas).polygon(points, fill=1)
    assert np.array_equal(drawn(find_annotations(tmp_path), "a.png"), np.array(canvas))
