"""Writing files so that each is complete or absent; one process at a time."""

import contextlib
import csv
import io
import logging
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from config import BaselineError

log = logging.getLogger("baseline")


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`: renamed to `path` when the block succeeds, removed when it does not.

    An interrupted or failed write leaves an older `path` as it was.

    Raises:
        BaselineError: the file cannot be written (permissions, a full disk).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise cannot_write(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of values, complete or not at all; floats with all their digits."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def make_writable_directory(directory: Path) -> None:
    """Make `directory`, and try that a file can be written there.

    Raises:
        BaselineError: it cannot be made, or not be written to.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()
    except OSError as error:
        raise cannot_write(directory, error) from error


@contextlib.contextmanager
def alone(lock: Path, waiting: str) -> Iterator[None]:
    """Let one process at a time run the block. The lock file stays; a killed process holds it no longer.

    Args:
        lock: the lock file; its directory is made when it is not there.
        waiting: what to say where another process has the lock.

    Raises:
        BaselineError: the lock file cannot be written.
    """
    import fasteners

    process_lock = fasteners.InterProcessLock(lock)
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if not process_lock.acquire(blocking=False):
            log.info("%s", waiting)
            process_lock.acquire()
    except OSError as error:
        raise cannot_write(lock, error) from error
    try:
        yield
    finally:
        process_lock.release()


def cannot_write(path: Path, error: OSError) -> BaselineError:
    """The error to raise for an operating system's error in writing `path`."""
    return BaselineError(
        f"cannot write {path}: {error.strerror or error}. Check the directory's permissions and the free space. "
        "Other places can be named: --dataset_directory, --model_directory, --result_directory."
    )
