"""What a run tells while it goes on: the events that `danet.training.loop.train` yields."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from danet.evaluation.evaluate import Report


class Initialised(NamedTuple):
    """The run starts from the model `model`: each class, and that model's class whose rows it was given, if any."""

    step: int
    model: str
    classes: dict[str, str | None]
    seconds: float


class Step(NamedTuple):
    """Step number `step`, counted from 1, is done; `losses` are weighted and add up to `loss`.

    images_per_second: of all processes, waiting for data included; memory: the peak so far in bytes, where it is known.
    """

    step: int
    loss: float
    losses: dict[str, float]
    lr: float
    gates: dict[str, float]
    seconds: float
    images_per_second: float
    memory: int | None


class Validated(NamedTuple):
    """The validation set was scored by the final protocol, on whole images; `shares` are its branches' ‖αE‖/‖A‖."""

    step: int
    report: Report
    shares: dict[str, float]
    seconds: float


class Saved(NamedTuple):
    """A checkpoint, or the best model so far as a bundle, is on disk."""

    step: int
    path: Path
    seconds: float


Event = Initialised | Step | Validated | Saved
