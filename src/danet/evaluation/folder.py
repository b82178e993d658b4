"""A report on disk: its JSON, tables that any program reads, and pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from danet.evaluation.binary import Point
from danet.evaluation.evaluate import ImageScore, Report
from danet.files import explained, written_aside
from danet.viz.confusion import draw_confusion
from danet.viz.reliability import draw_reliability

REPORT = "report.json"
PARTS = ("images.csv", "classes.csv", "confusion.csv", "confusion.png", "reliability.png", "curve.csv")


def is_report(folder: Path) -> bool:
    """Whether `folder` holds a report, which another may replace."""
    try:
        found = json.loads((folder / REPORT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(found, dict) and isinstance(found.get("protocol"), dict)


def write_report(folder: Path, report: Report) -> None:
    """Write `report` into `folder`, over an earlier one, each file whole or not at all, report.json last.

    report.json can be given as a protocol. images.csv: every image, worst first; classes.csv: every class's scores;
    confusion.csv: pixels by true class (rows) and predicted one; curve.csv, with two classes: precision, recall and F1
    by threshold. Raises InputError where they cannot be written.
    """
    with explained(folder, "choose another folder with -o, or make room"):
        folder.mkdir(parents=True, exist_ok=True)
        scores, images, classes, confusion, picture, reliability, curve = report.scores, *(folder / n for n in PARTS)
        _write_table(images, ImageScore._fields, report.worst())
        _write_table(classes, *_classes(report))
        rows = [[name, *row] for name, row in zip(scores.names, scores.confusion.tolist(), strict=True)]
        _write_table(confusion, ("true", *scores.names), rows)
        draw_confusion(picture, scores.names, scores.confusion)
        if report.calibration is None:
            reliability.unlink(missing_ok=True)
        else:
            bins = report.calibration.to_dict()["bins"]
            draw_reliability(reliability, *([one[key] for one in bins] for key in ("accuracy", "confidence", "pixels")))
        if report.binary is None:
            curve.unlink(missing_ok=True)
        else:
            _write_table(curve, Point._fields, report.binary.curve)
        with written_aside(folder / REPORT) as aside:
            aside.write_text(json.dumps(report.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _classes(report: Report) -> tuple[Sequence[str], list[list[Any]]]:
    """A heading, and a row a class; a score that a class has not is an empty cell."""
    scores = report.scores
    columns = {"iou": scores.iou, "accuracy": scores.accuracy, "dice": scores.dice}
    if report.boundary is not None:
        columns["boundary_iou"] = report.boundary.iou
    areas = {"true_pixels": scores.confusion.sum(1), "predicted_pixels": scores.confusion.sum(0)}
    rows = [
        [name, *(column[name] for column in columns.values()), *(int(area[index]) for area in areas.values())]
        for index, name in enumerate(scores.names)
    ]
    return ("class", *columns, *areas), rows


def _write_table(path: Path, heading: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with written_aside(path) as aside, aside.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heading)
        writer.writerows([round(cell, 6) if isinstance(cell, float) else cell for cell in row] for row in rows)
