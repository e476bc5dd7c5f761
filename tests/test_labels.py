"""Labels of evaluation clips: the organisers' files, test_rename/, and the metrics that follow."""

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Workspace, write_wav
from record_server import RecordServer
from sklearn.metrics import roc_auc_score

from config import BaselineError
from datasets.catalog import find_machine
from datasets.clips import find_clips
from datasets.download.fetch import download
from datasets.labels import parse_labels

GRINDER = find_machine("DCASE2023T2grinder", "eval")
VALVE_2022 = find_machine("DCASE2022T2valve", "eval")
FAN_2021 = find_machine("DCASE2021T2fan", "eval")
TOY_2020 = find_machine("DCASE2020T2ToyConveyor", "eval")


def lay_out(machine, data: Path, names, directory: str = "test/", seconds: float = 0.1) -> None:
    for name in names:
        write_wav(machine.directory(data) / f"{directory}{name}", seconds=seconds)


def write_labels(machine, data: Path, file: str, lines: list[str]) -> None:
    path = machine.split_directory(data) / file
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def ground_truth(machine, data: Path, section: str, labels: dict[str, tuple[int, int]]) -> None:
    """The folders of the organisers' evaluators, the lines in an order of their own."""
    for place, folder in enumerate(("ground_truth_data", "ground_truth_domain")):
        lines = [f"{clip},{labels[clip][place]}" for clip in sorted(labels, key=lambda clip: clip[::-1], reverse=True)]
        write_labels(machine, data, f"{folder}/ground_truth_{machine.name}_section_{section}_test.csv", lines)


def names_of(section: str, n: int) -> list[str]:
    return [f"section_{section}_{number:04d}.wav" for number in range(n)]


def labels_of(names: list[str]) -> dict[str, tuple[int, int]]:
    """Anomaly and domain, in no order."""
    return {name: (number * 7 % 5 % 2, number // 2 % 2) for number, name in enumerate(names)}


def test_labels_are_matched_by_name(tmp_path):
    expected = {section: labels_of(names_of(section, 12)) for section in ("03", "05")}
    for section in ("03", "04", "05"):
        lay_out(VALVE_2022, tmp_path, names_of(section, 12))
    for section, labels in expected.items():
        ground_truth(VALVE_2022, tmp_path, section, labels)
    clips = find_clips(VALVE_2022, tmp_path, "test", ("03", "04", "05"))
    assert [clip.name for clip in clips] == sorted(clip.name for clip in clips)  # the order without labels
    for clip in clips:
        if clip.section == "04":  # has no label files
            assert clip.is_anomaly is None
        else:
            assert (clip.is_anomaly, clip.is_target) == expected[clip.section][clip.name]
    assert len(find_clips(VALVE_2022, tmp_path, "test", ("05",))) == 12


def test_labels_of_2020_are_one_list(tmp_path):
    names = [f"id_0{section}_{number:08d}.wav" for section in (4, 5, 6) for number in range(4)]
    lay_out(TOY_2020, tmp_path, names)
    lines = ["ToyCar", *(f"{name},anomaly_{name},1" for name in names), "ToyConveyor"]
    for name in reversed(names):
        lines.append(f"{name},anomaly_{name},1" if name.endswith("1.wav") else f"{name},normal_{name},0")
    lines += ["fan", f"{names[0]},anomaly_{names[0]},1", "id_01_00000000.wav,normal_id_01_00000000.wav,0"]
    write_labels(TOY_2020, tmp_path, "eval_data_list.csv", lines)
    clips = find_clips(TOY_2020, tmp_path, "test", TOY_2020.sections)
    assert {clip.name: clip.is_anomaly for clip in clips} == {name: name.endswith("1.wav") for name in names}
    assert not any(clip.is_target for clip in clips)
    write_labels(TOY_2020, tmp_path, "eval_data_list.csv", lines[:13])
    with pytest.raises(BaselineError, match="no labels for ToyConveyor"):
        find_clips(TOY_2020, tmp_path, "test", TOY_2020.sections)
    write_labels(TOY_2020, tmp_path, "eval_data_list.csv", [*lines[13:15], f"{names[0]},normal_{names[0]},1"])
    with pytest.raises(BaselineError, match=f"line 3: expected .* not '{names[0]},normal_{names[0]},1'"):
        find_clips(TOY_2020, tmp_path, "test", TOY_2020.sections)


LISTED = b"""\xef\xbb\xbffan\r
section_00_0000.wav,section_00_source_test_anomaly_0000_x.wav\r
grinder,\r
section_00_0000.wav,section_00_target_test_normal_0000_grindstone_2.wav\r
section_00_0001.wav,section_00_source_test_anomaly_0000_grindstone_1.wav\r
"""


@pytest.mark.parametrize("file", ["eval_data_list_2023.csv", "eval_data_list.csv"])
def test_labels_of_a_list_of_labelled_names(tmp_path, caplog, file):
    """The list of the published baseline; the organisers' files come first if both are there."""
    lay_out(GRINDER, tmp_path, names_of("00", 2))
    (GRINDER.split_directory(tmp_path) / file).write_bytes(LISTED)
    clips = find_clips(GRINDER, tmp_path, "test", ("00",))
    assert [(clip.name, clip.is_anomaly, clip.is_target) for clip in clips] == [
        ("section_00_0000.wav", False, True),
        ("section_00_0001.wav", True, False),
    ]
    ground_truth(GRINDER, tmp_path, "00", {"section_00_0000.wav": (0, 1), "section_00_0001.wav": (1, 0)})
    assert find_clips(GRINDER, tmp_path, "test", ("00",)) == clips
    assert caplog.text == ""
    ground_truth(GRINDER, tmp_path, "00", {"section_00_0000.wav": (0, 1), "section_00_0001.wav": (0, 0)})
    assert not any(clip.is_anomaly for clip in find_clips(GRINDER, tmp_path, "test", ("00",)))
    assert f"{file} and other label files disagree on 1 clip(s) of grinder, such as section_00_0001.wav" in caplog.text


@pytest.mark.parametrize(
    ("n_clips", "words"),
    [(3, r"section_00_0002\.wav: no label for this clip"), (1, r"section_00_0001\.wav has a label in .*no such clip")],
)
def test_clips_and_a_list_must_match(tmp_path, n_clips, words):
    lay_out(GRINDER, tmp_path, names_of("00", n_clips))
    (GRINDER.split_directory(tmp_path) / "eval_data_list_2023.csv").write_bytes(LISTED)
    with pytest.raises(BaselineError, match=words):
        find_clips(GRINDER, tmp_path, "test", ("00",))


def test_suffixes_of_clips_and_labels_may_differ_in_case(tmp_path):
    lay_out(GRINDER, tmp_path, ["section_00_0000.WAV", "section_00_0001.Wav"])
    ground_truth(GRINDER, tmp_path, "00", {"section_00_0000.wav": (0, 1), "section_00_0001.wav": (1, 0)})
    assert [clip.is_anomaly for clip in find_clips(GRINDER, tmp_path, "test", ("00",))] == [False, True]


def test_labels_of_2021_have_a_file_for_each_domain(tmp_path):
    for domain, anomaly in (("source", "0000"), ("target", "0001")):
        names = [f"section_04_{domain}_test_{number:04d}.wav" for number in range(3)]
        lay_out(FAN_2021, tmp_path, names, f"{domain}_test/")
        file = f"ground_truth_data/ground_truth_fan_section_04_{domain}_test.csv"
        write_labels(FAN_2021, tmp_path, file, [f"{name},{int(anomaly in name)}" for name in names])
    clips = find_clips(FAN_2021, tmp_path, "test", ("04",))
    assert [clip.is_target for clip in clips] == [False] * 3 + [True] * 3
    assert [clip.is_anomaly for clip in clips] == [True, False, False, False, True, False]


@pytest.mark.parametrize(
    ("n_clips", "labelled", "words"),
    [
        (3, names_of("04", 2), r"section_04_0002\.wav: no label for this clip in .*eval_data"),
        (2, names_of("04", 3), r"section_04_0002\.wav has a label in .*, but there is no such clip"),
        (
            2,
            [*names_of("04", 2), "section_03_0000.wav"],
            r"section_04_test\.csv: section_03_0000\.wav is also in another",
        ),
    ],
)
def test_clips_and_labels_must_match(tmp_path, n_clips, labelled, words):
    lay_out(VALVE_2022, tmp_path, [*names_of("03", 2), *names_of("04", n_clips)])
    ground_truth(VALVE_2022, tmp_path, "03", labels_of(names_of("03", 2)))
    ground_truth(VALVE_2022, tmp_path, "04", labels_of(labelled))
    with pytest.raises(BaselineError, match=words):
        find_clips(VALVE_2022, tmp_path, "test", ("03", "04"))


@pytest.mark.parametrize("folder", ["ground_truth_data", "ground_truth_domain"])
def test_one_folder_without_the_other(tmp_path, folder):
    labels = labels_of(names_of("00", 4))
    lay_out(GRINDER, tmp_path, labels)
    ground_truth(GRINDER, tmp_path, "00", labels)
    shutil.rmtree(GRINDER.split_directory(tmp_path) / folder)
    with pytest.raises(BaselineError, match=f"Copy all of the organisers' label folders.*{folder}"):
        find_clips(GRINDER, tmp_path, "test", ("00",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,label\n", "line 1: expected a clip and 0 or 1"),
        ("section_00_0000.wav,0\nsection_00_0001.wav,2\n", "line 2: expected a clip and 0 or 1"),
        ("section_00_0000.wav,b,1\n", "line 1: expected a clip and 0 or 1"),
        ("section_00_0000.wav,0\nsection_00_0001.wav\n", "line 2: expected a clip and 0 or 1"),
        ("section_00_0000.wav,section_00_0000.wav\n", "line 1: expected a clip and 0 or 1"),
        (
            "section_00_0000.wav,1\nsection_00_0000.wav,0\n",
            "line 2: section_00_0000.wav has a different label in an earlier line",
        ),
        ('"section_00_0000.wav,0\n', "cannot read"),
        ("", "no labels for grinder"),
    ],
)
def test_files_that_are_no_labels(tmp_path, text, words):
    path = tmp_path / "ground_truth.csv"
    path.write_text(text)
    with pytest.raises(BaselineError, match=words):
        parse_labels(path, GRINDER)


def test_files_as_other_systems_write_them(tmp_path):
    path = tmp_path / "ground_truth.csv"
    path.write_bytes(b"\xef\xbb\xbfsection_00_0000.wav,1\r\nsection_00_0001.wav, 0\r\n\r\n")
    assert parse_labels(path, GRINDER) == {"section_00_0000.wav": (True, None), "section_00_0001.wav": (False, None)}


def test_renamed_clips_replace_those_without_labels(tmp_path):
    names = names_of("00", 4)
    kinds = ["target_test_anomaly", "target_test_normal", "source_test_anomaly", "source_test_normal"]
    renamed = [f"section_00_{kind}_0000.wav" for kind in kinds]
    lay_out(GRINDER, tmp_path, names)
    directory = GRINDER.directory(tmp_path)
    (directory / "test_rename").mkdir()
    for name, new_name in zip(names, renamed, strict=True):
        shutil.copy(directory / "test" / name, directory / "test_rename" / new_name)
    clips = find_clips(GRINDER, tmp_path, "test", ("00",))
    assert [clip.name for clip in clips] == sorted(renamed, key=lambda name: ("anomaly" in name, name))
    assert [clip.is_target for clip in clips] == ["target" in clip.name for clip in clips]

    write_wav(directory / "test_rename" / renamed[2], seconds=0.1)
    with pytest.raises(BaselineError, match=r"grinder: test/ and test_rename/ do not contain the same clips"):
        find_clips(GRINDER, tmp_path, "test", ("00",))
    ground_truth(GRINDER, tmp_path, "00", labels_of(names))  # the organisers' files override the names
    assert [clip.name for clip in find_clips(GRINDER, tmp_path, "test", ("00",))] == names
    shutil.rmtree(directory / "test")
    assert len(find_clips(GRINDER, tmp_path, "test", ("00",))) == 4  # only these clips are left, with their own labels


def organisers_metrics(paths: list[Path]) -> list[float]:
    """AUC (source), AUC (target), pAUC as in an evaluator, from the CSVs of scores, labels and domains.

    Rows are sorted by name and matched by position.
    """
    columns = [sorted(csv.reader(path.open())) for path in paths]
    scores, truth, target = (np.array([float(value) for _, value in rows]) for rows in columns)
    of_source, of_target = (target == 0) | (truth == 1), (target == 1) | (truth == 1)
    aucs = [roc_auc_score(truth[clips], scores[clips]) for clips in (of_source, of_target)]
    return [*aucs, roc_auc_score(truth, scores, max_fpr=0.1)]


def test_evaluation_set_with_labels_gets_metrics(tmp_path):
    """Scores, then labels: the metrics are those that the organisers compute from the same CSVs."""
    workspace = Workspace(tmp_path)
    train = [f"section_00_{d}_train_normal_000{n}.wav" for d in ("source", "target") for n in range(5)]
    lay_out(GRINDER, workspace.data, train, "train/", seconds=1.5)
    lay_out(GRINDER, workspace.data, names_of("00", 30), seconds=1.5)
    grinder = {"machine": "grinder", "split": "-e", "dataset": "DCASE2023T2"}
    workspace.run_here("--epochs", "1", "--batch_size", "64", **grinder)
    results = workspace.results / "eval_data/baseline_MSE/DCASE2023T2/seed13711"
    scores = results / "anomaly_score_grinder_section_00_test.csv"
    before = scores.read_bytes()
    assert not (results / "result_grinder.csv").exists()

    ground_truth(GRINDER, workspace.data, "00", labels_of(names_of("00", 30)))
    workspace.run_here("--test_only", **grinder)
    assert scores.read_bytes() == before
    names = [f"ground_truth_{kind}/ground_truth_grinder_section_00_test.csv" for kind in ("data", "domain")]
    expected = organisers_metrics([scores, *(GRINDER.split_directory(workspace.data) / name for name in names)])
    row = next(csv.DictReader((results / "result_grinder.csv").open()))
    assert [float(row[name]) for name in ("AUC (source)", "AUC (target)", "pAUC")] == pytest.approx(expected, abs=1e-9)


# --- Download


@pytest.fixture
def server():
    server = RecordServer()
    yield server
    server.close()


def address(kind: str) -> str:
    place = "/nttcslab/dcase2023_task2_evaluator/HEAD"
    return f"{place}/ground_truth_{kind}/ground_truth_grinder_section_00_test.csv"


def test_labels_are_downloaded(server, tmp_path):
    labels = labels_of(names_of("00", 4))
    for place, kind in enumerate(("data", "domain")):
        server.texts[address(kind)] = "".join(f"{name},{both[place]}\n" for name, both in labels.items()).encode()
    lay_out(GRINDER, tmp_path, labels)
    assert download([GRINDER], tmp_path, ["labels"], server.url) == []
    clips = find_clips(GRINDER, tmp_path, "test", ("00",))
    assert {clip.name: (clip.is_anomaly, clip.is_target) for clip in clips} == labels
    server.requests.clear()
    assert download([GRINDER], tmp_path, ["labels"], server.url) == []
    assert server.requests == []


@pytest.mark.parametrize(
    ("contents", "words"),
    [
        (None, "ground_truth_grinder_section_00_test.csv: no such label file"),
        (b"<html>, not found </html>", "not a label file"),
        (b"section_00_0000.wav,1\n", ""),  # and no domains: half of the labels would be worse than none
    ],
)
def test_labels_that_cannot_be_downloaded(server, tmp_path, caplog, contents, words):
    if contents:
        server.texts[address("data")] = contents
    assert download([GRINDER], tmp_path, ["labels"], server.url) == ["grinder"]
    assert words in caplog.text
    assert not list(tmp_path.rglob("*.csv"))


def test_the_list_of_2020_is_downloaded(server, tmp_path):
    lines = ["fan", "id_01_00000000.wav,normal_id_01_00000000.wav,0"]
    lines += ["ToyConveyor", "id_04_00000000.wav,anomaly_id_04_00000001.wav,1"]
    server.texts["/records/3951620/files/eval_data_list.csv"] = "\n".join(lines).encode()
    lay_out(TOY_2020, tmp_path, ["id_04_00000000.wav"])
    fan = find_machine("DCASE2020T2fan", "eval")
    assert download([TOY_2020, fan], tmp_path, ["labels"], server.url) == []
    assert find_clips(TOY_2020, tmp_path, "test", ("04",))[0].is_anomaly is True
    assert len(server.requests) == 1


def test_labels_without_a_known_address(server, tmp_path, caplog):
    caplog.set_level("INFO")
    polisher = find_machine("DCASE2025T2Polisher", "eval")
    del polisher.dataset.labels["download"]
    assert download([polisher], tmp_path, ["labels"], server.url) == []
    assert "the catalog has no address for the labels of DCASE2025T2" in caplog.text
    assert server.requests == []
