"""Both forms of position attention as ONNX graphs, in ONNX Runtime and OpenVINO, beside the equations in float64."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
import torch
from torch import Tensor, nn

from danet.export import attend as forms
from danet.export.attend import FORMS, OPSET
from danet.ops.operator import attend

NAMES = ("query", "key", "value")
SCALE = 0.7
Run = Callable[[Path, dict[str, np.ndarray]], np.ndarray]


class Attend(nn.Module):
    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return attend(query, key, value, SCALE)[0]


def in_onnxruntime(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    (found,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, inputs)
    return np.asarray(found)


def in_openvino(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    return openvino.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(inputs)[0]


def drawn(batch: int, places: int, keys: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Energies with a standard deviation of 3."""
    generator = torch.Generator().manual_seed(batch + places)
    shapes = ((batch, places, 8), (batch, keys, 8), (batch, keys, 20))
    return [
        (torch.randn(shape, generator=generator) * spread).to(dtype)
        for shape, spread in zip(shapes, (1, 1.5, 1), strict=True)
    ]


def written(path: Path, form: str, dtype: torch.dtype = torch.float32) -> Path:
    free = torch.export.Dim.DYNAMIC
    program = torch.onnx.export(
        Attend().eval(),
        tuple(drawn(2, 9, 7, dtype)),
        dynamo=True,
        verbose=False,
        opset_version=OPSET,
        input_names=NAMES,
        output_names=["gathered"],
        dynamic_shapes=({0: free, 1: free},) * 3,
        custom_translation_table={attend: FORMS[form]},
    )
    assert program is not None
    program.save(path)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return path


@pytest.mark.parametrize("run", [in_onnxruntime, in_openvino])
@pytest.mark.parametrize("form", FORMS)
def test_equations(form, run, tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "SCORES", 600)
    path = written(tmp_path / "one.onnx", form)
    graph = onnx.load(path).graph
    assert ("Loop" in {node.op_type for node in graph.node}) == (form == "blocks")
    assert (600 in [onnx.numpy_helper.to_array(one).item(0) for one in graph.initializer]) == (form == "blocks")
    for batch, places, keys in ((1, 1, 1), (1, 600, 1), (1, 601, 3), (2, 83, 31), (3, 24, 25), (1, 7, 1000)):
        query, key, value = drawn(batch, places, keys)
        found = run(path, {name: one.numpy() for name, one in zip(NAMES, (query, key, value), strict=True)})
        expected = torch.softmax(SCALE * query.double() @ key.double().mT, -1) @ value.double()
        assert found.shape == expected.shape
        assert np.abs(found - expected.numpy()).max() < 1e-5


def test_scores_of_half_precision_are_float32(tmp_path, monkeypatch):
    monkeypatch.setattr(forms, "SCORES", 600)
    path = written(tmp_path / "one.onnx", "blocks", torch.float16)
    query, key, value = drawn(1, 90, 70, torch.float16)
    query *= 30  # energies of hundreds, that float16 would round by tenths
    found = in_onnxruntime(path, {name: one.numpy() for name, one in zip(NAMES, (query, key, value), strict=True)})
    expected = torch.softmax(SCALE * query.double() @ key.double().mT, -1) @ value.double()
    assert found.dtype == np.float16
    assert np.abs(found - expected.numpy()).max() < 0.01
