"""The layouts of other years' datasets: machine ids and one domain, two test directories, several sections, stereo."""

import csv
import itertools

import pytest
from conftest import Workspace, write_wav

from datasets.catalog import dataset_names, find_dataset

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


@pytest.mark.parametrize(
    ("dataset", "machine", "names", "sections", "channels"),
    [
        ("DCASE2020T2", "ToyCar", names_of_2020, ["01", "02", "03", "04"], 1),
        ("DCASE2021T2", "pump", names_of_2021, ["00", "01", "02"], 1),
        ("DCASE2022T2", "bearing", names_of_later_years, ["00", "01", "02"], 1),
        ("DCASE2023T2", "valve", names_of_later_years, ["00"], 1),
        ("DCASE2025T2", "fan", names_of_later_years, ["00"], 1),
        ("DCASE2026T2", "gearboxEmu", names_of_later_years, ["00"], 2),
    ],
)
def test_each_layout_is_trained_and_tested(tmp_path, dataset, machine, names, sections, channels):
    workspace = Workspace(tmp_path)
    for name in names(sections):
        path = workspace.data / dataset.lower() / "dev_data" / "raw" / machine / name
        write_wav(path, seconds=1.5, channels=channels)
    several = len(sections) > 1
    for section in sections[1:3] if several else sections:  # one model a section, two of them
        use = ["--use_ids", str(int(section))] if several else []
        workspace.run_here("--epochs", "1", "--batch_size", "64", *use, machine=machine, dataset=dataset)
    results = workspace.results / "dev_data" / "baseline_MSE" / dataset / "seed13711"
    rows = list(csv.DictReader((results / f"result_{machine}.csv").open()))
    tested = sections[1:3] if several else sections
    assert [row["section"] for row in rows] == [*tested, "arithmetic mean", "harmonic mean"]
    assert ("AUC" in rows[0]) == (dataset == "DCASE2020T2")
    for section in tested:
        scored = list(csv.reader((results / f"anomaly_score_{machine}_section_{section}_test.csv").open()))
        clips = [name.split("/")[1] for name in names([section]) if "train/" not in name]
        assert sorted(name for name, _ in scored) == sorted(clips)
        assert [("anomaly" in name) for name, _ in scored] == sorted("anomaly" in name for name, _ in scored)
        suffix = f"_section_{section}" if several else ""
        model = workspace.models / "baseline" / "dev_data" / dataset / "seed13711" / f"{machine}{suffix}"
        assert (model / "model.pth").exists()


def test_all_years_are_there():
    years = [f"DCASE{year}T2" for year in range(2020, 2027)]
    assert set(years) <= set(dataset_names())  # and datasets of one's own
    sections = find_dataset("DCASE2020T2").machines["eval"]["ToyConveyor"].sections
    assert sections == ("04", "05", "06")
    assert [len(find_dataset(name).machines["eval"]) for name in years] == [6, 7, 7, 7, 9, 8, 5]
