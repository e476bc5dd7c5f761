"""train.py as a user runs it: files, messages, exit status; what goes wrong, and what is left untouched then."""

import csv
import json
import logging
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import RAW, ROOT, Workspace, make_clips, write_wav
from sklearn.metrics import roc_auc_score

from config import BaselineError
from tools.training.console import open_console, open_log_file, run_command

SCORE_FILE = "anomaly_score_fan_section_00_test.csv"
SHORT = ["--epochs", "1", "--train_only"]


def contents(directory: Path) -> dict[str, bytes]:
    """All files but the logs of runs and locks."""
    files = [path for path in directory.rglob("*") if path.is_file() and path.suffix not in (".log", ".lock")]
    return {str(path.relative_to(directory)): path.read_bytes() for path in files}


def own_copy(workspace: Workspace, demo_data: Path, machine: str = "fan") -> None:
    """Clips that a test may change."""
    shutil.copytree(demo_data / RAW / machine, workspace.data / RAW / machine)


# --- What a run leaves behind


def test_files_of_a_model(trained):
    names = {path.name for path in trained.model().iterdir() if path.suffix != ".lock"}
    assert names == {
        *("model.pth", "checkpoint.pth", "score_distribution.json", "config.yaml", "log.csv", "log.png", "train.log"),
    }
    record = yaml.safe_load((trained.model() / "config.yaml").read_text())
    assert (record["epochs"], record["n_mels"], record["device"], record["sampling_rate"]) == (3, 128, "cpu", 16000)
    assert record["versions"]["torch"] == torch.__version__
    log = (trained.model() / "log.csv").read_text().splitlines()
    assert log[0] == "loss,val_loss,recon_loss,recon_loss_source,recon_loss_target"
    assert len(log) == 4
    fits = json.loads((trained.model() / "score_distribution.json").read_text())
    assert set(fits["batch"]["MSE"]) == set(fits["batch"]["MAHALA"]) == {"shape", "loc", "scale", "n_scores"}


@pytest.mark.parametrize("score", ["MSE", "MAHALA"])
def test_files_of_a_test(trained, score):
    directory = trained.result(score)
    names = {path.name for path in directory.iterdir() if path.suffix != ".log"}
    assert names == {
        "anomaly_score_fan_section_00_test.csv",
        "decision_result_fan_section_00_test.csv",
        "result_fan.csv",
        "anomaly_score_fan.png",
        "roc_fan.png",
        "test_fan.json",
    }
    for name in ("anomaly_score", "decision_result"):
        text = (directory / f"{name}_fan_section_00_test.csv").read_text()
        rows = list(csv.reader(text.splitlines()))
        assert len(rows) == 16
        assert text.endswith("\n")
        assert not text.endswith("\n\n")
        assert all(len(row) == 2 and "/" not in row[0] for row in rows)
        assert [("anomaly" in row[0]) for row in rows] == [False] * 8 + [True] * 8
    rows = list(csv.reader((directory / "result_fan.csv").open()))
    assert ",".join(rows[0]) == (
        "section,AUC (source),AUC (target),pAUC,pAUC (source),pAUC (target),precision (source),precision (target),"
        "recall (source),recall (target),F1 score (source),F1 score (target)"
    )
    assert [row[0] for row in rows[1:]] == ["00", "arithmetic mean", "harmonic mean"]


def test_no_bar_and_no_control_characters_outside_a_terminal(trained):
    finished = trained.finished
    assert "\r" not in finished.stdout + finished.stderr
    assert "\x1b" not in finished.stdout + finished.stderr
    lines = finished.stdout.splitlines()
    assert lines[0] == "fan: 26 training clips, 1534 vectors of 640 values, on the CPU"
    assert lines[1].startswith("fan: epoch 1/3, loss ")
    assert lines[-3].startswith("fan: trained 3 epochs in ")
    assert lines[-2] == "fan: 16 test clips, on the CPU"
    assert lines[-1].startswith("fan: MSE: AUC (source) ")
    log = (trained.model() / "train.log").read_text()
    assert "epoch 3/3" in log
    assert "seed=13711" in log


def test_unlabelled_clips_are_scored_without_metrics(workspace):
    make_clips(workspace.data, ["HairDryer"], "--eval")
    workspace.run_here("--epochs", "1", machine="HairDryer", split="-e")
    directory = workspace.result(split="eval")
    rows = list(csv.reader((directory / "anomaly_score_HairDryer_section_00_test.csv").open()))
    assert [row[0] for row in rows] == [f"section_00_{number:04d}.wav" for number in range(16)]
    assert (directory / "decision_result_HairDryer_section_00_test.csv").exists()
    assert (directory / "anomaly_score_HairDryer.png").exists()
    assert not (directory / "result_HairDryer.csv").exists()
    (directory / "result_HairDryer.csv").write_text("of other clips")
    workspace.run_here("--test_only", machine="HairDryer", split="-e")
    assert not (directory / "result_HairDryer.csv").exists()


def test_features_are_cached_where_it_is_said(workspace, demo_data):
    own_copy(workspace, demo_data)
    workspace.run_here("--epochs", "1", "--cache_directory", str(workspace.directory / "scratch"))
    assert {path.name for path in (workspace.data / RAW.parent).iterdir()} == {"raw"}
    assert len(list((workspace.directory / "scratch" / RAW.parent / "processed" / "fan").glob("log_mel_*.npz"))) == 2


def test_a_picture_that_cannot_be_drawn_costs_nothing_else(trained, tmp_path, capsys, monkeypatch):
    workspace = Workspace(tmp_path, trained.data)
    shutil.copytree(trained.models, workspace.models)
    (workspace.result() / "anomaly_score_fan.png").mkdir(parents=True)  # in the picture's place
    older = workspace.result() / "roc_fan.png"
    older.write_bytes(b"of another test")
    monkeypatch.setattr("tools.results.plots.plot_roc", None)
    workspace.run_here("--test_only")
    errors = capsys.readouterr().err
    assert "anomaly_score_fan.png could not be drawn" in errors
    assert "roc_fan.png could not be drawn" in errors
    assert not older.exists()
    assert (workspace.result() / "result_fan.csv").exists()


def test_a_score_equal_to_the_threshold_is_normal(trained, workspace, monkeypatch):
    scores = [float(score) for _, score in csv.reader((trained.result() / SCORE_FILE).open())]
    threshold = sorted(scores)[7]
    monkeypatch.setattr("tools.training.trained_model._threshold", lambda *_: threshold)
    workspace.data, workspace.models = trained.data, trained.models
    workspace.run_here("--test_only", "--max_fpr", "0.5")
    row = next(csv.DictReader((workspace.result() / "result_fan.csv").open()))
    assert float(row["pAUC"]) == pytest.approx(roc_auc_score(8 * [0] + 8 * [1], scores, max_fpr=0.5))
    rows = csv.reader((workspace.result() / SCORE_FILE.replace("anomaly_score", "decision_result")).open())
    assert [int(decision) for _, decision in rows] == [int(score > threshold) for score in scores]


@pytest.mark.parametrize(
    ("lock", "arguments", "message"),
    [
        ("model .training.lock", SHORT, "waiting for another run that is training the same model"),
        ("model .files.lock", SHORT, "writing the model(.|\n)*waiting for .*files.lock"),
        ("model .files.lock", ["--test_only"], "waiting for .*files.lock"),
        ("result ../.seed13711_fan.lock", ["--test_only"], "waiting for another run that writes results of fan"),
    ],
)
def test_runs_wait_for_each_other(trained, workspace, caplog, lock, arguments, message):
    caplog.set_level("DEBUG")
    workspace.data = trained.data
    shutil.copytree(trained.models, workspace.models)
    place, name = lock.split()
    path = getattr(workspace, place)() / name
    path.parent.parent.mkdir(parents=True, exist_ok=True)
    code = f"with files.process_lock(pathlib.Path({str(path)!r})): print(flush=True), sys.stdin.read()"
    command = [sys.executable, "-c", f"import sys, pathlib, files\n{code}"]
    holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
    holder.stdout.readline()
    release = logging.Handler()
    release.emit = lambda record: holder.stdin.close() if "waiting" in record.getMessage() else None
    logging.getLogger("baseline").addHandler(release)
    try:
        workspace.run_here(*arguments)
        assert re.search(message, caplog.text)
    finally:
        holder.kill()


def test_clips_of_another_rate(trained, workspace):
    own_copy(workspace, trained.data)
    shutil.copytree(trained.models, workspace.models)
    for path in (workspace.data / RAW / "fan" / "test").iterdir():
        write_wav(path, seconds=2, rate=8000)
    with pytest.raises(BaselineError, match="sampling rate 8000 Hz, but the model was trained on clips with 16000 Hz"):
        workspace.run_here("--test_only")


def test_one_class_only(trained, workspace, capsys):
    own_copy(workspace, trained.data)
    shutil.copytree(trained.models, workspace.models)
    for path in (workspace.data / RAW / "fan" / "test").glob("*anomaly*"):
        path.unlink()
    workspace.run_here("--test_only")
    assert "undefined (nan)" in capsys.readouterr().err
    rows = list(csv.DictReader((workspace.result() / "result_fan.csv").open()))
    assert rows[0]["AUC (source)"] == "nan"
    assert len((workspace.result() / "anomaly_score_fan_section_00_test.csv").read_text().splitlines()) == 8


# --- What goes wrong


CLIP = "section_00_source_train_normal_0003_*"


def change_clip(change):
    """Change one training clip: a function of its bytes."""

    def mistake(workspace):
        path = workspace.clip(CLIP)
        path.write_bytes(change(path.read_bytes()))

    return mistake


def other_clip(**form):
    """Another recording in the place of one training clip."""
    return lambda workspace: write_wav(workspace.clip(CLIP), **form)


def remove_clips(workspace):
    for path in (workspace.data / RAW / "fan").glob("*/*.wav"):
        path.unlink()


def one_short_clip(workspace):
    """A single vector in all: there is nothing to split."""
    remove_clips(workspace)
    write_wav(workspace.data / RAW / "fan" / "train" / "section_00_source_train_normal_0000.wav", seconds=2100 / 16000)


def a_file_instead(place):
    def mistake(workspace):
        shutil.rmtree(getattr(workspace, place))
        getattr(workspace, place).write_text("")

    return mistake


def other_weights(workspace):
    """Another network's, without the records of ours."""
    torch.save({}, workspace.model() / "model.pth")
    (workspace.model() / "config.yaml").unlink()
    (workspace.model() / "score_distribution.json").unlink()


def nothing(_):
    pass


TEST = ["--test_only"]
MISTAKES = [
    (lambda w: shutil.rmtree(w.data), SHORT, ["fan/train: no such directory", "data_download_20XX.sh DCASE2024T2 -d"]),
    (remove_clips, SHORT, ["fan/train", "no .wav files"]),
    (change_clip(lambda _: b""), SHORT, ["_0003_", "the file is empty"]),
    (change_clip(lambda _: b"RIFF nonsense" * 100), SHORT, ["_0003_", "not a readable wav"]),
    (change_clip(lambda contents: contents[:20_000]), SHORT, ["_0003_", "truncated"]),
    (other_clip(rate=8000), SHORT, ["_0003_", "8000 Hz", "16000 Hz"]),
    (other_clip(channels=2), SHORT, ["_0003_", "2 channel(s), expected 1", "--mono"]),
    (nothing, [*SHORT, "--mono", "False"], ["1 channel(s), expected 2", "--mono True"]),
    (other_clip(seconds=0.1), SHORT, ["_0003_", "too short", "--frames"]),
    (lambda w: w.clip(CLIP).rename(w.clip(CLIP).with_name("a.wav")), SHORT, ["a.wav", "not a clip name"]),
    (nothing, [*SHORT, "--batch_size", "2000"], ["--batch_size 2000", "1380 training vectors of fan"]),
    (one_short_clip, SHORT, ["--validation_split 0.1 of 1 vectors", "too few"]),
    (nothing, [*SHORT, "--learning_rate", "1e30"], ["epoch 1", "not a finite number", "--learning_rate"]),
    (a_file_instead("models"), SHORT, ["cannot write", "models", "--model_directory"]),
    (a_file_instead("results"), ["--epochs", "1"], ["cannot write", "results", "--result_directory"]),
    (lambda w: shutil.rmtree(w.models), TEST, ["no trained model", "Run ./01_train_2024t2.sh -d first"]),
    (lambda w: torch.save({}, w.model() / "model.pth"), TEST, ["belongs to other weights"]),
    (other_weights, TEST, ["model.pth: not the weights of a DCASE2023T2-AE", "cov_source"]),
    (
        lambda w: (w.model() / "score_distribution.json").write_text("{"),
        TEST,
        ["score_distribution.json cannot be read", "Train again with --restart"],
    ),
    (nothing, [*TEST, "--hop_length", "256", "--power", "1"], ["--hop_length 512 (now 256), --power 2.0 (now 1.0)"]),
]


@pytest.mark.parametrize(("mistake", "arguments", "words"), MISTAKES, ids=[words[-1] for *_, words in MISTAKES])
def test_mistakes_get_a_clear_error_and_cost_nothing(trained, workspace, mistake, arguments, words):
    own_copy(workspace, trained.data)
    shutil.copytree(trained.models, workspace.models)
    shutil.copytree(trained.results, workspace.results)
    mistake(workspace)
    before = [contents(place) for place in (workspace.models, workspace.results) if place.is_dir()]
    with pytest.raises(BaselineError) as error:
        workspace.run_here(*arguments)
    assert all(word in str(error.value) for word in words), error.value
    assert [contents(place) for place in (workspace.models, workspace.results) if place.is_dir()] == before


def test_a_file_that_cannot_be_written_in_full(trained, workspace):
    """As on a full disk: a clear error, no half a file, and no leftover."""
    command = f"ulimit -f 2000; exec {sys.executable} {ROOT}/train.py --dataset DCASE2024T2fan -d " + " ".join(SHORT)
    options = ["--dataset_directory", trained.data, "--model_directory", workspace.models]
    finished = subprocess.run(["bash", "-c", f'{command} "$@"', "bash", *options], capture_output=True, text=True)
    assert finished.returncode == 1
    assert "checkpoint.pth: File too large" in finished.stderr
    assert "Traceback" not in finished.stderr
    assert "Exception ignored" not in finished.stderr
    assert {path.name for path in workspace.model().iterdir()} == {"train.log", ".training.lock"}


def test_names_of_files_do_not_move_the_cursor(capsys, tmp_path):
    open_console("fan")
    open_log_file(tmp_path / "train.log")
    logging.getLogger("baseline").warning("\x1b[2J\x07\x9b31m%s", "a\r\nb.wav")
    assert capsys.readouterr().err == "warning: fan: \\x1b[2J\\x07\\x9b31ma\\r\\nb.wav\n"
    assert (tmp_path / "train.log").read_text().endswith("\\x9b31ma\\r\\nb.wav\n")
    assert (tmp_path / "train.log").read_text().count("\n") == 1


def test_no_password_and_no_control_character_is_printed(capsys, tmp_path):
    """Before a console is open, too, and in tracebacks on the terminal and in the log."""

    def fail(error):
        raise error

    for error in (BaselineError("http://me:p@ss@host/x \x1b[2J"), ValueError("http://me:p@ss@host/x \x1b[2J")):
        run_command(lambda error=error: fail(error))
    error = ValueError("https://token@host/x \x1b[2J")
    run_command(lambda: open_log_file(tmp_path / "train.log") or fail(error))
    for text in (capsys.readouterr().err, (tmp_path / "train.log").read_text()):
        assert text.count("://***@host/x \\x1b[2J") == text.count("://")
        assert "Traceback" in text


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-", "1</dev/null", "2</dev/null"])
def test_closed_streams(closed):
    """As those of some cron jobs and services. Bash opens its script, to read, in their place."""
    code = """
from tqdm import tqdm
from tools.training.console import log, open_console, run_command, show
run_command(lambda: [open_console(), log.info("a"), log.error("b"), show("c"), *tqdm("de")]) and exit(3)
"""
    command = f"'{sys.executable}' -c '{code}' {closed}"
    assert subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True).returncode == 0


def test_errors_end_with_a_message_and_a_status(workspace):
    finished = workspace.train_py(*SHORT)
    assert finished.returncode == 1
    assert finished.stderr.startswith("error: fan: ")
    assert "Traceback" not in finished.stderr
    assert "no such directory" in (workspace.model() / "train.log").read_text()


@pytest.mark.parametrize(
    ("arguments", "machine", "words"),
    [
        (["--epoch", "3"], "fan", ["unknown option '--epoch'", "--epochs"]),
        (["-e"], "fan", ["either -d", "-e"]),
        ([], "fun", ["no machine type 'DCASE2024T2fun'", "mean 'DCASE2024T2fan'"]),
        (["--use_ids", "3"], "fan", ["no section 03"]),
        (["--model", "DCASE2023T2-EA", "--score", "MAHALA"], "fan", ["unknown model", "DCASE2023T2-AE"]),
    ],
)
def test_wrong_options_end_the_run_before_any_work(workspace, demo_data, arguments, machine, words):
    workspace.data = demo_data
    finished = workspace.train_py(*arguments, machine=machine)
    assert finished.returncode == 2
    assert "Traceback" not in finished.stderr
    assert all(word in finished.stderr for word in words), finished.stderr
    assert not contents(workspace.directory)


def test_singular_covariance_is_said(trained, workspace, capsys):
    """Silence in all clips: the residuals do not vary, yet there are scores."""
    own_copy(workspace, trained.data)
    for path in (workspace.data / RAW / "fan").glob("*/*.wav"):
        write_wav(path, seconds=2)
        path.write_bytes(path.read_bytes()[:44] + bytes(64_000))
    workspace.run_here("--epochs", "1", "--score", "MAHALA")
    assert "is singular" in capsys.readouterr().err
    rows = list(csv.reader((workspace.result("MAHALA") / "anomaly_score_fan_section_00_test.csv").open()))
    assert len(rows) == 16
