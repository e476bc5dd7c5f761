"""What the organisers' evaluator does with a submission, as it is described; written for being obvious.

It sorts lines by name and matches them to its labels by position. A header, a tab, a blank line, too few lines or a NaN
end it; a system that lacks a file is passed over.
"""

import csv
from pathlib import Path

import numpy as np
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score


def evaluate(system: Path, labels: Path, machines: list[str]) -> float | None:
    """The official score of a system's folder; None: it was passed over.

    Args:
        labels: holds ground_truth_data/ and ground_truth_domain/.
    """
    names = [f"{machine}_section_00_test.csv" for machine in machines]
    if not all((system / f"{kind}_{name}").exists() for name in names for kind in ("anomaly_score", "decision_result")):
        return None
    values = []
    for name in names:
        is_anomaly = np.array([int(row[1]) for row in rows(labels / "ground_truth_data" / f"ground_truth_{name}")])
        is_target = np.array([int(row[1]) for row in rows(labels / "ground_truth_domain" / f"ground_truth_{name}")])
        scores, decisions = (
            np.array([float(row[1]) for row in rows(system / f"{kind}_{name}")][: len(is_anomaly)])
            for kind in ("anomaly_score", "decision_result")
        )
        if len(scores) != len(is_anomaly) or len(decisions) != len(is_anomaly) or not set(decisions) <= {0, 1}:
            raise ValueError(f"{name}: cannot be matched to the labels")
        for domain in (0, 1):
            chosen = (is_target == domain) | (is_anomaly == 1)
            values.append(roc_auc_score(is_anomaly[chosen], scores[chosen]))
        values.append(roc_auc_score(is_anomaly, scores, max_fpr=0.1))
    return float(hmean(np.maximum(values, np.finfo(float).eps)))


def evaluate_2021(score_files: list[Path]) -> float:
    """The official score of 2021 from the score CSVs of labelled clips: each metric within its domain."""
    values = []
    for path in score_files:
        for domain in ("source", "target"):
            clips = [(name, float(score)) for name, score in csv.reader(path.open()) if f"_{domain}_" in name]
            is_anomaly, scores = ["_anomaly_" in name for name, _ in clips], [score for _, score in clips]
            values.append(roc_auc_score(is_anomaly, scores))
            values.append(roc_auc_score(is_anomaly, scores, max_fpr=0.1))
    return float(hmean(np.maximum(values, np.finfo(float).eps)))


def rows(path: Path) -> list[list[str]]:
    with path.open() as file:
        return sorted(csv.reader(file), key=lambda row: row[0])
