import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.export import Dim

import danet
from danet.ops import channel_attention, channel_attention_map
from tests import reference
from tests.ops.inputs import FLOATS, LAYOUTS, gradients, relative_error

RULES = ["official", "paper"]


def features(*shape, dtype=torch.float64, energy=None, seed=0):
    """Random features; with `energy`, scaled so that a channel's energy with itself is about that."""
    x = torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return (x if energy is None else x * (energy / shape[-1]) ** 0.5).to(dtype)


def triple(*leading):
    """Query, key and value of widths of their own."""
    return features(*leading, 6, 9), features(*leading, 4, 9, seed=1), features(*leading, 4, 5, seed=2)


def by(rule):
    """Channel attention, and the equations: of query, key and value."""
    return lambda *x: channel_attention(*x, rule=rule), lambda *x: reference.channel_attention(*x, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", [(2, 7, 15), (5, 3), (2, 3, 64, 33)], ids=str)
def test_values_and_gradients_are_the_equations(shape, layout, rule):
    x = LAYOUTS[layout](features(*shape, energy=5.0))
    torch.testing.assert_close(channel_attention(x, rule=rule), reference.channel_attention(x, x, x, rule))
    found = gradients(lambda x: channel_attention(x, rule=rule), [x], layout)
    truth = gradients(lambda x: reference.channel_attention(x, x, x, rule), [x], layout)
    torch.testing.assert_close(found, truth)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("leading", [(), (2,), (2, 3)], ids=str)
def test_key_and_value_of_their_own(leading, rule):
    query, key, value = triple(*leading)
    attention, equations = by(rule)
    torch.testing.assert_close(attention(query, key, value), equations(query, key, value))
    torch.testing.assert_close(channel_attention_map(query, key, rule), reference.channel_map(query, key, rule))
    torch.testing.assert_close(gradients(attention, [query, key, value]), gradients(equations, [query, key, value]))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck], ids=["once", "twice"])
def test_gradcheck(check, rule):
    inputs = [x.requires_grad_() for x in (features(2, 3, 5), features(2, 4, 5, seed=1), features(2, 4, 2, seed=2))]
    assert check(by(rule)[0], inputs)


@pytest.mark.parametrize("wanted", [0, 1, 2], ids=["query", "key", "value"])
def test_a_gradient_in_one_input_only(wanted):
    inputs = triple(2)
    inputs[wanted].requires_grad_()
    channel_attention(*inputs).sum().backward()
    truth = torch.autograd.grad(reference.channel_attention(*inputs, "official").sum(), inputs[wanted])[0]
    torch.testing.assert_close(inputs[wanted].grad, truth)
    assert all(x.grad is None for index, x in enumerate(inputs) if index != wanted)


@pytest.mark.parametrize("batch", [1, 2])  # one image is large enough for oneDNN's product, more go to torch's
def test_channels_last_in_channels_last_out(batch):
    planes = features(batch, 128, 2700, dtype=torch.float32, energy=10.0)
    last = LAYOUTS["transposed"](planes)
    output = channel_attention(last)
    assert output.mT.is_contiguous()
    assert channel_attention(planes).is_contiguous()
    assert relative_error(output, channel_attention(planes)) < 1e-6
    exact = [planes.double()] * 3
    assert relative_error(output, reference.channel_attention(*exact, "official")) < 1e-5
    truth = gradients(lambda x: reference.channel_attention(x, x, x, "official"), exact[:1])[0]
    for x, layout in [(planes, "dense"), (last, "transposed"), (last, "dense")]:
        assert relative_error(gradients(channel_attention, [x], layout)[0], truth) < 1e-5


def test_nothing_but_the_features_and_the_map_is_kept_for_backward():
    x = features(1, 64, 900, dtype=torch.bfloat16).requires_grad_()
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda saved: kept.append(saved) or saved, lambda saved: saved):
        channel_attention(x).sum().backward()
    others = [saved for saved in kept if saved.untyped_storage().data_ptr() != x.untyped_storage().data_ptr()]
    assert [(saved.shape, saved.dtype) for saved in others] == [((1, 64, 64), torch.float32)]
    assert x.grad.dtype == torch.bfloat16


def test_the_rules_differ_and_official_is_the_default():
    x = features(1, 4, 6)
    torch.testing.assert_close(channel_attention(x), channel_attention(x, rule="official"))
    assert relative_error(channel_attention(x, rule="paper"), channel_attention(x)) > 0.1


@given(
    leading=st.lists(st.integers(1, 3), max_size=2),
    channels=st.integers(1, 130),
    positions=st.integers(1, 400),
    dtype=st.sampled_from(FLOATS),
    layout=st.sampled_from(list(LAYOUTS)),
    rule=st.sampled_from(RULES),
)
def test_any_shape_type_and_layout(leading, channels, positions, dtype, layout, rule):
    x = LAYOUTS[layout](features(*leading, channels, positions, dtype=dtype, energy=10.0, seed=channels))
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


def test_gradients_under_autocast_are_those_without():
    x = features(1, 64, 900, dtype=torch.float32, energy=30.0)
    truth = gradients(lambda x: reference.channel_attention(x, x, x, "official"), [x.double()])[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert relative_error(gradients(channel_attention, [x])[0], truth) < 1e-5


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


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("autocast", ["nowhere", "inside", "outside"])
def test_compiled_it_is_one_graph_of_any_size(autocast, rule):
    def attention(x):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast == "inside"):
            return channel_attention(x, rule=rule)

    torch.compiler.reset()
    compiled = torch.compile(attention if autocast == "inside" else by(rule)[0], backend="aot_eager", fullgraph=True)
    first, second = features(2, 8, 30, dtype=torch.float32), features(2, 8, 41, dtype=torch.float32)
    torch._dynamo.mark_dynamic(first, 2)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast == "outside"):
        torch.testing.assert_close(compiled(first), attention(first))
        with torch.compiler.set_stance("fail_on_recompile"):
            torch.testing.assert_close(compiled(second), attention(second))
        found, truth = gradients(compiled, [first])[0], gradients(attention, [first])[0]
    # Compiled under autocast, torch has the backward's products under autocast too.
    assert relative_error(found, truth) < (2e-2 if autocast == "outside" else 1e-6)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_an_exported_module_takes_images_of_other_sizes(memory_format):
    module = danet.ChannelAttention().eval()
    torch.nn.init.constant_(module.gate, 0.5)
    image = features(2, 16, 6, 8, dtype=torch.float32).to(memory_format=memory_format)
    program = torch.export.export(module, (image,), dynamic_shapes=({2: Dim.DYNAMIC, 3: Dim.DYNAMIC},))
    other = features(2, 16, 9, 7, dtype=torch.float32)
    for x in (other, other.to(memory_format=torch.channels_last)):
        torch.testing.assert_close(program.module()(x), module(x))


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
