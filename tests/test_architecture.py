"""The rooms of the house: who may import whom, one name for one thing, and importing does nothing."""

import ast
import logging
import subprocess
import sys
from collections import Counter
from graphlib import TopologicalSorter
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
# Room → the rooms below it, which it may import from.
BELOW = {
    "startup": set(),
    "config": set(),
    "portable": {"startup", "config"},
    "files": {"config"},
    "fingerprints": {"config"},
    "networks": {"config"},
    "datasets": {"startup", "portable", "config", "files", "fingerprints"},
    "datasets.download": {"config", "files", "datasets"},
    "tools.setup": {"startup"},
    "tools.training": {"startup", "config", "files", "fingerprints", "datasets", "networks"},
    "tools.results": {"config", "files", "fingerprints", "datasets", "networks", "tools.training"},
}
BELOW["train"] = {*BELOW}
BELOW["tools"] = {*BELOW}  # the commands
SLOW = {"torch", "librosa", "matplotlib", "sklearn", "scipy", "seaborn", "pandas", "soundfile", "requests", "joblib"}
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in SOURCES}


def imports(path: Path, top_level_only: bool = False) -> set[str]:
    """The modules that a file imports, those that are used for annotations alone apart."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in block.body
    }
    names = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in skipped:
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in skipped:
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= (inner & MODULES.keys()) or {node.module}
    return names


def room(module: str) -> str:
    return max((name for name in BELOW if f"{module}.".startswith(f"{name}.")), key=len)


@pytest.mark.parametrize("module", MODULES)
def test_arrows_run_down(module):
    imported = {room(name) for name in imports(MODULES[module]) if name in MODULES}
    assert imported <= BELOW[room(module)] | {room(module)}


def test_no_module_needs_itself():
    graph = {module: imports(path) & MODULES.keys() for module, path in MODULES.items()}
    TopologicalSorter(graph).prepare()


def test_one_name_for_one_thing():
    files = Counter(path.name for path in SOURCES if path.name != "__init__.py")
    trees = [ast.parse(path.read_text(encoding="utf-8")) for path in SOURCES]
    classes = Counter(node.name for tree in trees for node in tree.body if isinstance(node, ast.ClassDef))
    assert [name for name, n in (files + classes).items() if n > 1] == []


def test_tools_holds_what_a_user_types():
    for path in (path for path in ROOT.glob("tools/*.py") if path.name != "__init__.py"):
        assert 'if __name__ == "__main__":' in path.read_text(encoding="utf-8"), path.name


@pytest.mark.parametrize("module", MODULES)
def test_only_plots_knows_matplotlib(module):
    plotting = {name.split(".")[0] for name in imports(MODULES[module])} & {"matplotlib", "seaborn"}
    assert not plotting or module == "tools.results.plots"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("networks")])
def test_networks_know_nothing_of_files(module):
    assert not {name.split(".")[0] for name in imports(MODULES[module])} & {
        "pathlib",
        "os",
        "io",
        "json",
        "csv",
        "yaml",
    }


@pytest.mark.parametrize("module", MODULES)
def test_slow_libraries_are_imported_where_they_are_used(module):
    """PyTorch and pandas only in modules that cannot do without."""
    allowed = {"tools.results.plots": SLOW, "tools.setup.demo_sounds": SLOW, "tools.make_demo_data": SLOW}
    allowed["datasets.download.server"] = {"requests"}  # is imported when something is downloaded
    tables = ("official", "bootstrap", "published", "summary", "tables", "report")
    allowed |= {f"tools.results.{name}": {"pandas"} for name in tables}
    found = {name.split(".")[0] for name in imports(MODULES[module], top_level_only=True)} & SLOW
    assert found <= allowed.get(module, {"torch"})
    assert "torch" not in found or room(module) in ("networks", "datasets", "tools.training", "tools")


def test_importing_does_nothing(tmp_path):
    code = f"""
import importlib, logging, os
before = os.getcwd(), sorted(os.listdir("."))
for name in {[*MODULES]}:
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


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith(("tools", "train"))])
def test_commands_print_through_the_console(module):
    """show() and the log leave out control characters of names, and passwords."""
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    if module == "tools.each_machine":  # its plan is a file
        tree.body = [node for node in tree.body if getattr(node, "name", "") != "print_plan"]
    prints = [node.lineno for node in ast.walk(tree) if isinstance(node, ast.Name) and node.id == "print"]
    assert not prints or module == "tools.setup.environment"  # needs no packages


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
