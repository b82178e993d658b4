"""How far the three golden networks, converted by `danet convert`'s own code, are from the real implementations.

    python benchmarks/golden.py [--out results/golden.csv]

The largest absolute difference of each output, on logits of standard deviation 5 to 12 (tests/golden); takes a minute.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # the golden networks lie among the tests

from tests.golden.networks import NETWORKS, differences, weights

from danet.training.provenance import describe_run
from danet.weights.convert import convert
from table import write_table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the rows there, as CSV")
    out, rows = parser.parse_args().out, []
    for name in NETWORKS:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "danet_r50-d8_512x1024.pth"  # mmsegmentation's tells its settings by its name
            torch.save({"state_dict": weights(name)}, path)
            model = convert(path).model
            found = {dtype: differences(model, name, dtype) for dtype in (torch.float64, torch.float32)}
        for output in found[torch.float64]:
            figures = {str(dtype).removeprefix("torch."): f"{found[dtype][output]:.1e}" for dtype in found}
            rows.append({"network": name, "output": output, **figures})
            print(rows[-1])
    if out:
        facts = describe_run(torch.device("cpu"), "float64 and float32", seed=0)
        write_table(out, (row | facts for row in rows))


if __name__ == "__main__":
    main()
