"""A user's own recordings: from folders of wavs to a dataset, a summary, and scores of any clip."""

import contextlib
import csv
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
from conftest import ROOT, copy_project, not_published, write_wav

from config import BaselineError, UsageError
from datasets import catalog
from datasets.catalog import find_dataset, find_machine
from datasets.clips import find_clips
from tools import import_clips, score_clips
from tools.training import trained_model


@pytest.fixture
def own_catalog(tmp_path, monkeypatch) -> Path:
    """A copy of the catalog that imports may write to."""
    directory = tmp_path / "catalog"
    shutil.copytree(catalog.CATALOG_DIRECTORY, directory, ignore=not_published)
    monkeypatch.setattr(catalog, "CATALOG_DIRECTORY", directory)
    return directory


def record(directory: Path, n: int, **wav) -> Path:
    """A folder of recordings; half of them in a subfolder."""
    for number in range(n):
        write_wav(directory / ("monday" if number % 2 else "") / f"rec {directory.name} {number}.wav", **wav)
    return directory


def run_import(tmp_path, *arguments, dataset="Workshop", machine="Pump") -> Path:
    data = tmp_path / "data"
    import_clips.main([dataset, machine, *map(str, arguments), "--dataset_directory", str(data)])
    return data / dataset.lower() / "dev_data/raw" / machine


def test_clips_of_all_groups(own_catalog, tmp_path):
    groups = {name: record(tmp_path / name, 4, seconds=0.3) for name in import_clips.GROUPS}
    (groups["train"] / "notes.txt").write_text("not a clip")
    directory = run_import(tmp_path, *(text for group, folder in groups.items() for text in (f"--{group}", folder)))
    machine = find_machine("WorkshopPump", "dev")
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
    with pytest.raises(BaselineError, match="Saw would be tested in another number of domains than Pump"):
        run_import(tmp_path, "--train", groups["train"], "--test_normal", groups["test_normal"], machine="Saw")


def test_one_domain_and_no_test_clips(own_catalog, tmp_path):
    normal, broken = record(tmp_path / "normal", 3), record(tmp_path / "broken", 2)
    run_import(tmp_path, "--train", normal, machine="Saw")
    run_import(tmp_path, "--train", normal, "--test_anomaly", broken, machine="Drill")
    dataset = find_dataset("Workshop")
    assert list(dataset.machines["dev"]) == ["Saw", "Drill"]
    assert list(dataset.tested("dev")) == ["Drill"]
    assert dataset.official_score == {"mean": "harmonic", "metrics": ["AUC", "pAUC"]}
    with pytest.raises(BaselineError, match=r"test: no such directory. Saw was imported without test clips"):
        find_clips(find_machine("WorkshopSaw", "dev"), tmp_path / "data", "test", ("00",))
    with pytest.raises(BaselineError, match="Lathe would be tested in another number of domains than Drill"):
        run_import(tmp_path, "--train", normal, "--target_test_normal", broken, machine="Lathe")
    assert not (tmp_path / "data/workshop/dev_data/raw/Lathe").exists()
    path = own_catalog / "workshop.yaml"
    path.write_text(path.read_text().replace("mean: harmonic", "mean: arithmetic"))
    run_import(tmp_path, "--train", normal, "--test_normal", broken, "--replace", machine="Saw")
    assert list(find_dataset("Workshop").tested("dev")) == ["Saw", "Drill"]
    assert find_dataset("Workshop").official_score["mean"] == "arithmetic"  # a user's changes stay


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
    ],
)
def test_formats(own_catalog, tmp_path, subtype, container, rate, channels, channel):
    """The chosen channel arrives sample by sample as it was."""
    folder = tmp_path / "recordings"
    folder.mkdir()
    samples = np.random.default_rng(0).uniform(-0.9, 0.9, (rate // 2, channels))
    soundfile.write(folder / "a.wav", samples, rate, subtype=subtype, format=container)
    directory = run_import(tmp_path, "--train", folder, *(["--channel", channel] if channel else []))
    (clip,) = (directory / "train").glob("*.wav")
    assert soundfile.info(clip).channels == 1
    expected, _ = soundfile.read(folder / "a.wav", always_2d=True)
    found, found_rate = soundfile.read(clip)
    assert found_rate == rate
    assert np.array_equal(found.astype(np.float32), expected[:, (channel or 1) - 1].astype(np.float32))
    assert soundfile.info(clip).subtype == {"MS_ADPCM": "FLOAT"}.get(subtype, subtype)


def test_other_rates_are_resampled_when_a_rate_is_named(own_catalog, tmp_path):
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
        (lambda path: soundfile.write(path, [np.nan] * 9000, 16000, "FLOAT"), [], r"a\.wav: holds samples that"),
        (lambda path: write_wav(path, channels=8), [], r"a\.wav: 8 channels. Choose one: --channel 1 to 8"),
        (lambda path: write_wav(path, channels=8), ["--channel", "9"], r"a\.wav: 8 channels. Choose one"),
        (lambda path: path.with_suffix(".mp3").write_bytes(b"mp3"), [], r"--train .*: no \.wav files there"),
        (lambda path: path.parent.rmdir(), [], r"no such file or folder"),
        (write_wav, ["--channel", "0"], "--channel: 0 is out of range; allowed: at least 1 and at most 1024"),
    ],
)
def test_recordings_that_cannot_be_used(own_catalog, tmp_path, make, options, words):
    folder = tmp_path / "recordings"
    folder.mkdir()
    make(folder / "a.wav")
    with pytest.raises(BaselineError, match=words):
        run_import(tmp_path, "--train", folder, *options)
    assert not list((tmp_path / "data").rglob("*Pump*"))
    assert not (own_catalog / "workshop.yaml").exists()


def test_a_recording_is_in_one_place_only(own_catalog, tmp_path):
    folder = record(tmp_path / "recordings", 3)
    (folder / "tuesday").symlink_to(record(tmp_path / "elsewhere", 3))
    (folder / ".hidden.wav").write_text("such as those that macOS leaves behind")
    with pytest.raises(BaselineError, match="--test_normal: .*rec recordings 1.wav is named twice"):
        run_import(tmp_path, "--train", folder, "--test_normal", folder / "monday")
    directory = run_import(tmp_path, "--train", folder)
    assert len(list((directory / "train").iterdir())) == 6


def test_imports_replace_each_other_only_if_told(own_catalog, tmp_path, monkeypatch):
    first, second = record(tmp_path / "first", 3), record(tmp_path / "second", 2)
    directory = run_import(tmp_path, "--train", first)

    def n_clips():
        assert [path.name for path in directory.parent.iterdir()] == ["Pump"]
        return len(list((directory / "train").iterdir()))

    with pytest.raises(BaselineError, match="is there already.*--replace"):
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
    (directory.parent / ".Pump.abc.import").mkdir()  # as a kill between its two renames leaves it
    directory.rename(directory.parent / ".Pump.abc.import/old")
    with pytest.raises(BaselineError, match="is there already.*--replace"):
        run_import(tmp_path, "--train", second)
    assert n_clips() == 3
    with monkeypatch.context() as patch, pytest.raises(BaselineError, match="cannot write"):
        patch.setattr(import_clips, "catalog_file", lambda _: own_catalog / "workshop.yaml/x")  # cannot be written
        run_import(tmp_path, "--train", second, "--replace")
    assert n_clips() == 3
    run_import(tmp_path, "--train", second, "--replace")
    assert n_clips() == 2


@pytest.mark.parametrize("name", ["notes.txt", "train/section_00_source_train_normal_0009_mine.wav", ".Pump.old/a.wav"])
def test_imports_never_delete_what_they_did_not_write(own_catalog, tmp_path, name):
    directory = run_import(tmp_path, "--train", record(tmp_path / "recordings", 2))
    path = (directory.parent if "old" in name else directory) / name
    path.parent.mkdir(exist_ok=True)
    shutil.copy(write_wav(tmp_path / "mine.wav"), path)
    with contextlib.nullcontext() if "old" in name else pytest.raises(BaselineError, match=f"{name} was not written"):
        run_import(tmp_path, "--train", tmp_path / "recordings", "--replace")
    assert path.exists()
    with pytest.raises(BaselineError, match="lies in .* Move the recordings to another place"):
        run_import(tmp_path, "--train", directory / "train", "--replace")


def test_two_copies_of_the_project_share_a_dataset(own_catalog, tmp_path):
    run_import(tmp_path, "--train", record(tmp_path / "recordings", 2))
    (own_catalog / "workshop.yaml").rename(own_catalog / "renamed.yaml")
    run_import(tmp_path, "--train", tmp_path / "recordings", machine="Saw")  # found, and not written twice
    assert not (own_catalog / "workshop.yaml").exists()
    (own_catalog / "renamed.yaml").unlink()
    with pytest.raises(BaselineError, match=r"by another copy of the project: its workshop.yaml .*--replace"):
        run_import(tmp_path, "--train", tmp_path / "recordings")


def test_catalog_files_of_others_stay(own_catalog, tmp_path):
    facts = (own_catalog / "dcase2024t2.yaml").read_text().replace("DCASE2024T2", "Lab").replace("dcase2024t2", "lab")
    path, folder = own_catalog / "pumps.yaml", record(tmp_path / "recordings", 1)
    path.write_text(facts)
    for dataset, words in (("Pumps", "describes the dataset Lab"), ("Lab", "names are those of the dataset Lab")):
        with pytest.raises(UsageError, match=words):
            run_import(tmp_path, "--train", folder, dataset=dataset)
    facts = re.sub(r"(?m)^  archives:\n(    .*\n)+", "", facts)
    path.write_text(facts)
    with pytest.raises(UsageError, match="pumps.yaml was not written by import_clips.py"):
        run_import(tmp_path, "--train", folder, dataset="Lab")
    assert path.read_text() == facts


@pytest.mark.parametrize(
    ("dataset", "machine", "words"),
    [
        ("DCASE2024T2", "Pump", "names are those of the dataset DCASE2024T2"),
        ("dcase2024t2", "Pump", "names are those of the dataset DCASE2024T2"),
        ("DCASE2024T2f", "an", "names are those of the dataset DCASE2024T2"),
        ("../x", "Pump", "cannot be the name of a dataset"),
        ("Workshop", "a_section_00", "cannot be the name of a machine type"),
    ],
)
def test_names_that_cannot_be_used(own_catalog, tmp_path, dataset, machine, words):
    with pytest.raises(UsageError, match=words):
        run_import(tmp_path, "--train", record(tmp_path / "recordings", 1), dataset=dataset, machine=machine)


def test_one_name_may_begin_with_the_other(own_catalog, tmp_path):
    folder = record(tmp_path / "recordings", 1)
    for dataset in ("Shop", "Shop2"):
        run_import(tmp_path, "--train", folder, dataset=dataset, machine="Pump")
    assert find_machine("Shop2Pump", "dev").dataset.name == "Shop2"
    assert find_machine("ShopPump", "dev").dataset.name == "Shop"


# --- Scores of any clip ---


def score(trained, *arguments) -> bool:
    model = ["--dataset", "DCASE2024T2fan", "-d", "--model_directory", str(trained.models)]
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


def test_clips_that_cannot_be_scored_do_not_stop_the_others(trained, tmp_path, capsys):
    folder = tmp_path / "recordings"
    good = write_wav(folder / "b.wav")
    write_wav(folder / "a.wav", rate=8000)
    write_wav(folder / "c.wav", channels=2)
    write_wav(folder / "d.wav", seconds=0.05)
    (folder / "e.wav").write_text("no sound")
    assert score(trained, folder, "--csv", tmp_path / "scores.csv") is False
    output = capsys.readouterr()
    assert [row["clip"] for row in csv.DictReader((tmp_path / "scores.csv").open())] == [str(good)]
    for words in ("a.wav: 8000 Hz, but the model", "2 channels", "too short", "not a readable", "4 of 5 clips"):
        assert words in output.err
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


# --- The README's example ---


def test_the_example_of_the_readme(tmp_path):
    """The commands as they stand, in a copy of the project; the recordings are generated."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme[readme.index("## Your own recordings") :]
    commands = re.search(r"```\n(.*?)```", section, re.DOTALL)[1]
    project = copy_project(tmp_path)
    for folder, n in (("normal", 12), ("later", 4), ("broken", 4)):
        record(project / "recordings" / folder, n, seconds=1, channels=2)
    finished = subprocess.run(["bash", "-e", "-c", commands], cwd=project, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    assert "AUC" in finished.stdout
    assert (project / "results/dev_data/baseline/summarize/Workshop/summary.png").exists()
    assert len((project / "today.csv").read_text().splitlines()) == 5
