"""Compare results with those published for the baseline (datasets/published_results.csv, in percent).

Column `by` says who published a result: the organisers, or others who ran the unmodified code.
"""

from collections.abc import Mapping

import pandas as pd

from config import ROOT
from datasets.catalog import Dataset
from tools.results.official import VALUE_KEYS, means_over_sections, summary_metrics

PUBLISHED = ROOT / "datasets" / "published_results.csv"
MAX_DEVIATIONS = 2  # a larger difference, in standard deviations, is marked
MIN_TRAININGS = 3  # for a standard deviation


def read_published(dataset: Dataset, split: str) -> pd.DataFrame:
    """The published values of a dataset: score, metric, column, published, published std, trials, by, source.

    Means and official scores are computed from them if every machine type has one section only.
    """
    table = pd.read_csv(PUBLISHED)
    table = table[(table["dataset"] == dataset.name) & (table["split"] == split)].rename(columns={"machine": "column"})
    auc = "AUC" if "AUC" in dataset.official_score["metrics"] else "AUC (source)"
    values = []
    for name, metric in {"auc_source": auc, "auc_target": "AUC (target)", "pauc": "pAUC"}.items():
        fractions = {"published": table[name] / 100, "published std": table[f"std_{name}"] / 100}
        values.append(table.assign(metric=metric, **fractions))
    columns = ["score", "metric", "column", "published", "published std", "trials", "by", "source"]
    values = pd.concat(values).dropna(subset="published").sort_index(kind="stable")[columns]  # in file order
    scores = [_add_means(rows, dataset, split) for _, rows in values.groupby("score", sort=False)]
    return pd.concat(scores or [values], ignore_index=True)


def _add_means(values: pd.DataFrame, dataset: Dataset, split: str) -> pd.DataFrame:
    """The published values of a score, with the means that can be computed from them."""
    sections = {m.name: m.sections[0] for m in dataset.tested(split).values() if len(m.sections) == 1}
    single = values.assign(section=values["column"].map(sections)).dropna(subset="section")
    by_section = single.set_index(["column", "section", "metric"])[["published"]]
    means = means_over_sections(by_section, dataset, split).dropna().reset_index()
    means = pd.concat([means[means["metric"] == metric] for metric in reversed(summary_metrics(dataset))])
    everything = pd.concat([means.assign(**values[["score", "trials", "by", "source"]].iloc[0]), values])
    # The mean over a machine type's only section equals the published value; keep the published digits.
    return everything.groupby(["metric", "column"], sort=False, as_index=False).last()[values.columns]


def compare(
    scores: Mapping[str, str], by_seed: pd.DataFrame, statistics: pd.DataFrame, published: pd.DataFrame
) -> pd.DataFrame:
    """Compare our values with those published for the same score.

    Args:
        scores: system → score.
        by_seed: (system, seed, metric, column) → value.
        statistics: (system, metric, column) → mean and std over our seeds.

    Returns:
        (system, metric, column) → a table. `outside`: whether the difference is larger than MAX_DEVIATIONS published
        standard deviations, or else those of our seeds; missing if both are of fewer than MIN_TRAININGS trainings.
    """
    systems = pd.DataFrame({"system": list(scores.keys()), "score": list(scores.values())})
    table = systems.merge(published, on="score").merge(statistics.reset_index(), on=VALUE_KEYS, how="left")
    table = table.rename(columns={"mean": "ours"})
    table["difference"] = table["ours"] - table["published"]
    seeds = by_seed["value"].groupby(VALUE_KEYS).count().reindex(pd.MultiIndex.from_frame(table[VALUE_KEYS])).to_numpy()
    ours = table["std"].where(seeds >= MIN_TRAININGS)
    limit = MAX_DEVIATIONS * table["published std"].where(table["trials"] >= MIN_TRAININGS).fillna(ours)
    is_known = limit.notna() & table["difference"].notna()
    table["outside"] = (table["difference"].abs() > limit).astype("Int64").where(is_known)
    columns = ["ours", "std", "published", "published std", "difference", "outside", "trials", "by", "source"]
    return table.set_index(VALUE_KEYS)[columns]
