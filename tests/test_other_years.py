"""Other years' datasets: their layouts, and a new year as one more file of the catalog."""

import csv
import itertools
import shutil
from collections.abc import Iterable
from pathlib import Path

import pytest
from conftest import Workspace, copy_project, write_wav
from plain_evaluator import evaluate_2021

from config import BaselineError
from datasets.catalog import find_dataset
from tools import summarize

DOMAINS, LABELS = ("source", "target"), ("normal", "anomaly")


def names_of_2020(ids):
    for section, number in itertools.product(ids, range(8)):
        yield f"train/normal_id_{section}_{number:08d}.wav"
    for section, label, number in itertools.product(ids, LABELS, range(2)):
        yield f"test/{label}_id_{section}_{number:08d}.wav"


def names_of_later_years(sections, test_directory="test"):
    for section, domain, number in itertools.product(sections, DOMAINS, range(4)):
        yield f"train/section_{section}_{domain}_train_normal_{number:04d}_m-n_W.wav"
    for section, domain, label, number in itertools.product(sections, DOMAINS, LABELS, range(2)):
        directory = test_directory.format(domain=domain)
        yield f"{directory}/section_{section}_{domain}_test_{label}_{number:04d}_m-n_W.wav"


def names_of_2021(sections):
    return names_of_later_years(sections, "{domain}_test")


def write_clips(directory: Path, names: Iterable[str], channels: int = 1) -> None:
    for name in names:
        write_wav(directory / name, seconds=1.5, channels=channels)


@pytest.mark.parametrize(
    ("dataset", "machine", "names", "sections", "channels"),
    [
        ("DCASE2020T2", "ToyCar", names_of_2020, ["01", "02", "03", "04"], 1),
        ("DCASE2021T2", "pump", names_of_2021, ["00", "01", "02"], 1),
        ("DCASE2022T2", "bearing", names_of_later_years, ["00", "01", "02"], 1),
        ("DCASE2026T2", "gearboxEmu", names_of_later_years, ["00"], 2),
    ],
)
def test_each_layout_is_trained_and_tested(tmp_path, dataset, machine, names, sections, channels, capsys):
    workspace = Workspace(tmp_path)
    write_clips(workspace.data / dataset.lower() / "dev_data" / "raw" / machine, names(sections), channels)
    for section in sections:  # one model a section
        use = ["--use_ids", str(int(section))] if len(sections) > 1 else []
        options = ["--epochs", "1", "--batch_size", "16", "--frame_hop_length", "4", *use]
        workspace.run_here(*options, machine=machine, dataset=dataset)
        assert "8 training clips, 88 vectors" in capsys.readouterr().out  # 47 frames: 11 of 43 vectors a clip
        workspace.run_here("--test_only", "--score", "MAHALA", *options, machine=machine, dataset=dataset)
    models = [path.parent.name for path in sorted(workspace.models.rglob("model.pth"))]
    assert models == ([f"{machine}_section_{section}" for section in sections] if len(sections) > 1 else [machine])
    summarize.main([dataset, "-d", *workspace.options])
    summary = workspace.results / "dev_data" / "baseline" / "summarize" / dataset / "summary.csv"
    table = {(row["system"], row["metric"]): row for row in csv.DictReader(summary.open())}
    official = find_dataset(dataset).official_score
    of_2021 = ("AUC within source", "AUC within target")  # not in the result CSVs
    for score in ("MSE", "MAHALA"):
        results = workspace.results / "dev_data" / f"baseline_{score}" / dataset / "seed13711"
        rows = {row["section"]: row for row in csv.DictReader((results / f"result_{machine}.csv").open())}
        assert list(rows) == [*sections, "arithmetic mean", "harmonic mean"]
        assert ("AUC" in rows[sections[0]]) == (dataset == "DCASE2020T2")
        assert [metric for system, metric in table if system == score] == [*official["metrics"], "official score"]
        assert not set(of_2021) & rows[sections[0]].keys()
        for metric in official["metrics"]:
            if metric in of_2021:
                continue
            expected = float(rows[f"{official['mean']} mean"][metric])
            assert float(table[score, metric][machine]) == pytest.approx(expected)
        if dataset == "DCASE2021T2":
            expected = evaluate_2021(sorted(results.glob("anomaly_score_*.csv")))
            assert float(table[score, "official score"][machine]) == pytest.approx(expected, rel=1e-15)
        for section in sections:
            scores = csv.reader((results / f"anomaly_score_{machine}_section_{section}_test.csv").open())
            scored = [name for name, _ in scores]
            clips = [name.split("/")[1] for name in names([section]) if "train/" not in name]
            assert sorted(scored) == sorted(clips)
            assert [("anomaly" in name) for name in scored] == sorted("anomaly" in name for name in scored)


def test_other_sections_keep_what_their_own_test_found(tmp_path, capsys):
    """Their clips may be gone; with another --max_fpr their pAUC stays, and there are no means."""
    workspace, clips = Workspace(tmp_path), tmp_path / "data" / "dcase2022t2" / "dev_data" / "raw" / "bearing"
    write_clips(clips, names_of_later_years(["00", "01"]), 1)
    for section in ("0", "1"):
        options = ["--epochs", "1", "--batch_size", "64", "--use_ids", section]
        workspace.run_here(*options, machine="bearing", dataset="DCASE2022T2")
    found = workspace.results / "dev_data" / "baseline_MSE" / "DCASE2022T2" / "seed13711" / "result_bearing.csv"
    assert [row["section"] for row in csv.DictReader(found.open())][:2] == ["00", "01"]
    before = found.read_text().splitlines()
    for path in clips.glob("*test/section_00_*"):
        path.unlink()
    options = ["--test_only", "--use_ids", "1"]
    workspace.run_here(*options, machine="bearing", dataset="DCASE2022T2")
    assert found.read_text().splitlines() == before
    workspace.run_here(*options, "--max_fpr", "0.5", machine="bearing", dataset="DCASE2022T2")
    assert (
        "result_bearing.csv: no means, because section 00 differs: --max_fpr 0.1, not 0.5." in capsys.readouterr().err
    )
    rows = found.read_text().splitlines()
    assert rows[1] == before[1]
    assert rows[3].split(",") == ["arithmetic mean", *["nan"] * rows[0].count(",")]
    found.with_name("anomaly_score_bearing_section_00_test.csv").write_text("damaged")
    workspace.run_here(*options, machine="bearing", dataset="DCASE2022T2")
    assert "result_bearing.csv: section 00 is left out: " in capsys.readouterr().err
    assert [row["section"] for row in csv.DictReader(found.open())] == ["01", "arithmetic mean", "harmonic mean"]


def test_a_model_is_tested_on_sections_that_it_was_trained_on(tmp_path, capsys):
    workspace = Workspace(tmp_path)
    write_clips(tmp_path / "data/dcase2022t2/dev_data/raw/bearing", names_of_later_years(["00", "01", "02"]), 1)
    options = {"machine": "bearing", "dataset": "DCASE2022T2"}
    workspace.run_here("--epochs", "1", "--batch_size", "64", "--use_ids", "0", "1", "--train_only", **options)
    for use_ids in ([], ["--use_ids", "1", "2"]):
        with pytest.raises(BaselineError, match=r"was not trained on section 02. Use .*: --use_ids 0 1"):
            workspace.run_here("--test_only", *use_ids, **options)
    trained = next((tmp_path / "data/dcase2022t2/dev_data/raw/bearing/train").glob("section_00_source*"))
    heard = trained.parents[1] / "test" / "section_00_source_test_normal_0900_x.wav"
    shutil.copy(trained, heard)
    workspace.run_here("--test_only", "--use_ids", "0", "1", **options)
    assert f"1 test clips are also training clips, such as {heard}" in capsys.readouterr().err


# --- A new year

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


@pytest.fixture(scope="module")
def new_year(tmp_path_factory):
    directory = tmp_path_factory.mktemp("legacy")
    workspace = Workspace(directory, project=copy_project(directory, dcase2027t2=CATALOG))
    write_clips(workspace.data / "dcase2027t2/dev_data/raw/valve", names_of_later_years(["00", "01"]), channels=2)
    return workspace


def test_legacy_scripts(new_year):
    options = ["--epochs", "1", "--batch_size", "64"]
    outputs = {}
    for step in ("01_train", "02a_test"):
        finished = new_year.script(f"tools/{step}_legacy.sh", "DCASE2027T2", "-d", *options, JOBS="2")
        assert finished.returncode == 0, finished.stderr
        outputs[step] = finished.stdout
    models = sorted(path.name for path in (new_year.models / "baseline/dev_data/DCASE2027T2/seed13711").iterdir())
    assert models == ["valve_section_00", "valve_section_01"]
    results = new_year.results / "dev_data/baseline_MSE/DCASE2027T2/seed13711"
    # Both sections are reported, though they were tested side by side.
    rows = csv.DictReader((results / "result_valve.csv").open())
    assert [row["section"] for row in rows] == ["00", "01", "arithmetic mean", "harmonic mean"]
    assert not [path for path in results.iterdir() if path.name.startswith(".")]
    for model in models:
        assert f"{model}: trained 1 epochs" in outputs["01_train"]
        assert f"{model}: MSE: " in outputs["02a_test"]
    summary = new_year.script("03_summarize_results.sh", "DCASE2027T2", "-d")
    assert summary.returncode == 0, summary.stderr
    assert summary.stdout.splitlines()[2].split() == ["system", "metric", "h-mean", "a-mean", "valve"]
    assert "warning:" not in summary.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "the first argument must be a dataset"),
        (["DCASE2027T2"], "-d or -e must come first"),
        (["DCASE2019T2", "-d"], "unknown dataset 'DCASE2019T2'. Did you mean"),
        (["DCASE2027T2", "-e"], "has no eval data for this script"),
        (["DCASE2027T2", "-d", "--train_only"], "--train_only"),
    ],
)
def test_wrong_arguments(new_year, arguments, words):
    finished = new_year.script("tools/02a_test_legacy.sh", *arguments)
    assert finished.returncode == 2
    assert words in finished.stderr
    assert "Traceback" not in finished.stderr
