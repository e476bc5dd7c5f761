"""Clips → log-mel frames, computed once and cached.

T: frames per clip, M: mel bands.
"""

import contextlib
import importlib.metadata
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from config import FEATURE_KEYS, BaselineError, Config, FeatureConfig
from datasets.audio import enough_memory, read_clip, read_header
from datasets.clips import Clip
from datasets.log_mel import log_mel
from datasets.workers import compute_all
from files import atomic_path, process_lock
from fingerprints import code_behind, fingerprint_of, fingerprint_of_file
from portable import check_portable

IGNORED_IN_FEATURES = ("datasets.catalog", "datasets.clips", "datasets.labels", "datasets.workers")

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class LogMels:
    """The log-mel frames of several clips, concatenated."""

    frames: np.ndarray  # (sum of T, M) float32, dB
    lengths: np.ndarray  # (clips,) int64: T of each clip
    sampling_rate: int  # Hz
    checksums: Sequence[str] = ()  # one per clip, of its contents


def load_log_mels(clips: Sequence[Clip], config: Config, channels: int, cache_directory: Path) -> LogMels:
    """Load the log-mel frames of `clips` from the cache, or compute and cache them.

    The cached file contains the frames and everything that they depend on: the feature parameters, the code that
    computes them, the names and contents of the clips, and the versions of librosa and NumPy. If any of these has
    changed, or the file is damaged, the frames are computed again. Clips and mel bands that are constant over time are
    reported in a warning.

    Args:
        channels: number of channels that each clip must have; the first one is used.
        cache_directory: created if it does not exist. If it is not writable, features are computed each time.

    Raises:
        BaselineError: a clip cannot be read, is too short, has a different sampling rate or number of channels than
            the others, or changes while it is read.
    """
    checksums = _checksums(clips)
    settings = config.as_dict(FEATURE_KEYS) | {"channels": channels}
    settings |= {name: importlib.metadata.version(name) for name in ("librosa", "numpy")}
    names = [str(clip.path.relative_to(clip.path.parents[1])) for clip in clips]
    code = code_behind(compute_log_mels, without=IGNORED_IN_FEATURES)
    key = json.dumps({"settings": settings, "code": code, "clips": list(zip(names, checksums, strict=True))})
    # Other parameters or sections use other files. If clips or code have changed, the file is replaced.
    digest = fingerprint_of(json.dumps([settings, names]).encode())[:12]
    cache = cache_directory / f"log_mel_{digest}.npz"
    lock = cache_directory / f".{cache.stem}.lock"
    with process_lock(lock, "waiting for another run that is reading or computing the same features", needed=False):
        log_mels = _read_cache(cache, key, len(clips), config)
        if log_mels is None:
            log.debug("computing features for %s", cache)
            log_mels = compute_log_mels(clips, config, channels)
            if _checksums(clips) != checksums:
                raise BaselineError(
                    f"{clips[0].path.parent}: clips changed while they were being read. Run the command again."
                )
            try:
                with atomic_path(cache) as temporary, temporary.open("wb") as file:
                    arrays = {"frames": log_mels.frames, "lengths": log_mels.lengths}
                    np.savez(file, key=np.array(key), sampling_rate=log_mels.sampling_rate, **arrays)
            except BaselineError as error:
                log.warning(
                    "the features are not cached and will be computed again next time: cannot write %s: %s. "
                    "Use --cache_directory to choose another directory.",
                    cache,
                    getattr(error.__cause__, "strerror", None) or error,
                )
    for clip, length in zip(clips, log_mels.lengths, strict=True):
        check_length(clip.path, length, config)
    _warn_of_constants(clips, log_mels, config)
    _warn_of_duplicates(clips, checksums)
    return replace(log_mels, checksums=checksums)


def _checksums(clips: Sequence[Clip]) -> list[str]:
    checksums = []
    for clip in clips:
        try:
            checksums.append(fingerprint_of_file(clip.path))
        except OSError as error:
            raise BaselineError(f"cannot read {clip.path}: {error.strerror}.") from error
    return checksums


def check_length(path: Path, n_frames: int, config: Config) -> None:
    """Raise BaselineError if a clip with this number of frames is too short for one vector."""
    if n_frames < config.frames:
        raise BaselineError(
            f"{path}: too short, {n_frames} spectrogram frames, but --frames is {config.frames}. "
            "Remove the clip, or use a smaller --frames or --hop_length."
        )


def compute_log_mels(clips: Sequence[Clip], config: Config, channels: int) -> LogMels:
    """Compute the log-mel frames of `clips` on all available cores; see load_log_mels."""
    check_portable(config)
    sampling_rate = _check_headers(clips, config, channels)
    values, lengths = bytearray(), []  # a bytearray grows in place, without a second copy of the frames
    compute = partial(_read_frames, sampling_rate=sampling_rate, config=FeatureConfig(config))
    with contextlib.closing(compute_all(compute, [clip.path for clip in clips])) as results:
        for frames in tqdm(results, "features", len(clips), unit="clip", disable=None, leave=False):  # (T, M)
            values += np.ascontiguousarray(frames, np.float32).data
            lengths.append(len(frames))
    frames = np.frombuffer(values, np.float32).reshape(sum(lengths), -1)  # (sum of T, M)
    if frames.shape[1] != config.n_mels:
        raise BaselineError(
            f"datasets/log_mel.py returns frames of {frames.shape[1]} values, but --n_mels is {config.n_mels}."
        )
    return LogMels(frames, np.array(lengths, np.int64), sampling_rate)


def _read_frames(path: Path, sampling_rate: int, config: FeatureConfig) -> np.ndarray:
    return clip_frames(path, read_clip(path), sampling_rate, config)


def clip_frames(path: Path, samples: np.ndarray, sampling_rate: int, config: FeatureConfig) -> np.ndarray:
    """Compute the log-mel frames of a clip: (samples,) -> (T, M). BaselineError if the samples are far too large."""
    with enough_memory(path):
        frames = log_mel(samples, sampling_rate, config)
        if not np.isfinite(frames).all():
            raise BaselineError(
                f"{path}: the samples are too large, so energies are infinite. Replace or remove the clip."
            )
        return frames


def _check_headers(clips: Sequence[Clip], config: Config, channels: int) -> int:
    """Check channels and sampling rates of all clips, and the mel bands. Returns the sampling rate (Hz)."""
    headers = [read_header(clip.path) for clip in clips]
    sampling_rate = headers[0].sampling_rate
    for clip, header in zip(clips, headers, strict=True):
        if header.channels != channels:
            advice = f"use --mono {header.channels == 1}. Otherwise replace the clip."
            if header.channels > 2:
                advice = f"copy one channel of each clip: tools/import_clips.py --channel 1 to {header.channels}."
            raise BaselineError(
                f"{clip.path}: {header.channels} channel(s), expected {channels}. If all clips are like this, {advice}"
            )
        if header.sampling_rate != sampling_rate:
            raise BaselineError(
                f"{clip.path}: sampling rate {header.sampling_rate} Hz, but {clips[0].name} has {sampling_rate} Hz. "
                "All clips of a machine type must have the same sampling rate."
            )
    highest = sampling_rate / 2
    if max(config.fmin, config.fmax or 0) > highest or config.fmin == highest:
        raise BaselineError(
            f"--fmin {config.fmin} and --fmax {config.fmax} must be below half the clips' sampling rate, {highest} Hz "
            f"({clips[0].path})."
        )
    return sampling_rate


def _read_cache(path: Path, key: str, n_clips: int, config: Config) -> LogMels | None:
    """Read cached frames. Returns None if the file does not exist, has another key or is damaged."""
    try:
        with np.load(path, allow_pickle=False) as file:
            if str(file["key"]) != key:
                return None
            log_mels = LogMels(file["frames"], file["lengths"], int(file["sampling_rate"]))
        shape = (log_mels.lengths.sum(), config.n_mels)
        if log_mels.lengths.shape != (n_clips,) or (log_mels.frames.shape, log_mels.frames.dtype) != (shape, "float32"):
            raise ValueError("unexpected shape or type of the arrays")
        return log_mels
    except FileNotFoundError:
        return None
    # A damaged file can raise many errors (zip, header, checksum, missing arrays).
    except Exception as error:
        log.warning("%s is damaged (%s). The features will be computed again.", path, error)
        return None


def _warn_of_constants(clips: Sequence[Clip], log_mels: LogMels, config: Config) -> None:
    """Warn of clips whose frames are all equal (silence, a dead channel), and of bands with constant energy."""
    frames, edge = (
        log_mels.frames,
        -(-config.n_fft // 2 // config.hop_length),
    )  # number of frames that extend beyond the clip
    constant = []
    for clip, end, length in zip(clips, np.cumsum(log_mels.lengths), log_mels.lengths, strict=True):
        inner = frames[end - length + edge : end - edge] if length > 2 * edge else frames[end - length : end]
        if (inner == inner[0]).all():
            constant.append(str(clip.path))
    if constant:
        log.warning("%d clip(s) are constant over time (silence?), such as %s", len(constant), " ".join(constant[:3]))
        log.debug("constant clips: %s", " ".join(constant))
    bands = np.flatnonzero(np.ptp(frames, axis=0) == 0)
    if len(bands) and len(constant) < len(clips):
        named = " ".join(map(str, bands))
        log.warning("mel bands with constant energy: %s (counted from 0). Check --n_mels, --fmin and --fmax.", named)


def _warn_of_duplicates(clips: Sequence[Clip], checksums: Sequence[str]) -> None:
    """Warn of clips with the same contents as another clip."""
    first = dict(zip(reversed(checksums), reversed(clips), strict=True))
    duplicates = [(c, first[key]) for c, key in zip(clips, checksums, strict=True) if first[key] is not c]
    if duplicates:
        names = " and ".join(str(clip.path) for clip in duplicates[0])
        log.warning("%d clip(s) have the same contents as another clip, such as %s", len(duplicates), names)
