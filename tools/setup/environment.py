"""Make the virtual environment .venv and install the pinned packages. Needs nothing but Python and pip.

    python3 tools/setup/environment.py requirements.txt [tests/requirements.txt]

A second call finds all in place and returns at once; an interrupted one is made good by the next; of two at once, one
waits for the other.
"""

import contextlib
import fcntl
import hashlib
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"


def main(requirements: list[str]) -> None:
    """Set up, and say what is being done."""
    with _lock(ROOT / ".venv.lock"):
        if not _works(PYTHON):
            print(f"making the virtual environment {ENVIRONMENT} (Python {sys.version.split()[0]})", flush=True)
            shutil.rmtree(ENVIRONMENT, ignore_errors=True)
            _make_environment()
        for path in requirements:
            _install(ROOT / path)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up of this environment", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _works(python: Path) -> bool:
    with contextlib.suppress(OSError):
        return subprocess.run([python, "-m", "pip", "--version"], capture_output=True).returncode == 0
    return False


def _make_environment() -> None:
    try:
        venv.create(ENVIRONMENT, with_pip=True)
    except (subprocess.CalledProcessError, OSError) as error:
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        sys.exit(
            f"error: no virtual environment could be made in {ENVIRONMENT} ({error}). Check the free space and the "
            "directory's permissions; on Debian and Ubuntu, install the package python3-venv."
        )


def _install(requirements: Path) -> None:
    """Install a requirements file, unless just this one has been installed before."""
    name = str(requirements.relative_to(ROOT)).replace("/", "-")
    stamp, wanted = ENVIRONMENT / f"installed-{name}", hashlib.sha256(requirements.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return
    print(f"installing {requirements.relative_to(ROOT)} (the first time this takes a few minutes)", flush=True)
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: pip could not install {requirements}. Its message is above; then run this again.")
    stamp.write_text(wanted)


if __name__ == "__main__":
    main(sys.argv[1:])
