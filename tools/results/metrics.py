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
SINGLE_DOMAIN_METRICS = ("AUC", "pAUC", "precision", "recall", "F1 score")


def section_metrics(
    is_anomaly: Sequence[bool],
    is_target: Sequence[bool],
    scores: Sequence[float],
    decisions: Sequence[int] | None,
    max_fpr: float,
) -> dict[str, float]:
    """The metrics of one section's clips, as fractions; `nan` if a metric is not defined.

    Anomalous clips of both domains count in AUC (source) and in AUC (target), and all clips in pAUC.

    Args:
        is_anomaly, is_target, scores, decisions: one value a clip. Without decisions, precision, recall and F1 score
            are `nan`.
        max_fpr: p of pAUC, which is standardised: 0.5 for chance, 1 for perfection.

    Returns:
        The metrics of DOMAIN_METRICS, or of SINGLE_DOMAIN_METRICS if all clips are of the source domain.
    """
    truth, target, scores = np.array(is_anomaly, bool), np.array(is_target, bool), np.array(scores, float)
    names = DOMAIN_METRICS if target.any() else SINGLE_DOMAIN_METRICS
    values = {}
    for name in names:
        if "AUC" in name:
            chosen = clips_of_metric(name, truth, target)
            values[name] = _auc(truth[chosen], scores[chosen], largest_fpr(name, max_fpr))
    for suffix, domain in {" (source)": ~target, " (target)": target}.items() if target.any() else [("", ~target)]:
        decided = None if decisions is None else np.array(decisions)[domain] > 0
        precision, recall, f1 = _precision_recall_f1(truth[domain], decided)
        values |= {f"precision{suffix}": precision, f"recall{suffix}": recall, f"F1 score{suffix}": f1}
    return {name: values[name] for name in names}


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


def _auc(truth: np.ndarray, scores: np.ndarray, max_fpr: float) -> float:
    from sklearn.metrics import roc_auc_score

    if len(set(truth)) < 2:  # not defined without both classes
        return float("nan")
    return float(roc_auc_score(truth, scores, max_fpr=max_fpr))


def roc_curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rates at the corners of the ROC curve, (corners,) each."""
    import sklearn.metrics

    fpr, tpr, _ = sklearn.metrics.roc_curve(truth, scores)
    return fpr, tpr


def _precision_recall_f1(truth: np.ndarray, decided: np.ndarray | None) -> tuple[float, float, float]:
    from sklearn.metrics import precision_recall_fscore_support

    if decided is None or not len(truth):
        return (float("nan"),) * 3
    precision, recall, *_ = precision_recall_fscore_support(truth, decided, average="binary", zero_division=0)
    # The published baseline's formula: scikit-learn's F1 score may differ from it in the last digit.
    f1 = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return float(precision), float(recall), float(f1)


def arithmetic_mean(values: Sequence[float] | np.ndarray) -> float | np.ndarray:
    """The arithmetic mean, of arrays over their first axis; `nan` if one value is."""
    return _plain(np.mean(np.asarray(values, float), axis=0)) if len(values) else float("nan")


def harmonic_mean(values: Sequence[float] | np.ndarray) -> float | np.ndarray:
    """The harmonic mean, of arrays over their first axis. Values are floored at 2.2e-16, to avoid a division by 0."""
    floored = np.maximum(np.asarray(values, float), sys.float_info.epsilon)
    return _plain(1 / np.mean(1 / floored, axis=0)) if len(values) else float("nan")


def _plain(value: np.ndarray) -> float | np.ndarray:
    return value if np.ndim(value) else float(value)


MEANS = {"harmonic": harmonic_mean, "arithmetic": arithmetic_mean}  # as the catalog names them
