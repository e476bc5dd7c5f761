"""Bootstrap intervals against scikit-learn and SciPy, and against cases worked out by hand."""

import csv
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import parse_clip
from tools import summarize
from tools.confidence import chance_of, draw_counts, interval_of, resample_metrics, resample_systems, weighted_auc
from tools.metrics import MEANS
from tools.results import Run, SectionScores, find_runs, write_metrics, write_section

MACHINES = ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"]
METRICS = ["AUC (source)", "AUC (target)", "pAUC"]


def scored_section(generator, distance=1.0, noise=0.0, clips=40, digits=None) -> SectionScores:
    """Clips of both domains and labels; anomalies score higher by `distance`; `noise` tells systems apart."""
    names = [
        f"section_00_{domain}_test_{label}_{number:04d}_x.wav"
        for label in ("normal", "anomaly")
        for domain in ("source", "target")
        for number in range(clips // 4)
    ]
    parsed = [parse_clip(Path("fan/test", name)) for name in names]
    scores = generator.standard_normal(len(parsed)) + distance * np.array([clip.is_anomaly for clip in parsed])
    scores += noise * np.random.default_rng(99).standard_normal(len(parsed))
    rounded = np.round(scores, digits) if digits is not None else scores
    return SectionScores("00", parsed, (100 + rounded).tolist(), [0] * len(parsed))


@pytest.mark.parametrize("max_fpr", [1, 0.1, 0.05, 1 / 3])
@pytest.mark.parametrize("digits", [None, 0])
def test_each_resample_is_what_scikit_learn_says_of_it(max_fpr, digits):
    """The clips repeated as often as they were drawn; with rounded scores many are equal."""
    section = scored_section(np.random.default_rng(1), digits=digits)
    is_anomaly = np.array([clip.is_anomaly for clip in section.clips])
    scores = np.array(section.scores)
    counts = draw_counts(is_anomaly, 50, seed=2)
    for found, repeats in zip(weighted_auc(is_anomaly, scores, counts, max_fpr), counts, strict=True):
        limit = None if max_fpr == 1 else max_fpr
        expected = roc_auc_score(np.repeat(is_anomaly, repeats), np.repeat(scores, repeats), max_fpr=limit)
        assert found == pytest.approx(expected, abs=1e-12)


def test_metrics_of_the_clips_themselves(monkeypatch):
    """Where every clip is drawn once, it is the metric itself: the domains are counted as it counts them."""
    monkeypatch.setattr("tools.confidence.draw_counts", lambda groups, *_: np.ones((1, len(groups)), int))
    section = scored_section(np.random.default_rng(3), digits=1)
    names = [*METRICS, "pAUC (source)", "pAUC (target)"]
    found = resample_metrics(section, "fan", names, 0.1, 1)
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(
        {name: section.metrics(0.1)[name] for name in names}
    )


def test_as_many_of_each_group_are_drawn():
    groups = np.array([0, 0, 0, 1, 1, 3])
    counts = draw_counts(groups, 4000, seed=0)
    for group, size in ((0, 3), (1, 2), (3, 1)):
        assert set(counts[:, groups == group].sum(axis=1)) == {size}
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.05)  # each as often as the others
    assert np.mean(counts[:, 0] == 0) == pytest.approx((2 / 3) ** 3, abs=0.03)
    np.testing.assert_array_equal(counts, draw_counts(groups, 4000, seed=0))


@pytest.mark.parametrize("max_fpr", [1, 0.3])
def test_interval_is_that_of_scipy(max_fpr):
    """SciPy draws normal and anomalous clips apart, as we do; the ends agree but for what chance draws."""
    section = scored_section(np.random.default_rng(5), clips=120)
    is_anomaly, scores = np.array([clip.is_anomaly for clip in section.clips]), np.array(section.scores)

    def statistic(normal, anomalous):
        truth = np.repeat([False, True], [len(normal), len(anomalous)])
        return roc_auc_score(truth, np.concatenate([normal, anomalous]), max_fpr=None if max_fpr == 1 else max_fpr)

    data = scores[~is_anomaly], scores[is_anomaly]
    expected = scipy.stats.bootstrap(
        data, statistic, n_resamples=1000, vectorized=False, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = weighted_auc(is_anomaly, scores, draw_counts(is_anomaly, 4000, seed=1), max_fpr)
    assert interval_of(found) == pytest.approx((expected.low, expected.high), abs=0.012)


def test_interval_by_hand():
    assert interval_of(np.arange(1001) / 1000) == pytest.approx((0.025, 0.975))


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1.0] * 999, 2 / 1000),
        ([-1.0] * 999, 2 / 1000),
        ([1.0, -1.0] * 2, 1),
        ([0.0] * 9, 1),
        ([1.0] * 90 + [-1.0] * 9, 0.2),
    ],
)
def test_chance_by_hand(differences, p):
    assert chance_of(np.array(differences)) == pytest.approx(p)


def write_system(directory, score, seed, distance, noise=0.0, tag="", machines=MACHINES):
    """A run's results, as train.py writes them; the clips' difficulty is the same in all systems."""
    arguments = ["--result_directory", str(directory), "--score", score, "--seed", str(seed), "-tag", tag]
    run = Run(load_config(["--dataset", "DCASE2024T2", "-d", *arguments]), find_dataset("DCASE2024T2"))
    for number, name in enumerate(machines):
        section = scored_section(np.random.default_rng(number), distance, noise * seed)
        paths = run.paths(run.machines[name])
        write_section(paths, section)
        write_metrics(paths, [section], 0.1)
    return run


def test_systems_are_resampled_together(tmp_path):
    """The same scores twice never differ; means and official score are those of each resample's metrics."""
    runs = [write_system(tmp_path, score, 1, 1.0) for score in ("MSE", "MAHALA")]
    found = resample_systems(runs, 0.1, 30)
    for figure, values in found["MSE"].items():
        np.testing.assert_array_equal(values, found["MAHALA"][figure])
    of_machines = [found["MSE"][metric, machine] for machine in MACHINES for metric in METRICS]
    for place in range(30):
        expected = scipy.stats.hmean([values[place] for values in of_machines])
        assert found["MSE"]["official score", "h-mean"][place] == pytest.approx(expected)
        assert found["MSE"]["pAUC", "a-mean"][place] == pytest.approx(
            np.mean([found["MSE"]["pAUC", machine][place] for machine in MACHINES])
        )


def test_a_system_is_the_mean_over_its_seeds(tmp_path):
    both = [write_system(tmp_path, "MSE", seed, 1.0, noise=0.3) for seed in (1, 2)]
    alone = [resample_systems([run], 0.1, 20)["MSE"] for run in both]
    for figure, values in resample_systems(both, 0.1, 20)["MSE"].items():
        np.testing.assert_allclose(values, (alone[0][figure] + alone[1][figure]) / 2)


def test_a_difference_larger_than_chance_is_found_and_no_other(tmp_path, capsys):
    write_system(tmp_path, "MSE", 1, 0.7)
    write_system(tmp_path, "MSE", 1, 0.7, noise=0.05, tag="same")
    write_system(tmp_path, "MAHALA", 1, 2.0)
    summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path), "--resamples", "300"])
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["MAHALA − MSE"][-1] == "yes"
    assert lines["MSE same − MSE"][-1] == "no"
    directory = tmp_path / "dev_data/baseline/summarize/DCASE2024T2"
    rows = [row for row in csv.DictReader((directory / "differences.csv").open()) if row["column"] == "h-mean"]
    row = next(r for r in rows if (r["system"], r["minus"], r["metric"]) == ("MAHALA", "MSE", "official score"))
    assert float(row["low"]) > 0
    assert float(row["p"]) == pytest.approx(2 / 301)
    intervals = {
        (r["system"], r["metric"], r["column"]): r for r in csv.DictReader((directory / "intervals.csv").open())
    }
    of = {system: float(intervals[system, "official score", "h-mean"]["value"]) for system in ("MSE", "MAHALA")}
    assert float(row["difference"]) == pytest.approx(of["MAHALA"] - of["MSE"])
    for each in intervals.values():
        assert float(each["low"]) <= float(each["value"]) <= float(each["high"])
    assert "[" in (directory / "summary.md").read_text()


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 test sets, normal scores N(0, 1), anomalous ones N(1, 1): the true AUC is Φ(1/√2)."""
    truth, hits, generator = scipy.stats.norm.cdf(1 / math.sqrt(2)), 0, np.random.default_rng(7)
    for _ in range(200):
        is_anomaly = np.repeat([False, True], 60)
        scores = generator.standard_normal(120) + is_anomaly
        low, high = interval_of(weighted_auc(is_anomaly, scores, draw_counts(is_anomaly, 400, seed=0)))
        hits += low <= truth <= high
    assert scipy.stats.binom.cdf(hits, 200, 0.95) > 0.001  # 95 % are not ruled out
    assert hits < 200


def test_scores_that_do_not_go_with_the_metrics_are_said(tmp_path, caplog):
    run = write_system(tmp_path, "MSE", 1, 1.0)
    path = run.paths(run.machines["fan"]).anomaly_scores("00")
    kept = path.read_text()
    path.write_text(kept.replace("\n", "1\n", 1).replace("normal_0000_x.wav,1", "normal_0000_x.wav,9", 1))
    with caplog.at_level(logging.WARNING):
        assert resample_systems([run], 0.1, 5) == {}
    assert "MSE, seed 1: not in the intervals: " in caplog.text
    assert "result_fan.csv does not go with the anomaly scores beside it" in caplog.text
    path.write_text(kept)
    assert resample_systems([run], 0.2, 5) == {}  # pAUC is of another false positive rate
    path.unlink()
    assert resample_systems([run], 0.1, 5) == {}
    path.write_text(kept)
    assert set(resample_systems([run], 0.1, 5)) == {"MSE"}


def test_machine_types_that_are_there(tmp_path):
    run = write_system(tmp_path, "MSE", 1, 1.0, machines=["fan"])
    found = resample_systems(find_runs(run.config, run.dataset, ["MSE"]), 0.1, 5)["MSE"]
    assert set(found) == {(metric, "fan") for metric in [*METRICS, "official score"]}
    expected = MEANS["harmonic"]([found[metric, "fan"] for metric in METRICS])
    np.testing.assert_allclose(found["official score", "fan"], expected)
