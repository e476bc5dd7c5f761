"""Runs of train.py on a small disk, and on one that is read-only: what each wrote, said, and left.

Run it in a mount namespace of its own (tests/test_small_disk.py does); prints a JSON list of trials.
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from conftest import RAW, Workspace, no_handlers_left

from config import BaselineError
from tools import summarize

DISK_SIZE = 32 << 20  # bytes
PLACES = ("data", "models", "results")
PROCESSED = RAW.parent / "processed"


def mount(directory: Path, *options: str) -> None:
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join([f"size={DISK_SIZE}", *options]), "none", directory], check=True
    )


def fill(disk: Path, free: int) -> None:
    """Leave so many bytes free."""
    with (disk / "ballast").open("wb") as file:
        found = os.statvfs(disk)
        os.posix_fallocate(file.fileno(), 0, max(1, found.f_bavail * found.f_frsize - free))


def trial(workspace: Workspace, arguments: list[str]) -> dict:
    error, said = None, io.StringIO()
    with contextlib.redirect_stderr(said), no_handlers_left():
        try:
            if arguments[0] == "summary":
                summarize.main(["DCASE2024T2", "-d", *workspace.options])
            else:
                workspace.run_here(*arguments)
        except BaselineError as caught:
            error = str(caught)
    files = {}
    for place in (workspace.models, workspace.results, workspace.data / PROCESSED):
        for path in place.rglob("*"):
            if path.is_file() and path.suffix not in (".log", ".lock"):
                files[str(path.relative_to(place))] = hashlib.sha256(path.read_bytes()).hexdigest()
    return {"arguments": arguments, "error": error, "stderr": said.getvalue(), "files": files}


def main(disk: Path, kept: Path, jobs: list[dict]) -> list[dict]:
    """Make each run with a copy of `kept`, its data, models and results, on the disk.

    Args:
        disk: an empty directory.
        jobs: of each its arguments, and the bytes that are free ("free"); or which of the three directories are
            read-only ("read_only"); the others are elsewhere then.
    """
    elsewhere, trials = disk.with_name("elsewhere"), []
    for job in jobs:
        mount(disk)
        places = {n: disk if n in job.get("read_only", PLACES) else elsewhere for n in PLACES}
        for name, place in places.items():
            shutil.copytree(kept / name, place / name)
        workspace = Workspace(disk)
        workspace.data, workspace.models, workspace.results = (place / name for name, place in places.items())
        if "read_only" in job:
            mount(disk, "remount", "ro")
        else:
            fill(disk, job["free"])
        trials.append(trial(workspace, job["arguments"]))
        subprocess.run(["umount", disk], check=True)
        shutil.rmtree(elsewhere, ignore_errors=True)
    return trials


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3]))))
