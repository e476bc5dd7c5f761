"""Metrics against examples worked out by hand."""

import math

import numpy as np
import pytest
from scipy.stats import hmean

from tools.results.metrics import (
    DOMAIN_METRICS,
    SINGLE_DOMAIN_METRICS,
    WITHIN_DOMAIN_METRICS,
    arithmetic_mean,
    harmonic_mean,
    section_metrics,
)

# Source: normal 1, 3; anomalous 2, 5.  Target: normal 4, 6; anomalous 7, 3.5.
TRUTH = [False, False, True, True, False, False, True, True]
TARGET = [False] * 4 + [True] * 4
SCORES = [1.0, 3.0, 2.0, 5.0, 4.0, 6.0, 7.0, 3.5]
DECISIONS = [0, 0, 0, 1, 1, 1, 1, 0]


def test_by_hand():
    metrics = section_metrics(TRUTH, TARGET, SCORES, DECISIONS, max_fpr=0.5)
    assert tuple(metrics) == DOMAIN_METRICS
    assert DOMAIN_METRICS[:3] == ("AUC (source)", "AUC (target)", "pAUC")
    # Anomalies 2, 5, 7, 3.5 against source normals 1, 3: all above 1; 5, 7, 3.5 above 3: 7 of 8 pairs.
    assert metrics["AUC (source)"] == pytest.approx(7 / 8)
    # Against target normals 4, 6: 5 and 7 above 4, 7 above 6: 3 of 8 pairs.
    assert metrics["AUC (target)"] == pytest.approx(3 / 8)
    assert (metrics["precision (source)"], metrics["recall (source)"]) == (1.0, 0.5)
    assert (metrics["precision (target)"], metrics["recall (target)"]) == (pytest.approx(1 / 3), 0.5)
    assert (metrics["F1 score (source)"], metrics["F1 score (target)"]) == pytest.approx((2 / 3, 0.4))


def test_auc_within_a_domain():
    """Of 2021's official score: anomalies of the same domain only. They are not among the metrics of the CSVs."""
    metrics = section_metrics(TRUTH, TARGET, SCORES, DECISIONS, 0.5, WITHIN_DOMAIN_METRICS)
    # 2, 5 against 1, 3: 3 of 4 pairs; 7, 3.5 against 4, 6: 2 of 4.
    assert metrics == {"AUC within source": 3 / 4, "AUC within target": 2 / 4}
    only_source = section_metrics(TRUTH, [False] * 8, SCORES, DECISIONS, 0.5, WITHIN_DOMAIN_METRICS)
    assert math.isnan(only_source["AUC within target"])


@pytest.mark.parametrize(
    ("max_fpr", "area", "area_of_one_domain"),
    [
        # All, from the top: 7(a) 6(n) 5(a) 4(n) 3.5(a) 3(n) 2(a) 1(n): the true positive rate is 1/4 up to a false
        # positive rate of 1/4, then 2/4, 3/4, 1. Source alone 5(a) 3(n) 2(a) 1(n): 1/2 up to 1/2, then 1. Target alone
        # 7(a) 6(n) 4(n) 3.5(a): 1/2 throughout.
        (0.5, 3 / 16, 1 / 4),
        (0.25, 1 / 16, 1 / 8),
        (0.1, 1 / 40, 1 / 20),
        (0.4, 1 / 16 + 0.15 / 2, 1 / 5),
    ],
)
def test_pauc_is_standardised(max_fpr, area, area_of_one_domain):
    """As by McClish: (1 + (area - least) / (most - least)) / 2, with least = max_fpr² / 2 and most = max_fpr."""
    metrics = section_metrics(TRUTH, TARGET, SCORES, DECISIONS, max_fpr)

    def standardised(area):
        return (1 + (area - max_fpr**2 / 2) / (max_fpr - max_fpr**2 / 2)) / 2

    assert metrics["pAUC"] == pytest.approx(standardised(area))
    assert metrics["pAUC (source)"] == pytest.approx(standardised(area_of_one_domain))
    assert metrics["pAUC (target)"] == pytest.approx(standardised(area_of_one_domain))
    assert metrics["AUC (source)"] == pytest.approx(7 / 8)  # whatever max_fpr


def test_f1_has_the_digits_of_the_published_baseline():
    """2PR / (P + R) of P = 0.5, R = 0.4; scikit-learn's F1 score ends in 4."""
    metrics = section_metrics([True] * 5 + [False] * 2, [False] * 7, range(7), [1, 1, 0, 0, 0, 1, 1], 0.1)
    assert repr(metrics["F1 score"]) == "0.4444444444444445"


def test_single_domain():
    metrics = section_metrics(TRUTH, [False] * 8, SCORES, DECISIONS, max_fpr=0.5)
    assert tuple(metrics) == SINGLE_DOMAIN_METRICS
    # Pairs with the anomaly above: 7 over 4 normals, 5 over 3, 3.5 over 2, 2 over 1.
    assert metrics["AUC"] == pytest.approx(10 / 16)
    equal = section_metrics([False, True], [False, False], [1.0, 1.0], None, max_fpr=0.5)
    assert equal["AUC"] == 0.5
    assert (metrics["precision"], metrics["recall"], metrics["F1 score"]) == (0.5, 0.5, 0.5)


@pytest.mark.filterwarnings("error")
def test_what_is_not_defined():
    metrics = section_metrics([True] * 8, TARGET, SCORES, DECISIONS, max_fpr=0.1)
    assert all(math.isnan(value) for name, value in metrics.items() if "AUC" in name)
    assert (metrics["precision (source)"], metrics["recall (source)"]) == (1, 0.25)
    # The source domain has no clips, then the target domain no normal one.
    metrics = section_metrics([True, True], [True, True], [1, 2], [1, 0], max_fpr=0.1)
    assert math.isnan(metrics["precision (source)"])
    metrics = section_metrics([False, True, True], [False, False, True], [1, 2, 0], [0, 1, 0], max_fpr=0.1)
    assert metrics["AUC (source)"] == 0.5
    assert math.isnan(metrics["AUC (target)"])
    # No clip is taken for an anomaly: a share of nothing is 0. No decisions at all.
    metrics = section_metrics(TRUTH, TARGET, SCORES, [0] * 8, max_fpr=0.1)
    assert metrics["precision (source)"] == metrics["recall (source)"] == metrics["F1 score (source)"] == 0
    metrics = section_metrics(TRUTH, TARGET, SCORES, None, max_fpr=0.1)
    assert [math.isnan(value) for value in metrics.values()] == ["AUC" not in name for name in DOMAIN_METRICS]


def test_means():
    assert arithmetic_mean([0.5, 1.0]) == 0.75
    assert harmonic_mean([0.5, 1.0]) == pytest.approx(2 / 3)
    assert harmonic_mean([0.0, 1.0]) == pytest.approx(2 * 2.220446049250313e-16, rel=1e-9, abs=0)  # a 0 is floored
    values = np.random.default_rng(0).random(7)
    assert harmonic_mean(values) == hmean(values)
    for mean in (arithmetic_mean, harmonic_mean):
        assert math.isnan(mean([math.nan, 1.0]))
