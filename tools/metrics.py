"""Metrics of one section, and their means over sections.

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
    """The metrics of one section's clips, as fractions; `nan` where one is not defined.

    Anomalous clips of both domains count in AUC (source) and in AUC (target), and all clips in pAUC.

    Args:
        is_anomaly, is_target, scores, decisions: one value a clip. Without decisions, what rests on them is `nan`.
        max_fpr: p of pAUC, which is standardised to 0.5 for chance and 1 for perfection.

    Returns:
        The metrics of DOMAIN_METRICS, or of SINGLE_DOMAIN_METRICS where all clips are of the source domain.
    """
    truth, target, scores = np.array(is_anomaly, bool), np.array(is_target, bool), np.array(scores, float)
    everything = np.ones(len(truth), bool)
    decided = np.full(len(truth), np.nan) if decisions is None else np.array(decisions, float)
    if not target.any():
        values = (
            _auc(truth, scores, everything),
            _auc(truth, scores, everything, max_fpr),
            *_precision_recall_f1(truth, decided, everything),
        )
        return dict(zip(SINGLE_DOMAIN_METRICS, values, strict=True))
    of_source, of_target = (_precision_recall_f1(truth, decided, domain) for domain in (~target, target))
    values = (
        _auc(truth, scores, ~target | truth),
        _auc(truth, scores, target | truth),
        _auc(truth, scores, everything, max_fpr),
        _auc(truth, scores, ~target, max_fpr),
        _auc(truth, scores, target, max_fpr),
        *(value for pair in zip(of_source, of_target, strict=True) for value in pair),
    )
    return dict(zip(DOMAIN_METRICS, values, strict=True))


def _auc(truth: np.ndarray, scores: np.ndarray, chosen: np.ndarray, max_fpr: float = 1.0) -> float:
    """scikit-learn's `roc_auc_score`, to the last bit; importing scikit-learn takes longer than scoring all the clips.

    Source of the standardised partial area: D. McClish, "Analyzing a portion of the ROC curve", 1989.
    """
    if len(set(truth[chosen])) < 2:  # not defined without both classes
        return float("nan")
    fpr, tpr = _roc_curve(truth[chosen], scores[chosen])
    if max_fpr == 1:
        return float(np.trapezoid(tpr, fpr))
    inside = fpr <= max_fpr
    edge = np.interp(max_fpr, fpr, tpr)
    area = np.trapezoid(np.append(tpr[inside], edge), np.append(fpr[inside], max_fpr))
    chance, perfection = max_fpr**2 / 2, max_fpr
    return float(0.5 * (1 + (area - chance) / (perfection - chance)))


def _roc_curve(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The corners of the ROC curve: false and true positive rates as the threshold falls."""
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


def arithmetic_mean(values: Sequence[float] | np.ndarray) -> float:
    """The arithmetic mean; `nan` where one value is."""
    return float(np.mean(np.asarray(values, float))) if len(values) else float("nan")


def harmonic_mean(values: Sequence[float] | np.ndarray) -> float:
    """The harmonic mean of values floored at the smallest double step, 2.2e-16, so that a 0 does not divide."""
    floored = np.maximum(np.asarray(values, float), sys.float_info.epsilon)
    return float(1 / np.mean(1 / floored)) if len(values) else float("nan")


MEANS = {"harmonic": harmonic_mean, "arithmetic": arithmetic_mean}  # as the catalog names them
