"""Anomaly scores and decisions → the CSVs of a result directory; those CSVs → metrics."""

import csv
import hashlib
import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config import TEST_KEYS, BaselineError
from datasets.catalog import Machine
from datasets.clips import Clip, find_clips, parse_clip
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


def read_sections(paths: RunPaths, clips_by_section: dict[str, list[Clip]]) -> list[SectionScores]:
    """The sections with score files for exactly these clips; a warning about other score files."""
    results = []
    for section, clips in clips_by_section.items():
        path, names = paths.anomaly_scores(section), [clip.name for clip in clips]
        try:
            scores = read_column(path)
            if scores is not None and list(scores) != names:
                raise BaselineError(f"{path} has other clips than the dataset. Test again to correct it.")
        except BaselineError as error:
            log.warning("section %s is left out: %s", section, error)
            continue
        if scores is not None:
            decisions = read_decisions(paths, section, names)
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
        if undefined := [name for name, value in values.items() if math.isnan(value)]:
            text = "section %s: not defined (nan) without normal clips, anomalous clips or decisions: %s."
            log.warning(text, section, ", ".join(undefined))
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
            lines = [(row.pop("section"), row) for row in csv.DictReader(file)]
        rows = dict(lines)
        if len(rows) < len(lines):
            raise ValueError("a section is there twice")
        metrics = {
            section: {name: float(value) for name, value in row.items()}
            for section, row in rows.items()
            if not section.endswith("mean")
        }
        if not metrics:
            raise ValueError("no section")
        wrong = [v for values in metrics.values() for v in values.values() if not (math.isnan(v) or 0 <= v <= 1)]
        if wrong:
            raise ValueError(f"{wrong[0]} is no value of a metric")
        return metrics
    except (OSError, LookupError, ValueError, TypeError, AttributeError, csv.Error) as error:
        raise BaselineError(f"{path}: not a result file ({repr(error)[:300]}). Test again to correct it.") from error


def clips_of_names(machine: Machine, dataset_directory: Path, section: str, names: Sequence[str]) -> list[Clip]:
    """The test clips of these names, with their labels if they are known; the files themselves may be gone.

    Raises:
        BaselineError: a name is not one of a clip.
    """
    try:
        found = {clip.name: clip for clip in find_clips(machine, dataset_directory, "test", (section,))}
    except BaselineError as error:
        log.debug("no clips of %s: %s", machine.name, error)
        found = {}
    directory = machine.directory(dataset_directory) / "test"
    return [found.get(name) or parse_clip(directory / name) for name in names]


def read_decisions(paths: RunPaths, section: str, names: list[str]) -> list[int] | None:
    """The decisions of these clips; None, and a warning, if the file has other clips or is damaged."""
    path = paths.decisions(section)
    try:
        decisions = read_column(path)
        if decisions is None:
            return None
        if list(decisions) != names or not set(decisions.values()) <= {0, 1}:
            raise BaselineError(f"{path} has other clips than the scores. Test again to correct it.")
    except BaselineError as error:
        log.warning("decisions are left out: %s", error)
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
    except FileNotFoundError:
        return None
    except (OSError, ValueError, csv.Error) as error:
        raise BaselineError(f"{path}: not lines of file name and value ({error}). Test again to correct it.") from error
    column = dict(rows)
    if len(column) < len(rows) or not all(map(math.isfinite, column.values())):
        raise BaselineError(f"{path}: a clip is there twice, or a value is not a finite number. Test again.")
    return column
