"""A sweep: its models, and how far they are."""

import os
import secrets
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from config import FIELDS, TRAINING_KEYS, BaselineError, Config
from datasets.catalog import Dataset, find_dataset
from datasets.clips import Clip, find_clips
from tools.each_machine import Model
from tools.records import read_record
from tools.results import is_tested
from tools.slurm.commands import Job, Resources, jobs_of_names
from tools.slurm.logs import ended_without_a_word, last_epoch, last_error
from tools.slurm.submission import SUMMARY, PlannedModel, Submission, key_of

DONE, RUNNING, QUEUED, FAILED, MISSING = STATES = ("done", "running", "queued", "failed", "missing")
USUAL_REASONS = ("None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit")  # to wait
# Parameters that a training and its tests do not depend on. The score is that of each test.
OF_NO_MATTER = (
    *("log_interval", "use_cuda", "gpu_id", "is_auto_download", "download_url", "cache_directory"),
    *("restart", "or_anew", "score"),
)
OF_MATTER = tuple(name for name in FIELDS if name not in OF_NO_MATTER)


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

    @property
    def is_lost(self) -> bool:
        """Whether its task has ended without a word."""
        return self.state == FAILED and ended_without_a_word(self.log, self.job and self.job.state)


class Sweep:
    """Models of a dataset, with the same directories, and what has been submitted of them.

    Attributes:
        models: key → model, see key_of.
        directory: of the submissions.
    """

    def __init__(self, dataset: Dataset, models: Sequence[Model], scores: Sequence[str]):
        self.dataset, self.scores = dataset, list(scores)
        self.models = {key_of(model.paths): model for model in models}
        self.config = models[0].config
        self.directory = models[0].paths.model_dir.parents[1] / "slurm"
        self._test_clips: dict[tuple[str, tuple[str, ...]], Sequence[Clip]] = {}

    @classmethod
    def of_submissions(cls, submissions: Sequence[Submission]) -> "Sweep":
        """The models of submissions of one sweep, of which a later one may have those of an earlier one again."""
        planned = {model.key: model for each in submissions for task in each.tasks for model in task}
        models = [each.model for each in planned.values()]
        return cls(find_dataset(submissions[0].dataset), models, submissions[0].scores)

    @property
    def lock(self) -> Path:
        """Held while tasks are submitted."""
        return self.directory / ".lock"

    @cached_property
    def submissions(self) -> list[Submission]:
        """What has been submitted of this dataset, in other sweeps too; the oldest first. It is read once.

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
        names = [submission.name for submission in self.submissions]
        return jobs_of_names([*names, *(f"{name}{SUMMARY}" for name in names)])

    def progress(self, jobs: Sequence[Job]) -> dict[str, Progress]:
        """Key → how far that model is, of all models.

        Args:
            jobs: what Slurm knew before: a task that ends meanwhile is found to be done.
        """
        of_task = {(job.name, job.task): job for job in jobs}
        found = {key: Progress(DONE if self.is_done(model) else MISSING) for key, model in self.models.items()}
        for submission in self.submissions:  # a later one goes before an earlier one that is over
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
            epoch = last_epoch(planned.model.paths.model_dir / "train.log")
            return Progress(RUNNING, epoch and f"epoch {epoch}", log, job, differing)
        if job and job.is_waiting:
            return Progress(QUEUED, "" if job.reason in USUAL_REASONS else job.reason, log, job, differing)
        if log.exists() and not differing:
            names = [each.name for each in submission.tasks[number]]
            return Progress(FAILED, last_error(log, planned.name, names), log, job)
        return Progress(MISSING)

    def _differing(self, submission: Submission, planned: PlannedModel) -> str:
        """With which other parameters or tests a model was submitted than are asked for now."""
        then = planned.model.config.as_dict(OF_MATTER)
        now = self.models[planned.key].config.as_dict(OF_MATTER)
        words = _differences(then, now)
        if submission.scores != self.scores:
            words.append(f"tests of {' '.join(submission.scores)} (asked for: {' '.join(self.scores)})")
        return ", ".join(words)

    def belongs_to(self, submission: Submission) -> bool:
        """Whether a submission has models of this sweep."""
        return any(planned.key in self.models for task in submission.tasks for planned in task)

    def trained_otherwise(self, key: str) -> str:
        """With which other parameters a model that is there was trained; empty where there is none like that."""
        try:
            record = read_record(self.models[key].paths) or {}
        except BaselineError:
            return ""
        wanted = self.models[key].config.as_dict((*TRAINING_KEYS, "epochs"))
        return ", ".join(_differences({name: record[name] for name in wanted if name in record}, wanted))

    def is_done(self, model: Model) -> bool:
        """Whether a model is trained with its parameters, and tested with all scores, as far as the files tell.

        Training clips are not looked at, for they are thousands. A task does, and trains anew where they have changed.
        """
        try:
            record = read_record(model.paths) or {}
            weights = record["model_sha256"]
            if not (model.paths.model.exists() and (model.config.test_only or _is_trained_with(record, model))):
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
        self, keys: Sequence[str], jobs: int, resources: Resources, most_tasks: int, round_: int = 1
    ) -> list[Submission]:
        """Submissions for these models, `jobs` of them in a task.

        Args:
            most_tasks: how many an array may have.

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
                resources=resources,
                round=round_,
                tasks=tasks[start : start + most_tasks],
            )
            for start in range(0, len(tasks), most_tasks)
        ]


def tests_of(model: Model, scores: Sequence[str]) -> list[Config]:
    """The tests of a model, as 02a and 02b run them."""
    if model.config.train_only or not model.machine.is_tested:
        return []
    return [replace(model.config, test_only=True, restart=False, or_anew=False, score=score) for score in scores]


def runs_of(model: Model, scores: Sequence[str]) -> list[Config]:
    """All runs of train.py for a model: the training, as 01 runs it with --restart --or_anew, and its tests.

    Another run needs its place in Sweep.is_done, too, and in files_of_progress of task.py.
    """
    training = replace(model.config, train_only=True, restart=True, or_anew=True)
    return ([] if model.config.test_only else [training]) + tests_of(model, scores)


def _differences(then: dict[str, Any], now: dict[str, Any]) -> list[str]:
    return [f"--{name} {value} (asked for: {now[name]})" for name, value in then.items() if value != now[name]]


def _is_trained_with(record: dict[str, Any], model: Model) -> bool:
    """Whether the record of a training is of just the parameters of this model."""
    config, machine = model.config, model.machine
    trained = replace(config, mono=record["mono"])
    return (
        all(record[key] == value for key, value in config.as_dict((*TRAINING_KEYS, "epochs")).items())
        and machine.channels(trained) == machine.channels(config)
        and machine.section_names(tuple(record["use_ids"])) == model.sections
    )
