"""Bootstrap intervals against scikit-learn and SciPy, and against cases worked out by hand."""

import csv
import logging
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from sklearn.metrics import roc_auc_score

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import parse_clip
from tools import summarize
from tools.results.bootstrap import (
    chance_of,
    draw_counts,
    interval_of,
    resample_metrics,
    resample_systems,
    weighted_auc,
)
from tools.results.metrics import MEANS
from tools.results.runs import Run, find_runs
from tools.results.score_files import SectionScores, write_metrics, write_section

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
    monkeypatch.setattr("tools.results.bootstrap.draw_counts", lambda groups, *_: np.ones((1, len(groups)), int))
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
        data, statistic, n_resamples=500, vectorized=False, method="percentile", rng=np.random.default_rng(0)
    ).confidence_interval
    found = weighted_auc(is_anomaly, scores, draw_counts(is_anomaly, 4000, seed=1), max_fpr)
    assert interval_of(found, float(np.median(found))) == pytest.approx((expected.low, expected.high), abs=0.015)


def test_interval_by_hand():
    """About a median the ends are percentiles; about the 0.6 quantile both move by twice its 0.2533 deviations."""
    values = np.arange(100_001) / 100_000
    assert interval_of(values, 0.5) == pytest.approx((0.025, 0.975), abs=1e-4)
    ends = scipy.stats.norm.cdf(2 * scipy.stats.norm.ppf(0.6) + scipy.stats.norm.ppf([0.025, 0.975]))
    assert interval_of(values, 0.6) == pytest.approx(tuple(ends), abs=1e-4)


@pytest.mark.parametrize(
    ("differences", "difference", "p"),
    [
        ([1.0] * 999, 1, 1 / 1000),
        ([-1.0] * 999, -1, 1 / 1000),
        ([0.0] * 9, 0, 1),
        (np.linspace(-1, 3, 9999), 1, 0.5),  # a quarter is below 0
        (np.linspace(-3, 1, 9999), -1, 0.5),
        (
            np.linspace(-1, 3, 9999),
            1.4,
            2 * scipy.stats.norm.cdf(scipy.stats.norm.ppf(0.25) - 2 * scipy.stats.norm.ppf(0.6)),
        ),
    ],
)
def test_chance_by_hand(differences, difference, p):
    assert chance_of(np.array(differences), difference) == pytest.approx(p, abs=1e-3)


def test_interval_ends_at_zero_where_p_is_what_it_leaves_out():
    differences = np.random.default_rng(0).gamma(4, size=20_000) - 0.9
    value = float(differences.mean())
    p = chance_of(differences, value)
    low = np.quantile(
        differences,
        scipy.stats.norm.cdf(2 * scipy.stats.norm.ppf(np.mean(differences < value)) + scipy.stats.norm.ppf(p / 2)),
    )
    assert low == pytest.approx(0, abs=0.03)


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
    found = {system: resampled.figures for system, resampled in resample_systems(runs, 0.1, 30).items()}
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
    alone = [resample_systems([run], 0.1, 20)["MSE"].figures for run in both]
    for figure, values in resample_systems(both, 0.1, 20)["MSE"].figures.items():
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
    assert float(row["p"]) < 0.05
    intervals = {
        (r["system"], r["metric"], r["column"]): r for r in csv.DictReader((directory / "intervals.csv").open())
    }
    of = {system: float(intervals[system, "official score", "h-mean"]["value"]) for system in ("MSE", "MAHALA")}
    assert float(row["difference"]) == pytest.approx(of["MAHALA"] - of["MSE"])
    for each in intervals.values():
        assert float(each["low"]) <= float(each["value"]) <= float(each["high"])
    assert "[" in (directory / "summary.md").read_text()


@pytest.mark.parametrize(("clips", "machines", "max_fpr"), [(60, 1, 1), (60, 7, 0.1)])
def test_intervals_cover_the_truth_as_often_as_they_say(clips, machines, max_fpr):
    """Of 200 test sets, normal scores N(0, 1), anomalous ones N(1, 1): the curve is Φ(1 + Φ⁻¹(FPR))."""
    fpr = np.linspace(0, max_fpr, 100_001)
    truth = np.trapezoid(scipy.stats.norm.cdf(1 + scipy.stats.norm.ppf(fpr)), fpr)
    truth = truth if max_fpr == 1 else 0.5 * (1 + (truth - max_fpr**2 / 2) / (max_fpr - max_fpr**2 / 2))
    hits, generator, is_anomaly = 0, np.random.default_rng(7), np.repeat([False, True], clips)
    for number in range(200):
        of_machines = []
        for machine in range(machines):
            scores = generator.standard_normal(2 * clips) + is_anomaly
            counts = draw_counts(is_anomaly, 400, seed=1000 * machine + number)
            counts[0] = 1  # the clips themselves
            of_machines.append(weighted_auc(is_anomaly, scores, counts, max_fpr))
        value, *values = scipy.stats.hmean(of_machines)
        low, high = interval_of(np.array(values), value)
        hits += low <= truth <= high
    assert scipy.stats.binom.cdf(hits, 200, 0.95) > 0.001  # 95 % are not ruled out
    assert hits < 200


def test_equal_systems_differ_by_chance_as_often_as_p_says():
    """Of 200 pairs of systems that are equally good, with scores that go together."""
    found, generator, is_anomaly = [], np.random.default_rng(8), np.repeat([False, True], 60)
    for number in range(200):
        clips = generator.standard_normal(120) + is_anomaly
        counts = draw_counts(is_anomaly, 400, seed=number)
        counts[0] = 1
        systems = [weighted_auc(is_anomaly, clips + 0.5 * generator.standard_normal(120), counts) for _ in range(2)]
        differences = systems[1] - systems[0]
        found.append(chance_of(differences[1:], differences[0]))
    assert 0.001 < scipy.stats.binom.cdf(np.sum(np.array(found) < 0.05), 200, 0.05) < 0.999
    assert scipy.stats.kstest(found, "uniform").pvalue > 0.001


def test_scores_that_do_not_go_with_the_metrics_are_said(tmp_path, caplog):
    """The machine type is left out, and with it what rests on it."""
    run = write_system(tmp_path, "MSE", 1, 1.0)
    path = run.paths(run.machines["fan"]).anomaly_scores("00")
    kept = path.read_text()
    path.write_text(kept.replace("\n", "1\n", 1).replace("normal_0000_x.wav,1", "normal_0000_x.wav,9", 1))
    without_fan = {(row, machine) for machine in MACHINES if machine != "fan" for row in [*METRICS, "official score"]}
    with caplog.at_level(logging.WARNING):
        assert set(resample_systems([run], 0.1, 5)["MSE"].figures) == without_fan
    assert "MSE, seed 1, fan: no intervals: " in caplog.text
    assert "result_fan.csv does not go with the anomaly scores beside it" in caplog.text
    path.write_text(kept)
    assert resample_systems([run], 0.2, 5) == {}  # pAUC is of another false positive rate
    path.unlink()
    assert set(resample_systems([run], 0.1, 5)["MSE"].figures) == without_fan
    assert f"{path} is missing. Test again." in caplog.text
    path.write_text(kept + kept.splitlines()[0])
    assert set(resample_systems([run], 0.1, 5)["MSE"].figures) == without_fan
    assert "a clip is there twice" in caplog.text
    path.write_text(kept)
    run.paths(run.machines["fan"]).decisions("00").write_text("damaged")  # they are not needed
    assert len(resample_systems([run], 0.1, 5)["MSE"].figures) == 9 * 4


def test_value_and_interval_are_of_the_same_seeds(tmp_path, capsys):
    """A seed whose scores are gone counts in the mean: then there is no interval of it."""
    write_system(tmp_path, "MSE", 1, 0.7)
    run = write_system(tmp_path, "MSE", 2, 2.0)
    write_system(tmp_path, "MAHALA", 1, 1.0)
    run.paths(run.machines["fan"]).anomaly_scores("00").unlink()
    summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path), "--resamples", "20"])
    directory = tmp_path / "dev_data/baseline/summarize/DCASE2024T2"
    found = {(r["system"], r["column"]) for r in csv.DictReader((directory / "intervals.csv").open())}
    assert found == {("MAHALA", c) for c in ["h-mean", "a-mean", *MACHINES]} | {
        ("MSE", c) for c in MACHINES if c != "fan"
    }
    assert "MAHALA − MSE" not in capsys.readouterr().out
    found = {r["column"] for r in csv.DictReader((directory / "differences.csv").open())}
    assert found == set(MACHINES) - {"fan"}


def test_rows_are_in_the_order_of_the_tables(tmp_path):
    for score in ("MSE", "MAHALA"):
        write_system(tmp_path, score, 1, 1.0)
    summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path), "--resamples", "20"])
    directory = tmp_path / "dev_data/baseline/summarize/DCASE2024T2"
    order = [(metric, column) for metric in [*METRICS, "official score"] for column in ["h-mean", "a-mean", *MACHINES]]
    for name, repeats in (("intervals", 2), ("differences", 1)):
        rows = csv.DictReader((directory / f"{name}.csv").open())
        assert [(row["metric"], row["column"]) for row in rows] == repeats * order


def test_other_clips_are_not_compared(tmp_path, capsys, caplog):
    """One machine type's clips are others, by one name: no difference there, nor of what rests on it."""
    write_system(tmp_path, "MSE", 1, 0.7)
    runs = [write_system(tmp_path, "MAHALA", seed, 1.0) for seed in (1, 2)]
    for run in runs:
        for path in (
            run.paths(run.machines["fan"]).anomaly_scores("00"),
            run.paths(run.machines["fan"]).decisions("00"),
        ):
            path.write_text(path.read_text().replace("source_test_normal_0000_x", "source_test_normal_0000_y"))
    summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path), "--resamples", "20"])
    text = capsys.readouterr().out
    assert "MAHALA and MSE were tested on different clips: their difference is not known." in text
    directory = tmp_path / "dev_data/baseline/summarize/DCASE2024T2"
    found = {r["column"] for r in csv.DictReader((directory / "differences.csv").open())}
    assert found == set(MACHINES) - {"fan"}
    path = runs[0].paths(runs[0].machines["fan"]).anomaly_scores("00")
    path.write_text(path.read_text().replace("source_test_normal_0000_y", "source_test_normal_0000_z"))
    with caplog.at_level(logging.WARNING):
        figures = resample_systems(runs, 0.1, 5)["MAHALA"].figures
    assert {column for _, column in figures} == set(MACHINES) - {"fan"}
    assert "MAHALA, pAUC fan: the seeds were tested on different clips" in caplog.text


def test_metrics_that_are_not_defined_cost_nothing_else(tmp_path, caplog):
    """No normal clips of the target domain: AUC (target) is nan, and is not resampled."""
    run = write_system(tmp_path, "MSE", 1, 1.0)
    section = scored_section(np.random.default_rng(0))
    kept = [number for number, clip in enumerate(section.clips) if clip.is_anomaly or not clip.is_target]
    part = SectionScores("00", [section.clips[n] for n in kept], [section.scores[n] for n in kept], None)
    write_section(run.paths(run.machines["fan"]), part)
    write_metrics(run.paths(run.machines["fan"]), [part], 0.1)
    caplog.clear()
    figures = resample_systems([run], 0.1, 5)["MSE"].figures
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert {row for row, column in figures if column == "fan"} == {"AUC (source)", "pAUC"}
    assert ("pAUC", "h-mean") in figures
    assert ("AUC (target)", "h-mean") not in figures


def test_unknown_labels_are_said(tmp_path, caplog):
    run = write_system(tmp_path, "MSE", 1, 1.0, machines=["fan"])
    for path in (run.paths(run.machines["fan"]).anomaly_scores("00"), run.paths(run.machines["fan"]).decisions("00")):
        lines = path.read_text().splitlines()
        path.write_text("".join(f"section_00_{n:04d}.wav,{line.split(',')[1]}\n" for n, line in enumerate(lines)))
    assert resample_systems([run], 0.1, 5) == {}
    assert "the labels of its clips are not known" in caplog.text


def test_machine_types_that_are_there(tmp_path):
    run = write_system(tmp_path, "MSE", 1, 1.0, machines=["fan"])
    found = resample_systems(find_runs(run.config, run.dataset), 0.1, 5)["MSE"].figures
    assert set(found) == {(metric, "fan") for metric in [*METRICS, "official score"]}
    expected = MEANS["harmonic"]([found[metric, "fan"] for metric in METRICS])
    np.testing.assert_allclose(found["official score", "fan"], expected)
