"""What the log of a task tells of its end."""

import re
from collections.abc import Sequence
from pathlib import Path

ATTEMPT = "==> "  # what a task's first line begins with
AGAIN = "to be started again"  # what it ends with where it is requeued
GIVEN_UP = "given up: "  # what its last line begins with where another attempt would fail, too
TAIL = 100_000  # bytes of a log that are looked at
# What Slurm writes into the log of a task that somebody has cancelled; of other reasons (a time limit) it says more.
CANCELLED = re.compile(r"CANCELLED AT \S+ \*\*\*")
ERROR = re.compile(r"(error: |slurm\S*: error: |[A-Za-z]*Error\b)")
RUN = " train.py "  # in the first line of a run in train.log
EPOCH = re.compile(r" epoch (\d+/\d+),")


def last_epoch(log: Path) -> str:
    """The last finished epoch of the last run in train.log, such as `34/100`; empty before the first."""
    epochs = EPOCH.findall(_tail(log).rpartition(RUN)[2])
    return epochs[-1] if epochs else ""


def last_error(log: Path, name: str, names: Sequence[str]) -> str:
    """What the last attempt of a task has said last of an error in this model, or in the task itself.

    Args:
        names: of all models in the task.
    """
    said = [line for line in _last_attempt(log) if line.strip()]
    lines = [line.removeprefix("error: ") for line in said if ERROR.match(line)]
    own = [line for line in lines if line.split(": ")[0] not in set(names) - {name}]
    if own and CANCELLED.search(own[-1]):
        return f"cancelled ({own[-1]}). The same command goes on from there"
    if own:
        return own[-1].removeprefix(f"{name}: ")
    return "it ended without a word" + (f" after: {said[-1].strip()}" if said else "")


def ended_without_a_word(log: Path, state: str | None) -> bool:
    """Whether a task that has ended undone has neither given up by itself nor been cancelled by somebody.

    Args:
        state: what Slurm says of it; None where it has forgotten.
    """
    lines = _last_attempt(log)
    if any(line.startswith(GIVEN_UP) for line in lines):
        return False
    if state:
        return state != "CANCELLED"
    # One that was to be started again and is not in the queue was cancelled while it waited.
    return not any(CANCELLED.search(line) or line.endswith(AGAIN) for line in lines)


def _last_attempt(log: Path) -> list[str]:
    _, header, text = _tail(log).rpartition(ATTEMPT)
    return text.splitlines()[1 if header else 0 :]


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""
