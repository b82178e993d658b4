"""Ablations: networks and settings side by side over several seeds, all else equal (paper, section 4.2, table 1).

Each run is an ordinary one, in runs/NAME/VARIANT-seed-S, and leaves result.json when it is done: what is done is not
done again, what was interrupted goes on. Scores are those of the last step, not of the best validation.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch

from danet.config import HEADS, Channels, RunConfig, nearest, read_config
from danet.data.dataset import Dataset
from danet.data.parallel import Progress
from danet.data.sources import open_source
from danet.errors import InputError
from danet.evaluation.context import ContextScores, context_scores
from danet.files import written_aside
from danet.inference.device import choose_device
from danet.inference.segmenter import Segmenter
from danet.models.attention import gates
from danet.models.segmentation import build_model
from danet.training.comparison import COMPARED, Comparison, by_variant, compare
from danet.training.cost import model_cost
from danet.training.data import RunData, absolute_root, open_data
from danet.training.events import Event
from danet.training.loop import begun, train
from danet.training.provenance import describe_run, peak_memory, reset_peak_memory
from danet.training.record import read_record
from danet.training.state import State
from danet.training.summary import run_config
from danet.viz.ablation import draw_curves, draw_scores
from danet.viz.curves import Points
from danet.viz.report import curve

Watch = Callable[[str, Generator[Event, None, None], int], None]
OWN_OPTIONS = {"name": "--name", "seed": "--seeds", "model.head": "--heads"}


def plan(
    recipe: str | Path | None,
    overrides: dict[str, str],
    heads: Sequence[str],
    seeds: Sequence[int],
    variations: Sequence[dict[str, str]],
) -> list[RunConfig]:
    """The runs of an ablation: each head as the recipe has it, and once more for each variation of its fields.

    Seed by seed, so that what is there after an interruption can be compared. Raises InputError as `read_config` does,
    for no heads or seeds, an unknown head, and a variation of what names a run.
    """
    if not heads or not seeds:
        raise InputError("An ablation needs a head and a seed at least, such as --heads fcn,danet --seeds 0,1,2.")
    for head in heads:
        if head not in HEADS:
            raise InputError(f"There is no head {head!r}. {nearest(head, list(HEADS))}")
    fixed = {field for field in overrides if field != "name"}.union(*variations)
    for field in sorted(fixed & OWN_OPTIONS.keys()):
        raise InputError(f"{field} cannot be set here, as it names a run; give {OWN_OPTIONS[field]} instead.")
    base = read_config(recipe, overrides)
    if base.init is not None:
        raise InputError("An ablation compares networks, and a model to start from brings its own: leave init out.")
    runs = []
    for seed in seeds:
        for variation in ({}, *variations):
            for head in heads:
                changes = {"model.head": head, "seed": str(seed), **variation}
                config = read_config(recipe, overrides | changes)
                name = f"{base.name}/{variant_name(head, variation)}-seed-{seed}"
                runs.append(config.model_copy(update={"name": name}))
    return runs


def variant_name(head: str, variation: dict[str, str]) -> str:
    """A variant's name: its head, and the fields in which it differs."""
    changes = (f"{field.rpartition('.')[2]}={value}" for field, value in variation.items())
    return ",".join([head, *changes]).replace("/", "-")  # it names a folder


class Outcome(NamedTuple):
    """The rows of all runs that are done under a name, and why those of the plan failed that did."""

    rows: list[dict[str, Any]]
    failed: dict[str, str]


def ablate(
    plan: Sequence[RunConfig],
    watch: Watch,
    progress: Callable[[str], Progress] = lambda phase: lambda done, total: None,
    runs: Path = Path("runs"),
) -> Outcome:
    """Do the runs that are not done yet, whatever becomes of single ones.

    watch: consumes a run's events, given its name and number of steps; one that leaves early ends the ablation there.
    Several processes may work under one name, if their runs differ. Raises InputError, before anything is trained,
    where the name is a run's, or holds runs of other settings; and where no run came to its end.
    """
    folder = (runs / plan[0].name).parent
    refuse_other_settings(folder, plan[0])
    data: RunData | None = None
    opened: Any = None
    failed: dict[str, str] = {}
    for config in plan:
        if (runs / config.name / "result.json").is_file():
            continue
        try:
            asked = (config.data, config.preprocess, config.seed, config.model.model_copy(update={"head": HEADS[0]}))
            if asked != opened:
                data, opened = open_data(config), asked
            assert data is not None
            own = replace(data, model=data.model.model_copy(update={"head": config.model.head}))
            row = run(config, own, runs, watch, progress)
        except InputError as error:  # a loss that became infinite, say: the other runs may well be sound
            failed[config.name] = str(error)
            continue
        if row is None:
            break
        with written_aside(runs / config.name / "result.json") as aside:
            aside.write_text(json.dumps(row, indent=2, ensure_ascii=False), encoding="utf-8")
    rows = results(folder)
    if failed and not rows:
        raise InputError(next(iter(failed.values())))
    return Outcome(rows, failed)


def results(folder: Path) -> list[dict[str, Any]]:
    """The rows of the runs that are done under `folder`."""
    return [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("*/result.json"))]


def run(
    config: RunConfig, data: RunData, runs: Path, watch: Watch, progress: Callable[[str], Progress]
) -> dict[str, Any] | None:
    """One run to its end, and its row: what it is, scores, gates, shares, cost, and where it comes from.

    None where `watch` left it before its end.
    """
    folder = runs / config.name
    resumed = begun(folder)  # perhaps by a process that has it still, which `train` then says
    if resumed:  # in the precision that "auto" came to
        config = config.model_copy(update={"precision": run_config(folder).precision})
    device = choose_device(config.device)
    reset_peak_memory(device)
    events = train(config, resume=resumed, runs=runs, data=data, progress=progress)
    watch(Path(config.name).name, events, config.optim.steps)
    events.close()  # where it was left, its last step is kept
    memory = None if resumed else peak_memory(device)
    history = read_record(folder)
    scored = next((record for record in reversed(history) if record["event"] == "validated"), None)
    if scored is None or scored["step"] < config.optim.steps:
        return None
    segmenter = last_segmenter(config, data, folder)
    context = scene_scores(segmenter, config, data, progress) if config.data.source == "scenes" else None
    ends = [record["seconds"] for record in history if record["event"] == "step"]
    variant = Path(config.name).name.rpartition("-seed-")[0]
    size = config.data.size if config.data.source == "scenes" else config.data.crop
    cost = model_cost(data.model, size)  # pyright: ignore[reportArgumentType] (a frozen model of pydantic's has a hash)
    return {
        **describe_run(device, segmenter.precision, config.seed),
        "variant": variant,
        "head": config.model.head,
        "seed": config.seed,
        "data": f"{config.data.source} val",
        "steps": config.optim.steps,
        "miou": scored["miou"],
        "pixel_accuracy": scored["pixel_accuracy"],
        **(context._asdict() if context else dict.fromkeys(ContextScores._fields)),
        "alpha": gates(segmenter.model).get("position"),
        "beta": gates(segmenter.model).get("channel"),
        "position_share": scored["shares"].get("position"),
        "channel_share": scored["shares"].get("channel"),
        **cost._asdict(),
        "step_seconds": median(end - start for start, end in pairwise(ends)) if len(ends) > 1 else None,
        "minutes": history[-1]["seconds"] / 60,
        "peak_gigabytes": memory / 1e9 if memory else None,
        "threads": torch.get_num_threads(),
    }


def last_segmenter(config: RunConfig, data: RunData, folder: Path) -> Segmenter:
    """The model as the run's last step left it."""
    model = build_model(data.model.model_copy(update={"pretrained": False}))
    state = State.of(model, config, torch.device("cpu"))
    state.load(folder / "checkpoints")
    return Segmenter(state.kept, data.labels, data.preprocess, config.device, run_config(folder).precision)


def scene_scores(
    segmenter: Segmenter, config: RunConfig, data: RunData, progress: Callable[[str], Progress]
) -> ContextScores:
    """The context score on the run's validation scenes, their twins and their control."""
    twins, control = twins_and_control(config.data.count, config.data.size)
    return context_scores(segmenter, data.val, twins, control, progress("score twins and control"))


@cache
def twins_and_control(count: int, size: tuple[int, int]) -> tuple[Dataset, Dataset]:
    """The validation scenes' twins and control, in memory, since every run is scored on them."""
    twins, control = (Dataset(*open_source("scenes", split, count=count, size=size)) for split in ("twins", "control"))
    twins.preload()
    control.preload()
    return twins, control


def refuse_other_settings(folder: Path, base: RunConfig) -> None:
    """Raises InputError where a run in `folder` differs from `base` in more than its head, its seed and its variation,
    and where `folder` is itself a run.
    """
    if (folder / "config.yaml").is_file():
        raise InputError(f"{folder} is a single run; give the ablation another --name.")

    def settings(one: RunConfig) -> dict[str, Any]:
        # By the data, and by the run's own name.
        channels = Channels.model_fields.keys() - base.preprocess.model_fields_set
        told = {"model": {"num_classes", "in_channels", "head"}, "preprocess": channels}
        found = absolute_root(one).model_dump(mode="json", exclude=told)
        sections = {name: values for name, values in found.items() if isinstance(values, dict)}
        fields = {f"{name}.{field}": value for name, values in sections.items() for field, value in values.items()}
        return fields if base.precision == "auto" else fields | {"precision": one.precision}

    asked = settings(base)
    for path in sorted(folder.glob("*/config.yaml")):
        variation = path.parent.name.rpartition("-seed-")[0].split(",")[1:]
        varied = {change.partition("=")[0] for change in variation}
        there = settings(run_config(path.parent))
        for field, value in asked.items():
            if field.rpartition(".")[2] not in varied and there[field] != value:
                raise InputError(
                    f"{path.parent} was made with {field} {there[field]}, not {value}; give another --name."
                )


def write_comparison(folder: Path, rows: Sequence[dict[str, Any]]) -> Comparison:
    """Write ablation.csv, ablation.md, scores.svg and curves.svg into `folder`, and return the comparison."""
    comparison, variants = compare(rows), by_variant(rows)
    ordered = [row for runs in variants.values() for row in runs]
    with written_aside(folder / "ablation.csv") as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(ordered[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: round(v, 5) if isinstance(v, float) else v for key, v in row.items()} for row in ordered)
    with written_aside(folder / "ablation.md") as aside:
        aside.write_text(comparison.markdown(), encoding="utf-8")
    scores = {
        measure: {name: [run[column.key] for run in runs] for name, runs in variants.items()}
        for measure, column in COMPARED.items()
        if ordered[0][column.key] is not None
    }
    majority = ordered[0]["majority"]
    draw_scores(folder / "scores.svg", scores, {} if majority is None else {"context score": majority})
    draw_curves(folder / "curves.svg", histories(folder, variants))
    return comparison


def histories(folder: Path, variants: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, dict[str, list[Points]]]:
    """mIoU, gates and shares over steps: panel → variant → a curve a seed; panels without curves are left out."""
    panels = {
        "validation mIoU, %": ("validated", 100.0, ("miou",)),
        "position gate α": ("step", 1.0, ("gates", "position")),
        "channel gate β": ("step", 1.0, ("gates", "channel")),
        "share ‖αE‖/‖A‖, %": ("validated", 100.0, ("shares", "position")),
        "share ‖βE‖/‖A‖, %": ("validated", 100.0, ("shares", "channel")),
    }
    found: dict[str, dict[str, list[Points]]] = {}
    for name, runs in variants.items():
        for run in runs:
            history = read_record(folder / f"{name}-seed-{run['seed']}")
            for panel, (event, factor, keys) in panels.items():
                if points := curve(history, event, *keys, factor=factor):
                    found.setdefault(panel, {}).setdefault(name, []).append(points)
    return {panel: found[panel] for panel in panels if panel in found}
