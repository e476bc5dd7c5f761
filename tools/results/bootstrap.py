"""Bootstrap over test clips: confidence intervals of metrics, and significance of differences between systems.

Clips are drawn with replacement within each section, domain and label. Intervals are bias-corrected percentiles,
because repeated clips raise the pAUC of a resample a little. All systems use the same resamples, so differences are
paired. Seeds are not resampled: a system's value is the mean over its seeds. With few clips, the bootstrap is too
optimistic: with three of each label, a third of equal systems would differ at p < 0.05. See MIN_CLIPS.

Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 14 and 16.

B: number of resamples, n: number of clips in a section.
"""

import itertools
import logging
import math
import zlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from config import BaselineError
from datasets.catalog import Machine
from tools.results.metrics import clips_of_metric, largest_fpr
from tools.results.official import COLUMNS, VALUE_KEYS, means_over_sections
from tools.results.runs import Run
from tools.results.score_files import SectionScores

SIGNIFICANCE = 0.05  # a difference with a smaller p is significant
CONFIDENCE = 0.95  # level of the confidence intervals
MIN_CLIPS = 20  # normal clips, and anomalous clips, that a metric needs

log = logging.getLogger("baseline")


def confidence_interval(values: np.ndarray, value: float) -> tuple[float, float]:
    """The bias-corrected confidence interval, at level CONFIDENCE.

    Args:
        values: of the resamples, (B,).
        value: of the original clips.
    """
    from scipy.special import ndtr, ndtri

    ends = ndtr(2 * _z_score(values, value) + ndtri([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]))
    low, high = np.quantile(values, ends)
    return float(low), float(high)


def p_value(differences: np.ndarray, difference: float) -> float:
    """The two-sided p value of a difference: 1 minus the level of the confidence interval with one end at 0.

    See confidence_interval for the arguments.
    """
    from scipy.special import ndtr

    below = ndtr(_z_score(differences, 0) - 2 * _z_score(differences, difference))
    return float(min(1.0, 2 * min(below, 1 - below)))


def _z_score(values: np.ndarray, value: float) -> float:
    """How far a value is above the median of `values`, in standard deviations of a normal distribution."""
    from scipy.special import ndtri

    equal = np.isclose(values, value, rtol=1e-12, atol=1e-12)
    below = np.sum((values < value) & ~equal) + np.sum(equal) / 2
    return float(ndtri((below + 0.5) / (len(values) + 1)))  # + 0.5 and + 1: the fraction is never 0 or 1


def find_intervals(resampled: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    """(system, metric, column) → low, high.

    Args:
        resampled: see resample_systems.
        means: (system, metric, column) → value of the original clips.
    """
    resampled = resampled.droplevel("clips")
    intervals = [
        confidence_interval(row, means[key]) for key, row in zip(resampled.index, resampled.to_numpy(), strict=True)
    ]
    return pd.DataFrame(intervals, resampled.index, ["low", "high"])


def find_differences(resampled: pd.DataFrame, means: pd.Series) -> pd.DataFrame:
    """(system, minus, metric, column) → difference, low, high, p; only if both systems have the same clips."""
    rows = []
    for first, second in itertools.combinations(resampled.index.unique("system"), 2):
        a, b = resampled.loc[first], resampled.loc[second]
        common = a.index.intersection(b.index, sort=False)  # same metric, column and clips
        for (metric, column, _), values in zip(common, (b.loc[common] - a.loc[common]).to_numpy(), strict=True):
            difference = means[second, metric, column] - means[first, metric, column]
            interval = confidence_interval(values, difference)
            rows.append([second, first, metric, column, difference, *interval, p_value(values, difference)])
    names = ["system", "minus", "metric", "column"]
    return pd.DataFrame(rows, columns=[*names, "difference", "low", "high", "p"]).set_index(names)


def resample_systems(runs: Sequence[Run], resamples: int) -> pd.DataFrame:
    """(system, metric, column, clips) → the mean over the system's seeds, one column per resample of the clips.

    `clips` is a hash of the clips that a value is computed from. A value is left out, with a warning, if one of its
    seeds cannot be resampled, if its seeds were tested on different clips, or if it has too few clips.
    """
    too_few: set[str] = set()
    by_seed = {(run.system, run.config.seed): _resample_run(run, resamples, too_few) for run in runs}
    if too_few:
        reason = f"fewer than {MIN_CLIPS} normal or {MIN_CLIPS} anomalous test clips"
        log.warning("%s: no intervals and no differences: %s.", ", ".join(sorted(too_few)), reason)
    means = {}
    for (system, metric, column), seeds in pd.concat(by_seed, names=["system", "seed"]).groupby(VALUE_KEYS, sort=False):
        clips = seeds.index.unique("clips")
        if seeds.isna().to_numpy().any():
            continue
        if len(clips) > 1:
            log.warning("%s, %s %s: no interval: the seeds were tested on different clips.", system, metric, column)
            continue
        means[system, metric, column, clips[0]] = np.ascontiguousarray(seeds.to_numpy()).mean(axis=0)
    index = pd.MultiIndex.from_tuples(list(means), names=[*VALUE_KEYS, "clips"])
    return pd.DataFrame(list(means.values()), index, range(resamples), float)


def _resample_run(run: Run, resamples: int, too_few: set[str]) -> pd.DataFrame:
    """The values of one run, as in resample_systems; `nan` if some of its clips cannot be resampled.

    Adds machine types with too few clips to `too_few`.
    """
    written = run.metrics()
    values, clips = {}, {}
    for (name, section), metrics in written["value"].groupby(["machine", "section"], sort=False):
        defined = metrics.loc[name, section].reindex(run.dataset.official_score["metrics"]).dropna()
        try:
            result = _scores_behind(run, run.machines[name], section, defined)
        except BaselineError as error:
            log.warning("%s, seed %d, %s: no intervals: %s", run.system, run.config.seed, name, error)
            continue
        clips[name, section] = frozenset(
            (clip.name, clip.is_anomaly, clip.is_target, checksum)
            for clip, checksum in zip(result.clips, result.checksums, strict=True)
        )
        enough = [metric for metric in defined.index if _has_enough_clips(metric, result)]
        if len(enough) < len(defined):
            too_few.add(name)
        for metric, resampled in resample_metrics(result, name, enough, resamples).items():
            values[name, section, metric] = resampled
    index = pd.MultiIndex.from_tuples(list(values), names=written.index.names)
    frame = pd.DataFrame(list(values.values()), index, range(resamples), float)
    means = means_over_sections(frame, run.dataset, run.config.split)
    means["clips"] = [
        hash(frozenset((key, value) for key, value in clips.items() if column in (*COLUMNS, key[0])))
        for column in means.index.get_level_values("column")
    ]
    has_value = means_over_sections(written, run.dataset, run.config.split)["value"].notna()
    return means[has_value].set_index("clips", append=True)


def _scores_behind(run: Run, machine: Machine, section: str, metrics: pd.Series) -> SectionScores:
    """The scores that a section's metrics were computed from; an error if they are missing or do not match."""
    paths = run.paths(machine)
    result = run.section(machine, section)
    if result is None:
        raise BaselineError(f"{paths.anomaly_scores(section)} is missing. Test again.")
    if not result.labelled:
        raise BaselineError(f"{paths.test_record}: the clips had no labels when they were tested. Test again.")
    computed = result.metrics(list(metrics.index))
    if not all(math.isclose(value, computed.get(metric, -1)) for metric, value in metrics.items()):
        raise BaselineError(
            f"{paths.metrics} does not match the anomaly scores beside it and the labels of their clips. Test again."
        )
    return result


def _has_enough_clips(metric: str, result: SectionScores) -> bool:
    is_anomaly, is_target = (np.array([getattr(c, name) for c in result.clips]) for name in ("is_anomaly", "is_target"))
    counted = is_anomaly[clips_of_metric(metric, is_anomaly, is_target)]
    return bool(min(counted.sum(), (~counted).sum()) >= MIN_CLIPS)


def resample_metrics(
    result: SectionScores, machine: str, metrics: Sequence[str], resamples: int
) -> dict[str, np.ndarray]:
    """AUC or pAUC → its value in each resample, (B,). The scores do not influence which clips are drawn."""
    clips = sorted(zip(result.clips, result.scores, strict=True), key=lambda pair: pair[0].name)
    is_anomaly, is_target = (np.array([getattr(c, name) for c, _ in clips]) for name in ("is_anomaly", "is_target"))
    scores = np.array([score for _, score in clips])
    counts = draw_counts(2 * is_anomaly + is_target, resamples, zlib.crc32(f"{machine} {result.section}".encode()))
    values = {}
    for metric in metrics:
        chosen = clips_of_metric(metric, is_anomaly, is_target)
        fpr = largest_fpr(metric, result.max_fpr)
        values[metric] = weighted_auc(is_anomaly[chosen], scores[chosen], counts[:, chosen], fpr)
    return values


def draw_counts(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each clip is in each resample, (B, n). The size of each group stays the same; groups: (n,)."""
    generator = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(groups)), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        counts[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return counts


def weighted_auc(is_anomaly: np.ndarray, scores: np.ndarray, counts: np.ndarray, max_fpr: float = 1.0) -> np.ndarray:
    """The AUC or the standardised pAUC of each resample, (B,). `counts` (B, n) says how often each clip is in it."""
    falling = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[falling]) != 0, True)
    rates = []
    for has_label in (~is_anomaly, is_anomaly):
        caught = np.cumsum(counts[:, falling] * has_label[falling], axis=1)[:, last_of_equals]
        rates.append(np.pad(caught / caught[:, -1:], ((0, 0), (1, 0))))  # (B, corners of the ROC curve)
    fpr, tpr = rates
    # Only the part of each segment below max_fpr counts.
    inside = np.minimum(fpr, max_fpr)
    width, part = np.diff(fpr, axis=1), np.diff(inside, axis=1)
    share = np.divide(part, width, out=np.zeros_like(width), where=width > 0)
    area = (part * (tpr[:, :-1] + share * np.diff(tpr, axis=1) / 2)).sum(axis=1)
    if max_fpr == 1:
        return area
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))
