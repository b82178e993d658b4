"""A benchmark's rows as a CSV of results, and such a CSV as a table of a page."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from danet.evaluation.metrics import Scores

Row = dict[str, str]
PROVENANCE = ("command", "date", "danet", "versions", "hardware", "precision", "seed")
"""The columns that say where a row comes from."""


def write_table(path: Path, rows: Iterable[Mapping[str, Any]], fields: Sequence[str] = ()) -> None:
    """Write `rows` under `fields`, by default the first row's; a row may lack some."""
    rows = list(rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fields or list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def score_columns(scores: Scores) -> dict[str, float | None]:
    """mIoU, pixel accuracy and each class's IoU as columns, to four digits; None where there is none."""
    found = {"miou": scores.miou, "pixel_accuracy": scores.pixel_accuracy}
    found |= {f"iou_{name}": iou for name, iou in scores.iou.items()}
    return {name: None if value is None else round(value, 4) for name, value in found.items()}


def read_table(path: Path) -> list[Row]:
    """The rows of a CSV of results."""
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def markdown(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def percent(share: str, digits: int = 1) -> str:
    """A column's share, as a reader sees it."""
    return f"{100 * float(share):.{digits}f} %"
