"""Your own recordings: any wav or FLAC files → one channel at one sampling rate.

N: samples, T: frames, M: mel bands.
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import BaselineError, Config, FeatureConfig
from datasets.audio import Header, read_clip, read_header
from datasets.feature_cache import LogMels, check_length, clip_frames

SUFFIXES = (".wav", ".flac")
# Sample format → NumPy type that represents it exactly. Other (compressed) formats are read as floats.
EXACT_TYPES = {
    "PCM_U8": "int16",
    "PCM_16": "int16",
    "PCM_24": "int32",
    "PCM_32": "int32",
    "FLOAT": "float32",
    "DOUBLE": "float64",
}


@dataclass(frozen=True)
class Recording:
    """One channel of a wav or FLAC file."""

    path: Path
    header: Header
    channel: int  # starting from 0

    def samples(self, sampling_rate: int, dtype: str = "float32") -> np.ndarray:
        """The samples (N,), resampled to this rate (Hz) if necessary. Resampled samples are float32.

        Raises:
            BaselineError: the samples cannot be decoded, or are not all finite.
        """
        if sampling_rate == self.header.sampling_rate:
            return read_clip(self.path, self.channel, dtype)
        import librosa

        samples = read_clip(self.path, self.channel)
        resampled = librosa.resample(samples, orig_sr=self.header.sampling_rate, target_sr=sampling_rate)
        if not np.isfinite(resampled).all():
            raise BaselineError(f"{self.path}: the samples are too large for resampling. Replace or remove the file.")
        return resampled

    def log_mels(self, sampling_rate: int, config: Config) -> LogMels:
        """The log-mel frames at this sampling rate (Hz), computed as for a clip of a dataset.

        Raises:
            BaselineError: the recording cannot be decoded, is too short, or its samples are too large.
        """
        from threadpoolctl import threadpool_limits

        with threadpool_limits(1, user_api="blas"):  # rounding of the mel product depends on the number of threads
            samples = self.samples(sampling_rate)
            frames = clip_frames(self.path, samples, sampling_rate, FeatureConfig(config))  # (T, M)
        check_length(self.path, len(frames), config)
        return LogMels(frames, np.array([len(frames)]), sampling_rate)


def find_recordings(places: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Find recordings among files, and in folders and their subfolders.

    Recordings have the suffix .wav or .flac, in upper or lower case. The files of a folder are sorted. Hidden files are
    ignored.

    Returns:
        The recordings, and the other files.

    Raises:
        BaselineError: a file or folder does not exist.
    """
    recordings: list[Path] = []
    others: list[Path] = []
    for place in places:
        if not place.exists():
            raise BaselineError(f"{place}: no such file or folder.")
        for path in sorted(_files_below(place)) if place.is_dir() else [place]:
            (recordings if path.suffix.lower() in SUFFIXES else others).append(path)
    return recordings, others


def _files_below(folder: Path) -> Iterator[Path]:
    for directory, subfolders, files in os.walk(folder, followlinks=True):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        yield from (Path(directory, name) for name in files if not name.startswith("."))


def open_recording(path: Path, channel: int | None) -> Recording:
    """Check a wav or FLAC file and the channel to read.

    Args:
        channel: starting from 1, or None if the file has a single channel.

    Raises:
        BaselineError: the file cannot be read, the channel does not exist, or `channel` is None for several channels.
    """
    header = read_header(path)
    if (channel is None and header.channels > 1) or (channel or 1) > header.channels:
        raise BaselineError(f"{path}: {header.channels} channels. Choose one: --channel 1 to {header.channels}.")
    return Recording(path, header, (channel or 1) - 1)
