"""Is a map evidence? What becomes of far places of the ground when nobody can look at what they attend to most.

python benchmarks/take_away.py runs/ABLATION [--out results/take-away.csv]
"""

import argparse
from pathlib import Path
from statistics import mean

import numpy as np

from danet.data.dataset import Dataset
from danet.data.scenes import far_from_things
from danet.data.sources import scenes
from danet.inference.segmenter import Segmenter, load
from danet.training.ablation import last_segmenter, results
from danet.training.data import open_data
from danet.training.provenance import describe_run
from danet.training.summary import run_config
from table import write_table

STREETS, POINTS, SHARE, FRESH = 30, 4, 0.1, 1


def taken_away(segmenter: Segmenter, dataset: Dataset) -> dict[str, float | int]:
    """Over far points that are named rightly: how many change their class, and what becomes of its probability."""
    generator = np.random.Generator(np.random.Philox(0))
    found = []
    for index in range(STREETS):
        truth = dataset[index].mask.numpy()
        encoding = segmenter.encode(dataset[index].pixels)
        right = np.argwhere(far_from_things(truth) & (encoding.prediction.labels == truth))
        for y, x in right[generator.choice(len(right), POINTS)] if len(right) else ():
            found.append(encoding.take_away((x, y), SHARE))
    classes = [one.before.argmax() for one in found]
    pairs = list(zip(found, classes, strict=True))
    return {
        "points": len(found),
        "attention": round(mean(one.attention for one in found), 3),
        "changed": sum(bool(one.after.argmax() != own) for one, own in pairs),
        "changed_control": sum(bool(one.control.argmax() != own) for one, own in pairs),
        "lost": round(mean(float(one.before[own] - one.after[own]) for one, own in pairs), 3),
        "lost_control": round(mean(float(one.before[own] - one.control[own]) for one, own in pairs), 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/take-away.csv"))
    options = parser.parse_args()
    fresh = Dataset(*scenes("val", STREETS, 192, 256, FRESH))
    fresh.preload()
    networks = {"street-tiny": load()}
    for result in results(options.folder):
        if result["variant"] in ("pam", "danet"):
            run = options.folder / f"{result['variant']}-seed-{result['seed']}"
            config = run_config(run)
            networks[run.name] = last_segmenter(config, open_data(config), run)
    rows = []
    for name, segmenter in networks.items():
        facts = describe_run(segmenter.device, segmenter.precision, 0)
        facts["command"] = f"python benchmarks/take_away.py {options.folder}"
        rows.append({"network": name, **taken_away(segmenter, fresh), **facts})
        print(rows[-1])
    write_table(options.out, rows)


if __name__ == "__main__":
    main()
