"""Check a challenge submission: find all problems, each with file and line.

A package is a zip with a folder task2/<label>/ for each of at most four systems, and a report beside these folders.
The checks cover the challenge's rules and what the organisers' evaluator cannot handle: it sorts lines by name and
matches them to its labels by position; it stops at a header, a tab, a blank line or a NaN; it skips a system that
lacks a file.

Source: https://dcase.community/challenge2024/task-first-shot-unsupervised-anomalous-sound-detection-for-machine-condition-monitoring#submission
"""

import itertools
import math
import re
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from config import BaselineError, nearest
from datasets.catalog import Dataset, Machine
from datasets.clips import SPLIT_DIRECTORIES, wav_files
from tools.results.submission_schema import meta_data, read_yaml

TASK = "task2"
MAX_SYSTEMS = 4
LABEL = re.compile(rf"[A-Za-z-]+_[A-Za-z0-9-]+_{TASK}_[1-4]")
LABEL_FORM = f"<Lastname>_<Institute>_{TASK}_<1 to 4>"
SCORES, DECISIONS = "anomaly_score", "decision_result"  # first part of the CSVs' names
RELEASED_NAME = re.compile(r"(section|id)_(?P<section>\d\d)(_(source|target))?(_test)?_\d{4,}\.wav", flags=re.ASCII)
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", flags=re.ASCII)
SHOWN = 3  # clips named in one problem


def read_package(path: Path) -> dict[str, bytes]:
    """The files of a zip, or of a folder that contains task2/: path within it → contents.

    Raises:
        BaselineError: it is neither, or cannot be read.
    """
    try:
        if path.is_dir():
            members = [file for file in sorted(path.rglob("*")) if file.is_file()]
            return {file.relative_to(path).as_posix(): file.read_bytes() for file in members}
        with zipfile.ZipFile(path) as package:
            return {m.filename: package.read(m) for m in package.infolist() if not m.is_dir()}
    except Exception as error:  # not a zip, a wrong checksum, a password, no permission, ...
        raise BaselineError(f"{path}: cannot be read ({error}). Name a folder, or a zip without a password.") from error


def find_problems(package: Mapping[str, bytes], dataset: Dataset, dataset_directory: Path) -> list[str]:
    """All problems of a package (path → contents), one line each. Without any, the evaluator can read it."""
    systems: dict[str, dict[str, bytes]] = {}  # folder → file → contents
    reports, problems = [], []
    for name, contents in package.items():
        parts = PurePosixPath(name).parts
        if len(parts) == 3 and parts[0] == TASK:
            systems.setdefault(parts[1], {})[parts[2]] = contents
        elif len(parts) == 2 and parts[0] == TASK and name.lower().endswith(".pdf"):
            reports.append(name)
            if not contents.startswith(b"%PDF"):
                problems.append(f"{name}: not a PDF.")
        else:
            problems.append(
                f"{name}: does not belong there. A package has only {TASK}/<label>/<files> and {TASK}/<report>.pdf."
            )
    if not reports:
        problems.append(f"{TASK}/: no report. Put its PDF beside the systems' folders.")
    if not systems:
        problems.append(f"{TASK}/: no system. Each has a folder {TASK}/{LABEL_FORM}/.")
    if len(systems) > MAX_SYSTEMS:
        problems.append(f"{TASK}/: {len(systems)} systems. At most {MAX_SYSTEMS} are allowed.")
    labels: dict[tuple[tuple[str, frozenset[str]], ...], str] = {}  # scores → the first system with them
    for label, files in systems.items():
        scores = tuple((name, frozenset(_rows(files[name]))) for name in sorted(files) if name.startswith(SCORES))
        other = labels.setdefault(scores, label)
        if scores and other != label:
            problems.append(f"{TASK}/{label}/: the same scores as in {TASK}/{other}/. Submit only one of them.")
        if not LABEL.fullmatch(label):
            problems.append(f"{TASK}/{label}/: the name is not a label, {LABEL_FORM}.")
        found = _problems_of_system(label, files, dataset, dataset_directory)
        problems += [f"{TASK}/{label}/{name}{problem}" for name, problem in found]
    return problems


def _problems_of_system(
    label: str, files: Mapping[str, bytes], dataset: Dataset, dataset_directory: Path
) -> Iterator[tuple[str, str]]:
    """File name and problem, a text that follows the name."""
    meta = f"{label}.meta.yaml"
    expected = {
        f"{kind}_{machine.name}_section_{section}_test.csv": (kind, machine, section)
        for machine in dataset.tested("eval").values()
        for section in machine.sections
        for kind in (SCORES, DECISIONS)
    }
    for name in (meta, *expected):
        if name not in files:
            yield name, ": missing."
    for name in files:
        if name not in (meta, *expected):
            hint = nearest(name, {meta, *expected} - files.keys()) or " Remove it."
            yield name, f": not a file of a submission to {dataset.name}.{hint}"
    if meta in files:
        yield from ((meta, problem) for problem in read_yaml(files[meta], meta_data(label, dataset))[1])
    for name, (kind, machine, section) in expected.items():
        if name in files:
            scores = files.get(name.replace(DECISIONS, SCORES), files[name])
            clips = _test_clips(machine, section, dataset_directory, scores)
            yield from ((name, problem) for problem in _problems_of_rows(files[name], kind == DECISIONS, clips))


def released_clips(machine: Machine, dataset_directory: Path) -> set[str]:
    """The names of a machine type's test clips on this disk, without names that cannot be released names."""
    directory = machine.directory(dataset_directory)
    paths = [path for name in SPLIT_DIRECTORIES["test"] for path in wav_files(directory / name)]
    return {name for path in paths if RELEASED_NAME.fullmatch(name := f"{path.stem}.wav")}


def _test_clips(machine: Machine, section: str, dataset_directory: Path, scores: bytes) -> set[str]:
    """The clips that a section's CSVs must list: those in the catalog, or else on this disk, or else with scores."""
    if machine.dataset.clips_of_a_section:
        first = machine.dataset.first_clips.get(machine.name, 0)
        numbers = range(first, first + machine.dataset.clips_of_a_section)
        return {f"section_{section}_{number:04d}.wav" for number in numbers}
    names = released_clips(machine, dataset_directory)
    clips = {name for name in names if RELEASED_NAME.fullmatch(name)["section"] == section}
    if not clips:
        matches = [RELEASED_NAME.fullmatch(row.partition(",")[0]) for row in _rows(scores)]
        clips = {match[0] for match in matches if match and match["section"] == section}
    return clips


def _rows(contents: bytes) -> list[str]:
    rows = contents.decode("utf-8", errors="replace").removesuffix("\n").split("\n")
    return [row.removesuffix("\r") for row in rows]


def _problems_of_rows(contents: bytes, is_decision: bool, clips: set[str]) -> Iterator[str]:
    """The problems of a score or decision CSV: texts that follow the file's name."""
    first_lines: dict[str, int] = {}  # clip → line
    problems: list[tuple[int, str, str]] = []  # line, its contents, problem
    for number, row in enumerate(_rows(contents), start=1):
        name, _, value = row.partition(",")
        if row.count(",") != 1 or re.search(r'["\s\ufeff\ufffd]', row):
            problems.append((number, row[:60], "is not `clip,value` in UTF-8, without quotation marks or blanks"))
        elif name not in clips:
            example = min(clips, default="section_00_0000.wav")
            problems.append((number, name, f"is not the released name of a test clip, such as {example}"))
        elif name in first_lines:
            problems.append((number, name, f"is already in line {first_lines[name]}"))
        elif is_decision and value not in ("0", "1"):
            problems.append((number, value, "is not a decision, 0 or 1"))
        elif not NUMBER.fullmatch(value) or not math.isfinite(float(value)):
            problems.append((number, value, "is not a finite number"))
        first_lines.setdefault(name, number)
    yield from _join_lines(problems)
    missing = sorted(clips - first_lines.keys())
    if missing:
        more = f" and {len(missing) - SHOWN} more" if len(missing) > SHOWN else ""
        yield f": no line for the test clips: {', '.join(missing[:SHOWN])}{more}."


def _join_lines(problems: list[tuple[int, str, str]]) -> Iterator[str]:
    """Join the same problem of consecutive lines into one, with the contents of the first line."""
    for _, group in itertools.groupby(enumerate(problems), lambda item: (item[1][0] - item[0], item[1][2])):
        (first, shown, text), *others = [problem for _, problem in group]
        if others:
            yield f", lines {first} to {others[-1][0]}: {shown!r} (and so on) {text}."
        else:
            yield f", line {first}: {shown!r} {text}."
