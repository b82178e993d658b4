"""Position attention, one tile of the map S after another: the equations, and their gradients, in linear memory.

Forward, each block of queries meets the keys tile by tile, and tiles are merged by their rows' greatest scores and sums
of exponentials: the online softmax (Milakov and Gimelshein, arXiv:1805.02867). Backward, each block of keys meets the
queries, and S follows again from every row's log-sum-exp (Dao et al., arXiv:2205.14135). So what is needed beyond the
results is a few tiles, however many positions there are.

Scores, sums and softmax are float32 or wider; products with values have the values' own type. Exponentials are powers
of two, with log2(e) in the scores' scale: torch computes these several times faster than exp.
"""

import functools
import math
from collections.abc import Iterator
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor

from danet.ops.product import product
from danet.ops.softmax import powers_

# Queries and keys of a tile: enough for products at full speed, few enough for the cache. Forward, one matrix of this
# size is held at a time, backward two of half of it (8 MB in float32).
QUERIES, KEYS = 1024, 2048

# Of a block of queries over some keys: each row's greatest score, Σ 2^(score - greatest), and the same with values.
Part: TypeAlias = tuple[Float[Tensor, "b n 1"], Float[Tensor, "b n 1"], Float[Tensor, "b n c"]]


def attend(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], scale: float
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
    """S V in the type of `value`, and log Σ exp(scale · query keyᵀ) in float32 or wider."""
    dtype = wide_dtype(query, key, value)
    output = value.new_empty(*query.shape[:2], value.shape[2])
    logsumexp = query.new_empty(query.shape[:2], dtype=dtype)
    for entries, rows in _blocks(query):
        block = query[entries, rows].to(dtype) * (scale / math.log(2))
        parts = (_part(block, key[entries, keys], value[entries, keys]) for keys in _steps(key.shape[1], KEYS))
        top, total, gathered = functools.reduce(_merge, parts)
        torch.div(gathered, total, out=output[entries, rows])
        logsumexp[entries, rows] = (top + total.log2()).mul_(math.log(2)).squeeze(-1)
    return output, logsumexp


def _part(block: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"]) -> Part:
    weights = product(block, key.to(block.dtype).mT)
    # Not -inf, which scores that are all -inf would have subtracted from themselves.
    top = weights.amax(-1, keepdim=True).clamp_min_(torch.finfo(weights.dtype).min)
    powers_(weights.sub_(top))
    total = weights.sum(-1, keepdim=True)
    if value.dtype != torch.float16:
        return top, total, product(weights.to(value.dtype), value).to(weights.dtype)
    # A sum over 2,048 keys may exceed what float16 holds, their mean cannot. Totals are 1 at least, or 0.
    mean = product(weights.div_(total.clamp_min(1)).to(value.dtype), value)
    return top, total, mean.to(total.dtype).mul_(total)


def _merge(left: Part, right: Part) -> Part:
    top = torch.maximum(left[0], right[0])
    shrink, other = powers_(left[0] - top), powers_(right[0] - top)
    return top, left[1] * shrink + right[1] * other, left[2].mul_(shrink).add_(right[2].mul_(other))


def attend_backward(
    grad_output: Float[Tensor, "b n c"],
    query: Float[Tensor, "b n d"],
    key: Float[Tensor, "b m d"],
    value: Float[Tensor, "b m c"],
    output: Float[Tensor, "b n c"],
    logsumexp: Float[Tensor, "b n"],
    scale: float,
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"], Float[Tensor, "b m c"]]:
    """The gradients in query (a transposed view), key and value.

    With dE = grad_output: dV = Sᵀ dE, dS = S ∘ (dE Vᵀ - Σ dE ∘ E), dQ = scale · dS K, dK = scale · dSᵀ Q. Tiles are
    transposed, keys by queries, since so the factors of all five products lie as oneDNN takes them.
    """
    dtype = logsumexp.dtype
    grad_query = query.new_zeros(query.mT.shape, dtype=dtype)
    grad_key, grad_value = key.new_empty(key.shape), value.new_empty(value.shape)
    # What is subtracted from each row's scores and from their gradients.
    offset, inner = logsumexp / math.log(2), torch.empty_like(logsumexp)
    for entries, rows in _blocks(query):
        inner[entries, rows] = (grad_output[entries, rows].to(dtype) * output[entries, rows]).sum(-1)
    for entries, keys in _blocks(key):
        block, values = key[entries, keys].to(dtype), value[entries, keys]
        scaled, turned = block * (scale / math.log(2)), block.mT.contiguous()
        total_key, total_value = torch.zeros_like(block), torch.zeros_like(values, dtype=dtype)
        for rows in _steps(query.shape[1], QUERIES):
            queries, grad = query[entries, rows].to(dtype), grad_output[entries, rows]
            weights = powers_(product(scaled, queries.mT).sub_(offset[entries, None, rows]))
            total_value += product(weights.to(values.dtype), grad)
            grad_scores = product(values, grad.mT).to(dtype).sub_(inner[entries, None, rows]).mul_(weights)
            total_key += product(grad_scores, queries)
            grad_query[entries, :, rows] += product(turned, grad_scores)
        grad_key[entries, keys] = total_key.mul_(scale)
        grad_value[entries, keys] = total_value
    return grad_query.mul_(scale).to(query.dtype).mT, grad_key, grad_value


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' types, float32 at least."""
    return functools.reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)


def _blocks(positions: Float[Tensor, "b n d"]) -> Iterator[tuple[slice, slice]]:
    """Slices (batch entries, positions) that cover all; on CPU one entry at a time, or as many as fill a block."""
    batch, length, _ = positions.shape
    # An accelerator has more cores than one entry's tile keeps busy.
    together = QUERIES // max(1, length) if positions.device.type == "cpu" else batch
    for entries in _steps(batch, max(1, together)):
        for rows in _steps(length, QUERIES):
            yield entries, rows


def _steps(length: int, most: int) -> Iterator[slice]:
    """Slices that cover 0..length-1, none longer than `most`, of equal lengths but for the last."""
    size = max(1, math.ceil(length / max(1, math.ceil(length / most))))
    return (slice(start, start + size) for start in range(0, length, size))
