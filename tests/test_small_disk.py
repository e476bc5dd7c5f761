"""A full disk and a read-only one: old files stay whole, errors are clear."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import RAW, ROOT

COMMANDS = {
    "train": ["--epochs", "2", "--train_only"],
    "test": ["--test_only", "--decision_threshold", "0.05"],
    "summary": ["summary"],
}
ENOUGH = {"train": 8 << 20, "test": 1 << 20, "summary": 256 << 10}  # bytes, more than each needs
NOTHING = {"arguments": ["--test_only", "--n_mels", "64"], "free": 16 << 20}  # a run that ends at once
MODEL_DIRECTORY = "baseline/dev_data/DCASE2024T2/seed13711/fan/"
MODEL = [MODEL_DIRECTORY + name for name in ("model.pth", "score_distribution.json", "config.yaml", "log.csv")]


@pytest.fixture(scope="module")
def on_a_small_disk(trained, tmp_path_factory):
    """Runs each of several jobs on a small disk that holds a model of three epochs; see tests/small_disk.py."""
    unshare = ["unshare", "--user", "--map-root-user", "--mount"]
    directory = tmp_path_factory.mktemp("small")
    (directory / "disk").mkdir()
    mount = [*unshare, "mount", "-t", "tmpfs", "none", directory / "disk"]
    if not shutil.which("unshare") or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("small disks need mount namespaces for users (Linux)")
    kept = directory / "kept"
    shutil.copytree(trained.data / RAW, kept / "data" / RAW)  # without features
    for name, place in {"models": trained.models, "results": trained.results}.items():
        shutil.copytree(place, kept / name)

    def run(*jobs: dict) -> list[dict]:
        command = [*unshare, sys.executable, Path(__file__).with_name("small_disk.py"), directory / "disk", kept]
        finished = subprocess.run(
            [*command, json.dumps(jobs)],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=1500,
        )
        assert finished.returncode == 0, finished.stderr
        return json.loads(finished.stdout.splitlines()[-1])

    return run


def but_features(trial: dict) -> dict[str, str]:
    return {name: checksum for name, checksum in trial["files"].items() if not name.endswith(".npz")}


def test_full_disk(on_a_small_disk, long, figure):
    """With more and more free space: a clear error until there is enough of it; each file is the old or the new one."""
    commands = COMMANDS if long else {name: COMMANDS[name] for name in ("train", "test")}
    steps, failed = (32 if long else 2), 0
    jobs = [
        {"arguments": arguments, "free": ENOUGH[name] * k // steps}
        for name, arguments in commands.items()
        for k in range(steps + 1)
    ]
    before, *trials = on_a_small_disk(NOTHING, *jobs)
    for arguments in commands.values():
        *others, expected = [trial for trial in trials if trial["arguments"] == arguments]
        assert others[0]["error"]
        assert expected["error"] is None
        assert all("is based on only 7 normal scores" in line for line in expected["stderr"].splitlines())
        for trial in others:
            if trial["error"]:
                assert re.match("cannot write .*: No space left on device", trial["error"]), trial
                failed += 1
            assert "Traceback" not in trial["stderr"]
            assert before["files"].keys() <= trial["files"].keys() <= expected["files"].keys()  # nothing left over
            for file, checksum in trial["files"].items():
                assert checksum in (before["files"].get(file), expected["files"].get(file)), (trial, file)
            assert len({trial["files"][file] == expected["files"][file] for file in MODEL}) == 1, trial
            if not trial["error"] and "could not be drawn" not in trial["stderr"]:
                assert but_features(trial) == but_features(expected)
    figure(f"full disk: {failed} of {len(trials)} runs failed, with a clear error; each file the old or the new one")


def test_read_only_disk(on_a_small_disk):
    """A clear error where something is to be written; data and models that are only read may be read-only."""
    before, model, data, both, results, summary = on_a_small_disk(
        NOTHING,
        {"arguments": COMMANDS["train"], "read_only": ["models"]},
        {"arguments": COMMANDS["train"], "read_only": ["data"]},
        {"arguments": COMMANDS["test"], "read_only": ["data", "models"]},
        {"arguments": COMMANDS["test"], "read_only": ["results"]},
        {"arguments": COMMANDS["summary"], "read_only": ["results"]},
    )
    for trial in (model, results, summary):
        assert re.match("cannot write .*: Read-only file system", trial["error"]), trial
        assert but_features(trial) == before["files"]
    for trial in (data, both):
        assert trial["error"] is None
        assert "the features are not cached and will be computed again next time: cannot write" in trial["stderr"]
    assert not any(data["files"][name] == before["files"][name] for name in MODEL)
    changed = {name for name in both["files"] if both["files"][name] != before["files"].get(name)}
    assert {Path(name).name for name in changed} >= {"decision_result_fan_section_00_test.csv", "anomaly_score_fan.png"}
