"""Copy your own recordings into a dataset that all scripts know by its name.

    python tools/import_clips.py Workshop Pump --train recordings/normal
        --test_normal recordings/later --test_anomaly recordings/broken

writes the clips of machine type `Pump` and the catalog file of dataset `Workshop`.
"""

import contextlib
import copy
import csv
import os
import re
import shutil
import sys
import tempfile
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # found from any directory
    from startup import prepare

    prepare()

import yaml
from tqdm import tqdm

from config import BaselineError, Config, UsageError, number, option_parser, parse_options
from datasets import catalog
from datasets.audio import HIGHEST_RATE
from datasets.catalog import Dataset
from datasets.recordings import EXACT_TYPES, Recording, find_recordings, open_recording
from files import alone, cannot_write, make_writable_directory, write_csv, write_text
from fingerprints import fingerprint_of_file
from tools.training.console import add_channel_argument, log, open_console, run_command

GROUPS = {  # option → what its clips are: split, domain, label
    "train": ("train", "source", "normal"),
    "test_normal": ("test", "source", "normal"),
    "test_anomaly": ("test", "source", "anomaly"),
    "target_train": ("train", "target", "normal"),
    "target_test_normal": ("test", "target", "normal"),
    "target_test_anomaly": ("test", "target", "anomaly"),
}
SECTION = "00"
# Beside the clips: the recording of each, and the clip's checksum. A clip that somebody edited is not an import's.
SOURCES, SOURCES_HEADING = "sources.csv", ("clip", "source", "checksum")
TEMPORARY = ".{machine}.*.import"  # beside a machine type's directory: what is not finished
LONGEST_STEM = 100  # characters of the recording's name that its clip's name keeps
METRICS, DOMAIN_METRICS = ["AUC", "pAUC"], ["AUC (source)", "AUC (target)", "pAUC"]
NEW_FACTS = {
    "channels": 1,
    "official_score": {"mean": "harmonic", "metrics": METRICS},
    "dev": {"machines": {}, "without_test_clips": []},
    "eval": {"machines": {}},
}
HEADING = """\
# A user's own recordings. tools/import_clips.py writes this file and removes comments. Keys: see dcase2024t2.yaml.
"""


def plan_clips(options: Namespace) -> dict[str, Recording]:
    """Name of each clip, such as `train/section_00_source_train_normal_0000_<name of the recording>.wav` → recording.

    Raises:
        BaselineError: a recording on the command line cannot be used, or is named twice.
    """
    clips: dict[str, Recording] = {}
    known: set[Path] = set()
    for group, (split, domain, label) in GROUPS.items():
        folders = getattr(options, group)
        paths, others = find_recordings(map(Path, folders))
        if folders and not paths:
            raise BaselineError(f"--{group} {' '.join(folders)}: no .wav files there.")
        if others:
            log.warning("--%s: %d files are not .wav, such as %s: left out", group, len(others), others[0])
        for count, path in enumerate(paths):
            if path.resolve() in known:
                raise BaselineError(f"--{group}: {path} is named twice. Keep it once.")
            known.add(path.resolve())
            stem = re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem)[:LONGEST_STEM]
            name = f"{split}/section_{SECTION}_{domain}_{split}_{label}_{count:04d}_{stem}.wav"
            clips[name] = open_recording(path, options.channel)
    rates = {recording.header.sampling_rate: recording.path for recording in clips.values()}
    if len(rates) > 1 and options.sampling_rate is None:
        named = " and ".join(f"{path} has {rate} Hz" for rate, path in rates.items())
        raise BaselineError(
            f"{named}. The clips of a machine type must have one rate: name it with --sampling_rate to resample the "
            "others."
        )
    return clips


@contextlib.contextmanager
def written_clips(clips: dict[str, Recording], sampling_rate: int, directory: Path) -> Iterator[None]:
    """Write the clips and the list of their recordings to `directory`. If writing or the block fails, nothing changes.

    Samples are stored as they are (8 to 32 bits, floats). Resampled ones are stored as floats.
    """
    import soundfile

    try:
        prefix, suffix = TEMPORARY.format(machine=directory.name).split("*")
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=directory.parent) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            for name, recording in tqdm(clips.items(), desc="import", unit="clip", disable=None, leave=False):
                header, target = recording.header, new / name
                resampled = header.sampling_rate != sampling_rate
                subtype = "FLOAT" if resampled or header.subtype not in EXACT_TYPES else header.subtype
                target.parent.mkdir(parents=True, exist_ok=True)
                samples = recording.samples(sampling_rate, EXACT_TYPES[subtype])
                soundfile.write(target, samples, sampling_rate, subtype=subtype)
            sources = [
                (name, recording.path.resolve(), fingerprint_of_file(new / name)) for name, recording in clips.items()
            ]
            write_csv(new / SOURCES, [SOURCES_HEADING, *sources])
            try:
                if directory.exists():
                    check_directory(directory, clips)  # again: writing has taken its time
                    directory.rename(old)
                new.rename(directory)
                yield
            except BaseException:  # Ctrl-C, too
                if not new.exists():
                    directory.rename(new)
                if old.exists():
                    old.rename(directory)
                raise
    except (OSError, soundfile.SoundFileError) as error:
        raise cannot_write(directory, OSError(str(error))) from error


def restore_replaced(directory: Path) -> None:
    """Put back the clips of an import that was killed while it replaced them, and remove what it has left."""
    for leftover in list(directory.parent.glob(TEMPORARY.format(machine=directory.name))):
        if {path.name for path in leftover.iterdir()} <= {"new", "old"}:
            if (leftover / "old").exists() and not directory.exists():
                (leftover / "old").rename(directory)
            shutil.rmtree(leftover)


def check_directory(directory: Path, clips: dict[str, Recording]) -> None:
    """Check that an import wrote all files in `directory`, and that no recording lies there; else a BaselineError."""
    others = [] if directory.is_dir() else [directory]
    for recording in clips.values():
        if recording.path.resolve().is_relative_to(directory.resolve()):
            raise BaselineError(
                f"{recording.path} lies in {directory}, where the clips would be written. Move the recordings to "
                "another place, then import them from there."
            )
    try:
        with (directory / SOURCES).open(newline="", encoding="utf-8") as file:
            heading, *rows = csv.reader(file)
        # Earlier versions wrote no checksums.
        imported = {Path(name): "".join(checksum) for name, _, *checksum in rows} | {Path(SOURCES): ""}
        imported = imported if tuple(heading) in (SOURCES_HEADING, SOURCES_HEADING[:2]) else {}
    except (OSError, ValueError, LookupError, csv.Error):  # there is none, or another program's
        imported = {}
    for parent, folders, files in os.walk(directory):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for path in (Path(parent, name) for name in files + links):
            checksum = imported.get(path.relative_to(directory))
            if checksum is None or (checksum and checksum != fingerprint_of_file(path)):
                others.append(path)
    if others:
        raise BaselineError(
            f"{min(others)} was not written by an import, which would replace it. Move it away, or choose another name "
            "for the machine type."
        )


def check_names(name: str, machine: str) -> None:
    """Check that the names can be part of paths, and that `--dataset <name><machine>` means no other machine type."""
    for what, text in (("dataset", name), ("machine type", machine)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}", text) or text in catalog.RESERVED_NAMES:
            raise UsageError(f"'{text}' cannot be the name of a {what}: use letters, digits and '-', such as Pump-2.")
    for dataset in catalog.all_datasets().values():
        machines = {other for names in dataset.machines.values() for other in names}
        if dataset.name == name:
            is_free = not dataset.is_published and machine.lower() not in {
                other.lower() for other in machines - {machine}
            }
        else:
            is_free = name.lower() not in (dataset.name.lower(), dataset.directory)
            is_free = is_free and name + machine not in {dataset.name + other for other in machines}
        if not is_free:
            raise UsageError(f"{name} {machine}: these names are those of the dataset {dataset.name}. Choose others.")


def catalog_file(name: str) -> Path:
    """The file of the catalog that describes a dataset, or is to describe it.

    Raises:
        UsageError: somebody else wrote it, or it describes another dataset.
    """
    datasets = {path: catalog.read_dataset(path).name for path in catalog.CATALOG_DIRECTORY.glob("*.yaml")}
    own = next((path for path in datasets if datasets[path] == name), None)
    path = own or catalog.CATALOG_DIRECTORY / f"{name.lower()}.yaml"
    if own is None and path.exists():
        raise UsageError(f"{path} describes the dataset {datasets[path]}. Rename that file, or choose another name.")
    if own and not path.read_text(encoding="utf-8").startswith(HEADING):
        raise UsageError(
            f"{path} was not written by import_clips.py, which would remove its comments. Choose another name for the "
            f"dataset; or, if that is right, let the file begin with: {HEADING.strip()}"
        )
    return path


def catalog_facts(dataset: Dataset | None, name: str, machine: str, groups: set[str]) -> dict[str, Any]:
    """The catalog's new facts on a dataset with this machine type.

    Args:
        dataset: as it is now, or None if it is new.
        groups: the GROUPS that the machine type has clips of.

    Raises:
        BaselineError: the machine type is tested in another number of domains than the others.
    """
    facts = {"name": name, "directory": name.lower()} | copy.deepcopy(dataset.facts if dataset else NEW_FACTS)
    dev, score = facts["dev"], facts["official_score"]
    untested = [other for other in dev.get("without_test_clips", []) if other != machine]
    is_tested = any(GROUPS[group][0] == "test" for group in groups)
    has_targets = bool(groups & {"target_test_normal", "target_test_anomaly"})
    if is_tested and has_targets != (DOMAIN_METRICS[0] in score["metrics"]):
        others = dev["machines"].keys() - {machine, *untested}
        if others:
            raise BaselineError(
                f"{machine} would be tested in another number of domains than {' '.join(others)}: their metrics could "
                f"not be averaged. Import {machine} into another dataset."
            )
        score["metrics"] = DOMAIN_METRICS if has_targets else METRICS
    dev["machines"][machine] = [SECTION]
    dev["without_test_clips"] = untested if is_tested else [*untested, machine]
    return facts


def import_clips(options: Namespace, config: Config) -> None:
    """Write the clips and the catalog file that the command line names. After an error nothing has changed."""
    name, machine = config.dataset, options.machine
    check_names(name, machine)
    clips = plan_clips(options)
    sampling_rate = options.sampling_rate or next(iter(clips.values())).header.sampling_rate
    groups = {group for group in GROUPS if getattr(options, group)}
    waiting = "waiting for another import"
    with alone(catalog.CATALOG_DIRECTORY / ".lock", waiting):
        path, dataset = catalog_file(name), catalog.all_datasets().get(name)
        facts = catalog_facts(dataset, name, machine, groups)
        directory = config.dataset_directory / facts["directory"] / "dev_data" / "raw" / machine
        with alone(directory.parents[1] / ".import.lock", waiting):  # of another copy of the project
            restore_replaced(directory)
            if directory.exists():
                check_directory(directory, clips)
                if (directory / SOURCES).exists() and not options.replace:
                    is_known = dataset is not None and machine in dataset.machines["dev"]
                    other = "" if is_known else f", by another copy of the project: its {path.name} describes it"
                    raise BaselineError(
                        f"{directory} is there already{other}. To import {machine} again, say --replace."
                    )
            make_writable_directory(directory.parent)
            with written_clips(clips, sampling_rate, directory):
                write_text(path, HEADING + yaml.safe_dump(facts, sort_keys=False))
    n_train = sum(clip.startswith("train/") for clip in clips)
    log.info("%d training and %d test clips, %d Hz -> %s", n_train, len(clips) - n_train, sampling_rate, directory)
    log.info("%s %s is in the catalog: %s", name, machine, path)
    if options.replace:
        log.warning("models and results of earlier recordings of %s are still there: train and test again", machine)
    log.info("next, with the same --dataset_directory if you gave one: tools/01_train_legacy.sh %s -d", name)


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = option_parser(
        "import_clips.py",
        "Copies recordings into one machine type of a dataset. Folders are searched with their subfolders.",
        options=("dataset_directory",),
    )
    parser.set_defaults(dev=True)
    parser.add_argument("dataset", help="name of your dataset, such as Workshop: before the folders")
    parser.add_argument("machine", help="name of the machine type, such as Pump: before the folders")
    for group, (split, domain, label) in GROUPS.items():
        text = f"{label} clips to {split} {'on' if split == 'train' else 'with'}"
        text += " in the target domain: another condition, of which little is known" if domain == "target" else ""
        parser.add_argument(f"--{group}", nargs="+", metavar="FOLDER", default=[], required=group == "train", help=text)
    add_channel_argument(parser)
    rate, text = number(int, at_least=1, at_most=HIGHEST_RATE), "Hz; other rates are resampled to it"
    parser.add_argument("--sampling_rate", type=rate, default=None, help=text)
    parser.add_argument("--replace", action="store_true", default=False, help="replace the machine type if it exists")
    open_console()
    import_clips(*parse_options(parser, arguments))


if __name__ == "__main__":
    sys.exit(run_command(main, "What was there before is unchanged."))
