"""Which statistics BatchNorm learns with: the batch's, those of all processes' batches, or frozen ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
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
        features = input.float()
        count = everywhere(features.new_tensor(features.numel() / features.shape[1]))
        mean = everywhere(features.sum((0, 2, 3))) / count
        centred = features - mean[:, None, None]
        variance = everywhere(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)  # pyright: ignore[reportOptionalMemberAccess]
            momentum: Any = self.momentum
            self.running_mean.lerp_(mean, momentum)  # pyright: ignore[reportOptionalMemberAccess]
            self.running_var.lerp_(variance * count / (count - 1), momentum)  # pyright: ignore[reportOptionalMemberAccess]
        factor = self.weight * (variance + self.eps).rsqrt()
        return (centred * factor[:, None, None] + self.bias[:, None, None]).to(input.dtype)


class _Everywhere(torch.autograd.Function):
    """The sum over processes. What it feeds is on each of them, so its gradient is the sum of theirs."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        return _sum(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
        return _sum(grad)


def everywhere(tensor: Tensor) -> Tensor:
    """The sum over all processes, with its gradient."""
    found: Any = _Everywhere.apply(tensor)
    return found


def _sum(tensor: Tensor) -> Tensor:
    tensor = tensor.clone()
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(tensor)
    return tensor


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
