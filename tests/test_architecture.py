"""Who may import whom, and that importing does nothing."""

import ast
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import ROOT

from config import DEFAULTS_FILE, IN_FILE

SOURCES = [
    path
    for pattern in ("*.py", "networks/*.py", "datasets/**/*.py", "tools/**/*.py")
    for path in sorted(ROOT.glob(pattern))
]
ROOMS = {"config", "files", "datasets", "networks", "tools", "train"}
# Room → rooms it may import: arrows run down only.
ALLOWED = {
    "config": set(),
    "files": {"config"},
    "datasets": {"config", "files", "datasets"},
    "networks": {"config", "networks"},
    "tools": {"config", "files", "datasets", "networks", "tools"},
    "train": ROOMS,
}
SLOW = {"librosa", "matplotlib", "sklearn", "scipy", "seaborn", "pandas", "soundfile"}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level_only else ast.walk(tree)
    names = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(node.module)
    return names


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_arrows_run_down(path):
    room = "train" if path.name == "benchmark.py" else path.relative_to(ROOT).parts[0].removesuffix(".py")
    imported = {name.split(".")[0] for name in imports(path)} & ROOMS
    assert imported <= ALLOWED[room]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_only_plots_knows_matplotlib(path):
    plotting = {name.split(".")[0] for name in imports(path)} & {"matplotlib", "seaborn"}
    assert not plotting or path.name == "plots.py"


@pytest.mark.parametrize("path", sorted(ROOT.glob("networks/*.py")), ids=name_of)
def test_networks_know_nothing_of_files(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"pathlib", "os", "io", "json", "csv", "yaml"}


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_slow_libraries_are_imported_where_they_are_used(path):
    if path.name not in ("plots.py", "make_demo_data.py"):  # which cannot do without
        assert not {name.split(".")[0] for name in imports(path, top_level_only=True)} & SLOW


def test_importing_does_nothing(tmp_path):
    modules = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in SOURCES]
    code = f"""
import importlib, logging, os
before = os.getcwd(), sorted(os.listdir("."))
for name in {modules}:
    importlib.import_module(name)
assert (os.getcwd(), sorted(os.listdir("."))) == before
assert not logging.getLogger().handlers and not logging.getLogger("baseline").handlers
"""
    environment = {"PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1", "PATH": ""}
    finished = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, env=environment, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == ""
    assert logging.getLogger("baseline").handlers == []


def test_help_does_not_wait_for_slow_imports():
    code = (
        "import runpy, sys\n"
        "sys.argv = ['train.py', '--help']\n"
        "try: runpy.run_path('train.py', None, '__main__')\n"
        "except SystemExit: pass\n"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "--learning_rate" in finished.stdout


def test_default_values_stand_in_baseline_yaml_alone():
    assert set(yaml.safe_load(DEFAULTS_FILE.read_text())) == {f"--{key}" for key in IN_FILE}
