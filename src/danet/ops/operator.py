"""`danet::position_attention` as one operator of torch, its gradient as another: compilers and exporters take it whole.

What they compute is in danet.ops.tiles, and, as `danet::position_attention_triton`, in danet.ops.position_triton. They
are defined on a Library, since the first call of a `torch.library.custom_op` loads torch's compiler, which takes over a
second and 160 MB.
"""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from danet.ops.tiles import wide_dtype

LIBRARY = torch.library.Library("danet", "DEF")
INPUTS = "Tensor query, Tensor key, Tensor value"


def _define(name: str, backend: str, module: str, turned: bool) -> Any:
    """The operator `name` of what `module`, loaded when it is called, has as `attend` and `attend_backward`.

    turned: whether the gradient in query is a transposed view.
    """
    tags = (torch.Tag.pt2_compliant_tag,)
    LIBRARY.define(f"{name}({INPUTS}, float scale) -> (Tensor output, Tensor logsumexp)", tags=tags)
    LIBRARY.define(
        f"{name}_backward(Tensor grad_output, {INPUTS}, Tensor output, Tensor logsumexp, float scale) -> "
        "(Tensor grad_query, Tensor grad_key, Tensor grad_value)",
        tags=tags,
    )
    attend, attend_backward = (getattr(torch.ops.danet, part).default for part in (name, f"{name}_backward"))
    _implement(name, lambda *inputs: import_module(module).attend(*inputs))
    _implement(f"{name}_backward", lambda *inputs: import_module(module).attend_backward(*inputs))
    torch.library.register_fake(attend, _shapes, lib=LIBRARY)

    def shapes(grad_output: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any) -> tuple[Tensor, ...]:
        grad_query = query.new_empty(query.mT.shape).mT if turned else query.new_empty(query.shape)
        return grad_query, key.new_empty(key.shape), value.new_empty(value.shape)

    torch.library.register_fake(attend_backward, shapes, lib=LIBRARY)

    def differentiate(ctx: Any, grad_output: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        return *attend_backward(grad_output, *ctx.saved_tensors, ctx.scale), None

    def refuse(ctx: Any, *_: Tensor) -> None:
        raise RuntimeError(
            f"position attention by {backend!r} can be differentiated once only: choose backend 'whole', if the map "
            "fits memory"
        )

    torch.library.register_autograd(attend, differentiate, setup_context=_save, lib=LIBRARY)
    torch.library.register_autograd(attend_backward, refuse, lib=LIBRARY)
    return attend, attend_backward


def _implement(name: str, function: Callable[..., Any]) -> None:
    def called(first: Tensor, *others: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return function(first, *others)

    LIBRARY.impl(name, called, "CompositeExplicitAutograd")


def _shapes(query: Tensor, key: Tensor, value: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    logsumexp = query.new_empty(query.shape[:2], dtype=wide_dtype(query, key, value))
    return value.new_empty(*query.shape[:2], value.shape[2]), logsumexp


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    *tensors, ctx.scale = inputs
    ctx.save_for_backward(*tensors, *output)


attend, attend_backward = _define("position_attention", "tiles", "danet.ops.tiles", turned=True)
attend_triton, _ = _define("position_attention_triton", "triton", "danet.ops.position_triton", turned=False)
