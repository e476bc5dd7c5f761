"""--portable True: the same bits on every x86-64 processor with AVX2, whatever the environment.

The checksums below were made on an AMD EPYC (Zen 4), and hold on the processors that docs/fidelity.md lists. If they do
not hold on another one, find the operation that differs and pin it. They change only with the method itself.

    ./run_tests.sh tests/test_portable.py --long    on emulated processors, too: needs qemu-x86_64 (package qemu-user)
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
from conftest import ROOT, Workspace, run

import portable
import startup
from config import BaselineError, load_config
from datasets.catalog import find_machine
from datasets.clips import find_clips
from datasets.feature_cache import load_log_mels
from tools.setup.readme_table import compare, first_table
from tools.training import device

CLIPS = ("--machines", "fan", "--train_clips", "34", "--test_clips", "16", "--seconds", "2")  # 2006 training vectors
RUNS = {  # name → options of train.py
    "small": ("--epochs", "2"),
    # Batches of 1000, 1000 and 2 vectors.
    "edge": ("--epochs", "1", "--batch_size", "1000", "--validation_split", "0.002"),
}
EXPECTED = {
    "small": {
        "clips": "dd201bf0d9a299d0",
        "features": "2bf1f112feaf0b54",
        "weights": "a4d92f082d393df0",
        "distributions": "2af84743ef6b2998",
        "log.csv": "1a226881805bc380",
        "MSE anomaly": "62e3e784765efb6c",
        "MSE decision": "3ba897f8460b16c9",
        "MSE result": "5e6f608c14e1cc03",
        "MAHALA anomaly": "392b7fa3ff223056",
        "MAHALA decision": "b7e92ef698c6251f",
        "MAHALA result": "b144d256157b6363",
    },
    "edge": {
        "clips": "dd201bf0d9a299d0",
        "features": "2bf1f112feaf0b54",
        "weights": "6604b98412bbd3aa",
        "distributions": "11670a502cf3200a",
        "log.csv": "5514494cfb93696f",
        "MSE anomaly": "e4568f2436f4fb0a",
        "MSE decision": "35e6fad2d35b7590",
        "MSE result": "e41879a1fe5a8f39",
        "MAHALA anomaly": "e508eb33efc22017",
        "MAHALA decision": "416c415f558e13c6",
        "MAHALA result": "c11947c49f6ded01",
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

suitable = pytest.mark.skipif(bool(portable.unsuitable()), reason=portable.unsuitable() or "never")


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

    def call(*command: object) -> None:
        command, environ = [python, *map(str, command)], os.environ | environment
        done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0, done.stderr

    workspace, found = Workspace(directory), {}
    call(ROOT / "tools/make_demo_data.py", "--dataset_directory", workspace.data, *CLIPS)
    for name, options in RUNS.items():
        command = [ROOT / "train.py", "--dataset", "DCASE2024T2fan", "-d", "-tag", name, *workspace.options, *options]
        command += ["--cache_directory", directory / "cache", "--portable", "True", "--use_cuda", "False"]
        call(*command)
        call(*command, "--test_only", "--score", "MAHALA")
        found[name] = checksums(workspace, f"seed13711_{name}")
    return found


@suitable
def test_stored_checksums(tmp_path):
    assert run_all(tmp_path, sys.executable) == EXPECTED


@suitable
def test_stored_checksums_with_other_variables(tmp_path):
    assert run_all(tmp_path, sys.executable, **OTHER_VARIABLES) == EXPECTED


@suitable
@pytest.mark.parametrize("processor", ["Haswell", "EPYC"])
def test_stored_checksums_on_emulated_processors(tmp_path, long, processor):
    if not long:
        pytest.skip("takes five minutes: --long")
    if QEMU is None:
        pytest.skip("qemu-x86_64 is not installed (package qemu-user)")
    assert run_all(tmp_path, emulated_python(tmp_path / "environment", processor)) == EXPECTED


def emulated_python(directory: Path, processor: str) -> Path:
    """An environment with this one's packages. Its Python, and all that it starts, runs on an emulated processor."""
    real, python = Path(sys.executable).resolve(), directory / "bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec {QEMU} -cpu {processor} -0 "$0" {real} "$@"\n')
    python.chmod(0o755)
    (directory / "lib").symlink_to(Path(sys.prefix, "lib"))
    (directory / "pyvenv.cfg").write_text(f"home = {real.parent}\n")
    return python


@suitable
def test_commands_start_over_with_the_variables(tmp_path, demo_data):
    """score_clips.py loads NumPy before it reads its options."""
    workspace = Workspace(tmp_path, demo_data)
    portable_options = ("--portable", "True", "--use_cuda", "False", "--cache_directory", str(tmp_path / "cache"))
    done = workspace.train_py("--epochs", "1", "--batch_size", "64", *portable_options)
    assert done.returncode == 0, done.stderr
    scores = (workspace.result() / "anomaly_score_fan_section_00_test.csv").read_text().splitlines()
    clip = workspace.clip("section_00_source_test_normal_0000*")
    model = ["--dataset", "DCASE2024T2fan", "-d", *workspace.options[:4], "--portable", "True"]
    command = [ROOT / "tools/score_clips.py", clip, "--csv", tmp_path / "scores.csv", *model]
    done = run([sys.executable, *command], tmp_path, **OTHER_VARIABLES)
    assert done.returncode == 0, done.stderr
    score = (tmp_path / "scores.csv").read_text().splitlines()[1].split(",")[1]
    assert f"{clip.name},{score}" in scores  # to the last digit
    # Without --portable the features would be others, and so would the training.
    done = run([sys.executable, *command[:-2]], tmp_path)
    assert done.returncode == 1
    assert "model.pth was trained with --portable True (now False). Use the same" in done.stderr
    with pytest.raises(BaselineError, match="is from another training: --portable was True, now False"):
        workspace.run_here("--epochs", "2", "--batch_size", "64", "--restart")


@suitable
def test_a_command_starts_over_once(tmp_path):
    """Something sets a variable whenever Python starts."""
    (tmp_path / "sitecustomize.py").write_text("import os\nos.environ['MKL_NUM_THREADS'] = '1'\n")
    command = [ROOT / "tools/score_clips.py", "x.wav", "--dataset", "DCASE2024T2fan", "-d", "--portable", "True"]
    done = run([sys.executable, *command], tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert "start Python with MKL_CBWR='COMPATIBLE'" in done.stderr


@suitable
def test_a_session_is_told_the_variables(monkeypatch):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", "--portable", "True"])
    monkeypatch.setattr(startup, "is_command", False)
    for name in portable.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(BaselineError, match="start Python with MKL_CBWR='COMPATIBLE' ATEN_CPU_CAPABILITY='avx2'"):
        portable.start_portable(config)
    # Set now, they come too late for the libraries that are loaded.
    monkeypatch.setattr(os, "environ", os.environ | portable.VARIABLES)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX512")
    with pytest.raises(BaselineError, match="PyTorch's operations.* depend on the processor here. .* restart it"):
        portable.start_portable(config)
    monkeypatch.setattr(os, "environ", os.environ | {"MKL_ENABLE_INSTRUCTIONS": "AVX2"})
    with pytest.raises(BaselineError, match="start Python with"):
        portable.start_portable(config)


@suitable
def test_features_are_not_computed_without_the_variables(demo_data, tmp_path):
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", "--portable", "True"])
    clips = find_clips(find_machine("DCASE2024T2fan", "dev"), demo_data, "train", ("00",))
    with pytest.raises(BaselineError, match="start Python with"):
        load_log_mels(clips, config, 1, tmp_path)
    assert not list(tmp_path.glob("*.npz"))


@pytest.mark.parametrize(
    ("system", "machine", "flags", "message"),
    [
        ("darwin", "arm64", None, "this is Darwin on arm64"),
        ("linux", "aarch64", None, "this is Linux on aarch64"),
        ("linux", "x86_64", "fpu avx", "this one has no avx2 and no fma"),
        ("linux", "x86_64", "fpu avx2", "this one has no fma"),
        ("linux", "x86_64", None, "the features of this one are unknown"),
    ],
)
def test_unsuitable_machines(monkeypatch, tmp_path, system, machine, flags, message):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\n" + (f"flags\t\t: {flags}\n" if flags else ""))
    monkeypatch.setattr(portable, "CPUINFO", cpuinfo)
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(portable.platform, "machine", lambda: machine)
    monkeypatch.setattr(portable.platform, "system", lambda: system.capitalize())
    monkeypatch.setattr(os, "environ", {})
    portable.set_variables()
    assert os.environ == {}
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", "--portable", "True"])
    with pytest.raises(BaselineError, match=f"needs Linux on an x86-64 processor with AVX2 and FMA; {message}"):
        portable.start_portable(config)


def test_a_gpu_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", "--portable", "True"])
    with pytest.raises(BaselineError, match="--portable True needs the CPU.* Add --use_cuda False"):
        device.choose_device(config)


def test_the_quick_start_compares_with_the_readme():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cells = first_table(readme)
    assert len(cells) == 72
    assert compare(readme, readme) == "All 72 values are equal to the README's table."
    value = cells["MAHALA", "official score", "h-mean"]
    row = next(line for line in readme.splitlines() if f" {value} " in line)
    other = compare(readme, readme.replace(row, row.replace(value, "12.34")))
    line = f"  MAHALA official score h-mean: 12.34, in the README {value}"
    assert other.splitlines()[:2] == ["1 of 72 values differ from the README's table:", line]


def test_records_of_earlier_versions(tmp_path, trained):
    """They do not name the parameter: a model is tested and its results are shown as before."""
    workspace = Workspace(tmp_path, trained.data)
    shutil.copytree(trained.models, workspace.models)
    record = workspace.model() / "config.yaml"
    assert "portable: false\n" in record.read_text()
    record.write_text(record.read_text().replace("portable: false\n", ""))
    workspace.run_here("--test_only")
    (path,) = workspace.result().glob("test_*.json")
    test_record = json.loads(path.read_text())
    assert test_record["training"]["portable"] is False
    del test_record["portable"], test_record["training"]["portable"]
    path.write_text(json.dumps(test_record))
    done = workspace.script("03_summarize_results.sh", "DCASE2024T2", "-d", "--portable", "False")
    assert done.returncode == 0, done.stderr
    assert "left out:" not in done.stdout + done.stderr
