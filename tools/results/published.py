"""Figures published for the baseline (datasets/published_results.csv), and how far ours are from them.

The file's columns are percent: the metrics of a machine type, mean and standard deviation over `trials` trainings, and
where they were seen.
"""

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from config import ROOT
from datasets.catalog import Dataset
from tools.results.metrics import means_over_sections

PUBLISHED = ROOT / "datasets" / "published_results.csv"
DEVIATIONS = 2  # standard deviations that a figure may be from what was published


@dataclass(frozen=True)
class Figure:
    """A published figure, a fraction."""

    mean: float
    deviation: float  # standard deviation over trials; nan where there was one, or it was not published


@dataclass(frozen=True)
class Published:
    """What was published for one score on one split of a dataset."""

    figures: dict[tuple[str, str], Figure]  # (metric, machine type or mean) → figure
    trials: int
    source: str


def read_published(dataset: Dataset, split: str, path: Path = PUBLISHED) -> dict[str, Published]:
    """Score → what was published of it. Means and official score are those of the machine types' figures.

    Where a machine type has several sections, only its mean over them was published, and no mean is given.
    """
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if (row["dataset"], row["split"]) == (dataset.name, split)]
    auc = "AUC" if "AUC" in dataset.official_score["metrics"] else "AUC (source)"
    columns = {"auc_source": auc, "auc_target": "AUC (target)", "pauc": "pAUC"}
    published = {}
    for score in dict.fromkeys(row["score"] for row in rows):
        of_score = [row for row in rows if row["score"] == score]
        figures = {
            (metric, row["machine"]): Figure(_fraction(row[column]), _fraction(row[f"std_{column}"]))
            for row in of_score
            for column, metric in columns.items()
            if row[column]
        }
        single = {name: m.sections[0] for name, m in dataset.tested(split).items() if len(m.sections) == 1}
        values = {(m, single[m], metric): figure.mean for (metric, m), figure in figures.items() if m in single}
        for metric, means in means_over_sections(values, dataset, split).items():
            figures = {
                (metric, column): Figure(value, math.nan) for column, value in means.items() if value == value
            } | figures
        published[score] = Published(figures, int(of_score[0]["trials"]), of_score[0]["source"])
    return published


def _fraction(text: str) -> float:
    return float(text) / 100 if text else math.nan


@dataclass(frozen=True)
class Comparison:
    """One of our figures beside the published one, fractions."""

    ours: float
    our_deviation: float  # over our seeds; nan for a single one
    published: Figure

    @property
    def difference(self) -> float:
        """Ours less the published one."""
        return self.ours - self.published.mean

    @property
    def limit(self) -> float:
        """How large the difference may be: that of the published trials, else of our seeds; nan: it cannot be said."""
        is_known = not math.isnan(self.published.deviation)
        return DEVIATIONS * (self.published.deviation if is_known else self.our_deviation)

    @property
    def is_outside(self) -> bool | None:
        """Whether the difference is larger than the limit; None: it cannot be said."""
        is_known = not math.isnan(self.limit) and not math.isnan(self.difference)
        return abs(self.difference) > self.limit if is_known else None


def compare(
    ours: Mapping[str, Mapping[str, tuple[float, float]]], published: Published
) -> dict[tuple[str, str], Comparison]:
    """(metric, machine type or mean) → ours, which may be `nan`, beside the published figure.

    Args:
        ours: metric → machine type or mean → mean and standard deviation over our seeds.
    """
    return {
        (row, column): Comparison(*ours[row][column], figure) for (row, column), figure in published.figures.items()
    }
