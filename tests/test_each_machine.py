"""The loop over machine types: what runs, how many at a time, what is shown, and how it ends."""

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time

import pytest
import torch
from conftest import ROOT

from config import UsageError, seeds_of_environment
from datasets.catalog import find_dataset
from tools import each_machine
from tools.each_machine import count_jobs, find_models, join_options, main, print_plan, run_side_by_side, train_command

TRAIN = ["--train_only", "-d"]
# A program that runs two of three commands at a time, ends with the loop's exit status, and is sent signals.
LOOP = """
import sys
sys.path.insert(0, {root!r})
from tools.each_machine import run_side_by_side
from tools.training.console import run_command
commands = {{name: [sys.executable, "-c", {code!r}.replace("NAME", name)] for name in ("fan", "valve", "bearing")}}
sys.exit(run_command(lambda: print(run_side_by_side(commands, 2))))
"""


def run(jobs, **programs):
    return run_side_by_side({name: [sys.executable, "-c", code] for name, code in programs.items()}, jobs)


def start_loop(code, **options):
    return subprocess.Popen([sys.executable, "-c", LOOP.format(root=str(ROOT), code=code)], **options)


def test_one_model_for_each_machine_type_or_section():
    models = find_models(find_dataset("DCASE2024T2"), TRAIN)
    assert [model.name for model in models] == ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"]
    command = train_command(models[3].config)
    assert command[1:3] == [str(ROOT / "train.py"), "--dataset=DCASE2024T2fan"]
    assert {"--train_only", "--dev", "--epochs=100"} <= {*command}
    assert models[3].log.as_posix().endswith("models/baseline/dev_data/DCASE2024T2/seed13711/fan/train.log")
    assert find_models(find_dataset("DCASE2024T2"), ["--train_only", "-e"])[0].config.split == "eval"
    models = find_models(find_dataset("DCASE2020T2"), TRAIN)
    assert len(models) == 4 * 4 + 4 + 3
    assert next(model for model in models if model.name == "fan_section_06").config.use_ids == (6,)
    models = find_models(find_dataset("DCASE2020T2"), [*TRAIN, "--use_ids", "0", "2"])
    assert len(models) == 6  # one for each machine type; some do not have these sections, and their run says so
    assert {model.config.use_ids for model in models} == {(0, 2)}


def test_all_models_with_each_seed():
    models = find_models(find_dataset("DCASE2022T2"), TRAIN, (1, 2))
    assert models[-1].name == "valve_section_02 seed 2"
    assert (models[-1].config.seed, models[-1].config.use_ids) == (2, (2,))
    assert "/seed2/valve_section_02/" in models[-1].log.as_posix()
    assert models[len(models) // 2 - 1].name == "valve_section_02 seed 1"


@pytest.mark.parametrize(("text", "seeds"), [("", ()), ("1 2 1", (1, 2)), (" 3, 010,5", (3, 10, 5))])
def test_seeds_of_the_environment(monkeypatch, text, seeds):
    monkeypatch.setenv("SEEDS", text)
    assert seeds_of_environment() == seeds


@pytest.mark.parametrize(
    ("variable", "text", "arguments", "words"),
    [
        ("SEEDS", "1 two", [], "SEEDS: 'two' is not allowed; expected integer."),
        ("SEEDS", "1 -2", [], "SEEDS: -2 is out of range"),
        ("SEEDS", "1 2", ["--seed=3"], "--seed=3: SEEDS='1 2' is set, too. Use only one of them."),
        ("JOBS", "0", [], "JOBS must be a whole number, 1 or larger, not '0'."),
    ],
)
def test_wrong_variables(monkeypatch, capsys, variable, text, arguments, words):
    monkeypatch.setenv(variable, text)
    assert main("01.sh", "Trains", "DCASE2024T2", "--train_only", "-d", *arguments) == 2
    assert words in capsys.readouterr().err


def test_a_users_score_counts():
    own = "--test_only --score MSE"
    assert join_options(own, ["-d"]) == ["--test_only", "--score", "MSE", "-d"]
    for given in (["-d", "--score", "MAX"], ["-d", "--score=MAX"]):
        assert join_options(own, given) == ["--test_only", *given]


def test_a_plan_holds_no_password():
    with pytest.raises(UsageError, match="Slurm would store its password in a file. Put the password into ~/.netrc"):
        print_plan("DCASE2024T2", "-d", "--download_url", "https://me:pass@host")


def test_how_many_at_a_time(monkeypatch):
    config = find_models(find_dataset("DCASE2024T2"), TRAIN)[0].config
    assert 1e7 < each_machine.available_memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    monkeypatch.setattr(each_machine, "cores", lambda: 6)
    monkeypatch.setattr(each_machine.shutil, "which", lambda _: None)
    for memory, jobs in ((64e9, 6), (3.3e9, 4), (1e8, 1)):
        monkeypatch.setattr(each_machine, "available_memory", lambda memory=memory: memory)
        assert count_jobs(config) == jobs
    monkeypatch.setattr(each_machine, "available_memory", lambda: 64e9)
    monkeypatch.setattr(each_machine.shutil, "which", lambda name: f"/usr/bin/{name}")
    # A driver is there; PyTorch may be built without CUDA.
    for is_usable, jobs in ((True, each_machine.JOBS_ON_A_GPU), (False, 6)):
        monkeypatch.setattr(each_machine, "_finds_gpu", lambda is_usable=is_usable: is_usable)
        assert count_jobs(config) == jobs
    monkeypatch.undo()
    assert each_machine._finds_gpu() == torch.cuda.is_available()
    monkeypatch.setenv("JOBS", "5")
    assert count_jobs(config) == 5
    assert "JOBS" not in os.environ  # the runs' share of the cores is set for each


@pytest.mark.parametrize("jobs", [1, 2])
def test_output_and_exit_statuses(capfd, jobs):
    """Alone, a run has the terminal; side by side, its last line is printed. Errors are always printed."""
    statuses = run(
        jobs,
        good="print('early'); print('good: done')",
        bad="import sys; print('bad: error: why', file=sys.stderr); sys.exit(1)",
        killed="import os; os.kill(os.getpid(), 9)",
        last=f"import os; assert (os.environ['JOBS'], os.environ['NAME_IN_LOOP']) == ('{jobs}', 'last')",
    )
    assert statuses == {"good": 0, "bad": 1, "killed": -9, "last": 0}
    out, err = capfd.readouterr()
    assert out.splitlines() == [*(["early"] if jobs == 1 else []), "good: done"]
    assert err == "bad: error: why\n"


def test_failed_models_are_named(monkeypatch, capsys):
    monkeypatch.setenv("JOBS", "1")
    code = "import os; os.environ['NAME_IN_LOOP'] == 'fan' and os.kill(os.getpid(), 9); raise SystemExit(3)"
    monkeypatch.setattr(each_machine, "train_command", lambda _: [sys.executable, "-c", code])
    assert main("01.sh", "Trains", "DCASE2024T2", "--train_only", "-d", "-tag", "never") == 1
    names = ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"]
    reasons = {"fan": "killed by signal 9"}
    lines = [f"  {name} ({reasons.get(name, 'exit status 3')}), log: none" for name in names]
    assert capsys.readouterr().err.splitlines() == ["01.sh: failed:", *lines]


def test_so_many_at_a_time(tmp_path):
    """Three run at a time if each waits for the two others."""
    here = f"__import__('pathlib').Path({str(tmp_path)!r})"
    code = f"import os; ({here} / str(os.getpid())).touch()\nwhile len(list({here}.iterdir())) < 3: pass"
    assert run(3, a=code, b=code, c=code) == dict.fromkeys("abc", 0)


@pytest.mark.parametrize("is_stubborn", [False, True])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_to_the_loop_ends_all_runs(tmp_path, number, is_stubborn):
    ignore = "for n in (signal.SIGINT, signal.SIGTERM): signal.signal(n, signal.SIG_IGN)" if is_stubborn else "pass"
    code = f"""
import os, pathlib, signal, time
{ignore}
pathlib.Path({str(tmp_path)!r}, str(os.getpid())).touch()
time.sleep(100)
"""
    process = start_loop(code, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list(tmp_path.iterdir())) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert "Traceback" not in errors
    runs = [int(path.name) for path in tmp_path.iterdir()]
    assert len(runs) == 2  # the third was not started
    for process_id in runs:
        with pytest.raises(ProcessLookupError):
            os.kill(process_id, 0)


def test_lines_on_a_terminal():
    """The line of a run changes with its output. In the end its last line is printed."""
    terminal, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))  # rows, columns
    code = "import time; print('NAME: epoch 1', flush=True); time.sleep(0.5); print('NAME: trained')"
    process = start_loop(code, stdout=side, stderr=side)
    os.close(side)
    shown = b""
    with contextlib.suppress(OSError):  # the other side is closed
        while part := os.read(terminal, 1000):
            shown += part
    os.close(terminal)
    assert process.wait(30) == 0
    for name in ("fan", "valve", "bearing"):
        assert f"{name}: epoch 1" in shown.decode()
        assert f"{name}: trained\r\n" in shown.decode()
