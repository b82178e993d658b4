"""metrics.jsonl, a run's record: an event a line, its one reader, and what writes it while the run goes on."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from danet.errors import InputError
from danet.files import explained, sync, written_aside
from danet.training.events import Event, Saved, Validated

RECORD = "metrics.jsonl"


def read_record(folder: Path, leave_out_damaged: bool = False) -> list[dict[str, Any]]:
    """The events of a run's metrics.jsonl; half a last line, as a killed run may leave, is left out.

    Raises InputError for a folder without one, and for a line that is no event, unless such lines are to be left out,
    with a warning.
    """
    path = folder / RECORD
    try:
        *lines, _ = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        raise InputError(f"{folder} holds no run: there is no {path.name} in it; give a folder under runs/.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}.") from None
    records = []
    for number, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
            if not (isinstance(record["event"], str) and isinstance(record["step"], int)):
                raise TypeError
        except (ValueError, TypeError, KeyError):
            damage = f"{path}: line {number} is no event of a run"
            if not leave_out_damaged:
                raise InputError(f"{damage}; remove it, or restore the file.") from None
            warnings.warn(f"{damage}, and left out.", stacklevel=2)
            continue
        records.append(record)
    return records


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
            self._note(event.step, event.report.scores.miou or 0.0)
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
