"""Ablations as they are run: tiny ones on real files and drawn streets, interrupted, gone on with, compared."""

import csv
import json
import shutil
import subprocess
import sys
import time
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from danet.config import ModelConfig, read_config
from danet.data.dataset import Dataset
from danet.data.sources import scenes
from danet.errors import InputError
from danet.evaluation.context import context_scores
from danet.evaluation.evaluate import evaluate
from danet.inference.device import choose_device, choose_precision
from danet.inference.segmenter import Segmenter
from danet.models.segmentation import build_model
from danet.training.ablation import ablate, plan, refuse_other_settings, results, write_comparison
from danet.training.cost import model_cost
from danet.training.data import open_data
from danet.training.events import Step
from danet.training.gates import branch_shares
from danet.training.loop import train

RECIPE = """
name: tiny
precision: float32
device: cpu
model: {backbone: resnet18, out_indices: [1], channels: 8}
data: {source: scenes, count: 10, size: [48, 64], crop: [48, 64], batch_size: 2, workers: 0}
optim: {steps: 3, lr: 0.003, ema: 0.5}
"""
SAME = ("miou", "pixel_accuracy", "context", "follows", "stays", "control", "alpha", "beta", "position_share", "gflops")


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def done(recipe, tmp_path_factory):
    """Four runs done without interruption: their folder, plan, rows, and the names in the order in which they ran."""
    runs, names = tmp_path_factory.mktemp("runs"), []
    planned = plan(recipe, {}, ["fcn", "danet"], [0, 1], [])

    def watch(name, events, steps):
        names.append((name, steps, sum(isinstance(event, Step) for event in events)))

    return runs, planned, ablate(planned, watch, runs=runs).rows, names


def stop_after_a_step(name, events, steps):
    next(events)


def never(name, events, steps):
    raise AssertionError(f"{name} is run again")


def consume(name, events, steps):
    for _ in events:
        pass


# The plan


def test_a_plan_goes_seed_by_seed_variation_by_variation(recipe):
    changes = [{"optim.gate_start": "0.1", "optim.gate_sign": "positive"}, {"data.crop": "[32, 48]"}]
    planned = plan(recipe, {"name": "trial", "optim.gate_start": "0.2"}, ["pam", "fcn"], [3, 1], changes)
    variants = [f"{head}{change}" for change in VARIANTS for head in ("pam", "fcn")]
    assert [config.name for config in planned] == [f"trial/{one}-seed-{seed}" for seed in (3, 1) for one in variants]
    assert [config.seed for config in planned] == [3] * 6 + [1] * 6
    assert [config.model.head for config in planned] == ["pam", "fcn"] * 6
    assert [config.optim.gate_start for config in planned[::2]] == [0.2, 0.1, 0.2] * 2  # a variation counts most
    assert [config.data.crop for config in planned[:5:2]] == [(48, 64), (48, 64), (32, 48)]
    assert all(config.data.count == 10 for config in planned)


VARIANTS = ("", ",gate_start=0.1,gate_sign=positive", ",crop=[32, 48]")


def test_a_run_of_a_plan_is_that_of_its_settings(recipe):
    """Whatever the plan, a run of the same name has the same settings, and those of `danet train`."""
    (one,) = plan(recipe, {}, ["cam"], [2], [])
    assert one in plan(recipe, {}, ["fcn", "cam"], [0, 2], [{"optim.lr": "1"}])
    settings = read_config(recipe, {"model.head": "cam", "seed": "2"})
    assert one == settings.model_copy(update={"name": "tiny/cam-seed-2"})


def test_a_variant_with_a_path_is_one_folder(recipe):
    *_, config = plan(recipe, {}, ["fcn"], [0], [{"data.root": "/some/where"}])
    assert config.name == "tiny/fcn,root=-some-where-seed-0"
    assert config.data.root == "/some/where"


@pytest.mark.parametrize(
    ("heads", "seeds", "variations", "words"),
    [
        ([], [0], [], "needs a head and a seed at least, such as --heads"),
        (["fcn"], [], [], "needs a head and a seed at least, such as --heads"),
        (["fcn", "danett"], [0], [], "no head 'danett'. Did you mean danet?"),
        (["fcn"], [-1], [], "seed is -1"),
        (["fcn"], [0], [{"seed": "1"}], "seed cannot be set here, .* give --seeds"),
        (["fcn"], [0], [{"optim.lr": "1"}, {"model.head": "pam"}], "model.head cannot be set here, .* give --heads"),
        (["fcn"], [0], [{"name": "x"}], "name cannot be set here, .* give --name"),
        (["fcn"], [0], [{"optim.gate_sign": "up"}], "optim.gate_sign is 'up'"),
    ],
)
def test_a_wrong_plan_is_one_line(recipe, heads, seeds, variations, words):
    with pytest.raises(InputError, match=words) as caught:
        plan(recipe, {}, heads, seeds, variations)
    assert "\n" not in str(caught.value)


# Runs


def test_each_run_leaves_its_row(done):
    runs, planned, rows, names = done
    assert names == [(f"{head}-seed-{seed}", 3, 3) for seed in (0, 1) for head in ("fcn", "danet")]
    assert rows == results(runs / "tiny")
    by_name = {f"{row['variant']}-seed-{row['seed']}": row for row in rows}
    for config in planned:
        row = by_name[config.name.removeprefix("tiny/")]
        assert json.loads((runs / config.name / "result.json").read_text()) == row
        assert (row["head"], row["steps"], row["data"]) == (config.model.head, 3, "scenes val")
        assert (row["precision"], row["threads"]) == ("float32", torch.get_num_threads())
        assert all(0 <= row[key] <= 1 for key in ("miou", "context", "majority", "follows", "stays", "control"))
        attended = row["head"] == "danet"
        assert all((row[key] is not None) == attended for key in ("alpha", "beta", "position_share", "channel_share"))
        assert row["peak_gigabytes"] is None or 0.05 < row["peak_gigabytes"] < 50
        assert 0 <= row["step_seconds"] < 60 * row["minutes"] + 0.01
        assert {"command", "date", "danet", "versions", "hardware"} < row.keys()
    assert by_name["danet-seed-0"]["miou"] != by_name["danet-seed-1"]["miou"]


def test_a_row_is_of_the_last_step_and_its_average(done):
    """Its scores are those of the averaged weights in the last checkpoint, found again apart."""
    runs, planned, rows, _ = done
    config = planned[1]
    (row,) = (row for row in rows if (row["variant"], row["seed"]) == ("danet", 0))
    data = open_data(config)
    model = build_model(data.model)
    state = torch.load(runs / config.name / "checkpoints/step-0000003.pt", weights_only=True)["average"]
    model.load_state_dict({key.removeprefix("module."): state[key] for key in state if key != "n_averaged"})
    segmenter = Segmenter(model, data.labels, config.preprocess, "cpu", "float32")
    assert evaluate(segmenter, data.val).scores.miou == row["miou"]
    assert segmenter.model.head.position.gate.item() == row["alpha"]
    assert segmenter.model.head.channel.gate.item() == row["beta"]
    assert row["alpha"] != 0
    shares = branch_shares(segmenter, data.val)
    assert (row["position_share"], row["channel_share"]) == (shares["position"], shares["channel"])
    assert shares["position"] > 0
    twins, control = (Dataset(*scenes(split, 2, 48, 64)) for split in ("twins", "control"))
    assert context_scores(segmenter, data.val, twins, control)._asdict().items() <= row.items()


def test_what_is_done_is_not_done_again(done):
    runs, planned, rows, _ = done
    before = {path: path.stat().st_mtime_ns for path in (runs / "tiny").rglob("*")}
    assert ablate(planned, never, runs=runs) == (rows, {})
    assert {path: path.stat().st_mtime_ns for path in (runs / "tiny").rglob("*")} == before


def test_more_runs_under_the_same_name_join_those_that_are_there(done, recipe, tmp_path):
    runs, planned, rows, _ = done
    shutil.copytree(runs, tmp_path / "runs")
    names = []

    def watch(name, events, steps):
        names.append(name)
        consume(name, events, steps)

    found = ablate([*planned, *plan(recipe, {}, ["pam"], [1], [])], watch, runs=tmp_path / "runs").rows
    assert names == ["pam-seed-1"]
    assert len(found) == 5
    assert [row for row in found if row["head"] != "pam"] == rows


def test_an_interrupted_ablation_goes_on_to_the_same_rows(done, tmp_path):
    _, planned, rows, _ = done
    names, left = [], []

    def watch(name, events, steps):
        names.append(name)
        if len(names) == 2:  # in the second run, after one step; nothing but `ablate` closes what is kept here
            left.append(events)
            return stop_after_a_step(name, events, steps)
        return consume(name, events, steps)

    assert len(ablate(planned[:2], watch, runs=tmp_path).rows) == 1
    folder = tmp_path / "tiny/danet-seed-0"
    assert not (folder / "result.json").exists()
    assert [path.name for path in (folder / "checkpoints").iterdir()] == ["step-0000001.pt"]
    went_on = ablate(planned[:2], watch, runs=tmp_path).rows
    assert names == ["fcn-seed-0", "danet-seed-0", "danet-seed-0"]
    steps = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["step"] for record in steps if record["event"] == "step"] == [1, 2, 3]
    expected = [row for row in rows if row["seed"] == 0]
    assert [{key: row[key] for key in SAME} for row in went_on] == [{key: row[key] for key in SAME} for row in expected]


def test_a_run_without_a_checkpoint_starts_afresh(done, tmp_path):
    runs, planned, rows, _ = done
    folder = tmp_path / "tiny/danet-seed-1"
    folder.mkdir(parents=True)
    shutil.copy(runs / "tiny/danet-seed-1/config.yaml", folder)
    (folder / "metrics.jsonl").write_text('{"event": "step", "step": 1, "loss"')
    (row,) = ablate(planned[3:], consume, runs=tmp_path).rows
    (expected,) = (row for row in rows if (row["head"], row["seed"]) == ("danet", 1))
    assert {key: row[key] for key in SAME} == {key: expected[key] for key in SAME}  # alone as among others


def test_a_run_left_after_a_validation_is_not_done(recipe, tmp_path):
    def watch(name, events, steps):
        for event in events:
            if isinstance(event, Step) and event.step == 2:
                break

    planned = plan(recipe, {"validate_every": "1"}, ["fcn"], [0], [])
    assert ablate(planned, watch, runs=tmp_path) == ([], {})
    assert "validated" in (tmp_path / "tiny/fcn-seed-0/metrics.jsonl").read_text()


def test_a_run_that_ended_without_a_row_gets_it_without_a_step(done, tmp_path):
    runs, planned, rows, _ = done
    shutil.copytree(runs, tmp_path / "runs")
    (tmp_path / "runs/tiny/danet-seed-1/result.json").unlink()

    def watch(name, events, steps):
        assert list(events) == []

    found = ablate(planned, watch, runs=tmp_path / "runs").rows
    assert [row["miou"] for row in found] == [row["miou"] for row in rows]


# Settings


def test_a_run_of_other_settings_is_refused_before_any_training(done, recipe):
    runs, *_ = done
    planned = plan(recipe, {"optim.lr": "0.004"}, ["pam", "fcn"], [0], [])  # there is no pam yet
    with pytest.raises(InputError, match=r"tiny/\S+ was made with optim.lr 0.003, not 0.004; .* --name") as caught:
        ablate(planned, never, runs=runs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        ({"data.count": "15"}, "data.count 10, not 15"),
        ({"model.channels": "16"}, "model.channels 8, not 16"),
        ({"preprocess.longest": "64"}, "preprocess.longest 1024, not 64"),
        ({"precision": "bfloat16"}, "precision float32, not bfloat16"),
        ({"precision": "auto"}, None),
        ({"validate_every": "2", "device": "auto"}, None),  # they change no score
    ],
)
def test_settings_are_those_that_change_a_result(done, recipe, overrides, words):
    runs, *_ = done
    (config,) = plan(recipe, overrides, ["danet"], [0], [])
    if words is None:
        refuse_other_settings(runs / "tiny", config)
    else:
        with pytest.raises(InputError, match=words):
            refuse_other_settings(runs / "tiny", config)


def test_a_relative_root_is_that_of_the_run(own_data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (config,) = plan("own.yaml", {"data.root": "own"}, ["fcn"], [0], [])
    next(train(config, runs=tmp_path / "runs"))
    refuse_other_settings((tmp_path / "runs" / config.name).parent, config)


def test_what_goes_on_keeps_the_precision_that_auto_came_to(recipe, tmp_path):
    """As on a machine that timed the precisions the other way round."""
    other = {"float32": "bfloat16", "bfloat16": "float32"}[choose_precision("auto", choose_device("cpu"))]
    ablate(plan(recipe, {"precision": other}, ["pam"], [0], []), stop_after_a_step, runs=tmp_path)
    ablate(plan(recipe, {"precision": "auto"}, ["pam"], [0], []), stop_after_a_step, runs=tmp_path)
    folder = tmp_path / "tiny/pam-seed-0"
    assert read_config(folder / "config.yaml").precision == other
    assert (folder / "checkpoints/step-0000002.pt").exists()


def test_an_ablation_holds_equals_alone(done, recipe):
    """Another variant of the same name, too, must not differ in more than its variation."""
    runs, *_ = done
    with pytest.raises(InputError, match=r"tiny/\S+ was made with optim.steps 3, not 5; give another --name"):
        ablate(plan(recipe, {"optim.steps": "5"}, ["cam"], [4], []), never, runs=runs)
    varied = plan(recipe, {}, ["fcn"], [0], [{"optim.steps": "5"}])
    refuse_other_settings(runs / "tiny", varied[0])


def test_a_single_run_is_no_ablation(recipe, tmp_path):
    next(train(read_config(recipe), runs=tmp_path))
    with pytest.raises(InputError, match="tiny is a single run; give the ablation another --name"):
        ablate(plan(recipe, {}, ["cam"], [0], []), never, runs=tmp_path)


def test_a_run_that_fails_leaves_the_others(recipe, tmp_path):
    planned = plan(recipe, {}, ["fcn"], [0], [{"optim.lr": "1e30"}, {"model.num_classes": "5"}])
    rows, failed = ablate(planned, consume, runs=tmp_path)
    assert [row["variant"] for row in rows] == ["fcn"]
    assert list(failed) == ["tiny/fcn,lr=1e30-seed-0", "tiny/fcn,num_classes=5-seed-0"]
    assert all(words in failed[name] for words, name in zip(("The loss is", "num_classes is 5"), failed, strict=True))
    with pytest.raises(InputError, match="num_classes is 5"):
        ablate(plan(recipe, {"model.num_classes": "5"}, ["fcn"], [0], []), consume, runs=tmp_path / "none")


# Cost


def test_the_cost_of_attention_is_that_of_its_products():
    """Two operations a multiplication and addition: N places, c channels, queries and keys d wide, K classes."""
    size, places, c, d, classes = (48, 64), 6 * 8, 16, 2, 5
    cost = {
        head: model_cost(
            ModelConfig(head=head, backbone="resnet18", out_indices=(2,), channels=c, num_classes=classes), size
        )
        for head in ("fcn", "pam", "cam", "danet")
    }
    flops = {head: round(one.gflops * 1e9) for head, one in cost.items()}
    position = 2 * places**2 * (d + c) + 2 * places * c * (2 * d + c)
    channel = 2 * 2 * c**2 * places
    assert flops["pam"] - flops["fcn"] == position
    assert flops["cam"] - flops["fcn"] == channel
    second_branch = 2 * 9 * places * c * (128 + c)
    assert flops["danet"] - flops["fcn"] == position + channel + second_branch + 2 * 2 * places * c * classes
    parameters = {head: one.parameters for head, one in cost.items()}
    assert parameters["pam"] - parameters["fcn"] == 2 * (c * d + d) + c * c + c + 1
    assert parameters["cam"] - parameters["fcn"] == 1
    convolutions = 9 * c * (128 + c) + 2 * 2 * c
    both = 2 * (c * d + d) + c * c + c + 2
    assert parameters["danet"] - parameters["fcn"] == both + convolutions + 2 * (c * classes + classes)


def test_the_whole_cost_of_a_small_network():
    """An FCN on ResNet-18's first stage, layer by layer."""
    config = ModelConfig(head="fcn", backbone="resnet18", out_indices=(1,), channels=8, num_classes=3, dropout=0)
    places, half = 12 * 16, 24 * 32
    stem, stage = 49 * 3 * 64, 4 * 9 * 64 * 64
    head, classifier = 9 * 64 * 8 + 9 * 8 * 8, 8 * 3
    cost = model_cost(config, (48, 64))
    assert cost.gflops * 1e9 == pytest.approx(2 * (half * stem + places * (stage + head + classifier)))
    norms = 2 * (64 + 4 * 64 + 2 * 8)
    assert cost.parameters == stem + stage + head + classifier + 3 + norms


# What is written


def test_the_comparison_is_written_as_tables_and_plots(done, tmp_path):
    runs, _, rows, _ = done
    shutil.copytree(runs / "tiny", tmp_path / "tiny")
    files = ("ablation.csv", "ablation.md", "curves.svg", "scores.svg")
    comparison = write_comparison(tmp_path / "tiny", rows)
    assert sorted(path.name for path in (tmp_path / "tiny").iterdir() if path.is_file()) == sorted(files)
    with (tmp_path / "tiny/ablation.csv").open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    order = [("fcn", 0), ("fcn", 1), ("danet", 0), ("danet", 1)]
    assert [(row["variant"], int(row["seed"])) for row in found] == order
    for row in found:
        (expected,) = (one for one in rows if (one["variant"], one["seed"]) == (row["variant"], int(row["seed"])))
        assert row.keys() == expected.keys()
        for key, value in expected.items():
            if isinstance(value, float):
                assert float(row[key]) == pytest.approx(value, abs=1e-5)
            else:
                assert row[key] == ("" if value is None else str(value))
    assert (tmp_path / "tiny/ablation.md").read_text(encoding="utf-8") == comparison.markdown()
    curves = (tmp_path / "tiny/curves.svg").read_text(encoding="utf-8")
    for title in ("validation mIoU, %", "position gate α", "channel gate β", "share ‖αE‖/‖A‖, %", "share ‖βE‖/‖A‖, %"):
        assert f"<!-- {title} -->" in curves
    written = {name: (tmp_path / "tiny" / name).read_bytes() for name in files}
    assert write_comparison(tmp_path / "tiny", rows[::-1]) == comparison  # in whatever order the rows come
    assert {name: (tmp_path / "tiny" / name).read_bytes() for name in files} == written
    for name in ("curves.svg", "scores.svg"):
        ElementTree.fromstring(written[name])


def test_plots_show_only_what_there_is(done, tmp_path):
    """Of real data there is no context score, of an FCN no gate."""
    runs, _, rows, _ = done
    shutil.copytree(runs / "tiny", tmp_path / "tiny")
    nothing = dict.fromkeys(("context", "majority", "follows", "stays", "control", "control_majority"))
    comparison = write_comparison(tmp_path / "tiny", [row | nothing for row in rows if row["head"] == "fcn"])
    assert comparison.findings == []
    scores, curves = ((tmp_path / "tiny" / name).read_text() for name in ("scores.svg", "curves.svg"))
    assert "<!-- mIoU, % -->" in scores
    assert "context" not in scores
    assert "majority" not in scores
    assert "<!-- validation mIoU, % -->" in curves
    assert "gate" not in curves
    assert "share" not in curves


@pytest.mark.slow
def test_a_killed_ablation_goes_on_to_the_same_scores(recipe, tmp_path):
    command = [sys.executable, "-m", "danet", "ablate", str(recipe), "--heads", "fcn,danet", "--seeds", "0"]
    command += ["--optim.steps", "60", "--validate_every", "10", "--json"]
    for folder in ("whole", "parts"):
        (tmp_path / folder).mkdir()
    process = subprocess.Popen(command, cwd=tmp_path / "parts", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    metrics = tmp_path / "parts/runs/tiny/danet-seed-0/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and len(metrics.read_text().splitlines()) > 16) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert (tmp_path / "parts/runs/tiny/fcn-seed-0/result.json").exists()
    assert not (tmp_path / "parts/runs/tiny/danet-seed-0/result.json").exists()
    whole, parts = (
        json.loads(subprocess.run(command, cwd=tmp_path / folder, capture_output=True, check=True).stdout)["runs"]
        for folder in ("whole", "parts")
    )
    assert [{key: row[key] for key in SAME} for row in parts] == [{key: row[key] for key in SAME} for row in whole]
    assert np.isfinite([row["miou"] for row in whole]).all()
