"""Training, top to bottom, as a generator of events; console, report and tests only read what it yields.

It leaves runs/NAME/ with config.yaml, metrics.jsonl (every event), checkpoints/ and best/ (a bundle). Randomness has
no state: step s draws from (seed, s), sample i of epoch e from (seed, e, i), so a resumed run goes on as if nothing
had happened, whatever ended it. To stop early, leave the `for` loop: the last step is kept. Several processes, which
torchrun starts, run this same loop in step with each other; the first of them writes.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path

from danet.config import RunConfig, read_config
from danet.data.parallel import Progress
from danet.errors import InputError
from danet.evaluation.evaluate import evaluate
from danet.files import claimed, explained, remove_leftovers, written_aside
from danet.inference.segmenter import Segmenter
from danet.models.attention import gates
from danet.processes import joined, launch
from danet.training.cost import memory_explained
from danet.training.data import RunData, batches, context_region
from danet.training.events import Event, Initialised, Saved, Step, Validated
from danet.training.gates import branch_shares
from danet.training.prepare import prepare
from danet.training.provenance import describe_run, peak_memory
from danet.training.record import Record
from danet.training.state import checkpoint_path
from danet.weights.bundle import Bundle, bundle_scores, recover_bundle, restore, save_bundle

PROTOCOL = "whole"
LAUNCHES = ".launches"
"""The file in a run's folder that says which torchruns, one a machine, have its processes."""


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
                    told = progress("validate")
                    report = evaluate(segmenter, data.val, PROTOCOL, region, told, processes, details=False)
                    miou = report.scores.miou or 0.0  # never None: validation data without labels are refused
                    improved = processes.any(processes.main and miou > best)
                    if improved:
                        best = miou
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
