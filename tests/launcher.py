"""Runs of train.py and the summary as forked processes, which spares them the seconds of their imports.

Reads a JSON list of runs from each line of standard input, starts them together, and writes a JSON list of what became
of them: [exit status, seconds]. A run is {"arguments": [...], "output": path} with, where it is to be killed,
"kill_after" (seconds from its start) or "kill_at" (the number of the file operation that it does not live to see).
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import librosa
import matplotlib.backends.backend_agg  # noqa: F401
import numpy as np
import scipy.stats  # noqa: F401
import sklearn.metrics
import sklearn.model_selection  # noqa: F401
import soundfile  # noqa: F401

import train
from config import BaselineError, load_config
from datasets import download, feature_cache, frames  # noqa: F401
from datasets.catalog import find_machine
from tools import summarize
from tools.results import machine_results, plots, summary, tables  # noqa: F401
from tools.training import checkpoint, device, fast_step, model_files, trained_model  # noqa: F401


def run(arguments: list[str]) -> int:
    try:
        if arguments[0] == "DCASE2024T2":
            summarize.main(arguments)
        else:
            config = load_config(arguments)
            train.run(config, find_machine(config.dataset, config.split))
    except BaselineError:
        return 1
    return 0


def die_at(operation: int) -> None:
    """Kill this process before its n-th renaming, or flushing of a file to the disk."""
    count = 0

    def counted(function):
        def call(*arguments):
            nonlocal count
            count += 1
            if count == operation:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*arguments)

        return call

    os.fsync, Path.replace = counted(os.fsync), counted(Path.replace)


def start(job: dict) -> int:
    process = os.fork()
    if process:
        return process
    status = 70
    try:
        os.setsid()
        output = os.open(job["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        if "kill_at" in job:
            die_at(job["kill_at"])
        status = run(job["arguments"])
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def wait(process: int, job: dict, begun: float) -> list:
    if "kill_after" in job:
        time.sleep(max(0, begun + job["kill_after"] - time.monotonic()))
        os.kill(process, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
    seconds = time.monotonic() - begun
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:  # no process of its may outlive it
        try:
            os.killpg(process, 0)
        except ProcessLookupError:
            return [status, seconds]
        time.sleep(0.01)
    return ["a process that it started is still there", seconds]


librosa.stft(np.zeros(4096, np.float32))  # what is imported at the first call
for line in sys.stdin:
    jobs, now = json.loads(line), time.monotonic()
    processes = [start(job) for job in jobs]
    print(json.dumps([wait(process, job, now) for process, job in zip(processes, jobs, strict=True)]), flush=True)
