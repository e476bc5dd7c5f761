"""The results of all runs on a dataset → what is to be said of them: means, deviations, intervals, comparisons.

A system is a score and a tag, such as `MSE` or `MAHALA wide`; a row is a metric of the official score, or that score; a
column is a mean over all machine types, or a machine type. All figures are fractions.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from config import BaselineError, Config
from datasets.catalog import Dataset
from tools.results.bootstrap import (
    CHANCE,
    Figure,
    Resampled,
    chance_of,
    interval_of,
    paired_differences,
    resample_systems,
)
from tools.results.metrics import COLUMNS, means_over_sections
from tools.results.published import Comparison, Published, compare, read_published
from tools.results.runs import Run, find_runs


@dataclass(frozen=True)
class Difference:
    """How far a figure of one system is above that of another, over the same clips."""

    value: float
    interval: tuple[float, float]
    p: float

    @property
    def is_more_than_chance(self) -> bool:
        return self.p < CHANCE


@dataclass(frozen=True)
class Summary:
    """See the top of this file.

    Attributes:
        seeds: those that were asked for; none: all that are there.
        runs: those with metrics, the seeds of each system one after the other.
        values: (system, seed) → row → column → value; `nan` where there is none.
        statistics: (system, row) → column → mean and standard deviation over seeds.
        intervals: system → figure → its interval, of figures whose clips could be resampled.
        differences: (first system, second system) → figure → second less first, of figures over the same clips.
        published: score → what was published of it.
        comparisons: system → (row, column) → ours beside the published figure, of scores with published figures.
    """

    config: Config
    dataset: Dataset
    seeds: Sequence[int]
    runs: list[Run]
    values: dict[tuple[str, int], dict[str, dict[str, float]]]
    statistics: dict[tuple[str, str], dict[str, tuple[float, float]]]
    intervals: dict[str, dict[Figure, tuple[float, float]]]
    differences: dict[tuple[str, str], dict[Figure, Difference]]
    published: dict[str, Published]
    comparisons: dict[str, dict[tuple[str, str], Comparison]]

    @property
    def systems(self) -> dict[str, list[Run]]:
        """System → its runs, by seed."""
        return {
            system: [r for r in self.runs if r.system == system]
            for system in dict.fromkeys(r.system for r in self.runs)
        }

    @property
    def columns(self) -> list[str]:
        return [*COLUMNS, *self.dataset.tested(self.config.split)]

    @property
    def official_column(self) -> str:
        """The mean that the official score is."""
        kind = self.dataset.official_score["mean"]
        return next(column for column, mean in COLUMNS.items() if mean == kind)

    def value(self, system: str, figure: Figure) -> float:
        """The mean over the system's seeds; `nan` where it has none."""
        row, column = figure
        return self.statistics[system, row][column][0]

    @property
    def title(self) -> str:
        return f"{self.dataset.name}, {'development' if self.config.dev else 'evaluation'} data"

    @property
    def missing(self) -> list[str]:
        """A line for each run that lacks a metric of some machine types, and for seeds that are not there."""
        lines = []
        for (system, seed), rows in self.values.items():
            lacking = [c for c in self.columns if c not in COLUMNS and any(np.isnan(row[c]) for row in rows.values())]
            if lacking:
                lines.append(f"{system}, seed {seed}: no full results of {', '.join(lacking)}; its means are left out.")
        for system, runs in self.systems.items():
            untested = [seed for seed in self.seeds if seed not in [run.config.seed for run in runs]]
            if untested:
                lines.append(f"{system}: no results of seed {', '.join(map(str, untested))}, which SEEDS names.")
        return lines


def summarize(config: Config, dataset: Dataset, seeds: Sequence[int], resamples: int) -> Summary:
    """Read all results on a dataset.

    Args:
        seeds: of these only; none: of all that are there.
        resamples: of the clips, for intervals and differences.

    Raises:
        BaselineError: there are no results, or a file is damaged.
    """
    runs, values = [], {}
    for run in find_runs(config, dataset, seeds):
        metrics = run.metrics()
        if metrics:
            runs.append(run)
            values[run.system, run.config.seed] = means_over_sections(metrics, dataset, config.split)
    if not runs:
        raise _nothing_found(config, dataset, seeds)
    statistics = over_seeds(values)
    published = read_published(dataset, config.split)
    comparisons = {}
    for run in runs:
        if run.config.score in published:
            rows = {row: columns for (system, row), columns in statistics.items() if system == run.system}
            comparisons[run.system] = compare(rows, published[run.config.score])
    resampled = resample_systems(runs, config.max_fpr, resamples)
    intervals, differences = over_clips(resampled, statistics)
    return Summary(config, dataset, seeds, runs, values, statistics, intervals, differences, published, comparisons)


def over_clips(
    resampled: dict[str, Resampled], statistics: dict[tuple[str, str], dict[str, tuple[float, float]]]
) -> tuple[dict[str, dict[Figure, tuple[float, float]]], dict[tuple[str, str], dict[Figure, Difference]]]:
    """The intervals of each system, and the differences of each two; see Summary."""
    intervals, differences = {}, {}
    means = {
        system: {(row, column): statistics[system, row][column][0] for row, column in resampled[system].figures}
        for system in resampled
    }
    for system, each in resampled.items():
        intervals[system] = {figure: interval_of(v, means[system][figure]) for figure, v in each.figures.items()}
    for first, second in itertools.combinations(resampled, 2):
        found = differences[first, second] = {}
        for figure, values in paired_differences(resampled[first], resampled[second]).items():
            value = means[second][figure] - means[first][figure]
            found[figure] = Difference(value, interval_of(values, value), chance_of(values, value))
    return intervals, differences


def over_seeds(
    values: dict[tuple[str, int], dict[str, dict[str, float]]],
) -> dict[tuple[str, str], dict[str, tuple[float, float]]]:
    """Mean and standard deviation (of the sample, n − 1) of those seeds that have a value.

    The standard deviation of a single one is `nan`.
    """
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for (system, _), rows in values.items():
        for row, columns in rows.items():
            for column, value in columns.items():
                of_seeds = found.setdefault((system, row), {}).setdefault(column, [])
                of_seeds += [] if np.isnan(value) else [value]
    return {key: {column: _statistic(each) for column, each in columns.items()} for key, columns in found.items()}


def _statistic(values: list[float]) -> tuple[float, float]:
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else float("nan")
    return float(np.mean(values)) if values else float("nan"), deviation


def _nothing_found(config: Config, dataset: Dataset, seeds: Sequence[int]) -> BaselineError:
    root = config.result_directory / f"{config.split}_data"
    where = root / f"{config.export_dir}_<score>" / dataset.name
    tests = (dataset.script(step, config.split) for step in ("02a_test", "02b_test"))
    hint = f"Run {' and '.join(tests)} first."
    if not seeds and any(root.glob(f"{config.export_dir}_*/{dataset.name}/seed*/anomaly_score_*.csv")):
        hint = "There are anomaly scores, but the labels of these clips are not known."
    of_seeds = f" of SEEDS='{' '.join(map(str, seeds))}'" if seeds else ""
    return BaselineError(f"{where}: no result_<machine>.csv{of_seeds} to summarize. {hint}")
