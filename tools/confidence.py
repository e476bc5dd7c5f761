"""How far metrics may be trusted: bootstrap intervals over test clips, and differences larger than chance.

Clips are drawn with replacement within each section, domain and label, so that each resample has as many clips of each
kind as the test data; the interval is between percentiles. All systems are computed on the same resamples: differences
are paired. Seeds are not resampled: with several, a system's value is the mean over its own.

Source: B. Efron, R. J. Tibshirani, "An Introduction to the Bootstrap", 1993, chapters 13 and 16.

B: resamples, n: clips of a section.
"""

import logging
import math
import zlib
from collections.abc import Sequence

import numpy as np

from config import BaselineError
from tools.metrics import clips_of_metric, largest_fpr, means_over_sections
from tools.results import Run, SectionScores

LEVEL = 0.95  # of the intervals

log = logging.getLogger("baseline")

# (metric or official score, machine type or mean) → its value in each resample (B,)
Resampled = dict[tuple[str, str], np.ndarray]


def interval_of(values: np.ndarray) -> tuple[float, float]:
    """The lower and the upper end of the middle LEVEL of the resamples' values (B,)."""
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def resample_systems(runs: Sequence[Run], max_fpr: float, resamples: int) -> dict[str, Resampled]:
    """System → its figures in each resample, the mean over its seeds. A run that cannot be resampled is warned of."""
    of_seeds: dict[str, list[Resampled]] = {}
    for run in runs:
        try:
            resampled = _resample_run(run, max_fpr, resamples)
            of_seeds.setdefault(run.system, []).append(resampled)
        except BaselineError as error:
            log.warning("%s, seed %d: not in the intervals: %s", run.system, run.config.seed, error)
    systems = {}
    for system, seeds in of_seeds.items():
        figures = dict.fromkeys(figure for seed in seeds for figure in seed)
        systems[system] = {f: np.mean([seed[f] for seed in seeds if f in seed], axis=0) for f in figures}
    return systems


def _resample_run(run: Run, max_fpr: float, resamples: int) -> Resampled:
    values, written = {}, run.metrics()
    for name, machine in run.machines.items():
        scored = run.sections(machine)
        for section in dict.fromkeys(section for n, section, _ in written if n == name):
            metrics = [m for m in run.dataset.official_score["metrics"] if (name, section, m) in written]
            result = scored.get(section)
            computed = result.metrics(max_fpr) if result and result.labelled else {}
            if not all(math.isclose(written[name, section, metric], computed.get(metric, -1)) for metric in metrics):
                raise BaselineError(
                    f"{run.paths(machine).metrics} does not go with the anomaly scores beside it, the labels of their "
                    f"clips and --max_fpr {max_fpr}. Test again, or give the --max_fpr of the test."
                )
            for metric, resampled in resample_metrics(result, name, metrics, max_fpr, resamples).items():
                values[name, section, metric] = resampled
    rows = means_over_sections(values, run.dataset, run.config.split)
    return {(row, column): v for row, columns in rows.items() for column, v in columns.items() if np.ndim(v)}


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


def chance_of(differences: np.ndarray) -> float:
    """The two-sided p value of the differences between two systems in all resamples (B,)."""
    smaller = min(np.sum(differences <= 0), np.sum(differences >= 0))
    return float(min(1.0, 2 * (smaller + 1) / (len(differences) + 1)))
