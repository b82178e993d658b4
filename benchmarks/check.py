"""Time of `danet data check` on CamVid, from the command to its tables; and of the search for pictures that look alike.

    python benchmarks/check.py --camvid ../shared/camvid [--out results/check.csv]

The command runs in a fresh process each time, with the interpreter's start and its imports; the median of five. The
search is that for 100,000 random hashes, each among as many, of which none is near, one bit away, and, at its worst,
all in the same bands; takes about a minute.
"""

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from danet.data.duplicates import nearest
from danet.training.provenance import describe_run
from table import write_table

REPETITIONS = 5
COUNT = 100_000


def seconds_of_command(root: Path) -> float:
    """One run of the command; warnings (exit code 3) are no failure of it."""
    command = [sys.executable, "-m", "danet", "data", "check", "--data.source", "camvid", "--data.root", str(root)]
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 3):
        raise SystemExit(done.stdout + done.stderr)
    return time.perf_counter() - start


def seconds_of_search(hashes: np.ndarray, among: np.ndarray) -> float:
    start = time.perf_counter()
    nearest(hashes, among)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camvid", type=Path, required=True, help="the folder with train/, trainannot/, val/, …")
    parser.add_argument("--out", type=Path, help="write the rows there, as CSV")
    options = parser.parse_args()
    generator = np.random.default_rng(0)
    others, hashes = (generator.integers(0, 2**64, COUNT, np.uint64) for _ in range(2))
    crowded = generator.integers(0, 2**16, COUNT, np.uint64)  # four of five bands are the same everywhere
    measured = {
        "danet data check, CamVid, 468 pairs": [seconds_of_command(options.camvid) for _ in range(REPETITIONS)],
        "hashes, none near": [seconds_of_search(hashes, others) for _ in range(REPETITIONS)],
        "hashes, all one bit away": [seconds_of_search(others ^ np.uint64(1 << 40), others)],
        "hashes, 1,000 that share bands with all": [seconds_of_search(crowded[: COUNT // 100], crowded)],
    }
    facts = describe_run(torch.device("cpu"), "float32", seed=0)
    rows = [{"what": name, "s": round(statistics.median(times), 2), **facts} for name, times in measured.items()]
    for row in rows:
        print(f"{row['s']:8.2f} s  {row['what']}")
    if options.out:
        write_table(options.out, rows)


if __name__ == "__main__":
    main()
