"""Summarize all runs on a dataset: means, standard deviations, intervals, differences and published values.

A system is a score and a tag, such as `MSE` or `MAHALA wide`. See tools.results.official for metrics and columns.
All values are fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from config import BaselineError, Config
from datasets.catalog import Dataset
from tools.results.belonging import keep_comparable
from tools.results.bootstrap import find_differences, find_intervals, resample_systems
from tools.results.official import COLUMNS, VALUE_KEYS, means_over_sections, summary_columns
from tools.results.published import compare, read_published
from tools.results.runs import Run, find_runs


@dataclass(frozen=True)
class Summary:
    """See the top of this file. Each table's comment reads: (index levels) → columns."""

    config: Config
    dataset: Dataset
    seeds: Sequence[int]  # to summarize; empty: all
    runs: list[Run]  # with metrics; the seeds of a system are adjacent
    left_out: list[str]  # one line for each reason to leave results out
    by_seed: pd.DataFrame  # (system, seed, metric, column) → value; `nan` if it is missing
    statistics: pd.DataFrame  # (system, metric, column) → mean and std over seeds
    intervals: pd.DataFrame  # (system, metric, column) → low, high; if clips could be resampled
    differences: pd.DataFrame  # (system, minus, metric, column) → difference, low, high, p; of the same clips
    comparisons: pd.DataFrame  # (system, metric, column) → see tools.results.published.compare

    @property
    def systems(self) -> dict[str, list[Run]]:
        """System → its runs, by seed."""
        systems: dict[str, list[Run]] = {}
        for run in self.runs:
            systems.setdefault(run.system, []).append(run)
        return systems

    @property
    def columns(self) -> list[str]:
        return summary_columns(self.dataset, self.config.split)

    @property
    def official_column(self) -> str:
        """The column of the official mean."""
        return next(column for column, mean in COLUMNS.items() if mean == self.dataset.official_score["mean"])

    @property
    def title(self) -> str:
        return f"{self.dataset.name}, {'development' if self.config.dev else 'evaluation'} data"

    @property
    def warnings(self) -> list[str]:
        """One line for each result that is left out, each incomplete run and each missing seed."""
        lines = list(self.left_out)
        for (system, seed), values in self.by_seed["value"].groupby(["system", "seed"], sort=False):
            lacking = values[values.isna()].index.unique("column")
            if machines := ", ".join(name for name in self.dataset.tested(self.config.split) if name in lacking):
                lines.append(f"{system}, seed {seed}: no means, because results of {machines} are incomplete.")
        for system, runs in self.systems.items():
            tested = [run.config.seed for run in runs]
            if untested := ", ".join(str(seed) for seed in self.seeds if seed not in tested):
                lines.append(f"{system}: SEEDS contains {untested}, but there are no results.")
        return lines

    def wide(self, values: pd.Series) -> pd.DataFrame:
        """Turn the index level `column` into the table's columns. Rows keep the order of `values`."""
        table = values.unstack("column")
        rows = values.index.droplevel("column").unique()
        return table.reindex(index=rows, columns=self.columns)


def summarize(
    config: Config, dataset: Dataset, seeds: Sequence[int], resamples: int, wanted: Mapping[str, Any] | None = None
) -> Summary:
    """Read all results on a dataset that may be compared.

    Args:
        seeds: to read; empty: all.
        wanted: parameters from the command line; results with other values are left out.

    Raises:
        BaselineError: there are no results, or a file is damaged.
    """
    wanted = dict(wanted or {})
    places = {key: wanted.pop(key) for key in ("seed", "score", "model_name_suffix") if key in wanted}
    found = [
        run
        for run in find_runs(config, dataset, seeds)
        if all(getattr(run.config, key) == value for key, value in places.items())
    ]
    kept, left_out = keep_comparable(found, wanted)
    runs, means = [], {}
    for run in kept:
        metrics = run.metrics()
        if len(metrics):
            runs.append(run)
            means[run.system, run.config.seed] = means_over_sections(metrics, dataset, config.split)
    if not runs:
        if left_out:
            raise BaselineError(f"All results are left out. {' '.join(left_out)}")
        raise _nothing_found(config, dataset, seeds, {**places, **wanted})
    by_seed = pd.concat(means, names=["system", "seed"])
    statistics = over_seeds(by_seed)
    resampled = resample_systems(runs, resamples)
    intervals = find_intervals(resampled, statistics["mean"])
    differences = find_differences(resampled, statistics["mean"])
    scores = {run.system: run.config.score for run in runs}
    comparisons = compare(scores, by_seed, statistics, read_published(dataset, config.split))
    return Summary(config, dataset, seeds, runs, left_out, by_seed, statistics, intervals, differences, comparisons)


def over_seeds(by_seed: pd.DataFrame) -> pd.DataFrame:
    """(system, metric, column) → mean and std (n − 1; `nan` for a single seed) over the seeds with a value."""
    return by_seed["value"].groupby(VALUE_KEYS, sort=False).agg(mean=_mean, std=_deviation)


# The mean and std of pandas round the last digit differently.
def _mean(values: pd.Series) -> float:
    known = values.dropna().to_numpy()
    return np.mean(known) if len(known) else np.nan


def _deviation(values: pd.Series) -> float:
    known = values.dropna().to_numpy()
    return np.std(known, ddof=1) if len(known) > 1 else np.nan


def _nothing_found(config: Config, dataset: Dataset, seeds: Sequence[int], wanted: Mapping[str, Any]) -> BaselineError:
    where = config.result_directory / f"{config.split}_data" / f"{config.export_dir}_<score>" / dataset.name
    filters = [f"SEEDS='{' '.join(map(str, seeds))}'"] if seeds else []
    filters += [f"--{key} {value}" for key, value in wanted.items()]
    with_filters = f" with {' '.join(filters)}" if filters else ""
    tests = " and ".join(dataset.script(step, config.split) for step in ("02a_test", "02b_test"))
    return BaselineError(
        f"{where}: no result_<machine>.csv{with_filters} to summarize. Run {tests} first. Without labels, there "
        "are only anomaly scores."
    )
