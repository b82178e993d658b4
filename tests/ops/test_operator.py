import subprocess
import sys

import pytest
import torch
from torch.export import Dim
from torch.library import opcheck

import danet
from danet.ops import position_attention
from danet.ops.operator import attend, attend_backward
from tests.ops.inputs import LAYOUTS, gradients, small_tiles, tensors

SHAPES = [((2,), 5, 7, 3, 2), ((1,), 70, 100, 4, 5), ((3,), 40, 1, 1, 1), ((0,), 5, 7, 3, 2), ((2,), 0, 7, 3, 2)]


# opcheck looks at the gradient of tensors that are no leaves.
checks = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")


@pytest.fixture(autouse=True)
def _nothing_compiled_before():
    torch.compiler.reset()


@checks
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("layout", ["dense", "transposed"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_both_operators_are_as_torch_wants_them(shape, layout, dtype):
    inputs = [LAYOUTS[layout](x).requires_grad_() for x in tensors(*shape, dtype=dtype)]
    with small_tiles():
        opcheck(attend, (*inputs, 0.7))
        inputs = [x.detach() for x in inputs]
        output, logsumexp = attend(*inputs, 0.7)
        opcheck(attend_backward, (torch.ones_like(output), *inputs, output, logsumexp, 0.7))


@checks
def test_opcheck_with_types_that_differ():
    query, key, value = tensors((2,), 5, 7, 3, 2)
    inputs = [query.bfloat16(), key.float(), value.double()]
    opcheck(attend, (*(x.requires_grad_() for x in inputs), 1.0))


def test_autocast_does_not_reach_into_them():
    inputs = tensors((1,), 70, 100, 4, 5, torch.float32)

    def both():
        output, logsumexp = attend(*inputs, 1.0)
        return output, logsumexp, attend_backward(torch.ones_like(output), *inputs, output, logsumexp, 1.0)

    plain = both()
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(both(), plain)


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("backend", ["auto", "tiles", "whole"])
def test_compiled_it_is_one_graph_of_any_size(backend, autocast):
    graphs = []

    def keep(graph, _):
        graphs.append(graph)
        return graph.forward

    def attention(query, key, value, backend=backend):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return position_attention(query, key, value, 0.7, backend=backend)

    first, second = tensors((2,), 50, 70, 4, 3, torch.float32), tensors((2,), 33, 90, 4, 3, torch.float32)
    chosen = "whole" if backend == "whole" else "tiles"  # what is recorded is recorded for large maps, too
    eager = [attention(*first, chosen), attention(*second, chosen)]
    recorded = torch.compile(attention, backend=keep, fullgraph=True, dynamic=True)
    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True, dynamic=True)
    for function in (recorded, compiled):
        torch.compiler.reset()
        torch.testing.assert_close(function(*first), eager[0])
        with torch.compiler.set_stance("fail_on_recompile"):
            torch.testing.assert_close(function(*second), eager[1])
    (graph,) = graphs
    assert (attend in operators(graph)) == (chosen == "tiles")


@pytest.mark.parametrize("autocast", [False, True], ids=["plain", "autocast"])
@pytest.mark.parametrize("backend", ["tiles", "whole"])
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_compiled_gradients_are_those_of_eager(backend, autocast, dynamic):
    def attention(query, key, value):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            return position_attention(query, key, value, 0.7, backend=backend)

    compiled = torch.compile(attention, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for shape in [((2,), 50, 70, 4, 3), ((2,), 33, 90, 4, 3)]:
        inputs = tensors(*shape, dtype=torch.float32)
        torch.testing.assert_close(gradients(compiled, inputs), gradients(attention, inputs))


class Attention(torch.nn.Module):
    def forward(self, query, key, value):
        return position_attention(query, key, value, return_logsumexp=True)


@pytest.mark.parametrize("strict", [False, True], ids=["not strict", "strict"])
def test_exported_it_takes_other_sizes(strict):
    n, m = Dim("n", min=2), Dim("m", min=2)
    sizes = {"query": {1: n}, "key": {1: m}, "value": {1: m}}
    program = torch.export.export(Attention(), tensors((2,), 40, 50, 4, 3), dynamic_shapes=sizes, strict=strict)
    assert attend in operators(program.graph_module)
    inputs = tensors((2,), 71, 33, 4, 3)
    torch.testing.assert_close(program.module()(*inputs), Attention()(*inputs))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_an_exported_module_takes_images_of_other_sizes(memory_format):
    torch.manual_seed(0)
    module = danet.PositionAttention(16).eval()
    torch.nn.init.constant_(module.gate, 0.5)
    image = torch.randn(2, 16, 6, 8).to(memory_format=memory_format)
    sizes = ({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},)
    program = torch.export.export(module, (image,), dynamic_shapes=sizes)
    assert attend in operators(program.graph_module)
    for other in (torch.randn(2, 16, 9, 7), torch.randn(2, 16, 5, 11).to(memory_format=torch.channels_last)):
        torch.testing.assert_close(program.module()(other), module(other))


def test_without_compiling_torch_loads_no_compiler():
    code = """
import sys, torch
from danet.ops import channel_attention, position_attention
inputs = [torch.randn(1, 400, 120, requires_grad=True) for _ in range(3)]  # large enough for oneDNN's products
for backend in ("tiles", "whole"):
    position_attention(*inputs, backend=backend).sum().backward()
channel_attention(inputs[0]).sum().backward()
print("torch._dynamo" in sys.modules)
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert found == "False\n"


def operators(graph):
    return {node.target for node in graph.graph.nodes}
