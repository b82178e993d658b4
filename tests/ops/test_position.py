import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danet.ops import position, position_attention, position_attention_columns, position_attention_rows
from danet.ops.tiles import QUERIES
from tests import reference
from tests.ops.inputs import FLOATS, LAYOUTS, gradients, relative_error, small_tiles, tensors

ROOT = Path(__file__).parents[2]
LONG = QUERIES + 45  # one tile and a rest

# leading dimensions, n, m, d, c: short and long, odd, self and cross, one-dimensional, large enough for oneDNN
SHAPES = [
    ((2,), 1, 1, 1, 1),
    ((2,), 37, 37, 5, 11),
    ((3,), LONG, 41, 7, 3),
    ((), 29, LONG, 8, 16),
    ((2, 1), LONG, LONG, 8, 130),
    ((300,), 3, 4, 2, 5),
    ((1,), LONG, 600, 64, 128),
]
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}
on_every_backend = pytest.mark.parametrize("backend", ["tiles", "whole"])


def by(backend, **options):
    """Position attention by that backend, of query, key and value."""
    return lambda query, key, value: position_attention(query, key, value, backend=backend, **options)


@on_every_backend
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)], ids=str)
def test_values_and_gradients_are_the_equations(shape, dtype, tolerance, backend):
    inputs = tensors(*shape, dtype=dtype, spread=3.0)
    exact = [x.double() for x in inputs]
    output = position_attention(*inputs, scale=0.3, backend=backend)
    expected = reference.position_attention(*exact, scale=0.3)
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert relative_error(output, expected) < tolerance
    found = gradients(by(backend, scale=0.3), inputs)
    truth = gradients(lambda q, k, v: reference.position_attention(q, k, v, scale=0.3), exact)
    for name, mine, theirs in zip("qkv", found, truth, strict=True):
        if shape[2] > 1 or name == "v":  # with a single key, scores do not matter
            assert relative_error(mine, theirs) < 5 * tolerance, name
        else:
            assert mine.abs().max() < tolerance


@settings(max_examples=200)
@given(
    backend=st.sampled_from(["tiles", "whole"]),
    leading=st.lists(st.integers(1, 3), max_size=3),
    n=st.integers(1, 150),
    m=st.integers(2, 150),
    d=st.integers(1, 70),
    c=st.integers(1, 70),
    dtype=st.sampled_from(FLOATS),
    layouts=st.tuples(*[st.sampled_from(list(LAYOUTS))] * 4),
    spread=st.sampled_from([0.1, 3.0, 20.0]),
    scale=st.sampled_from([1.0, 0.3, -1.0]),
)
def test_any_shape_type_and_layout(backend, leading, n, m, d, c, dtype, layouts, spread, scale):
    *input_layouts, grad_layout = layouts
    inputs = tensors(leading, n, m, d, c, dtype, spread, seed=n)
    inputs = [LAYOUTS[layout](x) for layout, x in zip(input_layouts, inputs, strict=True)]
    exact = [x.double() for x in inputs]
    tolerance = TOLERANCES[dtype]
    with small_tiles():
        output = position_attention(*inputs, scale, backend=backend)
        found = gradients(by(backend, scale=scale), inputs, grad_layout)
    assert output.dtype == dtype
    # Both may cancel to nearly nothing, but what they are sums of does not.
    summed = reference.position_attention(*exact[:2], exact[2].abs(), scale)
    assert (output.double() - reference.position_attention(*exact, scale)).norm() < tolerance * summed.norm()
    truth = gradients(lambda q, k, v: reference.position_attention(q, k, v, scale), exact, grad_layout)
    for mine, theirs in zip(found, truth, strict=True):
        assert mine.dtype == dtype
        size = theirs.norm() + output.numel() ** 0.5 * exact[2].square().mean().sqrt()
        assert (mine.double() - theirs).norm() < 2 * tolerance * size


@on_every_backend
@pytest.mark.parametrize("dtypes", list(itertools.permutations(FLOATS, 3)), ids=str)
def test_types_that_differ(dtypes, backend):
    inputs = [x.to(dtype) for x, dtype in zip(tensors((2,), 70, 100, 8, 16), dtypes, strict=True)]
    exact = [x.double() for x in inputs]
    output, logsumexp = by(backend, return_logsumexp=True)(*inputs)
    assert output.dtype == dtypes[2]
    assert relative_error(output, reference.position_attention(*exact)) < TOLERANCES[dtypes[2]]
    assert logsumexp.dtype == (torch.float64 if torch.float64 in dtypes else torch.float32)
    assert relative_error(logsumexp, (exact[0] @ exact[1].mT).logsumexp(-1)) < 1e-6
    truth = gradients(reference.position_attention, exact)
    for mine, theirs, x in zip(gradients(by(backend), inputs), truth, inputs, strict=True):
        assert mine.dtype == x.dtype
        assert relative_error(mine, theirs) < 5 * max(TOLERANCES[dtype] for dtype in dtypes)


@on_every_backend
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_gradient_in_any_layout(layout, backend):
    inputs = tensors((2,), 70, 100, 8, 16)
    with small_tiles():
        found = gradients(by(backend), inputs, layout)
    torch.testing.assert_close(found, gradients(reference.position_attention, inputs, layout))


@on_every_backend
def test_the_gradient_of_a_sum(backend):  # which is a single 1, expanded
    inputs = [x.requires_grad_() for x in tensors((2,), 70, 100, 8, 16)]
    with small_tiles():
        found = torch.autograd.grad(position_attention(*inputs, backend=backend).sum(), inputs)
    truth = torch.autograd.grad(reference.position_attention(*inputs).sum(), inputs)
    torch.testing.assert_close(found, truth)


@on_every_backend
@pytest.mark.parametrize("wanted", [[0], [1], [2], [0, 2]], ids=["query", "key", "value", "query and value"])
def test_gradients_in_some_inputs_only(wanted, backend):
    inputs = tensors((2,), 70, 100, 8, 16)
    truth = gradients(reference.position_attention, inputs)
    for index in wanted:
        inputs[index].requires_grad_()
    grad = torch.randn(2, 70, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    position_attention(*inputs, backend=backend).backward(grad)
    for index, x in enumerate(inputs):
        if index in wanted:
            torch.testing.assert_close(x.grad, truth[index])
        else:
            assert x.grad is None


@on_every_backend
def test_gradcheck(backend):
    inputs = [x.requires_grad_() for x in tensors((2,), 7, 5, 3, 2)]
    with small_tiles(3, 2):
        assert torch.autograd.gradcheck(by(backend, scale=0.7), inputs)


def test_gradients_of_gradients_by_whole():
    inputs = [x.requires_grad_() for x in tensors((2,), 4, 5, 3, 2)]
    assert torch.autograd.gradgradcheck(by("whole", scale=0.7), inputs)


def test_gradients_of_gradients_by_tiles_are_refused():
    query, key, value = tensors((1,), 5, 4, 3, 2)
    output = position_attention(query.requires_grad_(), key, value, backend="tiles")
    penalty = torch.autograd.grad(output.sum(), query, create_graph=True)[0].square().sum()
    with pytest.raises(
        RuntimeError, match=r"^position attention by 'tiles' can be differentiated once only: .*'whole'"
    ):
        (output.sum() + penalty).backward()


@pytest.mark.parametrize("entries", [400, 399])
def test_auto_is_whole_for_small_maps_and_tiles_for_others(entries, monkeypatch):
    monkeypatch.setattr(position, "SMALL_MAP", entries)
    query, key, value = tensors((2,), 10, 20, 3, 2)
    output = position_attention(query.requires_grad_(), key, value)
    gradient = torch.autograd.grad(output.sum(), query, create_graph=True)[0]
    if entries == 400:
        gradient.sum().backward()
    else:
        with pytest.raises(RuntimeError, match="by 'tiles'"):
            gradient.sum().backward()


@on_every_backend
def test_permuted_positions_permute_the_result(backend):
    query, key, value = tensors((2,), 200, 200, 8, 16)
    order = torch.randperm(200, generator=torch.Generator().manual_seed(3))
    with small_tiles():
        output = by(backend)(query, key, value)
        torch.testing.assert_close(by(backend)(query[:, order], key, value), output[:, order])
        torch.testing.assert_close(by(backend)(query, key[:, order], value[:, order]), output)


@on_every_backend
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_logsumexp_is_the_rows_and_carries_no_gradient(leading, backend):
    query, key, value = tensors(leading, 70, 100, 4, 5, spread=30.0)
    attention = by(backend, scale=0.5, return_logsumexp=True)
    with small_tiles():
        _, logsumexp = attention(query.requires_grad_(), key, value)
    assert not logsumexp.requires_grad
    torch.testing.assert_close(logsumexp, torch.logsumexp(query.detach() @ key.mT * 0.5, dim=-1))
    assert attention(*(x.detach().bfloat16() for x in (query, key, value)))[1].dtype == torch.float32


@on_every_backend
@pytest.mark.parametrize("leading", [(), (2, 3)])
@pytest.mark.parametrize("at", [4, [0, 28, 4], torch.tensor([7, 7])], ids=["int", "list", "tensor"])
def test_rows_and_columns_are_the_full_maps(leading, at, backend):
    query, key, value = tensors(leading, 29, 31, 4, 5)
    logsumexp = position_attention(query, key, value, scale=0.5, return_logsumexp=True, backend=backend)[1]
    full = reference.position_map(query, key, scale=0.5)
    several = [at] if isinstance(at, int) else at
    torch.testing.assert_close(position_attention_rows(query, key, at, scale=0.5), full[..., several, :])
    columns = position_attention_columns(query, key, logsumexp, at, scale=0.5)
    torch.testing.assert_close(columns, full[..., several])


@on_every_backend
def test_rows_and_columns_keep_float32_under_autocast(backend):
    query, key, value = tensors((2,), 29, 31, 64, 5, torch.float32, spread=20.0)
    full = reference.position_map(query.double(), key.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logsumexp = position_attention(query, key, value, return_logsumexp=True, backend=backend)[1]
        rows = position_attention_rows(query, key, [3])
        columns = position_attention_columns(query, key, logsumexp, [3])
    assert rows.dtype == columns.dtype == torch.float32
    assert relative_error(rows, full[:, [3]]) < 1e-5
    assert relative_error(columns, full[..., [3]]) < 1e-5


@pytest.mark.parametrize("at", [-1, 29, [0, 40]])
def test_rows_and_columns_refuse_positions_that_are_not_there(at):
    query, key, value = tensors((), 29, 29, 4, 5)
    logsumexp = position_attention(query, key, value, return_logsumexp=True)[1]
    with pytest.raises(IndexError, match=r"there is no position (-1|29|40): give indices from 0 to 28"):
        position_attention_rows(query, key, at)
    with pytest.raises(IndexError, match="from 0 to 28"):
        position_attention_columns(query, key, logsumexp, at)


@on_every_backend
@pytest.mark.parametrize("spread", [3.0, 8.0, 32.0])
@pytest.mark.parametrize("backward_inside", [True, False], ids=["backward inside", "backward outside"])
def test_under_autocast_only_the_values_are_rounded(spread, backward_inside, backend):
    inputs = [x.requires_grad_() for x in tensors((1,), 400, 400, 64, 128, torch.float32, spread)]
    exact = [x.detach().double().requires_grad_() for x in inputs]
    expected = reference.position_attention(*exact)
    grad = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_attention(*inputs, backend=backend)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=backward_inside):
            found = torch.autograd.grad(output, inputs, grad.bfloat16())
    assert output.dtype == torch.bfloat16
    assert relative_error(output, expected) < 5e-3  # scores in bfloat16 would make it 1 to 4 %
    for mine, theirs in zip(found, torch.autograd.grad(expected, exact, grad.double()), strict=True):
        assert mine.dtype == torch.float32
        assert relative_error(mine, theirs) < 2e-2


@on_every_backend
def test_autocast_leaves_float64_alone(backend):
    inputs = tensors((1,), 20, 20, 4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_attention(*inputs, backend=backend)
    torch.testing.assert_close(output, reference.position_attention(*inputs))


@on_every_backend
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("where", [0, 1, 2], ids=["query", "key", "value"])
def test_what_is_not_finite_spreads_as_in_the_equations(where, bad, backend):
    inputs = tensors((2,), 70, 100, 4, 5, torch.float32)
    inputs[where][0, 60, 3] = bad
    with small_tiles():
        output, logsumexp = by(backend, return_logsumexp=True)(*inputs)
        found = gradients(by(backend), inputs)
    expected = reference.position_attention(*inputs)
    assert 0 < expected.isfinite().sum() < expected.numel()
    torch.testing.assert_close(output, expected, equal_nan=True)
    assert torch.equal(logsumexp.isfinite(), (inputs[0] @ inputs[1].mT).logsumexp(-1).isfinite())
    truth = gradients(reference.position_attention, inputs)
    torch.testing.assert_close(found, truth, equal_nan=True)


@on_every_backend
@pytest.mark.parametrize("leading", [(0,), (2, 0)])
def test_an_empty_batch(leading, backend):
    inputs = [x.requires_grad_() for x in tensors(leading, 6, 7, 3, 2)]
    output, logsumexp = position_attention(*inputs, return_logsumexp=True, backend=backend)
    assert output.shape == (*leading, 6, 2)
    assert logsumexp.shape == (*leading, 6)
    output.sum().backward()
    assert [x.grad.shape for x in inputs] == [x.shape for x in inputs]


@on_every_backend
@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_no_queries(leading, backend):
    inputs = [x.requires_grad_() for x in tensors(leading, 0, 7, 3, 2)]
    output = position_attention(*inputs, backend=backend)
    assert output.shape == (*leading, 0, 2)
    output.sum().backward()
    assert not inputs[2].grad.any()


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 5, 3), (2, 4, 8), (2, 4, 2)),
        ((2, 5, 3), (2, 4, 3), (2, 6, 2)),
        ((2, 5, 3), (1, 4, 3), (2, 4, 2)),
        ((2, 5, 3), (2, 0, 3), (2, 0, 2)),
        ((3,), (3,), (3,)),
    ],
    ids=["width", "keys", "batch", "no keys", "vectors"],
)
def test_shapes_that_do_not_fit_are_named(shapes):
    with pytest.raises(ValueError, match="position attention takes query … n d") as caught:
        position_attention(*(torch.zeros(shape) for shape in shapes))
    assert all(str(shape) in str(caught.value) for shape in shapes)
    assert "\n" not in str(caught.value)


def test_integers_are_refused():
    query, key, value = tensors((), 3, 4, 2, 2)
    rule = "position attention takes floating-point tensors, not torch.int64, torch.float64 and torch.float64"
    with pytest.raises(ValueError, match=rf"^{rule}: convert them$"):
        position_attention(query.long(), key, value)


def test_an_unknown_backend_is_named():
    rule = r"^there is no position attention backend 'flash': choose auto, tiles, sdpa, triton, whole$"
    with pytest.raises(ValueError, match=rule):
        position_attention(*tensors((), 3, 3, 2, 2), backend="flash")


@pytest.mark.parametrize(
    ("logsumexp", "reason"), [(False, "needs a CUDA device, not cpu"), (True, "gives no log-sum-exp")]
)
def test_sdpa_says_why_it_cannot(logsumexp, reason):
    with pytest.raises(ValueError, match=rf"^position attention by 'sdpa' {reason}: choose 'tiles' or 'auto'$"):
        position_attention(*tensors((), 3, 3, 2, 2), return_logsumexp=logsumexp, backend="sdpa")


MEMORY = """
import sys
from pathlib import Path
import torch
from danet.ops import position_attention
from tests.ops.inputs import LAYOUTS
layout = LAYOUTS[sys.argv[1]]
torch.manual_seed(0)
torch.set_num_threads(1)
inputs = [layout(torch.randn(1, 9216, c)).requires_grad_() for c in (64, 64, 512)]
grad = layout(torch.randn(1, 9216, 512))
def memory(line):
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(x for x in lines if x.startswith(line)).split()[1]) / 1024
torch.autograd.grad(position_attention(*(x[:, :2100] for x in inputs)), inputs, grad[:, :2100])  # what loads but once
Path("/proc/self/clear_refs").write_text("5")
results, before = [], memory("VmRSS")
def extra():
    return memory("VmHWM") - before - sum(x.nbytes for x in results) / 2**20
results.append(position_attention(*inputs))
print(extra())
results.extend(torch.autograd.grad(results[0], inputs, grad))
print(extra())
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc, not here")
@pytest.mark.parametrize("layout", ["dense", pytest.param("transposed", marks=pytest.mark.slow)])
def test_memory_does_not_grow_with_the_square_of_positions(layout):
    command = [sys.executable, "-c", MEMORY, layout]
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1000000"}  # glibc gives freed memory back at once
    found = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT, env=environment).stdout
    forward, both = map(float, found.split())
    # MiB beyond the output and the gradients; one 9,216 × 9,216 matrix alone has 324.
    assert forward < 48
    assert both < 64


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("backend", ["auto", "tiles", "whole"])
def test_cuda_agrees(backend, dtype):
    inputs = tensors((2,), LONG, 300, 64, 128, dtype)
    exact = [x.double() for x in inputs]
    device = [x.cuda() for x in inputs]
    output = position_attention(*device, backend=backend).cpu()
    assert relative_error(output, reference.position_attention(*exact)) < TOLERANCES[dtype]
    on_cuda = gradients(lambda *x: by(backend)(*(y.cuda() for y in x)).cpu(), inputs)
    for mine, theirs in zip(on_cuda, gradients(reference.position_attention, exact), strict=True):
        assert mine.dtype == dtype
        assert relative_error(mine, theirs) < 5 * TOLERANCES[dtype]


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_sdpa_agrees_and_auto_takes_it(dtype):
    inputs = tensors((2,), LONG, 300, 64, 128, dtype)
    exact = [x.double() for x in inputs]
    device = [x.cuda() for x in inputs]
    output = position_attention(*device, scale=0.3, backend="sdpa")
    assert torch.equal(position_attention(*device, scale=0.3), output)
    assert relative_error(output.cpu(), reference.position_attention(*exact, 0.3)) < TOLERANCES[dtype]
    found = gradients(lambda *x: by("sdpa", scale=0.3)(*(y.cuda() for y in x)).cpu(), inputs)
    truth = gradients(lambda q, k, v: reference.position_attention(q, k, v, 0.3), exact)
    for mine, theirs in zip(found, truth, strict=True):
        assert relative_error(mine, theirs) < 5 * TOLERANCES[dtype]


@pytest.mark.gpu
def test_sdpa_refuses_types_that_differ_and_widths_that_it_cannot_take():
    query, key, value = (x.cuda() for x in tensors((1,), 300, 300, 64, 128, torch.bfloat16))
    with pytest.raises(ValueError, match=r"^position attention by 'sdpa' needs one type, not .*float32.*bfloat16"):
        position_attention(query.float(), key.float(), value, backend="sdpa")
    with pytest.raises(ValueError, match=r"^position attention by 'sdpa' cannot take widths 3 and 5 of torch.bfloat16"):
        position_attention(query[..., :3], key[..., :3], value[..., :5], backend="sdpa")


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("autocast", "widths"), [(True, (64, 512)), (False, (63, 509))], ids=["types that differ", "odd widths"]
)
def test_cuda_forms_no_map_where_sdpa_cannot(autocast, widths):
    inputs = [x.cuda().requires_grad_() for x in tensors((1,), 32_768, 32_768, *widths, torch.float32)]
    with pytest.raises(ValueError, match="position attention by 'sdpa'"), torch.autocast("cuda", enabled=autocast):
        position_attention(*inputs, backend="sdpa")
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    with torch.autocast("cuda", dtype=torch.bfloat16, enabled=autocast):  # query and key stay in float32
        output = position_attention(*inputs)
    output.sum().backward()
    assert output.isfinite().all()
    # The map alone would have 4 GiB. Output and gradients have up to 64 MiB each.
    assert torch.cuda.max_memory_allocated() - before < 2**29
