"""Training, top to bottom, as a generator of events; console, report and tests only read what it yields.

It leaves runs/NAME/ with config.yaml, metrics.jsonl (every event), checkpoints/ and best/ (a bundle). Randomness has
no state: step s draws from (seed, s), sample i of epoch e from (seed, e, i), so a resumed run goes on as if nothing
had happened, whatever ended it. To stop early, leave the `for` loop: the last step is kept. Several processes, which
torchrun starts, run this same loop in step with each other; the first of them writes.
"""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import torch

from danet.config import RunConfig, read_config
from danet.data.dataset import stateless_seed
from danet.data.parallel import Progress
from danet.errors import InputError
from danet.evaluation.evaluate import Report, evaluate
from danet.files import claimed, explained, remove_leftovers, sync, written_aside
from danet.inference.device import Precision, choose_device, choose_precision
from danet.inference.segmenter import Segmenter
from danet.models.attention import gates
from danet.models.segmentation import build_model
from danet.processes import ALONE, Processes, joined, launch
from danet.training.cost import memory_explained, refuse_too_large
from danet.training.data import RunData, absolute_root, batches, context_region, open_data, read_data
from danet.training.gates import branch_shares, start_attention
from danet.training.losses import CLASS_WEIGHTS, Criterion
from danet.training.norm import frozen
from danet.training.provenance import describe_run, peak_memory
from danet.training.record import RECORD, read_record
from danet.training.start import resolve, start_from
from danet.training.state import State, checkpoint_path
from danet.training.step import Stepper
from danet.weights.bundle import Bundle, bundle_scores, recover_bundle, restore, save_bundle

PROTOCOL = "whole"
LAUNCHES = ".launches"
"""The file in a run's folder that says which torchruns, one a machine, have its processes."""


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


def train(
    config: RunConfig,
    *,
    resume: bool = False,
    runs: str | Path = "runs",
    data: RunData | None = None,
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
) -> Generator[Event, None, None]:
    """Train as `config` says into RUNS/NAME, or go on there with `resume`; yields an event a step, and more.

    data: `open_data` of the configuration as `resolve` gives it, where several runs share it. progress: from a phase's
    name to a callback, for what takes long between steps. What can be known to be wrong beforehand (names, sizes, any
    file of the data, a folder that another process uses) raises InputError before anything is written; a loss or
    gradient that is not finite raises it with the step, the learning rate and the batch's files, and so does a full
    disk. `seconds` count training alone, over all resumptions. Processes that torchrun has started anew go on from the
    last checkpoint.
    """
    folder = Path(runs) / config.name
    if resume and not begun(folder):
        raise InputError(f"{folder} holds no run: there is no config.yaml in it; give a folder under runs/.")
    with ExitStack() as stack:
        processes = stack.enter_context(joined())
        launches = set(processes.gather(launch())) - {""}
        if not resume and processes.of_main(begun(folder) and not launches.isdisjoint(launched_by(folder))):
            config, resume = read_config(folder / "config.yaml").model_copy(update={"name": config.name}), True
        if processes.main and resume:
            stack.enter_context(claimed(folder))
        elif processes.main:
            refuse_existing(folder)
        new = not resume or processes.of_main(kept_nothing(folder))
        config, data, stepper, classes = prepare(config, processes, data, progress, new=new)
        state, device, precision = stepper.state, stepper.device, stepper.precision
        with processes.main_first():
            done = 0 if new else state.load(folder / "checkpoints")
        feed = batches(config, data.train, done, processes)
        facts = describe_run(device, precision, config.seed)
        if processes.main:
            with explained(folder / "config.yaml", "make room, or allow it"):
                folder.mkdir(parents=True, exist_ok=True)
                if not resume:
                    stack.enter_context(claimed(folder))
                    refuse_existing(folder)  # which another process may have begun, and ended, since
                for place in (folder, folder / "checkpoints"):
                    remove_leftovers(place)
                recover_bundle(folder / "best")
                if launches:
                    (folder / LAUNCHES).write_text("\n".join(sorted(launches)), encoding="utf-8")
                with written_aside(folder / "config.yaml") as aside:
                    aside.write_text(config.to_yaml(), encoding="utf-8")
        record = Record(folder, done, write=processes.main)
        best = best_so_far(folder / "best", record, done)
        start = saved = time.perf_counter() - record.seconds

        def keep() -> Saved:
            path = checkpoint_path(folder / "checkpoints", done)
            if processes.main:
                record.sync()
                state.save(path, done, config.keep)
            return Saved(done, path, time.perf_counter() - start)

        if config.init and new:
            yield record(Initialised(done, config.init, classes, time.perf_counter() - start))
        try:
            while True:
                due = done % config.validate_every == 0 or done == config.optim.steps
                if done and due and done not in record.validated:
                    yield record(keep())
                    saved = time.perf_counter()
                    kept = state.kept if processes.count == 1 else restore(data.model, state.kept.state_dict())
                    segmenter = Segmenter(kept, data.labels, config.preprocess, str(device), precision)
                    region = context_region(config)
                    report = evaluate(segmenter, data.val, PROTOCOL, region, progress("validate"), processes)
                    improved = processes.any(processes.main and report.scores.miou > best)
                    if improved:
                        best = report.scores.miou
                        scores = {"protocol": PROTOCOL, "miou": round(best, 4), "step": done}
                        bundle = Bundle(kept, data.model, data.labels, config.preprocess, scores, facts)
                        if processes.main:
                            with explained(folder / "best", f"make room, then go on with --resume {folder}"):
                                save_bundle(folder / "best", bundle)
                    shares = branch_shares(segmenter, data.val) if processes.main else {}
                    yield record(Validated(done, report, shares, time.perf_counter() - start))
                    if improved:
                        yield record(Saved(done, folder / "best", time.perf_counter() - start))
                if done == config.optim.steps or 0 < config.patience <= record.without_gain:
                    return

                began = time.perf_counter()
                images, masks, names = next(feed)
                with memory_explained(config):
                    losses, rate = stepper.step(done, images, masks, names)
                done += 1
                now = time.perf_counter()
                speed, memory = config.data.batch_size / (now - began), peak_memory(device)
                opened = gates(state.model)
                yield record(Step(done, sum(losses.values()), losses, rate, opened, now - start, speed, memory))
                if processes.any(processes.main and time.perf_counter() - saved > 60 * config.save_minutes):
                    yield record(keep())
                    saved = time.perf_counter()
        except GeneratorExit:  # the consumer stopped early, after a whole step
            keep()
            raise


class Ready(NamedTuple):
    """What a run's steps need, and of each class the one of the model it starts from, if it starts from one."""

    config: RunConfig
    data: RunData
    stepper: Stepper
    classes: dict[str, str | None]


def prepare(
    config: RunConfig,
    processes: Processes = ALONE,
    data: RunData | None = None,
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
    new: bool = True,
) -> Ready:
    """All that comes before the first step: the configuration as resolved, the data as checked, the network.

    new: whether weights that the run starts from are wanted; a resumed run has its own. Raises InputError for what is
    wrong.
    """
    config = absolute_root(resolve(config) if new else config)
    device = choose_device(config.device)
    precision: Precision = processes.of_main(choose_precision(config.precision, device))
    data = data or open_data(config)
    # The precision is kept, since a resumed run must not time the machine anew and come to another.
    told = {"model": data.model, "preprocess": data.preprocess, "precision": precision}
    config = config.model_copy(update=told)
    refuse_too_large(config, device, processes.count)
    torch.manual_seed(stateless_seed(config.seed, "weights"))
    initial = data.model if new else data.model.model_copy(update={"pretrained": False})
    model = build_model(initial).to(device).to(memory_format=torch.channels_last)
    if config.data.batch_size == config.optim.accumulate and not frozen(config):
        with torch.no_grad():  # some norms cannot learn from one image, and say so here
            copy.deepcopy(model)(torch.zeros(1, data.model.in_channels, *config.data.crop, device=device))
    start_attention(model, config.optim)
    classes = start_from(config.init, model, data.labels.names) if config.init and new else {}
    with processes.main_first():  # what it has counted, the others find in the cache
        counts = torch.from_numpy(read_data(config, data, progress).counts[:, : data.labels.num_classes])
    weigh, optim = CLASS_WEIGHTS.get(config.optim.class_weights), config.optim
    criterion = Criterion(
        None if weigh is None else weigh(counts).to(device),
        optim.label_smoothing,
        optim.ohem,
        optim.ohem_kept,
        optim.dice_weight,
        optim.lovasz_weight,
    )
    state = State.of(model, config, device)
    return Ready(config, data, Stepper(config, state, criterion, device, precision, processes), classes)


def begun(folder: Path) -> bool:
    """Whether a run was begun in `folder`."""
    return (folder / "config.yaml").is_file()


def launched_by(folder: Path) -> set[str]:
    """Which torchruns had the processes of the run in `folder`."""
    path = folder / LAUNCHES
    return set(path.read_text(encoding="utf-8").splitlines()) if path.is_file() else set()


def kept_nothing(folder: Path) -> bool:
    """Whether the run in `folder` was killed before its first checkpoint, so that to go on is to begin anew."""
    return not any((*folder.glob("checkpoints/*.pt"), *folder.glob("*best*")))


def refuse_existing(folder: Path) -> None:
    """Raises InputError where `folder` holds anything but what a process leaves that was killed at its very start."""
    if folder.exists() and (not folder.is_dir() or any(not path.name.startswith(".") for path in folder.iterdir())):
        mend = f"go on with --resume {folder}, or " if begun(folder) else ""
        raise InputError(f"{folder} is there already; {mend}choose another --name.")


def best_so_far(best: Path, record: Record, step: int) -> float:
    """The mIoU that the next validation must surpass for its model to replace the one in `best`, up to `step`.

    The record's, or the model's own where the record has lost its validation; below all where there is no model.
    """
    scores = bundle_scores(best)
    if scores is None:
        return -1.0
    lost = scores.get("step", step) < step and scores["step"] not in record.validated
    return max(record.best, scores["miou"]) if lost else record.best


class Record:
    """metrics.jsonl, an event a line. Opened to go on after `step`, it drops what lies behind, and says what it knows:

    the best mIoU, the steps that were validated, how many validations since the best, and the seconds of training so
    far. Of several processes one writes.
    """

    def __init__(self, folder: Path, step: int, write: bool = True) -> None:
        self.path, self.write = folder / RECORD, write
        self.mend = f"make room, then go on with --resume {folder}"
        entries = read_record(folder, leave_out_damaged=True) if step and self.path.is_file() else []
        kept = [entry for entry in entries if entry["step"] <= step]
        self.best, self.validated, self.without_gain = -1.0, set[int](), 0
        for entry in kept:
            if entry["event"] == "validated":
                self._note(entry["step"], entry["miou"])
        self.seconds = max((entry["seconds"] for entry in kept), default=0.0)
        if write:
            with explained(self.path, self.mend), written_aside(self.path) as aside:
                aside.write_text("".join(map(_line, kept)), encoding="utf-8")

    def __call__(self, event: Event) -> Event:
        if self.write:
            with explained(self.path, self.mend), self.path.open("a", encoding="utf-8") as file:
                file.write(_line(to_record(event)))
        if isinstance(event, Validated):
            self._note(event.step, event.report.scores.miou)
        return event

    def sync(self) -> None:
        """Wait until all lines would outlast a loss of power, as those up to a checkpoint must."""
        with explained(self.path, self.mend):
            sync(self.path)

    def _note(self, step: int, miou: float) -> None:
        self.validated.add(step)
        self.without_gain = 0 if miou > self.best else self.without_gain + 1
        self.best = max(self.best, miou)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, ensure_ascii=False) + "\n"


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
