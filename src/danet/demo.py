"""`danet demo`: train a small DANet on drawn streets, beside an FCN without attention, in at most six minutes.

The steps are chosen by what this machine does: a few are timed first. Where both networks do not fit, DANet runs alone.
"""

from __future__ import annotations

import time
from dataclasses import replace
from itertools import count
from pathlib import Path
from statistics import median

import torch

from danet.config import RunConfig, read_config
from danet.console import Screen
from danet.evaluation.evaluate import Report
from danet.inference.device import choose_device, choose_precision
from danet.models.segmentation import build_model
from danet.training.data import open_data, read_data
from danet.training.loop import train
from danet.training.losses import Criterion
from danet.training.state import State
from danet.training.step import Stepper
from danet.training.summary import report_runs
from danet.viz.text import duration

BUDGET = 300.0
"""Seconds from the beginning to the end, by the steps that were timed; they take up to a fifth longer in the run."""
ENOUGH = 350
"""Steps under which two networks would learn too little: then DANet has all the time."""
SCORING = 25, 12.0
"""What validating and reporting take for each network: so many steps' time, and seconds."""
NAMES = {"danet": "DANet", "fcn": "FCN"}


def demo(screen: Screen, runs: Path = Path("runs"), seed: int = 0) -> tuple[Path, dict[str, Report]]:
    """Train, score and report; returns the report's path and each network's scores."""
    start = time.perf_counter()
    name = next(name for number in count(1) if not (runs / (name := f"demo-{number}")).exists())
    config = read_config("demo", {"seed": str(seed)})
    device = choose_device()
    precision = choose_precision("auto", device)
    data = open_data(config)
    read_data(config, data, screen.phase)
    heads = {head: with_changes(config, name=f"{name}/{head}", head=head) for head in NAMES}
    seconds = {head: seconds_per_step(heads[head], data.labels.num_classes) for head in NAMES}
    left = BUDGET - (time.perf_counter() - start)
    steps = min(config.optim.steps, steps_within(left, list(seconds.values())))
    if steps < ENOUGH:
        heads.pop("fcn")
        steps = min(config.optim.steps, steps_within(left, [seconds["danet"]]))
    names = " and ".join(NAMES[head] for head in heads)
    screen.say(f"Training {names} on drawn streets: {steps} steps each, on {device} in {precision}, {duration(left)}.")
    for head, one in heads.items():
        one = heads[head] = with_changes(one, steps=steps)
        own = replace(data, model=data.model.model_copy(update={"head": head}))
        screen.watch(NAMES[head], train(one, runs=runs, data=own, progress=screen.phase), steps)
    path = runs / name / "report.html"
    folders = {NAMES[head]: runs / one.name for head, one in heads.items()}
    return path, report_runs(folders, path, "DANet on drawn streets", screen.phase, SUMMARY, data.val)


def steps_within(seconds: float, step_seconds: list[float]) -> int:
    """How many steps each of the networks can take, if all of them, validated and reported, are to be done in time."""
    steps, fixed = SCORING
    return max(1, int((seconds - fixed * len(step_seconds)) / sum(step_seconds)) - steps)


SUMMARY = (
    "In these scenes road and pavement are paved alike; only what stands on a strip tells which it is. But for "
    "attention the networks see about 131 pixels. The context score is the accuracy on road and pavement farther than "
    "40 pixels from any thing. Scenes are built so that context decides: they show what attention can do, not what it "
    "gains on your data."
)


def seconds_per_step(config: RunConfig, num_classes: int, rounds: int = 5) -> float:
    """The median time of a training step on random images, after one to warm up."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    model = build_model(config.model.model_copy(update={"num_classes": num_classes}))
    state = State.of(model.to(device).to(memory_format=torch.channels_last), config, device)
    stepper = Stepper(config, state, Criterion(), device, precision)
    images = torch.zeros(config.data.batch_size, 3, *config.data.crop, dtype=torch.uint8)
    masks = torch.zeros(len(images), *config.data.crop, dtype=torch.int64)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        stepper.step(0, images, masks, [])
        times.append(time.perf_counter() - start)
    return median(times[1:])


def with_changes(config: RunConfig, **changes: object) -> RunConfig:
    """`config` under another name, with another head or number of steps."""
    sections = {"head": "model", "steps": "optim"}
    update = {}
    for field, value in changes.items():
        if section := sections.get(field):
            update[section] = getattr(config, section).model_copy(update={field: value})
        else:
            update[field] = value
    return config.model_copy(update=update)
