"""Tables with columns of encoded images: Parquet files, what `datasets` saved, data sets of the Hugging Face Hub."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from danet.config import Channels, Preprocess, nearest
from danet.data.dataset import Item
from danet.data.images import read_pair
from danet.data.labels import LabelSpace
from danet.data.listing import UNSET, ReadMask, Source, known_split, reader
from danet.errors import InputError

if TYPE_CHECKING:
    import datasets

_NAMES = {"train": ("train",), "val": ("val", "validation", "valid", "dev"), "test": ("test",)}
"""What tables call our splits."""


def table(
    root: str | Path,
    split: str,
    columns: tuple[str, str] = ("image", "mask"),
    labels: str | Path | None = None,
    preprocess: Preprocess = UNSET,
) -> Source:
    """The rows of a table whose `columns` hold encoded images and masks (bytes, or bytes and path).

    root: a folder of Parquet files (train-….parquet, val-….parquet, …), one Parquet file, a folder that `datasets`
    saved, or a data set's name on the Hub. labels: a packaged label space, or a labels.yaml; by default that in `root`
    or beside it.
    Raises InputError for what is missing or cannot be opened, and where `datasets` is not installed.
    """
    known_split(split, tuple(_NAMES))
    space = LabelSpace.load(_labels_of(Path(root)) if labels is None else labels)
    rows = _rows(str(root), split, columns)
    channels, read = preprocess.of(space.channels), reader(space)
    names = [f"{root} {split} row {index}" for index in range(len(rows))]
    items = [
        Item(name, partial(_read_row, rows, index, columns, name, channels, read), f"{name}, column {columns[1]}")
        for index, name in enumerate(names)
    ]
    return items, space


def _labels_of(root: Path) -> Path:
    found = next((folder / "labels.yaml" for folder in (root, root.parent) if (folder / "labels.yaml").is_file()), None)
    if found is None:
        raise InputError(
            f"{root} has no labels.yaml; write one, such as names: [road, car], or give data.labels, such as ade20k."
        )
    return found


def _rows(root: str, split: str, columns: tuple[str, str]) -> datasets.Dataset:
    """The split's two columns, encoded as they are in the files and read from disk row by row."""
    try:
        import datasets
    except ImportError:
        raise InputError(f"{root} is a table, which needs datasets: pip install 'danet[tables]'.") from None
    try:
        parts = _open(root)
    except Exception as error:  # what files and the Hub make of a wrong name is of many kinds
        reason = (" ".join(str(error).split()) or type(error).__name__).rstrip(".")
        raise InputError(
            f"{root} cannot be opened as a table: {reason}. Give a folder of Parquet files, one such file, a folder "
            "that datasets saved, or a data set's name on the Hub."
        ) from None
    name = next((name for name in _NAMES[split] if name in parts), None)
    if name is None:
        raise InputError(
            f"{root} has no split {split}, but {', '.join(parts)}; name its files {split}-….parquet, or make one with "
            "Dataset.train_test_split."
        )
    rows = parts[name]
    for column in columns:
        if column not in rows.column_names:
            raise InputError(f"{root} has no column {column!r}. {nearest(column, rows.column_names)} Set data.columns.")
    if not len(rows):
        raise InputError(f"{root} has no rows in {name}; put images there.")
    rows = rows.select_columns(list(columns))
    for column in columns:
        try:
            rows = rows.cast_column(column, datasets.Image(decode=False))
        except Exception:  # Arrow's errors of types that do not fit
            raise InputError(
                f"{root}: column {column} is {rows.features[column]}; it must hold encoded images (bytes, or a struct "
                "of bytes and path)."
            ) from None
    return rows


def _open(root: str) -> Any:
    """All splits of a table by their names, as a dict."""
    import datasets

    path = Path(root)
    if (path / "dataset_dict.json").is_file():
        return datasets.load_from_disk(root)
    if (path / "state.json").is_file():
        return {"train": datasets.load_from_disk(root)}
    return datasets.load_dataset("parquet", data_files=root) if path.is_file() else datasets.load_dataset(root)


def _read_row(
    rows: datasets.Dataset,
    index: int,
    columns: tuple[str, str],
    name: str,
    channels: Channels,
    read: ReadMask,
) -> tuple[np.ndarray, np.ndarray]:
    """Row `index` as image and mask, read as files are: nothing of depth, orientation and errors differs."""
    row = rows[index]
    with TemporaryDirectory() as folder:
        image, mask = (_as_file(row[column], Path(folder) / column, f"{name}, column {column}") for column in columns)
        try:
            return read_pair(image, mask, channels, read)
        except InputError as error:
            told = str(error)
            for path, column in ((image, columns[0]), (mask, columns[1])):
                told = told.replace(str(path), f"{name}, column {column}")
            raise InputError(told) from None


def _as_file(cell: dict[str, Any] | None, path: Path, name: str) -> Path:
    """An image cell as a file: its bytes written to `path`, with the ending that it had, or the file that it names."""
    if cell is None or (cell["bytes"] is None and not cell["path"]):
        raise InputError(f"{name} is empty; leave the row out.")
    if cell["bytes"] is None:
        return Path(cell["path"])
    file = path.parent / f"{len(os.listdir(path.parent))}{Path(cell['path'] or '').suffix}"
    file.write_bytes(cell["bytes"])
    return file
