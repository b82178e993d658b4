"""A process that does one thing again and again when it is told to, so that two can take turns."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any


class Worker:
    """Starts `command`, which says what it is and then does as `serve` says."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts: dict[str, Any] = json.loads(self._line())
        self.memory = Path("/proc", str(self.process.pid))
        (self.memory / "clear_refs").write_text("5")  # the peak starts anew

    def step(self) -> float:
        """The seconds of doing it once."""
        assert self.process.stdin
        print("go", file=self.process.stdin, flush=True)
        return float(self._line())

    def peak(self) -> int:
        """The most bytes that it had since it said what it is (on Linux)."""
        lines = (self.memory / "status").read_text(encoding="utf-8").splitlines()
        return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])

    def end(self) -> None:
        self.process.communicate()

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended early, with exit status {self.process.wait()}.")
        return line


def serve(what: Mapping[str, Any], do: Callable[[], object]) -> None:
    """The worker's side: `what` it is in one line of JSON; then for each line one `do()`, answered by its seconds."""
    print(json.dumps(what), flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        do()
        print(time.perf_counter() - start, flush=True)


def seconds(commands: Mapping[str, Sequence[str]], repetitions: int) -> dict[str, list[float]]:
    """What each took, again and again; they take turns, and the first turn is for warming up."""
    workers = {name: Worker(command) for name, command in commands.items()}
    times: dict[str, list[float]] = {name: [] for name in workers}
    for repetition in range(repetitions + 1):
        for name, worker in workers.items():
            took = worker.step()
            if repetition:
                times[name].append(took)
    for worker in workers.values():
        worker.end()
    return times


def peak_gigabytes(command: Sequence[str], times: int = 1) -> float:
    """Of a fresh process that does it so many times."""
    worker = Worker(command)
    for _ in range(times):
        worker.step()
    peak = worker.peak()
    worker.end()
    return peak / 1e9
