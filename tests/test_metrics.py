"""Metrics against examples worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import hmean
from sklearn.metrics import roc_auc_score

from tools.results.metrics import DOMAIN_METRICS, SINGLE_DOMAIN_METRICS, arithmetic_mean, harmonic_mean, section_metrics

# Source: normal 1, 3; anomalous 2, 5.  Target: normal 4, 6; anomalous 7, 3.5.
TRUTH = [False, False, True, True, False, False, True, True]
TARGET = [False] * 4 + [True] * 4
SCORES = [1.0, 3.0, 2.0, 5.0, 4.0, 6.0, 7.0, 3.5]
DECISIONS = [0, 0, 0, 1, 1, 1, 1, 0]


@pytest.fixture(scope="module")
def metrics():
    return section_metrics(TRUTH, TARGET, SCORES, DECISIONS, max_fpr=0.5)


def test_names_and_order(metrics):
    assert tuple(metrics) == DOMAIN_METRICS
    assert DOMAIN_METRICS[:3] == ("AUC (source)", "AUC (target)", "pAUC")


def test_auc_of_a_domain_counts_the_anomalies_of_both(metrics):
    # Anomalies 2, 5, 7, 3.5 against source normals 1, 3: all above 1; 5, 7, 3.5 above 3: 7 of 8 pairs.
    assert metrics["AUC (source)"] == pytest.approx(7 / 8)
    # Against target normals 4, 6: 5 and 7 above 4, 7 above 6: 3 of 8 pairs.
    assert metrics["AUC (target)"] == pytest.approx(3 / 8)


def test_pauc_is_standardised(metrics):
    # ROC over all clips: from the top 7(a) 6(n) 5(a) 4(n) 3.5(a) 3(n) 2(a) 1(n), four of each. Up to a false positive
    # rate of 0.5 the true positive rate is 1/4 until 0.25, then 2/4: area 3/16. Standardised as by McClish:
    # (1 + (area - least) / (most - least)) / 2, least = 0.5² / 2, most = 0.5.
    assert metrics["pAUC"] == pytest.approx((1 + (3 / 16 - 1 / 8) / (1 / 2 - 1 / 8)) / 2)
    # Source alone: 5(a) 3(n) 2(a) 1(n): true positive rate 1/2 up to 0.5: area 1/4.
    assert metrics["pAUC (source)"] == pytest.approx((1 + (1 / 4 - 1 / 8) / (3 / 8)) / 2)
    # Target alone: 7(a) 6(n) 4(n) 3.5(a): the same up to 0.5.
    assert metrics["pAUC (target)"] == pytest.approx((1 + (1 / 4 - 1 / 8) / (3 / 8)) / 2)


def test_precision_recall_f1_of_each_domain(metrics):
    assert (metrics["precision (source)"], metrics["recall (source)"]) == (1.0, 0.5)
    assert (metrics["precision (target)"], metrics["recall (target)"]) == (pytest.approx(1 / 3), 0.5)
    assert metrics["F1 score (source)"] == pytest.approx(2 / 3)
    assert metrics["F1 score (target)"] == pytest.approx(0.4)


def test_a_share_of_nothing_is_zero():
    metrics = section_metrics(TRUTH, TARGET, SCORES, [0] * 8, max_fpr=0.1)
    assert metrics["precision (source)"] == metrics["recall (source)"] == metrics["F1 score (source)"] == 0


def test_single_domain():
    metrics = section_metrics(TRUTH, [False] * 8, SCORES, DECISIONS, max_fpr=0.5)
    assert tuple(metrics) == SINGLE_DOMAIN_METRICS
    # Pairs with the anomaly above: 7 over 4 normals, 5 over 3, 3.5 over 2, 2 over 1.
    assert metrics["AUC"] == pytest.approx(10 / 16)
    assert (metrics["precision"], metrics["recall"]) == (0.5, 0.5)


@pytest.mark.parametrize("label", [True, False])
def test_one_class_only(label):
    metrics = section_metrics([label] * 8, TARGET, SCORES, DECISIONS, max_fpr=0.1)
    assert math.isnan(metrics["AUC (source)"])
    assert math.isnan(metrics["pAUC"])
    assert not math.isnan(metrics["precision (source)"])


def test_without_decisions_what_rests_on_them_is_nan():
    metrics = section_metrics(TRUTH, TARGET, SCORES, None, max_fpr=0.1)
    assert math.isnan(metrics["F1 score (target)"])
    assert metrics["AUC (source)"] == pytest.approx(7 / 8)


def test_means():
    assert arithmetic_mean([0.5, 1.0]) == 0.75
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert 0 < harmonic_mean([0.0, 1.0]) < 1e-15  # a 0 is floored at 2.2e-16
    assert math.isnan(harmonic_mean([math.nan, 1.0]))
    assert math.isnan(arithmetic_mean([math.nan, 1.0]))


def test_auc_is_that_of_scikit_learn():
    """To the last bit, with ties too."""
    generator = np.random.default_rng(0)
    for number in range(600):
        n = int(generator.integers(2, 200))
        truth = np.append(generator.random(n) < generator.choice([0.1, 0.5, 0.9]), [True, False])
        scores = [generator.standard_normal(n + 2), generator.integers(0, 5, n + 2).astype(float)][number % 2]
        for max_fpr in (0.1, 0.35, 1.0):
            metrics = section_metrics(truth, np.zeros(n + 2, bool), scores, None, max_fpr)
            assert metrics["AUC"] == roc_auc_score(truth, scores)
            assert metrics["pAUC"] == roc_auc_score(truth, scores, max_fpr=max_fpr)


def test_harmonic_mean_is_that_of_scipy():
    generator = np.random.default_rng(0)
    for _ in range(200):
        values = generator.random(7)
        assert harmonic_mean(values) == hmean(values)
