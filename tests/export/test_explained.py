"""The graph of the attention page beside the encoding of the same image."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from danet.config import HEADS, Preprocess
from danet.data.scenes import scene
from danet.export.explained import Explained, explain
from danet.export.onnx import write_graph
from danet.inference.explanation import components
from danet.inference.network import ready
from danet.inference.segmenter import Segmenter
from danet.viz.answer import halves
from tests.export.test_onnx import bundle_of, config_of
from tests.models.test_contract import network

SIZES = ((97, 131), (64, 64))


def written(path: Path, model: torch.nn.Module, rule: Preprocess) -> list[str]:
    """The graph, and the names of its outputs."""
    quick = ready(model, torch.device("cpu"))
    images = torch.zeros(1, len(rule.names), 70, 93)
    with torch.no_grad():
        names = list(explain(quick, images))
    write_graph(path, Explained(quick, rule, torch.float32).eval(), images, names, "whole")
    return names


@pytest.mark.parametrize(
    "head", [head if head == "danet" else pytest.param(head, marks=pytest.mark.slow) for head in HEADS]
)
def test_outputs_are_what_the_answer_is_made_of(head, tmp_path):
    model, rule = network(config_of(head)), Preprocess()
    names = written(tmp_path / "model.onnx", model, rule)
    onnx.checker.check_model(onnx.load(tmp_path / "model.onnx"), full_check=True)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    segmenter = Segmenter(model, bundle_of(model, rule).labels, rule, "cpu", "float32")
    for size in SIZES:
        image = scene(3, 0, *size).image
        values = session.run(names, {"images": image.transpose(2, 0, 1)[None].astype(np.float32)})
        found = dict(zip(names, map(np.asarray, values), strict=True))
        encoding = segmenter.encode(image)
        view = encoding.view("")
        same(found["labels"], view.labels)
        assert np.abs(found["confidence"].astype(int) - view.confidence).max() <= 1
        assert ("query" in found) == (view.position is not None)
        assert ("channel_energy" in found) == (view.channel is not None)
        if view.position is not None:
            seen = view.position
            for name, values in (("query", seen.query), ("key", seen.key - seen.key.mean(0))):
                whole = found[name].astype(np.float32) + found[f"{name}_rest"]
                assert np.abs(whole - values).max() <= 1e-4 * np.abs(values).max()
                assert found[name].dtype == halves(name, values)[name].dtype
            assert np.allclose(found["logsumexp"], seen.logsumexp - seen.query @ seen.key.mean(0), atol=1e-3)
            for labels, expected in zip(found["gate_labels"], seen.gate_labels, strict=True):
                same(labels, expected)
            same(found["taken_labels"], seen.taken.labels)
            assert found["position_share"].item() == pytest.approx(seen.share, rel=1e-3)
            features = torch.from_numpy(found["position_features"]).flatten(1).mT
            assert np.allclose(components(features, torch.from_numpy(found["value"]))[0], seen.features, atol=0.02)
            assert found["position_features"].shape[1:] == seen.grid
            assert ("pool" in found) == (seen.pool is not None)
        if view.channel is not None:
            shown = view.channel
            assert np.allclose(found["channel_energy"][shown.indices], shown.energy, rtol=1e-3, atol=1e-3)
            after = found["channel_features"] + shown.gate * found["channel_gathered"].reshape(
                found["channel_features"].shape
            )
            assert np.allclose(after[shown.indices], shown.after, rtol=1e-3, atol=1e-3)
            varied = found["channel_features"].astype(np.float64).var((1, 2)) * after[0].size
            assert np.allclose(found["channel_gram"].diagonal(), varied, rtol=1e-3, atol=1e-3)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.dtype == np.uint8
    assert (found == expected).mean() > 0.999
