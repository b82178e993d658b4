"""Which statistics BatchNorm learns with: the batch's, those of all processes' batches, or frozen ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from danet.config import RunConfig
from danet.errors import InputError
from danet.models.backbone import synchronise_norms

ENOUGH = 8
"""So many images give statistics that are worth learning; fewer would spoil those that a model brings along."""


def frozen(config: RunConfig) -> bool:
    """Whether the run's norms keep the statistics that they start with."""
    if config.optim.norm == "auto":
        return config.init is not None and config.data.batch_size // config.optim.accumulate < ENOUGH
    return config.optim.norm == "frozen"


def freeze_statistics(model: nn.Module) -> None:
    """Let every BatchNorm of a model in training mode use and keep the statistics that it has."""
    for norm in norms(model):
        norm.eval()


def norms(model: nn.Module) -> Iterator[_BatchNorm]:
    """Every BatchNorm of a model."""
    return (module for module in model.modules() if isinstance(module, _BatchNorm))


def synchronise(model: nn.Module, device: torch.device) -> nn.Module:
    """The model with norms that use the statistics of all processes; parameters and their names stay.

    On GPUs it is torch's SyncBatchNorm, which has no form for the CPU; there CrossProcessBatchNorm. Raises InputError
    for norms that neither knows.
    """
    if device.type == "cuda":
        return synchronise_norms(model)
    for norm in norms(model):
        if type(norm) is not nn.BatchNorm2d:
            raise InputError(
                f"A norm of this network is {type(norm).__name__}, which processes on CPUs cannot share: set "
                "optim.norm frozen."
            )
        norm.__class__ = CrossProcessBatchNorm
    return model


class CrossProcessBatchNorm(nn.BatchNorm2d):
    """BatchNorm over the batches of all processes, with gradients through the statistics as of one batch."""

    def forward(self, input: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        if not self.training:
            return super().forward(input)
        found: Any = _Normalised.apply(input.float(), self.weight, self.bias, self.eps)
        outputs, mean, variance, count = found
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # pyright: ignore[reportOptionalMemberAccess]
            momentum: Any = self.momentum
            self.running_mean.lerp_(mean, momentum)  # pyright: ignore[reportOptionalMemberAccess]
            self.running_var.lerp_(variance * count / (count - 1), momentum)  # pyright: ignore[reportOptionalMemberAccess]
        return outputs.to(input.dtype)


class _Normalised(torch.autograd.Function):
    """Features with their statistics over all processes, which exchange once forward and once backward."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        mean = features.mean((0, 2, 3))
        variance = (features - mean[:, None, None]).square_().mean((0, 2, 3))  # quicker here than torch.var_mean
        share = torch.cat([mean, variance, mean.new_full((1,), features.numel() / len(mean))])
        means, variances, counts = _gathered(share).split([len(mean), len(mean), 1], dim=1)
        count = counts.sum()
        mean = (counts * means).sum(0) / count
        variance = (counts * (variances + (means - mean).square())).sum(0) / count
        scale = (variance + eps).rsqrt()
        ctx.save_for_backward(features, weight, mean, scale, count)
        ctx.mark_non_differentiable(mean, variance, count)
        factor = weight * scale
        outputs = (features * factor[:, None, None]).add_((bias - mean * factor)[:, None, None])
        return outputs, mean, variance, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        features, weight, mean, scale, count = ctx.saved_tensors
        shift = grad.sum((0, 2, 3))
        stretch = (features - mean[:, None, None]).mul_(grad).sum((0, 2, 3)) * scale
        all_shift, all_stretch = (_gathered(torch.cat([shift, stretch])).sum(0) / count).chunk(2)
        # factor · (grad − all_shift − all_stretch · normalised features), in one copy
        factor, slope = weight * scale, all_stretch * scale
        inner = torch.addcmul(grad, features, slope[:, None, None], value=-1)
        inner = inner.sub_((all_shift - slope * mean)[:, None, None]).mul_(factor[:, None, None])
        return inner, stretch, shift, None


def _gathered(share: Float[Tensor, " n"]) -> Float[Tensor, "processes n"]:
    """Each process's `share`, a row each."""
    if not dist.is_initialized():
        return share[None]
    rows = share.new_zeros(dist.get_world_size(), len(share))
    rows[dist.get_rank()] = share
    dist.all_reduce(rows)
    return rows


@contextmanager
def statistics_kept(model: nn.Module) -> Iterator[None]:
    """A forward pass in training mode within leaves the running statistics as they are: it is a repetition."""
    found = [(norm, norm.momentum, norm.num_batches_tracked) for norm in norms(model)]
    for norm, _, tracked in found:
        norm.momentum, norm.num_batches_tracked = 0.0, None if tracked is None else tracked.clone()
    try:
        yield
    finally:
        for norm, momentum, tracked in found:
            norm.momentum, norm.num_batches_tracked = momentum, tracked
