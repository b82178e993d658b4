"""Runs compared by their records alone, every figure by hand."""

import json
from itertools import pairwise
from math import log

import pytest

from danet.config import RunConfig, read_config
from danet.errors import InputError
from danet.training.differences import KEPT, best_validation, differences, find_runs, read_record, smooth


def steps(count: int, loss=lambda step: 1 / step) -> list[dict]:
    parts = [{"fused": loss(step), "position": 5.0} for step in range(1, count + 1)]
    return [
        {"event": "step", "step": step, "loss": sum(part.values()), "losses": part, "seconds": step / 4}
        for step, part in enumerate(parts, start=1)
    ]


def validated(step: int, miou: float, **iou: float | None) -> dict:
    scores = {"miou": miou, "pixel_accuracy": miou + 0.25, "context": None}
    return {"event": "validated", "step": step, **scores, "iou": iou, "seconds": step / 4 + 0.125}


@pytest.fixture
def run(tmp_path):
    """Writes a run's folder; returns it."""

    def write(name, *records, end="", **overrides):
        folder = tmp_path / name
        folder.mkdir()
        overrides = {field.replace("__", "."): str(value) for field, value in overrides.items()}
        (folder / "config.yaml").write_text(read_config(None, {"name": name, **overrides}).to_yaml())
        (folder / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records) + end)
        return folder

    return write


def test_settings_are_told_where_they_differ(run):
    runs = {
        "a": run("one", optim__lr=0.01, data__crop="[64, 64]", model__head="pam"),
        "b": run("two", optim__lr=0.01, data__crop="[64, 96]", model__head="danet", seed=3),
        "c": run("three", optim__lr=0.01, data__crop="[64, 64]", model__head="danet"),
    }
    assert differences(runs).settings == {
        "seed": {"a": 0, "b": 3, "c": 0},
        "model.head": {"a": "pam", "b": "danet", "c": "danet"},
        "data.crop": {"a": [64, 64], "b": [64, 96], "c": [64, 64]},
    }
    assert differences({"a": runs["a"]}).settings == {}


def test_a_field_younger_or_older_than_a_run_still_compares(run):
    old, same, other = run("old"), run("same"), run("other", optim__ema=0.5)
    kept = (old / "config.yaml").read_text()
    assert "ema: 0.0" in kept
    (old / "config.yaml").write_text(kept.replace("ema: 0.0, ", "") + "gone: [1, 2]\n")
    assert "ema" not in (old / "config.yaml").read_text()
    assert differences({"old": old, "same": same}).settings == {"gone": {"old": [1, 2], "same": None}}
    assert differences({"old": old, "other": other}).settings["optim.ema"] == {"old": 0.0, "other": 0.5}


def test_defaults_are_written_as_yaml_has_them(run):
    (folder := run("bare")).joinpath("config.yaml").write_text("name: bare\n")
    assert RunConfig().data.crop == (192, 256)  # a tuple, where a file has a list
    full = run("full", model__num_classes=19)
    assert differences({"bare": folder, "full": full}).settings == {}


def test_scores_are_those_of_the_best_validation(run):
    one = run(
        "one",
        *steps(4),
        validated(2, 0.25, road=0.5, car=0.0),
        validated(3, 0.5, road=0.75, car=0.25),
        validated(4, 0.5, road=0.25, car=0.75),
        optim__steps=4,
    )
    two = run("two", *steps(8), validated(8, 0.375, road=0.5, car=None), optim__steps=16)
    found = differences({"one": one, "two": two})
    assert found.runs["one"].best == {
        "step": 3,  # the first that reached it, as best/ is written
        "miou": 0.5,
        "pixel_accuracy": 0.75,
        "context": None,
        "iou": {"road": 0.75, "car": 0.25},
    }
    assert found.runs["one"].miou == [(2, 0.25), (3, 0.5), (4, 0.5)]
    assert [run.step for run in found.runs.values()] == [4, 8]
    assert [run.steps for run in found.runs.values()] == [4, 16]
    assert [run.seconds for run in found.runs.values()] == [1.125, 2.125]
    assert found.gain == {
        "miou": -0.125,
        "pixel_accuracy": -0.125,
        "context": None,
        "iou": {"road": -0.25, "car": None},
    }


def test_more_or_fewer_than_two_runs_have_no_difference(run):
    runs = {name: run(name, *steps(2), validated(2, 0.5, road=0.5)) for name in "abc"}
    assert differences(runs).gain is None
    assert differences({"a": runs["a"]}).gain is None


def test_runs_of_different_classes_have_no_difference_of_means(run):
    one = run("one", validated(1, 0.5, road=0.5, car=0.5))
    two = run("two", validated(1, 0.75, tree=0.875, road=0.625))
    found = differences({"one": one, "two": two})
    assert (found.classes, found.alike) == (["road", "car", "tree"], False)
    iou = {"road": 0.125, "car": None, "tree": None}
    assert found.gain == {"miou": None, "pixel_accuracy": None, "context": None, "iou": iou}


def test_a_run_without_a_validation_or_without_a_step_compares_too(run):
    one, two = run("one", *steps(2), validated(2, 0.5, road=0.5)), run("two", *steps(3))
    young = run("young")
    found = differences({"one": one, "two": two})
    assert (found.runs["two"].best, found.runs["two"].miou, found.runs["two"].step) == (None, [], 3)
    assert (found.classes, found.alike) == (["road"], True)
    assert found.gain == {"miou": None, "pixel_accuracy": None, "context": None, "iou": {"road": None}}
    empty = differences({"young": young, "two": two}).runs["young"]
    assert (empty.step, empty.seconds, empty.best, empty.loss, empty.miou) == (0, 0.0, None, [], [])
    assert differences({"young": young, "again": run("again")}).gain is not None


def test_the_loss_is_of_the_classifier_that_predicts_and_smoothed_alike(run):
    one, two = run("one", *steps(3)), run("two", *steps(60, lambda step: float(step)))
    found = differences({"one": one, "two": two})
    assert found.window == 3  # a 20th of the longest
    assert dict(found.runs["one"].loss) == pytest.approx({1: 1, 2: (1 + 1 / 2) / 2, 3: (1 + 1 / 2 + 1 / 3) / 3})
    assert dict(found.runs["two"].loss) == pytest.approx({1: 1, 2: 1.5} | {step: step - 1 for step in range(3, 61)})


@pytest.mark.parametrize("count", [1, KEPT, KEPT + 1, 3 * KEPT - 1, 3 * KEPT])
def test_of_a_long_curve_few_points_are_kept_and_always_the_last(count):
    points = [(step, log(step)) for step in range(1, count + 1)]
    kept = smooth(points, 1)
    assert min(count, KEPT / 2) <= len(kept) <= KEPT
    assert kept[-1] == pytest.approx(points[-1])
    (stride,) = {after[0] - before[0] for before, after in pairwise(kept)} or {1}
    assert kept[0][0] <= stride
    assert smooth([], 5) == []


def test_half_a_last_line_of_a_killed_run_is_left_out(run):
    killed = run("killed", *steps(2), end='{"event": "step", "step": 3, "loss": 0.4, "na')
    assert [record["step"] for record in read_record(killed)] == [1, 2]
    with (killed / "metrics.jsonl").open("ab") as file:
        file.write("Straße".encode()[:5])  # half a letter
    assert differences({"killed": killed}).runs["killed"].step == 2


@pytest.mark.parametrize(
    "line", ["{", "[1]", "3", '{"step": 3}', '{"event": "step"}', '{"event": "step", "step": "x"}', ""]
)
def test_a_damaged_record_is_told_by_its_line(run, line):
    folder = run("damaged", *steps(2), end=f'{line}\n{{"event": "saved", "step": 2}}\n')
    with pytest.raises(InputError, match=r"metrics\.jsonl: line 3 is no event of a run") as error:
        differences({"damaged": folder})
    assert "\n" not in str(error.value)


def test_what_is_no_run_is_told(run, tmp_path):
    folder = run("one")
    with pytest.raises(InputError, match=r"holds no run: there is no config\.yaml in it"):
        differences({"a": folder, "b": tmp_path})
    (folder / "metrics.jsonl").unlink()
    with pytest.raises(InputError, match=r"one holds no run: there is no metrics\.jsonl in it"):
        differences({"a": folder})
    (folder / "config.yaml").write_text("[")
    with pytest.raises(InputError, match=r"config\.yaml is not YAML"):
        differences({"a": folder})


def test_runs_are_found_among_models_each_once(run, tmp_path, monkeypatch):
    one, two = run("one"), run("two")
    (run("young") / "metrics.jsonl").unlink()
    monkeypatch.chdir(one)
    found = find_runs(["street-tiny", ".", str(one), f"{two}/", str(tmp_path / "young"), str(two), "nowhere"])
    assert {name: path.resolve() for name, path in found.items()} == {".": one, f"{two}/": two}


def test_all_of_it_is_json(run):
    one = run("one", *steps(2), validated(2, 0.5, road=0.5))
    two = run("two", *steps(2), optim__lr=0.5)
    found = json.loads(json.dumps(differences({"one": one, "two": two}).to_dict()))
    assert found["settings"] == {"optim.lr": {"one": 0.001, "two": 0.5}}
    assert found["runs"]["one"]["miou"] == [[2, 0.5]]
    assert found["runs"]["two"]["best"] is None
    assert found["loss_is_mean_of_steps"] == 1
    assert found["gain"]["iou"] == {"road": None}


def test_a_score_of_0_is_a_score():
    assert (best_validation([*steps(3), validated(3, 0.0, road=0.0)]) or {})["iou"] == {"road": 0.0}
    assert best_validation([*steps(3), {"event": "validated", "step": 3}]) is None
