"""Softmax without numbers that a processor is slow with.

The weights of sharp maps reach down to where float32 ends: numbers below 2⁻¹²⁶, subnormal ones, which many processors
multiply a hundred times more slowly than others. A weight below 2⁻⁶³ of its row's greatest (float64: 2⁻⁵¹¹) changes no
sum of such weights in its precision; as 0 it costs nothing, and what is left stays normal when a gradient scales it.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def smallest_power(dtype: torch.dtype) -> float:
    """The power of two below which a weight is 0: the root of the smallest normal number."""
    return math.log2(torch.finfo(dtype).tiny) / 2


def softmax_(scores: Float[Tensor, "... n m"]) -> Float[Tensor, "... n m"]:
    """softmax over the last dimension, with weights of 0 where they are too small to count beside the greatest.

    Takes the scores over. That needs no gradient of its own: where a weight is 0, softmax's is.
    """
    below = scores.detach()
    below.sub_(below.amax(-1, keepdim=True))
    torch.threshold_(below, smallest_power(scores.dtype) * math.log(2), -torch.inf)
    return torch.softmax(scores, dim=-1)


def powers_(scores: Float[Tensor, "... n m"]) -> Float[Tensor, "... n m"]:
    """2^scores in place, of scores that are at most 0, with 0 for powers too small to count beside 1."""
    return torch.threshold_(scores, smallest_power(scores.dtype), -torch.inf).exp2_()
