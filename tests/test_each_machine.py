"""The loop over machine types: what runs, how many at a time, what is shown, and how it ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from conftest import ROOT

from config import seeds_of_environment
from datasets.catalog import find_dataset
from tools import each_machine
from tools.each_machine import Loop, Runs, default_jobs, find_models, run_train

TRAIN = ["--train_only", "-d"]


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code]


def loop(tmp_path, jobs, may_differ=False, **programs):
    runs = [Runs(name, tmp_path / f"{name}.log", [python(code)]) for name, code in programs.items()]
    return Loop(runs, jobs, may_differ)


def test_one_model_for_each_machine_type_or_section():
    models = find_models(find_dataset("DCASE2024T2"), "dev", TRAIN)
    assert [model.name for model in models] == ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"]
    assert run_train(models[3].arguments)[1:] == [str(ROOT / "train.py"), "--dataset", "DCASE2024T2fan", *TRAIN]
    assert models[3].paths.run_log.as_posix().endswith("models/baseline/dev_data/DCASE2024T2/seed13711/fan/train.log")
    models = find_models(find_dataset("DCASE2020T2"), "dev", TRAIN)
    assert len(models) == 4 * 4 + 4 + 3
    assert "fan_section_06" in [model.name for model in models]
    assert models[0].arguments[-2] == "--use_ids"
    models = find_models(find_dataset("DCASE2020T2"), "dev", [*TRAIN, "--use_ids", "0", "2"])
    assert len(models) == 6  # one of these sections for each machine type; some do not have them, and will say so


def test_a_test_script_takes_another_score():
    arguments = ["-d", "--score", "MAHALA_FRAME"]
    each_machine.check_arguments(arguments, "--test_only --score MAHALA")
    models = find_models(find_dataset("DCASE2024T2"), "dev", ["--test_only", "--score", "MAHALA", *arguments])
    config = models[0].config
    assert (config.score, config.test_only) == ("MAHALA_FRAME", True)


def test_all_models_of_each_seed():
    models = find_models(find_dataset("DCASE2024T2"), "dev", TRAIN, (1, 2))
    assert [model.name for model in models[6:8]] == ["valve seed 1", "ToyCar seed 2"]
    assert models[7].arguments[-2:] == ["--seed", "2"]
    assert "/seed2/ToyCar/" in models[7].paths.run_log.as_posix()
    models = find_models(find_dataset("DCASE2022T2"), "dev", TRAIN, (1, 2))
    assert models[-1].name == "valve_section_02 seed 2"
    assert models[-1].arguments[-4:] == ["--seed", "2", "--use_ids", "02"]


@pytest.mark.parametrize(("text", "seeds"), [("", ()), ("1 2 1", (1, 2)), (" 3, 010,5", (3, 10, 5))])
def test_seeds_of_the_environment(monkeypatch, text, seeds):
    monkeypatch.setenv("SEEDS", text)
    assert seeds_of_environment() == seeds


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ("1 two", [], "SEEDS: 'two' is not allowed; expected integer."),
        ("1 -2", [], "SEEDS: -2 is out of range"),
        ("1 2", ["--seed", "3"], "--seed: the environment has SEEDS='1 2'. Give one of them."),
        ("1 2", ["--seed=3"], "--seed=3: the environment has SEEDS='1 2'. Give one of them."),
    ],
)
def test_wrong_seeds(monkeypatch, capsys, text, arguments, words):
    monkeypatch.setenv("SEEDS", text)
    assert each_machine.main("01.sh", "Trains", "DCASE2024T2", "--train_only", "-d", *arguments) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("jobs", [1, 2])
def test_failures_are_collected(tmp_path, capfd, jobs):
    runs = loop(
        tmp_path,
        jobs,
        good="print('early'); print('good: done')",
        bad="import sys; print('bad: error: why', file=sys.stderr); sys.exit(1)",
        killed="import os; os.kill(os.getpid(), 9)",
        last="print('last: done')",
    )
    (tmp_path / "bad.log").touch()
    runs.run()
    assert runs.statuses == {"good": 0, "bad": 1, "killed": -9, "last": 0}
    assert runs.report_failures("01.sh")
    out, err = capfd.readouterr()
    shown = ["early"] if jobs == 1 else []  # side by side, each has one line: its last
    assert sorted(out.splitlines()) == sorted([*shown, "good: done", "last: done"])
    assert err == (
        "bad: error: why\n01.sh: failed:\n"
        f"  bad (exit status 1), log: {tmp_path / 'bad.log'}\n  killed (killed by signal 9), log: none\n"
    )


def test_all_well_reports_nothing(tmp_path, capfd):
    runs = loop(tmp_path, 1, good="pass")
    runs.run()
    assert not runs.report_failures("01.sh")
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize(("statuses", "begun"), [((0, 0), 2), ((0, 3), 2), ((3, 0), 1)])
def test_runs_of_a_model_follow_one_another_until_one_fails(tmp_path, jobs, statuses, begun):
    commands = [
        python(f"open({str(tmp_path / 'begun')!r}, 'a').write('x'); raise SystemExit({each})") for each in statuses
    ]
    runs = Loop([Runs("fan", tmp_path / "log", commands)], jobs, False)
    runs.run()
    assert (tmp_path / "begun").read_text() == begun * "x"
    assert runs.statuses == {"fan": max(statuses)}


def test_a_program_that_cannot_be_started(tmp_path, capfd):
    runs = Loop([Runs("fan", tmp_path / "log", [["/no/such/python"]])], 1, False)
    runs.run()
    assert runs.report_failures("01.sh")
    assert "error: fan: cannot be started: [Errno 2] No such file" in capfd.readouterr().err


@pytest.mark.parametrize(
    ("status", "may_differ", "goes_on"), [(2, False, False), (2, True, True), (130, True, False), (1, False, True)]
)
def test_what_ends_the_loop(tmp_path, capfd, status, may_differ, goes_on):
    """An option that is wrong for all, and an interruption; not a failure."""
    runs = loop(tmp_path, 1, may_differ, first=f"raise SystemExit({status})", second="pass")
    runs.run()
    assert ("second" in runs.statuses) == goes_on
    runs.report_failures("01.sh")
    assert ("second (not run)" in capfd.readouterr().err) != goes_on


def test_so_many_at_a_time(tmp_path):
    """Three run at a time when each waits for the two others; the cores are shared among them."""
    code = f"""
import os, pathlib, time
here = pathlib.Path({str(tmp_path)!r})
(here / str(os.getpid())).touch()
while len(list(here.iterdir())) < 3: time.sleep(0.01)
assert os.environ["JOBS"] == "3"
"""
    runs = loop(tmp_path, 3, a=code, b=code, c=code)
    runs.run()
    assert runs.statuses == dict.fromkeys("abc", 0)


@pytest.mark.parametrize("signal_number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_loop_alone_ends_all_runs(tmp_path, signal_number):
    program = f"""
import signal, sys, pathlib
sys.path.insert(0, {str(ROOT)!r})
from tools.each_machine import *
catch_signals()
code = "import os, pathlib, time; pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch(); time.sleep(60)"
models = [Runs(name, pathlib.Path(name), [[sys.executable, "-c", code]]) for name in "abc"]
try:
    Loop(models, 2, False).run()
except Interrupted as stop:
    sys.exit(stop.status)
"""
    process = subprocess.Popen(python(program), stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 30
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    assert process.returncode == 128 + signal_number
    runs = [int(path.name) for path in tmp_path.iterdir()]
    assert len(runs) == 2  # the third was not started
    for run in runs:
        with pytest.raises(ProcessLookupError):
            os.kill(run, 0)


def test_default_number_of_jobs(monkeypatch):
    config = find_models(find_dataset("DCASE2024T2"), "dev", TRAIN)[0].config
    monkeypatch.setattr(each_machine, "cores", lambda: 6)
    monkeypatch.setattr(each_machine.shutil, "which", lambda _: None)
    for memory, jobs in ((64e9, 6), (float("inf"), 6), (3.3e9, 4), (1e8, 1)):
        monkeypatch.setattr(each_machine, "_available_memory", lambda memory=memory: memory)
        assert default_jobs(config) == jobs
    monkeypatch.setattr(each_machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert default_jobs(config) == each_machine.JOBS_ON_A_GPU


def test_available_memory_is_some_of_what_there_is():
    assert 1e7 < each_machine._available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_a_run_that_ignores_signals_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(each_machine, "SECONDS_TO_END", 0.3)
    code = f"""
import pathlib, signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
pathlib.Path({str(tmp_path)!r}, "started").touch()
time.sleep(60)
"""
    runs = loop(tmp_path, 1, a=code)
    threading.Thread(target=interrupt_when, args=(tmp_path / "started",)).start()
    with pytest.raises(KeyboardInterrupt):
        runs.run()
    assert runs.statuses == {"a": -signal.SIGKILL}


def interrupt_when(path):
    while not path.exists():
        time.sleep(0.02)
    os.kill(os.getpid(), signal.SIGINT)


def test_lines_on_a_terminal(tmp_path):
    """On a terminal a run's line changes as it says more, and is at the end replaced by its last word."""
    import fcntl
    import pty
    import struct
    import termios

    program = f"""
import sys, pathlib
sys.path.insert(0, {str(ROOT)!r})
from tools.each_machine import Loop, Runs
code = "import time; print('NAME: epoch 1', flush=True); time.sleep(0.5); print('NAME: trained', flush=True)"
models = [Runs(n, pathlib.Path(n), [[sys.executable, "-c", code.replace("NAME", n)]]) for n in ("fan", "valve")]
Loop(models, 2, False).run()
"""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    process = subprocess.Popen(python(program), stdout=side, stderr=side)
    os.close(side)
    shown = bytearray()

    def read():
        while True:
            try:
                shown.extend(os.read(main, 1000))
            except OSError:  # the other side is closed
                return

    reader = threading.Thread(target=read)
    reader.start()
    assert process.wait(30) == 0
    reader.join(10)
    os.close(main)
    text = shown.decode()
    for name in ("fan", "valve"):
        assert f"{name}: epoch 1" in text
        assert f"{name}: trained\r\n" in text
