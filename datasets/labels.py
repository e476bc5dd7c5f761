"""Labels of evaluation clips: the files that the organisers publish after a challenge → Labels."""

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine

KINDS = ("anomaly", "domain")


@dataclass(frozen=True)
class Labels:
    """The labels of a machine type's evaluation clips by file name."""

    is_anomaly: dict[str, bool]
    is_target: dict[str, bool] | None  # None: no files of domains, the clips' names say it
    origin: dict[str, Path]  # clip → the file with its label
    all_sections: bool  # whether the files must have labels of all sections


def read_labels(machine: Machine, dataset_directory: Path) -> Labels:
    """The labels of a machine type's evaluation clips, of those sections whose label files exist.

    Source: ground_truth_data/ and ground_truth_domain/ of the organisers' evaluators, such as
    https://github.com/nttcslab/dcase2024_task2_evaluator, and the list of labels of 2020.

    Raises:
        BaselineError: a file is not a label file, or the files do not match.
    """
    directory = machine.split_directory(dataset_directory)
    names = [name for name in label_files(machine) if (directory / name).exists()]
    return combine_labels(machine, {name: parse_labels(directory / name, machine) for name in names}, directory)


def label_files(machine: Machine) -> list[str]:
    """All label files of a machine type, below its split's directory."""
    return [name for kind in KINDS for name in machine.label_files(kind)]


def combine_labels(machine: Machine, files: Mapping[str, Mapping[str, bool]], directory: Path) -> Labels:
    """The labels of several files as one.

    Args:
        files: name of a label file → its labels.
        directory: where the files are.

    Raises:
        BaselineError: a clip is in two files of one kind, or in no file of the other kind.
    """
    labels: dict[str, dict[str, bool]] = {kind: {} for kind in KINDS}
    origins: dict[str, dict[str, Path]] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for name in machine.label_files(kind):
            for clip, label in files.get(name, {}).items():
                if clip in labels[kind]:
                    raise BaselineError(f"{directory / name}: {clip} is in {origins[kind][clip]} too. Keep it in one.")
                labels[kind][clip], origins[kind][clip] = label, directory / name
    if not machine.label_files("domain"):
        return Labels(labels["anomaly"], None, origins["anomaly"], _is_list(machine))
    for kind, other in (KINDS, KINDS[::-1]):
        for clip in labels[kind]:
            if clip not in labels[other]:
                raise BaselineError(
                    f"{clip} of {machine.name} is in {origins[kind][clip]} and in no file of its {other} labels. Put "
                    f"all of the organisers' label folders into {directory}: {', '.join(machine.label_files(other))}."
                )
    return Labels(labels["anomaly"], labels["domain"], origins["anomaly"], _is_list(machine))


def parse_labels(path: Path, machine: Machine) -> dict[str, bool]:
    """File name → label (1: anomaly, or target domain) of the clips of a machine type in one file.

    Lines are `<clip>,<0|1>`; or, in a list of several machine types, a line with a machine type alone, then lines
    `<clip>,<labelled name>,<0|1>` of its clips.

    Raises:
        BaselineError: a line is something else, or contradicts an earlier one; no clip is of the machine type.
    """
    labels: dict[str, bool] = {}
    is_list = _is_list(machine)
    heading = "" if is_list else machine.name
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if is_list and len(cells) == 1:
                    heading = cells[0]
                    continue
                name, value = cells[0], cells[-1]
                if len(cells) != (3 if is_list else 2) or value not in ("0", "1") or not name.lower().endswith(".wav"):
                    raise BaselineError(
                        f"{path}, line {reader.line_num}: expected a clip and 0 or 1, such as "
                        f"'section_00_0000.wav,1', not '{','.join(row)[:100]}'. Take the organisers' file as it is."
                    )
                if heading == machine.name and labels.setdefault(name, value == "1") != (value == "1"):
                    raise BaselineError(f"{path}, line {reader.line_num}: {name} has another label further up.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BaselineError(f"cannot read {path}: {error}. Take the organisers' file as it is.") from error
    if not labels:
        raise BaselineError(
            f"{path}: no labels of {machine.name} in it. Take the organisers' file as it is, or remove it."
        )
    return labels


def _is_list(machine: Machine) -> bool:
    """Whether the labels of all machine types are in one list (2020)."""
    return not any("{machine}" in pattern for pattern in machine.dataset.labels.get("anomaly", []))
