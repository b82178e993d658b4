"""The Triton kernels of position attention: what danet.ops.position_triton runs, and what they are tuned over.

The online softmax forward, and backward each row's log-sum-exp, from which the map follows again (Dao et al.,
arXiv:2205.14135, algorithms 1 and 4). Sums are float32; `scale` is in powers of two, and so is the log-sum-exp.

A program holds a block of ROWS queries (in the gradients of keys and values: of keys) and CHANNELS of the values, and
goes over the other side in STEPs. That gives two designs by one kernel: with few channels the scores are computed anew
for each part of them ("split"), with all of them once, in a wide accumulator of few rows ("wide"). Which is faster
depends on the chip: autotuning tries both. Blocks are read through tensor descriptors, which give 0 beyond a matrix's
ends, and go by Hopper's copy engine where there is one; SPECIALIZED blocks have warps that do nothing but copy, and two
groups of others that multiply in turn.
"""

# pyright: reportArgumentType=false, reportGeneralTypeIssues=false
# Triton's own types know nothing of the numbers and strings that its compiler takes.

import math
import threading
from collections.abc import Callable, Sequence
from contextvars import copy_context
from typing import Any, NamedTuple

import torch
import triton  # pyright: ignore[reportMissingImports]  # torch brings it along on Linux alone
import triton.language as tl  # pyright: ignore[reportMissingImports]
from torch import Tensor
from triton import knobs, next_power_of_2  # pyright: ignore[reportMissingImports]

INTERPRETED = knobs.runtime.interpret
LN_2 = tl.constexpr(math.log(2))
LEAST = tl.constexpr(torch.finfo(torch.float32).min)
ALONE = threading.Lock()
"""Triton's tuner keeps its arguments on itself."""


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
# The rows' values stay, all channels of them.
RESIDENT = [Blocks(64, 32, 512, warps, 2) for warps in (4, 8)] + [Blocks(128, 32, 512, 8, stages) for stages in (1, 2)]
FOR_VALUES, FOR_SCORES = [*SPLIT, *SPECIALIZED, *WIDE], [*SPLIT[:3], *RESIDENT]
"""What sums over values are tuned over, and gradients of scores."""
# For true float32, which no unit multiplies in blocks: larger ones would spill what they sum.
TRUE = [Blocks(32, 16, 64, 4, 2), Blocks(32, 32, 64, 8, 2)]


# What is taken untuned, for 16 bits, on chips of so much shared memory (compute capability, in tenths).
UNTUNED, ROOMY = (Blocks(128, 64, 256, 8, 2), Blocks(64, 32, 512, 8, 2)), (90, 100)


def tried(blocks: list[Blocks], kind: torch.dtype, precision: str, c: int, chip: int) -> list[Blocks]:
    """What a kernel is tuned over for queries of this type and values of c channels; the first fits any chip.

    512 channels of float32 fit none, and Triton 3.9 specializes warps on Hopper alone, for 16 bits alone.
    """
    if kind == torch.float32 and precision == "ieee":
        return TRUE
    most = min(max(64, next_power_of_2(c)), 1024 // kind.itemsize)
    specialized = chip == 90 and kind.itemsize == 2
    return [one for one in blocks if one.channels <= most and (specialized or not one.specialized)]


def _tuned(blocks: list[Blocks], **options: Any) -> Callable[[Any], Any]:
    """Tune a kernel over these blocks, or over TRUE; where `size` is 0, take one that fits."""
    made = {one: configuration(one) for one in (*blocks, *TRUE)}

    def fitting(*_: Any, query: Tensor, c: int, size: int, chip: int, PRECISION: str, **__: Any) -> list[triton.Config]:
        taken = tried(blocks, query.dtype, PRECISION, c, chip)
        if not size:
            roomy = query.dtype.itemsize == 2 and chip in ROOMY
            taken = [next((one for one in taken if roomy and one in UNTUNED), taken[0])]
        return [made[one] for one in taken]

    key = ["size", "chip", "d", "c", "HALVES", "PRECISION"]
    pruning = {"early_config_prune": fitting}
    return triton.autotune(list(made.values()), key, prune_configs_by=pruning, cache_results=True, **options)


def configuration(blocks: Blocks) -> triton.Config:
    names = {"ROWS": blocks.rows, "STEP": blocks.step, "CHANNELS": blocks.channels, "SPECIALIZED": blocks.specialized}
    return triton.Config(names, num_warps=blocks.warps, num_stages=blocks.stages)


@triton.jit
def _matrix(pointer, batch, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """One matrix of a batch, to be read and written in blocks."""
    return tl.make_tensor_descriptor(pointer + batch * rows * columns, [rows, columns], [columns, 1], [ROWS, COLUMNS])


@triton.jit
def _pair(high, low, batch, rows, columns, ROWS: tl.constexpr, COLUMNS: tl.constexpr, HALVES: tl.constexpr):
    """A matrix and what it left out; without halves the same twice, of which the second is not read."""
    first = _matrix(high, batch, rows, columns, ROWS, COLUMNS)
    second = _matrix(low, batch, rows, columns, ROWS, COLUMNS) if HALVES else first
    return first, second


@triton.jit
def _loaded(pair, row, HALVES: tl.constexpr):
    """A block of both."""
    first = pair[0].load([row, 0])
    second = pair[1].load([row, 0]) if HALVES else first
    return first, second


@triton.jit
def _numbers(pointer, batch, rows, count, beyond):
    """A number for each row."""
    return tl.load(pointer + batch * count + rows, mask=rows < count, other=beyond)


@triton.jit
def _product(left, right, PRECISION: tl.constexpr, HALVES: tl.constexpr):
    """left rightᵀ of two pairs; of halves all products but that of the low ones."""
    product = tl.dot(left[0], right[0].T, input_precision=PRECISION)
    if HALVES:
        product = tl.dot(left[0], right[1].T, product, input_precision=PRECISION)
        product = tl.dot(left[1], right[0].T, product, input_precision=PRECISION)
    return product


@_tuned(FOR_VALUES)
@triton.jit
def forward(
    query, low_query, key, low_key, value, output, logsumexp, scale, n, m, d, c, size, chip,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    batch = tl.program_id(1).to(tl.int64)
    row, channel = tl.program_id(0) * ROWS, tl.program_id(2) * CHANNELS
    queries = _loaded(_pair(query, low_query, batch, n, d, ROWS, WIDTH, HALVES), row, HALVES)
    all_keys = _pair(key, low_key, batch, m, d, STEP, WIDTH, HALVES)
    all_values = _matrix(value, batch, m, c, STEP, CHANNELS)
    top = tl.full((ROWS,), -float("inf"), tl.float32)
    total = tl.zeros((ROWS,), tl.float32)
    gathered = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.range(0, m, STEP, warp_specialize=SPECIALIZED):
        keys = _loaded(all_keys, start, HALVES)
        scores = _product(queries, keys, PRECISION, HALVES)
        scores = tl.where((start + tl.arange(0, STEP) < m)[None, :], scores, -float("inf"))
        higher = tl.maximum(tl.maximum(top, tl.max(scores, 1) * scale), LEAST)  # finite, if all scores are −∞
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


@_tuned(FOR_VALUES)
@triton.jit
def grad_value(
    grad, query, low_query, key, low_key, logsumexp, grad_value, scale, n, m, d, c, size, chip,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """dV = Sᵀ dE: a program has a block of keys and channels, and goes over the queries."""
    batch = tl.program_id(1).to(tl.int64)
    row, channel = tl.program_id(0) * ROWS, tl.program_id(2) * CHANNELS
    keys = _loaded(_pair(key, low_key, batch, m, d, ROWS, WIDTH, HALVES), row, HALVES)
    all_queries = _pair(query, low_query, batch, n, d, STEP, WIDTH, HALVES)
    all_gradients = _matrix(grad, batch, n, c, STEP, CHANNELS)
    total = tl.zeros((ROWS, CHANNELS), tl.float32)
    for start in tl.range(0, n, STEP, warp_specialize=SPECIALIZED):
        queries = _loaded(all_queries, start, HALVES)
        scores = _product(keys, queries, PRECISION, HALVES)
        beyond = _numbers(logsumexp, batch, start + tl.arange(0, STEP), n, float("inf"))
        weights = tl.exp2(scores * scale - beyond[None, :])
        gradients = all_gradients.load([start, channel])
        total = tl.dot(weights.to(gradients.dtype), gradients, total, input_precision=PRECISION)
    _matrix(grad_value, batch, m, c, ROWS, CHANNELS).store([row, channel], total.to(grad_value.dtype.element_ty))


@triton.jit
def inner_products(grad, output, inner, n, c, ROWS: tl.constexpr, CHANNELS: tl.constexpr):
    """Each query's inner = Σ dE ∘ E, over channels."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS
    gradients, outputs = (_matrix(grad, batch, n, c, ROWS, CHANNELS), _matrix(output, batch, n, c, ROWS, CHANNELS))
    total = tl.zeros((ROWS,), tl.float32)
    for channel in range(0, c, CHANNELS):
        total += tl.sum(gradients.load([row, channel]).to(tl.float32) * outputs.load([row, channel]), 1)
    rows = row + tl.arange(0, ROWS)
    tl.store(inner + batch * n + rows, total, mask=rows < n)


@_tuned(FOR_SCORES, reset_to_zero=["grad_query"])
@triton.jit
def grad_key(
    grad, query, low_query, key, low_key, value, inner, logsumexp, grad_query, grad_key, scale, n, m, d, c, size, chip,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr, ALL: tl.constexpr, ADDED: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """dK = dSᵀ Q, dS = scale · S ∘ (dE Vᵀ − inner): a program has a block of keys, and adds its part of dQ if ADDED."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS
    inside = (row + tl.arange(0, ROWS) < m)[:, None]
    width = tl.arange(0, WIDTH)[None, :]
    keys = _loaded(_pair(key, low_key, batch, m, d, ROWS, WIDTH, HALVES), row, HALVES)
    all_values = _matrix(value, batch, m, c, ROWS, CHANNELS)
    values = all_values.load([row, 0])
    all_queries = _pair(query, low_query, batch, n, d, STEP, WIDTH, HALVES)
    all_gradients = _matrix(grad, batch, n, c, STEP, CHANNELS)
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, n, STEP):
        rows = start + tl.arange(0, STEP)
        queries = _loaded(all_queries, start, HALVES)
        scores = _product(keys, queries, PRECISION, HALVES)
        scores = tl.where(inside, scores, -float("inf"))
        weights = tl.exp2(scores * scale - _numbers(logsumexp, batch, rows, n, float("inf"))[None, :])
        grad_weights = tl.dot(values, all_gradients.load([start, 0]).T, input_precision=PRECISION)
        for channel in range(CHANNELS, ALL, CHANNELS):
            others, gradients = all_values.load([row, channel]), all_gradients.load([start, channel])
            grad_weights = tl.dot(others, gradients.T, grad_weights, input_precision=PRECISION)
        grad_scores = weights * (grad_weights - _numbers(inner, batch, rows, n, 0.0)[None, :])
        grad_scores = grad_scores.to(queries[0].dtype)
        total = tl.dot(grad_scores, queries[0], total, input_precision=PRECISION)
        if ADDED:
            part = tl.dot(grad_scores.T, keys[0], input_precision=PRECISION) * (scale * LN_2)
            places = batch * n * d + rows[:, None] * d + width
            tl.atomic_add(grad_query + places, part, mask=(rows < n)[:, None] & (width < d), sem="relaxed")
    _matrix(grad_key, batch, m, d, ROWS, WIDTH).store([row, 0], (total * (scale * LN_2)).to(grad_key.dtype.element_ty))


@_tuned(FOR_SCORES)
@triton.jit
def grad_query(
    grad, query, low_query, key, low_key, value, inner, logsumexp, grad_query, scale, n, m, d, c, size, chip,
    WIDTH: tl.constexpr, HALVES: tl.constexpr, PRECISION: tl.constexpr, ALL: tl.constexpr,
    ROWS: tl.constexpr, STEP: tl.constexpr, CHANNELS: tl.constexpr, SPECIALIZED: tl.constexpr,
):  # fmt: skip
    """dQ = dS K: a program has a block of queries, and sums it alone, in one order."""
    batch = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS
    rows = row + tl.arange(0, ROWS)
    queries = _loaded(_pair(query, low_query, batch, n, d, ROWS, WIDTH, HALVES), row, HALVES)
    all_gradients = _matrix(grad, batch, n, c, ROWS, CHANNELS)
    gradients = all_gradients.load([row, 0])
    all_keys = _pair(key, low_key, batch, m, d, STEP, WIDTH, HALVES)
    all_values = _matrix(value, batch, m, c, STEP, CHANNELS)
    beyond = _numbers(logsumexp, batch, rows, n, float("inf"))[:, None]
    subtracted = _numbers(inner, batch, rows, n, 0.0)[:, None]
    total = tl.zeros((ROWS, WIDTH), tl.float32)
    for start in range(0, m, STEP):
        keys = _loaded(all_keys, start, HALVES)
        scores = _product(queries, keys, PRECISION, HALVES)
        scores = tl.where((start + tl.arange(0, STEP) < m)[None, :], scores, -float("inf"))
        weights = tl.exp2(scores * scale - beyond)
        grad_weights = tl.dot(gradients, all_values.load([start, 0]).T, input_precision=PRECISION)
        for channel in range(CHANNELS, ALL, CHANNELS):
            others, values = all_gradients.load([row, channel]), all_values.load([start, channel])
            grad_weights = tl.dot(others, values.T, grad_weights, input_precision=PRECISION)
        grad_scores = (weights * (grad_weights - subtracted)).to(keys[0].dtype)
        total = tl.dot(grad_scores, keys[0], total, input_precision=PRECISION)
    found = (total * (scale * LN_2)).to(grad_query.dtype.element_ty)
    _matrix(grad_query, batch, n, d, ROWS, WIDTH).store([row, 0], found)


def run(kernel: Any, sizes: Sequence[int], **arguments: Any) -> None:
    """A program for each matrix, block of rows and block of channels, on the device of the first argument.

    Their tensor descriptors lie in memory of torch's, by an allocator that nobody else's kernels see.
    """
    batch, rows, channels = sizes
    if arguments.get("size") == 0:
        (chosen,) = kernel.early_config_prune(kernel.configs, **arguments)
        kernel, arguments = kernel.fn, arguments | chosen.all_kwargs()

    def grid(blocks: dict[str, Any]) -> tuple[int, int, int]:
        return triton.cdiv(rows, blocks["ROWS"]), batch, triton.cdiv(channels, blocks["CHANNELS"])

    def scratch(size: int, alignment: int, stream: int | None) -> Tensor:
        return torch.empty(size, dtype=torch.int8, device="cuda")

    context = copy_context()
    context.run(triton.set_allocator, scratch)
    with torch.cuda.device_of(next(iter(arguments.values()))), ALONE:
        context.run(kernel[grid], **arguments, enable_fp_fusion=True)
