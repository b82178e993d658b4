"""Position attention, exact, in memory linear in the number of positions (DANet, CVPR 2019, section 3.2).

S = softmax(scale · Q Kᵀ) over keys and E = S V; the N×M matrix is never formed. What computes it is one operator,
`torch.ops.danet.position_attention`, and its backward another, so compilers and exporters take either whole;
danet.ops.tiles holds the equations. On CUDA torch's memory-efficient kernel takes over where it can.
Products of float32 tensors follow torch's own setting (`torch.set_float32_matmul_precision`).
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, Literal, get_args, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from danet.ops.tiles import attend, attend_backward, wide_dtype

Backend = Literal["auto", "tiles", "sdpa"]

# A map of at most so many entries costs less by the equations as they stand than an operator's call does.
SMALL_MAP = 96 * 96


@overload
def position_attention(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    value: Float[Tensor, "... m c"],
    scale: float = 1.0,
    return_logsumexp: Literal[False] = False,
    backend: Backend = "auto",
) -> Float[Tensor, "... n c"]: ...


@overload
def position_attention(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    value: Float[Tensor, "... m c"],
    scale: float = 1.0,
    *,
    return_logsumexp: Literal[True],
    backend: Backend = "auto",
) -> tuple[Float[Tensor, "... n c"], Float[Tensor, "... n"]]: ...


def position_attention(
    query: Float[Tensor, "... n d"],
    key: Float[Tensor, "... m d"],
    value: Float[Tensor, "... m c"],
    scale: float = 1.0,
    return_logsumexp: bool = False,
    backend: Backend = "auto",
) -> Float[Tensor, "... n c"] | tuple[Float[Tensor, "... n c"], Float[Tensor, "... n"]]:
    """softmax(scale · query keyᵀ) value, with softmax over keys, in memory linear in n and m.

    Scores and softmax are float32 or wider whatever the inputs' types, also under autocast, which lowers the product
    with `value` alone. The result has the type of `value` (under autocast: autocast's).

    With `return_logsumexp`, also each query's log Σ exp(scale · query keyᵀ), which carries no gradient; it is what
    `position_attention_columns` needs.

    `backend` "tiles" is our own way, on any device; "sdpa" torch's memory-efficient kernel on CUDA, which wants query,
    key and value in one type, rounds the softmax to it, and gives no log-sum-exp; "auto" takes it where all of that
    holds. Neither ever forms the N×M matrix.

    Raises ValueError for shapes that do not fit and for a backend that cannot do what is asked, and RuntimeError when
    the gradient is differentiated again.
    """
    _check(query, key, value, backend)
    device = query.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device))
    if backend == "auto" and not return_logsumexp and _is_small(query, key, value):
        with torch.autocast(device, enabled=False) if autocast else nullcontext():
            return torch.softmax(_scores(query, key, scale), dim=-1).to(value.dtype) @ value
    leading = query.shape[:-2]
    flat = [x.reshape(math.prod(leading), *x.shape[-2:]) for x in (query, key, value)]
    if backend != "tiles":
        refusal = "gives no log-sum-exp" if return_logsumexp else _sdpa_refusal(*flat)
        if refusal is None:
            # This kernel and no other: torch's last resort would form the N×M matrix.
            with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
                output = F.scaled_dot_product_attention(*(x.unsqueeze(1) for x in flat), scale=scale)
            return output.reshape(*leading, *output.shape[-2:])
        if backend == "sdpa":
            raise ValueError(f"position attention by 'sdpa' {refusal}: choose 'tiles' or 'auto'")
    output, logsumexp = _attend(*flat, scale)
    output = output.view(*leading, *output.shape[-2:])
    return (output, logsumexp.detach().view(output.shape[:-1])) if return_logsumexp else output


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


@torch.library.custom_op("danet::position_attention", mutates_args=())
def _attend(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    with torch.autocast(query.device.type, enabled=False):
        return attend(query, key, value, scale)


@_attend.register_fake
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    logsumexp = query.new_empty(query.shape[:2], dtype=wide_dtype(query, key, value))
    return value.new_empty(*query.shape[:2], value.shape[2]), logsumexp


@torch.library.custom_op("danet::position_attention_backward", mutates_args=())
def _attend_backward(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(query.device.type, enabled=False):
        return attend_backward(grad_output, query, key, value, output, logsumexp, scale)


@_attend_backward.register_fake
def _(
    grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor, logsumexp: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.mT.shape).mT, key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *_attend_backward(grad_output, *ctx.saved_tensors, ctx.scale), None


def _refuse(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError("position attention can be differentiated once only: its gradient has no gradient of its own")


_attend.register_autograd(_differentiate, setup_context=_save)
_attend_backward.register_autograd(_refuse)


def _is_small(query: Tensor, key: Tensor, value: Tensor) -> bool:
    """Whether the equations as they stand cost less than a call of the operator; never while a graph is recorded."""
    recorded = torch.is_grad_enabled() and any(x.requires_grad for x in (query, key, value))
    return query[..., 0].numel() * key.shape[-2] <= SMALL_MAP and not recorded and not torch.compiler.is_compiling()


def _sdpa_refusal(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"]
) -> str | None:
    """Why torch's memory-efficient kernel cannot take these, or None."""
    if query.device.type != "cuda":
        return f"needs a CUDA device, not {query.device.type}"
    if not query.dtype == key.dtype == value.dtype:
        return f"needs one type, not {query.dtype}, {key.dtype} and {value.dtype}"
    if not can_use_efficient_attention(
        SDPAParams(*(x.unsqueeze(1) for x in (query, key, value)), None, 0.0, False, False)
    ):
        return (
            f"refuses {tuple(query.shape)}, {tuple(key.shape)} and {tuple(value.shape)} of {query.dtype} on this device"
        )
    return None


def _scores(query: Float[Tensor, "... n d"], key: Float[Tensor, "... m d"], scale: float) -> Float[Tensor, "... n m"]:
    dtype = wide_dtype(query, key)
    return (query.to(dtype) * scale) @ key.to(dtype).mT


def _indices(at: int | Sequence[int] | Int[Tensor, " k"], length: int) -> Int[Tensor, " k"]:
    at = torch.as_tensor(at, dtype=torch.long).reshape(-1)
    outside = at[(at < 0) | (at >= length)]
    if len(outside):
        raise IndexError(f"there is no position {int(outside[0])}: give indices from 0 to {length - 1}")
    return at


def _check(query: Tensor, key: Tensor, value: Tensor, backend: str) -> None:
    if backend not in get_args(Backend):
        raise ValueError(f"there is no position attention backend {backend!r}: choose 'auto', 'tiles' or 'sdpa'")
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
