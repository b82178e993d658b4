"""Position attention on CUDA, by kernels of Triton that take query and key of one width and values of another.

No kernel that torch ships is fast for query and key of 64 and values of 512. Like danet.ops.tiles, whose functions they
stand in for, these hold no N×M matrix: the online softmax forward, and backward each row's log-sum-exp, from which the
map follows again (Dao et al., arXiv:2205.14135). Sums are float32, and each gradient is summed by one program in one
order, so that results are the same bits every time.

A program holds a block of queries and some of the values' channels. That gives two designs by one kernel: with few
channels the scores are computed anew for each part of the channels ("split"), with all of them once, in a wide
accumulator of few queries ("wide"). Which is faster depends on the chip: autotuning tries both.

Without a GPU it runs in Triton's interpreter (TRITON_INTERPRET=1, before this module is imported), which is how its
sums are tested; bfloat16 is wrong there.
"""

import math
from collections.abc import Callable
from itertools import chain
from typing import Any

import torch
import triton  # pyright: ignore[reportMissingImports]  # torch brings it along on Linux alone
import triton.language as tl  # pyright: ignore[reportMissingImports]
from jaxtyping import Float
from torch import Tensor
from triton import knobs  # pyright: ignore[reportMissingImports]

WIDEST_KEY, WIDEST_VALUE = 128, 512
LOG2_E = math.log2(math.e)
LN_2 = tl.constexpr(math.log(2))
TYPES = (torch.float32, torch.bfloat16, torch.float16)
INTERPRETED = knobs.runtime.interpret
Blocks = list[tuple[int, int, int, int, int]]
"""Queries, keys and channels of a program, its warps, and the stages of its pipeline."""
SPLIT: Blocks = [(64, 64, 64, 4, 3), (128, 64, 64, 8, 3), (128, 64, 128, 8, 2)]
WIDE: Blocks = [(128, 64, 256, 8, 2), (64, 32, 512, 8, 2), (64, 64, 512, 8, 2)]
TRUE: Blocks = [(32, 32, 64, 4, 2), (64, 32, 64, 8, 2)]
"""For true float32, which no unit multiplies in blocks: larger ones would spill what they sum."""


def _tuned(*blocks: Blocks) -> Callable[[Any], Any]:
    """Tune a kernel over these blocks, and over TRUE where it multiplies true float32."""
    plain, true = ([_configuration(one) for one in some] for some in (chain(*blocks), TRUE))

    def fitting(_: list[triton.Config], arguments: dict[str, Any], **constants: Any) -> list[triton.Config]:
        exact = constants["PRECISION"] == "ieee" and arguments["query"].dtype == torch.float32
        return true if exact else plain

    return triton.autotune(plain + true, key=["size", "d", "c"], prune_configs_by={"early_config_prune": fitting})


def _configuration(block: tuple[int, int, int, int, int]) -> triton.Config:
    queries, keys, channels, warps, stages = block
    sizes = {"QUERIES": queries, "KEYS": keys, "CHANNELS": channels}
    return triton.Config(sizes, num_warps=warps, num_stages=stages)


@triton.jit
def _rows(pointer, batch, rows, columns, count, width):
    """A block of a matrix, with 0 beyond its ends."""
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    offsets = batch * count * width + rows[:, None] * width + columns[None, :]
    return tl.load(pointer + offsets, mask=inside, other=0.0)


@triton.jit
def _store(pointer, values, batch, rows, columns, count, width):
    inside = (rows < count)[:, None] & (columns < width)[None, :]
    offsets = batch * count * width + rows[:, None] * width + columns[None, :]
    tl.store(pointer + offsets, values.to(pointer.dtype.element_ty), mask=inside)


@triton.jit
def _numbers(pointer, batch, rows, count, beyond):
    """A number for each row."""
    return tl.load(pointer + batch * count + rows, mask=rows < count, other=beyond)


@triton.jit
def _turned(keys, queries, logsumexp, batch, rows, n, scale, PRECISION: tl.constexpr):
    """A tile of Sᵀ, keys by queries, from the queries' log-sum-exp; 0 beyond the last query."""
    scores = tl.dot(keys, tl.trans(queries), input_precision=PRECISION) * scale
    return tl.exp2(scores - _numbers(logsumexp, batch, rows, n, float("inf"))[None, :])


@_tuned(SPLIT, WIDE)
@triton.jit
def _forward(
    query, key, value, output, logsumexp, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    width = tl.arange(0, WIDTH)
    queries = _rows(query, batch, rows, width, n, d)
    top = tl.full((QUERIES,), -float("inf"), tl.float32)
    total = tl.zeros((QUERIES,), tl.float32)
    gathered = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for start in range(0, m, KEYS):
        columns = start + tl.arange(0, KEYS)
        keys = _rows(key, batch, columns, width, m, d)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        scores = tl.where((columns < m)[None, :], scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1))
        shrink, weights = tl.exp2(top - higher), tl.exp2(scores - higher[:, None])
        values = _rows(value, batch, columns, channels, m, c)
        total = total * shrink + tl.sum(weights, 1)
        gathered = gathered * shrink[:, None]
        gathered += tl.dot(weights.to(values.dtype), values, input_precision=PRECISION)
        top = higher
    _store(output, gathered / total[:, None], batch, rows, channels, n, c)
    if tl.program_id(2) == 0:
        tl.store(logsumexp + batch * n + rows, top + tl.log2(total), mask=rows < n)


@_tuned(SPLIT, WIDE)
@triton.jit
def _grad_value(
    grad, query, key, logsumexp, grad_value, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dV = Sᵀ dE: a program has a block of keys (as many as QUERIES says, which its accumulator has) and channels."""
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    channels = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    width = tl.arange(0, WIDTH)
    keys = _rows(key, batch, columns, width, m, d)
    total = tl.zeros((QUERIES, CHANNELS), tl.float32)
    for start in range(0, n, KEYS):
        rows = start + tl.arange(0, KEYS)
        queries = _rows(query, batch, rows, width, n, d)
        weights = _turned(keys, queries, logsumexp, batch, rows, n, scale, PRECISION)
        gradients = _rows(grad, batch, rows, channels, n, c)
        total += tl.dot(weights.to(gradients.dtype), gradients, input_precision=PRECISION)
    _store(grad_value, total, batch, columns, channels, m, c)


@_tuned(SPLIT)
@triton.jit
def _grad_key(
    grad, query, key, value, inner, logsumexp, grad_key, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dK = dSᵀ Q with dS = scale · S ∘ (dE Vᵀ − inner): a program has a block of keys (QUERIES of them)."""
    batch = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    width = tl.arange(0, WIDTH)
    keys = _rows(key, batch, columns, width, m, d)
    total = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, n, KEYS):
        rows = start + tl.arange(0, KEYS)
        queries = _rows(query, batch, rows, width, n, d)
        weights = _turned(keys, queries, logsumexp, batch, rows, n, scale, PRECISION)
        grad_weights = tl.zeros((QUERIES, KEYS), tl.float32)
        for first in range(0, c, CHANNELS):
            channels = first + tl.arange(0, CHANNELS)
            values = _rows(value, batch, columns, channels, m, c)
            gradients = _rows(grad, batch, rows, channels, n, c)
            grad_weights += tl.dot(values, tl.trans(gradients), input_precision=PRECISION)
        grad_scores = weights * (grad_weights - _numbers(inner, batch, rows, n, 0.0)[None, :])
        total += tl.dot(grad_scores.to(queries.dtype), queries, input_precision=PRECISION)
    _store(grad_key, total * (scale * LN_2), batch, columns, width, m, d)


@_tuned(SPLIT)
@triton.jit
def _grad_query(
    grad, query, key, value, inner, logsumexp, grad_query, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, PRECISION: tl.constexpr, QUERIES: tl.constexpr, KEYS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """dQ = dS K: a program has a block of queries."""
    batch = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0) * QUERIES + tl.arange(0, QUERIES)
    width = tl.arange(0, WIDTH)
    queries = _rows(query, batch, rows, width, n, d)
    offset = _numbers(logsumexp, batch, rows, n, float("inf"))[:, None]
    subtracted = _numbers(inner, batch, rows, n, 0.0)[:, None]
    total = tl.zeros((QUERIES, WIDTH), tl.float32)
    for start in range(0, m, KEYS):
        columns = start + tl.arange(0, KEYS)
        keys = _rows(key, batch, columns, width, m, d)
        scores = tl.dot(queries, tl.trans(keys), input_precision=PRECISION) * scale
        weights = tl.where((columns < m)[None, :], tl.exp2(scores - offset), 0.0)
        grad_weights = tl.zeros((QUERIES, KEYS), tl.float32)
        for first in range(0, c, CHANNELS):
            channels = first + tl.arange(0, CHANNELS)
            values = _rows(value, batch, columns, channels, m, c)
            gradients = _rows(grad, batch, rows, channels, n, c)
            grad_weights += tl.dot(gradients, tl.trans(values), input_precision=PRECISION)
        total += tl.dot((weights * (grad_weights - subtracted)).to(keys.dtype), keys, input_precision=PRECISION)
    _store(grad_query, total * (scale * LN_2), batch, rows, width, n, d)


def attend(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], scale: float
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
    """S V in the type of `value`, and log Σ exp(scale · query keyᵀ) in float32, as danet.ops.tiles.attend gives them.

    Products of float32 tensors follow torch's own setting (`torch.set_float32_matmul_precision`). Raises ValueError as
    `refusal` says.
    """
    query, key, value = _taken(query, key, value)
    (batch, n, d), (_, m, c) = query.shape, value.shape
    output = value.new_empty(batch, n, c)
    logsumexp = query.new_empty(batch, n, dtype=torch.float32)
    if output.numel():
        grid = lambda block: (triton.cdiv(n, block["QUERIES"]), batch, triton.cdiv(c, block["CHANNELS"]))  # noqa: E731
        _forward[grid](query, key, value, output, logsumexp, scale * LOG2_E, n, m, d, c, *_constants(m, d))
    return output, logsumexp.mul_(math.log(2))


def attend_backward(
    grad_output: Float[Tensor, "b n c"],
    query: Float[Tensor, "b n d"],
    key: Float[Tensor, "b m d"],
    value: Float[Tensor, "b m c"],
    output: Float[Tensor, "b n c"],
    logsumexp: Float[Tensor, "b n"],
    scale: float,
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b m d"], Float[Tensor, "b m c"]]:
    """The gradients in query, key and value: the equations of danet.ops.tiles.attend_backward.

    A query's gradient is a key's with both exchanged, but for the softmax, which goes over keys: one more kernel.
    """
    query, key, value = _taken(query, key, value)
    grad = grad_output.to(value.dtype).contiguous()
    (batch, n, d), (_, m, c) = query.shape, value.shape
    grad_query, grad_key, grad_value = map(torch.empty_like, (query, key, value))
    if not grad.numel():
        return grad_query, grad_key.zero_(), grad_value.zero_()
    powers = (logsumexp * LOG2_E).float().contiguous()
    inner = (grad.float() * output.float()).sum(-1)
    rest = (n, m, d, c, *_constants(n, d))
    keys = lambda block: (triton.cdiv(m, block["QUERIES"]), batch)  # noqa: E731
    parts = lambda block: (*keys(block), triton.cdiv(c, block["CHANNELS"]))  # noqa: E731
    _grad_value[parts](grad, query, key, powers, grad_value, scale * LOG2_E, *rest)
    _grad_key[keys](grad, query, key, value, inner, powers, grad_key, scale * LOG2_E, *rest)
    queries = lambda block: (triton.cdiv(n, block["QUERIES"]), batch)  # noqa: E731
    rest = (n, m, d, c, *_constants(m, d))
    _grad_query[queries](grad, query, key, value, inner, powers, grad_query, scale * LOG2_E, *rest)
    return grad_query, grad_key, grad_value


def refusal(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why the kernels cannot do this, or None."""
    if INTERPRETED or query.device.type == "cuda":
        if not {query.dtype, key.dtype, value.dtype} <= set(TYPES):
            return f"takes float32, bfloat16 and float16, not {query.dtype}, {key.dtype} and {value.dtype}"
        if query.shape[-1] > WIDEST_KEY or value.shape[-1] > WIDEST_VALUE:
            return f"takes widths up to {WIDEST_KEY} and {WIDEST_VALUE}, not {query.shape[-1]} and {value.shape[-1]}"
        return None
    return f"needs a CUDA device, not {query.device.type}"


def _taken(query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Query and key of one type, and all laid out row by row."""
    if told := refusal(query, key, value):
        raise ValueError(f"position attention by 'triton' {told}: choose 'auto'")
    kind = torch.promote_types(query.dtype, key.dtype)
    return query.to(kind).contiguous(), key.to(kind).contiguous(), value.contiguous()


def _constants(length: int, d: int) -> tuple[int, int, str]:
    """What a kernel is tuned by, in powers of two; its padded width; and how it multiplies float32."""
    width = max(16, triton.next_power_of_2(d))
    return (
        triton.next_power_of_2(length),
        width,
        "ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
    )
