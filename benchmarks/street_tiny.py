"""Embed a trained run as street-tiny: weights in half precision, scored as they are kept, on streets it never saw.

danet train street-tiny, then: python benchmarks/street_tiny.py runs/street-tiny
"""

import argparse
from dataclasses import replace
from pathlib import Path

from danet.data.dataset import Dataset
from danet.data.scenes import far_from_things
from danet.data.sources import scenes
from danet.evaluation.context import context_scores
from danet.evaluation.evaluate import evaluate
from danet.models.attention import attention_modules, gates
from danet.weights.bundle import save_bundle
from half import in_half

TARGET = Path("src/danet/weights/street-tiny")
LARGEST = 8 * 2**20
COUNT, SIZE = 100, (192, 256)
FRESH = 1
"""The seed of the streets it is scored on: training and the choice of the best validation saw those of seed 0."""
NOTE = "a toy, trained on drawn streets alone: it shows what attention does, and knows no photographs"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    options = parser.parse_args()
    bundle, segmenter, size = in_half(options.run, LARGEST)
    fresh, twins, control = (Dataset(*scenes(split, COUNT, *SIZE, FRESH)) for split in ("val", "twins", "control"))
    report = evaluate(segmenter, fresh)
    context = context_scores(segmenter, fresh, twins, control)
    alone = {}
    for branch, module in attention_modules(segmenter.model):
        gate = module.gate.data.clone()
        module.gate.data.zero_()
        report_without = evaluate(segmenter, fresh, region=far_from_things)
        assert report_without.region is not None
        alone[f"context_without_{branch}"] = round(report_without.region.pixel_accuracy, 4)
        module.gate.data.copy_(gate)
    scores = {
        "scored on": f"{COUNT} drawn streets of {SIZE[0]}×{SIZE[1]} that it never saw, whole, in half precision",
        "miou": round(report.scores.miou, 4),
        "pixel_accuracy": round(report.scores.pixel_accuracy, 4),
        **{name: round(value, 4) for name, value in context._asdict().items()},
        **alone,
    }
    provenance = {"note": NOTE, **bundle.provenance}
    save_bundle(TARGET, replace(bundle, scores=scores, provenance=provenance))
    print(f"{size / 2**20:.2f} MiB", scores, gates(segmenter.model), sep="\n")


if __name__ == "__main__":
    main()
