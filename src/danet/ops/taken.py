"""Position attention in which every query does without keys of its own: the most attended ones, or others at random."""

import torch
from jaxtyping import Float
from torch import Tensor

from danet.ops.product import product
from danet.ops.tiles import wide_dtype

# Scores that are held at a time (4 MB in float32), beside as many of a few other kinds.
BLOCK = 2**20


def position_attention_taken(
    query: Float[Tensor, "n d"],
    key: Float[Tensor, "m d"],
    value: Float[Tensor, "m c"],
    share: float = 0.1,
    seed: int = 0,
) -> tuple[Float[Tensor, "n c"], Float[Tensor, "n c"]]:
    """What each query gathers without `share` of the keys, its most attended, and without as many random others.

    At least one key is taken and one left; a single key stays. S is renewed over the keys left: its rows sum to 1.
    Memory is linear in n and m. Raises ValueError for a share that is not above 0 and at most a half.
    """
    if not 0 < share <= 0.5:
        raise ValueError(f"share is {share}; it must be above 0 and at most 0.5, so that there are as many others")
    keys = len(key)
    count = min(max(1, round(share * keys)), keys // 2)
    most, random = value.new_empty(len(query), value.shape[1]), value.new_empty(len(query), value.shape[1])
    generator = torch.Generator().manual_seed(seed)  # a CPU's, so that devices draw the same
    dtype, step = wide_dtype(query, key), max(1, BLOCK // keys)
    with torch.autocast(query.device.type, enabled=False):
        for start in range(0, len(query), step):
            rows = slice(start, start + step)
            scores = product(query[None, rows].to(dtype), key[None].to(dtype).mT)[0]
            taken = scores.topk(count, sorted=False).indices
            drawn = torch.rand(scores.shape, generator=generator).to(scores.device).scatter_(1, taken, -1)
            for output, removed in ((most, taken), (random, drawn.topk(count, sorted=False).indices)):
                weights = scores.scatter(1, removed, -torch.inf).softmax(-1).to(value.dtype)
                output[rows] = product(weights[None], value[None])[0]
    return most, random
