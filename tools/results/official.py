"""The official score of a dataset, and the means that it is computed from.

In a summary, a *metric* is either the official score or one of the metrics that it is computed from. A *column* is a
machine type or a mean over all machine types. All values are fractions.
"""

import numpy as np
import pandas as pd

from datasets.catalog import Dataset
from tools.results.metrics import MEANS

COLUMNS = {"h-mean": "harmonic", "a-mean": "arithmetic"}  # means over all machine types
OFFICIAL = "official score"
VALUE_KEYS = ["system", "metric", "column"]  # index of the summary's tables


def summary_metrics(dataset: Dataset) -> list[str]:
    """The metrics that the official score is computed from, then the official score."""
    return [*dataset.official_score["metrics"], OFFICIAL]


def summary_columns(dataset: Dataset, split: str) -> list[str]:
    """The means over all machine types, then each machine type."""
    return [*COLUMNS, *dataset.tested(split)]


def means_over_sections(values: pd.DataFrame, dataset: Dataset, split: str) -> pd.DataFrame:
    """The mean of each metric and the official score, for each machine type and for all of them.

    Args:
        values: (machine, section, metric) → B columns, which are independent.

    Returns:
        (metric, column) → the same B columns. A mean is `nan` if any machine type, section or metric in it is missing,
        because it would not be comparable.
    """
    machines, metrics = dataset.tested(split), dataset.official_score["metrics"]
    official = dataset.official_score["mean"]
    keys = [(machine.name, s, metric) for machine in machines.values() for s in machine.sections for metric in metrics]
    machine_of, _, metric_of = (np.array(part) for part in zip(*keys, strict=True))
    complete = values.reindex(pd.MultiIndex.from_tuples(keys))
    table = np.ascontiguousarray(complete.to_numpy(float))  # (keys, B); the memory layout affects rounding
    means = {}
    for metric in summary_metrics(dataset):
        counted = (metric_of == metric) | (metric == OFFICIAL)
        for column, kind in COLUMNS.items():
            means[metric, column] = MEANS[kind](table[counted])
        for name in machines:
            means[metric, name] = MEANS[official](table[counted & (machine_of == name)])
    index = pd.MultiIndex.from_tuples(means, names=["metric", "column"])
    return pd.DataFrame(list(means.values()), index, values.columns)
