"""File name → Clip; the ordered clips of a machine type."""

import hashlib
import re
from collections import Counter
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
        r"_\d{4,}(_[^\x00-\x1f\x7f]*)?\.(wav|WAV)",
        flags=re.ASCII,
    ),
    re.compile(r"((?P<label>normal|anomaly)_)?id_(?P<section>\d\d)_\d{8}\.(wav|WAV)", flags=re.ASCII),
)
SPLIT_DIRECTORIES = {"train": ("train",), "test": ("test", "source_test", "target_test")}
RENAMED_DIRECTORY = "test_rename"  # the same clips as in test/, with labels in their names


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
    if split == "test":
        return _test_clips(machine, dataset_directory, sections)
    clips = _sorted_clips(machine, dataset_directory, SPLIT_DIRECTORIES["train"], sections)
    for clip in clips:
        if clip.is_anomaly or clip.split == "test":
            raise BaselineError(f"{clip.path}: not a normal training clip. Move it out of the training data.")
    return clips


def _test_clips(machine: Machine, dataset_directory: Path, sections: tuple[str, ...]) -> list[Clip]:
    directory = machine.directory(dataset_directory)
    has_renamed = (directory / RENAMED_DIRECTORY).is_dir()
    has_originals = any((directory / name).is_dir() for name in SPLIT_DIRECTORIES["test"])
    names = SPLIT_DIRECTORIES["test"] if has_originals or not has_renamed else (RENAMED_DIRECTORY,)
    clips = _sorted_clips(machine, dataset_directory, names, sections)
    if has_originals and clips[0].is_anomaly is None:
        labels = read_labels(machine, dataset_directory)
        if labels.is_anomaly:
            return _with_labels(machine, clips, labels)
        if has_renamed:
            originals, clips = clips, _sorted_clips(machine, dataset_directory, (RENAMED_DIRECTORY,), sections)
            _check_same_contents(originals, clips)
    for clip in clips:
        if clip.split == "train":
            raise BaselineError(f"{clip.path}: not a test clip. Move it out of the test data.")
        if (clip.is_anomaly is None) != (clips[0].is_anomaly is None):
            raise BaselineError(f"{clip.path}: test clips with and without a label in their names are mixed here.")
    return sorted(clips, key=lambda clip: bool(clip.is_anomaly))


def _sorted_clips(
    machine: Machine, dataset_directory: Path, directory_names: tuple[str, ...], sections: tuple[str, ...]
) -> list[Clip]:
    """The clips of these sections in these directories of a machine type, sorted by path."""
    directory = machine.directory(dataset_directory)
    directories = [directory / name for name in directory_names if (directory / name).is_dir()]
    if not directories:
        raise BaselineError(f"{directory / directory_names[0]}: no such directory. {_remedy(machine)}")
    paths = [path for folder in directories for path in folder.iterdir() if path.suffix in (".wav", ".WAV")]
    clips = [parse_clip(path) for path in sorted(paths)]
    if not clips:
        raise BaselineError(f"{directories[0]}: no .wav files there. {_remedy(machine)}")
    for clip in clips:
        if clip.section not in machine.sections:
            raise BaselineError(
                f"{clip.path}: {machine.name} of {machine.dataset.name} ({machine.split}) has no section "
                f"{clip.section}. Move the clip away."
            )
    missing = set(sections) - {clip.section for clip in clips}
    if missing:
        raise BaselineError(f"{directories[0]}: no clips of section {min(missing)} of {machine.name} there.")
    return [clip for clip in clips if clip.section in sections]


def _remedy(machine: Machine) -> str:
    name, split = machine.dataset.name, f"-{machine.split[0]}"
    place = "Or name the datasets' place with --dataset_directory."
    if not machine.is_tested:
        return f"{machine.name} was imported without test clips: tools/score_clips.py scores any clips with its model."
    if not machine.archives:
        return f"Lay out recordings of yours with tools/import_clips.py {name} {machine.name}. {place}"
    return f"Download it: tools/data_download_20XX.sh {name} {split} --machines {machine.name}. {place}"


def _with_labels(machine: Machine, clips: list[Clip], labels: Labels) -> list[Clip]:
    """The clips with the labels of their file names. Their order stays, and so do the lines of the score files."""
    sections, names = {clip.section for clip in clips}, {clip.name for clip in clips}
    labelled_sections = set()
    for name, origin in labels.origin.items():
        try:
            section = parse_clip(Path(name)).section
        except BaselineError as error:
            raise BaselineError(f"{origin}: {error}") from error
        labelled_sections.add(section)
        if section not in machine.sections or (section in sections and name not in names):
            raise BaselineError(
                f"{origin}: {name} has a label, but there is no such clip in {clips[0].path.parent}. "
                "Download the clips again, or take only the label files of this dataset."
            )
    labelled = []
    for clip in clips:
        if clip.name in labels.is_anomaly:
            is_target = clip.is_target if labels.is_target is None else labels.is_target[clip.name]
            clip = replace(clip, is_anomaly=labels.is_anomaly[clip.name], is_target=is_target)
        elif labels.all_sections or clip.section in labelled_sections:
            raise BaselineError(
                f"{clip.path}: no label of this clip in {' or '.join(map(str, sorted(set(labels.origin.values()))))}. "
                "Take the organisers' label files as they are, or move the clip away."
            )
        labelled.append(clip)
    return labelled


def _check_same_contents(clips: list[Clip], renamed: list[Clip]) -> None:
    """Check that test_rename/ holds the clips of test/; only the contents of the files tell."""
    digests = {clip.path: hashlib.sha256(clip.path.read_bytes()).digest() for clip in (*clips, *renamed)}
    for these, others, place in ((clips, renamed, RENAMED_DIRECTORY), (renamed, clips, "test")):
        surplus = Counter(digests[clip.path] for clip in these) - Counter(digests[clip.path] for clip in others)
        for clip in these:
            if digests[clip.path] in surplus:
                raise BaselineError(
                    f"{clip.path}: there is no clip with the same contents in {place}/ beside it. Both directories "
                    f"must hold the same clips: prepare {RENAMED_DIRECTORY}/ again, or remove it."
                )
