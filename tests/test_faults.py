"""Kill -9 at any moment, several runs at once, a full disk: what is lost, and what a second run makes of it.

A short version runs with the suite; `./run_tests.sh --long tests/test_faults.py` is the full version (values:
docs/reliability.md).
"""

import json
import random
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from conftest import RAW, Workspace, make_clips

EPOCHS = "4"
COMMANDS = {
    "train": ["--dataset", "DCASE2024T2fan", "-d", "--train_only", "--epochs", EPOCHS],
    "test": ["--dataset", "DCASE2024T2fan", "-d", "--test_only"],
    "summary": ["DCASE2024T2", "-d"],
}
KILLED = -signal.SIGKILL


class Trials:
    """One workspace, in which a sequence of runs is made again and again, each time from nothing but the clips."""

    def __init__(self, directory: Path, train_clips: int):
        self.workspace = Workspace(directory)
        sizes = ["--train_clips", str(train_clips), "--test_clips", "16", "--seconds", "1"]
        make_clips(self.workspace.data, ["fan"], *sizes)
        self.launcher = subprocess.Popen(
            [sys.executable, Path(__file__).with_name("launcher.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.output = directory / "output.txt"
        self.seconds = {}
        for name in COMMANDS:
            status, self.seconds[name] = self.run(name)
            assert status == 0, self.output.read_text()
        self.expected = self.files()

    def start(self, *jobs: dict) -> list:
        self.launcher.stdin.write(json.dumps([{"output": str(self.output)} | job for job in jobs]) + "\n")
        self.launcher.stdin.flush()
        return json.loads(self.launcher.stdout.readline())

    def run(self, name: str, *options: str, **kill: float) -> tuple:
        arguments = [*COMMANDS[name], *self.workspace.options, *options]
        return self.start({"arguments": arguments, **kill})[0]

    def clean(self) -> None:
        """Leave nothing but the clips."""
        shutil.rmtree(self.workspace.models)
        shutil.rmtree(self.workspace.results, ignore_errors=True)
        shutil.rmtree(self.workspace.data / RAW.parent / "processed", ignore_errors=True)
        self.output.unlink()

    def files(self) -> dict[str, bytes]:
        """Everything that was made, but for logs and locks, and what config.yaml says of how it was made."""
        places = self.workspace.models, self.workspace.results, self.workspace.data / RAW.parent / "processed"
        paths = [path for place in places for path in place.rglob("*") if path.is_file()]
        found = {str(p): p.read_bytes() for p in paths if p.suffix not in (".log", ".lock")}
        for name in [name for name in found if name.endswith("config.yaml")]:
            found[name] = re.sub(rb"(restart|sha256): .*\n", b"", found[name])
        return found

    def kill_and_run_again(self, stage: str, **kill: float) -> tuple[str, int]:
        """Kill the run of a stage, then make all runs again: how far the killed one had come, and its status."""
        self.clean()
        before = list(COMMANDS)[: list(COMMANDS).index(stage)]
        for name in before:
            assert self.run(name)[0] == 0
        status, _ = self.run(stage, **kill)
        moment = self.moment(stage)
        for name in list(COMMANDS)[len(before) :]:
            again = self.run(name, *(["--restart"] if name == "train" else []))
            assert again[0] == 0, (stage, kill, moment, again, self.output.read_text())
        assert self.files() == self.expected, (stage, kill, moment, self.differences())
        return moment, status

    def differences(self) -> list[str]:
        found = self.files()
        return sorted(n for n in found.keys() | self.expected.keys() if found.get(n) != self.expected.get(n))

    def moment(self, stage: str) -> str:
        """How far a run has come, as its log says."""
        if stage != "train":
            return stage
        text = "".join(path.read_text() for path in self.workspace.directory.rglob("train.log"))
        marks = {"writing": "writing the model", "covariances": "covariances and", "training": "training clips"}
        marks |= {"extraction": "computing features"}
        found = (mark for mark, words in marks.items() if re.search(words, text))
        return f"{stage}: {next(found, 'start')}"


@pytest.fixture(scope="module")
def trials(tmp_path_factory, long):
    """In the short version there are too few clips for another process that computes features: it takes seconds."""
    made = Trials(tmp_path_factory.mktemp("faults"), 64 if long else 30)
    yield made
    made.launcher.stdin.close()
    made.launcher.wait(10)


def test_killed_at_random_moments(trials, long, figure):
    """kill -9, then the same again: the files are those of a run that was never stopped, and no others."""
    chance = random.Random(2026)
    stages = {"train": 40, "test": 14, "summary": 10} if long else {"train": 4, "test": 1, "summary": 1}
    moments, killed = Counter(), 0
    for stage, n in stages.items():
        for k in range(n):
            after = trials.seconds[stage] * (k + chance.random()) / n
            moment, status = trials.kill_and_run_again(stage, kill_after=after)
            killed += status == KILLED
            moments[moment] += status == KILLED
    assert killed >= sum(stages.values()) / 2  # others had ended before
    figure(f"killed at {killed} random moments: {dict(moments)}; 0 differences, 0 leftovers")


def test_killed_at_each_file_operation(trials, long, figure):
    """The same before each renaming and flushing to the disk, in order, until there are no more of them."""
    step = 1 if long else 15
    killed = 0
    for stage in COMMANDS:
        operation = 1
        while trials.kill_and_run_again(stage, kill_at=operation)[1] == KILLED:
            killed += 1
            operation += step
        assert operation > 1
    figure(f"killed before {killed} file operations; 0 differences, 0 leftovers")


def test_eight_at_once_on_a_cold_cache(trials, long, figure):
    """Two runs each of four models at once: the features are computed once, each model trained once."""
    rounds = 10 if long else 1
    for _ in range(rounds):
        trials.clean()
        arguments = [each for each in COMMANDS["train"] if each != "--train_only"] + trials.workspace.options
        jobs = [{"arguments": [*arguments, "-tag", f"copy{k % 4}"]} for k in range(8)]
        assert [status for status, _ in trials.start(*jobs)] == [0] * 8, trials.output.read_text()
        logs = [path.read_text() for path in trials.workspace.models.rglob("train.log")]
        assert sum(log.count("computing features") for log in logs) == 2  # of the training and of the test clips
        assert [log.count("already trained") for log in logs] == [1] * 4
        found = trials.files()
        for name, expected in trials.expected.items():
            if not name.endswith("config.yaml") and "summarize" not in name:
                copies = [name.replace("/seed13711/", f"/seed13711_copy{k}/") for k in range(4)]
                assert [found[copy] for copy in copies] == 4 * [expected], name
        assert not list(trials.workspace.directory.rglob("*.tmp"))
    figure(f"8 processes on a cold cache, {rounds} rounds: 1 build each, all results equal")
