"""Channel attention, exact, with energies that are never rounded below float32 (DANet, CVPR 2019, section 3.3)."""

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

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
    attention = channel_attention_map(query, key, rule)
    with torch.autocast(query.device.type, enabled=False):
        return attention.to(value.dtype) @ value


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
    if rule not in ("official", "paper"):
        raise ValueError(f"there is no channel attention rule {rule!r}: choose 'official' or 'paper'")
    key = query if key is None else key
    if min(query.ndim, key.ndim) < 2 or query.shape[:-2] != key.shape[:-2] or query.shape[-1] != key.shape[-1]:
        raise ValueError(
            "channel attention takes query … c n and key … m n with the same leading dimensions and n, "
            f"not {tuple(query.shape)} and {tuple(key.shape)}"
        )
    with torch.autocast(query.device.type, enabled=False):
        dtype = _energy_dtype(query, key)
        energy = query.to(dtype) @ key.to(dtype).mT
        # Softmax is blind to a row's constant, so softmax(rowmax - E) is softmax(-E), less one rounding.
        attention = torch.softmax(-energy if rule == "official" else energy, dim=-1)
    return attention.to(torch.promote_types(torch.promote_types(query.dtype, key.dtype), torch.float32))


def _energy_dtype(query: Tensor, key: Tensor) -> torch.dtype:
    """float32 or wider; float64 where torch was told to round the factors of float32 products (TF32, bfloat16).

    An energy is a sum over all positions: in the thousands, where such a rounding shifts it by more than 1.
    """
    backends = {"cpu": torch.backends.mkldnn, "cuda": torch.backends.cuda}
    settings = getattr(backends.get(query.device.type), "matmul", None)
    rounds = settings is not None and settings.fp32_precision not in ("none", "ieee")
    dtype = torch.float64 if rounds else torch.float32
    return torch.promote_types(dtype, torch.promote_types(query.dtype, key.dtype))
