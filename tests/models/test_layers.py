import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from danet.models.layers import resize

sides = st.integers(1, 40)


@given(st.tuples(sides, sides), st.tuples(sides, sides), st.booleans(), st.sampled_from([torch.float32, torch.float64]))
def test_logits_that_learn_are_resized_as_torch_does(small, large, align_corners, dtype):
    """By two products, of which torch's own is the other way."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(2, 3, *small, generator=generator, dtype=torch.float64).to(dtype)
    grad = torch.randn(2, 3, *large, generator=generator, dtype=torch.float64).to(dtype)
    found, expected = logits.clone().requires_grad_(), logits.clone().requires_grad_()
    mine = resize(found, torch.Size(large), align_corners)
    theirs = F.interpolate(expected, size=large, mode="bilinear", align_corners=align_corners)
    mine.backward(grad)
    theirs.backward(grad)
    tolerance = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 1e-9, "atol": 1e-11}
    assert mine.dtype == dtype
    torch.testing.assert_close(mine, theirs, **tolerance)
    torch.testing.assert_close(found.grad, expected.grad, **tolerance)
    torch.testing.assert_close(resize(logits, torch.Size(large), align_corners), theirs, **tolerance)
