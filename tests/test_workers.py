"""Many items: another process computes them with threads. Results are the same, in order; no process is left."""

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
from datasets import workers
from datasets.clips import parse_clip
from datasets.feature_cache import compute_log_mels
from datasets.workers import compute_all


def describe(item):
    """The item, the process, and the threads of BLAS."""
    print("what a function prints does no harm")
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


@pytest.fixture(autouse=True)
def functions_of_this_file(monkeypatch):
    """Let the other process import this file."""
    monkeypatch.setenv("PYTHONPATH", os.path.dirname(__file__))  # noqa: PTH120


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clips") / "train"
    names = [directory / f"section_00_{number:04}.wav" for number in range(65)]
    return [parse_clip(write_wav(name, seconds=0.3 + 0.1 * (k % 7))) for k, name in enumerate(names)]


def test_another_process_gives_the_same_features(monkeypatch, clips, tmp_path):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.setenv("JOBS", "")
    monkeypatch.chdir(tmp_path)  # the project is found from anywhere
    config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
    other_process = compute_log_mels(clips, config, 1)
    monkeypatch.setattr(workers, "LEAST", 1000)
    this_process = compute_log_mels(clips, config, 1)
    assert np.array_equal(other_process.frames, this_process.frames)
    assert np.array_equal(other_process.lengths, this_process.lengths)


@pytest.mark.parametrize(("n", "is_here"), [(31, True), (32, False), (100, False)])
def test_results_are_in_order_and_many_are_from_another_process(n, is_here):
    results = list(compute_all(describe, range(n)))
    assert [item for item, _, _ in results] == list(range(n))
    (process,) = {process for _, process, _ in results}
    assert (process == os.getpid()) == is_here
    assert all(threads == {1} for _, _, threads in results)
    if not is_here:
        with pytest.raises(ProcessLookupError):  # it has ended
            os.kill(process, 0)


def test_threads_are_as_many_as_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)
    started = time.monotonic()
    list(compute_all(time.sleep, [0.05] * 61))  # one by one: 3 seconds
    assert time.monotonic() - started < 2.5


@pytest.mark.parametrize(
    ("function", "words"), [(refuse, "item 50 is bad"), (end, "was killed"), (fail, "ended too early")]
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


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_the_other_process_ends_with_the_one_that_started_it(tmp_path, number):
    program = f"""
import os, signal, sys
sys.path[:0] = [{str(ROOT)!r}, {str(tmp_path)!r}]
from datasets.workers import compute_all
from slow import work
signal.signal(signal.SIGTERM, signal.default_int_handler)
try:
    list(compute_all(work, range(2000)))
except KeyboardInterrupt:
    sys.exit(130)
"""
    (tmp_path / "slow.py").write_text(
        "import os, pathlib, time\n"
        "def work(item):\n"
        f"    pathlib.Path({str(tmp_path)!r}, 'process').write_text(str(os.getpid()))\n"
        "    time.sleep(0.1)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "process").exists() or not (child := (tmp_path / "process").read_text()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as Ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert "Traceback" not in errors
    assert process.returncode == (-number if number == signal.SIGKILL else 130)
    while os.path.exists(f"/proc/{child}/exe"):  # noqa: PTH110 - a zombie has none
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_runs_at_once_compute_features_once(tmp_path, clips):
    program = f"""
import pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
from config import load_config
from datasets import feature_cache
from datasets.clips import parse_clip
compute = feature_cache.compute_log_mels
def counted(*arguments):
    with open({str(tmp_path / "count")!r}, "a") as file:
        file.write("x")
    time.sleep(1)
    return compute(*arguments)
feature_cache.compute_log_mels = counted
clips = [parse_clip(pathlib.Path(name)) for name in {[str(clip.path) for clip in clips[:3]]!r}]
config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
print(float(feature_cache.load_log_mels(clips, config, 1, pathlib.Path({str(tmp_path / "cache")!r})).frames.sum()))
"""
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [run.communicate(timeout=60)[0] for run in runs]
    assert sums[0] == sums[1] != ""
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize(
    ("jobs", "allocated", "share"),
    [
        *[("1", "", 12), ("", "", 12), ("4", "", 3), ("5", "", 2), ("40", "", 1), ("0", "", 12), ("x", "", 12)],
        *[("2", "1", 1), ("2", "6", 3), ("2", "64", 6)],
    ],
)
def test_cores_are_shared_among_jobs_of_the_allocation(monkeypatch, jobs, allocated, share):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.setenv("JOBS", jobs)
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", allocated)
    assert cores() == share
