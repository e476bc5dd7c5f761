"""File name → Clip; the ordered clips of a machine type."""

import re
from dataclasses import dataclass
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine

# section_00_source_train_normal_0000_<attributes>.wav, unlabelled section_00_0000.wav (from 2021 on), and
# normal_id_01_00000000.wav, unlabelled id_05_00000000.wav (2020, where the machine's id is the section).
CLIP_NAMES = (
    re.compile(
        r"section_(?P<section>\d\d)(_(?P<domain>source|target))?(_(?P<split>train|test))?(_(?P<label>normal|anomaly))?"
        r"_\d{4,}(_.*)?\.(wav|WAV)"
    ),
    re.compile(r"((?P<label>normal|anomaly)_)?id_(?P<section>\d\d)_\d{8}\.(wav|WAV)"),
)
SPLIT_DIRECTORIES = {"train": ("train",), "test": ("test", "source_test", "target_test")}


@dataclass(frozen=True)
class Clip:
    """A recording and what its name says of it."""

    path: Path
    section: str
    is_target: bool
    is_anomaly: bool | None  # None: the name does not say
    split: str | None  # train or test; None: the name does not say

    @property
    def name(self) -> str:
        return self.path.name


def parse_clip(path: Path) -> Clip:
    """What the name of a clip says of it.

    Raises:
        BaselineError: it is not a name of a DCASE Task 2 clip.
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

    Training clips and unlabelled test clips are sorted by path; labelled test clips likewise, the normal ones first.

    Args:
        split: `train` or `test`.

    Raises:
        BaselineError: the data are not there, a section has no clips, or a clip does not belong there.
    """
    directory = machine.directory(dataset_directory)
    directories = [directory / name for name in SPLIT_DIRECTORIES[split] if (directory / name).is_dir()]
    if not directories:
        raise BaselineError(
            f"{directory / split}: no such directory. Download {' and '.join(machine.archives)} and unpack there "
            f"into {directory.parent}, or name the datasets' place with --dataset_directory."
        )
    paths = [path for each in directories for path in each.iterdir() if path.suffix in (".wav", ".WAV")]
    clips = [parse_clip(path) for path in sorted(paths)]
    if not clips:
        raise BaselineError(f"{directories[0]}: no .wav files there. Unpack {' and '.join(machine.archives)} again.")
    for clip in clips:
        if clip.section not in machine.sections:
            raise BaselineError(
                f"{clip.path}: {machine.name} of {machine.dataset.name} ({machine.split}) has no section "
                f"{clip.section}. Move the clip away."
            )
    clips = [clip for clip in clips if clip.section in sections]
    for section in sections:
        if not any(clip.section == section for clip in clips):
            raise BaselineError(f"{directories[0]}: no clips of section {section} of {machine.name} there.")
    if split == "train":
        for clip in clips:
            if clip.is_anomaly or clip.split == "test":
                raise BaselineError(f"{clip.path}: not a normal training clip. Move it out of the training data.")
        return clips
    for clip in clips:
        if clip.split == "train":
            raise BaselineError(f"{clip.path}: not a test clip. Move it out of the test data.")
        if (clip.is_anomaly is None) != (clips[0].is_anomaly is None):
            raise BaselineError(f"{clip.path}: test clips with and without a label in their names are mixed here.")
    return sorted(clips, key=lambda clip: bool(clip.is_anomaly))
