"""Create the virtual environment .venv and install the pinned packages. Needs only Python and pip.

    python3 tools/setup/environment.py requirements.txt [tests/requirements.txt]

If everything is installed, it returns at once. If it was interrupted, run it again. Of two calls at the same time, one
waits for the other. An environment that the user created is not changed.
"""

import contextlib
import hashlib
import itertools
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from startup import check_python

    check_python()

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = ROOT / ".venv"
PYTHON = ENVIRONMENT / "bin" / "python"
MARKER = ENVIRONMENT / "made-by-setup"  # in every environment that this script creates; empty until it is complete


def main(requirements: list[str]) -> None:
    """Create the environment if necessary, and install the requirements."""
    if not all((ROOT / path).is_file() for path in requirements):
        sys.exit(__doc__)
    if all(_is_installed(ROOT / path) for path in requirements) and _works(PYTHON):
        return
    with _lock(ROOT / ".venv.lock"):
        if not _is_ours():
            sys.exit(
                f"error: {ENVIRONMENT} was not created by this script, so it is not changed. Move it away, then run "
                f"this again. Or install {' '.join(requirements)} into it yourself. The numbered scripts then use it."
            )
        if not _works(PYTHON):
            _clear()
            print(f"creating the virtual environment {ENVIRONMENT} (Python {sys.version.split()[0]})", flush=True)
            _create_environment()
        for path in requirements:
            _install(ROOT / path)


def _is_ours() -> bool:
    """Whether .venv can be replaced: it does not exist, is empty, or was created by this script (or an older one)."""
    if not ENVIRONMENT.is_dir():
        return not ENVIRONMENT.exists() and not ENVIRONMENT.is_symlink()
    return MARKER.exists() or any(ENVIRONMENT.glob("installed-*")) or not any(ENVIRONMENT.iterdir())


def _clear() -> None:
    """Delete an incomplete environment. Move a complete one away, because it may have packages of the user."""
    if not (ENVIRONMENT.exists() and any(ENVIRONMENT.iterdir())):
        return
    if MARKER.exists() and not MARKER.read_text():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        return
    names = (ROOT / f".venv.old{number}" for number in itertools.count(1))
    away = next(path for path in names if not path.exists())
    ENVIRONMENT.rename(away)
    print(f"{ENVIRONMENT} does not work, so it was moved to {away}", flush=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl  # not available on Windows

    try:
        file = path.open("a")
    except OSError as error:
        sys.exit(
            f"error: cannot write {path}: {error.strerror}. The environment is created in the project's directory."
        )
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another setup of this environment", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def _works(python: Path) -> bool:
    """Whether the environment's Python can run the project and has pip."""
    with contextlib.suppress(OSError):
        commands = [python, ROOT / "startup.py"], [python, "-m", "pip", "--version"]
        return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)
    return False


def _create_environment() -> None:
    try:
        ENVIRONMENT.mkdir(exist_ok=True)
        MARKER.touch()
        venv.create(ENVIRONMENT.resolve(), with_pip=True)  # it may be a link to another disk
        MARKER.write_text("finished\n")
    except (subprocess.CalledProcessError, OSError, ValueError) as error:  # ValueError: ':' in the path
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        sys.exit(
            f"error: the virtual environment {ENVIRONMENT} could not be created ({error}). Check the free space and "
            "the directory's permissions. On Debian and Ubuntu, install the package python3-venv."
        )


def _install(requirements: Path) -> None:
    """Install a requirements file, unless this version of it is installed already."""
    if _is_installed(requirements):
        return
    print(f"installing {requirements.relative_to(ROOT)} (the first time this takes a few minutes)", flush=True)
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: pip could not install {requirements}. Correct the error above, then run this again.")
    _stamp(requirements).write_text(_checksum(requirements))


def _is_installed(requirements: Path) -> bool:
    stamp = _stamp(requirements)
    return stamp.exists() and stamp.read_text() == _checksum(requirements)


def _stamp(requirements: Path) -> Path:
    return ENVIRONMENT / f"installed-{str(requirements.relative_to(ROOT)).replace('/', '-')}"


def _checksum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except KeyboardInterrupt:
        print("interrupted. Run the same command to resume.", file=sys.stderr)
        sys.exit(130)
