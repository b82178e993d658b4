"""What a person sees: progress with a remaining time, on a terminal and in a log; runs side by side."""

import io
import math
import os
import pty
import re
import subprocess
import sys
import time

import pytest
from rich.console import Console

from danet import console
from danet.config import ABLATION
from danet.training.comparison import compare
from danet.training.differences import Differences, Run
from danet.training.events import Initialised, Step
from danet.viz.text import duration

NOTE = "loss 0.812  α +0.310  β +0.254  6.3 images/s  2.1 GB"
SHOW = f"""
import time
from danet.console import Screen
with Screen() as screen:
    progress = screen.phase("count sheep")
    for done in range(1, 31):
        time.sleep(0.02)
        progress(done, 30, "{NOTE}")
    screen.say("[asleep] at [1/2]")
"""


@pytest.mark.parametrize(
    ("seconds", "text"), [(4.4, "4 s"), (59.6, "1 min 0 s"), (185, "3 min 5 s"), (7440, "2 h 4 min")]
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_in_a_log_a_line_now_and_then(capsys, monkeypatch):
    monkeypatch.setattr(console, "QUIET_SECONDS", 0.05)
    with console.Screen() as screen:
        progress = screen.phase("count")
        for done in range(1, 11):
            time.sleep(0.03)
            progress(done, 10, "note")
    lines = capsys.readouterr().err.splitlines()
    assert 2 <= len(lines) <= 8
    assert all(re.fullmatch(r"count: \d+/10, \d+ s left  note", line) for line in lines), lines


def test_on_a_narrow_terminal_a_bar_with_a_remaining_time_and_all_of_the_note():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "80"}
    with subprocess.Popen([sys.executable, "-c", SHOW], stderr=theirs, env=environment) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # the other end is closed
            pass
        os.close(ours)
    assert process.returncode == 0
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())
    assert "count sheep" in text
    assert re.search(r"\d+/30 0:00:0\d 0:00:0\d loss 0.812", text), text
    assert all(word in text for word in NOTE.split()), text
    assert "[asleep] at [1/2]" in text
    assert max(map(len, re.split(r"[\r\n]+", text))) <= 80


def step(number: int, **more) -> Step:
    plain = {"loss": 1.0, "losses": {}, "lr": 0.1, "gates": {}, "seconds": 1.0, "images_per_second": 4.0}
    return Step(**({"step": number, "memory": None} | plain | more))


def notes(monkeypatch, *events) -> list[str]:
    """The notes of the progress that `watch` shows, event by event."""
    told = []
    with console.Screen() as screen:
        monkeypatch.setattr(screen, "phase", lambda name: lambda done, total, note: told.append((done, total, note)))
        screen.watch("run", events, 9)
    assert [done for done, *_ in told] == [event.step for event in events if isinstance(event, Step)]
    assert {total for _, total, _ in told} <= {9}
    return [note for *_, note in told]


def test_a_step_shows_loss_gates_speed_and_memory(monkeypatch):
    gates = {"position": 0.31, "channel": -0.0625}
    events = [
        step(1, loss=0.5, gates=gates, images_per_second=0.5, memory=2_140_000_000),
        step(2, loss=1.0, images_per_second=8.0),
        step(3, loss=3.0, images_per_second=6.0),
        step(4, loss=1.5, images_per_second=250.0, memory=40_000_000),
    ]
    assert notes(monkeypatch, *events) == [
        "loss 0.500  α +0.310  β -0.062  0.50 images/s  2.1 GB",
        "loss 0.750  4.2 images/s",
        "loss 1.500  6.0 images/s",
        "loss 1.500  7.0 images/s  0.0 GB",  # a median: one slow step, such as after a validation, moves it little
    ]


def test_loss_and_speed_are_of_the_recent_steps(monkeypatch):
    slow = [step(number, loss=9.0, images_per_second=1.0) for number in range(1, 61)]
    fast = [step(number, loss=1.0, images_per_second=120.0) for number in range(61, 61 + console.RECENT)]
    assert notes(monkeypatch, *slow, *fast)[-1] == "loss 1.000  120 images/s"


def test_a_run_says_what_it_starts_from(capsys):
    classes = {"road": "street", "car": "car", "tree": None}
    with console.Screen() as screen:
        screen.watch("run", [Initialised(0, "street-tiny", classes, 0.0)], 9)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].strip() == "run: starts from street-tiny"
    assert rows(lines)[1:] == [
        ["road", "copied from street"],
        ["car", "copied"],
        ["tree", "new"],
        ["all else", "copied; 2 of 3 classes"],
    ]


def test_an_ablation_fits_a_terminal():
    measures = ("miou", "context", "follows", "control", "position_share", "channel_share", "step_seconds", "minutes")
    rows = [
        {"variant": head, "head": head, "seed": seed, "alpha": 0.1 * seed, "beta": -0.125, "control_majority": 0.5}
        | dict.fromkeys(measures, 0.25 + 0.25 * seed)
        | {"parameters": 5_000_000, "gflops": 12.5, "peak_gigabytes": None}
        for head in ABLATION
        for seed in (0, 1, 2)
    ]
    screen = Console(width=80, record=True, file=io.StringIO())
    screen.print(console.comparison_table(compare(rows)), soft_wrap=True)
    shown = screen.export_text().splitlines()
    assert max(map(len, shown)) <= 80
    assert "…" not in "".join(shown)
    lines = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in shown if line[0] in "│┃"]
    assert lines[0] == ["network", *ABLATION]
    assert ["PAM", "", "✓", "", "✓"] in lines
    assert ["CAM", "", "", "✓", "✓"] in lines
    assert ["mIoU %", *["50.0 ± 25.0"] * 4] in lines
    (place,) = [place for place, line in enumerate(lines) if line[0] == "α"]
    gates = " ".join(line[1] for line in lines[place : place + 2])  # too long for its column, it goes on below
    assert gates.startswith("+0.00, +0.10, +0.20")


def printed(*shown, width: int = 80) -> list[str]:
    """Lines as `danet` prints them."""
    screen = Console(width=width, record=True, file=io.StringIO(), highlight=False)
    for one in shown:
        screen.print(one, markup=False, soft_wrap=True)
    return screen.export_text().splitlines()


def rows(lines: list[str]) -> list[list[str]]:
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in lines if line[:1] in ("│", "┃")]


def best(step: int, miou: float, context: float | None = None, **iou: float | None) -> dict:
    return {"step": step, "miou": miou, "pixel_accuracy": 0.5, "context": context, "iou": iou}


ONE = Run(
    1_200, 2_000, 61.0, best(800, 0.5, 0.25, road=0.75, car=None), [(400, 4.0), (1_200, 0.5)], [(400, 0.25), (800, 0.5)]
)
TWO = Run(
    400,
    400,
    5.0,
    best(400, 0.375, 0.25, road=0.5, car=0.125) | {"pixel_accuracy": 0.5 - 1e-9},
    [(400, 1.0)],
    [(400, 0.375)],
)
YOUNG = Run(0, 400, 0.0, None, [], [])


def test_two_runs_side_by_side():
    settings = {"optim.lr": {"runs/one": 0.1, "runs/two": 0.05}, "data.crop": {"runs/one": [64, 96], "runs/two": None}}
    found = Differences(settings, {"runs/one": ONE, "runs/two": TWO}, 100)
    lines = printed(*console.difference_tables(found))
    assert lines[0] == "What one and two differ in"
    assert rows(lines) == [
        ["setting", "one", "two"],
        ["optim.lr", "0.1", "0.05"],
        ["data.crop", "[64, 96]", "null"],
        ["IoU % at best", "one", "two", "difference"],
        ["road", "75.00", "50.00", "−25.00"],
        ["car", "–", "12.50", "–"],
        ["mean IoU", "50.00", "37.50", "−12.50"],
        ["pixel accuracy", "50.00", "50.00", "+0.00"],
        ["context score", "25.00", "25.00", "+0.00"],
        ["best at step", "800", "400", ""],
        ["steps done", "1,200 of 2,000", "400 of 400", ""],
        ["training", "1 min 1 s", "5 s", ""],
        ["mIoU % at step", "one", "two"],
        ["400", "25.00", "37.50"],
        ["800", "50.00", "–"],
    ]
    place = lines.index(
        "loss of the classifier that predicts, mean of 100 steps, to step 1,200: ▁ 0.5 to █ 4, logarithmic"
    )
    (loss, other), (miou, short) = lines[place + 1 : place + 3], lines[place + 4 : place + 6]
    assert lines[place + 3] == "validation mIoU %, to step 1,200: ▁ 25.00 to █ 50.00"
    assert re.fullmatch(r"  one   +█+▁  0\.5", loss), loss
    assert re.fullmatch(r"  two   +▃ +1", other), other
    assert re.fullmatch(r"  one   +▁+█ +50\.00", miou), miou
    assert re.fullmatch(r"  two   +▅ +37\.50", short), short
    assert len(loss) == len(other) == len(miou) == len(short) == 80  # cell stands under cell


def test_runs_of_all_kinds_are_shown_as_far_as_they_came():
    runs = {"a/run": ONE, "b/run": YOUNG, "c/run": TWO}
    lines = printed(*console.difference_tables(Differences({}, runs, 1)), width=120)
    assert lines[:2] == ["What a/run, b/run and c/run differ in", "Their settings are the same."]
    cells = rows(lines)
    assert cells[0] == ["IoU % at best", "a/run", "b/run", "c/run"]
    assert ["road", "75.00", "–", "50.00"] in cells
    assert ["best at step", "800", "–", "400"] in cells
    assert ["steps done", "1,200 of 2,000", "0 of 400", "400 of 400"] in cells
    assert any(re.fullmatch(r"  b/run +–", line) for line in lines)
    assert any(line.startswith("loss of the classifier that predicts, to step 1,200") for line in lines)
    assert not any("compare" in line for line in lines)


def test_before_any_validation_there_are_settings_and_losses():
    runs = {"one": YOUNG, "two": Run(4, 400, 1.0, None, [(2, 0.0), (4, 1.0)], [])}
    lines = printed(*console.difference_tables(Differences({}, runs, 1)))
    assert lines[-1] == "None of them was validated yet."
    assert "loss of the classifier that predicts, to step 4: ▁ 0 to █ 1" in lines  # 0 has no logarithm
    assert not any("mIoU" in line for line in lines)
    assert rows(lines)[1] == ["mean IoU", "–", "–", "–"]
    nothing = printed(*console.difference_tables(Differences({}, {"one": YOUNG, "two": YOUNG}, 1)))
    assert not any("loss" in line for line in nothing)


def test_means_over_different_classes_are_said_not_to_compare():
    other = TWO._replace(best=best(400, 0.375, 0.25, road=0.5, tree=0.25))
    lines = printed(*console.difference_tables(Differences({}, {"one": ONE, "two": other}, 1)))
    assert "They have different classes, so their means do not compare." in lines
    assert ["tree", "–", "25.00", "–"] in rows(lines)
    assert ["mean IoU", "50.00", "37.50", "–"] in rows(lines)


def test_of_many_validations_a_table_shows_some_and_the_best():
    many = ONE._replace(
        step=1_000, loss=[], miou=[(step, step / 1_000) for step in range(10, 1_001, 10)], best=best(730, 0.73)
    )
    lines = printed(*console.difference_tables(Differences({}, {"one": many, "two": YOUNG}, 1)))
    table = rows(lines)
    steps = [int(row[0].replace(",", "")) for row in table[table.index(["mIoU % at step", "one", "two"]) + 1 :]]
    assert steps == sorted({*range(50, 1_001, 50), 730})
    assert lines[-1] == "21 of 100 validations; --json has all."


@pytest.mark.parametrize("width", [80, 120])
def test_five_runs_fit_a_terminal(width):
    long = f"runs/{'very-' * 6}long"
    runs = dict.fromkeys(("runs/one", "runs/two", "runs/three", "runs/four"), ONE) | {long: TWO}
    settings = {"data.root": {run: f"/data{'/folder' * 6}" for run in runs}}
    shown = console.difference_tables(Differences(settings, runs, 1))
    lines = printed(*shown, width=width)
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert "50.00" in "".join(lines)


@pytest.mark.parametrize(
    ("points", "end", "text"),
    [
        ([(step, step) for step in range(1, 9)], 8, "▁▂▃▄▅▆▇█"),
        ([(2, 1), (6, 8)], 8, " ▁▁▁▁█"),  # each holds until the next; blank before the first and after the last
        ([(step, 8 if step % 4 else 1) for step in range(1, 33)], 32, "▇▇▇▇▇▇▇▇"),  # the mean of a cell's steps
        ([(1, 8)], 2, "   █"),
        ([], 8, ""),
    ],
)
def test_a_curve_in_a_line(points, end, text):
    assert console.Sparkline(points, end, 1, 8).text(8) == text


def test_a_curve_in_a_line_may_be_logarithmic_or_level():
    assert console.Sparkline([(1, 1), (2, 10), (3, 100)], 3, 1, 100, math.log).text(3) == "▁▅█"
    assert console.Sparkline([(1, 1), (2, 10), (3, 100)], 3, 1, 100).text(3) == "▁▁█"
    assert console.Sparkline([(1, 3), (2, 3)], 2, 3, 3).text(2) == "▅▅"


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["runs/one", "runs/two"], ["one", "two"]),
        (["runs/one/", "/elsewhere/two"], ["one", "two"]),
        (["demo-1/fcn", "demo-2/fcn", "demo-2/danet"], ["demo-1/fcn", "demo-2/fcn", "demo-2/danet"]),
        ([".", "../two"], [os.path.basename(os.getcwd()), "two"]),
    ],
)
def test_names_are_as_short_as_tells_them_apart(paths, names):
    assert console.short_names(paths) == dict(zip(paths, names, strict=True))
