"""Metrics of one section, their means over sections, and the official score.

Source: https://dcase.community/challenge2024/task-first-shot-unsupervised-anomalous-sound-detection-for-machine-condition-monitoring#evaluation-metrics
"""

import sys
from collections.abc import Mapping, Sequence

import numpy as np

from datasets.catalog import Dataset

DOMAIN_METRICS = (
    *("AUC (source)", "AUC (target)", "pAUC", "pAUC (source)", "pAUC (target)"),
    *("precision (source)", "precision (target)", "recall (source)", "recall (target)"),
    *("F1 score (source)", "F1 score (target)"),
)
SINGLE_DOMAIN_METRICS = ("AUC", "pAUC", "precision", "recall", "F1 score")


def section_metrics(
    is_anomaly: Sequence[bool],
    is_target: Sequence[bool],
    scores: Sequence[float],
    decisions: Sequence[int] | None,
    max_fpr: float,
) -> dict[str, float]:
    """The metrics of one section's clips, as fractions; `nan` where one is not defined.

    Anomalous clips of both domains count in AUC (source) and in AUC (target), and all clips in pAUC.

    Args:
        is_anomaly, is_target, scores, decisions: one value a clip. Without decisions, what rests on them is `nan`.
        max_fpr: p of pAUC, which is standardised to 0.5 for chance and 1 for perfection.

    Returns:
        The metrics of DOMAIN_METRICS, or of SINGLE_DOMAIN_METRICS where all clips are of the source domain.
    """
    truth, target, scores = np.array(is_anomaly, bool), np.array(is_target, bool), np.array(scores, float)
    decided = np.full(len(truth), np.nan) if decisions is None else np.array(decisions, float)
    names = DOMAIN_METRICS if target.any() else SINGLE_DOMAIN_METRICS
    areas = [
        _auc(truth, scores, clips_of_metric(name, truth, target), largest_fpr(name, max_fpr))
        for name in names
        if "AUC" in name
    ]
    if not target.any():
        decided_values = _precision_recall_f1(truth, decided, ~target)
    else:
        of_domains = (_precision_recall_f1(truth, decided, domain) for domain in (~target, target))
        decided_values = [value for pair in zip(*of_domains, strict=True) for value in pair]
    return dict(zip(names, (*areas, *decided_values), strict=True))


def clips_of_metric(metric: str, is_anomaly: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    """Which clips count in an AUC or pAUC: (clips,) bool. Anomalies of both domains count in the AUC of each."""
    return {
        "AUC": np.ones(len(is_target), bool),
        "pAUC": np.ones(len(is_target), bool),
        "AUC (source)": ~is_target | is_anomaly,
        "AUC (target)": is_target | is_anomaly,
        "pAUC (source)": ~is_target,
        "pAUC (target)": is_target,
    }[metric]


def largest_fpr(metric: str, max_fpr: float) -> float:
    """The false positive rate up to which the area of a metric is taken."""
    return max_fpr if metric.startswith("pAUC") else 1.0


def _auc(truth: np.ndarray, scores: np.ndarray, chosen: np.ndarray, max_fpr: float = 1.0) -> float:
    """scikit-learn's `roc_auc_score`, to the last bit; importing scikit-learn takes longer than scoring all the clips.

    Source of the standardised partial area: D. McClish, "Analyzing a portion of the ROC curve", 1989.
    """
    if len(set(truth[chosen])) < 2:  # not defined without both classes
        return float("nan")
    fpr, tpr = roc_curve(truth[chosen], scores[chosen])
    if max_fpr == 1:
        return float(np.trapezoid(tpr, fpr))
    inside = fpr <= max_fpr
    edge = np.interp(max_fpr, fpr, tpr)
    area = np.trapezoid(np.append(tpr[inside], edge), np.append(fpr[inside], max_fpr))
    chance, perfection = max_fpr**2 / 2, max_fpr
    return float(0.5 * (1 + (area - chance) / (perfection - chance)))


def roc_curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the ROC curve: false and true positive rates (corners,) as the threshold falls.

    Args:
        truth: (clips,) bool, of both labels; True: anomalous.
        scores: (clips,).
    """
    falling = np.argsort(-scores, kind="stable")
    truth, scores = truth[falling], scores[falling]
    last_of_equals = np.append(np.diff(scores) != 0, True)
    positives, negatives = (np.cumsum(counted)[last_of_equals] for counted in (truth, ~truth))
    corners = np.ones(len(positives), bool)
    corners[1:-1] = (np.diff(positives, 2) != 0) | (np.diff(negatives, 2) != 0)
    fpr, tpr = (np.append(0, counts[corners]) / counts[-1] for counts in (negatives, positives))
    return fpr, tpr


def _precision_recall_f1(truth: np.ndarray, decided: np.ndarray, chosen: np.ndarray) -> tuple[float, float, float]:
    if not chosen.any() or np.isnan(decided[chosen]).any():
        return (float("nan"),) * 3
    truth, positive = truth[chosen], decided[chosen] > 0
    hits = np.sum(truth & positive)
    # As in scikit-learn, a share of nothing is 0.
    precision = float(hits / positive.sum()) if positive.any() else 0.0
    recall = float(hits / truth.sum()) if truth.any() else 0.0
    return precision, recall, 2 * precision * recall / (precision + recall) if hits else 0.0


def arithmetic_mean(values: Sequence[float] | np.ndarray) -> float | np.ndarray:
    """The arithmetic mean, of arrays over their first axis; `nan` where one value is."""
    return _plain(np.mean(np.asarray(values, float), axis=0)) if len(values) else float("nan")


def harmonic_mean(values: Sequence[float] | np.ndarray) -> float | np.ndarray:
    """The harmonic mean, of arrays over their first axis; of values floored at 2.2e-16, so that a 0 does not divide."""
    floored = np.maximum(np.asarray(values, float), sys.float_info.epsilon)
    return _plain(1 / np.mean(1 / floored, axis=0)) if len(values) else float("nan")


def _plain(value: np.ndarray) -> float | np.ndarray:
    return value if np.ndim(value) else float(value)


MEANS = {"harmonic": harmonic_mean, "arithmetic": arithmetic_mean}  # as the catalog names them
COLUMNS = {"h-mean": "harmonic", "a-mean": "arithmetic"}  # of means over all machine types
OFFICIAL = "official score"


def means_over_sections(
    values: Mapping[tuple[str, str, str], float | np.ndarray], dataset: Dataset, split: str
) -> dict[str, dict[str, float | np.ndarray]]:
    """For each metric of the official score, and for the score: its means, and its value of each machine type.

    Args:
        values: (machine type, section, metric) → value, or an array of values, of which each is treated alone.

    Returns:
        Metric or OFFICIAL → column → value. The columns are COLUMNS, the means over all sections of all machine types,
        then each machine type (the mean over its sections). Where a machine type lacks a metric or a section, what
        rests on it is `nan`: it could not be compared.
    """
    machines, metrics = dataset.tested(split), dataset.official_score["metrics"]
    official = dataset.official_score["mean"]

    def mean(kind: str, names: Sequence[str], counted: Sequence[str]) -> float | np.ndarray:
        keys = [(name, section, metric) for name in names for section in machines[name].sections for metric in counted]
        return MEANS[kind]([values[key] for key in keys]) if all(key in values for key in keys) else float("nan")

    return {
        row: {column: mean(kind, list(machines), counted) for column, kind in COLUMNS.items()}
        | {name: mean(official, [name], counted) for name in machines}
        for row, counted in [*((metric, [metric]) for metric in metrics), (OFFICIAL, metrics)]
    }
