"""DANet-ResNet50 in each runtime that takes it: images a second, peak memory, and the labels that stay.

    python benchmarks/runtimes.py [--out results/runtimes.csv]

From file values to logits at the image's size, one image, 19 classes, on the CPU: torch as a Segmenter predicts (eager)
and compiled for the size, and the exported graph in ONNX Runtime and OpenVINO, with position attention in either form.
Weights are drawn at random, with open gates. Every process predicts once to warm up, and then each once in turn, but at
1024×2048, where one is there at a time; seconds are medians, `times` how many times one goes into eager float32's.
`labels` are the share that are eager float32's; random weights leave many pixels undecided, so that bfloat16 changes
more of them than in a trained network. Memory is the peak of a fresh process over one prediction, libraries and weights
included (on Linux). Takes about ten minutes on two cores, of which nothing else may take any, and 20 GB.
"""

import argparse
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from danet.config import ModelConfig, Preprocess
from danet.data.labels import LabelSpace
from danet.data.scenes import scene
from danet.export.attend import FORMS
from danet.export.onnx import write_model
from danet.models.attention import attention_modules
from danet.models.segmentation import build_model
from danet.training.provenance import describe_run
from danet.weights.bundle import Bundle, load_bundle, save_bundle
from table import write_table
from worker import Worker

SIZES = {(360, 480): 9, (768, 768): 5, (1024, 2048): 2}
"""Height and width, and how often each is predicted."""
TOGETHER = 10**6
"""Up to so many pixels all processes are there at once, and take turns."""


class Way(NamedTuple):
    """A network in a runtime."""

    runtime: str
    precision: str
    attention: str


WAYS = [
    *(Way(runtime, precision, "") for precision in ("float32", "bfloat16") for runtime in ("eager", "compiled")),
    *(Way("onnxruntime", "float32", form) for form in FORMS),
    *(Way("openvino", precision, form) for precision in ("float32", "bfloat16") for form in FORMS),
]


def make(folder: Path) -> None:
    """One network as a bundle and as two graphs, and an image of each size."""
    torch.manual_seed(0)
    labels = LabelSpace.load("cityscapes")
    config = ModelConfig(backbone="resnet50", num_classes=labels.num_classes)
    model = build_model(config)
    for _, module in attention_modules(model):
        torch.nn.init.constant_(module.gate, 0.5)
    save_bundle(folder / "bundle", Bundle(model, config, labels, Preprocess(), {}, {}))
    bundle = load_bundle(folder / "bundle")
    for form in FORMS:
        write_model(folder / f"{form}.onnx", bundle.model, bundle.preprocess, "float32", form)
    for height, width in SIZES:
        image = scene(0, 0, height, width).image.transpose(2, 0, 1)[None]
        np.save(folder / f"{height}x{width}.npy", image.astype(np.float32))


def command(folder: Path, way: Way, height: int, width: int) -> list[str]:
    model = folder / (f"{way.attention}.onnx" if way.attention else "bundle")
    worker = [sys.executable, str(Path(__file__).with_name("runtime_worker.py")), "--runtime", way.runtime]
    worker += ["--precision", way.precision, "--model", str(model), "--images", str(folder / f"{height}x{width}.npy")]
    return [*worker, "--labels", str(folder / f"{'-'.join(way)}.npy")]


def measure(folder: Path, height: int, width: int, repetitions: int) -> list[dict[str, Any]]:
    """Every way at one size."""
    seconds: dict[Way, list[float]] = {way: [] for way in WAYS}
    names, peaks = {}, {}
    for group in [WAYS] if height * width <= TOGETHER else [[way] for way in WAYS]:
        workers = {}
        for way in group:
            print("starting", height, width, *way, file=sys.stderr, flush=True)
            workers[way] = Worker(command(folder, way, height, width))
        for _ in range(repetitions):
            for way, worker in workers.items():
                seconds[way].append(worker.step())
        for way, worker in workers.items():
            names[way], peaks[way] = worker.facts["name"], worker.peak()
            worker.end()
    took = {way: statistics.median(times) for way, times in seconds.items()}
    reference = np.load(folder / f"{'-'.join(WAYS[0])}.npy")
    return [
        {
            "runtime": names[way] + (f", {way.runtime}" if not way.attention else ""),
            "attention": way.attention,
            "type": way.precision,
            "size": f"{height}×{width}",
            "images_per_second": round(1 / took[way], 3),
            "times": round(took[WAYS[0]] / took[way], 2),
            "peak_gigabytes": round(peaks[way] / 1e9, 2),
            "labels": round(float((np.load(folder / f"{'-'.join(way)}.npy") == reference).mean()), 6),
        }
        for way in WAYS
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="write the table there, as CSV")
    options = parser.parse_args()
    where = describe_run(torch.device("cpu"), "in each row", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder))
        rows = [row for size, times in SIZES.items() for row in measure(Path(folder), *size, times)]
    for row in rows:
        print(row)
    if options.out:
        write_table(options.out, ({**row, **where} for row in rows))


if __name__ == "__main__":
    main()
