"""Activation checkpointing: within the backbone's blocks nothing is kept for the backward pass, which computes it anew.

Chen et al., 2016 (arXiv 1604.06174), by torch.utils.checkpoint. Outputs, gradients and running statistics stay those
of the plain network; a step takes about a third longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

from torch import nn
from torch.utils.checkpoint import checkpoint

from danet.training.norm import statistics_kept


def blocks(backbone: nn.Module) -> list[nn.Module]:
    """What a network repeats: the innermost parts of its sequences that have layers of their own."""
    lists = (nn.Sequential, nn.ModuleList)
    sequences = (module for module in backbone.modules() if isinstance(module, lists))
    parts = {id(part): part for sequence in sequences for part in sequence if not isinstance(part, lists)}
    parts = {key: part for key, part in parts.items() if any(True for _ in part.children())}
    return [part for part in parts.values() if sum(id(module) in parts for module in part.modules()) == 1]


@contextmanager
def checkpointed(backbone: nn.Module) -> Iterator[None]:
    """Forward passes of `backbone` within keep nothing of what is inside its blocks; the modules stay as they are."""
    chosen: list[Any] = blocks(backbone)
    for block in chosen:
        context = partial(_contexts, block)
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, context_fn=context)
    try:
        yield
    finally:
        for block in chosen:
            del block.forward


def _contexts(block: nn.Module) -> tuple[Any, Any]:
    """What surrounds the first pass and its repetition."""
    return nullcontext(), statistics_kept(block)
