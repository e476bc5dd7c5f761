"""Sweeps without Slurm: what would be submitted, what is done, and what a task makes of its end.

Slurm's commands are stand-ins here that take notes; tests/test_slurm_cluster.py has the real ones.
"""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import RAW, Workspace

from config import load_config
from tools.each_machine import find_models
from tools.slurm import commands, submit, task
from tools.slurm.sweep import ATTEMPT, GIVEN_UP, Submission, ended_without_a_word, last_error, runs_of

STAND_INS = {
    "sbatch": """
print(*map(repr, sys.argv[1:]), file=open(here / "calls", "a"))
if (here / "refuse").exists() and len(jobs()) > int((here / "refuse").read_text()):
    sys.exit("sbatch: error: Batch job submission failed: Job violates accounting/QOS policy")
print("Welcome to the cluster")
print(f"{len(jobs())};cluster")
""",
    "squeue": 'print((here / "queue").read_text(), end="") if (here / "queue").exists() else None',
    "scontrol": """
print(*map(repr, sys.argv[1:]), file=open(here / "calls", "a")) if sys.argv[1] == "requeue" else None
print("MaxArraySize            = 4")
""",
}


class FakeSlurm:
    """Stand-ins for Slurm's commands, and what they were called with."""

    def __init__(self, directory: Path):
        self.directory = directory
        for name, code in STAND_INS.items():
            path = directory / "bin" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(
                f"#!{sys.executable}\nimport pathlib, sys\nhere = pathlib.Path({str(directory)!r})\n"
                f"jobs = lambda: (here / 'calls').read_text().splitlines()\n{code}"
            )
            path.chmod(0o755)

    @property
    def calls(self) -> list[list[str]]:
        path = self.directory / "calls"
        return [shlex.split(line) for line in path.read_text().splitlines()] if path.exists() else []

    def queue(self, *lines: str) -> None:
        (self.directory / "queue").write_text("".join(f"{line}\n" for line in lines))

    def refuse_after(self, jobs: int) -> None:
        (self.directory / "refuse").write_text(str(jobs))


@pytest.fixture
def slurm(tmp_path, monkeypatch) -> FakeSlurm:
    made = FakeSlurm(tmp_path / "slurm of 100 %")
    monkeypatch.setenv("PATH", f"{made.directory / 'bin'}:{os.environ['PATH']}")
    for name in (*commands.VARIABLES.values(), "SEEDS", "JOBS", "SBATCH_MEM_PER_CPU"):
        monkeypatch.delenv(name, raising=False)
    return made


@pytest.fixture
def own(trained, tmp_path) -> Workspace:
    """A workspace with a copy of the trained fan, of three epochs and the default seed."""
    workspace = Workspace(tmp_path / "my models", trained.data)
    shutil.copytree(trained.models, workspace.models)
    shutil.copytree(trained.results, workspace.results)
    return workspace


def sweep(workspace: Workspace, *arguments: str, epochs: int = 3) -> int:
    return submit.main("slurm_sweep.sh", "DCASE2024T2", "-d", *arguments, "--epochs", str(epochs), *workspace.options)


def submissions(workspace: Workspace) -> list[Submission]:
    found = workspace.models.glob("baseline/*/*/slurm/*/sweep.json")
    return [Submission.read(path.parent) for path in sorted(found, key=lambda path: path.stat().st_mtime)]


def names(submission: Submission) -> list[list[str]]:
    return [[model.name for model in each] for each in submission.tasks]


# --- What is submitted


def test_what_is_submitted(slurm, workspace, demo_data, capsys, monkeypatch):
    workspace.data = demo_data
    monkeypatch.setenv("SEEDS", "1 2")
    assert sweep(workspace, "-tag", "it's") == 0
    (made,) = submissions(workspace)
    assert names(made) == [["fan seed 1"], ["valve seed 1"], ["fan seed 2"], ["valve seed 2"]]
    array, summary = slurm.calls
    assert {f"--job-name={made.name}", "--array=0-3", "--requeue", "--open-mode=append", "--cpus-per-task=1"} <= set(
        array
    )
    assert f"--output={str(made.directory).replace('%', '%%')}/task_%a.log" in array
    program, *arguments = shlex.split(array[-1].removeprefix("exec "))
    assert (program, arguments[-2:]) == (sys.executable, ["train_and_test", str(made.directory)])
    assert {"--dependency=afterany:1", f"--job-name={made.name}_summary"} <= set(summary)
    assert not any("--array" in option for option in summary)
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:2] == [
        "DCASE2024T2 dev, 14 models: 14 missing",
        "submitted 4 models, 4 tasks: job 1; after them the summary: job 2",
    ]
    assert "SEEDS='1 2' slurm_sweep.sh DCASE2024T2 -d -tag 'it'\"'\"'s'" in captured.out
    assert "warning: left out are ToyCar ToyTrain bearing gearbox slider. " in captured.err


def test_parameters_are_those_of_the_submission(slurm, workspace, demo_data):
    workspace.data = demo_data
    assert sweep(workspace, "-lr", "0.01", "--use_ids", "0") == 0
    (made,) = submissions(workspace)
    planned, options = made.tasks[0][0], ["-lr", "0.01", "--use_ids", "0", "--epochs", "3", *workspace.options]
    assert planned.model().config == load_config(["--dataset", "DCASE2024T2fan", "-d", *options])
    assert planned.model().paths.model_dir == workspace.model()
    assert "--batch_size=256" in planned.arguments  # though nobody has named it


def test_runs_of_a_task_are_those_of_01_02a_and_02b(workspace):
    from datasets.catalog import find_dataset

    def runs(*options: str):
        model = find_models(find_dataset("DCASE2024T2"), "dev", ["-d", *workspace.options, *options])[3]
        return [(run.train_only, run.test_only, run.restart, run.score) for run in runs_of(model, ["MSE", "MAHALA"])]

    tests = [(False, True, False, "MSE"), (False, True, False, "MAHALA")]
    assert runs() == [(True, False, True, "MSE"), *tests]
    assert runs("--test_only") == tests
    assert runs("--train_only") == [(True, False, True, "MSE")]


def test_what_is_done_is_not_submitted(slurm, own, capsys):
    assert sweep(own) == 0
    assert names(submissions(own)[0]) == [["valve"]]
    slurm.queue(f"{submissions(own)[0].name}|0|1|PENDING|Priority")
    assert sweep(own) == 0
    assert capsys.readouterr().out.splitlines()[-2:] == [
        "DCASE2024T2 dev, 7 models: 1 done, 1 queued, 5 missing",
        "nothing to submit",
    ]
    assert sweep(own, "--all") == 0
    assert names(submissions(own)[1]) == [["fan"]]


@pytest.mark.parametrize(
    "options",
    [["-lr", "0.002"], ["--decision_threshold", "0.8"], ["--score", "MAHALA", "--max_fpr", "0.2"], ["--n_mels", "64"]],
)
def test_other_parameters_are_another_model(slurm, own, options):
    assert sweep(own, *options) == 0
    assert names(submissions(own)[0]) == [["fan"], ["valve"]]


@pytest.mark.parametrize(
    "options", [["--mono", "True"], ["--use_ids", "0"], ["--restart"], ["--score", "MAHALA_FRAME"]]
)
def test_what_makes_no_difference_is_done(slurm, own, options):
    assert sweep(own, *options) == 0
    assert names(submissions(own)[0]) == [["valve"]]


@pytest.mark.parametrize("damage", ["model.pth", "config.yaml", "truncated"])
def test_a_damaged_model_is_submitted(slurm, own, damage):
    path = own.model() / ("config.yaml" if damage == "truncated" else damage)
    path.write_bytes(path.read_bytes()[:100]) if damage == "truncated" else path.unlink()
    assert sweep(own) == 0
    assert names(submissions(own)[0]) == [["fan"], ["valve"]]


def test_results_outlive_the_clips(slurm, own, capsys):
    own.data = own.directory / "gone"
    assert sweep(own, "--status") == 0
    assert "7 models: 1 done, 6 missing" in capsys.readouterr().out
    assert sweep(own) == 0
    assert "left out are ToyCar ToyTrain bearing gearbox slider valve. " in capsys.readouterr().err
    assert submissions(own) == []


def test_no_clips_at_all(slurm, workspace, capsys):
    assert sweep(workspace) == 1
    assert "ToyCar/train: no such directory. Download it" in capsys.readouterr().err
    assert submissions(workspace) == []


def test_several_models_in_a_task_and_large_arrays(slurm, workspace, demo_data, monkeypatch):
    """The stand-in's arrays have four tasks at most."""
    workspace.data = demo_data
    monkeypatch.setenv("SEEDS", "1 2 3 4 5 6 7 8 9")
    monkeypatch.setenv("JOBS", "2")
    monkeypatch.setenv("WIDTH", "3")
    assert sweep(workspace) == 0
    assert [len(each.tasks) for each in submissions(workspace)] == [4, 4, 1]
    assert names(submissions(workspace)[0])[0] == ["fan seed 1", "valve seed 1"]
    *arrays, summary = slurm.calls
    assert [next(o for o in options if o.startswith("--array")) for options in arrays] == [
        *("--array=0-3%3", "--array=0-3%3", "--array=0-0%3"),
    ]
    assert {"--cpus-per-task=2", "--mem=3000M"} <= set(arrays[0])
    assert "--dependency=afterany:1:2:3" in summary


def test_what_slurm_refuses_leaves_nothing_behind(slurm, workspace, demo_data, monkeypatch, capsys):
    workspace.data = demo_data
    monkeypatch.setenv("SEEDS", "1 2 3 4 5")
    slurm.refuse_after(1)
    assert sweep(workspace) == 1
    error = capsys.readouterr().err
    assert "error: sbatch: sbatch: error: Batch job submission failed: Job violates accounting/QOS policy" in error
    assert "Submitted before, and left in the queue: 1." in error
    assert [len(each.tasks) for each in submissions(workspace)] == [4]


def test_dry_run_writes_nothing_and_needs_no_slurm(workspace, demo_data, capsys, monkeypatch):
    workspace.data = demo_data
    monkeypatch.setenv("PATH", "/no such directory")
    assert sweep(workspace, "--dry-run") == 0
    captured = capsys.readouterr()
    assert "squeue cannot be run" in captured.err or "scontrol cannot be run" in captured.err
    assert "task 0: fan\ntask 1: valve\nsbatch --parsable --job-name=DCASE2024T2_dev_" in captured.out
    assert "--dependency=afterany:ARRAY1" in captured.out
    assert not workspace.models.exists()
    assert sweep(workspace) == 1
    assert "Log in to the cluster, and call this there." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a dataset first"),
        (["-d"], "name a dataset first"),
        (["DCASE2024T3", "-d"], "Did you mean 'DCASE2024T2'?"),
        (["DCASE2024T2"], "after the dataset comes -d or -e."),
        (["DCASE2024T2", "--epochs", "5"], "after the dataset comes -d or -e, not '--epochs'."),
        (["DCASE2024T2", "-d", "--epoch", "5"], "unknown option '--epoch'"),
        (["DCASE2024T2", "-d", "--checkpoint_path=x"], "a sweep is of all machine types"),
        (["DCASE2024T2", "-d", "--dataset", "DCASE2024T2fan"], "a sweep is of all machine types"),
        (["DCASE2024T2", "-d", "--status", "--dry-run"], "--status and --dry-run: give one of them."),
    ],
)
def test_wrong_arguments(slurm, capsys, arguments, words):
    assert submit.main("slurm_sweep.sh", *arguments) == 2
    assert words in capsys.readouterr().err
    assert slurm.calls == []


def test_one_seed_or_several(slurm, capsys, monkeypatch):
    monkeypatch.setenv("SEEDS", "1 2")
    assert submit.main("slurm_sweep.sh", "DCASE2024T2", "-d", "--seed=3") == 2
    assert "--seed=3: the environment has SEEDS='1 2'. Give one of them." in capsys.readouterr().err


def test_help(capsys):
    assert submit.main("slurm_sweep.sh", "--help") == 0
    assert "--dry-run" in capsys.readouterr().out


# --- How much of the cluster


def test_resources_of_the_file_and_of_the_environment(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "RESOURCES_FILE", tmp_path / "slurm.yaml")
    commands.RESOURCES_FILE.write_text(
        "account: lab\npartition: null\ntime: 1:00:00\nmemory: 2G\ngres: gpu:1\nwidth: 50\ncache_directory: $TMPDIR\n"
        "options: --qos=short --comment='a b'\n"
    )
    resources = commands.read_resources(3)
    assert resources.options == [
        *("--account=lab", "--time=1:00:00", "--gres=gpu:1", "--mem=6G", "--cpus-per-task=3"),
        *("--qos=short", "--comment=a b"),
    ]
    assert (resources.width, resources.cache_directory) == (50, "$TMPDIR")
    for name, value in {
        "SBATCH_TIMELIMIT": "5",
        "SBATCH_MEM_PER_CPU": "1G",
        "WIDTH": "7",
        "SBATCH_OPTIONS": "-v",
    }.items():
        monkeypatch.setenv(name, value)
    resources = commands.read_resources(3)
    assert resources.options == ["--account=lab", "--gres=gpu:1", "--cpus-per-task=3", "-v"]
    assert resources.width == 7


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("acount: lab", "unknown key 'acount'. Did you mean 'account'?"),
        ("memory: lots", "memory: 'lots' is not one such as 1500M or 2G."),
        ("width: -1", "width (WIDTH) must be a number from 1 on, not '-1'."),
        ('options: "--comment=\'a"', "options (SBATCH_OPTIONS) "),
        ("account: [a, b]", "account: expected a single value."),
        ("- account", "must hold lines such as"),
    ],
)
def test_wrong_resources(slurm, tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.setattr(commands, "RESOURCES_FILE", tmp_path / "slurm.yaml")
    commands.RESOURCES_FILE.write_text(line)
    assert submit.main("slurm_sweep.sh", "DCASE2024T2", "-d") == 2
    assert words in capsys.readouterr().err


# --- How far it is


def test_status(slurm, own, capsys, monkeypatch):
    shutil.copytree(own.data / RAW / "fan", own.directory / "data" / RAW / "slider")
    for machine in ("fan", "valve", "gearbox"):
        shutil.copytree(own.data / RAW / "fan", own.directory / "data" / RAW / machine)
    own.data = own.directory / "data"
    assert sweep(own) == 0
    (made,) = submissions(own)
    assert names(made) == [["gearbox"], ["slider"], ["valve"]]
    slurm.queue(f"{made.name}|0|1|RUNNING|None", f"{made.name}|1|1|PENDING|JobHeldAdmin", "other|2|7|RUNNING|None")
    made.log(2).write_text(
        f"{ATTEMPT}valve: attempt 1\nerror: valve: old\n"
        f"{ATTEMPT}valve: attempt 2\nerror: valve: x.wav: truncated\n{GIVEN_UP}\n"
    )
    log = own.model("gearbox") / "train.log"
    log.parent.mkdir()
    log.write_text("2026-01-01 00:00:00,000 DEBUG   epoch 2/3, loss 1.0\n")
    capsys.readouterr()
    assert sweep(own, "--status") == 0
    lines = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == "DCASE2024T2 dev, 7 models: 1 done, 1 running, 1 queued, 1 failed, 3 missing"
    assert "gearbox   running, epoch 2/3" in lines
    assert "slider    queued, JobHeldAdmin" in lines
    assert "fan       done" in lines
    assert lines[-2:] == ["valve failed: x.wav: truncated", f"log: {made.log(2)}"]
    slurm.queue()
    assert sweep(own) == 0  # none is in the queue any more
    assert names(submissions(own)[1]) == [["gearbox"], ["slider"], ["valve"]]


def test_in_the_queue_with_other_parameters(slurm, own, capsys):
    assert sweep(own) == 0
    (made,) = submissions(own)
    slurm.queue(f"{made.name}|0|12|RUNNING|None")
    assert sweep(own, epochs=5) == 1
    error = capsys.readouterr().err
    assert "valve is running with --epochs=3. Let it end, cancel it (scancel 12_0), or give this sweep a name" in error
    assert len(submissions(own)) == 1
    assert sweep(own, "-tag", "wide", epochs=5) == 0


@pytest.mark.parametrize("contents", ["", "[]", '{"tasks": 7}', "{}"])
def test_a_damaged_submission_is_named(slurm, own, capsys, contents):
    assert sweep(own) == 0
    path = submissions(own)[0].directory / "sweep.json"
    path.write_text(contents)
    assert sweep(own, "--status") == 1
    assert f"{path} cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("lines", "error", "without_a_word"),
    [
        ("", "it ended without a word", True),
        ("fan: epoch 3/5\n", "it ended without a word", True),
        ("error: valve: of the other\n", "it ended without a word", True),
        ("error: fan: clip.wav: truncated\nerror: valve: of the other\n", "clip.wav: truncated", True),
        ("error: fan: why\ngiven up: after 4 attempts\n", "why", False),
        (
            "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-25T15:30:28 ***\nended by signal 15\n",
            "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-25T15:30:28 ***",
            False,
        ),
        (
            "slurmstepd-n2: error: *** JOB 5 ON n2 CANCELLED AT 2026-11-25T15:30:28 DUE TO TIME LIMIT ***\n",
            "slurmstepd-n2: error: *** JOB 5 ON n2 CANCELLED AT 2026-11-25T15:30:28 DUE TO TIME LIMIT ***",
            True,
        ),
        (
            "slurmstepd: error: Detected 1 oom_kill event in StepId=5.batch. Some of it was OOM Killed.\n",
            "slurmstepd: error: Detected 1 oom_kill event in StepId=5.batch. Some of it was OOM Killed.",
            True,
        ),
    ],
)
def test_how_a_task_ended(tmp_path, lines, error, without_a_word):
    log = tmp_path / "task_0.log"
    before = f"{ATTEMPT}fan, valve: attempt 1\nerror: fan: of the attempt before\n{GIVEN_UP}\n"
    log.write_text(f"{before}{ATTEMPT}fan, valve: attempt 2\n{lines}")
    assert last_error(log, "fan", ["fan", "valve"]) == error
    assert ended_without_a_word(log) == without_a_word


def test_a_task_that_was_not_begun_has_not_ended(tmp_path):
    assert not ended_without_a_word(tmp_path / "task_0.log")


# --- On a node


@pytest.fixture
def on_a_node(slurm, own, monkeypatch):
    """Run the task of the valve, with a program in the place of train.py."""
    assert sweep(own) == 0
    (made,) = submissions(own)
    (slurm.directory / "calls").unlink()

    def run(code: str, restarts: int = 0) -> int:
        monkeypatch.setattr(task, "run_train", lambda arguments: [sys.executable, "-c", code, *arguments])
        for name, value in {"ARRAY_JOB_ID": "12", "ARRAY_TASK_ID": "0", "RESTART_COUNT": restarts}.items():
            monkeypatch.setenv(f"SLURM_{name}", str(value))
        return task.train_and_test(made.directory)

    yield run
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)


FINISH_AN_EPOCH = """
import pathlib, sys
sys.path.insert(0, ".")
from config import load_config
from datasets.catalog import find_machine
config = load_config(sys.argv[1:])
path = find_machine(config.dataset, "dev").run_paths(config, ("00",)).checkpoint
path.parent.mkdir(parents=True, exist_ok=True)
path.touch()
"""
DIE = "import os; os.kill(os.getpid(), 9)"


def test_a_task_that_is_done(on_a_node, slurm, capfd):
    assert on_a_node("import sys; print([a for a in sys.argv if a.startswith(('--score', '--tr', '--test'))])") == 0
    assert capfd.readouterr().out.splitlines()[-3:] == [
        "['--train_only', '--score=MSE']",
        "['--test_only', '--score=MSE']",
        "['--test_only', '--score=MAHALA']",
    ]
    assert slurm.calls == []


def test_a_task_that_fails_is_not_started_again(on_a_node, slurm, capfd):
    assert on_a_node("import sys; sys.exit('error: valve: why')") == 1
    captured = capfd.readouterr()
    assert captured.out.splitlines()[-1].startswith(GIVEN_UP)
    assert "valve (exit status 1), log: " in captured.err
    assert slurm.calls == []


@pytest.mark.parametrize(
    ("code", "restarts", "again"), [(DIE, 0, True), (DIE, 2, True), (DIE, 3, False), (FINISH_AN_EPOCH + DIE, 100, True)]
)
def test_a_killed_run_is_started_again_as_long_as_it_gets_on(on_a_node, slurm, capfd, code, restarts, again):
    assert on_a_node(code, restarts) == (0 if again else 1)
    assert slurm.calls == ([["requeue", "12_0"]] if again else [])
    out = capfd.readouterr().out
    assert ("a run was killed: to be started again" in out) == again
    assert (f"{GIVEN_UP}after {restarts + 1} attempts" in out) != again


def test_the_time_limit_is_near(on_a_node, slurm, capfd):
    assert on_a_node(f"import os, time; os.kill({os.getpid()}, {signal.SIGUSR1.value}); time.sleep(60)") == 0
    assert slurm.calls == [["requeue", "12_0"]]
    assert "the time limit is near: to be started again" in capfd.readouterr().out


def test_other_signals_end_a_task(on_a_node, slurm):
    with pytest.raises(task.Interrupted) as stop:
        on_a_node(f"import os, time; os.kill({os.getpid()}, {signal.SIGTERM.value}); time.sleep(60)")
    assert stop.value.status == 128 + signal.SIGTERM
    assert slurm.calls == []


def test_the_cache_of_the_node(slurm, own, monkeypatch):
    monkeypatch.setenv("CACHE_DIRECTORY", "/scratch/$NODE")
    assert sweep(own) == 0
    monkeypatch.setenv("NODE", "n7")
    (made,) = submissions(own)
    model = task.with_cache_of_node(made.tasks[0][0].model(), made.resources)
    assert all("--cache_directory=/scratch/n7" in run.as_arguments() for run in runs_of(model, ["MSE"]))


@pytest.fixture
def ended(slurm, own, monkeypatch):
    """Summarize when the task of the valve has ended with this log; whether that was well, and what was run for it."""
    assert sweep(own) == 0
    (first,) = submissions(own)
    ran = []

    def summarize(log: str, round_: int = 1) -> tuple[bool, list[list[str]]]:
        (slurm.directory / "calls").unlink(missing_ok=True)
        made = replace(first, round=round_)
        made.write()
        made.log(0).write_text(f"{ATTEMPT}valve: attempt 1\n{log}")
        run = subprocess.run

        def note(command, **options):
            if "summarize.py" not in str(command):
                return run(command, **options)
            ran.append([*map(str, command)])
            return subprocess.CompletedProcess(command, 0)

        monkeypatch.setattr(subprocess, "run", note)
        return task.summarize([made.directory]), ran

    return summarize


def test_what_ended_without_a_word_is_submitted_again(ended, own, slurm):
    assert ended("valve: epoch 2/3\n") == (True, [])
    again = submissions(own)[1]
    assert names(again) == [["valve"]]
    assert again.round == 2
    array, summary = slurm.calls
    assert f"--job-name={again.name}" in array
    assert shlex.split(summary[-1])[-2:] == [str(each.directory) for each in submissions(own)]


@pytest.mark.parametrize(
    ("log", "round_"), [("", 3), (GIVEN_UP, 1), ("slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026 ***\n", 1)]
)
def test_else_it_is_summarized(ended, own, slurm, capsys, log, round_):
    is_well, (command,) = ended(log, round_)
    assert not is_well
    assert command[2] == "DCASE2024T2"
    assert f"--result_directory={own.results}" in command
    assert "seed13711/valve: failed" in capsys.readouterr().out
    assert slurm.calls == []
