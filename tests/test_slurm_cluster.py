"""Sweeps on a real Slurm: a controller and two nodes on this machine, killed in the middle. ./run_tests.sh -m slurm"""

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from conftest import ROOT, Workspace, copy_project, make_clips

from datasets.catalog import find_dataset

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch")
MISSING = [name for name in PROGRAMS if not shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed here: no {' '.join(MISSING)} (slurm-wlm, munge)"),
]
MACHINES = ["fan", "valve"]
FACTS = find_dataset("DCASE2024T2").facts
CATALOG = yaml.safe_dump(FACTS | {"dev": FACTS["dev"] | {"machines": {machine: ["00"] for machine in MACHINES}}})
LONG = 200  # epochs, of some 50 ms


class Cluster:
    """A Slurm cluster, and the sweeps that are submitted to it."""

    def __init__(self, directory: Path):
        self.directory = directory
        self.script("start", "2")

    def script(self, step: str, *arguments: str) -> None:
        # Daemons keep what they inherit: no pipes.
        subprocess.run(
            [ROOT / "tests" / "slurm_cluster.sh", step, self.directory, *arguments],
            env=os.environ | {"PATH": f"{os.environ['PATH']}:/usr/sbin"},
            check=True,
            timeout=60,
        )

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.directory / "slurm.conf")}

    def slurm(self, *command: str) -> str:
        return subprocess.run(
            command, env=os.environ | self.environment, capture_output=True, text=True, check=True, timeout=30
        ).stdout

    def node_of(self, name: str, task: int) -> str:
        """The node that a task of this array runs on."""
        running = self.slurm("squeue", "--noheader", "--array", f"--name={name}", "--states=RUNNING", "--format=%K %N")
        return dict(line.split() for line in running.splitlines())[str(task)]

    def kill_node(self, node: str) -> None:
        """End a node's daemon and all that runs there, without a word to anybody."""
        daemon = int((self.directory / f"{node}.pid").read_text())
        tasks = processes(SLURMD_NODENAME=node)
        for each in (daemon, *{parent_of(task) for task in tasks}, *tasks):
            kill(each)


class Sweep:
    """A workspace, with the command that submits a sweep of it."""

    def __init__(self, cluster: Cluster, workspace: Workspace, *options: str, **environment: str):
        self.cluster, self.workspace, self.options, self.environment = cluster, workspace, options, environment

    def command(self, *flags: str) -> subprocess.CompletedProcess:
        return self.workspace.script(
            "tools/slurm_sweep.sh",
            "DCASE2024T2",
            "-d",
            *flags,
            *self.options,
            **self.environment,
            **self.cluster.environment,
        )

    def submit(self) -> str:
        """The name of the job array."""
        before = set(self.directories())
        finished = self.command()
        assert finished.returncode == 0, finished.stderr
        (new,) = set(self.directories()) - before
        return new.name

    def directories(self) -> list[Path]:
        found = (self.workspace.models / "baseline/dev_data/DCASE2024T2/slurm").glob("DCASE2024T2_dev_*")
        return sorted(found, key=lambda path: path.stat().st_mtime)

    def log(self, task: int, submission: int = -1) -> str:
        path = self.directories()[submission] / f"task_{task}.log"
        return path.read_text() if path.exists() else ""

    def status(self) -> str:
        finished = self.command("--status")
        assert finished.returncode == 0, finished.stderr
        return finished.stdout

    def wait(self, seconds: float = 200) -> None:
        """Wait until nothing of it is in the queue any more."""
        until(lambda: not self.cluster.slurm("squeue", "--noheader"), seconds, lambda: self.cluster.slurm("squeue"))

    def wait_for_epoch(self, machine: str, seed: int, epoch: int = 20) -> None:
        """Wait until a training has come so far."""
        log = self.workspace.model(machine, f"seed{seed}") / "train.log"
        until(lambda: log.exists() and f" epoch {epoch}/" in log.read_text(), 60, self.status)


def until(condition, seconds: float, describe=lambda: "") -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, describe()
        time.sleep(0.2)


def processes(**environment: str) -> list[int]:
    """Those that have this in their environment."""
    wanted = {f"{name}={value}".encode() for name, value in environment.items()}
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if wanted <= set((path / "environ").read_bytes().split(b"\0")):
                found.append(int(path.name))
    return found


def runs_of_train(**environment: str) -> list[int]:
    return [each for each in processes(**environment) if b"train.py" in Path(f"/proc/{each}/cmdline").read_bytes()]


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def kill(process: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(process, signal.SIGKILL)


def contents(workspace: Workspace) -> dict[str, bytes]:
    """What the models and results of a workspace are, but for what tells how they were made."""
    found = {}
    for directory in (workspace.models, workspace.results):
        for path in directory.rglob("*"):
            made_how = path.suffix in (".log", ".lock") or path.name == "config.yaml" or "slurm" in path.parts
            if path.is_file() and not made_how:
                found[str(path.relative_to(workspace.directory))] = path.read_bytes()
    return found


def differences(workspace: Workspace, expected: Workspace) -> list[str]:
    ours, theirs = contents(workspace), contents(expected)
    return sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))


@pytest.fixture(scope="module")
def cluster(tmp_path_factory) -> Iterator[Cluster]:
    made = Cluster(tmp_path_factory.mktemp("slurm"))
    yield made
    made.slurm("scancel", "--full", f"--user={os.getuid()}")
    until(lambda: not made.slurm("squeue", "--noheader"), 60)
    made.script("stop")


@pytest.fixture(scope="module")
def project(tmp_path_factory) -> Path:
    return copy_project(tmp_path_factory.mktemp("project"), dcase2024t2=CATALOG)


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    made = tmp_path_factory.mktemp("clips") / "data"
    make_clips(made, MACHINES)
    return made


@pytest.fixture(scope="module")
def local(tmp_path_factory, project, data) -> Workspace:
    """The same models, by the numbered scripts on this machine."""
    workspace = Workspace(tmp_path_factory.mktemp("local"), data, project)
    for script in ("01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh"):
        finished = workspace.script(script, "-d", "--epochs", str(LONG), SEEDS="1 2")
        assert finished.returncode == 0, finished.stderr
    summary = workspace.script("03_summarize_results.sh", "DCASE2024T2", "-d", SEEDS="1 2")
    assert summary.returncode == 0, summary.stderr
    return workspace


@pytest.fixture
def new_sweep(cluster, tmp_path, project, data):
    def make(*options: str, epochs: int = LONG, seeds: str = "1 2", **environment: str) -> Sweep:
        workspace = Workspace(tmp_path, data, project)
        environment = {"SEEDS": seeds, "SBATCH_TIMELIMIT": "5", "SBATCH_MEM_PER_NODE": "900M"} | environment
        return Sweep(cluster, workspace, "--epochs", str(epochs), *options, **environment)

    return make


def assert_complete(sweep: Sweep, local: Workspace) -> None:
    """All is done, equals what the scripts make on this machine, and is not submitted again."""
    assert "4 models: 4 done" in sweep.status(), sweep.status()
    assert differences(sweep.workspace, local) == []
    finished = sweep.command()
    assert finished.stdout.splitlines()[-1].startswith("nothing to submit. ")


def test_a_sweep_equals_a_local_run(new_sweep, local):
    sweep = new_sweep()
    sweep.submit()
    sweep.wait()
    assert [sweep.log(task).count("==> ") for task in range(4)] == [1, 1, 1, 1]
    assert_complete(sweep, local)


def test_killed_runs_and_a_dead_node_lose_nothing(new_sweep, local, cluster):
    """train.py is killed in one task; a node's daemon and all that it runs under another; then the node comes back."""
    sweep = new_sweep(seeds="1 2")
    name = sweep.submit()
    sweep.wait_for_epoch("fan", 1)
    for each in runs_of_train(SLURM_JOB_NAME=name, SLURM_ARRAY_TASK_ID="0"):
        kill(each)
    sweep.wait_for_epoch("valve", 1)
    node = cluster.node_of(name, 1)
    cluster.kill_node(node)
    until(lambda: "down" in cluster.slurm("sinfo", "--noheader", f"--nodes={node}", "--format=%T"), 60)
    cluster.script("node", node)
    sweep.wait()
    assert "a run was killed: to be started again" in sweep.log(0)
    for task in (0, 1):
        assert "attempt 2" in sweep.log(task)
        assert re.search(r"going on after epoch [1-9]\d", sweep.log(task))
    assert_complete(sweep, local)


def test_a_daemon_that_dies_alone_and_two_runs_of_one_model(new_sweep, local, cluster):
    """The node is given up, its task starts elsewhere, and the first run is still there: the second waits for it."""
    sweep = new_sweep()
    name = sweep.submit()
    sweep.wait_for_epoch("fan", 1)
    node = cluster.node_of(name, 0)
    kill(int((cluster.directory / f"{node}.pid").read_text()))
    (first,) = runs_of_train(SLURM_JOB_NAME=name, SLURM_ARRAY_TASK_ID="0")
    os.kill(first, signal.SIGSTOP)  # it would be done before the other begins
    until(lambda: "waiting for another run that trains the same model" in sweep.log(0), 90, lambda: sweep.log(0))
    os.kill(first, signal.SIGCONT)
    until(lambda: first not in runs_of_train(SLURM_JOB_NAME=name), 60)
    cluster.script("node", node)
    sweep.wait()
    assert_complete(sweep, local)


def test_a_task_whose_time_runs_out_goes_on_in_another(new_sweep, local):
    """At least 25 of its 60 seconds are for training."""
    sweep = new_sweep(SBATCH_TIMELIMIT="1", SWEEP_OPTIONS="--signal=B:USR1@35")
    sweep.submit()
    sweep.wait(400)
    logs = [sweep.log(task) for task in range(4)]
    assert any("the time limit is near: to be started again" in log for log in logs)
    assert not any("DUE TO TIME LIMIT" in log for log in logs)
    assert_complete(sweep, local)


def test_a_task_that_makes_way_for_an_urgent_job(new_sweep, local, cluster):
    sweep = new_sweep()
    sweep.submit()
    sweep.wait_for_epoch("fan", 1)
    cluster.slurm("sbatch", "--partition=urgent", "--array=0-1", "--output=/dev/null", "--wrap", "sleep 5")
    sweep.wait()
    assert "DUE TO PREEMPTION" in sweep.log(0)
    assert "attempt 2" in sweep.log(0)
    assert_complete(sweep, local)


def test_tasks_that_end_without_a_word_are_submitted_again_and_cancelled_ones_are_not(new_sweep, local, cluster):
    sweep = new_sweep()
    name = sweep.submit()
    sweep.wait_for_epoch("fan", 1)
    for each in processes(SLURM_JOB_NAME=name, SLURM_ARRAY_TASK_ID="0"):  # as where memory runs out for all of it
        kill(each)
    sweep.wait_for_epoch("valve", 1)
    job = cluster.slurm("squeue", "--noheader", "--array", f"--name={name}", "--format=%F").split()[0]
    cluster.slurm("scancel", f"{job}_1")  # while it runs
    sweep.wait_for_epoch("fan", 2)
    for each in runs_of_train(SLURM_JOB_NAME=name, SLURM_ARRAY_TASK_ID="2"):
        kill(each)
    until(lambda: "to be started again" in sweep.log(2), 30)
    until(lambda: "PENDING" in cluster.slurm("squeue", "--noheader", f"--jobs={job}_2", "--format=%T"), 30)
    cluster.slurm("scancel", f"{job}_2")  # while it waits
    sweep.wait()
    first, second = sweep.directories()
    assert "failed): seed1/fan. Submitted again." in (first / "summary.log").read_text()
    assert re.search(r"going on after epoch [1-9]\d", sweep.log(0))
    status = sweep.status()
    assert "4 models: 2 done, 2 failed" in status
    assert re.search(r"seed1/valve failed: cancelled .slurmstepd.* CANCELLED AT ", status)
    assert "seed1/valve: failed" in (second / "summary.log").read_text()
    assert sweep.submit()
    sweep.wait()
    assert sweep.log(0).startswith("==> valve seed 1: attempt 1")  # only the rest
    assert sweep.log(1).startswith("==> fan seed 2: attempt 1")
    assert not sweep.log(2)
    assert_complete(sweep, local)


def test_a_failure_is_named_and_the_others_are_done(new_sweep, tmp_path, data):
    own = tmp_path / "own" / "data"
    shutil.copytree(data, own)
    clip = next(own.glob("dcase2024t2/dev_data/raw/valve/train/*.wav"))
    clip.write_bytes(clip.read_bytes()[:1000])
    sweep = new_sweep(epochs=2)
    sweep.workspace.data = own
    sweep.submit()
    sweep.wait()
    status = sweep.status()
    assert "4 models: 2 done, 2 failed" in status
    assert f"seed2/valve failed: {clip}: truncated" in status
    assert [sweep.log(task).count("==> ") for task in range(4)] == [1, 1, 1, 1]
    assert "fan" in (sweep.directories()[0] / "summary.log").read_text()


def test_two_models_in_a_task_on_a_disk_of_the_node(new_sweep, local, tmp_path):
    sweep = new_sweep(JOBS="2", SWEEP_OPTIONS="--cpus-per-task=1", SWEEP_CACHE_DIRECTORY=f"{tmp_path}/$SLURMD_NODENAME")
    sweep.submit()
    sweep.wait()
    assert sweep.log(0).startswith("==> fan seed 1, valve seed 1: attempt 1, on n")
    assert not sweep.log(2)
    assert list(tmp_path.glob("n1/dcase2024t2/dev_data/processed/*/log_mel_*.npz"))
    assert_complete(sweep, local)


def test_more_tasks_than_an_array_may_have_and_two_commands_at_once(new_sweep, cluster):
    """This cluster's arrays have 20 tasks at most."""
    sweep = new_sweep(epochs=1, seeds=" ".join(map(str, range(1, 13))))
    command = [
        sweep.workspace.project / "tools/slurm_sweep.sh",
        "DCASE2024T2",
        "-d",
        *sweep.options,
        *sweep.workspace.options,
    ]
    environment = os.environ | sweep.environment | cluster.environment | {"PYTHON": sys.executable}
    both = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = sorted(each.communicate(timeout=60)[0].splitlines()[-1] for each in both)
    assert said[0].startswith("nothing to submit. ")
    assert len(sweep.directories()) == 2
    assert cluster.slurm("squeue", "--noheader", "--array").count("\n") == 24 + 1
    assert "24 models: " in sweep.status()
    cluster.slurm("scancel", f"--user={os.getuid()}")
    sweep.wait()
    assert "missing" in sweep.status()
