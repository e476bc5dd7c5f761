"""Measure how fast training and testing are on this machine, and what limits them: a table, and the same as JSON.

    python tools/benchmark.py            # full-size: 1000 training, 200 test clips of 10 s; under 10 minutes
    python tools/benchmark.py --quick    # a rough idea, under a minute

Steps that are compared are measured in one process, in turn, and given as a ratio of medians: a machine's speed varies
from hour to hour. All else is measured by running train.py. The clips are generated, and removed at the end.
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
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from functools import partial
from pathlib import Path
from statistics import median

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # found from any directory

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
from files import write_text
from networks import make_network
from tools import make_demo_data
from tools.training.adam import Adam
from tools.training.checkpoint import TrainingState
from tools.training.console import run_command
from tools.training.fast_step import fastest_form
from train import training_step

FULL_CLIPS, VECTORS_A_CLIP, TRAINING_SHARE = 1000, 309, 0.9  # of a full-size machine type, clips of 10 s
FULL = {"train_clips": FULL_CLIPS, "test_clips": 200, "steps": 200, "epochs": 3, "growth": [250, 500, 1000, 2000, 4000]}
QUICK = {"train_clips": 64, "test_clips": 20, "steps": 40, "epochs": 3, "growth": [64]}
# A process starts with the peak memory of its parent, so a small one starts the command.
LAUNCHER = """
import os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=2)
_, status, usage = os.wait4(process.pid, 0)
print(time.perf_counter() - start, usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


def run(command: list, **environment: str) -> tuple[float, float]:
    """Run a command to its end; seconds, and the largest memory of its process in MB."""
    launcher = [sys.executable, "-S", "-c", LAUNCHER, *map(str, command)]
    launched = subprocess.run(launcher, env=os.environ | environment, capture_output=True, text=True)
    if launched.returncode:
        raise BaselineError(f"{' '.join(launcher[4:])} failed:\n{launched.stderr}")
    seconds, memory = map(float, launched.stdout.split())
    return seconds, memory * (1 if sys.platform == "darwin" else 1024) / 1e6


def in_turn(rounds: int, warm_up: int = 3, **actions: Callable[[int], object]) -> dict[str, float]:
    """The median seconds of each action, called with the number of the round, one after the other in each round."""
    times = {name: [] for name in actions}
    for number in range(warm_up + rounds):
        for name, action in actions.items():
            start = time.perf_counter()
            action(number)
            times[name].append(time.perf_counter() - start)
    return {name: median(seconds[warm_up:]) for name, seconds in times.items()}


def matrix_products(batch_size: int) -> Callable[[int], None]:
    """The products of one step: forward, gradients of the weights, gradients of the inputs but the first."""
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


class Bench:
    """The generated clips of a machine type in a directory, and what was measured with them.

    Attributes:
        rows: what, measured value, unit, target.
    """

    def __init__(self, directory: Path, size: dict):
        self.directory, self.size, self.rows = directory, size, []
        counts = ["--train_clips", str(size["train_clips"]), "--test_clips", str(size["test_clips"]), "--seconds", "10"]
        make_demo_data.main(["--dataset_directory", str(directory / "data"), "--machines", "fan", *counts])
        self.config = load_config(["--dataset", "DCASE2024T2fan", *self.places()])
        self.clips = find_clips(find_machine("DCASE2024T2fan", "dev"), directory / "data", "train", ("00",))

    def add(self, what: str, value: float, unit: str, target: str = "") -> None:
        """Add a row to the table."""
        self.rows.append((what, value, unit, target))

    # --- Clips and commands
    def machine_dir(self, name: str = "fan", data: str = "data") -> Path:
        """The directory of a machine type."""
        return self.directory / data / "dcase2024t2" / "dev_data" / "raw" / name

    def link_machines(self, count: int) -> list[str]:
        """The clips of `fan` as those of the first machine types, too; their names."""
        names = list(find_dataset("DCASE2024T2").machines["dev"])[:count]
        for name in names:
            if not self.machine_dir(name).exists():
                self.machine_dir(name).symlink_to(self.machine_dir())
        return names

    def link_clips(self, n: int) -> str:
        """A dataset directory with n training clips: those of `fan`, repeated under other names."""
        train = self.machine_dir(data=f"data_{n}") / "train"
        train.mkdir(parents=True)
        for number in range(n):
            clip = self.clips[number % len(self.clips)]
            (train / re.sub(r"_\d{4,}_", f"_{number:05}_", clip.name, count=1)).symlink_to(clip.path)
        return f"data_{n}"

    def places(self, data: str = "data") -> list[str]:
        """The options that name the data."""
        names = {"dataset": data, "model": "models", "result": "results"}
        pairs = [(f"--{option}_directory", str(self.directory / name)) for option, name in names.items()]
        return ["-d", *itertools.chain.from_iterable(pairs)]

    def train_py(self, *options: str, machine: str = "fan", data: str = "data") -> tuple[float, float]:
        """Run train.py; seconds, and the largest memory of its process in MB."""
        command = [sys.executable, ROOT / "train.py", "--dataset", f"DCASE2024T2{machine}", *self.places(data)]
        return run([*command, *options])

    # --- Measured in this process
    def measure_step(self) -> None:
        """A training step on one thread: the fast form, as train.py states it, and its matrix products alone."""
        torch.set_num_threads(1)
        vectors = self.vectors(len(self.clips))
        batches = torch.randperm(len(vectors)).split(self.config.batch_size)[:-1]
        stated = partial(training_step, *self.new_training())
        fast = fastest_form(training_step, *self.new_training(), vectors[batches[0]])
        times = in_turn(
            self.size["steps"],
            products=matrix_products(self.config.batch_size),
            fast=lambda number: fast(vectors[batches[number % len(batches)]]),
            stated=lambda number: stated(vectors[batches[(number + 1) % len(batches)]]),
        )
        self.add("training step, one thread", 1000 * times["fast"], "ms")
        self.add("its matrix products alone", 1000 * times["products"], "ms")
        self.add("training step / its matrix products", times["fast"] / times["products"], "×", "≤ 1.7")
        self.add("the step with autograd / its matrix products", times["stated"] / times["products"], "×")

    def vectors(self, n_clips: int) -> Vectors:
        """The vectors of the first clips."""
        config, clips = self.config, self.clips[:n_clips]
        log_mels = compute_log_mels(clips, config, 1)
        return Vectors(log_mels, clips, config.frames, config.frame_hop_length, torch.device("cpu"))

    def new_training(self) -> tuple[nn.Module, Adam]:
        """A network and its optimizer."""
        network = make_network(self.config.model, 640, self.config.n_mels)
        return network, Adam(network.parameters(), lr=self.config.learning_rate)

    def measure_features(self) -> None:
        """Extraction, on all cores, against a plain loop over librosa."""
        import librosa
        from threadpoolctl import threadpool_limits

        def plain(clips: list) -> np.ndarray:
            with threadpool_limits(1, user_api="blas"):
                for clip in clips:
                    samples, rate = librosa.load(clip.path, sr=None)
                    mel = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=1024, hop_length=512, n_mels=128)
                    frames = 20.0 / 2.0 * np.log10(np.maximum(mel, FLOOR))  # (M, T)
            return frames.T

        if not np.array_equal(plain(self.clips[:1]), compute_log_mels(self.clips[:1], self.config, 1).frames):
            raise BaselineError("the features differ from those of librosa's plain loop.")
        times = in_turn(
            3,
            warm_up=0,
            ours=lambda _: compute_log_mels(self.clips, self.config, 1),
            plain=lambda _: plain(self.clips),
        )
        self.add("plain librosa loop / feature extraction", times["plain"] / times["ours"], "×", "≥ 1.8")

    def measure_loader(self, epoch: float) -> None:
        """An epoch with a plain PyTorch loader of single vectors, autograd and torch.optim, against seconds of ours."""
        vectors = self.vectors(40)
        items = [(vector, 0) for vector in vectors[torch.arange(len(vectors))].numpy()]
        loader = torch.utils.data.DataLoader(items, batch_size=self.config.batch_size, shuffle=True, drop_last=True)
        batches = itertools.chain.from_iterable(itertools.repeat(loader))
        network = make_network(self.config.model, vectors.dimension, self.config.n_mels)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.config.learning_rate)

        def step(_: int) -> None:
            x = next(batches)[0]
            optimizer.zero_grad()
            nn.functional.mse_loss(network(x), x).backward()
            optimizer.step()

        torch.set_num_threads(cores())
        seconds = in_turn(self.size["steps"] // 2, step=step)["step"]
        torch.set_num_threads(1)
        seconds *= FULL_CLIPS * VECTORS_A_CLIP * TRAINING_SHARE / self.config.batch_size
        self.add("epoch with a per-vector loader, from its steps", seconds, "s")
        self.add("per-vector loader / side by side", seconds / epoch, "×")

    def measure_checkpoint(self, epoch: float) -> None:
        """Writing a checkpoint, as after each epoch, which takes so many seconds."""
        identity = {"clips": {clip.name: 16 * "0" for clip in self.clips}}
        state = TrainingState(*self.new_training(), identity, torch.device("cpu"))
        seconds = in_turn(20, save=lambda _: state.save(self.directory / "checkpoint.pth"))["save"]
        self.add("writing a checkpoint, each epoch", 1000 * seconds, "ms")
        self.add("the same, of an epoch of a machine type", 100 * seconds / epoch, "%", "≤ 2")

    # --- Measured by running train.py
    def measure_epochs(self) -> float:
        """An epoch with a machine type on each core, side by side; seconds over the number of machine types."""
        machines = self.link_machines(cores())
        options = ("--epochs", str(self.size["epochs"]), "--train_only", "-tag", "epochs")
        os.environ["JOBS"] = str(len(machines))  # each takes its share of the cores
        with ThreadPoolExecutor(len(machines)) as pool:
            list(pool.map(lambda machine: self.train_py(*options, machine=machine), machines))
        del os.environ["JOBS"]
        seconds = []
        for log in (self.directory / "models").glob("**/seed*_epochs/*/train.log"):
            lines = [line for line in log.read_text().splitlines() if re.search(r" epoch \d+/\d+,", line)]
            ends = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in lines]
            seconds += [(after - before).total_seconds() for before, after in itertools.pairwise(ends)]
        epoch = median(seconds) * FULL_CLIPS / self.size["train_clips"]
        self.add(f"epoch, {len(machines)} machine types side by side", epoch, "s")
        self.add("the same, a machine type", epoch / len(machines), "s", "≤ 4.5 on two cores")
        return epoch / len(machines)

    def measure_growth(self) -> list[dict[str, float]]:
        """A training of one epoch on more and more clips, with features to compute."""
        growth = []
        for n in self.size["growth"]:
            seconds, memory = self.train_py("--epochs", "1", "--train_only", data=self.link_clips(n))
            growth.append({"training clips": n, "one epoch in all (s)": seconds, "peak memory (MB)": memory})
        nearest = min(growth, key=lambda row: abs(row["training clips"] - FULL_CLIPS))
        what = f"peak memory of a training, {nearest['training clips']} clips"
        self.add(what, nearest["peak memory (MB)"], "MB", "≤ 700")
        return growth

    def measure_test(self) -> None:
        """Tests of a trained machine type: once with features to compute, then with cached ones; --help."""
        _, memory = self.train_py("--test_only")
        seconds = median(self.train_py("--test_only")[0] for _ in range(3))
        self.add(f"test of {self.size['test_clips']} clips, features cached", seconds, "s", "≤ 4")
        self.add("peak memory of a test", memory, "MB", "≤ 500")
        seconds = median(run([sys.executable, ROOT / "train.py", "--help"])[0] for _ in range(3))
        self.add("train.py --help", seconds, "s", "≤ 0.5")

    def measure_cuda(self) -> None:
        """On a GPU: 100 epochs of a machine type; all seven with both tests."""
        seconds, _ = self.train_py("--epochs", "100", "--train_only", "-tag", "cuda")
        self.add("100 epochs of a machine type on the GPU", seconds, "s", "≤ 20")
        self.link_machines(7)
        scripts = ("01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh")
        options = (*self.places(), "-tag", "cuda7")
        seconds = sum(run([ROOT / script, *options], PYTHON=sys.executable)[0] for script in scripts)
        self.add("seven machine types with both tests on the GPU", seconds, "s", "≤ 180")


def describe_machine() -> dict[str, str | int]:
    """The machine that the values were measured on."""
    cpuinfo = Path("/proc/cpuinfo")
    name = re.search(r"^model name\s*: (.*)$", cpuinfo.read_text() if cpuinfo.exists() else "", re.MULTILINE)
    return {
        "processor": name[1] if name else platform.processor() or platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "date": datetime.now().strftime("%Y-%m-%d"),
    }


def measure(size: dict, output: Path) -> None:
    """Measure everything; print the tables, and write the JSON."""
    machine, start = describe_machine(), time.perf_counter()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="benchmark_") as directory:
        bench = Bench(Path(directory), size)
        bench.measure_step()
        bench.measure_features()
        epoch = bench.measure_epochs()
        bench.measure_loader(epoch)
        bench.measure_checkpoint(epoch)
        growth = bench.measure_growth()
        bench.measure_test()
        if torch.cuda.is_available():
            bench.measure_cuda()
    columns = ["what", "value", "unit", "target"]
    print(tabulate(bench.rows, ["what", "measured", "", "target"], floatfmt=".2f"), end="\n\n")
    print(tabulate(growth, headers="keys", floatfmt=".1f"))
    if not torch.cuda.is_available():
        print("No GPU here: its values are not measured.")
    figures = [dict(zip(columns, row, strict=True)) for row in bench.rows]
    record = {"machine": machine, "size": size, "figures": figures, "growth": growth}
    write_text(output, json.dumps(record, indent=1, ensure_ascii=False) + "\n")
    print(f"measured in {time.perf_counter() - start:.0f} s -> {output}")


def main(arguments: list[str] | None = None) -> int:
    """See the top of this file."""
    parser = argparse.ArgumentParser(prog="benchmark.py", description=__doc__.split("\n\n")[0])
    parser.add_argument("--quick", action="store_true", help="few and short measurements: a rough idea in a minute")
    parser.add_argument("--json", type=Path, default=Path("benchmark.json"), help="file to write (%(default)s)")
    options = parser.parse_args(arguments)
    return run_command(lambda: measure(QUICK if options.quick else FULL, options.json))


if __name__ == "__main__":
    sys.exit(main())
