"""Clip → log-mel frames; the feature cache.

T: frames of a clip, M: mel bands.
"""

import functools
import hashlib
import importlib.metadata
import json
import logging
import os
import stat
import struct
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import FEATURE_KEYS, BaselineError, Config
from datasets.clips import Clip
from datasets.workers import fill
from files import alone, atomic_path

# Log-mel energies stay finite where a band is silent. A Python float: a NumPy one would make the logarithm float64.
FLOOR = sys.float_info.epsilon
UNKNOWN_LENGTH = 0xFFFFFFFF  # in the header of a wav file
MOST_CHUNKS = 10_000  # of a wav file
MOST_SAMPLES_A_BYTE = 64  # of all channels; the strongest compression in wav files has some 50
LOWEST_RATE, HIGHEST_RATE = 100, 10_000_000  # Hz
SHOWN_CLIPS = 3  # of those that a warning names

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class LogMels:
    """The log-mel frames of several clips, one clip after the other."""

    frames: np.ndarray  # (sum of T, M) float32, dB
    lengths: np.ndarray  # (clips,) int64: T of each clip
    sampling_rate: int  # Hz


def load_log_mels(clips: Sequence[Clip], config: Config, channels: int, cache_directory: Path) -> LogMels:
    """The log-mel frames of `clips`, from the cache where it holds just these, else computed and cached.

    A cached file holds the frames together with all that they depend on: the feature parameters, the clips' names,
    sizes and times, and the versions of librosa and NumPy. Where anything differs, or the file is damaged, it is made
    again. Clips and mel bands that never vary are named in a warning.

    Args:
        channels: how many channels each clip has; of several the first is used.
        cache_directory: made when it is not there. Where it cannot be written, features are computed each time.

    Raises:
        BaselineError: a clip cannot be read, is too short, or differs from the others in its sampling rate or channels.
    """
    settings = config.as_dict(FEATURE_KEYS) | {"channels": channels}
    settings |= {name: importlib.metadata.version(name) for name in ("librosa", "numpy")}
    names = [str(clip.path.relative_to(clip.path.parents[1])) for clip in clips]
    file_stats = [_stat(clip.path) for clip in clips]
    key = json.dumps(
        {"settings": settings, "clips": [[n, s.st_size, s.st_mtime_ns] for n, s in zip(names, file_stats, strict=True)]}
    )
    # Runs with other parameters or other sections have files of their own; a changed clip replaces the file.
    digest = hashlib.sha256(json.dumps([settings, names]).encode()).hexdigest()[:12]
    cache = cache_directory / f"log_mel_{digest}.npz"
    lock = cache_directory / f".{cache.stem}.lock"
    # Where nothing can be written, each run computes its own.
    with alone(lock, "waiting for another run that reads or computes the same features", needed=False):
        log_mels = _read_cache(cache, key, len(clips), config)
        if log_mels is None:
            log.debug("computing features for %s", cache)
            log_mels = compute_log_mels(clips, config, channels)
            _write_cache(cache, key, log_mels)
    _check_lengths(clips, log_mels.lengths, config)
    _warn_of_constants(clips, log_mels, config)
    return log_mels


def _write_cache(path: Path, key: str, log_mels: LogMels) -> None:
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                key=np.array(key),
                frames=log_mels.frames,
                lengths=log_mels.lengths,
                sampling_rate=np.array(log_mels.sampling_rate),
            )
    except BaselineError as error:
        log.warning("the features are not cached, and will be computed again next time: %s", error)


def _read_cache(path: Path, key: str, n_clips: int, config: Config) -> LogMels | None:
    try:
        with zipfile.ZipFile(path) as file:
            if any(member.compress_type != zipfile.ZIP_STORED for member in file.infolist()):
                raise ValueError("compressed, which these files are not")  # what is in it fits into its size
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            log_mels = LogMels(file["frames"], file["lengths"], int(file["sampling_rate"]))
        shape = (log_mels.lengths.sum(), config.n_mels)
        if log_mels.lengths.shape != (n_clips,) or (log_mels.frames.shape, log_mels.frames.dtype) != (shape, "float32"):
            raise ValueError("arrays of another form")
        return log_mels
    except FileNotFoundError:
        return None
    # A damaged file shows in many ways (zip, header, checksum of the contents, missing arrays).
    except Exception as error:
        log.warning("%s is damaged (%s); the features are computed again.", path, error)
        return None


def _check_lengths(clips: Sequence[Clip], lengths: np.ndarray, config: Config) -> None:
    for clip, length in zip(clips, lengths, strict=True):
        check_length(clip.path, length, config)


def _warn_of_constants(clips: Sequence[Clip], log_mels: LogMels, config: Config) -> None:
    """Name clips whose frames are all the same (silence, a dead channel), and mel bands that are in all clips."""
    frames, edge = log_mels.frames, -(-config.n_fft // 2 // config.hop_length)  # frames that reach beyond the clip
    constant = []
    for clip, end, length in zip(clips, np.cumsum(log_mels.lengths), log_mels.lengths, strict=True):
        inner = frames[end - length + edge : end - edge] if length > 2 * edge else frames[end - length : end]
        if np.array_equal(inner[0], inner[-1]) and (inner == inner[0]).all():
            constant.append(clip.path)
    if constant:
        more = f" and {len(constant) - SHOWN_CLIPS} more" if len(constant) > SHOWN_CLIPS else ""
        named = " ".join(map(str, constant[:SHOWN_CLIPS]))
        log.warning("%d clips do not change from frame to frame (silence?): %s%s", len(constant), named, more)
        log.debug("clips that do not change: %s", " ".join(map(str, constant)))
    # A sample of the frames tells nearly all bands that do vary.
    bands = np.flatnonzero((frames[:: 1 + len(frames) // 100] == frames[0]).all(axis=0))
    bands = bands[(frames[:, bands] == frames[0, bands]).all(axis=0)]
    if len(bands) and len(constant) < len(clips):
        named = " ".join(map(str, bands))
        log.warning("mel bands without any energy that varies: %s (from 0). See --n_mels, --fmin and --fmax.", named)


def compute_log_mels(clips: Sequence[Clip], config: Config, channels: int) -> LogMels:
    """The log-mel frames of `clips`, computed on all cores that this run may use; see load_log_mels."""
    from threadpoolctl import threadpool_limits

    headers = [read_header(clip.path) for clip in clips]
    for clip, header in zip(clips, headers, strict=True):
        if header.channels != channels:
            raise BaselineError(
                f"{clip.path}: {header.channels} channel(s) where {channels} expected. "
                f"If all clips are like that, say --mono {header.channels == 1}; else replace the clip."
            )
        if header.sampling_rate != headers[0].sampling_rate:
            raise BaselineError(
                f"{clip.path}: sampling rate {header.sampling_rate} Hz, but {clips[0].name} has "
                f"{headers[0].sampling_rate} Hz. The clips of a machine type must have one sampling rate."
            )
    highest = headers[0].sampling_rate / 2
    if max(config.fmin, config.fmax or 0) > highest or config.fmin == highest:
        raise BaselineError(
            f"--fmin {config.fmin} and --fmax {config.fmax} must lie below half the clips' sampling rate, {highest} Hz "
            f"({clips[0].path})."
        )
    # The number of frames follows from the number of samples, so that the frames can be written where they stay.
    lengths = np.array([count_frames(header.samples, config) for header in headers])
    _check_lengths(clips, lengths, config)
    log_mels = LogMels(
        np.empty((lengths.sum(), config.n_mels), np.float32), lengths.astype(np.int64), headers[0].sampling_rate
    )
    prepare = partial(log_mel, np.zeros(config.n_fft, np.float32), log_mels.sampling_rate, config)
    extract = partial(_log_mel_of, log_mels.sampling_rate, config)
    of_clips = np.split(log_mels.frames, np.cumsum(lengths)[:-1])
    # The mel product rounds differently with another number of threads.
    with threadpool_limits(1, user_api="blas"):
        done = fill(
            of_clips, extract, [(clip.path, len(frames)) for clip, frames in zip(clips, of_clips, strict=True)], prepare
        )
        for _ in tqdm(done, desc="features", unit="clip", total=len(clips), disable=None, leave=False):
            pass
    return log_mels


def _log_mel_of(sampling_rate: int, config: Config, clip: tuple[Path, int]) -> np.ndarray:
    path, expected = clip
    frames = log_mel(read_clip(path), sampling_rate, config)
    if len(frames) != expected:
        raise BaselineError(f"{path}: has other samples than its header says. Copy or unpack the clip again.")
    check_finite(path, frames)
    return frames


def count_frames(samples: int, config: Config) -> int:
    """T of a clip with so many samples: its frames are centred, and padded at both ends."""
    return 1 + (samples + 2 * (config.n_fft // 2) - config.n_fft) // config.hop_length


def check_length(path: Path, frames: int, config: Config) -> None:
    """Check that a clip of so many frames has a vector.

    Raises:
        BaselineError: it is too short.
    """
    if frames < config.frames:
        raise BaselineError(
            f"{path}: too short, {frames} spectrogram frames where --frames asks for {config.frames}. "
            "Remove the clip, or choose smaller --frames or --hop_length."
        )


def check_finite(path: Path, frames: np.ndarray) -> None:
    """Check that the log-mel energies of a clip are numbers.

    Raises:
        BaselineError: its samples, floats far beyond [-1, 1], are too large for that.
    """
    if not np.isfinite(frames).all():
        raise BaselineError(f"{path}: its samples are too large, its energies infinite. Replace or remove the clip.")


def log_mel(samples: np.ndarray, sampling_rate: int, config: Config) -> np.ndarray:
    """Log-mel energies of one channel: 20 / power * log10(mel), as in the published baseline.

    Args:
        samples: (samples,) float32.
        sampling_rate: Hz.

    Returns:
        (T, M) float32, dB.
    """
    import librosa

    # librosa.feature.melspectrogram, but for the mel filters, which it makes anew for each clip.
    spectrum = librosa.stft(samples, n_fft=config.n_fft, hop_length=config.hop_length, win_length=config.win_length)
    filters = _mel_filters(sampling_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)
    mel = np.einsum("...ft,mf->...mt", np.abs(spectrum) ** config.power, filters, optimize=True)  # (M, T)
    decades = np.log10(np.maximum(mel, FLOOR, out=mel), out=mel)
    return np.multiply(decades, 20.0 / config.power, out=mel).T.astype(np.float32, copy=False)


@functools.cache
def _mel_filters(sampling_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> np.ndarray:
    import librosa

    return librosa.filters.mel(sr=sampling_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)


def band_centers(sampling_rate: int, config: Config) -> np.ndarray:
    """The centre frequencies of the mel bands: (M,) Hz."""
    import librosa

    edges = librosa.mel_frequencies(config.n_mels + 2, fmin=config.fmin, fmax=config.fmax or sampling_rate / 2)
    return edges[1:-1]  # a band reaches from the centre of the one below to that of the one above


def read_clip(path: Path, channel: int = 0, dtype: str = "float32") -> np.ndarray:
    """One channel of a wav file, by default the first: (samples,), as floats in [-1, 1], or as integers.

    Raises:
        BaselineError: it cannot be decoded, or holds values that are not numbers.
    """
    import soundfile

    try:
        samples, _ = soundfile.read(path, dtype=dtype, always_2d=True)
    except (OSError, UnicodeError, soundfile.SoundFileError) as error:
        raise _unreadable(path, error) from error
    if not np.isfinite(samples).all():
        raise BaselineError(f"{path}: holds samples that are infinite or not a number. Replace or remove the clip.")
    return np.ascontiguousarray(samples[:, channel])


@dataclass(frozen=True)
class Header:
    """What the header of a wav file says."""

    samples: int  # of each channel
    channels: int
    sampling_rate: int  # Hz
    subtype: str  # how samples are stored, such as PCM_16


def read_header(path: Path) -> Header:
    """The header of a wav file whose samples are all there.

    Raises:
        BaselineError: it cannot be read, is truncated, or holds no samples.
    """
    import soundfile

    size = _stat(path).st_size
    try:
        info = soundfile.info(path)
        missing = _missing_bytes(path)
    except (OSError, UnicodeError, struct.error, soundfile.SoundFileError) as error:
        raise _unreadable(path, error) from error
    if missing:
        raise BaselineError(f"{path}: truncated, {missing} bytes are missing. Copy or unpack the clip again.")
    if info.frames == 0:
        raise BaselineError(f"{path}: holds no samples. Copy or unpack the clip again, or remove it.")
    if info.frames * info.channels > MOST_SAMPLES_A_BYTE * size or not LOWEST_RATE <= info.samplerate <= HIGHEST_RATE:
        raise BaselineError(
            f"{path}: {info.frames} samples of {info.channels} channels at {info.samplerate} Hz cannot be in a file of "
            f"{size} bytes (rates are {LOWEST_RATE} to {HIGHEST_RATE} Hz). Copy or unpack the clip again, or remove it."
        )
    return Header(info.frames, info.channels, info.samplerate, info.subtype)


def _stat(path: Path) -> os.stat_result:
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not stat.S_ISREG(found.st_mode):  # to open a pipe would wait for somebody to write into it
        raise BaselineError(f"{path}: not a file. Move it away.")
    return found


def _unreadable(path: Path, error: Exception) -> BaselineError:
    if path.exists() and path.stat().st_size == 0:
        return BaselineError(f"{path}: the file is empty. Copy or unpack the clip again, or remove it.")
    return BaselineError(f"{path}: not a readable wav file ({error}). Copy or unpack the clip again, or remove it.")


def _missing_bytes(path: Path) -> int:
    """How many bytes of sound data the header announces but the file does not have (libsndfile reads such files)."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        if file.read(4) not in (b"RIFF", b"RF64"):
            return 0
        file.seek(12)
        announced = None  # RF64 has the length of the data in a chunk of its own, for it may need 64 bits
        for _ in range(MOST_CHUNKS):
            if len(chunk := file.read(8)) < 8:
                break
            name, length = struct.unpack("<4sI", chunk)
            if name == b"data":
                if length == UNKNOWN_LENGTH:  # without the other length: written by programs that record into a pipe
                    length = announced
                return 0 if length is None else max(0, file.tell() + length - size)
            if name == b"ds64" and length >= 16:
                _, announced = struct.unpack("<QQ", file.read(16))
                length -= 16
            file.seek(length + length % 2, os.SEEK_CUR)
    return 0
