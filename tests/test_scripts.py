"""The numbered scripts on generated clips from end to end, and what they print and return if something is wrong."""

import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import RAW, ROOT, Workspace, copy_project, make_clips, run

from config import load_config
from datasets.catalog import find_dataset
from tools.setup import environment

MACHINES = ["fan", "slider"]
SCRIPTS = ["01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh", "03_summarize_results.sh"]
LEGACY_SCRIPTS = ["tools/01_train_legacy.sh", "tools/02a_test_legacy.sh", "tools/02b_test_legacy.sh"]
COMMANDS = ("bash", "cat", "date", "dirname", "grep", "hostname", "mkdir", "readlink", "sed", "sleep", "sh", "wc")
SLURM_SCRIPT = "tools/slurm_array.sh"
RUN = "seed13711_short"
FACTS = find_dataset("DCASE2024T2").facts
SHORT_CATALOG = yaml.safe_dump(FACTS | {"dev": FACTS["dev"] | {"machines": {machine: ["00"] for machine in MACHINES}}})


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory):
    """01, 02a, 02b and 03 on all machine types of a short catalog, two at a time, from a directory elsewhere."""
    directory = tmp_path_factory.mktemp("scripts")
    workspace = Workspace(directory, project=copy_project(directory, dcase2024t2=SHORT_CATALOG))
    make_clips(workspace.data, MACHINES)
    outputs = {}
    for script in SCRIPTS:
        arguments = ["DCASE2024T2", "-d", "--report"] if script.startswith("03") else ["-d"]
        finished = workspace.script(script, *arguments, "--epochs", "1", "-tag", "short", JOBS="2")
        assert finished.returncode == 0, finished.stderr
        outputs[script] = finished.stdout
    return workspace, outputs


def test_every_machine_type_has_its_files(finished_run):
    workspace, outputs = finished_run
    assert outputs[SCRIPTS[0]].startswith("2 models, 2 at a time -> ")
    for machine in MACHINES:
        assert (workspace.model(machine, RUN) / "model.pth").exists()
        for score in ("MSE", "MAHALA"):
            assert (workspace.result(score, RUN) / f"anomaly_score_{machine}_section_00_test.csv").exists()
            assert (workspace.result(score, RUN) / f"result_{machine}.csv").exists()
        assert f"{machine}: trained 1 epochs" in outputs[SCRIPTS[0]]
        assert f"{machine}: MAHALA: AUC (source) " in outputs[SCRIPTS[2]]
    assert not list(workspace.directory.rglob("*.tmp"))


def test_side_by_side_equals_alone(finished_run, tmp_path):
    workspace, _ = finished_run
    alone = Workspace(tmp_path, workspace.data)
    alone.run_here("--epochs", "1", "--train_only", machine="slider")
    for name in ("model.pth", "log.csv"):
        expected = (workspace.model("slider", RUN) / name).read_bytes()
        assert (alone.model("slider") / name).read_bytes() == expected


def test_summary_of_the_run(finished_run):
    workspace, outputs = finished_run
    directory = workspace.results / "dev_data/baseline/summarize/DCASE2024T2"
    names = "summary.csv summary.md summary.tex summary.png report.html intervals.csv differences.csv published.csv"
    assert {path.name for path in directory.iterdir()} == set(names.split())
    table = outputs[SCRIPTS[3]]
    assert table.splitlines()[2].split() == ["system", "metric", "h-mean", "a-mean", *MACHINES]
    assert "MSE short" in table and "MAHALA short" in table
    assert "–" not in table[: table.index("Official score with the 95 % interval")]
    rows = list(csv.DictReader((directory / "summary.csv").open()))
    result = next(csv.DictReader((workspace.result("MSE", RUN) / "result_fan.csv").open()))
    assert (len(rows), rows[0]["metric"], rows[0]["fan"]) == (8, "AUC (source)", result["AUC (source)"])


# --- Wrong arguments, failures, interruptions


@pytest.mark.parametrize("script", [*SCRIPTS, *LEGACY_SCRIPTS, SLURM_SCRIPT])
def test_usage(workspace, script):
    """--help; no arguments, a wrong option in place of the split, and no split."""
    for arguments, status in ((["--help"], 0), (["-h"], 0), ([], 2), (["-x"], 2), (["DCASE2024T2", "fan"], 2)):
        finished = run([ROOT / script, *arguments], workspace.directory, PYTHON=sys.executable)
        assert finished.returncode == status
        assert (finished.stderr if status else finished.stdout).count("usage: ") == 1
        assert finished.stderr.startswith("error: ") == bool(status)


@pytest.mark.parametrize("script", ["02a_test_2024t2.sh", SLURM_SCRIPT])
def test_wrong_options(workspace, script):
    messages = {
        "--epoch=3": "unknown option '--epoch'. Did you mean '--epochs'? See --help.",
        "--dataset=DCASE2024T2fan": "--dataset: this script runs all machine types. To run one, use train.py",
        "--train_only": "--train_only: this script decides whether to train or to test.",
        "--test_only": "--test_only: this script decides whether to train or to test.",
    }
    for option, message in messages.items():
        finished = workspace.script(script, *(["DCASE2024T2"] if script == SLURM_SCRIPT else []), "-d", option)
        assert finished.returncode == 2
        assert finished.stderr.startswith(f"error: {message}")
        assert finished.stderr.count("error: ") == 1  # once, not for each machine type


def test_one_failure_does_not_stop_the_others(finished_run, tmp_path):
    """A machine type with a bad clip is named at the end with its log; the others succeed, and the status is 1."""
    source, _ = finished_run
    workspace = Workspace(tmp_path, project=source.project)
    shutil.copytree(source.data, workspace.data)
    shutil.copytree(source.models, workspace.models)
    workspace.clip("section_00_*_test_*", "slider").write_bytes(b"")
    finished = workspace.script("02a_test_2024t2.sh", "-d", "-tag", "short", JOBS="2")
    assert finished.returncode == 1
    assert finished.stdout.count(": AUC (source) ") == len(MACHINES) - 1
    log = workspace.result(run=RUN) / "test_slider.log"
    assert finished.stderr.endswith(f"failed:\n  slider (exit status 1), log: {log}\n")
    assert "the file is empty" in log.read_text()


def test_called_through_a_link_and_with_cdpath(workspace):
    link = workspace.directory / "train here.sh"
    link.symlink_to(ROOT / "01_train_2024t2.sh")
    finished = run([link, "-d", "--epoch"], workspace.directory, PYTHON=sys.executable, CDPATH=str(ROOT.parent))
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: unknown option '--epoch'")


def test_nothing_to_summarize(workspace):
    finished = workspace.script("03_summarize_results.sh", "DCASE2024T2", "-d")
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: ") and "no result_<machine>.csv to summarize" in finished.stderr
    assert workspace.script("03_summarize_results.sh", "DCASE2024T3", "-d").returncode == 2


def test_interrupt_stops_the_loop(finished_run, tmp_path):
    source, _ = finished_run
    script = source.project / "01_train_2024t2.sh"
    options = ["-d", "--dataset_directory", source.data, "--model_directory", tmp_path, "--epochs", "500"]
    command = list(map(str, [script, *options]))
    environment = os.environ | {"PYTHON": sys.executable, "JOBS": "2", "SEEDS": "1 2"}
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("checkpoint.pth")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert (
        errors.splitlines()[-1] == f"warning: interrupted. To resume: SEEDS='1 2' bash {shlex.join(command)} --restart"
    )
    assert "Traceback" not in errors
    assert not list((source.data / RAW).rglob("*.tmp"))


# --- tools/slurm_array.sh without Slurm; test_slurm_cluster.py has the real one


@pytest.fixture
def path(workspace):
    """A directory for PATH, without Slurm."""
    directory = workspace.directory / "bin"
    directory.mkdir()
    for name in COMMANDS:
        (directory / name).symlink_to(shutil.which(name))
    return directory


def add_stub(file):
    """A command that writes its arguments to `calls`, and prints how many calls there were."""
    file.write_text('#!/bin/sh\nprintf "%s\\n" "$*" >>calls\necho "$(wc -l <calls);cluster"\n')
    file.chmod(0o755)


def test_what_is_submitted(workspace, path):
    arguments = [SLURM_SCRIPT, "DCASE2024T2", "-d", "--epochs", "7", "-tag", "a b"]
    variables = {"PATH": str(path), "SEEDS": "1 2"}
    finished = workspace.script(*arguments, **variables)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: sbatch not found.")
    add_stub(path / "sbatch")
    dry = workspace.script(*arguments, "--dry-run", **variables)
    assert dry.returncode == 0
    assert list(workspace.directory.iterdir()) == [path]
    finished = workspace.script(*arguments, **variables)
    assert finished.returncode == 0, finished.stderr
    (directory,) = (workspace.models / "slurm").iterdir()
    array, summary = (workspace.directory / "calls").read_text().splitlines()  # resources are not on the command line
    job = f"{ROOT / SLURM_SCRIPT} --job {directory}"
    assert array == f"--parsable --array=1-14 --output={directory}/task_%a.log {job}"
    assert summary == f"--parsable --dependency=afterany:1 --output={directory}/summary.log {job}"
    assert finished.stdout == f"submitted 14 tasks (job 1) and a summary (job 2). Logs: {directory}\n"
    plan = (directory / "plan").read_text().splitlines()
    assert dry.stdout.splitlines()[1:-2] == plan[1:]
    numbers = [str(task) for task in range(1, 15) for _ in range(3)]
    assert [line.partition(": ")[0] for line in plan] == ["logs", "tasks", *numbers, "summary"]
    runs = []
    for line in plan[-4:-1]:
        python, train_py, *options = shlex.split(line.partition(": ")[2])
        config = load_config(options)
        assert options == config.as_arguments()  # all of them: a later edit of baseline.yaml changes nothing
        assert (python, train_py) == (sys.executable, str(ROOT / "train.py"))
        assert (config.dataset, config.seed, config.epochs) == ("DCASE2024T2valve", 2, 7)
        runs.append((config.train_only, config.restart, config.test_only, config.score))
    assert runs == [(True, True, False, "MSE"), (False, False, True, "MSE"), (False, False, True, "MAHALA")]
    script = str(ROOT / "03_summarize_results.sh")
    assert shlex.split(plan[-1])[1:6] == ["env", f"PYTHON={sys.executable}", "SEEDS=1 2", script, "DCASE2024T2"]


@pytest.mark.parametrize(
    ("command", "restarts", "status", "is_requeued", "words"),
    [
        ("true", 0, 0, False, "==> done"),
        ("exit 3", 0, 3, False, ""),
        ("kill -9 $$", 0, 0, True, "==> the run was killed"),
        ("kill -9 $$", 20, 1, False, "==> the run was killed"),
        ("kill -USR1 $PPID; exec sleep 50", 1, 0, True, "==> the time limit is near"),
        ("kill -TERM $PPID; exec sleep 50", 0, 143, False, ""),  # from scancel
    ],
)
def test_how_a_task_ends(workspace, path, command, restarts, status, is_requeued, words):
    add_stub(path / "scontrol")
    plan = f"1: sh -c {shlex.quote(command)}\n1: sh -c 'echo second'\n11: sh -c 'echo another'\n"
    (workspace.directory / "plan").write_text(plan)
    task = {"SLURM_ARRAY_JOB_ID": "5", "SLURM_ARRAY_TASK_ID": "1", "SLURM_RESTART_COUNT": str(restarts)}
    finished = run([ROOT / SLURM_SCRIPT, "--job", "."], workspace.directory, PATH=str(path), **task)
    assert finished.returncode == status
    assert words in finished.stdout
    assert ("second\n" in finished.stdout) == ("done" in finished.stdout) == (words == "==> done")
    assert "another" not in finished.stdout
    calls = workspace.directory / "calls"
    assert (calls.read_text() if calls.exists() else "") == ("requeue 5_1\n" if is_requeued else "")


def test_the_summary_names_unfinished_tasks(workspace):
    (workspace.directory / "plan").write_text("tasks: 3\nsummary: env 'SEEDS=1 2' sh -c 'echo $SEEDS; exit 4'\n")
    (workspace.directory / "task_1.log").write_text("==> task 1\n==> done\n")
    (workspace.directory / "task_2.log").write_text("==> task 2\n")
    finished = run([ROOT / SLURM_SCRIPT, "--job", "."], workspace.directory)
    assert finished.stdout == "not finished: task 2\nnot finished: task 3\n1 2\n"
    assert finished.returncode == 4


# --- docs/extending.md


def test_the_examples_of_the_docs(finished_run, tmp_path):
    """Network, score and optimizer of docs/extending.md, put where that page says, beside the baseline's results."""
    text = (ROOT / "docs/extending.md").read_text()
    score, score_line, code, import_line, line = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    source, _ = finished_run
    workspace = Workspace(tmp_path, source.data, copy_project(tmp_path))
    networks, train_file = workspace.project / "networks", workspace.project / "train.py"
    (networks / "interpolation.py").write_text(code)
    insert(networks / "__init__.py", "from networks.autoencoder import AutoEncoder", import_line)
    insert(networks / "__init__.py", "NETWORKS: dict[str, type[nn.Module]] = {", line)
    insert(networks / "scores.py", "    return lambda residuals: residuals.square().mean()", f"\n\n{score}")
    insert(networks / "scores.py", "SCORES: dict[str, Callable[[nn.Module], Score]] = {", score_line)
    optimizer = re.search(r"`(torch\.optim\.SGD\(network.*?)`", text, flags=re.DOTALL)[1]
    ours = "Adam(network.parameters(), config.learning_rate, config.portable)"
    assert ours in train_file.read_text()
    changed = train_file.read_text().replace(ours, optimizer)
    train_file.write_text(changed)
    shutil.copytree(source.results, workspace.results)

    def train(*options):
        named = ["--dataset", "DCASE2024T2fan", "-d", "--epochs", "1", "--model", "Interpolation", "-tag", "mine"]
        return run([sys.executable, train_file, *named, *workspace.options, *options], cwd=tmp_path)

    finished = train("--learning_rate", "1e-5")
    assert finished.returncode == 0, finished.stderr
    assert "the optimizer is not that of tools/training/adam.py" in finished.stdout
    finished = train("--test_only", "--score", "MAX")
    assert finished.returncode == 0
    assert all("is based on only 7 normal scores" in line for line in finished.stderr.splitlines())
    decided = workspace.result("MAX", "seed13711_mine") / "decision_result_fan_section_00_test.csv"
    assert {row[1] for row in csv.reader(decided.open())} <= {"0", "1"}
    weights = torch.load(workspace.model("fan", "seed13711_mine") / "model.pth", weights_only=True)
    assert weights["layers.0.weight"].shape == (64, 4 * 128)
    finished = train("--frames", "4")
    assert "--model Interpolation with 4 frames of 128 mel bands: a vector has no middle frame" in finished.stderr
    finished = workspace.script(SCRIPTS[3], "DCASE2024T2", "-d", "--resamples", "20")
    systems = [line.split("  ")[0] for line in finished.stdout.splitlines()]
    assert {"MSE mine", "MSE short", "MAHALA short", "MAX mine"} <= {*systems}


def insert(path, after, text):
    contents = path.read_text()
    assert contents.count(f"{after}\n") == 1
    path.write_text(contents.replace(f"{after}\n", f"{after}\n{text}"))


@pytest.mark.parametrize(
    ("files", "kept"),
    [
        (["pyvenv.cfg", "bin/python", "lib/mine.py"], ".venv"),  # of somebody else
        (["made-by-setup", "bin/python"], None),  # half-made
        (["installed-requirements.txt", "lib/mine.py"], ".venv.old1"),  # of an earlier version, broken
        ([], None),
    ],
)
def test_set_up_deletes_no_environment_of_others(tmp_path, monkeypatch, files, kept):
    for name, path in {"ROOT": "", "ENVIRONMENT": ".venv", "MARKER": ".venv/made-by-setup"}.items():
        monkeypatch.setattr(environment, name, tmp_path / path)
    monkeypatch.setattr(environment, "PYTHON", tmp_path / ".venv/bin/python")
    monkeypatch.setattr(environment.venv, "create", lambda path, **_: (path / "new").touch())
    for name in files:
        (tmp_path / ".venv" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / ".venv" / name).touch()
    if kept == ".venv":
        with pytest.raises(SystemExit, match="was not created by this script, so it is not changed"):
            environment.main([])
    else:
        environment.main([])
        assert {path.name for path in (tmp_path / ".venv").iterdir()} == {"made-by-setup", "new"}
    for name in files if kept else []:
        assert (tmp_path / kept / name).exists()
