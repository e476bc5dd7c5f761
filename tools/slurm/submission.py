"""What is handed to Slurm: submissions on disk, and the options and commands of their jobs.

A submission is a directory, <model_directory>/<export_dir>/<split>_data/<dataset>/slurm/<name>: sweep.json says which
models each task has and with which parameters, task_<number>.log is what a task said. The job array has the same name,
so that what Slurm says of its tasks can be told from the name alone: a command that is killed between submitting and
taking notes leaves nothing that nobody knows of.
"""

import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

from config import ROOT, BaselineError, RunPaths, load_config
from datasets.catalog import find_machine
from files import write_text
from tools.each_machine import Model
from tools.slurm.commands import Resources, sbatch

SECONDS_TO_STOP = 120  # before the time limit; Slurm may say so up to a minute earlier
TASK = ROOT / "tools" / "slurm" / "task.py"
SUMMARY = "_summary"  # what the name of a summarizing job ends with


@dataclass(frozen=True)
class PlannedModel:
    """A model in a task: all its parameters, as they were when it was submitted."""

    key: str  # see key_of
    name: str
    arguments: list[str]  # of train.py

    @cached_property
    def model(self) -> Model:
        """The model, as find_models gives it."""
        config = load_config(self.arguments)
        machine = find_machine(config.dataset, config.split)
        return Model(self.name, machine, machine.section_names(config.use_ids), config, self.arguments)


@dataclass(frozen=True)
class Submission:
    """One job array, as sweep.json has it."""

    directory: Path
    dataset: str
    scores: list[str]  # of the tests
    resources: Resources
    round: int  # 1; 2 for what was left undone by tasks of the first that ended without a word, and so on
    tasks: list[list[PlannedModel]]

    @property
    def name(self) -> str:
        return self.directory.name

    def log(self, task: int) -> Path:
        return self.directory / f"task_{task}.log"

    def write(self) -> None:
        """Write sweep.json.

        Raises:
            BaselineError: it cannot be written.
        """
        contents = {name: value for name, value in asdict(self).items() if name != "directory"}
        write_text(self.directory / "sweep.json", json.dumps(contents, indent=1) + "\n")

    @classmethod
    def read(cls, directory: Path) -> "Submission":
        """The submission in this directory.

        Raises:
            BaselineError: sweep.json is damaged, or not there.
        """
        path = directory / "sweep.json"
        try:
            contents = json.loads(path.read_text(encoding="utf-8"))
            contents["tasks"] = [[PlannedModel(**model) for model in task] for task in contents["tasks"]]
            contents["resources"] = Resources(**contents["resources"])
            submission = cls(directory=directory, **contents)
            for planned in (planned for task in submission.tasks for planned in task):
                if key_of(planned.model.paths) != planned.key:
                    raise ValueError(f"{planned.key} is not the place of {planned.name}")
            return submission
        except (OSError, ValueError, TypeError, LookupError, AttributeError, BaselineError) as error:
            raise BaselineError(
                f"{path} cannot be read ({error}). If squeue --name={directory.name} shows jobs, cancel them (scancel "
                f"--name={directory.name}); then remove its directory, and submit again."
            ) from error


def key_of(paths: RunPaths) -> str:
    """A model's place below those of its dataset: `seed13711_tag/fan_section_00`."""
    return f"{paths.model_dir.parent.name}/{paths.model_name}"


def submit(submissions: Sequence[Submission]) -> list[str]:
    """Submit job arrays.

    Returns:
        Their numbers.

    Raises:
        BaselineError: Slurm refuses one, or a file cannot be written; it says what has been submitted before.
    """
    jobs = []
    try:
        for submission in submissions:
            submission.write()
            jobs.append(sbatch(array_options(submission), task_command(submission)))
    except BaselineError as error:
        for submission in submissions[len(jobs) :]:
            shutil.rmtree(submission.directory, ignore_errors=True)
        if not jobs:
            raise
        raise BaselineError(f"{error} Submitted before, and left in the queue: {' '.join(jobs)}.") from error
    return jobs


def submit_summary(submissions: Sequence[Submission], jobs: Sequence[str]) -> str:
    """Submit the job that summarizes when all tasks of these job arrays have ended.

    Args:
        submissions: all that the summary is of; the last one's name and resources are taken.

    Returns:
        Its number.

    Raises:
        BaselineError: Slurm refuses it.
    """
    return sbatch(summary_options(submissions[-1], jobs), summary_command(submissions))


def array_options(submission: Submission) -> list[str]:
    """The options of sbatch for the job array."""
    width = f"%{submission.resources.width}" if submission.resources.width else ""
    return [
        f"--job-name={submission.name}",
        f"--array=0-{len(submission.tasks) - 1}{width}",
        f"--signal=B:USR1@{SECONDS_TO_STOP}",
        *_options_of_all_jobs(submission, "task_%a.log"),
        *submission.resources.of_job(len(submission.tasks[0])),
    ]


def summary_options(submission: Submission, jobs: Sequence[str]) -> list[str]:
    """The options of sbatch for the summarizing job. It asks for what a task of one model does."""
    return [
        f"--job-name={submission.name}{SUMMARY}",
        f"--dependency=afterany:{':'.join(jobs)}",
        *_options_of_all_jobs(submission, "summary.log"),
        *submission.resources.of_job(1),
    ]


def _options_of_all_jobs(submission: Submission, log: str) -> list[str]:
    directory = str(submission.directory).replace("%", "%%")  # a single one stands for numbers of jobs
    # --requeue: after the failure of a node, or where a more urgent job takes its place
    return [f"--output={directory}/{log}", "--open-mode=append", f"--chdir={ROOT}", "--requeue"]


def task_command(submission: Submission) -> list[str]:
    """What each task of the job array runs."""
    return [sys.executable, "-u", str(TASK), "train_and_test", str(submission.directory)]


def summary_command(submissions: Sequence[Submission]) -> list[str]:
    """What the summarizing job runs."""
    return [sys.executable, "-u", str(TASK), "summarize", *(str(each.directory) for each in submissions)]
