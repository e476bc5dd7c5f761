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
from tools.each_machine import DEV, EVAL, Model, check_seeds, find_models, jobs_of_environment
from tools.slurm.commands import (
    MOST_TASKS,
    RESOURCES_FILE,
    Job,
    most_tasks,
    read_resources,
    sbatch_command,
)
from tools.slurm.submission import (
    SUMMARY,
    Submission,
    array_options,
    submit,
    submit_summary,
    summary_command,
    summary_options,
    task_command,
)
from tools.slurm.sweep import DONE, FAILED, QUEUED, RUNNING, STATES, Progress, Sweep, runs_of

SCORES = ("MSE", "MAHALA")  # of 02a and 02b
FLAGS = ("--status", "--dry-run", "--all")


def usage(script: str) -> str:
    """What the command says of itself."""
    return f"""\
usage: {script} DATASET -d|--dev|-e|--eval [--status | --dry-run] [--all] [options of train.py, such as --epochs 5]
Trains and tests each machine type, section and seed of a dataset on a Slurm cluster, then summarizes. What is done, in
the queue or running is left as it is: the same command again submits what is missing. See {ROOT / "docs/cluster.md"}.
  -d, --dev   development dataset      -e, --eval   evaluation dataset
  --status    how far each model is; submits nothing
  --dry-run   what would be submitted
  --all       submits finished models, too: their tasks look whether training clips have changed
SEEDS="1 2 3" {script} ... does all of it with each of these seeds; the table then gives mean ± standard deviation.
JOBS=4 {script} ... trains four models side by side in a task, a core each, or on one GPU; one if not given.
Account, partition, time, memory, GPU, how many tasks at a time: {RESOURCES_FILE} and the environment.
Options of train.py and their default values: baseline.yaml and {sys.executable} {ROOT / "train.py"} --help"""


def read_sweep(arguments: Sequence[str]) -> Sweep:
    """The sweep that the command line asks for.

    Args:
        arguments: dataset, split, options of train.py.

    Raises:
        UsageError: something in it is wrong.
    """
    dataset, options = find_dataset(arguments[0]), list(arguments[1:])
    check_seeds(options)
    names = [option.split("=")[0] for option in options]
    for name in set(names) & {"--dataset", "--checkpoint_path"}:
        raise UsageError(f"{name}: a sweep is of all machine types. For one: train.py {name} ...")
    seeds = seeds_of_environment()
    options = [option for option in options if option not in ("--restart", "--or_anew")]  # goes without saying
    models, without_sections = [], []
    for model in find_models(dataset, "dev" if options[0] in DEV else "eval", options, seeds):
        try:
            model.machine.section_names(model.config.use_ids)
            models.append(model)
        except UsageError as error:
            without_sections.append(error)
            log.warning("left out: %s. %s", model.name, error)
    if not models:
        raise without_sections[0]
    return Sweep(dataset, models, [models[0].config.score] if "--score" in names else SCORES)


def check_beginning(arguments: Sequence[str]) -> None:
    """Check that dataset and split come first.

    Raises:
        UsageError: they do not.
    """
    if not arguments or arguments[0].startswith("-"):
        raise UsageError("name a dataset first, such as DCASE2024T2.")
    if len(arguments) == 1 or arguments[1] not in (*DEV, *EVAL):
        raise UsageError(f"after the dataset comes -d or -e{f', not {arguments[1]!r}' if arguments[1:] else ''}.")


def counts(sweep: Sweep, progress: dict[str, Progress]) -> str:
    """How many models are in which state."""
    number = Counter(each.state for each in progress.values())
    said = ", ".join(f"{number[state]} {state}" for state in STATES if number[state])
    return f"{sweep.dataset.name} {sweep.config.split}, {len(progress)} models: {said}"


def table(sweep: Sweep, progress: dict[str, Progress]) -> str:
    """The state of each machine type (and section) and seed; then what went wrong."""
    seeds = list(dict.fromkeys(model.config.seed for model in sweep.models.values()))
    cells: dict[str, dict[int, str]] = {}
    for key, model in sweep.models.items():
        each = progress[key]
        shown = ", ".join(filter(None, (each.state, each.detail if each.state in (RUNNING, QUEUED) else "")))
        cells.setdefault(model.paths.model_name, {})[model.config.seed] = shown
    rows = [[name, *(of_seeds[seed] for seed in seeds)] for name, of_seeds in cells.items()]
    notes = [f"in the queue with {words}" for words in sorted({each.differing for each in progress.values()}) if words]
    notes += [f"{k} failed: {p.detail}\n  log: {p.log}" for k, p in progress.items() if p.state == FAILED]
    return "\n".join([tabulate(rows, ["", *(f"seed {seed}" for seed in seeds)], disable_numparse=True), *notes])


def keys_to_submit(sweep: Sweep, progress: dict[str, Progress], everything: bool) -> list[str]:
    """The models to submit: those that are not done and not in the queue, and have clips.

    Args:
        everything: whether finished ones are to be submitted, too.

    Raises:
        BaselineError: some are in the queue with other parameters, or none has clips.
    """
    chosen, without_clips = [], {}  # key → at which run they are missing, and what
    looked_for = {}  # machine type, sections → the same, for all seeds
    for key, model in sweep.models.items():
        each = progress[key]
        if each.differing:
            raise BaselineError(
                f"{key} is in the queue with {each.differing}. Let it end, cancel it (scancel "
                f"{each.job.number}_{each.job.task}), or give this sweep a name of its own: -tag NAME."
            )
        if not each.is_in_queue and (each.state != DONE or everything):
            place = model.machine.name, model.sections
            if place not in looked_for:
                looked_for[place] = missing_clips(model, sweep.scores)
            missing = looked_for[place]
            without_clips |= {key: missing} if missing else {}
            chosen += [] if missing else [key]
    if without_clips:
        # Of a machine type that has some of its clips it is the most to the point.
        _, error = max(without_clips.values(), key=lambda missing: missing[0])
        if len(without_clips) == len(sweep.models):
            raise error
        names = dict.fromkeys(sweep.models[key].paths.model_name for key in without_clips)
        log.warning("left out: %s. %s", " ".join(names), error)
    for words, number in Counter(filter(None, map(sweep.trained_otherwise, chosen))).items():
        log.warning("%s there with %s: trained anew. To keep them: -tag NAME.", _count(number, "model"), words)
    return chosen


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def missing_clips(model: Model, scores: Sequence[str]) -> tuple[int, BaselineError] | None:
    """Which of a model's runs would find no clips, and why; better known now than when the task has its turn."""
    if model.config.is_auto_download:
        return None
    for number, run in enumerate(runs_of(model, scores)):
        try:
            find_clips(model.machine, run.dataset_directory, "test" if run.test_only else "train", model.sections)
        except BaselineError as error:
            return number, BaselineError(f"{error} Without test clips: --train_only.") if number else error
    return None


def plan_text(submissions: Sequence[Submission]) -> str:
    """What would be submitted."""
    lines = []
    for submission in submissions:
        lines += [f"task {n}: {', '.join(model.key for model in task)}" for n, task in enumerate(submission.tasks)]
        lines.append(shlex.join(sbatch_command(array_options(submission), task_command(submission))))
    jobs = [f"ARRAY{number}" for number, _ in enumerate(submissions, start=1)]
    lines.append(shlex.join(sbatch_command(summary_options(submissions[-1], jobs), summary_command(submissions))))
    return "\n".join(lines)


def show(sweep: Sweep, is_dry_run: bool, everything: bool) -> None:
    """Print how far it is, or what would be submitted."""
    jobs: list[Job] = []
    tasks = MOST_TASKS
    try:
        jobs, tasks = sweep.jobs(), most_tasks()
    except BaselineError as error:  # no Slurm here, or none that answers
        log.warning("%s What is in the queue is not known.", error)
    progress = sweep.progress(jobs)
    print(counts(sweep, progress))
    if not is_dry_run:
        print(table(sweep, progress))
    elif keys := keys_to_submit(sweep, progress, everything):
        print(plan_text(sweep.plan(keys, jobs_of_environment() or 1, read_resources(), tasks)))
    else:
        print("nothing to submit")


def submit_missing(sweep: Sweep, everything: bool) -> list[str]:
    """Submit what is missing, and the summary after all of this sweep that is in the queue.

    Returns:
        The numbers of the jobs.
    """
    n_jobs, resources = jobs_of_environment() or 1, read_resources()
    make_writable_directory(sweep.directory)
    with alone(sweep.lock, "waiting for another command that submits this sweep"):
        known = sweep.jobs()
        progress = sweep.progress(known)
        print(counts(sweep, progress), flush=True)
        keys = keys_to_submit(sweep, progress, everything)
        numbers = {job.name: job.number for job in known if job.is_waiting or job.is_running}
        own = [submission for submission in sweep.submissions if sweep.belongs_to(submission)]
        in_queue = [submission for submission in own if submission.name in numbers]
        has_summary = any(submission.name + SUMMARY in numbers for submission in own)
        if not keys and (has_summary or not in_queue):
            return []
        new = sweep.plan(keys, n_jobs, resources, most_tasks())
        arrays = submit(new)
        if new:
            n_tasks = _count(sum(len(submission.tasks) for submission in new), "task")
            print(f"submitted {_count(len(keys), 'model')} in {n_tasks}: job {' '.join(arrays)}", flush=True)
            print(f"logs: {' '.join(str(submission.directory) for submission in new)}", flush=True)
        try:
            earlier = [numbers[submission.name] for submission in in_queue]
            summary = submit_summary([*in_queue, *new], [*earlier, *arrays])
        except BaselineError as error:
            raise BaselineError(f"{error} These jobs have no summary. The same command again submits it.") from error
    print(f"the summary after them: job {summary}")
    return [*arrays, summary]


def sweep_command(script: str, given: Sequence[str]) -> None:
    """Submit a sweep, or say how far it is.

    Raises:
        BaselineError: something that the user can put right.
    """
    flags = {argument for argument in given if argument in FLAGS}
    if "--status" in flags and len(flags) > 1:
        raise UsageError("--status submits nothing: it goes with neither --dry-run nor --all.")
    arguments = [argument for argument in given if argument not in FLAGS]
    sweep = read_sweep(arguments)
    if flags & {"--status", "--dry-run"}:
        show(sweep, "--dry-run" in flags, "--all" in flags)
        return
    if jobs := submit_missing(sweep, "--all" in flags):
        seeds = f"SEEDS={shlex.quote(os.environ['SEEDS'])} " if os.environ.get("SEEDS") else ""
        print(f"how far it is: {seeds}{shlex.join([script, *arguments, '--status'])}")
        print(f"to cancel it: scancel {' '.join(jobs)}")
    else:
        script = str(ROOT / "03_summarize_results.sh")
        print(f"nothing to submit. The table anew, when all have ended: {shlex.join([script, *arguments])}")


def main(script: str, *given: str) -> int:
    """See the top of this file.

    Returns:
        The exit status.
    """
    if {"-h", "--help"} & set(given):
        return run_command(lambda: print(usage(script), flush=True))
    try:
        check_beginning(given)
    except UsageError as error:
        print(f"error: {error}\n{usage(script)}", file=sys.stderr)
        return 2
    open_console()
    return run_command(
        lambda: sweep_command(script, given), "What has been submitted stays in the queue: see squeue --me."
    )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
