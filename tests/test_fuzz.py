"""Damaged and hostile files from others: each gives a result, or one of our errors.

Inputs are valid ones with parts flipped, cut, doubled or put in, and free texts. A short version runs with the suite;
`./run_tests.sh --long tests/test_fuzz.py` is the full version (values: docs/reliability.md).
"""

import contextlib
import hashlib
import io
import logging
import math
import shutil
import struct
import zipfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import ROOT, write_wav
from hypothesis import given
from hypothesis import strategies as st

from config import BaselineError, load_config
from datasets.audio import MAX_SAMPLES_PER_BYTE, read_clip, read_header
from datasets.catalog import find_machine
from datasets.clips import parse_clip
from datasets.download.archives import unpack
from datasets.labels import parse_labels
from networks import NETWORKS
from networks.threshold import Gamma
from tools.results.submission_rules import find_problems, read_package
from tools.training.adam import Adam
from tools.training.checkpoint import TrainingState
from tools.training.model_files import save_model
from tools.training.paths import run_paths
from tools.training.trained_model import load_model

FAN = find_machine("DCASE2024T2fan", "dev")
CPU = torch.device("cpu")
TOKENS = [
    *(b"\x00", b"\xff", b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\x00\x80", b"\n", b"\r", b'"', b"'", b","),
    *(b": ", b"- ", b"[", b"{", b"]", b"}", b"&a ", b"*a", b"!!python/object:os.system ", b"#", b"?", b"|", b"<<: "),
    *(b"nan", b"inf", b"-1", b"1e999", b"null", b"true", b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[", b"../", b"/", b"..", b"\\"),
    *(b"data", b"fmt ", b"RIFF", b"RF64", b"ds64", b"LIST", b"PK\x01\x02", b"PK\x05\x06", b"9" * 30, b"\x1b[2J"),
]


@st.composite
def mutations(draw: st.DrawFn, contents: bytes) -> bytes:
    """The contents with a few changes."""
    data = bytearray(contents)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(data) - 1)))
        change = draw(st.sampled_from(["flip", "flip", "overwrite", "insert", "cut", "end", "double"]))
        length = draw(st.integers(1, 64))
        if change == "flip" and data:
            data[at] ^= 1 << (length % 8)
        elif change in ("overwrite", "insert"):
            new = draw(st.sampled_from(TOKENS) | st.binary(min_size=1, max_size=8))
            data[at : at + (len(new) if change == "overwrite" else 0)] = new
        elif change == "cut":
            del data[at : at + length]
        elif change == "end":
            del data[at:]
        elif change == "double":
            data[at:at] = data[at : at + length]
    return bytes(data)


class Outcomes:
    """Calls that may end with a result or with one of our errors; anything else comes through."""

    def __init__(self):
        self.counts = Counter()

    def of(self, function, *arguments):
        try:
            result = function(*arguments)
        except BaselineError as error:
            self.counts["errors"] += 1
            assert str(error)
            return None
        self.counts["results"] += 1
        return result


@pytest.fixture
def outcomes(request, figure):
    counted = Outcomes()
    logging.disable(logging.WARNING)
    yield counted
    logging.disable(logging.NOTSET)
    name = request.node.name.removeprefix("test_").replace("_", " ")
    figure(f"{name}: {counted.counts.total()} inputs, {counted.counts['errors']} refused")


@pytest.fixture
def file(tmp_path):
    """A file, written again for each input."""

    def write(contents: bytes, name: str = "file") -> Path:
        (tmp_path / name).write_bytes(contents)
        return tmp_path / name

    return write


# --- Clips and their labels


def test_names_of_clips(outcomes):
    names = b"section_00_source_train_normal_0000_speed_3.wav", b"anomaly_id_05_00000263.wav", b"section_03_0000.WAV"
    mutated = st.one_of(*map(mutations, names)).map(lambda name: name.decode(errors="surrogateescape"))

    @given(mutated | st.text(max_size=40))
    def fuzz(name):
        clip = outcomes.of(parse_clip, Path(name))
        if clip is not None:
            assert clip.section.isdecimal()
            assert not any(ord(character) < 32 or ord(character) == 127 for character in clip.name)

    fuzz()


def wav_files(directory: Path) -> list[bytes]:
    forms = {"pcm": {}, "float": {"subtype": "FLOAT"}, "extended": {"subtype": "PCM_24", "channels": 3}}
    forms |= {"adpcm": {"subtype": "IMA_ADPCM"}}
    return [write_wav(directory / f"{n}.wav", seconds=0.02, **form).read_bytes() for n, form in forms.items()]


def test_wav_files(outcomes, file, tmp_path):
    def read(path):
        header = read_header(path)
        samples = read_clip(path)
        assert samples.nbytes <= 4 * MAX_SAMPLES_PER_BYTE * path.stat().st_size
        assert np.isfinite(samples).all()
        return header

    @given(st.one_of(*map(mutations, wav_files(tmp_path))))
    def fuzz(contents):
        outcomes.of(read, file(contents))

    fuzz()


def test_labels(outcomes, file):
    toy, fan = find_machine("DCASE2020T2ToyCar", "eval"), find_machine("DCASE2024T2HairDryer", "eval")
    lines = "".join(f"section_00_{k:04d}.wav,{k % 2}\n" for k in range(6)).encode()
    listed = (
        b"ToyCar\r\n" + b"".join(b"id_05_%08d.wav,normal_id_05_%08d.wav,0\r\n" % (k, k) for k in range(4)) + b"fan\n"
    )

    @given(mutations(lines), mutations(listed))
    def fuzz(contents, contents_2020):
        for machine, text in ((fan, contents), (toy, contents_2020)):
            labels = outcomes.of(parse_labels, file(text), machine)
            assert labels is None or all(isinstance(label, bool) for label, _ in labels.values())

    fuzz()


# --- Checkpoints and models


class Tiny(torch.nn.Module):
    """A network of a few weights, with batch normalisation."""

    def __init__(self, input_dim: int, n_mels: int):
        super().__init__()
        self.cov_source, self.cov_target = (
            torch.nn.Parameter(torch.eye(n_mels), requires_grad=False) for _ in range(2)
        )
        self.layers = torch.nn.Sequential(torch.nn.Linear(input_dim, 2), torch.nn.BatchNorm1d(2))
        self.out = torch.nn.Linear(2, input_dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.layers(x))


IDENTITY = {"seed": 1, "learning_rate": 0.001, "epochs": 3, "clips": {"a.wav": "0" * 16}, "code": {"a.py: f": "1"}}


def tiny_state() -> TrainingState:
    network = Tiny(10, 2)
    return TrainingState(network, Adam(network.parameters(), lr=0.001), IDENTITY, CPU)


@pytest.mark.parametrize("resealed", [False, True], ids=["damaged", "hostile"])
def test_checkpoints(outcomes, file, tmp_path, resealed):
    """Damaged ones are always noticed; those that somebody has made, with a checksum that fits, may load."""
    state = tiny_state()
    state.finish_epoch([1.0] * 5, [1.0] * 3)
    state.save(tmp_path / "checkpoint.pth")
    contents = (tmp_path / "checkpoint.pth").read_bytes()
    before = torch.get_rng_state()

    @given(mutations(contents[:-32] if resealed else contents))
    def fuzz(mutated):
        if resealed:
            mutated += hashlib.sha256(mutated).digest()
        loaded = tiny_state()
        with contextlib.suppress(BaselineError):
            outcomes.of(lambda: loaded.load(file(mutated)))
        assert resealed or loaded.epoch == 0 or mutated == contents
        assert all(math.isfinite(value) for row in loaded.history for value in row)

    fuzz()
    torch.set_rng_state(before)


@pytest.fixture
def tiny_model(tmp_path, monkeypatch):
    """The files of a small trained model: configuration, paths, and a function that restores them."""
    monkeypatch.setitem(NETWORKS, "tiny", Tiny)
    options = ["--model", "tiny", "--n_mels", "2", "--model_directory", str(tmp_path / "models")]
    config = load_config(["--dataset", "DCASE2024T2fan", "-d", *options])
    paths = run_paths(config, FAN, FAN.sections)
    fits = {"batch": {"MSE": Gamma(2.0, 1.0, 3.0), "MAHALA": Gamma(1.5, 0.25, 2.0)}, "clip": {"MSE": None}}
    save_model(config, paths, Tiny(10, 2), fits, [["loss"], [1.0]], IDENTITY, 16000, CPU)
    return config, paths


@pytest.mark.parametrize("name", ["score_distribution.json", "config.yaml", "model.pth", "model.pth alone"])
def test_models(outcomes, tiny_model, name):
    config, paths = tiny_model
    originals = {path: path.read_bytes() for path in (paths.model, paths.config_record, paths.score_distribution)}
    changed = paths.model_dir / name.split()[0]

    @given(mutations(originals[changed]))
    def fuzz(contents):
        for path, original in originals.items():
            path.write_bytes(original)
        if name.endswith("alone"):  # such as the weights of the published baseline
            paths.config_record.unlink()
            paths.score_distribution.unlink()
        changed.write_bytes(contents)
        found = outcomes.of(load_model, config, FAN, paths)
        if found is not None:
            assert all(value.isfinite().all() for value in found.network.state_dict().values())
            assert found.threshold is None or math.isfinite(found.threshold)
            assert changed != paths.model or contents == originals[changed] or name.endswith("alone")

    fuzz()


# --- Archives

NAMES = [f"fan/{split}/section_00_source_{split}_normal_{k:04d}.wav" for split in ("train", "test") for k in range(2)]


def zip_of(files: dict[str, bytes], compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, contents in files.items():
            archive.writestr(zipfile.ZipInfo(name), contents, compression)
    return buffer.getvalue()


@pytest.fixture
def unpacking(tmp_path):
    """A function that unpacks an archive into an empty dataset directory, and looks for what lies outside."""

    def unpack_it(contents: bytes) -> None:
        shutil.rmtree(tmp_path / "top", ignore_errors=True)
        data = tmp_path / "top/data"
        data.mkdir(parents=True)
        (data / "dev_fan.zip").write_bytes(contents)
        try:
            unpack(data / "dev_fan.zip", FAN.archives[0], FAN, data)
        finally:
            machine = FAN.directory(data)
            outside = [p for p in (tmp_path / "top").rglob("*") if not p.is_dir() and not p.is_relative_to(machine)]
            assert outside == [data / "dev_fan.zip"]
            assert not any(path.is_symlink() for path in machine.rglob("*"))

    return unpack_it


def test_archives(outcomes, unpacking):
    contents = zip_of({name: name.encode() * 3 for name in NAMES})

    @given(mutations(contents))
    def fuzz(contents):
        outcomes.of(unpacking, contents)

    fuzz()


def test_names_in_archives(outcomes, unpacking):
    parts = st.sampled_from(
        ["..", "/", "fan", "train", "C:", "\\", ".", "~", "x.wav", "a" * 300, " ", "$(touch x)", "-rf"]
    )

    @given(st.lists(parts | st.text(max_size=4), min_size=1, max_size=6).map("/".join), st.integers(0, 2**16 - 1))
    def fuzz(name, mode):
        buffer = io.BytesIO(zip_of(dict.fromkeys(NAMES, b"")))
        with zipfile.ZipFile(buffer, "a") as archive:
            member = zipfile.ZipInfo(name)
            member.external_attr = mode << 16
            archive.writestr(member, b"/etc/passwd")
        outcomes.of(unpacking, buffer.getvalue())

    with contextlib.suppress(UserWarning):
        fuzz()


# --- What such inputs have found, and cases by hand


SYSTEM = "task2/A_B_task2_1"
SUBMISSION = yaml.safe_load((ROOT / "docs/submission.yaml").read_text())
META_DATA = yaml.safe_dump(
    {
        "submission": {"label": "A_B_task2_1", "authors": SUBMISSION["authors"], **SUBMISSION["systems"][0]},
        "system": {"description": SUBMISSION["description"], "complexity": {"total_parameters": 1, "MACS": 1}},
        "results": {"development_dataset": {"fan": {"auc_source": 70.0, "auc_target": 60.0, "pauc": 55.0}}},
    }
).encode()


def test_meta_data_of_submissions(outcomes, tmp_path):
    @given(mutations(META_DATA) | st.binary(max_size=200))
    def fuzz(contents):
        package = {f"{SYSTEM}/A_B_task2_1.meta.yaml": contents}
        assert outcomes.of(find_problems, package, FAN.dataset, tmp_path)  # it lacks all scores

    fuzz()


def test_packages_of_submissions(outcomes, file, tmp_path):
    def validate(contents):
        return find_problems(read_package(file(contents)), FAN.dataset, tmp_path)

    scores = b"".join(b"section_00_%04d.wav,%d.5\n" % (n, n) for n in range(20))
    files = {f"{SYSTEM}/A_B_task2_1.meta.yaml": META_DATA, "task2/report.pdf": b"%PDF-1.4"}
    files |= {f"{SYSTEM}/{kind}_Scanner_section_00_test.csv": scores for kind in ("anomaly_score", "decision_result")}

    @given(mutations(zip_of(files)) | mutations(zip_of(files, zipfile.ZIP_STORED)) | st.binary(max_size=200))
    def fuzz(contents):
        problems = outcomes.of(validate, contents)
        assert problems is None or problems

    fuzz()


def test_a_bomb_is_refused(unpacking):
    bomb = zip_of(dict.fromkeys(NAMES, bytes(80_000_000)))
    assert len(bomb) < 1_000_000
    with pytest.raises(BaselineError, match="would unpack to 320 MB, more than 50 times its size"):
        unpacking(bomb)
    with pytest.raises(BaselineError, match="uses an unsupported compression method"):
        unpacking(zip_of(dict.fromkeys(NAMES, b"x"), zipfile.ZIP_LZMA))


def test_headers_that_promise_too_much(tmp_path):
    """A FLAC header has no sizes to be checked against; its number of samples may be anything up to 2 ** 36."""
    import soundfile

    path = tmp_path / "section_00_0000.wav"
    soundfile.write(path, np.zeros(4000), 16000, format="FLAC")
    contents = bytearray(path.read_bytes())
    assert read_header(path).samples == 4000
    contents[21:26] = bytes([contents[21] | 15, 255, 255, 255, 255])
    path.write_bytes(contents)
    with pytest.raises(BaselineError, match="68719476735 samples of 1 channels at 16000 Hz cannot be in a file"):
        read_header(path)


@pytest.mark.parametrize("rate", [1, 99, 2**31 - 1])
def test_sampling_rates_that_are_none(tmp_path, rate):
    path = write_wav(tmp_path / "section_00_0000.wav")
    contents = bytearray(path.read_bytes())
    contents[24:28] = struct.pack("<I", rate)
    path.write_bytes(contents)
    with pytest.raises(BaselineError, match=f"at {rate} Hz cannot be"):
        read_header(path)


def test_a_pipe_is_not_waited_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "section_00_0000.wav")
    with pytest.raises(BaselineError, match="the file is empty"):
        read_header(tmp_path / "section_00_0000.wav")
