"""`danet::position_attention` as one operator of torch, its gradient as another: compilers and exporters take it whole.

What they compute is in danet.ops.tiles. They are defined on a Library, since the first call of a
`torch.library.custom_op` loads torch's compiler, which takes over a second and 160 MB.
"""

from typing import Any

import torch
from torch import Tensor

from danet.ops import tiles

LIBRARY = torch.library.Library("danet", "DEF")
LIBRARY.define(
    "position_attention(Tensor query, Tensor key, Tensor value, float scale) -> (Tensor output, Tensor logsumexp)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
LIBRARY.define(
    "position_attention_backward(Tensor grad_output, Tensor query, Tensor key, Tensor value, Tensor output, "
    "Tensor logsumexp, float scale) -> (Tensor grad_query, Tensor grad_key, Tensor grad_value)",
    tags=(torch.Tag.pt2_compliant_tag,),
)
attend = torch.ops.danet.position_attention.default
attend_backward = torch.ops.danet.position_attention_backward.default


@torch.library.impl(LIBRARY, "position_attention", "CompositeExplicitAutograd")
def _(query: Tensor, *others: Any) -> tuple[Tensor, Tensor]:
    with torch.autocast(query.device.type, enabled=False):
        return tiles.attend(query, *others)


@torch.library.impl(LIBRARY, "position_attention_backward", "CompositeExplicitAutograd")
def _(grad_output: Tensor, *others: Any) -> tuple[Tensor, Tensor, Tensor]:
    with torch.autocast(grad_output.device.type, enabled=False):
        return tiles.attend_backward(grad_output, *others)


@torch.library.register_fake(attend, lib=LIBRARY)
def _(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    logsumexp = query.new_empty(query.shape[:2], dtype=tiles.wide_dtype(query, key, value))
    return value.new_empty(*query.shape[:2], value.shape[2]), logsumexp


@torch.library.register_fake(attend_backward, lib=LIBRARY)
def _(grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, Tensor, Tensor]:
    return query.new_empty(query.mT.shape).mT, key.new_empty(key.shape), value.new_empty(value.shape)


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


def _differentiate(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    return *attend_backward(grad_output, *ctx.saved_tensors, ctx.scale), None


def _refuse(ctx: Any, *_: Tensor) -> None:
    raise RuntimeError(
        "position attention by 'tiles' can be differentiated once only: choose backend 'whole', if the map fits memory"
    )


torch.library.register_autograd(attend, _differentiate, setup_context=_save, lib=LIBRARY)
torch.library.register_autograd(attend_backward, _refuse, lib=LIBRARY)
