"""Labels of evaluation clips: the files that the organisers publish after a challenge → Labels."""

import csv
import logging
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from config import BaselineError
from datasets.catalog import Machine

KINDS = ("anomaly", "domain")
LISTS = "eval_data_list*.csv"  # lists of all machine types, below a split's directory
# Clip → is_anomaly, and is_target, or None if the file does not say it: the clips' names do.
Labels = dict[str, tuple[bool, bool | None]]
LABELLED_NAME = re.compile(r"(section_\d\d_(?P<domain>source|target)_test_)?(?P<label>normal|anomaly)_.+\.wav")

log = logging.getLogger("baseline")


def read_labels(machine: Machine, dataset_directory: Path) -> Labels:
    """The labels of a machine type's evaluation clips, of those sections whose label files exist.

    Source: ground_truth_data/ and ground_truth_domain/ of the organisers' evaluators, such as
    https://github.com/nttcslab/dcase2024_task2_evaluator. Clips without a label there get that of a list
    (eval_data_list.csv of 2020, eval_data_list_2024.csv of the published baseline).

    Raises:
        BaselineError: a file is not a label file, or the files do not match.
    """
    directory = machine.split_directory(dataset_directory)
    names = [name for name in label_files(machine) if (directory / name).exists()]
    labels = combine_labels(machine, {name: parse_labels(directory / name, machine) for name in names}, directory)
    deeper = [path for name in label_files(machine) for path in sorted(directory.glob(f"*/{name}"))]
    if deeper and not names:
        log.warning("%s is not read: move the folders of %s to %s.", deeper[0], deeper[0].parents[1], directory)
    for path in sorted(directory.glob(LISTS)) if machine.split == "eval" else ():
        listed = parse_labels(path, machine)
        others = [clip for clip in listed if _contradict(listed[clip], labels.get(clip, listed[clip]))]
        if others:
            text = "%s has other labels of %d clips of %s, such as %s, than the other label files, which are used."
            log.warning(text, path, len(others), machine.name, others[0])
        labels = listed | labels
    return labels


def _contradict(label: tuple[bool, bool | None], other: tuple[bool, bool | None]) -> bool:
    return any(a != b for a, b in zip(label, other, strict=True) if None not in (a, b))


def label_files(machine: Machine) -> list[str]:
    """All label files of a machine type that the organisers publish, below its split's directory."""
    return [name for kind in KINDS for name in machine.label_files(kind)]


def combine_labels(machine: Machine, files: Mapping[str, Labels], directory: Path) -> Labels:
    """The labels of several files as one.

    Args:
        files: name of a label file → its labels.
        directory: where the files are.

    Raises:
        BaselineError: a clip is in two files of one kind, or in no file of the other kind.
    """
    labels: dict[str, Labels] = {kind: {} for kind in KINDS}
    for kind in KINDS:
        for name in machine.label_files(kind):
            new = files.get(name, {})
            for clip in new.keys() & labels[kind].keys():
                raise BaselineError(f"{directory / name}: {clip} is in another file, too. Keep it in one.")
            labels[kind] |= new
    anomaly, domain = labels.values()
    if not machine.label_files("domain"):
        return anomaly
    for clip in sorted(anomaly.keys() ^ domain.keys()):
        kind = "domain" if clip in anomaly else "anomaly"
        raise BaselineError(
            f"{clip} of {machine.name} is in no file of {kind} labels. Put all of the organisers' label folders into "
            f"{directory}: {', '.join(machine.label_files(kind))}."
        )
    return {clip: (label, domain[clip][0]) for clip, (label, _) in anomaly.items()}


def parse_labels(path: Path, machine: Machine) -> Labels:
    """File name → label of the clips of a machine type in one file.

    Lines are `<clip>,<0|1>`, where 1 stands for an anomaly, or in a file of domains for the target domain. Or in a list
    of several machine types: a line with a machine type alone, then `<clip>,<labelled name>` of its clips, or
    `<clip>,<labelled name>,<0|1>`.

    Raises:
        BaselineError: a line is something else, or no clip is of the machine type.
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
                f"its labelled name, not '{','.join(cells)[:100]}'. Take the organisers' file as it is."
            )
        if heading == machine.name and labels.setdefault(cells[0], label) != label:
            raise BaselineError(f"{path}, line {number}: {cells[0]} has another label further up.")
    if not labels:
        raise BaselineError(
            f"{path}: no labels of {machine.name} in it. Take the organisers' file as it is, or remove it."
        )
    return labels


def _read_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Line number and cells of the lines that are not empty."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.reader(file, strict=True)
            for row in reader:
                cells = [cell.strip() for cell in row if cell.strip()]
                if cells:
                    yield reader.line_num, cells
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise BaselineError(f"cannot read {path}: {error}. Take the organisers' file as it is.") from error


def _parse_label(cells: list[str]) -> tuple[bool, bool | None] | None:
    """The label of a line: its last cell, and what the labelled name says; None if it is no line of a label file."""
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
