"""Interrupted and resumed: --restart, checkpoints, signals, and what is found damaged then."""

import json
import os
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
import yaml
from conftest import RAW, ROOT, Workspace, copy_project, make_clips, write_wav

from config import TRAINING_KEYS, BaselineError
from datasets.catalog import find_dataset
from networks import NETWORKS
from networks.autoencoder import AutoEncoder
from tools.training.console import Terminated, how_to_resume, run_command

FILES = ("log.csv", "model.pth", "score_distribution.json", "log.png")


@pytest.fixture
def resumable(trained, workspace):
    """A copy of a finished training of three epochs, whose files a test may change."""
    workspace.data = trained.data
    shutil.copytree(trained.models, workspace.models)
    return workspace


def assert_equal_models(found: Workspace, expected: Workspace) -> None:
    for name in FILES:
        assert (found.model() / name).read_bytes() == (expected.model() / name).read_bytes(), name


def restart(workspace: Workspace, *options: str) -> None:
    workspace.run_here("--epochs", "3", "--train_only", "--restart", *options)


# --- What --restart does


def test_a_finished_training_is_left_as_it_is(trained, resumable, capsys):
    before = {path: path.stat().st_mtime_ns for path in resumable.model().iterdir() if path.suffix in (".pth", ".csv")}
    restart(resumable)
    assert "fan: already trained, 3 epochs" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in before} == before


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        *[(name, "gone") for name in ("model.pth", "score_distribution.json", "config.yaml", "log.csv")],
        *[("model.pth", "truncated"), ("model.pth", "flipped"), ("score_distribution.json", "truncated")],
    ],
)
def test_damaged_files_of_a_model_are_replaced(trained, resumable, name, damage):
    path = resumable.model() / name
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 2] ^= 1
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(contents if damage == "flipped" else contents[:-20])
        with pytest.raises(BaselineError, match=r"belongs to other weights|cannot be read"):
            resumable.run_here("--test_only")
    restart(resumable)
    assert_equal_models(resumable, trained)


def test_a_record_that_a_user_has_edited_is_read(trained, resumable):
    for name in ("config.yaml", "score_distribution.json"):
        path = resumable.model() / name
        path.write_text(path.read_text().replace("\n", "\n\n", 1))
    resumable.run_here("--test_only")
    path.write_text(path.read_text().replace("model_sha256", "model_sha"))
    with pytest.raises(BaselineError, match=r"score_distribution.json belongs to other weights than model.pth"):
        resumable.run_here("--test_only")


def test_distributions_of_a_new_score_are_added(trained, resumable, caplog):
    """A model that was trained before a score was there, or by a version without thresholds of clips."""
    path = resumable.model() / "score_distribution.json"
    path.write_text(json.dumps({"model_sha256": json.loads(path.read_text())["model_sha256"]}))
    resumable.run_here("--test_only")
    assert "has no batch distribution of MSE. Train with --restart to add it." in caplog.text
    restart(resumable)
    assert_equal_models(resumable, trained)


@pytest.mark.parametrize("damage", ["empty", "truncated", "flipped", "older"])
def test_a_damaged_checkpoint_is_a_new_start(trained, resumable, damage, capsys):
    (resumable.model() / "model.pth").unlink()
    path = resumable.model() / "checkpoint.pth"
    contents = bytearray(path.read_bytes())
    contents[len(contents) // 3] ^= 16
    if damage == "older":
        torch.save({"identity": {}, "network": {}}, path)
    else:
        path.write_bytes({"empty": b"", "truncated": contents[:-100], "flipped": contents}[damage])
    restart(resumable)
    errors = capsys.readouterr().err
    assert (
        "checkpoint.pth is damaged, or from an older version. Training starts from scratch. The file is kept" in errors
    )
    assert (resumable.model() / "checkpoint_old.pth").exists()
    assert_equal_models(resumable, trained)
    path.write_bytes(b"")
    with pytest.raises(BaselineError, match="is damaged, or from an older version. Train without --restart"):
        restart(resumable, "--checkpoint_path", str(path))


def test_other_clips_are_spelt_out(trained, resumable):
    resumable.data = resumable.directory / "data"
    shutil.copytree(trained.data / RAW / "fan", resumable.data / RAW / "fan")
    names = [resumable.clip(f"section_00_source_train_normal_000{k}_*") for k in range(3)]
    names[0].rename(names[0].with_name("section_00_source_train_normal_0900.wav"))
    write_wav(names[1], seconds=2)
    with pytest.raises(BaselineError) as error:
        restart(resumable, "--seed", "13711", "-lr", "0.01")
    assert "--learning_rate was 0.001, now 0.01; clips missing: " + names[0].name in str(error.value)
    assert "clips new: section_00_source_train_normal_0900.wav; " in str(error.value)
    assert "clips changed: " + names[1].name in str(error.value)


class Noisy(AutoEncoder):
    """Draws from all generators in training: PyTorch's, NumPy's and Python's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.training:
            x = torch.nn.functional.dropout(x, 0.1) * (1 + 0.01 * float(np.random.rand()) + 0.01 * random.random())
        return super().forward(x)


def test_all_generators_are_resumed(demo_data, tmp_path, monkeypatch):
    monkeypatch.setitem(NETWORKS, "noisy", Noisy)
    once, twice = Workspace(tmp_path / "once", demo_data), Workspace(tmp_path / "twice", demo_data)
    once.run_here("--epochs", "3", "--train_only", "--model", "noisy")
    twice.run_here("--epochs", "2", "--train_only", "--model", "noisy")
    random.seed(5), np.random.seed(5), torch.manual_seed(5)
    restart(twice, "--model", "noisy")
    assert_equal_models(twice, once)


class Wider(AutoEncoder):
    def __init__(self, *sizes):
        super().__init__(*sizes)
        self.more = torch.nn.Linear(2, 2)


def test_another_network_of_the_same_name(trained, resumable, monkeypatch):
    monkeypatch.setitem(NETWORKS, "DCASE2023T2-AE", Wider)
    with pytest.raises(BaselineError, match=r"is from another training: .*test_resume.py has changed \(Wider\)"):
        resumable.run_here("--epochs", "4", "--train_only", "--restart")


OTHER_PARAMETERS = [
    *("--n_mels 64", "--frames 4", "--frame_hop_length 2", "--n_fft 512", "--hop_length 256", "--power 1"),
    *("--fmin 100", "--fmax 7000", "--win_length 800", "--seed 1", "--batch_size 128", "--learning_rate 0.01"),
    *("--shuffle False", "--validation_split 0.2"),
]


def test_all_parameters_of_a_training_are_tried():
    assert {option.split()[0].lstrip("-") for option in OTHER_PARAMETERS} == {*TRAINING_KEYS} - {
        *("model", "epochs"),
        "portable",  # in test_portable.py
    }


@pytest.mark.parametrize("option", OTHER_PARAMETERS)
def test_another_parameter_is_another_training(trained, workspace, option):
    workspace.data = trained.data
    checkpoint = ["--checkpoint_path", str(trained.model() / "checkpoint.pth")]
    with pytest.raises(BaselineError, match=f"is from another training: {option.split()[0]} was "):
        restart(workspace, *checkpoint, *option.split())


def test_checkpoint_of_another_training_is_refused(trained, workspace):
    workspace.data = trained.data
    checkpoint = str(trained.model() / "checkpoint.pth")
    options = ["--epochs", "1", "--train_only", "--restart", "--checkpoint_path"]
    with pytest.raises(BaselineError, match="--batch_size was 256, now 128"):
        workspace.run_here(*options, checkpoint, "--batch_size", "128")
    with pytest.raises(BaselineError, match="cannot be read: No such file"):
        workspace.run_here(*options, checkpoint + "x")
    with pytest.raises(BaselineError, match="has 3 epochs, more than --epochs 1"):
        workspace.run_here(*options, checkpoint)


def test_finished_epochs_are_not_lost_without_restart(resumable, capsys):
    """Those of this training are asked for, those of another one kept."""
    for name in ("config.yaml", "model.pth"):
        (resumable.model() / name).unlink()
    checkpoint = (resumable.model() / "checkpoint.pth").read_bytes()
    with pytest.raises(BaselineError, match=r"has 3 finished epochs of this training. Use --restart to resume"):
        resumable.run_here("--epochs", "3", "--train_only")
    assert (resumable.model() / "checkpoint.pth").read_bytes() == checkpoint
    resumable.run_here("--epochs", "1", "--train_only", "-lr", "0.01")
    assert "kept 3 epochs of another training in " in capsys.readouterr().out
    assert (resumable.model() / "checkpoint_old.pth").read_bytes() == checkpoint


def test_weights_that_a_user_has_put_there_are_not_overwritten(trained, workspace):
    workspace.data = trained.data
    workspace.model().mkdir(parents=True)
    (workspace.model() / "model.pth").write_bytes(b"mine")
    shutil.copy(trained.model() / "checkpoint.pth", workspace.model())
    for options in ([], ["--restart"], ["-lr", "0.5"]):
        with pytest.raises(BaselineError, match=r"model.pth was not trained here: there is no config.yaml beside it"):
            workspace.run_here("--epochs", "1", "--train_only", *options)
    assert (workspace.model() / "model.pth").read_bytes() == b"mine"


# --- Signals


def start(command: list, **options) -> subprocess.Popen:
    return subprocess.Popen(
        list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def wait_until(condition, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_killed_training_keeps_the_old_model_and_starts_clean(trained, resumable):
    model = resumable.model()
    (model / "checkpoint.pth").unlink()
    kept = {name: (model / name).read_bytes() for name in (*FILES, "config.yaml")}
    options = ["--dataset", "DCASE2024T2fan", "-d", "--epochs", "200", "--train_only", *resumable.options]
    process = start([sys.executable, ROOT / "train.py", *options])
    wait_until((model / "checkpoint.pth").exists, process)
    process.kill()
    process.communicate()
    assert {name: (model / name).read_bytes() for name in kept} == kept
    resumable.run_here("--epochs", "3", "--train_only")
    assert_equal_models(resumable, trained)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_training_and_its_last_line_resumes(demo_data, workspace, tmp_path, number):
    workspace.data = demo_data
    options = ["--dataset", "DCASE2024T2fan", "-d", "--epochs", "30", "--train_only", *workspace.options]
    process = start([sys.executable, ROOT / "train.py", *options])
    wait_until((workspace.model() / "checkpoint.pth").exists, process)
    process.send_signal(number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number, errors
    found = re.fullmatch("warning: fan: interrupted. Finished epochs are kept. To resume: (.*)\n", errors)
    assert not list(workspace.directory.rglob("*.tmp"))
    if number == signal.SIGTERM:
        finished = subprocess.run(shlex.split(found[1]), capture_output=True, text=True, timeout=120)
        assert "fan: resuming after epoch" in finished.stdout, finished.stderr
        once = Workspace(tmp_path / "once", demo_data)
        once.run_here("--epochs", "30", "--train_only")
        assert_equal_models(workspace, once)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_at_any_time_ends_a_command_with_one_line(number, status, capsys):
    """Also while it imports; afterwards the handlers are those of before."""
    before = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    assert run_command(lambda: signal.raise_signal(number), "To resume: again") == status
    assert capsys.readouterr().err == "warning: interrupted. To resume: again\n"
    assert [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)] == before
    assert issubclass(Terminated, KeyboardInterrupt)


@pytest.mark.parametrize(
    ("arguments", "added"),
    [("-d --epochs 5", " --restart"), ("-d --restart --checkpoint_path a.pth", ""), ("-d --test_only", "")],
)
def test_the_command_that_resumes(monkeypatch, arguments, added):
    monkeypatch.setattr(sys, "argv", ["train.py", *arguments.split()])
    assert how_to_resume().endswith(f" train.py {arguments}{added}")
    monkeypatch.setenv("NAME_IN_LOOP", "fan")
    assert how_to_resume() == "Finished epochs are kept."


def test_a_script_goes_on_with_what_is_not_finished(tmp_path):
    facts = find_dataset("DCASE2024T2").facts
    machines = {machine: ["00"] for machine in ("fan", "slider")}
    facts["dev"]["machines"] = machines
    workspace = Workspace(tmp_path, project=copy_project(tmp_path, dcase2024t2=yaml.safe_dump(facts)))
    make_clips(workspace.data, list(machines))
    options = ["-d", "--epochs", "12", *workspace.options]
    script, environment = workspace.project / "01_train_2024t2.sh", {"PYTHON": sys.executable, "JOBS": "1"}
    process = start([script, *options], env=os.environ | environment)
    wait_until((workspace.model("slider") / "checkpoint.pth").exists, process)
    process.terminate()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 143
    assert (
        errors.splitlines()[-1]
        == f"warning: interrupted. To resume: bash {shlex.join(map(str, [script, *options]))} --restart"
    )
    finished = workspace.script("01_train_2024t2.sh", "-d", "--epochs", "12", "--restart", JOBS="2")
    assert finished.returncode == 0, finished.stderr
    assert "fan: already trained, 12 epochs" in finished.stdout
    assert "slider: trained 12 epochs" in finished.stdout
    assert "resuming after epoch" in (workspace.model("slider") / "train.log").read_text()
