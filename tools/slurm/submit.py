"""A sweep on a Slurm cluster: tools/slurm_sweep.sh DATASET -d|-e [options]. See docs/cluster.md."""

import os
import shlex
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # found from any directory

from tabulate import tabulate

from config import ROOT, BaselineError, UsageError, seeds_of_environment
from datasets.catalog import find_dataset
from datasets.clips import find_clips
from files import alone, make_writable_directory
from tools.console import log, open_console, run_command
from tools.each_machine import DEV, EVAL, Model, find_models, jobs_of_environment
from tools.slurm.commands import (
    MAX_ARRAY_SIZE,
    RESOURCES_FILE,
    NoSlurmError,
    max_array_size,
    read_resources,
    sbatch_command,
)
from tools.slurm.sweep import (
    DONE,
    FAILED,
    MISSING,
    QUEUED,
    RUNNING,
    STATES,
    Progress,
    Submission,
    Sweep,
    array_options,
    key_of,
    runs_of,
    submit,
    summary_command,
    summary_options,
    task_command,
)

SCORES = ("MSE", "MAHALA")  # of 02a and 02b
FLAGS = ("--status", "--dry-run", "--all")


def usage(script: str) -> str:
    """What the command says of itself."""
    return f"""\
usage: {script} DATASET -d|--dev|-e|--eval [--status | --dry-run | --all] [options of train.py, such as --epochs 5]
Trains and tests each machine type, section and seed of a dataset on a Slurm cluster, then summarizes. What is done, in
the queue or running is left as it is: the same command again submits what is missing. See {ROOT / "docs/cluster.md"}.
  -d, --dev   development dataset      -e, --eval   evaluation dataset
  --status    how far each model is; submits nothing
  --dry-run   what would be submitted
  --all       submit finished models, too: their tasks look whether training clips have changed
SEEDS="1 2 3" {script} ... does all of it with each of these seeds; the table then gives mean ± standard deviation.
JOBS=4 {script} ... trains four models side by side in a task, a core each, or on one GPU; one if not given.
Account, partition, time, memory, GPU, how many tasks at a time: {RESOURCES_FILE} and the environment."""


def read_sweep(arguments: Sequence[str]) -> Sweep:
    """The sweep that the command line asks for.

    Args:
        arguments: dataset, split, options of train.py.

    Raises:
        UsageError: something in it is wrong.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("name a dataset first, such as DCASE2024T2.")
    dataset, options = find_dataset(arguments[0]), list(arguments[1:])
    if not options or options[0] not in (*DEV, *EVAL):
        raise UsageError(f"after the dataset comes -d or -e{f', not {options[0]!r}' if options else ''}.")
    names = [option.split("=")[0] for option in options]
    for option, name in zip(options, names, strict=True):
        if name == "--seed" and os.environ.get("SEEDS"):
            raise UsageError(f"{option}: the environment has SEEDS={os.environ['SEEDS']!r}. Give one of them.")
        if name in ("--dataset", "--checkpoint_path"):
            raise UsageError(f"{name}: a sweep is of all machine types. For one: train.py {option} ...")
    seeds = seeds_of_environment()
    options = [option for option in options if option != "--restart"]  # goes without saying
    models = find_models(dataset, "dev" if options[0] in DEV else "eval", options, seeds)
    return Sweep(dataset, models, [models[0].config.score] if "--score" in names else SCORES, seeds)


def counts(sweep: Sweep, progress: dict[str, Progress]) -> str:
    """How many models are in which state."""
    number = Counter(each.state for each in progress.values())
    said = ", ".join(f"{number[state]} {state}" for state in STATES if number[state])
    return f"{sweep.dataset.name} {sweep.config.split}, {len(progress)} models: {said}"


def table(sweep: Sweep, progress: dict[str, Progress]) -> str:
    """The state of each machine type (and section) and seed; then what went wrong."""
    seeds = list(dict.fromkeys(model.config.seed for model in sweep.models))
    cells: dict[str, dict[int, str]] = {}
    failures = []
    for model in sweep.models:
        each = progress[key_of(model.paths)]
        shown = f"{each.state}, {each.detail}" if each.detail and each.state in (RUNNING, QUEUED) else each.state
        cells.setdefault(model.paths.model_name, {})[model.config.seed] = shown
        if each.state == FAILED:
            failures.append(f"{model.name} failed: {each.detail}\n  log: {each.log}")
    rows = [[name, *(of_seeds[seed] for seed in seeds)] for name, of_seeds in cells.items()]
    text = tabulate(rows, ["", *(f"seed {seed}" for seed in seeds)], disable_numparse=True)
    return "\n".join([text, *failures])


def choose(sweep: Sweep, progress: dict[str, Progress], everything: bool) -> list[str]:
    """The models to submit: those that are not done and not in the queue, and have clips.

    Args:
        everything: whether finished ones are to be submitted, too.

    Raises:
        BaselineError: some are in the queue with other parameters, or no machine type has clips.
    """
    chosen, without_clips = [], {}  # machine type → what is missing
    for model in sweep.models:
        each, machine = progress[key_of(model.paths)], model.machine.name
        differing = sorted(set(each.planned.arguments) - set(model.config.as_arguments())) if each.planned else []
        if differing:
            raise BaselineError(
                f"{model.name} is {each.state} with {' '.join(differing)}. Let it end, cancel it (scancel {each.job}), "
                "or give this sweep a name of its own: -tag NAME."
            )
        if each.state in (FAILED, MISSING) or (each.state == DONE and everything):
            if machine not in without_clips and (error := missing_clips(model, sweep.scores)):
                without_clips[machine] = error
            if machine not in without_clips:
                chosen.append(key_of(model.paths))
    if without_clips:
        first = next(iter(without_clips.values()))
        if without_clips.keys() == {model.machine.name for model in sweep.models}:
            raise first
        log.warning("left out are %s. %s", " ".join(without_clips), first)
    return chosen


def missing_clips(model: Model, scores: Sequence[str]) -> BaselineError | None:
    """Why a model's runs would find no clips; better to know now than when the tasks have had their turn."""
    if model.config.is_auto_download:
        return None
    try:
        for run in runs_of(model, scores):
            split = "test" if run.test_only else "train"
            find_clips(model.machine, run.dataset_directory, split, model.sections)
    except BaselineError as error:
        return error
    return None


def plan_text(submissions: Sequence[Submission]) -> str:
    """What would be submitted."""
    lines = []
    for submission in submissions:
        lines += [f"task {n}: {', '.join(model.name for model in task)}" for n, task in enumerate(submission.tasks)]
        lines.append(shlex.join(sbatch_command(array_options(submission), task_command(submission))))
    jobs = [f"ARRAY{number}" for number, _ in enumerate(submissions, start=1)]
    lines.append(shlex.join(sbatch_command(summary_options(submissions, jobs), summary_command(submissions))))
    return "\n".join(lines)


def sweep_command(script: str, given: Sequence[str]) -> None:
    """Submit a sweep, or say how far it is.

    Raises:
        BaselineError: something that the user can put right.
    """
    flags = [argument for argument in given if argument in FLAGS]
    if len(flags) > 1:
        raise UsageError(f"{' and '.join(flags)}: give one of them.")
    sweep = read_sweep([argument for argument in given if argument not in FLAGS])
    jobs = jobs_of_environment() or 1
    resources = read_resources(jobs)
    if flags in (["--status"], ["--dry-run"]):
        try:
            progress, largest = sweep.progress(), max_array_size()
        except NoSlurmError as error:
            log.warning("%s What is in the queue is not known here.", error)
            progress, largest = sweep.progress(ask_slurm=False), MAX_ARRAY_SIZE
        print(counts(sweep, progress))
        if flags == ["--status"]:
            print(table(sweep, progress))
        elif keys := choose(sweep, progress, everything=False):
            print(plan_text(sweep.plan(keys, jobs, resources, largest)))
        return
    make_writable_directory(sweep.directory)
    with alone(sweep.lock, "waiting for another command that submits this sweep"):
        progress = sweep.progress()
        print(counts(sweep, progress), flush=True)
        keys = choose(sweep, progress, everything=flags == ["--all"])
        if not keys:
            print("nothing to submit")
            return
        submissions = sweep.plan(keys, jobs, resources, max_array_size())
        arrays, summary = submit(submissions)
    n_tasks = sum(len(submission.tasks) for submission in submissions)
    print(
        f"submitted {len(keys)} models, {n_tasks} tasks: job {' '.join(arrays)}; after them the summary: job {summary}"
    )
    print(f"logs: {' '.join(str(submission.directory) for submission in submissions)}")
    seeds = f"SEEDS={shlex.quote(os.environ['SEEDS'])} " if sweep.seeds else ""
    print(f"how far it is: {seeds}{shlex.join([script, *(each for each in given if each not in FLAGS), '--status'])}")
    print(f"to cancel it: scancel {' '.join([*arrays, summary])}")


def main(script: str, *given: str) -> int:
    """See the top of this file.

    Returns:
        The exit status.
    """
    if {"-h", "--help"} & set(given):
        print(usage(script))
        return 0
    open_console()
    status = run_command(
        lambda: sweep_command(script, given), "What has been submitted stays in the queue: see squeue --me."
    )
    if status == 2:
        print(usage(script), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
