"""`danet evaluate -o`: a report on disk, read back; what it does not replace; and the command that writes it."""

import csv
import hashlib
import json
import resource

import numpy as np
import pytest
from PIL import Image

from danet.cli import main
from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.errors import InputError
from danet.evaluation.binary import BinaryScores
from danet.evaluation.boundary import BoundaryScores
from danet.evaluation.calibration import BINS, Calibration
from danet.evaluation.evaluate import ImageScore, Report
from danet.evaluation.folder import PARTS, REPORT, is_report, write_report
from danet.evaluation.metrics import Scores
from danet.inference.protocol import PROTOCOLS, read_protocol
from danet.models.segmentation import build_model
from danet.viz.confusion import draw_confusion, short
from danet.weights.bundle import Bundle, save_bundle


@pytest.fixture
def run(tiny_folder, own_data, tmp_path, capsys, monkeypatch):
    """Runs `danet evaluate` on the ten images: (exit code, stdout, stderr)."""
    monkeypatch.chdir(tmp_path)
    told = ["evaluate", tiny_folder, "--data.source", "folder", "--data.root", own_data, "--device", "cpu"]

    def command(*arguments):
        code = main([str(argument) for argument in (*told, "--precision", "float32", *arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return command


def read(path) -> list[list[str]]:
    return list(csv.reader(path.read_text(encoding="utf-8").splitlines()))


def test_the_command_writes_what_it_tells(run, tmp_path):
    code, out, err = run("--split", "train", "--protocol", "mmseg-ms-flip", "-o", "report", "--json")
    assert code == 0, err
    found, folder = json.loads(out), tmp_path / "report"
    assert sorted(path.name for path in folder.iterdir()) == sorted({*PARTS, REPORT} - {"curve.csv"})
    kept = json.loads((folder / REPORT).read_text())
    assert found == {**kept, "report": "report", "submission": None}
    assert (kept["model"], kept["data"]) == ("tiny", f"folder train, {tmp_path / 'own'}")
    assert (kept["device"], kept["precision"]) == ("cpu", "float32")
    assert kept["data_fields"] == {"source": "folder", "split": "train", "root": str(tmp_path / "own")}
    configuration = (tmp_path / "tiny/config.json").read_bytes()
    assert kept["sha256"] == hashlib.sha256(configuration).hexdigest()
    weights = hashlib.sha256((tmp_path / "tiny/model.safetensors").read_bytes()).hexdigest()
    assert json.loads(configuration)["sha256"] == weights
    assert read_protocol(folder / REPORT) == PROTOCOLS["mmseg-ms-flip"][0]
    heading, *rows = read(folder / "images.csv")
    assert heading == list(ImageScore._fields)
    assert len(rows) == kept["image_count"] == 8
    losses = [float(row[3]) for row in rows]
    assert losses == sorted(losses, reverse=True)
    heading, *rows = read(folder / "classes.csv")
    assert heading == ["class", "iou", "accuracy", "dice", "boundary_iou", "true_pixels", "predicted_pixels"]
    classes = {row[0]: dict(zip(heading, row, strict=True)) for row in rows}
    for column, scores in {**kept, "boundary_iou": kept["boundary"]["iou"]}.items():
        if column in heading:
            told = {name: "" if score is None else str(round(score, 6)) for name, score in scores.items()}
            assert {name: row[column] for name, row in classes.items()} == told
    (corner, *names), *rows = read(folder / "confusion.csv")
    confusion = np.array([row[1:] for row in rows], int)
    assert (corner, names) == ("true", ["road", "car", "tree"])
    assert confusion.sum() == 8 * 48 * 64
    assert np.trace(confusion) / confusion.sum() == pytest.approx(kept["pixel_accuracy"])
    assert [int(classes[name]["true_pixels"]) for name in names] == confusion.sum(1).tolist()
    assert [int(classes[name]["predicted_pixels"]) for name in names] == confusion.sum(0).tolist()


def test_a_report_is_run_again_and_replaced(run, tmp_path):
    two = ("--protocol.classes", "[road, car]", "--protocol.flip", "true")
    assert run("-o", "report", *two)[0] == 0
    first = (tmp_path / "report" / REPORT).read_text()
    assert (tmp_path / "report/curve.csv").is_file()
    assert len(read(tmp_path / "report/curve.csv")) == 1001
    assert json.loads(first)["protocol"]["name"] == "whole with classes [road, car], flip true"
    assert run("-o", "again", "--protocol", "report/report.json")[0] == 0
    assert (tmp_path / "again" / REPORT).read_text() == first
    assert run("-o", "report")[0] == 0
    assert (tmp_path / "report" / REPORT).read_text() != first
    assert not (tmp_path / "report/curve.csv").exists()


def test_a_report_tells_what_its_data_were_opened_by(tmp_path, capsys, monkeypatch):
    """Whole paths, and what is no default, given now or by the run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "drawn").mkdir()
    (tmp_path / "drawn/config.yaml").write_text(
        "name: drawn\nprecision: float32\ndata: {source: scenes, size: [32, 48], crop: [32, 48]}\n"
    )
    space = LabelSpace.load("scenes")
    config = ModelConfig(backbone="resnet18", out_indices=(1,), channels=8, num_classes=space.num_classes)
    save_bundle(tmp_path / "drawn/best", Bundle(build_model(config), config, space, Preprocess()))
    assert main(["evaluate", "drawn", "--device", "cpu", "--json", "--data.count", "10"]) == 0
    found = json.loads(capsys.readouterr().out)["data_fields"]
    assert found == {"source": "scenes", "split": "val", "count": 10, "size": [32, 48]}


def test_a_table_of_classes_and_the_other_scores_in_lines(run):
    code, out, _ = run("--protocol.classes", "[road, car]")
    assert code == 0
    assert "boundary IoU %" in out
    assert "│ road " in out
    assert "│ tree " not in out
    lines = out.splitlines()
    for begin in ("2 images of folder val, ", "Outlines are 2 %", "Expected calibration error", "car: best F1 "):
        assert sum(line.startswith(begin) for line in lines) == 1, begin


def test_absent_classes_are_named(run, own_data):
    for path in (own_data / "masks/val").iterdir():
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    code, out, _ = run("--protocol.classes", "[road]")
    assert (code, "Neither" in out) == (0, False)
    (own_data / "labels.yaml").write_text("names: [road, car, tree]\nignore: [0, 255]\nids: {1: 0, 2: 1, 3: 2}\n")
    code, out, _ = run("--json")
    assert code == 0
    assert json.loads(out)["absent"] == ["road", "car", "tree"]
    assert "in no mean (0 classes are): road, car, tree" in run()[1]


def test_where_no_pixel_counts_there_is_no_score(run, own_data, tmp_path):
    """As in Cityscapes' test split: none is 0; of two classes there is a curve, without a point."""
    for path in (own_data / "masks/val").iterdir():
        Image.fromarray(np.full((48, 64), 255, np.uint8)).save(path)
    two = ("--protocol.classes", "[road, car]")
    code, out, err = run("-o", "report", "--json", *two)
    assert code == 0, err
    found = json.loads(out)
    means = ("miou", "pixel_accuracy", "mean_accuracy", "mean_dice", "frequency_weighted_iou", "loss")
    assert {found[key] for key in means} == {None}
    assert (found["boundary"]["miou"], found["calibration"]["error"], found["binary"]["f1"]) == (None, None, None)
    assert [list(image.values())[1:] for image in found["images"]] == [[None, None, None, 0]] * 2
    assert [row[1:] for row in read(tmp_path / "report/images.csv")[1:]] == [["", "", "", "0"]] * 2
    assert len(read(tmp_path / "report/curve.csv")) == 1
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == sorted({*PARTS, REPORT})
    code, out, _ = run(*two)
    assert code == 0
    assert "0.0" not in out
    assert "mean IoU – %, pixel accuracy – %, frequency-weighted IoU – %" in out
    assert "calibration error – %, mean loss – nats" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-o", "own"), "own exists"),
        (("-o", "."), ". exists"),
        (("-o", "own.yaml"), "own.yaml exists"),
        (("-o", "own.yaml/x"), "no folder to write to"),
        (("--protocol", "nowhere.json"), "nowhere.json cannot be read"),
        (("--protocol.scales", "[0]"), "scales"),
        (("--protocol.scale", "[1]"), "Did you mean --protocol.scales?"),
        (("--protocol.classes", "[rood]"), "There is no class 'rood'. Did you mean road?"),
        (("--protocol.classes", "[road, road]"), "each class is named once"),
        (("--split", "best"), "best"),
        (("--submission", "sent"), "folder has no server that we know"),
    ],
)
def test_wrong_use_is_one_line_and_writes_nothing(run, tmp_path, arguments, words):
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_full_disk_is_one_line_and_leaves_no_half_file(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        with pytest.raises(
            InputError, match=r"report cannot be written \(File too large\); choose .* -o, or make room"
        ):
            write_report(tmp_path / "report", made(2))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {path.name for path in (tmp_path / "report").iterdir()} == {"images.csv", "classes.csv", "confusion.csv"}


def test_other_folders_hold_no_report(tmp_path):
    assert not is_report(tmp_path)
    for text in ("no JSON", "[]", '{"protocol": "whole"}'):
        (tmp_path / REPORT).write_text(text)
        assert not is_report(tmp_path)


def made(count: int) -> Report:
    generator = np.random.Generator(np.random.Philox(count))
    confusion = generator.integers(0, 2**40, (count, count))
    confusion[0], confusion[:, 0] = 0, 0
    names = tuple(f"{index} is $a_long$ name"[: 4 + index % 20] for index in range(count))
    calibration = Calibration(np.zeros((2, BINS), np.int64), np.zeros(BINS))
    outlines = BoundaryScores(names, np.zeros((2, count), np.int64))
    binary = BinaryScores(names[1], np.zeros((2, 1000), np.int64)) if count == 2 else None
    rows = [ImageScore("a, b.png", 0.5, 0.25, 1.5, 7)]
    return Report(PROTOCOLS["camvid"][0], Scores(names, confusion), rows, None, outlines, calibration, binary)


@pytest.mark.parametrize("count", [1, 2, 30])
def test_pictures_of_few_and_many_classes(tmp_path, count):
    """All empty, too: no warning, no division by nothing."""
    write_report(tmp_path / "report", made(count))
    for name in ("confusion.png", "reliability.png"):
        with Image.open(tmp_path / "report" / name) as picture:
            assert min(picture.size) > 15 * count
            assert len(picture.convert("RGB").getcolors(1 << 20)) > 20
    assert read(tmp_path / "report/images.csv")[1] == ["a, b.png", "0.5", "0.25", "1.5", "7"]
    assert (tmp_path / "report/curve.csv").exists() == (count == 2)


def test_a_cell_is_as_dark_as_its_share_of_the_row(tmp_path):
    """Rows count, not columns: a class that is rare and always found is darkest, whatever is taken for it."""
    draw_confusion(tmp_path / "one.png", ("often", "rare"), np.array([[500, 500], [0, 1]]))
    draw_confusion(tmp_path / "two.png", ("often", "rare"), np.array([[0, 1000], [0, 1]]))
    dark = [(np.array(Image.open(tmp_path / f"{name}.png").convert("L")) < 60).sum() for name in ("one", "two")]
    assert dark[1] > 1.5 * dark[0]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.0k"), (9960, "10k"), (999_600, "1.0M"), (34_500_000, "34M"), (2**62, "4.6E")],
)
def test_pixels_in_four_letters(count, text):
    assert short(count) == text
