"""What a person sees: progress with a remaining time, on a terminal and in a log."""

import os
import pty
import re
import subprocess
import sys
import time

import pytest

from danet import console
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
