"""Several processes at work on one thing: the same results, in order, and none is left behind."""

import os
import signal
import subprocess
import sys
import threading
import time

import joblib
import numpy as np
import pytest
from conftest import ROOT, write_wav

from config import BaselineError, load_config
from datasets import workers
from datasets.clips import parse_clip
from datasets.feature_cache import compute_log_mels
from datasets.workers import cores, fill

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="one process does it all elsewhere")


def nothing():
    pass


def with_process(item):
    return np.array([item, os.getpid()])


def refuse(item):
    if item == 50:
        raise BaselineError("item 50 is bad")
    return with_process(item)


def end(item):
    if item == 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return with_process(item)


def end_while_sending(item):
    if item == 50:
        threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGKILL)).start()
    return np.zeros(LARGE)


def end_all(item):
    if item == 50:
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(10)
    return with_process(item)


def fill_all(function, n=100, prepare=nothing):
    """Numbers in the order of their coming; (n, 2) item and process."""
    filled = np.zeros((n, 2), int)
    return list(fill(list(filled), function, range(n), prepare)), filled


LARGE = 300_000  # more than a pipe holds: 2.4 MB


def stumble():
    raise BaselineError("nothing can be prepared")


@pytest.fixture
def three_cores(monkeypatch):
    monkeypatch.setattr(workers, "cores", lambda: 3)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    directory = tmp_path_factory.mktemp("clips") / "train"
    names = [directory / f"section_00_{number:04}.wav" for number in range(101)]
    return [parse_clip(write_wav(name, seconds=0.3 + 0.01 * (k % 7))) for k, name in enumerate(names)]


@linux_only
def test_several_processes_give_the_same_features(monkeypatch, clips, three_cores):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
    several = compute_log_mels(clips, config, 1)
    monkeypatch.setattr(workers, "cores", lambda: 1)
    alone = compute_log_mels(clips, config, 1)
    assert np.array_equal(several.frames, alone.frames)
    assert np.array_equal(several.lengths, alone.lengths)


@linux_only
def test_results_are_of_several_processes(three_cores):
    numbers, filled = fill_all(with_process)
    assert sorted(numbers) == filled[:, 0].tolist() == list(range(100))
    processes = set(filled[:, 1].tolist())
    assert len(processes) == 3
    assert os.getpid() not in processes
    for process in processes:
        with pytest.raises(ProcessLookupError):  # they have ended
            os.kill(process, 0)


@pytest.mark.parametrize(("items", "platform"), [(30, "linux"), (100, "darwin")])
def test_few_items_and_other_systems_take_this_process(monkeypatch, three_cores, items, platform):
    monkeypatch.setattr(sys, "platform", platform)
    numbers, filled = fill_all(with_process, items)
    assert numbers == filled[:, 0].tolist() == list(range(items))
    assert set(filled[:, 1].tolist()) == {os.getpid()}


@linux_only
def test_what_goes_wrong_is_said(three_cores):
    with pytest.raises(BaselineError, match="item 50 is bad"):
        fill_all(refuse)
    with pytest.raises(BaselineError, match="nothing can be prepared"):
        fill_all(with_process, prepare=stumble)


@linux_only
@pytest.mark.parametrize("function", [end, end_all])
def test_a_killed_process_is_said(three_cores, function):
    with pytest.raises(BaselineError, match="was killed"):
        fill_all(function)


@linux_only
def test_a_process_killed_while_it_sends_is_said(three_cores):
    arrays = [np.empty(LARGE) for _ in range(100)]
    with pytest.raises(BaselineError, match="was killed"):
        for number in fill(arrays, end_while_sending, range(100), nothing):
            time.sleep(1 if number == 47 else 0)  # the same process's item before: 50 waits half sent


@linux_only
@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_one_that_started_them(tmp_path, signal_number):
    program = f"""
import os, pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
import numpy
from datasets import workers
workers.cores = lambda: 2
def work(item):
    pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
    time.sleep(0.5)
    return numpy.zeros(2)
try:
    list(workers.fill(list(numpy.zeros((2000, 2))), work, range(2000), lambda: None))
except KeyboardInterrupt:
    sys.exit(130)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    if signal_number == signal.SIGINT:
        os.killpg(process.pid, signal_number)  # as Ctrl-C does
    else:
        process.kill()
    _, errors = process.communicate(timeout=30)
    assert "Traceback" not in errors
    assert process.returncode in (130, -signal.SIGKILL)
    for path in tmp_path.iterdir():
        while os.path.exists(f"/proc/{path.name}/exe"):  # noqa: PTH110 - a zombie has none
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_two_runs_at_once_compute_features_once(tmp_path, clips):
    program = f"""
import pathlib, sys, time
sys.path.insert(0, {str(ROOT)!r})
from config import load_config
from datasets import feature_cache as features
from datasets.clips import parse_clip
compute = features.compute_log_mels
def counted(*arguments):
    with open({str(tmp_path / "count")!r}, "a") as file:
        file.write("x")
    time.sleep(1)
    return compute(*arguments)
features.compute_log_mels = counted
clips = [parse_clip(pathlib.Path(name)) for name in {[str(clip.path) for clip in clips[:3]]!r}]
config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
print(float(features.load_log_mels(clips, config, 1, pathlib.Path({str(tmp_path / "cache")!r})).frames.sum()))
"""
    runs = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = [run.communicate(timeout=60)[0] for run in runs]
    assert sums[0] == sums[1] != ""
    assert (tmp_path / "count").read_text() == "x"


@pytest.mark.parametrize(("jobs", "share"), [("1", 12), ("", 12), ("4", 3), ("5", 2), ("40", 1), ("0", 12), ("x", 12)])
def test_cores_are_shared_among_jobs(monkeypatch, jobs, share):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.delenv("SLURM_CPUS_ON_NODE", raising=False)
    monkeypatch.setenv("JOBS", jobs)
    assert cores() == share


@pytest.mark.parametrize(("allocated", "share"), [("1", 1), ("6", 3), ("64", 6), ("", 6)])
def test_cores_are_those_of_the_allocation(monkeypatch, allocated, share):
    monkeypatch.setattr(joblib, "cpu_count", lambda: 12)
    monkeypatch.setenv("JOBS", "2")
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", allocated)
    assert cores() == share
