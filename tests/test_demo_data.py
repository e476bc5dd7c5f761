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
from tools.setup.demo_sounds import DEV_MACHINES, EVAL_MACHINES

SMALL = ["--train_clips", "6", "--test_clips", "8", "--seconds", "0.5"]
# Mean of the samples' magnitudes in clips of all conditions, noises and labels
# fmt: off
MAGNITUDES = {
    "ToyCar": 793.794, "ToyTrain": 738.660, "bearing": 748.465, "fan": 783.154,
    "gearbox": 776.253, "slider": 690.924, "valve": 616.293, "3DPrinter": 784.967,
    "AirCompressor": 580.084, "BrushlessMotor": 734.981, "HairDryer": 788.129, "HoveringDrone": 788.722,
    "RoboticArm": 852.723, "Scanner": 766.435, "ToothBrush": 732.887, "ToyCircuit": 788.610,
}
# fmt: on


def make(data, *options, machines=("fan", "valve")):
    make_demo_data.main(["--dataset_directory", str(data), *SMALL, "--machines", *machines, *options])


def contents(data):
    return {str(path.relative_to(data)): path.read_bytes() for path in data.rglob("*.wav")}


@pytest.mark.parametrize("name", MAGNITUDES)
def test_sounds_stay_the_same(name):
    """Another kind of processor may round a sample differently."""
    machine = (DEV_MACHINES | EVAL_MACHINES)[name]
    options = {"split": "dev_data", "seed": 0, "train_clips": 5, "test_clips": 8, "seconds": 0.5}
    clips = plan_clips(name, machine, options).values()
    samples = np.stack([clip_samples(name, machine, clip, options) for clip in clips])
    assert (samples.shape, samples.dtype) == ((13, 8000), np.int16)
    assert np.abs(samples.astype(float)).mean() == pytest.approx(MAGNITUDES[name], rel=1e-5)


def test_names_attributes_and_format(tmp_path):
    machines = find_dataset("DCASE2024T2").machines
    assert [*DEV_MACHINES, *EVAL_MACHINES] == [*machines["dev"], *machines["eval"]]
    make(tmp_path)
    train, test = (find_clips(machines["dev"]["fan"], tmp_path, split, ("00",)) for split in ("train", "test"))
    assert [clip.is_target for clip in train] == [False] * 5 + [True]
    groups = [(clip.is_target, clip.is_anomaly) for clip in test]
    assert groups == 2 * [(0, 0)] + 2 * [(1, 0)] + 2 * [(0, 1)] + 2 * [(1, 1)]
    rows = list(csv.reader((tmp_path / RAW / "fan" / "attributes_00.csv").open()))
    name = "fan/train/section_00_source_train_normal_0000_spd_low_noise_A.wav"
    assert rows[:2] == [["file_name", "d1p", "d1v", "d2p", "d2v"], [name, "spd", "low", "noise", "A"]]
    assert {row[0] for row in rows[1:]} == {f"fan/{clip.path.parent.name}/{clip.name}" for clip in train + test}
    for clip in train + test:
        info, samples = soundfile.info(clip.path), soundfile.read(clip.path)[0]
        assert (info.samplerate, info.channels, info.subtype, info.frames) == (16000, 1, "PCM_16", 8000)
        assert 0.01 < np.abs(samples).max() < 0.9


def test_evaluation_clips_have_no_labels(tmp_path):
    make(tmp_path, "--eval", machines=["Scanner"])
    clips = find_clips(find_machine("DCASE2024T2Scanner", "eval"), tmp_path, "test", ("00",))
    assert [clip.name for clip in clips] == [f"section_00_{number:04d}.wav" for number in range(1, 9)]  # as released
    attributes = next(tmp_path.rglob("attributes_00.csv")).read_text()
    assert (attributes.count("/train/"), attributes.count("/test/")) == (6, 0)
    plans = []
    for split in ("dev_data", "eval_data"):
        options = {"split": split, "seed": 0, "train_clips": 6, "test_clips": 8}
        plan = plan_clips("Scanner", EVAL_MACHINES["Scanner"], options)
        plans.append([clip for path, clip in plan.items() if path.startswith("test/")])
    assert sorted(plans[0]) == sorted(plans[1])
    assert [clip.label for clip in plans[0]] != [clip.label for clip in plans[1]]  # the order says nothing


def test_same_seed_same_clips(tmp_path, capsys):
    make(tmp_path / "a")
    make(tmp_path / "b", machines=["valve"])
    make(tmp_path / "c", "--seed", "1")
    a, b, c = (contents(tmp_path / name) for name in "abc")
    assert len(b) == 14
    assert all(a[name] == b[name] != c[name] for name in b)
    assert len({*a.values()}) == len(a)
    with pytest.raises(BaselineError, match=r"valve contains .* other options. Move it away, or choose another"):
        make(tmp_path / "b", "--seed", "1", machines=["valve"])
    leftover = tmp_path / "b" / RAW / ".fan.partial" / "train" / "clip.wav"  # of a run that was killed
    leftover.parent.mkdir(parents=True)
    leftover.touch()
    times = {path: path.stat().st_mtime_ns for path in (tmp_path / "b").rglob("valve/**/*.wav")}
    make(tmp_path / "b")
    assert "valve: found " in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in times} == times
    assert contents(tmp_path / "b") == a


def test_failure_leaves_nothing_behind(tmp_path, monkeypatch):
    recording = tmp_path / RAW / "valve" / "train" / "section_00_source_train_normal_0000.wav"
    recording.parent.mkdir(parents=True)
    recording.write_text("a recording")
    with pytest.raises(BaselineError, match="valve contains other data"):
        make(tmp_path, machines=["valve"])

    def fail(name, machine, clip, options):
        if clip.split == "test":
            raise OSError("no space left on device")
        return clip_samples(name, machine, clip, options)

    monkeypatch.setattr(make_demo_data, "clip_samples", fail)
    with pytest.raises(BaselineError, match="fan could not be generated: no space left"):
        make(tmp_path)
    assert list((tmp_path / RAW).rglob("*.wav")) == [recording]
    assert recording.read_text() == "a recording"


WRONG = "--seconds nan,--test_clips 6,--test_clips 0,--train_clips 1,--machines Fan,--seed -1,--dataset x"


@pytest.mark.parametrize("wrong", WRONG.split(","))
def test_wrong_options(tmp_path, wrong, capsys):
    with pytest.raises(SystemExit) as error:
        make_demo_data.main(["--dataset_directory", str(tmp_path), *wrong.split()])
    assert error.value.code == 2
    assert f" {wrong.split()[0]}" in capsys.readouterr().err.splitlines()[-1]
