"""Downloads, from a local server that behaves like Zenodo and misbehaves in every way."""

import io
import itertools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

import pytest
from conftest import ROOT, Workspace
from record_server import RecordServer, make_zip

from config import BaselineError, UsageError
from datasets.catalog import find_dataset, find_machine
from datasets.download import server as transfer
from datasets.download.fetch import download, download_missing
from tools import download as download_tool

FAN = find_machine("DCASE2024T2fan", "dev")
HAIR_DRYER = find_machine("DCASE2024T2HairDryer", "eval")
CLIPS = [
    *(f"train/section_00_source_train_normal_{number:04d}_m-n_W.wav" for number in range(12)),
    *(
        f"test/section_00_target_test_{label}_{number:04d}_m-n_W.wav"
        for label in ("normal", "anomaly")
        for number in (0, 1)
    ),
]
NAMES = [*CLIPS, "attributes_00.csv"]


@pytest.fixture
def server(monkeypatch):
    server = RecordServer()
    monkeypatch.setattr(transfer, "WAITS", (0.01, 0.02, 0.02))
    monkeypatch.setattr(transfer, "ZENODO", server.url)  # there is no other
    yield server
    server.close()


@pytest.fixture
def published(server, tmp_path):
    """The server with the archive of the machine type fan."""
    server.add(FAN.archives[0], make_zip(tmp_path / "source", FAN, NAMES))
    return server


def files_below(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def get(server, tmp_path, machines=(FAN,), parts=("train", "test", "labels")) -> list[str]:
    return download(machines, tmp_path / "data", parts, server.url)


def assert_complete(tmp_path):
    raw = tmp_path / "data/dcase2024t2/dev_data/raw"
    assert files_below(raw).keys() == {f"fan/{name}" for name in [*NAMES, "dev_fan.zip.json"]}
    for name in CLIPS:
        assert (raw / "fan" / name).read_bytes() == (tmp_path / "source/DCASE2024T2/fan" / name).read_bytes()
    archives = tmp_path / "data/dcase2024t2/dev_data/archives"
    assert [path.name for path in archives.iterdir()] == ["dev_fan.zip"]


def assert_nothing_half_made(tmp_path):
    split = tmp_path / "data/dcase2024t2/dev_data"
    assert not list((split / "raw").glob("*"))
    assert not (split / "archives/dev_fan.zip").exists()


def test_what_is_there_and_verified_is_not_fetched_again(published, tmp_path, caplog):
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)
    assert published.fetched() == ["dev_fan.zip"]
    published.requests.clear()
    assert get(published, tmp_path) == []
    assert published.requests == []  # no network at all
    raw = tmp_path / "data/dcase2024t2/dev_data/raw/fan"
    shutil.rmtree(raw)  # unpacked again from the archive that is there
    assert get(published, tmp_path) == []
    assert published.fetched() == []
    assert_complete(tmp_path)


def test_damaged_clips_are_mended_and_others_stay(published, tmp_path, caplog):
    get(published, tmp_path)
    raw = tmp_path / "data/dcase2024t2/dev_data/raw/fan"
    contents = bytearray((raw / CLIPS[0]).read_bytes())
    contents[-1] ^= 1
    (raw / CLIPS[0]).write_bytes(contents)
    (raw / CLIPS[1]).unlink()
    shutil.copy(raw / CLIPS[2], raw / "train/section_00_source_train_normal_0099.wav")
    before = (raw / CLIPS[3]).stat().st_mtime_ns
    assert get(published, tmp_path) == []
    assert (
        "dev_fan.zip does not hold 1 of the clips that are there, such as train/section_00_source_train_normal_0099"
        in (caplog.text)
    )
    (raw / "train/section_00_source_train_normal_0099.wav").unlink()
    assert_complete(tmp_path)
    assert (raw / CLIPS[3]).stat().st_mtime_ns == before


# --- A server that misbehaves ---


def test_goes_on_where_it_stopped(published, tmp_path):
    published.drop_after = 20_000
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)
    starts = [int(range_[6:-1]) for _, range_ in published.requests if range_]
    assert len(starts) >= 2
    assert starts == sorted(set(starts))  # each further than the one before


def test_goes_on_with_the_part_of_an_earlier_call(published, tmp_path):
    archive = published.records[FAN.archives[0].record]["dev_fan.zip"]
    part = tmp_path / "data/dcase2024t2/dev_data/archives/dev_fan.zip.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(archive[:5000])
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)
    assert published.requests[-1][1] == "bytes=5000-"


@pytest.mark.parametrize("part", [b"other bytes" * 500, b"x" * 10_000_000])
def test_a_part_of_another_file_is_fetched_anew(published, tmp_path, part):
    path = tmp_path / "data/dcase2024t2/dev_data/archives/dev_fan.zip.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(part)
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_server_without_ranges(published, tmp_path):
    published.has_ranges = False
    path = tmp_path / "data/dcase2024t2/dev_data/archives/dev_fan.zip.part"
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something")
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_server_without_ranges_that_breaks_off(published, tmp_path, caplog):
    published.has_ranges, published.drop_after = False, 20_000
    assert get(published, tmp_path) == ["fan"]
    assert "the connection broke off; gave up after 4 attempts" in caplog.text
    assert_nothing_half_made(tmp_path)
    published.drop_after = None
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_answers_without_a_length_that_break_off(published, tmp_path):
    published.says_length, published.drop_after = False, 20_000
    published.listing = None
    listing = published.records  # the list itself is short enough to come in one piece
    assert listing
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


@pytest.mark.parametrize("status", [416, 400, 403])
def test_server_that_refuses_parts(published, tmp_path, status):
    """The whole file is asked for then, and what has arrived of it before is kept."""
    published.has_ranges, published.drop_after = status, iter([20_000, None])
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_server_that_sends_small_parts(published, tmp_path):
    published.longest_range, published.drop_after = 10_000, iter([20_000, *[None] * 50])
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_a_page_in_between_costs_nothing_that_has_arrived(published, tmp_path):
    published.drop_after = iter([40_000, *[None] * 50])
    published.says_length = False
    contents, calls = published.change, []

    def page_second(archive):
        calls.append(archive)
        return b"<html>maintenance</html>" if len(calls) == 2 else contents(archive)

    published.has_ranges, published.change = False, page_second
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)
    assert len(calls) == 3


def test_progress_is_more_than_ever_before(published, tmp_path, caplog):
    """A server without parts that breaks off now here, now there, is given up."""
    published.has_ranges, published.drop_after = False, itertools.cycle([10_000, 20_000])
    assert get(published, tmp_path) == ["fan"]
    assert len(published.fetched()) < 10
    assert "gave up" in caplog.text


@pytest.mark.parametrize("location", ["http://[::1", "//[x]/", "http://a..b/", "file:///etc/passwd", "?again"])
def test_redirects_to_nowhere(published, tmp_path, location, caplog):
    published.answers = [(302, {"Location": location}, b"")] * 200
    assert get(published, tmp_path) == ["fan"]
    assert_nothing_half_made(tmp_path)


@pytest.mark.parametrize("mirror", ["http://a..b", "http://" + "a" * 70 + ".org", "http://[::1", "http://"])
def test_mirrors_that_are_no_addresses(server, tmp_path, mirror, monkeypatch, caplog):
    assert download([FAN], tmp_path, ["train"], mirror) == ["fan"]
    assert "error" in caplog.text.lower()


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
def test_busy_server(published, tmp_path, status, caplog):
    published.answers = [(status, {}, b"")] * 3
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)
    assert f"the server answers {status}" in caplog.text


def test_waits_as_long_as_the_server_asks(published, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(transfer, "WAITS", (0.01, 0.02, 0.02, 0.02))
    monkeypatch.setattr(transfer.time, "sleep", waits.append)
    published.answers = [
        (429, {"Retry-After": "7"}, b""),
        (503, {"Retry-After": "100000"}, b""),
        (429, {"Retry-After": "soon"}, b""),
        (503, {"Retry-After": "Fri, 31 Dec 99999 23:59:59 GMT"}, b""),
    ]
    assert get(published, tmp_path) == []
    assert [wait for wait in waits if wait] == [7, transfer.LONGEST_WAIT, 0.02, 0.02]  # less the server's own pauses


def test_a_server_that_stays_busy_is_given_up(published, tmp_path, caplog):
    published.answers = [(503, {}, b"")] * 100
    assert get(published, tmp_path) == ["fan"]
    assert "the server answers 503" in caplog.text
    assert "gave up after 4 attempts. Try again later, or name a mirror with --download_url." in caplog.text
    assert_nothing_half_made(tmp_path)


@pytest.mark.parametrize("status", [403, 404, 410, 451])
def test_refusals_are_not_repeated(published, tmp_path, status, caplog):
    published.answers = [(status, {}, b"")]
    assert get(published, tmp_path) == ["fan"]
    assert len(published.fetched()) == 1
    assert str(status) in caplog.text or "404" in caplog.text
    assert_nothing_half_made(tmp_path)


def test_no_server(tmp_path, server, caplog):
    server.close()
    valve = find_machine("DCASE2024T2valve", "dev")
    assert get(server, tmp_path, machines=(FAN, valve)) == ["fan", "valve"]
    assert re.search(r"no connection.*gave up after 4 attempts", caplog.text)
    assert caplog.text.count("another attempt") == 3  # one record, asked for once


def test_a_slow_server_is_waited_for(published, tmp_path):
    published.pause = 0.05
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_a_server_that_falls_silent(published, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(transfer, "TIMEOUTS", (1, 0.1))
    published.pause = 0.5
    assert get(published, tmp_path) == ["fan"]
    assert "gave up" in caplog.text
    assert_nothing_half_made(tmp_path)


def test_wrong_checksum(published, tmp_path, caplog):
    published.change = lambda contents: contents[:-1] + b"?"
    assert get(published, tmp_path) == ["fan"]
    assert published.fetched() == ["dev_fan.zip"] * 2  # once more, in case the transfer was at fault
    assert "what arrives is not what the record lists" in caplog.text
    assert_nothing_half_made(tmp_path)
    assert not list((tmp_path / "data/dcase2024t2/dev_data/archives").glob("*"))
    published.change = lambda contents: contents
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


@pytest.mark.parametrize("says_length", [True, False])
@pytest.mark.parametrize("page", [b"<html>Please log in</html>", b"x" * 5_000_000])
def test_another_file_or_a_page(published, tmp_path, page, says_length, caplog):
    published.change, published.says_length = lambda _: page, says_length
    assert get(published, tmp_path) == ["fan"]
    assert "record lists" in caplog.text or "broke off" in caplog.text
    assert_nothing_half_made(tmp_path)


@pytest.mark.parametrize(
    "listing",
    [
        *(b"<html>", b"[]", b'{"files": [{"key": "dev_fan.zip"}]}', b'{"files": 3}', b"\xff"),
        b'{"files": [{"key": "dev_fan.zip", "size": 3, "checksum": "crc:12"}]}',
        b'{"files": [{"key": "dev_fan.zip", "size": Infinity, "checksum": "md5:12"}]}',
        b'{"files": [{"key": 7, "size": 3, "checksum": "md5:12"}]}',
        b'{"files": [{"key": "dev_fan.zip", "size": -3, "checksum": "md5:12"}]}',
        b"[" * 100_000,
    ],
)
def test_a_list_that_is_none(published, tmp_path, listing, caplog):
    published.listing = listing
    assert get(published, tmp_path) == ["fan"]
    assert "not the list of a record's files" in caplog.text


def test_released_again_under_another_name(server, tmp_path, caplog):
    server.records[FAN.archives[0].record] = {"dev_fan_r2.zip": b"", "dev_valve.zip": b""}
    assert get(server, tmp_path) == ["fan"]
    assert "lists no such file. Did you mean 'dev_fan_r2.zip'?" in caplog.text
    assert "datasets/catalog/" in caplog.text


def test_one_failure_does_not_stop_the_others(published, tmp_path):
    valve = find_machine("DCASE2024T2valve", "dev")
    assert get(published, tmp_path, machines=(valve, FAN)) == ["valve"]
    assert_complete(tmp_path)


def test_mirror_without_a_list_needs_that_of_zenodo(published, tmp_path, monkeypatch):
    mirror = RecordServer()
    try:
        mirror.add(FAN.archives[0], published.records[FAN.archives[0].record]["dev_fan.zip"])
        files = mirror.records[FAN.archives[0].record]
        monkeypatch.setattr(transfer, "ZENODO", published.url)
        original = mirror.answer
        mirror.answer = lambda request: mirror.send(request, None) if "/api/" in request.path else original(request)
        assert files
        assert get(mirror, tmp_path) == []
        assert_complete(tmp_path)
        assert published.fetched() == []
    finally:
        mirror.close()


def test_archives_brought_by_hand_need_no_network(published, tmp_path, caplog):
    archive = published.records[FAN.archives[0].record]["dev_fan.zip"]
    published.close()
    path = tmp_path / "data/dcase2024t2/dev_data/archives/dev_fan.zip"
    path.parent.mkdir(parents=True)
    path.write_bytes(archive[:-5000])
    assert get(published, tmp_path) == ["fan"]
    assert "not an intact zip file" in caplog.text
    assert not (tmp_path / "data/dcase2024t2/dev_data/raw/fan").exists()
    path.write_bytes(archive)
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


# --- Disks and archives ---


def test_a_machine_directory_that_is_a_link_to_another_disk(published, tmp_path):
    memory = Path("/dev/shm")
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("there is no other disk")
    directory = FAN.directory(tmp_path / "data")
    directory.parent.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=memory) as other:
        elsewhere = Path(other, "fan")
        elsewhere.mkdir()
        directory.symlink_to(elsewhere)
        assert get(published, tmp_path) == []
        assert directory.is_symlink()
        assert files_below(Path(other)).keys() == {f"fan/{name}" for name in [*NAMES, "dev_fan.zip.json"]}


def test_room_is_checked_before_anything_is_fetched(published, tmp_path, monkeypatch):
    size = len(published.records[FAN.archives[0].record]["dev_fan.zip"])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(1.9 * size)))
    with pytest.raises(BaselineError, match="MB are needed there"):
        get(published, tmp_path)
    assert published.fetched() == []


def test_room_is_checked_before_unpacking(published, tmp_path, monkeypatch, caplog):
    size = len(published.records[FAN.archives[0].record]["dev_fan.zip"])
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=int(2.01 * size)))
    get(published, tmp_path)  # enough: what is unpacked is a little larger than the archive
    free = iter([10 * size, 10])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=next(free)))
    shutil.rmtree(tmp_path / "data/dcase2024t2/dev_data/raw/fan")
    assert get(published, tmp_path) == ["fan"]
    assert "MB are needed there" in caplog.text
    assert not (tmp_path / "data/dcase2024t2/dev_data/raw/fan").exists()


def test_a_small_repair_needs_little_room(published, tmp_path, monkeypatch):
    get(published, tmp_path)
    clip = tmp_path / "data/dcase2024t2/dev_data/raw/fan" / CLIPS[0]
    clip.write_bytes(b"damaged")
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=20_000))
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


@pytest.mark.parametrize(
    "text", ['{"files": {}}', "[", '{"files": {"../x": [1, 2]}}', '{"files": {"a": [Infinity, 1]}}']
)
def test_manifests_that_are_none_are_made_again(published, tmp_path, text):
    get(published, tmp_path)
    directory = tmp_path / "data/dcase2024t2/dev_data/raw/fan"
    (directory / "dev_fan.zip.json").write_text(text)
    (directory / CLIPS[0]).unlink()
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_sizes_that_an_archive_lies_about(server, tmp_path, caplog):
    archive = bytearray(make_zip(tmp_path, FAN, NAMES))
    entry = archive.index(b"PK\x01\x02")  # of the first file in the table of contents; at 24 its size
    size = int.from_bytes(archive[entry + 24 : entry + 28], "little")
    archive[entry + 24 : entry + 28] = (size + 1000).to_bytes(4, "little")
    server.add(FAN.archives[0], bytes(archive))
    assert get(server, tmp_path) == ["fan"]
    assert "not an intact zip file" in caplog.text
    assert not list((tmp_path / "data/dcase2024t2/dev_data/raw").glob("*"))


def test_directories_in_place_of_files(published, tmp_path, caplog):
    (tmp_path / "data/dcase2024t2/dev_data/archives/dev_fan.zip").mkdir(parents=True)
    assert get(published, tmp_path) == ["fan"]
    assert "cannot write" in caplog.text


def hostile(name: str, contents: bytes = b"x", mode: int = 0) -> bytes:
    """An archive of good clips, and one more file."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zip_file:
        for clip in CLIPS:
            zip_file.writestr(f"fan/{clip}", b"RIFF")
        member = zipfile.ZipInfo(name)
        member.external_attr = mode << 16
        zip_file.writestr(member, contents)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("archive", "words"),
    [
        (hostile("../evil.txt"), "leads outside"),
        (hostile("fan/../../evil.txt"), "leads outside"),
        (hostile("/tmp/evil.txt"), "leads outside"),
        (hostile("fan/..\\..\\evil.txt"), "leads outside"),
        (hostile("C:/evil.txt"), "leads outside"),
        (hostile("fan/train/link.wav", b"/etc/passwd", 0o120777), "is a link"),
        (hostile("fan/dev_fan.zip.json"), "misplaced"),
        (hostile("fan/train"), "is a file and a directory"),
        (hostile("fan/" + "a" * 300), "cannot be one"),
        (hostile("fan/a\nb.wav"), "cannot be one"),
        (hostile(CLIPS[0]), "there twice"),
        (b"PK\x03\x04 but no zip", "not an intact zip"),
        (b"", "not an intact zip"),
    ],
)
def test_archives_that_are_refused(server, tmp_path, archive, words, caplog):
    server.add(FAN.archives[0], archive)
    assert get(server, tmp_path) == ["fan"]
    assert words in caplog.text
    assert not list((tmp_path / "data/dcase2024t2/dev_data/raw").glob("*"))
    assert not list(tmp_path.rglob("*evil*"))


def test_archive_of_another_machine_type(server, tmp_path, caplog):
    valve = find_machine("DCASE2024T2valve", "dev")
    server.add(FAN.archives[0], make_zip(tmp_path, valve, NAMES))
    assert get(server, tmp_path) == ["fan"]
    assert "no fan/train/ and fan/test/ in it" in caplog.text


def test_damage_inside_an_archive(server, tmp_path, caplog):
    archive = bytearray(make_zip(tmp_path, FAN, NAMES))
    archive[len(archive) // 2] ^= 255
    server.add(FAN.archives[0], bytes(archive))
    assert get(server, tmp_path) == ["fan"]
    assert "not an intact zip file" in caplog.text
    assert not list((tmp_path / "data/dcase2024t2/dev_data/raw").glob("*"))


def test_other_data_are_not_mixed_with_it(published, tmp_path, caplog):
    other = tmp_path / "data/dcase2024t2/dev_data/raw/fan/train/section_00_source_train_normal_0000_mine.wav"
    other.parent.mkdir(parents=True)
    other.write_bytes(b"mine")
    assert get(published, tmp_path) == ["fan"]
    assert "holds other data than dev_fan.zip" in caplog.text
    assert list(other.parents[1].rglob("*.*")) == [other]


def test_data_unpacked_by_hand_are_taken_over(published, tmp_path):
    raw = tmp_path / "data/dcase2024t2/dev_data/raw"
    with zipfile.ZipFile(io.BytesIO(published.records[FAN.archives[0].record]["dev_fan.zip"])) as zip_file:
        zip_file.extractall(raw)
    (raw / "fan" / CLIPS[0]).unlink()
    assert get(published, tmp_path) == []
    assert_complete(tmp_path)


def test_train_and_test_archives_share_a_directory(server, tmp_path):
    """The evaluation data come in two archives, weeks apart; attributes_00.csv may be in both."""
    train, test = HAIR_DRYER.archives
    server.add(train, make_zip(tmp_path, HAIR_DRYER, [CLIPS[0], "attributes_00.csv"]))
    clips = ["test/section_00_0000.wav", "test/section_00_0001.wav"]
    assert get(server, tmp_path, [HAIR_DRYER], ["train"]) == []
    directory = tmp_path / "data/dcase2024t2/eval_data/raw/HairDryer"
    assert files_below(directory).keys() == {CLIPS[0], "attributes_00.csv", f"{train.name}.json"}
    with zipfile.ZipFile(buffer := io.BytesIO(make_zip(tmp_path, HAIR_DRYER, clips)), "a") as zip_file:
        zip_file.writestr("HairDryer/attributes_00.csv", "another version")
    server.add(test, buffer.getvalue())
    assert get(server, tmp_path, [HAIR_DRYER], ["test"]) == []
    expected = {CLIPS[0], *clips, "attributes_00.csv", f"{train.name}.json", f"{test.name}.json"}
    assert files_below(directory).keys() == expected
    server.requests.clear()
    assert get(server, tmp_path, [HAIR_DRYER], ["train", "test"]) == []
    assert server.requests == []
    for manifest in directory.glob("*.json"):  # as if unpacked by hand
        manifest.unlink()
    assert get(server, tmp_path, [HAIR_DRYER], ["train", "test"]) == []
    assert files_below(directory).keys() == expected


def tool(server, tmp_path, *arguments: str) -> list[str]:
    places = ["--dataset_directory", str(tmp_path / "data"), "--download_url", server.url]
    return [sys.executable, str(ROOT / "tools/download.py"), "2024", "-d", "--machines", "fan", *places, *arguments]


def test_two_at_once_wait_for_each_other(published, tmp_path):
    published.pause = 0.4  # the last to start is to find the first at it
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    processes = [subprocess.Popen(tool(published, tmp_path), env=environment, **pipes) for _ in range(3)]
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0]
    assert published.fetched() == ["dev_fan.zip"]
    assert any("waiting for another download" in output for output in outputs)  # a slow starter finds all done
    assert_complete(tmp_path)


def test_killed_at_random_moments(published, tmp_path):
    """kill -9 at 20 moments: what is left is complete or absent, and the next run completes it."""
    published.pause = 0.004
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    raw, moments = tmp_path / "data/dcase2024t2/dev_data/raw/fan", random.Random(3)
    started = time.monotonic()
    subprocess.run(tool(published, tmp_path), env=environment, capture_output=True, check=True)
    whole = time.monotonic() - started
    unfinished = 0
    for _ in range(20):
        if moments.random() < 0.5:  # sometimes the archive is there, and only the unpacking left
            shutil.rmtree(tmp_path / "data", ignore_errors=True)
        else:
            shutil.rmtree(raw, ignore_errors=True)
        process = subprocess.Popen(tool(published, tmp_path), env=environment, stdout=-3, stderr=-3)
        time.sleep(moments.uniform(0.5, 1.0) * whole)
        process.send_signal(signal.SIGKILL)
        process.wait()
        unfinished += not raw.exists()
        whole *= 0.9 if raw.exists() else 1.1  # the first run may have been a slow one, or a quick one
        if raw.exists():
            assert files_below(raw).keys() == {*NAMES, "dev_fan.zip.json"}
        assert get(published, tmp_path) == []
        assert_complete(tmp_path)
    assert 3 < unfinished < 20


# --- The commands ---


def test_scripts_and_validate(published, tmp_path):
    workspace = Workspace(tmp_path)
    options = ["--machines", "fan", "--dataset_directory", str(workspace.data)]
    environment = os.environ | {"PYTHON": sys.executable}

    def script(*arguments):
        command = [ROOT / "data_download_2024dev.sh", *arguments, *options]
        return subprocess.run(command, env=environment, capture_output=True, text=True, cwd=tmp_path)

    before = script("validate")
    assert before.returncode == 1
    assert "not there" in before.stdout
    assert not workspace.data.exists()
    fetched = script("--download_url", published.url)
    assert fetched.returncode == 0, fetched.stderr
    assert "dev_fan.zip unpacked, 17 of 17 files" in fetched.stdout
    assert script("validate").returncode == 0
    raw = workspace.data / "dcase2024t2/dev_data/raw/fan"
    (raw / CLIPS[0]).write_bytes(b"damaged")
    (raw / CLIPS[1]).rename(raw / "train/section_00_source_train_normal_0077.wav")
    published.requests.clear()
    found = script("validate")
    assert found.returncode == 1
    assert found.stdout.splitlines()[2].split() == ["fan", "dev_fan.zip", "17", "1", "1", "1"]
    assert f"fan, missing: {CLIPS[1]}" in found.stdout
    assert f"fan, corrupt: {CLIPS[0]}" in found.stdout
    assert "fan, surplus: train/section_00_source_train_normal_0077.wav" in found.stdout
    assert published.requests == []


def test_validate_against_the_archive_that_is_there(published, tmp_path, capsys):
    get(published, tmp_path)
    directory = tmp_path / "data/dcase2024t2/dev_data/raw/fan"
    (directory / "dev_fan.zip.json").unlink()
    (directory / "attributes_00.csv").write_text("of another archive")
    arguments = ["2024", "-d", "validate", "--machines", "fan", "--dataset_directory", str(tmp_path / "data")]
    assert download_tool.main(arguments) is True
    (directory / CLIPS[0]).unlink()
    assert download_tool.main(arguments) is False
    assert f"fan, missing: {CLIPS[0]}" in capsys.readouterr().out


def test_validate_of_data_unpacked_by_hand(demo_data, tmp_path, capsys):
    data = tmp_path / "data"
    shutil.copytree(demo_data, data)
    clip = next((data / "dcase2024t2/dev_data/raw/fan/train").glob("*.wav"))
    clip.write_bytes(clip.read_bytes()[:1000])
    (clip.parent / "strange.wav").write_bytes((clip.parent / next(clip.parent.glob("*_0001_*")).name).read_bytes())
    arguments = ["2024", "-d", "validate", "--machines", "fan", "valve", "--dataset_directory", str(data)]
    assert download_tool.main(arguments) is False
    rows = [line.split(maxsplit=6) for line in capsys.readouterr().out.splitlines()]
    assert rows[2][3:6] == ["0", "1", "1"]
    assert rows[3][3:6] == ["0", "0", "0"]
    assert rows[3][6] == "without a manifest: clips may be missing"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["2019", "-d"], "unknown dataset 'DCASE2019T2'"),
        (["DCASE2024T2"], "either -d"),
        (["2024", "-d", "--machines", "fna"], "Did you mean 'fan'"),
        (["2024", "-d", "--download_url", "ftp://x"], "expected an address"),
        (["2024", "-d", "--epochs", "3"], "unknown option '--epochs'"),
        (["2024", "-d", "--parts", "everything"], "invalid choice"),
        ([], "required: dataset"),
    ],
)
def test_wrong_arguments(arguments, words):
    with pytest.raises(UsageError, match=words):
        download_tool.main(arguments)


def test_auto_download_fetches_what_is_not_there(server, tmp_path):
    server.add(FAN.archives[0], make_zip(tmp_path / "source", FAN, NAMES, seconds=2.0))
    workspace = Workspace(tmp_path)
    options = ["--is_auto_download", "True", "--download_url", server.url, "--epochs", "1", "--batch_size", "64"]
    workspace.run_here(*options)
    assert (workspace.result() / "result_fan.csv").exists()
    server.close()
    workspace.run_here(*options, "--test_only")  # nothing is asked for again


def test_auto_download_leaves_what_is_there_alone(server, tmp_path, caplog):
    train = tmp_path / "data/dcase2024t2/dev_data/raw/fan/train"
    train.mkdir(parents=True)
    download_missing(FAN, tmp_path / "data", ["train"], server.url)
    assert server.requests == []
    download_missing(find_machine("DCASE2026T2Sander", "eval"), tmp_path / "data", ["test"], server.url)
    assert server.requests == []  # there is no archive of test clips
    with pytest.raises(BaselineError, match="could not be downloaded"):
        download_missing(FAN, tmp_path / "data", ["test"], server.url)
    assert "no such record" in caplog.text


@pytest.mark.parametrize("name", [f"DCASE{year}T2" for year in range(2020, 2027)])
def test_every_archive_of_a_year(server, tmp_path, name):
    """The archives of all machine types and both splits land where clips are looked for."""
    for machines in find_dataset(name).machines.values():
        for machine in machines.values():
            for archive in machine.archives:
                names = [f"{part}/section_00_{part}_normal_0000.wav" for part in archive.holds]
                server.add(archive, make_zip(tmp_path / "source", machine, names, seconds=0.01))
        assert get(server, tmp_path, list(machines.values()), ["train", "test"]) == []
        for machine in machines.values():
            for archive in machine.archives:
                for part in archive.holds:
                    assert list((machine.directory(tmp_path / "data") / part).glob("*.wav"))
        assert len({archive.name for m in machines.values() for archive in m.archives}) == len(
            [archive for m in machines.values() for archive in m.archives]
        )
