"""File name → Clip. Finds the clips of a machine type, in order."""

import filecmp
import hashlib
import logging
import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from config import BaselineError
from datasets.catalog import SPLITS, Machine
from datasets.labels import Labels, read_labels

# section_00_source_train_normal_0000_<attributes>.wav, unlabelled section_00_0000.wav (from 2021 on), and
# normal_id_01_00000000.wav, unlabelled id_05_00000000.wav (2020, where the machine's id is the section).
CLIP_NAMES = (
    re.compile(
        r"section_(?P<section>\d\d)(_(?P<domain>source|target))?(_(?P<split>train|test))?(_(?P<label>normal|anomaly))?"
        r"_\d{4,}(_[^\x00-\x1f\x7f]*)?\.[wW][aA][vV]",
        flags=re.ASCII,
    ),
    re.compile(r"((?P<label>normal|anomaly)_)?id_(?P<section>\d\d)_\d{8}\.[wW][aA][vV]", flags=re.ASCII),
)
DOMAIN_DIRECTORIES = ("source_test", "target_test")  # in the 2021 dataset: both or neither
SPLIT_DIRECTORIES = {"train": ("train",), "test": ("test", *DOMAIN_DIRECTORIES)}
RENAMED_DIRECTORY = "test_rename"  # the same clips as in test/, with labels in the file names
ALL_DIRECTORIES = ("train", *SPLIT_DIRECTORIES["test"], RENAMED_DIRECTORY)
# added by file managers to the name of a copy
COPY = re.compile(r"( - \w+| copy( \d+)?| ?\((\d+|(another |\d+\w\w )?copy)\)| \d)+$")
MAX_DEPTH = 8  # of folders in --dataset_directory to search for misplaced clips
MAX_SHOWN = 3  # number of copies listed in a warning
OTHER_FORMATS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".w64", ".wave", ".wma")

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class Clip:
    """An audio file, with the information in its name."""

    path: Path
    section: str
    is_target: bool
    is_anomaly: bool | None  # None: unknown
    split: str | None  # train or test, or None if not in the name

    @property
    def name(self) -> str:
        return self.path.name


def parse_clip(path: Path) -> Clip:
    """Parse the name of a clip.

    Raises:
        BaselineError: it is not a clip name of DCASE Task 2.
    """
    match = next((match for pattern in CLIP_NAMES if (match := pattern.fullmatch(path.name))), None)
    if match is None:
        raise BaselineError(
            f"{path}: not a clip name of DCASE Task 2, such as section_00_source_train_normal_0000_<attributes>.wav. "
            "Rename the file or move it away."
        )
    parts = match.groupdict()
    return Clip(
        path,
        section=parts["section"],
        is_target=parts.get("domain") == "target",
        is_anomaly=None if parts["label"] is None else parts["label"] == "anomaly",
        split=parts.get("split"),
    )


def find_clips(machine: Machine, dataset_directory: Path, split: str, sections: tuple[str, ...]) -> list[Clip]:
    """Find the clips of some sections, in the order used for training and in the CSV files.

    Clips are sorted by path. If the names of test clips contain labels, normal clips come first. Otherwise labels are
    read from the organisers' label files if they exist, or from the names in test_rename/ if it exists.

    Args:
        split: `train` or `test`.

    Raises:
        BaselineError: there are no clips of a section, a clip is in the wrong place, or clips and labels do not match.
    """
    directory, names = machine.directory(dataset_directory), SPLIT_DIRECTORIES[split]
    if split == "train":
        return _sorted_clips(machine, dataset_directory, split, names, sections)
    has_renamed = (directory / RENAMED_DIRECTORY).is_dir()
    if has_renamed and not any((directory / name).is_dir() for name in names):
        names = (RENAMED_DIRECTORY,)
    clips = _sorted_clips(machine, dataset_directory, split, names, sections)
    if clips[0].is_anomaly is None:
        labels = read_labels(machine, dataset_directory)
        if labels:
            return _with_labels(clips, labels, machine.split_directory(dataset_directory))
        if has_renamed:
            renamed = _sorted_clips(machine, dataset_directory, split, (RENAMED_DIRECTORY,), sections)
            if _digests(renamed) != _digests(clips):
                raise BaselineError(
                    f"{directory}: test/ and {RENAMED_DIRECTORY}/ do not contain the same clips. "
                    f"Create {RENAMED_DIRECTORY}/ again, or remove it."
                )
            clips = renamed
    for clip in clips:
        if (clip.is_anomaly is None) != (clips[0].is_anomaly is None):
            raise BaselineError(
                f"{clip.path}: test clips with and without labels in their names are mixed. Keep only one kind."
            )
    return sorted(clips, key=lambda clip: bool(clip.is_anomaly))


def _sorted_clips(
    machine: Machine, dataset_directory: Path, split: str, names: tuple[str, ...], sections: tuple[str, ...]
) -> list[Clip]:
    """The clips of these sections in the directories with these names, sorted by path, without copies."""
    directory = machine.directory(dataset_directory)
    directories = [directory / name for name in names if (directory / name).is_dir()]
    if not directories:
        remedy = _remedy(machine, dataset_directory, names)
        raise BaselineError(f"{directory / names[0]}: no such directory. {remedy}")
    paths = sorted(path for folder in directories for path in wav_files(folder))
    for name, other in (DOMAIN_DIRECTORIES, DOMAIN_DIRECTORIES[::-1]):
        if directory / other in {path.parent for path in paths} and not any(
            wav_files(directory / folder) for folder in (name, "test")
        ):
            remedy = _remedy(machine, dataset_directory, (name,))
            raise BaselineError(f"{directory / name}: no clips found, but {other}/ contains some. {remedy}")
    others = sorted(path for folder in directories for path in _ignored_audio(folder))
    ignored = f"{len(others)} other audio file(s), such as {others[0]}" if others else ""
    if not paths and others:
        folder = others[0].parent
        is_below = folder not in directories and wav_files(folder)
        move = f"mv {shlex.quote(str(folder))}/* {shlex.quote(str(directories[0]))}/"
        remedy = f"Move the clips out of the subfolder: {move}" if is_below else "Convert the clips to wav files."
        raise BaselineError(f"{directories[0]}: no .wav files found, but {ignored}. {remedy}")
    if not paths:
        raise BaselineError(f"{directories[0]}: no .wav files found. {_remedy(machine, dataset_directory, names)}")
    if others:
        log.warning(
            "%s: only .wav files directly in this folder are used as clips. Ignored: %s.", directories[0], ignored
        )
    clips = [parse_clip(path) for path in _without_copies(paths)]
    for clip in clips:
        if clip.section not in machine.sections:
            raise BaselineError(f"{clip.path}: {machine.name} has no section {clip.section}. Move the clip away.")
        if split == "train" and clip.split != "test" and clip.is_anomaly is None:
            raise BaselineError(
                f"{clip.path}: the name does not say that the clip is normal. It is probably a test clip of the "
                "evaluation data. Move it out of the train data."
            )
        if clip.split not in (split, None) or (split == "train" and clip.is_anomaly):
            kind = {"train": "normal training", "test": "test"}[split]
            raise BaselineError(f"{clip.path}: not a {kind} clip. Move it out of the {split} data.")
    missing = set(sections) - {clip.section for clip in clips}
    if missing:
        raise BaselineError(f"{directories[0]}: no clips of section {min(missing)} of {machine.name} found.")
    return [clip for clip in clips if clip.section in sections]


def wav_files(directory: Path) -> list[Path]:
    """The wav files in a directory, sorted. Hidden files, such as those created by macOS, are ignored."""
    return sorted(directory.glob("[!.]*.[wW][aA][vV]"))


def _ignored_audio(top: Path) -> list[Path]:
    """The audio files that are not used: wav files in subfolders, and files in other formats."""
    others = []
    for folder, subfolders, files in os.walk(top, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        suffixes = OTHER_FORMATS if Path(folder) == top else (".wav", *OTHER_FORMATS)
        others += [Path(folder, n) for n in files if n.lower().endswith(suffixes) and not n.startswith(".")]
    return others


def find_copies(paths: Iterable[Path]) -> dict[Path, Path]:
    """Copy → original, for wav files with the same name.

    The files may be in different directories, such as test/ and source_test/. Suffixes that file managers add to the
    name of a copy, such as ` (1)` or ` - Copy`, are ignored.
    """
    originals: dict[str, Path] = {}
    pairs = {path: originals.setdefault(COPY.sub("", path.stem), path) for path in sorted(paths, key=_name_length)}
    return {path: original for path, original in pairs.items() if path != original}


def _name_length(path: Path) -> int:
    return len(path.name)


def _without_copies(paths: list[Path]) -> list[Path]:
    copies = find_copies(paths)
    for copy, original in copies.items():
        if not filecmp.cmp(original, copy, shallow=False):
            raise BaselineError(
                f"{original} and {copy} have the same name but different contents. Move one of them away."
            )
    if copies:
        names = [*map(str, sorted(copies)[:MAX_SHOWN])]
        names += [f"{len(copies) - MAX_SHOWN} more"] if len(copies) > MAX_SHOWN else []
        log.warning("%d clip(s) exist twice. These copies are ignored: %s.", len(copies), ", ".join(names))
    return [path for path in paths if path not in copies]


def _remedy(machine: Machine, dataset_directory: Path, names: tuple[str, ...]) -> str:
    """How to get the clips of a machine type that are missing in the directories with these names."""
    name, split = machine.dataset.name, f"-{machine.split[0]}"
    place = "If the datasets are in another directory, use --dataset_directory."
    if not machine.is_tested:
        return (
            f"{machine.name} was imported without test clips. To score any clips with its model: tools/score_clips.py."
        )
    found, target = _misplaced(machine, dataset_directory, names), machine.directory(dataset_directory)
    for path in filter(wav_files, sorted(dataset_directory.glob(f"*/{machine.directory(Path())}/{names[0]}"))):
        return f"{path} contains clips. Use --dataset_directory {path.parents[4]}."
    for parent in dataset_directory.resolve().parents if found else ():
        if found.parent.resolve() == machine.directory(parent):
            return f"{found} contains clips. Use --dataset_directory {parent}."
    if found:
        folders = [found.with_name(name) for name in ALL_DIRECTORIES]
        moved = [f for f in folders if f == found or (f.is_dir() and not (target / f.name).exists())]
        command = f"{shlex.join(['mkdir', '-p', str(target)])} && {shlex.join(['mv', *map(str, moved), str(target)])}"
        return f"{found} contains clips. If they belong to {machine.name}, move them: {command}"
    if not machine.archives:
        return f"Import your recordings with tools/import_clips.py {name} {machine.name} --train FOLDER. {place}"
    return f"Download the clips: tools/data_download_20XX.sh {name} {split} --machines {machine.name}. {place}"


def _misplaced(machine: Machine, dataset_directory: Path, names: tuple[str, ...]) -> Path | None:
    """A directory with one of these names that contains clips of the machine type, but at the wrong depth."""
    directory = machine.directory(dataset_directory)
    raw, split_directory = directory.parent, machine.split_directory(dataset_directory)
    own = {machine.name.lower(), *(Path(archive.name).stem.lower() for archive in machine.archives)}
    usual = {machine.dataset.directory, split_directory.name, raw.name}
    skipped = {f"{split}_data" for split in SPLITS} - {split_directory.name} | {"processed", "replaced"}
    places = (machine.dataset.directory, split_directory.name, raw.name, machine.name)
    for place in places:
        for folder, subfolders, _ in os.walk(dataset_directory / place, followlinks=True):
            path = Path(folder)
            parts = path.relative_to(dataset_directory).parts
            others = (name for name in subfolders if not name.startswith(".") and name not in skipped)
            subfolders[:] = sorted(others) if len(parts) < MAX_DEPTH else []
            above = {part.lower() for part in parts[:-1]}
            if path.name in names and path.parent != directory and (above & own or above <= usual) and wav_files(path):
                return path
    return None


def _with_labels(clips: list[Clip], labels: Labels, directory: Path) -> list[Clip]:
    """Add labels to clips by file name. The order of the clips does not change."""
    stems, sections = {clip.path.stem for clip in clips}, {clip.section for clip in clips}
    labels = {Path(name).stem: label for name, label in labels.items()}  # .wav or .WAV
    section_by_name = {f"{stem}.wav": parse_clip(Path(f"{stem}.wav")).section for stem in labels}
    for name, section in section_by_name.items():
        if section in sections and Path(name).stem not in stems:
            raise BaselineError(
                f"{name} has a label in {directory}, but there is no such clip in {clips[0].path.parent}. "
                "Download the clips again, or use only the label files of this dataset."
            )
    labelled = []
    for clip in clips:
        if clip.path.stem in labels:
            is_anomaly, is_target = labels[clip.path.stem]
            clip = replace(clip, is_anomaly=is_anomaly, is_target=clip.is_target if is_target is None else is_target)
        elif clip.section in section_by_name.values():
            raise BaselineError(
                f"{clip.path}: no label for this clip in the label files in {directory}. "
                "Use the organisers' label files unchanged, or move the clip away."
            )
        labelled.append(clip)
    return labelled


def _digests(clips: list[Clip]) -> list[str]:
    return sorted(hashlib.sha256(clip.path.read_bytes()).hexdigest() for clip in clips)
