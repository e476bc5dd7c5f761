"""A new year is one file of the catalog: the legacy scripts then know it, one model a section."""

import csv

import pytest
from conftest import Workspace, copy_project
from test_other_years import names_of_later_years, write_clips

CATALOG = """
name: DCASE2027T2
directory: dcase2027t2
channels: 2
official_score: {mean: harmonic, metrics: [AUC (source), AUC (target), pAUC]}
dev:
  machines: {valve: ["00", "01"]}
  archives: [{record: 1, file: "dev_{machine}.zip", holds: [train, test]}]
eval:
  machines: {}
"""
MODELS = ["valve_section_00", "valve_section_01"]


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    directory = tmp_path_factory.mktemp("legacy")
    workspace = Workspace(directory, project=copy_project(directory, dcase2027t2=CATALOG))
    write_clips(workspace.data / "dcase2027t2/dev_data/raw/valve", names_of_later_years(["00", "01"]), channels=2)
    return workspace


def test_scripts_for_any_year(workspace):
    outputs = {}
    for script in ("01_train_legacy.sh", "02a_test_legacy.sh", "02b_test_legacy.sh"):
        options = ["--epochs", "1", "--batch_size", "64"]
        finished = workspace.script(f"tools/{script}", "DCASE2027T2", "-d", *options, JOBS="2")
        assert finished.returncode == 0, finished.stderr
        outputs[script] = finished.stdout
    models = workspace.models / "baseline/dev_data/DCASE2027T2/seed13711"
    assert sorted(path.name for path in models.iterdir()) == MODELS
    for score in ("MSE", "MAHALA"):
        results = workspace.results / f"dev_data/baseline_{score}/DCASE2027T2/seed13711"
        # Both sections are reported, though they were tested side by side.
        rows = list(csv.DictReader((results / "result_valve.csv").open()))
        assert [row["section"] for row in rows] == ["00", "01", "arithmetic mean", "harmonic mean"]
        assert not [path for path in results.iterdir() if path.name.startswith(".")]
    for model in MODELS:
        assert f"{model}: trained 1 epochs" in outputs["01_train_legacy.sh"]
        assert f"{model}: MAHALA: " in outputs["02b_test_legacy.sh"]
    summary = workspace.script("03_summarize_results.sh", "DCASE2027T2", "-d")
    assert summary.returncode == 0, summary.stderr
    assert summary.stdout.splitlines()[2].split() == ["system", "metric", "h-mean", "a-mean", "valve"]
    assert "warning" not in summary.stdout


def test_one_model_of_several_sections(workspace, tmp_path):
    alone = Workspace(tmp_path, workspace.data, workspace.project)
    options = ["--epochs", "1", "--batch_size", "64", "--use_ids", "0", "1"]
    finished = alone.script("tools/01_train_legacy.sh", "DCASE2027T2", "-d", *options)
    assert finished.returncode == 0, finished.stderr
    assert "valve: 16 training clips" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name a dataset first"),
        (["DCASE2027T2"], "-d or -e must come first"),
        (["-d", "DCASE2027T2"], "name a dataset first"),
        (["DCASE2019T2", "-d"], "unknown dataset 'DCASE2019T2'. Did you mean"),
        (["DCASE2027T2", "-e"], "has no machine types in its eval data"),
        (["DCASE2027T2", "-d", "--train_only"], "--train_only"),
    ],
)
def test_wrong_arguments(workspace, arguments, words):
    finished = workspace.script("tools/02a_test_legacy.sh", *arguments)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: DCASE2027T2", "", "the key 'name' is missing"),
        ('["00", "01"]', "[0, 1]", 'sections are texts such as "00"'),
        ("holds: [train, test]", "hold: []", "the key 'holds' is missing"),
        ("dev:", "dev: [", "not a catalog file"),
    ],
)
def test_catalog_files_that_are_none(workspace, tmp_path, old, new, words):
    project = copy_project(tmp_path, dcase2027t2=CATALOG.replace(old, new))
    finished = Workspace(tmp_path, project=project).script("tools/01_train_legacy.sh", "DCASE2027T2", "-d")
    assert finished.returncode == 2
    assert words in finished.stderr
    assert "dcase2027t2.yaml" in finished.stderr
