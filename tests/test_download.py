"""Downloads, from a local server that behaves like Zenodo and misbehaves in every way."""

import contextlib
import io
import itertools
import json
import random
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from conftest import RAW, ROOT, Workspace, run, write_wav
from record_server import RecordServer, make_zip

from config import BaselineError, UsageError
from datasets.catalog import find_dataset, find_machine
from datasets.download import server as transfer
from datasets.download.fetch import download, download_missing
from datasets.labels import label_files
from tools import download as download_tool

FAN, VALVE = find_machine("DCASE2024T2fan", "dev"), find_machine("DCASE2024T2valve", "dev")
HAIR_DRYER = find_machine("DCASE2024T2HairDryer", "eval")
CLIPS = [f"train/section_00_source_train_normal_{number:04d}_m-n_W.wav" for number in range(12)]
CLIPS += [f"test/section_00_target_test_{label}_0000.WAV" for label in ("normal", "anomaly")]
FILES = {name: random.Random(name).randbytes(7000) for name in CLIPS} | {"attributes_00.csv": b"of fan"}
ARCHIVE = make_zip(FAN, FILES | {"__MACOSX/._x.wav": b"junk", "train/._x.wav": b"junk", ".DS_Store": b"junk"})
MANIFEST, SPLIT = "dev_fan.zip.json", Path("data/dcase2024t2/dev_data")


@pytest.fixture
def server(monkeypatch):
    server = RecordServer()
    monkeypatch.setattr(transfer, "RETRIES", 3)
    monkeypatch.setattr(transfer, "BACKOFF", 0.01)
    monkeypatch.setattr(transfer, "ZENODO", server.url)  # there is no other
    yield server
    server.close()


@pytest.fixture
def published(server):
    """The server with the archive of the machine type fan."""
    server.add(FAN.archives[0], ARCHIVE)
    return server


@pytest.fixture
def raw(tmp_path):
    """Where the clips of fan belong."""
    return tmp_path / "data" / RAW / "fan"


@pytest.fixture
def archives(tmp_path):
    """Where archives are kept."""
    (directory := tmp_path / SPLIT / "archives").mkdir(parents=True)
    return directory


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def get(server, tmp_path, machines=(FAN,), parts=("train", "test", "labels")) -> list[str]:
    return download(machines, tmp_path / "data", parts, f"{server.url}/")


def assert_succeeds(server, tmp_path):
    assert get(server, tmp_path) == []
    assert_complete(tmp_path)


def assert_complete(tmp_path):
    assert [path.name for path in (tmp_path / SPLIT / "raw").iterdir()] == ["fan"]
    found = files_below(tmp_path / SPLIT / "raw/fan")
    assert json.loads(found.pop(MANIFEST))["files"].keys() == FILES.keys()
    assert found == FILES
    assert [path.name for path in (tmp_path / SPLIT / "archives").iterdir()] == ["dev_fan.zip"]


def limit_space(monkeypatch, free: int):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, free))


@contextlib.contextmanager
def largest_file(size: int):
    """Files cannot grow beyond so many bytes."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_intact_clips_are_not_fetched_again(published, tmp_path, raw):
    (raw.parent / ".fan.unpacking/train").mkdir(parents=True)  # left by a killed run
    assert_succeeds(published, tmp_path)
    assert published.fetched() == ["dev_fan.zip"]
    published.requests.clear()
    assert get(published, tmp_path) == []
    assert published.requests == []  # no network at all
    shutil.rmtree(raw)  # unpacked again from the archive
    assert_succeeds(published, tmp_path)
    assert published.fetched() == []


def test_damaged_clips_are_repaired_and_others_stay(published, tmp_path, raw, caplog):
    get(published, tmp_path)
    (raw / CLIPS[0]).write_bytes(FILES[CLIPS[0]][::-1])
    (raw / CLIPS[1]).unlink()
    surplus = raw / "train/section_00_source_train_normal_0099.wav"
    surplus.write_bytes(b"")
    assert get(published, tmp_path) == []
    assert f"1 clip(s), such as train/{surplus.name}, are not from dev_fan.zip" in caplog.text
    surplus.unlink()
    assert_complete(tmp_path)
    assert files_below(tmp_path / SPLIT / "replaced") == {f"fan/{CLIPS[0]}": FILES[CLIPS[0]][::-1]}  # maybe a user's


# --- A server that misbehaves


@pytest.mark.parametrize("says_length", [True, False])
def test_broken_connections_are_resumed(published, tmp_path, says_length):
    """More of them than retries: after progress they are counted from the first again."""
    published.drop_after, published.says_length = itertools.repeat(20_000), says_length
    assert_succeeds(published, tmp_path)
    starts = [int(range_[6:-1]) for _, range_ in published.requests if range_]
    assert len(starts) > transfer.RETRIES
    assert starts == sorted(set(starts))  # each further than the one before


PART = ARCHIVE[:50_000]


@pytest.mark.parametrize(
    ("part", "ranges"),
    [(PART, 206), (PART, 200), (PART, 416), (ARCHIVE, 206), (b"other bytes" * 500, 206), (bytes(1_000_000), 206)],
)
def test_a_part_from_an_earlier_run(published, tmp_path, archives, monkeypatch, part, ranges):
    published.ranges = ranges
    (archives / "dev_fan.zip.part").write_bytes(part)
    limit_space(monkeypatch, 2 * len(ARCHIVE) - len(part))
    assert_succeeds(published, tmp_path)
    if ranges == 206 and ARCHIVE.startswith(part):
        assert [range_ for _, range_ in published.requests] == [None, "bytes=50000-"][: 1 + (part != ARCHIVE)]


@pytest.mark.parametrize("statuses", [(408, 429, 500), (502, 503, 504)])
def test_a_busy_server_is_asked_again(published, tmp_path, monkeypatch, statuses, caplog):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    published.answers = [(status, {}) for status in statuses]
    assert_succeeds(published, tmp_path)
    assert waits == [0.02, 0.04]  # the first retry is at once
    for status in statuses:
        assert f"dev_fan.zip: the server returned {status}; trying again in" in caplog.text


def test_waits_as_long_as_the_server_asks(published, tmp_path, monkeypatch, caplog):
    waits = []
    monkeypatch.setattr(time, "sleep", waits.append)
    published.answers = [(429, {"Retry-After": "7"}), (503, {"Retry-After": "100000"}), (503, {})]
    published.drop_after = iter([None] * 4 + [20_000, 0])
    assert get(published, tmp_path) == []
    assert waits == [7, transfer.MAX_WAIT, *(factor * transfer.BACKOFF for factor in (4, 1, 2))]
    assert "the server returned 429; trying again in 7 s" in caplog.text


@pytest.mark.parametrize(
    ("faults", "attempts", "words"),
    [
        ({"answers": [(503, {})] * 9}, 4, "the server returned 503 Service Unavailable. Try again later"),
        ({"answers": [(403, {})]}, 1, "the server returned 403"),
        ({"answers": [(404, {})]}, 1, "no such file (the server returned 404 Not Found). Check the address in"),
        ({"answers": [(302, {"Location": "file:///etc/passwd"})]}, 1, "dev_fan.zip: no response"),
        ({"answers": [(503, {"Retry-After": "soon"})]}, 1, "dev_fan.zip: no response"),
        ({"change": lambda _: ARCHIVE[:-1] + b"?"}, 2, "the file does not match the record"),
        ({"change": lambda _: bytes(5_000_000), "says_length": False}, 2, "the file does not match the record"),
        ({"change": lambda _: b"<html>Please log in"}, 1, "an error page or another version"),
        ({"change": lambda _: b"<html>Please log in", "says_length": False}, 9, "the connection was lost 4 times"),
        (
            {"ranges": 200, "drop_after": itertools.cycle([10_000, 20_000])},
            5,
            "the connection was lost 4 times in a row",
        ),
        ({"pause": 0.5}, 4, "the connection was lost 4 times in a row. Try again later"),
    ],
)
def test_a_server_that_fails(published, tmp_path, monkeypatch, caplog, faults, attempts, words):
    with monkeypatch.context() as patch, largest_file(1_000_000):  # no more than the listed size is kept
        patch.setattr(transfer, "TIMEOUTS", (1, 0.2))
        for name, value in faults.items():
            patch.setattr(published, name, value)
        assert get(published, tmp_path) == ["fan"]
    assert words in caplog.text
    assert len(published.fetched()) == attempts
    assert not [*tmp_path.rglob("dev_fan.zip"), *tmp_path.rglob("*.wav")]
    assert_succeeds(published, tmp_path)


def test_no_server(tmp_path, server, caplog, capsys):
    server.close()
    assert get(server, tmp_path, machines=(FAN, VALVE)) == ["fan", "valve"]
    assert re.search(r"/api/records/\d+: no response: .*Connection refused.*Try again later", caplog.text)
    assert caplog.text.count("trying again") == 3  # one record, asked for once
    options = ["--machines", "fan", "--dataset_directory", str(tmp_path / "data"), "--download_url", server.url]
    assert download_tool.main(["2024", "-d", *options]) is False
    assert "failed: fan. The reasons are above" in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"<html>", b"[]", b'{"files": [{"key": "x", "size": 3, "checksum": "crc:12"}]}'])
def test_a_malformed_list(published, tmp_path, text, caplog):
    published.texts[f"/api/records/{FAN.archives[0].record}"] = text
    assert get(published, tmp_path) == ["fan"]
    assert "not a list of files in a record" in caplog.text
    assert published.fetched() == []


def test_a_renamed_file_fails_and_the_others_do_not(published, tmp_path, caplog):
    published.add(replace(VALVE.archives[0], name="dev_valve_r2.zip"), b"")
    assert get(published, tmp_path, machines=(VALVE, FAN)) == ["valve"]
    assert re.search(r"lists no such file. Did you mean 'dev_valve_r2.zip'\?.*datasets/catalog/", caplog.text)
    assert_complete(tmp_path)


def test_a_mirror_without_a_list_needs_that_of_zenodo(published, tmp_path):
    mirror = RecordServer()
    mirror.texts = {path: contents for path, contents in published.texts.items() if "/files/" in path}
    assert_succeeds(mirror, tmp_path)
    mirror.close()
    assert mirror.fetched() == ["dev_fan.zip"]
    assert [path for path, _ in published.requests] == [f"/api/records/{FAN.archives[0].record}"]


def test_archives_brought_by_hand(published, tmp_path, raw, archives, caplog):
    """They are checked against the list; without network they are used as they are, if they are intact zip files."""
    (archives / "dev_fan.zip").write_bytes(ARCHIVE[:-5000])
    assert_succeeds(published, tmp_path)
    shutil.rmtree(raw)
    published.close()
    (archives / "dev_fan.zip").write_bytes(ARCHIVE[:-5000])
    assert get(published, tmp_path) == ["fan"]
    assert "cannot be unpacked" in caplog.text
    assert not raw.exists()
    (archives / "dev_fan.zip").write_bytes(ARCHIVE)
    assert_succeeds(published, tmp_path)
    assert files_below(tmp_path / SPLIT / "replaced") == {"dev_fan.zip": ARCHIVE[:-5000]}


# --- Disks and archives


def test_room_is_checked_before_anything_is_fetched(published, tmp_path, monkeypatch):
    limit_space(monkeypatch, int(1.9 * len(ARCHIVE)))
    with pytest.raises(BaselineError, match=r"needs 0\.2 MB, but the disk has only 0\.2 MB free\. Free some space"):
        get(published, tmp_path)
    assert published.fetched() == []
    limit_space(monkeypatch, 2 * len(ARCHIVE))
    assert_succeeds(published, tmp_path)


@pytest.mark.parametrize("place", [r"archives/dev_fan\.zip", r"raw/\.fan\.unpacking"])
def test_a_full_disk(published, tmp_path, archives, place, caplog):
    if "raw" in place:
        (archives / "dev_fan.zip").write_bytes(ARCHIVE)
    with largest_file(5000):  # less than a clip
        assert get(published, tmp_path) == ["fan"]
    assert re.search(rf"cannot write \S+/{place}: .*free space.*--dataset_directory", caplog.text)
    assert not list((tmp_path / SPLIT / "raw").glob("*"))
    assert_succeeds(published, tmp_path)


def test_a_machine_directory_that_is_a_link_to_another_disk(published, tmp_path, raw):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        raw.parent.mkdir(parents=True)
        raw.symlink_to(other)
        assert get(published, tmp_path) == []
        assert raw.is_symlink()
        assert files_below(Path(other)).keys() == {*FILES, MANIFEST}


@pytest.mark.parametrize("exists", [False, True])
def test_a_directory_is_renamed_as_a_whole_or_its_manifest_last(published, tmp_path, raw, monkeypatch, exists):
    """test/ cannot be renamed by itself."""
    rename = Path.replace
    if exists:
        (raw / "train").mkdir(parents=True)

    def rename_others(path, target):
        if "test" in path.parts:
            raise OSError("cannot be renamed")
        return rename(path, target)

    monkeypatch.setattr(Path, "replace", rename_others)
    assert get(published, tmp_path) == (["fan"] if exists else [])
    assert (raw / MANIFEST).exists() != exists


@pytest.mark.parametrize("text", ["[", '{"files": {"../x": [1, 2]}}', None])
def test_clips_without_a_good_manifest_are_adopted(published, tmp_path, raw, text):
    """As those that were unpacked by hand."""
    get(published, tmp_path)
    (raw / MANIFEST).unlink()
    if text is not None:
        (raw / MANIFEST).write_text(text)
    (raw / CLIPS[0]).unlink()
    assert_succeeds(published, tmp_path)


@pytest.mark.parametrize("name", ["train/section_00_source_train_normal_0000_mine.wav", CLIPS[0]])
def test_other_clips_are_not_mixed_with_those_of_the_archive(published, tmp_path, raw, caplog, name):
    (raw / "train").mkdir(parents=True)
    (raw / name).write_bytes(b"mine")
    assert get(published, tmp_path) == ["fan"]
    assert f"contains clips that are not from dev_fan.zip, such as {name}" in caplog.text
    assert files_below(raw) == {name: b"mine"}


def with_member(name: str, compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    """The archive with one more file."""
    with zipfile.ZipFile(buffer := io.BytesIO(ARCHIVE), "a", compression) as zip_file:
        zip_file.writestr(name, b"contents")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        *((with_member(name), "leads outside") for name in ("../evil", "fan/../../evil", "/tmp/evil")),
        (with_member("fan/train/strange.wav", compression=zipfile.ZIP_LZMA), "uses an unsupported compression method"),
        (with_member("fan/train"), "cannot write"),  # a file and a directory
        (ARCHIVE[:50_000] + b"damage" + ARCHIVE[50_006:], "cannot be unpacked"),
        (b"", "cannot be unpacked"),
        (make_zip(VALVE, FILES), "it does not contain fan/train/ and fan/test/"),
        (make_zip(FAN, {CLIPS[0]: b""}), "it does not contain fan/train/ and fan/test/"),
    ],
)
def test_archives_that_are_refused(server, tmp_path, archive, words, caplog):
    server.add(FAN.archives[0], archive)
    assert get(server, tmp_path) == ["fan"]
    assert words in caplog.text
    assert not list((tmp_path / SPLIT / "raw").glob("*"))
    assert not list(tmp_path.rglob("*evil*"))


def test_train_and_test_archives_share_a_directory(server, tmp_path):
    """The evaluation data come in two archives, weeks apart; attributes_00.csv may be in both."""
    train, test = HAIR_DRYER.archives
    server.add(train, make_zip(HAIR_DRYER, {CLIPS[0]: b"a clip", "attributes_00.csv": b"the first"}))
    clips = {"test/section_00_0000.wav": b"another", "test/section_00_0001.wav": b"one more"}
    server.add(test, make_zip(HAIR_DRYER, clips | {"attributes_00.csv": b"another version"}))
    directory = tmp_path / "data/dcase2024t2/eval_data/raw/HairDryer"
    assert get(server, tmp_path, [HAIR_DRYER], ["train"]) == []
    assert files_below(directory).keys() == {CLIPS[0], "attributes_00.csv", f"{train.name}.json"}
    assert get(server, tmp_path, [HAIR_DRYER], ["test"]) == []
    both = files_below(directory)
    assert both.keys() == {CLIPS[0], *clips, "attributes_00.csv", f"{train.name}.json", f"{test.name}.json"}
    assert both["attributes_00.csv"] == b"the first"
    server.requests.clear()
    assert get(server, tmp_path, [HAIR_DRYER], ["train", "test"]) == []
    assert server.requests == []


def test_labels_that_do_not_go_together_are_not_kept(server, tmp_path, caplog):
    grinder = find_machine("DCASE2023T2grinder", "eval")
    for number, name in enumerate(label_files(grinder)):
        path = urlsplit(f"{grinder.dataset.labels['download']}/{name}").path
        server.texts[path] = b"section_00_000%d.wav,1\n" % number
    assert get(server, tmp_path, [grinder], ["labels"]) == ["grinder"]
    assert "section_00_0000.wav of grinder is missing from" in caplog.text
    assert not list(tmp_path.rglob("*.csv"))


# --- Killed runs, and several at once


def start(server, tmp_path) -> subprocess.Popen:
    command = [sys.executable, ROOT / "tools/download.py", "2024", "-d", "--machines", "fan"]
    command += ["--dataset_directory", tmp_path / "data", "--download_url", server.url]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def test_two_at_once_wait_for_each_other(published, tmp_path):
    published.pause = 0.2  # the later one finds the first at work
    processes = [start(published, tmp_path) for _ in range(2)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert published.fetched() == ["dev_fan.zip"]
    assert sum("waiting for another download" in output for output in outputs) == 1
    assert_complete(tmp_path)


def test_killed_at_random_moments(published, tmp_path, raw):
    """kill -9 at 16 moments: the clips are complete or absent, and the next run completes them."""
    published.pause = 0.004
    moments, started = random.Random(3), time.monotonic()
    start(published, tmp_path).communicate()
    duration, unfinished = time.monotonic() - started, 0
    for _ in range(16):
        shutil.rmtree(raw if moments.random() < 0.5 else tmp_path / "data")  # with or without the archive
        process = start(published, tmp_path)
        time.sleep(moments.uniform(0.5, 1.0) * duration)
        process.kill()
        process.communicate()
        duration *= 0.9 if raw.exists() else 1.1  # the first run may have been a slow one, or a quick one
        unfinished += not raw.exists()
        if raw.exists():
            assert files_below(raw).keys() == {*FILES, MANIFEST}
        assert_succeeds(published, tmp_path)
    assert 3 < unfinished < 16


# --- The commands


def test_scripts_and_validate(published, tmp_path, raw):
    def script(*arguments):
        options = ["--machines", "fan", "--dataset_directory", tmp_path / "data"]
        return run([ROOT / "data_download_2024dev.sh", *arguments, *options], tmp_path, PYTHON=sys.executable)

    before = script("validate")
    assert before.returncode == 1
    assert "not found" in before.stdout
    assert not (tmp_path / "data").exists()
    fetched = script("--download_url", published.url)
    assert fetched.returncode == 0, fetched.stderr
    assert "dev_fan.zip: unpacked 15 of 15 files" in fetched.stdout
    assert script("validate").returncode == 0
    (raw / CLIPS[0]).write_bytes(b"damaged")
    (raw / CLIPS[1]).rename(raw / "train/section_00_source_train_normal_0077.wav")
    published.requests.clear()
    found = script("validate")
    assert found.returncode == 1
    row, *names = found.stdout.splitlines()[2:]
    assert row.split() == ["fan", "dev_fan.zip", "15", "1", "1", "1"]
    surplus = "train/section_00_source_train_normal_0077.wav"
    assert names == [f"fan, missing: {CLIPS[1]}", f"fan, corrupt: {CLIPS[0]}", f"fan, extra: {surplus}"]
    assert published.requests == []


def test_validate_opens_clips_that_were_unpacked_by_hand(demo_data, tmp_path, capsys):
    data = shutil.copytree(demo_data, tmp_path / "data")
    clip = next((data / RAW / "fan/train").glob("*.wav"))
    other = next(clip.parent.glob("*_0001_*"))
    shutil.copy(other, clip.parent / "strange.wav")
    shutil.copy(other, clip.parent / f"{other.stem} (1).wav")
    clip.write_bytes(clip.read_bytes()[:1000])
    write_wav(clip.parent / "section_77_source_train_normal_0099.wav", channels=2)
    assert download_tool.main(["2024", "-d", "validate", "--dataset_directory", str(data)]) is False
    rows = {line.split()[0]: line.split(maxsplit=6)[3:] for line in capsys.readouterr().out.splitlines()}
    assert rows["fan"] == ["0", "2", "3", "no manifest: clips may be missing"]
    assert rows["valve"] == ["0", "0", "0", "no manifest: clips may be missing"]
    assert rows["slider"] == ["0", "0", "0", "not found"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["2019", "-d"], "unknown dataset 'DCASE2019T2'"),
        (["2024", "-d", "--machines", "fna"], "Did you mean 'fan'"),
        (["2024", "-d", "--download_url", "ftp://x"], "ftp://x: expected a URL"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        download_tool.main(arguments)


def test_auto_download(server, demo_data, tmp_path):
    server.add(FAN.archives[0], make_zip(FAN, files_below(demo_data / RAW / "fan")))
    workspace = Workspace(tmp_path)
    options = ["--is_auto_download", "True", "--download_url", server.url, "--epochs", "1", "--batch_size", "64"]
    workspace.run_here(*options)
    assert (workspace.result() / "result_fan.csv").exists()
    server.close()
    workspace.run_here(*options, "--test_only")  # nothing is asked for again


def test_auto_download_leaves_directories_alone(server, tmp_path, raw, caplog):
    (raw / "train").mkdir(parents=True)
    download_missing(FAN, tmp_path / "data", ["train"], server.url)
    (raw / "test_rename").mkdir()
    download_missing(FAN, tmp_path / "data", ["test"], server.url)
    (raw / "test_rename").rmdir()
    unpublished = replace(find_machine("DCASE2026T2Sander", "eval"), archives=())
    download_missing(unpublished, tmp_path / "data", ["test"], server.url)
    assert server.requests == []  # train/ exists; no archive of test clips is published
    with pytest.raises(BaselineError, match="could not be downloaded"):
        download_missing(FAN, tmp_path / "data", ["test"], server.url)
    assert "no such record" in caplog.text


@pytest.mark.parametrize("name", [f"DCASE{year}T2" for year in range(2020, 2027)])
def test_every_archive_of_a_year(server, tmp_path, name):
    """The archives of all machine types and both splits land where clips are looked for."""
    for machines in find_dataset(name).machines.values():
        pairs = [(machine, archive) for machine in machines.values() for archive in machine.archives]
        for machine, archive in pairs:
            clips = {f"{part}/section_00_{part}_normal_0000.wav": archive.name.encode() for part in archive.holds}
            server.add(archive, make_zip(machine, clips))
        assert get(server, tmp_path, list(machines.values()), ["train", "test"]) == []
        for machine, archive in pairs:
            for part in archive.holds:
                clip = machine.directory(tmp_path / "data") / part / f"section_00_{part}_normal_0000.wav"
                assert clip.read_bytes() == archive.name.encode()
        assert len({archive.name for _, archive in pairs}) == len(pairs)
