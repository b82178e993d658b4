"""Time and memory of converting a published checkpoint: ResNet-101 DANet, the original's layout, random weights.

    python benchmarks/convert.py [--out results/convert.csv]

Each conversion runs in a fresh process, from the file to a bundle on disk. Memory is the highest resident size beyond
that of a process that has imported the same modules; pages of the mapped checkpoint count. The median of five, on the
CPU; takes about a minute.
"""

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import torch

from danet.models.segmentation import create_model
from danet.training.provenance import describe_run
from danet.weights.layouts import rename
from table import write_table

REPETITIONS = 5
FRESH = """
import sys, time
from pathlib import Path
from danet.weights.bundle import load_bundle, save_bundle
from danet.weights.convert import convert

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))

before, start = peak(), time.perf_counter()
bundle = convert(sys.argv[1])
converted = time.perf_counter()
save_bundle(sys.argv[2], bundle)
print(converted - start, time.perf_counter() - converted, before, peak() - before)
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the row there, as CSV")
    out = parser.parse_args().out
    torch.manual_seed(0)
    model = create_model("danet", "resnet101", multi_grid=(4, 8, 16), align_corners=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "danet101.pth.tar"
        torch.save({"state_dict": rename(model.state_dict(), "original", reverse=True)}, path)
        runs = []
        for _ in range(REPETITIONS):
            command = [sys.executable, "-c", FRESH, str(path), str(Path(folder) / "bundle")]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            runs.append([float(value) for value in done.stdout.split()])
        names = ("convert_s", "save_s", "imports_mib", "extra_mib")
        row = {"checkpoint": "danet resnet101, original", "file_mib": round(path.stat().st_size / 2**20, 1)}
        row |= {
            name: round(statistics.median(values), 2)
            for name, values in zip(names, zip(*runs, strict=True), strict=True)
        }
    print(row)
    if out:
        row |= describe_run(torch.device("cpu"), "float32", seed=0)
        write_table(out, [row])


if __name__ == "__main__":
    main()
