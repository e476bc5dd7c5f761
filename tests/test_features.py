"""Log-mel features of all kinds of wav files, and their cache."""

import importlib.metadata
import os
import shutil
import struct

import librosa
import numpy as np
import pytest
import soundfile
from conftest import write_wav
from threadpoolctl import threadpool_limits

from config import BaselineError, load_config
from datasets import feature_cache
from datasets.audio import read_clip, read_header
from datasets.clips import parse_clip
from datasets.feature_cache import load_log_mels
from datasets.log_mel import log_mel

FLOOR = 2.220446049250313e-16


def config(*arguments: str):
    return load_config(["--dataset", "DCASE2024T2fan", "-d", *arguments])


def write_clips(directory, n=3, **options):
    return [parse_clip(write_wav(directory / "test" / f"section_00_{k:04d}.wav", **options)) for k in range(n)]


@pytest.fixture
def cache(tmp_path):
    return tmp_path / "cache"


@pytest.fixture
def clips(tmp_path):
    return write_clips(tmp_path)


# --- Values


@pytest.mark.parametrize(
    "options",
    [
        {"n_fft": 1024, "hop_length": 512, "n_mels": 128, "power": 2.0},
        {"n_fft": 512, "hop_length": 200, "win_length": 400, "n_mels": 40, "power": 1.0, "fmin": 50, "fmax": 7000},
        {"n_fft": 1001, "hop_length": 512, "n_mels": 20, "power": 3.0},
    ],
)
@pytest.mark.parametrize(("n_samples", "rate", "subtype"), [(16383, 16000, "PCM_16"), (16384, 44100, "PCM_24")])
def test_equal_to_a_plain_librosa_call(tmp_path, cache, options, n_samples, rate, subtype):
    """With the default and other values of all options."""
    clips = write_clips(tmp_path, n=1, seconds=n_samples / rate, rate=rate, subtype=subtype)
    found = load_log_mels(clips, config(*(text for k, v in options.items() for text in (f"--{k}", str(v)))), 1, cache)
    with threadpool_limits(1):
        samples, _ = librosa.load(clips[0].path, sr=None)
        mel = librosa.feature.melspectrogram(y=samples, sr=rate, **options)
    expected = (20 / options["power"] * np.log10(np.maximum(mel, FLOOR))).T
    assert (found.frames.dtype, found.sampling_rate, found.lengths.tolist()) == (np.float32, rate, [len(expected)])
    assert np.array_equal(found.frames, expected)


def test_silence_stays_finite():
    assert np.allclose(log_mel(np.zeros(16000, np.float32), 16000, config()), 10 * np.log10(FLOOR))


def test_clips_of_different_lengths(tmp_path, cache):
    paths = [write_wav(tmp_path / "test" / f"section_00_{k:04d}.wav", seconds=s) for k, s in enumerate((1, 0.5, 2))]
    log_mels = load_log_mels([parse_clip(path) for path in paths], config(), 1, cache)
    assert log_mels.lengths.tolist() == [32, 16, 63]
    ends = np.cumsum(log_mels.lengths)
    for path, frames in zip(paths, np.split(log_mels.frames, ends[:-1]), strict=True):
        assert np.allclose(frames, log_mel(read_clip(path), 16000, config()))


@pytest.mark.parametrize("announced", [0x7FFFF000, 0x80000000, 0xFFFFFFFF - 36, 0xFFFFFFFF])
@pytest.mark.parametrize("leftover", [0, 1])
def test_wav_files_whose_length_was_never_filled_in(tmp_path, announced, leftover):
    """As sox, arecord, GStreamer and ffmpeg leave them after recording into a pipe."""
    path = write_wav(tmp_path / "a.wav")
    contents = bytearray(path.read_bytes())
    contents[40:44] = struct.pack("<I", announced)
    path.write_bytes(contents + bytes(leftover))
    assert read_header(path).samples == len(read_clip(path)) == 16000


def test_the_first_of_two_channels_is_used(tmp_path, cache):
    clips = write_clips(tmp_path, n=1, channels=2)
    found = load_log_mels(clips, config(), 2, cache)
    with pytest.raises(BaselineError, match=r"section_00_0000.wav: 2 channel\(s\), expected 1.*--mono False"):
        load_log_mels(clips, config(), 1, cache)  # though they are cached
    samples, rate = soundfile.read(clips[0].path)
    soundfile.write(clips[0].path, samples[:, 0], rate)
    assert np.array_equal(found.frames, load_log_mels(clips, config(), 1, cache).frames)


def test_other_features_need_a_change_of_one_function(clips, cache, monkeypatch):
    """Every second frame, as float64: nothing else counts frames or relies on their type."""
    monkeypatch.setattr(feature_cache, "log_mel", lambda *arguments: log_mel(*arguments)[::2].astype(float))
    log_mels = load_log_mels(clips, config(), 1, cache)
    assert log_mels.lengths.tolist() == [16] * 3
    assert np.allclose(log_mels.frames[:16], log_mel(read_clip(clips[0].path), 16000, config())[::2])


# --- Clips that cannot be used


def not_a_number(path):
    write_wav(path, subtype="FLOAT")
    path.write_bytes(path.read_bytes()[:-4] + struct.pack("<f", float("nan")))


def truncated_after_an_odd_chunk(path):
    contents = path.read_bytes()
    path.write_bytes(contents[:36] + b"note" + struct.pack("<I", 3) + b"abc\0" + contents[36:-1000])


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda path: path.write_bytes(b""), "the file is empty"),
        (lambda path: path.write_text("this is not a recording"), "not a readable wav file"),
        (truncated_after_an_odd_chunk, "truncated, 1000 bytes are missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:44]), "truncated"),
        (lambda path: write_wav(path, seconds=0), "no samples"),
        (lambda path: write_wav(path, rate=22050), "rate 22050 Hz, but section_00_0000.wav has 16000 Hz"),
        (
            lambda path: write_wav(path, channels=2),
            r"2 channel\(s\), expected 1\..* use --mono False\. Otherwise replace",
        ),
        (lambda path: write_wav(path, channels=8), r"8 channel\(s\), expected 1.* --channel 1 to 8\.$"),
        (lambda path: write_wav(path, seconds=0.05), "too short, 2 spectrogram frames, but --frames is 5"),
        (not_a_number, "infinite or NaN"),
        (lambda path: soundfile.write(path, np.full(16000, 1e30), 16000, subtype="FLOAT"), "samples are too large"),
    ],
)
def test_bad_clips_are_named(clips, cache, damage, words):
    damage(clips[1].path)
    with pytest.raises(BaselineError, match=words) as error:
        load_log_mels(clips, config(), 1, cache)
    assert str(clips[1].path) in str(error.value)


def test_wav_files_of_more_than_their_header_can_say(tmp_path):
    """libsndfile reads what fits into the header; the rest would be lost."""
    path = write_wav(tmp_path / "a.wav")
    contents = path.read_bytes()
    path.write_bytes(contents[:40] + (0x80000000).to_bytes(4, "little") + contents[44:])
    assert read_header(path).samples == 16000
    os.truncate(path, 2**31 + 1000)  # sparse
    with pytest.raises(BaselineError, match="more audio data than the 2147483648 bytes in its header"):
        read_header(path)


def test_truncated_rf64(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.zeros(16000), 16000, format="RF64")
    assert read_header(path).samples == 16000
    os.truncate(path, path.stat().st_size - 1000)
    with pytest.raises(BaselineError, match="truncated, 1000 bytes are missing"):
        read_header(path)


@pytest.mark.parametrize("subtype", ["GSM610", "G721_32", "NMS_ADPCM_16"])
def test_compressed_wav_files(tmp_path, subtype):
    path = write_wav(tmp_path / "a.wav", subtype=subtype)
    assert len(read_clip(path)) == read_header(path).samples >= 16000


def test_fewer_samples_than_the_header_says(clips, cache, monkeypatch):
    read = soundfile.SoundFile.read
    monkeypatch.setattr(soundfile.SoundFile, "read", lambda *arguments, **options: read(*arguments, **options)[:-1])
    with pytest.raises(BaselineError, match=r"section_00_0000\.wav: the number of samples does not match the header"):
        load_log_mels(clips, config(), 1, cache)


@pytest.mark.parametrize("option", ["--fmin 8000", "--fmax 8001"])
def test_bands_above_half_the_sampling_rate(clips, cache, option):
    with pytest.raises(BaselineError, match="half the clips' sampling rate, 8000.0 Hz"):
        load_log_mels(clips, config(*option.split()), 1, cache)


def test_clips_that_do_not_change_are_named(tmp_path, cache, caplog):
    """Silence, or a channel without a microphone that gives a constant voltage."""
    clips = write_clips(tmp_path, 4)
    for clip, value in zip(clips[1:3], (0.0, 0.25), strict=True):
        soundfile.write(clip.path, np.full(16000, value), 16000)
    expected = f"2 clip(s) are constant over time (silence?), such as {clips[1].path} {clips[2].path}"
    for _ in ("computed", "cached"):
        caplog.clear()
        load_log_mels(clips, config(), 1, cache)
        assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [expected]


def test_bands_that_do_not_change_are_named(clips, cache, caplog):
    """With many narrow bands the lowest have no line of the spectrum."""
    load_log_mels(clips, config("--n_mels", "256", "--n_fft", "256"), 1, cache)
    assert "mel bands with constant energy: 0 1 " in caplog.text


# --- Cache


def files(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("*.npz")}


def test_cache_is_used_and_equal(clips, cache, monkeypatch):
    first = load_log_mels(clips, config(), 1, cache)
    monkeypatch.setattr(feature_cache, "compute_all", None)
    second = load_log_mels(clips, config(), 1, cache)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.lengths, second.lengths)
    assert (first.sampling_rate, first.checksums) == (second.sampling_rate, second.checksums)
    with pytest.raises(BaselineError, match="--frames is 40"):
        load_log_mels(clips, config("--frames", "40"), 1, cache)


def exchange(first, second):
    """Two clips of one size exchange their names, and their times do not tell."""
    contents = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(contents)
    for path in (first, second):
        os.utime(path, ns=(1, 1))


def test_cache_follows_the_contents_of_the_clips(tmp_path, clips, cache):
    for clip in clips:
        os.utime(clip.path, ns=(1, 1))
    load_log_mels(clips, config(), 1, cache)
    before = files(cache)
    os.utime(clips[0].path)
    load_log_mels(clips, config(), 1, cache)
    assert files(cache) == before  # touched only
    exchange(clips[0].path, clips[1].path)
    again = load_log_mels(clips, config(), 1, cache)
    assert files(cache).keys() == before.keys()
    assert files(cache) != before
    assert np.array_equal(again.frames, load_log_mels(clips, config(), 1, tmp_path / "other").frames)


def test_clips_that_change_while_they_are_read_are_an_error(clips, cache, monkeypatch):
    compute = feature_cache.compute_log_mels

    def compute_and_exchange(*arguments):
        exchange(clips[0].path, clips[1].path)
        return compute(*arguments)

    monkeypatch.setattr(feature_cache, "compute_log_mels", compute_and_exchange)
    with pytest.raises(BaselineError, match="clips changed while they were being read"):
        load_log_mels(clips, config(), 1, cache)
    assert not files(cache)


def test_equal_clips_are_named(clips, cache, caplog):
    shutil.copy(clips[0].path, clips[2].path)
    load_log_mels(clips, config(), 1, cache)
    assert (
        f"1 clip(s) have the same contents as another clip, such as {clips[2].path} and {clips[0].path}" in caplog.text
    )


def test_features_may_use_only_parameters_that_the_cache_follows(clips, cache, monkeypatch):
    monkeypatch.setattr(feature_cache, "log_mel", lambda samples, rate, config: config.batch_size)
    with pytest.raises(BaselineError, match="uses --batch_size, but cached features do not depend on it"):
        load_log_mels(clips, config(), 1, cache)


@pytest.mark.parametrize(
    "option",
    ["--n_mels 64", "--n_fft 512", "--hop_length 256", "--power 1", "--fmin 100", "--fmax 7000", "--win_length 512"],
)
def test_cache_follows_every_parameter(clips, cache, option):
    before = load_log_mels(clips, config(), 1, cache)
    other = load_log_mels(clips, config(*option.split()), 1, cache)
    assert before.frames.shape != other.frames.shape or not np.array_equal(before.frames, other.frames)
    assert len(files(cache)) == 2


@pytest.mark.parametrize("library", ["librosa", "numpy"])
def test_cache_of_another_version_of_a_library_is_not_used(clips, cache, monkeypatch, library):
    load_log_mels(clips, config(), 1, cache)
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "0.1" if name == library else version(name))
    load_log_mels(clips, config(), 1, cache)
    assert len(files(cache)) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"frames": np.zeros((96, 64), np.float32)},
        {"frames": np.zeros((96, 128))},
        {"frames": np.zeros((95, 128), np.float32)},
        {"lengths": np.array([48, 48])},
        None,  # a flipped bit
    ],
)
def test_damaged_cache_is_computed_again(clips, cache, caplog, change):
    first = load_log_mels(clips, config(), 1, cache)
    path = next(cache.glob("*.npz"))
    if change:
        with np.load(path) as contents:
            np.savez(path, **{**contents, **change})
    else:
        contents = bytearray(path.read_bytes())
        contents[len(contents) // 2] ^= 1
        path.write_bytes(contents)
    assert np.array_equal(load_log_mels(clips, config(), 1, cache).frames, first.frames)
    assert f"{path} is damaged" in caplog.text


def test_directory_that_cannot_be_written_costs_only_the_cache(clips, cache, caplog):
    cache.write_text("a file in the place of the directory")
    assert len(load_log_mels(clips, config(), 1, cache / "fan").lengths) == 3
    assert f"features are not cached and will be computed again next time: cannot write {cache}/fan/" in caplog.text
    assert "Use --cache_directory to choose another directory.\n" in caplog.text
