"""The summary's tables against figures worked out by hand and by other libraries, and its pictures."""

import csv
import math
import statistics

import numpy as np
import pytest
import scipy.stats

from config import BaselineError, load_config
from datasets.catalog import find_dataset
from files import write_csv
from tools import summarize
from tools.results.metrics import means_over_sections
from tools.results.published import PUBLISHED, Figure, Published, compare, read_published
from tools.results.runs import find_runs
from tools.results.summary import over_seeds
from tools.training.console import run_command

DATASET = find_dataset("DCASE2024T2")
MACHINES = list(DATASET.machines["dev"])
METRICS = ["AUC (source)", "AUC (target)", "pAUC"]


def write_results(results, score, run, values, machines=MACHINES, export_dir="baseline", dataset="DCASE2024T2"):
    """One result file a machine type: its metrics are `values` plus 0.01 for each machine type before it."""
    for k, machine in enumerate(machines):
        row = [value + 0.01 * k for value in values]
        path = results / "dev_data" / f"{export_dir}_{score}" / dataset / run / f"result_{machine}.csv"
        write_csv(path, [["section", *METRICS], ["00", *row], ["arithmetic mean", *row], ["harmonic mean", *row]])


def summarize_all(results, capsys):
    summarize.main(["DCASE2024T2", "-d", "--result_directory", str(results)])
    output = capsys.readouterr()
    directory = results / "dev_data" / "baseline" / "summarize" / "DCASE2024T2"
    rows = list(csv.DictReader((directory / "summary.csv").open()))
    return {(r["system"], r["metric"], r["statistic"]): r for r in rows}, output.out, directory


def test_means_and_official_score(tmp_path, capsys):
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    table, text, directory = summarize_all(tmp_path, capsys)
    source = [0.8 + 0.01 * k for k in range(7)]
    row = table["MSE", "AUC (source)", "mean"]
    assert float(row["a-mean"]) == pytest.approx(sum(source) / 7)
    assert float(row["h-mean"]) == pytest.approx(7 / sum(1 / value for value in source))
    assert float(row["bearing"]) == pytest.approx(0.82)
    everything = [base + 0.01 * k for base in (0.8, 0.6, 0.5) for k in range(7)]
    official = table["MSE", "official score", "mean"]
    assert float(official["h-mean"]) == pytest.approx(21 / sum(1 / value for value in everything))
    assert float(official["ToyCar"]) == pytest.approx(3 / (1 / 0.8 + 1 / 0.6 + 1 / 0.5))
    assert len(table) == 4  # no standard deviation of one seed
    assert "82.00" in text
    assert "±" not in text
    assert "| MSE " in (directory / "summary.md").read_text()
    assert (directory / "summary.png").read_bytes().startswith(b"\x89PNG")


def test_several_seeds_and_systems(tmp_path, capsys):
    for seed, value in ((1, 0.70), (2, 0.74), (3, 0.78)):
        write_results(tmp_path, "MSE", f"seed{seed}", [value, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed1_wide_net", [0.9, 0.6, 0.5])
    write_results(tmp_path, "MAHALA", "seed1", [0.9, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed1", [0.1, 0.1, 0.1], export_dir="baseline_other")  # another experiment
    table, text, _ = summarize_all(tmp_path, capsys)
    assert [*dict.fromkeys(system for system, _, _ in table)] == ["MSE", "MSE wide_net", "MAHALA"]
    assert float(table["MSE", "AUC (source)", "mean"]["ToyCar"]) == pytest.approx(0.74)
    assert float(table["MSE", "AUC (source)", "std"]["ToyCar"]) == pytest.approx(0.04)  # of the sample: n - 1
    assert table["MSE", "AUC (source)", "mean"]["seeds"] == "3"
    assert "74.00 ± 4.00" in text
    assert ("MAHALA", "AUC (source)", "std") not in table
    official = [21 / sum(1 / (b + 0.01 * k) for b in (v, 0.6, 0.5) for k in range(7)) for v in (0.70, 0.74, 0.78)]
    mean = sum(official) / 3
    deviation = math.sqrt(sum((value - mean) ** 2 for value in official) / 2)
    assert float(table["MSE", "official score", "mean"]["h-mean"]) == pytest.approx(mean)
    assert float(table["MSE", "official score", "std"]["h-mean"]) == pytest.approx(deviation)


def test_means_wait_for_all_machine_types(tmp_path, capsys):
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5], MACHINES[:3])
    table, text, _ = summarize_all(tmp_path, capsys)
    assert table["MSE", "AUC (source)", "mean"]["h-mean"] == ""
    assert float(table["MSE", "AUC (source)", "mean"]["ToyCar"]) == pytest.approx(0.8)
    assert "no full results of fan, gearbox, slider, valve; its means are left out" in text


def test_means_wait_for_all_metrics(tmp_path, capsys):
    """A machine type without target clips has AUC in the place of AUC (source) and AUC (target)."""
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    path = tmp_path / "dev_data" / "baseline_MSE" / "DCASE2024T2" / "seed1" / "result_fan.csv"
    write_csv(path, [["section", "AUC", "pAUC"], ["00", 0.9, 0.8]])
    table, text, _ = summarize_all(tmp_path, capsys)
    assert table["MSE", "pAUC", "mean"]["h-mean"] != ""
    assert table["MSE", "AUC (source)", "mean"]["h-mean"] == table["MSE", "AUC (source)", "mean"]["fan"] == ""
    assert table["MSE", "official score", "mean"]["h-mean"] == table["MSE", "official score", "mean"]["fan"] == ""
    assert "no full results of fan" in text


def test_sections_of_a_machine_type_count_each():
    dataset = find_dataset("DCASE2022T2")
    values = {
        (machine.name, section, metric): {"00": 0.4, "01": 0.8, "02": 0.6}[section]
        for machine in dataset.machines["dev"].values()
        for section in machine.sections
        for metric in METRICS
    }
    table = means_over_sections(values, dataset, "dev")
    assert table["AUC (source)"]["fan"] == pytest.approx(statistics.harmonic_mean([0.4, 0.8, 0.6]))
    assert table["official score"]["a-mean"] == pytest.approx(0.6)
    assert table["official score"]["h-mean"] == pytest.approx(scipy.stats.hmean(list(values.values())))


def test_machine_types_with_other_sections():
    """2020: the sections of ToyCar are not those of fan; arithmetic means, and all of them are needed."""
    dataset = find_dataset("DCASE2020T2")
    values = {
        (machine.name, section, metric): 0.9 if machine.name == "ToyCar" else 0.6
        for machine in dataset.machines["dev"].values()
        for section in machine.sections
        for metric in ("AUC", "pAUC", "precision")
    }
    table = means_over_sections(values, dataset, "dev")
    assert list(table) == ["AUC", "pAUC", "official score"]
    assert table["official score"]["ToyCar"] == pytest.approx(0.9)
    assert table["official score"]["a-mean"] == pytest.approx((4 * 0.9 + 19 * 0.6) / 23)  # 23 machine ids
    del values["fan", "02", "AUC"]
    table = means_over_sections(values, dataset, "dev")
    assert math.isnan(table["AUC"]["fan"])
    assert math.isnan(table["AUC"]["a-mean"])
    assert table["AUC"]["pump"] == pytest.approx(0.6)


def test_deviations_are_those_of_numpy_and_count_the_seeds_that_have_a_value():
    of_seeds = {("MSE", 1): 0.7, ("MSE", 2): math.nan, ("MSE", 3): 0.8, ("MSE", 4): 0.75, ("MAHALA", 1): 0.5}
    table = over_seeds({run: {"AUC": {"fan": value}} for run, value in of_seeds.items()})
    assert table["MSE", "AUC"]["fan"] == pytest.approx((0.75, np.std([0.7, 0.8, 0.75], ddof=1)))
    assert table["MAHALA", "AUC"]["fan"] == pytest.approx((0.5, math.nan), nan_ok=True)


# The harmonic means over all rows of a dataset and score in the table of published results.
@pytest.mark.parametrize(
    ("dataset", "split", "score", "official"),
    [
        ("DCASE2023T2", "eval", "MAHALA", "61.05"),
        ("DCASE2023T2", "eval", "MSE", "59.25"),
        ("DCASE2024T2", "eval", "MAHALA", "56.49"),
        ("DCASE2024T2", "eval", "MSE", "56.51"),
        ("DCASE2025T2", "dev", "MAHALA", "55.34"),
        ("DCASE2025T2", "dev", "MSE", "56.25"),
        ("DCASE2025T2", "eval", "MAHALA", "56.51"),
        ("DCASE2025T2", "eval", "MSE", "54.43"),
        ("DCASE2026T2", "eval", "MAHALA", "54.76"),
        ("DCASE2026T2", "eval", "MSE", "59.80"),
    ],
)
def test_official_scores_of_published_rows(dataset, split, score, official):
    published = read_published(find_dataset(dataset), split)[score]
    assert f"{100 * published.figures['official score', 'h-mean'].mean:.2f}" == official


def test_every_published_row_is_of_a_machine_type_of_the_catalog():
    rows = list(csv.DictReader(PUBLISHED.open()))
    assert len(rows) == 78
    assert all(row["machine"] in find_dataset(row["dataset"]).machines[row["split"]] for row in rows)
    assert all(row["source"] for row in rows)
    read = [read_published(find_dataset(name), split) for name, split in {(r["dataset"], r["split"]) for r in rows}]
    machines = {row["machine"] for row in rows}
    figures = [key for scores in read for each in scores.values() for key in each.figures if key[1] in machines]
    assert len([metric for metric, _ in figures if metric != "official score"]) == 3 * 72 + 2 * 6  # 2020: two metrics
    fan = read_published(find_dataset("DCASE2025T2"), "dev")["MSE"]
    assert fan.figures["AUC (source)", "fan"] == Figure(pytest.approx(0.7096), pytest.approx(0.0094))
    assert fan.trials == 5
    assert read_published(find_dataset("DCASE2020T2"), "dev")["MSE"].figures["AUC", "fan"].mean == pytest.approx(0.6516)


def test_what_lies_outside():
    figures = {("AUC", "a"): Figure(0.7, 0.01), ("AUC", "b"): Figure(0.7, math.nan), ("AUC", "c"): Figure(0.7, 0.01)}
    ours = {"AUC": {"a": (0.7199, math.nan), "b": (0.72, 0.0099), "c": (math.nan, math.nan)}}
    found = compare(ours, Published(figures, 5, "a paper"))
    assert {column: c.is_outside for (_, column), c in found.items()} == {"a": False, "b": True, "c": None}
    ours = {"AUC": {"a": (0.6799, math.nan), "b": (0.5, math.nan), "c": (0.7, 0.5)}}
    found = compare(ours, Published(figures, 5, "a paper"))
    assert {column: c.is_outside for (_, column), c in found.items()} == {"a": True, "b": None, "c": False}
    assert found["AUC", "a"].difference == pytest.approx(-0.0201)


SOURCE_OF_2025 = [71.05, 61.76, 66.53, 70.96, 64.80, 70.10, 63.53]


def test_published_figures_beside_ours(tmp_path, capsys):
    """2025: ToyCar's published AUC (source) is 71.05 ± 0.50."""
    for seed in (1, 2):
        write_results(tmp_path, "MSE", f"seed{seed}", [0.7155, 0.5, 0.5], ["ToyCar"], dataset="DCASE2025T2")
        write_results(tmp_path, "MAHALA_FRAME", f"seed{seed}", [0.7, 0.5, 0.5], ["ToyCar"], dataset="DCASE2025T2")
    summarize.main(["DCASE2025T2", "-d", "--result_directory", str(tmp_path)])
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    published = next(place for place, line in enumerate(lines) if line[:4] == ["MSE", "AUC", "(source)", "published"])
    means = [f"{mean(SOURCE_OF_2025):.2f}" for mean in (scipy.stats.hmean, np.mean)]
    assert lines[published][4:9] == [*means, "71.05", "±", "0.50"]
    assert lines[published + 1] == ["difference", "–", "–", "+0.50", *("–",) * 6]
    assert lines[published + 3][:5] == ["difference", "–", "–", "-3.32*", "–"]  # 53.32 ± 0.56
    assert "MSE: published, mean of 5 trainings: arXiv:2506.10097 Table 1" in text
    assert "1 of 3 published figures lie outside." in text  # pAUC: 49.79 ± 0.49
    assert "MAHALA_FRAME: no published figures of this score on these data are known here." in text
    directory = tmp_path / "dev_data/baseline/summarize/DCASE2025T2"
    rows = {(row["metric"], row["column"]): row for row in csv.DictReader((directory / "published.csv").open())}
    assert float(rows["AUC (source)", "ToyCar"]["difference"]) == pytest.approx(0.005)
    assert [rows[metric, "ToyCar"]["outside"] for metric in METRICS] == ["0", "1", "0"]
    assert "| MSE " in (directory / "summary.md").read_text()


def test_latex(tmp_path, capsys):
    write_results(tmp_path, "MSE", "seed1_wide_net", [0.7, 0.6, 0.5])
    write_results(tmp_path, "MSE", "seed2_wide_net", [0.8, 0.6, 0.5])
    write_results(tmp_path, "MAHALA", "seed1", [0.7, 0.6, 0.5], MACHINES[:2])
    _, _, directory = summarize_all(tmp_path, capsys)
    text = (directory / "summary.tex").read_text()
    for line in (
        r"\begin{tabular}{lrrrrrrrr}",
        r" & \multicolumn{4}{c}{MSE wide\_net} & \multicolumn{4}{c}{MAHALA} \\",
        r"\cmidrule(lr){2-5}",
        r"\cmidrule(lr){6-9}",
        r"valve & 81.00 $\pm$ 7.07 & 66.00 $\pm$ 0.00 & 56.00 $\pm$ 0.00 & "
        rf"{100 * np.mean(OF_VALVE):.2f} $\pm$ {100 * np.std(OF_VALVE, ddof=1):.2f} & -- & -- & -- & -- \\",
    ):
        assert f"\n{line}\n" in text, line
    rules = [line for line in text.splitlines() if line.endswith("rule")]
    assert rules == [r"\toprule", r"\midrule", r"\midrule", r"\bottomrule"]


OF_VALVE = [scipy.stats.hmean([value + 0.06 for value in (base, 0.6, 0.5)]) for base in (0.7, 0.8)]


def test_of_these_seeds_only(tmp_path, capsys, monkeypatch):
    for seed, value in ((1, 0.70), (2, 0.74), (10, 0.78)):
        write_results(tmp_path, "MSE", f"seed{seed}", [value, 0.6, 0.5])
    monkeypatch.setenv("SEEDS", "10 1")
    table, text, _ = summarize_all(tmp_path, capsys)
    assert float(table["MSE", "AUC (source)", "mean"]["ToyCar"]) == pytest.approx(0.74)
    assert "percent, seeds 1, 10;" in text
    assert "SEEDS names" not in text
    monkeypatch.setenv("SEEDS", "10 1 7 8")
    _, text, _ = summarize_all(tmp_path, capsys)
    assert "warning: MSE: no results of seed 7, 8, which SEEDS names." in text
    monkeypatch.setenv("SEEDS", "3")
    with pytest.raises(BaselineError, match=r"no result_<machine>.csv of SEEDS='3' to summarize"):
        summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path)])


@pytest.mark.parametrize("rows", ["", "00,high\n", "00,inf\n", "00,7\n", "00,-1\n"])
def test_damaged_result_is_named(tmp_path, rows):
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    path = tmp_path / "dev_data" / "baseline_MSE" / "DCASE2024T2" / "seed1" / "result_fan.csv"
    path.write_text(f"section,AUC (source)\n{rows}")
    config = load_config(["--dataset", "DCASE2024T2", "-d", "--result_directory", str(tmp_path)])
    with pytest.raises(BaselineError, match="result_fan.csv: not a result file"):
        find_runs(config, DATASET)[0].metrics()


@pytest.mark.parametrize(
    "arguments", [[], ["-d"], ["DCASE2024T2"], ["DCASE2024T2", "-d", "--result"], ["DCASE2024", "-d"]]
)
def test_wrong_arguments(arguments, capsys):
    assert run_command(lambda: summarize.main(arguments)) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_seeds_of_each_system_are_told(tmp_path, capsys):
    for score, seeds in (("MSE", (1, 2)), ("MAHALA", (1,))):
        for seed in seeds:
            write_results(tmp_path, score, f"seed{seed}", [0.7, 0.6, 0.5])
    _, text, _ = summarize_all(tmp_path, capsys)
    assert "Seeds: MSE 1, 2; MAHALA 1." in text
