"""tools/slurm_array.sh on a real Slurm: a controller and two nodes on this machine. ./run_tests.sh -m slurm"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

import pytest
import yaml
from conftest import Workspace, copy_project, make_clips

from datasets.catalog import find_dataset

SEARCH_PATH = f"{os.environ['PATH']}:/usr/sbin"
MISSING = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if not shutil.which(name, path=SEARCH_PATH)]
pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(bool(MISSING), reason=f"Slurm is not installed: no {' '.join(MISSING)} (slurm-wlm, munge)"),
]
FACTS = find_dataset("DCASE2024T2").facts
CATALOG = yaml.safe_dump(FACTS | {"dev": FACTS["dev"] | {"machines": {"fan": ["00"], "valve": ["00"]}}})
OPTIONS = ("-d", "--epochs", "80")
# A requeued task waits until its credential expires; a node is down after SlurmdTimeout; a node has one task at a time.
CONFIGURATION = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
AuthInfo=socket={directory}/munge.socket,cred_expire=6
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={directory}/state
SlurmdSpoolDir={directory}/%n
SlurmctldPidFile={directory}/slurmctld.pid
SlurmdPidFile={directory}/%n.pid
SlurmctldLogFile={directory}/slurmctld.log
SlurmdLogFile={directory}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,batch_sched_delay=0,bf_interval=1
SlurmdTimeout=6
ReturnToService=2
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000
PartitionName=work Nodes=ALL Default=YES
"""


def run(*command: str) -> str:
    """Run a command, and return what it prints."""
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def until(condition, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, run("squeue")
        time.sleep(0.2)


def send_signal(number: int, command: str, variable: str = "") -> None:
    """Signal the processes with this in their command line, and a variable in their environment."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it has ended, or is another user's
            if command in (path / "cmdline").read_text() and variable in (path / "environ").read_text().split("\0"):
                os.kill(int(path.name), number)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """The directory of the daemons' configuration and process ids."""
    directory = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack, pytest.MonkeyPatch.context() as patch:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(3)]
        ports = [server.getsockname()[1] for server in sockets]
        values = {"host": socket.gethostname().split(".")[0], "user": run("id", "-un").strip(), "directory": directory}
        (directory / "slurm.conf").write_text(CONFIGURATION.format(ports=ports, **values))
        stack.close()
        for name in ("state", "n1", "n2"):
            (directory / name).mkdir()
        patch.setenv("PATH", SEARCH_PATH)
        patch.setenv("SLURM_CONF", str(directory / "slurm.conf"))
        (directory / "munge.key").write_bytes(os.urandom(128))
        (directory / "munge.key").chmod(0o600)
        # `run` would wait for the daemons, which keep the pipe open.
        options = [f"--{name}-file={directory}/munge.{name}" for name in ("key", "pid", "log", "seed")]
        subprocess.run(["munged", "--force", f"--socket={directory}/munge.socket", *options], check=True)
        for command in (["slurmctld", "-c"], ["slurmd", "-N", "n1"], ["slurmd", "-N", "n2"]):
            subprocess.run(command, check=True)
        until(lambda: run("sinfo", "-hN", "-o%T").split() == ["idle", "idle"])
        yield directory
        run("scancel", f"--user={os.getuid()}")
        until(lambda: not run("squeue", "-h"))
        for path in directory.glob("*.pid"):
            os.kill(int(path.read_text()), signal.SIGTERM)


@pytest.fixture(scope="module")
def local(tmp_path_factory) -> Workspace:
    """What the numbered scripts write."""
    directory = tmp_path_factory.mktemp("local")
    workspace = Workspace(directory, project=copy_project(directory, dcase2024t2=CATALOG))
    make_clips(workspace.data, ["fan", "valve"])
    for script in ("01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh", "03_summarize_results.sh"):
        dataset = ["DCASE2024T2"] if script.startswith("03") else []
        finished = workspace.script(script, *dataset, *OPTIONS, SEEDS="1 2")
        assert finished.returncode == 0, finished.stderr
    return workspace


class Sweep:
    """The tasks 1 to 4: fan and valve with seed 1, the same with seed 2."""

    def __init__(self, workspace: Workspace, **environment: str):
        self.workspace = workspace
        variables = {"SEEDS": "1 2", "SBATCH_MEM_PER_NODE": "900M"} | environment
        finished = workspace.script("tools/slurm_array.sh", "DCASE2024T2", *OPTIONS, **variables)
        assert finished.returncode == 0, finished.stderr
        self.job, logs = re.search(r"\(job (\d+)\) .* Logs: (.*)", finished.stdout).groups()
        self.logs = Path(logs)

    def log(self, task: int) -> str:
        path = self.logs / f"task_{task}.log"
        return path.read_text() if path.exists() else ""

    def wait_for_epoch(self, machine: str) -> None:
        log = self.workspace.model(machine, "seed1") / "train.log"
        until(lambda: log.exists() and " epoch 20/" in log.read_text())

    def finish(self) -> None:
        until(lambda: not run("squeue", "-h"), 400)
        assert "not finished" not in (self.logs / "summary.log").read_text()


def assert_complete(workspace: Workspace, local: Workspace) -> None:
    """All files equal those of the numbered scripts; submitting again trains nothing, and changes no file."""
    assert contents(workspace) == contents(local)
    again = Sweep(workspace)
    again.finish()
    assert all(again.log(task).count("already trained, 80 epochs") == 1 for task in range(1, 5))
    assert contents(workspace) == contents(local)


def contents(workspace: Workspace) -> dict[str, bytes]:
    paths = [path for root in (workspace.models, workspace.results) for path in root.rglob("*.*") if path.is_file()]
    paths = [path for path in paths if path.suffix not in (".log", ".lock") and path.name != "config.yaml"]
    return {str(path.relative_to(workspace.directory)): path.read_bytes() for path in paths}


def test_a_killed_run_and_a_dead_node(cluster, local, tmp_path):
    workspace = Workspace(tmp_path, local.data, local.project)
    sweep = Sweep(workspace)
    sweep.wait_for_epoch("fan")
    send_signal(signal.SIGKILL, "train.py", "SLURM_ARRAY_TASK_ID=1")
    sweep.wait_for_epoch("valve")
    job, node = re.search(r"2 (\d+) (n\d)", run("squeue", "-rh", "-o%K %A %N", f"-j{sweep.job}")).groups()
    os.kill(int((cluster / f"{node}.pid").read_text()), signal.SIGKILL)
    send_signal(signal.SIGKILL, f"slurmstepd: [{job}")
    send_signal(signal.SIGKILL, "", f"SLURMD_NODENAME={node}")
    until(lambda: "down" in run("sinfo", "-hN", f"-n{node}", "-o%T"))
    subprocess.run(["slurmd", "-N", node], check=True)
    sweep.finish()
    assert "==> the run was killed" in sweep.log(1)
    assert all(", attempt 2 on " in sweep.log(task) for task in (1, 2))
    assert_complete(workspace, local)


def test_a_task_resumes_after_its_time_limit(cluster, local, tmp_path):
    workspace = Workspace(tmp_path, local.data, local.project)
    sweep = Sweep(workspace, SBATCH_TIMELIMIT="2", SBATCH_SIGNAL="B:USR1@60")
    sweep.wait_for_epoch("fan")
    send_signal(signal.SIGSTOP, "train.py", "SLURM_ARRAY_TASK_ID=1")  # it would finish in time
    until(lambda: "==> the time limit is near" in sweep.log(1), 120)
    send_signal(signal.SIGCONT, "train.py", "SLURM_ARRAY_TASK_ID=1")
    sweep.finish()
    assert ", attempt 2 on " in sweep.log(1)
    assert not any("DUE TO TIME LIMIT" in sweep.log(task) for task in range(1, 5))
    assert_complete(workspace, local)
