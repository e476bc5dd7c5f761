"""The numbered scripts on generated clips: the whole way, and what they say and return when something is wrong."""

import csv
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from conftest import RAW, ROOT, Workspace, copy_project, make_clips

from datasets.catalog import find_dataset

MACHINES = ["fan", "slider"]
SCRIPTS = ["01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh", "03_summarize_results.sh"]
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
    run = "seed13711_short"
    for machine in MACHINES:
        assert (workspace.model(machine, run) / "model.pth").exists()
        for score in ("MSE", "MAHALA"):
            assert (workspace.result(score, run) / f"anomaly_score_{machine}_section_00_test.csv").exists()
            assert (workspace.result(score, run) / f"result_{machine}.csv").exists()
        assert f"{machine}: trained 1 epochs" in outputs["01_train_2024t2.sh"]
        assert f"{machine}: MAHALA: 16 clips scored" in outputs["02b_test_2024t2.sh"]
    assert not list(workspace.directory.rglob("*.tmp"))


def test_side_by_side_equals_alone(finished_run, tmp_path):
    workspace, _ = finished_run
    alone = Workspace(tmp_path, workspace.data)
    alone.run_here("--epochs", "1", "--train_only", machine="slider")
    for name in ("model.pth", "log.csv"):
        expected = (workspace.model("slider", "seed13711_short") / name).read_bytes()
        assert (alone.model("slider") / name).read_bytes() == expected


def test_summary_of_the_run(finished_run):
    workspace, outputs = finished_run
    directory = workspace.results / "dev_data" / "baseline" / "summarize" / "DCASE2024T2"
    assert {path.name for path in directory.iterdir()} == {
        *("summary.csv", "summary.md", "summary.tex", "summary.png", "report.html"),
        *("intervals.csv", "differences.csv", "published.csv"),
    }
    table = outputs["03_summarize_results.sh"]
    assert table.splitlines()[2].split() == ["system", "metric", "h-mean", "a-mean", *MACHINES]
    assert "MSE short" in table
    assert "MAHALA short" in table
    assert "–" not in table
    rows = list(csv.DictReader((directory / "summary.csv").open()))
    assert len(rows) == 8
    result = next(csv.DictReader((workspace.result("MSE", "seed13711_short") / "result_fan.csv").open()))
    assert rows[0]["metric"] == "AUC (source)"
    assert rows[0]["fan"] == result["AUC (source)"]


@pytest.mark.parametrize("script", SCRIPTS)
def test_usage(workspace, script):
    for arguments in (["--help"], ["-h"]):
        finished = subprocess.run([ROOT / script, *arguments], capture_output=True, text=True, cwd=workspace.directory)
        assert finished.returncode == 0
        assert finished.stdout.startswith("usage: ")
    for arguments in ([], ["-x"], ["fan"]):
        finished = subprocess.run(
            [ROOT / script, *arguments],
            capture_output=True,
            text=True,
            cwd=workspace.directory,
            env=os.environ | {"PYTHON": sys.executable},
        )
        assert finished.returncode == 2
        assert "usage: " in finished.stderr


def test_a_wrong_option_is_said_once_and_ends_the_loop(workspace):
    finished = workspace.script("01_train_2024t2.sh", "-d", "--epoch", "3")
    assert finished.returncode == 2
    assert finished.stderr == "error: unknown option '--epoch'. Did you mean '--epochs'? See --help.\n"
    for option in ("--dataset=DCASE2024T2fan", "--train_only", "--test_only"):
        finished = workspace.script("02a_test_2024t2.sh", "-d", option)
        assert finished.returncode == 2
        assert finished.stderr.startswith(f"error: {option.split('=')[0]}")
    assert workspace.script("01_train_2024t2.sh", "-d", JOBS="0").returncode == 2
    assert workspace.script("03_summarize_results.sh", "DCASE2024T3", "-d").returncode == 2


def test_one_failure_does_not_stop_the_others(finished_run, tmp_path):
    """One machine type has a bad clip: it is named at the end with its log, the others are done, the status is 1."""
    source, _ = finished_run
    workspace = Workspace(tmp_path, project=source.project)
    shutil.copytree(source.data, workspace.data)
    shutil.copytree(source.models, workspace.models)
    workspace.clip("section_00_*_test_*", "slider").write_bytes(b"")
    finished = workspace.script("02a_test_2024t2.sh", "-d", "-tag", "short", JOBS="2")
    assert finished.returncode == 1
    assert finished.stdout.count("16 clips scored") == len(MACHINES) - 1
    log = workspace.result(run="seed13711_short") / "test_slider.log"
    assert finished.stderr.endswith(f"failed:\n  slider (exit status 1), log: {log}\n")
    assert "the file is empty" in log.read_text()


def test_called_through_a_link_and_with_cdpath(workspace):
    link = workspace.directory / "train here.sh"
    link.symlink_to(ROOT / "01_train_2024t2.sh")
    environment = os.environ | {"PYTHON": sys.executable, "CDPATH": str(ROOT.parent)}
    finished = subprocess.run([link, "-d", "--epoch"], capture_output=True, text=True, env=environment)
    assert finished.returncode == 2
    assert finished.stderr.startswith("error: unknown option '--epoch'")


def test_python_without_the_packages(workspace, tmp_path):
    bare = tmp_path / "bare" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "bare"], check=True)
    for command in (["01_train_2024t2.sh", "-d"], ["03_summarize_results.sh", "DCASE2024T2", "-d"]):
        finished = subprocess.run(
            [ROOT / command[0], *command[1:]], env=os.environ | {"PYTHON": str(bare)}, capture_output=True, text=True
        )
        assert finished.returncode == 1
        assert "does not have the packages" in finished.stderr
        assert "Traceback" not in finished.stderr


def test_nothing_to_summarize(workspace):
    finished = workspace.script("03_summarize_results.sh", "DCASE2024T2", "-d")
    assert finished.returncode == 1
    assert "no result_<machine>.csv to summarize" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_interrupt_stops_the_loop(finished_run, tmp_path):
    source, _ = finished_run
    command = [
        source.project / "01_train_2024t2.sh",
        "-d",
        "--dataset_directory",
        source.data,
        "--model_directory",
        tmp_path,
    ]
    process = subprocess.Popen(
        list(map(str, [*command, "--epochs", "500"])),
        env=os.environ | {"PYTHON": sys.executable, "JOBS": "2"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.rglob("checkpoint.pth")):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C does
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in errors
    assert not list((source.data / RAW).rglob("*.tmp"))


def test_the_network_of_the_docs_beside_the_baseline(finished_run, tmp_path):
    """One file and one line, as docs/extending.md gives them; then the same scripts."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/extending.md").read_text(), flags=re.DOTALL)
    code, line, score, score_line = blocks
    source, _ = finished_run
    workspace = Workspace(tmp_path, source.data, copy_project(tmp_path, dcase2024t2=SHORT_CATALOG))
    (workspace.project / "networks/interpolation.py").write_text(code)
    insert(workspace.project / "networks/__init__.py", "NETWORKS = {", line)
    insert(
        workspace.project / "networks/scores.py",
        "    return lambda residuals: residuals.square().mean()",
        f"\n\n{score}",
    )
    insert(workspace.project / "networks/scores.py", "SCORES: dict[str, Callable[[nn.Module], Score]] = {", score_line)
    shutil.copytree(source.results, workspace.results)
    options = ["-d", "--epochs", "1", "--model", "Interpolation", "-tag", "interpolation"]
    for script, *more in (SCRIPTS[:1], SCRIPTS[1:2], SCRIPTS[2:3], (SCRIPTS[1], "--score", "MAX")):
        finished = workspace.script(script, *options, *more, JOBS="2")
        assert finished.returncode == 0, finished.stderr
    assert not finished.stderr
    finished = workspace.script(SCRIPTS[3], "DCASE2024T2", "-d", "--resamples", "20")
    systems = [line.split("  ")[0] for line in finished.stdout.splitlines()]
    for system in ("MSE interpolation", "MSE short", "MAHALA interpolation", "MAHALA short", "MAX interpolation"):
        assert system in systems
    assert "MSE short − MSE interpolation" in systems
    decided = workspace.result("MAX", "seed13711_interpolation") / "decision_result_fan_section_00_test.csv"
    assert {row[1] for row in csv.reader(decided.open())} <= {"0", "1"}
    weights = torch.load(workspace.model("fan", "seed13711_interpolation") / "model.pth", weights_only=True)
    assert weights["layers.0.weight"].shape == (64, 4 * 128)
    finished = workspace.script(SCRIPTS[0], *options, "--frames", "4", JOBS="1")
    assert "--model Interpolation with 4 frames of 128 mel bands: a vector has no middle frame" in finished.stderr


def insert(path, after, text):
    contents = path.read_text()
    assert contents.count(f"{after}\n") == 1
    path.write_text(contents.replace(f"{after}\n", f"{after}\n{text}"))
