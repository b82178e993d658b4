"""What runs differ in, by their own record alone (config.yaml and metrics.jsonl): settings, scores, curves."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from danet.config import fields, read_yaml
from danet.errors import InputError
from danet.training.record import RECORD, read_record
from danet.viz.curves import Points
from danet.viz.report import curve

SCORES = ("miou", "pixel_accuracy", "context")
SMOOTHED = 20
"""A loss is shown as the mean over a 20th of the longest run."""
KEPT = 200
"""So many points of a loss's curve are kept at most."""


class Run(NamedTuple):
    """What one run reached: the steps done and asked for, its seconds of training, its best validation, its curves.

    best: step, scores and IoU of every class, as shares; None before the first validation. loss: of the classifier that
    predicts, smoothed; miou: of every validation.
    """

    step: int
    steps: int
    seconds: float
    best: dict[str, Any] | None
    loss: Points
    miou: Points

    @property
    def iou(self) -> dict[str, float | None]:
        """The best validation's IoU of every class."""
        return self.best["iou"] if self.best else {}


class Differences(NamedTuple):
    """Fields that are not the same in all runs (field → run → value), each run, and how many steps a loss is a mean of.

    A field that a run's config.yaml has not, as it is newer than the run, counts with its default.
    """

    settings: dict[str, dict[str, Any]]
    runs: dict[str, Run]
    window: int

    @property
    def classes(self) -> list[str]:
        """Every class that a run was scored on."""
        return list(dict.fromkeys(name for run in self.runs.values() for name in run.iou))

    @property
    def alike(self) -> bool:
        """Whether the runs that were validated have the same classes, without which their means say little."""
        return len({frozenset(run.iou) for run in self.runs.values() if run.best}) < 2

    @property
    def gain(self) -> dict[str, Any] | None:
        """The second run's scores less the first's, where there are two; None for what one of them has not.

        Means over different classes have no difference.
        """
        if len(self.runs) != 2:
            return None
        before, after = ((run.best or {"iou": {}}) for run in self.runs.values())
        scores = {key: _less(after.get(key), before.get(key)) if self.alike else None for key in SCORES}
        iou = {name: _less(after["iou"].get(name), before["iou"].get(name)) for name in self.classes}
        return {**scores, "iou": iou}

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        runs = {name: run._asdict() for name, run in self.runs.items()}
        return {"settings": self.settings, "runs": runs, "loss_is_mean_of_steps": self.window, "gain": self.gain}


def find_runs(names: Iterable[str]) -> dict[str, Path]:
    """Those of `names` that are folders of runs, each folder once."""
    found: dict[Path, str] = {}
    for name in names:
        if all((Path(name) / file).is_file() for file in ("config.yaml", RECORD)):
            found.setdefault(Path(name).resolve(), name)
    return {name: Path(name) for name in found.values()}


def differences(runs: Mapping[str, Path]) -> Differences:
    """Compare runs (name → folder). Raises InputError for a folder that holds none, and for a damaged record."""
    asked = {name: settings(folder) for name, folder in runs.items()}
    history = {name: read_record(folder) for name, folder in runs.items()}
    names = list(dict.fromkeys(field for one in asked.values() for field in one if field != "name"))
    values = {field: {run: one.get(field) for run, one in asked.items()} for field in names}
    done = {name: max((record["step"] for record in records), default=0) for name, records in history.items()}
    window = max(1, max(done.values(), default=0) // SMOOTHED)
    found = {
        name: Run(
            done[name],
            asked[name]["optim.steps"],
            max((record.get("seconds", 0.0) for record in records), default=0.0),
            best_validation(records),
            smooth(curve(records, "step", "losses", "fused"), window),
            curve(records, "validated", "miou"),
        )
        for name, records in history.items()
    }
    return Differences({field: held for field, held in values.items() if _differ(held.values())}, found, window)


def settings(folder: Path) -> dict[str, Any]:
    """Every field of a run's configuration by its dotted name; InputError for a folder without one."""
    if not (folder / "config.yaml").is_file():
        raise InputError(f"{folder} holds no run: there is no config.yaml in it; give a folder under runs/.")
    defaults = json.loads(json.dumps({name: default for name, (default, _) in fields().items()}))
    return defaults | _dotted(read_yaml(folder / "config.yaml"))


def best_validation(records: Sequence[Mapping[str, Any]]) -> dict[str, Any] | None:
    """Step, scores and IoU of the first validation that no other surpasses, the one that best/ holds."""
    scored = [record for record in records if record["event"] == "validated" and record.get("miou") is not None]
    if not scored:
        return None
    best = max(scored, key=lambda record: record["miou"])
    return {"step": best["step"], **{key: best.get(key) for key in SCORES}, "iou": best.get("iou") or {}}


def smooth(points: Points, window: int) -> Points:
    """Each point the mean of the last `window` ones; at most KEPT of them, evenly chosen, with the last."""
    sums = [0.0, *accumulate(value for _, value in points)]
    means = [
        (step, (sums[end] - sums[max(0, end - window)]) / min(end, window))
        for end, (step, _) in enumerate(points, start=1)
    ]
    stride = -(-len(means) // KEPT) or 1
    return means[(len(means) - 1) % stride :: stride]


def _dotted(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        found |= _dotted(value, f"{prefix}{name}.") if isinstance(value, dict) else {f"{prefix}{name}": value}
    return found


def _differ(values: Iterable[Any]) -> bool:
    first, *rest = values
    return any(value != first for value in rest)


def _less(after: float | None, before: float | None) -> float | None:
    return None if after is None or before is None else after - before
