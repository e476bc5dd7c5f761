"""What runs on the nodes of a cluster: a task of a sweep, and at the end the job that summarizes.

    task.py train_and_test DIRECTORY       the models of task SLURM_ARRAY_TASK_ID of this submission, side by side
    task.py summarize DIRECTORY...         when all tasks of these have ended

A task that was interrupted goes on where it stopped: where its time runs out or one of its runs was killed, it asks
Slurm itself to start it again; after the failure of a node, or where a more urgent job took its place, Slurm does.
"""

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # found from any directory
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)  # too early; the end of the time will be noticed later

from config import ROOT, BaselineError
from files import alone, version_of, write_text
from tools.console import Interrupted, catch_signals, run_command
from tools.each_machine import Loop, Model, Runs, run_train
from tools.slurm.commands import RESOURCES_FILE, Resources, requeue
from tools.slurm.logs import AGAIN, ATTEMPT, GIVEN_UP
from tools.slurm.submission import Submission, submit, submit_summary
from tools.slurm.sweep import DONE, Sweep, runs_of

MOST_RESTARTS = 3  # of a task that does not get on between them
# Submissions of a model whose tasks end without a word, such as those that are killed with all that they run.
MOST_ROUNDS = 3


def train_and_test(directory: Path) -> int:
    """Train and test the models of a task.

    Returns:
        The exit status.

    Raises:
        Interrupted: a signal, but for that of the time limit.
    """
    submission, number = Submission.read(directory), int(os.environ["SLURM_ARRAY_TASK_ID"])
    models = [with_cache_of_node(planned.model, submission.resources) for planned in submission.tasks[number]]
    restarts, node = int(os.environ.get("SLURM_RESTART_COUNT", 0)), os.environ.get("SLURMD_NODENAME", "?")
    now = datetime.now().isoformat(" ", "seconds")
    print(f"{ATTEMPT}{', '.join(model.name for model in models)}: attempt {restarts + 1}, on {node}, {now}", flush=True)

    before = files_of_progress(models, submission)
    try:
        catch_signals(signal.SIGUSR1)
        status = run_models(models, submission)
        if status is not None:
            return status
        reason = "a run was killed"
    except Interrupted as stop:
        if stop.status != 128 + signal.SIGUSR1:
            raise
        reason = "the time limit is near"
    got_on = files_of_progress(models, submission) != before
    return start_again(reason, directory / f"task_{number}.tries", got_on)


def run_models(models: list[Model], submission: Submission) -> int | None:
    """Run train.py for each model, side by side.

    Returns:
        The exit status of the task; None where a run was killed.
    """
    runs = []
    for model in models:
        arguments = [run.as_arguments() for run in runs_of(model, submission.scores)]
        runs.append(Runs(model.name, model.paths.run_log, [run_train(each) for each in arguments]))
    loop = Loop(runs, jobs=len(models), may_differ=True)
    loop.run()
    statuses = [loop.statuses.get(model.name) for model in models]
    if any(status is None or status < 0 or status >= 128 for status in statuses):
        return None
    if loop.report_failures("task"):
        print(f"{GIVEN_UP}submit the sweep again when that is mended", flush=True)
        return 1
    return 0


def files_of_progress(models: list[Model], submission: Submission) -> list:
    """The versions of the files that are written when a model gets on: by an epoch, a finished training, a test."""
    paths = [replace(model.paths, config=run) for model in models for run in runs_of(model, submission.scores)]
    return [[version_of(path) for path in (each.checkpoint, each.config_record, each.test_record)] for each in paths]


def with_cache_of_node(model: Model, resources: Resources) -> Model:
    """The model with the features cached on this node's own disk, where the submission says so."""
    if not resources.cache_directory:
        return model
    directory = os.path.expandvars(os.path.expanduser(resources.cache_directory))  # noqa: PTH111, of a text with variables
    if not directory.startswith("/") or "$" in directory:
        print(f"warning: {directory} is no place on this node. Features are cached beside the clips.", flush=True)
        return model
    return replace(model, config=replace(model.config, cache_directory=Path(directory)))


def start_again(reason: str, tries: Path, got_on: bool) -> int:
    """Have Slurm start this task again, but for one that does not get on.

    Args:
        tries: file with the number of attempts until now that did not get on.
        got_on: whether this one did.
    """
    vain = 0 if got_on else 1 + (int(tries.read_text()) if tries.exists() else 0)
    if vain > MOST_RESTARTS:
        print(f"error: {reason}, {vain} times without finishing an epoch or a test. See {RESOURCES_FILE}.")
        print(f"{GIVEN_UP}it would not end", flush=True)
        return 1
    try:
        write_text(tries, f"{vain}\n")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Slurm ends what it will start again, and this ends anyway
        requeue(os.environ["SLURM_ARRAY_JOB_ID"], os.environ["SLURM_ARRAY_TASK_ID"])
        print(f"{reason}: {AGAIN}", flush=True)
    except BaselineError as error:  # the summarizing job sees to it
        print(f"error: {reason}, and: {error}", flush=True)
        return 1
    return 0


def summarize(directories: list[Path]) -> bool:
    """Submit again what was left undone without a word; where there is nothing like that, summarize.

    Returns:
        Whether all models are done, or submitted again.
    """
    submissions = [Submission.read(directory) for directory in directories]
    sweep, last = Sweep.of_submissions(submissions), submissions[-1]
    with alone(sweep.lock, "waiting for another command that submits this sweep"):
        progress = sweep.progress(sweep.jobs())
        lost = [key for key, each in progress.items() if each.is_lost]
        if lost and last.round < MOST_ROUNDS:
            n_jobs, n_tasks = len(last.tasks[0]), max(len(each.tasks) for each in submissions)
            try:
                again = sweep.plan(lost, n_jobs, last.resources, n_tasks, last.round + 1)
                job = submit_summary([*submissions, *again], submit(again))
                print(f"lost (killed, or their node failed): {' '.join(lost)}. Submitted again.", flush=True)
                print(f"the summary after that: job {job}", flush=True)
                return True
            except BaselineError as error:
                print(f"error: {len(lost)} models could not be submitted again. {error}", flush=True)
    undone = {key: each for key, each in progress.items() if each.state != DONE}
    for key, each in undone.items():
        print(f"{key}: {each.state}. {each.detail}", flush=True)
    return (sweep.config.train_only or write_summary(sweep)) and not undone


def write_summary(sweep: Sweep) -> bool:
    """Run 03 for all that is there, as it does where SEEDS does not choose; whether that was well."""
    arguments = [sweep.dataset.name, *sweep.config.as_arguments(leave_out=("dataset", "use_ids"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SEEDS": ""}
    command = [sys.executable, str(ROOT / "tools" / "summarize.py"), *arguments]
    # Of several that end together, with other tags, the last has seen the results of all.
    with alone(sweep.directory / ".summary.lock", "waiting for the summary of another sweep"):
        return subprocess.run(command, env=environment).returncode == 0


if __name__ == "__main__":
    step, *given = sys.argv[1:]
    if step == "train_and_test":
        try:
            sys.exit(train_and_test(Path(given[0])))
        except Interrupted as stop:
            print(f"ended by signal {stop.status - 128}", flush=True)
            sys.exit(stop.status)
        except BaselineError as error:
            print(f"error: {error}\n{GIVEN_UP}it cannot begin", flush=True)
            sys.exit(1)
    sys.exit(run_command(lambda: summarize([Path(each) for each in given])))
