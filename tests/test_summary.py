"""The summary's tables against values worked out by hand and by other libraries, and its plot."""

import csv
import math
import os
import statistics

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from config import BaselineError
from datasets.catalog import find_dataset
from files import write_csv
from tools import summarize
from tools.results.official import means_over_sections
from tools.results.published import PUBLISHED, compare, read_published
from tools.results.summary import over_seeds
from tools.results.tables import percent
from tools.training.console import run_command

MACHINES = list(find_dataset("DCASE2024T2").machines["dev"])
METRICS = ["AUC (source)", "AUC (target)", "pAUC"]
KEYS = ["system", "metric", "column"]


def write_results(results, score, run, values, machines=MACHINES, export_dir="baseline", dataset="DCASE2024T2"):
    """One result file a machine type: its metrics are `values` plus 0.01 for each machine type before it."""
    for k, machine in enumerate(machines):
        row = [value + 0.01 * k for value in values]
        path = results / "dev_data" / f"{export_dir}_{score}" / dataset / run / f"result_{machine}.csv"
        write_csv(path, [["section", *METRICS], ["00", *row], ["arithmetic mean", 0, 0, 0], ["harmonic mean", 0, 0, 0]])


def summarize_all(results, capsys, dataset="DCASE2024T2"):
    """The rows of summary.csv, what is printed, and the directory of the files."""
    summarize.main([dataset, "-d", "--result_directory", str(results)])
    directory = results / "dev_data" / "baseline" / "summarize" / dataset
    rows = list(csv.DictReader((directory / "summary.csv").open()))
    return {(r["system"], r["metric"], r["statistic"]): r for r in rows}, capsys.readouterr().out, directory


def test_means_and_official_score(tmp_path, capsys):
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    table, text, directory = summarize_all(tmp_path, capsys)
    source = [0.8 + 0.01 * k for k in range(7)]
    row = table["MSE", "AUC (source)", "mean"]
    assert list(row) == ["system", "seeds", "metric", "statistic", "h-mean", "a-mean", *MACHINES]
    assert float(row["a-mean"]) == pytest.approx(sum(source) / 7)
    assert float(row["h-mean"]) == pytest.approx(7 / sum(1 / value for value in source))
    assert row["ToyTrain"] == repr(0.8 + 0.01)  # all digits
    everything = [base + 0.01 * k for base in (0.8, 0.6, 0.5) for k in range(7)]
    official = table["MSE", "official score", "mean"]
    assert float(official["h-mean"]) == pytest.approx(21 / sum(1 / value for value in everything))
    assert float(official["ToyCar"]) == pytest.approx(3 / (1 / 0.8 + 1 / 0.6 + 1 / 0.5))
    assert list(table) == [("MSE", metric, "mean") for metric in [*METRICS, "official score"]]  # no std of one seed
    lines = text.splitlines()
    assert lines[0] == "DCASE2024T2, development data, seed 1, in percent"
    assert "The challenge's official score is in column h-mean (harmonic mean)." in lines
    assert lines[-3] == "No published values of these scores on these data"
    assert lines[4].split() == ["MSE", "AUC", "(source)", "82.95", "83.00", *(f"{80 + k}.00" for k in range(7))]
    assert lines[5].split()[:4] == ["AUC", "(target)", "62.94", "63.00"]
    markdown = (directory / "summary.md").read_text().splitlines()
    assert markdown[0] == lines[0] + "."
    assert [cell.strip() for cell in markdown[4].split("|")[1:5]] == ["MSE", "AUC (source)", "82.95", "83.00"]
    assert (directory / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_table_fits_the_terminal(tmp_path, capsys, monkeypatch):
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    _, whole, directory = summarize_all(tmp_path, capsys)
    markdown = (directory / "summary.md").read_text()
    monkeypatch.setenv("COLUMNS", "80")
    assert summarize_all(tmp_path, capsys)[1] == whole  # not a terminal
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    text = summarize_all(tmp_path, capsys)[1]
    assert (directory / "summary.md").read_text() == markdown
    assert max(len(line) for line in text.splitlines() if not line.startswith("->")) <= 80
    lines = text.splitlines()
    start = lines.index("")
    first, second = lines[start + 1 : start + 7], lines[start + 8 : start + 14]
    assert first[0].split() == ["system", "metric", "h-mean", "a-mean", *MACHINES[:3]]
    assert second[0].split() == ["system", "metric", *MACHINES[3:]]
    assert second[2].split() == ["MSE", "AUC", "(source)", "83.00", "84.00", "85.00", "86.00"]
    monkeypatch.setenv("COLUMNS", "10")  # narrower than any block
    assert sum("system" in line for line in summarize_all(tmp_path, capsys)[1].splitlines()) >= 9
    monkeypatch.setattr("shutil.get_terminal_size", lambda: os.terminal_size((0, 0)))  # a terminal of unknown size
    assert summarize_all(tmp_path, capsys)[1] == whole


def test_several_seeds_and_systems(tmp_path, capsys):
    for seed, value in ((1, 0.70), (2, 0.74), (3, 0.78)):
        write_results(tmp_path, "MSE", f"seed{seed}", [value, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed1_wide_net", [0.9, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed1_a|b", [0.9, 0.6, 0.5])
    write_results(tmp_path, "MAHALA", "seed1", [0.9, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed1", [0.1, 0.1, 0.1], export_dir="baseline_other")  # another experiment
    table, text, directory = summarize_all(tmp_path, capsys)
    assert [*dict.fromkeys(system for system, _, _ in table)] == ["MSE", "MSE a|b", "MSE wide_net", "MAHALA"]
    assert float(table["MSE", "AUC (source)", "mean"]["ToyCar"]) == pytest.approx(0.74)
    assert float(table["MSE", "AUC (source)", "std"]["ToyCar"]) == pytest.approx(0.04)  # of the sample: n - 1
    assert table["MSE", "AUC (source)", "mean"]["seeds"] == "3"
    assert "74.00 ± 4.00" in text
    assert "Seeds: MSE 1, 2, 3; MSE a|b 1; MSE wide_net 1; MAHALA 1." in text
    assert ("MAHALA", "AUC (source)", "std") not in table
    official = [21 / sum(1 / (b + 0.01 * k) for b in (v, 0.6, 0.5) for k in range(7)) for v in (0.70, 0.74, 0.78)]
    assert float(table["MSE", "official score", "mean"]["h-mean"]) == pytest.approx(sum(official) / 3)
    assert float(table["MSE", "official score", "std"]["h-mean"]) == pytest.approx(statistics.stdev(official))
    assert r"| MSE a\|b " in (directory / "summary.md").read_text()


def test_means_wait_for_all_machine_types_and_metrics(tmp_path, capsys):
    """A machine type without target clips has AUC in the place of AUC (source) and AUC (target)."""
    write_results(tmp_path, "MAHALA", "seed1", [0.8, 0.6, 0.5], MACHINES[:3])
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    path = tmp_path / "dev_data" / "baseline_MSE" / "DCASE2024T2" / "seed1" / "result_fan.csv"
    write_csv(path, [["section", "AUC", "pAUC"], ["00", 0.9, 0.8]])
    table, text, _ = summarize_all(tmp_path, capsys)
    row = table["MAHALA", "AUC (source)", "mean"]
    assert [row["h-mean"], row["ToyCar"], row["fan"]] == ["", "0.8", ""]
    assert "MAHALA, seed 1: no means, because results of fan, gearbox, slider, valve are incomplete." in text
    assert table["MSE", "pAUC", "mean"]["h-mean"] != ""
    for metric in ("AUC (source)", "official score"):
        assert table["MSE", metric, "mean"]["h-mean"] == table["MSE", metric, "mean"]["fan"] == ""
    assert "MSE, seed 1: no means, because results of fan are incomplete." in text


def means(values, dataset):
    index = pd.MultiIndex.from_tuples(list(values))
    return means_over_sections(pd.DataFrame({"value": list(values.values())}, index), dataset, "dev")["value"]


def test_machine_types_with_other_sections():
    """2020: the sections of ToyCar are not those of fan; arithmetic means, and all of them are needed."""
    dataset = find_dataset("DCASE2020T2")
    values = {
        (machine.name, section, metric): {"ToyCar": 0.9, "fan": 0.1 * int(section)}.get(machine.name, 0.6)
        for machine in dataset.machines["dev"].values()
        for section in machine.sections
        for metric in ("AUC", "pAUC", "precision")
    }
    found = means(values, dataset)
    assert list(found.index.unique("metric")) == ["AUC", "pAUC", "official score"]
    assert found["official score", "ToyCar"] == pytest.approx(0.9)
    assert found["official score", "fan"] == pytest.approx(0.3)  # ids 00, 02, 04, 06
    assert found["official score", "a-mean"] == pytest.approx((4 * 0.9 + 4 * 0.3 + 15 * 0.6) / 23)  # 23 machine ids
    del values["fan", "02", "AUC"]
    found = means(values, dataset)
    assert math.isnan(found["AUC", "fan"])
    assert math.isnan(found["AUC", "a-mean"])
    assert found["AUC", "pump"] == pytest.approx(0.6)


def test_deviations_are_those_of_numpy_and_count_the_seeds_that_have_a_value():
    values = {("MSE", 1): 0.7, ("MSE", 2): math.nan, ("MSE", 3): 0.8, ("MSE", 4): 0.75, ("MAHALA", 1): 0.5}
    index = pd.MultiIndex.from_tuples([(*run, "AUC", "fan") for run in values], names=["system", "seed", *KEYS[1:]])
    found = over_seeds(pd.DataFrame({"value": list(values.values())}, index))
    assert tuple(found.loc["MSE", "AUC", "fan"]) == (np.mean([0.7, 0.8, 0.75]), np.std([0.7, 0.8, 0.75], ddof=1))
    assert tuple(found.loc["MAHALA", "AUC", "fan"]) == pytest.approx((0.5, math.nan), nan_ok=True)


def test_percent():
    assert [percent(0.7104999), percent(0.7, 0.005), percent(-0.000001, sign="+")] == ["71.05", "70.00 ± 0.50", "+0.00"]
    assert percent(np.float64(0.68405)) == "68.41"  # NumPy's own rounding says 68.40
    assert percent(math.nan) == "–"


# The harmonic means over all rows of a dataset and score in the table of published results.
@pytest.mark.parametrize(
    ("dataset", "split", "score", "official"),
    [
        ("DCASE2023T2", "eval", "MAHALA", "61.05"),
        ("DCASE2024T2", "eval", "MSE", "56.51"),
        ("DCASE2025T2", "dev", "MAHALA", "55.34"),
        ("DCASE2025T2", "eval", "MSE", "54.43"),
        ("DCASE2026T2", "eval", "MSE", "59.80"),
    ],
)
def test_official_scores_of_published_rows(dataset, split, score, official):
    published = read_published(find_dataset(dataset), split).set_index(["score", "metric", "column"])["published"]
    assert f"{100 * published[score, 'official score', 'h-mean']:.2f}" == official


def test_every_published_row_is_of_a_machine_type_of_the_catalog():
    rows = pd.read_csv(PUBLISHED)
    assert len(rows) == 92
    assert set(rows["dataset"][rows["by"] == "others"]) == {"DCASE2026T2"}
    n_values = 0
    for (name, split), part in rows.groupby(["dataset", "split"]):
        assert set(part["machine"]) <= set(find_dataset(name).machines[split])
        published = read_published(find_dataset(name), split)
        single = published["column"].isin(part["machine"]) & (published["metric"] != "official score")
        n_values += single.sum()
    assert n_values == 3 * 86 + 2 * 6  # 2020: two metrics
    published = read_published(find_dataset("DCASE2025T2"), "dev").set_index(["score", *KEYS[1:]])
    fan = published.loc["MSE", "AUC (source)", "fan"]
    assert tuple(fan)[:3] == (pytest.approx(0.7096), pytest.approx(0.0094), 5)
    published = read_published(find_dataset("DCASE2020T2"), "dev").set_index(KEYS[1:])["published"]
    assert published["AUC", "fan"] == pytest.approx(0.6516)
    assert "a-mean" not in published.index.get_level_values("column")  # of several sections each


def test_what_lies_outside():
    """± 2 standard deviations, the published ones, or else ours; a value without either, or without ours.

    Deviations of fewer than three trainings do not count.
    """
    columns = list("abcdefgh")
    published = pd.DataFrame({"score": "MSE", "metric": "AUC", "column": columns, "published": 0.7})
    published = published.assign(**{"published std": [0.01] * 3 + [math.nan] * 2 + [0.01] * 2 + [math.nan]})
    published = published.assign(trials=[5] * 6 + [2, 1], by="others", source="x")
    ours = pd.DataFrame(
        {
            "mean": [0.7199, 0.6799, math.nan, 0.72, 0.5, 0.7, 0.5, 0.5],
            "std": [math.nan] * 3 + [0.0099, math.nan, 0.5, 0.01, 0.01],
        },
        pd.MultiIndex.from_product([["MSE x"], ["AUC"], columns], names=KEYS),
    )
    n_seeds = {"d": 3, "g": 3, "h": 2}
    seeds = [("MSE x", seed, "AUC", column) for column in columns for seed in range(n_seeds.get(column, 1))]
    by_seed = pd.DataFrame({"value": 0.7}, pd.MultiIndex.from_tuples(seeds, names=["system", "seed", *KEYS[1:]]))
    found = compare({"MSE x": "MSE", "MAHALA": "MAHALA"}, by_seed, ours, published)
    outside = found["outside"].droplevel(["system", "metric"]).dropna()
    assert dict(outside) == {"a": 0, "b": 1, "d": 1, "f": 0, "g": 1}
    assert found["difference"]["MSE x", "AUC", "b"] == pytest.approx(-0.0201)


def test_published_values_beside_ours(tmp_path, capsys):
    """2025: ToyCar's published AUC (source) is 71.05 ± 0.50."""
    for seed in (1, 2):
        write_results(tmp_path, "MSE", f"seed{seed}", [0.7155, 0.5, 0.5], ["ToyCar"], dataset="DCASE2025T2")
        write_results(tmp_path, "MAHALA_FRAME", f"seed{seed}", [0.7, 0.5, 0.5], ["ToyCar"], dataset="DCASE2025T2")
    _, text, directory = summarize_all(tmp_path, capsys, "DCASE2025T2")
    lines = [line.split() for line in text.splitlines()]
    first = next(place for place, line in enumerate(lines) if line[:4] == ["MSE", "AUC", "(source)", "published"])
    source = [71.05, 61.76, 66.53, 70.96, 64.80, 70.10, 63.53]
    expected = [f"{mean(source):.2f}" for mean in (scipy.stats.hmean, np.mean)]
    assert lines[first][4:9] == [*expected, "71.05", "±", "0.50"]
    assert lines[first + 1] == ["difference", "–", "–", "+0.50", *("–",) * 6]
    assert lines[first + 3][:5] == ["difference", "–", "–", "-3.32*", "–"]  # 53.32 ± 0.56
    assert "MSE: published by the organisers, mean of 5 trainings: arXiv:2506.10097 Table 1" in text
    assert "1 of 3 values differ by more than 2 published standard deviations." in text  # pAUC: 49.79 ± 0.49
    assert "MAHALA_FRAME: no published values of this score on these data." in text
    rows = list(csv.DictReader((directory / "published.csv").open()))
    assert list(rows[0]) == [
        *KEYS,
        "ours",
        "std",
        "published",
        "published std",
        "difference",
        "outside",
        "trials",
        "by",
        "source",
    ]
    toy_car = {row["metric"]: row for row in rows if row["column"] == "ToyCar"}
    assert float(toy_car["AUC (source)"]["difference"]) == pytest.approx(0.005)
    assert [toy_car[metric]["outside"] for metric in METRICS] == ["0", "1", "0"]
    assert {row["outside"] for row in rows if row["column"] == "fan"} == {""}


def test_latex(tmp_path, capsys):
    write_results(tmp_path, "MSE", "seed1_wide_net", [0.7, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed2_wide_net", [0.8, 0.6, 0.5])
    write_results(tmp_path, "MAHALA", "seed1", [0.7, 0.6, 0.5], MACHINES[:2])
    _, _, directory = summarize_all(tmp_path, capsys)
    text = (directory / "summary.tex").read_text()
    official = [100 * scipy.stats.hmean([value + 0.06 for value in (base, 0.6, 0.5)]) for base in (0.7, 0.8)]
    for line in (
        r"\begin{tabular}{lrrrrrrrr}",
        r" & \multicolumn{4}{c}{MSE wide\_net} & \multicolumn{4}{c}{MAHALA} \\",
        r"\cmidrule(lr){2-5}",
        r"\cmidrule(lr){6-9}",
        r"valve & 81.00 $\pm$ 7.07 & 66.00 $\pm$ 0.00 & 56.00 $\pm$ 0.00 & "
        rf"{np.mean(official):.2f} $\pm$ {np.std(official, ddof=1):.2f} & -- & -- & -- & -- \\",
    ):
        assert f"\n{line}\n" in text, line
    rules = [line for line in text.splitlines() if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]


def test_of_these_seeds_only(tmp_path, capsys, monkeypatch):
    for seed, value in ((1, 0.70), (2, 0.74), (10, 0.78)):
        write_results(tmp_path, "MSE", f"seed{seed}", [value, 0.6, 0.5])
    monkeypatch.setenv("SEEDS", "10 1 7 8")
    table, text, _ = summarize_all(tmp_path, capsys)
    assert float(table["MSE", "AUC (source)", "mean"]["ToyCar"]) == pytest.approx(0.74)
    assert "seeds 1, 10, in percent" in text
    assert "warning: MSE: SEEDS contains 7, 8, but there are no results." in text
    monkeypatch.setenv("SEEDS", "3")
    with pytest.raises(BaselineError, match=r"no result_<machine>.csv with SEEDS='3' to summarize"):
        summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path)])


@pytest.mark.parametrize("arguments", [[], ["DCASE2024T2"], ["DCASE2024", "-d"]])
def test_wrong_arguments(arguments, capsys):
    assert run_command(lambda: summarize.main(arguments)) == 2
    assert capsys.readouterr().err.startswith("error: ")
