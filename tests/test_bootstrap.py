"""Bootstrap intervals against scikit-learn and SciPy, and against cases worked out by hand."""

import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
from conftest import write_test
from plain_evaluator import evaluate_2021
from sklearn.metrics import roc_auc_score

from config import load_config
from datasets.catalog import find_dataset
from datasets.clips import parse_clip
from tools import summarize
from tools.results.bootstrap import (
    confidence_interval,
    draw_counts,
    p_value,
    resample_metrics,
    resample_systems,
    weighted_auc,
)
from tools.results.metrics import WITHIN_DOMAIN_METRICS
from tools.results.runs import Run
from tools.results.score_files import SectionScores
from tools.training.paths import run_paths

MACHINES = ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"]
METRICS = ["AUC (source)", "AUC (target)", "pAUC"]


def scored_section(generator, distance=1.0, noise=0.0, clips=80, digits=None) -> SectionScores:
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
    return SectionScores("00", parsed, (100 + rounded).tolist(), [0] * len(parsed), 0.1)


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
    names = [*METRICS, "pAUC (source)", "pAUC (target)", *WITHIN_DOMAIN_METRICS]
    found = resample_metrics(section, "fan", names, 1)
    assert {name: float(value[0]) for name, value in found.items()} == pytest.approx(section.metrics(names))


def test_official_score_of_2021(tmp_path, capsys):
    """It is that year's evaluator's, has an interval, and needs the scores: the result CSVs have other metrics."""
    dataset, generator = find_dataset("DCASE2021T2"), np.random.default_rng(4)
    options = ["--result_directory", str(tmp_path), "--model_directory", str(tmp_path)]
    config = load_config(["--dataset", "DCASE2021T2", "-d", *options])
    for machine in dataset.machines["dev"].values():
        sections = []
        for section in machine.sections:
            result = scored_section(generator)
            clips = [
                replace(c, path=Path(str(c.path).replace("_00_", f"_{section}_")), section=section)
                for c in result.clips
            ]
            sections.append(replace(result, section=section, clips=clips))
        write_test(run_paths(config, machine, machine.sections), *sections)
    summarize.main(["DCASE2021T2", "-d", *options, "--resamples", "50"])
    text = capsys.readouterr().out
    assert "warning" not in text
    scores = sorted(tmp_path.rglob("anomaly_score_*.csv"))
    assert len(scores) == 21
    lines = csv.DictReader(next(tmp_path.rglob("summary.csv")).open())
    table = {(line["metric"], line["statistic"]): float(line["h-mean"]) for line in lines}
    official = table["official score", "mean"]
    assert official == pytest.approx(evaluate_2021(scores), rel=1e-15)
    rows = csv.DictReader(next(tmp_path.rglob("intervals.csv")).open())
    (interval,) = [row for row in rows if (row["metric"], row["column"]) == ("official score", "h-mean")]
    assert float(interval["low"]) < official < float(interval["high"])
    scores[0].write_text(scores[0].read_text().replace(",1", ",2"))
    summarize.main(["DCASE2021T2", "-d", *options, "--resamples", "1"])
    text = capsys.readouterr().out
    assert "ToyCar 00 left out: " in text
    assert "MSE, seed 13711: no means, because results of ToyCar are incomplete" in text


def test_which_clips_are_drawn_depends_on_the_section_alone():
    """Not on the scores, nor on the order of the score file; another machine type or section has draws of its own."""
    section = scored_section(np.random.default_rng(3))

    def resample(scores=section.scores, step=1, machine="fan", name="00"):
        result = SectionScores(name, section.clips[::step], scores[::step], None, 0.1)
        return resample_metrics(result, machine, ["pAUC"], 20)["pAUC"].tolist()

    first = resample()
    assert len(set(first)) > 10
    assert resample([3 * score + 7 for score in section.scores]) == resample(step=-1) == first
    assert first not in (resample(machine="valve"), resample(name="01"))


def test_as_many_of_each_group_are_drawn():
    groups = np.array([0, 0, 0, 1, 1, 3])
    counts = draw_counts(groups, 4000, seed=0)
    for group, size in ((0, 3), (1, 2), (3, 1)):
        assert set(counts[:, groups == group].sum(axis=1)) == {size}
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.05)  # each as often as the others


def test_interval_by_hand():
    """About a median the ends are percentiles; about the 0.6 quantile both move by twice its 0.2533 deviations."""
    values = np.arange(100_001) / 100_000
    assert confidence_interval(values, 0.5) == pytest.approx((0.025, 0.975), abs=1e-4)
    ends = scipy.stats.norm.cdf(2 * scipy.stats.norm.ppf(0.6) + scipy.stats.norm.ppf([0.025, 0.975]))
    assert confidence_interval(values, 0.6) == pytest.approx(tuple(ends), abs=1e-4)


@pytest.mark.parametrize(
    ("differences", "difference", "p"),
    [
        ([1.0] * 999, 1, 1 / 1000),
        ([0.0] * 9, 0, 1),
        (np.linspace(-3, 1, 9999), -1, 0.5),  # a quarter is above 0
        (np.linspace(-1, 3, 9999), 1.4, 0.23752965),  # 2 Φ(Φ⁻¹(0.25) - 2 Φ⁻¹(0.6))
    ],
)
def test_chance_by_hand(differences, difference, p):
    assert p_value(np.array(differences), difference) == pytest.approx(p, abs=1e-3)


def write_system(directory, score, seed, distance, noise=0.0, tag="", machines=MACHINES, few=()):
    """A run's results, as train.py writes them; the clips' difficulty is the same in all systems."""
    arguments = ["--result_directory", str(directory), "--score", score, "--seed", str(seed), "-tag", tag]
    run = Run(load_config(["--dataset", "DCASE2024T2", "-d", *arguments]), find_dataset("DCASE2024T2"))
    for number, name in enumerate(machines):
        section = scored_section(np.random.default_rng(number), distance, noise * seed, 76 if name in few else 80)
        write_test(run.paths(run.machines[name]), section)
    return run


def resampled_values(runs, resamples):
    """System → (metric, column) → its values in each resample."""
    systems = {}
    for (system, metric, column, _), row in resample_systems(runs, resamples).iterrows():
        systems.setdefault(system, {})[metric, column] = row.to_numpy()
    return systems


def test_means_are_those_of_each_resample_and_seed(tmp_path):
    both = [write_system(tmp_path, "MSE", seed, 1.0, noise=0.3) for seed in (1, 2)]
    values, other = (resampled_values([run], 20)["MSE"] for run in both)
    machines = [values[metric, machine] for machine in MACHINES for metric in METRICS]
    np.testing.assert_allclose(values["official score", "h-mean"], scipy.stats.hmean(machines))
    np.testing.assert_allclose(values["pAUC", "a-mean"], np.mean(machines[2::3], axis=0))
    np.testing.assert_allclose(values["official score", "fan"], scipy.stats.hmean(machines[9:12]))
    for key, mean in resampled_values(both, 20)["MSE"].items():
        np.testing.assert_allclose(mean, (values[key] + other[key]) / 2)


def summarize_all(results, resamples):
    """The rows of intervals.csv and differences.csv."""
    summarize.main(["DCASE2024T2", "-d", "--result_directory", str(results), "--resamples", str(resamples)])
    directory = results / "dev_data/baseline/summarize/DCASE2024T2"
    return [list(csv.DictReader((directory / f"{name}.csv").open())) for name in ("intervals", "differences")]


def test_a_difference_larger_than_chance_is_found_and_no_other(tmp_path, capsys):
    """Scores that go together: their difference is known better than either value."""
    write_system(tmp_path, "MSE", 1, 0.7)
    write_system(tmp_path, "MSE", 1, 0.7, noise=0.05, tag="same")
    write_system(tmp_path, "MAHALA", 1, 2.0)
    intervals, differences = summarize_all(tmp_path, 300)
    order = [(metric, column) for metric in [*METRICS, "official score"] for column in ["h-mean", "a-mean", *MACHINES]]
    assert [(row["metric"], row["column"]) for row in intervals + differences] == 6 * order
    lines = {line.split("  ")[0]: line.split() for line in capsys.readouterr().out.splitlines()}
    assert lines["MAHALA − MSE"][-1] == "yes"
    assert lines["MSE same − MSE"][-1] == "no"
    official, same, difference = intervals[27], differences[27], differences[27 + 36]  # h-mean of the official score
    assert [(row["system"], row.get("minus")) for row in (official, same, difference)] == [
        ("MSE", None),
        ("MSE same", "MSE"),
        ("MAHALA", "MSE"),
    ]
    for row, value in ((official, official["value"]), (difference, difference["difference"])):
        assert 0 < float(row["low"]) < float(value) < float(row["high"])
    assert float(difference["p"]) < 0.05
    expected = float(intervals[27 + 72]["value"]) - float(official["value"])
    assert float(difference["difference"]) == pytest.approx(expected)
    low, high = (100 * float(official[end]) for end in ("low", "high"))
    assert float(same["high"]) - float(same["low"]) < 0.5 * (high - low) / 100
    text = (tmp_path / "dev_data/baseline/summarize/DCASE2024T2/summary.md").read_text()
    assert text.count(f"[{low:.2f}, {high:.2f}]") == 2  # of the official score, of all values


def test_intervals_cover_the_truth_as_often_as_they_say():
    """Of 200 sets of 7 machine types, normal scores N(0, 1), anomalous ones N(1, 1): the curve is Φ(1 + Φ⁻¹(FPR))."""
    fpr = np.linspace(0, 0.1, 100_001)
    truth = np.trapezoid(scipy.stats.norm.cdf(1 + scipy.stats.norm.ppf(fpr)), fpr)
    truth = 0.5 * (1 + (truth - 0.1**2 / 2) / (0.1 - 0.1**2 / 2))
    hits, generator, is_anomaly = 0, np.random.default_rng(7), np.repeat([False, True], 60)
    for number in range(200):
        resampled = []
        for machine in range(7):
            scores = generator.standard_normal(120) + is_anomaly
            counts = draw_counts(is_anomaly, 400, seed=1000 * machine + number)
            counts[0] = 1  # the clips themselves
            resampled.append(weighted_auc(is_anomaly, scores, counts, 0.1))
        value, *values = scipy.stats.hmean(resampled)
        low, high = confidence_interval(np.array(values), value)
        hits += low <= truth <= high
    assert scipy.stats.binom.cdf(hits, 200, 0.95) > 0.001  # 95 % are not ruled out
    assert hits < 200


@pytest.mark.parametrize("few", [["fan", "valve"], MACHINES])
def test_few_clips_carry_no_interval_and_no_difference(tmp_path, capsys, caplog, few):
    """With 19 normal clips of each domain; pAUC, of both, has 38. One line names the machine types."""
    for score, distance in (("MSE", 0.1), ("MAHALA", 3)):
        write_system(tmp_path, score, 1, distance, few=few)
    intervals, differences = summarize_all(tmp_path, 20)
    for rows in (intervals, differences):
        assert {row["column"] for row in rows if row["metric"] == "pAUC"} == {"h-mean", "a-mean", *MACHINES}
        assert {row["column"] for row in rows if row["metric"] != "pAUC"} == {*MACHINES} - {*few}
    line = "no intervals and no differences: fewer than 20 normal or 20 anomalous test clips."
    warnings = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert warnings == [f"{', '.join(few)}: {line}"]
    text = capsys.readouterr().out
    official = [line.split()[-1] for line in text.splitlines() if line.startswith(("MSE  ", "MAHALA  "))]
    assert official[-2:] == ["–", "–"]
    assert "–: no interval, because a machine type has fewer than 20 normal or 20 anomalous test clips" in text
    assert "p < 0.05" in text
    assert "MAHALA − MSE" not in text


WITHOUT_FAN = {(metric, name) for name in MACHINES if name != "fan" for metric in [*METRICS, "official score"]}


def change_metrics(paths):
    paths.metrics.write_text(re.sub(r",0\.\d", ",0.9", paths.metrics.read_text(), count=1))


def change_scores(paths):
    path = paths.anomaly_scores("00")
    path.write_text(path.read_text().replace(",1", ",9", 1))


def forget_labels(paths):
    record = json.loads(paths.test_record.read_text())
    record["clips"] = {name: [section, False, None, key] for name, (section, _, _, key) in record["clips"].items()}
    paths.test_record.write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (change_metrics, "result_fan.csv does not match the anomaly scores beside it"),
        (change_scores, "or its decisions have changed since the test"),
        (forget_labels, "had no labels when they were tested"),
        (lambda paths: paths.test_record.unlink(), "there is no record of its test"),
        (lambda paths: paths.test_record.write_text('{"training": 0}'), "test_fan.json cannot be read"),
    ],
)
def test_scores_that_do_not_go_with_the_metrics(tmp_path, caplog, change, words):
    """The machine type is left out, and with it all means that it counts in."""
    run = write_system(tmp_path, "MSE", 1, 1.0)
    assert len(resampled_values([run], 5)["MSE"]) == 9 * 4
    change(run.paths(run.machines["fan"]))
    assert set(resampled_values([run], 5)["MSE"]) == WITHOUT_FAN
    assert "MSE, seed 1, fan: no intervals: " in caplog.text
    assert words in caplog.text


def test_value_and_interval_are_of_the_same_seeds(tmp_path, capsys, caplog):
    """A seed whose scores are gone counts in the mean: then it has no interval."""
    write_system(tmp_path, "MSE", 1, 0.7)
    run = write_system(tmp_path, "MSE", 2, 2.0)
    write_system(tmp_path, "MAHALA", 1, 1.0)
    run.paths(run.machines["fan"]).anomaly_scores("00").unlink()
    intervals, differences = summarize_all(tmp_path, 20)
    columns = {("MAHALA", column) for column in ["h-mean", "a-mean", *MACHINES]}
    columns |= {("MSE", column) for _, column in WITHOUT_FAN}
    assert {(row["system"], row["column"]) for row in intervals} == columns
    assert "MAHALA − MSE" not in capsys.readouterr().out
    assert "anomaly_score_fan_section_00_test.csv is missing. Test again." in caplog.text
    assert {row["column"] for row in differences} == set(MACHINES) - {"fan"}


def test_other_clips_are_not_compared(tmp_path, capsys):
    """One machine type's clips have other contents: no difference there, nor of the means that it counts in."""
    write_system(tmp_path, "MSE", 1, 0.7)
    run = write_system(tmp_path, "MAHALA", 1, 1.0)
    record = run.paths(run.machines["fan"]).test_record
    record.write_text(record.read_text().replace('"a1"', '"b2"', 1))
    _, differences = summarize_all(tmp_path, 20)
    text = capsys.readouterr().out
    assert "MAHALA − MSE: no difference, because the two were tested on different clips." in text
    assert {row["column"] for row in differences} == set(MACHINES) - {"fan"}
