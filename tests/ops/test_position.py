import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danet.ops import position_attention, position_attention_columns, position_attention_rows
from danet.ops.tiles import QUERIES as BLOCK_ROWS
from tests import reference

LONG = BLOCK_ROWS + 45  # one block and a rest

# leading dimensions, n, m, d, c: short and long, odd, self and cross, one-dimensional, wider than oneDNN's threshold
SHAPES = [
    ((2,), 1, 1, 1, 1),
    ((2,), 37, 37, 5, 11),
    ((3,), LONG, 41, 7, 3),
    ((), 29, LONG, 8, 16),
    ((2, 1), LONG, LONG, 8, 130),
    ((300,), 3, 4, 2, 5),
    ((1,), 2 * BLOCK_ROWS, 129, 64, 128),
]


def tensors(leading, n, m, d, c, dtype=torch.float64, spread=1.0, seed=0):
    """Query, key and value with energies whose standard deviation is `spread`."""
    generator = torch.Generator().manual_seed(seed)
    amplitude = (spread / d**0.5) ** 0.5
    query = torch.randn(*leading, n, d, generator=generator, dtype=torch.float64) * amplitude
    key = torch.randn(*leading, m, d, generator=generator, dtype=torch.float64) * amplitude
    value = torch.randn(*leading, m, c, generator=generator, dtype=torch.float64)
    return tuple(x.to(dtype) for x in (query, key, value))


def relative_error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300)).item()


def gradients(function, inputs, seed=1):
    """Of the result's sum with random weights: in all inputs."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = function(*inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.autograd.grad((output * weights.to(output.dtype)).sum(), inputs)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("scale", [1.0, 0.3])
def test_values_and_gradients_are_the_equations(shape, dtype, scale):
    tolerance = 1e-12 if dtype == torch.float64 else 3e-6
    inputs = tensors(*shape, dtype=dtype, spread=3.0)
    exact = [x.double() for x in inputs]
    output = position_attention(*inputs, scale=scale)
    expected = reference.position_attention(*exact, scale=scale)
    assert output.dtype == dtype
    assert output.shape == expected.shape
    assert relative_error(output, expected) < tolerance
    found = gradients(lambda q, k, v: position_attention(q, k, v, scale=scale), inputs)
    truth = gradients(lambda q, k, v: reference.position_attention(q, k, v, scale=scale), exact)
    for name, mine, theirs in zip("qkv", found, truth, strict=True):
        if shape[2] > 1 or name == "v":  # with a single key, scores do not matter
            assert relative_error(mine, theirs) < 5 * tolerance, name
        else:
            assert mine.abs().max() < tolerance


def test_gradcheck():
    inputs = [x.requires_grad_() for x in tensors((2,), 5, 4, 3, 2)]
    assert torch.autograd.gradcheck(lambda q, k, v: position_attention(q, k, v, 0.7), inputs)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    n=st.integers(1, 600),
    m=st.integers(1, 600),
    d=st.integers(1, 70),
    c=st.integers(1, 140),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    spread=st.sampled_from([0.1, 3.0, 20.0]),
    transposed=st.booleans(),
)
def test_any_shape_type_and_layout(batch, n, m, d, c, dtype, spread, transposed):
    inputs = tensors((batch,), n, m, d, c, dtype, spread, seed=n)
    if transposed:  # as they come from a convolution's B×C×H×W
        inputs = [x.mT.contiguous().mT for x in inputs]
    expected = reference.position_attention(*(x.double() for x in inputs))
    output = position_attention(*inputs)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert output.dtype == dtype
    assert relative_error(output, expected) < tolerance


def test_type_of_gradients_follows_the_inputs():
    query, key, value = tensors((2,), LONG, 40, 8, 16, torch.bfloat16)
    exact = gradients(reference.position_attention, [x.double() for x in (query, key, value)])
    for mine, theirs in zip(gradients(position_attention, (query, key, value)), exact, strict=True):
        assert mine.dtype == torch.bfloat16
        assert relative_error(mine, theirs) < 0.02


@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_onednn_and_plain_products_agree():
    inputs = tensors((1,), LONG, 300, 64, 128, torch.float32)
    assert relative_error(position_attention(*inputs), reference.position_attention(*inputs)) < 3e-6
    found = [position_attention(*inputs), *gradients(position_attention, inputs)]
    with torch.backends.mkldnn.flags(enabled=False):
        plain = [position_attention(*inputs), *gradients(position_attention, inputs)]
    for mine, theirs in zip(found, plain, strict=True):
        assert relative_error(mine, theirs) < 3e-6


def test_expanded_and_sliced_inputs():
    joint = torch.randn(LONG, 3 * 64, generator=torch.Generator().manual_seed(2))
    query, key, value = joint.chunk(3, dim=-1)
    value = value[:, :1].expand(-1, 200)
    expected = reference.position_attention(query, key, value)
    assert relative_error(position_attention(query, key, value), expected) < 3e-6
    query.requires_grad_()
    summed = torch.autograd.grad(position_attention(query, key, value).sum(), query)[0]  # an expanded gradient
    # Equal over channels, so S sums to 1 and the gradient is that of one channel, 200 times.
    one = torch.autograd.grad(reference.position_attention(query.double(), key.double(), value.double()).sum(), query)[
        0
    ]
    assert relative_error(summed, one) < 1e-4


def test_permuted_positions_permute_the_result():
    query, key, value = tensors((2,), LONG, LONG, 8, 16)
    order = torch.randperm(LONG, generator=torch.Generator().manual_seed(3))
    output = position_attention(query, key, value)
    torch.testing.assert_close(position_attention(query[:, order], key, value), output[:, order])
    torch.testing.assert_close(position_attention(query, key[:, order], value[:, order]), output)


@pytest.mark.parametrize("leading", [(), (2, 3)])
def test_logsumexp_is_the_rows_and_carries_no_gradient(leading):
    query, key, value = tensors(leading, 270, 31, 4, 5, spread=30.0)
    _, logsumexp = position_attention(query.requires_grad_(), key, value, scale=0.5, return_logsumexp=True)
    assert not logsumexp.requires_grad
    torch.testing.assert_close(logsumexp, torch.logsumexp(query.detach() @ key.mT * 0.5, dim=-1))
    half = [x.detach().bfloat16() for x in (query, key, value)]
    assert position_attention(*half, return_logsumexp=True)[1].dtype == torch.float32


@pytest.mark.parametrize("leading", [(), (2, 3)])
@pytest.mark.parametrize("at", [4, [0, 28, 4], torch.tensor([7, 7])], ids=["int", "list", "tensor"])
def test_rows_and_columns_are_the_full_maps(leading, at):
    query, key, value = tensors(leading, 29, 31, 4, 5)
    logsumexp = position_attention(query, key, value, scale=0.5, return_logsumexp=True)[1]
    full = reference.position_map(query, key, scale=0.5)
    several = [at] if isinstance(at, int) else at
    torch.testing.assert_close(position_attention_rows(query, key, at, scale=0.5), full[..., several, :])
    columns = position_attention_columns(query, key, logsumexp, at, scale=0.5)
    torch.testing.assert_close(columns, full[..., several])


def test_rows_and_columns_keep_float32_under_autocast():
    query, key, value = tensors((2,), 29, 31, 64, 5, torch.float32, spread=20.0)
    full = reference.position_map(query.double(), key.double())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logsumexp = position_attention(query, key, value, return_logsumexp=True)[1]
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


@pytest.mark.parametrize("spread", [3.0, 8.0, 32.0])
def test_under_autocast_only_the_values_are_rounded(spread):
    inputs = tensors((1,), 600, 600, 64, 128, torch.float32, spread)
    expected = reference.position_attention(*(x.double() for x in inputs))
    truth = gradients(reference.position_attention, [x.double() for x in inputs])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_attention(*inputs)
        found = gradients(position_attention, inputs)
    assert output.dtype == torch.bfloat16
    assert relative_error(output, expected) < 4e-3  # scores in bfloat16 would make it 1 to 4 %
    for mine, theirs in zip(found, truth, strict=True):
        assert mine.dtype == torch.float32
        assert relative_error(mine, theirs) < 2e-2


def test_autocast_leaves_float64_alone():
    inputs = tensors((1,), 20, 20, 4, 5)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = position_attention(*inputs)
    torch.testing.assert_close(output, reference.position_attention(*inputs))


def test_double_backward_is_refused():
    query, key, value = tensors((1,), 5, 4, 3, 2)
    query.requires_grad_()
    output = position_attention(query, key, value)
    penalty = torch.autograd.grad(output.sum(), query, create_graph=True)[0].square().sum()
    with pytest.raises(RuntimeError, match="position attention can be differentiated once only"):
        (output.sum() + penalty).backward()


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_values_that_are_not_finite_spread(bad):
    query, key, value = tensors((1,), LONG, 300, 64, 128, torch.float32)
    query[0, 260, 3] = bad
    output, logsumexp = position_attention(query, key, value, return_logsumexp=True)
    spoilt = output.isnan().all(dim=-1)[0]
    assert spoilt.nonzero().flatten().tolist() == [260]
    assert not logsumexp[0, 260].isfinite()
    value[0, 7, 5] = bad
    assert not position_attention(query, key, value)[..., 5].isfinite().any()


@pytest.mark.parametrize("leading", [(0,), (2, 0)])
def test_empty_batch_and_no_queries(leading):
    inputs = [x.requires_grad_() for x in tensors(leading, 6, 7, 3, 2)]
    output, logsumexp = position_attention(*inputs, return_logsumexp=True)
    assert output.shape == (*leading, 6, 2)
    assert logsumexp.shape == (*leading, 6)
    output.sum().backward()
    assert inputs[0].grad.shape == (*leading, 6, 3)
    assert position_attention(*tensors((2,), 0, 7, 3, 2)).shape == (2, 0, 2)


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


MEMORY = """
import torch
from danet.ops import position_attention
torch.manual_seed(0)
torch.set_num_threads(1)
inputs = [torch.randn(1, 9216, c).requires_grad_() for c in (32, 32, 64)]
grad = torch.randn(1, 9216, 64)
def peak():
    line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024
position_attention(*(x[:, :300] for x in inputs)).sum().backward()
before = peak()
output = position_attention(*inputs)
forward = peak()
output.backward(grad)
print(forward - before, peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="peak memory is read from /proc, which is not here")
def test_memory_does_not_grow_with_the_square_of_positions():
    found = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    forward, backward = map(float, found.split())
    # MB; one 9,216 × 9,216 matrix alone has 324, and the equations hold two of them forward.
    assert forward < 100
    assert backward < 150


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees(dtype):
    inputs = tensors((2,), LONG, 300, 64, 128, dtype)
    expected = reference.position_attention(*(x.double() for x in inputs))
    output = position_attention(*(x.cuda() for x in inputs)).cpu()
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 1e-3}[dtype]
    assert relative_error(output, expected) < tolerance
