"""Labels of evaluation clips, in the files that the organisers publish after a challenge → Labels by clip name."""

import csv
from dataclasses import dataclass
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine


@dataclass(frozen=True)
class Labels:
    """What the label files say of a machine type's evaluation clips: each by the clip's file name."""

    is_anomaly: dict[str, bool]
    is_target: dict[str, bool] | None  # None: there are no such files, the clips' names say it
    origin: dict[str, Path]  # the file that the label is from


def read_labels(machine: Machine, dataset_directory: Path) -> Labels:
    """The labels of a machine type's evaluation clips, of those sections whose files are there.

    Source: ground_truth_data/ and ground_truth_domain/ of the organisers' evaluators, such as
    https://github.com/nttcslab/dcase2024_task2_evaluator, and the list of labels of 2020.

    Raises:
        BaselineError: a file cannot be read, says two things of one clip, or only one of two files is there.
    """
    is_anomaly, origin = _read_files(machine, "anomaly", dataset_directory)
    if not machine.label_files("domain"):
        return Labels(is_anomaly, None, origin)
    is_target, domain_origin = _read_files(machine, "domain", dataset_directory)
    for known, other, kind in ((is_anomaly, is_target, "domain"), (is_target, is_anomaly, "anomaly")):
        lacking = next((name for name in known if name not in other), None)
        if lacking is not None:
            wanted = ", ".join(machine.label_files(kind))
            source = {"domain": origin, "anomaly": domain_origin}[kind][lacking]
            raise BaselineError(
                f"{lacking} of {machine.name} is in {source}, and in no file of its {kind} labels. Put all of the "
                f"organisers' label folders into {machine.split_directory(dataset_directory)}: {wanted}."
            )
    return Labels(is_anomaly, is_target, origin)


def parse_labels(path: Path, machine_name: str) -> dict[str, bool]:
    """File name → label (1: anomaly, or target domain) of one file.

    Lines are `<clip>,<0|1>`; or, in a list of several machine types, a line with a machine type alone, then lines
    `<clip>,<labelled name>,<0|1>` of its clips.

    Raises:
        BaselineError: a line is something else, or contradicts an earlier one.
    """
    labels: dict[str, bool] = {}
    heading = machine_name  # a file without headings is of this machine type
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file)
            for row in reader:
                cells = [cell.strip() for cell in row]
                if not any(cells):
                    continue
                if len(cells) == 1:
                    heading = cells[0]
                    continue
                name, value = cells[0], cells[-1]
                if len(cells) > 3 or value not in ("0", "1") or not name.lower().endswith(".wav"):
                    raise BaselineError(
                        f"{path}, line {reader.line_num}: expected a clip and 0 or 1, such as "
                        f"'section_00_0000.wav,1', not '{','.join(row)}'. Take the organisers' file as it is."
                    )
                if heading == machine_name and labels.setdefault(name, value == "1") != (value == "1"):
                    raise BaselineError(f"{path}, line {reader.line_num}: {name} has another label further up.")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BaselineError(f"cannot read {path}: {error}. Take the organisers' file as it is.") from error
    return labels


def _read_files(machine: Machine, kind: str, dataset_directory: Path) -> tuple[dict[str, bool], dict[str, Path]]:
    labels: dict[str, bool] = {}
    origin: dict[str, Path] = {}
    for file in machine.label_files(kind):
        path = machine.split_directory(dataset_directory) / file
        if path.exists():
            found = parse_labels(path, machine.name)
            labels |= found
            origin |= dict.fromkeys(found, path)
    return labels, origin
