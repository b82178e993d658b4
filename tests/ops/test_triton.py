"""The Triton kernels: in the interpreter here, in a process of its own; on a GPU at real sizes."""

import csv
import importlib
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


@pytest.fixture
def report(monkeypatch):
    """The benchmark that compiles kernels for a GPU that is not there."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("triton_kernels")


@with_triton
def test_in_the_interpreter():
    """It must be asked for before the kernels are made."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/ops/interpreted_triton.py"]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
    assert "skipped" not in done.stdout


@with_triton
@pytest.mark.parametrize("name", ["forward", "grad_value", "grad_key", "grad_query"])
def test_compiled_for_hopper_nothing_is_spilled(report, name):
    """By the copy engine and the tensor cores' warp-group instruction, in the design of most parts."""
    kernels = report.position_kernels
    blocks = (kernels.SPECIALIZED if kernels.SPECIALIZED[0] in report.KERNELS[name] else kernels.RESIDENT)[0]
    found = report.compiled(getattr(kernels, name), blocks, "bf16", "ieee", halves=True)
    assert found["copy_engine"]
    assert found["warp_group_products"]
    assert found["threads"] == (384 if blocks.specialized else 32 * blocks.warps)
    assert (found["stack"], found["note"]) == (0, "")


@with_triton
@pytest.mark.slow
def test_designs_take_what_the_table_says(report):
    with (ROOT / "results" / "triton.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        assert row["type"] in ("TF32", "float32") or row["stack"] == "0", row
    last = {(row["kernel"], row["type"]): row for row in rows}  # of each kernel and type one: each takes over a second
    for row in last.values():
        numbers = [int(row[name]) for name in ("rows", "step", "channels", "warps", "stages")]
        blocks = report.position_kernels.Blocks(*numbers, row["specialized"] == "True")
        found = report.compiled(getattr(report.position_kernels, row["kernel"]), blocks, *report.TYPES[row["type"]])
        assert {name: str(value) for name, value in found.items()} == {name: row[name] for name in found}, row


@with_triton
@pytest.mark.slow
@pytest.mark.parametrize("capability", [80, 120])
def test_the_first_design_fits_any_chip(report, capability):
    """With no more than the 99 KB of shared memory that chips of 8.6 and 12.0 have."""
    kernels = report.position_kernels
    for name, blocks in report.KERNELS.items():
        for kind, precision, halves in report.TYPES.values():
            dtype = torch.float32 if kind == "fp32" else torch.bfloat16
            first = kernels.tried(blocks, dtype, precision, 512, chip=capability)[0]
            target = report.GPUTarget("cuda", capability, 32)
            found = report.compiled(getattr(kernels, name), first, kind, precision, halves, target)
            assert found["note"] == ""
            assert found["shared_kilobytes"] <= 99


class NoGpu:
    """What Triton asks of a GPU's driver before it launches; nothing is launched."""

    def get_current_target(self):
        from triton.backends.compiler import GPUTarget

        return GPUTarget("cuda", 90, 32)

    def get_current_device(self):
        return 0

    def get_current_stream(self, device):
        return 0

    def get_benchmarker(self):
        return lambda call, quantiles: [call() or 1.0] * len(quantiles)


@with_triton
@pytest.mark.slow
@pytest.mark.parametrize("deterministic", [False, True])
def test_all_but_the_launch_itself(deterministic, determinism, report, monkeypatch, tmp_path):
    """From the call through tuner and compiler, with the arguments as they come; warnings are errors here too."""
    from triton.runtime.driver import driver
    from triton.runtime.jit import JITFunction

    from danet.ops import position_triton

    kernels, compiled, run = report.position_kernels, [], JITFunction.run

    def prepared(self, *args, **options):
        compiled.append((self.__name__, options["ROWS"], options.get("STEP"), options["CHANNELS"]))
        return run(self, *args, **{**options, "warmup": True})

    monkeypatch.setattr(JITFunction, "run", prepared)
    monkeypatch.setattr(position_triton, "refusal", lambda *_: None)
    torch.use_deterministic_algorithms(deterministic)
    monkeypatch.setattr(driver, "_active", NoGpu())
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for name in report.KERNELS:
        monkeypatch.setattr(getattr(kernels, name), "cache", {})
    for types in ([torch.float16] * 3, [torch.float32, torch.float32, torch.bfloat16], [torch.float32] * 3):
        query, key, value = (x.to(kind) for x, kind in zip(tensors((1,), 33, 77, 5, 11), types, strict=True))
        output, logsumexp = position_triton.attend(query, key, value, 1.0)
        position_triton.attend_backward(output, query, key, value, output, logsumexp, 1.0)
    names = [name for name, *_ in compiled]
    assert set(names) == {"forward", "inner_products", "grad_value", "grad_key", *(["grad_query"] * deterministic)}
    if deterministic:
        assert len(names) == 3 * 5
    else:  # each is tried, and what was chosen is taken
        assert compiled.count(("forward", 64, 32, 64)) == 2 * 2
        assert compiled.count(("forward", 64, 64, 64)) == 2
        assert [one for one in compiled if one[0] == "forward"][-3:] == [
            ("forward", *blocks[:3]) for blocks in (*kernels.TRUE, kernels.TRUE[0])
        ]


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


def by_triton(query, key, value):
    return position_attention(query, key, value, backend="triton")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("types", "tolerance"),
    [
        ((torch.float32, torch.float32), 3e-6),
        ((torch.bfloat16, torch.bfloat16), 1e-2),
        ((torch.float16, torch.float16), 2e-3),
        ((torch.float32, torch.bfloat16), 1e-2),
        ((torch.float32, torch.float16), 2e-3),
    ],
    ids=str,
)
@pytest.mark.parametrize("shape", [((2,), 2700, 2700, 64, 512), ((1,), 1031, 4099, 64, 512), ((1,), 77, 65, 128, 300)])
@pytest.mark.parametrize("deterministic", [False, True])
def test_at_real_sizes(shape, types, tolerance, deterministic, determinism):
    query, key, value = (x.cuda() for x in tensors(*shape, dtype=torch.float32, spread=3.0))
    inputs = [query.to(types[0]), key.to(types[0]), value.to(types[1])]
    exact = [x.double() for x in inputs]
    expected, truth = reference.position_attention(*exact), gradients(reference.position_attention, exact)
    scores = exact[0] @ exact[1].mT
    torch.use_deterministic_algorithms(deterministic)
    output, logsumexp = position_attention(*inputs, return_logsumexp=True, backend="triton")
    found = gradients(by_triton, inputs)
    assert relative_error(output, expected) < tolerance
    torch.testing.assert_close(logsumexp.double(), scores.logsumexp(-1), rtol=1e-5, atol=1e-3)
    # Gradients of scores are formed in bfloat16 where these are in halves.
    most = 5 * max(tolerance, 0 if types[0] == types[1] else 1e-2)
    assert max(relative_error(mine, theirs) for mine, theirs in zip(found, truth, strict=True)) < most


@pytest.mark.gpu
def test_compiled_in_a_graph_and_on_a_stream(determinism):
    """Forward and backward, and the same bits each time, since they are asked for."""
    torch.use_deterministic_algorithms(True)
    inputs = [x.cuda() for x in tensors((1,), 500, 500, 64, 512, torch.bfloat16, spread=3.0)]
    inputs = [x.requires_grad_() for x in inputs]

    def both(attention):
        output = attention(*inputs)
        return [output.detach(), *torch.autograd.grad(output.sum(), inputs)]

    def same(results):
        return all(torch.equal(one, other) for one, other in zip(results, plain, strict=True))

    plain = both(by_triton)
    assert same(both(torch.compile(by_triton, fullgraph=True)))
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        assert same(both(by_triton))
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = both(by_triton)
    graph.replay()
    torch.cuda.synchronize()
    assert same(recorded)
