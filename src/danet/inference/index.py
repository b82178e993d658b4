"""The index of many predictions: a CSV file with a row for each image, whole after every row."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, TypeAlias

from danet.errors import InputError
from danet.files import explained, written_aside

INDEX = "index.csv"
MEND = "make room, or choose another folder with -o; what is done is kept, and --resume goes on with it"
_BEFORE, _AFTER = ("image", "labels", "width", "height", "seconds", "confidence", "entropy"), ("error", "made")
_MADE = re.compile(r"[0-9a-f]{16}")


class Row(NamedTuple):
    """What is known of one image: its label map's path from the index, size, seconds of computing, mean confidence and
    entropy, the classes' shares; or the error. `made` tells what the results were made of: image, model and protocol.
    """

    image: str
    labels: str = ""
    width: int | None = None
    height: int | None = None
    seconds: float | None = None
    confidence: float | None = None
    entropy: float | None = None
    shares: tuple[float, ...] = ()
    error: str = ""
    made: str = ""


Add: TypeAlias = Callable[[Row], None]


class Index:
    """index.csv in a folder, for classes called `names`."""

    def __init__(self, folder: Path, names: Sequence[str]) -> None:
        self.path = folder / INDEX
        self.names = names
        self.columns = (*_BEFORE, *(f"share_{name}" for name in names), *_AFTER)

    def read(self) -> dict[str, Row]:
        """The rows by image; none of other classes, nor the last where a killed process cut it short.

        Raises InputError for a file of that name that is no such index.
        """
        try:
            with self.path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
                head, *lines = list(csv.reader(file)) or [[]]
        except OSError:
            return {}
        except csv.Error:
            head, lines = [""], []
        if head and (tuple(head[: len(_BEFORE)]), tuple(head[-len(_AFTER) :])) != (_BEFORE, _AFTER):
            raise InputError(
                f"{self.path} is no index of danet predict; move it away, or choose another folder with -o."
            )
        whole = [line for line in lines if len(line) == len(self.columns) and _MADE.fullmatch(line[-1])]
        try:
            return {line[0]: self._row(line) for line in whole} if tuple(head) == self.columns else {}
        except ValueError:
            return {}

    def write(self, rows: Iterable[Row]) -> None:
        """Replace the index by these rows."""
        text = "".join(map(self._line, (self.columns, *map(self._cells, rows))))
        with explained(self.path, MEND), written_aside(self.path) as aside:
            aside.write_text(text, encoding="utf-8", errors="surrogateescape", newline="")

    @contextmanager
    def adding(self) -> Iterator[Add]:
        """Within `with`, a function that adds a row, in one piece."""
        with self.path.open("ab", buffering=0) as file:

            def add(row: Row) -> None:
                line = memoryview(self._line(self._cells(row)).encode(errors="surrogateescape"))
                before = file.tell()
                with explained(self.path, MEND):
                    try:
                        while line:
                            line = line[file.write(line) :]
                    except OSError:
                        file.truncate(before)
                        raise

            yield add

    def _cells(self, row: Row) -> list[str]:
        shares = row.shares or (None,) * len(self.names)
        values = (*row[:4], *(_rounded(value) for value in (row.seconds, row.confidence, row.entropy, *shares)))
        return ["" if value is None else str(value) for value in (*values, row.error, row.made)]

    def _row(self, cells: list[str]) -> Row:
        width, height = (int(cell) if cell else None for cell in cells[2:4])
        seconds, confidence, entropy, *shares = (float(cell) if cell else None for cell in cells[4:-2])
        known = tuple(share for share in shares if share is not None)
        return Row(cells[0], cells[1], width, height, seconds, confidence, entropy, known, cells[-2], cells[-1])

    def _line(self, cells: Sequence[str]) -> str:
        line = io.StringIO(newline="")
        csv.writer(line, lineterminator="\n").writerow(cells)
        return line.getvalue()


def most_uncertain_first(rows: Iterable[Row]) -> list[Row]:
    """By mean entropy; what has none comes last, as it stands."""
    return sorted(rows, key=lambda row: -1.0 if row.entropy is None else row.entropy, reverse=True)


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.6f}"
