import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from danet.ops import channel_attention, channel_attention_map
from tests import reference

RULES = ["official", "paper"]


def features(*shape, dtype=torch.float64, energy=None, seed=0):
    """Random features; with `energy`, scaled so that a channel's energy with itself is about that."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x if energy is None else x * (energy / shape[-1]) ** 0.5).to(dtype)


def relative_error(found, expected):
    return ((found.double() - expected.double()).norm() / expected.double().norm()).item()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(2, 7, 15), (5, 3), (2, 3, 64, 33)], ids=str)
def test_values_and_gradients_are_the_equations(shape, rule):
    x = features(*shape, energy=5.0).requires_grad_()
    output = channel_attention(x, rule=rule)
    expected = reference.channel_attention(x, x, x, rule)
    torch.testing.assert_close(output, expected)
    weights = features(*shape, seed=1)
    found = torch.autograd.grad((output * weights).sum(), x)[0]
    truth = torch.autograd.grad((expected * weights).sum(), x)[0]
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("rule", RULES)
def test_key_and_value_of_their_own(rule):
    query, key, value = features(2, 6, 9), features(2, 4, 9, seed=1), features(2, 4, 5, seed=2)
    expected = reference.channel_attention(query, key, value, rule)
    torch.testing.assert_close(channel_attention(query, key, value, rule=rule), expected)
    torch.testing.assert_close(channel_attention_map(query, key, rule), reference.channel_map(query, key, rule))


@pytest.mark.parametrize("rule", RULES)
def test_gradcheck(rule):
    inputs = [x.requires_grad_() for x in (features(2, 3, 5), features(2, 4, 5, seed=1), features(2, 4, 2, seed=2))]
    assert torch.autograd.gradcheck(lambda q, k, v: channel_attention(q, k, v, rule=rule), inputs)


def test_the_rules_differ_and_official_is_the_default():
    x = features(1, 4, 6)
    torch.testing.assert_close(channel_attention(x), channel_attention(x, rule="official"))
    assert relative_error(channel_attention(x, rule="paper"), channel_attention(x)) > 0.1


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    batch=st.integers(1, 3),
    channels=st.integers(1, 130),
    positions=st.integers(1, 400),
    dtype=st.sampled_from([torch.float64, torch.float32, torch.bfloat16, torch.float16]),
    rule=st.sampled_from(RULES),
)
def test_any_shape_and_type(batch, channels, positions, dtype, rule):
    x = features(batch, channels, positions, dtype=dtype, energy=10.0, seed=channels)
    expected = reference.channel_attention(x.double(), x.double(), x.double(), rule)
    output = channel_attention(x, rule=rule)
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 8e-3, torch.float16: 2e-3}[dtype]
    assert output.dtype == dtype
    assert relative_error(output, expected) < tolerance


def test_permuted_channels_permute_the_result():
    x = features(2, 20, 30)
    order = torch.randperm(20, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(channel_attention(x[:, order]), channel_attention(x)[:, order])


@pytest.mark.parametrize("rule", RULES)
def test_energies_stay_float32_under_autocast(rule):
    x = features(1, 128, 2700, dtype=torch.float32, energy=300.0)
    x = x + x.roll(1, dims=1)  # energies near one another at the top and at the bottom of each row
    exact = reference.channel_map(x.double(), x.double(), rule)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = channel_attention_map(x, rule=rule)
        naive = reference.channel_map(x, x, rule)
        output = channel_attention(x, rule=rule)
        halved = channel_attention(x.bfloat16(), rule=rule)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-3
    if rule == "official":  # by the paper's rule this map is the unit matrix, whatever the rounding
        assert (naive - exact).abs().max() > 1e-2
    assert output.dtype == torch.float32
    assert halved.dtype == torch.bfloat16


def test_energies_are_not_rounded_where_torch_rounds_products():
    # Only the setting can show it where the processor has no such units: there the results hardly differ.
    x = features(1, 64, 2700, dtype=torch.float32, energy=3000.0)
    exact = reference.channel_map(x.double(), x.double(), "official")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        found = channel_attention_map(x)
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-6  # float32 energies of 3,000 alone are off by 1e-4


@pytest.mark.gpu
def test_energies_are_not_rounded_to_tf32_on_cuda():
    x = features(1, 512, 9216, dtype=torch.float32, energy=3000.0)
    exact = reference.channel_map(x.double(), x.double(), "official")
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        found = channel_attention_map(x.cuda()).cpu()
    finally:
        torch.set_float32_matmul_precision(before)
    assert (found - exact).abs().max() < 1e-3


def test_nan_spreads_and_an_empty_batch_passes():
    x = features(2, 4, 6)
    x[0, 1, 2] = float("nan")
    output, attention = channel_attention(x), channel_attention_map(x)
    assert output[0].isnan().all()
    assert attention[0, 1].isnan().all()
    assert output[1].isfinite().all()
    assert channel_attention(features(0, 4, 6)).shape == (0, 4, 6)


def test_an_unknown_rule_is_named():
    with pytest.raises(
        ValueError, match=r"^there is no channel attention rule 'offical': choose 'official' or 'paper'$"
    ):
        channel_attention(features(2, 3, 4), rule="offical")


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 3, 4), (2, 3, 5), (2, 3, 4)),
        ((2, 3, 4), (1, 3, 4), (1, 3, 4)),
        ((2, 3, 4), (2, 3, 4), (2, 5, 4)),
        ((3,),) * 3,
    ],
    ids=["positions", "batch", "values", "vectors"],
)
def test_shapes_that_do_not_fit_are_named(shapes):
    with pytest.raises(ValueError, match="channel attention takes") as caught:
        channel_attention(*(torch.zeros(shape) for shape in shapes))
    assert str(shapes[1]) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_map_of_vectors_is_refused():
    with pytest.raises(ValueError, match=r"channel attention takes query … c n .* not \(3,\) and \(3,\)"):
        channel_attention_map(torch.zeros(3))
