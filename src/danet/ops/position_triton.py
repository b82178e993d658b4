"""Position attention on CUDA, by kernels of Triton that take query and key of one width and values of another.

No kernel that torch ships is fast for query and key of 64 and values of 512. These, in danet.ops.position_kernels, hold
no N×M matrix either; the functions here stand in for those of danet.ops.tiles.

Float32 queries and keys beside values of 16 bits, as autocast makes them, go as a bfloat16 and what it leaves out:
three products at the rate of 16 bits, whose scores are exact to 2⁻¹⁶ of their terms.

Without a GPU the kernels run in Triton's interpreter (TRITON_INTERPRET=1, before this module is imported), which is how
their sums are tested; bfloat16 is wrong there, so halves are float16.
"""

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from danet.ops import position_kernels as kernels

WIDEST_KEY, WIDEST_VALUE = 128, 512
MOST = 65_535
"""Of the second dimension of a grid of CUDA's, which counts the batch."""
LOG2_E = math.log2(math.e)
TYPES = (torch.float32, torch.bfloat16, torch.float16)
HALF = torch.float16 if kernels.INTERPRETED else torch.bfloat16
TUNED = not kernels.INTERPRETED


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
        kernels.run(kernels.forward, output.shape, **common, value=values, output=output, logsumexp=logsumexp)
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
        return query.new_zeros(query.shape), key.new_zeros(key.shape), value.new_zeros(value.shape)
    common, values = _prepared(query, key, value, scale)
    grad, inner = _aligned(grad_output.to(value.dtype)), torch.empty_like(logsumexp)
    kernels.run(
        kernels.inner_products, (*inner.shape, 1), grad=grad, output=_aligned(output), inner=inner,
        n=grad.shape[1], c=grad.shape[2], ROWS=32, CHANNELS=64,
    )  # fmt: skip
    common |= {"grad": grad, "logsumexp": (logsumexp * LOG2_E).float().contiguous()}
    grad_value = torch.empty_like(values)
    kernels.run(kernels.grad_value, grad_value.shape, **common, grad_value=grad_value)
    common |= {"value": values, "inner": inner, "ALL": kernels.next_power_of_2(common["c"])}
    sums = torch.float32 if common["HALVES"] else value.dtype
    added = not torch.are_deterministic_algorithms_enabled()
    grad_key = key.new_empty(*key.shape[:2], common["d"], dtype=sums)
    grad_query = query.new_zeros(*query.shape[:2], common["d"], dtype=torch.float32 if added else sums)
    rest = {"grad_key": grad_key, "grad_query": grad_query if added else grad_query[:0], "ADDED": added}
    kernels.run(kernels.grad_key, (*key.shape[:2], 1), **common, **rest)
    if not added:
        kernels.run(kernels.grad_query, (*query.shape[:2], 1), **common, grad_query=grad_query)
    if scale <= 0:
        grad_query *= -1 if scale else 0
    return _as(grad_query, query), _as(grad_key, key), _as(grad_value, value)


def refusal(query: Tensor, key: Tensor, value: Tensor) -> str | None:
    """Why the kernels cannot do this, or None."""
    if kernels.INTERPRETED or query.device.type == "cuda":
        if kernels.INTERPRETED and torch.bfloat16 in {query.dtype, key.dtype, value.dtype}:
            return "takes no bfloat16 in Triton's interpreter, which multiplies it wrongly"
        if not {query.dtype, key.dtype, value.dtype} <= set(TYPES):
            return f"takes float32, bfloat16 and float16, not {query.dtype}, {key.dtype} and {value.dtype}"
        if len({query.device, key.device, value.device}) > 1:
            return f"takes tensors of one device, not {query.device}, {key.device} and {value.device}"
        if len(query) > MOST:
            return f"takes at most {MOST:,} pairs of query and key, not {len(query):,}"
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
    exact = torch.backends.cuda.matmul.fp32_precision != "tf32"  # it follows torch's older settings too
    tensors = {"query": query, "low_query": low_query, "key": key, "low_key": low_key}
    numbers = {"scale": scale * LOG2_E, "n": n, "m": m, "d": d, "c": c}
    tuned = TUNED and not torch.are_deterministic_algorithms_enabled()
    numbers["size"] = kernels.next_power_of_2(max(n, m)) if tuned else 0
    major, minor = torch.cuda.get_device_capability(query.device) if query.is_cuda else (0, 0)
    numbers["chip"] = 10 * major + minor
    constants = {
        "WIDTH": max(16, kernels.next_power_of_2(d)),
        "HALVES": halves,
        "PRECISION": "ieee" if exact else "tf32",
    }
    return tensors | numbers | constants, value


def _as(grad: Tensor, x: Tensor) -> Tensor:
    return grad[..., : x.shape[-1]].to(x.dtype).contiguous()


def _halves(x: Tensor) -> tuple[Tensor, Tensor]:
    high = x.to(HALF)
    return high, (x - high.float()).to(HALF)


def _aligned(x: Tensor) -> Tensor:
    """As tensor descriptors want it: rows of whole 16 bytes one after another, the first at a multiple of 16."""
    whole = 16 // x.element_size()
    short = max(math.ceil(x.shape[-1] / whole), 1) * whole - x.shape[-1]
    x = F.pad(x, (0, short)) if short else x.contiguous()
    return x.clone() if x.data_ptr() % 16 else x
