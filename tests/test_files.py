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

import files
from config import BaselineError
from files import atomic_path, atomic_paths, check_replaceable, process_lock, remove, write_csv, write_text


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


def test_all_of_a_group_are_on_the_disk_before_the_first_is_renamed(tmp_path, monkeypatch):
    calls, fsync, replace = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda descriptor: (calls.append("fsync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda path, target: (calls.append("rename"), replace(path, target)))
    with atomic_paths(tmp_path / "a.txt", tmp_path / "b.txt"):
        pass
    assert calls == ["fsync", "fsync", "rename", "rename"]


def test_files_can_be_read_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        write_csv(tmp_path / "a.csv", [[1, 2]])
    finally:
        os.umask(before)
    assert (tmp_path / "a.csv").stat().st_mode & 0o777 == 0o644


def test_what_a_killed_process_has_left_is_overwritten(tmp_path):
    (tmp_path / ".a.txt.tmp").write_text("half, and longer")
    write_text(tmp_path / "a.txt", "new")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"a.txt": "new"}


def test_several_processes_write_the_same_file(tmp_path):
    """Each version is whole, and no temporary file stays."""
    path = tmp_path / "a.txt"
    code = "import sys, pathlib, files\nfor _ in range(200): files.write_text(pathlib.Path(sys.argv[1]), sys.argv[2])"
    writers = [subprocess.Popen([sys.executable, "-c", code, path, 5000 * letter], cwd=ROOT) for letter in "abc"]
    while any(writer.poll() is None for writer in writers):
        text = path.read_text() if path.exists() else ""
        assert len(text) in (0, 5000)
        assert len(set(text)) <= 1
    assert [writer.returncode for writer in writers] == [0, 0, 0]
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_killed_process_holds_no_lock(tmp_path):
    code = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from files import process_lock
with process_lock(Path({str(tmp_path)!r}, ".lock")):
    print("locked", flush=True)
    sys.stdin.readline()
"""
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout.readline() == "locked\n"
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    signal.signal(signal.SIGALRM, lambda *_: other.kill())
    start = time.monotonic()
    with process_lock(tmp_path / ".lock") as waited:
        assert waited
        assert time.monotonic() - start > 0.3
    other.communicate()
    with process_lock(tmp_path / ".lock") as waited:
        assert not waited


def test_a_lock_that_cannot_be_written(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(BaselineError, match="cannot write"), process_lock(tmp_path / "file" / ".lock"):
        pass
    with process_lock(tmp_path / "file" / ".lock", needed=False) as waited:
        assert not waited


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_a_file_system_without_locks(tmp_path, monkeypatch, caplog, number):
    """Such as Lustre mounted without them: the work is done, files are complete, and a warning says what is missing."""

    def refuse(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "lockf", refuse)
    monkeypatch.setattr(fcntl, "flock", refuse)
    files._warn_of_locks.cache_clear()
    with process_lock(tmp_path / ".lock") as waited, atomic_path(tmp_path / "a.txt") as temporary:
        assert not waited
        temporary.write_text("new")
    assert (tmp_path / "a.txt").read_text() == "new"
    with process_lock(tmp_path / ".lock"):
        assert caplog.text.count("this file system does not support locks") == 1
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


def test_only_files_of_this_command_are_replaced(tmp_path):
    ours, empty, other = (tmp_path / name for name in ("ours", "empty", "other"))
    ours.write_text("clip,score")
    empty.touch()
    other.write_text("clip,label")
    os.mkfifo(tmp_path / "fifo")
    for path in (ours, empty, tmp_path / "new"):
        check_replaceable(path, lambda path: "score" in path.read_text())
    for path in (other, tmp_path / "fifo", tmp_path):
        with pytest.raises(BaselineError, match=f"{path} exists, .* Use another name, or move the file away"):
            check_replaceable(path, lambda path: "score" in path.read_text())
