"""The demo clips: names, sounds, and that they are made whole or not at all."""

import csv

import numpy as np
import pytest
import soundfile
from conftest import RAW

from config import BaselineError
from datasets.catalog import find_dataset, find_machine
from datasets.clips import find_clips
from tools import make_demo_data
from tools.make_demo_data import clip_samples, plan_clips
from tools.setup import demo_sounds
from tools.setup.demo_sounds import DEV_MACHINES, EVAL_MACHINES

SMALL = ["--train_clips", "6", "--test_clips", "8", "--seconds", "0.5"]
OPTIONS = {"seed": 0, "train_clips": 6, "test_clips": 8, "seconds": 0.5}
# Every 2000th sample of each machine type's clip of the target domain with anomaly 1
SAMPLES = {
    "ToyCar": [797, 321, -327, 422],
    "ToyTrain": [-2303, 1707, 1006, -1059],
    "bearing": [1001, 1681, -1097, 215],
    "fan": [2090, 1535, 1647, 271],
    "gearbox": [2009, -996, -810, -818],
    "slider": [-4108, -448, 1166, -13],
    "valve": [-372, -72, -97, -133],
    "3DPrinter": [1010, -139, 151, -1902],
    "AirCompressor": [-118, -624, -443, -1177],
    "BrushlessMotor": [2374, 1479, -53, -817],
    "HairDryer": [851, 176, 1083, 1966],
    "HoveringDrone": [-645, 1977, 178, -70],
    "RoboticArm": [-680, -1256, 842, -962],
    "Scanner": [-1251, -1077, 858, 647],
    "ToothBrush": [282, -120, 1130, -422],
    "ToyCircuit": [-761, 337, -1038, 1165],
}


def make(data, *options, machines=("fan", "valve")):
    make_demo_data.main(["--dataset_directory", str(data), *SMALL, "--machines", *machines, *options])


def contents(data):
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.wav")}


def test_machine_types_are_those_of_the_catalog():
    machines = find_dataset("DCASE2024T2").machines
    assert list(DEV_MACHINES) == list(machines["dev"])
    assert list(EVAL_MACHINES) == list(machines["eval"])


@pytest.mark.parametrize("name", [*DEV_MACHINES, *EVAL_MACHINES])
def test_sounds_stay_the_same(name):
    """Two kinds of processors may round a sample differently."""
    machine = (DEV_MACHINES | EVAL_MACHINES)[name]
    plan = plan_clips(name, machine, OPTIONS | {"split": "dev_data"})
    clip = next(c for c in plan.values() if (c.domain, c.label, c.number) == ("target", "anomaly", 1))
    samples = clip_samples(name, machine, clip, OPTIONS)
    assert (len(samples), samples.dtype) == (8000, np.int16)
    np.testing.assert_allclose(samples[1000::2000], SAMPLES[name], atol=1)


def test_names_attributes_and_format(tmp_path):
    make(tmp_path)
    machine = find_machine("DCASE2024T2fan", "dev")
    train, test = (find_clips(machine, tmp_path, split, ("00",)) for split in ("train", "test"))
    assert [clip.is_target for clip in train] == [False] * 5 + [True]
    assert [(clip.is_target, clip.is_anomaly) for clip in test] == [(0, 0)] * 2 + [(1, 0)] * 2 + [(0, 1)] * 2 + [
        (1, 1)
    ] * 2
    rows = list(csv.DictReader((tmp_path / RAW / "fan" / "attributes_00.csv").open()))
    first = "fan/train/section_00_source_train_normal_0000_spd_low_noise_A.wav"
    assert list(rows[0].items()) == [
        ("file_name", first),
        ("d1p", "spd"),
        ("d1v", "low"),
        ("d2p", "noise"),
        ("d2v", "A"),
    ]
    assert {row["file_name"] for row in rows} == {f"fan/{clip.path.parent.name}/{clip.name}" for clip in train + test}
    for clip in train + test:
        info, samples = soundfile.info(clip.path), soundfile.read(clip.path)[0]
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 8000)
        assert 0.01 < np.abs(samples).max() < 0.9


def test_evaluation_clips_have_no_labels(tmp_path):
    make(tmp_path, "--eval", machines=["Scanner"])
    clips = find_clips(find_machine("DCASE2024T2Scanner", "eval"), tmp_path, "test", ("00",))
    assert [clip.name for clip in clips] == [f"section_00_{number:04d}.wav" for number in range(8)]
    assert all(clip.is_anomaly is None for clip in clips)
    attributes = next(tmp_path.rglob("attributes_00.csv")).read_text()
    assert attributes.count("/train/") == 6
    assert "/test/" not in attributes
    plan = plan_clips("Scanner", EVAL_MACHINES["Scanner"], OPTIONS | {"split": "eval_data"})
    labels = [clip.label for path, clip in plan.items() if path.startswith("test/")]
    assert sorted(labels) == ["anomaly"] * 4 + ["normal"] * 4
    assert labels not in (sorted(labels), sorted(labels, reverse=True))


def test_same_seed_same_clips(tmp_path):
    make(tmp_path / "a")
    make(tmp_path / "b", machines=["valve"])
    make(tmp_path / "c", "--seed", "1")
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert len(b) == 14
    assert all(a[name] == b[name] for name in b)
    assert not any(a[name] == c[name] for name in a)
    assert len({*a.values()}) == len(a)


def test_second_run_reuses_and_repairs(tmp_path, capsys):
    make(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")}
    make(tmp_path)
    assert "fan: already there, reused" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.wav")} == before
    next(path for path in before if RAW / "fan" in path.relative_to(tmp_path).parents).unlink()
    leftover = tmp_path / RAW / ".fan.partial" / "train" / "clip.wav"  # of a run that was killed
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    make(tmp_path)
    assert set(tmp_path.rglob("*.wav")) == set(before)


def test_other_data_stay(tmp_path):
    make(tmp_path, machines=["valve"])
    with pytest.raises(
        BaselineError, match=r"valve holds .* other options. Remove it, or choose another --dataset_dir"
    ):
        make(tmp_path, "--seed", "1", machines=["valve"])
    recording = tmp_path / RAW / "fan" / "train" / "section_00_source_train_normal_0000.wav"
    recording.parent.mkdir(parents=True)
    recording.write_text("a recording")
    with pytest.raises(BaselineError, match="fan holds other data"):
        make(tmp_path)
    assert recording.read_text() == "a recording"


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    def fail(name, machine, clip, options):
        if clip.split == "test":
            raise OSError("no space left on device")
        return clip_samples(name, machine, clip, options)

    monkeypatch.setattr(make_demo_data, "clip_samples", fail)
    with pytest.raises(BaselineError, match="fan could not be made: no space left"):
        make(tmp_path)
    assert list((tmp_path / RAW).iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "--seconds nan",
        "--test_clips 6",
        "--test_clips 0",
        "--train_clips 1",
        "--machines Fan",
        "--seed -1",
        "--dataset x",
    ],
)
def test_wrong_options(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as error:
        make_demo_data.main(["--dataset_directory", str(tmp_path), *wrong.split()])
    assert error.value.code == 2
    assert wrong.split()[0] in capsys.readouterr().err


def test_curves_ascend_in_frequency(monkeypatch):
    """`np.interp` gives wrong values without an error if they do not."""
    curves = []
    gains = demo_sounds.gains
    monkeypatch.setattr(demo_sounds, "gains", lambda n, curve: curves.append(list(curve)) or gains(n, curve))
    for machine in [*DEV_MACHINES.values(), *EVAL_MACHINES.values()]:
        for speed in [*machine.source.values(), *machine.target.values()]:
            machine.sound(np.random.default_rng(0), 4000, speed, machine.pitch)
        for defect in machine.defects:
            defect(np.random.default_rng(0), 4000, 1.0)
    assert curves
    assert all(curve == sorted(curve) for curve in curves)
