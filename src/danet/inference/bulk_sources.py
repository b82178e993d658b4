"""Where many images are: files, folders, buckets and Parquet files, as sources that are read one by one, anywhere."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from danet.config import nearest
from danet.errors import InputError

if TYPE_CHECKING:
    from pyarrow.fs import FileSystem

COLUMN = "image"
"""The column of Parquet files that holds encoded images: bytes, or a struct of bytes and path, as `datasets` saves."""
MANIFEST, PARTS = "bulk.json", "part-*.parquet"
"""What tells of the results in an output folder, and these."""
_ADDRESS = re.compile(r"\w+://")


class Source(NamedTuple):
    """What is read in one go: an image file, or rows of one row group of a Parquet file.

    path: of the file, as the output calls it; name: what its results are called, without ending. Of a row group: its
    number, that of its first row in the file, and those of the rows to read.
    """

    path: str
    name: str
    group: int | None = None
    first: int = 0
    rows: tuple[int, ...] = ()

    @property
    def images(self) -> list[tuple[str, str]]:
        """Path and name of each image: those of the file, or PATH#ROW and NAME/ROW."""
        if self.group is None:
            return [(self.path, self.name)]
        return [(f"{self.path}#{row}", f"{self.name}/{row:08d}") for row in self.rows]


def find_sources(inputs: Sequence[str], suffixes: Sequence[str], output: Path) -> list[Source]:
    """All images of files, folders (without hidden files and results in `output`), and addresses such as s3://….

    Images of folders are named after their place in it, and among several inputs with the folder's name before it.
    Raises InputError for what cannot be opened, holds no image, or is a table without images.
    """
    sources: dict[tuple[str, int | None], Source] = {}  # an image that is there twice is one
    for given in inputs:
        given = given if _ADDRESS.match(given) else str(Path(given).absolute())  # workers may be elsewhere
        for path, name in _files(given, (*suffixes, ".parquet"), output, len(inputs) > 1):
            table = _split(path)[0].lower().endswith(".parquet")
            for source in _groups(path, name) if table else (Source(path, name),):
                sources[source.path, source.group] = source
    return list(sources.values())


def read_source(source: Source) -> Iterator[dict[str, Any]]:
    """A row for every image: path, name, encoded bytes, and the error where it cannot be read (else "")."""
    from pyarrow import ArrowException

    try:
        if source.group is None:
            cells: Iterator[Any] = iter([_content(source.path)])
        else:
            from pyarrow.parquet import ParquetFile

            system, place = _place(source.path)
            with system.open_input_file(place) as file:
                column = ParquetFile(file).read_row_group(source.group, columns=[COLUMN]).column(0)
            cells = (column[row - source.first].as_py() for row in source.rows)
    except (OSError, ArrowException, InputError) as error:
        for path, name in source.images:
            yield {"path": path, "name": name, "bytes": b"", "error": _told(path, error)}
        return
    for (path, name), cell in zip(source.images, cells, strict=True):
        try:
            content = cell if isinstance(cell, bytes | None) else cell["bytes"]
            if not content and isinstance(cell, dict) and cell["path"]:
                content = _content(cell["path"])
            yield {"path": path, "name": name, "bytes": content or b"", "error": "" if content else f"{path} is empty."}
        except (OSError, InputError) as error:
            yield {"path": path, "name": name, "bytes": b"", "error": _told(path, error)}


def _files(given: str, suffixes: tuple[str, ...], output: Path, several: bool) -> Iterator[tuple[str, str]]:
    """Paths and names of a file, or of a folder's files with one of the endings."""
    from pyarrow.fs import FileSelector, FileType

    (system, place), own = _place(given), output.resolve()
    try:
        info = system.get_file_info(place)
        if info.type == FileType.File:
            yield given, PurePosixPath(place).stem
            return
        if info.type == FileType.NotFound:
            raise InputError(
                f"{given} does not exist; give files, folders, Parquet files or s3:// and gs:// addresses."
            )
        found = sorted(
            entry.path for entry in system.get_file_info(FileSelector(place, recursive=True)) if entry.is_file
        )
    except OSError as error:
        raise InputError(f"{given} cannot be listed: {_reason(error)}. Check its name and your access.") from None
    inside = [(path, PurePosixPath(path).relative_to(place)) for path in found if path.lower().endswith(suffixes)]
    kept = [
        (path, relative)
        for path, relative in inside
        if not any(part.startswith(".") for part in relative.parts)
        and not (system.type_name == "local" and _is_result(Path(path).resolve(), Path(place).resolve(), own))
    ]
    if not kept:
        raise InputError(f"{given} holds no image ({', '.join(suffixes)}).")
    before = f"{PurePosixPath(place).name}/" if several else ""
    address, query = _split(given)
    for _, relative in kept:
        below = quote(str(relative)) if _ADDRESS.match(given) else relative
        yield f"{address.rstrip('/')}/{below}{query}", f"{before}{relative.with_suffix('')}"


def _split(path: str) -> tuple[str, str]:
    """An address without and from its question mark on, as in s3://bucket/folder?region=eu-west-1; a path as it is."""
    address, mark, query = path.partition("?") if _ADDRESS.match(path) else (path, "", "")
    return address, mark + query


def _is_result(path: Path, folder: Path, output: Path) -> bool:
    """Whether what lies in an input folder is of the output: all that is in one within it; else parts alone."""
    if folder in output.parents:
        return output in path.parents
    return path.parent == output and path.match(PARTS) and (output / MANIFEST).is_file()


def _groups(path: str, name: str) -> Iterator[Source]:
    """The row groups of a Parquet file."""
    import pyarrow as pa
    from pyarrow.parquet import ParquetFile

    system, place = _place(path)
    try:
        with system.open_input_file(place) as file:
            table = ParquetFile(file)
            schema, counts = (
                table.schema_arrow,
                [table.metadata.row_group(group).num_rows for group in range(table.num_row_groups)],
            )
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"{path} cannot be read as Parquet: {_reason(error)}. Copy or export it again.") from None
    if COLUMN not in schema.names:
        raise InputError(
            f"{path} has no column {COLUMN!r}. {nearest(COLUMN, schema.names)} Rename the one with images."
        )
    kind = schema.field(COLUMN).type
    fields = {kind.field(index).name for index in range(kind.num_fields)} if pa.types.is_struct(kind) else set()
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or {"bytes", "path"} <= fields):
        raise InputError(f"{path}: column {COLUMN} is {kind}; it must hold encoded images, or bytes and path of them.")
    first = 0
    for group, count in enumerate(counts):
        yield Source(path, name, group, first, tuple(range(first, first + count)))
        first += count


def _content(path: str) -> bytes:
    system, place = _place(path)
    with system.open_input_stream(place, compression=None) as file:
        return file.read()


def _place(path: str) -> tuple[FileSystem, str]:
    """The file system of a path or an address, and the path there."""
    from pyarrow import ArrowException
    from pyarrow.fs import FileSystem, LocalFileSystem

    if not _ADDRESS.match(path):
        return LocalFileSystem(), str(Path(path).absolute())
    try:
        return FileSystem.from_uri(path)
    except (ArrowException, ImportError, ValueError) as error:
        raise InputError(f"{path} is no address that can be read: {_reason(error)}.") from None


def _told(path: str, error: Exception) -> str:
    return f"{path} cannot be read: {_reason(error)}."


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
