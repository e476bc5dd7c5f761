"""Clips → log-mel frames, computed once and cached.

T: frames of a clip, M: mel bands.
"""

import hashlib
import importlib.metadata
import json
import logging
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import FEATURE_KEYS, BaselineError, Config
from datasets.audio import file_stat, read_clip, read_header
from datasets.clips import Clip
from datasets.log_mel import check_finite, check_length, count_frames, log_mel
from datasets.workers import fill
from files import alone, atomic_path

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
    file_stats = [file_stat(clip.path) for clip in clips]
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
