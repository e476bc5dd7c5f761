"""A sweep: its models, which of them are done, and the submissions that are to do the others.

A submission is a directory, <model_directory>/<export_dir>/<split>_data/<dataset>/slurm/<name>: sweep.json says which
models each task has and with which parameters, task_<number>.log is what a task said. The job array has the same name,
so that what Slurm says of its tasks can be told from the name alone: a command that is killed between submitting and
taking notes leaves nothing that nobody knows of.
"""

import json
import os
import re
import secrets
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from config import FIELDS, ROOT, TRAINING_KEYS, BaselineError, Config, RunPaths, load_config
from datasets.catalog import Dataset, find_dataset, find_machine
from datasets.clips import Clip, find_clips
from files import write_text
from tools.each_machine import Model
from tools.records import read_record
from tools.results import is_tested
from tools.slurm import commands
from tools.slurm.commands import Job, Resources

DONE, RUNNING, QUEUED, FAILED, MISSING = STATES = ("done", "running", "queued", "failed", "missing")
USUAL_REASONS = ("None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit")  # to wait
SUMMARY = "_summary"  # what the name of a summarizing job ends with
SECONDS_TO_STOP = 120  # before the time limit; Slurm may be a minute late to say so
TASK = ROOT / "tools" / "slurm" / "task.py"
TAIL = 100_000  # bytes of a log that are looked at
ATTEMPT = "==> "  # what a task's first line begins with
AGAIN = "to be started again"  # what it ends with where it is requeued
GIVEN_UP = "given up: "  # what its last line begins with where another attempt would fail, too
# What Slurm writes into the log of a task that somebody has cancelled; of other reasons (a time limit) it says more.
CANCELLED = re.compile(r"CANCELLED AT \S+ \*\*\*")
ERROR = re.compile(r"(error: |slurm\S*: error: |[A-Za-z]*Error\b)")
EPOCH = re.compile(r" epoch (\d+/\d+),")
# Parameters that a training and its tests do not depend on. The score is that of each test.
OF_NO_MATTER = (
    *("log_interval", "use_cuda", "gpu_id", "is_auto_download", "download_url", "cache_directory"),
    *("restart", "or_anew", "score"),
)
OF_MATTER = tuple(name for name in FIELDS if name not in OF_NO_MATTER)


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
            submission = cls(directory=directory, **contents)
            for planned in (planned for task in submission.tasks for planned in task):
                if key_of(planned.model().paths) != planned.key:
                    raise ValueError(f"{planned.key} is not the place of {planned.name}")
            return submission
        except (OSError, ValueError, TypeError, LookupError, AttributeError, BaselineError) as error:
            raise BaselineError(
                f"{path} cannot be read ({error}). If squeue --name={directory.name} shows jobs, cancel them (scancel "
                f"--name={directory.name}); then remove its directory, and submit again."
            ) from error


@dataclass(frozen=True)
class Progress:
    """How far a model is."""

    state: str  # one of STATES
    detail: str = ""  # epochs, why it waits, or the last error
    log: Path | None = None  # of its last task
    job: Job | None = None  # the task that Slurm knows of
    differing: str = ""  # in the queue, but with other parameters or tests: which

    @property
    def is_in_queue(self) -> bool:
        return self.job is not None and (self.job.is_waiting or self.job.is_running)


class Sweep:
    """Models of a dataset, with the same directories, and what has been submitted of them.

    Attributes:
        models: key → model, see key_of.
        directory: of the submissions.
    """

    def __init__(self, dataset: Dataset, models: Sequence[Model], scores: Sequence[str], seeds: Sequence[int]):
        self.dataset, self.scores, self.seeds = dataset, list(scores), list(seeds)
        self.models = {key_of(model.paths): model for model in models}
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
        try:
            paths = [Path(entry.path, "sweep.json") for entry in os.scandir(self.directory) if entry.is_dir()]
            found = {path: path.stat().st_mtime for path in paths if path.exists()}
        except FileNotFoundError:
            return []
        except OSError as error:
            raise BaselineError(f"{error.filename} cannot be read: {error.strerror}. Mend its permissions.") from error
        return [Submission.read(path.parent) for path in sorted(found, key=found.__getitem__)]

    def jobs(self) -> list[Job]:
        """What Slurm knows of the submissions' arrays and summarizing jobs.

        Raises:
            BaselineError: Slurm does not answer.
        """
        names = [submission.name for submission in self.submissions()]
        return commands.jobs_of_names([*names, *(f"{name}{SUMMARY}" for name in names)])

    def progress(self, jobs: Sequence[Job]) -> dict[str, Progress]:
        """Key → how far that model is, of all models.

        Args:
            jobs: what Slurm knew before: a task that ends meanwhile is found to be done.
        """
        of_task = {(job.name, job.task): job for job in jobs}
        found = {key: Progress(DONE if self.is_done(model) else MISSING) for key, model in self.models.items()}
        for submission in self.submissions():  # a later one goes before an earlier one that is over
            for number, task in enumerate(submission.tasks):
                for planned in (planned for planned in task if planned.key in self.models):
                    now = self._of_task(submission, number, planned, of_task.get((submission.name, number)))
                    before = found[planned.key]
                    if before.state == DONE and now.is_in_queue:  # by --all, or with other models
                        found[planned.key] = replace(now, state=DONE)
                    elif before.state != DONE and not before.is_in_queue and now.state != MISSING:
                        found[planned.key] = now
        return found

    def _of_task(self, submission: Submission, number: int, planned: PlannedModel, job: Job | None) -> Progress:
        """How far a model is as far as one task tells."""
        log, differing = submission.log(number), self._differing(submission, planned)
        if job and job.is_running:
            epochs = EPOCH.findall(_tail(planned.model().paths.model_dir / "train.log"))
            return Progress(RUNNING, f"epoch {epochs[-1]}" if epochs else "", log, job, differing)
        if job and job.is_waiting:
            return Progress(QUEUED, "" if job.reason in USUAL_REASONS else job.reason, log, job, differing)
        if log.exists() and not differing:
            names = [each.name for each in submission.tasks[number]]
            return Progress(FAILED, last_error(log, planned.name, names), log, job)
        return Progress(MISSING)

    def _differing(self, submission: Submission, planned: PlannedModel) -> str:
        """With which other parameters or tests a model was submitted than are asked for now."""
        then = planned.model().config.as_dict(OF_MATTER)
        now = self.models[planned.key].config.as_dict(OF_MATTER)
        words = [f"--{name} {value} (now {now[name]})" for name, value in then.items() if value != now[name]]
        if submission.scores != self.scores:
            words.append(f"tests of {' '.join(submission.scores)} (now {' '.join(self.scores)})")
        return ", ".join(words)

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

        Raises:
            BaselineError: Slurm could not write the logs.
        """
        chosen = [(key, self.models[key]) for key in keys]
        planned = [PlannedModel(key, model.name, model.config.as_arguments()) for key, model in chosen]
        tasks = [planned[start : start + jobs] for start in range(0, len(planned), jobs)]
        prefix = f"{self.dataset.name}_{self.config.split}"
        if "\\" in str(self.directory):
            raise BaselineError(
                f"{self.directory}: Slurm cannot write into directories with a backslash in their names."
            )
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
    return [replace(model.config, test_only=True, restart=False, or_anew=False, score=score) for score in scores]


def runs_of(model: Model, scores: Sequence[str]) -> list[Config]:
    """All runs of train.py for a model: the training, as 01 runs it with --restart --or_anew, and its tests."""
    training = replace(model.config, train_only=True, restart=True, or_anew=True)
    return ([] if model.config.test_only else [training]) + tests_of(model, scores)


def _is_of(record: dict, model: Model) -> bool:
    """Whether the record of a training is of just these parameters."""
    config, machine = model.config, model.machine
    trained = replace(config, mono=record["mono"])
    return (
        all(record[key] == value for key, value in config.as_dict((*TRAINING_KEYS, "epochs")).items())
        and machine.channels(trained) == machine.channels(config)
        and machine.section_names(tuple(record["use_ids"])) == model.sections
    )


def last_error(log: Path, name: str, names: Sequence[str]) -> str:
    """What the last attempt of a task has said last of an error in this model, or in the task itself.

    Args:
        names: of all models in the task.
    """
    said = [line for line in _last_attempt(log) if line.strip()]
    lines = [line.removeprefix("error: ") for line in said if ERROR.match(line)]
    own = [line for line in lines if line.split(": ")[0] not in set(names) - {name}]
    if own:
        return own[-1].removeprefix(f"{name}: ")
    return "it ended without a word" + (f" after: {said[-1].strip()}" if said else "")


def ended_without_a_word(progress: Progress) -> bool:
    """Whether a task that has ended undone has neither given up by itself nor been cancelled by somebody."""
    lines = _last_attempt(progress.log)
    if any(line.startswith(GIVEN_UP) for line in lines):
        return False
    if progress.job:  # Slurm still knows
        return progress.job.state != "CANCELLED"
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
            jobs.append(commands.sbatch(array_options(submission), task_command(submission)))
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
    return commands.sbatch(summary_options(submissions[-1], jobs), summary_command(submissions))


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
