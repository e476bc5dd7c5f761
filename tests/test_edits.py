"""Edits of the code that a researcher would make, in a copy of the project: nothing that older code made is used."""

import shutil

import pytest
from conftest import Workspace, copy_project, run

EDITS = {
    "datasets/log_mel.py": ("FLOOR = sys.float_info.epsilon", "FLOOR = 1e-3"),
    "networks/autoencoder.py": ("nn.ReLU()", "nn.LeakyReLU(0.2)"),
    "train.py": (".square().mean(dim=1)", ".abs().mean(dim=1)"),
}
SCORE = ("torch.stack([mean @ precision @ mean for", "2 * torch.stack([mean @ precision @ mean for")
COMMENTS = {
    "datasets/log_mel.py": ("FLOOR = ", "# A comment.\n\nFLOOR = "),
    "networks/autoencoder.py": ("B: vectors per batch.", "B: vectors."),
    "train.py": ("    loss.mean().backward()", "    # A comment.\n    loss.mean().backward()"),
}


@pytest.fixture
def project(tmp_path, demo_data):
    workspace = Workspace(tmp_path, project=copy_project(tmp_path))
    shutil.copytree(demo_data, workspace.data)
    assert "trained 1 epochs" in train(workspace, "--score", "MAHALA")
    return workspace


def train(workspace, *options):
    command = [workspace.project / ".venv/bin/python", workspace.project / "train.py", "--dataset", "DCASE2024T2fan"]
    finished = run([*command, "-d", "--epochs", "1", *workspace.options, *options], workspace.directory)
    assert "Traceback" not in finished.stderr
    return finished.stdout + finished.stderr


def edit(workspace, edits):
    for name, (old, new) in edits.items():
        path = workspace.project / name
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))


def test_other_code_is_another_training(project):
    caches = {path: path.stat().st_mtime_ns for path in project.data.rglob("log_mel_*.npz")}
    distributions = (project.model() / "score_distribution.json").read_text()
    decisions = project.result("MAHALA") / "decision_result_fan_section_00_test.csv"

    edit(project, COMMENTS)
    assert "already trained, 1 epochs" in train(project, "--restart", "--train_only")
    assert {path: path.stat().st_mtime_ns for path in caches} == caches

    edit(project, {"networks/scores.py": SCORE})
    output = train(project, "--test_only", "--score", "MAHALA")
    assert "trained with different code: networks/scores.py has changed (selective_mah" in output
    assert not decisions.exists()
    output = train(project, "--restart", "--score", "MAHALA")
    assert "resuming after epoch 1; networks/scores.py has changed (selective_mahalanobis)" in output
    assert (project.model() / "score_distribution.json").read_text() != distributions
    assert decisions.exists()

    edit(project, EDITS)
    output = train(project, "--restart", "--train_only")
    assert "checkpoint.pth is from another training: datasets/log_mel.py has changed (FLOOR), " in output
    assert "networks/autoencoder.py has changed (_layer), train.py has changed (training_step)" in output
    assert all(path.stat().st_mtime_ns > time for path, time in caches.items() if "train" in str(path))
    output = train(project, "--test_only")
    assert "different code: datasets/log_mel.py has changed (FLOOR), networks/auto" in output
    output = train(project)
    assert "training_step was edited: it runs as written" in output
    assert "1 epochs of another training" not in output  # it was finished
