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

from config import ROOT, BaselineError
from files import alone, version_of
from tools.console import Interrupted, catch_signals, run_command
from tools.each_machine import Loop, Model, Runs, run_train
from tools.slurm import commands
from tools.slurm.commands import Resources
from tools.slurm.sweep import (
    ATTEMPT,
    DONE,
    FAILED,
    GIVEN_UP,
    Submission,
    Sweep,
    ended_without_a_word,
    runs_of,
    submit,
)

MOST_RESTARTS = 3  # of a task that does not get on between them
MOST_ROUNDS = (
    3  # submissions of a model whose tasks end without a word, such as those that are killed with all they run
)


def train_and_test(directory: Path) -> int:
    """Train and test the models of a task.

    Returns:
        The exit status.
    """
    catch_signals(signal.SIGUSR1)
    submission = Submission.read(directory)
    number, restarts = int(os.environ["SLURM_ARRAY_TASK_ID"]), int(os.environ.get("SLURM_RESTART_COUNT", 0))
    models = [with_cache_of_node(planned.model(), submission.resources) for planned in submission.tasks[number]]
    node, now = os.environ.get("SLURMD_NODENAME", "?"), datetime.now().isoformat(" ", "seconds")
    print(f"{ATTEMPT}{', '.join(model.name for model in models)}: attempt {restarts + 1}, on {node}, {now}", flush=True)

    commands_of = {
        model.name: [run_train(run.as_arguments()) for run in runs_of(model, submission.scores)] for model in models
    }
    loop = Loop(
        [Runs(model.name, model.paths.run_log, commands_of[model.name]) for model in models],
        len(models),
        may_differ=True,
    )
    checkpoints = [model.paths.checkpoint for model in models]
    before = [version_of(path) for path in checkpoints]
    try:
        loop.run()
        reason = "a run was killed"
    except Interrupted as stop:
        if stop.status != 128 + signal.SIGUSR1:
            raise
        reason = "the time limit is near"
    statuses = [loop.statuses.get(model.name) for model in models]
    if any(status is None or status < 0 or status >= 128 for status in statuses):
        return start_again(reason, restarts, [version_of(path) for path in checkpoints] != before)
    if loop.report_failures("task"):
        print(f"{GIVEN_UP}submit the sweep again when that is mended", flush=True)
        return 1
    return 0


def with_cache_of_node(model: Model, resources: Resources) -> Model:
    """The model with the features cached on this node's own disk, where the submission says so."""
    if not resources.cache_directory:
        return model
    directory = Path(os.path.expandvars(resources.cache_directory))
    return replace(model, config=replace(model.config, cache_directory=directory))


def start_again(reason: str, restarts: int, got_on: bool) -> int:
    """Have Slurm start this task again, but for one that does not get on.

    Args:
        got_on: whether an epoch was finished in this attempt.
    """
    if not got_on and restarts >= MOST_RESTARTS:
        print(f"error: {reason}, and no epoch was finished. See time and memory in {commands.RESOURCES_FILE}.")
        print(f"{GIVEN_UP}after {restarts + 1} attempts", flush=True)
        return 1
    print(f"{reason}: to be started again", flush=True)
    try:
        commands.requeue(os.environ["SLURM_ARRAY_JOB_ID"], os.environ["SLURM_ARRAY_TASK_ID"])
    except BaselineError as error:  # the summarizing job sees to it
        print(f"error: {error}", flush=True)
        return 1
    return 0


def summarize(directories: list[Path]) -> bool:
    """Submit again what was left undone without a word; where there is nothing like that, summarize.

    Returns:
        Whether all models are done.
    """
    submissions = [Submission.read(directory) for directory in directories]
    sweep, last = Sweep.of_submissions(submissions), submissions[-1]
    with alone(sweep.lock, "waiting for another command that submits this sweep"):
        progress = sweep.progress()
        lost = [key for key, each in progress.items() if each.state == FAILED and ended_without_a_word(each.log)]
        if lost and last.round < MOST_ROUNDS:
            print(f"{len(lost)} models are neither done nor given up: submitted again", flush=True)
            n_jobs, n_tasks = len(last.tasks[0]), max(len(each.tasks) for each in submissions)
            submit(sweep.plan(lost, n_jobs, last.resources, n_tasks, last.round + 1), submissions)
            return True
    arguments = [last.dataset, *sweep.config.as_arguments(leave_out=("dataset", "use_ids"))]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "SEEDS": " ".join(map(str, last.seeds))}
    command = [sys.executable, str(ROOT / "tools" / "summarize.py"), *arguments]
    # Of several that end together, with other tags, the last has seen the results of all.
    with alone(sweep.directory / ".summary.lock", "waiting for the summary of another sweep"):
        status = subprocess.run(command, env=environment).returncode
    undone = {key: each for key, each in progress.items() if each.state != DONE}
    for key, each in undone.items():
        print(f"{key}: {each.state}. {each.detail}", flush=True)
    return status == 0 and not undone


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
