"""Keep a CamVid run's best model in half precision, and score it as it is kept, by several protocols.

    python benchmarks/keep.py RUN --camvid FOLDER [--bundles results/bundles] [--out results/camvid.csv]

Scores are of val, in float32. Takes ten minutes on one core.
"""

import argparse
from dataclasses import replace
from pathlib import Path

from danet.console import Screen
from danet.data.dataset import Dataset
from danet.data.sources import open_source
from danet.evaluation.evaluate import evaluate
from danet.inference.protocol import Protocol
from danet.training.provenance import describe_run
from danet.weights.bundle import save_bundle
from half import in_half
from table import score_columns, write_table

LARGEST = 24 * 2**20
PROTOCOLS = [
    Protocol(name="whole"),
    Protocol(name="mirrored", flip=True),
    Protocol(name="three scales, mirrored", scales=(0.75, 1.0, 1.25), flip=True),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--camvid", required=True, help="the folder with CamVid")
    parser.add_argument("--bundles", type=Path, default=Path("results/bundles"))
    parser.add_argument("--out", type=Path, default=Path("results/camvid.csv"))
    options = parser.parse_args()
    bundle, segmenter, _ = in_half(options.run, LARGEST)
    val = Dataset(*open_source("camvid", "val", root=options.camvid))
    rows = []
    with Screen() as screen:
        for protocol in PROTOCOLS:
            scores = evaluate(segmenter, val, protocol, progress=screen.phase(protocol.name), details=False).scores
            row = {"model": options.run.name, "protocol": protocol.name, "scales": " ".join(map(str, protocol.scales))}
            row |= {"flip": protocol.flip} | score_columns(scores)
            rows.append(row | describe_run(segmenter.device, "float32", 0))
            screen.say(f"{protocol.name}: mIoU {100 * rows[-1]['miou']:.2f} %")
    write_table(options.out, rows)
    kept = {"scored on": "CamVid's val, in half precision"} | {row["protocol"]: row["miou"] for row in rows}
    save_bundle(options.bundles / options.run.name, replace(bundle, scores=bundle.scores | kept))


if __name__ == "__main__":
    main()
