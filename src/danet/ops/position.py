"""Position attention, exact, in memory linear in the number of positions (DANet, CVPR 2019, section 3.2).

S = softmax(scale · Q Kᵀ) over keys and E = S V, one block of query rows after another: the N×M matrix is never formed
as a whole. The backward is our own: it keeps each row's log-sum-exp and computes the scores again, block by block.
Products of float32 tensors follow torch's own setting (`torch.set_float32_matmul_precision`).
"""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Enough rows for a matrix product at full speed, few enough for their scores (9 MB at 9,216 keys) to stay in the cache.
BLOCK_ROWS = 256

# Below this many rows or columns oneDNN's set-up costs more than its product gains.
ONEDNN_SIZE = 128


@overload
def position_attention(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    value: Float[Tensor, "... m c"],
    scale: float = 1.0,
    return_logsumexp: Literal[False] = False,
) -> Float[Tensor, "... n c"]: ...


@overload
def position_attention(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    value: Float[Tensor, "... m c"],
    scale: float = 1.0,
    *,
    return_logsumexp: Literal[True],
) -> tuple[Float[Tensor, "... n c"], Float[Tensor, "... n"]]: ...


def position_attention(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    value: Float[Tensor, "... m c"],
    scale: float = 1.0,
    return_logsumexp: bool = False,
) -> Float[Tensor, "... n c"] | tuple[Float[Tensor, "... n c"], Float[Tensor, "... n"]]:
    """softmax(scale · query keyᵀ) value, with softmax over keys, in memory linear in n and m.

    Scores and softmax are float32 or wider whatever the inputs' types, also under autocast, which lowers the product
    with `value` alone. The result has the type of `value` (under autocast: autocast's).

    With `return_logsumexp`, also each query's log Σ exp(scale · query keyᵀ), which carries no gradient; it is what
    `position_attention_columns` needs. Raises ValueError for shapes that do not fit, and RuntimeError when the gradient
    is differentiated again.
    """
    _check_shapes(query, key, value)
    device = query.device.type
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device) and value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device))
    leading = query.shape[:-2]
    batched = (x.reshape(math.prod(leading), *x.shape[-2:]) for x in (query, key, value))
    output, logsumexp = _PositionAttention.apply(*batched, scale)
    output = output.view(*leading, *output.shape[-2:])
    return (output, logsumexp.view(output.shape[:-1])) if return_logsumexp else output


def position_attention_rows(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    at: int | Sequence[int] | Int[Tensor, " k"],
    scale: float = 1.0,
) -> Float[Tensor, "... k m"]:
    """What the queries `at` look at: their rows of S, each summing to 1, in float32 or wider (one index: k = 1).

    Raises IndexError for an index outside 0..n-1.
    """
    with torch.autocast(query.device.type, enabled=False):
        return torch.softmax(_scores(query[..., _indices(at, query.shape[-2]), :], key, scale), dim=-1)


def position_attention_columns(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    logsumexp: Float[Tensor, "... n"],
    at: int | Sequence[int] | Int[Tensor, " k"],
    scale: float = 1.0,
) -> Float[Tensor, "... n k"]:
    """Who looks at the keys `at`: their columns of S, in float32 or wider (one index: k = 1).

    `logsumexp` and `scale` are those of `position_attention`. Raises IndexError for an index outside 0..m-1.
    """
    with torch.autocast(query.device.type, enabled=False):
        scores = _scores(query, key[..., _indices(at, key.shape[-2]), :], scale)
        return torch.exp(scores - logsumexp.unsqueeze(-1))


class _PositionAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "b n d"],
        key: Float[Tensor, "b m d"],
        value: Float[Tensor, "b m c"],
        scale: float,
    ) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
        dtype = _wide_dtype(query, key, value)
        output = value.new_empty(*query.shape[:2], value.shape[2])
        logsumexp = query.new_empty(query.shape[:2], dtype=dtype)
        with torch.autocast(query.device.type, enabled=False):
            wide_key = key.to(dtype)
            for entries, rows in _blocks(query):
                scores = _product(query[entries, rows].to(dtype) * scale, wide_key[entries].mT)
                top = scores.amax(-1)
                weights = torch.softmax(scores, dim=-1)
                # A row's largest weight is exp(top - logsumexp): cheaper than a second pass of exponentials.
                logsumexp[entries, rows] = top - weights.amax(-1).log()
                output[entries, rows] = _product(weights.to(value.dtype), value[entries])
        ctx.save_for_backward(query, key, value, output, logsumexp)
        ctx.scale = scale
        ctx.mark_non_differentiable(logsumexp)
        return output, logsumexp

    @staticmethod
    def backward(ctx: Any, grad_output: Float[Tensor, "b n c"], _: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        return *_PositionAttentionBackward.apply(grad_output, *ctx.saved_tensors, ctx.scale), None


class _PositionAttentionBackward(torch.autograd.Function):
    """A function of its own, so that whoever differentiates it meets an error, not a gradient with a term missing."""

    @staticmethod
    def forward(
        ctx: Any,
        grad_output: Float[Tensor, "b n c"],
        query: Float[Tensor, "b n d"],
        key: Float[Tensor, "b m d"],
        value: Float[Tensor, "b m c"],
        output: Float[Tensor, "b n c"],
        logsumexp: Float[Tensor, "b n"],
        scale: float,
    ) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"], Float[Tensor, "b m c"]]:
        dtype = logsumexp.dtype
        grad_query = torch.empty_like(query)
        # Sums over blocks, so wide; transposed, because so the products that they add up are fastest.
        grad_key = key.new_zeros(key.mT.shape, dtype=dtype)
        grad_value = value.new_zeros(value.mT.shape, dtype=dtype)
        with torch.autocast(query.device.type, enabled=False):
            wide_key = key.to(dtype)
            for entries, rows in _blocks(query):
                scaled_query = query[entries, rows].to(dtype) * scale
                grad = grad_output[entries, rows]
                weights = _product(scaled_query, wide_key[entries].mT)
                weights.sub_(logsumexp[entries, rows].unsqueeze(-1)).exp_()
                grad_value[entries].add_(_product(grad.mT, weights.to(value.dtype)))
                # The gradient of softmax is S ∘ (dS - Σ dS ∘ S); the sum over keys equals Σ dE ∘ E over channels.
                inner = (grad.to(dtype) * output[entries, rows].to(dtype)).sum(-1, keepdim=True)
                grad_scores = _product(grad, value[entries].mT).to(dtype).sub_(inner).mul_(weights)
                grad_query[entries, rows] = _product(grad_scores, wide_key[entries]) * scale
                grad_key[entries].add_(_product(scaled_query.mT, grad_scores))
        return grad_query, grad_key.mT.to(key.dtype), grad_value.mT.to(value.dtype)

    @staticmethod
    def backward(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            "position attention can be differentiated once only: its gradient has no gradient of its own"
        )


def _blocks(query: Float[Tensor, "b n d"]) -> Iterator[tuple[slice, slice]]:
    """Slices (batch entries, rows) that cover all queries; on CPU a block has BLOCK_ROWS rows over all its entries."""
    batch, length, _ = query.shape
    # An accelerator has no such cache, and more cores than one entry's rows keep busy.
    entries = max(1, BLOCK_ROWS // max(1, length)) if query.device.type == "cpu" else max(1, batch)
    for first in range(0, batch, entries):
        for row in range(0, length, BLOCK_ROWS):
            yield slice(first, first + entries), slice(row, row + BLOCK_ROWS)


def _product(left: Float[Tensor, "b n k"], right: Float[Tensor, "b k m"]) -> Float[Tensor, "b n m"]:
    """left @ right; on CPU in float32 by oneDNN where it can (no autograd there).

    torch gives plain float32 products to MKL, which leaves half of an AMD processor's vector units idle.
    """
    large = left.shape[0] == 1 and min(left.shape[1], right.shape[2]) >= ONEDNN_SIZE and left.shape[2] > 0
    if large and left.device.type == "cpu" and left.dtype == torch.float32 and _onednn():
        return torch.ops.mkldnn._linear_pointwise(left[0], right[0].mT, None, "none", [], "").unsqueeze(0)
    return left @ right


def _onednn() -> bool:
    backend = torch.backends.mkldnn
    # The operator is private to torch, so it may be gone in another version.
    return backend.is_available() and backend.enabled and hasattr(torch.ops.mkldnn, "_linear_pointwise")


def _scores(query: Float[Tensor, "... n d"], key: Float[Tensor, "... m d"], scale: float) -> Float[Tensor, "... n m"]:
    dtype = _wide_dtype(query, key)
    return (query.to(dtype) * scale) @ key.to(dtype).mT


def _wide_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' types, float32 at least."""
    return functools.reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)


def _indices(at: int | Sequence[int] | Int[Tensor, " k"], length: int) -> Int[Tensor, " k"]:
    at = torch.as_tensor(at, dtype=torch.long).reshape(-1)
    outside = at[(at < 0) | (at >= length)]
    if len(outside):
        raise IndexError(f"there is no position {int(outside[0])}: give indices from 0 to {length - 1}")
    return at


def _check_shapes(query: Tensor, key: Tensor, value: Tensor) -> None:
    if (
        min(query.ndim, key.ndim, value.ndim) < 2
        or not query.shape[:-2] == key.shape[:-2] == value.shape[:-2]
        or query.shape[-1] != key.shape[-1]
        or key.shape[-2] != value.shape[-2]
        or key.shape[-2] == 0
    ):
        raise ValueError(
            "position attention takes query … n d, key … m d and value … m c, m ≥ 1, with the same leading dimensions, "
            f"not {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)}"
        )
