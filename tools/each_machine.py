"""Run train.py for each model of a dataset: each machine type, each section if it has several, each seed of SEEDS.

    each_machine.py SCRIPT "PURPOSE" DATASET "OPTIONS" ARGUMENTS...   for the numbered scripts: runs JOBS at a time
    each_machine.py --plan ARGUMENTS...                               for slurm_array.sh: prints what to submit

OPTIONS are set by the script. ARGUMENTS come from the user: the dataset if DATASET is empty, -d or -e, and options of
train.py. If a model fails, the others still run. The failed models are listed at the end, and the exit status is 1.
"""

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TextIO

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

from tqdm import tqdm

from config import (
    FIELDS,
    ROOT,
    Config,
    UsageError,
    available_memory,
    cores,
    load_config,
    seeds_of_environment,
    without_password,
)
from datasets.catalog import Dataset, find_dataset
from tools.training.console import Terminated, printable, run_command, show, shown
from tools.training.paths import run_paths

MEMORY_PER_RUN = 0.8e9  # bytes, for a full-size machine type
JOBS_ON_A_GPU = 2  # one trains while the other reads clips, draws plots, or imports libraries
# The runs of one task of slurm_array.sh: their options, in order
RUNS_OF_A_TASK = ("--train_only --restart", "--test_only --score MSE", "--test_only --score MAHALA")
# The options for the summary: where the results are. It shows all of them.
SUMMARY_OPTIONS = {"dev", "eval", "dataset_directory", "model_directory", "result_directory", "export_dir"}
SECONDS_TO_END = 5  # to wait for a run to end before it gets the next signal


@dataclass(frozen=True)
class Model:
    """One model of a dataset. `name` includes the section and the seed if there are several."""

    name: str
    config: Config
    log: Path  # of its run


def run_side_by_side(commands: Mapping[str, list[str]], jobs: int) -> dict[str, int]:
    """Run commands, `jobs` at a time. Ctrl-C and SIGTERM end all of them. Returns name → exit status.

    With several jobs, each shows one line in the terminal and no progress bar.
    """
    waiting, running, statuses = list(commands), {}, {}
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running[name] = _start(name, commands[name], jobs)
            for name, (process, reader) in list(running.items()):
                if process.poll() is not None:
                    reader.join()
                    statuses[name] = process.returncode
                    del running[name]
            time.sleep(0.05)
    except KeyboardInterrupt as interrupt:
        # A terminal sends Ctrl-C to the runs, too. Give them time to end (signal 0 does nothing).
        first = signal.SIGTERM if isinstance(interrupt, Terminated) else 0
        _end([process for process, _ in running.values()], (first, signal.SIGTERM, signal.SIGKILL))
        raise
    return statuses


def _start(name: str, command: list[str], jobs: int) -> tuple[subprocess.Popen, threading.Thread]:
    """Start a run, and the thread that shows its output."""
    environment, options = os.environ | {"JOBS": str(jobs), "NAME_IN_LOOP": name}, {}
    if jobs > 1:
        environment["PROGRESS_LINES"] = "1"
        options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
    process = subprocess.Popen(command, env=environment, **options)
    reader = threading.Thread(target=_show, args=(process,))
    reader.start()
    return process, reader


def _end(processes: Sequence[subprocess.Popen], signals: Sequence[int]) -> None:
    for number in signals:
        for process in processes:
            process.send_signal(number)
        deadline = time.monotonic() + SECONDS_TO_END
        for process in processes:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0, deadline - time.monotonic()))


def _show(process: subprocess.Popen) -> None:
    """Show the latest output of a run in one line of the terminal. Print its errors and its last line."""
    if process.stdout is None:  # the run prints to the terminal itself
        return
    errors = threading.Thread(target=lambda: [_print(text, sys.stderr) for text in process.stderr])
    errors.start()
    last = ""
    with contextlib.suppress(OSError), tqdm(bar_format="{desc}", leave=False, disable=None, dynamic_ncols=True) as line:
        for last in process.stdout:
            with contextlib.suppress(OSError):  # a closed terminal must not end a training
                line.set_description_str(printable(last.rstrip()))
        errors.join()
    if last:
        _print(last.partition(" -> ")[0], sys.stdout)  # run_models shows the directory, once for all


def _print(text: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):
        show(text.rstrip(), stream)


def usage(script: str, purpose: str, dataset: str) -> str:
    """The help text of a numbered script."""
    machines = f"each machine type of {dataset or 'DATASET, such as DCASE2022T2'}"
    text = f"{purpose} for {machines}, or for each section of a machine type that has several."
    return f"""\
usage: {script} {"" if dataset else "DATASET "}-d|-e [options of train.py]

{textwrap.fill(text, 80)}

  -d, --dev    use the development dataset
  -e, --eval   use the evaluation dataset
  options      such as --epochs 5; see baseline.yaml, or
               {sys.executable} {ROOT / "train.py"} --help

environment variables:
  JOBS=2         run two machine types at a time
                 (default: as many as cores and memory allow)
  SEEDS="1 2 3"  run everything with each of these seeds
                 (03 then shows mean ± standard deviation)"""


def read_arguments(given: Sequence[str], dataset: str = "") -> tuple[str, list[str]]:
    """The dataset's name and the other arguments.

    Raises:
        UsageError: the dataset or the split is missing, or this script does not allow an option.
    """
    arguments = list(given)
    if not dataset:
        if not arguments or arguments[0].startswith("-"):
            raise UsageError("the first argument must be a dataset, such as DCASE2022T2.")
        dataset = arguments.pop(0)
    if not arguments or arguments[0] not in ("-d", "--dev", "-e", "--eval"):
        raise UsageError(f"-d or -e must come first{f', not {arguments[0]!r}' if arguments else ''}.")
    for argument in arguments:
        name = argument.split("=")[0]
        if name == "--seed" and os.environ.get("SEEDS"):
            raise UsageError(f"{argument}: SEEDS={os.environ['SEEDS']!r} is set, too. Use only one of them.")
        if name == "--dataset":
            raise UsageError(f"{name}: this script runs all machine types. To run one, use train.py {argument} ...")
        if name in ("--train_only", "--test_only"):
            raise UsageError(
                f"{name}: this script decides whether to train or to test. Use another script, or train.py."
            )
    return dataset, arguments


def join_options(own: str, given: Sequence[str]) -> list[str]:
    """A script's own options, such as `--test_only --score MSE`, then the user's. The user's --score overrides."""
    options = own.split()
    if "--score" in options and any(argument.split("=")[0] == "--score" for argument in given):
        place = options.index("--score")
        del options[place : place + 2]
    return [*options, *given]


def find_any_dataset(name: str, options: Sequence[str]) -> Dataset:
    """The published dataset of this name, or the user's own one in the --dataset_directory of these options."""
    return find_dataset(name, load_config(["--dataset", name, *options]).dataset_directory)


def find_models(dataset: Dataset, options: Sequence[str], seeds: Sequence[int] = ()) -> list[Model]:
    """The models to run with these options of train.py, ordered by seed.

    Raises:
        UsageError: an option is wrong, or there is no model.
    """
    split = "eval" if {"-e", "--eval"} & set(options) else "dev"
    models = []
    for seed, machine in itertools.product(seeds or [None], dataset.machines[split].values()):
        arguments = ["--dataset", dataset.name + machine.name, *options]
        config = load_config(arguments if seed is None else [*arguments, "--seed", str(seed)])
        if config.test_only and not machine.is_tested:
            continue
        choices = [config.use_ids]
        if len(machine.sections) > 1 and not config.use_ids:
            choices = [(int(section),) for section in machine.sections]
        for use_ids in choices:
            sections = tuple(f"{number:02d}" for number in use_ids) or machine.sections
            paths = run_paths(config, machine, sections)
            name = paths.model_name + (f" seed {seed}" if len(seeds) > 1 else "")
            models.append(Model(name, replace(config, use_ids=use_ids), paths.run_log))
    if not models:
        raise UsageError(f"{dataset.name} has no {split} data for this script.")
    return models


def train_command(config: Config) -> list[str]:
    """The command that runs train.py. It has all parameters, so that a later edit of baseline.yaml has no effect."""
    return [sys.executable, str(ROOT / "train.py"), *config.as_arguments()]


def count_jobs(config: Config) -> int:
    """The number of runs at a time: JOBS, or as many as the cores and the memory allow."""
    text = os.environ.pop("JOBS", "")  # cores() divides by JOBS, but this loop needs the number of all cores
    if text and not (text.isdecimal() and int(text)):
        raise UsageError(f"JOBS must be a whole number, 1 or larger, not '{text}'.")
    if text:
        return int(text)
    if config.use_cuda and shutil.which("nvidia-smi") and _finds_gpu():
        return min(JOBS_ON_A_GPU, cores())
    return max(1, int(min(cores(), available_memory() / MEMORY_PER_RUN)))


def _finds_gpu() -> bool:
    """Whether PyTorch finds a usable GPU. PyTorch is loaded in another process, which then frees its memory."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], stderr=subprocess.DEVNULL).returncode == 0


def run_models(script: str, dataset: str, options: Sequence[str]) -> bool:
    """Run train.py for each model. List the failed models with their logs. Returns whether all succeeded."""
    models = find_models(find_any_dataset(dataset, options), options, seeds_of_environment())
    jobs = min(count_jobs(models[0].config), len(models))
    if jobs > 1:
        directory = Path(os.path.commonpath([model.log.parent for model in models]))
        show(f"{len(models)} models, {jobs} at a time -> {shown(directory)}")
    statuses = run_side_by_side({model.name: train_command(model.config) for model in models}, jobs)
    failed = [model for model in models if statuses[model.name] != 0]
    if failed:
        show(f"{script}: failed:", sys.stderr)
    for model in failed:
        status = statuses[model.name]
        reason = f"exit status {status}" if status > 0 else f"killed by signal {-status}"
        show(f"  {model.name} ({reason}), log: {model.log if model.log.exists() else 'none'}", sys.stderr)
    return not failed


def main(script: str, purpose: str, dataset: str, options: str, *given: str) -> int:
    """Run a numbered script. The top of this file explains the arguments. Returns the exit status."""
    seeds = f"SEEDS={shlex.quote(os.environ['SEEDS'])} " if os.environ.get("SEEDS") else ""
    restart = ["--restart"] if "--train_only" in options and "--restart" not in given else []
    resume = f"To resume: {seeds}{shlex.join(['bash', script, *given, *restart])}"

    if {"-h", "--help"} & set(given):
        return run_command(lambda: show(usage(script, purpose, dataset)))
    if wrong := run_command(lambda: bool(read_arguments(given, dataset))):
        show(usage(script, purpose, dataset), sys.stderr)
        return wrong

    def command() -> bool:
        name, arguments = read_arguments(given, dataset)
        return run_models(script, name, join_options(options, arguments))

    return run_command(command, resume)


def print_plan(*given: str) -> None:
    """Print the directory for logs, the commands of each task of a job array, and the command of the summary."""
    dataset, arguments = read_arguments([argument for argument in given if argument != "--dry-run"])
    seeds = seeds_of_environment()
    tasks: dict[str, list[str]] = {}  # model → commands
    facts = find_any_dataset(dataset, arguments)
    for options in RUNS_OF_A_TASK:
        models = find_models(facts, join_options(options, arguments), seeds)
        for model in models:
            tasks.setdefault(model.name, []).append(shlex.join(train_command(model.config)))
    config = models[0].config
    if config.download_url and without_password(config.download_url) != config.download_url:
        raise UsageError(
            "--download_url: Slurm would store its password in a file. Put the password into ~/.netrc instead."
        )
    directory = f"{dataset}_{config.split}_{time.strftime('%Y%m%d_%H%M%S')}_{os.getpid()}"
    print(f"logs: {config.model_directory / 'slurm' / directory}\ntasks: {len(tasks)}")
    for number, commands in enumerate(tasks.values(), start=1):
        for command in dict.fromkeys(commands):  # with --score both tests are the same
            print(f"{number}: {command}")
    variables = [f"PYTHON={sys.executable}", f"SEEDS={' '.join(map(str, seeds))}"]
    options = config.as_arguments(leave_out=FIELDS.keys() - SUMMARY_OPTIONS)
    print("summary:", shlex.join(["env", *variables, str(ROOT / "03_summarize_results.sh"), dataset, *options]))


if __name__ == "__main__":
    if sys.argv[1] == "--plan":
        sys.exit(run_command(lambda: print_plan(*sys.argv[2:])))
    sys.exit(main(*sys.argv[1:]))
