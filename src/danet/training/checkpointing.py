"""Activation checkpointing: within the backbone's blocks nothing is kept for the backward pass, which computes it anew.

Chen et al., 2016 (arXiv 1604.06174), by torch.utils.checkpoint. Outputs, gradients and running statistics stay those
of the plain network; a step takes about a third longer. With the blocks on fine maps alone, which have much to keep and
little to compute, it takes hardly longer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from danet.models.backbone import STRIDE
from danet.training.norm import statistics_kept

LARGE = 2**20
"""Numbers in a map from which on it is worth computing anew."""


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """What a network repeats: the innermost parts of its sequences that have layers of their own."""
    lists = (nn.Sequential, nn.ModuleList)
    sequences = (module for module in backbone.modules() if isinstance(module, lists))
    parts = {id(part): part for sequence in sequences for part in sequence if not isinstance(part, lists)}
    parts = {key: part for key, part in parts.items() if any(True for _ in part.children())}
    return [part for part in parts.values() if sum(id(module) in parts for module in part.modules()) == 1]


def fine(image: torch.Size, features: Float[Tensor, "b c h w"]) -> bool:
    """Whether `features` are a large map of more than 1/8 of the resolution of a b×c×H×W `image`."""
    coarse = (image[-2] // STRIDE) * (image[-1] // STRIDE)
    return features.numel() >= LARGE and features.shape[-2] * features.shape[-1] > 2 * coarse


@contextmanager
def checkpointed(backbone: nn.Module, chosen: Callable[[Tensor], bool] = lambda features: True) -> Iterator[None]:
    """Forward passes of `backbone` within keep nothing of what is inside the blocks that take `chosen` features; the
    modules stay as they are."""
    changed: list[Any] = blocks(backbone)
    for block in changed:
        block.forward = partial(_run, block, block.forward, chosen)
    try:
        yield
    finally:
        for block in changed:
            del block.forward


def _run(block: nn.Module, forward: Callable[..., Any], chosen: Callable[[Tensor], bool], *inputs: Any) -> Any:
    if not chosen(inputs[0]):
        return forward(*inputs)
    return checkpoint(forward, *inputs, use_reentrant=False, context_fn=partial(_contexts, block))


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """What surrounds the first pass and its repetition."""
    return nullcontext(), statistics_kept(block)
