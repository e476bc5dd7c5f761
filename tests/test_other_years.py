"""The layouts of other years' datasets: machine ids and one domain, two test directories, several sections, stereo."""

import csv
import itertools
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import Workspace, write_wav

from datasets.catalog import dataset_names, find_dataset
from tools import summarize

DOMAINS, LABELS = ("source", "target"), ("normal", "anomaly")


def names_of_2020(ids):
    for section, number in itertools.product(ids, range(8)):
        yield f"train/normal_id_{section}_{number:08d}.wav"
    for section, label, number in itertools.product(ids, LABELS, range(2)):
        yield f"test/{label}_id_{section}_{number:08d}.wav"


def names_of_2021(sections):
    for section, domain, number in itertools.product(sections, DOMAINS, range(4)):
        yield f"train/section_{section}_{domain}_train_normal_{number:04d}_strength_1.wav"
    for section, domain, label, number in itertools.product(sections, DOMAINS, LABELS, range(2)):
        yield f"{domain}_test/section_{section}_{domain}_test_{label}_{number:04d}.wav"


def names_of_later_years(sections):
    for section, domain, number in itertools.product(sections, DOMAINS, range(4)):
        yield f"train/section_{section}_{domain}_train_normal_{number:04d}_m-n_W.wav"
    for section, domain, label, number in itertools.product(sections, DOMAINS, LABELS, range(2)):
        yield f"test/section_{section}_{domain}_test_{label}_{number:04d}_m-n_W.wav"


def write_clips(directory: Path, names: Iterable[str], channels: int = 1) -> None:
    for name in names:
        write_wav(directory / name, seconds=1.5, channels=channels)


@pytest.mark.parametrize(
    ("dataset", "machine", "names", "sections", "channels"),
    [
        ("DCASE2020T2", "ToyCar", names_of_2020, ["01", "02", "03", "04"], 1),
        ("DCASE2021T2", "pump", names_of_2021, ["00", "01", "02"], 1),
        ("DCASE2022T2", "bearing", names_of_later_years, ["00", "01", "02"], 1),
        ("DCASE2023T2", "valve", names_of_later_years, ["00"], 1),
        ("DCASE2024T2", "slider", names_of_later_years, ["00"], 1),
        ("DCASE2025T2", "fan", names_of_later_years, ["00"], 1),
        ("DCASE2026T2", "gearboxEmu", names_of_later_years, ["00"], 2),
    ],
)
def test_each_layout_is_trained_and_tested(tmp_path, dataset, machine, names, sections, channels):
    workspace = Workspace(tmp_path)
    write_clips(workspace.data / dataset.lower() / "dev_data" / "raw" / machine, names(sections), channels)
    several = len(sections) > 1
    for section in sections:  # one model a section
        use = ["--use_ids", str(int(section))] if several else []
        workspace.run_here("--epochs", "1", "--batch_size", "64", *use, machine=machine, dataset=dataset)
        workspace.run_here("--test_only", "--score", "MAHALA", *use, machine=machine, dataset=dataset)
        suffix = f"_section_{section}" if several else ""
        model = workspace.models / "baseline" / "dev_data" / dataset / "seed13711" / f"{machine}{suffix}"
        assert (model / "model.pth").exists()
    summary_of = workspace.results / "dev_data" / "baseline" / "summarize" / dataset / "summary.csv"
    summarize.main([dataset, "-d", *workspace.options])
    table = {(row["system"], row["metric"]): row for row in csv.DictReader(summary_of.open())}
    metrics = find_dataset(dataset).official_score["metrics"]
    for score in ("MSE", "MAHALA"):
        results = workspace.results / "dev_data" / f"baseline_{score}" / dataset / "seed13711"
        rows = list(csv.DictReader((results / f"result_{machine}.csv").open()))
        assert [row["section"] for row in rows] == [*sections, "arithmetic mean", "harmonic mean"]
        assert ("AUC" in rows[0]) == (dataset == "DCASE2020T2")
        assert [metric for system, metric in table if system == score] == [*metrics, "official score"]
        for section in sections:
            scored = list(csv.reader((results / f"anomaly_score_{machine}_section_{section}_test.csv").open()))
            clips = [name.split("/")[1] for name in names([section]) if "train/" not in name]
            assert sorted(name for name, _ in scored) == sorted(clips)
            assert [("anomaly" in name) for name, _ in scored] == sorted("anomaly" in name for name, _ in scored)
    mean = next(row for row in rows if row["section"] == f"{find_dataset(dataset).official_score['mean']} mean")
    assert float(table["MAHALA", metrics[-1]][machine]) == pytest.approx(float(mean[metrics[-1]]))


def test_all_years_are_there():
    years = [f"DCASE{year}T2" for year in range(2020, 2027)]
    assert set(years) <= set(dataset_names())  # and datasets of one's own
    sections = find_dataset("DCASE2020T2").machines["eval"]["ToyConveyor"].sections
    assert sections == ("04", "05", "06")
    assert [len(find_dataset(name).machines["eval"]) for name in years] == [6, 7, 7, 7, 9, 8, 5]


def test_clips_of_another_section_that_are_gone_cost_only_its_metrics(tmp_path, capsys):
    workspace, clips = Workspace(tmp_path), tmp_path / "data" / "dcase2022t2" / "dev_data" / "raw" / "bearing"
    write_clips(clips, names_of_later_years(["00", "01"]), 1)
    for section in ("0", "1"):
        options = ["--epochs", "1", "--batch_size", "64", "--use_ids", section]
        workspace.run_here(*options, machine="bearing", dataset="DCASE2022T2")
    found = workspace.results / "dev_data" / "baseline_MSE" / "DCASE2022T2" / "seed13711" / "result_bearing.csv"
    assert [row["section"] for row in csv.DictReader(found.open())][:2] == ["00", "01"]
    for path in clips.glob("*test/section_00_*"):
        path.unlink()
    workspace.run_here("--test_only", "--use_ids", "1", machine="bearing", dataset="DCASE2022T2")
    assert "section 00 is left out: " in capsys.readouterr().err
    assert [row["section"] for row in csv.DictReader(found.open())] == ["01", "arithmetic mean", "harmonic mean"]
