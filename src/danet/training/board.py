"""A run's record as TensorBoard's event files, which need no TensorFlow. The record stays what counts.

RUN/tensorboard/ is written anew each time, so it holds each point once and nothing that a resumed run took back. A
TensorBoard that is looking on takes the new files; with --load_fast=false it does so when it is started again.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from danet.data.parallel import Progress
from danet.errors import InputError
from danet.training.record import RECORD, read_record

FOLDER = "tensorboard"


def write_board(run: Path, progress: Progress = lambda done, total: None) -> Path:
    """Write RUN/tensorboard/ from RUN's metrics.jsonl as it is now, and return its path.

    Points are at the times at which they came about, less all pauses, as if the last one had just been recorded.
    Raises InputError without the package tensorboard, and for a folder that holds no run.
    """
    records = read_record(run)
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise InputError("TensorBoard's files need tensorboard: pip install 'danet[train]'.") from None
    folder, aside = run / FOLDER, run / f".{FOLDER}.{os.getpid()}.part"
    start = (run / RECORD).stat().st_mtime - max((record.get("seconds", 0.0) for record in records), default=0.0)
    try:
        with SummaryWriter(str(aside)) as writer:
            for number, record in enumerate(records, start=1):
                time = start + record.get("seconds", 0.0)
                for tag, value in scalars(record).items():
                    writer.add_scalar(tag, value, record["step"], walltime=time)
                progress(number, len(records))
        shutil.rmtree(folder, ignore_errors=True)
        aside.rename(folder)
    except OSError as error:
        raise InputError(f"{folder} cannot be written ({error.strerror or error}); make room, or allow it.") from None
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return folder


def scalars(record: Mapping[str, Any]) -> dict[str, float]:
    """The figures of one record by their tags; scores and shares are of 1, as in the record."""
    return {tag: value for tag, value in _scalars(record) if value is not None}


def _scalars(record: Mapping[str, Any]) -> Iterator[tuple[str, float | None]]:
    match record["event"]:
        case "step":
            yield "loss/total", record.get("loss")
            yield from _each("loss", record, "losses")
            yield from _each("gate", record, "gates")
            yield "training/learning rate", record.get("lr")
            yield "training/images per second", record.get("images_per_second")
            memory = record.get("memory")
            yield "training/memory in GB", memory and memory / 1e9
        case "validated":
            yield "validation/mIoU", record.get("miou")
            yield "validation/pixel accuracy", record.get("pixel_accuracy")
            yield "validation/mean accuracy", record.get("mean_accuracy")
            yield "validation/context", record.get("context")
            yield from _each("IoU", record, "iou")
            yield from _each("share", record, "shares")


def _each(group: str, record: Mapping[str, Any], key: str) -> Iterator[tuple[str, float | None]]:
    for name, value in (record.get(key) or {}).items():
        yield f"{group}/{name}", value
