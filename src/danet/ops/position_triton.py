"""Position attention on CUDA, by kernels of Triton that take query and key of one width and values of another.

No kernel that torch ships is fast for query and key of 64 and values of 512. Like danet.ops.tiles, whose functions they
stand in for, these hold no N×M matrix: the online softmax forward, and backward each row's log-sum-exp, from which the
map follows again (Dao et al., arXiv:2205.14135). Sums are float32.

A program holds a block of ROWS queries (in the gradients of keys and values: of keys) and CHANNELS of the values, and
goes over the other side in STEPs. That gives two designs by one kernel: with few channels the scores are computed anew
for each part of them ("split"), with all of them once, in a wide accumulator of few rows ("wide"). Which is faster
depends on the chip: autotuning tries both. Blocks are read through tensor descriptors, which give 0 beyond a matrix's
ends, and go by Hopper's copy engine where there is one; SPECIALIZED blocks have warps that do nothing but copy, and two
groups of others that multiply in turn.

Float32 queries and keys beside values of 16 bits, as autocast makes them, go as a bfloat16 and what it leaves out:
three products at the rate of 16 bits, whose scores are exact to 2⁻¹⁶ of their terms.

Without a GPU it runs in Triton's interpreter (TRITON_INTERPRET=1, before this module is imported), which is how its
sums are tested; bfloat16 is wrong there, so halves are float16.
"""

import math
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
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
HALF = torch.float16 if INTERPRETED else torch.bfloat16
TUNED = not INTERPRETED


class Blocks(NamedTuple):
    """What a program takes at a time, its warps, and the stages of its pipeline."""

    rows: int
    step: int
    channels: int
    warps: int
    stages: int
    specialized: bool = False


SPLIT = [Blocks(64, 32, 64, 4, 2), Blocks(64, 64, 64, 4, 3), Blocks(128, 64, 128, 8, 2), Blocks(128, 64, 256, 8, 2)]
SPECIALIZED = [Blocks(128, 64, 256, 4, 2, True)]
WIDE = [Blocks(64, 32, 512, 8, 2), Blocks(64, 64, 512, 8, 2)]
# For gradients of scores: the rows' values stay, all channels of them.
RESIDENT = [
    Blocks(64, 32, 512, 4, 2),
    Blocks(64, 32, 512, 8, 2),
    Blocks(128, 32, 512, 8, 1),
    Blocks(128, 32, 512, 8, 2),
]
# For true float32, which no unit multiplies in blocks: larger ones would spill what they sum.
TRUE = [Blocks(32, 16, 64, 4, 2), Blocks(32, 32, 64, 8, 2)]


def tried(blocks: list[Blocks], kind: torch.dtype, precision: str, c: int, hopper: bool) -> list[Blocks]:
    """What a kernel is tuned over for queries of this type and values of c channels; the first fits any chip.

    512 channels of float32 fit none, and Triton 3.9 specializes warps on Hopper alone, for 16 bits alone.
    """
    if kind == torch.float32 and precision == "ieee":
        return TRUE
    most = min(max(64, triton.next_power_of_2(c)), 1024 // kind.itemsize)
    return [one for one in blocks if one.channels <= most and (not one.specialized or (hopper and kind.itemsize == 2))]


def _tuned(blocks: list[Blocks], **options: Any) -> Callable[[Any], Any]:
    """Tune a kernel over these blocks, or over TRUE; where `size` is 0, take the first that fits."""
    made = {one: _configuration(one) for one in (*blocks, *TRUE)}

    def fitting(*_: Any, query: Tensor, c: int, size: int, PRECISION: str, **__: Any) -> list[triton.Config]:
        hopper = query.is_cuda and torch.cuda.get_device_capability(query.device)[0] == 9
        taken = tried(blocks, query.dtype, PRECISION, c, hopper)
        return [made[one] for one in (taken if size else taken[:1])]

    key = ["size", "d", "c", "HALVES", "PRECISION"]
    pruning = {"early_config_prune": fitting}
    return triton.autotune(list(made.values()), key, prune_configs_by=pruning, cache_results=True, **options)


def _configuration(blocks: Blocks) -> triton.Config:
    names = {"ROWS": blocks.rows, "STEP": blocks.step, "CHANNELS": blocks.channels, "SPECIALIZED": blocks.specialized}
    return triton.Config(names, num_warps=blocks.warps, num_stages=blocks.stages)


@triton.jit
def _matrix(pointer, batch, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One matrix of a batch, to be read and written in blocks."""
    return tl.make_tensor_descriptor(pointer + batch * rows * columns, [rows, columns], [columns, 1], [ROWS, COLUMNS])


@triton.jit
def _numbers(pointer, batch, rows, count, beyond):
    """A number for each row."""
    return tl.load(pointer + batch * count + rows, mask=rows < count, other=beyond)


@triton.jit
def _product(left, low_left, right, low_right, PRECISION: tl.constexpr, HALVES: tl.constexpr):
    """left rightᵀ; of halves all products but that of the low ones."""
    product = tl.dot(left, right.T, input_precision=PRECISION)
    if HALVES:
        product = tl.dot(left, low_right.T, product, input_precision=PRECISION)
        product = tl.dot(low_left, right.T, product, input_precision=PRECISION)
    return product


@_tuned(SPLIT + SPECIALIZED + WIDE)
@triton.jit
def _forward(
    query, low_query, key, low_key, value, output, logsumexp, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row, channel = tl.program_id(0) * ROWS, tl.program_id(2) * CHANNELS
    queries = _matrix(query, batch, n, d, ROWS, WIDTH).load([row, 0])
    low_queries = _matrix(low_query, batch, n, d, ROWS, WIDTH).load([row, 0]) if HALVES else queries
    all_keys = _matrix(key, batch, m, d, STEP, WIDTH)
    all_low_keys = _matrix(low_key, batch, m, d, STEP, WIDTH) if HALVES else all_keys
    all_values = _matrix(value, batch, m, c, STEP, CHANNELS)
    top = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    gathered = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.range(0, m, STEP, warp_specialize=SPECIALIZED):
        keys = all_keys.load([start, 0])
        low_keys = all_low_keys.load([start, 0]) if HALVES else keys
        scores = _product(queries, low_queries, keys, low_keys, PRECISION, HALVES)
        scores = tl.where((start + tl.arange(0, STEP) < m)[None, :], scores, -float("inf"))
        higher = tl.maximum(top, tl.max(scores, 1) * scale)
        shrink, weights = tl.exp2(top - higher), tl.exp2(scores * scale - higher[:, None])
        values = all_values.load([start, channel])
        total = total * shrink + tl.sum(weights, 1)
        gathered = gathered * shrink[:, None]
        gathered = tl.dot(weights.to(values.dtype), values, gathered, input_precision=PRECISION)
        top = higher
    found = (gathered / total[:, None]).to(output.dtype.element_ty)
    _matrix(output, batch, n, c, ROWS, CHANNELS).store([row, channel], found)
    if tl.program_id(2) == 0:
        rows = row + tl.arange(0, ROWS)
        tl.store(logsumexp + batch * n + rows, top + tl.log2(total), mask=rows < n)


@_tuned(SPLIT + SPECIALIZED + WIDE)
@triton.jit
def _grad_value(
    grad, query, low_query, key, low_key, logsumexp, grad_value, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """dV = Sᵀ dE: a program has a block of keys and channels, and goes over the queries."""
    batch = tl.program_id(1).to(tl.int64)
    row, channel = tl.program_id(0) * ROWS, tl.program_id(2) * CHANNELS
    keys = _matrix(key, batch, m, d, ROWS, WIDTH).load([row, 0])
    low_keys = _matrix(low_key, batch, m, d, ROWS, WIDTH).load([row, 0]) if HALVES else keys
    all_queries = _matrix(query, batch, n, d, STEP, WIDTH)
    all_low_queries = _matrix(low_query, batch, n, d, STEP, WIDTH) if HALVES else all_queries
    all_gradients = _matrix(grad, batch, n, c, STEP, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.range(0, n, STEP, warp_specialize=SPECIALIZED):
        queries = all_queries.load([start, 0])
        low_queries = all_low_queries.load([start, 0]) if HALVES else queries
        scores = _product(keys, low_keys, queries, low_queries, PRECISION, HALVES)
        beyond = _numbers(logsumexp, batch, start + tl.arange(0, STEP), n, float("inf"))
        weights = tl.exp2(scores * scale - beyond[None, :])
        gradients = all_gradients.load([start, channel])
        total = tl.dot(weights.to(gradients.dtype), gradients, total, input_precision=PRECISION)
    _matrix(grad_value, batch, m, c, ROWS, CHANNELS).store([row, channel], total.to(grad_value.dtype.element_ty))


@_tuned(SPLIT[:3] + RESIDENT, reset_to_zero=["grad_query"])
@triton.jit
def _grad_key(
    grad, query, low_query, key, low_key, value, inner, logsumexp, grad_query, grad_key, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr, ALL: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """dK = dSᵀ Q, dS = scale · S ∘ (dE Vᵀ − inner): a program has a block of keys, and adds its part of dQ if ADDED."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS
    inside = (row + tl.arange(0, ROWS) < m)[:, None]
    width = tl.arange(0, WIDTH)[None, :]
    keys = _matrix(key, batch, m, d, ROWS, WIDTH).load([row, 0])
    low_keys = _matrix(low_key, batch, m, d, ROWS, WIDTH).load([row, 0]) if HALVES else keys
    all_values = _matrix(value, batch, m, c, ROWS, CHANNELS)
    values = all_values.load([row, 0])
    all_queries = _matrix(query, batch, n, d, STEP, WIDTH)
    all_low_queries = _matrix(low_query, batch, n, d, STEP, WIDTH) if HALVES else all_queries
    all_gradients = _matrix(grad, batch, n, c, STEP, CHANNELS)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, n, STEP):
        rows = start + tl.arange(0, STEP)
        queries = all_queries.load([start, 0])
        low_queries = all_low_queries.load([start, 0]) if HALVES else queries
        scores = _product(keys, low_keys, queries, low_queries, PRECISION, HALVES)
        scores = tl.where(inside, scores, -float("inf"))
        weights = tl.exp2(scores * scale - _numbers(logsumexp, batch, rows, n, float("inf"))[None, :])
        grad_weights = tl.dot(values, all_gradients.load([start, 0]).T, input_precision=PRECISION)
        for channel in range(CHANNELS, ALL, CHANNELS):
            others, gradients = all_values.load([row, channel]), all_gradients.load([start, channel])
            grad_weights = tl.dot(others, gradients.T, grad_weights, input_precision=PRECISION)
        grad_scores = weights * (grad_weights - _numbers(inner, batch, rows, n, 0.0)[None, :])
        grad_scores = grad_scores.to(queries.dtype)
        total = tl.dot(grad_scores, queries, total, input_precision=PRECISION)
        if ADDED:
            part = tl.dot(grad_scores.T, keys, input_precision=PRECISION) * (scale * LN_2)
            places = batch * n * d + rows[:, None] * d + width
            tl.atomic_add(grad_query + places, part, mask=(rows < n)[:, None] & (width < d), sem="relaxed")
    _matrix(grad_key, batch, m, d, ROWS, WIDTH).store([row, 0], (total * (scale * LN_2)).to(grad_key.dtype.element_ty))


@_tuned(SPLIT[:3] + RESIDENT)
@triton.jit
def _grad_query(
    grad, query, low_query, key, low_key, value, inner, logsumexp, grad_query, scale, n, m, d, c, size,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr, ALL: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """dQ = dS K: a program has a block of queries, and sums it alone, in one order."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS
    rows = row + tl.arange(0, ROWS)
    queries = _matrix(query, batch, n, d, ROWS, WIDTH).load([row, 0])
    low_queries = _matrix(low_query, batch, n, d, ROWS, WIDTH).load([row, 0]) if HALVES else queries
    all_gradients = _matrix(grad, batch, n, c, ROWS, CHANNELS)
    gradients = all_gradients.load([row, 0])
    all_keys = _matrix(key, batch, m, d, STEP, WIDTH)
    all_low_keys = _matrix(low_key, batch, m, d, STEP, WIDTH) if HALVES else all_keys
    all_values = _matrix(value, batch, m, c, STEP, CHANNELS)
    beyond = _numbers(logsumexp, batch, rows, n, float("inf"))[:, None]
    subtracted = _numbers(inner, batch, rows, n, 0.0)[:, None]
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, m, STEP):
        keys = all_keys.load([start, 0])
        low_keys = all_low_keys.load([start, 0]) if HALVES else keys
        scores = _product(queries, low_queries, keys, low_keys, PRECISION, HALVES)
        scores = tl.where((start + tl.arange(0, STEP) < m)[None, :], scores, -float("inf"))
        weights = tl.exp2(scores * scale - beyond)
        grad_weights = tl.dot(gradients, all_values.load([start, 0]).T, input_precision=PRECISION)
        for channel in range(CHANNELS, ALL, CHANNELS):
            others, values = all_gradients.load([row, channel]), all_values.load([start, channel])
            grad_weights = tl.dot(others, values.T, grad_weights, input_precision=PRECISION)
        grad_scores = (weights * (grad_weights - subtracted)).to(keys.dtype)
        total = tl.dot(grad_scores, keys, total, input_precision=PRECISION)
    found = (total * (scale * LN_2)).to(grad_query.dtype.element_ty)
    _matrix(grad_query, batch, n, d, ROWS, WIDTH).store([row, 0], found)


def attend(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], scale: float
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
    """S V in the type of `value`, and log Σ exp(scale · query keyᵀ) in float32, as danet.ops.tiles.attend gives them.

    Products of float32 tensors follow torch's own setting (`torch.set_float32_matmul_precision`). Raises ValueError as
    `refusal` says.
    """
    common, values = _prepared(query, key, value, scale)
    output = values.new_empty(*query.shape[:2], values.shape[-1])
    logsumexp = query.new_empty(query.shape[:2], dtype=torch.float32)
    if output.numel():
        rows, channels = output.shape[1:]
        _run(_forward, rows, channels, **common, value=values, output=output, logsumexp=logsumexp)
    return output[..., : value.shape[-1]].contiguous(), logsumexp.mul_(math.log(2))


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

    dK's programs also add up dQ, in whatever order they end, so that its last bits differ from run to run. Under
    `torch.use_deterministic_algorithms` they do not: one more kernel forms the map and its gradient once more for dQ.
    """
    if not grad_output.numel():
        return torch.zeros_like(query), torch.zeros_like(key), torch.zeros_like(value)
    common, values = _prepared(query, key, value, scale)
    common |= {"grad": _aligned(grad_output.to(value.dtype)), "logsumexp": (logsumexp * LOG2_E).float().contiguous()}
    (n, m, d, c), sums = (common[name] for name in "nmdc"), torch.float32 if common["HALVES"] else value.dtype
    grad_value = torch.empty_like(values)
    _run(_grad_value, m, c, **common, grad_value=grad_value)
    inner = (grad_output.float() * output.float()).sum(-1)
    common |= {"value": values, "inner": inner, "ALL": triton.next_power_of_2(c)}
    added = not torch.are_deterministic_algorithms_enabled()
    grad_key = key.new_empty(*key.shape[:2], d, dtype=sums)
    grad_query = query.new_zeros(*query.shape[:2], d, dtype=torch.float32 if added else sums)
    _run(_grad_key, m, 1, **common, grad_key=grad_key, grad_query=grad_query if added else None, ADDED=added)
    if not added:
        _run(_grad_query, n, 1, **common, grad_query=grad_query)
    if scale <= 0:
        grad_query *= -1 if scale else 0
    whole = zip((grad_query, grad_key, grad_value), (query, key, value), strict=True)
    return tuple(grad[..., : x.shape[-1]].to(x.dtype).contiguous() for grad, x in whole)


def refusal(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why the kernels cannot do this, or None."""
    if INTERPRETED or query.device.type == "cuda":
        if INTERPRETED and torch.bfloat16 in {query.dtype, key.dtype, value.dtype}:
            return "takes no bfloat16 in Triton's interpreter, which multiplies it wrongly"
        if not {query.dtype, key.dtype, value.dtype} <= set(TYPES):
            return f"takes float32, bfloat16 and float16, not {query.dtype}, {key.dtype} and {value.dtype}"
        if query.shape[-1] > WIDEST_KEY or value.shape[-1] > WIDEST_VALUE:
            return f"takes widths up to {WIDEST_KEY} and {WIDEST_VALUE}, not {query.shape[-1]} and {value.shape[-1]}"
        return None
    return f"needs a CUDA device, not {query.device.type}"


def _prepared(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[dict[str, Any], Tensor]:
    """What all kernels are given, and the values: of one type, or query and key in halves; and a positive scale."""
    if told := refusal(query, key, value):
        raise ValueError(f"position attention by 'triton' {told}: choose 'auto'")
    if scale <= 0:
        query, scale = query * (-1 if scale else 0), -scale or 1.0
    kind = torch.promote_types(query.dtype, key.dtype)
    kind = kind if kind == value.dtype else torch.float32
    halves = kind != value.dtype
    query, key = query.to(kind), key.to(kind)
    query, low_query = map(_aligned, _halves(query) if halves else (query, query))
    key, low_key = map(_aligned, _halves(key) if halves else (key, key))
    value = _aligned(value)
    (_, n, d), (_, m, c) = query.shape, value.shape
    exact = torch.get_float32_matmul_precision() == "highest"
    tensors = {"query": query, "low_query": low_query, "key": key, "low_key": low_key}
    numbers = {"scale": scale * LOG2_E, "n": n, "m": m, "d": d, "c": c}
    tuned = TUNED and not torch.are_deterministic_algorithms_enabled()
    numbers["size"] = triton.next_power_of_2(max(n, m)) if tuned else 0
    constants = {
        "WIDTH": max(16, triton.next_power_of_2(d)),
        "HALVES": halves,
        "PRECISION": "ieee" if exact else "tf32",
    }
    return tensors | numbers | constants, value


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    high = x.to(HALF)
    return high, (x - high.float()).to(HALF)


def _aligned(x: Tensor) -> Tensor:
    """As tensor descriptors want it: rows of whole 16 bytes one after another, the first at a multiple of 16."""
    short = -x.shape[-1] % (16 // x.element_size())
    x = F.pad(x, (0, short)) if short else x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x


def _run(kernel: Any, rows: int, channels: int, **arguments: Any) -> None:
    """A program for each block of rows and channels of each matrix, on the device of the tensors.

    Their tensor descriptors lie in memory of torch's, by an allocator that nobody else's kernels see.
    """
    batch = len(arguments["query"])

    def grid(blocks: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(rows, blocks["ROWS"]), batch, triton.cdiv(channels, blocks["CHANNELS"])

    def scratch(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    context = copy_context()
    context.run(triton.set_allocator, scratch)
    with torch.cuda.device_of(arguments["query"]):
        context.run(kernel[grid], **arguments)
