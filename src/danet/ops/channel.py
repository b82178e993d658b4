"""Channel attention, exact, with energies that are never rounded below float32 (DANet, CVPR 2019, section 3.3)."""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from danet.ops.product import product
from danet.ops.softmax import softmax_

ChannelRule = Literal["official", "paper"]


def channel_attention(
    query: Float[Tensor, "... c n"],
    key: Float[Tensor, "... m n"] | None = None,
    value: Float[Tensor, "... m p"] | None = None,
    rule: ChannelRule = "official",
) -> Float[Tensor, "... c p"]:
    """X value, with X of `channel_attention_map`, in the type of `value`; key and value are the query by default."""
    key = query if key is None else key
    value = query if value is None else value
    if value.ndim < 2 or value.shape[:-1] != key.shape[:-1]:
        raise ValueError(
            "channel attention takes key … m n and value … m p with the same leading dimensions and m, "
            f"not {tuple(key.shape)} and {tuple(value.shape)}"
        )
    _check(query, key, rule)
    leading = query.shape[:-2]
    query, key, value = (x.reshape(math.prod(leading), *x.shape[-2:]) for x in (query, key, value))
    # A compiler chooses by itself what to keep for the backward.
    compiling = torch.compiler.is_dynamo_compiling()
    inputs = query, key, value, rule
    output = _gather(*inputs)[0] if compiling else _ChannelAttention.apply(*inputs)
    return output.view(*leading, *output.shape[-2:])


def channel_attention_map(
    query: Float[Tensor, "... c n"],
    key: Float[Tensor, "... m n"] | None = None,
    rule: ChannelRule = "official",
) -> Float[Tensor, "... c m"]:
    """The map X over channels, rows summing to 1, from the energies E = query keyᵀ; the key is the query by default.

    "official" is softmax(rowmax(E) - E), as in the authors' code (`CAM_Module`): a channel attends to those least like
    it. "paper" is softmax(E), as in the paper's text. Under autocast, too, energies and map are float32 or wider.

    Raises ValueError for another rule, or shapes that do not fit.
    """
    key = query if key is None else key
    _check(query, key, rule)
    with torch.autocast(query.device.type, enabled=False):
        dtype = _energy_dtype(query, key)
        energy = query.to(dtype) @ key.to(dtype).mT
        # Softmax is blind to a row's constant, so softmax(rowmax - E) is softmax(-E), less one rounding.
        attention = softmax_(-energy if rule == "official" else energy)
    return attention.to(torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32))


class _ChannelAttention(torch.autograd.Function):
    """Keeps the map for the backward, and no energies nor copies of the features in another type."""

    @staticmethod
    def forward(
        ctx: Any,
        query: Float[Tensor, "b c n"],
        key: Float[Tensor, "b m n"],
        value: Float[Tensor, "b m p"],
        rule: ChannelRule,
    ) -> Float[Tensor, "b c p"]:
        output, attention = _gather(query, key, value, rule)
        ctx.save_for_backward(query, key, value, attention)
        ctx.rule = rule
        return output

    @staticmethod
    def backward(ctx: Any, grad: Float[Tensor, "b c p"]) -> tuple[Tensor, Tensor, Tensor, None]:
        query, key, value, attention = ctx.saved_tensors
        if torch.is_grad_enabled():  # for a gradient of the gradient the map, too, must depend on its inputs
            attention = channel_attention_map(query, key, ctx.rule)
        with torch.autocast(query.device.type, enabled=False):
            grad_value = _mix(attention.to(value.dtype).mT, grad)
            grad_attention = (grad @ value.mT).to(attention.dtype)
            grad_energy = attention * (grad_attention - (grad_attention * attention).sum(-1, keepdim=True))
            if ctx.rule == "official":
                grad_energy = -grad_energy
            grad_query = _mix(grad_energy, key.to(attention.dtype)).to(query.dtype)
            grad_key = _mix(grad_energy.mT, query.to(attention.dtype)).to(key.dtype)
        return grad_query, grad_key, grad_value, None


def _gather(
    query: Float[Tensor, "b c n"], key: Float[Tensor, "b m n"], value: Float[Tensor, "b m p"], rule: ChannelRule
) -> tuple[Float[Tensor, "b c p"], Float[Tensor, "b c m"]]:
    """X value, and X."""
    attention = channel_attention_map(query, key, rule)
    with torch.autocast(query.device.type, enabled=False):
        return _mix(attention.to(value.dtype), value), attention


def _mix(weights: Float[Tensor, "b c m"], features: Float[Tensor, "b m p"]) -> Float[Tensor, "b c p"]:
    """weights features, laid out in memory as the features are."""
    channels_last = features.stride(-2) == 1 and features.stride(-1) != 1
    return product(features.mT, weights.mT).mT if channels_last else product(weights, features)


def _check(query: Tensor, key: Tensor, rule: str) -> None:
    if rule not in ("official", "paper"):
        raise ValueError(f"there is no channel attention rule {rule!r}: choose 'official' or 'paper'")
    if min(query.ndim, key.ndim) < 2 or query.shape[:-2] != key.shape[:-2] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            "channel attention takes query … c n and key … m n with the same leading dimensions and n, "
            f"not {tuple(query.shape)} and {tuple(key.shape)}"
        )


def _energy_dtype(query: Tensor, key: Tensor) -> torch.dtype:
    """float32 or wider; float64 where torch was told to round the factors of float32 products (TF32, bfloat16).

    An energy is a sum over all positions: in the thousands, where such a rounding shifts it by more than 1.
    """
    if torch.compiler.is_dynamo_compiling():
        rounds = True  # dynamo cannot read the setting, so the safe way
    else:
        backends = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
        settings = getattr(backends.get(query.device.type), "matmul", None)
        rounds = settings is not None and settings.fp32_precision not in ("none", "ieee")
    dtype = torch.float64 if rounds else torch.float32
    return torch.promote_types(dtype, torch.promote_types(query.dtype, key.dtype))
