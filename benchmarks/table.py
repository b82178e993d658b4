"""A benchmark's rows as a CSV of results."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from danet.evaluation.metrics import Scores


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
