"""Log-mel features of all kinds of wav files, and their cache."""

import os
import struct

import librosa
import numpy as np
import pytest
import soundfile
from conftest import write_wav
from threadpoolctl import threadpool_limits

from config import BaselineError, load_config
from datasets.audio import read_clip
from datasets.clips import parse_clip
from datasets.feature_cache import load_log_mels
from datasets.log_mel import log_mel


def config(*arguments: str):
    return load_config(["--dataset", "DCASE2024T2fan", "-d", *arguments])


def write_clips(directory, n=3, **options):
    return [parse_clip(write_wav(directory / "test" / f"section_00_{k:04d}.wav", **options)) for k in range(n)]


def test_equal_to_a_plain_librosa_call(tmp_path):
    path = write_wav(tmp_path / "section_00_0000.wav", seconds=2)
    with threadpool_limits(1):
        samples, rate = librosa.load(path, sr=None)
        mel = librosa.feature.melspectrogram(y=samples, sr=rate, n_fft=1024, hop_length=512, n_mels=128)
        expected = (10 * np.log10(np.maximum(mel, 2.220446049250313e-16))).T
        frames = log_mel(read_clip(path), 16000, config())
    assert frames.dtype == np.float32
    assert np.array_equal(frames, expected)


def test_options_reach_the_spectrogram(tmp_path):
    path = write_wav(tmp_path / "section_00_0000.wav")
    options = {"n_fft": 512, "hop_length": 200, "win_length": 400, "n_mels": 40, "power": 1.0, "fmin": 50, "fmax": 7000}
    with threadpool_limits(1):
        mel = librosa.feature.melspectrogram(y=librosa.load(path, sr=None)[0], sr=16000, **options)
        frames = log_mel(read_clip(path), 16000, config(*(str(x) for k, v in options.items() for x in (f"--{k}", v))))
    assert np.array_equal(frames, (20 * np.log10(np.maximum(mel, 2.220446049250313e-16))).T)


@pytest.mark.parametrize("option", ["--fmin 8000", "--fmin 9000", "--fmax 8001"])
def test_bands_above_half_the_sampling_rate(tmp_path, option):
    with pytest.raises(BaselineError, match="half the clips' sampling rate, 8000.0 Hz"):
        load_log_mels(write_clips(tmp_path), config(*option.split()), 1, tmp_path / "cache")


def test_dangling_link(tmp_path):
    clips = write_clips(tmp_path)
    clips[1].path.unlink()
    clips[1].path.symlink_to(tmp_path / "nowhere.wav")
    with pytest.raises(BaselineError, match="section_00_0001.wav: not a readable wav"):
        load_log_mels(clips, config(), 1, tmp_path / "cache")


def test_silence_stays_finite(tmp_path):
    frames = log_mel(np.zeros(16000, np.float32), 16000, config())
    assert np.allclose(frames, 10 * np.log10(2.220446049250313e-16))


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_24", "FLOAT"])
@pytest.mark.parametrize("rate", [16000, 44100])
def test_formats_of_wav_files(tmp_path, subtype, rate):
    clips = write_clips(tmp_path, subtype=subtype, rate=rate)
    log_mels = load_log_mels(clips, config(), 1, tmp_path / "cache")
    assert log_mels.sampling_rate == rate
    assert log_mels.lengths.tolist() == [1 + rate // 512] * 3
    assert log_mels.frames.shape == (log_mels.lengths.sum(), 128)


@pytest.mark.parametrize("n_fft", ["1024", "1001"])
@pytest.mark.parametrize("samples", [16000, 16383, 16384, 16385])
def test_number_of_frames_is_known_before(tmp_path, n_fft, samples):
    clips = write_clips(tmp_path, n=1, seconds=samples / 16000)
    log_mels = load_log_mels(clips, config("--n_fft", n_fft), 1, tmp_path / "cache")
    with threadpool_limits(1):
        expected = log_mel(read_clip(clips[0].path), 16000, config("--n_fft", n_fft))
    assert np.array_equal(log_mels.frames, expected)


def test_clips_of_different_lengths(tmp_path):
    paths = [write_wav(tmp_path / "test" / f"section_00_{k:04d}.wav", seconds=s) for k, s in enumerate((1, 0.5, 2))]
    log_mels = load_log_mels([parse_clip(path) for path in paths], config(), 1, tmp_path / "cache")
    assert log_mels.lengths.tolist() == [32, 16, 63]


def test_of_two_channels_the_first_is_taken(tmp_path):
    stereo = write_clips(tmp_path, n=1, channels=2)
    samples = librosa.load(stereo[0].path, sr=None, mono=False)[0]
    assert np.array_equal(read_clip(stereo[0].path), samples[0])
    assert not np.array_equal(samples[0], samples[1])
    load_log_mels(stereo, config(), 2, tmp_path / "cache")
    with pytest.raises(BaselineError, match=r"section_00_0000.wav: 2 channel\(s\) where 1 expected"):
        load_log_mels(stereo, config(), 1, tmp_path / "cache")


def damage(name):
    def empty(path):
        path.write_bytes(b"")

    def text(path):
        path.write_text("this is not a recording")

    def truncated(path):
        path.write_bytes(path.read_bytes()[:-1000])

    def header_only(path):
        path.write_bytes(path.read_bytes()[:44])

    def no_samples(path):
        write_wav(path, seconds=0)

    def other_rate(path):
        write_wav(path, rate=22050)

    def two_channels(path):
        write_wav(path, channels=2)

    def too_short(path):
        write_wav(path, seconds=0.05)

    def not_a_number(path):
        write_wav(path, subtype="FLOAT")
        contents = path.read_bytes()
        path.write_bytes(contents[:-4] + struct.pack("<f", float("nan")))

    def too_loud(path):
        soundfile.write(path, np.full(16000, 1e30), 16000, subtype="FLOAT")

    return locals()[name]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("empty", "the file is empty"),
        ("text", "not a readable wav file"),
        ("truncated", "truncated, 1000 bytes are missing"),
        ("header_only", "truncated"),
        ("no_samples", "holds no samples"),
        ("other_rate", "sampling rate 22050 Hz, but section_00_0000.wav has 16000 Hz"),
        ("two_channels", r"2 channel\(s\) where 1 expected"),
        ("too_short", "too short, 2 spectrogram frames where --frames asks for 5"),
        ("not_a_number", "not a number"),
        ("too_loud", "its samples are too large"),
    ],
)
def test_bad_clips_are_named(tmp_path, kind, words):
    clips = write_clips(tmp_path)
    damage(kind)(clips[1].path)
    with pytest.raises(BaselineError, match=words) as error:
        load_log_mels(clips, config(), 1, tmp_path / "cache")
    assert str(clips[1].path) in str(error.value)
    assert not list(tmp_path.glob("cache/*.npz"))


def test_clips_that_do_not_change_are_named(tmp_path, caplog):
    """Silence, or a channel without a microphone that gives a constant voltage."""
    clips = write_clips(tmp_path, 4)
    for clip, value in zip(clips[1:3], (0.0, 0.25), strict=True):
        soundfile.write(clip.path, np.full(16000, value), 16000)
    log_mels = load_log_mels(clips, config(), 1, tmp_path / "cache")
    assert np.isfinite(log_mels.frames).all()
    expected = f"2 clips do not change from frame to frame (silence?): {clips[1].path} {clips[2].path}"
    assert [record.message for record in caplog.records if record.levelname == "WARNING"] == [expected]
    caplog.clear()
    load_log_mels(clips, config(), 1, tmp_path / "cache")
    assert expected in caplog.text  # from the cache, too


def test_bands_that_do_not_change_are_named(tmp_path, caplog):
    """With many narrow bands the lowest have no line of the spectrum."""
    load_log_mels(write_clips(tmp_path), config("--n_mels", "256", "--n_fft", "256"), 1, tmp_path / "cache")
    assert "mel bands without any energy that varies: 0 1 " in caplog.text


def test_recordings_of_unknown_length_are_read(tmp_path):
    """Programs that record into a pipe cannot fill in the length."""
    clips = write_clips(tmp_path, n=1)
    contents = bytearray(clips[0].path.read_bytes())
    contents[40:44] = b"\xff\xff\xff\xff"
    clips[0].path.write_bytes(contents)
    assert load_log_mels(clips, config(), 1, tmp_path / "cache").lengths.tolist() == [32]


def files(directory):
    return {path.name: path.stat().st_mtime_ns for path in directory.glob("*.npz")}


def test_cache_is_used_and_equal(tmp_path):
    clips = write_clips(tmp_path)
    first = load_log_mels(clips, config(), 1, tmp_path / "cache")
    before = files(tmp_path / "cache")
    assert len(before) == 1
    second = load_log_mels(clips, config(), 1, tmp_path / "cache")
    assert files(tmp_path / "cache") == before
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.lengths, second.lengths)
    assert first.sampling_rate == second.sampling_rate


def change_a_clip(clips):
    write_wav(clips[1].path, seconds=2)


def change_a_time(clips):
    os.utime(clips[1].path, ns=(1, 1))


@pytest.mark.parametrize("change", [change_a_clip, change_a_time])
def test_cache_follows_the_clips(tmp_path, change):
    clips = write_clips(tmp_path)
    load_log_mels(clips, config(), 1, tmp_path / "cache")
    before = files(tmp_path / "cache")
    change(clips)
    again = load_log_mels(clips, config(), 1, tmp_path / "cache")
    assert files(tmp_path / "cache").keys() == before.keys()
    assert files(tmp_path / "cache") != before
    assert np.array_equal(again.frames, load_log_mels(clips, config(), 1, tmp_path / "other").frames)


@pytest.mark.parametrize(
    "option",
    ["--n_mels 64", "--n_fft 512", "--hop_length 256", "--power 1", "--fmin 100", "--fmax 7000", "--win_length 512"],
)
def test_cache_follows_every_parameter(tmp_path, option):
    clips = write_clips(tmp_path)
    before = load_log_mels(clips, config(), 1, tmp_path / "cache")
    other = load_log_mels(clips, config(*option.split()), 1, tmp_path / "cache")
    assert before.frames.shape != other.frames.shape or not np.array_equal(before.frames, other.frames)
    assert len(files(tmp_path / "cache")) == 2


def test_cache_is_checked_against_frames(tmp_path):
    clips = write_clips(tmp_path)
    load_log_mels(clips, config(), 1, tmp_path / "cache")
    with pytest.raises(BaselineError, match="--frames asks for 40"):
        load_log_mels(clips, config("--frames", "40"), 1, tmp_path / "cache")


@pytest.mark.parametrize("where", ["middle", "end", "all"])
def test_damaged_cache_is_made_again(tmp_path, caplog, where):
    clips = write_clips(tmp_path)
    first = load_log_mels(clips, config(), 1, tmp_path / "cache")
    cache = next(tmp_path.glob("cache/*.npz"))
    contents = bytearray(cache.read_bytes())
    if where == "middle":
        contents[len(contents) // 2] ^= 1
    cache.write_bytes({"middle": bytes(contents), "end": bytes(contents[:-100]), "all": b"not a cache"}[where])
    assert np.array_equal(load_log_mels(clips, config(), 1, tmp_path / "cache").frames, first.frames)
    assert "is damaged" in caplog.text


def test_directory_that_cannot_be_written_costs_only_the_cache(tmp_path, caplog):
    clips = write_clips(tmp_path)
    (tmp_path / "cache").write_text("a file in the place of the directory")
    assert len(load_log_mels(clips, config(), 1, tmp_path / "cache" / "fan").lengths) == 3
    assert "features are not cached" in caplog.text


@pytest.mark.parametrize("n", [3, 40])
def test_fewer_samples_than_the_header_says(tmp_path, monkeypatch, n):
    """Here and in another process."""
    clips = write_clips(tmp_path, n)
    monkeypatch.setattr(
        "datasets.feature_cache.read_clip", lambda path: read_clip(path)[: 8000 if path == clips[2].path else None]
    )
    with pytest.raises(BaselineError, match="section_00_0002.wav: has other samples than its header says"):
        load_log_mels(clips, config(), 1, tmp_path / "cache")
