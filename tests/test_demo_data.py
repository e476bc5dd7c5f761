"""The demo clips: names, sounds, and that they are made whole or not at all."""

import csv

import numpy as np
import pytest
import soundfile
from conftest import RAW

from datasets.catalog import find_dataset, find_machine
from datasets.clips import find_clips
from tools import make_demo_data

SMALL = ["--train_clips", "6", "--test_clips", "8", "--seconds", "0.5"]


def make(data, *options):
    make_demo_data.main(["--dataset_directory", str(data), *SMALL, "--machines", "fan", "valve", *options])


def contents(data):
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.wav")}


def test_machine_types_are_those_of_the_catalog():
    machines = find_dataset("DCASE2024T2").machines
    assert list(make_demo_data.DEV_MACHINES) == list(machines["dev"])
    assert list(make_demo_data.EVAL_MACHINES) == list(machines["eval"])


def test_names_attributes_and_format(tmp_path):
    make(tmp_path)
    machine = find_machine("DCASE2024T2fan", "dev")
    train, test = (find_clips(machine, tmp_path, split, ("00",)) for split in ("train", "test"))
    assert [clip.is_target for clip in train] == [False] * 5 + [True]
    assert sorted((clip.is_target, clip.is_anomaly) for clip in test) == [
        (target, anomaly) for target in (False, True) for anomaly in (False, False, True, True)
    ]
    rows = list(csv.DictReader((tmp_path / RAW / "fan" / "attributes_00.csv").open()))
    assert {row["file_name"] for row in rows} == {f"fan/{clip.path.parent.name}/{clip.name}" for clip in train + test}
    assert list(rows[0]) == ["file_name", "d1p", "d1v", "d2p", "d2v"]
    for clip in train + test:
        info, samples = soundfile.info(clip.path), soundfile.read(clip.path)[0]
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 8000)
        assert 0.01 < np.abs(samples).max() < 0.9


def test_same_seed_same_clips(tmp_path):
    make(tmp_path / "a")
    make_demo_data.main(["--dataset_directory", str(tmp_path / "b"), *SMALL, "--machines", "valve"])
    a, b = contents(tmp_path / "a"), contents(tmp_path / "b")
    assert len(b) == 14
    assert all(a[name] == b[name] for name in b)
    make(tmp_path / "c", "--seed", "1")
    c = contents(tmp_path / "c")
    assert not any(a[name] == c[name] for name in a)
    assert len({*a.values()}) == len(a)


def test_second_call_reuses_and_mends(tmp_path, capsys):
    make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    make(tmp_path)
    assert "already there, reused" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")} == before
    next(iter(before)).unlink()
    make(tmp_path)
    assert set(tmp_path.rglob("*.wav")) == set(before)


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    synthesise = make_demo_data.synthesise

    def fail(name, machine, clip, options):
        if clip.split == "test":
            raise OSError("no space left on device")
        return synthesise(name, machine, clip, options)

    monkeypatch.setattr(make_demo_data, "synthesise", fail)
    with pytest.raises(SystemExit, match="fan could not be made: no space left"):
        make(tmp_path)
    assert list((tmp_path / RAW).iterdir()) == []


def test_other_data_are_left_alone(tmp_path):
    other = tmp_path / RAW / "fan" / "train" / "section_00_source_train_normal_0000.wav"
    other.parent.mkdir(parents=True)
    other.write_text("a recording")
    with pytest.raises(SystemExit, match="holds other data"):
        make(tmp_path)
    assert other.read_text() == "a recording"


@pytest.mark.parametrize(
    "wrong", ["--seconds nan", "--test_clips 6", "--train_clips 1", "--machines Fan", "--seed -1", "--nonsense"]
)
def test_wrong_options(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as error:
        make_demo_data.main(["--dataset_directory", str(tmp_path), *wrong.split()])
    assert error.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err


def test_evaluation_clips_have_no_labels(tmp_path):
    make_demo_data.main(["--dataset_directory", str(tmp_path), *SMALL, "--eval", "--machines", "Scanner"])
    clips = find_clips(find_machine("DCASE2024T2Scanner", "eval"), tmp_path, "test", ("00",))
    assert [clip.name for clip in clips] == [f"section_00_{number:04d}.wav" for number in range(8)]
    assert all(clip.is_anomaly is None for clip in clips)
    options = {"split": "eval_data", "seed": 0, "train_clips": 6, "test_clips": 8, "seconds": 0.5}
    plan = make_demo_data.plan_clips("Scanner", make_demo_data.EVAL_MACHINES["Scanner"], options)
    labels = [clip.label for path, clip in plan.items() if path.startswith("test/")]
    assert sorted(labels) == ["anomaly"] * 4 + ["normal"] * 4
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_curves_ascend_in_frequency(monkeypatch):
    """`np.interp` says nothing of it where they do not."""
    curves = []
    gains = make_demo_data.gains
    monkeypatch.setattr(make_demo_data, "gains", lambda n, curve: curves.append(list(curve)) or gains(n, curve))
    for machine in [*make_demo_data.DEV_MACHINES.values(), *make_demo_data.EVAL_MACHINES.values()]:
        for speed in [*machine.source.values(), *machine.target.values()]:
            machine.sound(np.random.default_rng(0), 4000, speed, machine.pitch)
    for defect in (make_demo_data.knocks, make_demo_data.friction, make_demo_data.rattle, make_demo_data.extra_tones):
        defect(np.random.default_rng(0), 4000, 1.0)
    assert curves
    assert all(curve == sorted(curve) for curve in curves)
