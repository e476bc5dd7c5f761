"""Make the virtual environment .venv and install the pinned packages. Needs nothing but Python and pip.

    python3 tools/setup/environment.py requirements.txt [tests/requirements.txt]

A second call finds all in place and returns at once; an interrupted one is made good by the next; of two at once, one
waits for the other. An environment that somebody else made is left alone.
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
MARKER = ENVIRONMENT / "made-by-setup"  # in every environment that this file makes; empty until that is done


def main(requirements: list[str]) -> None:
    """Set up, and say what is being done."""
    if not all((ROOT / path).is_file() for path in requirements):
        sys.exit(__doc__)
    if all(_is_installed(ROOT / path) for path in requirements) and _works(PYTHON):
        return
    with _lock(ROOT / ".venv.lock"):
        if not _is_ours():
            sys.exit(
                f"error: {ENVIRONMENT} was not made by this set-up, so it is left alone. Move it away, then run this "
                f"again. Or install {' '.join(requirements)} into it yourself: the numbered scripts then use it."
            )
        if not _works(PYTHON):
            _clear()
            print(f"making the virtual environment {ENVIRONMENT} (Python {sys.version.split()[0]})", flush=True)
            _make_environment()
        for path in requirements:
            _install(ROOT / path)


def _is_ours() -> bool:
    """Whether nothing is lost with .venv: it does not exist, is empty, or this set-up (or an older one) made it."""
    if not ENVIRONMENT.is_dir():
        return not ENVIRONMENT.exists() and not ENVIRONMENT.is_symlink()
    return MARKER.exists() or any(ENVIRONMENT.glob("installed-*")) or not any(ENVIRONMENT.iterdir())


def _clear() -> None:
    """Remove a half-made environment. Move a finished one away: it may hold packages of the user."""
    if not (ENVIRONMENT.exists() and any(ENVIRONMENT.iterdir())):
        return
    if MARKER.exists() and not MARKER.read_text():
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        return
    names = (ROOT / f".venv.old{number}" for number in itertools.count(1))
    away = next(path for path in names if not path.exists())
    ENVIRONMENT.rename(away)
    print(f"{ENVIRONMENT} does not work: moved to {away}", flush=True)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    import fcntl  # there is none on Windows

    try:
        file = path.open("a")
    except OSError as error:
        sys.exit(f"error: cannot write {path}: {error.strerror}. The environment is made in the project's directory.")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up of this environment", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            pass
        yield


def _works(python: Path) -> bool:
    """Whether an environment's Python runs, can run the project, and has pip."""
    with contextlib.suppress(OSError):
        commands = [python, ROOT / "startup.py"], [python, "-m", "pip", "--version"]
        return all(subprocess.run(command, capture_output=True).returncode == 0 for command in commands)
    return False


def _make_environment() -> None:
    try:
        ENVIRONMENT.mkdir(exist_ok=True)
        MARKER.touch()
        venv.create(ENVIRONMENT.resolve(), with_pip=True)  # it may be a link to another disk
        MARKER.write_text("finished\n")
    except (subprocess.CalledProcessError, OSError, ValueError) as error:  # ValueError: ':' in the path
        shutil.rmtree(ENVIRONMENT, ignore_errors=True)
        sys.exit(
            f"error: no virtual environment could be made in {ENVIRONMENT} ({error}). Check the free space and the "
            "directory's permissions; on Debian and Ubuntu, install the package python3-venv."
        )


def _install(requirements: Path) -> None:
    """Install a requirements file, unless just this one has been installed before."""
    if _is_installed(requirements):
        return
    print(f"installing {requirements.relative_to(ROOT)} (the first time this takes a few minutes)", flush=True)
    command = [PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements]
    if subprocess.run(command).returncode != 0:
        sys.exit(f"error: pip could not install {requirements}. Its message is above; then run this again.")
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
        print("interrupted. The same command continues.", file=sys.stderr)
        sys.exit(130)
