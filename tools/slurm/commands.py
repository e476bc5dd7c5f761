"""What Slurm is asked: sbatch, squeue, scontrol; and how much of the cluster a task wants (slurm.yaml)."""

import os
import re
import shlex
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from config import ROOT, BaselineError, UsageError, nearest, read_texts

RESOURCES_FILE = ROOT / "tools" / "slurm.yaml"
# Key of slurm.yaml → the variable of the environment that overrides it; first those that are options of sbatch.
OPTIONS = {
    "account": "SBATCH_ACCOUNT",
    "partition": "SBATCH_PARTITION",
    "time": "SBATCH_TIMELIMIT",
    "gres": "SBATCH_GRES",
}
VARIABLES = OPTIONS | {
    "memory": "SBATCH_MEM_PER_NODE",
    "width": "SWEEP_WIDTH",
    "options": "SWEEP_OPTIONS",
    "cache_directory": "SWEEP_CACHE_DIRECTORY",
}
MOST_TASKS = 1000  # of an array, by Slurm's own default
WAITING = ("PENDING", "REQUEUED", "REQUEUE_FED", "REQUEUE_HOLD", "SPECIAL_EXIT", "RESV_DEL_HOLD")
RUNNING = ("RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "STOPPED", "SIGNALING", "STAGE_OUT", "RESIZING")
# Settings that would have squeue leave out what is wanted, or sbatch do what is not.
NOT_TAKEN = re.compile(r"SQUEUE_.*|SBATCH_(ARRAY_INX|WAIT|SIGNAL|ERROR)")


@dataclass(frozen=True)
class Resources:
    """How much of the cluster a sweep wants."""

    options: list[str]  # of sbatch, for each job
    memory: str | None  # of a model
    width: int | None  # most tasks at a time
    cache_directory: str | None  # on a node; may hold variables of the environment there

    def of_job(self, models: int) -> list[str]:
        """The options of sbatch for a job of so many models side by side."""
        # Of two equal options sbatch takes the last: what slurm.yaml says under `options` wins.
        memory = [f"--mem={_times(self.memory, models)}"] if self.memory else []
        return [*memory, f"--cpus-per-task={models}", *self.options]


@dataclass(frozen=True)
class Job:
    """A job, or a task of a job array, that Slurm knows of; also some that are over."""

    name: str
    task: int | None
    number: str  # such as 1234
    state: str
    reason: str  # why it waits, in Slurm's word

    @property
    def is_waiting(self) -> bool:
        return self.state in WAITING

    @property
    def is_running(self) -> bool:
        return self.state in RUNNING


def read_resources() -> Resources:
    """What slurm.yaml and the environment say.

    Raises:
        UsageError: an unknown key, or a value that cannot be.
    """
    values: dict[str, Any] = {}
    for key, text in read_texts(RESOURCES_FILE):
        if key not in VARIABLES:
            raise UsageError(f"{RESOURCES_FILE}: unknown key '{key}'.{nearest(str(key), VARIABLES)}")
        if key in values:
            raise UsageError(f"{RESOURCES_FILE}: '{key}' is there twice. Keep one of them.")
        if not isinstance(text, str):
            raise UsageError(f"{RESOURCES_FILE}: {key}: expected a single value.")
        values[key] = None if text.lower() in ("null", "~", "") else text
    given = {key: os.environ[name] for key, name in VARIABLES.items() if os.environ.get(name)}
    memory_of_task = given.pop("memory", None)
    values = dict.fromkeys(VARIABLES) | values | given

    # Said in full: a job that submits another one does not always have the environment of the first.
    options = [f"--{key}={values[key]}" for key in OPTIONS if values[key]]
    if of_core := os.environ.get("SBATCH_MEM_PER_CPU"):
        options.append(f"--mem-per-cpu={of_core}")
    elif memory_of_task:
        options.append(f"--mem={memory_of_task}")
    memory = None if of_core or memory_of_task else values["memory"]
    if memory:
        _times(memory, 1)  # a value that cannot be is refused here
    try:
        options += shlex.split(values["options"] or "")
    except ValueError as error:
        raise UsageError(f"options ({VARIABLES['options']}) {values['options']!r}: {error}.") from error
    width, cache_directory = values["width"], values["cache_directory"]
    if width and not (width.isdecimal() and int(width)):
        raise UsageError(f"width ({VARIABLES['width']}) must be a number from 1 on, not '{width}'.")
    if cache_directory and not cache_directory.startswith(("/", "~", "$")):
        raise UsageError(
            f"cache_directory ({VARIABLES['cache_directory']}) must be a whole path, not {cache_directory!r}."
        )
    return Resources(options, memory, int(width) if width else None, cache_directory)


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


def jobs_of_names(names: Sequence[str]) -> list[Job]:
    """The jobs with these names, each task of an array by itself; those that are over as long as Slurm remembers them.

    Raises:
        BaselineError: Slurm does not answer.
    """
    if not names:
        return []
    form = "--format=%j|%K|%F|%T|%r"  # name, number of the task, number of the job, state, reason
    said = _run(["squeue", "--noheader", "--array", "--states=all", f"--name={','.join(names)}", form])
    found = []
    for fields in (line.split("|", 4) for line in said.splitlines()):
        if len(fields) == 5:  # some clusters say more
            name, task, number, state, reason = (field.strip() for field in fields)
            found.append(Job(name, int(task) if task.isdecimal() else None, number, state, reason))
    return found


def requeue(job: str, task: str) -> None:
    """Have a task run again from its start, on this node or another.

    Raises:
        BaselineError: Slurm refuses it.
    """
    _run(["scontrol", "requeue", f"{job}_{task}"])


def most_tasks() -> int:
    """How many tasks a job array may have here.

    Raises:
        BaselineError: Slurm does not answer.
    """
    match = re.search(r"^MaxArraySize\s*=\s*(\d+)", _run(["scontrol", "show", "config"]), re.MULTILINE)
    return int(match[1]) if match else MOST_TASKS


def _run(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not NOT_TAKEN.fullmatch(name)}
    pipes = {"stdin": subprocess.DEVNULL, "capture_output": True, "text": True, "errors": "replace"}
    try:
        finished = subprocess.run(command, env=environment, **pipes)
    except OSError as error:
        raise BaselineError(
            f"{command[0]} cannot be run ({error.strerror}). Log in to the cluster, and call this there."
        ) from error
    except ValueError as error:  # a null byte
        raise BaselineError(f"{command[0]}: {error}. See {RESOURCES_FILE} and its variables.") from error
    if finished.returncode:
        said = (finished.stderr or finished.stdout).replace(f"{command[0]}: error: ", "").split()
        reason = " ".join(said).rstrip(".") or f"exit status {finished.returncode}"
        advice = f" See {RESOURCES_FILE} and its variables." if command[0] == "sbatch" else ""
        raise BaselineError(f"{command[0]}: {reason}.{advice}")
    return finished.stdout
