"""Position attention, exact, in memory linear in the number of positions (DANet, CVPR 2019, section 3.2).

S = softmax(scale · Q Kᵀ) over keys and E = S V; a large N×M matrix S is never formed. danet.ops.tiles holds how, and
danet.ops.operator makes it one operator of torch's; on CUDA torch's memory-efficient kernel takes over where it can.
Products of float32 tensors follow torch's own setting (`torch.set_float32_matmul_precision`).
"""

import math
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from typing import Literal, get_args, overload

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.backends.cuda import SDPAParams, can_use_efficient_attention
from torch.nn.attention import SDPBackend, sdpa_kernel

from danet.ops.operator import attend, attend_triton
from danet.ops.product import product
from danet.ops.softmax import softmax_
from danet.ops.tiles import wide_dtype

Backend = Literal["auto", "tiles", "sdpa", "triton", "whole"]
BACKENDS = get_args(Backend)

# Maps of no more entries than this (16 MB in float32) are formed as a whole: tiles would only add to their time.
SMALL_MAP = 2**22


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

    `backend` is one of
    - "tiles": a few tiles of the map at a time, on any device; its gradient cannot be differentiated again;
    - "sdpa": torch's memory-efficient kernel, on CUDA, for query, key and value of one type; without log-sum-exp;
    - "triton": the kernels of danet.ops.position_triton, on CUDA, for widths up to 128 (query, key) and 512 (value) and
      types of at most 32 bits; not measured yet, so nothing chooses it by itself; its gradient as that of "tiles", the
      same bits every time only under `torch.use_deterministic_algorithms`;
    - "whole": the equations as they stand, which hold the whole map and torch differentiates as often as you like;
    - "auto": "sdpa" where it can, "whole" for small maps (2²² entries at most), else "tiles".

    Raises ValueError for shapes that do not fit and for a backend that cannot do what is asked, and RuntimeError when
    the gradient of "tiles" or "triton" is differentiated.
    """
    _check(query, key, value, backend)
    device = query.device.type
    autocast = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
    if autocast and value.dtype != torch.float64:
        value = value.to(torch.get_autocast_dtype(device))
    leading = query.shape[:-2]
    if len(leading) != 1:
        query, key, value = (x.reshape(math.prod(leading), *x.shape[-2:]) for x in (query, key, value))
    with torch.autocast(device, enabled=False) if autocast else nullcontext():
        if backend == "auto":
            backend = _choose(query, key, value, return_logsumexp)
        match backend:
            case "tiles":
                output, logsumexp = attend(query, key, value, scale)
            case "whole":
                output, logsumexp = _whole(query, key, value, scale, return_logsumexp)
            case "sdpa":
                output, logsumexp = _sdpa(query, key, value, scale, return_logsumexp)
            case "triton":
                output, logsumexp = _triton(query, key, value, scale)
    if len(leading) != 1:
        output = output.reshape(*leading, *output.shape[-2:])
    if logsumexp is None or not return_logsumexp:
        return output
    return output, logsumexp.detach().view(output.shape[:-1])


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


def _choose(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], need_logsumexp: bool
) -> Backend:
    """What "auto" stands for."""
    if query.device.type == "cuda" and _sdpa_refusal(query, key, value, need_logsumexp) is None:
        return "sdpa"
    # A graph that is recorded for other sizes too gets the operator.
    small = not torch.compiler.is_compiling() and query.shape[0] * query.shape[1] * key.shape[1] <= SMALL_MAP
    return "whole" if small else "tiles"


def _whole(
    query: Float[Tensor, "b n d"],
    key: Float[Tensor, "b m d"],
    value: Float[Tensor, "b m c"],
    scale: float,
    need_logsumexp: bool,
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"] | None]:
    dtype = wide_dtype(query, key, value)
    scores = product(_scaled(query.to(dtype), scale), key.to(dtype).mT)
    logsumexp = scores.logsumexp(-1) if need_logsumexp else None
    return product(softmax_(scores).to(value.dtype), value), logsumexp


def _sdpa(
    query: Float[Tensor, "b n d"],
    key: Float[Tensor, "b m d"],
    value: Float[Tensor, "b m c"],
    scale: float,
    need_logsumexp: bool,
) -> tuple[Float[Tensor, "b n c"], None]:
    refusal = _sdpa_refusal(query, key, value, need_logsumexp)
    if refusal:
        raise ValueError(f"position attention by 'sdpa' {refusal}: choose 'tiles' or 'auto'")
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))  # one head
    # This kernel and no other: torch's last resort would form the N×M matrix.
    with sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION):
        return F.scaled_dot_product_attention(query, key, value, scale=scale).squeeze(1), None


def _triton(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], scale: float
) -> tuple[Float[Tensor, "b n c"], Float[Tensor, "b n"]]:
    if find_spec("triton") is None:
        raise ValueError("position attention by 'triton' needs the package triton, which is not here: choose 'auto'")
    return attend_triton(query, key, value, scale)


def _sdpa_refusal(
    query: Float[Tensor, "b n d"], key: Float[Tensor, "b m d"], value: Float[Tensor, "b m c"], need_logsumexp: bool
) -> str | None:
    """Why torch's memory-efficient kernel cannot do this, or None."""
    if need_logsumexp:
        return "gives no log-sum-exp"
    if query.device.type != "cuda":
        return f"needs a CUDA device, not {query.device.type}"
    if not query.dtype == key.dtype == value.dtype:
        return f"needs one type, not {query.dtype}, {key.dtype} and {value.dtype}"
    query, key, value = (x.unsqueeze(1) for x in (query, key, value))
    if not can_use_efficient_attention(SDPAParams(query, key, value, None, 0.0, False, False)):
        return f"cannot take widths {query.shape[-1]} and {value.shape[-1]} of {query.dtype} on this device"
    return None


def _scores(query: Float[Tensor, "... n d"], key: Float[Tensor, "... m d"], scale: float) -> Float[Tensor, "... n m"]:
    dtype = wide_dtype(query, key)
    return _scaled(query.to(dtype), scale) @ key.to(dtype).mT


def _scaled(query: Float[Tensor, "... n d"], scale: float) -> Float[Tensor, "... n d"]:
    return query if scale == 1 else query * scale


def _indices(at: int | Sequence[int] | Int[Tensor, " k"], length: int) -> Int[Tensor, " k"]:
    at = torch.as_tensor(at, dtype=torch.long).reshape(-1)
    outside = at[(at < 0) | (at >= length)]
    if len(outside):
        raise IndexError(f"there is no position {int(outside[0])}: give indices from 0 to {length - 1}")
    return at


def _check(query: Tensor, key: Tensor, value: Tensor, backend: str) -> None:
    if backend not in BACKENDS:
        raise ValueError(f"there is no position attention backend {backend!r}: choose {', '.join(BACKENDS)}")
    if not (query.is_floating_point() and key.is_floating_point() and value.is_floating_point()):
        types = f"{query.dtype}, {key.dtype} and {value.dtype}"
        raise ValueError(f"position attention takes floating-point tensors, not {types}: convert them")
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
