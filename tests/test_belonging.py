"""Results that do not belong together do not stand in one table."""

import json
import os
import re
from dataclasses import replace

import pytest
from conftest import Workspace
from test_bootstrap import MACHINES, write_system

from config import UsageError
from tools import summarize
from tools.results.belonging import keep_comparable


def change(run, machine, **changes):
    """The record of a test with other contents."""
    path = run.paths(run.machines[machine]).test_record
    record = json.loads(path.read_text())
    for key, value in changes.items():
        record[key] = record[key] | value if isinstance(value, dict) else value
    path.write_text(json.dumps(record))


def left_out(runs, wanted=None):
    kept, lines = keep_comparable(runs, wanted)
    places = [(number, machine) for number, run in enumerate(kept) for machine, _ in sorted(run.left_out)]
    return places, " ".join(lines)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"training": {"learning_rate": 0.5}}, "--learning_rate 0.5, not None"),
        ({"training": {"epochs": 5, "frames": 3}}, "--epochs 5, not None; --frames 3, not None"),
        ({"training": {"code": {"train.py: train": "1"}}}, "train.py has changed (train)"),
        ({"code": {"networks/scores.py: f": "1"}}, "networks/scores.py has changed (f)"),
        ({"calibration": "clip"}, "--calibration clip, not batch"),
        ({"max_fpr": 0.2}, "--max_fpr 0.2, not 0.1"),
    ],
)
def test_a_machine_type_that_was_made_otherwise_is_left_out(tmp_path, changes, words):
    run = write_system(tmp_path, "MSE", 1, 1.0)
    change(run, "fan", **changes)
    assert left_out([run]) == ([(0, "fan")], f"MSE, seed 1: fan 00 left out: {words}.")


def test_seeds_must_share_parameters_and_clips(tmp_path):
    runs = [write_system(tmp_path, "MSE", seed, 1.0) for seed in (1, 2, 3, 4)]
    for machine in MACHINES:
        change(runs[1], machine, training={"learning_rate": 0.5})
    change(runs[2], "fan", training={"clips": "others"})
    change(runs[2], "valve", clips={"test/section_00_source_test_normal_0000_x.wav": ["00", False, False, "b2"]})
    places, words = left_out(runs)
    assert places == [*((1, machine) for machine in sorted(MACHINES)), (2, "fan"), (2, "valve")]
    assert "MSE, seed 3: fan 00 left out: training clips differ from the others." in words
    assert "MSE, seed 3: valve 00 left out: test clips differ from the others." in words


def test_scores_of_a_tag_share_its_training_and_the_newer_one_counts(tmp_path):
    runs = [write_system(tmp_path, score, 1, 1.0) for score in ("MSE", "MAHALA")]
    other = write_system(tmp_path, "MSE", 1, 1.0, tag="other")
    for machine in MACHINES:
        change(runs[0], machine, training={"epochs": 5})
        change(other, machine, training={"epochs": 7})
        for run, time in zip(runs, (1, 2), strict=True):
            os.utime(run.paths(run.machines[machine]).test_record, (time, time))
    assert left_out([*runs, other])[0] == [(0, machine) for machine in sorted(MACHINES)]


def test_results_of_an_older_model_are_left_out(tmp_path):
    run = write_system(tmp_path / "results", "MSE", 1, 1.0)
    workspace = Workspace(tmp_path)
    run = replace(run, config=replace(run.config, model_directory=workspace.models))
    model = run.paths(run.machines["fan"]).model
    model.parent.mkdir(parents=True)
    model.write_bytes(b"newer")
    places, words = left_out([run])
    assert places == [(0, "fan")]
    assert "tested with an older model, which has been replaced. Test again" in words


def test_results_that_were_copied_from_another_run_are_left_out(tmp_path):
    run = write_system(tmp_path, "MSE", 1, 1.0)
    change(run, "fan", training={"seed": 2})
    change(run, "valve", score="MAHALA")
    places, words = left_out([run])
    assert places == [(0, "fan"), (0, "valve")]
    assert words.endswith("copied from elsewhere: its record has another --seed or --score.")


def test_doubtful_results_that_stay_are_named(tmp_path):
    runs = [write_system(tmp_path, score, 1, 1.0) for score in ("MSE", "MAHALA")]
    for machine in MACHINES:
        change(runs[0], machine, code={"a.py: f": "2"})
        for run in runs:
            change(run, machine, training={"code": {"a.py: f": "1"}})
    change(runs[1], "fan", clips={"test/section_00_source_test_normal_0000_x.wav": ["00", False, False, "b2"]})
    places, words = left_out(runs)
    assert places == []
    assert "valve 00: between training and test, a.py has changed (f)." in words
    assert "MAHALA, seed 1: fan 00: tested on different clips than MSE." in words


def test_two_runs_of_one_model_are_named(tmp_path):
    runs = [write_system(tmp_path, "MSE", 1, 1.0, tag=tag) for tag in ("", "wide")]
    for run in runs:
        change(run, "fan", model_sha256="same")
    assert left_out(runs) == ([], "MSE wide, seed 1: fan 00: the same model as MSE, seed 1.")


def test_results_without_a_record_stay_and_are_named(tmp_path):
    run = write_system(tmp_path, "MSE", 1, 1.0)
    run.paths(run.machines["fan"]).test_record.unlink()
    run.paths(run.machines["valve"]).test_record.write_text('{"files": {}}')  # as earlier versions wrote it
    places, words = left_out([run])
    assert places == []
    reason = "its model and parameters are unknown, because there is no record of the test."
    assert words == f"MSE, seed 1: fan 00, valve 00: {reason}"


def test_options_of_the_summary_choose_results(tmp_path, capsys):
    for seed in (1, 2):
        for tag in ("", "wide"):
            write_system(tmp_path, "MSE", seed, 1.0, tag=tag)
    write_system(tmp_path, "MAHALA", 1, 1.0)

    def systems(*options):
        summarize.main(["DCASE2024T2", "-d", "--result_directory", str(tmp_path), "--resamples", "1", *options])
        text = capsys.readouterr().out
        return [line.split("  ")[0] for line in text.splitlines() if "  AUC (source)" in line], text

    assert systems()[0] == ["MSE", "MSE wide", "MAHALA"]
    assert "seed 2, in percent" in systems("--seed", "2")[1]
    assert systems("--score", "MAHALA")[0] == ["MAHALA"]
    assert systems("-tag", "wide")[0] == ["MSE wide"]
    assert systems("-tag", "")[0] == ["MSE", "MAHALA"]
    for options in (["--seed", "7"], ["-tag", "none"], ["--learning_rate", "0.5"], ["--max_fpr", "0.2"]):
        with pytest.raises(Exception, match=r"no result_<machine>.csv with --"):
            systems(*options)
    with pytest.raises(UsageError, match="unknown option '--use_cuda'"):
        systems("--use_cuda", "False")


def test_metrics_that_were_edited_are_left_out(tmp_path):
    run = write_system(tmp_path, "MSE", 1, 1.0)
    path = run.paths(run.machines["fan"]).metrics
    path.write_text(re.sub(r",0\.\d", ",0.9", path.read_text(), count=1))
    places, words = left_out([run])
    assert places == [(0, "fan")]
    assert "result_fan.csv has changed since the test. Test again" in words
