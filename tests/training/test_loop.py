"""The loop on real files: what it leaves, how it goes on, and how it stops."""

import json
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from danet.config import read_config
from danet.errors import InputError
from danet.files import LOCK
from danet.inference.segmenter import load
from danet.training.events import Saved, Step, Validated
from danet.training.loop import train


@pytest.fixture
def recipe(own_data, tmp_path):
    def read(**overrides):
        return read_config(tmp_path / "own.yaml", {name.replace("__", "."): str(v) for name, v in overrides.items()})

    return read


def weights(folder):
    return load_file(folder / "best" / "model.safetensors")


def test_a_run_yields_its_story_and_leaves_it_on_disk(recipe, tmp_path):
    events = list(train(recipe(), runs=tmp_path / "runs"))
    kinds = [type(event).__name__ for event in events]
    assert kinds[:5] == ["Step", "Step", "Saved", "Validated", "Saved"]  # kept before it is scored, then as the best
    assert kinds.count("Step") == 4
    assert [event.step for event in events if isinstance(event, Validated)] == [2, 4]
    folder = tmp_path / "runs" / "own"
    left = sorted(path.name for path in folder.iterdir() if path.name != LOCK)
    assert left == ["best", "checkpoints", "config.yaml", "metrics.jsonl"]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [(record["event"], record["step"]) for record in records] == [
        (type(event).__name__.lower(), event.step) for event in events
    ]
    first = next(event for event in events if isinstance(event, Step))
    assert records[0]["loss"] == first.loss == pytest.approx(sum(first.losses.values()), rel=1e-5)
    assert set(first.losses) == {"fused", "position", "channel"}
    assert set(first.gates) == {"position", "channel"}
    best = max(event.report.scores.miou for event in events if isinstance(event, Validated))
    kept = read_config(folder / "config.yaml")
    assert kept.model.num_classes == 3
    assert json.loads((folder / "best" / "config.json").read_text())["scores"]["miou"] == round(best, 4)


def test_a_small_network_learns_its_images_by_heart(recipe, tmp_path):
    config = recipe(optim__steps=50, validate_every=50, data__crop=[48, 64], data__flip=0)
    events = list(train(config, runs=tmp_path / "runs"))
    losses = [event.losses["fused"] for event in events if isinstance(event, Step)]
    assert np.mean(losses[-5:]) < 0.3 * np.mean(losses[:5])
    report = next(event.report for event in events if isinstance(event, Validated))
    assert report.scores.miou > 0.6
    assert load(tmp_path / "runs/own/best").labels.names == ("road", "car", "tree")


BY_CLASS = {"data__sampling": "balanced", "data__max_class_share": 0.4, "optim__class_weights": "median"}


@pytest.mark.parametrize("settings", [{}, BY_CLASS], ids=["uniform", "by class"])
def test_stopped_and_resumed_is_bit_equal_to_uninterrupted(recipe, tmp_path, settings):
    varied = {"data__photometric": 0.3, "data__scale": [0.8, 1.3], **settings}
    config = recipe(optim__ema=0.5, optim__steps=6, validate_every=6, **varied)
    whole = list(train(config, runs=tmp_path / "whole"))
    events = train(config, runs=tmp_path / "parts")
    for event in events:
        if event.step == 3:
            break
    events.close()
    resumed = list(train(config, resume=True, runs=tmp_path / "parts"))
    expected = [event.loss for event in whole if isinstance(event, Step)]
    assert [event.loss for event in resumed if isinstance(event, Step)] == expected[3:]
    for name, tensor in weights(tmp_path / "whole/own").items():
        assert torch.equal(tensor, weights(tmp_path / "parts/own")[name]), name
    records = [json.loads(line) for line in (tmp_path / "parts/own/metrics.jsonl").read_text().splitlines()]
    assert [record["loss"] for record in records if record["event"] == "step"] == expected


@pytest.mark.parametrize("settings", [{name: value} for name, value in BY_CLASS.items()])
def test_each_setting_by_class_changes_what_is_learnt(recipe, tmp_path, settings):
    plain, other = (
        next(train(recipe(), runs=tmp_path / "plain")),
        next(train(recipe(**settings), runs=tmp_path / "other")),
    )
    assert plain.loss != other.loss


@pytest.mark.parametrize("kind", [Step, Validated, Saved])
@pytest.mark.parametrize("step", [2, 4])
def test_a_stop_around_a_validation_loses_no_model(recipe, tmp_path, kind, step):
    list(train(recipe(), runs=tmp_path / "whole"))
    events = train(recipe(), runs=tmp_path / "parts")
    for event in events:
        if event.step == step and isinstance(event, kind):
            break
    events.close()
    list(train(recipe(), resume=True, runs=tmp_path / "parts"))
    for name, tensor in weights(tmp_path / "whole/own").items():
        assert torch.equal(tensor, weights(tmp_path / "parts/own")[name]), name
    validated = [
        [(entry["step"], entry["miou"]) for entry in map(json.loads, lines) if entry["event"] == "validated"]
        for lines in ((tmp_path / run / "own/metrics.jsonl").read_text().splitlines() for run in ("whole", "parts"))
    ]
    assert validated[0] == validated[1]


def test_precision_and_root_are_kept_as_resolved(recipe, own_data, tmp_path, monkeypatch):
    monkeypatch.chdir(own_data.parent)
    next(train(recipe(precision="auto", data__root="own"), runs=tmp_path / "runs"))
    kept = read_config(tmp_path / "runs/own/config.yaml")
    assert kept.precision in ("float32", "bfloat16")
    assert kept.data.root == str(own_data)


def test_half_a_line_of_a_killed_run_is_dropped(recipe, tmp_path):
    events = train(recipe(), runs=tmp_path / "runs")
    assert [next(events).step, next(events).step] == [1, 2]
    events.close()
    metrics = tmp_path / "runs/own/metrics.jsonl"
    metrics.write_text(metrics.read_text() + '{"event": "st')
    list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    records = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [entry["step"] for entry in records if entry["event"] == "step"] == [1, 2, 3, 4]
    seconds = [entry["seconds"] for entry in records]
    assert seconds == sorted(seconds)


def test_the_number_of_workers_changes_nothing(recipe, tmp_path):
    losses = []
    for workers in (0, 2):
        config = recipe(data__workers=workers, data__photometric=0.3)
        losses.append([e.loss for e in islice(train(config, runs=tmp_path / str(workers)), 2) if isinstance(e, Step)])
    assert losses[0] == losses[1]


def test_the_average_is_what_is_kept(recipe, tmp_path):
    plain, averaged = (recipe(optim__ema=ema, validate_every=4, optim__steps=4) for ema in (0.0, 0.9))
    for name, config in (("plain", plain), ("averaged", averaged)):
        list(train(config, runs=tmp_path / name))
    state = torch.load(tmp_path / "averaged/own/checkpoints/step-0000004.pt", weights_only=True)
    name = "head.classifier.weight"
    assert torch.equal(state["model"][name], weights(tmp_path / "plain/own")[name])
    assert torch.equal(state["average"][f"module.{name}"], weights(tmp_path / "averaged/own")[name])
    assert not torch.equal(state["model"][name], weights(tmp_path / "averaged/own")[name])


def test_a_loss_that_is_not_finite_stops_with_the_files(recipe, tmp_path):
    events = train(recipe(optim__lr=1e30, optim__steps=50, validate_every=50), runs=tmp_path / "runs")
    with pytest.raises(InputError) as caught:
        list(events)
    message = str(caught.value)
    assert "in step" in message
    assert "learning rate 1e+30" in message or "learning rate 9." in message
    assert "gradient" in message
    assert ".png" in message
    assert "\n" not in message


def test_a_run_is_never_overwritten(recipe, tmp_path):
    list(train(recipe(), runs=tmp_path / "runs"))
    before = (tmp_path / "runs/own/metrics.jsonl").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        next(train(recipe(), runs=tmp_path / "runs"))
    assert (tmp_path / "runs/own/metrics.jsonl").read_bytes() == before


def test_a_finished_run_resumes_to_nothing(recipe, tmp_path):
    list(train(recipe(), runs=tmp_path / "runs"))
    assert list(train(recipe(), resume=True, runs=tmp_path / "runs")) == []


@pytest.mark.parametrize("workers", [0, 1])
def test_a_file_that_goes_bad_while_training_is_one_line(recipe, own_data, tmp_path, workers):
    events = train(recipe(data__workers=workers, optim__steps=50, validate_every=50), runs=tmp_path / "runs")
    next(events)
    for path in (own_data / "masks/train").iterdir():
        Image.fromarray(np.full((48, 64), 77, np.uint8)).save(path)
    with pytest.raises(InputError, match="value 77") as caught:
        list(events)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data__root": "/nowhere"}, "/nowhere"),
        ({"model__backbone": "resnet81"}, "Did you mean resnet"),
        ({"model__num_classes": 7}, "labels own have 3 classes"),
        ({"data__batch_size": 9}, "batch size is 9"),
        ({"device": "tpu"}, "tpu"),
        (
            {"data__batch_size": 1, "model__head": "dranet"},
            "1 image of 32×48 pixels, too little .* use data.batch_size 2",
        ),
    ],
)
def test_what_can_be_known_beforehand_leaves_no_run(recipe, tmp_path, overrides, words):
    with pytest.raises(InputError, match=words):
        next(train(recipe(**overrides), runs=tmp_path / "runs"))
    assert not (tmp_path / "runs").exists()


def flip_a_weight(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut_short(path):
    path.write_bytes(path.read_bytes()[:1000])


@pytest.mark.parametrize("damage", [flip_a_weight, cut_short])
def test_a_damaged_checkpoint_gives_way_to_the_one_before(recipe, tmp_path, damage):
    list(train(recipe(), runs=tmp_path / "whole"))
    list(train(recipe(), runs=tmp_path / "runs"))
    folder = tmp_path / "runs/own/checkpoints"
    before, newest = sorted(path.name for path in folder.iterdir())
    damage(folder / newest)
    with pytest.warns(UserWarning, match=f"{newest} is damaged .* now damaged-{newest}, and left out"):
        events = list(train(recipe(), resume=True, runs=tmp_path / "runs"))
    assert [event.step for event in events if isinstance(event, Step)] == [3, 4]
    assert sorted(path.name for path in folder.iterdir()) == [f"damaged-{newest}", before, newest]
    for name, tensor in weights(tmp_path / "whole/own").items():
        assert torch.equal(tensor, weights(tmp_path / "runs/own")[name]), name


def test_without_a_whole_checkpoint_there_is_nothing_to_resume(recipe, tmp_path):
    list(train(recipe(), runs=tmp_path / "runs"))
    for path in (tmp_path / "runs/own/checkpoints").iterdir():
        cut_short(path)
    with pytest.warns(UserWarning, match="is damaged"), pytest.raises(InputError, match="no checkpoint"):
        next(train(recipe(), resume=True, runs=tmp_path / "runs"))


def test_a_checkpoint_of_another_network_is_no_damage(recipe, tmp_path):
    list(train(recipe(), runs=tmp_path / "runs"))
    there = sorted((tmp_path / "runs/own/checkpoints").iterdir())
    with pytest.raises(InputError, match="is of another network or optimizer"):
        next(train(recipe(model__channels=4), resume=True, runs=tmp_path / "runs"))
    assert sorted((tmp_path / "runs/own/checkpoints").iterdir()) == there


@pytest.mark.parametrize("keep", [1, 3])
def test_so_many_checkpoints_are_kept(recipe, tmp_path, keep):
    list(train(recipe(keep=keep, save_minutes=1e-9), runs=tmp_path / "runs"))
    found = sorted(path.name for path in (tmp_path / "runs/own/checkpoints").iterdir())
    assert found == [f"step-{step:07d}.pt" for step in range(5 - keep, 5)]


def test_without_gain_a_run_stops_and_stays_stopped(recipe, tmp_path):
    config = recipe(patience=2, validate_every=1, optim__steps=50, optim__lr=1e-9, optim__norm="frozen")
    events = list(train(config, runs=tmp_path / "runs"))
    assert [event.step for event in events if isinstance(event, Validated)] == [1, 2, 3]  # the first is the best
    assert list(train(config, resume=True, runs=tmp_path / "runs")) == []
    more = list(train(config.model_copy(update={"patience": 3}), resume=True, runs=tmp_path / "runs"))
    assert [event.step for event in more if isinstance(event, Validated)] == [4]


def test_steps_tell_their_speed_and_memory(recipe, tmp_path):
    steps = [event for event in train(recipe(), runs=tmp_path / "runs") if isinstance(event, Step)]
    assert all(0 < step.images_per_second < 1e5 for step in steps)
    assert all(step.memory is None or step.memory > 10**8 for step in steps)


def test_saved_events_tell_where(recipe, tmp_path):
    saved = [event for event in train(recipe(), runs=tmp_path / "runs") if isinstance(event, Saved)]
    assert all(event.path.exists() for event in saved)
