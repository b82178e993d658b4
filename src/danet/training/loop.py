"""Training, top to bottom, as a generator of events; console, report and tests only read what it yields.

It leaves runs/NAME/ with config.yaml, metrics.jsonl (every event), checkpoints/ and best/ (a bundle). Randomness has
no state: step s draws from (seed, s), sample i of epoch e from (seed, e, i), so a resumed run goes on as if nothing
had happened. To stop early, leave the `for` loop: the last step is kept.
"""

from __future__ import annotations

import copy
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
from danet.files import written_aside
from danet.inference.device import autocast, choose_device, choose_precision
from danet.inference.segmenter import Segmenter
from danet.models.attention import gates
from danet.models.segmentation import build_model
from danet.training.data import RunData, absolute_root, batches, context_region, open_data, read_data
from danet.training.gates import branch_shares, keep_sign, start_attention
from danet.training.losses import CLASS_WEIGHTS, segmentation_losses
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


Event = Step | Validated | Saved


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    runs: str | Path = "runs",
    data: RunData | None = None,
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
) -> Generator[Event, None, None]:
    """Train as `config` says into RUNS/NAME, or go on there with `resume`; yields an event a step, and more.

    data: `open_data(config)`, where several runs share it. progress: from a phase's name to a callback, for what takes
    long between steps. What can be known to be wrong beforehand (names, sizes, any file of the data) raises InputError
    before anything is written; a loss or gradient that is not finite raises it with the step, the learning rate and the
    batch's files. `seconds` count training alone, over all resumptions.
    """
    folder = Path(runs) / config.name
    if folder.exists() and not resume:
        mend = f"go on with --resume {folder}, or " if (folder / "config.yaml").is_file() else ""
        raise InputError(f"{folder} is there already; {mend}choose another --name.")
    config = absolute_root(config)
    device = choose_device(config.device)
    precision = choose_precision(config.precision, device)
    data = data or open_data(config)
    # The precision is kept, since a resumed run must not time the machine anew and come to another.
    told = {"model": data.model, "preprocess": data.preprocess}
    config = config.model_copy(update={**told, "precision": precision})
    torch.manual_seed(stateless_seed(config.seed, "weights"))
    initial = data.model.model_copy(update={"pretrained": False}) if resume else data.model
    model = build_model(initial).to(device).to(memory_format=torch.channels_last)
    if config.data.batch_size == 1:  # some norms cannot learn from one image, and say so here
        with torch.no_grad():
            copy.deepcopy(model)(torch.zeros(1, data.model.in_channels, *config.data.crop, device=device))
    start_attention(model, config.optim)
    optimizer = create_optimizer(model, config.optim)
    average = moving_average(model, config.optim.ema)
    kept: Any = model if average is None else average.module
    done = load_checkpoint(folder / "checkpoints", model, average, optimizer) if resume else 0
    feed = batches(config, data.train, done)
    summary = read_data(config, data, progress)
    counts = torch.from_numpy(summary.counts[:, : data.labels.num_classes])
    weigh = CLASS_WEIGHTS.get(config.optim.class_weights)
    class_weights = None if weigh is None else weigh(counts).to(device)
    facts = describe_run(device, precision, config.seed)

    folder.mkdir(parents=True, exist_ok=True)
    with written_aside(folder / "config.yaml") as aside:
        aside.write_text(config.to_yaml(), encoding="utf-8")
    record = Record(folder / "metrics.jsonl", done)
    best = record.best if (folder / "best").is_dir() else -1.0
    start = time.perf_counter() - record.seconds
    model.train()
    try:
        while True:
            due = done % config.validate_every == 0 or done == config.optim.steps
            if done and due and done not in record.validated:
                segmenter = Segmenter(kept, data.labels, config.preprocess, str(device), precision)
                report = evaluate(segmenter, data.val, PROTOCOL, context_region(config), progress("validate"))
                improved = report.scores.miou > best
                if improved:
                    best = report.scores.miou
                    scores = {"protocol": PROTOCOL, "miou": round(best, 4), "step": done}
                    bundle = Bundle(kept, data.model, data.labels, config.preprocess, scores, facts)
                    save_bundle(folder / "best", bundle)
                shares = branch_shares(segmenter, data.val)
                yield record(Validated(done, report, shares, time.perf_counter() - start))
                if improved:
                    yield record(Saved(done, folder / "best", time.perf_counter() - start))
                path = save_checkpoint(folder / "checkpoints", done, model, average, optimizer)
                yield record(Saved(done, path, time.perf_counter() - start))
            if done == config.optim.steps:
                return

            images, masks, names = next(feed)
            rate = learning_rate(done, config.optim)
            set_learning_rate(optimizer, rate)
            torch.manual_seed(stateless_seed(config.seed, "step", done))  # for dropout
            rule = config.preprocess
            inputs = normalise(images.to(device), rule.mean, rule.std, rule.range)
            with autocast(device, precision):
                output = model(inputs)
            losses = segmentation_losses(
                output,
                masks.to(device),
                model.enlarge,
                class_weights=class_weights,
                branch_weight=config.optim.branch_weight,
                auxiliary_weight=config.optim.auxiliary_weight,
            )
            loss = torch.stack(list(losses.values())).sum()
            optimizer.zero_grad()
            loss.backward()
            norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
            if not (math.isfinite(loss.item()) and math.isfinite(norm.item())):
                raise InputError(
                    f"The loss is {loss.item():.4g} and its gradient {norm.item():.4g} in step {done + 1} at learning "
                    f"rate {rate:.2g}; lower optim.lr, or look at the files of this batch: {', '.join(names)}."
                )
            if config.optim.clip:
                nn.utils.clip_grads_with_norm_(model.parameters(), config.optim.clip, norm)
            optimizer.step()
            keep_sign(model, config.optim)
            if average is not None:
                average.update_parameters(model)
            done += 1
            parts = {name: part.item() for name, part in losses.items()}
            yield record(Step(done, loss.item(), parts, rate, gates(model), time.perf_counter() - start))
    except GeneratorExit:  # the consumer stopped early, after a whole step
        save_checkpoint(folder / "checkpoints", done, model, average, optimizer)
        raise


class Record:
    """metrics.jsonl, an event a line. Opened to go on after `step`, it drops what lies behind, and says what it knows:

    the best mIoU, the steps that were validated, and the seconds of training so far.
    """

    def __init__(self, path: Path, step: int) -> None:
        self.path = path
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True) if step else []
        whole = [line for line in lines if line.endswith("\n")]  # a killed run may leave half a line
        kept = {line: entry for line in whole if (entry := json.loads(line))["step"] <= step}
        validations = [entry for entry in kept.values() if entry["event"] == "validated"]
        self.best = max((entry["miou"] for entry in validations), default=-1.0)
        self.validated = {entry["step"] for entry in validations}
        self.seconds = max((entry["seconds"] for entry in kept.values()), default=0.0)
        with written_aside(path) as aside:
            aside.write_text("".join(kept), encoding="utf-8")

    def __call__(self, event: Event) -> Event:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(to_record(event), ensure_ascii=False) + "\n")
        if isinstance(event, Validated):
            self.validated.add(event.step)
        return event


def to_record(event: Event) -> dict[str, Any]:
    """An event as a line of metrics.jsonl."""
    kind = type(event).__name__.lower()
    match event:
        case Validated(step, report, shares, seconds):
            summary = {key: value for key, value in report.to_dict().items() if key != "images"}
            return {"event": kind, "step": step, **summary, "shares": shares, "seconds": round(seconds, 4)}
        case Saved(step, path, seconds):
            return {"event": kind, "step": step, "path": path.name, "seconds": round(seconds, 4)}
        case _:
            return {"event": kind, **event._asdict(), "seconds": round(event.seconds, 4)}
