"""The catalog, file names, and the order of clips."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from conftest import write_wav

from config import BaselineError, UsageError
from datasets import catalog
from datasets.catalog import find_dataset, find_machine
from datasets.clips import find_clips, parse_clip
from tools.results.official import COLUMNS

FAN = find_machine("DCASE2024T2fan", "dev")

HARMONIC = "harmonic mean of AUC (source), AUC (target), pAUC"
OFFICIAL_2021 = "harmonic mean of AUC within source, AUC within target, pAUC (source), pAUC (target)"
# Year: records of the development data, of training and test clips of the evaluation data; channels; number of machine
# types and of their sections (development, evaluation); official score.
FACTS = {
    2020: (3678171, 3727685, 3841772, 1, (6, 23), (6, 18), "arithmetic mean of AUC, pAUC"),
    2021: (4562016, 4660992, 4884786, 1, (7, 21), (7, 21), OFFICIAL_2021),
    2022: (6355122, 6462969, 6586456, 1, (7, 21), (7, 21), HARMONIC),
    2023: (7882613, 7830345, 7860847, 1, (7, 7), (7, 7), HARMONIC),
    2024: (10902294, 11259435, 11363076, 1, (7, 7), (9, 9), HARMONIC),
    2025: (15097779, 15392814, 15519362, 1, (7, 7), (8, 8), HARMONIC),
    2026: (19336329, 20151556, 20437238, 2, (7, 7), (5, 5), HARMONIC),
}


@pytest.mark.parametrize("year", FACTS)
def test_facts_of_each_year(year):
    dataset = find_dataset(f"DCASE{year}T2")
    dev, train, test, channels, *sizes, official = FACTS[year]
    assert dataset.directory == dataset.name.lower()
    assert dataset.channels == channels
    for machines, records, size in zip(dataset.machines.values(), ([dev], [train, test]), sizes, strict=True):
        assert (len(machines), sum(len(machine.sections) for machine in machines.values())) == size
        for machine in machines.values():
            holds = [("train", "test")] if machine.split == "dev" else [("train",), ("test",)]
            expected = list(zip(records, holds, strict=True))
            assert [(archive.record, archive.holds) for archive in machine.archives] == expected
            assert all(machine.name in archive.name for archive in machine.archives)
            assert bool(machine.label_files("anomaly")) == (machine.split == "eval")
    assert dataset.labels["download"].startswith("https://")
    score = dataset.official_score
    assert f"{score['mean']} mean of {', '.join(score['metrics'])}" == official


def test_archive_that_was_released_again():
    archive = find_machine("DCASE2024T23DPrinter", "eval").archives[0]
    assert archive.url == "https://zenodo.org/records/11259435/files/eval_data_3DPrinter_train_r2.zip"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("name: DCASE2024T2", "", "the key 'name' is missing"),
        ('fan: ["00"]', "fan: [0]", 'sections are strings such as "00"'),
        ("holds: [train, test]", "hold: []", "the key 'holds' is missing"),
        ("dev:", "dev: [", "while parsing"),
        ("directory: dcase2024t2 ", "directory: ../elsewhere ", "'../elsewhere': a name may contain only letters"),
        ("name: DCASE2024T2", "name: /tmp/x", "'/tmp/x': a name may contain only letters"),
        ("    fan: ", "    ../fan: ", "'../fan': a name may contain only letters"),
        ("    fan: ", '    "f\\e[2Jan": ', "'f\\x1b[2Jan': a name may contain only letters"),
        ("    fan: ", "    no: ", "False: a name may contain only letters"),
        ("    fan: ", "    fan_section_00: ", "not '_section_'"),
        ("    fan: ", "    h-mean: ", "'h-mean': this name is reserved for a column of the summary"),
        ("    fan: ", "    Valve: ", "'Valve' and 'valve' differ only in upper and lower case"),
        ("    fan: ", "    valve: ", "the key 'valve' appears twice"),
        ('fan: ["00"]', 'fan: ["00", "00"]', "a section appears twice"),
        ("eval_data_3DPrinter_train_r2.zip", "/etc/3DPrinter.zip", "/etc/3DPrinter.zip is outside its directory"),
        ("ground_truth_data/ground", "ground_truth_data/../../ground", "_test.csv is outside its directory"),
    ],
)
def test_mistakes_in_a_catalog_file(tmp_path, monkeypatch, old, new, words):
    text = (catalog.CATALOG_DIRECTORY / "dcase2024t2.yaml").read_text()
    assert old in text
    (tmp_path / "changed.yaml").write_text(text.replace(old, new))
    monkeypatch.setattr(catalog, "CATALOG_DIRECTORY", tmp_path)
    with pytest.raises(UsageError, match="changed.yaml: not a valid catalog file: ") as error:
        find_machine("DCASE2024T2fan", "dev")
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("name", "directory", "machine", "words"),
    [
        ("LabPump", "other", "A", "full name of a dev machine type, LabPumpA"),
        ("lab", "other", "A", "name, lab"),
        ("Lab", "other", "A", "name, lab"),
        ("Other", "Lab", "A", "directory, lab"),
        ("Other", "other", "PumpA", None),
    ],
)
def test_two_catalog_files_that_share_a_name(tmp_path, monkeypatch, name, directory, machine, words):
    text = (catalog.CATALOG_DIRECTORY / "dcase2020t2.yaml").read_text().split("dev:")[0]
    for file, names in {"1.yaml": ("Lab", "lab", "PumpA"), "2.yaml": (name, directory, machine)}.items():
        facts = text.replace("DCASE2020T2", names[0]).replace("dcase2020t2", names[1])
        (tmp_path / file).write_text(f'{facts}dev: {{machines: {{{names[2]}: ["00"]}}}}\neval: {{machines: {{}}}}\n')
    monkeypatch.setattr(catalog, "CATALOG_DIRECTORY", tmp_path)
    if words:
        with pytest.raises(UsageError, match=f"1.yaml and .*2.yaml have the same {words}. Change"):
            catalog.all_datasets()
    else:
        assert [*catalog.all_datasets()] == ["Lab", name]


def test_columns_of_the_summary_are_reserved():
    assert set(catalog.RESERVED_NAMES) == {*COLUMNS}


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("DCASE2024T2FAN", "no machine type 'DCASE2024T2FAN' in the dev data. Did you mean 'DCASE2024T2fan'"),
        ("DCASE2024T2HairDryer", "belongs to the eval data: use -e"),
        ("x", "'x' in the dev data. Run python -m datasets.catalog to list all names"),
    ],
)
def test_unknown_names(name, words):
    with pytest.raises(UsageError, match=words):
        find_machine(name, "dev")


def test_datasets_are_listed(capsys):
    catalog.main(["DCASE2020T2", "-e"])
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6
    assert lines[4].split() == ["DCASE2020T2", "eval", "ToyCar", "sections", "05", "06", "07"]
    with pytest.raises(SystemExit) as stop:
        catalog.main(["DCASE2020"])
    assert stop.value.code == 2
    assert "Did you mean 'DCASE2020T2'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("section_00_source_train_normal_0000_spd_28V.wav", ("00", False, False, "train")),
        ("section_00_target_test_anomaly_0049_f-n_A_target.wav", ("00", True, True, "test")),
        ("section_00_source_test_normal_0001_noise_anomaly.wav", ("00", False, False, "test")),
        ("section_03_target_test_0000.wav", ("03", True, None, "test")),
        ("anomaly_id_06_00000263.wav", ("06", False, True, None)),
        ("section_00_0000.WAV", ("00", False, None, None)),
        ("id_05_00000000.Wav", ("05", False, None, None)),
        ("id_05_00000000.wav", ("05", False, None, None)),
    ],
)
def test_facts_in_a_name(name, expected):
    clip = parse_clip(Path("x", name))
    assert (clip.section, clip.is_target, clip.is_anomaly, clip.split) == expected


@pytest.mark.parametrize(
    "name", ["noise.wav", "section_0_0000.wav", "section_00_source_test_weird_0000.wav", "._section_00_0000.wav"]
)
def test_names_of_no_clip(name):
    with pytest.raises(BaselineError, match="not a clip name"):
        parse_clip(Path("x", name))


LABELLED = "source_test_normal_0000 source_test_normal_0001 target_test_normal_0000 source_test_anomaly_0000"


@pytest.mark.parametrize("names", [LABELLED.split(), [f"{number:04d}" for number in range(12)]])
def test_order_of_test_clips(tmp_path, names):
    names = [f"section_00_{name}.wav" for name in names]
    for name in names[::-1]:
        write_wav(FAN.directory(tmp_path) / "test" / name, seconds=0.1)
    assert [clip.name for clip in find_clips(FAN, tmp_path, "test", ("00",))] == names


@pytest.mark.parametrize(
    ("split", "names", "words"),
    [
        ("train", ["section_00_source_train_anomaly_0000.wav"], "not a normal training clip"),
        ("train", ["section_00_source_test_normal_0000.wav"], "not a normal training clip"),
        ("train", ["section_01_source_train_normal_0000.wav"], "has no section 01"),
        (
            "train",
            [],
            "train: no such directory.*data_download_20XX.sh DCASE2024T2 -d --machines fan.*--dataset_directory",
        ),
        ("train", ["._section_00_source_train_normal_0000.wav"], "no .wav files found.*data_download_20XX.sh"),
        ("train", ["a.flac"], "found, but 1 other audio file.s., such as .*a.flac. Convert the clips to wav files"),
        ("train", ["monday/section_00_source_train_normal_0000.wav"], "no .wav files found, but 1 other audio file.s."),
        ("train", ["section_00_0000.wav"], "section_00_0000.wav: the name does not say that the clip is normal"),
        ("train", ["section_00_source_train_0000.wav"], "the name does not say that the clip is normal"),
        ("test", ["section_00_source_train_normal_0000.wav"], "not a test clip"),
        ("test", ["section_00_0000.wav", "section_00_source_test_normal_0000.wav"], "mixed"),
    ],
)
def test_clips_that_do_not_belong_there(tmp_path, split, names, words):
    for name in names:
        write_wav(FAN.directory(tmp_path) / split / name, seconds=0.1)
    with pytest.raises(BaselineError, match=words):
        find_clips(FAN, tmp_path, split, ("00",))


def test_files_that_are_left_out_are_named(tmp_path, caplog):
    directory = FAN.directory(tmp_path) / "train"
    names = [f"section_00_source_train_normal_{number:04d}.{suffix}" for number, suffix in enumerate(("Wav", "wAV"))]
    for name in (*names, "._section_00_source_train_normal_0000.wav"):
        write_wav(directory / name, seconds=0.1)
    (directory / ".DS_Store").touch()
    write_wav(directory.with_name("supplemental") / "section_00_source_supplemental_normal_0000.wav", seconds=0.1)
    assert [clip.name for clip in find_clips(FAN, tmp_path, "train", ("00",))] == names
    assert caplog.text == ""
    for name in ("notes.txt", "a.flac", "b.wave", "monday/section_00_source_train_normal_0009.wav"):
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).touch()
    assert [clip.name for clip in find_clips(FAN, tmp_path, "train", ("00",))] == names
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"3 other audio file(s), such as {directory}/a.flac" in caplog.text


def test_a_clip_that_is_there_twice_is_read_once(tmp_path, caplog):
    directory = find_machine("DCASE2021T2fan", "dev").directory(tmp_path)
    names = [f"{domain}_test/section_00_{domain}_test_normal_0000.wav" for domain in ("source", "target")]
    copies = [Path("test", Path(name).name) for name in names]
    for name, copy in zip(names, copies, strict=True):
        write_wav(directory / name, seconds=0.1)
        (directory / "test").mkdir(exist_ok=True)
        shutil.copy(directory / name, directory / copy)
    clips = find_clips(find_machine("DCASE2021T2fan", "dev"), tmp_path, "test", ("00",))
    assert [clip.path for clip in clips] == [directory / name for name in names]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert (
        f"2 clip(s) exist twice. These copies are ignored: {directory / copies[0]}, {directory / copies[1]}."
        in caplog.text
    )
    write_wav(directory / copies[0], seconds=0.2)
    with pytest.raises(BaselineError, match=f"{names[0]} and .*{copies[0]} have the same name but different contents"):
        find_clips(find_machine("DCASE2021T2fan", "dev"), tmp_path, "test", ("00",))


COPIED = "section_00_source_test_normal_0000_x"


@pytest.mark.parametrize("ending", [" (1)", " - Copy", " - Copy (2)", "(1)", " copy", " copy 2"])
@pytest.mark.parametrize("stem", [COPIED, "section_00_0000"])
def test_copies_that_file_managers_leave(tmp_path, caplog, stem, ending):
    directory = FAN.directory(tmp_path) / "test"
    original = write_wav(directory / f"{stem}.wav", seconds=0.1)
    copy = directory / f"{stem}{ending}.wav"
    shutil.copy(original, copy)
    assert [clip.path for clip in find_clips(FAN, tmp_path, "test", ("00",))] == [original]
    assert caplog.messages == [f"1 clip(s) exist twice. These copies are ignored: {copy}."]
    write_wav(copy, seconds=0.2)
    words = f"{original} and {copy} have the same name but different contents. Move one of them away."
    with pytest.raises(BaselineError, match=re.escape(words)):
        find_clips(FAN, tmp_path, "test", ("00",))
    copy.rename(directory / "section_00_0000 (1).wav")
    original.unlink()
    with pytest.raises(BaselineError, match="not a clip name"):
        find_clips(FAN, tmp_path, "test", ("00",))


@pytest.mark.parametrize("folders", ["source_test target_test", "source_test target_test test", ""])
def test_renamed_clips_of_2021(tmp_path, folders):
    """The published download tool leaves test_rename/ with the clips of both domains, and copies in test/."""
    fan = find_machine("DCASE2021T2fan", "eval")
    directory = fan.directory(tmp_path)
    (directory / "test_rename").mkdir(parents=True)
    for domain, label in (("source", "anomaly"), ("target", "normal")):
        clip = write_wav(directory / f"{domain}_test/section_03_{domain}_test_0000.wav", seconds=0.1)
        shutil.copy(clip, directory / f"test_rename/section_03_{domain}_test_{label}_0000.wav")
    shutil.copytree(directory / "source_test", directory / "test")
    shutil.copytree(directory / "target_test", directory / "test", dirs_exist_ok=True)
    for name in {"source_test", "target_test", "test"} - set(folders.split()):
        shutil.rmtree(directory / name)
    clips = find_clips(fan, tmp_path, "test", ("03",))
    assert [(clip.path.parent.name, clip.is_target, clip.is_anomaly) for clip in clips] == [
        ("test_rename", True, False),
        ("test_rename", False, True),
    ]


@pytest.mark.parametrize(
    "place",
    [
        *("dcase2024t2/dev_data/raw/fan/fan", "dcase2024t2/dev_data/raw/dev_fan/fan", "dcase2024t2/dev_data/raw"),
        *("dcase2024t2/dev_data/fan", "dcase2024t2/dev_data", "dcase2024t2/raw/fan", "dcase2024t2/dev_fan", "fan"),
        *("dev_data/raw/fan", "dcase2024t2/fan", "dcase2024t2/dev_data/raw/dev_fan", "dcase2024t2/raw/dev_data/FAN"),
    ],
)
@pytest.mark.parametrize("split", ["train", "test"])
def test_the_move_that_mends_misplaced_clips(tmp_path, place, split):
    data = tmp_path / "my data"
    for name in ("train/section_00_source_train_normal_0000.wav", "test/section_00_source_test_normal_0000.wav"):
        write_wav(data / place / name, seconds=0.1)
    write_wav(data / place / "supplemental/section_00_source_supplemental_normal_0000.wav", seconds=0.1)
    write_wav(data / "dcase2024t2/dev_data/raw/valve/train/section_00_source_train_normal_0001.wav", seconds=0.1)
    write_wav(data / "dcase2024t2/dev_data/replaced/fan/test/section_00_source_test_normal_0001.wav", seconds=0.1)
    with pytest.raises(
        BaselineError, match=f"raw/fan/{split}: no such directory. {data / place / split} contains clips."
    ) as e:
        find_clips(FAN, data, split, ("00",))
    subprocess.run(str(e.value).split("move them: ")[1], shell=True, check=True)
    for name in ("train", "test"):
        assert len(find_clips(FAN, data, name, ("00",))) == 1


def test_one_test_directory_of_2021_without_the_other(tmp_path):
    machine = find_machine("DCASE2021T2fan", "dev")
    directory = machine.directory(tmp_path)
    write_wav(directory / "source_test/section_00_source_test_normal_0000.wav", seconds=0.1)
    target = write_wav(directory / "fan/target_test/section_00_target_test_normal_0000.wav", seconds=0.1)
    (directory / "target_test").mkdir()
    words = f"fan/target_test: no clips found, but source_test/ contains some. {target.parent} contains clips"
    with pytest.raises(BaselineError, match=words):
        find_clips(machine, tmp_path, "test", ("00",))
    target.rename(directory / "target_test" / target.name)
    assert len(find_clips(machine, tmp_path, "test", ("00",))) == 2


def test_a_dataset_directory_that_is_too_high(tmp_path):
    write_wav(FAN.directory(tmp_path / "data") / "train/section_00_source_train_normal_0000.wav", seconds=0.1)
    with pytest.raises(BaselineError, match=f"fan/train contains clips. Use --dataset_directory {tmp_path}/data"):
        find_clips(FAN, tmp_path, "train", ("00",))


@pytest.mark.parametrize("place", ["dcase2024t2", "dcase2024t2/dev_data"])
def test_a_dataset_directory_that_is_too_deep(tmp_path, place):
    write_wav(FAN.directory(tmp_path) / "train/section_00_source_train_normal_0000.wav", seconds=0.1)
    with pytest.raises(BaselineError, match=f"fan/train contains clips. Use --dataset_directory {tmp_path}"):
        find_clips(FAN, tmp_path / place, "train", ("00",))


def test_clips_of_others_are_not_misplaced_ones(tmp_path):
    for place in ("dcase2024t2/dev_data/raw/valve", "dcase2023t2/dev_data/raw/fan", "dcase2024t2/eval_data/raw/fan"):
        write_wav(tmp_path / place / "train/section_00_source_train_normal_0000.wav", seconds=0.1)
    with pytest.raises(BaselineError, match=r"fan/train: no such directory\. Download the clips"):
        find_clips(FAN, tmp_path, "train", ("00",))


def test_the_move_out_of_a_subfolder(tmp_path):
    directory = FAN.directory(tmp_path / "my data") / "train"
    write_wav(directory / "train" / "section_00_source_train_normal_0000.wav", seconds=0.1)
    with pytest.raises(BaselineError, match="no .wav files found, but 1 other audio file.s.") as error:
        find_clips(FAN, tmp_path / "my data", "train", ("00",))
    subprocess.run(str(error.value).split("subfolder: ")[1], shell=True, check=True)
    assert len(find_clips(FAN, tmp_path / "my data", "train", ("00",))) == 1


def test_sections(tmp_path):
    bearing = find_machine("DCASE2022T2bearing", "dev")
    assert bearing.section_names(()) == ("00", "01", "02")
    assert bearing.section_names((2, 0)) == ("00", "02")
    with pytest.raises(UsageError, match="no section 03. Sections: 00 01 02"):
        bearing.section_names((0, 3))
    for section in ("00", "02"):
        write_wav(bearing.directory(tmp_path) / f"train/section_{section}_source_train_normal_0000.wav", seconds=0.1)
    assert [clip.section for clip in find_clips(bearing, tmp_path, "train", ("02",))] == ["02"]
    with pytest.raises(BaselineError, match="no clips of section 01 of bearing"):
        find_clips(bearing, tmp_path, "train", ("00", "01"))
