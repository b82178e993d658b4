"""What a run is made of, and its checkpoints: weights, their moving average, optimizer and step, and nothing else.

Randomness has no state. In float16 the loss's scale belongs to it.
"""

from __future__ import annotations

import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from danet.config import RunConfig
from danet.errors import InputError
from danet.files import explained, written_aside
from danet.models.segmentation import SegmentationModel
from danet.training.optim import create_optimizer


@dataclass(frozen=True)
class State:
    """A model that learns, with all that its next step depends on."""

    model: SegmentationModel
    average: AveragedModel | None
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler

    @staticmethod
    def of(model: SegmentationModel, config: RunConfig, device: torch.device) -> State:
        """What trains `model`, which is on `device`, from its first step on."""
        scaler = torch.amp.GradScaler(device.type, enabled=config.precision == "float16")
        return State(model, moving_average(model, config.optim.ema), create_optimizer(model, config.optim), scaler)

    @property
    def kept(self) -> SegmentationModel:
        """The model to validate and to keep: the average, where there is one."""
        found: Any = self.model if self.average is None else self.average.module
        return found

    def save(self, path: Path, step: int, keep: int) -> None:
        """Write the checkpoint aside, sync and rename it to `path`, and remove all but the last `keep` beside it.

        Raises InputError where it cannot be written; those that were there stay.
        """
        folder = path.parent
        state = {"step": step, **{name: part.state_dict() for name, part in self._parts().items()}}
        there = checkpoints(folder)
        newest = f" from {there[-1].name}" if there else ""
        with explained(path, f"make room, then go on{newest} with --resume {folder.parent}"):
            folder.mkdir(parents=True, exist_ok=True)
            with written_aside(path) as aside:
                try:
                    with aside.open("wb") as file:
                        torch.save(state, file)
                except RuntimeError as error:  # torch's own, in place of what the system said of a full disk
                    said = error.__context__
                    raise said if isinstance(said, OSError) else OSError(" ".join(str(error).split())[:120]) from None
        for old in checkpoints(folder)[:-keep]:
            old.unlink(missing_ok=True)

    def load(self, folder: Path) -> int:
        """Load the newest whole checkpoint in place and return its step.

        A damaged one is renamed, with a warning, and the one before is taken. Raises InputError where there is none,
        and for one that is of another network.
        """
        while found := checkpoints(folder):
            path = found[-1]
            try:
                state = _read(path)
            except Exception as error:  # torch.load raises nearly anything for damaged files
                reason = " ".join(str(error).split())[:120]
                damaged = path.rename(path.with_name(f"damaged-{path.name}"))
                warnings.warn(f"{path} is damaged ({reason}); it is now {damaged.name}, and left out.", stacklevel=2)
                continue
            try:
                for name, part in self._parts().items():
                    part.load_state_dict(state[name])
            except Exception as error:
                reason = " ".join(str(error).split())[:120]
                raise InputError(f"{path} is of another network or optimizer ({reason}); start a new run.") from None
            return state["step"]
        raise InputError(f"{folder} holds no checkpoint to resume from; start the run afresh under another name.")

    def _parts(self) -> dict[str, Any]:
        parts = {"model": self.model, "average": self.average, "optimizer": self.optimizer, "scaler": self.scaler}
        return {name: part for name, part in parts.items() if part is not None}


def moving_average(model: nn.Module, decay: float) -> AveragedModel | None:
    """A moving average of all weights and statistics of `model`; None for a decay of 0."""
    if decay == 0:
        return None
    return AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True)


def checkpoint_path(folder: Path, step: int) -> Path:
    """The file of the checkpoint after `step` steps."""
    return folder / f"step-{step:07d}.pt"


def checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in `folder`, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def _read(path: Path) -> dict[str, Any]:
    """A checkpoint; raises for one of which a byte has changed, which torch would load in silence."""
    with zipfile.ZipFile(path) as archive:
        if wrong := archive.testzip():
            raise ValueError(f"its part {wrong} has another checksum")
    return torch.load(path, map_location="cpu", weights_only=True)
