"""The kernels in Triton's interpreter, which test_triton.py starts with TRITON_INTERPRET=1 in a process of its own."""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from danet.ops import position_attention, position_triton
from tests import reference
from tests.ops.inputs import gradients, relative_error, tensors

KERNELS = ("_forward", "_grad_value", "_grad_key", "_grad_query")
DESIGNS = {"split": position_triton.SPLIT, "wide": position_triton.WIDE, "true": position_triton.TRUE}
TOLERANCES = {torch.float32: 2e-6, torch.float16: 2e-3}
# leading dimensions, n, m, d, c: odd, self and cross, within a block and over several, one key, one of everything
SHAPES = [
    ((2,), 37, 53, 5, 11),
    ((1,), 100, 70, 16, 130),
    ((3,), 9, 1, 3, 4),
    ((), 1, 1, 1, 1),
    ((2, 1), 66, 66, 40, 64),
]


@contextmanager
def only(blocks) -> Iterator[None]:
    """All kernels with these blocks alone, so that nothing is tuned."""
    kernels = [getattr(position_triton, name) for name in KERNELS]
    kept = [(kernel.configs, kernel.early_config_prune) for kernel in kernels]
    for kernel in kernels:
        kernel.configs, kernel.early_config_prune = [position_triton._configuration(blocks)], None
        kernel.cache.clear()
    try:
        yield
    finally:
        for kernel, (configs, prune) in zip(kernels, kept, strict=True):
            kernel.configs, kernel.early_config_prune = configs, prune


def by_triton(query, key, value, scale=0.5):
    return position_attention(query, key, value, scale, backend="triton")


def check(inputs, scale=0.5, tolerance=None):
    tolerance = tolerance or TOLERANCES[inputs[2].dtype]
    exact = [x.double() for x in inputs]
    output, logsumexp = position_attention(*inputs, scale, return_logsumexp=True, backend="triton")
    expected = reference.position_attention(*exact, scale=scale)
    assert output.dtype == inputs[2].dtype
    assert relative_error(output, expected) < tolerance
    truth = (exact[0] @ exact[1].mT * scale).logsumexp(-1)
    torch.testing.assert_close(logsumexp.double(), truth, rtol=3e-7, atol=1e-5)
    found = gradients(by_triton, inputs)
    wanted = gradients(lambda q, k, v: reference.position_attention(q, k, v, scale=scale), exact)
    for name, mine, theirs in zip("qkv", found, wanted, strict=True):
        assert mine.dtype == inputs["qkv".index(name)].dtype
        if inputs[1].shape[-2] > 1 or name == "v":  # with a single key, scores do not matter
            assert relative_error(mine, theirs) < 5 * tolerance, name
        else:
            assert mine.abs().max() < tolerance


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", TOLERANCES, ids=str)
def test_values_and_gradients_are_the_equations(shape, dtype):
    with only((32, 32, 64, 4, 2)):
        check(tensors(*shape, dtype=dtype, spread=3.0))


@pytest.mark.parametrize("blocks", [pytest.param(one, id=f"{name} {one}") for name in DESIGNS for one in DESIGNS[name]])
def test_every_design_is_the_same_function(blocks):
    with only(blocks):
        check(tensors((1,), 70, 90, 16, 136, torch.float32, spread=3.0))


def test_the_widest():
    with only((64, 32, 512, 8, 2)):
        check(tensors((1,), 20, 24, 128, 512, torch.float32, spread=3.0))


def test_types_that_differ_and_any_layout():
    """As under autocast, and as maps of convolutions lie in memory."""
    query, key, value = tensors((2,), 37, 53, 8, 12, torch.float32, spread=3.0)
    with only((32, 32, 64, 4, 2)):
        check([query.mT.contiguous().mT, key, value.half()])


def test_sums_are_the_same_bits_every_time():
    inputs = tensors((1,), 70, 90, 8, 12, torch.float32, spread=3.0)
    with only((32, 32, 64, 4, 2)):
        first, second = ((by_triton(*inputs), *gradients(by_triton, inputs)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))


def test_large_energies_and_large_values():
    query, key, value = tensors((1,), 40, 50, 8, 12, torch.float32, spread=300.0)
    with only((32, 32, 64, 4, 2)):
        check([query, key, value], tolerance=1e-4)  # an energy of 500 is exact to 3e-5, and so is its exponential
        half = 6e4 * torch.ones(1, 50, 12, dtype=torch.float16)
        assert torch.equal(by_triton(0 * query, key, half), half[:, :40])


def test_nothing_gives_nothing():
    for n, m, c in ((0, 5, 4), (5, 3, 0)):
        output = by_triton(torch.zeros(2, n, 3), torch.zeros(2, m, 3), torch.zeros(2, m, c))
        assert output.shape == (2, n, c)


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([torch.zeros(1, 3, 4, dtype=torch.float64)] * 3, "takes float32, bfloat16 and float16, not torch.float64"),
        ([torch.zeros(1, 3, 129)] * 3, "takes widths up to 128 and 512, not 129"),
        ([torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.zeros(1, 3, 513)], "takes widths up to 128 and 512, not 4"),
    ],
)
def test_what_it_cannot_do_it_says(inputs, told):
    with pytest.raises(ValueError, match=f"by 'triton' {told}.*choose 'auto'"):
        position_attention(*inputs, backend="triton")


def test_a_gradient_of_its_gradient_is_refused():
    inputs = [x.requires_grad_() for x in tensors((1,), 5, 7, 3, 2, torch.float32)]
    with only((32, 32, 64, 4, 2)):
        (grad,) = torch.autograd.grad(by_triton(*inputs).sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="by 'triton' can be differentiated once only"):
            grad.sum().backward()


def test_what_is_tuned_over():
    """True float32 has blocks of its own, all else the two designs."""
    kernel = position_triton._forward
    halves, floats = (
        kernel.early_config_prune(kernel.configs, {"query": torch.zeros(1, dtype=dtype)}, PRECISION="ieee")
        for dtype in (torch.float16, torch.float32)
    )
    rounded = kernel.early_config_prune(kernel.configs, {"query": torch.zeros(1)}, PRECISION="tf32")
    sizes = [[tuple(one.kwargs.values()) for one in some] for some in (halves, floats, rounded)]
    assert sizes[0] == sizes[2] == [one[:3] for one in itertools.chain(position_triton.SPLIT, position_triton.WIDE)]
    assert sizes[1] == [one[:3] for one in position_triton.TRUE]
