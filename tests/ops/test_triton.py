"""The Triton kernels: in the interpreter here, in a process of its own; on a GPU at real sizes."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from danet.ops import position_attention
from tests import reference
from tests.ops.inputs import gradients, relative_error, tensors

ROOT = Path(__file__).parents[2]
with_triton = pytest.mark.skipif(find_spec("triton") is None, reason="torch brings no triton on this system")


@with_triton
def test_in_the_interpreter():
    """It must be asked for before the kernels are made."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/interpreted_triton.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


def test_without_a_gpu_it_says_what_it_needs(monkeypatch):
    inputs = tensors((1,), 5, 7, 3, 2, torch.float32)
    if find_spec("triton"):
        with pytest.raises(ValueError, match="by 'triton' needs a CUDA device, not cpu: choose 'auto'"):
            position_attention(*inputs, backend="triton")
    monkeypatch.setattr("danet.ops.position.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="by 'triton' needs the package triton"):
        position_attention(*inputs, backend="triton")


def test_nothing_chooses_it_and_nothing_loads_it():
    code = (
        "import sys, torch; from danet.ops import position_attention; x = torch.zeros(1, 9, 4, requires_grad=True); "
        "position_attention(x, x, x, backend='tiles').sum().backward(); assert 'danet.ops.position_triton' not in "
        "sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 3e-6), (torch.bfloat16, 1e-2), (torch.float16, 2e-3)], ids=str
)
@pytest.mark.parametrize("shape", [((2,), 2700, 2700, 64, 512), ((1,), 1031, 4099, 64, 512), ((1,), 77, 65, 128, 300)])
def test_at_real_sizes(shape, dtype, tolerance):
    inputs = [x.cuda() for x in tensors(*shape, dtype=dtype, spread=3.0)]
    exact = [x.double() for x in inputs]

    def kernel(query, key, value):
        return position_attention(query, key, value, backend="triton")

    assert relative_error(kernel(*inputs), reference.position_attention(*exact)) < tolerance
    found, truth = gradients(kernel, inputs), gradients(reference.position_attention, exact)
    assert max(relative_error(mine, theirs) for mine, theirs in zip(found, truth, strict=True)) < 5 * tolerance


@pytest.mark.gpu
def test_compiled_in_a_graph_and_on_a_stream():
    inputs = [x.cuda() for x in tensors((1,), 500, 500, 64, 512, torch.bfloat16, spread=3.0)]
    plain = position_attention(*inputs, backend="triton")
    compiled = torch.compile(lambda *x: position_attention(*x, backend="triton"), fullgraph=True)
    assert torch.equal(compiled(*inputs), plain)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert torch.equal(position_attention(*inputs, backend="triton"), plain)
    stream.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = position_attention(*inputs, backend="triton")
    graph.replay()
    assert torch.equal(recorded, plain)
