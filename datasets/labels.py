"""Label files of evaluation clips, published by the organisers after each challenge → Labels."""

import csv
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine

KINDS = ("anomaly", "domain")
LISTS = "eval_data_list*.csv"  # lists of all machine types, in the directory of a split
# Clip → (is_anomaly, is_target). is_target is None if the file does not contain it; the clip names then do.
Labels = dict[str, tuple[bool, bool | None]]
LABELLED_NAME = re.compile(r"(section_\d\d_(?P<domain>source|target)_test_)?(?P<label>normal|anomaly)_.+\.wav")

log = logging.getLogger("baseline")


def read_labels(machine: Machine, dataset_directory: Path) -> Labels:
    """Read the labels of a machine type's evaluation clips, for all sections with label files.

    Source: ground_truth_data/ and ground_truth_domain/ of the organisers' evaluators, such as
    https://github.com/nttcslab/dcase2024_task2_evaluator. Labels of other clips are read from a list
    (eval_data_list.csv of 2020, eval_data_list_2024.csv of the published baseline).

    Raises:
        BaselineError: a file is not a label file, or the files do not match.
    """
    directory = machine.split_directory(dataset_directory)
    names = [name for name in label_files(machine) if (directory / name).exists()]
    labels = combine_labels(machine, {name: parse_labels(directory / name, machine) for name in names}, directory)
    deeper = [path for name in label_files(machine) for path in sorted(directory.glob(f"*/{name}"))]
    if deeper and not names:
        log.warning("%s is not used. Move the folders in %s to %s.", deeper[0], deeper[0].parents[1], directory)
    for path in sorted(directory.glob(LISTS)) if machine.split == "eval" else ():
        listed = parse_labels(path, machine)
        others = [clip for clip in listed if _contradict(listed[clip], labels.get(clip, listed[clip]))]
        if others:
            text = "%s and other label files disagree on %d clip(s) of %s, such as %s. The other label files are used."
            log.warning(text, path, len(others), machine.name, others[0])
        labels = listed | labels
    return labels


def _contradict(label: tuple[bool, bool | None], other: tuple[bool, bool | None]) -> bool:
    return any(a != b for a, b in zip(label, other, strict=True) if None not in (a, b))


def label_files(machine: Machine) -> list[str]:
    """All label files that the organisers publish for a machine type, relative to the directory of its split."""
    return [name for kind in KINDS for name in machine.label_files(kind)]


def combine_labels(machine: Machine, files: Mapping[str, Labels], directory: Path) -> Labels:
    """Combine the labels of several files.

    Args:
        files: name of a label file → its labels.
        directory: directory of the files, for error messages.

    Raises:
        BaselineError: a clip is in two files of the same kind, or is missing from the other kind.
    """
    labels: dict[str, Labels] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for name in machine.label_files(kind):
            new = files.get(name, {})
            for clip in new.keys() & labels[kind].keys():
                raise BaselineError(f"{directory / name}: {clip} is also in another file. Remove it from one of them.")
            labels[kind] |= new
    anomaly, domain = labels.values()
    if not machine.label_files("domain"):
        return anomaly
    for clip in sorted(anomaly.keys() ^ domain.keys()):
        kind = "domain" if clip in anomaly else "anomaly"
        raise BaselineError(
            f"{clip} of {machine.name} is missing from the {kind} labels. Copy all of the organisers' label folders to "
            f"{directory}: {', '.join(machine.label_files(kind))}."
        )
    return {clip: (label, domain[clip][0]) for clip, (label, _) in anomaly.items()}


def parse_labels(path: Path, machine: Machine) -> Labels:
    """Read the labels of a machine type from one file: file name → label.

    Lines are `<clip>,<0|1>`, where 1 means anomaly, or target domain in a file of domains. A list of several machine
    types has a line with only the machine type, followed by lines `<clip>,<labelled name>` or
    `<clip>,<labelled name>,<0|1>` for its clips.

    Raises:
        BaselineError: a line has another format, or there are no clips of the machine type.
    """
    labels: Labels = {}
    heading = "" if path.match(LISTS) else machine.name
    for number, cells in _read_rows(path):
        if len(cells) == 1 and not cells[0].lower().endswith(".wav"):
            heading = cells[0]
            continue
        label = _parse_label(cells)
        if label is None:
            raise BaselineError(
                f"{path}, line {number}: expected a clip and 0 or 1, such as 'section_00_0000.wav,1', or a clip and "
                f"its labelled name, not '{','.join(cells)[:100]}'. Use the organisers' file unchanged."
            )
        if heading == machine.name and labels.setdefault(cells[0], label) != label:
            raise BaselineError(f"{path}, line {number}: {cells[0]} has a different label in an earlier line.")
    if not labels:
        raise BaselineError(f"{path}: no labels for {machine.name}. Use the organisers' file unchanged, or remove it.")
    return labels


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the line number and the cells of each line that is not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row if cell.strip()]
                if cells:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BaselineError(f"cannot read {path}: {error}. Use the organisers' file unchanged.") from error


def _parse_label(cells: list[str]) -> tuple[bool, bool | None] | None:
    """The label in a line, from its last cell and the labelled name, or None if the line has another format."""
    if len(cells) not in (2, 3) or not cells[0].lower().endswith(".wav"):
        return None
    _, *names, last = cells
    name = LABELLED_NAME.fullmatch(names[0] if names else last)
    domain = name and name["domain"] and name["domain"] == "target"
    if names and name and last != ("1" if name["label"] == "anomaly" else "0"):
        return None
    if last in ("0", "1") and (name or not names):
        return last == "1", domain
    return (name["label"] == "anomaly", domain) if name and not names else None
