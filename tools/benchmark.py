"""Measure how fast training and testing are on this machine, and what bounds them: a table, and the same as JSON.

    python tools/benchmark.py            # full-size: 1000 training, 200 test clips of 10 s; under 10 minutes
    python tools/benchmark.py --quick    # a rough idea, under a minute

What is compared is measured in one process, in turn, and given as a ratio of medians: a machine's speed varies from
hour to hour. The clips are generated, and removed at the end.
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
from dataclasses import asdict, dataclass
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

from config import ROOT, BaselineError, Config, cores, load_config
from datasets.catalog import find_dataset, find_machine
from datasets.clips import Clip, find_clips
from datasets.feature_cache import compute_log_mels
from datasets.frames import Vectors
from datasets.log_mel import FLOOR
from files import write_text
from networks import make_network
from tools import make_demo_data
from tools.each_machine import Loop, Runs, run_train
from tools.training.adam import Adam
from tools.training.checkpoint import TrainingState
from tools.training.console import run_command
from tools.training.fast_step import fastest_form, flatten_parameters
from train import training_step

MACHINES = list(find_dataset("DCASE2024T2").machines["dev"])
RAW = Path("dcase2024t2", "dev_data", "raw")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    train_clips: int
    test_clips: int
    steps: int
    epochs: int
    growth: tuple[int, ...]  # training clips


FULL = Size(1000, 200, steps=200, epochs=3, growth=(250, 500, 1000, 2000, 4000))
QUICK = Size(64, 20, steps=40, epochs=3, growth=(64,))
VECTORS_A_CLIP, TRAINING_SHARE = 309, 0.9  # of clips of 10 s


@dataclass(frozen=True)
class Figure:
    """One measured figure."""

    what: str
    value: float
    unit: str
    target: str = ""


class Bench:
    """The clips, and the commands that are run on them, in a directory that is removed at the end."""

    def __init__(self, directory: Path, size: Size):
        self.directory, self.size = directory, size
        options = ["--machines", "fan", "--train_clips", str(size.train_clips), "--test_clips", str(size.test_clips)]
        make_demo_data.main(["--dataset_directory", str(self.data()), *options, "--seconds", "10"])
        self.clips = self.data() / RAW / "fan"

    def data(self, name: str = "data") -> Path:
        """A dataset directory."""
        return self.directory / name

    @property
    def config(self) -> Config:
        """The configuration of a run on the clips."""
        return load_config(["--dataset", "DCASE2024T2fan", "-d", *self.places()])

    def places(self, data: str = "data") -> list[str]:
        """The options that name the directories."""
        names = {"dataset": data, "model": "models", "result": "results"}
        return [text for option, name in names.items() for text in (f"--{option}_directory", str(self.data(name)))]

    def link_machines(self, names: list[str]) -> None:
        """The same clips as other machine types."""
        for name in names:
            if not (self.data() / RAW / name).exists():
                (self.data() / RAW / name).symlink_to(self.clips)

    def link_clips(self, n: int) -> str:
        """A dataset of n training clips: those that are there, as often as it takes, under other names."""
        directory = self.data(f"data_{n}") / RAW / "fan" / "train"
        directory.mkdir(parents=True)
        for number, clip in zip(range(n), itertools.cycle(sorted(self.clips.glob("train/*.wav")))):
            name = re.sub(r"_\d{4,}_", f"_{number:05}_", clip.name, count=1)
            (directory / name).symlink_to(clip)
        return directory.parents[4].name

    def train_py(self, *options: str, data: str = "data") -> tuple[float, float]:
        """Run train.py; seconds, and the largest memory of its process in MB."""
        command = [sys.executable, ROOT / "train.py", "--dataset", "DCASE2024T2fan", "-d"]
        return run([*command, *self.places(data), *options])


# Run by a small process, for a process starts with the peak memory of the one that it was forked from.
LAUNCHER = """
import json, os, subprocess, sys, time
start = time.perf_counter()
process = subprocess.Popen(sys.argv[2:], stdout=2)
_, status, usage = os.wait4(process.pid, 0)
with open(sys.argv[1], "w") as file:
    json.dump([os.waitstatus_to_exitcode(status), time.perf_counter() - start, usage.ru_maxrss], file)
"""


def run(command: list, **environment: str) -> tuple[float, float]:
    """Run a command to its end; seconds, and the largest memory of its process in MB."""
    with tempfile.TemporaryDirectory() as directory:
        result = Path(directory, "result")
        launcher = [sys.executable, "-S", "-c", LAUNCHER, str(result), *map(str, command)]
        launched = subprocess.run(launcher, env=os.environ | environment, stderr=subprocess.PIPE, text=True)
        status, seconds, memory = json.loads(result.read_text()) if result.exists() else (1, 0, 0)
    if status:
        raise BaselineError(f"{' '.join(launcher[5:])} failed:\n{launched.stderr}")
    return seconds, memory * (1 if sys.platform == "darwin" else 1024) / 1e6


def in_turn(rounds: int, **actions: Callable[[int], object]) -> dict[str, float]:
    """The median seconds of each action, called with the number of the round, one after the other in each round."""
    times = {name: [] for name in actions}
    for number in range(-3, rounds):  # the first three do not count
        for name, action in actions.items():
            start = time.perf_counter()
            action(number + 3)
            if number >= 0:
                times[name].append(time.perf_counter() - start)
    return {name: median(each) for name, each in times.items()}


# --- What is measured ---
def measure_step(bench: Bench) -> list[Figure]:
    """A training step on one thread: with the fast form, as train.py states it, and its matrix products alone."""
    torch.set_num_threads(1)
    config, clips = bench.config, find_train_clips(bench)
    vectors = Vectors(compute_log_mels(clips, config, 1), clips, config.frames, config.frame_hop_length, CPU)
    batches = torch.randperm(len(vectors)).split(config.batch_size)[:-1]
    actions = {"products": matrix_products(config.batch_size)}
    for name in ("fast", "stated"):
        network = make_network(config.model, vectors.dimension, config.n_mels)
        optimizer = Adam(flatten_parameters(network), config.learning_rate)
        step = partial(training_step, network, optimizer)
        actions[name] = fastest_form(step, network, optimizer, vectors[batches[0]]) if name == "fast" else step
    times = in_turn(
        bench.size.steps,
        products=lambda _: actions["products"](),
        fast=lambda number: actions["fast"](vectors[batches[number % len(batches)]]),
        stated=lambda number: actions["stated"](vectors[batches[(number + 1) % len(batches)]]),
    )
    return [
        Figure("training step, one thread", 1000 * times["fast"], "ms"),
        Figure("its matrix products alone", 1000 * times["products"], "ms"),
        Figure("training step / its matrix products", times["fast"] / times["products"], "×", "≤ 1.7"),
        Figure("the step with autograd / its matrix products", times["stated"] / times["products"], "×"),
    ]


def matrix_products(batch_size: int) -> Callable[[], None]:
    """The products of one step: forward, gradients of the weights, gradients of the inputs but the first."""
    network = make_network("DCASE2023T2-AE", 640, 128)
    products = []
    for number, layer in enumerate(module for module in network.modules() if isinstance(module, nn.Linear)):
        weight = layer.weight.detach()
        x, y = torch.randn(batch_size, layer.in_features), torch.randn(batch_size, layer.out_features)
        products += [(x, weight.t(), torch.empty_like(y)), (y.t(), x, torch.empty_like(weight))]
        products += [(y, weight, torch.empty_like(x))] if number else []

    def multiply() -> None:
        for left, right, out in products:
            torch.mm(left, right, out=out)

    return multiply


def measure_per_vector_loader(bench: Bench) -> Figure:
    """An epoch with a plain PyTorch loader of single vectors, and the steps on all cores: a baseline without haste.

    The published baseline has such a loader, which hands out more with each vector, and takes longer.
    """
    torch.set_num_threads(cores())
    config, clips = bench.config, find_train_clips(bench)[:40]
    vectors = Vectors(compute_log_mels(clips, config, 1), clips, config.frames, config.frame_hop_length, CPU)
    items = [(vector, 0) for clip in vectors.per_clip() for vector in clip.numpy()]
    network = make_network(config.model, vectors.dimension, config.n_mels)
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    loader = torch.utils.data.DataLoader(items, batch_size=config.batch_size, shuffle=True, drop_last=True)
    batches = iter(itertools.chain.from_iterable(itertools.repeat(loader)))

    def step(_: int) -> None:
        x = next(batches)[0]
        optimizer.zero_grad()
        nn.functional.mse_loss(network(x), x).backward()
        optimizer.step()

    seconds = in_turn(bench.size.steps // 2, step=step)["step"]
    torch.set_num_threads(1)
    batches_an_epoch = FULL.train_clips * VECTORS_A_CLIP * TRAINING_SHARE / config.batch_size
    return Figure("epoch with a per-vector loader, from its steps", seconds * batches_an_epoch, "s")


def measure_features(bench: Bench) -> Figure:
    """Extraction, on all cores, against a plain loop over librosa, the libraries loaded for both."""
    import librosa
    from threadpoolctl import threadpool_limits

    config, clips = bench.config, find_train_clips(bench)
    librosa.feature.melspectrogram(y=np.zeros(4096, np.float32))  # imports take place at the first call
    times: dict[str, list[float]] = {"plain": [], "ours": []}
    for _ in range(3):
        start = time.perf_counter()
        ours = compute_log_mels(clips, config, 1)
        between = time.perf_counter()
        with threadpool_limits(1, user_api="blas"):
            for clip in clips:
                samples, rate = librosa.load(clip.path, sr=None)
                mel = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=1024, hop_length=512, n_mels=128)
                plain = 20.0 / 2.0 * np.log10(np.maximum(mel, FLOOR))
        times["ours"].append(between - start)
        times["plain"].append(time.perf_counter() - between)
    if not np.array_equal(ours.frames[-plain.shape[1] :], plain.T):
        raise BaselineError("the features differ from those of librosa's plain loop.")
    return Figure(
        "plain librosa loop / feature extraction", median(times["plain"]) / median(times["ours"]), "×", "≥ 1.8"
    )


def measure_epochs(bench: Bench) -> list[Figure]:
    """An epoch of 01_train_2024t2.sh's loop with a machine type on each core, over the machine types in it."""
    machines = MACHINES[: cores()]
    bench.link_machines(machines)
    options = ["-d", *bench.places(), "--epochs", str(bench.size.epochs), "--train_only", "-tag", "epochs"]
    commands = {m: run_train(["--dataset", f"DCASE2024T2{m}", *options]) for m in machines}
    loop = Loop([Runs(name, Path(name), [command]) for name, command in commands.items()], len(machines), False)
    loop.run()
    if loop.report_failures("benchmark.py"):
        raise BaselineError("the machine types side by side could not be trained.")
    seconds = []
    for log in bench.data("models").glob("**/seed*_epochs/*/train.log"):
        lines = [line for line in log.read_text().splitlines() if re.search(r" epoch \d+/\d+,", line)]
        ends = [datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f") for line in lines]
        seconds += [(after - before).total_seconds() for before, after in itertools.pairwise(ends)]
    each = median(seconds) * FULL.train_clips / bench.size.train_clips
    return [
        Figure(f"epoch, {len(machines)} machine types side by side", each, "s"),
        Figure("the same, a machine type", each / len(machines), "s", "≤ 4.5 on two cores"),
    ]


def measure_checkpoint(bench: Bench) -> float:
    """Seconds that the checkpoint takes which is written after each epoch: the median of 20."""
    network = make_network(bench.config.model, 640, 128)
    optimizer = Adam(flatten_parameters(network), bench.config.learning_rate)
    identity = {"clips": {clip.name: 16 * "0" for clip in find_train_clips(bench)}}
    state = TrainingState(network, optimizer, identity, CPU)
    return in_turn(20, save=lambda _: state.save(bench.directory / "checkpoint.pth"))["save"]


def measure_test(bench: Bench) -> list[Figure]:
    """Tests of a trained machine type: once with its features to be computed, then with cached ones; --help."""
    _, memory = bench.train_py("--test_only")
    seconds = median(bench.train_py("--test_only")[0] for _ in range(3))
    help_seconds = median(run([sys.executable, ROOT / "train.py", "--help"])[0] for _ in range(3))
    return [
        Figure(f"test of {bench.size.test_clips} clips, features cached", seconds, "s", "≤ 4"),
        Figure("peak memory of a test", memory, "MB", "≤ 500"),
        Figure("train.py --help", help_seconds, "s", "≤ 0.5"),
    ]


def measure_growth(bench: Bench) -> list[dict[str, float]]:
    """A training of one epoch on more and more clips, features to be computed."""
    rows = []
    for clips in bench.size.growth:
        seconds, memory = bench.train_py("--epochs", "1", "--train_only", data=bench.link_clips(clips))
        rows.append({"training clips": clips, "one epoch in all (s)": seconds, "peak memory (MB)": memory})
    return rows


def measure_cuda(bench: Bench) -> list[Figure]:
    """On a GPU: 100 epochs of a machine type; all seven with both tests."""
    bench.link_machines(MACHINES)
    one, _ = bench.train_py("--epochs", "100", "--train_only", "-tag", "cuda")
    start = time.perf_counter()
    for script in ("01_train_2024t2.sh", "02a_test_2024t2.sh", "02b_test_2024t2.sh"):
        run([ROOT / script, "-d", *bench.places(), "-tag", "cuda7"], PYTHON=sys.executable)
    return [
        Figure("100 epochs of a machine type on the GPU", one, "s", "≤ 20"),
        Figure("seven machine types with both tests on the GPU", time.perf_counter() - start, "s", "≤ 180"),
    ]


def find_train_clips(bench: Bench) -> list[Clip]:
    """The training clips, in order."""
    return find_clips(find_machine("DCASE2024T2fan", "dev"), bench.data(), "train", ("00",))


def describe_machine() -> dict[str, str | int]:
    """What the figures are of."""
    name = platform.processor() or platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else ():
        if line.startswith("model name"):
            name = line.split(":")[1].strip()
            break
    return {
        "processor": name,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": cores(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "date": datetime.now().strftime("%Y-%m-%d"),
    }


def measure(size: Size, output: Path) -> None:
    """Measure everything; print the tables, and write the JSON."""
    machine = describe_machine()
    print(", ".join(f"{name} {value}" for name, value in machine.items()), flush=True)
    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="benchmark_") as directory:
        bench = Bench(Path(directory), size)
        figures = measure_step(bench)
        loader = measure_per_vector_loader(bench)
        figures.append(measure_features(bench))
        figures += [*measure_epochs(bench), loader]
        side_by_side = next(figure.value for figure in figures if figure.what == "the same, a machine type")
        figures.append(Figure("per-vector loader / side by side", loader.value / side_by_side, "×"))
        checkpoint = measure_checkpoint(bench)
        figures.append(Figure("writing a checkpoint, each epoch", 1000 * checkpoint, "ms"))
        figures.append(Figure("the same, of an epoch of a machine type", 100 * checkpoint / side_by_side, "%", "≤ 2"))
        growth = measure_growth(bench)
        peak = min(growth, key=lambda row: abs(row["training clips"] - FULL.train_clips))
        memory = peak["peak memory (MB)"]
        figures.append(Figure(f"peak memory of a training, {peak['training clips']} clips", memory, "MB", "≤ 700"))
        figures += measure_test(bench)
        figures += measure_cuda(bench) if torch.cuda.is_available() else []
    rows = [[figure.what, figure.value, figure.unit, figure.target] for figure in figures]
    print(tabulate(rows, ["what", "measured", "", "target"], floatfmt=".2f"), end="\n\n")
    print(tabulate(growth, headers="keys", floatfmt=".1f"))
    if not torch.cuda.is_available():
        print("No GPU here: its figures are not measured.")
    record = {"machine": machine, "size": asdict(size), "figures": [asdict(f) for f in figures], "growth": growth}
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
