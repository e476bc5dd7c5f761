"""A user's own recordings: from folders of wavs to a dataset, a summary, and scores of any clip."""

import contextlib
import csv
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from conftest import ROOT, copy_project, write_wav

from config import BaselineError, UsageError
from datasets import catalog
from datasets.catalog import find_dataset, find_machine, machine_of_path
from datasets.clips import find_clips
from tools import import_clips, score_clips
from tools.training import trained_model
from tools.training.console import open_console


def record(directory: Path, n: int, **wav) -> Path:
    """A folder of recordings; half of them in a subfolder."""
    for number in range(n):
        write_wav(directory / ("monday" if number % 2 else "") / f"rec {directory.name} {number}.wav", **wav)
    return directory


def run_import(tmp_path, *arguments, dataset="Workshop", machine="Pump") -> Path:
    data = tmp_path / "data"
    open_console()  # as run_command does
    import_clips.main([dataset, machine, *map(str, arguments), "--dataset_directory", str(data)])
    return data / dataset.lower() / "dev_data/raw" / machine


def test_clips_of_all_groups(tmp_path):
    groups = {name: record(tmp_path / name, 4, seconds=0.3) for name in import_clips.GROUPS}
    (groups["train"] / "notes.txt").write_text("not a clip")
    directory = run_import(tmp_path, *(text for group, folder in groups.items() for text in (f"--{group}", folder)))
    machine = find_machine("WorkshopPump", "dev", tmp_path / "data")
    assert machine.dataset.official_score["metrics"] == ["AUC (source)", "AUC (target)", "pAUC"]
    clips = find_clips(machine, tmp_path / "data", "test", ("00",))
    assert [(clip.is_target, clip.is_anomaly) for clip in clips[::4]] == [(0, 0), (1, 0), (0, 1), (1, 1)]
    sources = {clip: source for clip, source, _ in list(csv.reader((directory / "sources.csv").open()))[1:]}
    assert len(sources) == 24
    for name, source in sources.items():
        group = next(group for group, folder in groups.items() if Path(source).is_relative_to(folder))
        kind = f"{'target' if 'target' in group else 'source'}_{'train' if 'train' in group else 'test'}"
        label = "anomaly" if "anomaly" in group else "normal"
        assert re.fullmatch(rf"(train|test)/section_00_{kind}_{label}_\d{{4}}_rec-[a-z-]+-\d\.wav", name)
        assert np.array_equal(soundfile.read(directory / name)[0], soundfile.read(source)[0])
    with pytest.raises(BaselineError, match="Saw has test clips in a different number of domains than Pump"):
        run_import(tmp_path, "--train", groups["train"], "--test_normal", groups["test_normal"], machine="Saw")


def test_one_domain_and_no_test_clips(tmp_path):
    normal, broken = record(tmp_path / "normal", 3), record(tmp_path / "broken", 2)
    run_import(tmp_path, "--train", normal, machine="Saw")
    run_import(tmp_path, "--train", normal, "--test_anomaly", broken, machine="Drill")
    dataset = find_dataset("Workshop", tmp_path / "data")
    assert list(dataset.machines["dev"]) == ["Saw", "Drill"]
    assert list(dataset.tested("dev")) == ["Drill"]
    assert dataset.official_score == {"mean": "harmonic", "metrics": ["AUC", "pAUC"]}
    with pytest.raises(BaselineError, match=r"test: no such directory. Saw was imported without test clips"):
        find_clips(dataset.machines["dev"]["Saw"], tmp_path / "data", "test", ("00",))
    with pytest.raises(BaselineError, match="Lathe has test clips in a different number of domains than Drill"):
        run_import(tmp_path, "--train", normal, "--target_test_normal", broken, machine="Lathe")
    assert not (tmp_path / "data/workshop/dev_data/raw/Lathe").exists()
    path = tmp_path / "data/workshop/catalog.yaml"
    path.write_text(path.read_text().replace("mean: harmonic", "mean: arithmetic"))
    run_import(tmp_path, "--train", normal, "--test_normal", broken, "--replace", machine="Saw")
    dataset = find_dataset("Workshop", tmp_path / "data")
    assert list(dataset.tested("dev")) == ["Saw", "Drill"]
    assert dataset.official_score["mean"] == "arithmetic"  # a user's changes stay


@pytest.mark.parametrize(
    ("subtype", "container", "rate", "channels", "channel"),
    [
        ("PCM_16", "WAV", 44100, 8, 5),
        ("PCM_24", "WAVEX", 48000, 8, 8),
        ("PCM_32", "RF64", 16000, 2, 1),
        ("PCM_U8", "WAV", 8000, 2, 2),
        ("FLOAT", "WAV", 96000, 1, None),
        ("DOUBLE", "WAV", 16000, 1, None),
        ("MS_ADPCM", "WAV", 16000, 1, None),
        ("PCM_16", "FLAC", 16000, 8, 3),
        ("PCM_24", "FLAC", 48000, 1, None),
    ],
)
def test_formats(tmp_path, subtype, container, rate, channels, channel):
    """The chosen channel arrives sample by sample as it was."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (rate // 2, channels))
    recording = folder / ("a.FLAC" if container == "FLAC" else "a.wav")
    soundfile.write(recording, samples, rate, subtype=subtype, format=container)
    directory = run_import(tmp_path, "--train", folder, *(["--channel", channel] if channel else []))
    (clip,) = (directory / "train").glob("*.wav")
    assert (soundfile.info(clip).format, soundfile.info(clip).channels) == ("WAV", 1)
    expected, _ = soundfile.read(recording, always_2d=True)
    found, found_rate = soundfile.read(clip)
    assert found_rate == rate
    assert np.array_equal(found.astype(np.float32), expected[:, (channel or 1) - 1].astype(np.float32))
    assert soundfile.info(clip).subtype == {"MS_ADPCM": "FLOAT"}.get(subtype, subtype)


def test_other_rates_are_resampled_when_a_rate_is_named(tmp_path):
    folder = tmp_path / "recordings"
    for name, rate in (("a.wav", 44100), ("b.wav", 16000)):
        write_wav(folder / name, rate=rate)
    with pytest.raises(BaselineError, match=r"a\.wav has 44100 Hz and .*b\.wav has 16000 Hz.*--sampling_rate"):
        run_import(tmp_path, "--train", folder)
    directory = run_import(tmp_path, "--train", folder, "--sampling_rate", 16000)
    clips = [soundfile.info(clip) for clip in (directory / "train").glob("*.wav")]
    assert [(clip.samplerate, clip.frames) for clip in clips] == [(16000, 16000)] * 2


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda path: path.write_text("no sound"), [], r"a\.wav: not a readable wav file"),
        (
            lambda path: soundfile.write(path, [np.nan] * 9000, 16000, "FLOAT"),
            [],
            r"a\.wav: some samples are infinite or NaN",
        ),
        (lambda path: write_wav(path, channels=8), [], r"a\.wav: 8 channels. Choose one: --channel 1 to 8"),
        (lambda path: write_wav(path, channels=8), ["--channel", "9"], r"a\.wav: 8 channels. Choose one"),
        (lambda path: path.with_suffix(".mp3").write_bytes(b"mp3"), [], r"--train .*: no \.wav or \.flac files found"),
        (lambda path: path.with_suffix(".flac").write_bytes(b"fLaC"), [], r"a\.flac: not a readable flac file"),
        (write_wav, ["--hold_out", "1"], "--hold_out 1: --train has 1 recordings, and at least one must be left"),
        (lambda path: path.parent.rmdir(), [], r"no such file or folder"),
        (write_wav, ["--channel", "0"], "--channel: 0 is out of range; allowed: at least 1 and at most 1024"),
    ],
)
def test_recordings_that_cannot_be_used(tmp_path, make, options, words):
    folder = tmp_path / "recordings"
    folder.mkdir()
    make(folder / "a.wav")
    with pytest.raises(BaselineError, match=words):
        run_import(tmp_path, "--train", folder, *options)
    assert not list((tmp_path / "data").rglob("*Pump*"))
    assert not (tmp_path / "data/workshop/catalog.yaml").exists()


def test_a_recording_is_in_one_place_only(tmp_path):
    folder = record(tmp_path / "recordings", 3)
    (folder / "tuesday").symlink_to(record(tmp_path / "elsewhere", 3))
    (folder / ".hidden.wav").write_text("such as those that macOS leaves behind")
    with pytest.raises(BaselineError, match="--test_normal: .*rec recordings 1.wav is given twice"):
        run_import(tmp_path, "--train", folder, "--test_normal", folder / "monday")
    directory = run_import(tmp_path, "--train", folder)
    assert len(list((directory / "train").iterdir())) == 6


def test_imports_replace_each_other_only_if_told(tmp_path, monkeypatch):
    first, second = record(tmp_path / "first", 3), record(tmp_path / "second", 2)
    directory = run_import(tmp_path, "--train", first)

    def n_clips():
        assert [path.name for path in directory.parent.iterdir()] == ["Pump"]
        return len(list((directory / "train").iterdir()))

    with pytest.raises(BaselineError, match="already exists.*--replace"):
        run_import(tmp_path, "--train", second)
    rename = Path.rename

    def interrupted(self, target):
        if self.name == "new":
            raise KeyboardInterrupt
        return rename(self, target)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "rename", interrupted)
        run_import(tmp_path, "--train", second, "--replace")
    assert n_clips() == 3

    (directory.parent / ".Pump.abc.import").mkdir()  # as earlier versions left it after a kill
    directory.rename(directory.parent / ".Pump.abc.import/old")
    with pytest.raises(BaselineError, match="already exists.*--replace"):
        run_import(tmp_path, "--train", second)
    assert n_clips() == 3

    def full_disk(*_):
        raise OSError("no space")

    with monkeypatch.context() as patch, pytest.raises(BaselineError, match="cannot write .*no space"):
        patch.setattr(shutil, "move", full_disk)  # the catalog file, last of all
        run_import(tmp_path, "--train", second, "--replace")
    assert n_clips() == 3
    run_import(tmp_path, "--train", second, "--replace")
    assert n_clips() == 2


@pytest.mark.parametrize("name", ["notes.txt", "train/section_00_source_train_normal_0009_mine.wav", ".Pump.old/a.wav"])
def test_imports_never_delete_what_they_did_not_write(tmp_path, name):
    directory = run_import(tmp_path, "--train", record(tmp_path / "recordings", 2))
    path = (directory.parent if "old" in name else directory) / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(write_wav(tmp_path / "mine.wav"), path)
    with contextlib.nullcontext() if "old" in name else pytest.raises(BaselineError, match=f"{name} was not written"):
        run_import(tmp_path, "--train", tmp_path / "recordings", "--replace")
    assert path.exists()
    with pytest.raises(BaselineError, match="is in .* Move the recordings to another directory"):
        run_import(tmp_path, "--train", directory / "train", "--replace")


KILLED_IMPORT = """
import os, shutil, sys
from pathlib import Path
from tools import import_clips
step, count = int(sys.argv.pop(1)), 0
def killed(function):
    def call(*arguments, **options):
        global count
        count += 1
        if count == step:
            os._exit(9)
        return function(*arguments, **options)
    return call
Path.rename, shutil.move, shutil.rmtree = killed(Path.rename), killed(shutil.move), killed(shutil.rmtree)
import_clips.main()
"""


@pytest.mark.parametrize("step", [1, 2, 3, 4, 5])
def test_after_a_killed_import_clips_and_catalog_file_agree(tmp_path, step):
    """The new machine type is tested, the old one is not; the kill comes at each step of putting things in place."""
    folder = record(tmp_path / "recordings", 3)
    directory = run_import(tmp_path, "--train", folder)
    options = ["--train", folder, "--hold_out", 1, "--replace", "--dataset_directory", tmp_path / "data"]
    command = [sys.executable, "-c", KILLED_IMPORT, step, "Workshop", "Pump", *options]
    status = subprocess.run(list(map(str, command)), cwd=ROOT, check=False).returncode
    assert status == (9 if step < 5 else 0)
    with pytest.raises(BaselineError, match="already exists"):  # it cleans up first
        run_import(tmp_path, "--train", folder)
    is_done = step > 3
    assert [path.name for path in directory.parent.iterdir()] == ["Pump"]
    assert (directory / "test").exists() == is_done
    assert find_machine("WorkshopPump", "dev", tmp_path / "data").is_tested == is_done
    run_import(tmp_path, "--train", folder, "--replace")


def test_held_out_recordings_are_normal_test_clips(tmp_path, capsys):
    """As of MIMII's folders normal and abnormal: the same files and seed give the same clips."""
    normal, broken, later = (record(tmp_path / name, n) for name, n in (("normal", 9), ("broken", 2), ("later", 1)))
    options = ["--train", normal, "--test_anomaly", broken, "--test_normal", later, "--hold_out", 4]

    def clips(machine, *arguments):
        directory = run_import(tmp_path, *options, *arguments, machine=machine)
        names = [path.relative_to(directory) for path in sorted(directory.glob("*/*.wav"))]
        return [[name.name for name in names if name.parent.name == split] for split in ("train", "test")]

    train, test = first = clips("Pump")
    assert "4 of the 9 --train recordings, drawn with --seed 13711, are used as test clips" in capsys.readouterr().out
    assert (len(train), len(test)) == (5, 7)
    assert [name[:37] for name in test[-5:]] == [f"section_00_source_test_normal_{k:04d}_re" for k in range(5)]
    numbers = sorted(re.search(r"normal-(\d)\.wav", name)[1] for name in train + test if "rec-normal" in name)
    assert numbers == list("012345678")
    assert clips("Saw") == first
    assert clips("Drill", "--seed", 5) != first


def test_own_datasets_are_found_beside_their_data(tmp_path, capsys):
    directory = run_import(tmp_path, "--train", record(tmp_path / "recordings", 2))
    place = tmp_path / "elsewhere"
    shutil.copytree(tmp_path / "data/workshop", place / "pumps")  # under another name, too
    machine = find_machine("WorkshopPump", "dev", place)
    assert [clip.path.parents[3].name for clip in find_clips(machine, place, "train", ("00",))] == ["dev_data"] * 2
    assert machine.directory(place) == place / "pumps/dev_data/raw/Pump"
    assert machine_of_path(place / "pumps/dev_data/raw/Pump/train/a.wav") == machine
    assert machine_of_path(directory / "train/a.wav").dataset.name == "Workshop"
    with pytest.raises(
        UsageError, match=f"no machine type 'WorkshopPump'.* expected in --dataset_directory {tmp_path}"
    ):
        find_machine("WorkshopPump", "dev", tmp_path)
    with pytest.raises(UsageError, match=f"unknown dataset 'Workshop'.* expected in --dataset_directory {tmp_path}"):
        find_dataset("Workshop", tmp_path)
    with pytest.raises(UsageError, match="unknown dataset 'Workshop'"):
        find_dataset("Workshop")
    catalog.main(["Workshop", "--dataset_directory", str(place)])
    assert capsys.readouterr().out.splitlines()[-1].split() == ["Workshop", "dev", "Pump", "sections", "00"]
    import_clips.main(["Workshop", "Saw", "--train", str(tmp_path / "recordings"), "--dataset_directory", str(place)])
    assert (place / "pumps/dev_data/raw/Saw").exists()
    shutil.copytree(place / "pumps", place / "copy")
    with pytest.raises(UsageError, match=r"copy/catalog.yaml and .*pumps/catalog.yaml have the same name, workshop"):
        find_dataset("Workshop", place)


def test_nothing_is_written_into_the_program(tmp_path):
    project = copy_project(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if "__pycache__" not in path.parts}
    folder = record(tmp_path / "recordings", 2)
    command = [sys.executable, "-B", project / "tools/import_clips.py", "Workshop", "Pump", "--train", folder]
    subprocess.run([*command, "--dataset_directory", tmp_path / "data"], check=True)
    assert before == {path: path.stat().st_mtime_ns for path in project.rglob("*") if "__pycache__" not in path.parts}


def test_catalog_files_of_others_stay(tmp_path):
    facts = (catalog.CATALOG_DIRECTORY / "dcase2024t2.yaml").read_text()
    facts = facts.replace("DCASE2024T2", "Lab").replace("dcase2024t2", "lab")
    path, folder = tmp_path / "data/pumps/catalog.yaml", record(tmp_path / "recordings", 1)
    path.parent.mkdir(parents=True)
    path.write_text(facts)
    for dataset in ("Pumps", "Lab"):
        with pytest.raises(UsageError, match="the dataset Lab already uses these names"):
            run_import(tmp_path, "--train", folder, dataset=dataset)
    facts = re.sub(r"(?m)^  archives:\n(    .*\n)+", "", facts)
    path.write_text(facts)
    with pytest.raises(UsageError, match="pumps/catalog.yaml was not written by import_clips.py"):
        run_import(tmp_path, "--train", folder, dataset="Lab")
    assert path.read_text() == facts


def test_damaged_catalog_files_are_left_out_and_never_overwritten(tmp_path, caplog):
    folder = record(tmp_path / "recordings", 1)
    run_import(tmp_path, "--train", folder)
    path = tmp_path / "data/workshop/catalog.yaml"
    path.write_text(path.read_text() + "channels: 2\n")
    caplog.clear()
    assert find_dataset("DCASE2024T2", tmp_path / "data")
    assert f"ignored: {path}: not a valid catalog file: line 17: the key 'channels' appears twice" in caplog.text
    with pytest.raises(UsageError, match=f"{path}: not a valid catalog file"):
        run_import(tmp_path, "--train", folder, machine="Saw")
    assert "channels: 2" in path.read_text()
    path.write_bytes(b"\xff")
    with pytest.raises(UsageError, match=f"{path}: not a valid catalog file"):
        run_import(tmp_path, "--train", folder)


def test_catalog_files_of_earlier_versions(tmp_path, monkeypatch):
    """They are in the program's catalog, and can be moved to the data."""
    folder = record(tmp_path / "recordings", 2)
    run_import(tmp_path, "--train", folder)
    own, earlier = tmp_path / "data/workshop/catalog.yaml", tmp_path / "catalog/workshop.yaml"
    shutil.copytree(catalog.CATALOG_DIRECTORY, earlier.parent)
    monkeypatch.setattr(catalog, "CATALOG_DIRECTORY", earlier.parent)
    earlier.write_text(f"{own.read_text()}directory: workshop\n")
    own.unlink()
    machine = find_machine("WorkshopPump", "dev", tmp_path / "data")
    assert len(find_clips(machine, tmp_path / "data", "train", ("00",))) == 2
    with pytest.raises(UsageError, match=f"catalog file of Workshop is in {earlier.parent}.* Move it to {own}"):
        run_import(tmp_path, "--train", folder, machine="Saw")
    earlier.rename(own)
    run_import(tmp_path, "--train", folder, machine="Saw")
    assert list(find_dataset("Workshop", tmp_path / "data").machines["dev"]) == ["Pump", "Saw"]


@pytest.mark.parametrize(
    ("dataset", "machine", "words"),
    [
        ("DCASE2024T2", "Pump", "the dataset DCASE2024T2 already uses these names"),
        ("dcase2024t2", "Pump", "the dataset DCASE2024T2 already uses these names"),
        ("DCASE2024T2f", "an", "the dataset DCASE2024T2 already uses these names"),
        ("../x", "Pump", "is not a valid name for a dataset"),
        ("Workshop", "a_section_00", "is not a valid name for a machine type"),
    ],
)
def test_names_that_cannot_be_used(tmp_path, dataset, machine, words):
    with pytest.raises(UsageError, match=words):
        run_import(tmp_path, "--train", record(tmp_path / "recordings", 1), dataset=dataset, machine=machine)


def test_one_name_may_begin_with_the_other(tmp_path):
    folder = record(tmp_path / "recordings", 1)
    for dataset in ("Shop", "Shop2"):
        run_import(tmp_path, "--train", folder, dataset=dataset, machine="Pump")
    assert find_machine("Shop2Pump", "dev", tmp_path / "data").dataset.name == "Shop2"
    assert find_machine("ShopPump", "dev", tmp_path / "data").dataset.name == "Shop"


# --- Scores of any clip ---


def score(trained, *arguments) -> bool:
    model = ["--dataset", "DCASE2024T2fan", "-d", "--model_directory", str(trained.models)]
    open_console()  # as run_command does
    return score_clips.main([*map(str, arguments), *model])


@pytest.mark.parametrize("name", ["MSE", "MAHALA"])
def test_scores_are_those_of_the_test(trained, tmp_path, name, capsys):
    folder = trained.data / "dcase2024t2/dev_data/raw/fan/test"
    assert score(trained, folder, "--score", name, "--csv", tmp_path / "scores.csv") is True
    rows = list(csv.DictReader((tmp_path / "scores.csv").open()))
    for kind, column in (("anomaly_score", "score"), ("decision_result", "decision")):
        expected = dict(csv.reader((trained.result(name) / f"{kind}_fan_section_00_test.csv").open()))
        assert {Path(row["clip"]).name: row[column] for row in rows} == expected
    lines = capsys.readouterr().out.splitlines()
    assert "decision threshold" in lines[0]
    assert len(lines) == 1 + len(rows)


def test_a_score_equal_to_the_threshold_is_normal(trained, tmp_path, monkeypatch):
    clip, file = write_wav(tmp_path / "a.wav"), tmp_path / "scores.csv"
    load_model = trained_model.load_model
    score(trained, clip, "--csv", file)
    value = float(next(csv.DictReader(file.open()))["score"])
    for threshold, decision in ((value, "0"), (np.nextafter(value, 0), "1"), (None, "")):
        monkeypatch.setattr(trained_model, "load_model", lambda *a, t=threshold: replace(load_model(*a), threshold=t))
        score(trained, clip, "--csv", file)
        assert file.read_text() == f"clip,score,decision\n{clip},{value},{decision}\n"


def test_resampled_clips_have_the_rate_of_the_model(trained, tmp_path):
    slow = write_wav(tmp_path / "slow.wav", rate=8000, subtype="FLOAT")
    samples = librosa.resample(soundfile.read(slow, dtype="float32")[0], orig_sr=8000, target_sr=16000)
    soundfile.write(tmp_path / "resampled.wav", samples, 16000, subtype="FLOAT")
    score(trained, slow, tmp_path / "resampled.wav", "--resample", "--csv", tmp_path / "scores.csv")
    first, second = csv.DictReader((tmp_path / "scores.csv").open())
    assert first["score"] == second["score"]


def test_clips_that_cannot_be_scored_do_not_stop_the_others(trained, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "recordings"
    good = write_wav(folder / "b.wav")
    write_wav(folder / "a.wav", rate=8000)
    write_wav(folder / "c.wav", channels=2)
    write_wav(folder / "d.wav", seconds=0.05)
    (folder / "e.wav").write_text("no sound")
    write_wav(folder / "f.wav", seconds=10)
    soundfile.write(folder / "g.flac", soundfile.read(good, dtype="int16")[0], 16000)
    monkeypatch.setattr(score_clips, "available_memory", lambda: 2_000_000)  # bytes
    assert score(trained, folder, "--csv", tmp_path / "scores.csv") is False
    output = capsys.readouterr()
    first, second = csv.DictReader((tmp_path / "scores.csv").open())
    assert (first["clip"], second["clip"]) == (str(good), str(folder / "g.flac"))
    assert first["score"] == second["score"]
    words = ("a.wav: 8000 Hz, but the model", "c.wav: 2 channels", "d.wav: too short", "e.wav: not a readable")
    for text in (*words, "f.wav: too long to fit in memory", "5 of 7 clips"):
        assert text in output.err
    assert score(trained, folder / "a.wav", folder / "b.wav", "--resample") is True
    assert score(trained, folder / "c.wav", "--channel", "2") is True


def test_models_that_are_not_there(trained, tmp_path):
    clip = write_wav(tmp_path / "a.wav")
    with pytest.raises(BaselineError, match=r"no trained model. Run ./01_train_2024t2.sh -d first"):
        score(trained, clip, "--seed", "5")
    with pytest.raises(BaselineError, match="no such file"):
        score(trained, tmp_path / "none.wav")
    content = clip.read_bytes()
    with pytest.raises(BaselineError, match=r"a\.wav exists"):
        score(trained, clip, "--csv", clip)
    assert clip.read_bytes() == content
    with pytest.raises(UsageError, match="a directory"):
        score(trained, clip, "--csv", tmp_path)


# --- docs/own_recordings.md ---


def test_the_example_of_the_docs(tmp_path):
    """Run the commands of docs/own_recordings.md in a copy of the project, with generated recordings."""
    page = (ROOT / "docs/own_recordings.md").read_text(encoding="utf-8")
    commands = re.search(r"```\n(.*?)```", page, re.DOTALL)[1]
    project = copy_project(tmp_path)
    for folder, n in (("normal", 12), ("later", 4), ("broken", 4)):
        record(project / "recordings" / folder, n, seconds=1, channels=2)
    finished = subprocess.run(["bash", "-e", "-c", commands], cwd=project, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "AUC" in finished.stdout
    assert (project / "results/dev_data/baseline/summarize/Workshop/summary.png").exists()
    assert len((project / "today.csv").read_text().splitlines()) == 5
