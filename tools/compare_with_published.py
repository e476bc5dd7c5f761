"""Run the published baseline and this project on the same clips, and compare the files that they write.

    python tools/compare_with_published.py DIRECTORY                   # a checkout of the published baseline
    python tools/compare_with_published.py DIRECTORY --python PYTHON   # another Python for the published baseline

The clips are generated. The published baseline runs in a temporary copy of DIRECTORY, so DIRECTORY is not changed.
Losses, weights, MSE scores, decisions and AUCs must be equal to the last bit. Covariances and MAHALA scores must agree
within 1e-4, because this project sums them in a different order. The exit status is 1 if a difference is larger.
"""

import argparse
import csv
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

import numpy as np
from tqdm import tqdm

from config import ROOT, BaselineError
from tools.make_demo_data import DEV_MACHINES, GENERATOR_VERSION, make_machine
from tools.training.console import run_command, show

CLIPS = {"generator": GENERATOR_VERSION, "split": "dev_data", "seed": 0}
CLIPS |= {"train_clips": 26, "test_clips": 16, "seconds": 4.0}
RAW = "data/dcase2024t2/dev_data/raw"
TOLERANCES = {"covariances": 1e-4, "scores, MAHALA": 1e-4}  # relative; everything else must be equal to the last bit
OPTIONS = ["--dataset=DCASE2024T2fan", "-d", "--epochs=3"]
STEPS = {"training": ["--train_only"]}
STEPS |= {f"test, {score}": ["--test_only", "--score", score] for score in ("MSE", "MAHALA")}
ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
ENVIRONMENT |= {"MPLBACKEND": "Agg", "CUDA_VISIBLE_DEVICES": ""}
# This also reads the libraries from disk. Otherwise the program that runs first would need more time.
VERSIONS = """
import json, librosa.feature, numpy, scipy.stats, sklearn.metrics, soundfile, torch
print(json.dumps({x.__name__: x.__version__ for x in (torch, numpy, scipy, sklearn, librosa, soundfile)}))
"""

# Step → what is compared → its file in the published baseline, its file in this project
THEIRS, OURS = "DCASE2023T2-AE_DCASE2024T2fan_id(0_)_seed13711", "DCASE2024T2/seed13711"
WEIGHTS = f"models/saved_model/baseline/{THEIRS}.pth", f"models/baseline/dev_data/{OURS}/fan/model.pth"
LOSSES = f"logs/baseline/{THEIRS}/log.csv", f"models/baseline/dev_data/{OURS}/fan/log.csv"
FILES = {"training": {"log.csv": LOSSES, "weights": WEIGHTS, "covariances": WEIGHTS}}
for _score in ("MSE", "MAHALA"):
    _dir = f"results/dev_data/baseline_{_score}"
    FILES[f"test, {_score}"] = {
        f"{what}, {_score}": (f"{_dir}/{start}_DCASE2024T2fan{theirs}", f"{_dir}/{OURS}/{start}_fan{ours}.csv")
        for what, start, theirs, ours in (
            ("scores", "anomaly_score", "_section_00_test_seed13711_id(0_).csv", "_section_00_test"),
            ("decisions", "decision_result", "_section_00_test_seed13711_id(0_).csv", "_section_00_test"),
            ("AUCs", "result", "_test_seed13711_id(0_)_roc.csv", ""),
        )
    }


def run(command: list[str], directory: Path, wanted: Sequence[str] = ()) -> tuple[float, float, str]:
    """Run a command in a directory, and check that it wrote the files `wanted`.

    Returns:
        The time in seconds, the peak memory of its largest process in MB, and the last line of its output.

    Raises:
        BaselineError: it failed, or a file is missing. The last lines of its output are printed first.
    """
    start = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        options = {"stdin": subprocess.DEVNULL, "stdout": output, "stderr": subprocess.STDOUT}
        process = subprocess.Popen(command, cwd=directory, env=os.environ | ENVIRONMENT, **options)
        try:  # a process inherits the peak memory of its parent, which has not imported PyTorch yet
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:  # Ctrl-C
            process.kill()
            process.wait()
            raise
        seconds = time.perf_counter() - start
        output.seek(0)
        lines = output.read().decode(errors="replace").splitlines() or [""]
    process.returncode = os.waitstatus_to_exitcode(status)
    missing = [name for name in wanted if not (directory / name).exists()]
    if process.returncode or missing:
        show("\n".join(line[:200] for line in lines[-12:]), sys.stderr)
        what = f"exit status {process.returncode}" if process.returncode else f"{missing[0]} was not written"
        raise BaselineError(f"{what}. The last lines of its output are above. Command: {shlex.join(command)}")
    return seconds, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e6, lines[-1]


def copy_checkout(checkout: Path, copy: Path) -> None:
    """Copy a checkout of the published baseline, without its data, results and environments.

    Raises:
        BaselineError: `checkout` has no train.py, or a file cannot be read.
    """

    def ignored(directory: str, names: list[str]) -> set[str]:
        top = {"data", "models", "results", "logs"} if Path(directory) == checkout else set()
        paths = [Path(directory, name) for name in names]
        others = {path.name for path in paths if path == copy.parent or (path / "pyvenv.cfg").exists()}
        return {".git", ".venv", "__pycache__"} | top | others

    if not (checkout / "train.py").is_file():
        raise BaselineError(f"{checkout} has no train.py. DIRECTORY must be a checkout of the published baseline.")
    try:  # copies the targets of links, so that nothing is written through a link
        shutil.copytree(checkout, copy, ignore=ignored, ignore_dangling_symlinks=True)
    except OSError as error:
        raise BaselineError(f"{checkout} cannot be copied: {str(error)[:300]}") from error


def run_both(checkout: Path, python: str, published: Path, ours: Path) -> str:
    """Train and test with the published baseline and with this project, each in a new directory.

    Returns:
        A table with the time and memory of both.

    Raises:
        BaselineError: the checkout cannot be copied, or a run failed.
    """
    copy_checkout(checkout, published)
    make_machine(ours / RAW / "fan", "fan", DEV_MACHINES["fan"], CLIPS)
    (published / RAW).parent.mkdir(parents=True)  # the published baseline caches its features there
    (published / RAW).symlink_to(ours / RAW)
    places = {"dataset": "data", "model": "models", "result": "results", "cache": "cache"}
    options = [f"--{name}_directory={ours / place}" for name, place in places.items()]
    options += ["--use_cuda=False", "--portable=False", "--seed=13711", "--export_dir=baseline"]
    programs = {
        published: [python, "train.py", *OPTIONS, "-tag=id(0_)", "--use_ids", "0", "--mono=True"],
        ours: [sys.executable, str(ROOT / "train.py"), *OPTIONS, *options],
    }
    theirs, here = (json.loads(run([program[0], "-c", VERSIONS], ours)[2]) for program in programs.values())
    table = {step: f"{step:<20}" for step in STEPS}
    for directory, step in tqdm([(d, step) for d in programs for step in STEPS], unit="run", disable=None, leave=False):
        wanted = [pair[directory == ours] for pair in FILES[step].values()]
        seconds, memory, _ = run([*programs[directory], *STEPS[step]], directory, wanted)
        table[step] += f"{seconds:>10.1f} s {memory:>6.0f} MB"
    if others := [f"{name} {theirs[name]} (here {here[name]})" for name in here if theirs[name] != here[name]]:
        table["others"] = f"\nDifferent library versions, which may round differently: {', '.join(others)}."
    return "\n".join([f"{'published':>41}{'this project':>21}", *table.values()])


def read_values(what: str, path: Path) -> Mapping[str, float | np.ndarray]:
    """Read the values in a file: name → number or array.

    Raises:
        BaselineError: the file cannot be read.
    """
    import torch

    from tools.results.score_files import read_column, read_metrics  # imports PyTorch

    try:
        if what.startswith(("scores", "decisions")):
            return read_column(path)
        if what.startswith("AUCs"):
            return {name: value for name, value in read_metrics(path)["00"].items() if "AUC" in name}
        if what == "log.csv":
            rows = csv.DictReader(path.read_text(encoding="utf-8").splitlines())
            return {f"{name} of epoch {n}": float(x) for n, row in enumerate(rows, 1) for name, x in row.items()}
        state = torch.load(path, map_location="cpu", weights_only=True)
        return {name: x.numpy() for name, x in state.items() if name.startswith("cov_") == (what == "covariances")}
    except Exception as error:  # many types
        raise BaselineError(f"{path.name} cannot be read: {' '.join(str(error).split())[:300]}") from error


def compare_values(published: Mapping, ours: Mapping, tolerance: float) -> tuple[bool, str]:
    """Compare numbers or arrays with the same names, bit by bit.

    Args:
        tolerance: the largest difference that counts as equal, relative to the largest value of the array.

    Returns:
        Whether they are equal, and the result in words.
    """
    published, ours = ({name: np.asarray(x) for name, x in values.items()} for values in (published, ours))
    forms = [{f"{name}, {x.dtype} {x.shape}" for name, x in values.items()} for values in (published, ours)]
    if unmatched := sorted(forms[0] ^ forms[1]):
        return False, f"DIFFERENT: {'published' if unmatched[0] in forms[0] else 'this project'} only: {unmatched[0]}"
    count, n_different, differences = sum(x.size for x in ours.values()), 0, {}
    for name, a in published.items():
        b = ours[name]
        if a.tobytes() != b.tobytes():
            n_different += int((a != b).sum())
            size = max(np.abs(a).max(), np.abs(b).max()) or 1  # 1: zeros of different sign
            differences[name] = float(np.nan_to_num(np.abs(a - b).max() / size, nan=np.inf))
    if not differences:
        return count > 0, f"equal to the last bit ({count} values)" if count else "DIFFERENT: no values"
    name, largest = max(differences.items(), key=lambda item: item[1])
    if 0 < largest <= tolerance:
        return True, f"equal within {largest:.1e} ({count} values)"
    return False, f"DIFFERENT by {largest:.1e}, {n_different} of {count} values: {name}"


def compare(published: Path, ours: Path) -> list[tuple[str, bool, str]]:
    """Compare the files in these two directories. Returns rows: what, whether it is equal, the result in words."""
    rows = []
    for what, (theirs, own) in (item for files in FILES.values() for item in files.items()):
        values = [read_values(what, published / theirs), read_values(what, ours / own)]
        if what.startswith("AUCs"):  # only those in both: some versions of the published baseline have more
            values = [{name: x[name] for name in values[0] if name in values[1]} for x in values]
        rows.append((what, *compare_values(*values, TOLERANCES.get(what, 0.0))))
    return rows


def main(arguments: list[str] | None = None) -> bool:
    """Run the command. Returns whether everything is equal."""
    parser = argparse.ArgumentParser(prog="compare_with_published.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("directory", type=Path, metavar="DIRECTORY", help="a checkout of the published baseline")
    text = "Python for the published baseline (default: the current one); version 5 of it needs matplotlib < 3.11"
    parser.add_argument("--python", default=sys.executable, metavar="PYTHON", help=text)
    options = parser.parse_args(arguments)
    if not (python := shutil.which(options.python)):
        raise BaselineError(f"--python {options.python}: no such program. Choose another one.")
    with tempfile.TemporaryDirectory(prefix="compare_") as directory:
        published, ours = (Path(directory).resolve() / name for name in ("published", "ours"))
        costs = run_both(options.directory.resolve(), str(Path(python).absolute()), published, ours)
        rows = compare(published, ours)
    show(f"{'what':<20}result (differences are relative)")
    for what, _, result in rows:
        show(f"{what:<20}{result}"[:80])
    different = [what for what, is_equal, _ in rows if not is_equal]
    show(f"\n{costs}\n\n" + (f"Different: {'; '.join(different)}." if different else "Everything is equal."))
    return not different


if __name__ == "__main__":
    sys.exit(run_command(main))
