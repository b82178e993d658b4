"""metrics.jsonl, a run's record: an event a line, and the one reader of it."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from danet.errors import InputError

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
