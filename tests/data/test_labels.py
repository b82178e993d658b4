import json
import pickle
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from danet.config import Channels
from danet.data.labels import IGNORE_INDEX, LabelSpace, default_colours
from danet.errors import InputError

CAMVID = ["sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist"]


@pytest.mark.parametrize("name", ["camvid", "scenes"])
def test_packaged_spaces(name):
    space = LabelSpace.load(name)
    assert (space.name, space.names, space.num_classes) == (name, tuple(CAMVID), 11)
    assert space.colours[space.index("road")] == (128, 64, 128)
    assert space.colours[space.index("bicyclist")] == (0, 128, 192)
    values = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert space.to_indices(values).ravel().tolist() == [*range(11), IGNORE_INDEX]


def test_cityscapes_reads_label_ids():
    """The first, a middle and the last of its 19 classes in gtFine's ids; what is not evaluated is ignored."""
    space = LabelSpace.load("cityscapes")
    assert space.num_classes == 19
    for value, index, name, colour in (
        (7, 0, "road", (128, 64, 128)),
        (17, 5, "pole", (153, 153, 153)),
        (26, 13, "car", (0, 0, 142)),
        (33, 18, "bicycle", (119, 11, 32)),
    ):
        assert space.to_indices(np.array([[value]], np.uint8)) == index
        assert (space.names[index], space.colours[index]) == (name, colour)
    indices = space.to_indices(np.arange(34, dtype=np.uint8)[None])[0]
    assert indices[indices != IGNORE_INDEX].tolist() == list(range(19))
    with pytest.raises(InputError, match="holds the value 34"):
        space.to_indices(np.array([[34]], np.uint8))


def test_cityscapes_train_ids_are_its_classes():
    space, ids = LabelSpace.load("cityscapes-trainids"), LabelSpace.load("cityscapes")
    assert (space.names, space.colours) == (ids.names, ids.colours)
    assert space.to_indices(np.array([[*range(19), 255]], np.uint8))[0].tolist() == [*range(19), IGNORE_INDEX]


def test_camvid_32_is_spelt_in_colours():
    space = LabelSpace.load("camvid-32")
    assert (space.num_classes, space.masks) == (32, "colours")
    for index, name, colour in ((0, "Animal", (64, 128, 64)), (17, "Road", (128, 64, 128)), (31, "Wall", (64, 192, 0))):
        assert (space.names[index], space.colours[index]) == (name, colour)
    every = np.array([space.colours], np.uint8)
    assert space.to_indices(every)[0].tolist() == list(range(32))
    assert np.array_equal(space.colour_image(space.to_indices(every)), every)


def test_pascal_context_with_and_without_background():
    whole, classes, owners = (LabelSpace.load(f"pascal-context-{count}") for count in (60, 59, 459))
    assert whole.names == ("background", *classes.names)
    assert classes.names == owners.names == tuple(sorted(classes.names))
    values = np.array([[0, 1, 59, 255]], np.uint8)
    assert whole.to_indices(values).tolist() == [[0, 1, 59, IGNORE_INDEX]]
    assert classes.to_indices(values).tolist() == [[IGNORE_INDEX, 0, 58, IGNORE_INDEX]]
    for label, name in ((2, "aeroplane"), (72, "chair"), (284, "person"), (420, "tree"), (458, "wood")):
        assert owners.names[owners.ids[label]] == name


def test_coco_stuff_s_two_ways_to_number():
    maps, mat = LabelSpace.load("cocostuff-164k"), LabelSpace.load("cocostuff-10k")
    assert maps.num_classes == 171
    assert maps.names == mat.names
    numbers = np.arange(183, dtype=np.uint8)[None]
    indices = mat.to_indices(numbers)
    assert np.array_equal(maps.to_indices(numbers - 1), indices)  # 0, unlabelled, is 255 there
    assert np.flatnonzero(indices[0] == IGNORE_INDEX).tolist() == [0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83, 91]
    for number, name in ((1, "person"), (13, "stop sign"), (92, "banner"), (182, "wood")):
        assert mat.names[indices[0, number]] == name


def test_ade20k_begins_at_1():
    space = LabelSpace.load("ade20k")
    values = np.arange(151, dtype=np.uint8)[None]
    assert space.to_indices(values).ravel().tolist() == [IGNORE_INDEX, *range(150)]
    for index, name, colour in (
        (0, "wall", (120, 120, 120)),
        (75, "swivel chair", (10, 0, 255)),
        (149, "flag", (92, 0, 255)),
    ):
        assert (space.names[index], space.colours[index]) == (name, colour)


def test_voc_has_its_kit_s_colours():
    space = LabelSpace.load("voc")
    assert (space.num_classes, space.names[0], space.names[15], space.names[20]) == (
        21,
        "background",
        "person",
        "tvmonitor",
    )
    assert space.colours == ((0, 0, 0), *default_colours(20))
    values = np.array([[0, 20, 255]], np.uint8)
    assert space.to_indices(values).tolist() == [[0, 20, IGNORE_INDEX]]


@given(st.data())
def test_to_indices_is_the_map_of_each_pixel(data):
    wide = data.draw(st.booleans())
    largest = 65535 if wide else 255
    values = data.draw(st.lists(st.integers(0, largest), min_size=3, max_size=20, unique=True))
    cut = data.draw(st.integers(1, len(values) - 1))
    ids = {value: data.draw(st.integers(0, 4)) for value in values[:cut]}
    space = LabelSpace("any", tuple("abcde"), ids=ids, ignore=tuple(values[cut:]))
    mask = np.array(data.draw(st.lists(st.sampled_from(values), min_size=6, max_size=6)))
    mask = mask.reshape(2, 3).astype(np.uint16 if wide else np.uint8)
    indices = space.to_indices(mask)
    assert indices.dtype == np.uint8
    assert indices.tolist() == [[ids.get(int(value), IGNORE_INDEX) for value in row] for row in mask]


@pytest.mark.parametrize(("value", "dtype"), [(204, np.uint8), (254, np.uint8), (300, np.uint16), (65535, np.uint16)])
def test_a_value_outside_names_value_and_first_pixel(value, dtype):
    mask = np.zeros((4, 5), dtype)
    mask[1, 3] = mask[2, 0] = mask[3, 4] = value
    mask[0, 0] = 255
    with pytest.raises(InputError) as error:
        LabelSpace("street", ("road", "car", "tree")).to_indices(mask, "masks/a.png")
    message = str(error.value)
    assert f"masks/a.png holds the value {value} at pixel (3, 1)" in message
    assert "know 0 to 2 and ignore 255" in message
    assert "\n" not in message


@given(st.data())
def test_colours_map_as_values_do(data):
    colour = st.tuples(*[st.integers(0, 255)] * 3)
    colours = data.draw(st.lists(colour, min_size=3, max_size=6, unique=True))
    space = LabelSpace("any", ("a", "b"), tuple(colours[:2]), masks="colours", ignore_colours=tuple(colours[2:]))
    spelt = data.draw(st.lists(st.sampled_from(colours), min_size=6, max_size=6))
    indices = space.to_indices(np.array(spelt, np.uint8).reshape(2, 3, 3))
    assert indices.dtype == np.uint8
    assert indices.ravel().tolist() == [colours.index(one) if one in colours[:2] else IGNORE_INDEX for one in spelt]


def test_an_unknown_colour_names_it_and_its_first_pixel():
    space = LabelSpace("street", ("road", "car"), ((1, 2, 3), (4, 5, 6)), masks="colours", ignore_colours=((0, 0, 0),))
    mask = np.full((4, 5, 3), (1, 2, 3), np.uint8)
    mask[1, 3] = mask[2, 0] = (3, 2, 1)
    mask[0, 0] = 0
    with pytest.raises(InputError) as error:
        space.to_indices(mask, "masks/a.png")
    assert str(error.value) == (
        "masks/a.png holds the colour [3, 2, 1] at pixel (3, 1); labels 'street' know the 2 colours of their classes "
        "and ignore [[0, 0, 0]]. Correct the mask, or list [3, 2, 1] under colours or ignore_colours."
    )


def test_a_file_may_begin_from_a_packaged_space(tmp_path):
    (tmp_path / "labels.yaml").write_text("like: cityscapes\nids: {}\nignore: [200]\n")
    space = LabelSpace.load(tmp_path / "labels.yaml")
    assert (space.names, space.ignore) == (LabelSpace.load("cityscapes").names, (200,))
    assert (space.name, space.ids[18]) == (tmp_path.name, 18)


def test_binary_masks_of_0_and_255():
    space = LabelSpace("binary", ("background", "crack"), ids={0: 0, 255: 1}, ignore=())
    assert space.to_indices(np.array([[0, 255, 0]], np.uint8)).tolist() == [[0, 1, 0]]


def test_colours():
    colours = default_colours(254)
    assert len({*colours, (0, 0, 0)}) == 255
    assert colours[:3] == ((128, 0, 0), (0, 128, 0), (128, 128, 0))  # VOC's aeroplane, bicycle, bird
    space = LabelSpace.load("camvid")
    indices = np.array([[0, 3, 255]], np.uint8)
    assert space.colour_image(indices).tolist() == [[[128, 128, 128], [128, 64, 128], [0, 0, 0]]]
    assert np.reshape(space.palette(), (256, 3))[indices].tolist() == space.colour_image(indices).tolist()


def test_json_and_pickle_keep_everything():
    space = LabelSpace("x", ("a", "b"), ((1, 2, 3), (4, 5, 6)), {7: 0, 8: 1, 300: 1}, (0, 255))
    assert LabelSpace.from_dict(json.loads(json.dumps(space.to_dict()))) == space
    assert pickle.loads(pickle.dumps(space)) == space
    assert hash(space) == hash(LabelSpace.from_dict(space.to_dict()))
    assert "channels" not in space.to_dict()
    deep = LabelSpace.from_dict({"names": ["a"], "channels": {"names": ["red", "nir"], "range": [0, 10000]}})
    assert deep.channels == Channels(names=("red", "nir"), range=(0, 10000))
    assert LabelSpace.from_dict(json.loads(json.dumps(deep.to_dict()))) == pickle.loads(pickle.dumps(deep)) == deep
    assert hash(deep) != hash(LabelSpace("labels", ("a",)))
    spelt = LabelSpace("x", ("a",), ((1, 2, 3),), masks="colours", ignore_colours=((0, 0, 0),))
    assert LabelSpace.from_dict(json.loads(json.dumps(spelt.to_dict()))) == pickle.loads(pickle.dumps(spelt)) == spelt
    assert spelt != LabelSpace("x", ("a",), ((1, 2, 3),))


@pytest.mark.parametrize(
    ("yaml", "told"),
    [
        ("names: []", "0 names"),
        ("names: [a, a]", "'a' is there twice"),
        ("names: [yes, no]", "True is no text"),
        ("names: road", "names is 'road'"),
        ("nmaes: [a]", "no key 'nmaes'. Did you mean names?"),
        ("names: [a, b]\ncolours: [[1, 2, 3]]", "1 colours for 2 names"),
        ("names: [a]\ncolours: [[1, 2, 300]]", "the colour [1, 2, 300]"),
        ("names: [a]\ncolours: [[1, 2]]", "colours holds [1, 2]; a colour is three whole numbers"),
        ("names: [a]\ncolours: [red]", "colours holds 'red'; a colour is"),
        ("names: [a]\nids: {0: 1}", "ids sends 0 to class 1"),
        ("names: [a]\nids: [0, 1]", "ids is [0, 1]; write file value: class index"),
        ("names: [a]\nids: {70000: 0}", "70000 is outside 0 to 65535"),
        ("names: [a, b]\nignore: [1]", "1 is a class (b) and is ignored"),
        ("names: [a]\nignore: 255", "ignore is 255; list file values, such as ignore: [255]"),
        ("names: [a]\nignore: null", "ignore is None; list file values"),
        ("names: [a]\nignore: [1.5]", "ignore is [1.5]; list file values"),
        ("names: [a, b]\nids: {1: 1.7}", "ids is {1: 1.7}; write file value: class index"),
        ("names: [a, b]\nids: {1: yes}", "ids is {1: True}; write file value: class index"),
        ("names: [a, b]\nids: {road: 1}", "ids is {'road': 1}; write file value: class index"),
        ("names: [a]\nchannels: [red]", "channels is ['red']; write its fields"),
        ("names: [a]\nchannels: {nmaes: [red]}", "labels.yaml, channels: there is no key nmaes. Did you mean names?"),
        ("names: [a]\nchannels: {names: [b], display: [c]}", "display is ['c']; it must be 1 or 3 of the names b."),
        ("names: [a]\nmasks: rgb", "masks is 'rgb'; write indices or colours"),
        ("names: [a]\nmasks: [1]", "masks is [1]; write indices or colours"),
        ("names: [a]\nmasks: colours", "masks are colours, but colours is empty"),
        ("names: [a, b]\nmasks: colours\ncolours: [[1, 2, 3], [1, 2, 3]]", "[1, 2, 3] stands for two things"),
        ("names: [a]\nmasks: colours\ncolours: [[1, 2, 3]]\nignore_colours: [[1, 2, 3]]", "stands for two things"),
        ("names: [a]\nignore_colours: [[1, 2, 300]]", "the colour [1, 2, 300]"),
        ("names: [a]\nignore_colours: 0", "ignore_colours is 0; write [[r, g, b], …]"),
        ("like: camvd", "There are no labels 'camvd'. Did you mean camvid?"),
        ("names: [a", "is not YAML"),
        ("", "names is None"),
    ],
)
def test_a_wrong_labels_file_says_what_and_where(tmp_path, yaml, told):
    path = tmp_path / "labels.yaml"
    path.write_text(yaml, encoding="utf-8")
    with pytest.raises(InputError) as error:
        LabelSpace.load(path)
    assert told in str(error.value)
    assert "\n" not in str(error.value)
    if not re.match("(Labels |There are no labels)", str(error.value)):
        assert str(path) in str(error.value)


def test_unknown_names_get_the_nearest(tmp_path):
    with pytest.raises(InputError, match="Did you mean camvid"):
        LabelSpace.load("camvd")
    with pytest.raises(InputError, match="Did you mean bicyclist"):
        LabelSpace.load("camvid").index("bicylist")
    with pytest.raises(InputError, match=r"nowhere\.yaml cannot be read: No such file"):
        LabelSpace.load(tmp_path / "nowhere.yaml")


def test_more_classes_than_a_byte_holds():
    with pytest.raises(InputError, match="255 names; 1 to 254"):
        LabelSpace("many", tuple(map(str, range(255))))
    many = LabelSpace("many", tuple(map(str, range(254))))
    assert many.to_indices(np.array([[0, 253, 255]], np.uint8)).tolist() == [[0, 253, 255]]
