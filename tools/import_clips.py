"""Copy your own recordings into a dataset that all scripts know by its name.

    python tools/import_clips.py Workshop Pump --train recordings/normal
        --test_normal recordings/later --test_anomaly recordings/broken

writes the clips of machine type `Pump` and the catalog file of dataset `Workshop`.
"""

import copy
import re
import shutil
import sys
import tempfile
from argparse import Namespace
from pathlib import Path
from typing import Any

if __name__ == "__main__":  # found from any directory
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import yaml
from tqdm import tqdm

from config import BaselineError, Config, UsageError, number, option_parser, parse_options
from datasets import catalog
from datasets.audio import HIGHEST_RATE
from datasets.catalog import Dataset
from datasets.recordings import EXACT_TYPES, Recording, find_recordings, open_recording
from files import alone, cannot_write, write_csv, write_text
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


def write_clips(clips: dict[str, Recording], sampling_rate: int, directory: Path) -> None:
    """Write the clips and the list of their recordings: all of them, or nothing changes.

    Samples are stored as they are (8 to 32 bits, floats). Resampled ones are stored as floats.
    """
    import soundfile

    try:
        directory.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{directory.name}.", dir=directory.parent) as temporary:
            new, old = Path(temporary, "new"), Path(temporary, "old")
            for name, recording in tqdm(clips.items(), desc="import", unit="clip", disable=None, leave=False):
                header, target = recording.header, new / name
                resampled = header.sampling_rate != sampling_rate
                subtype = "FLOAT" if resampled or header.subtype not in EXACT_TYPES else header.subtype
                target.parent.mkdir(parents=True, exist_ok=True)
                samples = recording.samples(sampling_rate, EXACT_TYPES[subtype])
                soundfile.write(target, samples, sampling_rate, subtype=subtype)
            sources = [(name, recording.path.resolve()) for name, recording in clips.items()]
            write_csv(new / "sources.csv", [("clip", "source"), *sources])
            try:
                if directory.exists():
                    directory.rename(old)
                new.rename(directory)
            except BaseException:  # Ctrl-C, too
                if old.exists():
                    old.rename(directory)
                raise
    except (OSError, soundfile.SoundFileError) as error:
        raise cannot_write(directory, OSError(str(error))) from error


def restore_replaced(directory: Path) -> None:
    """Put back the clips of an import that was killed while it replaced them, and remove what it has left."""
    for old in directory.parent.glob(f".{directory.name}.*/old"):
        if not directory.exists():
            old.rename(directory)
    for leftover in directory.parent.glob(f".{directory.name}.*"):
        shutil.rmtree(leftover)


def check_names(name: str, machine: str) -> None:
    """Check that the names can be part of paths, and that `--dataset <name><machine>` means no other machine type."""
    for what, text in (("dataset", name), ("machine type", machine)):
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9-]{0,99}", text):
            raise UsageError(f"'{text}' cannot be the name of a {what}: use letters, digits and '-'.")
    for dataset in catalog.all_datasets().values():
        names = {dataset.name + other for machines in dataset.machines.values() for other in machines}
        if dataset.name == name:
            is_free = not dataset.is_published
        else:
            is_free = dataset.name.lower() != name.lower() and name + machine not in names
        if not is_free:
            raise UsageError(f"{name} {machine}: these names are those of the dataset {dataset.name}. Choose others.")


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
    directory = config.dataset_directory / name.lower() / "dev_data" / "raw" / machine
    path = catalog.CATALOG_DIRECTORY / f"{name.lower()}.yaml"
    with alone(path.with_name(".lock"), "waiting for another import"):
        restore_replaced(directory)
        if directory.exists() and not options.replace:
            raise BaselineError(f"{directory} is there already. To import {machine} again, say --replace.")
        groups = {group for group in GROUPS if getattr(options, group)}
        facts = catalog_facts(catalog.all_datasets().get(name), name, machine, groups)
        write_clips(clips, sampling_rate, directory)
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
