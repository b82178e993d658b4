"""Position attention, one tile of the map S after another: the equations, and their gradients, in linear memory.

Forward, each block of queries goes over the keys tile by tile and keeps the greatest score and the sum of exponentials
so far: the online softmax (Milakov and Gimelshein, arXiv:1805.02867). Backward, each block of keys goes over the
queries, and S follows again from every row's log-sum-exp (Dao et al., arXiv:2205.14135). So what is needed beyond the
results is a few tiles, however many positions there are.

Scores, sums and softmax are float32 or wider; products with values have the values' own type. Exponentials are powers
of two, with log2(e) in the scores' scale: torch has vectorised code for these, but not for every exponential.
"""

import functools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from danet.ops.product import product

# Queries and keys of a tile: enough for products at full speed, few enough for the cache. Forward, one matrix of this
# size is held at a time, backward two of half of it (8 MB in float32).
QUERIES, KEYS = 1024, 2048


def attend(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], scale: float
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
    """S V in the type of `value`, and log Σ exp(scale · query keyᵀ) in float32 or wider."""
    dtype = wide_dtype(query, key, value)
    output = value.new_empty(*query.shape[:2], value.shape[2])
    logsumexp = query.new_empty(query.shape[:2], dtype=dtype)
    for entries, rows in _tiles(query):
        block = query[entries, rows].to(dtype) * (scale / math.log(2))
        gathered = None
        for columns in _steps(key.shape[1], KEYS):
            weights = product(block, key[entries, columns].to(dtype).mT)
            # Not -inf, which a tile of scores that are all -inf would subtract from itself.
            highest = weights.amax(-1, keepdim=True).clamp_min_(torch.finfo(dtype).min)
            if gathered is not None:
                highest = torch.maximum(highest, top)
            weights.sub_(highest).exp2_()
            tile_total = weights.sum(-1, keepdim=True)
            tile_gathered = product(weights.to(value.dtype), value[entries, columns]).to(dtype)
            if gathered is None:
                total, gathered = tile_total, tile_gathered
            else:
                shrink = torch.exp2(top - highest)
                total = tile_total.add_(total.mul_(shrink))
                gathered = tile_gathered.add_(gathered.mul_(shrink))
            top = highest
        torch.div(gathered, total, out=output[entries, rows])
        logsumexp[entries, rows] = (top + total.log2()).mul_(math.log(2)).squeeze(-1)
    return output, logsumexp


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
    transposed, keys by queries, since so each factor of all five products lies as oneDNN takes it.
    """
    dtype = logsumexp.dtype
    grad_query = query.new_zeros(query.mT.shape, dtype=dtype)
    grad_key, grad_value = key.new_empty(key.shape), value.new_empty(value.shape)
    # Subtracted from the scores and from their gradients, row by row of S.
    offset, inner = logsumexp / math.log(2), torch.empty_like(logsumexp)
    for entries, rows in _tiles(query):
        inner[entries, rows] = (grad_output[entries, rows].to(dtype) * output[entries, rows]).sum(-1)
    for entries, columns in _tiles(key):
        block = key[entries, columns].to(dtype)
        powers, transposed = block * (scale / math.log(2)), block.mT.contiguous()
        total_key = total_value = None
        for rows in _steps(query.shape[1], QUERIES):
            queries, grad = query[entries, rows].to(dtype), grad_output[entries, rows]
            weights = product(powers, queries.mT).sub_(offset[entries, None, rows]).exp2_()
            part_value = product(weights.to(value.dtype), grad)
            grad_scores = product(value[entries, columns], grad.mT).to(dtype)
            grad_scores.sub_(inner[entries, None, rows]).mul_(weights)
            part_key = product(grad_scores, queries)
            grad_query[entries, :, rows] += product(transposed, grad_scores)
            total_key = part_key if total_key is None else total_key.add_(part_key)
            total_value = part_value.to(dtype) if total_value is None else total_value.add_(part_value)
        grad_key[entries, columns] = total_key * scale
        grad_value[entries, columns] = total_value
    return grad_query.mul_(scale).to(query.dtype).mT, grad_key, grad_value


def wide_dtype(*tensors: Tensor) -> torch.dtype:
    """The widest of the tensors' types, float32 at least."""
    return functools.reduce(torch.promote_types, (x.dtype for x in tensors), torch.float32)


def _tiles(positions: Float[Tensor, "b n d"], most: int = QUERIES) -> Iterator[tuple[slice, slice]]:
    """Slices (batch entries, positions) that cover all; on CPU an entry at a time, or as many as fill one slice."""
    batch, length, _ = positions.shape
    # An accelerator has more cores than one entry's tile keeps busy.
    together = most // max(1, length) if positions.device.type == "cpu" else batch
    for entries in _steps(batch, max(1, together)):
        for rows in _steps(length, most):
            yield entries, rows


def _steps(length: int, most: int) -> Iterator[slice]:
    """Slices that cover 0..length-1, of equal lengths, but for the last, none above `most`."""
    size = max(1, math.ceil(length / max(1, math.ceil(length / most))))
    return (slice(start, start + size) for start in range(0, length, size))
