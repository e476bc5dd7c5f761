"""Small generated datasets and trainings that several tests share; the command lines of a user."""

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import soundfile

import train
from config import TEST_KEYS, load_config
from datasets.catalog import find_machine
from tools import make_demo_data
from tools.results.score_files import SectionScores, write_metrics, write_section
from tools.results.test_records import write_test_record
from tools.training.paths import RunPaths

ROOT = Path(__file__).resolve().parents[1]
RAW = Path("dcase2024t2", "dev_data", "raw")


@contextlib.contextmanager
def no_handlers_left():
    """What is run in this process logs to no file or terminal after its end."""
    logger = logging.getLogger("baseline")
    handlers = list(logger.handlers)
    try:
        yield
    finally:
        for handler in [handler for handler in logger.handlers if handler not in handlers]:
            logger.removeHandler(handler)
            with contextlib.suppress(OSError):  # a full disk
                handler.close()


@pytest.fixture(autouse=True)
def clean_log():
    with no_handlers_left():
        yield


@pytest.fixture(autouse=True)
def default_signal_handlers():
    """No test meets the handlers of the one before; a shell's background, where SIGINT is ignored, is no exception."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


class Workspace:
    """A data, a model and a result directory, and train.py and the scripts run on them as a user would."""

    def __init__(self, directory: Path, data: Path | None = None, project: Path = ROOT):
        self.directory, self.project = directory, project
        self.data, self.models, self.results = data or directory / "data", directory / "models", directory / "results"

    @property
    def options(self) -> list[str]:
        places = {"dataset": self.data, "model": self.models, "result": self.results}
        return [text for name, path in places.items() for text in (f"--{name}_directory", str(path))]

    def model(self, machine: str = "fan", run: str = "seed13711", split: str = "dev") -> Path:
        return self.models / "baseline" / f"{split}_data" / "DCASE2024T2" / run / machine

    def result(self, score: str = "MSE", run: str = "seed13711", split: str = "dev") -> Path:
        return self.results / f"{split}_data" / f"baseline_{score}" / "DCASE2024T2" / run

    def clip(self, pattern: str, machine: str = "fan") -> Path:
        return next(path for path in sorted((self.data / RAW / machine).glob(f"*/{pattern}")))

    def train_py(self, *arguments: str, machine: str = "fan", **environment: str) -> subprocess.CompletedProcess:
        command = [sys.executable, ROOT / "train.py", "--dataset", f"DCASE2024T2{machine}", "-d", *self.options]
        return run([*command, *arguments], cwd=self.directory, **environment)

    def run_here(self, *arguments: str, machine: str = "fan", split: str = "-d", dataset: str = "DCASE2024T2") -> None:
        """The same in this process: quicker, and errors can be caught."""
        config = load_config(["--dataset", dataset + machine, split, *self.options, *arguments])
        with no_handlers_left():
            train.run(config, find_machine(config.dataset, config.split))

    def script(self, name: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        return run(
            [self.project / name, *arguments, *self.options], cwd=self.directory, PYTHON=sys.executable, **environment
        )


def not_published(directory: str, names: list[str]) -> list[str]:
    """Of the files of a directory of the project, those that are not part of it, such as a user's own catalog files."""
    own = [name for name in names if Path(directory).name == "catalog" and not name.startswith("dcase")]
    return [name for name in names if name in (*own, "__pycache__")]


def copy_project(directory: Path, **catalog: str) -> Path:
    """A copy of the project, with this environment as its own: what is run there changes nothing here.

    Args:
        catalog: dataset → its file in the catalog, in place of the one that is there.
    """
    project = directory / "project"
    for name in ("datasets", "networks", "tools"):
        shutil.copytree(ROOT / name, project / name, ignore=not_published)
    for path in [*ROOT.glob("*.py"), *ROOT.glob("*.sh"), ROOT / "baseline.yaml", ROOT / "requirements.txt"]:
        shutil.copy(path, project)
    for name, contents in catalog.items():
        (project / f"datasets/catalog/{name.lower()}.yaml").write_text(contents, encoding="utf-8")
    (project / ".venv").symlink_to(sys.prefix)
    return project


def run(command: list, cwd: Path, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=os.environ | environment, capture_output=True, text=True, timeout=240
    )


def write_test(paths: RunPaths, *results: SectionScores, **changes) -> None:
    """The files of a test, but for plots, as train.py leaves them.

    Args:
        changes: of the record.
    """
    record = paths.config.as_dict(TEST_KEYS) | {
        "model": paths.model_name,
        "model_sha256": str(paths.model),
        "threshold": None,
        "training": {"clips": "c"},
        "code": {},
        "clips": {
            f"test/{clip.name}": [clip.section, clip.is_target, clip.is_anomaly, "a1"]
            for result in results
            for clip in result.clips
        },
    }
    for result in results:
        write_section(paths, result)
    rows = write_metrics(paths, results) if all(result.labelled for result in results) else {}
    metrics = {result.section: rows[result.section] for result in results if rows}
    write_test_record(paths, record | {"metrics": metrics} | changes)


def make_clips(data: Path, machines: list[str], *options: str) -> None:
    sizes = ["--train_clips", "26", "--test_clips", "16", "--seconds", "2"]
    make_demo_data.main(["--dataset_directory", str(data), "--machines", *machines, *sizes, *options])


def write_wav(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, subtype: str = "PCM_16") -> Path:
    """Noise that depends on the path's name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(list(path.name.encode()))
    samples = 0.1 * generator.standard_normal((round(seconds * rate), channels))
    soundfile.write(path, samples, rate, subtype=subtype)
    return path


@pytest.fixture(scope="session")
def demo_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clips of two machine types; tests only read them."""
    data = tmp_path_factory.mktemp("demo") / "data"
    make_clips(data, ["fan", "valve"])
    return data


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, demo_data: Path) -> Workspace:
    """A fan model of three epochs, tested with all scores; tests only read it."""
    workspace = Workspace(tmp_path_factory.mktemp("trained"), demo_data)
    workspace.finished = workspace.train_py("--epochs", "3")
    assert workspace.finished.returncode == 0, workspace.finished.stderr
    for score in ("MAHALA", "MAHALA_FRAME"):
        workspace.run_here("--test_only", "--score", score)
    return workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """An empty workspace."""
    return Workspace(tmp_path)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="fault and fuzz tests in full (docs/reliability.md)")


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether fault and fuzz tests are to run in full."""
    return request.config.getoption("--long")


@pytest.fixture
def figure(record_property):
    """Print a line of values at the end of all tests."""
    return lambda text: record_property("figure", text)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("")]  # "": of teardowns
    lines = [text for report in reports for name, text in report.user_properties if name == "figure"]
    if lines:
        terminalreporter.section("values")
        terminalreporter.write_line("\n".join(dict.fromkeys(lines)))


def pytest_configure(config: pytest.Config) -> None:
    """How many inputs the fuzz tests take; those of the short version are the same each time."""
    everything = {"deadline": None, "database": None, "suppress_health_check": list(hypothesis.HealthCheck)}
    hypothesis.settings.register_profile("short", max_examples=200, derandomize=True, **everything)
    hypothesis.settings.register_profile("long", max_examples=10_000, print_blob=True, **everything)
    hypothesis.settings.load_profile("long" if config.getoption("--long") else "short")
