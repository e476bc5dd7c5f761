"""The comparison with the published baseline, with a stand-in that computes what it writes with this project."""

import contextlib
import io
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from conftest import ROOT, no_handlers_left

import train
from config import BaselineError
from tools import compare_with_published
from tools.compare_with_published import FILES, compare, compare_values, main, run
from tools.training.console import run_command

NAME = "DCASE2023T2-AE_DCASE2024T2fan_id(0_)_seed13711"
SECTION = "DCASE2024T2fan_section_00_test_seed13711_id(0_).csv"
WEIGHTS = f"models/saved_model/baseline/{NAME}.pth"
LOSSES = f"logs/baseline/{NAME}/log.csv"
MSE, MAHALA = "results/dev_data/baseline_MSE", "results/dev_data/baseline_MAHALA"
RESULT = "result_DCASE2024T2fan_test_seed13711_id(0_)_roc.csv"

STAND_IN = f"""
import argparse, os, shutil, sys
from pathlib import Path
import beside

parser = argparse.ArgumentParser(allow_abbrev=False)
parser.add_argument("--dataset", required=True, choices=["DCASE2024T2fan"])
parser.add_argument("-d", action="store_true", required=True)
parser.add_argument("-tag", required=True, choices=["id(0_)"])
parser.add_argument("--use_ids", required=True, choices=["0"])
parser.add_argument("--mono", required=True, choices=["True"])
parser.add_argument("--epochs", required=True)
parser.add_argument("--train_only", action="store_true")
parser.add_argument("--test_only", action="store_true")
parser.add_argument("--score", choices=["MSE", "MAHALA"])
options = parser.parse_args()
assert options.train_only != options.test_only and options.test_only == bool(options.score)
assert os.environ["OMP_NUM_THREADS"] == os.environ["MKL_NUM_THREADS"] == os.environ["OPENBLAS_NUM_THREADS"] == "1"
assert os.environ["MPLBACKEND"] == "Agg" and os.environ["CUDA_VISIBLE_DEVICES"] == ""
assert not Path("own.txt").exists() and not Path(".git").exists() and not Path("environment").exists()
assert not any(Path(name).exists() for name in ("models", "results", "logs")) or options.test_only
Path("data/dcase2024t2/dev_data/processed").mkdir(exist_ok=True)

def move(path, name):
    Path(name).parent.mkdir(parents=True, exist_ok=True)
    shutil.move(path, name)

if options.train_only:
    sys.path.insert(0, {str(ROOT)!r})
    import train
    from config import load_config
    from datasets.catalog import find_machine

    for step in (["--train_only"], ["--test_only", "--score=MSE"], ["--test_only", "--score=MAHALA"]):
        places = ["--dataset_directory=data", "--model_directory=own/models", "--result_directory=own/results"]
        places += ["--cache_directory=data/dcase2024t2/dev_data/processed", "--use_cuda=False"]
        config = load_config(["--dataset", options.dataset, "-d", "--epochs", options.epochs, *places, *step])
        train.run(config, find_machine(config.dataset, config.split))
    model = Path("own/models/baseline/dev_data/DCASE2024T2/seed13711/fan")
    move(model / "model.pth", {WEIGHTS!r})
    move(model / "log.csv", {LOSSES!r})
else:
    results = Path(f"results/dev_data/baseline_{{options.score}}")
    own = "own" / results / "DCASE2024T2/seed13711"
    move(own / "anomaly_score_fan_section_00_test.csv", results / "anomaly_score_{SECTION}")
    move(own / "decision_result_fan_section_00_test.csv", results / "decision_result_{SECTION}")
    move(own / "result_fan.csv", results / "{RESULT}")
"""


def make_checkout(directory, program):
    """A checkout of a stand-in, with files that are nobody else's business."""
    (directory / "train.py").parent.mkdir(parents=True)
    (directory / "train.py").write_text(program)
    (directory / "beside.py").write_text("")
    for name in ("data/dcase2024t2/dev_data/raw/fan/train/a.wav", "models/m.pth", "results/r.csv", "logs/log.csv"):
        (directory / name).parent.mkdir(parents=True)
        (directory / name).write_text("the user's own")
    for name in (".git/HEAD", "environment/pyvenv.cfg"):
        (directory / name).parent.mkdir()
        (directory / name).write_text("own")
    return directory


def contents(directory):
    return {path: (path.stat().st_mtime_ns, path.is_file() and path.read_bytes()) for path in directory.rglob("*")}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A comparison of this project with itself: what it printed and left, and the files that were compared."""
    directory = tmp_path_factory.mktemp("compare")
    checkout, kept = make_checkout(directory / "checkout", STAND_IN), directory / "kept"
    python = directory / "python"  # an environment with another version of PyTorch
    change = 's/"torch": "[^"]*"/"torch": "0.1"/'
    exact = f'exec {sys.executable} "$@"'
    python.write_text(f'#!/bin/sh\n[ "$1" = -c ] || {exact}\n{sys.executable} "$@" | sed \'{change}\'\n')
    python.chmod(0o755)
    (directory / "temporary").mkdir()

    def keep_and_compare(published, ours):
        unwanted = shutil.ignore_patterns("data", "*.png", "checkpoint.pth", "cache")
        shutil.copytree(published.parent, kept, ignore=unwanted)
        return compare(published, ours)

    def run_here(command, directory, wanted=()):
        """The runs of this project in this process: importing PyTorch would take most of their time."""
        if command[1] != str(ROOT / "train.py"):
            return run(command, directory, wanted)
        with pytest.MonkeyPatch.context() as patch, no_handlers_left():
            patch.setattr(sys, "argv", command[1:])
            train.main()
        return 1.0, 400.0, ""

    before = contents(checkout)
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(io.StringIO()) as output:
        patch.chdir(directory)
        patch.setattr(tempfile, "tempdir", str(directory / "temporary"))
        patch.setattr(compare_with_published, "compare", keep_and_compare)
        patch.setattr(compare_with_published, "run", run_here)
        patch.setattr(compare_with_published, "VERSIONS", """print('{"torch": "2.0"}')""")
        is_equal = main(["checkout", "--python", "./python"])
    table = output.getvalue()[output.getvalue().index("what  ") :]  # after the lines of the tests in this process
    is_clean = contents(checkout) == before and not [*(directory / "temporary").iterdir()]
    return SimpleNamespace(is_equal=is_equal, output=table, is_clean=is_clean, kept=kept)


@pytest.fixture
def outputs(finished, tmp_path):
    """A copy of the files that were compared: those of the published baseline are to be changed."""
    return SimpleNamespace(root=shutil.copytree(finished.kept, tmp_path / "outputs"))


def rows_of(outputs):
    return compare(outputs.root / "published", outputs.root / "ours")


def test_equal_to_itself(finished):
    assert finished.is_equal
    lines = finished.output.splitlines()
    compared = dict.fromkeys(what for files in FILES.values() for what in files)
    assert [line[:20].strip() for line in lines[1:10]] == [*compared]
    assert all(line[20:].startswith("equal to the last bit (") for line in lines[1:10])
    assert lines[1].endswith("(15 values)")
    assert lines[4].endswith("(16 values)")
    assert "torch 0.1 (here 2.0)" in finished.output
    assert lines[-1] == "Everything is equal."
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_nothing_is_left_and_nothing_is_changed(finished):
    assert finished.is_clean


def flip_a_bit(root):
    state = torch.load(root / WEIGHTS, weights_only=True)
    state["decoder.12.bias"].view(torch.int32)[3] ^= 1
    torch.save(state, root / WEIGHTS)


def forget_a_weight(root):
    state = torch.load(root / WEIGHTS, weights_only=True)
    del state["encoder.0.bias"]
    torch.save(state, root / WEIGHTS)


def scale_covariances(factor):
    def scale(root):
        state = torch.load(root / WEIGHTS, weights_only=True)
        state["cov_target"] *= factor
        torch.save(state, root / WEIGHTS)

    return scale


def change_value(name, line, column, change):
    """Change a value of a CSV."""

    def apply(root):
        rows = [row.split(",") for row in (root / name).read_text().splitlines()]
        rows[line][column] = str(change(float(rows[line][column])))
        (root / name).write_text("".join(",".join(row) + "\n" for row in rows))

    return apply


def remove_last_line(name):
    return lambda root: (root / name).write_text("".join((root / name).read_text().splitlines(keepends=True)[:-1]))


def next_float(value):
    return np.nextafter(value, np.inf)


@pytest.mark.parametrize(
    ("change", "what", "result"),
    [
        (flip_a_bit, "weights", r"DIFFERENT by .*e-\d\d, 1 of \d+ values: decoder.12.bias"),
        (forget_a_weight, "weights", "DIFFERENT: this project only: encoder.0.bias, float32 .128"),
        (scale_covariances(1.001), "covariances", "DIFFERENT by 1.0e-03, .* values: cov_target"),
        (change_value(LOSSES, 2, 1, next_float), "log.csv", "DIFFERENT by .*, 1 of 15 values: val_loss of epoch 2"),
        (remove_last_line(LOSSES), "log.csv", "DIFFERENT: this project only: loss of epoch 3"),
        (change_value(f"{MSE}/anomaly_score_{SECTION}", 5, 1, next_float), "scores, MSE", "DIFFERENT by .*, 1 of 16"),
        (remove_last_line(f"{MSE}/anomaly_score_{SECTION}"), "scores, MSE", "DIFFERENT: this project only: section_00"),
        (
            change_value(f"{MAHALA}/anomaly_score_{SECTION}", 0, 1, lambda x: 1.01 * x),
            "scores, MAHALA",
            "9.9e-03, 1 of",
        ),
        (
            change_value(f"{MSE}/decision_result_{SECTION}", 0, 1, lambda x: int(1 - x)),
            "decisions, MSE",
            "DIFFERENT by 1.0e\\+00, 1 of 16 values: section_00_source_test_normal_0000",
        ),
        (change_value(f"{MAHALA}/decision_result_{SECTION}", 9, 1, lambda x: 1 - x), "decisions, MAHALA", "1 of 16"),
        (change_value(f"{MSE}/{RESULT}", 1, 1, lambda x: x - 1e-12), "AUCs, MSE", "1 of 5 values: AUC .source."),
        (change_value(f"{MAHALA}/{RESULT}", 1, 3, lambda x: x - 1e-12), "AUCs, MAHALA", "1 of 5 values: pAUC"),
    ],
)
def test_one_difference_is_found(outputs, change, what, result):
    change(outputs.root / "published")
    rows = rows_of(outputs)
    assert [row[0] for row in rows if not row[1]] == [what]
    (text,) = [row[2] for row in rows if row[0] == what]
    assert re.search(result, text), text


def test_what_is_summed_in_another_order_may_differ_a_little(outputs):
    scale_covariances(1 + 2e-5)(outputs.root / "published")
    change_value(f"{MAHALA}/anomaly_score_{SECTION}", 3, 1, lambda x: (1 - 5e-5) * x)(outputs.root / "published")
    rows = {what: (is_equal, text) for what, is_equal, text in rows_of(outputs)}
    assert all(is_equal for is_equal, _ in rows.values())
    assert rows["covariances"][1].startswith("equal within 2.0e-05 (")
    assert rows["scores, MAHALA"][1] == "equal within 5.0e-05 (16 values)"


def test_values_count_not_their_form(outputs):
    change_value(LOSSES, 1, 0, lambda x: f"{x:.20e}")(outputs.root / "published")
    change_value(f"{MSE}/decision_result_{SECTION}", 0, 1, float)(outputs.root / "published")
    assert all(is_equal for _, is_equal, _ in rows_of(outputs))


def test_aucs_that_one_alone_has_do_not_count(outputs):
    path = outputs.root / "published" / MSE / RESULT
    lines = path.read_text().splitlines()
    path.write_text("".join(f"{line},{'AUC (both)' if n == 0 else 0.5}\n" for n, line in enumerate(lines)))
    assert ("AUCs, MSE", True, "equal to the last bit (5 values)") in rows_of(outputs)
    path.write_text(path.read_text().replace("AUC", "area"))
    assert ("AUCs, MSE", False, "DIFFERENT: no values") in rows_of(outputs)


def test_odd_values():
    nan = float("nan")
    assert compare_values({"a": nan}, {"a": nan}, 0)[0]
    assert compare_values({"a": nan}, {"a": 1.0}, 1) == (False, "DIFFERENT by inf, 1 of 1 values: a")
    assert not compare_values({"a": 0.0}, {"a": -0.0}, 0)[0]
    assert not compare_values({}, {}, 0)[0]
    assert (
        "DIFFERENT: published only: a, float32 (2,)" in compare_values({"a": np.ones(2, "f4")}, {"a": np.ones(2)}, 0)[1]
    )


def test_a_file_that_cannot_be_read_is_named(outputs):
    path = outputs.root / "published" / WEIGHTS
    path.write_bytes(b"no weights")
    with pytest.raises(BaselineError, match=r"_seed13711\.pth cannot be read"):
        rows_of(outputs)


def test_exit_status_1_if_something_differs(outputs, tmp_path, monkeypatch, capsys):
    def run_both(_checkout, _python, published, ours):
        shutil.copytree(outputs.root / "published", published)
        shutil.copytree(outputs.root / "ours", ours)
        flip_a_bit(published)
        return "costs"

    monkeypatch.setattr(compare_with_published, "run_both", run_both)
    assert run_command(lambda: main([str(tmp_path)])) == 1
    assert capsys.readouterr().out.endswith("\ncosts\n\nDifferent: weights.\n")


@pytest.fixture
def fails(tmp_path, monkeypatch, capsys):
    """Compare with a program: the error message, and what was shown before."""

    def compare_with(program):
        checkout = make_checkout(tmp_path / "checkout", program)
        temporary = tmp_path / "temporary"
        temporary.mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        monkeypatch.setattr(compare_with_published, "VERSIONS", "print('{}')")
        assert run_command(lambda: main([str(checkout)])) == 1
        assert not [*temporary.iterdir()]
        lines = capsys.readouterr().err.splitlines()
        return lines[-1], lines[:-1]

    return compare_with


def test_a_run_that_fails(fails):
    message, lines = fails("for n in range(99): print('line', n)\nprint('why')\nraise SystemExit(3)")
    assert message.startswith("error: exit status 3.")
    assert f"{sys.executable} train.py --dataset=DCASE2024T2fan -d" in message
    assert lines == [*(f"line {n}" for n in range(88, 99)), "why"]


def test_a_file_that_is_not_written(fails):
    message, lines = fails("print('saved as weights.zip')")
    assert message.startswith(f"error: {LOSSES} was not written.")
    assert lines == ["saved as weights.zip"]


def test_no_checkout_and_no_python(tmp_path):
    with pytest.raises(BaselineError, match="has no train.py"):
        main([str(tmp_path)])
    with pytest.raises(BaselineError, match="none/python: no such program"):
        main([str(tmp_path), "--python", "none/python"])


def test_time_and_memory_are_of_the_command(tmp_path):
    script = "import time; x = bytearray(900_000_000); time.sleep(0.3); print('last')"
    seconds, memory, last = run([sys.executable, "-S", "-c", script], tmp_path)
    assert 0.3 < seconds < 5
    assert 900 < memory < 1000
    assert last == "last"


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_all(tmp_path, kind):
    checkout, python, started = make_checkout(tmp_path / "checkout", ""), tmp_path / "python", tmp_path / "started"
    python.write_text(f"#!/bin/sh\necho $$ > {started}.part; mv {started}.part {started}\nexec sleep 60\n")
    python.chmod(0o755)
    (tmp_path / "temporary").mkdir()
    command = [sys.executable, ROOT / "tools/compare_with_published.py", checkout, "--python", python]
    environment = os.environ | {"TMPDIR": str(tmp_path / "temporary")}
    with subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True) as process:
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(kind)
        assert "interrupted." in process.communicate(timeout=20)[1]
    assert process.returncode == 128 + kind
    assert not [*(tmp_path / "temporary").iterdir()]
    with pytest.raises(ProcessLookupError):
        os.kill(int(started.read_text()), 0)
