"""Sweeps without Slurm: what would be submitted, what is done, and what a task makes of its end.

Slurm's commands are stand-ins here that take notes; tests/test_slurm_cluster.py has the real ones.
"""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import RAW, Workspace, make_clips

from config import load_config
from tools.each_machine import find_models
from tools.slurm import commands, submit, task
from tools.slurm import sweep as sweep_module
from tools.slurm.logs import AGAIN, ATTEMPT, GIVEN_UP, ended_without_a_word, last_error
from tools.slurm.submission import Submission
from tools.slurm.sweep import runs_of

SPLITS = [("train", "normal"), ("test", "normal"), ("test", "anomaly")]
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
        "submitted 4 models in 4 tasks: job 1",
    ]
    assert "\nthe summary after them: job 2\n" in captured.out
    assert "SEEDS='1 2' slurm_sweep.sh DCASE2024T2 -d -tag 'it'\"'\"'s'" in captured.out
    assert "warning: left out: ToyCar ToyTrain bearing gearbox slider. " in captured.err


def test_parameters_are_those_of_the_submission(slurm, workspace, demo_data):
    workspace.data = demo_data
    assert sweep(workspace, "-lr", "0.01", "--use_ids", "0") == 0
    (made,) = submissions(workspace)
    planned, options = made.tasks[0][0], ["-lr", "0.01", "--use_ids", "0", "--epochs", "3", *workspace.options]
    assert planned.model.config == load_config(["--dataset", "DCASE2024T2fan", "-d", *options])
    assert planned.model.paths.model_dir == workspace.model()
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
    name = submissions(own)[0].name
    slurm.queue(f"{name}|0|1|PENDING|Priority", f"{name}_summary|N/A|2|PENDING|Dependency")
    assert sweep(own) == 0
    said = capsys.readouterr().out.splitlines()[-2:]
    assert said[0] == "DCASE2024T2 dev, 7 models: 1 done, 1 queued, 5 missing"
    assert said[1].startswith("nothing to submit. The table anew, when all have ended: ")
    assert "/03_summarize_results.sh DCASE2024T2 -d --epochs 3 " in said[1]
    assert sweep(own, "--all") == 0
    assert names(submissions(own)[1]) == [["fan"]]
    assert "--dependency=afterany:1:3" in slurm.calls[-1]  # the valve's, too
    slurm.queue(f"{name}|0|1|PENDING|Priority", f"{submissions(own)[1].name}|0|3|RUNNING|None")
    assert sweep(own, "--all") == 0
    assert len(submissions(own)) == 2


def test_sweeps_beside_each_other_have_summaries_of_their_own(slurm, own):
    assert sweep(own, "--train_only", "-tag", "a") == 0
    slurm.queue(
        f"{submissions(own)[0].name}|0|1|RUNNING|None", f"{submissions(own)[0].name}_summary|N/A|2|PENDING|None"
    )
    assert sweep(own, "-tag", "b") == 0
    second = submissions(own)[1]
    assert "--dependency=afterany:3" in slurm.calls[-1]
    assert shlex.split(slurm.calls[-1][-1])[-2:] == ["summarize", str(second.directory)]


def test_models_that_are_trained_anew_are_named(slurm, own, capsys):
    assert sweep(own, "--dry-run", epochs=3) == 0
    assert "trained anew" not in capsys.readouterr().err
    assert sweep(own, "--dry-run", "-lr", "0.01", epochs=5) == 0
    words = "1 model there with --learning_rate 0.001 (asked for: 0.01), --epochs 3 (asked for: 5): trained anew."
    assert f"warning: {words} To keep them: -tag NAME." in capsys.readouterr().err


def test_a_summary_that_could_not_be_submitted_is_made_up_for(slurm, own, capsys):
    slurm.refuse_after(1)
    assert sweep(own) == 1
    assert "These jobs have no summary. The same command again submits it." in capsys.readouterr().err
    name = submissions(own)[0].name
    (slurm.directory / "refuse").unlink()
    slurm.queue(f"{name}|0|1|RUNNING|None")
    assert sweep(own) == 0
    assert len(submissions(own)) == 1
    assert {f"--job-name={name}_summary", "--dependency=afterany:1"} <= set(slurm.calls[-1])
    slurm.queue(f"{name}|0|1|RUNNING|None", f"{name}_summary|N/A|2|PENDING|Dependency")
    calls = slurm.calls
    assert sweep(own) == 0
    assert slurm.calls == calls


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
    assert "left out: ToyCar ToyTrain bearing gearbox slider valve. " in capsys.readouterr().err
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
    monkeypatch.setenv("SWEEP_WIDTH", "3")
    assert sweep(workspace) == 0
    assert [len(each.tasks) for each in submissions(workspace)] == [4, 4, 1]
    assert names(submissions(workspace)[0])[0] == ["fan seed 1", "valve seed 1"]
    *arrays, summary = slurm.calls
    assert [next(o for o in options if o.startswith("--array")) for options in arrays] == [
        *("--array=0-3%3", "--array=0-3%3", "--array=0-0%3"),
    ]
    assert {"--cpus-per-task=2", "--mem=3000M"} <= set(arrays[0])
    assert {"--dependency=afterany:1:2:3", "--cpus-per-task=1", "--mem=1500M"} <= set(summary)


def test_what_slurm_refuses_leaves_nothing_behind(slurm, workspace, demo_data, monkeypatch, capsys):
    workspace.data = demo_data
    monkeypatch.setenv("SEEDS", "1 2 3 4 5")
    slurm.refuse_after(1)
    assert sweep(workspace) == 1
    error = capsys.readouterr().err
    assert "error: sbatch: Batch job submission failed: Job violates accounting/QOS policy. See " in error
    assert "Submitted before, and left in the queue: 1." in error
    assert [len(each.tasks) for each in submissions(workspace)] == [4]


def test_dry_run_writes_nothing_and_needs_no_slurm(workspace, demo_data, capsys, monkeypatch):
    workspace.data = demo_data
    monkeypatch.setenv("PATH", "/no such directory")
    assert sweep(workspace, "--dry-run") == 0
    captured = capsys.readouterr()
    assert re.search(r"scontrol cannot be run .* What is in the queue is not known\.", captured.err)
    assert (
        "task 0: seed13711/fan\ntask 1: seed13711/valve\nsbatch --parsable --job-name=DCASE2024T2_dev_" in captured.out
    )
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
        (["DCASE2024T2", "-d", "--status", "--dry-run"], "--status submits nothing: it goes with neither"),
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
    resources = commands.read_resources()
    assert resources.of_job(3) == [
        *("--mem=6G", "--cpus-per-task=3", "--account=lab", "--time=1:00:00", "--gres=gpu:1"),
        *("--qos=short", "--comment=a b"),
    ]
    assert (resources.width, resources.cache_directory) == (50, "$TMPDIR")
    for name, value in {
        "SBATCH_TIMELIMIT": "5",
        "SBATCH_MEM_PER_CPU": "1G",
        "SWEEP_WIDTH": "7",
        "SWEEP_OPTIONS": "-v",
    }.items():
        monkeypatch.setenv(name, value)
    resources = commands.read_resources()
    others = ["--account=lab", "--time=5", "--gres=gpu:1"]
    assert resources.of_job(3) == ["--cpus-per-task=3", *others, "--mem-per-cpu=1G", "-v"]
    assert resources.width == 7
    monkeypatch.delenv("SBATCH_MEM_PER_CPU")
    monkeypatch.setenv("SBATCH_MEM_PER_NODE", "5G")
    assert commands.read_resources().of_job(3) == ["--cpus-per-task=3", *others, "--mem=5G", "-v"]


def test_nothing_said_of_resources(slurm, tmp_path, monkeypatch):
    monkeypatch.setattr(commands, "RESOURCES_FILE", tmp_path / "slurm.yaml")
    commands.RESOURCES_FILE.write_text("# account: lab\n")
    assert commands.read_resources().of_job(2) == ["--cpus-per-task=2"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("acount: lab", "unknown key 'acount'. Did you mean 'account'?"),
        ("memory: lots", "memory: 'lots' is not one such as 1500M or 2G."),
        ("width: -1", "width (SWEEP_WIDTH) must be a number from 1 on, not '-1'."),
        ('options: "--comment=\'a"', "options (SWEEP_OPTIONS) "),
        ("cache_directory: cache", "cache_directory (SWEEP_CACHE_DIRECTORY) must be a whole path, not 'cache'."),
        ("time: 5\ntime: 6", "'time' is there twice. Keep one of them."),
        ("account: [a, b]", "account: expected a single value."),
        ("- account", "must hold lines of a key and a value"),
    ],
)
def test_wrong_resources(slurm, tmp_path, monkeypatch, capsys, line, words):
    monkeypatch.setattr(commands, "RESOURCES_FILE", tmp_path / "slurm.yaml")
    commands.RESOURCES_FILE.write_text(line)
    assert submit.main("slurm_sweep.sh", "DCASE2024T2", "-d", "--model_directory", str(tmp_path / "models")) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "models").exists()


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
    assert lines[-2:] == ["seed13711/valve failed: x.wav: truncated", f"log: {made.log(2)}"]
    slurm.queue()
    assert sweep(own) == 0  # none is in the queue any more
    assert names(submissions(own)[1]) == [["gearbox"], ["slider"], ["valve"]]


def test_status_where_slurm_does_not_answer(slurm, own, capsys):
    assert sweep(own) == 0
    (slurm.directory / "bin" / "squeue").write_text("#!/bin/sh\necho squeue: error: Unable to contact it >&2; exit 1\n")
    assert sweep(own, "--status") == 0
    assert "warning: squeue: Unable to contact it. What is in the queue is not known." in capsys.readouterr().err
    assert sweep(own) == 1
    assert "error: squeue: Unable to contact it." in capsys.readouterr().err
    assert len(submissions(own)) == 1


def test_in_the_queue_with_other_parameters(slurm, own, capsys):
    assert sweep(own) == 0
    (made,) = submissions(own)
    slurm.queue(f"{made.name}|0|12|RUNNING|None")
    assert sweep(own, epochs=5) == 1
    error = capsys.readouterr().err
    words = "in the queue with --epochs 3 (asked for: 5)"
    assert (
        f"seed13711/valve is {words}. Let it end, cancel it (scancel 12_0), or give this sweep a name of its own"
        in error
    )
    assert len(submissions(own)) == 1
    assert sweep(own, "--status", epochs=5) == 0
    assert words in capsys.readouterr().out
    assert sweep(own, "-tag", "wide", epochs=5) == 0


@pytest.mark.parametrize("options", [["--score", "MSE"], ["--train_only"]])
def test_in_the_queue_with_other_tests(slurm, own, capsys, options):
    assert sweep(own, *options) == 0
    slurm.queue(f"{submissions(own)[0].name}|0|12|PENDING|Priority")
    assert sweep(own) == 1
    assert re.search(
        "seed13711/valve is in the queue with (tests of MSE .asked for: MSE MAHALA|--train_only True)",
        capsys.readouterr().err,
    )
    assert sweep(own, *options, "--log_interval", "7", "--use_cuda", "False") == 0  # which make no difference
    assert len(submissions(own)) == 1


def test_a_log_of_other_parameters_tells_nothing(slurm, own, capsys):
    assert sweep(own) == 0
    submissions(own)[0].log(0).write_text(f"{ATTEMPT}valve: attempt 1\nvalve: MAHALA: 16 clips scored\n")
    for options in (["-lr", "0.1"], ["--score", "MSE"], ["--result_directory", str(own.directory / "other")]):
        assert submit.main("s.sh", "DCASE2024T2", "-d", "--epochs", "3", *own.options, *options, "--status") == 0
        assert "failed" not in capsys.readouterr().out
    assert sweep(own, "--status") == 0
    assert "valve failed: it ended without a word after: valve: MAHALA: 16 clips scored" in capsys.readouterr().out


def test_a_task_that_ends_while_it_is_looked_for(slurm, own, monkeypatch):
    """What Slurm knows is older than what the files tell."""
    order = []
    monkeypatch.setattr(sweep_module, "jobs_of_names", lambda _: order.append("Slurm") or [])
    monkeypatch.setattr(submit.Sweep, "is_done", lambda *_: order.append("files") or True)
    assert sweep(own) == 0
    assert order[:2] == ["Slurm", "files"]


@pytest.mark.parametrize("damage", ["", "[]", '{"tasks": 7}', "{}", "key", "arguments"])
def test_a_damaged_submission_is_named(slurm, own, capsys, damage):
    assert sweep(own) == 0
    path = submissions(own)[0].directory / "sweep.json"
    contents = json.loads(path.read_text())
    if damage in ("key", "arguments"):
        contents["tasks"][0][0][damage] = [1]
    path.write_text(json.dumps(contents) if damage in ("key", "arguments") else damage)
    assert sweep(own, "--status") == 1
    error = capsys.readouterr().err
    assert f"{path} cannot be read" in error
    assert f"scancel --name={path.parent.name}" in error


def test_a_submission_that_was_killed_at_its_beginning(slurm, own, capsys):
    (own.models / "baseline/dev_data/DCASE2024T2/slurm/DCASE2024T2_dev_00000000").mkdir(parents=True)
    assert sweep(own, "--status") == 0


def test_places_that_slurm_cannot_write_to(slurm, own, capsys):
    shutil.move(own.models, own.directory / "back\\slash")
    own.models = own.directory / "back\\slash"
    assert sweep(own) == 1
    assert "Slurm cannot write into directories with a backslash" in capsys.readouterr().err


def clips_of_2020(data: Path, machine: str, *sections: str) -> None:
    """Names of clips, which is all that is looked at before a task is begun."""
    for name in (f"{split}/{label}_id_{section}_00000000.wav" for section in sections for split, label in SPLITS):
        path = data / "dcase2020t2" / "dev_data" / "raw" / machine / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def test_sections_that_a_machine_type_does_not_have(slurm, tmp_path, capsys):
    places = Workspace(tmp_path).options
    clips_of_2020(tmp_path / "data", "ToyCar", "01")
    assert submit.main("s.sh", "DCASE2020T2", "-d", "--use_ids", "1", *places) == 0
    captured = capsys.readouterr()
    assert "warning: left out: fan. --use_ids: fan of DCASE2020T2 (dev) has no section 01" in captured.err
    assert submit.main("s.sh", "DCASE2020T2", "-d", "--use_ids", "9", *places) == 2
    assert "has no section 09" in capsys.readouterr().err


def test_clips_of_some_sections_only(slurm, tmp_path, capsys):
    workspace = Workspace(tmp_path)
    clips_of_2020(tmp_path / "data", "fan", "00", "04", "06")
    assert submit.main("s.sh", "DCASE2020T2", "-d", *workspace.options) == 0
    (made,) = submissions(workspace)
    assert names(made) == [["fan_section_00"], ["fan_section_04"], ["fan_section_06"]]
    assert "fan_section_02" in capsys.readouterr().err


def test_evaluation_data_without_test_clips(slurm, tmp_path, capsys):
    workspace = Workspace(tmp_path)
    make_clips(tmp_path / "data", ["HairDryer"], "--eval")
    shutil.rmtree(tmp_path / "data/dcase2024t2/eval_data/raw/HairDryer/test")
    assert submit.main("s.sh", "DCASE2024T2", "-e", *workspace.options) == 1
    error = capsys.readouterr().err
    assert "HairDryer/test: no such directory" in error
    assert "Without test clips: --train_only." in error
    assert submit.main("s.sh", "DCASE2024T2", "-e", "--train_only", *workspace.options) == 0
    assert names(submissions(workspace)[0]) == [["HairDryer"]]


@pytest.mark.parametrize(
    ("lines", "error", "without_a_word"),
    [
        ("", "it ended without a word", True),
        ("fan: epoch 3/5\n", "it ended without a word after: fan: epoch 3/5", True),
        (
            "slurm_script: 4: exec: python: not found\n",
            "it ended without a word after: slurm_script: 4: exec: python: not found",
            True,
        ),
        (
            "  fan (exit status 1), log: /errors/train.log\n",
            "it ended without a word after: fan (exit status 1), log: /errors/train.log",
            True,
        ),
        ("ImportError: no torch\n", "ImportError: no torch", True),
        (
            f"a run was killed: {AGAIN}\nslurmstepd: error: x DUE TO JOB REQUEUE ***\n",
            "slurmstepd: error: x DUE TO JOB REQUEUE ***",
            False,
        ),
        ("error: fan: clip.wav: truncated\nerror: valve: of the other\n", "clip.wav: truncated", True),
        ("error: fan: why\ngiven up: after 4 attempts\n", "why", False),
        (
            "slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-25T15:30:28 ***\nended by signal 15\n",
            "cancelled (slurmstepd: error: *** JOB 5 ON n1 CANCELLED AT 2026-11-25T15:30:28 ***). "
            "The same command goes on from there",
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
    assert ended_without_a_word(log, None) == without_a_word


@pytest.mark.parametrize(
    ("state", "lines", "without_a_word"),
    [
        ("CANCELLED", f"a run was killed: {AGAIN}\n", False),
        ("CANCELLED", "", False),
        ("NODE_FAIL", f"a run was killed: {AGAIN}\n", True),
        ("TIMEOUT", "", True),
        ("FAILED", GIVEN_UP, False),
    ],
)
def test_what_slurm_knows_goes_before_the_log(tmp_path, state, lines, without_a_word):
    log = tmp_path / "task_0.log"
    log.write_text(f"{ATTEMPT}fan: attempt 1\n{lines}")
    assert ended_without_a_word(log, state) == without_a_word


# --- On a node


@pytest.fixture
def on_a_node(slurm, own, monkeypatch):
    """Run the task of the valve, with a program in the place of train.py."""
    assert sweep(own) == 0
    (made,) = submissions(own)
    (slurm.directory / "calls").unlink()

    def run(code: str) -> int:
        monkeypatch.setattr(task, "run_train", lambda arguments: [sys.executable, "-c", code, *arguments])
        monkeypatch.setenv("SLURM_ARRAY_JOB_ID", "12")
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", "0")
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


def test_a_killed_run_is_started_again_as_long_as_it_gets_on(on_a_node, slurm, capfd):
    for code in (DIE, DIE, FINISH_AN_EPOCH + DIE, DIE, DIE, DIE):
        assert on_a_node(code) == 0
        assert f"a run was killed: {AGAIN}" in capfd.readouterr().out
    assert slurm.calls == 6 * [["requeue", "12_0"]]
    assert on_a_node(DIE) == 1  # the fourth in turn
    assert len(slurm.calls) == 6
    out = capfd.readouterr().out
    assert "error: a run was killed, 4 times without finishing an epoch or a test. See " in out
    assert out.splitlines()[-1].startswith(GIVEN_UP)


def test_a_node_that_may_not_requeue(on_a_node, slurm, capfd):
    (slurm.directory / "bin" / "scontrol").write_text("#!/bin/sh\necho Access denied >&2; exit 1\n")
    assert on_a_node(DIE) == 1
    out = capfd.readouterr().out
    assert "error: a run was killed, and: scontrol: Access denied" in out
    assert AGAIN not in out


def test_the_time_limit_is_near(on_a_node, slurm, capfd):
    assert on_a_node(f"import os, time; os.kill({os.getpid()}, {signal.SIGUSR1.value}); time.sleep(60)") == 0
    assert slurm.calls == [["requeue", "12_0"]]
    assert "the time limit is near: to be started again" in capfd.readouterr().out


def test_other_signals_end_a_task(on_a_node, slurm):
    with pytest.raises(task.Interrupted) as stop:
        on_a_node(f"import os, time; os.kill({os.getpid()}, {signal.SIGTERM.value}); time.sleep(60)")
    assert stop.value.status == 128 + signal.SIGTERM
    assert slurm.calls == []


def test_the_cache_of_the_node(slurm, own, monkeypatch, capsys):
    monkeypatch.setenv("SWEEP_CACHE_DIRECTORY", "/scratch/$NODE")
    assert sweep(own) == 0
    monkeypatch.setenv("NODE", "n7")
    (made,) = submissions(own)
    planned = made.tasks[0][0].model
    model = task.with_cache_of_node(planned, made.resources)
    assert all("--cache_directory=/scratch/n7" in run.as_arguments() for run in runs_of(model, ["MSE"]))
    monkeypatch.delenv("NODE")
    assert task.with_cache_of_node(planned, made.resources) == planned
    assert "warning: /scratch/$NODE is no place on this node." in capsys.readouterr().out


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
