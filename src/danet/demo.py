"""`danet demo`: train a small DANet on drawn streets, beside its attention-free twin, in at most six minutes.

The steps are chosen by what this machine does: a few are timed first. Where both networks do not fit, DANet runs alone.
"""

from __future__ import annotations

import time
from itertools import count, islice
from pathlib import Path

import torch

from danet.config import RunConfig, read_config
from danet.console import Screen
from danet.data.labels import LabelSpace
from danet.evaluation.evaluate import Report
from danet.inference.device import autocast, choose_device, choose_precision
from danet.models.segmentation import build_model
from danet.training.loop import train
from danet.training.losses import segmentation_losses
from danet.training.optim import create_optimizer
from danet.training.summary import report_runs
from danet.viz.text import duration

BUDGET = 280.0
"""Seconds for the steps; drawing, scoring and the report take about half a minute more."""
ENOUGH = 500
"""Steps under which two networks would learn too little: then DANet has all the time."""
NAMES = {"danet": "DANet", "fcn": "FCN"}


def demo(screen: Screen, runs: Path = Path("runs"), seed: int = 0) -> tuple[Path, dict[str, Report]]:
    """Train, score and report; returns the report's path and each network's scores."""
    name = next(name for number in count(1) if not (runs / (name := f"demo-{number}")).exists())
    config = read_config("demo", {"seed": str(seed)})
    configs = {head: _with(config, name=f"{name}/{head}", head=head) for head in NAMES}
    device = choose_device()
    precision = choose_precision("auto", device)
    seconds = {head: seconds_per_step(configs[head]) for head in NAMES}
    steps = min(config.optim.steps, int(BUDGET / sum(seconds.values())))
    if steps < ENOUGH:
        configs.pop("fcn")
        steps = min(config.optim.steps, max(1, int(BUDGET / seconds["danet"])))
    total = steps * sum(seconds[head] for head in configs)
    screen.say(
        f"Training {' and '.join(NAMES[head] for head in configs)} on drawn streets: {steps} steps each in {precision} "
        f"on {device}, about {duration(total)}."
    )
    for head, one in configs.items():
        one = _with(one, steps=steps)
        screen.watch(NAMES[head], train(one, runs=runs, progress=screen.phase), steps)
    path = runs / name / "report.html"
    reports = report_runs(
        {NAMES[head]: runs / one.name for head, one in configs.items()},
        path,
        "DANet on drawn streets",
        screen.phase,
        summary=SUMMARY,
    )
    return path, reports


SUMMARY = (
    "In these scenes road and pavement are paved alike; only what stands on a strip tells which it is. Both networks "
    "see about 131 pixels. The context score is the accuracy on road and pavement farther than 40 pixels from any "
    "thing. Scenes are built so that context decides: they show what attention can do, not what it gains on your data."
)


def seconds_per_step(config: RunConfig, rounds: int = 3) -> float:
    """The median time of a training step on random images, after one to warm up."""
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    classes = LabelSpace.load("scenes").num_classes
    model = build_model(config.model.model_copy(update={"num_classes": classes}))
    model.to(device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer(model, config.optim)
    generator = torch.Generator().manual_seed(0)
    size = (config.data.batch_size, 3, *config.data.crop)
    images = torch.randn(size, generator=generator).to(device, memory_format=torch.channels_last)
    masks = torch.randint(classes, (size[0], *size[2:]), generator=generator).to(device)
    times = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        with autocast(device, precision):
            output = model(images)
        losses = segmentation_losses(output, masks)
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        times.append(time.perf_counter() - start)
    return sorted(islice(times, 1, None))[rounds // 2]


def _with(config: RunConfig, **changes: object) -> RunConfig:
    """`config` under another name, with another head or number of steps."""
    sections = {"head": "model", "steps": "optim"}
    update = {}
    for field, value in changes.items():
        if section := sections.get(field):
            update[section] = getattr(config, section).model_copy(update={field: value})
        else:
            update[field] = value
    return config.model_copy(update=update)
