"""The command line as a user has it: results on stdout, one line for every fault, exit codes that mean something."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from danet.cli import main
from danet.config import ModelConfig
from danet.inference.segmenter import load
from danet.models.segmentation import build_model
from danet.viz.attention import attention_overlay
from danet.weights.bundle import save_bundle


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """Runs a command in an empty folder: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments):
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


@pytest.fixture
def picture(tmp_path):
    pixels = np.random.Generator(np.random.Philox(3)).integers(0, 256, (48, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    return tmp_path / "street.png"


def test_train_evaluate_info_and_report(run, own_data, tmp_path, monkeypatch):
    code, out, err = run("train", tmp_path / "own.yaml", "--optim.steps", "3", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found["run"] == "runs/own"
    assert "step 3/3" in err
    report = (tmp_path / found["report"]).read_text()
    assert all(word in report for word in ("tree", "optim", "mIoU", "position gate α", "resnet18"))
    code, out, _ = run("evaluate", "runs/own", "--json")
    assert code == 0
    assert json.loads(out)["miou"] == found["miou"]
    monkeypatch.chdir(tmp_path / "runs/own/best")
    code, out, _ = run("evaluate", ".", "--json")
    assert json.loads(out)["miou"] == found["miou"]
    monkeypatch.chdir(tmp_path)
    code, out, _ = run("evaluate", "runs/own/best", "--data.source", "folder", "--data.root", own_data)
    assert code == 0
    assert "mean IoU" in out
    code, _, err = run("evaluate", "runs/own", "--data.source", "scenes", "--data.count", "5")
    assert (code, "data.root" in err) == (2, False), "the run's folder is not that of another source"
    code, _, err = run("evaluate", "runs/own", "--data.count", "0")
    assert err.startswith("danet: command line: data.count is 0;")
    code, _, err = run("evaluate", "runs")
    assert (code, err) == (2, "danet: runs is neither a run nor a bundle; name one of its runs, such as runs/own.\n")
    code, out, _ = run("info", "runs/own", "--json")
    facts = json.loads(out)["runs/own"]
    assert facts["classes"] == ["road", "car", "tree"]
    assert set(facts["gates"]) == {"position", "channel"}
    assert run("info", "runs/own")[0] == 0


@pytest.fixture
def two_runs(tiny_folder, tmp_path):
    """The records of two runs: one with a model, and a killed one that was never validated."""
    step = {"event": "step", "loss": 1.0, "losses": {"fused": 0.5}, "lr": 0.1, "gates": {}, "seconds": 1.0}
    scores = {"miou": 0.5, "pixel_accuracy": 0.75, "context": None, "iou": {"road": 0.25, "car": 0.75, "tree": None}}
    validated = {"event": "validated", "step": 2, **scores, "seconds": 2.5}
    steps = [json.dumps(step | {"step": number}) for number in (1, 2)]
    for name, head, lines in (("old", "fcn", [*steps, json.dumps(validated), ""]), ("new", "pam", [*steps, '{"ev'])):
        folder = tmp_path / "runs" / name
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"name: {name}\nmodel: {{head: {head}}}\n")
        (folder / "metrics.jsonl").write_text("\n".join(lines))
    shutil.copytree(tiny_folder, tmp_path / "runs/old/best")
    return "runs/old", "runs/new"


def test_info_compares_runs(run, two_runs):
    old, new = two_runs
    code, out, err = run("info", old, "tiny", new, f"{new}/", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert found[old]["classes"] == found["tiny"]["classes"] == ["road", "car", "tree"]
    assert found[new] == {"model": None}
    compared = found["differences"]
    assert compared["settings"] == {"model.head": {old: "fcn", new: "pam"}}
    assert compared["runs"][old]["best"]["iou"] == {"road": 0.25, "car": 0.75, "tree": None}
    assert compared["runs"][new]["loss"] == [[1, 0.5], [2, 0.5]]
    code, out, err = run("info", old, "tiny", new)
    assert code == 0, err
    assert f"{new}:\n  model: none validated yet\n" in out
    assert "What old and new differ in" in out
    assert "│ model.head │ fcn │ pam │" in out
    assert "validation mIoU %, to step 2: ▁ 50.00 to █ 50.00" in out


def test_info_of_one_run_compares_nothing(run, two_runs):
    old, new = two_runs
    code, out, err = run("info", old, "tiny", f"{old}/.", "--json")
    assert code == 0, err
    assert "differences" not in json.loads(out)
    code, out, err = run("info", new)
    assert (code, out) == (2, "")
    assert "validated no model yet" in err


def test_info_writes_tensorboards_files(run, two_runs, tmp_path):
    old, new = two_runs
    code, out, err = run("info", new, "tiny", "--tensorboard", "--json")
    assert code == 0, err
    assert json.loads(out)[new] == {"model": None, "tensorboard": f"{new}/tensorboard"}
    assert [path.name.split(".")[2] for path in (tmp_path / new / "tensorboard").iterdir()] == ["tfevents"]
    assert not (tmp_path / old / "tensorboard").exists()
    code, out, err = run("info", new, old, "--tensorboard")
    assert code == 0, err
    assert f"  tensorboard: {old}/tensorboard\n" in out
    assert out.endswith("See them with: tensorboard --logdir runs\n")


def test_print_config_is_a_recipe(run, tmp_path):
    code, out, _ = run("train", "demo", "--optim.lr", "0.5", "--print_config")
    assert code == 0
    (tmp_path / "again.yaml").write_text(out)
    assert run("train", "again.yaml", "--print_config")[1] == out
    assert "lr: 0.5" in out


def test_predict_takes_files_and_folders(run, tiny_folder, picture, tmp_path):
    shutil.copytree(picture.parent / "tiny", tmp_path / "photos" / "not-images")
    (tmp_path / "photos" / "a").mkdir(parents=True)
    shutil.copy(picture, tmp_path / "photos" / "a" / "one.png")
    code, out, err = run("predict", picture, "photos", "--model", tiny_folder, "-o", "out", "--json")
    assert code == 0, err
    found = json.loads(out)["predictions"]
    assert [one["labels"] for one in found] == ["out/street.png", "out/a/one.png"]
    for one in found:
        with Image.open(one["labels"]) as mask, Image.open(one["overlay"]) as overlay:
            assert mask.size == (64, 48)
            assert overlay.width > 64
        assert sum(one["shares"].values()) == pytest.approx(1)
        assert json.loads((tmp_path / one["json"]).read_text())["shares"].keys() == one["shares"].keys()


def test_predict_again_does_not_take_its_own_results(run, tiny_folder, picture, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / "in" / folder).mkdir(parents=True)
        shutil.copy(picture, tmp_path / "in" / folder / "a.png")
        (tmp_path / "in" / folder / "._a.png").write_bytes(b"a Mac's shadow file")
    for _ in range(2):
        code, out, err = run("predict", "in", "--model", tiny_folder, "-o", "in/results", "--json")
        assert code == 0, err
        found = [one["labels"] for one in json.loads(out)["predictions"]]
        assert found == ["in/results/one/a.png", "in/results/two/a.png"]
    code, out, _ = run("predict", "in/one", "in/two", "--model", tiny_folder, "-o", "in/results", "--json")
    assert [one["labels"] for one in json.loads(out)["predictions"]] == found


def test_an_unexpected_failure_is_one_line_and_code_1(run, tiny_folder, picture, tmp_path):
    (tmp_path / "file").touch()
    code, _, err = run("attend", picture, "--at", "1,1", "--model", tiny_folder, "-o", "file")
    assert code == 1
    assert err.startswith("danet: FileExistsError")
    assert len(err.splitlines()) == 1


def test_predict_leaves_out_what_is_bad_and_says_so(run, tiny_folder, picture, tmp_path):
    (tmp_path / "cut.png").write_bytes(picture.read_bytes()[:100])
    Image.new("RGB", (1, 1)).save(tmp_path / "dot.png")
    code, out, err = run("predict", picture, "cut.png", "dot.png", "--model", tiny_folder, "-o", "out", "--json")
    assert code == 3
    found = json.loads(out)
    assert len(found["predictions"]) == 1
    assert [one["image"] for one in found["failed"]] == ["cut.png", "dot.png"]
    assert "Left out: cut.png" in err
    visible = sorted(path.name for path in (tmp_path / "out").glob("[!.]*"))
    assert visible == ["index.csv", "street-overlay.png", "street.json", "street.png"]
    assert run("predict", "dot.png", "--model", tiny_folder)[0] == 2


def test_attend_draws_each_point_with_gate_and_share(run, tiny_folder, picture, tmp_path):
    arguments = ("attend", picture, "--at", "10,20", "--at", "63,47", "--model", tiny_folder, "-o", "maps")
    code, out, err = run(*arguments)
    assert code == 0, err
    assert "position gate α = 0.50" in out
    assert "share ‖αE‖/‖A‖" in out
    names = ["street-attends-from-10-20.png", "street-attends-from-63-47.png"]
    assert sorted(path.name for path in (tmp_path / "maps").iterdir()) == names
    maps = [np.asarray(Image.open(tmp_path / "maps" / name)) for name in names]
    assert not np.array_equal(maps[0], maps[1])
    code, out, _ = run(*arguments, "--direction", "to", "--json")
    assert [one["at"] for one in json.loads(out)["maps"]] == [[10, 20], [63, 47]]
    assert (tmp_path / "maps" / "street-attends-to-10-20.png").exists()


def test_attend_draws_a_padded_networks_map_where_its_places_are(run, tiny, tmp_path):
    config = ModelConfig(head="pam", backbone="test_vit", channels=16, num_classes=3)
    save_bundle(tmp_path / "vit", replace(tiny, model=build_model(config), model_config=config))
    pixels = np.random.Generator(np.random.Philox(3)).integers(0, 256, (50, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "street.png")
    code, _, err = run("attend", "street.png", "--at", "10,20", "--model", "vit", "-o", ".", "--precision", "float32")
    assert code == 0, err
    weights = load(tmp_path / "vit", precision="float32").encode(pixels).attention((10, 20))
    expected = attention_overlay(pixels, weights, (10, 20), span=(50 / 16, 70 / 16))
    drawn = Image.open(tmp_path / "street-attends-from-10-20.png")
    assert np.array_equal(np.asarray(drawn)[:50, :70], np.asarray(expected))


@pytest.mark.parametrize("direction", ["from", "to"])
def test_attend_says_what_a_map_is_worth(run, tiny_folder, picture, direction):
    arguments = ("attend", picture, "--at", "10,20", "--model", tiny_folder, "--precision", "float32")
    code, out, err = run(*arguments, "--direction", direction, "--json")
    assert code == 0, err
    found = json.loads(out)
    encoding = load(tiny_folder, precision="float32").encode(picture)
    (facts,), taken = found["maps"], encoding.take_away((10, 20))
    assert found["similarity"] == pytest.approx(encoding.similarity())
    assert facts["by_class"] == pytest.approx(encoding.by_class((10, 20), direction))
    assert (facts["perplexity"], facts["places"]) == (pytest.approx(encoding.perplexity((10, 20))), 48)
    assert facts["take_away"]["attention"] == pytest.approx(taken.attention)
    for kind, probabilities in (("before", taken.before), ("after", taken.after), ("control", taken.control)):
        best = int(probabilities.argmax())
        assert facts["take_away"][kind]["class"] == encoding.prediction.space.names[best]
        assert facts["take_away"][kind]["confidence"] == pytest.approx(float(probabilities[best]), abs=1e-5)
    before, after, control = (
        f"{best['class']} {100 * best['confidence']:.0f} %" for best in list(facts["take_away"].values())[2:]
    )
    (name, part), *_ = facts["by_class"].items()
    code, out, _ = run(*arguments, "--direction", direction)
    assert f"{'looked at by ' if direction == 'to' else ''}{100 * part:.0f} % {name}" in out
    assert f"≈ {facts['perplexity']:.0f} of 48 places" in out
    assert f"without the most attended 10 %: {before} → {after} (random 10 %: {control})" in out
    assert f"maps of 48 random places resemble each other by {found['similarity']:.2f} (1: all the same)" in out


def test_attend_writes_a_page_with_or_without_points(run, tiny_folder, picture, tmp_path):
    code, out, err = run("attend", picture, "--model", tiny_folder, "--html", "pages/street.html")
    assert code == 0, err
    assert "Page: pages/street.html" in out
    assert "position gate α = 0.50" in out
    assert "What the pixels of street.png attend to" in (tmp_path / "pages/street.html").read_text(encoding="utf-8")
    assert not (tmp_path / "attention").exists()
    arguments = ("attend", picture, "--at", "10,20", "--model", tiny_folder, "--html", "two.html", "--json")
    found = json.loads(run(*arguments)[1])
    assert found["html"] == "two.html"
    assert (tmp_path / "two.html").is_file()
    assert [(tmp_path / one["path"]).is_file() for one in found["maps"]] == [True]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ("COMMAND",)),
        (("trian",), ("'trian'", "train")),
        (("train", "demo", "--optim.lrr", "3"), ("--optim.lrr", "Did you mean --optim.lr?")),
        (("train", "demo", "--optim.l", "3"), ("--optim.l", "Did you mean --optim.lr?")),
        (("train", "demi"), ("Did you mean demo?",)),
        (("train", "demo", "--optim.lr", "x"), ("optim.lr is 'x'",)),
        (("train", "demo", "--model.backbone", "resnet81", "--data.count", "9"), ("resnet81", "Did you mean resnet")),
        (("train", "camvid-r18"), ("data.root",)),
        (("train", "camvid-r18", "--data.root", "nowhere"), ("nowhere", "does not exist")),
        (("train", "--resume", "nowhere"), ("nowhere", "config.yaml")),
        (("train", "demo", "--resume", "nowhere"), ("keeps its own settings",)),
        (("evaluate", "nowhere"), ("nowhere is no folder",)),
        (("train", "demo", "extra"), ("no further argument", "'extra'")),
        (("train", "demo", "--data.crop", "[16, 16]"), ("data.crop.0 is 16", "32")),
        (("train", "demo", "--model.in_channels", "4"), ("model.in_channels is 4", "RGB")),
        (("predict", "street.png", "--model", "tiny", "-o", "."), ("street.png", "would replace it", "-o")),
        (("predict", "tiny", "x", "--model", "tiny", "-o", "."), ("tiny holds no image",)),
        (("evaluate", "tiny"), ("part of no run", "--data.source")),
        (("evaluate", "tiny", "--data.source", "scenes", "--protocol", "hole"), ("Did you mean whole?",)),
        (("predict", "street.png", "--model", "nowhere"), ("nowhere is no folder",)),
        (("predict", "nowhere.png", "--model", "tiny"), ("nowhere.png does not exist",)),
        (("predict", "https://example.org/a.jpg", "--model", "tiny"), ("is an address, which is not fetched",)),
        (("convert", "tiny/model.safetensors", "-o", "new"), ("needs no conversion; give its folder tiny to --model",)),
        (("predict", "tiny", "--model", "tiny"), ("tiny holds no image",)),
        (
            ("predict", "street.png", "./street.png", "x/street.png", "--model", "tiny"),
            ("x/street.png", "would replace that of"),
        ),
        (("attend", "street.png", "--at", "64,0", "--model", "tiny"), ("(64, 0)", "64×48")),
        (("attend", "street.png", "--model", "tiny"), ("--at X,Y", "--html FILE")),
        (("attend", "street.png", "--model", "tiny", "--html", "./street.png"), ("would replace the image", "--html")),
        (("attend", "street.png", "--at", "7", "--model", "tiny"), ("'7' is no point", "120,80")),
        (("predict", "street.png", "--model", "tiny", "--device", "tpu"), ("tpu", "auto")),
        (("info", "street.png"), ("street.png is no folder",)),
        (("info", "--tensorboard"), ("the folder of a run", "danet info runs/NAME --tensorboard")),
        (("info", "tiny", "--tensorboard"), ("the folder of a run",)),
    ],
)
def test_wrong_use_is_one_line_and_code_2(run, tiny_folder, picture, tmp_path, arguments, words):
    (tmp_path / "x").mkdir()
    shutil.copy(picture, tmp_path / "x" / "street.png")
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert code == 2, err
    assert out == ""
    lines = err.strip().splitlines()
    assert lines[-1].startswith("danet: ")
    assert all(word in lines[-1] for word in words), err
    assert "Traceback" not in err
    assert sorted(tmp_path.rglob("*")) == before


def test_bad_training_data_is_one_line_and_leaves_no_run(run, own_data, tmp_path):
    Image.new("RGBA", (64, 48)).save(own_data / "masks/train/3.png")
    code, _, err = run("train", tmp_path / "own.yaml")
    assert code == 2
    assert "3.png is RGBA" in err.splitlines()[-1]
    assert not (tmp_path / "runs").exists()


def test_a_run_without_attention_has_a_report_too(run, own_data, tmp_path):
    code, out, err = run("train", tmp_path / "own.yaml", "--model.head", "fcn", "--optim.steps", "2", "--json")
    assert code == 0, err
    assert "position gate" not in (tmp_path / json.loads(out)["report"]).read_text()


def test_a_run_without_a_model_says_how_to_get_one(run, tmp_path):
    (tmp_path / "runs/young").mkdir(parents=True)
    (tmp_path / "runs/young/config.yaml").touch()
    code, _, err = run("info", "runs/young")
    assert code == 2
    assert "validated no model yet; go on with: danet train --resume runs/young" in err


def test_debug_shows_the_traceback(run):
    code, _, err = run("train", "demi", "--debug")
    assert code == 2
    assert "Traceback" in err


def test_help_comes_at_once_and_without_torch():
    start = time.perf_counter()
    code = "import sys; from danet.cli import main\ntry: main(sys.argv[1:])\nfinally: assert 'torch' not in sys.modules"
    command = [sys.executable, "-c", code, "train", "--help"]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "--optim.lr VALUE" in found.stdout
    assert "The heads' learning rate" in " ".join(found.stdout.split())
    assert time.perf_counter() - start < 10  # torch alone takes longer on a busy machine; usually 0.3 s


def test_ctrl_c_keeps_the_last_step_and_says_how_to_go_on(own_data, tmp_path):
    command = [sys.executable, "-m", "danet", "train", str(tmp_path / "own.yaml"), "--optim.steps", "100000"]
    environment = os.environ | {"PYTHONWARNINGS": "error"}
    process = subprocess.Popen(
        [*command, "--validate_every", "100000"], cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=environment
    )
    metrics = tmp_path / "runs/own/metrics.jsonl"
    deadline = time.monotonic() + 120
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
        time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "danet train --resume runs/own" in err
    assert "Stopping after this step" in err
    assert "Traceback" not in err
    steps = len(metrics.read_text().splitlines())
    assert [path.name for path in (tmp_path / "runs/own/checkpoints").iterdir()] == [f"step-{steps:07d}.pt"]
    code = subprocess.run(
        [sys.executable, "-m", "danet", "evaluate", "runs/own"], cwd=tmp_path, capture_output=True, text=True
    )
    assert code.returncode == 2
    assert "validated no model yet" in code.stderr


def test_ablate_compares_runs_and_does_none_twice(run, own_data, tmp_path):
    arguments = ("ablate", tmp_path / "own.yaml", "--name", "trial", "--heads", "fcn,pam", "--seeds", "0")
    arguments += ("--optim.steps", "2", "--vary", "optim.gate_start=0.1,data.crop=[32, 32]")
    code, out, err = run(*arguments, "--json")
    assert code == 0, err
    found = json.loads(out)
    variants = [f"{head}{change}" for head in ("fcn", "pam") for change in ("", ",gate_start=0.1,crop=[32, 32]")]
    assert {row["variant"] for row in found["runs"]} == set(variants)
    assert (len(found["runs"]), found["folder"]) == (4, "runs/trial")
    assert len(found["findings"]) == 3  # mIoU of three variants; of own data there is no context score
    folder = tmp_path / "runs/trial"
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {f"{one}-seed-0" for one in variants}
    assert {path.name for path in folder.glob("*.*")} >= {"ablation.csv", "ablation.md", "scores.svg", "curves.svg"}
    assert "pam-seed-0: step 2/2" in err
    code, out, err = run(*arguments)
    assert code == 0
    assert "step 2/2" not in err
    assert "Tables and plots: runs/trial" in out
    assert "mIoU: pam against fcn: " in out
    assert "context" not in out
    code, _, err = run(*arguments, "--optim.lr", "0.5")
    assert code == 2
    assert "was made with optim.lr 0.01, not 0.5; give another --name" in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--heads", "fcn,damet"), ("'damet'", "Did you mean danet?")),
        (("--heads", ""), ("a head and a seed",)),
        (("--seeds", ""), ("a head and a seed",)),
        (("--seeds", "0,x"), ("'0,x' is no list of numbers", "0,1,2")),
        (("--vary", "optim.gate_strat=0.1"), ("'optim.gate_strat'", "Did you mean optim.gate_start?")),
        (("--vary", "optim.gate_start"), ("no value", "optim.gate_start=VALUE")),
        (("--vary", "optim.gate_start=0.1,lrr=2"), ("'lrr'",)),
        (("--vary", ""), ("there is no field ''",)),
        (("--vary", "optim.gate_start=x"), ("optim.gate_start is 'x'",)),
        (("--vary", "seed=3"), ("seed cannot be set here", "--seeds")),
        (("--optim.lrr", "1"), ("Did you mean --optim.lr?",)),
    ],
)
def test_wrong_ablations_are_one_line_and_train_nothing(run, tmp_path, arguments, words):
    code, out, err = run("ablate", "demo", *arguments)
    assert (code, out) == (2, ""), err
    (line,) = err.strip().splitlines()
    assert line.startswith("danet: ")
    assert all(word in line for word in words), err
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_an_ablation_after_a_step(run, own_data, tmp_path):
    folder = tmp_path / "runs/own/fcn-seed-0"
    arguments = ("ablate", tmp_path / "own.yaml", "--heads", "fcn", "--seeds", "0", "--optim.steps", "100000")
    metrics, deadline = folder / "metrics.jsonl", time.monotonic() + 60

    def press():
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    presses = threading.Thread(target=press)
    presses.start()
    code, out, err = run(*arguments, "--validate_every", "100000")
    presses.join()
    assert (code, out) == (130, ""), err
    assert "Stopping after this step" in err
    assert err.splitlines()[-1] == "Interrupted; everything is kept. Go on with the same command."
    steps = len(metrics.read_text().splitlines())
    assert [path.name for path in (folder / "checkpoints").iterdir()] == [f"step-{steps:07d}.pt"]
    assert not (folder / "result.json").exists()


def test_a_printed_configuration_trains(own_data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    settings = ["--data.crop", "[32, 48]", "--model.out_indices", "[1]", "--model.pretrained", "false"]
    assert main(["train", "--data.root", str(own_data), *settings, "--print_config"]) == 0
    Path("printed.yaml").write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["train", "printed.yaml", "--optim.steps", "1", "--data.workers", "0", "--precision", "float32"]) == 0
    assert Path("runs/own/best").is_dir()
