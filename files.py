"""Write files completely or not at all, and by one process at a time."""

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
    """Yield a temporary path next to each of `paths`. It is renamed if the block succeeds, and removed if it fails.

    If the write fails or is interrupted, existing files are unchanged. All files are complete on disk before the first
    one is renamed.

    Raises:
        BaselineError: a file cannot be written (permissions, disk full).
    """
    with contextlib.ExitStack() as stack:
        temporaries = []
        for path in paths:
            with _writing(path):
                temporaries.append(stack.enter_context(_temporary(path)))
        with _writing(paths[0]):  # or another path: the error does not tell which
            yield [temporary for temporary, _ in temporaries]
        for path, (_, descriptor) in zip(paths, temporaries, strict=True):
            with _writing(path):
                os.fsync(descriptor)
        for path, (temporary, _) in zip(paths, temporaries, strict=True):
            with _writing(path):
                temporary.replace(path)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to `path`; see atomic_paths."""
    with atomic_paths(path) as (temporary,):
        yield temporary


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[tuple[Path, int]]:
    """Yield an empty file next to `path`, locked against other processes that write `path`, and its descriptor."""
    if path.is_dir():  # renaming would fail later
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")  # a fixed name: the next run overwrites the file of a killed one
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            while not _is_open_as(descriptor, temporary):  # another process has renamed it in the meantime
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
    """Write a text file, completely or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_csv(path: Path, rows: Iterable[Iterable[Any]]) -> None:
    """Write a CSV file, completely or not at all. Floats are written with all digits."""
    write_text(path, csv_text(rows))


def csv_text(rows: Iterable[Iterable[Any]]) -> str:
    """The text of a CSV file with these rows."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def check_replaceable(path: Path, is_ours: Callable[[Path], bool]) -> None:
    """Check that an output file may be written: it does not exist, is empty, or was written by this command.

    Args:
        is_ours: whether the command wrote an existing file, judged by its contents. It may raise OSError.

    Raises:
        BaselineError: the file was not written by this command, or is not a regular file.
    """
    with contextlib.suppress(OSError):
        if not path.exists() or (path.is_file() and (path.stat().st_size == 0 or is_ours(path))):
            return
    raise BaselineError(
        f"{path} exists, and this command does not seem to have written it. Use another name, or move the file away."
    )


def set_aside(path: Path, away: Path) -> Path | None:
    """Move a file to `away` (or `away.1`, ...) so that it is kept when another file replaces it.

    Returns:
        The new path, or None if the file does not exist.

    Raises:
        OSError: the file cannot be moved.
    """
    if not path.exists():
        return None
    names = itertools.chain([away.name], (f"{away.name}.{number}" for number in itertools.count(1)))
    away = next(away.with_name(name) for name in names if not away.with_name(name).exists())
    away.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, away)  # also works across disks
    return away


def remove(path: Path) -> None:
    """Remove a file if it exists.

    Raises:
        BaselineError: the file cannot be removed.
    """
    with _writing(path):
        path.unlink(missing_ok=True)


def make_writable_directory(directory: Path) -> None:
    """Create `directory`, and check that it is writable.

    Raises:
        BaselineError: the directory cannot be created or is not writable.
    """
    with _writing(directory):
        directory.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=directory).close()


@contextlib.contextmanager
def process_lock(lock: Path, waiting: str = "", needed: bool = True) -> Iterator[bool]:
    """Run the block in one process at a time. The lock file is not deleted. The lock of a killed process is released.

    On file systems without locks (some Lustre file systems, NFS 3 without its lock service), the block runs without a
    lock, with a warning.

    Args:
        lock: the lock file. Its directory is created.
        waiting: message if another process has the lock.
        needed: if true, raise an error if the lock file cannot be written. Otherwise run the block without a lock.

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
    except RuntimeError as error:  # raised by fasteners if locking fails
        log.debug("%s: %s", lock, error.__context__)
        _warn_of_locks(str(error.__context__))
    try:
        yield waited
    finally:
        if process_lock.acquired:
            process_lock.release()


@functools.cache  # warn once
def _warn_of_locks(reason: str) -> None:
    log.warning(
        "this file system does not support locks (%s). Do not run the same command twice at the same time.", reason
    )


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Turn an OSError in the block into a BaselineError that names `path`."""
    try:
        yield
    except OSError as error:
        raise cannot_write(path, error) from error


def cannot_write(path: Path, error: OSError) -> BaselineError:
    """The BaselineError for an OSError while writing `path`."""
    return BaselineError(
        f"cannot write {path}: {error.strerror or error}. Check the directory's permissions and the free space. "
        "Other directories can be set with --dataset_directory, --model_directory and --result_directory."
    )
