import types

import pytest
import torch

from danet.ops.product import ONEDNN_WORK, product
from tests.ops.inputs import LAYOUTS, relative_error

needs_onednn = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


@pytest.fixture(autouse=True)
def as_on_other_processors(monkeypatch):
    """On Intel's, where oneDNN is left out, it is tested all the same."""
    monkeypatch.setattr("danet.ops.product.INTEL", False)


def factors(n=300, k=256, m=300, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(1, *shape, generator=generator, dtype=dtype) for shape in ((n, k), (k, m))]


def implementations(capfd, left, right):
    """Of oneDNN, which write down what they do: those that made the product."""
    capfd.readouterr()
    with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
        product(left, right)
    lines = (line.split(",") for line in capfd.readouterr().out.splitlines())
    return {line[line.index("inner_product") + 1] for line in lines if {"exec", "inner_product"} <= set(line)}


@needs_onednn
def test_torch_still_has_the_private_operator():
    assert hasattr(torch.ops.mkldnn, "_linear_pointwise")  # without it products go, at half the speed, to MKL


@pytest.mark.parametrize("right_layout", LAYOUTS)
@pytest.mark.parametrize("left_layout", LAYOUTS)
def test_large_products_are_exact_in_any_layout(left_layout, right_layout):
    left, right = factors()
    left, right = LAYOUTS[left_layout](left), LAYOUTS[right_layout](right)
    assert left.numel() * right.shape[2] >= ONEDNN_WORK
    equal_terms = left_layout == right_layout == "expanded"  # whose roundings add up
    tolerance = 1e-5 if equal_terms else 1e-6
    assert relative_error(product(left, right), left.double() @ right.double()) < tolerance


@needs_onednn
@pytest.mark.parametrize("layout", LAYOUTS)
def test_onednn_makes_large_products_and_at_speed(capfd, layout):
    left, right = factors()
    dense = implementations(capfd, left, right)
    assert dense
    # A factor that is not dense may get oneDNN's reference loops: right, and a thousand times slower.
    assert implementations(capfd, LAYOUTS[layout](left), right) == dense
    assert implementations(capfd, left, LAYOUTS[layout](right)) == dense


@needs_onednn
def test_on_intels_processors_all_are_left_to_torch(capfd, monkeypatch):
    monkeypatch.setattr("danet.ops.product.INTEL", True)
    left, right = factors()
    assert not implementations(capfd, left, right)
    assert torch.equal(product(left, right), left @ right)


@needs_onednn
def test_others_are_left_to_torch(capfd):
    left, right = factors()
    shorter = right[..., : ONEDNN_WORK // left.numel()]
    for a, b in [
        (left, shorter),
        (left.double(), right.double()),
        (left.bfloat16(), right.bfloat16()),
        (left.expand(2, -1, -1), right.expand(2, -1, -1)),
    ]:
        assert not implementations(capfd, a, b)
        assert torch.equal(product(a, b), a @ b)
    assert product(left[:0], right[:0]).shape == (0, 300, 300)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(300, 256, 300), (600, 64, 440), (64, 600, 440)], ids=str)
def test_gradients_and_their_gradients(shape, layout):
    left, right = factors(*shape)
    left, right = LAYOUTS[layout](left).requires_grad_(), LAYOUTS[layout](right).requires_grad_()
    generator = torch.Generator().manual_seed(1)
    grad = LAYOUTS[layout](torch.randn(1, shape[0], shape[2], generator=generator))

    def derivatives(multiply, dtype):
        inputs = [left.to(dtype), right.to(dtype), grad.to(dtype).requires_grad_()]
        first = torch.autograd.grad(multiply(*inputs[:2]), inputs[:2], inputs[2], create_graph=True)
        second = torch.autograd.grad(sum(x.square().sum() for x in first), inputs)
        return [*first, *second]

    for found, truth in zip(derivatives(product, torch.float32), derivatives(torch.matmul, torch.float64), strict=True):
        assert relative_error(found, truth) < 5e-6


@needs_onednn
def test_a_factor_without_gradient_needs_none():
    left, right = factors()
    output = product(left, right.requires_grad_())
    output.sum().backward()
    assert left.grad is None
    assert relative_error(right.grad, left.mT.double() @ torch.ones(1, 300, 300).double()) < 1e-6


@needs_onednn
@pytest.mark.filterwarnings("ignore:TF32 acceleration on top of oneDNN")
def test_without_onednn_torch_multiplies(capfd):
    left, right = factors()
    with torch.backends.mkldnn.flags(enabled=False):
        assert not implementations(capfd, left, right)
        assert torch.equal(product(left, right), left @ right)


def test_without_the_private_operator_torch_multiplies(monkeypatch):
    left, right = factors()
    monkeypatch.setattr(torch.ops, "mkldnn", types.SimpleNamespace())  # as a torch without it
    assert torch.equal(product(left, right), left @ right)


def test_no_setting_of_torch_is_changed():
    def settings():
        backends = (torch.backends, torch.backends.mkldnn, torch.backends.mkldnn.matmul, torch.backends.cuda.matmul)
        return torch.get_float32_matmul_precision(), [backend.fp32_precision for backend in backends]

    before = settings()
    left, right = factors()
    product(left.requires_grad_(), right).sum().backward()
    assert settings() == before
