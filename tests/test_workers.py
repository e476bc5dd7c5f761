"""Many items: another process computes them with threads. Results are the same, in order; no process is left."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time

import joblib
import numpy as np
import pytest
from conftest import ROOT, write_wav
from threadpoolctl import threadpool_info

from config import BaselineError, cores, load_config
from datasets import feature_cache, workers
from datasets.clips import parse_clip
from datasets.feature_cache import compute_log_mels, load_log_mels
from datasets.workers import compute_all

CONFIG = load_config(["--dataset", "DCASE2024T2fan", "-d"])


def describe(item):
    """The item, the process, and the threads of BLAS."""
    time.sleep(0.001)
    return item, os.getpid(), {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


def refuse(item):
    if item == 50:
        raise BaselineError("item 50 is bad")
    return np.zeros(20_000)  # more than a pipe holds


def fail(item):
    return 1 / (item - 50)


def end(item):
    if item == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return np.zeros(20_000)


def take_long(item):
    time.sleep(60 * (item > 0))


def work(item):
    print("working", flush=True)
    time.sleep(0.1)


@pytest.fixture(autouse=True)
def functions_of_this_file(monkeypatch):
    """Let the other process import this file."""
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{ROOT / 'tests'}")


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clips") / "train"
    names = [directory / f"section_00_{number:04}.wav" for number in range(65)]
    return [parse_clip(write_wav(name, seconds=0.3 + 0.1 * (k % 7))) for k, name in enumerate(names)]


def test_another_process_gives_the_same_features(monkeypatch, clips, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("PYTHONPATH")
    monkeypatch.chdir(tmp_path)  # the project is found from anywhere
    other_process = compute_log_mels(clips, CONFIG, 1)
    monkeypatch.setattr(workers, "MIN_ITEMS", 1000)
    this_process = compute_log_mels(clips, CONFIG, 1)
    assert np.array_equal(other_process.frames, this_process.frames)
    assert np.array_equal(other_process.lengths, this_process.lengths)


@pytest.mark.parametrize(("n", "is_here"), [(31, True), (100, False)])
def test_results_are_in_order_and_many_are_from_another_process(n, is_here):
    items, processes, threads = zip(*compute_all(describe, range(n)), strict=True)
    assert items == tuple(range(n))
    assert len(set(processes)) == 1
    assert (processes[0] == os.getpid()) == is_here
    assert all(numbers == {1} for numbers in threads)
    if not is_here:
        with pytest.raises(ProcessLookupError):  # it has ended
            os.kill(processes[0], 0)


def test_threads_are_as_many_as_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)
    started = time.monotonic()
    list(compute_all(time.sleep, [0.05] * 61))  # one by one: 3 seconds
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    ("function", "words"), [(refuse, "item 50 is bad"), (end, "was killed"), (fail, "stopped unexpectedly")]
)
def test_errors_are_reported(function, words, capfd):
    with pytest.raises(BaselineError, match=words):
        list(compute_all(function, range(2000)))
    assert ("ZeroDivisionError" in capfd.readouterr().err) == (function is fail)  # of a function that somebody edits


def test_the_other_process_is_not_waited_for():
    results = compute_all(take_long, range(100))
    next(results)
    started = time.monotonic()
    results.close()
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_the_other_process_ends_with_the_one_that_started_it(number):
    program = "import test_workers as t; list(t.compute_all(t.work, range(2000)))"
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout.readline() == "working\n"
    os.killpg(process.pid, number)  # as Ctrl-C does
    _, errors = process.communicate(timeout=60)  # until both have ended, and closed their output
    assert process.returncode == -number
    assert errors.count("Traceback") == (number == signal.SIGINT)  # that of `program`


def test_two_runs_at_once_compute_features_once(tmp_path, monkeypatch, clips):
    def counted(*arguments):
        with (tmp_path / "count").open("a") as file:
            file.write("x")
        time.sleep(1)
        return compute_log_mels(*arguments)

    monkeypatch.setattr(feature_cache, "compute_log_mels", counted)
    arguments = (clips[:3], CONFIG, 1, tmp_path / "cache")
    runs = [multiprocessing.get_context("fork").Process(target=load_log_mels, args=arguments) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(60)
    assert [run.exitcode for run in runs] == [0, 0]
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize(
    ("jobs", "allocated", "share"),
    [("", "", 12), ("5", "", 2), ("40", "", 1), ("0", "", 12), ("x", "", 12), ("2", "6", 3), ("2", "64", 6)],
)
def test_cores_are_shared_among_jobs_of_the_allocation(monkeypatch, jobs, allocated, share):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.setenv("JOBS", jobs)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", allocated)
    assert cores() == share
