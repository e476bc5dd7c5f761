"""What Slurm is asked: sbatch, squeue, scontrol; and how much of the cluster a task wants (slurm.yaml)."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass

from config import ROOT, BaselineError, UsageError, nearest, read_texts

RESOURCES_FILE = ROOT / "tools" / "slurm.yaml"
# Key of slurm.yaml → the variable of the environment that goes before it. sbatch itself reads those of its own.
VARIABLES = {
    "account": "SBATCH_ACCOUNT",
    "partition": "SBATCH_PARTITION",
    "time": "SBATCH_TIMELIMIT",
    "memory": "SBATCH_MEM_PER_NODE",
    "gres": "SBATCH_GRES",
    "width": "WIDTH",
    "options": "SBATCH_OPTIONS",
    "cache_directory": "CACHE_DIRECTORY",
}
OPTIONS = {"account": "--account", "partition": "--partition", "time": "--time", "gres": "--gres"}
MAX_ARRAY_SIZE = 1001  # Slurm's own default
QUEUED = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")


class NoSlurmError(BaselineError):
    """Slurm's commands are not there."""


@dataclass(frozen=True)
class Resources:
    """How much of the cluster a sweep wants."""

    options: list[str]  # of sbatch, for each task
    width: int | None  # most tasks at a time
    cache_directory: str | None  # on a node; may hold variables of the environment there


@dataclass(frozen=True)
class QueuedTask:
    """A task that Slurm has not done with."""

    job: str  # such as 1234
    is_running: bool
    reason: str  # why it waits, in Slurm's word


def read_resources(models: int) -> Resources:
    """What slurm.yaml and the environment say, for tasks of so many models side by side.

    Raises:
        UsageError: an unknown key, or a value that cannot be.
    """
    values: dict[str, str | None] = dict.fromkeys(VARIABLES)
    for key, text in read_texts(RESOURCES_FILE):
        if key not in VARIABLES:
            raise UsageError(f"{RESOURCES_FILE}: unknown key '{key}'.{nearest(str(key), VARIABLES)}")
        if not isinstance(text, str):
            raise UsageError(f"{RESOURCES_FILE}: {key}: expected a single value.")
        values[key] = None if text.lower() in ("null", "~", "") else text
    for key in ("width", "options", "cache_directory"):
        values[key] = os.environ.get(VARIABLES[key]) or values[key]
    # Left to sbatch, where its environment names them.
    options = [f"{option}={values[key]}" for key, option in OPTIONS.items() if values[key] and not _is_set(key)]
    if values["memory"] and not (_is_set("memory") or "SBATCH_MEM_PER_CPU" in os.environ):
        options.append(f"--mem={_times(values['memory'], models)}")
    options.append(f"--cpus-per-task={models}")
    try:
        options += shlex.split(values["options"] or "")
    except ValueError as error:
        raise UsageError(f"options ({VARIABLES['options']}) {values['options']!r}: {error}.") from error
    width = values["width"]
    if width and not (width.isdecimal() and int(width)):
        raise UsageError(f"width ({VARIABLES['width']}) must be a number from 1 on, not '{width}'.")
    return Resources(options, int(width) if width else None, values["cache_directory"])


def _is_set(key: str) -> bool:
    return bool(os.environ.get(VARIABLES[key]))


def _times(memory: str, factor: int) -> str:
    match = re.fullmatch(r"(\d+)([KMGT]?)B?", memory.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{RESOURCES_FILE}: memory: '{memory}' is not one such as 1500M or 2G.")
    return f"{int(match[1]) * factor}{match[2].upper()}"


def sbatch(options: Sequence[str], command: Sequence[str]) -> str:
    """Submit a job that runs this command.

    Returns:
        The number of the job.

    Raises:
        BaselineError: Slurm refuses it.
    """
    said = _run(sbatch_command(options, command))
    numbers = re.findall(r"^(\d+)(?:;.*)?$", said, re.MULTILINE)  # some clusters say more
    if not numbers:
        raise BaselineError(f"sbatch has not said the number of the job, but {said.strip()!r}. See squeue --me.")
    return numbers[-1]


def sbatch_command(options: Sequence[str], command: Sequence[str]) -> list[str]:
    """The command line that submits a job."""
    # exec: a signal for the job's first process is one for the command.
    return ["sbatch", "--parsable", *options, "--wrap", f"exec {shlex.join(command)}"]


def queue(names: Sequence[str]) -> dict[tuple[str, int], QueuedTask]:
    """The tasks of the job arrays with these names that Slurm has not done with.

    Returns:
        (name of the job array, number of the task) → what Slurm says of it.

    Raises:
        BaselineError: Slurm does not answer.
    """
    found = {}
    if names:
        form = "--format=%j|%K|%F|%T|%r"  # name, number of the task, number of the job, state, reason
        for line in _run(["squeue", "--noheader", "--array", f"--name={','.join(names)}", form]).splitlines():
            name, number, job, state, reason = line.split("|", 4)
            if number.isdecimal():  # no array has N/A
                found[name.strip(), int(number)] = QueuedTask(job, state.strip() not in QUEUED, reason.strip())
    return found


def requeue(job: str, task: str) -> None:
    """Have a task run again from its start, on this node or another.

    Raises:
        BaselineError: Slurm refuses it.
    """
    _run(["scontrol", "requeue", f"{job}_{task}"])


def max_array_size() -> int:
    """One more than the largest number that a task of a job array may have here.

    Raises:
        BaselineError: Slurm does not answer.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]), re.MULTILINE)
    return int(match[1]) if match else MAX_ARRAY_SIZE


def _run(command: list[str]) -> str:
    # A user's own settings of squeue may leave out what is wanted here.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    try:
        finished = subprocess.run(command, env=environment, **pipes)
    except OSError as error:
        raise NoSlurmError(
            f"{command[0]} cannot be run ({error.strerror}). Log in to the cluster, and call this there."
        ) from error
    if finished.returncode:
        said = " ".join((finished.stderr or finished.stdout).split()) or f"exit status {finished.returncode}"
        raise BaselineError(f"{command[0]}: {said}")
    return finished.stdout
