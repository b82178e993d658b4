import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from danet.ops import tiles
from tests import reference
from tests.ops.inputs import LAYOUTS, gradients, relative_error, small_tiles, tensors


def errors(inputs, scale=1.0, layout="dense"):
    """Of output, log-sum-exp and the gradients in query, key and value, against the equations in float64."""
    exact = [x.double() for x in inputs]
    output, logsumexp = tiles.attend(*inputs, scale)
    generator = torch.Generator().manual_seed(1)
    grad = LAYOUTS[layout](torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype))
    found = [output, logsumexp, *tiles.attend_backward(grad, *inputs, output, logsumexp, scale)]
    for x in exact:
        x.requires_grad_()
    expected = reference.position_attention(*exact, scale=scale)
    scores = torch.einsum("bid,bjd->bij", *exact[:2]) * scale
    truth = [expected, scores.logsumexp(-1), *torch.autograd.grad(expected, exact, grad.double())]
    assert all(mine.shape == theirs.shape for mine, theirs in zip(found, truth, strict=True))
    return [relative_error(mine, theirs) for mine, theirs in zip(found, truth, strict=True)]


@pytest.mark.parametrize("layout", ["dense", "transposed"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 3e-6)], ids=str)
def test_several_tiles_of_the_real_size(dtype, tolerance, layout):
    n, m = 2 * tiles.QUERIES + 3, 2 * tiles.KEYS + 5
    inputs = [LAYOUTS[layout](x) for x in tensors((1,), n, m, 24, 32, dtype, spread=3.0)]
    assert max(errors(inputs, layout=layout)) < tolerance


@given(
    queries=st.integers(1, 20),
    keys=st.integers(1, 20),
    batch=st.integers(1, 5),
    n=st.integers(1, 40),
    m=st.integers(2, 40),
    scale=st.sampled_from([1.0, 0.2, -1.5]),
)
def test_tiles_of_any_size_give_the_same(queries, keys, batch, n, m, scale):
    with small_tiles(queries, keys):
        assert max(errors(tensors((batch,), n, m, 3, 4, seed=m), scale)) < 1e-10


@pytest.mark.parametrize("great", [0, 47, 48, 199], ids=["first", "end of a tile", "start of a tile", "last"])
def test_one_much_greater_score_wins_in_whatever_tile(great):
    query, key, value = tensors((2,), 70, 200, 4, 5)
    query[..., 0], key[:, great, 0] = 1.0, 800.0
    with small_tiles():
        output, logsumexp = tiles.attend(query, key, value, 1.0)
    torch.testing.assert_close(output, reference.position_attention(query, key, value))
    torch.testing.assert_close(output, value[:, great, None].expand_as(output))
    torch.testing.assert_close(logsumexp, (query * key[:, great, None]).sum(-1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_scores_of_ten_thousand_do_not_overflow(dtype):
    query, key, value = tensors((1,), 70, 200, 4, 5, dtype)
    query[..., 0], key[..., 0] = 100.0, torch.linspace(-100, 100, 200).to(dtype)
    exact = [x.double() for x in (query, key, value)]
    with small_tiles():
        output, logsumexp = tiles.attend(query, key, value, 1.0)
        found = gradients(lambda *x: torch.ops.danet.position_attention(*x, 1.0)[0], (query, key, value))
    assert relative_error(output, reference.position_attention(*exact)) < 1e-2
    assert relative_error(logsumexp, (exact[0] @ exact[1].mT).logsumexp(-1)) < 1e-6
    assert all(x.isfinite().all() for x in found)


def test_many_values_of_float16_do_not_overflow():
    # Before it is divided by the sum of weights, a tile's sum over 2,048 keys may exceed float16's 65,504.
    query, key = torch.zeros(1, 3, 8).half(), torch.zeros(1, tiles.KEYS, 8).half()
    value = torch.full((1, tiles.KEYS, 2), 100.0).half()
    torch.testing.assert_close(tiles.attend(query, key, value, 1.0)[0], value[:, :3])


@pytest.mark.parametrize("tile", [slice(0, 48), slice(48, 96), slice(96, 100)], ids=["first", "second", "last"])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float16, 1e-3)], ids=str)
def test_a_tile_of_scores_that_are_minus_infinity_weighs_nothing(dtype, tolerance, tile):
    query, key, value = tensors((1,), 70, 100, 4, 5, dtype)
    query[..., 0] = -1.0
    key[:, tile, 0] = math.inf
    with small_tiles():
        output, logsumexp = tiles.attend(query, key, value, 1.0)
    query, key, value = query.double(), key.double(), value.double()
    others = torch.ones(100, dtype=torch.bool)
    others[tile] = False
    expected = reference.position_attention(query, key[:, others], value[:, others])
    torch.testing.assert_close(reference.position_attention(query, key, value), expected)
    assert relative_error(output, expected) < tolerance
    assert relative_error(logsumexp, (query @ key.mT).logsumexp(-1)) < tolerance


def test_rows_whose_scores_are_all_minus_infinity_are_nan():
    query, key, value = tensors((1,), 70, 100, 4, 5)
    query[..., 0], key[..., 0] = -1.0, math.inf
    with small_tiles():
        output, logsumexp = tiles.attend(query, key, value, 1.0)
    assert output.isnan().all()  # as softmax has it
    assert (logsumexp == -math.inf).all()


@pytest.mark.parametrize("batch", [0, 2])
@pytest.mark.parametrize("n", [0, 5])
def test_nothing_in_nothing_out(batch, n):
    query, key, value = tensors((batch,), n, 7, 3, 2)
    output, logsumexp = tiles.attend(query, key, value, 1.0)
    assert output.shape == (batch, n, 2)
    assert logsumexp.shape == (batch, n)
    grads = tiles.attend_backward(torch.ones_like(output), query, key, value, output, logsumexp, 1.0)
    assert [x.shape for x in grads] == [query.shape, key.shape, value.shape]
    assert n > 0 or all((x == 0).all() for x in grads)


def test_the_widest_type_counts():
    half, single, double = (torch.zeros(1, dtype=dtype) for dtype in (torch.float16, torch.float32, torch.float64))
    assert tiles.wide_dtype(half, half) == tiles.wide_dtype(half, single) == torch.float32
    assert tiles.wide_dtype(half, single, double) == torch.float64
