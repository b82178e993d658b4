"""What a person sees: progress with a remaining time, on a terminal and in a log."""

import io
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
from danet.viz.text import duration

SHOW = """
import time
from danet.console import Screen
with Screen() as screen:
    progress = screen.phase("count sheep")
    for done in range(1, 31):
        time.sleep(0.02)
        progress(done, 30, "woolly")
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


def test_on_a_terminal_a_bar_with_a_remaining_time():
    ours, theirs = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
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
    assert re.search(r"\d+/30 0:00:0\d 0:00:0\d woolly", text), text
    assert "[asleep] at [1/2]" in text


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
