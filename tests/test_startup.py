"""What commands and scripts do first, in environments that were not made for them."""

import ast
import os
import runpy
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import matplotlib
import pytest
import torch
from conftest import ROOT, copy_project, run

import startup
from config import load_config
from tools.results import plots
from tools.training.device import choose_device

COMMANDS = [ROOT / "train.py", *(path for path in ROOT.glob("tools/*.py") if path.name != "__init__.py")]
SCRIPTS = [
    str(path.relative_to(ROOT))
    for path in sorted([*ROOT.glob("*.sh"), *ROOT.glob("tools/*.sh")])
    if path.name not in ("run_tests.sh", "each_machine.sh")  # they have no --help
]


@pytest.fixture
def interactive(monkeypatch):
    """As in a notebook. What startup.py changes in the environment is undone."""
    monkeypatch.setattr(sys, "ps1", "In: ", raising=False)
    monkeypatch.setattr(os, "environ", os.environ.copy())


@pytest.mark.parametrize("path", COMMANDS, ids=lambda path: path.stem)
def test_commands_prepare_before_they_import(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    place = next(
        place for place, node in enumerate(body) if isinstance(node, ast.If) and "prepare()" in ast.unparse(node)
    )
    imported = {
        name.split(".")[0]
        for node in body[:place]
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names])
    }
    assert imported <= {*sys.stdlib_module_names}


def test_unsuitable_python_and_system(monkeypatch):
    startup.check_python()
    monkeypatch.setattr(startup, "OLDEST", (3, 99))
    with pytest.raises(SystemExit, match=rf"{sys.executable} is Python 3\..* Use Python 3.99 to 3.13"):
        startup.check_python()
    monkeypatch.undo()
    monkeypatch.setitem(sys.modules, "fcntl", None)
    with pytest.raises(SystemExit, match="Linux or macOS is required. On Windows, use WSL"):
        startup.check_python()


def test_other_packages_than_required(tmp_path, monkeypatch, interactive, capsys):
    (tmp_path / "requirements.txt").write_text('tqdm==4.0.1  # a comment\nnumpy==1.1; python_version < "3.11"\n')
    monkeypatch.setattr(startup, "ROOT", tmp_path)
    startup.prepare()
    assert "packages differ from those tested together (requirements.txt): tqdm 4." in capsys.readouterr().err
    monkeypatch.setenv("NAME_IN_LOOP", "fan")  # said once
    startup.prepare()
    assert capsys.readouterr().err == ""
    monkeypatch.delenv("NAME_IN_LOOP")
    (tmp_path / "requirements.txt").write_text("no-such-package==1.0\nnumpy==99.0\n")
    with pytest.raises(
        SystemExit, match=r"has no no-such-package and has packages that are too old: numpy .* \(99.0\)"
    ):
        startup.prepare()


def test_variables_of_other_programs(monkeypatch, interactive):
    for name in (*startup.BINDING, "MPLBACKEND"):
        os.environ[name] = "module://matplotlib_inline.backend_inline"
    startup.prepare()
    assert not {*startup.BINDING, "MPLBACKEND"} & os.environ.keys()


@pytest.mark.parametrize("home", ["file/home", "~", "home"])
def test_caches_without_a_home(tmp_path, monkeypatch, interactive, home):
    """A home that cannot be made, one that is not known, and an ordinary one."""
    (tmp_path / "file").touch()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(
        os.path, "expanduser", lambda path: path.replace("~", str(tmp_path / home) if home != "~" else "~")
    )
    if home == "home":
        monkeypatch.setattr(
            os.path, "expanduser", lambda path: path.replace("~", home if home == "~" else f"{tmp_path}/{home}")
        )
    for name in ("XDG_CACHE_HOME", "NUMBA_CACHE_DIR", "MPLCONFIGDIR"):
        os.environ.pop(name, None)
    startup.prepare()
    if home == "home":
        assert "NUMBA_CACHE_DIR" not in os.environ
    else:
        directory = Path(os.environ["NUMBA_CACHE_DIR"])
        assert os.environ["MPLCONFIGDIR"] == str(directory)
        assert (directory.parent, directory.stat().st_mode & 0o777) == (tmp_path, 0o700)
        assert os.environ["XDG_CACHE_HOME"] == str(directory)


def test_an_interactive_session_runs_it_three_times(tmp_path, monkeypatch, interactive, capsys):
    monkeypatch.setattr(
        sys, "argv", ["train.py", "--dataset", "DCASE2024T2fan", "-d", f"--dataset_directory={tmp_path}"]
    )
    sys.argv += [f"--model_directory={tmp_path}", f"--result_directory={tmp_path}"]
    handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    for _ in range(3):
        with pytest.raises(SystemExit):
            runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
        assert capsys.readouterr().err.count("no such directory") == 1
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == handlers


# --- Scripts


@pytest.fixture(scope="module")
def odd_project(tmp_path_factory):
    """A copy of the project in a directory with a blank and a colon, without execute permissions."""
    project = copy_project(tmp_path_factory.mktemp("my work: 1"))
    for path in project.rglob("*.sh"):
        path.chmod(0o644)
    return project


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_start_by_any_shell_without_permissions(odd_project, tmp_path, script):
    finished = run(["sh", odd_project / script, "--help"], tmp_path)
    assert (finished.returncode, finished.stderr) == (0, "")
    assert finished.stdout


def test_python_of_the_environment_without_the_packages(odd_project, tmp_path):
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path], check=True)
    python = str(tmp_path / "bin" / "python")
    finished = run(["bash", odd_project / "01_train_2024t2.sh", "--help"], tmp_path, PYTHON=python)
    assert finished.returncode == 0
    assert finished.stderr.startswith(f"PYTHON={python} does not have the packages. Using {odd_project}/.venv")
    alone = tmp_path / "alone"
    shutil.copytree(odd_project, alone, ignore=shutil.ignore_patterns(".venv"))
    for script in ("01_train_2024t2.sh", "03_summarize_results.sh", "tools/slurm_array.sh"):
        arguments = ["DCASE2024T2", "-d"][script.startswith("01") :]
        finished = run(
            ["bash", alone / script, *arguments], tmp_path, PYTHON=python, PATH=f"{tmp_path}/bin:/usr/bin:/bin"
        )
        assert finished.returncode
        assert f"error: {python} has no torch, librosa" in finished.stderr
        assert "Traceback" not in finished.stderr


def test_line_endings_of_a_checkout():
    if not (ROOT / ".git").exists():
        pytest.skip("needs a checkout")
    finished = run(["git", "check-attr", "eol", "--", *SCRIPTS, ".ci/run", "train.py"], ROOT)
    assert finished.stdout.count("eol: lf") == len(SCRIPTS) + 2


# --- Plots and devices


def test_plots_do_not_depend_on_a_users_style(tmp_path):
    plots.plot_losses(tmp_path / "a.png", "100 $ for_a fan", [2.0, 1.0], [2.0, 1.0])
    with matplotlib.rc_context({"text.usetex": True, "axes.facecolor": "red"}):
        plots.plot_losses(tmp_path / "b.png", "100 $ for_a fan", [2.0, 1.0], [2.0, 1.0])
        assert matplotlib.rcParams["text.usetex"]
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_labels_of_a_logarithmic_axis(tmp_path):
    plots.plot_losses(tmp_path / "loss.svg", "fan", [350.0, 8.0], [300.0, 9.0])
    text = (tmp_path / "loss.svg").read_text()
    assert [label for label in ("10", "20", "30", "50", "100", "200") if f"<!-- {label} -->" not in text] == ["30"]
    assert "$" not in text
    plots.plot_losses(tmp_path / "loss.svg", "fan", [9.0, 8.9], [8.9, 8.8])
    assert "<!-- 8.85 -->" in (tmp_path / "loss.svg").read_text()


def test_letters_that_the_font_lacks(tmp_path, monkeypatch, caplog):
    plots._warn_of_letters.cache_clear()
    monkeypatch.setattr(plots, "_installed_fonts", list)
    plots.plot_losses(tmp_path / "a.png", "実験", [2.0, 1.0], [2.0, 1.0])
    assert "no installed font has the letters 実験 of a plot" in caplog.text
    caplog.clear()
    monkeypatch.setattr(plots, "_installed_fonts", lambda: ["Last Resort High-Efficiency"])
    plots.plot_losses(tmp_path / "b.png", "実験", [2.0, 1.0], [2.0, 1.0])
    assert "no installed font" not in caplog.text


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a usable GPU")
def test_a_gpu_that_cannot_be_used_is_named(tmp_path, monkeypatch, caplog):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d"])
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert choose_device(config).type == "cpu"
    assert caplog.text == ""
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert choose_device(config).type == "cpu"
    assert "no usable GPU, so the CPU is used: PyTorch" in caplog.text


def test_imports_of_a_command_are_not_searched_for_garbage():
    code = """
import gc, signal, startup
from tools.training.console import import_libraries
startup.is_command = True
handlers = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
import_libraries("decimal")
assert gc.isenabled() and gc.get_freeze_count()
assert handlers == (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM))
"""
    assert run([sys.executable, "-c", code], ROOT).stderr == ""
