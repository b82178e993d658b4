"""Configurations: strict, round trip, and one line for every fault."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from danet.config import Channels, Preprocess, RunConfig, fields, read_config, recipes
from danet.errors import InputError


@pytest.mark.parametrize("name", recipes())
def test_recipes_survive_the_round_trip(name, tmp_path):
    config = read_config(name)
    (tmp_path / "config.yaml").write_text(config.to_yaml())
    assert read_config(tmp_path / "config.yaml") == config


@settings(max_examples=20)
@given(st.floats(1e-9, 1e3), st.integers(1, 10**6), st.tuples(st.integers(32, 999), st.integers(32, 999)))
def test_overrides_take_the_values_of_a_command_line(lr, steps, crop):
    overrides = {"optim.lr": repr(lr), "optim.steps": str(steps), "data.crop": str(list(crop)), "name": "a-run"}
    config = read_config("demo", overrides)
    assert (config.optim.lr, config.optim.steps, config.data.crop, config.name) == (lr, steps, crop, "a-run")
    assert config.model == read_config("demo").model


def test_text_is_taken_as_it_is():
    config = read_config("demo", {"name": "2024-06-01", "data.root": "#1 data"})
    assert (config.name, config.data.root) == ("2024-06-01", "#1 data")


def test_every_field_has_a_dotted_name_and_help_where_its_name_does_not_say_enough():
    names = fields(RunConfig)
    assert names["optim.lr"][0] == RunConfig().optim.lr
    assert "poly" in names["optim.schedule"][1]
    assert "model" not in names


@pytest.mark.parametrize(
    ("recipe", "overrides", "words"),
    [
        ("demi", {}, ("'demi'", "Did you mean demo?")),
        ("qqq", {}, ("There is no recipe 'qqq'. --help lists them.",)),
        ("demo", {"optim.lrr": "1"}, ("optim.lrr", "Did you mean optim.lr?")),
        ("demo", {"optm.lr": "1"}, ("optm", "Did you mean optim")),
        ("demo", {"optim.lr": "fast"}, ("optim.lr is 'fast'", "valid number")),
        ("demo", {"compile": "true", "checkpointing": "true"}, ("checkpointing is True", "leave it out, or compile")),
        ("demo", {"optim.lr": "null"}, ("optim.lr is None", "valid number")),
        ("demo", {"optim.lr": ".nan"}, ("optim.lr is nan", "finite")),
        ("demo", {"optim.lr": "-1"}, ("optim.lr is -1", "greater than 0")),
        ("demo", {"model.output_stride": "0"}, ("model.output_stride is 0", "greater than or equal to 1")),
        ("demo", {"data.crop": "[240, 320"}, ("data.crop is '[240, 320'", "not YAML")),
        ("demo", {"data.crop": "[16, 64]"}, ("data.crop.0 is 16", "greater than or equal to 32")),
        ("demo", {"preprocess.mean": "[0.5, 0.5]"}, ("preprocess.mean is [0.5, 0.5]", "red, green, blue")),
        ("demo", {"preprocess.mean": "[0.5, 0.5, .nan]"}, ("preprocess.mean is", "finite number")),
        ("demo", {"preprocess.std": "[0.5, 0.5, 0]"}, ("preprocess.std.2 is 0", "greater than 0")),
        ("demo", {"preprocess.names": "[]"}, ("preprocess.names is []",)),
        ("demo", {"preprocess.names": "[a, b, a]"}, ("preprocess.names is", "a name of its own")),
        ("demo", {"preprocess.names": "[a, b]", "preprocess.std": "[1]"}, ("preprocess.std is [1]", "a, b")),
        ("demo", {"preprocess.rgb": "[red, green]"}, ("preprocess.rgb is", "0 or 3 of the names red, green, blue")),
        ("demo", {"preprocess.rgb": "[red, green, nir]"}, ("preprocess.rgb is", "of the names red, green, blue")),
        ("demo", {"preprocess.display": "[]"}, ("preprocess.display is []", "1 or 3 of the names")),
        ("demo", {"preprocess.display": "[red, red, red]"}, ("preprocess.display is", "1 or 3 of the names")),
        ("demo", {"preprocess.range": "[255, 0]"}, ("preprocess.range is [255, 0]", "the lower first")),
        ("demo", {"preprocess.range": "[0, .inf]"}, ("preprocess.range is [0, inf]", "two finite numbers")),
        ("demo", {"model.out_indices": "[]"}, ("model.out_indices is []",)),
        ("demo", {"name.x": "1"}, ("name is 'demo'",)),
        ("demo", {"data.batch_size": "0"}, ("data.batch_size is 0", "greater than or equal to 1")),
        ("nowhere.yaml", {}, ("nowhere.yaml", "No such file")),
    ],
)
def test_faults_are_one_line(recipe, overrides, words):
    with pytest.raises(InputError) as caught:
        read_config(recipe, overrides)
    assert "\n" not in str(caught.value)
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "is not YAML"),
        ("a: 2024-13-45", "is not YAML"),
        ("[1, 2]", "holds list"),
        ("optim: {steps: 1, stps: 2}", "Did you mean optim.steps?"),
    ],
)
def test_faulty_files_are_named(text, words, tmp_path):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        read_config(tmp_path / "bad.yaml")
    assert "bad.yaml" in str(caught.value)
    assert words in str(caught.value)


def test_an_empty_file_is_the_defaults(tmp_path):
    (tmp_path / "empty.yaml").write_text("")
    assert read_config(tmp_path / "empty.yaml") == RunConfig()


def test_named_channels_need_little_else():
    grey = Channels(names=("grey",))
    assert (grey.rgb, grey.display, grey.mean, grey.std) == ((), ("grey",), (0.5,), (0.25,))
    four = Channels(names=("nir", "red", "green", "blue"), mean=(0.1, 0.2, 0.3, 0.4))
    colours = ("red", "green", "blue")
    assert (four.rgb, four.display, four.mean, four.std) == (colours, colours, (0.1, 0.2, 0.3, 0.4), (0.25,) * 4)
    deep = Channels(range=(0, 65535))
    assert (deep.mean, deep.picture, Channels().picture, grey.picture) == (Channels().mean, False, True, False)


def test_a_recipe_goes_before_the_data_sets_channels():
    told = Channels(names=("a", "b"), range=(0, 10), mean=(0.3, 0.4))
    filled = Preprocess(longest=64, range=(0, 20)).of(told)
    assert filled == Preprocess(**told.model_dump(exclude={"range"}), range=(0, 20), longest=64)
    assert filled.of(Channels()) == filled
    assert Preprocess().of(None) == Preprocess()
    with pytest.raises(InputError, match=r"preprocess: mean is .*a finite number for each channel: a, b\.$"):
        Preprocess(mean=(0.1, 0.2, 0.3)).of(told)
