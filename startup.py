"""The first step of each command: check Python and the packages, and set environment variables for the libraries.

This file and tools/setup/environment.py also run in Python 3.6, so that they can report that it is too old.
"""

import os
import re
import signal
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
OLDEST, NEWEST = (3, 10), (3, 13)
# These bind each process to one core when PyTorch is imported. Parallel runs would all use the same core.
BINDING = ("OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY")

is_command = False  # whether this process only runs a command (not a test or an interactive session)


def prepare():
    """Check Python and the packages, and set the environment. Commands call this before their other imports."""
    global is_command
    is_command = not hasattr(sys, "ps1")
    if is_command:  # an interactive session keeps its signal handlers
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # no traceback during slow imports
    check_python()
    _check_packages()
    for name in BINDING:
        os.environ.pop(name, None)
    os.environ.pop("MPLBACKEND", None)  # set by notebooks, but plots are written to files
    _choose_cache()


def check_python():
    """Exit with a message if this Python cannot run the project."""
    if not OLDEST <= sys.version_info[:2] <= NEWEST:
        suitable = " to ".join(".".join(map(str, version)) for version in (OLDEST, NEWEST))
        sys.exit(f"error: {sys.executable} is Python {sys.version.split()[0]}. Use Python {suitable}.")
    try:
        import fcntl  # noqa: F401
    except ImportError:
        sys.exit("error: Linux or macOS is required. On Windows, use WSL: https://learn.microsoft.com/windows/wsl")


def _check_packages():
    """Exit if packages are missing or too old. Warn if their versions differ from requirements.txt."""
    if "NAME_IN_LOOP" in os.environ:  # already checked by the loop over machine types
        return
    from importlib import metadata

    missing, too_old, others = [], [], []
    for name, versions in _required_versions().items():
        try:
            installed = getattr(sys.modules.get(name), "__version__", None) or metadata.version(name)
            installed = installed.lstrip("v").split("+")[0]  # such as 2.13.0+cpu
        except metadata.PackageNotFoundError:
            missing.append(name)
            continue
        wanted, *_ = versions
        line = f"{name} {installed} ({wanted})"
        if _major(installed) < min(map(_major, versions)):
            too_old.append(line)
        elif installed != wanted:
            others.append(line)
    if missing or too_old:
        wrong = [f"has no {', '.join(missing)}"] if missing else []
        wrong += [f"has packages that are too old: {', '.join(too_old)}"] if too_old else []
        sys.exit(
            f"error: {sys.executable} {' and '.join(wrong)}. To create {ROOT}/.venv, run 'python3 "
            f"{ROOT}/tools/setup/environment.py requirements.txt'. Or: {sys.executable} -m pip install -r "
            f"{ROOT}/requirements.txt"
        )
    if others:
        sys.stderr.write(
            f"warning: packages differ from those tested together (requirements.txt): {', '.join(others)}. "
            "Results may differ.\n"
        )


def _major(version):
    return int(re.search("[0-9]+", version + "0")[0])


def _required_versions():
    """Package → versions in requirements.txt, that for this Python first. Markers distinguish 3.10 from later ones."""
    is_new, versions = sys.version_info >= (3, 11), {}
    file = ROOT / "requirements.txt"
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        match = re.match(r"([\w-]+)==([\w.]+)(.*python_version (<|>=))?", line)
        if match:
            name, version, _, comparison = match.groups()
            known = versions.setdefault(name, [])
            known.insert(0 if comparison in (None, ">=" if is_new else "<") else len(known), version)
    return versions


def _choose_cache():
    """Choose another directory for caches of libraries if there is no writable home directory."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    try:
        if not os.path.isabs(cache):  # a user without a home
            raise OSError
        os.makedirs(cache, exist_ok=True)
        if os.access(cache, os.W_OK):
            return
    except OSError:
        pass
    try:
        directory = Path(tempfile.gettempdir(), f"baseline-cache-{os.getuid()}")
        directory.mkdir(mode=0o700, exist_ok=True)
        if directory.is_symlink() or directory.stat().st_uid != os.getuid():  # caches contain code: use only our own
            directory = tempfile.mkdtemp()
        os.environ["XDG_CACHE_HOME"] = str(directory)
        for name in ("NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
            os.environ.setdefault(name, str(directory))
    except OSError:  # no writable directory; the libraries will report it
        pass


if __name__ == "__main__":  # used by tools/setup/setup.sh
    check_python()
