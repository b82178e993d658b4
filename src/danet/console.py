"""What a person sees of a command on stderr: progress with a remaining time, the steps of a run, tables of scores."""

from __future__ import annotations

import json
import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, median
from typing import TYPE_CHECKING, Any

from rich.bar import Bar
from rich.console import Console, ConsoleOptions, JustifyMethod, RenderableType, RenderResult
from rich.measure import Measurement
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text

from danet.data.examination import Contents
from danet.data.examination import Report as Examined
from danet.evaluation.evaluate import Report
from danet.inference.index import INDEX
from danet.models.attention import SIGNS
from danet.training.comparison import Comparison
from danet.training.differences import Differences
from danet.training.events import Event, Initialised, Saved, Step, Validated
from danet.training.rehearsal import Rehearsal
from danet.viz.curves import Points, number
from danet.viz.text import duration

if TYPE_CHECKING:
    from danet.inference.many import Many

QUIET_SECONDS = 10.0
"""Where stderr is no terminal, a line of progress this often."""
RECENT = 50
"""A run's loss and speed are shown as the mean and the median of so many steps."""
BLOCKS = "▁▂▃▄▅▆▇█"
ROWS = 20
"""Of a run's validations a table shows so many, and the best ones."""


class Screen(AbstractContextManager):
    """Progress of named phases, one after the other: bars on a terminal, a line every ten seconds elsewhere."""

    def __init__(self, quiet: bool = False) -> None:
        self.console = Console(stderr=True, highlight=False, quiet=quiet)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(max(10, min(40, self.console.width - 90))),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", table_column=Column()),  # goes on below where there is no room
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._told = time.monotonic()

    def __enter__(self) -> Screen:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def phase(self, name: str) -> Callable[..., None]:
        """A callback (done, total, note) for one phase; it begins now."""
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))
        task = self._tasks[name] = self._bars.add_task(name, total=None, note="", visible=False)
        start: tuple[float, int] | None = None

        def progress(done: int, total: int, note: str = "") -> None:
            nonlocal start
            now = time.monotonic()
            start = start or (now, done)
            self._bars.update(task, completed=done, total=total, note=note, visible=done < total)
            if not self.console.is_terminal and now - self._told > QUIET_SECONDS:
                self._told = now
                rate = (now - start[0]) / max(done - start[1], 1)
                left = f", {duration((total - done) * rate)} left" if done > start[1] else ""
                self.say(f"{name}: {done}/{total}{left}{f'  {note}' if note else ''}")

        return progress

    def say(self, text: str) -> None:
        """One line, above the bars."""
        self.console.print(text, markup=False, soft_wrap=True)

    def watch(self, name: str, events: Iterable[Event], steps: int) -> None:
        """Consume a run's events, showing each."""
        progress, recent = self.phase(name), deque[Step](maxlen=RECENT)
        for event in events:
            match event:
                case Initialised(model=model, classes=classes):
                    self.say(f"{name}: starts from {model}")
                    self.console.print(start_table(classes))
                case Step():
                    recent.append(event)
                    gates = "".join(f"  {SIGNS[branch]} {gate:+.3f}" for branch, gate in event.gates.items())
                    speed = median(step.images_per_second for step in recent)
                    memory = "" if event.memory is None else f"  {event.memory / 1e9:.1f} GB"
                    note = f"loss {mean(step.loss for step in recent):.3f}{gates}  {_rate(speed)} images/s{memory}"
                    progress(event.step, steps, note)
                case Validated(report=report):
                    scores = report.scores
                    text = f"mIoU {_percent(scores.miou)} %  pixel accuracy {_percent(scores.pixel_accuracy)} %"
                    if report.region is not None:
                        context, majority = _percent(report.region.pixel_accuracy, 1), _percent(report.majority, 1)
                        text += f"  context {context} % (majority {majority} %)"
                    self.say(f"{name}: step {event.step}/{steps}, after {duration(event.seconds)}: {text}")
                case Saved(path=path) if path.name == "best":
                    self.say(f"{name}: best so far, kept in {path}")


def start_table(classes: dict[str, str | None]) -> Table:
    """What a run takes from the model it starts from: everything but the classifiers' rows of the classes that it has
    not."""
    table = Table()
    table.add_column("class")
    table.add_column("classifier's rows")
    for own, theirs in classes.items():
        table.add_row(own, "new" if theirs is None else "copied" if theirs == own else f"copied from {theirs}")
    table.add_section()
    taken = sum(theirs is not None for theirs in classes.values())
    table.add_row("all else", f"copied; {taken} of {len(classes)} classes")
    return table


def rehearsal_table(found: Rehearsal) -> Table:
    """What a run takes, and what would take less memory."""
    cost, steps = found.cost, found.config.optim.steps
    losses = "  ".join(f"{name} {loss:.3f}" for name, loss in found.losses.items())
    crop = "×".join(map(str, found.config.data.crop))
    table = Table(show_header=False)
    table.add_column()
    table.add_column(overflow="fold")
    table.add_row("parameters", f"{cost.parameters / 1e6:.2f} million")
    table.add_row(
        "forward", f"{cost.gflops:,.1f} GFLOP an image of {crop}; a step takes about three times that an image"
    )
    table.add_row("losses at first", losses)
    table.add_row("a step", f"{found.step_seconds:.2f} s, {found.config.data.batch_size} images")
    table.add_row("a validation", duration(found.validation_seconds))
    table.add_row("to the end", f"{duration(found.seconds)}, {steps:,} steps with their validations")
    if found.memory is not None:
        before = "" if found.memory_before is None else f", {_gigabytes(found.memory_before)} before it"
        table.add_row("memory", f"{_gigabytes(found.memory)} at the step's peak{before}, measured")
    table.add_section()
    for option in found.options:
        table.add_row(_gigabytes(option.memory), option.words or "tensors at the peak as it is, computed")
    return table


def score_table(reports: dict[str, Report]) -> Table:
    """IoU of every class, and the means, a column for each report."""
    table = Table()
    table.add_column("class")
    for name in reports:
        table.add_column(f"{name}, IoU %" if len(reports) > 1 else "IoU %", justify="right")
    columns = [report.scores for report in reports.values()]
    for name in columns[0].names:
        table.add_row(name, *(_percent(scores.iou[name]) for scores in columns))
    table.add_section()
    table.add_row("mean IoU", *(_percent(scores.miou) for scores in columns))
    table.add_row("pixel accuracy", *(_percent(scores.pixel_accuracy) for scores in columns))
    if all(report.region is not None for report in reports.values()):
        regions = [(report.region.pixel_accuracy, report.majority) for report in reports.values() if report.region]
        table.add_row("context score", *(_percent(score) for score, _ in regions))
        table.add_row("  majority there", *(_percent(majority) for _, majority in regions))
    return table


def report_table(report: Report) -> Table:
    """All scores of one report: a line a class, then the means, and what has no class."""
    scores = report.scores
    columns = {"IoU %": (scores.iou, scores.miou), "accuracy %": (scores.accuracy, scores.mean_accuracy)}
    columns |= {"Dice %": (scores.dice, scores.mean_dice)}
    if report.boundary is not None:
        columns["boundary IoU %"] = (report.boundary.iou, report.boundary.miou)
    table = Table()
    table.add_column("class", overflow="fold")
    for heading in columns:
        table.add_column(heading, justify="right")
    for name in scores.names:
        table.add_row(name, *(_percent(of_class[name]) for of_class, _ in columns.values()))
    table.add_section()
    table.add_row("mean", *(_percent(mean) for _, mean in columns.values()))
    return table


def report_lines(report: Report) -> list[str]:
    """What a report says beside its table, a line each."""
    scores, known = report.scores, len(report.scores.names) - len(report.scores.absent)
    lines = [
        f"{len(report.images)} images of {report.data}, by {report.protocol.name}: mean IoU {_percent(scores.miou)} %, "
        f"pixel accuracy {_percent(scores.pixel_accuracy)} %, frequency-weighted IoU "
        f"{_percent(scores.frequency_weighted_iou)} %"
    ]
    if scores.absent:
        lines.append(f"Neither there nor predicted, so in no mean ({known} classes are): {', '.join(scores.absent)}")
    if report.boundary is not None:
        lines.append(f"Outlines are {100 * report.boundary.width:g} % of the image's diagonal wide")
    if report.calibration is not None:
        loss = "–" if report.loss is None else f"{report.loss:.3f}"
        lines.append(f"Expected calibration error {_percent(report.calibration.error)} %, mean loss {loss} nats")
    if report.binary is not None and report.binary.best is not None:
        threshold, precision, recall, f1 = report.binary.best
        lines.append(
            f"{report.binary.name}: best F1 {_percent(f1)} % from probability {threshold:g} on, precision "
            f"{_percent(precision)} %, recall {_percent(recall)} %"
        )
    if report.region is not None:
        context = _percent(report.region.pixel_accuracy)
        lines.append(f"Context score {context} % (the majority there: {_percent(report.majority)} %)")
    return lines


def prediction_lines(found: Many, output: Path) -> list[str]:
    """How many images were predicted, and which were not, the first of them by name."""
    errors = list(found.failed.values())
    told = [f"Left out: {error}" for error in errors[:ROWS]]
    told += [f"and {len(errors) - ROWS:,} more, in {INDEX}"] * (len(errors) > ROWS)
    count = len(found.rows)
    return [*told, f"{count - len(errors)} of {count} images → {output}, listed in {INDEX}"]


def contents_table(examined: Examined) -> Table:
    """What each split of a data set holds: every class with its share, a bar of it and its images; then its files."""
    table = Table()
    table.add_column("class")
    for split in examined.splits:
        table.add_column(split, overflow="fold")
        table.add_column("images", justify="right")
    most = max((share for held in examined.splits.values() for share in held.shares), default=0) or 1
    for index, name in enumerate(examined.names):
        cells: list[RenderableType] = []
        for held in examined.splits.values():
            bar = Table.grid(padding=(0, 1))
            bar.add_row(f"{_percent(held.shares[index]):>5} %", Bar(most, 0, held.shares[index], width=12))
            cells += [bar, str(held.images[index])]
        table.add_row(name, *cells)
    table.add_section()
    for held in zip(*(_facts(held) for held in examined.splits.values()), strict=True):
        table.add_row(held[0][0], *(cell for _, told in held for cell in (told, "")))
    return table


def findings_table(examined: Examined) -> Table:
    """Each kind of fault: the first of its files with the mend, and which others have it."""
    table = Table(show_lines=True)
    for column in ("", "what is wrong, and the mend", "files"):
        table.add_column(column, overflow="fold")
    for finding in examined.findings:
        table.add_row(finding.level, finding.told, _first(finding.files))
    return table


def _facts(held: Contents) -> list[tuple[str, str]]:
    values = [f"{value}" for value in held.values]
    return [
        ("ignored", f"{_percent(held.ignored_share)} %"),
        ("files", f"{held.files}"),
        ("sizes", _first([f"{size} ({count})" for size, count in held.sizes.items()])),
        ("image modes", _first([f"{mode} ({count})" for mode, count in held.image_modes.items()])),
        ("mask modes", _first([f"{mode} ({count})" for mode, count in held.mask_modes.items()])),
        ("mask values", f"{', '.join(values[:6])}, … {values[-1]}" if len(values) > 7 else ", ".join(values)),
        ("turned by EXIF", f"{held.turned}"),
    ]


def _first(entries: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    return "\n".join([*entries[:3], *([f"and {len(entries) - 3:,} more"] if len(entries) > 3 else [])])


def comparison_table(comparison: Comparison) -> Table:
    """An ablation's measures, a line each, and its variants, a column each: a terminal is too narrow the other way."""
    table = Table()
    (heading, *variants), *measures = zip(comparison.headings, *comparison.lines, strict=True)
    table.add_column(heading)
    for variant in variants:
        table.add_column(variant, justify="right", overflow="fold")
    for measure in measures:
        table.add_row(*measure)
    return table


@dataclass(frozen=True)
class Sparkline:
    """A curve of (step, value) in a line of blocks, as wide as there is room, from step 0 to `end`, `low` to `high`."""

    points: Points
    end: int
    low: float
    high: float
    scale: Callable[[float], float] = float

    def __rich_measure__(self, console: Console, options: ConsoleOptions) -> Measurement:
        return Measurement(min(16, options.max_width), min(72, options.max_width))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        yield Text(self.text(options.max_width), no_wrap=True)

    def text(self, width: int) -> str:
        """Each character is the mean of its steps, or goes on from the one before; blank where the run is not."""
        cells: list[list[float]] = [[] for _ in range(width)]
        for step, value in self.points:
            cells[max(0, math.ceil(step * width / self.end) - 1)].append(self.scale(value))
        last = max((place for place, values in enumerate(cells) if values), default=-1)
        low, high = self.scale(self.low), self.scale(self.high)
        drawn, height = "", -1
        for values in cells[: last + 1]:
            if values:
                share = (mean(values) - low) / (high - low) if high > low else 0.5
                height = min(int(share * len(BLOCKS)), len(BLOCKS) - 1)
            drawn += BLOCKS[height] if height >= 0 else " "
        return drawn


def difference_tables(found: Differences) -> list[RenderableType]:
    """What runs differ in: settings, scores at each one's best validation, curves, and mIoU by validation."""
    names = short_names(found.runs)
    settings: RenderableType = "Their settings are the same."
    if found.settings:
        settings = _table("setting", names.values())
        for field, values in found.settings.items():
            settings.add_row(field, *(_setting(values[run]) for run in names))
    told = [] if found.alike else ["They have different classes, so their means do not compare."]
    heading = f"What {_and(list(names.values()))} differ in"
    curves, validations = _curves(found, names), _validations(found, names)
    return [heading, settings, _best_table(found, names), *told, *curves, *validations]


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The last parts of paths, as many as tell them apart."""
    parts = {name: Path(name).resolve().parts for name in names}
    most = max(map(len, parts.values()), default=0)
    count = next((count for count in range(1, most) if len({p[-count:] for p in parts.values()}) == len(parts)), most)
    return {name: "/".join(p[-count:]) for name, p in parts.items()}


def _best_table(found: Differences, names: dict[str, str]) -> Table:
    """IoU of every class and the means at each run's best validation, and how far each run is."""
    table, runs, gain = _table("IoU % at best", names.values()), found.runs.values(), found.gain
    if gain:
        table.add_column("difference", justify="right")

    def add(title: str, values: Iterable[float | None], changes: dict[str, float | None], key: str) -> None:
        table.add_row(title, *map(_percent, values), *([_points(changes[key])] if gain else []))

    for one in found.classes:
        add(one, (run.iou.get(one) for run in runs), gain["iou"] if gain else {}, one)
    table.add_section()
    for key, title in {"miou": "mean IoU", "pixel_accuracy": "pixel accuracy", "context": "context score"}.items():
        values = [run.best[key] if run.best else None for run in runs]
        if key != "context" or any(value is not None for value in values):
            add(title, values, gain or {}, key)
    table.add_section()
    table.add_row("best at step", *(f"{run.best['step']:,}" if run.best else "–" for run in runs))
    table.add_row("steps done", *(f"{run.step:,} of {run.steps:,}" for run in runs))
    table.add_row("training", *(duration(run.seconds) for run in runs))
    return table


def _curves(found: Differences, names: dict[str, str]) -> list[RenderableType]:
    """Loss and mIoU: a heading with the scale, which all runs share, and a line for each."""
    end = max(run.step for run in found.runs.values())
    losses = {run: held.loss for run, held in found.runs.items()}
    miou = {run: [(step, 100 * share) for step, share in held.miou] for run, held in found.runs.items()}
    smoothed = f", mean of {found.window} steps" if found.window > 1 else ""
    kinds = (
        (f"loss of the classifier that predicts{smoothed}", losses, number, True),
        ("validation mIoU %", miou, "{:.2f}".format, False),
    )
    shown: list[RenderableType] = []
    for title, curves, figure, logarithmic in kinds:
        values = [value for points in curves.values() for _, value in points]
        if values:
            low, high = min(values), max(values)
            scale = math.log if logarithmic and low > 0 else float
            ends = f"▁ {figure(low)} to █ {figure(high)}{', logarithmic' if scale is math.log else ''}"
            shown.append(f"{title}, to step {end:,}: {ends}")
            lines = Table.grid(Column(), Column(), Column(justify="right"), padding=(0, 2))
            for run, points in curves.items():
                last = figure(points[-1][1]) if points else "–"
                lines.add_row(f"  {names[run]}", Sparkline(points, end, low, high, scale), last)
            shown.append(lines)
    return shown


def _validations(found: Differences, names: dict[str, str]) -> list[RenderableType]:
    """mIoU by step: all validations, or ROWS of them and the best ones."""
    curves = {run: dict(held.miou) for run, held in found.runs.items()}
    steps = sorted({step for curve in curves.values() for step in curve})
    if not steps:
        return ["None of them was validated yet."]
    stride = -(-len(steps) // ROWS)
    best = {held.best["step"] for held in found.runs.values() if held.best}
    kept = [step for place, step in enumerate(reversed(steps)) if place % stride == 0 or step in best][::-1]
    table = _table("mIoU % at step", names.values(), "right")
    for step in kept:
        table.add_row(f"{step:,}", *(_percent(curve.get(step)) for curve in curves.values()))
    return [table, *([f"{len(kept)} of {len(steps)} validations; --json has all."] if len(kept) < len(steps) else [])]


def _table(heading: str, names: Iterable[str], justify: JustifyMethod = "left") -> Table:
    """A table with a column of headings and one for each name."""
    table = Table()
    table.add_column(heading, justify=justify, no_wrap=True)
    for name in names:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _setting(value: Any) -> str:
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB"


def _percent(share: float | None, digits: int = 2) -> str:
    return "–" if share is None else f"{100 * share:.{digits}f}"


def _points(share: float | None) -> str:
    """A difference of shares in points, with a true minus."""
    return "–" if share is None else f"{100 * share:+z.2f}".replace("-", "−")


def _rate(rate: float) -> str:
    return f"{rate:.{2 if rate < 1 else 1 if rate < 100 else 0}f}"


def _and(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]])
