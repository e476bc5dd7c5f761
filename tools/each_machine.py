"""The loop over machine types that the numbered scripts share: train.py for each model of a dataset, JOBS at a time.

    each_machine.py SCRIPT "PURPOSE" DATASET "OPTIONS" ARGUMENTS...

runs train.py with OPTIONS and ARGUMENTS (the split, then any of train.py's own) for each machine type of DATASET, for
each section of machine types that have several, and for each seed where the environment names SEEDS. Where DATASET is
empty, the first argument names it. A machine type that fails does not stop the others; it is named at the end, and the
exit status is 1.
"""

import contextlib
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TextIO

from tqdm import tqdm

from config import ROOT, BaselineError, Config, UsageError, cores, load_config, seeds_of_environment
from datasets.catalog import Dataset, Machine, find_dataset
from tools.training.console import catch_signals, exit_status
from tools.training.paths import RunPaths, run_paths

MEMORY_OF_A_RUN = 0.8e9  # bytes, for a full-size machine type
JOBS_ON_A_GPU = 2  # one trains while the other reads clips, draws pictures, imports
SECONDS_TO_END = 5  # that a run has after an interrupt; Ctrl-C reaches runs, too
STOPPED = 128 + signal.SIGINT  # exit status of a run that was interrupted
WRONG_OPTION = 2  # exit status of one whose options are wrong
CANNOT_START = 127  # what shells give where there is no such program
DEV, EVAL = ("-d", "--dev"), ("-e", "--eval")


@dataclass(frozen=True)
class Model:
    """A model of a dataset: of all sections of a machine type or of one of them, with one seed."""

    name: str  # machine type and, of several, section and seed
    machine: Machine
    sections: tuple[str, ...]
    config: Config
    arguments: list[str]  # of train.py

    @property
    def paths(self) -> RunPaths:
        return run_paths(self.config, self.machine, self.sections)


@dataclass(frozen=True)
class Runs:
    """Runs of train.py for one model, one after the other until one fails."""

    name: str
    log: Path
    commands: list[list[str]]


class Loop:
    """The runs of models, `jobs` at a time. Of several at a time each has one line, in place of a progress bar.

    Attributes:
        statuses: model → exit status of its last run, of those that were begun.
    """

    def __init__(self, models: Sequence[Runs], jobs: int, may_differ: bool):
        self._models, self.jobs = models, jobs
        self._may_differ = may_differ  # an option that is wrong for one may be right for another
        self.statuses: dict[str, int] = {}
        self._running: list[subprocess.Popen] = []
        self._ended = threading.Event()  # no more are to be started
        self._free_lines: list[tqdm] = []  # of the terminal

    def run(self) -> None:
        """Run them all. After Ctrl-C or a termination signal those that run are ended, and no more are started."""
        terminal = {"leave": False, "disable": None if self.jobs > 1 else True, "dynamic_ncols": True}
        with contextlib.ExitStack() as lines:  # closed from the last to the first
            for place in range(self.jobs):
                self._free_lines.append(lines.enter_context(tqdm(bar_format="{desc}", position=place, **terminal)))
            with ThreadPoolExecutor(self.jobs) as pool:
                try:
                    wait([pool.submit(self._run, model) for model in self._models])
                except BaseException as reason:
                    self._ended.set()
                    # Ctrl-C has reached the runs, too.
                    told = isinstance(reason, KeyboardInterrupt) and getattr(reason, "status", STOPPED) == STOPPED
                    self._end_running(told)
                    raise

    def _run(self, model: Runs) -> None:
        for command in model.commands:
            if self._ended.is_set() or self.statuses.get(model.name):
                return
            self._run_command(model.name, command)

    def _run_command(self, name: str, command: list[str]) -> None:
        environment = os.environ | {"JOBS": str(self.jobs), "NAME_IN_LOOP": name}
        pipes: dict[str, Any] = {}
        if self.jobs > 1:
            environment["PROGRESS_LINES"] = "1"
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "errors": "replace"}
        try:
            process = subprocess.Popen(command, env=environment, **pipes)
        except OSError as error:
            _write(f"error: {name}: cannot be started: {error}", sys.stderr)
            self.statuses[name] = CANNOT_START
            return
        with process:
            self._running.append(process)
            if self._ended.is_set():  # meanwhile
                process.send_signal(signal.SIGINT)
            if self.jobs > 1:
                self._follow(process)
        status = self.statuses[name] = process.returncode
        if status in (STOPPED, -signal.SIGINT) or (status == WRONG_OPTION and not self._may_differ):
            self._ended.set()

    def _follow(self, process: subprocess.Popen) -> None:
        """Show what a run says last on its line of the terminal, and keep its warnings and its very last word."""
        errors = threading.Thread(target=lambda: [_write(text, sys.stderr) for text in process.stderr])
        errors.start()
        line, last = self._free_lines.pop(), ""
        for text in process.stdout:
            last = text
            with contextlib.suppress(OSError):  # a closed terminal or a full disk does not end a training
                line.set_description_str(last.rstrip())
        errors.join()
        with contextlib.suppress(OSError):
            line.set_description_str("")
        self._free_lines.append(line)
        if last:
            _write(last, sys.stdout)

    def _end_running(self, told: bool) -> None:
        """End the runs, which tidy up after an interrupt; those that do not, without that."""
        for number in (*(() if told else (signal.SIGINT,)), None, signal.SIGINT, None, signal.SIGKILL):
            deadline = time.monotonic() + SECONDS_TO_END
            for process in self._running:
                if number is not None:
                    process.send_signal(number)
                    continue
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(max(0, deadline - time.monotonic()))

    def report_failures(self, script: str) -> bool:
        """Name those that failed, each with its log."""
        failed = [model for model in self._models if self.statuses.get(model.name) != 0]
        if failed:
            print(f"{script}: failed:", file=sys.stderr)
        for model in failed:
            log = model.log if model.log.exists() else "none"
            print(f"  {model.name} ({_describe(self.statuses.get(model.name))}), log: {log}", file=sys.stderr)
        return bool(failed)


def _write(text: str, stream: TextIO) -> None:
    with contextlib.suppress(OSError):
        tqdm.write(text.rstrip(), file=stream)
        stream.flush()


def _describe(status: int | None) -> str:
    if status is None:
        return "not run"
    return f"exit status {status}" if status >= 0 else f"killed by signal {-status}"


def usage(script: str, purpose: str, dataset: str, any_dataset: bool) -> str:
    """What a numbered script says of itself."""
    where = dataset or "DATASET, such as DCASE2022T2"
    return f"""\
usage: {script} {"DATASET " if any_dataset else ""}-d|--dev|-e|--eval [options of train.py, such as --epochs 5]
{purpose} for each machine type of {where}; for each section of machine types that have several.
  -d, --dev   development dataset      -e, --eval   evaluation dataset
Options and their default values: baseline.yaml and {sys.executable} {ROOT / "train.py"} --help
JOBS=2 {script} ... runs two machine types at a time; by default as many as there are cores and memory for.
SEEDS="1 2 3" {script} ... does all of it with each of these seeds; 03 then gives mean ± standard deviation."""


def check_arguments(arguments: Sequence[str], options: str) -> None:
    """Check what a numbered script's user gave it, but for train.py's own options.

    Raises:
        UsageError: the first is not a split, or one is an option that the script has chosen already.
    """
    if not arguments or arguments[0] not in (*DEV, *EVAL):
        raise UsageError(f"-d or -e must come first{f', not {arguments[0]!r}' if arguments else ''}.")
    check_seeds(arguments)
    for argument in arguments:
        name = argument.split("=")[0]
        if name == "--dataset":
            raise UsageError(f"{name}: this script runs all machine types. For one: train.py {argument} ...")
        if name in ("--train_only", "--test_only"):
            raise UsageError(f"{name}: this script has chosen already ({options}). Take another script, or train.py.")


def check_seeds(arguments: Sequence[str]) -> None:
    """Check that seeds are named in one place.

    Raises:
        UsageError: they are among the arguments and in the environment.
    """
    for argument in arguments:
        if argument.split("=")[0] == "--seed" and os.environ.get("SEEDS"):
            raise UsageError(f"{argument}: the environment has SEEDS={os.environ['SEEDS']!r}. Give one of them.")


def find_models(dataset: Dataset, split: str, options: Sequence[str], seeds: Sequence[int] = ()) -> list[Model]:
    """The models to run with these options of train.py, in the order of the catalog.

    Args:
        seeds: all models of one seed come before those of the next; none: that of the options.

    Raises:
        UsageError: a wrong option, or no model to run.
    """
    models = []
    for seed, machine in itertools.product(seeds or [None], dataset.machines[split].values()):
        of_seed = [] if seed is None else ["--seed", str(seed)]
        arguments = ["--dataset", dataset.name + machine.name, *options, *of_seed]
        config = load_config(arguments)
        if config.test_only and not machine.is_tested:
            continue
        if config.use_ids or len(machine.sections) == 1:
            sections = machine.sections
            with contextlib.suppress(UsageError):  # not the sections of this machine type: its run will say so
                sections = machine.section_names(config.use_ids)
            choices = {sections: []}
        else:
            choices = {(section,): ["--use_ids", section] for section in machine.sections}
        for sections, chosen in choices.items():
            name = run_paths(config, machine, sections).model_name + (f" seed {seed}" if len(seeds) > 1 else "")
            of_sections = replace(config, use_ids=tuple(map(int, sections))) if chosen else config
            models.append(Model(name, machine, sections, of_sections, [*arguments, *chosen]))
    if not models:
        what = "machine type with test clips" if dataset.machines[split] else "machine types"
        raise UsageError(f"{dataset.name} has no {what} in its {split} data.")
    return models


def run_train(arguments: Sequence[str]) -> list[str]:
    """The command that runs train.py."""
    return [sys.executable, str(ROOT / "train.py"), *arguments]


def jobs_of_environment() -> int | None:
    """How many runs are to go side by side, where the environment variable JOBS says it.

    Raises:
        UsageError: it is no such number.
    """
    text = os.environ.get("JOBS", "")
    if text and not (text.isdecimal() and int(text)):
        raise UsageError(f"JOBS must be a number from 1 on, not '{text}'.")
    return int(text) if text else None


def default_jobs(config: Config) -> int:
    """How many runs go side by side here where JOBS does not say it: as many as there are cores and memory for."""
    if config.use_cuda and shutil.which("nvidia-smi"):
        return min(JOBS_ON_A_GPU, cores())
    return max(1, int(min(cores(), _available_memory() / MEMORY_OF_A_RUN)))


def _available_memory() -> float:
    """Bytes that programs may still take, as far as the system tells."""
    known = []
    with contextlib.suppress(OSError, ValueError, StopIteration):  # Linux
        lines = Path("/proc/meminfo").read_text().splitlines()
        known.append(1024 * int(next(line for line in lines if line.startswith("MemAvailable:")).split()[1]))
    with contextlib.suppress(OSError, ValueError):  # a container's limit; without one it is "max"
        limit, used = (int(Path("/sys/fs/cgroup", name).read_text()) for name in ("memory.max", "memory.current"))
        known.append(limit - used)
    if not known:
        with contextlib.suppress(OSError, ValueError):  # all there is, half of it for others
            known.append(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2)
    return min(known, default=float("inf"))


def main(script: str, purpose: str, dataset_name: str, options: str, *given: str) -> int:
    """See the top of this file.

    Returns:
        The exit status.
    """
    arguments, any_dataset = list(given), not dataset_name
    if any_dataset and arguments and not arguments[0].startswith("-"):
        dataset_name = arguments.pop(0)
    text = usage(script, purpose, dataset_name, any_dataset)
    if {"-h", "--help"} & set(arguments):
        print(text)
        return 0
    try:
        if not dataset_name:
            raise UsageError("name a dataset first, such as DCASE2022T2.")
        check_arguments(arguments, options)
    except UsageError as error:
        print(f"error: {error}\n{text}", file=sys.stderr)
        return 2
    split = "dev" if arguments[0] in DEV else "eval"
    try:
        seeds = seeds_of_environment()
        models = find_models(find_dataset(dataset_name), split, [*options.split(), *arguments], seeds)
        wanted = jobs_of_environment()
    except BaselineError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    os.environ.pop("JOBS", None)  # from here on all cores are this loop's
    config, runs = models[0].config, [Runs(m.name, m.paths.run_log, [run_train(m.arguments)]) for m in models]
    may_differ = any(argument.split("=")[0] == "--use_ids" for argument in arguments)
    loop = Loop(runs, min(wanted or default_jobs(config), len(models)), may_differ)
    if loop.jobs > 1:
        print(f"{len(models)} models, {loop.jobs} at a time", flush=True)
    try:
        loop.run()
    except KeyboardInterrupt as stop:
        restart = ["--restart"] if config.train_only and not config.restart else []
        variable = f"SEEDS={shlex.quote(os.environ['SEEDS'])} " if seeds else ""
        print(f"interrupted. To go on: {variable}{shlex.join([script, *given, *restart])}", file=sys.stderr)
        return exit_status(stop)
    return 1 if loop.report_failures(script) else 0


if __name__ == "__main__":
    catch_signals()
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt as stop:
        sys.exit(exit_status(stop))
    except BrokenPipeError:  # `| head` has seen enough
        sys.exit(1)
