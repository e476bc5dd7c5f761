"""The results of all runs on a dataset → tables of values: means, deviations, intervals, differences, comparisons.

A system is a score and a tag, such as `MSE` or `MAHALA wide`. Metrics and columns are those of tools.results.official.
All values are fractions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from config import BaselineError, Config
from datasets.catalog import Dataset
from tools.results.belonging import keep_what_belongs_together
from tools.results.bootstrap import find_differences, find_intervals, resample_systems
from tools.results.official import COLUMNS, FIGURE, means_over_sections, summary_columns
from tools.results.published import compare, read_published
from tools.results.runs import Run, find_runs


@dataclass(frozen=True)
class Summary:
    """See the top of this file. Tables are indexed by what stands before the arrow."""

    config: Config
    dataset: Dataset
    seeds: Sequence[int]  # that were asked for; none: all
    runs: list[Run]  # with metrics, the seeds of each system one after the other
    left_out: list[str]  # a line for each reason why results are left out
    by_seed: pd.DataFrame  # (system, seed, metric, column) → value; `nan` if it is missing
    statistics: pd.DataFrame  # (system, metric, column) → mean and std over seeds
    intervals: pd.DataFrame  # (system, metric, column) → low, high; of values whose clips could be resampled
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
        """The mean that the official score is."""
        return next(column for column, mean in COLUMNS.items() if mean == self.dataset.official_score["mean"])

    @property
    def title(self) -> str:
        return f"{self.dataset.name}, {'development' if self.config.dev else 'evaluation'} data"

    @property
    def warnings(self) -> list[str]:
        """A line for what is left out, for each run that lacks metrics, and for seeds that are missing."""
        lines = list(self.left_out)
        for (system, seed), values in self.by_seed["value"].groupby(["system", "seed"], sort=False):
            lacking = values[values.isna()].index.unique("column")
            if machines := ", ".join(name for name in self.dataset.tested(self.config.split) if name in lacking):
                lines.append(f"{system}, seed {seed}: no full results of {machines}; its means are left out.")
        for system, runs in self.systems.items():
            tested = [run.config.seed for run in runs]
            if untested := ", ".join(str(seed) for seed in self.seeds if seed not in tested):
                lines.append(f"{system}: no results of seed {untested}, which SEEDS names.")
        return lines

    def wide(self, values: pd.Series) -> pd.DataFrame:
        """Values with a level `column` in their index → a table with these columns, rows in the order of `values`."""
        table = values.unstack("column")
        rows = values.index.droplevel("column").unique()
        return table.reindex(index=rows, columns=self.columns)


def summarize(
    config: Config, dataset: Dataset, seeds: Sequence[int], resamples: int, wanted: Mapping[str, Any] | None = None
) -> Summary:
    """Read all results on a dataset that belong together.

    Args:
        seeds: those to read; none: all.
        wanted: parameters that the command line gives: others are left out.

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
    kept, left_out = keep_what_belongs_together(found, wanted)
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
    """(system, metric, column) → mean and std (n − 1; `nan` of a single seed) over those seeds that have a value."""
    return by_seed["value"].groupby(FIGURE, sort=False).agg(mean=_mean, std=_deviation)


# pandas' own mean and std round the last digit otherwise.
def _mean(values: pd.Series) -> float:
    known = values.dropna().to_numpy()
    return np.mean(known) if len(known) else np.nan


def _deviation(values: pd.Series) -> float:
    known = values.dropna().to_numpy()
    return np.std(known, ddof=1) if len(known) > 1 else np.nan


def _nothing_found(config: Config, dataset: Dataset, seeds: Sequence[int], wanted: Mapping[str, Any]) -> BaselineError:
    where = config.result_directory / f"{config.split}_data" / f"{config.export_dir}_<score>" / dataset.name
    asked = [f"SEEDS='{' '.join(map(str, seeds))}'"] if seeds else []
    asked += [f"--{key} {value}" for key, value in wanted.items()]
    of = f" with {' '.join(asked)}" if asked else ""
    tests = " and ".join(dataset.script(step, config.split) for step in ("02a_test", "02b_test"))
    return BaselineError(
        f"{where}: no result_<machine>.csv{of} to summarize. Run {tests} first. Clips without labels have anomaly "
        "scores only."
    )
