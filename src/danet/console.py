"""What a person sees of a command on stderr: progress with a remaining time, the steps of a run, tables of scores."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager

from rich.bar import Bar
from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from danet.data.examination import Contents
from danet.data.examination import Report as Examined
from danet.evaluation.evaluate import Report
from danet.models.attention import SIGNS
from danet.training.comparison import Comparison
from danet.training.loop import Event, Saved, Step, Validated
from danet.viz.text import duration

QUIET_SECONDS = 10.0
"""Where stderr is no terminal, a line of progress this often."""


class Screen(AbstractContextManager):
    """Progress of named phases, one after the other: bars on a terminal, a line every ten seconds elsewhere."""

    def __init__(self) -> None:
        self.console = Console(stderr=True, highlight=False)
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
            console=self.console,
            transient=True,
            disable=not self.console.is_terminal,
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
        progress, recent = self.phase(name), deque(maxlen=50)
        for event in events:
            match event:
                case Step():
                    recent.append(event.loss)
                    gates = "".join(f"  {SIGNS[branch]} {gate:+.3f}" for branch, gate in event.gates.items())
                    progress(event.step, steps, f"loss {sum(recent) / len(recent):.3f}{gates}")
                case Validated(report=report):
                    scores = report.scores
                    text = f"mIoU {100 * scores.miou:.2f} %  pixel accuracy {100 * scores.pixel_accuracy:.2f} %"
                    if report.region is not None:
                        context = 100 * report.region.pixel_accuracy
                        text += f"  context {context:.1f} % (majority {100 * report.majority:.1f} %)"
                    self.say(f"{name}: step {event.step}/{steps}, after {duration(event.seconds)}: {text}")
                case Saved(path=path) if path.name == "best":
                    self.say(f"{name}: best so far, kept in {path}")


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


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.2f}"
