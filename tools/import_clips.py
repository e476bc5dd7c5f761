"""Import your own recordings as a dataset that all scripts can use by its name.

    python tools/import_clips.py Workshop Pump --train recordings/normal
        --test_normal recordings/later --test_anomaly recordings/broken

writes the clips of the machine type `Pump`, and the file catalog.yaml, which describes the dataset `Workshop`. If your
normal recordings are not split into training and test yet, --hold_out 100 uses 100 of them as test clips.
"""

import copy
import csv
import os
import random
import re
import shlex
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # imports work from any directory
    from startup import prepare

    prepare()

import yaml
from tqdm import tqdm

from config import BaselineError, Config, UsageError, number, option_parser, parse_options
from datasets import catalog
from datasets.audio import MAX_RATE
from datasets.catalog import OWN_FILE, Dataset
from datasets.recordings import EXACT_TYPES, Recording, find_recordings, open_recording
from files import cannot_write, make_writable_directory, process_lock, write_csv, write_text
from fingerprints import fingerprint_of_file
from tools.training.console import add_channel_argument, log, run_command

GROUPS = {  # option → split, domain and label of its clips
    "train": ("train", "source", "normal"),
    "test_normal": ("test", "source", "normal"),
    "test_anomaly": ("test", "source", "anomaly"),
    "target_train": ("train", "target", "normal"),
    "target_test_normal": ("test", "target", "normal"),
    "target_test_anomaly": ("test", "target", "anomaly"),
}
SECTION = "00"
# A file beside the clips: the recording and the checksum of each clip, to detect clips that the user has changed
SOURCES, SOURCES_HEADING = "sources.csv", ("clip", "source", "checksum")
TEMPORARY = ".{machine}.*.import"  # an unfinished import, beside the machine type's directory
TEMPORARY_NAMES = ("new", "old", OWN_FILE)  # in it: the new clips, the clips that they replace, the new catalog file
LONGEST_STEM = 100  # characters; a longer name of a recording is cut off in the name of its clip
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


def find_groups(options: Namespace, seed: int) -> dict[str, list[Path]]:
    """Find the recordings of each of the GROUPS, and draw the normal test clips for --hold_out.

    Raises:
        BaselineError: a folder has no recordings, a recording is given twice, or none is left for training.
    """
    groups: dict[str, list[Path]] = {}
    known: set[Path] = set()
    for group in GROUPS:
        folders = getattr(options, group)
        groups[group], others = find_recordings(map(Path, folders))
        if folders and not groups[group]:
            raise BaselineError(f"--{group} {' '.join(folders)}: no .wav or .flac files found.")
        if others:
            log.warning("--%s: ignoring %d files that are not .wav or .flac, such as %s", group, len(others), others[0])
        for path in groups[group]:
            if path.resolve() in known:
                raise BaselineError(f"--{group}: {path} is given twice. Give it only once.")
            known.add(path.resolve())
    n, n_train = options.hold_out, len(groups["train"])
    if n >= n_train:
        raise UsageError(
            f"--hold_out {n}: --train has {n_train} recordings, and at least one must be left for training."
        )
    if n:
        held_out = set(random.Random(seed).sample(sorted(groups["train"]), n))
        groups["train"] = [path for path in groups["train"] if path not in held_out]
        groups["test_normal"] += sorted(held_out)
        log.info("%d of the %d --train recordings, drawn with --seed %d, are used as test clips", n, n_train, seed)
    return groups


def plan_clips(options: Namespace, seed: int) -> dict[str, Recording]:
    """Name of the clip, such as `train/section_00_source_train_normal_0000_<name of the recording>.wav` → recording.

    Raises:
        BaselineError: a recording cannot be used.
    """
    clips: dict[str, Recording] = {}
    for group, paths in find_groups(options, seed).items():
        split, domain, label = GROUPS[group]
        for count, path in enumerate(paths):
            stem = re.sub(r"[^A-Za-z0-9.-]+", "-", path.stem)[:LONGEST_STEM]
            name = f"{split}/section_{SECTION}_{domain}_{split}_{label}_{count:04d}_{stem}.wav"
            clips[name] = open_recording(path, options.channel)
    rates = {recording.header.sampling_rate: recording.path for recording in clips.values()}
    if len(rates) > 1 and options.sampling_rate is None:
        named = " and ".join(f"{path} has {rate} Hz" for rate, path in rates.items())
        raise BaselineError(
            f"{named}. All clips of a machine type must have the same sampling rate. Use --sampling_rate to resample "
            "them."
        )
    return clips


def write_dataset(
    clips: dict[str, Recording], sampling_rate: int, directory: Path, catalog_file: Path, facts: dict[str, Any]
) -> None:
    """Write the clips and the list of their recordings to `directory`, and the catalog file. Errors change neither.

    The sample format is kept (8 to 32 bits, floats). Resampled clips are stored as floats.
    """
    import soundfile

    try:
        prefix, suffix = TEMPORARY.format(machine=directory.name).split("*")
        with tempfile.TemporaryDirectory(prefix=prefix, suffix=suffix, dir=directory.parent) as temporary:
            new, old, new_facts = (Path(temporary, name) for name in TEMPORARY_NAMES)
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
            write_text(new_facts, HEADING + yaml.safe_dump(facts, sort_keys=False))
            try:
                if directory.exists():
                    check_directory(directory, clips)  # again, because writing takes time
                    directory.rename(old)
                new.rename(directory)
                shutil.move(new_facts, catalog_file)  # now the import is complete
            except BaseException:  # including Ctrl-C
                undo(Path(temporary), directory)
                raise
    except (OSError, soundfile.SoundFileError) as error:
        raise cannot_write(directory, OSError(str(error))) from error


def undo(temporary: Path, directory: Path) -> None:
    """Undo an import into `directory`, if it ended before the catalog file was moved into place."""
    new, old, new_facts = (temporary / name for name in TEMPORARY_NAMES)
    if new_facts.exists() and not new.exists() and directory.exists():
        directory.rename(new)
    if old.exists() and not directory.exists():
        old.rename(directory)


def clean_up(directory: Path) -> None:
    """Undo an import into `directory` that was killed, and delete its temporary files."""
    for leftover in list(directory.parent.glob(TEMPORARY.format(machine=directory.name))):
        if {path.name for path in leftover.iterdir()} <= {*TEMPORARY_NAMES}:
            undo(leftover, directory)
            shutil.rmtree(leftover)


def check_directory(directory: Path, clips: dict[str, Recording]) -> None:
    """Check that an import wrote all files in `directory`, and that no recording is in it.

    Raises:
        BaselineError: a file is not from an import, or a recording is in `directory`.
    """
    others = [] if directory.is_dir() else [directory]
    for recording in clips.values():
        if recording.path.resolve().is_relative_to(directory.resolve()):
            raise BaselineError(
                f"{recording.path} is in {directory}, where the clips would be written. Move the recordings to "
                "another directory and import them from there."
            )
    try:
        with (directory / SOURCES).open(newline="", encoding="utf-8-sig") as file:
            heading, *rows = csv.reader(file)
        # Earlier versions wrote no checksums.
        imported = {Path(name): "".join(checksum) for name, _, *checksum in rows} | {Path(SOURCES): ""}
        imported = imported if tuple(heading) in (SOURCES_HEADING, SOURCES_HEADING[:2]) else {}
    except (OSError, ValueError, LookupError, csv.Error):  # no such file, or a file of another program
        imported = {}
    for parent, folders, files in os.walk(directory):
        links = [name for name in folders if Path(parent, name).is_symlink()]
        for path in (Path(parent, name) for name in files + links):
            checksum = imported.get(path.relative_to(directory))
            if checksum is None or (checksum and checksum != fingerprint_of_file(path)):
                others.append(path)
    if others:
        raise BaselineError(
            f"{min(others)} was not written by an import, and an import would delete it. Move it away, or choose "
            "another name for the machine type."
        )


def check_names(name: str, machine: str, dataset_directory: Path) -> None:
    """Check that the names are valid in paths, and that no other machine type is `--dataset <name><machine>`."""
    for what, text in (("dataset", name), ("machine type", machine)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}", text) or text in catalog.RESERVED_NAMES:
            raise UsageError(f"'{text}' is not a valid name for a {what}. Use letters, digits and '-', as in Pump-2.")
    for dataset in catalog.all_datasets(dataset_directory).values():
        machines = {other for names in dataset.machines.values() for other in names}
        if dataset.name == name:
            is_free = not dataset.is_published and machine.lower() not in {
                other.lower() for other in machines - {machine}
            }
        else:
            is_free = name.lower() not in (dataset.name.lower(), dataset.directory.lower())
            is_free = is_free and name + machine not in {dataset.name + other for other in machines}
        if not is_free:
            raise UsageError(f"{name} {machine}: the dataset {dataset.name} already uses these names. Choose others.")


def find_catalog_file(dataset: Dataset | None, name: str, dataset_directory: Path) -> Path:
    """The catalog file of the user's own dataset, which does not exist yet if the dataset is new (None).

    Raises:
        UsageError: this command did not write the file, or the file is damaged or not beside the data.
    """
    path = dataset_directory / (dataset.directory if dataset else name.lower()) / OWN_FILE
    if dataset and not path.exists():
        raise UsageError(
            f"the catalog file of {name} is in {catalog.CATALOG_DIRECTORY}, where earlier versions wrote it. "
            f"Move it to {path}."
        )
    if path.exists():
        catalog.read_dataset(path)
    if path.exists() and not path.read_text(encoding="utf-8").startswith(HEADING):
        raise UsageError(
            f"{path} was not written by import_clips.py, which would remove its comments. Choose another name for the "
            f"dataset. If the comments can be removed, start the file with this line: {HEADING.strip()}"
        )
    return path


def catalog_facts(dataset: Dataset | None, name: str, machine: str, clips: dict[str, Recording]) -> dict[str, Any]:
    """The new contents of the catalog file, with these clips of a machine type.

    Args:
        dataset: the dataset before the import, or None if it is new.

    Raises:
        BaselineError: the number of domains in the test clips differs from that of the other machine types.
    """
    facts = {"name": name} | copy.deepcopy(dataset.facts if dataset else NEW_FACTS)
    facts.pop("directory", None)  # it is the directory of the catalog file
    dev, score = facts["dev"], facts["official_score"]
    untested = [other for other in dev.get("without_test_clips", []) if other != machine]
    is_tested = any(clip.startswith("test/") for clip in clips)
    has_targets = any(clip.startswith(f"test/section_{SECTION}_target_") for clip in clips)
    if is_tested and has_targets != (DOMAIN_METRICS[0] in score["metrics"]):
        others = dev["machines"].keys() - {machine, *untested}
        if others:
            raise BaselineError(
                f"{machine} has test clips in a different number of domains than {' '.join(others)}, so their metrics "
                f"cannot be averaged. Import {machine} into another dataset."
            )
        score["metrics"] = DOMAIN_METRICS if has_targets else METRICS
    dev["machines"][machine] = [SECTION]
    dev["without_test_clips"] = untested if is_tested else [*untested, machine]
    return facts


def import_clips(options: Namespace, config: Config) -> None:
    """Import the recordings on the command line. After an error nothing has changed."""
    name, machine, dataset_directory = config.dataset, options.machine, config.dataset_directory
    check_names(name, machine, dataset_directory)
    clips = plan_clips(options, config.seed)
    sampling_rate = options.sampling_rate or next(iter(clips.values())).header.sampling_rate
    path = find_catalog_file(catalog.all_datasets(dataset_directory).get(name), name, dataset_directory)
    with process_lock(path.with_name(".import.lock"), "waiting for another import"):
        check_names(name, machine, dataset_directory)  # again, because another import may have added names
        dataset = catalog.all_datasets(dataset_directory).get(name)
        facts = catalog_facts(dataset, name, machine, clips)
        directory = path.parent / "dev_data" / "raw" / machine
        clean_up(directory)
        if directory.exists():
            check_directory(directory, clips)
            if (directory / SOURCES).exists() and not options.replace:
                raise BaselineError(f"{directory} already exists. Use --replace to import {machine} again.")
        make_writable_directory(directory.parent)
        write_dataset(clips, sampling_rate, directory, path, facts)
    n_train = sum(clip.startswith("train/") for clip in clips)
    log.info("%d training and %d test clips, %d Hz -> %s", n_train, len(clips) - n_train, sampling_rate, directory)
    log.info("%s describes the dataset %s", path, name)
    if options.replace:
        log.warning("models and results from earlier recordings of %s still exist. Train and test again.", machine)
    option = ["--dataset_directory", str(dataset_directory)] if "dataset_directory" in options.given else []
    log.info("next: %s", shlex.join(["tools/01_train_legacy.sh", name, "-d", *option]))


def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = option_parser(
        "import_clips.py",
        "Imports wav or FLAC recordings as one machine type of a dataset. Subfolders are searched, too.",
        options=("dataset_directory", "seed"),
    )
    parser.set_defaults(dev=True)
    parser.add_argument("dataset", help="name of your dataset, such as Workshop; must come before the folders")
    parser.add_argument("machine", help="name of the machine type, such as Pump; must come before the folders")
    for group, (split, domain, label) in GROUPS.items():
        text = f"{'normal' if label == 'normal' else 'anomalous'} {'training' if split == 'train' else 'test'} clips"
        text += " of the target domain (a second operating condition)" if domain == "target" else ""
        parser.add_argument(f"--{group}", nargs="+", metavar="FOLDER", default=[], required=group == "train", help=text)
    text = "use N of the --train recordings, drawn with --seed, as normal test clips (default: 0)"
    parser.add_argument("--hold_out", type=number(int, at_least=0), metavar="N", default=0, help=text)
    add_channel_argument(parser)
    rate, text = number(int, at_least=1, at_most=MAX_RATE), "Hz; recordings with a different rate are resampled"
    parser.add_argument("--sampling_rate", type=rate, default=None, help=text)
    parser.add_argument("--replace", action="store_true", default=False, help="replace the machine type if it exists")
    import_clips(*parse_options(parser, arguments))


if __name__ == "__main__":
    sys.exit(run_command(main, "Existing data is unchanged."))
