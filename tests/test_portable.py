"""--portable True: the same bits on every x86-64 processor with AVX2, whatever the environment.

The checksums below were made on an AMD EPYC (Zen 4), and hold on the processors that docs/fidelity.md lists. If they do not
hold on another one, find the operation that differs and pin it. They change only with the method itself.

    ./run_tests.sh tests/test_portable.py --long        on emulated processors, too (needs qemu-x86_64: apt install qemu-user)
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, Workspace

import portable

CLIPS = ("--machines", "fan", "--train_clips", "34", "--test_clips", "16", "--seconds", "2")  # 2006 training vectors
RUNS = {  # name → options of train.py
    "small": ("--epochs", "2"),
    # Batches of 1000, 1000 and 2 vectors.
    "edge": ("--epochs", "1", "--batch_size", "1000", "--validation_split", "0.002"),
}
EXPECTED = {
    "small": {
        "clips": "51792329622fa4e3",
        "features": "cee3c3f27538cb70",
        "weights": "acd0581a86222940",
        "distributions": "b5728df5204541d3",
        "log.csv": "81c07c1e1bc5b919",
        "MSE anomaly": "2cdc5974e8a4af77",
        "MSE decision": "3ba897f8460b16c9",
        "MSE result": "5e6f608c14e1cc03",
        "MAHALA anomaly": "92435e07d80ab36d",
        "MAHALA decision": "b7e92ef698c6251f",
        "MAHALA result": "b144d256157b6363",
    },
    "edge": {
        "clips": "51792329622fa4e3",
        "features": "cee3c3f27538cb70",
        "weights": "a845cdab81d610d8",
        "distributions": "2d544d1bca57cf1c",
        "log.csv": "70ecae965ee323c9",
        "MSE anomaly": "7ed8b1fdcb5c7fa9",
        "MSE decision": "35e6fad2d35b7590",
        "MSE result": "e41879a1fe5a8f39",
        "MAHALA anomaly": "e509cd4476024932",
        "MAHALA decision": "b7e92ef698c6251f",
        "MAHALA result": "d027a679a3e89161",
    },
}
# What a caller may have set. All of it changes bits where --portable is False, or places of memory.
OTHER_VARIABLES = {
    "MKL_CBWR": "SSE4_2",
    "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
    "ATEN_CPU_CAPABILITY": "default",
    "OPENBLAS_CORETYPE": "Nehalem",
    "NPY_DISABLE_CPU_FEATURES": "X86_V3",
    "OMP_NUM_THREADS": "2",
    "JOBS": "2",
    "MALLOC_MMAP_THRESHOLD_": "4096",
    "MALLOC_PERTURB_": "165",
}
QEMU = shutil.which("qemu-x86_64")

suitable = pytest.mark.skipif(bool(portable.unsuitable()), reason=f"not for this machine: {portable.unsuitable()}")
pytestmark = suitable


def checksum(*contents: bytes) -> str:
    return hashlib.sha256(b"".join(contents)).hexdigest()[:16]


def checksums(workspace: Workspace, run: str) -> dict[str, str]:
    """The checksums of all that a training and its two tests computed."""
    model = workspace.model(run=run)
    caches = sorted(workspace.directory.glob("cache/**/*.npz"))
    weights = torch.load(model / "model.pth", weights_only=True)
    distributions = json.loads((model / "score_distribution.json").read_text())
    del distributions["model_sha256"]
    found = {
        "clips": checksum(*(path.read_bytes() for path in sorted(workspace.data.glob("**/*.wav")))),
        "features": checksum(*sorted(np.load(path)["frames"].tobytes() for path in caches)),
        "weights": checksum(*(values.numpy().tobytes() for values in weights.values())),
        "distributions": checksum(json.dumps(distributions, sort_keys=True).encode()),
        "log.csv": checksum((model / "log.csv").read_bytes()),
    }
    for score in ("MSE", "MAHALA"):
        results = workspace.result(score, run).glob("*.csv")
        found |= {f"{score} {path.name.split('_')[0]}": checksum(path.read_bytes()) for path in sorted(results)}
    return found


def run_all(directory: Path, python: str | Path, **environment: str) -> dict[str, dict[str, str]]:
    """Make the clips, train and test as RUNS says; name of a run → its checksums."""

    def run(*command: object) -> None:
        command, environ = [python, *map(str, command)], os.environ | environment
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr

    workspace, found = Workspace(directory), {}
    run(ROOT / "tools/make_demo_data.py", "--dataset_directory", workspace.data, *CLIPS)
    for name, options in RUNS.items():
        command = [ROOT / "train.py", "--dataset", "DCASE2024T2fan", "-d", "-tag", name, *workspace.options, *options]
        command += ["--cache_directory", directory / "cache", "--portable", "True", "--use_cuda", "False"]
        run(*command)
        run(*command, "--test_only", "--score", "MAHALA")
        found[name] = checksums(workspace, f"seed13711_{name}")
    return found


def test_stored_checksums(tmp_path):
    assert run_all(tmp_path, sys.executable) == EXPECTED


def test_stored_checksums_with_other_variables(tmp_path):
    assert run_all(tmp_path, sys.executable, **OTHER_VARIABLES) == EXPECTED


@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])
def test_stored_checksums_on_emulated_processors(tmp_path, long, processor):
    if not long:
        pytest.skip("takes six minutes: --long")
    if QEMU is None:
        pytest.skip("qemu-x86_64 is not installed (package qemu-user)")
    assert run_all(tmp_path, emulated_python(tmp_path / "environment", processor)) == EXPECTED


def emulated_python(directory: Path, processor: str) -> Path:
    """An environment with this one's packages, whose Python runs on an emulated processor. So do its child processes."""
    real, python = Path(sys.executable).resolve(), directory / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {QEMU} -cpu {processor} -0 "$0" {real} "$@"\n')
    python.chmod(0o755)
    (directory / "lib").symlink_to(Path(sys.prefix, "lib"))
    (directory / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    return python
