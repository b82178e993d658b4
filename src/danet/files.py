"""Files that are whole, or not there; and what tells whether they are the ones expected."""

import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from danet.errors import InputError

LOCK = ".lock"
"""The file in a folder that says whose it is."""


@contextmanager
def written_aside(path: Path) -> Iterator[Path]:
    """A path beside `path` to write to: synced and renamed to `path` at the end, removed if anything goes wrong."""
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield aside
        sync(aside)
        aside.replace(path)
        sync_folder(path.parent)
    finally:
        aside.unlink(missing_ok=True)


@contextmanager
def built_aside(folder: Path) -> Iterator[Path]:
    """A new folder beside `folder`, which is new or empty; renamed to it at the end, removed if anything goes wrong."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    if folder.is_dir():
        folder.rmdir()  # now, rather than after hours
    with tempfile.TemporaryDirectory(prefix=".danet-", dir=folder.parent, ignore_cleanup_errors=True) as own:
        aside = Path(own) / folder.name  # a folder in it, for it is nobody else's to read
        aside.mkdir()
        yield aside
        aside.rename(folder)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left of files that they wrote aside. No other process may be writing there."""
    for left in folder.glob(".*.part"):
        if left.is_file():
            left.unlink()


@contextmanager
def explained(path: Path, mend: str) -> Iterator[None]:
    """What the system says of writing `path` (a full disk, say) as an InputError of one line, which ends in `mend`."""
    try:
        yield
    except OSError as error:
        raise InputError(f"{path} cannot be written ({error.strerror or error}); {mend}.") from None


@contextmanager
def claimed(folder: Path, lock_file: str = LOCK) -> Iterator[None]:
    """`folder`, or what `lock_file` in it stands for, is this process's alone to write to; the system frees it when the
    process ends, however it does.

    Processes that this one forks have no part in it, so that they do not hold it when they outlive this one. Raises
    InputError where another process has it.
    """
    lock = FileLock(folder / lock_file)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(f"{folder} is in use by another process; wait for its end, or choose another name.") from None
    except OSError as error:
        raise InputError(
            f"{folder} cannot be written to ({error.strerror or error}); make room, or allow it."
        ) from None
    try:
        yield
    finally:
        lock.release()


def sync(path: Path) -> None:
    """Wait until the file's content would outlast a loss of power."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Make a renamed file's new name as lasting as its content, where the system lets folders be opened."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
