"""The other side of runtimes.py: one network in one runtime, once for each line of input; for its processes alone.

It imports what its runtime needs and nothing else, so that a process's memory is that runtime's.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from worker import serve

Run = Callable[[], Any]
"""Logits, 1×k×h×w."""


def torch_run(options: argparse.Namespace, images: np.ndarray) -> tuple[str, Run]:
    """The network as a Segmenter predicts with it, or that compiled for this size."""
    import torch

    from danet.inference.segmenter import load

    segmenter = load(options.model, "cpu", options.precision)
    inputs = torch.from_numpy(images)
    if options.runtime == "compiled":
        segmenter.model = torch.compile(segmenter.model)
    return f"torch {torch.__version__.partition('+')[0]}", lambda: segmenter.logits(
        segmenter.normalised(inputs)
    ).float()


def onnxruntime_run(options: argparse.Namespace, images: np.ndarray) -> tuple[str, Run]:
    import onnxruntime

    session = onnxruntime.InferenceSession(options.model, providers=["CPUExecutionProvider"])
    return f"ONNX Runtime {onnxruntime.__version__}", lambda: session.run(["logits"], {"images": images})[0]


def openvino_run(options: argparse.Namespace, images: np.ndarray) -> tuple[str, Run]:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[options.precision]}
    network = openvino.compile_model(options.model, "CPU", hint)
    return f"OpenVINO {openvino.__version__.partition('-')[0]}", lambda: network({"images": images})["logits"]


RUNTIMES = {"eager": torch_run, "compiled": torch_run, "onnxruntime": onnxruntime_run, "openvino": openvino_run}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runtime", choices=RUNTIMES, required=True)
    parser.add_argument("--precision", required=True)
    for name in ("--model", "--images", "--labels"):
        parser.add_argument(name, type=Path, required=True)
    options = parser.parse_args()
    name, run = RUNTIMES[options.runtime](options, np.load(options.images))
    np.save(options.labels, np.asarray(run()).argmax(1).astype(np.uint8))  # the first is for warming up
    serve({"name": name}, run)


if __name__ == "__main__":
    main()
