"""Files that are complete or absent, locks, and what killed processes leave."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

from config import BaselineError
from files import alone, atomic_path, atomic_paths, remove, write_csv, write_text


def leftover(path: Path) -> Path:
    """A temporary file beside `path`, as a killed process leaves it."""
    made = path.with_name(f".{path.name}.0123abcd.tmp")
    made.write_text("half")
    return made


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(RuntimeError), atomic_path(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old"}


def test_a_file_is_replaced_not_written_in_place(tmp_path):
    path, reader = tmp_path / "a.txt", tmp_path / "link.txt"
    write_text(path, "old")
    reader.hardlink_to(path)  # as somebody who has opened it
    with atomic_path(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert (path.read_text(), reader.read_text()) == ("new", "old")


def test_of_a_group_none_is_replaced_where_one_fails(tmp_path):
    paths = [tmp_path / name for name in ("a.txt", "b.txt")]
    for path in paths:
        write_text(path, "old")
    with pytest.raises(BaselineError, match="cannot write .*a.txt"), atomic_paths(*paths) as (first, _):
        first.write_text("new")
        raise OSError(28, "No space left on device")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "old", "b.txt": "old"}


def test_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_csv(tmp_path / "a.csv", [[1, 2]])
    finally:
        os.umask(before)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o644


def test_leftovers_of_the_same_file_are_removed(tmp_path):
    path = tmp_path / "a[1].txt"
    leftover(path)
    others = {leftover(tmp_path / "b.txt"), tmp_path / ".a[1].txt.notes.tmp"}
    for other in others:
        other.touch()
    write_text(path, "new")
    assert set(tmp_path.iterdir()) == {path, *others}


def test_what_another_process_is_writing_stays(tmp_path):
    path = tmp_path / "a.txt"
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from files import atomic_path
with atomic_path(Path({str(path)!r})) as temporary:
    temporary.write_text("of the other")
    print("writing", flush=True)
    sys.stdin.readline()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "writing\n"
    write_text(path, "of this")
    assert len(list(tmp_path.iterdir())) == 2
    other.communicate("\n", timeout=30)
    assert other.returncode == 0
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "of the other"}


def test_a_leftover_is_told_from_a_file_that_is_about_to_be_locked(tmp_path, monkeypatch):
    """Another process may take it for a leftover in the moment between; then there is another."""
    import fcntl

    path, calls = tmp_path / "a.txt", []

    def lock(descriptor, how):
        if not calls:
            next(tmp_path.iterdir()).unlink()
        calls.append(how)
        return flock(descriptor, how)

    flock = fcntl.flock
    monkeypatch.setattr(fcntl, "flock", lock)
    write_text(path, "new")
    assert len(calls) == 2
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "new"}


def test_file_systems_without_locks(tmp_path, monkeypatch):
    import fcntl

    def lock(descriptor, how):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", lock)
    left = leftover(tmp_path / "a.txt")
    write_text(tmp_path / "a.txt", "new")
    assert set(tmp_path.iterdir()) == {tmp_path / "a.txt", left}  # it may be another's


def test_a_killed_process_holds_no_lock(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from files import alone
with alone(Path({str(tmp_path)!r}, ".lock")):
    print("locked", flush=True)
    sys.stdin.readline()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    signal.signal(signal.SIGALRM, lambda *_: other.kill())
    start = time.monotonic()
    with alone(tmp_path / ".lock") as waited:
        assert waited
        assert time.monotonic() - start > 0.3
    other.communicate()
    with alone(tmp_path / ".lock") as waited:
        assert not waited


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BaselineError, match="cannot write"), alone(tmp_path / "file" / ".lock"):
        pass
    with alone(tmp_path / "file" / ".lock", needed=False) as waited:
        assert not waited


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    """Such as Lustre mounted without them: the work is done, files are complete, and a warning says what is missing."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    with alone(tmp_path / ".lock") as waited, atomic_path(tmp_path / "a.txt") as temporary:
        assert not waited
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    assert "no locks there" in caplog.text
    assert {path.name for path in tmp_path.iterdir()} == {"a.txt", ".lock"}


def test_a_directory_in_the_place_of_a_file_is_found_before_any_is_replaced(tmp_path):
    first, second = tmp_path / "a.txt", tmp_path / "b.txt"
    first.write_text("old")
    second.mkdir()
    with pytest.raises(BaselineError, match="cannot write .*b.txt: Is a directory"), atomic_paths(first, second):
        pass
    assert first.read_text() == "old"
    assert set(tmp_path.iterdir()) == {first, second}
    with pytest.raises(BaselineError, match="cannot write .*b.txt"):
        remove(second)
