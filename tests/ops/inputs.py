"""What tests of attention share: inputs of every type and layout, gradients, errors, and tiles as small as they are."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from danet.ops import tiles

FLOATS = [torch.float64, torch.float32, torch.bfloat16, torch.float16]

# How a matrix may lie in memory. All keep the values, but "expanded", which repeats the first column.
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "dense": lambda x: x.contiguous(),
    "transposed": lambda x: x.mT.contiguous().mT,  # so B×C×H×W comes from a convolution
    "sliced": lambda x: F.pad(x, (1, 2, 3, 0))[..., 3:, 1:-2],
    "turned slice": lambda x: F.pad(x.mT, (1, 2, 3, 0))[..., 3:, 1:-2].mT,
    "spread": lambda x: x.repeat_interleave(2, dim=-1)[..., ::2],
    "expanded": lambda x: x[..., :1].expand_as(x),
}


def tensors(
    leading: Sequence[int],
    n: int,
    m: int,
    d: int,
    c: int,
    dtype: torch.dtype = torch.float64,
    spread: float = 1.0,
    seed: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Query, key and value with energies whose standard deviation is `spread`."""
    generator = torch.Generator().manual_seed(seed)
    amplitude = (spread / d**0.5) ** 0.5
    query = torch.randn(*leading, n, d, generator=generator, dtype=torch.float64) * amplitude
    key = torch.randn(*leading, m, d, generator=generator, dtype=torch.float64) * amplitude
    value = torch.randn(*leading, m, c, generator=generator, dtype=torch.float64)
    return query.to(dtype), key.to(dtype), value.to(dtype)


def gradients(
    function: Callable[..., Tensor], inputs: Sequence[Tensor], layout: str = "dense", seed: int = 1
) -> tuple[Tensor, ...]:
    """In all inputs, for a random gradient of the result that lies in memory as `layout` says."""
    inputs = [x.detach().requires_grad_() for x in inputs]
    output = function(*inputs)
    grad = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return torch.autograd.grad(output, inputs, LAYOUTS[layout](grad.to(output)))


def relative_error(found: Tensor, expected: Tensor) -> float:
    return ((found.double() - expected.double()).norm() / expected.double().norm().clamp_min(1e-300)).item()


@contextmanager
def small_tiles(queries: int = 32, keys: int = 48) -> Iterator[None]:
    """So that small inputs, too, have several tiles in both directions."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiles, "QUERIES", queries)
        patch.setattr(tiles, "KEYS", keys)
        yield
