"""What `danet serve` answers a second, alone and to sixteen clients at once, and whether anything is lost or swapped.

    python benchmarks/serving.py [--out results/serving.csv]

street-tiny and drawn streets of 480×640 as PNG files, a server process of its own on this machine, answers in gzip.
Milliseconds are from a request to its whole answer, on a connection that is kept. Every answer is compared with that of
its own image, asked for alone; memory is the server's before and after. Takes about three minutes.
"""

import argparse
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from danet.data.scenes import scene
from danet.inference.device import choose_precision
from danet.training.provenance import describe_run
from table import write_table

CLIENTS, IMAGES, SEED = 16, 16, 2000
REQUESTS = {"/v1/segment": 50, "/v1/attention": 10}
"""What each client asks."""


def street(index: int) -> bytes:
    """A drawn street as a PNG file."""
    file = BytesIO()
    Image.fromarray(scene(SEED, index, 480, 640).image).save(file, "PNG")
    return file.getvalue()


def ask(connection: HTTPConnection, path: str, body: bytes) -> tuple[int, bytes]:
    """Status and answer."""
    connection.request("POST", path, body, {"Accept-Encoding": "gzip"})
    reply = connection.getresponse()
    return reply.status, reply.read()


def measure(port: int, path: str, bodies: list[bytes], alone: list[bytes], clients: int, each: int) -> dict[str, Any]:
    """`clients` at once ask for `each` images, one after another, beginning at different ones."""

    def client(number: int) -> list[tuple[float, int, bool]]:
        connection, found = HTTPConnection("127.0.0.1", port, timeout=120), []
        for request in range(each):
            index = (number + 5 * request) % len(bodies)
            start = time.perf_counter()
            status, answer = ask(connection, path, bodies[index])
            found.append((time.perf_counter() - start, status, answer == alone[index]))
        connection.close()
        return found

    start = time.perf_counter()
    with ThreadPoolExecutor(clients) as pool:
        replies = [reply for part in pool.map(client, range(clients)) for reply in part]
    seconds = time.perf_counter() - start
    took = 1000 * np.array([reply[0] for reply in replies])
    return {
        "address": path,
        "clients": clients,
        "requests": len(replies),
        "lost": sum(status != 200 for _, status, _ in replies),
        "wrong_or_swapped": sum(status == 200 and not right for _, status, right in replies),
        "per_second": round(len(replies) / seconds, 2),
        "p50_ms": round(float(np.quantile(took, 0.5)), 1),
        "p99_ms": round(float(np.quantile(took, 0.99)), 1),
    }


def memory(process: int) -> int | None:
    """Resident megabytes, where the system tells."""
    status = Path(f"/proc/{process}/status")
    found = re.search(r"VmRSS:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return None if found is None else int(found[1]) // 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    where = describe_run(torch.device("cpu"), choose_precision("auto", torch.device("cpu")), SEED)
    command = [sys.executable, "-m", "danet", "serve", "--port", "0", "--device", "cpu", "--concurrency", str(CLIENTS)]
    process = subprocess.Popen([*command, "--precision", where["precision"]], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    found = re.search(r":(\d+) ", process.stdout.readline())
    assert found is not None, "the server did not start"
    port, bodies, rows = int(found[1]), [street(index) for index in range(IMAGES)], []
    try:
        for path, each in REQUESTS.items():
            connection = HTTPConnection("127.0.0.1", port, timeout=120)
            alone = [ask(connection, path, body)[1] for body in bodies]
            connection.close()
            for clients, requests in ((1, 2 * IMAGES), (CLIENTS, each)):
                before = memory(process.pid)
                row = measure(port, path, bodies, alone, clients, requests)
                rows.append({**row, "memory_before_mb": before, "memory_after_mb": memory(process.pid), **where})
                print({name: value for name, value in rows[-1].items() if name not in where}, flush=True)
    finally:
        process.terminate()
        process.wait()
    if options.out:
        write_table(options.out, rows)


if __name__ == "__main__":
    main()
