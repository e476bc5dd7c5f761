"""Results published for the baseline (datasets/published_results.csv, in percent), and how far ours are from them.

`by` says whose they are: the organisers' own, or those of others who ran the unmodified code.
"""

from collections.abc import Mapping

import pandas as pd

from config import ROOT
from datasets.catalog import Dataset
from tools.results.official import FIGURE, means_over_sections, summary_metrics

PUBLISHED = ROOT / "datasets" / "published_results.csv"
DEVIATIONS = 2  # standard deviations that a value may be from what was published
FEWEST_TRAININGS = 3  # trainings that a standard deviation must be of


def read_published(dataset: Dataset, split: str) -> pd.DataFrame:
    """The published values of a dataset: score, metric, column, published, published std, trials, by, source.

    Means and official scores are computed from them, if each machine type has one section only.
    """
    table = pd.read_csv(PUBLISHED)
    table = table[(table["dataset"] == dataset.name) & (table["split"] == split)].rename(columns={"machine": "column"})
    auc = "AUC" if "AUC" in dataset.official_score["metrics"] else "AUC (source)"
    values = []
    for name, metric in {"auc_source": auc, "auc_target": "AUC (target)", "pauc": "pAUC"}.items():
        fractions = {"published": table[name] / 100, "published std": table[f"std_{name}"] / 100}
        values.append(table.assign(metric=metric, **fractions))
    columns = ["score", "metric", "column", "published", "published std", "trials", "by", "source"]
    values = pd.concat(values).dropna(subset="published").sort_index(kind="stable")[columns]  # in the order of the file
    scores = [_add_means(rows, dataset, split) for _, rows in values.groupby("score", sort=False)]
    return pd.concat(scores or [values], ignore_index=True)


def _add_means(values: pd.DataFrame, dataset: Dataset, split: str) -> pd.DataFrame:
    """The means that can be computed from the published values of a score, and these values."""
    sections = {m.name: m.sections[0] for m in dataset.tested(split).values() if len(m.sections) == 1}
    single = values.assign(section=values["column"].map(sections)).dropna(subset="section")
    by_section = single.set_index(["column", "section", "metric"])[["published"]]
    means = means_over_sections(by_section, dataset, split).dropna().reset_index()
    means = pd.concat([means[means["metric"] == metric] for metric in reversed(summary_metrics(dataset))])
    everything = pd.concat([means.assign(**values[["score", "trials", "by", "source"]].iloc[0]), values])
    # The mean over the one section of a machine type is its value: the published digits count.
    return everything.groupby(["metric", "column"], sort=False, as_index=False).last()[values.columns]


def compare(
    scores: Mapping[str, str], by_seed: pd.DataFrame, statistics: pd.DataFrame, published: pd.DataFrame
) -> pd.DataFrame:
    """Our values beside those published for the same score.

    Args:
        scores: system → score.
        by_seed: (system, seed, metric, column) → value.
        statistics: (system, metric, column) → mean and std over our seeds.

    Returns:
        (system, metric, column) → a table. `outside`: whether the difference is larger than DEVIATIONS standard
        deviations, the published ones, or else those of our seeds; missing if neither is of FEWEST_TRAININGS trainings.
    """
    systems = pd.DataFrame({"system": list(scores.keys()), "score": list(scores.values())})
    table = systems.merge(published, on="score").merge(statistics.reset_index(), on=FIGURE, how="left")
    table = table.rename(columns={"mean": "ours"})
    table["difference"] = table["ours"] - table["published"]
    seeds = by_seed["value"].groupby(FIGURE).count().reindex(pd.MultiIndex.from_frame(table[FIGURE])).to_numpy()
    ours = table["std"].where(seeds >= FEWEST_TRAININGS)
    limit = DEVIATIONS * table["published std"].where(table["trials"] >= FEWEST_TRAININGS).fillna(ours)
    is_known = limit.notna() & table["difference"].notna()
    table["outside"] = (table["difference"].abs() > limit).astype("Int64").where(is_known)
    columns = ["ours", "std", "published", "published std", "difference", "outside", "trials", "by", "source"]
    return table.set_index(FIGURE)[columns]
