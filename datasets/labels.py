"""Labels of evaluation clips: the files that the organisers publish after a challenge → Labels."""

import csv
from collections.abc import Mapping
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine

KINDS = ("anomaly", "domain")
# Clip → is_anomaly, and is_target, or None if there are no files of domains: the clips' names say it.
Labels = dict[str, tuple[bool, bool | None]]


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
    for kind in KINDS:
        for name in machine.label_files(kind):
            new = files.get(name, {})
            for clip in new.keys() & labels[kind].keys():
                raise BaselineError(f"{directory / name}: {clip} is in another file, too. Keep it in one.")
            labels[kind] |= new
    anomaly, domain = labels.values()
    if not machine.label_files("domain"):
        return {clip: (label, None) for clip, label in anomaly.items()}
    for clip in sorted(anomaly.keys() ^ domain.keys()):
        kind = "domain" if clip in anomaly else "anomaly"
        raise BaselineError(
            f"{clip} of {machine.name} is in no file of {kind} labels. Put all of the organisers' label folders into "
            f"{directory}: {', '.join(machine.label_files(kind))}."
        )
    return {clip: (label, domain[clip]) for clip, label in anomaly.items()}


def parse_labels(path: Path, machine: Machine) -> dict[str, bool]:
    """File name → label (1: anomaly, or target domain) of the clips of a machine type in one file.

    Lines are `<clip>,<0|1>`; or, in a list of several machine types, a line with a machine type alone, then lines
    `<clip>,<labelled name>,<0|1>` of its clips.

    Raises:
        BaselineError: a line is something else, or no clip is of the machine type.
    """
    labels: dict[str, bool] = {}
    is_list = not any("{machine}" in pattern for pattern in machine.dataset.labels.get("anomaly", []))
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
