"""Measure how fast training and testing are on this machine, and what limits them. Print a table and write JSON.

    python tools/benchmark.py            # full size: 1000 training and 200 test clips of 10 s; under 10 minutes
    python tools/benchmark.py --quick    # a rough estimate in under a minute

The speed of a machine varies from hour to hour. So steps that are compared run alternately in one process, and the
table shows the ratio of their medians. Everything else is measured by running train.py. The clips are generated, and
deleted at the end.
"""

import argparse
import itertools
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

import numpy as np
import torch
from tabulate import tabulate
from torch import nn

from config import ROOT, BaselineError, cores, load_config
from datasets.catalog import find_dataset, find_machine
from datasets.clips import find_clips
from datasets.feature_cache import compute_log_mels
from datasets.frames import Vectors
from datasets.log_mel import FLOOR
from files import check_replaceable, write_text
from networks import make_network
from portable import unsuitable
from tools import make_demo_data
from tools.training.adam import Adam
from tools.training.checkpoint import TrainingState
from tools.training.console import run_command, show
from tools.training.fast_step import fastest_form
from train import training_step

FULL = {"train_clips": 1000, "test_clips": 200, "steps": 200, "epochs": 3, "rounds": 3, "growth": [250, 1000, 2000]}
QUICK = {"train_clips": 64, "test_clips": 20, "steps": 40, "epochs": 3, "rounds": 1, "growth": [64]}
Row = tuple[str, float, str, str]  # what, measured value, unit, target

# A process inherits the peak memory of its parent, so a small process starts the command.
LAUNCHER = """
import resource, subprocess, sys, time
start = time.perf_counter()
status = subprocess.call(sys.argv[1:], stdout=2)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
sys.exit(status)
"""


def run(command: list, **environment: str) -> tuple[float, float]:
    """Run a command. Returns the time in seconds, and the peak memory of its largest process in MB."""
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)]
    launched = subprocess.run(launcher, env=os.environ | environment, capture_output=True, text=True)
    if launched.returncode:
        raise BaselineError(f"{' '.join(launcher[4:])} failed:\n{launched.stderr}")
    seconds, memory = map(float, launched.stdout.split())
    return seconds, memory * (1 if sys.platform == "darwin" else 1024) / 1e6


def median_seconds(rounds: int, warm_up: int = 3, **actions: Callable[[int], object]) -> dict[str, float]:
    """Call each action once per round, with the number of the round. Returns the median seconds of each action."""
    times = {name: [] for name in actions}
    for number in range(warm_up + rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action(number)
            times[name].append(time.perf_counter() - start)
    return {name: median(seconds[warm_up:]) for name, seconds in times.items()}


class Bench:
    """Generated clips of a machine type, and the commands that use them."""

    def __init__(self, directory: Path, size: dict):
        self.directory, self.size = directory, size
        raw = self.make_clips("data", size["train_clips"])
        others = [name for name in find_dataset("DCASE2024T2").machines["dev"] if name != "fan"]
        for name in others:
            (raw / name).symlink_to(raw / "fan")
        self.machines = ["fan", *others]
        self.config = load_config(["--dataset", "DCASE2024T2fan", *self.directories()])
        self.clips = find_clips(find_machine("DCASE2024T2fan", "dev"), directory / "data", "train", ("00",))

    def make_clips(self, data: str, train_clips: int) -> Path:
        """Generate clips of `fan` in a new dataset directory. Returns the directory of its machine types."""
        counts = ["--train_clips", str(train_clips), "--test_clips", str(self.size["test_clips"]), "--seconds", "10"]
        make_demo_data.main(["--dataset_directory", str(self.directory / data), "--machines", "fan", *counts])
        return self.directory / data / "dcase2024t2/dev_data/raw"

    def directories(self, data: str = "data") -> list[str]:
        """The options for the split and the directories."""
        names = {"dataset": data, "model": "models", "result": "results"}
        return ["-d", *(f"--{option}_directory={self.directory / name}" for option, name in names.items())]

    def train_py(self, *options: str, machine: str = "fan", data: str = "data", **environment) -> tuple[float, float]:
        """Run train.py. Returns the time in seconds, and the peak memory in MB."""
        command = [sys.executable, ROOT / "train.py", "--dataset", f"DCASE2024T2{machine}", *self.directories(data)]
        return run([*command, *options], **environment)

    def new_training(self) -> tuple[nn.Module, Adam]:
        """A network and its optimizer."""
        network = make_network(self.config.model, 640, self.config.n_mels)
        return network, Adam(network.parameters(), lr=self.config.learning_rate)


# --- Measured in this process


def training_steps(bench: Bench) -> Iterator[Row]:
    """Time a training step on one thread, and its matrix products alone."""
    torch.set_num_threads(1)
    config = bench.config
    log_mels = compute_log_mels(bench.clips, config, 1)
    vectors = Vectors(log_mels, bench.clips, config.frames, config.frame_hop_length, torch.device("cpu"))
    batches = torch.randperm(len(vectors)).split(config.batch_size)[:-1]
    step = fastest_form(training_step, *bench.new_training(), vectors[batches[0]])
    times = median_seconds(
        bench.size["steps"],
        products=matrix_products(config.batch_size),
        step=lambda number: step(vectors[batches[number % len(batches)]]),
    )
    yield "training step, one thread", 1000 * times["step"], "ms", ""
    yield "its matrix products alone", 1000 * times["products"], "ms", ""
    yield "training step / its matrix products", times["step"] / times["products"], "×", "≤ 1.35 (AVX-512), 1.6"


def matrix_products(batch_size: int) -> Callable[[int], None]:
    """A function for the matrix products of a step: forward, weight gradients, input gradients except the first."""
    network, products = make_network("DCASE2023T2-AE", 640, 128), []
    for number, layer in enumerate(module for module in network.modules() if isinstance(module, nn.Linear)):
        weight = layer.weight.detach()
        x, y = torch.randn(batch_size, layer.in_features), torch.randn(batch_size, layer.out_features)
        products += [(x, weight.t(), torch.empty_like(y)), (y.t(), x, torch.empty_like(weight))]
        products += [(y, weight, torch.empty_like(x))] if number else []

    def multiply(_: int) -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return multiply


def features(bench: Bench) -> Iterator[Row]:
    """Time the feature extraction on all cores, and a plain loop over librosa."""
    import librosa
    from threadpoolctl import threadpool_limits

    def plain(clips: list) -> np.ndarray:
        with threadpool_limits(1, user_api="blas"):
            for clip in clips:
                samples, rate = librosa.load(clip.path, sr=None)
                mel = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=1024, hop_length=512, n_mels=128)
                frames = 20.0 / 2.0 * np.log10(np.maximum(mel, FLOOR))  # (M, T)
        return frames.T

    compute = partial(compute_log_mels, config=bench.config, channels=1)
    if not np.array_equal(plain(bench.clips[:1]), compute(bench.clips[:1]).frames):
        raise BaselineError("the features differ from those of a plain librosa loop.")
    times = median_seconds(
        bench.size["rounds"], warm_up=0, ours=lambda _: compute(bench.clips), plain=lambda _: plain(bench.clips)
    )
    yield "plain librosa loop / feature extraction", times["plain"] / times["ours"], "×", ""


# --- Measured by running train.py


def epochs(bench: Bench) -> Iterator[Row]:
    """Time an epoch with one machine type per core, an epoch in portable mode, and writing a checkpoint."""
    machines = bench.machines[: cores()]

    def medians(tag: str, *options: str) -> tuple[float, float]:
        """Median seconds of an epoch, and from the last epoch to writing the model."""
        options = ("--epochs", str(bench.size["epochs"]), "--train_only", "-tag", tag, *options)
        jobs = str(len(machines))  # each run uses its share of the cores
        with ThreadPoolExecutor(len(machines)) as pool:
            list(pool.map(lambda machine: bench.train_py(*options, machine=machine, JOBS=jobs), machines))
        epochs, rests = [], []
        for log in (bench.directory / "models").glob(f"**/seed*_{tag}/*/train.log"):
            lines = re.findall(r"^(.{23}).* (?:epoch \d+/\d+,|writing the model)", log.read_text(), re.MULTILINE)
            ends = [datetime.strptime(line, "%Y-%m-%d %H:%M:%S,%f") for line in lines]
            *between, rest = [(after - before).total_seconds() for before, after in itertools.pairwise(ends)]
            epochs += between
            rests.append(rest)
        return median(epochs), median(rests)

    seconds, rest = medians("epochs")
    epoch = seconds / len(machines) * FULL["train_clips"] / bench.size["train_clips"]  # of a full-size machine type
    yield f"epoch, a machine type of {len(machines)} side by side", epoch, "s", "≤ 4.5 on two cores"
    yield "covariances and thresholds after the last epoch / epoch", rest / seconds, "×", "≤ 2"
    if not unsuitable():
        portable_seconds, _ = medians("portable", "--portable", "True", "--use_cuda", "False")
        yield "epoch with --portable True / without", portable_seconds / seconds, "×", ""
    identity = {"clips": {clip.name: 16 * "0" for clip in bench.clips}}
    state = TrainingState(*bench.new_training(), identity, torch.device("cpu"))
    save = median_seconds(20, save=lambda _: state.save(bench.directory / "checkpoint.pth"))["save"]
    yield "writing a checkpoint, of an epoch of a machine type", 100 * save / epoch, "%", "≤ 2"


def tests(bench: Bench) -> Iterator[Row]:
    """Measure the memory of a test that computes features, and the time of tests with cached features and of --help."""
    memory = bench.train_py("--test_only", "-tag", "epochs")[1]
    rounds = range(bench.size["rounds"])
    seconds = median(bench.train_py("--test_only", "-tag", "epochs")[0] for _ in rounds)
    yield f"test of {bench.size['test_clips']} clips, features cached", seconds, "s", "≤ 4"
    yield "peak memory of a test", memory, "MB", "≤ 500"
    seconds = median(run([sys.executable, ROOT / "train.py", "--help"])[0] for _ in rounds)
    yield "train.py --help", seconds, "s", "≤ 0.3"


def growth(bench: Bench) -> Iterator[Row]:
    """Measure one epoch of training, including feature extraction, with a growing number of clips."""
    for n in bench.size["growth"]:
        options = ("--epochs", "1", "--train_only", "-tag", str(n))
        bench.make_clips(f"data_{n}", n)
        seconds, memory = bench.train_py(*options, data=f"data_{n}")
        yield f"training of one epoch, {n} clips, features computed", seconds, "s", ""
        yield f"its peak memory, {n} clips", memory, "MB", "≤ 700" if n <= FULL["train_clips"] else ""


def gpu(bench: Bench) -> Iterator[Row]:
    """Time 100 epochs of one machine type on a GPU, and the training and both tests of all seven."""
    if not torch.cuda.is_available():
        show("No GPU found: GPU times are not measured.")
        return
    seconds, _ = bench.train_py("--epochs", "100", "--train_only", "-tag", "gpu")
    yield "100 epochs of a machine type on the GPU", seconds, "s", "≤ 20"
    scripts = ("01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh")
    options = (*bench.directories(), "-tag", "gpu7")
    seconds = sum(run([ROOT / script, *options], PYTHON=sys.executable)[0] for script in scripts)
    yield "seven machine types with both tests on the GPU", seconds, "s", "≤ 180"


MEASUREMENTS = (training_steps, features, epochs, tests, growth, gpu)


def describe_machine() -> dict[str, str | int]:
    """The hardware and the versions that the values were measured with."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "processor": name[1] if name else platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "date": datetime.now().strftime("%Y-%m-%d"),
    }


def measure(size: dict, output: Path) -> None:
    """Measure everything, print the table, and write the JSON file."""
    machine = describe_machine()
    show(", ".join(f"{name} {value}" for name, value in machine.items()))
    with tempfile.TemporaryDirectory(prefix="benchmark_") as directory:
        bench = Bench(Path(directory), size)
        rows = [row for measurement in MEASUREMENTS for row in measurement(bench)]
    show(tabulate(rows, ["what", "measured", "", "target"], floatfmt=".2f"))
    values = [dict(zip(("what", "value", "unit", "target"), row, strict=True)) for row in rows]
    record = {"machine": machine, "size": size, "figures": values}
    write_text(output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def _is_record(path: Path) -> bool:
    try:
        return json.loads(path.read_text(encoding="utf-8")).keys() == {"machine", "size", "figures"}
    except (ValueError, AttributeError):
        return False


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer measurements: a rough estimate in under a minute")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), help="output file (default: %(default)s)")
    options = parser.parse_args(arguments)
    check_replaceable(options.json, _is_record)
    measure(QUICK if options.quick else FULL, options.json)


if __name__ == "__main__":
    sys.exit(run_command(main))
