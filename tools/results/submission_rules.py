"""A challenge submission → all that is wrong with it, each with file and line.

A package is a zip with task2/<label>/ for each of at most four systems, and a report beside these folders. It is
checked for what the rules ask for, and for what the organisers' evaluator trips over: that sorts lines by name and
matches them to its labels by position, stops at a header, a tab, a blank line or a NaN, and passes over a system that
lacks a file.

Source: https://dcase.community/challenge2024/task-first-shot-unsupervised-anomalous-sound-detection-for-machine-condition-monitoring#submission
"""

import itertools
import math
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from config import BaselineError, nearest
from datasets.catalog import Dataset, Machine
from datasets.clips import SPLIT_DIRECTORIES, parse_clip

TASK = "task2"
MOST_SYSTEMS = 4
LABEL = re.compile(rf"[A-Za-z-]+_[A-Za-z0-9-]+_{TASK}_[1-{MOST_SYSTEMS}]")
LONGEST_ABBREVIATION = 10  # characters
MOST_FILES, MOST_BYTES = 1000, 300_000_000
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", flags=re.ASCII)
SHOWN = 3  # clips that a line names

DESCRIPTION = (
    *("input_sampling_rate", "data_augmentation", "front_end", "acoustic_features", "embeddings"),
    *("machine_learning_method", "aggregation_method", "domain_adaptation_method", "domain_generalization_method"),
    *("ensemble_method_subsystem_count", "decision_making", "attribute_usage", "external_data_usage"),
    "development_data_usage",
)
AUTHOR = ("firstname", "lastname", "email", "affiliation")
AFFILIATION = ("institution", "department", "location")
RESULTS = ("auc_source", "auc_target", "pauc")

Package = Mapping[str, bytes | None]  # path within the package → contents; None: it cannot be read


def read_package(path: Path) -> tuple[dict[str, bytes | None], list[str]]:
    """The files of a zip, or of a folder that holds task2/; and what cannot be read.

    Raises:
        BaselineError: it is neither, or far too large.
    """
    try:
        if path.is_dir():
            members = [member for member in sorted(path.rglob("*")) if member.is_file()]
            check_size(path, [member.stat().st_size for member in members])
            return _read({member.relative_to(path).as_posix(): member.read_bytes for member in members})
        with zipfile.ZipFile(path) as package:
            members = [member for member in package.infolist() if not member.is_dir()]
            check_size(path, [member.file_size for member in members])
            files, problems = _read({member.filename: partial(package.read, member) for member in members})
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
        raise BaselineError(f"{path}: neither a zip that can be read nor a folder ({error}).") from error
    names = Counter(member.filename for member in members)
    return files, problems + [f"{name}: is in the zip twice. Keep one." for name, n in names.items() if n > 1]


def check_size(path: Path, sizes: list[int]) -> None:
    """Check that the files of a package have a size that such files may have.

    Raises:
        BaselineError: they have not.
    """
    if len(sizes) > MOST_FILES or sum(sizes) > MOST_BYTES:
        raise BaselineError(f"{path}: {len(sizes)} files of {sum(sizes) / 1e6:.0f} MB; a submission is far smaller.")


def _read(readers: Mapping[str, Callable[[], bytes]]) -> tuple[dict[str, bytes | None], list[str]]:
    files: dict[str, bytes | None] = {}
    problems = []
    for name, read in readers.items():
        try:
            files[name] = read()
        except (OSError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error) as error:
            files[name] = None
            problems.append(f"{name}: cannot be read ({error}). Make the package again, without a password.")
    return files, problems


def find_problems(package: Package, dataset: Dataset, dataset_directory: Path) -> list[str]:
    """All that is wrong with a package, a line each; none: the evaluator reads it.

    Args:
        dataset: the year; of its evaluation data each machine type is needed.
        dataset_directory: where the test clips are, if they are there; else the catalog says how many there are.
    """
    return list(_problems(package, dataset, dataset_directory))


def _problems(package: Package, dataset: Dataset, dataset_directory: Path) -> Iterator[str]:
    systems: dict[str, dict[str, bytes | None]] = {}  # folder → file → contents
    reports = []
    for name, contents in package.items():
        parts = PurePosixPath(name).parts
        if len(parts) == 3 and parts[0] == TASK:
            systems.setdefault(parts[1], {})[parts[2]] = contents
        elif len(parts) == 2 and parts[0] == TASK and name.lower().endswith(".pdf"):
            reports.append(name)
            if contents is not None and not contents.startswith(b"%PDF"):
                yield f"{name}: not a PDF."
        else:
            yield f"{name}: does not belong there. A package holds {TASK}/<label>/<files> and {TASK}/<report>.pdf only."
    if not reports:
        yield f"{TASK}/: no report. Put its PDF beside the systems' folders."
    if not systems:
        yield f"{TASK}/: no system. Each has a folder {TASK}/<Lastname>_<Institute>_{TASK}_<1 to {MOST_SYSTEMS}>/."
    if len(systems) > MOST_SYSTEMS:
        yield f"{TASK}/: {len(systems)} systems; at most {MOST_SYSTEMS} may be submitted."
    teams = sorted({label.rpartition("_")[0] for label in systems if LABEL.fullmatch(label)})
    if len(teams) > 1:
        yield f"{TASK}/: labels of several teams: {', '.join(teams)}. One package is of one team."
    clips = {m.name: released_clips(m, dataset_directory) for m in dataset.tested("eval").values()}
    for label, files in systems.items():
        if not LABEL.fullmatch(label):
            yield f"{TASK}/{label}/: the name is not a label, <Lastname>_<Institute>_{TASK}_<1 to {MOST_SYSTEMS}>."
        yield from _problems_of_system(label, files, dataset, clips)


def released_clips(machine: Machine, dataset_directory: Path) -> set[str]:
    """The names of a machine type's test clips as they were released; none where they are not there."""
    directory = machine.directory(dataset_directory)
    places = (directory / name for name in SPLIT_DIRECTORIES["test"])
    return {path.name for place in places if place.is_dir() for path in place.iterdir() if path.suffix == ".wav"}


def _problems_of_system(label: str, files: Package, dataset: Dataset, clips: Mapping[str, set[str]]) -> Iterator[str]:
    place, meta = f"{TASK}/{label}", f"{label}.meta.yaml"
    expected = {
        f"{kind}_{machine.name}_section_{section}_test.csv": (kind, machine, section)
        for machine in dataset.tested("eval").values()
        for section in machine.sections
        for kind in ("anomaly_score", "decision_result")
    }
    for name in files:
        if name not in (meta, *expected):
            hint = _hint(name, [meta, *expected], dataset)
            yield f"{place}/{name}: not a file of a submission to {dataset.name}.{hint}"
    for name in (meta, *expected):
        if name not in files:
            yield f"{place}/{name}: missing."
    if files.get(meta) is not None:
        yield from (f"{place}/{meta}{problem}" for problem in _problems_of_meta(files[meta], label, dataset))
    named: dict[tuple[str, str], set[str]] = {}  # machine type and section → clips that its first file names
    for name, (kind, machine, section) in expected.items():
        if files.get(name) is None:
            continue
        names, problems = _parse(files[name], kind == "decision_result", section)
        of_section = {clip for clip in clips[machine.name] if parse_clip(Path(clip)).section == section}
        if not of_section and dataset.clips_of_a_section:
            of_section = {f"section_{section}_{number:04d}.wav" for number in range(dataset.clips_of_a_section)}
        others = named.setdefault((machine.name, section), names)
        if of_section:
            problems += _differences(names, of_section, "test clips")
        elif names != others:
            problems += _differences(names, others, "clips of the anomaly scores")
        yield from (f"{place}/{name}{problem}" for problem in problems)


def _differences(names: set[str], expected: set[str], what: str) -> list[str]:
    problems = []
    for surplus, text in (
        (expected - names, f"no line for the {what}:"),
        (names - expected, f"lines of none of the {what}:"),
    ):
        if surplus:
            more = f" and {len(surplus) - SHOWN} more" if len(surplus) > SHOWN else ""
            problems.append(f": {text} {', '.join(sorted(surplus)[:SHOWN])}{more}.")
    return problems


def _hint(name: str, expected: Iterable[str], dataset: Dataset) -> str:
    """What is to be done with a file that is none of a submission."""
    machine = re.fullmatch(r"(anomaly_score|decision_result)_(.+)_section_\d\d_test\.csv", name)
    if machine and machine[2] in dataset.tested("dev"):
        return f" {machine[2]} is a machine type of the development data. Remove it."
    return nearest(name, expected) or " Remove it."


def _parse(contents: bytes, is_decision: bool, section: str) -> tuple[set[str], list[str]]:
    """The clips that a score or decision CSV names; and what is wrong, after the file's name."""
    try:
        text = contents.decode("utf-8")
    except UnicodeDecodeError as error:
        line = contents[: error.start].count(b"\n") + 1
        return set(), [f", line {line}: not UTF-8 text. Write the file anew."]
    first_lines: dict[str, int] = {}
    problems: list[tuple[int, str, str]] = []  # line, what stands there, what is wrong with it
    rows = text.split("\n")
    rows = rows[:-1] if rows[-1] == "" else rows  # the last line may end with a line feed
    if not rows:
        return set(), [": empty."]
    for number, row in enumerate(rows, start=1):
        row = row.removesuffix("\r")
        name, _, value = row.partition(",")
        problem = _problem_of_row(row, number, section)
        if problem is None:
            if name in first_lines:
                problems.append((number, "", f"{name} was there in line {first_lines[name]} already"))
            elif is_decision and value not in ("0", "1"):
                problems.append((number, repr(value), "is not a decision, 0 or 1"))
            elif not NUMBER.fullmatch(value) or not math.isfinite(float(value)):
                problems.append((number, repr(value), "is not a finite number"))
            first_lines.setdefault(name, number)
        else:
            problems.append((number, *problem))
    return set(first_lines), list(_by_lines(problems))


def _problem_of_row(row: str, number: int, section: str) -> tuple[str, str] | None:
    """What is wrong with a line before its value is looked at: what stands there, and the problem; None: nothing."""
    name, comma, value = row.partition(",")
    if not row.strip():
        return "", "blank. Remove it"
    if row.startswith("\ufeff"):
        return "", "begins with a byte order mark. Save the file as UTF-8 without it"
    if "\t" in row:
        return "", "a tab; clip and value are parted by a comma"
    if number == 1 and ".wav" not in row and not NUMBER.fullmatch(value):
        return "", "a header. Remove it"
    if '"' in row or " " in row:
        return repr(row[:60]), "has quotation marks or blanks. Write clip,value without them"
    if not comma or "," in value:
        return repr(row[:60]), f"has {row.count(',') + 1} columns where clip and value are expected"
    try:
        clip = parse_clip(Path(name))
    except BaselineError:
        clip = None
    if clip is None or clip.name != name:
        return repr(name), f"is not the name of a test clip, such as section_{section}_0000.wav"
    if clip.is_anomaly is not None or clip.split == "train":
        return repr(name), (
            f"is not a name that the test clips were released under, such as section_{section}_0000.wav. Test with the "
            "clips as released, and the organisers' label files where you have labels"
        )
    if clip.section != section:
        return name, f"is of section {clip.section}, the file of section {section}"
    return None


def _by_lines(problems: list[tuple[int, str, str]]) -> Iterator[str]:
    """The same problem of consecutive lines as one, with what stands in the first of them."""
    for _, group in itertools.groupby(enumerate(problems), lambda each: (each[1][0] - each[0], each[1][2])):
        (first, shown, text), *others = [problem for _, problem in group]
        lines = f"lines {first} to {others[-1][0]}" if others else f"line {first}"
        more = " (and so on) " if others and shown else " " if shown else ""
        yield f", {lines}: {shown}{more}{text}."


def _problems_of_meta(contents: bytes, label: str, dataset: Dataset) -> list[str]:
    try:
        text = contents.decode("utf-8")
        document = yaml.safe_load(text)
        lines, twice = _lines_of_keys(yaml.compose(text, Loader=yaml.SafeLoader))
    except (yaml.YAMLError, ValueError) as error:
        return [f": not valid YAML: {' '.join(str(error).split())}"]
    if not isinstance(document, dict):
        return [": not the meta data of a submission: it has no keys."]
    problems = [(key, "is there twice") for key in twice]
    problems += _check_meta(document, label, dataset)
    return [_with_line(key, problem, lines) for key, problem in problems]


def _with_line(key: str, problem: str, lines: Mapping[str, int]) -> str:
    known = next((k for k in _and_above(key) if k in lines), None)
    return (f", line {lines[known]}" if known else "") + f": {key} {problem}."


def _and_above(key: str) -> Iterator[str]:
    """`a.b.c`, `a.b`, `a`."""
    while key:
        yield key
        key = key.rpartition(".")[0]


def _lines_of_keys(node: yaml.Node | None, prefix: str = "") -> tuple[dict[str, int], list[str]]:
    """Key, such as `submission.authors.0.email`, → its line; and the keys that are there twice."""
    lines, twice = {}, []
    if isinstance(node, yaml.MappingNode):
        children = [(str(key.value), key.start_mark.line, value) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        children = [(str(number), item.start_mark.line, item) for number, item in enumerate(node.value)]
    else:
        children = []
    for name, line, child in children:
        key = prefix + name
        twice += [key] if key in lines else []
        below, twice_below = _lines_of_keys(child, f"{key}.")
        lines |= {key: line + 1} | below
        twice += twice_below
    return lines, twice


def _check_meta(document: Mapping[str, Any], label: str, dataset: Dataset) -> Iterator[tuple[str, str]]:
    """What is wrong with the meta data of a system: key, and the problem."""
    needed = {
        "submission": ("label", "name", "abbreviation", "authors"),
        "system": ("description", "complexity"),
        "system.description": DESCRIPTION,
        "system.complexity": ("total_parameters", "MACS"),
        "results": ("development_dataset",),
        "results.development_dataset": tuple(dataset.tested("dev")),
        **{f"results.development_dataset.{machine}": RESULTS for machine in dataset.tested("dev")},
    }
    for parent, names in needed.items():
        values = _at(document, parent)
        if not isinstance(values, Mapping):
            if isinstance(_at(document, parent.rpartition(".")[0]), Mapping) or "." not in parent:
                yield parent, f"is missing, or has no keys; needed: {', '.join(names)}"
            continue
        for name in names:
            if name not in values and f"{parent}.{name}" not in needed:
                yield f"{parent}.{name}", "is missing"
    for key in ("external_datasets", "source_code"):  # of the system, in the organisers' example within `system`
        if not any(isinstance(place, Mapping) and key in place for place in (document, _at(document, "system"))):
            yield key, "is missing; it may be null"
    submission = _at(document, "submission")
    if isinstance(submission, Mapping):
        yield from _check_submission(submission, label)
    yield from _check_complexity(_at(document, "system.complexity"))
    yield from _check_results(_at(document, "results.development_dataset"))


def _check_complexity(complexity: Any) -> Iterator[tuple[str, str]]:
    for name, what in (("total_parameters", "a number of parameters"), ("MACS", "a number, or a text such as 81.6 M")):
        value = complexity.get(name, 1) if isinstance(complexity, Mapping) else 1
        is_number = isinstance(value, int | float) and not isinstance(value, bool) and value > 0
        if not is_number and not (name == "MACS" and isinstance(value, str) and re.search(r"\d", value)):
            yield f"system.complexity.{name}", f"is {value!r}; expected {what}"


def _check_submission(submission: Mapping[str, Any], label: str) -> Iterator[tuple[str, str]]:
    if submission.get("label", label) != label:
        yield "submission.label", f"is {submission['label']!r}, and not the name of the folder, {label}"
    for name in ("name", "abbreviation"):
        if name in submission and not (isinstance(submission[name], str) and submission[name].strip()):
            yield f"submission.{name}", f"is {submission[name]!r}; expected a text"
    if len(str(submission.get("abbreviation", ""))) > LONGEST_ABBREVIATION:
        yield "submission.abbreviation", f"has more than {LONGEST_ABBREVIATION} characters"
    authors = submission.get("authors")
    if not isinstance(authors, list) or not authors or not all(isinstance(author, Mapping) for author in authors):
        yield "submission.authors", "is not a list of authors"
        return
    for number, author in enumerate(authors):
        for name, parent, names in (("", author, AUTHOR), (".affiliation", author.get("affiliation"), AFFILIATION)):
            key = f"submission.authors.{number}{name}"
            if not isinstance(parent, Mapping):
                yield key, f"has no keys; needed: {', '.join(names)}"
                continue
            for each in names:
                if each not in parent:
                    yield f"{key}.{each}", "is missing"
                elif each not in ("affiliation", "department") and not (isinstance(parent[each], str) and parent[each]):
                    yield f"{key}.{each}", f"is {parent[each]!r}; expected a text"
        if "email" in author and not re.fullmatch(r"[^@\s]+@[^@\s]+\.[^@\s]+", str(author["email"])):
            yield f"submission.authors.{number}.email", f"is {author['email']!r}, not an address"
    corresponding = [author for author in authors if author.get("corresponding") is True]
    if len(corresponding) != 1:
        yield "submission.authors", f"has {len(corresponding)} corresponding authors; one has `corresponding: true`"


def _check_results(results: Any) -> Iterator[tuple[str, str]]:
    figures = {
        f"results.development_dataset.{machine}.{name}": values[name]
        for machine, values in (results.items() if isinstance(results, Mapping) else ())
        for name in RESULTS
        if isinstance(values, Mapping) and name in values
    }
    for key, value in figures.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 100:
            yield key, f"is {value!r}; expected percent, 0 to 100"
        elif 0 < value <= 1:
            yield key, f"is {value!r}, a fraction; expected percent"


def _at(document: Any, key: str) -> Any:
    """The value at a key such as `system.description`, or None."""
    for name in key.split("."):
        document = document.get(name) if isinstance(document, Mapping) else None
    return document
