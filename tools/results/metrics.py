"""Metrics of one section, and their means.

Source: https://dcase.community/challenge2024/task-first-shot-unsupervised-anomalous-sound-detection-for-machine-condition-monitoring#evaluation-metrics
"""

import sys
from collections.abc import Sequence

import numpy as np

DOMAIN_METRICS = (
    *("AUC (source)", "AUC (target)", "pAUC", "pAUC (source)", "pAUC (target)"),
    *("precision (source)", "precision (target)", "recall (source)", "recall (target)"),
    *("F1 score (source)", "F1 score (target)"),
)
WITHIN_DOMAIN_METRICS = (
    "AUC within source",
    "AUC within target",
)  # in 2021's official score, but not in the result CSVs
SINGLE_DOMAIN_METRICS = ("AUC", "pAUC", "precision", "recall", "F1 score")


def section_metrics(
    is_anomaly: Sequence[bool],
    is_target: Sequence[bool],
    scores: Sequence[float],
    decisions: Sequence[int] | None,
    max_fpr: float,
    names: Sequence[str] | None = None,
) -> dict[str, float]:
    """The metrics of one section's clips, as fractions; `nan` if a metric is undefined.

    Args:
        is_anomaly, is_target, scores, decisions: one value per clip. Without decisions, precision, recall and F1 score
            are `nan`.
        max_fpr: p of pAUC. pAUC is standardised: 0.5 is chance, 1 is perfect.
        names: of the metrics; None: DOMAIN_METRICS, or SINGLE_DOMAIN_METRICS if all clips are of the source domain.
    """
    truth, target, scores = np.array(is_anomaly, bool), np.array(is_target, bool), np.array(scores, float)
    values = {}
    if names is None:
        names = DOMAIN_METRICS if target.any() else SINGLE_DOMAIN_METRICS
    for name in names:
        chosen = clips_of_metric(name, truth, target)
        if "AUC" in name:
            values[name] = _auc(truth[chosen], scores[chosen], largest_fpr(name, max_fpr))
        else:
            decided = None if decisions is None else np.array(decisions)[chosen] > 0
            values[name] = _decision_metric(name, truth[chosen], decided)
    return values


def clips_of_metric(metric: str, is_anomaly: np.ndarray, is_target: np.ndarray) -> np.ndarray:
    """The clips that a metric uses: (clips,) bool.

    AUC (source) and AUC (target) use the anomalies of both domains, AUC within source and within target do not.
    """
    of_domain = ~is_target if "source" in metric else is_target if "target" in metric else np.ones_like(is_target)
    return of_domain | is_anomaly if metric in ("AUC (source)", "AUC (target)") else of_domain


def largest_fpr(metric: str, max_fpr: float) -> float:
    """The false positive rate up to which a metric integrates the ROC curve."""
    return max_fpr if metric.startswith("pAUC") else 1.0


def _auc(truth: np.ndarray, scores: np.ndarray, max_fpr: float) -> float:
    from sklearn.metrics import roc_auc_score

    if len(set(truth)) < 2:  # not defined without both classes
        return float("nan")
    return float(roc_auc_score(truth, scores, max_fpr=max_fpr))


def _decision_metric(name: str, truth: np.ndarray, decided: np.ndarray | None) -> float:
    """Precision, recall or F1 score."""
    from sklearn.metrics import precision_score, recall_score

    if decided is None or not len(truth):
        return float("nan")
    precision, recall = (score(truth, decided, zero_division=0) for score in (precision_score, recall_score))
    if name.startswith("F1"):
        # The published baseline's formula; scikit-learn's may differ in the last digit.
        return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0
    return float(precision if name.startswith("precision") else recall)


def arithmetic_mean(values: Sequence[float] | np.ndarray) -> float | np.ndarray:
    """The arithmetic mean (of arrays: over the first axis); `nan` if any value is."""
    return np.mean(np.asarray(values, float), axis=0)


def harmonic_mean(values: Sequence[float] | np.ndarray) -> float | np.ndarray:
    """The harmonic mean (of arrays: over the first axis). Values below 2.2e-16 are raised to it: no division by 0."""
    floored = np.maximum(np.asarray(values, float), sys.float_info.epsilon)
    return 1 / np.mean(1 / floored, axis=0)


MEANS = {"harmonic": harmonic_mean, "arithmetic": arithmetic_mean}  # as the catalog names them
