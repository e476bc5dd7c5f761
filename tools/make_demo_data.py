"""Generate a small demo dataset in the format of DCASE 2024 Challenge Task 2.

    python tools/make_demo_data.py --dataset_directory data            # the seven development machine types
    python tools/make_demo_data.py --dataset_directory data --eval     # the nine evaluation machine types, unlabelled

A clip is a machine sound with factory noise. An anomalous clip also has the sound of a defect. As in the challenge, all
training clips are normal, and most are from the source domain. In the target domain, machines run at different speeds
with a different factory noise. Results look like those on real data, but say nothing about real machines.
"""

import argparse
import json
import shutil
import sys
import zlib
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()
    from portable import set_variables

    set_variables()  # the same clips on every processor

import numpy as np

from config import BaselineError
from datasets.catalog import find_dataset
from files import process_lock, write_csv, write_text
from tools.setup.demo_sounds import DEV_MACHINES, EVAL_MACHINES, SAMPLE_RATE, DemoClip, DemoMachine, synthesise
from tools.training.console import run_command, show

TARGET_SHARE = 1 / 8  # of the training clips (in the challenge 10 of 1000)
RECORD_NAME = "demo_parameters.json"  # beside train/ and test/: the options that the clips were generated with
GENERATOR_VERSION = 2  # part of that record; increase it when the same options give other sounds


def plan_clips(name: str, machine: DemoMachine, options: dict) -> dict[str, DemoClip]:
    """Path in the machine type's directory → clip. The training clips are first.

    Each domain and label has a quarter of the test clips. In the evaluation set they are numbered in random order.
    """
    n_target, n_test = max(1, round(TARGET_SHARE * options["train_clips"])), options["test_clips"] // 4
    counts = {("train", "source", "normal"): options["train_clips"] - n_target, ("train", "target", "normal"): n_target}
    counts |= {("test", domain, label): n_test for domain in ("source", "target") for label in ("normal", "anomaly")}
    plan = {}
    for (split, domain, label), count in counts.items():
        values, noises = (machine.source, "AB") if domain == "source" else (machine.target, "C")
        conditions = [(value, noise) for noise in noises for value in values]  # used in turn
        for number in range(count):
            value, noise = conditions[number % len(conditions)]
            path = f"{split}/section_00_{domain}_{split}_{label}_{number:04d}_{machine.attribute}_{value}_noise_{noise}"
            plan[f"{path}.wav"] = DemoClip(split, domain, label, number, value, noise)
    if options["split"] == "eval_data":
        test_clips = [plan.pop(path) for path in list(plan) if path.startswith("test/")]
        order = np.random.default_rng([options["seed"], zlib.crc32(name.encode()), 2]).permutation(len(test_clips))
        first = find_dataset("DCASE2024T2").first_clips.get(name, 0)
        plan |= {f"test/section_00_{number:04d}.wav": test_clips[k] for number, k in enumerate(order, first)}
    return plan


def clip_samples(name: str, machine: DemoMachine, clip: DemoClip, options: dict) -> np.ndarray:
    """Samples (n,), int16. Each clip has its own random generator, so it does not depend on the other clips."""
    identity = [clip.split == "test", clip.domain == "target", clip.label == "anomaly", clip.number]
    rng = np.random.default_rng([options["seed"], zlib.crc32(name.encode()), *map(int, identity)])
    return synthesise(rng, round(options["seconds"] * SAMPLE_RATE), machine, clip)


def make_machine(directory: Path, name: str, machine: DemoMachine, options: dict) -> bool:
    """Write a machine type's directory, completely or not at all. Returns False if it already exists.

    Raises:
        BaselineError: the directory has other data, or a file cannot be written.
    """
    import soundfile

    record, text = directory / RECORD_NAME, json.dumps(options, indent=2) + "\n"
    if directory.exists():
        if not record.exists() or record.read_text() != text:
            what = "contains other data, or demo clips that were generated with other options"
            raise BaselineError(f"{directory} {what}. Move it away, or choose another --dataset_directory.")
        return False
    partial = directory.with_name(f".{name}.partial")  # renamed when complete
    shutil.rmtree(partial, ignore_errors=True)  # of a run that was killed
    try:
        for split in ("train", "test"):
            (partial / split).mkdir(parents=True)
        rows = [["file_name", "d1p", "d1v", "d2p", "d2v"]]
        for path, clip in plan_clips(name, machine, options).items():
            soundfile.write(partial / path, clip_samples(name, machine, clip, options), SAMPLE_RATE, subtype="PCM_16")
            if clip.split == "train" or options["split"] == "dev_data":
                rows.append([f"{name}/{path}", machine.attribute, clip.condition, "noise", clip.noise])
        write_csv(partial / "attributes_00.csv", rows)
        write_text(partial / RECORD_NAME, text)
        partial.rename(directory)
    except (OSError, soundfile.SoundFileError) as error:
        raise BaselineError(f"{name} could not be generated: {error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return True


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """Parse the command line. A wrong option ends the program with a message."""
    # without allow_abbrev=False, --dataset would mean --dataset_directory
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0], allow_abbrev=False)
    text = "the clips are written to DIR/dcase2024t2/"
    parser.add_argument("--dataset_directory", type=Path, required=True, metavar="DIR", help=text)
    parser.add_argument("--seed", type=int, default=0, help="other seeds give other clips (default: %(default)s)")
    parser.add_argument("--train_clips", type=int, default=48, help="per machine type (default: %(default)s)")
    text = "per machine type, a multiple of 4 (default: %(default)s)"
    parser.add_argument("--test_clips", type=int, default=80, help=text)
    parser.add_argument("--seconds", type=float, default=4.0, help="length of a clip (default: %(default)s)")
    parser.add_argument("--machines", nargs="+", metavar="TYPE", help="only these machine types (default: all)")
    parser.add_argument("--eval", action="store_true", help="the evaluation set instead of the development set")
    options = parser.parse_args(arguments)
    known = list(EVAL_MACHINES if options.eval else DEV_MACHINES)
    options.machines = options.machines or known
    for is_right, rule in (
        (options.seed >= 0, "--seed must be 0 or more"),
        (2 <= options.train_clips <= 9999, "--train_clips must be 2 to 9999"),
        (options.test_clips in range(4, 9997, 4), "--test_clips must be a multiple of 4 from 4 to 9996"),
        (0.5 <= options.seconds <= 60, "--seconds must be 0.5 to 60"),
        (set(options.machines) <= set(known), f"--machines must be from: {', '.join(known)}"),
    ):
        if not is_right:
            parser.error(rule)
    return options


def main(arguments: list[str] | None = None) -> None:
    """Generate the machine types on the command line. Existing ones with the same options are kept."""
    args = parse_arguments(arguments)
    machines = EVAL_MACHINES if args.eval else DEV_MACHINES
    options = {"generator": GENERATOR_VERSION, "split": "eval_data" if args.eval else "dev_data", "seed": args.seed}
    options |= {"train_clips": args.train_clips, "test_clips": args.test_clips, "seconds": args.seconds}
    root = args.dataset_directory / "dcase2024t2" / options["split"]
    for name in args.machines:
        directory = root / "raw" / name
        with process_lock(root / ".demo.lock"):
            is_new = make_machine(directory, name, machines[name], options)
        what = "generated" if is_new else "found"
        show(f"{name}: {what} {args.train_clips} training and {args.test_clips} test clips")
    show(f"-> {root / 'raw'}")


if __name__ == "__main__":
    sys.exit(run_command(main, "The machine types generated so far are kept."))
