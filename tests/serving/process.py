"""A real server in a process of its own, and a plain client for it."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image


class Reply(NamedTuple):
    """What came back; header names are lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """Of an error, which has one line and nothing else beside it."""
        assert set(self.json) == {"error"}
        assert "\n" not in self.json["error"]["message"]
        return self.json["error"]["code"]


@dataclass
class Server:
    """`danet serve` on a free port."""

    process: subprocess.Popen[str]
    port: int
    log: Path

    def connect(self) -> HTTPConnection:
        return HTTPConnection("127.0.0.1", self.port, timeout=60)

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Reply:
        """One request on a connection of its own; headers are written with _ for -."""
        connection = self.connect()
        connection.request(method, path, body, {name.replace("_", "-"): value for name, value in headers.items()})
        reply = take(connection)
        connection.close()
        return reply

    def get(self, path: str, **headers: str) -> Reply:
        return self.ask("GET", path, **headers)

    def post(self, path: str, body: Any, **headers: str) -> Reply:
        return self.ask("POST", path, body, **headers)

    def memory(self) -> int:
        """Resident bytes."""
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("A process's memory is read from /proc, which this system does not have.")
        found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text())
        assert found is not None
        return int(found[1]) * 1024

    def end(self, number: int = signal.SIGTERM) -> int:
        """Stop it, and return its exit code."""
        self.process.send_signal(number)
        return self.process.wait(60)


def take(connection: HTTPConnection) -> Reply:
    """The reply to what was sent."""
    response = connection.getresponse()
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


@contextmanager
def serving(folder: Path, *options: str) -> Iterator[Server]:
    """street-tiny in float32 on one core, until the block ends; its log must then hold no fault."""
    log = folder / "serve.log"
    command = [sys.executable, "-m", "danet", "serve", "--port", "0", "--device", "cpu", "--precision", "float32"]
    with log.open("w") as errors:
        process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
    assert found is not None, line + log.read_text()
    try:
        yield Server(process, int(found[1]), log)
    finally:
        process.terminate()
        try:
            process.wait(60)
        finally:
            process.kill()
            process.stdout.close()
    assert "Traceback" not in log.read_text(), log.read_text()


def png(pixels: np.ndarray) -> bytes:
    """An array as a PNG file."""
    return saved(Image.fromarray(pixels), "PNG")


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as a file's bytes."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def photograph(seed: int = 0, height: int = 48, width: int = 64) -> np.ndarray:
    """A smooth random picture, another one for each seed."""
    small = np.random.Generator(np.random.Philox(seed)).integers(0, 256, (6, 8, 3), np.uint8)
    return np.array(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
