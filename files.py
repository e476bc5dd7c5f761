"""Writing files so that each is complete or absent."""

import contextlib
import csv
import io
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from config import BaselineError


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


def cannot_write(path: Path, error: OSError) -> BaselineError:
    """The error to raise for an operating system's error in writing `path`."""
    return BaselineError(
        f"cannot write {path}: {error.strerror or error}. Check the directory's permissions and the free space, "
        "or choose another directory (--dataset_directory, --model_directory, --result_directory)."
    )
