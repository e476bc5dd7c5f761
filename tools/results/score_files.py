"""Anomaly scores and decisions → the CSVs of a result directory; those CSVs → metrics."""

import csv
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from config import TEST_KEYS, BaselineError
from datasets.catalog import Machine
from datasets.clips import RENAMED_DIRECTORY, SPLIT_DIRECTORIES, Clip, find_clips, parse_clip
from files import remove, write_csv, write_text
from tools.results.metrics import arithmetic_mean, harmonic_mean, section_metrics
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class SectionScores:
    """The scored clips of one section, in the order of the CSVs."""

    section: str
    clips: list[Clip]
    scores: list[float]
    decisions: list[int] | None  # None: no decision threshold is known

    @property
    def labelled(self) -> bool:
        return all(clip.is_anomaly is not None for clip in self.clips)

    def metrics(self, max_fpr: float) -> dict[str, float]:
        """See tools.results.metrics.section_metrics."""
        is_anomaly = [bool(clip.is_anomaly) for clip in self.clips]
        is_target = [clip.is_target for clip in self.clips]
        return section_metrics(is_anomaly, is_target, self.scores, self.decisions, max_fpr)


def write_section(paths: RunPaths, result: SectionScores) -> None:
    """Write the score and decision CSVs of a section, in the form that the challenge asks for: no header.

    Raises:
        BaselineError: a score is not a finite number, or a file cannot be written.
    """
    for clip, score in zip(result.clips, result.scores, strict=True):
        if not math.isfinite(score):
            raise BaselineError(f"{clip.path}: its score is {score}, not a finite number. Train the model again.")
    write_csv(paths.anomaly_scores(result.section), zip((c.name for c in result.clips), result.scores, strict=True))
    if result.decisions is not None:
        rows = zip((clip.name for clip in result.clips), result.decisions, strict=True)
        write_csv(paths.decisions(result.section), rows)
    else:
        remove(paths.decisions(result.section))  # an older one does not belong to these scores


def write_test_record(paths: RunPaths, clips: Sequence[Clip], weights: str) -> None:
    """Write which weights, parameters, clips and files a test had. It comes last: with it, the test is finished.

    Args:
        weights: SHA-256 of the model's weights file.
    """
    labels = [[clip.name, clip.is_target, clip.is_anomaly] for clip in clips]
    sections = sorted({clip.section for clip in clips})
    files = [path for section in sections for path in (paths.anomaly_scores(section), paths.decisions(section))]
    record = paths.config.as_dict(TEST_KEYS) | {
        "model_sha256": weights,
        "clips_sha256": _sha256(json.dumps(labels).encode()),
        "files": {path.name: _sha256(path.read_bytes()) for path in files if path.exists()},
    }
    write_text(paths.test_record, json.dumps(record, indent=1) + "\n")


def _sha256(contents: bytes) -> str:
    return hashlib.sha256(contents).hexdigest()


def read_sections(paths: RunPaths, clips_of_section: dict[str, list[Clip]]) -> list[SectionScores]:
    """The sections of a machine type with score files for exactly these clips; a warning about other score files.

    Each section may have been scored by a run of its own.
    """
    results = []
    for section, clips in clips_of_section.items():
        try:
            scores = read_column(paths.anomaly_scores(section))
        except BaselineError as error:
            log.warning("section %s is left out: %s", section, error)
            continue
        if scores is None:
            continue
        if list(scores) != [clip.name for clip in clips]:
            log.warning(
                "section %s is left out: %s has other clips than the dataset. Test again to correct it.",
                *(section, paths.anomaly_scores(section)),
            )
            continue
        decisions = read_decisions(paths, section, list(scores))
        results.append(SectionScores(section, clips, list(scores.values()), decisions))
    return results


def write_metrics(paths: RunPaths, results: Sequence[SectionScores], max_fpr: float) -> dict[str, dict[str, float]]:
    """Write result_<machine>.csv: the metrics of each section, then their arithmetic and harmonic mean.

    Returns:
        Row name (section or mean) → metric → value.
    """
    metrics = {result.section: result.metrics(max_fpr) for result in results}
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    # A section without target clips has other metrics than one with them.
    rows = {section: {name: values.get(name, math.nan) for name in names} for section, values in metrics.items()}
    for section, values in rows.items():
        undefined = [name for name, value in values.items() if math.isnan(value)]
        if undefined:
            log.warning(
                "section %s: not defined (nan) without normal clips, anomalous clips or decisions: %s.",
                *(section, ", ".join(undefined)),
            )
    columns = {name: [values[name] for values in rows.values()] for name in names}
    rows["arithmetic mean"] = {name: arithmetic_mean(values) for name, values in columns.items()}
    rows["harmonic mean"] = {name: harmonic_mean(values) for name, values in columns.items()}
    write_csv(paths.metrics, [["section", *names], *([row, *values.values()] for row, values in rows.items())])
    return rows


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Section → metric → value of a result_<machine>.csv, without its means.

    Raises:
        BaselineError: it is not such a file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(row.pop("section"), row) for row in csv.DictReader(file)]
        metrics = {
            section: {name: float(value) for name, value in row.items()}
            for section, row in rows
            if not section.endswith("mean")
        }
        if not metrics:
            raise ValueError("no section")
        if len(dict(rows)) != len(rows):
            raise ValueError("a section is there twice")
        for value in (value for values in metrics.values() for value in values.values()):
            if not (math.isnan(value) or 0 <= value <= 1):
                raise ValueError(f"{value} is no value of a metric")
        return metrics
    except (OSError, LookupError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise BaselineError(f"{path}: not a result file ({repr(error)[:300]}). Test again to correct it.") from error


def clips_of_names(machine: Machine, dataset_directory: Path, section: str, names: Sequence[str]) -> list[Clip]:
    """The test clips of these names, with their labels if they are known; the files themselves may be gone.

    Raises:
        BaselineError: a name is not one of a clip.
    """
    directory = machine.directory(dataset_directory)
    places = [directory / name for name in (*SPLIT_DIRECTORIES["test"], RENAMED_DIRECTORY)]
    clips = [parse_clip(places[0] / name) for name in names]
    if all(clip.is_anomaly is not None for clip in clips):  # nothing else needs to be looked up
        return [replace(clip, path=_find(clip.name, places)) for clip in clips]
    try:
        found = {clip.name: clip for clip in find_clips(machine, dataset_directory, "test", (section,))}
    except BaselineError as error:
        log.debug("no clips of %s: %s", machine.name, error)
        found = {}
    return [found.get(clip.name, clip) for clip in clips]


def _find(name: str, directories: Sequence[Path]) -> Path:
    """Where the file is, or would be."""
    return next((path for path in (d / name for d in directories) if path.exists()), directories[0] / name)


def read_decisions(paths: RunPaths, section: str, names: list[str]) -> list[int] | None:
    """The decisions of these clips; None, and a warning, if the file has other clips or is damaged."""
    path = paths.decisions(section)
    try:
        decisions = read_column(path)
    except BaselineError as error:
        log.warning("decisions are left out: %s", error)
        return None
    if decisions is None:
        return None
    if list(decisions) != names or not set(decisions.values()) <= {0, 1}:
        log.warning("decisions are left out: %s has other clips than the scores. Test again to correct it.", path)
        return None
    return [int(decision) for decision in decisions.values()]


def read_column(path: Path) -> dict[str, float] | None:
    """Clip name → value of a score or decision CSV, or None if there is no such file.

    Raises:
        BaselineError: it is not such a file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = [(name, float(value)) for name, value in csv.reader(file)]
        column = dict(rows)
        if len(column) != len(rows):
            raise ValueError("a clip is there twice")
        if not all(map(math.isfinite, column.values())):
            raise ValueError("a value is not a finite number")
        return column
    except FileNotFoundError:
        return None
    except (OSError, ValueError, csv.Error) as error:
        raise BaselineError(f"{path}: not lines of file name and value ({error}). Test again to correct it.") from error
