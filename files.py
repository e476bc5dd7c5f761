"""Writing files so that each is complete or absent; one process at a time."""

import contextlib
import csv
import errno
import fcntl
import functools
import io
import itertools
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from config import BaselineError

log = logging.getLogger("baseline")


@contextlib.contextmanager
def atomic_paths(*paths: Path) -> Iterator[list[Path]]:
    """Yield a temporary path beside each of `paths`. It is renamed if the block succeeds, and removed if it fails.

    An interrupted or failed write leaves older files unchanged. All of a group are complete on the disk before the
    first is renamed.

    Raises:
        BaselineError: a file cannot be written (permissions, a full disk).
    """
    with contextlib.ExitStack() as stack:
        temporaries = []
        for path in paths:
            with _writing(path):
                temporaries.append(stack.enter_context(_temporary(path)))
        with _writing(paths[0]):  # or another of them: the block does not tell
            yield [temporary for temporary, _ in temporaries]
        for path, (_, descriptor) in zip(paths, temporaries, strict=True):
            with _writing(path):
                os.fsync(descriptor)
        for path, (temporary, _) in zip(paths, temporaries, strict=True):
            with _writing(path):
                temporary.replace(path)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; see atomic_paths."""
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    """An empty file beside `path`, and its descriptor. Another process that writes the same file waits for its lock."""
    if path.is_dir():  # nothing could be renamed to it: do not begin
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # always this name: what a killed process has left is overwritten
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            while not _is_open_as(descriptor, temporary):  # the other process has renamed it meanwhile
                os.close(descriptor)
                descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
        os.ftruncate(descriptor, 0)
        yield temporary, descriptor
    finally:
        if _is_open_as(descriptor, temporary):  # not renamed
            with contextlib.suppress(OSError):
                temporary.unlink()
        os.close(descriptor)


def _is_open_as(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False


def write_text(path: Path, text: str) -> None:
    """Write a text file, complete or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write rows of values, complete or not at all; floats with all their digits."""
    write_text(path, csv_text(rows))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """Rows of values as the text of a CSV file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def check_replaceable(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Check a file that a user has named for output: it does not exist, is empty, or this command wrote it.

    Args:
        is_ours: tells by the contents of a file whether the command wrote it; it may raise OSError.

    Raises:
        BaselineError: somebody else wrote it, or it is no file.
    """
    with contextlib.suppress(OSError):
        if not path.exists() or (path.is_file() and (path.stat().st_size == 0 or is_ours(path))):
            return
    raise BaselineError(
        f"{path} exists, and nothing shows that this command wrote it: it stays. Name another file, or move it away."
    )


def set_aside(path: Path, away: Path) -> Path | None:
    """Move a file that must not be lost to `away` (or `away.1`, ...), before another takes its place.

    Returns:
        Its new path, or None if it does not exist.

    Raises:
        OSError: it cannot be moved.
    """
    if not path.exists():
        return None
    names = itertools.chain([away.name], (f"{away.name}.{number}" for number in itertools.count(1)))
    away = next(away.with_name(name) for name in names if not away.with_name(name).exists())
    away.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, away)  # perhaps to another disk
    return away


def remove(path: Path) -> None:
    """Remove a file if it exists.

    Raises:
        BaselineError: it cannot be removed.
    """
    with _writing(path):
        path.unlink(missing_ok=True)


def make_writable_directory(directory: Path) -> None:
    """Create `directory`, and try whether a file can be written there.

    Raises:
        BaselineError: it cannot be created or written to.
    """
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()


@contextlib.contextmanager
def alone(lock: Path, waiting: str = "", needed: bool = True) -> Iterator[bool]:
    """Let one process at a time run the block. The lock file stays; a killed process does not hold it.

    On a file system without locks (some Lustre file systems, NFS 3 without its lock service) the block runs without,
    with a warning.

    Args:
        lock: the lock file; its directory is created.
        waiting: what to print if another process has the lock.
        needed: whether it is an error if the lock file cannot be written; else the block runs without.

    Yields:
        Whether another process had the lock.

    Raises:
        BaselineError: the lock file cannot be written.
    """
    import fasteners

    process_lock, waited = fasteners.InterProcessLock(lock), False
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        if not process_lock.acquire(blocking=False):
            waited = True
            log.log(logging.INFO if waiting else logging.DEBUG, "%s", waiting or f"waiting for {lock}")
            process_lock.acquire()
    except OSError as error:
        if needed:
            raise cannot_write(lock, error) from error
    except RuntimeError as error:  # what fasteners raises for errors of locking itself
        log.debug("%s: %s", lock, error.__context__)
        _warn_of_locks(str(error.__context__))
    try:
        yield waited
    finally:
        if process_lock.acquired:
            process_lock.release()


@functools.cache  # once
def _warn_of_locks(reason: str) -> None:
    log.warning("a file system here has no locks (%s): two runs at once are not kept apart.", reason)


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """An OSError in the block becomes a BaselineError that names `path`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> BaselineError:
    """The BaselineError for an OSError in writing `path`."""
    return BaselineError(
        f"cannot write {path}: {error.strerror or error}. Check the directory's permissions and the free space. "
        "Options for other places: --dataset_directory, --model_directory, --result_directory."
    )
