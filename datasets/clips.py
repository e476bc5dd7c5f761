"""File name → Clip; the ordered clips of a machine type."""

import filecmp
import hashlib
import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine
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
SPLIT_DIRECTORIES = {"train": ("train",), "test": ("test", "source_test", "target_test")}
RENAMED_DIRECTORY = "test_rename"  # the same clips as in test/, with labels in their names
OTHER_SOUNDS = (".aac", ".aif", ".aiff", ".flac", ".m4a", ".mp3", ".mp4", ".ogg", ".opus", ".w64", ".wave", ".wma")

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class Clip:
    """A recording, and the facts in its name."""

    path: Path
    section: str
    is_target: bool
    is_anomaly: bool | None  # None: not known
    split: str | None  # train or test; None: not in the name

    @property
    def name(self) -> str:
        return self.path.name


def parse_clip(path: Path) -> Clip:
    """The facts in the name of a clip.

    Raises:
        BaselineError: it is no clip name of DCASE Task 2.
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
    """The clips of these sections of a machine type, in the order of vectors in training and of lines in the CSVs.

    They are sorted by path; of test clips with labels in their names the normal ones come first. If the names have no
    labels, the labels come from the organisers' label files, or else from the names in test_rename/, if they exist.

    Args:
        split: `train` or `test`.

    Raises:
        BaselineError: there are no data, a section has no clips, a clip does not belong there, or clips and labels do
            not match.
    """
    directory, names = machine.directory(dataset_directory), SPLIT_DIRECTORIES[split]
    if split == "train":
        return _sorted_clips(machine, directory, split, names, sections)
    has_renamed = (directory / RENAMED_DIRECTORY).is_dir()
    if has_renamed and not any((directory / name).is_dir() for name in names):
        names = (RENAMED_DIRECTORY,)
    clips = _sorted_clips(machine, directory, split, names, sections)
    if clips[0].is_anomaly is None:
        labels = read_labels(machine, dataset_directory)
        if labels:
            return _with_labels(clips, labels, machine.split_directory(dataset_directory))
        if has_renamed:
            renamed = _sorted_clips(machine, directory, split, (RENAMED_DIRECTORY,), sections)
            if _digests(renamed) != _digests(clips):
                raise BaselineError(
                    f"{directory}: test/ and {RENAMED_DIRECTORY}/ must hold the same clips, and do not. "
                    f"Prepare {RENAMED_DIRECTORY}/ again, or remove it."
                )
            clips = renamed
    for clip in clips:
        if (clip.is_anomaly is None) != (clips[0].is_anomaly is None):
            raise BaselineError(f"{clip.path}: test clips with and without a label in their names are mixed here.")
    return sorted(clips, key=lambda clip: bool(clip.is_anomaly))


def _sorted_clips(
    machine: Machine, directory: Path, split: str, names: tuple[str, ...], sections: tuple[str, ...]
) -> list[Clip]:
    """The clips of these sections in the directories of these names, sorted by path."""
    directories = [directory / name for name in names if (directory / name).is_dir()]
    if not directories:
        raise BaselineError(f"{directory / names[0]}: no such directory. {_remedy(machine)}")
    paths, others = _sound_files(directories)
    left_out = f"{len(others)} other sound file(s), such as {others[0]}" if others else ""
    if not paths and others:
        raise BaselineError(
            f"{directories[0]}: no .wav files there, but {left_out}. Move the clips out of subfolders, or convert "
            "them to wav files."
        )
    if not paths:
        raise BaselineError(f"{directories[0]}: no .wav files there. {_remedy(machine)}")
    if others:
        log.warning(
            "%s: only the .wav files there are clips, not those in subfolders. Left out: %s.", directories[0], left_out
        )
    clips = [parse_clip(path) for path in paths]
    for clip in clips:
        if clip.section not in machine.sections:
            raise BaselineError(f"{clip.path}: {machine.name} has no section {clip.section} there. Move the clip away.")
        if split == "train" and clip.split != "test" and clip.is_anomaly is None:
            raise BaselineError(
                f"{clip.path}: the name does not say that the clip is normal; it is probably a test clip of the "
                "evaluation data. Move it out of the train data."
            )
        if clip.split not in (split, None) or (split == "train" and clip.is_anomaly):
            kind = {"train": "normal training", "test": "test"}[split]
            raise BaselineError(f"{clip.path}: not a {kind} clip. Move it out of the {split} data.")
    missing = set(sections) - {clip.section for clip in clips}
    if missing:
        raise BaselineError(f"{directories[0]}: no clips of section {min(missing)} of {machine.name} there.")
    return _without_copies([clip for clip in clips if clip.section in sections])


def _sound_files(directories: list[Path]) -> tuple[list[Path], list[Path]]:
    """The wav files in these directories, and the sound files to leave out: in subfolders, or of other formats.

    Hidden files, such as those that macOS leaves, are neither.
    """
    clips: list[Path] = []
    others: list[Path] = []
    for top in directories:
        for folder, subfolders, files in os.walk(top, followlinks=True):
            subfolders[:] = [name for name in subfolders if not name.startswith(".")]
            for path in (Path(folder, name) for name in files if not name.startswith(".")):
                if path.suffix.lower() == ".wav" and path.parent == top:
                    clips.append(path)
                elif path.suffix.lower() in (".wav", *OTHER_SOUNDS):
                    others.append(path)
    return sorted(clips), sorted(others)


def _without_copies(clips: list[Clip]) -> list[Clip]:
    """The clips in their order without copies under the same name, such as those in a test/ beside source_test/."""
    originals: dict[str, Clip] = {}
    copies = []
    for clip in clips:
        original = originals.setdefault(clip.path.stem, clip)
        if original is not clip:
            if not filecmp.cmp(original.path, clip.path, shallow=False):
                raise BaselineError(
                    f"{original.path} and {clip.path} have the same name and other contents. Move one of them away."
                )
            copies.append(clip.path)
    if copies:
        log.warning("%d clips are there twice. Their copies, such as %s, are left out.", len(copies), copies[0])
    return [*originals.values()]


def _remedy(machine: Machine) -> str:
    name, split = machine.dataset.name, f"-{machine.split[0]}"
    place = "Or name the datasets' place with --dataset_directory."
    if not machine.is_tested:
        return f"{machine.name} was imported without test clips: tools/score_clips.py scores any clips with its model."
    if not machine.archives:
        return f"Lay out recordings of yours with tools/import_clips.py {name} {machine.name}. {place}"
    return f"Download it: tools/data_download_20XX.sh {name} {split} --machines {machine.name}. {place}"


def _with_labels(clips: list[Clip], labels: Labels, directory: Path) -> list[Clip]:
    """The clips with the labels of their file names. Their order stays, and so do the lines of the score files."""
    names, sections = {clip.name for clip in clips}, {clip.section for clip in clips}
    section_by_name = {name: parse_clip(Path(name)).section for name in labels}
    for name, section in section_by_name.items():
        if section in sections and name not in names:
            raise BaselineError(
                f"{name} has a label in {directory}, but there is no such clip in {clips[0].path.parent}. "
                "Download the clips again, or take only the label files of this dataset."
            )
    labelled = []
    for clip in clips:
        if clip.name in labels:
            is_anomaly, is_target = labels[clip.name]
            clip = replace(clip, is_anomaly=is_anomaly, is_target=clip.is_target if is_target is None else is_target)
        elif clip.section in section_by_name.values():
            raise BaselineError(
                f"{clip.path}: no label of this clip in the label files in {directory}. "
                "Take the organisers' label files as they are, or move the clip away."
            )
        labelled.append(clip)
    return labelled


def _digests(clips: list[Clip]) -> list[str]:
    return sorted(hashlib.sha256(clip.path.read_bytes()).hexdigest() for clip in clips)
