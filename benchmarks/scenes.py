"""How many drawn streets a second one core draws.

    python benchmarks/scenes.py [--out results/scenes.csv]

Processor time, so that a busy machine does not count; medians of 40 scenes.
"""

import argparse
import statistics
import time
from pathlib import Path

import torch

from danet.data.scenes import scene
from danet.training.provenance import describe_run
from table import write_table

SIZES = ((192, 256), (360, 480))


def seconds(height: int, width: int, count: int = 40) -> float:
    """The median time of a scene."""
    times = []
    for index in range(count):
        start = time.process_time()
        scene(0, index, height, width)
        times.append(time.process_time() - start)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    out = parser.parse_args().out
    where = describe_run(torch.device("cpu"), "float32", seed=0)
    rows = [{"height": h, "width": w, "scenes_per_second": round(1 / seconds(h, w), 1), **where} for h, w in SIZES]
    for row in rows:
        print(f"{row['height']}×{row['width']}: {row['scenes_per_second']} scenes a second on one core")
    if out:
        write_table(out, rows)


if __name__ == "__main__":
    main()
