"""Write and read the CSVs of anomaly scores, decisions and metrics."""

import csv
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from config import BaselineError
from datasets.clips import Clip
from files import remove, write_csv
from tools.results.metrics import arithmetic_mean, harmonic_mean, section_metrics
from tools.results.test_records import read_test_record, recorded_clips
from tools.training.paths import RunPaths

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class SectionScores:
    """The scored clips of one section, in the order of the CSVs."""

    section: str
    clips: list[Clip]
    scores: list[float]
    decisions: list[int] | None  # None: the decision threshold is unknown
    max_fpr: float  # p of pAUC
    threshold: float | None = None
    checksums: Sequence[str] = ()  # of the clips' contents

    @property
    def labelled(self) -> bool:
        return all(clip.is_anomaly is not None for clip in self.clips)

    def metrics(self, names: Sequence[str] | None = None) -> dict[str, float]:
        """See tools.results.metrics.section_metrics."""
        is_anomaly = [bool(clip.is_anomaly) for clip in self.clips]
        is_target = [clip.is_target for clip in self.clips]
        return section_metrics(is_anomaly, is_target, self.scores, self.decisions, self.max_fpr, names)


def write_section(paths: RunPaths, result: SectionScores) -> None:
    """Write the score and decision CSVs of a section, without a header, as the challenge requires.

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
        remove(paths.decisions(result.section))  # an old file would not match these scores


def read_section(paths: RunPaths, section: str, directory: Path) -> SectionScores | None:
    """The clips of a section and their scores, or None if it was not tested.

    Args:
        directory: of the machine type's clips. They need not exist any more.

    Raises:
        BaselineError: there is no record of the test, a file is damaged, or the files do not match.
    """
    path = paths.anomaly_scores(section)
    if not path.exists():
        return None
    record = read_test_record(paths, section)
    if record is None:
        raise BaselineError(f"{path}: there is no record of its test, {paths.test_record.name}. Test again.")
    clips, checksums = recorded_clips(record, section, directory)
    columns = [read_column(path), read_column(paths.decisions(section)) if paths.decisions(section).exists() else None]
    if any(column is not None and list(column) != [clip.name for clip in clips] for column in columns):
        raise BaselineError(f"{path}: its clips are not those in the record of its test. Test again.")
    scores, decisions = (None if column is None else list(column.values()) for column in columns)
    decisions = decisions and [int(decision) for decision in decisions]
    return SectionScores(section, clips, scores, decisions, record["max_fpr"], record.get("threshold"), checksums)


def write_metrics(
    paths: RunPaths, results: Sequence[SectionScores], with_means: bool = True
) -> dict[str, dict[str, float]]:
    """Write result_<machine>.csv: the metrics of each section, then their arithmetic and harmonic means.

    Args:
        with_means: False if the sections may not be compared: the means are `nan`.

    Returns:
        Row name (section or mean) → metric → value.
    """
    metrics = {result.section: result.metrics() for result in results}
    names = list(dict.fromkeys(name for values in metrics.values() for name in values))
    # Sections with and without target clips have different metrics.
    rows = {section: {name: values.get(name, math.nan) for name in names} for section, values in metrics.items()}
    for section, values in rows.items():
        if undefined := [name for name, value in values.items() if math.isnan(value)]:
            text = "section %s: undefined (nan) without normal clips, anomalous clips or decisions: %s."
            log.warning(text, section, ", ".join(undefined))
    columns = {name: [values[name] for values in rows.values()] for name in names}
    for name, mean in {"arithmetic mean": arithmetic_mean, "harmonic mean": harmonic_mean}.items():
        rows[name] = {metric: mean(values) if with_means else math.nan for metric, values in columns.items()}
    write_csv(paths.metrics, [["section", *names], *([row, *values.values()] for row, values in rows.items())])
    return rows


def read_metrics(path: Path) -> dict[str, dict[str, float]]:
    """Read a result_<machine>.csv, except its means: section → metric → value.

    Raises:
        BaselineError: it is not such a file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = [
                (row.pop("section").zfill(2), row) for row in csv.DictReader(file)
            ]  # a spreadsheet may write 0 for 00
        rows = dict(lines)
        if len(rows) < len(lines):
            raise ValueError("a section appears twice")
        metrics = {
            section: {name: float(value) for name, value in row.items()}
            for section, row in rows.items()
            if not section.endswith("mean")
        }
        if not metrics:
            raise ValueError("no section")
        wrong = [v for values in metrics.values() for v in values.values() if not (math.isnan(v) or 0 <= v <= 1)]
        if wrong:
            raise ValueError(f"{wrong[0]} is not between 0 and 1")
        return metrics
    except (OSError, LookupError, ValueError, TypeError, AttributeError, csv.Error) as error:
        reason = "no column 'section' between commas" if isinstance(error, KeyError) else str(error)[:300]
        raise BaselineError(f"{path}: not a result file ({reason}). Test again.") from error


def read_column(path: Path) -> dict[str, float]:
    """Read a score or decision CSV: clip name → value.

    Raises:
        BaselineError: it is not such a file.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = [(name, float(value)) for name, value in csv.reader(file)]
    except (OSError, ValueError, csv.Error) as error:
        raise BaselineError(f"{path}: not lines of file name and value ({error}). Test again.") from error
    column = dict(rows)
    if len(column) < len(rows) or not all(map(math.isfinite, column.values())):
        raise BaselineError(f"{path}: a clip appears twice, or a value is not a finite number. Test again.")
    return column
