"""One step of training: a batch through the network, in parts where asked for, and what its gradient does."""

from __future__ import annotations

import math
import sys
from contextlib import AbstractContextManager, ExitStack, nullcontext
from ctypes import CDLL
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64, Num
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from danet.config import SMALLEST_SIDE, RunConfig
from danet.data.dataset import stateless_seed
from danet.data.transforms import normalise
from danet.errors import InputError
from danet.inference.device import Precision, autocast
from danet.models.convolution import quicken
from danet.models.segmentation import SegmentationModel
from danet.processes import ALONE, Processes
from danet.training.checkpointing import LARGE, checkpointed, fine
from danet.training.gates import keep_sign
from danet.training.losses import Criterion, segmentation_losses
from danet.training.norm import freeze_statistics, frozen, synchronise
from danet.training.optim import learning_rate, set_learning_rate
from danet.training.state import State

SMALLEST_SCALE = 1.0
"""A loss in float16 that overflows even at this scale will not be mended by a smaller one."""


class Losses(nn.Module):
    """A network with its losses, as one module, so that processes can share its gradients: images to losses by name."""

    def __init__(self, model: SegmentationModel, config: RunConfig, criterion: Criterion, precision: Precision) -> None:
        super().__init__()
        self.model, self.criterion = model, criterion
        self.precision: Precision = precision
        self.weights = {"branch_weight": config.optim.branch_weight, "auxiliary_weight": config.optim.auxiliary_weight}
        self.config = config
        self.classify = torch.compile(model.classify) if config.compile else model.classify

    def forward(
        self, images: Float[Tensor, "b c H W"], masks: Int64[Tensor, "b H W"], totals: Float[Tensor, 2]
    ) -> dict[str, Float[Tensor, ""]]:
        with autocast(images.device, self.precision), self._sparing(images):
            logits = self.classify(images)
        return segmentation_losses(logits, masks, self.model.enlarge, self.criterion, totals, **self.weights)

    def _sparing(self, images: Tensor) -> AbstractContextManager[None]:
        """What surrounds a forward pass, so that less is kept for the backward pass."""
        backbone = self.model.backbone
        if self.config.checkpointing:
            return checkpointed(backbone)
        if self.config.compile or self.model.anatomy.channels_last:
            return nullcontext()
        return checkpointed(backbone, partial(fine, images.shape))


def unused(model: SegmentationModel, channels: int) -> list[nn.Parameter]:
    """Parameters that learn, but that no classifier depends on: HRNets have such where not all their maps are used.

    Leaves the model as for prediction.
    """
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    images = torch.zeros(1, channels, 2 * SMALLEST_SIDE, 2 * SMALLEST_SIDE, device=learning[0].device)
    logits = sum(logits.sum() for logits in model.eval().classify(images).values())
    gradients = torch.autograd.grad([torch.as_tensor(logits)], learning, allow_unused=True)
    return [parameter for parameter, gradient in zip(learning, gradients, strict=True) if gradient is None]


def give_back_memory() -> None:
    """Let the system have what this process has freed: the C library keeps it, in pieces that the next step's tensors
    do not fit, which at 768×768 came to a quarter of a gigabyte.
    """
    if sys.platform == "linux" and (trim := getattr(CDLL(None), "malloc_trim", None)):  # glibc's
        trim(0)


class Done(NamedTuple):
    """What a step came to: each loss of the whole batch, and the learning rate."""

    losses: dict[str, float]
    rate: float


def learn(model: SegmentationModel, config: RunConfig) -> None:
    """Put `model` into training mode, but for what `config` freezes."""
    model.train()
    if frozen(config):
        freeze_statistics(model)
    if config.freeze == "backbone":
        freeze_statistics(model.backbone)
        model.backbone.requires_grad_(False)


class Stepper:
    """Takes steps: the network, its losses and its optimizer on one device of one process.

    The model that learns is `state.model`, in the precision that computes it.
    """

    def __init__(
        self,
        config: RunConfig,
        state: State,
        criterion: Criterion,
        device: torch.device,
        precision: Precision,
        processes: Processes = ALONE,
    ) -> None:
        self.config, self.state, self.criterion = config, state, criterion
        self.device, self.precision, self.processes = device, precision, processes
        self.parts = config.optim.accumulate
        model = state.model
        if processes.count > 1:
            for parameter in unused(model, config.model.in_channels):
                parameter.requires_grad_(False)  # the other processes would wait for its gradient
            if not frozen(config):
                synchronise(model, device)
        learn(model, config)
        if device.type == "cpu":
            quicken(model)
        losses = Losses(model, config, criterion, precision)
        self.losses: Any = losses
        if processes.count > 1:
            self.losses = DistributedDataParallel(losses, device_ids=None if device.type == "cpu" else [device])

    def step(
        self, number: int, images: Num[Tensor, "b c h w"], masks: Int64[Tensor, "b h w"], names: list[str]
    ) -> Done:
        """Step `number`, counted from 0, on this process's share of the batch, whose files are `names`.

        Raises InputError for a loss or a gradient that is not finite.
        """
        optimizer, scaler, model, optim = (
            self.state.optimizer,
            self.state.scaler,
            self.state.model,
            self.config.optim,
        )
        rate = learning_rate(number, optim)
        set_learning_rate(optimizer, rate)
        masks = masks.to(self.device)
        totals = self.processes.sum(self.criterion.totals(masks))
        optimizer.zero_grad()
        if self.device.type == "cpu" and images.numel() >= LARGE:
            give_back_memory()
        found: dict[str, Tensor] = {}
        for part, (some, their) in enumerate(zip(images.chunk(self.parts), masks.chunk(self.parts), strict=True)):
            # for dropout
            torch.manual_seed(stateless_seed(self.config.seed, "step", number, part, self.processes.rank))
            rule = self.config.preprocess
            inputs = normalise(some.to(self.device), rule.mean, rule.std, rule.range)
            with ExitStack() as stack:
                if self.processes.count > 1 and part < self.parts - 1:
                    stack.enter_context(self.losses.no_sync())
                losses = self.losses(inputs, their, totals)
                # Gradients of processes are averaged, and these losses are parts of a sum.
                scaler.scale(torch.stack(list(losses.values())).sum() * self.processes.count).backward()
            for name, loss in losses.items():
                found[name] = found.get(name, 0) + loss.detach()
        scaler.unscale_(optimizer)
        norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
        values = dict(zip(found, self.processes.sum(torch.stack(list(found.values()))).tolist(), strict=True))
        self._refuse_infinite(sum(values.values()), norm.item(), number, rate, names)
        if optim.clip:
            nn.utils.clip_grads_with_norm_(model.parameters(), optim.clip, norm)
        scaler.step(optimizer)  # none in float16, where the scaled gradient overflowed
        scaler.update()
        keep_sign(model, optim)
        if self.state.average is not None:
            self.state.average.update_parameters(model)
        return Done(values, rate)

    def _refuse_infinite(self, loss: float, norm: float, number: int, rate: float, names: list[str]) -> None:
        scaled = self.state.scaler.is_enabled() and self.state.scaler.get_scale() > SMALLEST_SCALE
        if math.isfinite(loss) and (math.isfinite(norm) or scaled):
            return
        raise InputError(
            f"The loss is {loss:.4g} and its gradient {norm:.4g} in step {number + 1} at learning rate {rate:.2g}; "
            f"lower optim.lr, or look at the files of this batch: {', '.join(names)}."
        )
