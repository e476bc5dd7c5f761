"""The summary table against figures worked out by hand, and its pictures."""

import csv
import math

import pandas
import pytest

from config import BaselineError, load_config
from datasets.catalog import find_dataset
from files import write_csv
from tools import summarize
from tools.console import run_command

DATASET = find_dataset("DCASE2024T2")
MACHINES = list(DATASET.machines["dev"])
METRICS = ["AUC (source)", "AUC (target)", "pAUC"]


def write_results(results, score, run, values, machines=MACHINES, export_dir="baseline"):
    """One result file a machine type: its metrics are `values` plus 0.01 for each machine type before it."""
    for k, machine in enumerate(machines):
        row = [value + 0.01 * k for value in values]
        path = results / "dev_data" / f"{export_dir}_{score}" / "DCASE2024T2" / run / f"result_{machine}.csv"
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
    rows = [
        ("MSE", 1, machine, section, metric, 0.4 if section == "00" else 0.8)
        for machine in MACHINES
        for section in ("00", "01")
        for metric in METRICS
    ]
    run = pandas.DataFrame(rows, columns=["system", "seed", "machine", "section", "metric", "value"])
    table = summarize.summarize_run(run, DATASET, "dev")
    assert table.loc["AUC (source)", "fan"] == pytest.approx(2 / (1 / 0.4 + 1 / 0.8))
    assert table.loc["official score", "a-mean"] == pytest.approx(0.6)


def test_machine_types_with_other_sections():
    """2020: the sections of ToyCar are not those of fan; arithmetic means, and all of them are needed."""
    dataset = find_dataset("DCASE2020T2")
    rows = [
        ("MSE", 1, machine.name, section, metric, 0.9 if machine.name == "ToyCar" else 0.6)
        for machine in dataset.machines["dev"].values()
        for section in machine.sections
        for metric in ("AUC", "pAUC", "precision")
    ]
    results = pandas.DataFrame(rows, columns=["system", "seed", "machine", "section", "metric", "value"])
    table = summarize.summarize_run(results, dataset, "dev")
    assert list(table.index) == ["AUC", "pAUC", "official score"]
    assert table.loc["official score", "ToyCar"] == pytest.approx(0.9)
    assert table.loc["official score", "a-mean"] == pytest.approx((4 * 0.9 + 19 * 0.6) / 23)  # 23 machine ids
    one_less = results[(results["machine"] != "fan") | (results["section"] != "02")]
    table = summarize.summarize_run(one_less, dataset, "dev")
    assert math.isnan(table.loc["AUC", "fan"])
    assert math.isnan(table.loc["AUC", "a-mean"])
    assert table.loc["AUC", "pump"] == pytest.approx(0.6)


@pytest.mark.parametrize("rows", ["", "00,high\n", "00,inf\n", "00,7\n", "00,-1\n"])
def test_damaged_result_is_named(tmp_path, rows):
    write_results(tmp_path, "MSE", "seed1", [0.8, 0.6, 0.5])
    path = tmp_path / "dev_data" / "baseline_MSE" / "DCASE2024T2" / "seed1" / "result_fan.csv"
    path.write_text(f"section,AUC (source)\n{rows}")
    config = load_config(["--dataset", "DCASE2024T2", "-d", "--result_directory", str(tmp_path)])
    with pytest.raises(BaselineError, match="result_fan.csv: not a result file"):
        summarize.collect(config, DATASET)


@pytest.mark.parametrize(
    "arguments", [[], ["-d"], ["DCASE2024T2"], ["DCASE2024T2", "-d", "--result"], ["DCASE2024", "-d"]]
)
def test_wrong_arguments(arguments, capsys):
    assert run_command(lambda: summarize.main(arguments)) == 2
    assert capsys.readouterr().err.startswith("error: ")
