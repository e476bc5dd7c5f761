"""How far metrics may be trusted: bootstrap intervals over test clips, and differences larger than chance.

Clips are drawn with replacement within each section, domain and label, so that each resample has as many clips of each
kind as the test data. Intervals are bias-corrected percentiles: in a resample some clips stand twice, which raises its
pAUC a little. All systems are computed on the same resamples: differences are paired. Seeds are not resampled: with
several, a system's value is the mean over its own.

Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 14 and 16.

B: resamples, n: clips of a section.
"""

import logging
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from config import BaselineError
from datasets.catalog import Machine
from tools.results.metrics import COLUMNS, clips_of_metric, largest_fpr, means_over_sections
from tools.results.runs import Run
from tools.results.score_files import SectionScores

CHANCE = 0.05  # a smaller p is more than chance
LEVEL = 0.95  # of the intervals

log = logging.getLogger("baseline")

Figure = tuple[str, str]  # metric or official score, machine type or mean over all


@dataclass(frozen=True)
class Resampled:
    """The figures of a run or a system in each resample of the test clips.

    Attributes:
        figures: figure → its value in each resample (B,).
        clips: (machine type, section) → name, label and domain of each of its clips.
    """

    figures: dict[Figure, np.ndarray]
    clips: dict[tuple[str, str], frozenset]

    def rests_on(self, column: str) -> dict[tuple[str, str], frozenset]:
        """The clips that figures of a column rest on: a machine type's, or all."""
        return {key: clips for key, clips in self.clips.items() if column in (*COLUMNS, key[0])}


def interval_of(values: np.ndarray, value: float) -> tuple[float, float]:
    """The bias-corrected interval of LEVEL.

    Args:
        values: in each resample (B,).
        value: of the clips themselves.
    """
    from scipy.special import ndtr, ndtri

    ends = ndtr(2 * _bias(values, value) + ndtri([(1 - LEVEL) / 2, (1 + LEVEL) / 2]))
    low, high = np.quantile(values, ends)
    return float(low), float(high)


def chance_of(differences: np.ndarray, difference: float) -> float:
    """The two-sided p value of a difference between two systems: 1 less the level of the interval that ends at 0.

    Args:
        differences: in each resample (B,).
        difference: of the clips themselves.
    """
    from scipy.special import ndtr, ndtri

    below = ndtr(ndtri(_share_below(differences, 0)) - 2 * _bias(differences, difference))
    return float(min(1.0, 2 * min(below, 1 - below)))


def _bias(values: np.ndarray, value: float) -> float:
    """How far the resamples' median is from the value, in standard deviations of a normal distribution."""
    from scipy.special import ndtri

    return float(ndtri(_share_below(values, value)))


def _share_below(values: np.ndarray, value: float) -> float:
    """The share of values below `value`, those equal by half; half a value more at each end, lest it be 0 or 1."""
    equal = np.isclose(values, value, rtol=1e-12, atol=1e-12)
    return float((np.sum((values < value) & ~equal) + np.sum(equal) / 2 + 0.5) / (len(values) + 1))


def paired_differences(first: Resampled, second: Resampled) -> dict[Figure, np.ndarray]:
    """Figure → second less first in each resample (B,), of figures of both that rest on the same clips."""
    return {
        figure: second.figures[figure] - values
        for figure, values in first.figures.items()
        if figure in second.figures and first.rests_on(figure[1]) == second.rests_on(figure[1])
    }


def resample_systems(runs: Sequence[Run], max_fpr: float, resamples: int) -> dict[str, Resampled]:
    """System → its figures in each resample, the mean over its seeds.

    A figure is left out where one of the seeds that count in it cannot be resampled, or was tested on other clips; a
    warning says why.
    """
    systems = {}
    for system in dict.fromkeys(run.system for run in runs):
        of_seeds = [_resample_run(run, max_fpr, resamples) for run in runs if run.system == system]
        figures: dict[Figure, np.ndarray] = {}
        for figure in dict.fromkeys(figure for known, _ in of_seeds for figure in known):
            counted = [seed for known, seed in of_seeds if figure in known]
            if not all(figure in seed.figures for seed in counted):
                continue
            if any(seed.rests_on(figure[1]) != counted[0].rests_on(figure[1]) for seed in counted):
                log.warning("%s, %s: the seeds were tested on different clips; no interval.", system, " ".join(figure))
                continue
            figures[figure] = np.mean([seed.figures[figure] for seed in counted], axis=0)
        clips = {key: clips for _, seed in of_seeds for key, clips in seed.clips.items()}
        if figures:
            systems[system] = Resampled(figures, clips)
    return systems


def _resample_run(run: Run, max_fpr: float, resamples: int) -> tuple[list[Figure], Resampled]:
    """The figures that a run has, and those of its sections that can be resampled."""
    values, clips, written = {}, {}, run.metrics()
    for name, machine in run.machines.items():
        for section in dict.fromkeys(section for n, section, _ in written if n == name):
            metrics = {m: written.get((name, section, m), math.nan) for m in run.dataset.official_score["metrics"]}
            metrics = {metric: value for metric, value in metrics.items() if not math.isnan(value)}
            try:
                result = _scores_behind(run, machine, section, metrics, max_fpr)
            except BaselineError as error:
                log.warning("%s, seed %d, %s: no intervals: %s", run.system, run.config.seed, name, error)
                continue
            clips[name, section] = frozenset((clip.name, clip.is_anomaly, clip.is_target) for clip in result.clips)
            for metric, resampled in resample_metrics(result, name, list(metrics), max_fpr, resamples).items():
                values[name, section, metric] = resampled
    known, rows = (means_over_sections(each, run.dataset, run.config.split) for each in (written, values))
    figures = {(row, column): v for row, columns in rows.items() for column, v in columns.items() if np.ndim(v)}
    has = [(row, column) for row, columns in known.items() for column, v in columns.items() if not math.isnan(v)]
    return has, Resampled(figures, clips)


def _scores_behind(
    run: Run, machine: Machine, section: str, metrics: dict[str, float], max_fpr: float
) -> SectionScores:
    """The scores that a section's metrics were computed from.

    Raises:
        BaselineError: they are not there, or others, or their labels are not known.
    """
    paths = run.paths(machine)
    result = run.section(machine, section)
    if result is None:
        raise BaselineError(f"{paths.anomaly_scores(section)} is missing. Test again.")
    if not result.labelled:
        where = machine.directory(run.config.dataset_directory)
        raise BaselineError(f"the labels of its clips are not known: they are not in {where}. Say --dataset_directory.")
    computed = result.metrics(max_fpr)
    if not all(math.isclose(value, computed.get(metric, -1)) for metric, value in metrics.items()):
        raise BaselineError(
            f"{paths.metrics} does not go with the anomaly scores beside it, the labels of their clips and --max_fpr "
            f"{max_fpr}. Test again, or give the --max_fpr of the test."
        )
    return result


def resample_metrics(
    result: SectionScores, machine: str, metrics: Sequence[str], max_fpr: float, resamples: int
) -> dict[str, np.ndarray]:
    """Metric → its value in each resample (B,). Which clips are drawn depends on the clips alone, not on their scores.

    Args:
        metrics: AUCs and pAUCs that are defined for these clips.
    """
    clips = sorted(zip(result.clips, result.scores, strict=True), key=lambda pair: pair[0].name)
    is_anomaly, is_target = (np.array([getattr(c, name) for c, _ in clips]) for name in ("is_anomaly", "is_target"))
    scores = np.array([score for _, score in clips])
    counts = draw_counts(2 * is_anomaly + is_target, resamples, zlib.crc32(f"{machine} {result.section}".encode()))
    values = {}
    for metric in metrics:
        chosen = clips_of_metric(metric, is_anomaly, is_target)
        of_chosen = is_anomaly[chosen], scores[chosen], counts[:, chosen]
        values[metric] = weighted_auc(*of_chosen, largest_fpr(metric, max_fpr))
    return values


def draw_counts(groups: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """How often each clip is in each resample, (B, n) int64: as many of each group as there are.

    Args:
        groups: (n,) the group of each clip.
    """
    generator = np.random.default_rng(seed)
    counts = np.zeros((resamples, len(groups)), np.int64)
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        counts[:, members] = generator.multinomial(len(members), np.full(len(members), 1 / len(members)), resamples)
    return counts


def weighted_auc(is_anomaly: np.ndarray, scores: np.ndarray, counts: np.ndarray, max_fpr: float = 1.0) -> np.ndarray:
    """The AUC, or the standardised pAUC, of each resample (B,): that of the clips repeated as `counts` says.

    Args:
        is_anomaly, scores: (n,), with clips of both labels.
        counts: (B, n), see draw_counts.
    """
    falling = np.argsort(-scores, kind="stable")
    last_of_equals = np.append(np.diff(scores[falling]) != 0, True)
    rates = []
    for of_label in (~is_anomaly, is_anomaly):
        caught = np.cumsum(counts[:, falling] * of_label[falling], axis=1)[:, last_of_equals]
        rates.append(np.pad(caught / caught[:, -1:], ((0, 0), (1, 0))))  # (B, corners of the ROC curve)
    fpr, tpr = rates
    # Each edge of the curve counts as far as it lies below max_fpr.
    inside = np.minimum(fpr, max_fpr)
    width, part = np.diff(fpr, axis=1), np.diff(inside, axis=1)
    share = np.divide(part, width, out=np.zeros_like(width), where=width > 0)
    area = (part * (tpr[:, :-1] + share * np.diff(tpr, axis=1) / 2)).sum(axis=1)
    if max_fpr == 1:
        return area
    chance = max_fpr**2 / 2
    return 0.5 * (1 + (area - chance) / (max_fpr - chance))
