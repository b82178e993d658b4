"""How often ground is named rightly, by its distance from the nearest thing: where a network's sight ends, it shows.

python benchmarks/distance.py runs/ABLATION [--out results/distance.csv] [--svg docs/distance.svg]
"""

import argparse
from pathlib import Path

import numpy as np

from danet.data.dataset import Dataset
from danet.data.labels import IGNORE_INDEX
from danet.data.scenes import PAVEMENT, ROAD, far_from_things
from danet.inference.segmenter import Segmenter
from danet.training.ablation import last_segmenter, results
from danet.training.comparison import by_variant
from danet.training.data import open_data
from danet.training.provenance import describe_run
from danet.training.summary import run_config
from danet.viz.ablation import draw_curves
from table import write_table

EDGES = (0, 10, 20, 30, 40, 50, 60, 70, 80)
"""Pixels, at 192 rows; the last band is open."""


def bands(labels: np.ndarray) -> list[np.ndarray]:
    """H×W masks of road and pavement by the distance from the nearest thing, a band between two edges each."""
    beyond = [far_from_things(labels, edge) for edge in EDGES]
    return [inner & ~outer for inner, outer in zip(beyond, [*beyond[1:], np.zeros_like(beyond[0])], strict=True)]


def by_distance(segmenter: Segmenter, dataset: Dataset) -> tuple[list[float], list[float], list[int]]:
    """Of each band: the accuracy, the share of the commoner class, the pixels."""
    right, counts = np.zeros(len(EDGES), int), np.zeros((len(EDGES), IGNORE_INDEX + 1), int)
    for index in range(len(dataset)):
        image, truth, _ = dataset[index]
        labels = segmenter.predict(image.permute(1, 2, 0).numpy()).labels
        for band, mask in enumerate(bands(truth.numpy())):
            right[band] += (labels == truth.numpy())[mask].sum()
            counts[band] += np.bincount(truth.numpy()[mask], minlength=IGNORE_INDEX + 1)
    total = counts.sum(1).clip(1)
    majority = np.maximum(counts[:, ROAD], counts[:, PAVEMENT]) / total
    return (right / total).tolist(), majority.tolist(), total.tolist()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/distance.csv"))
    parser.add_argument("--svg", type=Path, default=Path("docs/distance.svg"))
    options = parser.parse_args()
    rows, curves, majority = [], {}, []
    for result in (row for runs in by_variant(results(options.folder)).values() for row in runs):
        run = options.folder / f"{result['variant']}-seed-{result['seed']}"
        config = run_config(run)
        data = open_data(config)
        segmenter = last_segmenter(config, data, run)
        accuracy, majority, pixels = by_distance(segmenter, data.val)
        curves.setdefault(result["variant"], []).append(
            [(edge, 100 * a) for edge, a in zip(EDGES, accuracy, strict=True)]
        )
        facts = describe_run(segmenter.device, segmenter.precision, config.seed)
        facts["command"] = f"python benchmarks/distance.py {options.folder}"
        rows += [
            {
                "variant": result["variant"],
                "seed": result["seed"],
                "steps": result["steps"],
                "farther_than": edge,
                "accuracy": round(a, 4),
                "majority": round(m, 4),
                "pixels": n,
                **facts,
            }
            for edge, a, m, n in zip(EDGES, accuracy, majority, pixels, strict=True)
        ]
        print(result["variant"], result["seed"], [round(100 * a, 1) for a in accuracy])
    if not rows:
        raise SystemExit(f"{options.folder} holds no run that is done.")
    write_table(options.out, rows)
    curves["majority"] = [[(edge, 100 * share) for edge, share in zip(EDGES, majority, strict=True)]]
    title = "ground named rightly, %, by its pixels from the nearest thing"
    draw_curves(options.svg, {title: curves})


if __name__ == "__main__":
    main()
