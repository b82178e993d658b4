"""Starting from a model: classes by name, its network, slower rates, and what a user is told."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danet.cli import main
from danet.config import Preprocess, RunConfig, read_config
from danet.errors import InputError
from danet.training.events import Initialised, Step
from danet.training.loop import train
from danet.training.norm import frozen
from danet.training.start import matches, resolve
from danet.training.state import checkpoints
from danet.weights.bundle import load_bundle

CLASSIFIERS = ("head.classifier", "head.position_classifier", "head.channel_classifier")


@pytest.fixture
def others(own_data):
    """`own_data` under other names in another order: road is known to the tiny bundle, and Car; a hedge is not."""
    (own_data / "labels.yaml").write_text("names: [hedge, Car, road]\n")
    return own_data


@pytest.fixture
def recipe(own_data, tmp_path, tiny_folder):
    def read(**overrides):
        told = {name.replace("__", "."): str(value) for name, value in overrides.items()}
        return read_config(tmp_path / "own.yaml", {"init": str(tiny_folder), "save_minutes": "1e-9"} | told)

    return read


def test_rows_of_known_classes_are_copied_and_the_rest_is_fresh(others, recipe, tiny, tmp_path):
    config = recipe(optim__lr=1e-30, optim__weight_decay=0, optim__norm="frozen")
    events = train(config, runs=tmp_path / "runs")
    started = next(events)
    assert isinstance(started, Initialised)
    assert started.classes == {"hedge": None, "Car": "car", "road": "road"}
    for event in events:
        if isinstance(event, Step):
            break
    events.close()
    state = torch.load(checkpoints(tmp_path / "runs/own/checkpoints")[-1], weights_only=True)["model"]
    source = tiny.model.state_dict()
    for name, tensor in state.items():
        if name.rpartition(".")[0] in CLASSIFIERS:
            assert torch.allclose(tensor[1:], source[name][[1, 0]], rtol=0, atol=1e-20), name
            assert not any(torch.allclose(tensor[0], row, rtol=0, atol=1e-20) for row in source[name]), name
        else:
            assert torch.allclose(tensor, source[name], rtol=0, atol=1e-20), name
    record = (tmp_path / "runs/own/metrics.jsonl").read_text().splitlines()
    assert json.loads(record[0])["classes"] == started.classes


def test_the_models_network_channels_and_open_gates_come_along(others, recipe, tiny, tmp_path):
    config = recipe(model__backbone="resnet50", model__head="fcn", model__dropout=0.3)
    found = resolve(config)
    assert found.model.model_dump(exclude={"num_classes", "in_channels", "dropout", "pretrained"}) == (
        tiny.model_config.model_dump(exclude={"num_classes", "in_channels", "dropout", "pretrained"})
    )
    assert found.model.dropout == 0.3
    assert "num_classes" not in found.model.model_fields_set  # the data's
    assert resolve(found) == found
    step = next(event for event in train(config, runs=tmp_path / "runs") if isinstance(event, Step))
    assert step.gates == pytest.approx({"position": 0.5, "channel": 0.5}, abs=0.11)  # a step of Adam is their rate


def test_a_backbone_that_has_learned_goes_at_a_tenth(recipe):
    found = resolve(recipe(optim__lr=0.02, optim__end_lr=0.001)).optim
    assert (found.lr, found.head_factor, found.end_lr) == pytest.approx((0.002, 10, 0.0001))
    told = resolve(recipe(optim__lr=0.02, optim__head_factor=3)).optim
    assert (told.lr, told.head_factor) == (0.02, 3)
    assert resolve(RunConfig()) == RunConfig()


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"batch_size": 7}, True),
        ({"batch_size": 8}, False),
        ({"batch_size": 16, "accumulate": 4}, True),
        ({"batch_size": 7, "norm": "batch"}, False),
        ({"batch_size": 8, "norm": "frozen"}, True),
        ({"batch_size": 7, "init": None}, False),
    ],
)
def test_statistics_are_frozen_where_few_images_would_spoil_a_models(fields, expected):
    names = {"batch_size": "data.batch_size", "accumulate": "optim.accumulate", "norm": "optim.norm"}
    told = {names[name]: str(value) for name, value in fields.items() if name in names}
    start = {} if "init" in fields else {"init": "street-tiny"}
    assert frozen(read_config(None, told | start)) == expected


def test_the_recipes_normalisation_goes_before_the_models(recipe):
    found = resolve(recipe(preprocess__mean="[0.1, 0.2, 0.3]", preprocess__longest=77)).preprocess
    assert (found.mean, found.longest, found.std) == ((0.1, 0.2, 0.3), 77, Preprocess().std)


@given(st.lists(st.sampled_from(["road", "Road", "traffic light", "traffic_light", "sky", "a-b"]), unique=True))
def test_each_class_is_matched_to_one_of_its_own_name(known):
    found = matches(["road", "traffic-light", "SKY"], known)
    plain = {own: own.casefold().replace("-", " ") for own in found}
    for own, theirs in found.items():
        same = [name for name in known if name.casefold().replace("_", " ").replace("-", " ") == plain[own]]
        assert theirs in same if same else theirs is None


def test_a_resumed_run_needs_the_model_no_more(others, recipe, tiny_folder, tmp_path):
    whole = [event.loss for event in train(recipe(), runs=tmp_path / "whole") if isinstance(event, Step)]
    for event in (events := train(recipe(), runs=tmp_path / "runs")):
        if event.step == 2:
            break
    events.close()
    for path in tiny_folder.iterdir():
        path.unlink()
    kept = read_config(tmp_path / "runs/own/config.yaml")
    resumed = [event for event in train(kept, resume=True, runs=tmp_path / "runs")]
    assert [event.loss for event in resumed if isinstance(event, Step)] == whole[2:]


def test_the_command_prints_the_table_and_refuses_another_network(others, tiny_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["train", "own.yaml", "--init", str(tiny_folder), "--freeze", "backbone"]) == 0
    told = capsys.readouterr().err
    assert "own: starts from" in told
    assert all(words in " ".join(told.split()) for words in ("Car │ copied from car", "hedge │ new", "road │ copied"))
    kept = load_bundle(tmp_path / "runs/own/best").model.state_dict()
    start = load_bundle(tiny_folder).model.state_dict()
    assert all(torch.equal(kept[name], tensor) for name, tensor in start.items() if name.startswith("backbone."))
    assert main(["train", "own.yaml", "--init", str(tiny_folder), "--model.backbone", "resnet50", "--name", "b"]) == 2
    assert "brings its own network: leave --model.backbone out" in capsys.readouterr().err
    assert main(["train", "own.yaml", "--init", "nowhere", "--name", "c"]) == 2
    assert "nowhere is no folder" in capsys.readouterr().err
    with pytest.raises(InputError, match="nowhere"):
        resolve(read_config(None, {"init": "nowhere"}))
