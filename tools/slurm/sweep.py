"""A sweep: its models, which of them are done, and the submissions that are to do the others.

A submission is a directory, <model_directory>/<export_dir>/<split>_data/<dataset>/slurm/<name>: sweep.json says which
models each task has and with which parameters, task_<number>.log is what a task said. The job array has the same name,
so that what Slurm says of its tasks can be told from the name alone: a command that is killed between submitting and
taking notes leaves nothing that nobody knows of.
"""

import json
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from config import ROOT, TRAINING_KEYS, BaselineError, Config, RunPaths, load_config
from datasets.catalog import Dataset, find_dataset, find_machine
from datasets.clips import Clip, find_clips
from files import write_text
from tools.each_machine import Model
from tools.records import read_record
from tools.results import is_tested
from tools.slurm import commands
from tools.slurm.commands import QueuedTask, Resources

DONE, RUNNING, QUEUED, FAILED, MISSING = STATES = ("done", "running", "queued", "failed", "missing")
SECONDS_TO_STOP = 120  # before the time limit; Slurm may be a minute late to say so
TASK = ROOT / "tools" / "slurm" / "task.py"
TAIL = 100_000  # bytes of a log that are looked at
ATTEMPT = "==> "  # what a task's first line begins with
GIVEN_UP = "given up: "  # and its last one, where another attempt would fail, too
# What Slurm writes into the log of a task that somebody has cancelled; of other reasons (a time limit) it says more.
CANCELLED = re.compile(r"CANCELLED AT \S+ \*\*\*")
EPOCH = re.compile(r" epoch (\d+/\d+),")


@dataclass(frozen=True)
class PlannedModel:
    """A model in a task: all its parameters, as they were when it was submitted."""

    key: str  # see key_of
    name: str
    arguments: list[str]  # of train.py

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
    seeds: list[int]  # that the summary is of; none: of all that are there
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
            return cls(directory=directory, **contents)
        except (OSError, ValueError, TypeError, LookupError) as error:
            raise BaselineError(f"{path} cannot be read ({error}). Remove its directory, and submit again.") from error


@dataclass(frozen=True)
class Progress:
    """How far a model is."""

    state: str  # one of STATES
    detail: str = ""  # epochs, why it waits, or the last error
    log: Path | None = None  # of its last task
    planned: PlannedModel | None = None  # as it is in the queue
    job: str = ""  # in the queue, such as 1234_5


class Sweep:
    """Models of a dataset, with the same directories, and what has been submitted of them.

    Attributes:
        directory: of the submissions.
    """

    def __init__(self, dataset: Dataset, models: Sequence[Model], scores: Sequence[str], seeds: Sequence[int]):
        self.dataset, self.models, self.scores, self.seeds = dataset, models, list(scores), list(seeds)
        self.config = models[0].config
        self.directory = models[0].paths.model_dir.parents[1] / "slurm"
        self._test_clips: dict[tuple[str, tuple[str, ...]], Sequence[Clip]] = {}

    @classmethod
    def of_submissions(cls, submissions: Sequence[Submission]) -> "Sweep":
        """The models of these submissions, of which a later one may have those of an earlier one again."""
        planned = {model.key: model for each in submissions for task in each.tasks for model in task}
        models = [each.model() for each in planned.values()]
        return cls(find_dataset(submissions[0].dataset), models, submissions[0].scores, submissions[0].seeds)

    @property
    def lock(self) -> Path:
        """Held while tasks are submitted."""
        return self.directory / ".lock"

    def submissions(self) -> list[Submission]:
        """What has been submitted, the oldest first.

        Raises:
            BaselineError: one cannot be read.
        """
        paths = sorted(self.directory.glob("*/sweep.json"), key=lambda path: path.stat().st_mtime)
        return [Submission.read(path.parent) for path in paths]

    def progress(self, ask_slurm: bool = True) -> dict[str, Progress]:
        """Key → how far that model is, of all models.

        Args:
            ask_slurm: whether it can be asked what is in the queue.

        Raises:
            BaselineError: Slurm does not answer.
        """
        undone = {key_of(model.paths): model for model in self.models if not self.is_done(model)}
        submitted = [
            (submission, number, planned)
            for submission in self.submissions()
            for number, task in enumerate(submission.tasks)
            for planned in task
            if planned.key in undone
        ]
        names = dict.fromkeys(submission.name for submission, *_ in submitted)
        queue = commands.queue(list(names)) if ask_slurm else {}
        found = {key_of(model.paths): Progress(DONE) for model in self.models} | dict.fromkeys(
            undone, Progress(MISSING)
        )
        for submission, number, planned in submitted:  # a later one goes before an earlier one that is over
            task, log = queue.get((submission.name, number)), submission.log(number)
            if task:
                found[planned.key] = _of_queued(task, number, undone[planned.key].paths, log, planned)
            elif found[planned.key].state in (FAILED, MISSING) and log.exists():
                names_in_task = [each.name for each in submission.tasks[number]]
                found[planned.key] = Progress(FAILED, last_error(log, planned.name, names_in_task), log)
        return found

    def is_done(self, model: Model) -> bool:
        """Whether a model is trained with its parameters, and tested with all scores, as far as the files tell.

        Training clips are not looked at, for they are thousands. A task does, and trains anew where they have changed.
        """
        try:
            record = read_record(model.paths) or {}
            weights = record["model_sha256"]
            if not (model.paths.model.exists() and (model.config.test_only or _is_of(record, model))):
                return False
        except (BaselineError, LookupError, TypeError, ValueError):
            return False
        paths = [replace(model.paths, config=test) for test in tests_of(model, self.scores)]
        return all(is_tested(each, self._clips_of(model), weights) for each in paths)

    def _clips_of(self, model: Model) -> Sequence[Clip]:
        key = model.machine.name, model.sections
        if key not in self._test_clips:
            try:
                clips = find_clips(model.machine, model.config.dataset_directory, "test", model.sections)
            except BaselineError:  # results outlive their clips
                clips = []
            self._test_clips[key] = clips
        return self._test_clips[key]

    def plan(
        self, keys: Sequence[str], jobs: int, resources: Resources, largest: int, round_: int = 1
    ) -> list[Submission]:
        """Submissions for these models, `jobs` of them in a task.

        Args:
            largest: how many tasks an array may have.
        """
        chosen = [model for model in self.models if key_of(model.paths) in set(keys)]
        planned = [PlannedModel(key_of(m.paths), m.name, m.config.as_arguments()) for m in chosen]
        tasks = [planned[start : start + jobs] for start in range(0, len(planned), jobs)]
        prefix = f"{self.dataset.name}_{self.config.split}"
        return [
            Submission(
                directory=self.directory / f"{prefix}_{secrets.token_hex(4)}",
                dataset=self.dataset.name,
                scores=self.scores,
                seeds=self.seeds,
                resources=resources,
                round=round_,
                tasks=tasks[start : start + largest],
            )
            for start in range(0, len(tasks), largest)
        ]


def key_of(paths: RunPaths) -> str:
    """A model's place below those of its dataset: `seed13711_tag/fan_section_00`."""
    return f"{paths.model_dir.parent.name}/{paths.model_name}"


def tests_of(model: Model, scores: Sequence[str]) -> list[Config]:
    """The tests of a model, as 02a and 02b run them."""
    if model.config.train_only or not model.machine.is_tested:
        return []
    return [replace(model.config, test_only=True, restart=False, score=score) for score in scores]


def runs_of(model: Model, scores: Sequence[str]) -> list[Config]:
    """All runs of train.py for a model: the training, as 01 runs it with --restart, and its tests."""
    training = [] if model.config.test_only else [replace(model.config, train_only=True, restart=True)]
    return training + tests_of(model, scores)


def _is_of(record: dict, model: Model) -> bool:
    """Whether the record of a training is of just these parameters."""
    config, machine = model.config, model.machine
    trained = replace(config, mono=record["mono"])
    return (
        all(record[key] == value for key, value in config.as_dict((*TRAINING_KEYS, "epochs")).items())
        and machine.channels(trained) == machine.channels(config)
        and machine.section_names(tuple(record["use_ids"])) == model.sections
    )


def _of_queued(task: QueuedTask, number: int, paths: RunPaths, log: Path, planned: PlannedModel) -> Progress:
    detail = task.reason if "held" in task.reason.lower() else ""
    if task.is_running:
        epochs = EPOCH.findall(_tail(paths.model_dir / "train.log"))
        detail = f"epoch {epochs[-1]}" if epochs else ""
    return Progress(RUNNING if task.is_running else QUEUED, detail, log, planned, f"{task.job}_{number}")


def last_error(log: Path, name: str, names: Sequence[str]) -> str:
    """What the last attempt of a task has said last of an error in this model, or in the task itself.

    Args:
        names: of all models in the task.
    """
    lines = [line.removeprefix("error: ") for line in _last_attempt(log) if "error" in line.lower()]
    own = [line for line in lines if line.split(": ")[0] not in set(names) - {name}]
    return own[-1].removeprefix(f"{name}: ") if own else "it ended without a word"


def ended_without_a_word(log: Path) -> bool:
    """Whether a task that has ended was begun, and has neither given up by itself nor been cancelled by somebody."""
    lines = _last_attempt(log)
    return bool(lines) and not any(line.startswith(GIVEN_UP) or CANCELLED.search(line) for line in lines)


def _last_attempt(log: Path) -> list[str]:
    return _tail(log).rpartition(ATTEMPT)[2].splitlines()


def _tail(path: Path) -> str:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - TAIL))
            return file.read().decode(errors="replace")
    except OSError:
        return ""


def submit(submissions: Sequence[Submission], earlier: Sequence[Submission] = ()) -> tuple[list[str], str]:
    """Submit job arrays, and a job that summarizes when all of their tasks have ended.

    Args:
        earlier: submissions that are over, and belong to the same summary.

    Returns:
        The numbers of the arrays, and of the summarizing job.

    Raises:
        BaselineError: Slurm refuses one, or a file cannot be written; it says what has been submitted before.
    """
    jobs = []
    try:
        for submission in submissions:
            submission.write()
            jobs.append(commands.sbatch(array_options(submission), task_command(submission)))
        return jobs, commands.sbatch(summary_options(submissions, jobs), summary_command([*earlier, *submissions]))
    except BaselineError as error:
        for submission in submissions[len(jobs) :]:
            shutil.rmtree(submission.directory, ignore_errors=True)
        before = f" Submitted before, and left in the queue: {' '.join(jobs)}." if jobs else ""
        raise BaselineError(f"{error}{before}") from error


def array_options(submission: Submission) -> list[str]:
    """The options of sbatch for the job array."""
    width = f"%{submission.resources.width}" if submission.resources.width else ""
    return [
        f"--job-name={submission.name}",
        f"--array=0-{len(submission.tasks) - 1}{width}",
        f"--signal=B:USR1@{SECONDS_TO_STOP}",
        *_options_of_all_jobs(submission, "task_%a.log"),
    ]


def summary_options(submissions: Sequence[Submission], jobs: Sequence[str]) -> list[str]:
    """The options of sbatch for the summarizing job. It asks for what a task does, which is known to be granted."""
    return [
        f"--job-name={submissions[0].name}_summary",
        f"--dependency=afterany:{':'.join(jobs)}",
        *_options_of_all_jobs(submissions[0], "summary.log"),
    ]


def _options_of_all_jobs(submission: Submission, log: str) -> list[str]:
    directory = str(submission.directory).replace("%", "%%")  # a single one stands for numbers of jobs
    return [
        f"--output={directory}/{log}",
        "--open-mode=append",
        f"--chdir={ROOT}",
        "--requeue",  # after the failure of a node, or where a more urgent job takes its place
        *submission.resources.options,
    ]


def task_command(submission: Submission) -> list[str]:
    """What each task of the job array runs."""
    return [sys.executable, "-u", str(TASK), "train_and_test", str(submission.directory)]


def summary_command(submissions: Sequence[Submission]) -> list[str]:
    """What the summarizing job runs."""
    return [sys.executable, "-u", str(TASK), "summarize", *(str(each.directory) for each in submissions)]
