"""Whether the results of a test are those that it would give now."""

import csv
import shutil
from dataclasses import replace

import pytest
from conftest import Workspace

from config import load_config
from datasets.catalog import find_machine
from datasets.clips import find_clips
from files import write_csv
from tools.results.score_files import is_tested
from tools.training.paths import run_paths
from tools.training.records import read_record

FAN = find_machine("DCASE2024T2fan", "dev")


@pytest.fixture
def tested(trained, tmp_path):
    """A copy of a tested model's results; the paths of its files, its clips, the checksum of its weights."""
    workspace = Workspace(tmp_path, trained.data)
    shutil.copytree(trained.results, workspace.results)
    workspace.models = trained.models
    paths = run_paths(load_config(["--dataset", "DCASE2024T2fan", "-d", *workspace.options]), FAN, ("00",))
    clips = find_clips(FAN, trained.data, "test", ("00",))
    return paths, clips, read_record(paths)["model_sha256"]


def test_what_has_just_been_tested_is_tested(tested):
    paths, clips, weights = tested
    assert is_tested(paths, clips, weights)
    assert is_tested(paths, (), weights)  # the clips may be gone
    mahala = replace(paths, config=replace(paths.config, score="MAHALA", epochs=5, use_cuda=False))
    assert is_tested(mahala, clips, weights)


@pytest.mark.parametrize("change", [{"decision_threshold": 0.95}, {"calibration": "clip"}, {"max_fpr": 0.2}])
def test_other_parameters(tested, change):
    paths, clips, weights = tested
    assert not is_tested(replace(paths, config=replace(paths.config, **change)), clips, weights)


def test_other_weights(tested):
    paths, clips, _ = tested
    assert not is_tested(paths, clips, 64 * "0")


def test_other_clips_or_labels(tested):
    paths, clips, weights = tested
    assert not is_tested(paths, clips[1:], weights)
    assert not is_tested(paths, [replace(clips[0], is_anomaly=True), *clips[1:]], weights)


@pytest.mark.parametrize("name", ["anomaly_score_fan_section_00_test.csv", "decision_result_fan_section_00_test.csv"])
def test_files_that_have_changed_or_gone(tested, name):
    paths, clips, weights = tested
    path = paths.result_dir / name
    rows = list(csv.reader(path.open()))
    write_csv(path, [[rows[0][0], 7], *rows[1:]])
    assert not is_tested(paths, clips, weights)
    path.unlink()
    assert not is_tested(paths, clips, weights)


@pytest.mark.parametrize("name", ["result_fan.csv", "test_fan.json"])
def test_what_a_test_also_writes_is_gone(tested, name):
    paths, clips, weights = tested
    (paths.result_dir / name).unlink()
    assert not is_tested(paths, clips, weights)


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"files": 7}', '{"files": {"../../x": "0"}}', "\0"])
def test_a_damaged_record(tested, damage):
    paths, clips, weights = tested
    paths.test_record.write_text(damage)
    assert not is_tested(paths, clips, weights)
