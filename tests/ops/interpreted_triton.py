"""The kernels in Triton's interpreter, which test_triton.py starts with TRITON_INTERPRET=1 in a process of its own."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch
from torch.library import opcheck

from danet.ops import position_attention, position_kernels, position_triton
from danet.ops.operator import attend_triton
from danet.ops.position_kernels import Blocks
from tests import reference
from tests.ops.inputs import LAYOUTS, gradients, relative_error, tensors

KERNELS = ("forward", "grad_value", "grad_key", "grad_query")
DESIGNS = {name: getattr(position_kernels, name) for name in ("SPLIT", "SPECIALIZED", "WIDE", "RESIDENT", "TRUE")}
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
    kernels = [getattr(position_kernels, name) for name in KERNELS]
    kept = [(kernel.configs, kernel.early_config_prune) for kernel in kernels]
    for kernel in kernels:
        kernel.configs, kernel.early_config_prune = [position_kernels.configuration(blocks)], lambda found, **_: found
        kernel.cache.clear()
    try:
        yield
    finally:
        for kernel, (configs, prune) in zip(kernels, kept, strict=True):
            kernel.configs, kernel.early_config_prune = configs, prune


@pytest.fixture
def tried(monkeypatch) -> dict[str, list[Blocks]]:
    """What each kernel is tuned over; each takes the time of its turn, so that the first is the fastest."""
    monkeypatch.setattr(position_triton, "TUNED", True)
    found: dict[str, list[Blocks]] = {}
    for name in KERNELS:
        kernel = getattr(position_kernels, name)
        kernel.cache.clear()

        def time(call, quantiles, name=name):
            before = len(found.setdefault(name, []))
            call()
            return [float(before)] * len(quantiles)

        bench = kernel._bench

        def noted(*args, config, name=name, bench=bench, **rest):
            took = bench(*args, config=config, **rest)
            values = config.all_kwargs()
            sizes = [values[one] for one in ("ROWS", "STEP", "CHANNELS", "num_warps", "num_stages", "SPECIALIZED")]
            found[name].append(Blocks(*sizes))
            return took

        monkeypatch.setitem(kernel.__dict__, "do_bench", time)
        monkeypatch.setattr(kernel, "_bench", noted)
    return found


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
    found = gradients(lambda q, k, v: by_triton(q, k, v, scale), inputs)
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
    with only(Blocks(32, 32, 64, 4, 2)):
        check(tensors(*shape, dtype=dtype, spread=3.0))


@pytest.mark.parametrize("blocks", [pytest.param(one, id=f"{name} {one}") for name in DESIGNS for one in DESIGNS[name]])
def test_every_design_is_the_same_function(blocks):
    with only(blocks):
        check(tensors((1,), 70, 90, 16, 136, torch.float32, spread=3.0))


def test_the_widest():
    with only(Blocks(64, 32, 512, 8, 2)):
        check(tensors((1,), 20, 24, 128, 512, torch.float32, spread=3.0))


@pytest.mark.parametrize(
    "kinds", [(torch.float32, torch.float16), (torch.float16, torch.float32), (torch.float32, torch.float32)], ids=str
)
def test_types_that_differ_and_any_layout(kinds):
    """As under autocast, as maps of convolutions lie in memory, and where no 16 bytes begin; scores stay float32's."""
    query, key, value = tensors((2,), 37, 53, 8, 12, torch.float32, spread=30.0)
    key = torch.cat([key.new_zeros(1), key.flatten()])[1:].view(key.shape)
    assert key.data_ptr() % 16
    with only(Blocks(32, 32, 64, 4, 2)):
        check([query.mT.contiguous().mT.to(kinds[0]), key.to(kinds[0]), value.to(kinds[1])], tolerance=2e-3)


@pytest.mark.parametrize("scale", [-0.5, 0.0, 2])
def test_any_scale(scale):
    with only(Blocks(32, 32, 64, 4, 2)):
        check(tensors((2,), 37, 53, 5, 11, torch.float32), scale)


# NumPy says so of rows beyond the last key, which are not stored.
@pytest.mark.filterwarnings("ignore:overflow encountered in exp2:RuntimeWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul:RuntimeWarning")
def test_energies_far_below_those_of_no_key():
    """Beyond the last key there are zeros, whose weights would be e to the 300th."""
    query, key, value = tensors((1,), 40, 50, 8, 12, torch.float32)
    with only(Blocks(32, 32, 64, 4, 2)):
        check([query.abs() + 5, -key.abs() - 15, value], scale=0.5, tolerance=1e-4)


def test_where_nothing_may_be_tuned_one_size_of_blocks_is_taken_and_bits_stay(determinism, tried):
    torch.use_deterministic_algorithms(True)
    inputs = tensors((1,), 70, 90, 8, 12, torch.float32, spread=3.0)
    first, second = ((by_triton(*inputs), *gradients(by_triton, inputs)) for _ in range(2))
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    check(inputs)
    check([x.half() for x in inputs])
    assert not tried


def test_tuning_tries_what_the_machine_can_do_and_leaves_no_sum_behind(tried):
    """True float32 has blocks of its own, specialized warps are Hopper's, and channels are no more than the values'."""
    plain = {"SPLIT": position_kernels.SPLIT, "WIDE": position_kernels.WIDE, "RESIDENT": position_kernels.RESIDENT}
    inputs = tensors((1,), 20, 24, 8, 512, torch.float32, spread=3.0)
    check([x.half() for x in inputs])
    assert tried["forward"] == tried["grad_value"] == plain["SPLIT"] + plain["WIDE"]
    assert tried["grad_key"] == plain["SPLIT"][:3] + plain["RESIDENT"]
    check([x[..., :200].half() for x in inputs])
    assert tried["forward"][6:] == plain["SPLIT"]
    tried.clear()
    check(inputs)
    check([x[..., :40] for x in inputs])
    assert tried["forward"] == tried["grad_value"] == tried["grad_key"] == 2 * position_kernels.TRUE
    assert "grad_query" not in tried


def test_what_is_taken_untuned_hangs_on_the_chip():
    half, single = torch.zeros(1, dtype=torch.float16), torch.zeros(1)
    for name, kernel in ((name, getattr(position_kernels, name)) for name in KERNELS):
        for chip, query, most in ((90, half, True), (100, half, True), (86, half, False), (90, single, False)):
            (chosen,) = kernel.early_config_prune(
                kernel.configs, query=query, c=512, size=0, chip=chip, PRECISION="tf32"
            )
            found = [chosen.kwargs[one] for one in ("ROWS", "STEP", "CHANNELS")]
            large = [128, 64, 256] if "value" in name or name == "forward" else [64, 32, 512]
            assert found == (large if most else [64, 32, 64])


def test_threads_may_tune_at_once(tried):
    inputs = [tensors((1,), n, n, 8, 128, torch.float16) for n in (20, 40, 70, 20)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda one: by_triton(*one, 1.0), inputs))
    for output, one in zip(found, inputs, strict=True):
        assert relative_error(output, reference.position_attention(*(x.double() for x in one))) < 2e-3


def test_torchs_newer_settings_of_precision_are_no_stumbling_block():
    inputs, settings = tensors((1,), 5, 7, 8, 8, torch.float16), torch.backends.cuda.matmul
    before = settings.fp32_precision
    with only(Blocks(32, 32, 64, 4, 2)):
        plain = by_triton(*inputs)
        settings.fp32_precision = "tf32"
        try:
            assert torch.equal(by_triton(*inputs), plain)
        finally:
            settings.fp32_precision = before


def test_it_is_tuned_once_a_power_of_two(tried):
    for n in (33, 60, 64, 65):
        by_triton(*tensors((1,), n, n, 8, 128, torch.float16))
    assert tried["forward"] == 2 * position_kernels.SPLIT[:3]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of log 0 and 0/0, and beyond the last query
def test_energies_of_minus_infinity_weigh_nothing():
    """Of a whole block of keys, and of all keys, as danet.ops.tiles has them."""
    query, key, value = tensors((1,), 9, 70, 8, 12, torch.float32)
    query = query.abs() + 0.1
    for count in (32, 70):
        masked = key.clone()
        masked[:, :count] = -torch.inf
        with only(Blocks(32, 32, 64, 4, 2)):
            found = position_attention(query, masked, value, return_logsumexp=True, backend="triton")
        expected = position_attention(query, masked, value, return_logsumexp=True, backend="tiles")
        for mine, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6, equal_nan=True)


def test_large_energies_and_large_values():
    query, key, value = tensors((1,), 40, 50, 8, 12, torch.float32, spread=300.0)
    with only(Blocks(32, 32, 64, 4, 2)):
        check([query, key, value], tolerance=1e-4)  # an energy of 500 is exact to 3e-5, and so is its exponential
        half = 6e4 * torch.ones(1, 50, 12, dtype=torch.float16)
        assert torch.equal(by_triton(0 * query, key, half), half[:, :40])


def test_nothing_gives_nothing():
    for n, m, c in ((0, 5, 4), (5, 3, 0)):
        output = by_triton(torch.zeros(2, n, 3), torch.zeros(2, m, 3), torch.zeros(2, m, c))
        assert output.shape == (2, n, c)
    value = torch.arange(12.0).view(1, 4, 3)
    mean = by_triton(torch.zeros(1, 2, 0), torch.zeros(1, 4, 0), value)  # no width: all places are alike
    torch.testing.assert_close(mean, value.mean(1, keepdim=True).expand(1, 2, 3))


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ([torch.zeros(1, 3, 4, dtype=torch.float64)] * 3, "takes float32, bfloat16 and float16, not torch.float64"),
        ([torch.zeros(1, 3, 4, dtype=torch.bfloat16)] * 3, "takes no bfloat16 in Triton's interpreter"),
        ([torch.zeros(65_536, 1, 4)] * 3, "takes at most 65,535 pairs of query and key, not 65,536"),
        ([torch.zeros(1, 3, 129)] * 3, "takes widths up to 128 and 512, not 129"),
        ([torch.zeros(1, 3, 4), torch.zeros(1, 3, 4), torch.zeros(1, 3, 513)], "takes widths up to 128 and 512, not 4"),
    ],
)
def test_what_it_cannot_do_it_says(inputs, told):
    with pytest.raises(ValueError, match=f"by 'triton' {told}.*choose 'auto'"):
        position_attention(*inputs, backend="triton")


def test_tensors_of_several_devices_are_refused():
    here, elsewhere = torch.zeros(1, 3, 4), torch.zeros(1, 3, 4, device="meta")
    told = position_triton.refusal(here, elsewhere, here)
    assert told == "takes tensors of one device, not cpu, meta and cpu"


# opcheck looks at the gradient of tensors that are no leaves.
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor")
@pytest.mark.parametrize("layout", ["dense", "transposed"])
@pytest.mark.parametrize("shape", [((2,), 5, 7, 3, 2), ((0,), 5, 7, 3, 2), ((2,), 0, 7, 3, 2)], ids=str)
def test_the_operators_are_as_torch_wants_them(shape, layout):
    query, key, value = (LAYOUTS[layout](x) for x in tensors(*shape, dtype=torch.float32))
    backward = torch.ops.danet.position_attention_triton_backward.default
    for inputs in ([query, key, value], [query, key, value.half()]):
        opcheck(attend_triton, (*(x.requires_grad_() for x in inputs), 0.7))
        inputs = [x.detach() for x in inputs]
        output, logsumexp = attend_triton(*inputs, 0.7)
        opcheck(backward, (torch.ones_like(output), *inputs, output, logsumexp, 0.7))


def test_a_gradient_of_its_gradient_is_refused():
    inputs = [x.requires_grad_() for x in tensors((1,), 5, 7, 3, 2, torch.float32)]
    with only(Blocks(32, 32, 64, 4, 2)):
        (grad,) = torch.autograd.grad(by_triton(*inputs).sum(), inputs[0], create_graph=True)
        with pytest.raises(RuntimeError, match="by 'triton' can be differentiated once only"):
            grad.sum().backward()
