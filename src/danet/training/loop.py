"""Training, top to bottom, as a generator of events; console, report and tests only read what it yields.

It leaves runs/NAME/ with config.yaml, metrics.jsonl (every event), checkpoints/ and best/ (a bundle). Randomness has
no state: step s draws from (seed, s), sample i of epoch e from (seed, e, i), so a resumed run goes on as if nothing
had happened. To stop early, leave the `for` loop: the last step is kept.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from danet.config import RunConfig
from danet.data.dataset import stateless_seed
from danet.data.parallel import Progress
from danet.data.transforms import normalise
from danet.errors import InputError
from danet.evaluation.evaluate import Report, evaluate
from danet.inference.device import autocast, choose_device, choose_precision
from danet.inference.segmenter import Segmenter
from danet.models.attention import ChannelAttention, PositionAttention
from danet.models.segmentation import build_model
from danet.training.data import batches, context_region, open_data
from danet.training.losses import segmentation_losses
from danet.training.optim import create_optimizer, learning_rate, set_learning_rate
from danet.training.provenance import describe_run
from danet.training.state import load_checkpoint, moving_average, save_checkpoint
from danet.weights.bundle import Bundle, save_bundle

PROTOCOL = "whole"


class Step(NamedTuple):
    """Step number `step`, counted from 1, is done; `losses` are weighted and add up to `loss`."""

    step: int
    loss: float
    losses: dict[str, float]
    lr: float
    gates: dict[str, float]
    seconds: float


class Validated(NamedTuple):
    """The validation set was scored by the final protocol, on whole images."""

    step: int
    report: Report
    seconds: float


class Saved(NamedTuple):
    """A checkpoint, or the best model so far as a bundle, is on disk."""

    step: int
    path: Path
    seconds: float


Event = Step | Validated | Saved


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    runs: str | Path = "runs",
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
) -> Generator[Event, None, None]:
    """Train as `config` says into RUNS/NAME, or go on there with `resume`; yields an event a step, and more.

    progress: from a phase's name to a callback, for what takes long between steps. What can be known to be wrong
    beforehand (names, sizes, any file of the data) raises InputError before anything is written; a loss that is not
    finite raises it with the step, the learning rate and the batch's files. `seconds` count from the first step of
    this process.
    """
    folder = Path(runs) / config.name
    if folder.exists() and not resume:
        raise InputError(f"{folder} holds a run already; go on with --resume {folder}, or choose another --name.")
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    torch.manual_seed(stateless_seed(config.seed, "weights"))
    data = open_data(config, progress)
    config = config.model_copy(update={"model": data.model})
    model = build_model(data.model).to(device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer(model, config.optim)
    average = moving_average(model, config.optim.ema)
    kept: Any = model if average is None else average.module
    segmenter = Segmenter(kept, data.labels, config.preprocess, str(device), precision)
    class_weights = None if data.class_weights is None else data.class_weights.to(device)
    region = context_region(config)

    done = load_checkpoint(folder / "checkpoints", model, average, optimizer) if resume else 0
    feed = batches(config, data.train, done)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    record, best = open_record(folder / "metrics.jsonl", done)
    start = time.perf_counter()
    model.train()
    try:
        while done < config.optim.steps:
            images, masks, names = next(feed)
            rate = learning_rate(done, config.optim)
            set_learning_rate(optimizer, rate)
            torch.manual_seed(stateless_seed(config.seed, "step", done))  # for dropout
            inputs = normalise(images.to(device), config.preprocess.mean, config.preprocess.std)
            with autocast(device, precision):
                output = model(inputs)
            losses = segmentation_losses(
                output,
                masks.to(device),
                class_weights=class_weights,
                branch_weight=config.optim.branch_weight,
                auxiliary_weight=config.optim.auxiliary_weight,
                align_corners=model.align_corners,
            )
            loss = torch.stack(list(losses.values())).sum()
            if not math.isfinite(loss.item()):
                raise InputError(
                    f"The loss is {loss.item()} in step {done + 1} at learning rate {rate:.2g}; lower optim.lr, or "
                    f"look at the files of this batch: {', '.join(names)}."
                )
            optimizer.zero_grad()
            loss.backward()
            if config.optim.clip:
                nn.utils.clip_grad_norm_(model.parameters(), config.optim.clip)
            optimizer.step()
            if average is not None:
                average.update_parameters(model)
            done += 1
            parts = {name: part.item() for name, part in losses.items()}
            yield record(Step(done, loss.item(), parts, rate, gates(model), time.perf_counter() - start))

            if done % config.validate_every and done < config.optim.steps:
                continue
            report = evaluate(segmenter, data.val, PROTOCOL, region, progress("validate"))
            yield record(Validated(done, report, time.perf_counter() - start))
            if report.scores.miou > best:
                best = report.scores.miou
                scores = {"protocol": PROTOCOL, "miou": round(best, 4), "step": done}
                facts = describe_run(device, precision, config.seed)
                save_bundle(folder / "best", Bundle(kept, data.model, data.labels, config.preprocess, scores, facts))
                yield record(Saved(done, folder / "best", time.perf_counter() - start))
            path = save_checkpoint(folder / "checkpoints", done, model, average, optimizer)
            yield record(Saved(done, path, time.perf_counter() - start))
    except GeneratorExit:  # the consumer stopped early, between two steps
        save_checkpoint(folder / "checkpoints", done, model, average, optimizer)
        raise


def gates(model: nn.Module) -> dict[str, float]:
    """The gates α ("position") and β ("channel") of a model's attention modules."""
    found = {}
    for module in model.modules():
        if isinstance(module, PositionAttention):
            found["position"] = module.gate.item()
        elif isinstance(module, ChannelAttention):
            found["channel"] = module.gate.item()
    return found


def open_record(path: Path, step: int) -> tuple[Callable[[Event], Event], float]:
    """A function that appends events to metrics.jsonl, and the best mIoU there so far; what lies after `step` goes."""
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if step else []
    kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step]
    path.write_text("".join(kept), encoding="utf-8")
    best = max((entry["miou"] for entry in map(json.loads, kept) if entry["event"] == "validated"), default=-1.0)

    def record(event: Event) -> Event:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_record(event), ensure_ascii=False) + "\n")
        return event

    return record, best


def to_record(event: Event) -> dict[str, Any]:
    """An event as a line of metrics.jsonl."""
    kind = type(event).__name__.lower()
    match event:
        case Validated(step, report, seconds):
            summary = {key: value for key, value in report.to_dict().items() if key != "images"}
            return {"event": kind, "step": step, **summary, "seconds": round(seconds, 2)}
        case Saved(step, path, seconds):
            return {"event": kind, "step": step, "path": path.name, "seconds": round(seconds, 2)}
        case _:
            return {"event": kind, **event._asdict(), "seconds": round(event.seconds, 2)}
