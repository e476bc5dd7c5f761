"""Wav file → samples, with the checks of its header."""

import os
import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import BaselineError

UNKNOWN_LENGTH = 0xFFFFFFFF  # in the header of a wav file
MOST_CHUNKS = 10_000  # of a wav file
MOST_SAMPLES_A_BYTE = 64  # of all channels; the strongest compression in wav files has some 50
LOWEST_RATE, HIGHEST_RATE = 100, 10_000_000  # Hz


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

    size = file_stat(path).st_size
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


def file_stat(path: Path) -> os.stat_result:
    """Size and times of a clip.

    Raises:
        BaselineError: there is no such file, or it is not a regular one.
    """
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
