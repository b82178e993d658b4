"""Checkpoints: weights, their moving average, optimizer and step, and nothing else, since randomness has no state."""

from pathlib import Path

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from danet.errors import InputError
from danet.files import written_aside

KEEP = 2


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """A moving average of all weights and statistics of `model`; None for a decay of 0."""
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def save_checkpoint(
    folder: Path, step: int, model: nn.Module, average: AveragedModel | None, optimizer: torch.optim.Optimizer
) -> Path:
    """Write step-N.pt aside, sync and rename it; older ones but the last are removed."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{step:07d}.pt"
    state = {
        "step": step,
        "model": model.state_dict(),
        "average": average.state_dict() if average is not None else None,
        "optimizer": optimizer.state_dict(),
    }
    with written_aside(path) as aside:
        torch.save(state, aside)
    for old in checkpoints(folder)[:-KEEP]:
        old.unlink()
    return path


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def load_checkpoint(
    folder: Path, model: nn.Module, average: AveragedModel | None, optimizer: torch.optim.Optimizer
) -> int:
    """Load the newest checkpoint in place and return its step; raises InputError for none, or a damaged one."""
    found = checkpoints(folder)
    if not found:
        raise InputError(f"{folder} holds no checkpoint to resume from; start the run afresh under another name.")
    try:
        state = torch.load(found[-1], map_location="cpu", weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if average is not None:
            average.load_state_dict(state["average"])
    except Exception as error:  # torch.load raises nearly anything for damaged files
        reason = " ".join(str(error).split())[:120]
        raise InputError(f"{found[-1]} cannot be resumed from ({reason}); delete it to use the one before.") from None
    return state["step"]
