"""The catalog, file names, and the order of clips."""

from pathlib import Path

import pytest
from conftest import write_wav

from config import BaselineError, UsageError
from datasets.catalog import dataset_names, find_dataset, find_machine
from datasets.clips import find_clips, parse_clip


def test_machine_types_of_2024():
    machines = find_dataset("DCASE2024T2").machines
    assert list(machines["dev"]) == ["ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve"]
    assert list(machines["eval"]) == [
        *("3DPrinter", "AirCompressor", "BrushlessMotor", "HairDryer", "HoveringDrone"),
        *("RoboticArm", "Scanner", "ToothBrush", "ToyCircuit"),
    ]


@pytest.mark.parametrize("name", [name for name in dataset_names() if name.startswith("DCASE")])
def test_facts_of_each_dataset(name):
    dataset = find_dataset(name)
    assert dataset.name == name
    assert dataset.directory == name.lower()
    for machine in [m for split in dataset.machines.values() for m in split.values()]:
        assert machine.sections
        assert all(section.isdigit() and len(section) == 2 for section in machine.sections)
        assert machine.archives
        assert all(archive.url.startswith("https://zenodo.org/records/") for archive in machine.archives)
        assert {part for archive in machine.archives for part in archive.holds} <= {"train", "test"}
        assert bool(machine.label_files("anomaly")) == (machine.split == "eval")


def test_archives_that_were_released_again():
    (archive,) = find_machine("DCASE2024T2fan", "dev").archives
    assert archive.url == "https://zenodo.org/records/10902294/files/dev_fan.zip"
    assert [archive.url for archive in find_machine("DCASE2024T23DPrinter", "eval").archives] == [
        "https://zenodo.org/records/11259435/files/eval_data_3DPrinter_train_r2.zip",
        "https://zenodo.org/records/11363076/files/eval_data_3DPrinter_test.zip",
    ]


@pytest.mark.parametrize(
    ("name", "split", "words"),
    [
        ("DCASE2024T2fna", "dev", ["no machine type 'fna'", "Did you mean 'fan'"]),
        ("DCASE2024T2FAN", "dev", ["Did you mean 'fan'"]),
        ("DCASE2024T2HairDryer", "dev", ["belongs to the eval data: use -e"]),
        ("DCASE2024fan", "dev", ["unknown dataset", "Did you mean 'DCASE2024T2fan'"]),
        ("DCASE2024T2", "dev", ["no machine type ''"]),
    ],
)
def test_unknown_names(name, split, words):
    with pytest.raises(UsageError) as error:
        find_machine(name, split)
    assert all(word in str(error.value) for word in words), error.value


def test_unknown_section():
    with pytest.raises(UsageError, match="no section 03"):
        find_machine("DCASE2024T2fan", "dev").section_names((0, 3))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("section_00_source_train_normal_0000_spd_28V.wav", ("00", False, False, "train")),
        ("section_00_target_test_anomaly_0049_f-n_A_target.wav", ("00", True, True, "test")),
        ("section_00_source_test_normal_0001_noise_anomaly.wav", ("00", False, False, "test")),
        ("section_00_0199.wav", ("00", False, None, None)),
        ("section_03_target_test_0000.wav", ("03", True, None, "test")),
        ("normal_id_01_00000000.wav", ("01", False, False, None)),
        ("anomaly_id_06_00000263.wav", ("06", False, True, None)),
        ("section_00_0000.WAV", ("00", False, None, None)),
        ("id_05_00000000.wav", ("05", False, None, None)),
    ],
)
def test_what_a_name_says(name, expected):
    clip = parse_clip(Path("x", name))
    assert (clip.section, clip.is_target, clip.is_anomaly, clip.split) == expected


@pytest.mark.parametrize(
    "name", ["noise.wav", "section_0_0000.wav", "section_00_source_test_weird_0000.wav", "._section_00_0000.wav"]
)
def test_names_that_say_nothing(name):
    with pytest.raises(BaselineError, match="not a clip name"):
        parse_clip(Path("x", name))


def lay_out(data: Path, split: str, names: list[str]) -> None:
    for name in names:
        write_wav(data / "dcase2024t2/dev_data/raw/fan" / split / name, seconds=0.1)


def test_order_of_labelled_test_clips(tmp_path):
    names = [
        "section_00_source_test_normal_0000.wav",
        "section_00_source_test_normal_0001.wav",
        "section_00_target_test_normal_0000.wav",
        "section_00_source_test_anomaly_0000.wav",
        "section_00_target_test_anomaly_0000.wav",
    ]
    lay_out(tmp_path, "test", names[::-1])
    clips = find_clips(find_machine("DCASE2024T2fan", "dev"), tmp_path, "test", ("00",))
    assert [clip.name for clip in clips] == names


def test_order_of_unlabelled_clips_is_that_of_the_paths(tmp_path):
    names = [f"section_00_{number:04d}.wav" for number in range(12)]
    lay_out(tmp_path, "test", names[::-1])
    clips = find_clips(find_machine("DCASE2024T2fan", "dev"), tmp_path, "test", ("00",))
    assert [clip.name for clip in clips] == names


@pytest.mark.parametrize(
    ("split", "names", "words"),
    [
        ("train", ["section_00_source_train_anomaly_0000.wav"], "not a normal training clip"),
        ("train", ["section_00_source_test_normal_0000.wav"], "not a normal training clip"),
        ("train", ["section_01_source_train_normal_0000.wav"], "has no section 01"),
        ("test", ["section_00_source_train_normal_0000.wav"], "not a test clip"),
        ("test", ["section_00_0000.wav", "section_00_source_test_normal_0000.wav"], "mixed"),
    ],
)
def test_clips_that_do_not_belong_there(tmp_path, split, names, words):
    lay_out(tmp_path, split, names)
    with pytest.raises(BaselineError, match=words):
        find_clips(find_machine("DCASE2024T2fan", "dev"), tmp_path, split, ("00",))


def test_missing_data_say_where_to_get_them(tmp_path):
    machine = find_machine("DCASE2024T2fan", "dev")
    with pytest.raises(BaselineError, match="data_download_20XX.sh DCASE2024T2 -d --machines fan") as error:
        find_clips(machine, tmp_path, "train", ("00",))
    assert "--dataset_directory" in str(error.value)
    (tmp_path / "dcase2024t2/dev_data/raw/fan/train").mkdir(parents=True)
    with pytest.raises(BaselineError, match="no .wav files"):
        find_clips(machine, tmp_path, "train", ("00",))
