"""Lay out recordings of your own as a dataset that all scripts accept by its name.

    python tools/import_clips.py Workshop pump --train recordings/pump/normal
        --test_normal recordings/pump/later --test_anomaly recordings/pump/broken

makes the machine type `pump` of the dataset `Workshop`: its clips, and its file in datasets/catalog/.
"""

import re
import shutil
import sys
from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # found from any directory
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from tqdm import tqdm

from config import BaselineError, Config, UsageError, option_parser, parse_options, positive
from datasets import catalog
from datasets.features import check_length, count_frames
from datasets.recordings import EXACT_TYPES, Recording, find_recordings, open_recording
from files import alone, cannot_write, write_csv, write_text
from tools.console import log, open_console, run_command

GROUPS = {  # option → what its clips are: split, domain, label
    "train": ("train", "source", "normal"),
    "test_normal": ("test", "source", "normal"),
    "test_anomaly": ("test", "source", "anomaly"),
    "target_train": ("train", "target", "normal"),
    "target_test_normal": ("test", "target", "normal"),
    "target_test_anomaly": ("test", "target", "anomaly"),
}
SECTION = "00"
LONGEST_STEM = 100  # characters of the recording's name that its clip's name keeps
HEADING = """\
# Recordings of one's own, laid out by tools/import_clips.py. The keys are explained in dcase2024t2.yaml.
"""


@dataclass(frozen=True)
class PlannedClip:
    """A recording, and the clip that it becomes."""

    recording: Recording
    name: str  # train/section_00_source_train_normal_0000_<name of the recording>.wav
    domain: str
    split: str


def plan_clips(own: Namespace, config: Config) -> list[PlannedClip]:
    """The clips that the folders on the command line become; each is checked as far as its header tells.

    Raises:
        BaselineError: a recording cannot be used, or is there twice.
    """
    clips: list[PlannedClip] = []
    first_of: dict[Path, str] = {}
    for option, (split, domain, label) in GROUPS.items():
        recordings, others = find_recordings(Path(folder) for folder in getattr(own, option))
        if getattr(own, option) and not recordings:
            raise BaselineError(f"--{option} {' '.join(getattr(own, option))}: no .wav files there.")
        if others:
            log.warning("--%s: %d files are not .wav, such as %s: left out", option, len(others), others[0])
        for number, path in enumerate(recordings):
            if first_of.setdefault(path.resolve(), option) != option:
                raise BaselineError(f"{path} is in --{first_of[path.resolve()]} and in --{option}. Keep it in one.")
            recording = open_recording(path, own.channel)
            stem = re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem)[:LONGEST_STEM]
            name = f"{split}/section_{SECTION}_{domain}_{split}_{label}_{number:04d}_{stem}.wav"
            clips.append(PlannedClip(recording, name, domain, split))
    _check_rates(clips, own.sampling_rate)
    for clip in clips:
        rate = own.sampling_rate or clip.recording.header.sampling_rate
        samples = round(clip.recording.header.samples * rate / clip.recording.header.sampling_rate)
        check_length(clip.recording.path, count_frames(samples, config), config)
    return clips


def _check_rates(clips: list[PlannedClip], sampling_rate: int | None) -> None:
    first = clips[0].recording
    for clip in clips:
        header = clip.recording.header
        if sampling_rate is None and header.sampling_rate != first.header.sampling_rate:
            raise BaselineError(
                f"{clip.recording.path}: {header.sampling_rate} Hz, but {first.path} has {first.header.sampling_rate} "
                "Hz. The clips of a machine type must have one rate: name it with --sampling_rate to resample."
            )


def write_clips(clips: list[PlannedClip], sampling_rate: int, directory: Path) -> None:
    """Write the clips and sources.csv, which says what each was made from; the directory is complete or absent.

    Samples are stored as they were (16, 24 or 32 bits, floats), unless they are resampled, which makes them floats.
    """
    import soundfile

    partial, old = directory.with_name(f".{directory.name}.importing"), directory.with_name(f".{directory.name}.old")
    try:
        for leftover in (partial, old):  # of a call that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        for clip in tqdm(clips, desc="import", unit="clip", disable=None, leave=False):
            header, target = clip.recording.header, partial / clip.name
            resampled = header.sampling_rate != sampling_rate
            subtype = "FLOAT" if resampled or header.subtype not in EXACT_TYPES else header.subtype
            target.parent.mkdir(parents=True, exist_ok=True)
            samples = clip.recording.samples(sampling_rate, EXACT_TYPES[subtype])
            soundfile.write(target, samples, sampling_rate, subtype=subtype)
        write_csv(partial / "sources.csv", [("clip", "source"), *((c.name, c.recording.path.resolve()) for c in clips)])
        if directory.exists():
            directory.rename(old)
        partial.rename(directory)
    except (OSError, soundfile.SoundFileError) as error:
        raise cannot_write(directory, error if isinstance(error, OSError) else OSError(str(error))) from error
    finally:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)


def check_names(name: str, machine: str) -> None:
    """Check that the names can be part of paths and of `--dataset <name><machine>`.

    Raises:
        UsageError: they cannot.
    """
    for what, text in (("dataset", name), ("machine type", machine)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]*", text):
            raise UsageError(f"'{text}' cannot be the name of a {what}: use letters, digits and '-'.")
    for other in map(catalog.find_dataset, catalog.dataset_names()):
        if other.name == name:
            if any(m.archives for machines in other.machines.values() for m in machines.values()):
                raise UsageError(f"{name} is a published dataset. Choose another name for yours.")
            continue
        theirs = [other.name + m for machines in other.machines.values() for m in machines]
        if other.name.lower() == name.lower() or any(
            len(name) > len(other.name) and text.startswith(name) for text in theirs
        ):
            raise UsageError(f"'{name}' is too like the dataset {other.name}. Choose another name.")
        if len(other.name) > len(name) and (name + machine).startswith(other.name):
            raise UsageError(f"--dataset {name}{machine} would be of the dataset {other.name}. Choose another name.")


def catalog_facts(name: str, machine: str, has_targets: bool | None, dataset_directory: Path) -> dict[str, Any]:
    """What the catalog is to say of the dataset with this machine type.

    Args:
        has_targets: whether its test clips are of two domains; None where it has none.

    Raises:
        BaselineError: other machine types of the dataset have the other number of domains.
    """
    facts: dict[str, Any] = {"name": name, "directory": name.lower(), "channels": 1}
    facts |= {"dev": {"machines": {}}, "eval": {"machines": {}}}
    if name in catalog.dataset_names():
        dataset = catalog.find_dataset(name)
        facts = dataset.facts
        for other in dataset.machines["dev"].values():
            tests = [path.name for path in (other.directory(dataset_directory) / "test").glob("*.wav")]
            other_has_targets = any("_target_test_" in test for test in tests)
            if other.name != machine and tests and has_targets is not None and other_has_targets != has_targets:
                raise BaselineError(
                    f"the test clips of {other.name} are of {2 if other_has_targets else 1} domain(s), and those of "
                    f"{machine} are not: their metrics could not be averaged. Import {machine} into another dataset."
                )
            has_targets = other_has_targets if has_targets is None and tests else has_targets
    metrics = ["AUC (source)", "AUC (target)", "pAUC"] if has_targets else ["AUC", "pAUC"]
    facts["official_score"] = {"mean": "harmonic", "metrics": metrics}
    facts["dev"]["machines"][machine] = [SECTION]
    return facts


def import_clips(own: Namespace, config: Config) -> None:
    """Do what the command line asks for.

    Raises:
        BaselineError: something that the user can put right. Nothing has been changed then.
    """
    name, machine = config.dataset, own.machine
    check_names(name, machine)
    clips = plan_clips(own, config)
    tests = [clip for clip in clips if clip.split == "test"]
    has_targets = any(clip.domain == "target" for clip in tests) if tests else None
    sampling_rate = own.sampling_rate or clips[0].recording.header.sampling_rate
    path = catalog.CATALOG_DIRECTORY / f"{name.lower()}.yaml"
    directory = config.dataset_directory / name.lower() / "dev_data" / "raw" / machine
    with alone(directory.parents[1] / ".import.lock", f"waiting for another import into {directory.parents[1]}"):
        if directory.exists() and not own.replace:
            raise BaselineError(f"{directory} is there already. To import {machine} anew, say --replace.")
        facts = catalog_facts(name, machine, has_targets, config.dataset_directory)
        write_clips(clips, sampling_rate, directory)
        write_text(path, HEADING + yaml.safe_dump(facts, sort_keys=False))
    n_train = len(clips) - len(tests)
    log.info("%s: %d training and %d test clips, %d Hz -> %s", machine, n_train, len(tests), sampling_rate, directory)
    log.info("%s is in the catalog now: %s", name, path)
    log.info("next: python train.py --dataset %s%s -d, or tools/01_train_legacy.sh %s -d", name, machine, name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = option_parser(
        "import_clips.py",
        "Lays out recordings as one machine type of a dataset. Folders are searched with their subfolders.",
        options=("dataset_directory",),
    )
    parser.set_defaults(dev=True)
    parser.add_argument("dataset", help="name of your dataset, new or there already, such as Workshop")
    parser.add_argument("machine", help="name of the machine type, such as pump")
    for option, (split, domain, label) in GROUPS.items():
        text = f"{label} clips to {split} {'on' if split == 'train' else 'with'}"
        text += " in the target domain: another condition, of which little is known" if domain == "target" else ""
        parser.add_argument(
            f"--{option}", nargs="+", metavar="FOLDER", default=[], required=option == "train", help=text
        )
    parser.add_argument(
        "--channel", type=positive, default=None, help="channel to take, from 1 (default: the only one)"
    )
    parser.add_argument(
        "--sampling_rate", type=positive, default=None, help="Hz; recordings of other rates are resampled"
    )
    parser.add_argument("--replace", action="store_true", default=False, help="replace the machine type if it is there")
    open_console()
    import_clips(*parse_options(parser, arguments))


if __name__ == "__main__":
    sys.exit(run_command(main))
