"""A process that does one thing again and again when it is told to, so that two can take turns."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from danet.training.provenance import peak_memory, reset_peak_memory

CPU = torch.device("cpu")


class Worker:
    """Starts `command`, which says what it is and then does as `serve` says."""

    def __init__(self, command: Sequence[str]) -> None:
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.facts: dict[str, Any] = json.loads(self._line())

    def step(self) -> float:
        """The seconds of doing it once."""
        return float(self._ask("go"))

    def peak(self) -> int:
        """Bytes."""
        return int(self._ask("peak"))

    def end(self) -> None:
        self.process.communicate()

    def _ask(self, what: str) -> str:
        assert self.process.stdin
        print(what, file=self.process.stdin, flush=True)
        return self._line()

    def _line(self) -> str:
        assert self.process.stdout
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"{self.process.args} ended early, with exit status {self.process.wait()}.")
        return line


def serve(what: Mapping[str, Any], do: Callable[[], object]) -> None:
    """The worker's side: `what` it is in one line of JSON; then for each line "go" one `do()`, answered by its seconds,
    and for a line "peak" the most bytes that the process had since it said what it is (on Linux)."""
    print(json.dumps(what), flush=True)
    reset_peak_memory(CPU)
    for line in sys.stdin:
        if line.strip() == "go":
            start = time.perf_counter()
            do()
            print(time.perf_counter() - start, flush=True)
        else:
            print(peak_memory(CPU) or 0, flush=True)


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
