"""Wav or FLAC file → samples, with the checks of its header."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import BaselineError

# Programs that record into a pipe cannot fill in the length of a wav file. They leave a large one (sox 0x7FFFF000,
# arecord 0x80000000, ffmpeg 0xFFFFFFFF), often rounded to whole frames.
UNKNOWN_LENGTH = 0x7FFF0000  # bytes; from here on the file's own size counts
UNKNOWN_SAMPLES = 2**63 - 1  # of a FLAC file that was recorded into a pipe
MOST_SAMPLES_A_BYTE = 4096  # of all channels; silence in FLAC has about 1000, with long blocks more
LOWEST_RATE, HIGHEST_RATE = 100, 10_000_000  # Hz


@dataclass(frozen=True)
class Header:
    """What the header of a wav or FLAC file says."""

    samples: int  # of each channel
    channels: int
    sampling_rate: int  # Hz
    subtype: str  # how samples are stored, such as PCM_16


def read_header(path: Path) -> Header:
    """The header of a wav or FLAC file, checked against the size of the file.

    Raises:
        BaselineError: the file cannot be read, is truncated or holds no samples.
    """
    import soundfile

    try:
        size = path.stat().st_size
        if size == 0:
            raise BaselineError(f"{path}: the file is empty. Copy or unpack the clip again, or remove it.")
        info = soundfile.info(path)
        missing = _missing_bytes(path, size)
    except (OSError, UnicodeError, soundfile.SoundFileError) as error:
        raise _unreadable(path, error) from error
    if missing > 0:
        raise BaselineError(f"{path}: truncated, {missing} bytes are missing. Copy or unpack the clip again.")
    if info.frames in (0, UNKNOWN_SAMPLES):
        raise BaselineError(
            f"{path}: holds no samples, or its header does not say how many. Copy or convert the clip again, or remove "
            "it."
        )
    # soundfile reserves memory for as many samples as the header says.
    if info.frames * info.channels > MOST_SAMPLES_A_BYTE * size or not LOWEST_RATE <= info.samplerate <= HIGHEST_RATE:
        raise BaselineError(
            f"{path}: {info.frames} samples of {info.channels} channels at {info.samplerate} Hz cannot be in a file of "
            f"{size} bytes (rates are {LOWEST_RATE} to {HIGHEST_RATE} Hz). Copy or convert the clip again, or remove "
            "it."
        )
    return Header(info.frames, info.channels, info.samplerate, info.subtype)


def read_clip(path: Path, channel: int = 0, dtype: str = "float32") -> np.ndarray:
    """One channel (from 0) of a file with a checked header: (N,), as floats in [-1, 1] or as integers.

    Raises:
        BaselineError: the samples cannot be decoded, are fewer than the header says, or are not numbers.
    """
    import soundfile

    with enough_memory(path):
        try:
            with soundfile.SoundFile(path) as file:
                announced = file.frames  # some kinds of wav file, such as GSM, must be told how many
                samples = file.read(announced, dtype=dtype, always_2d=True)  # (N, channels)
        except (OSError, UnicodeError, soundfile.SoundFileError) as error:
            raise _unreadable(path, error) from error
        if len(samples) != announced:
            raise BaselineError(f"{path}: has other samples than its header says. Copy or unpack the clip again.")
        if not np.isfinite(samples).all():
            raise BaselineError(f"{path}: holds samples that are infinite or not a number. Replace or remove the clip.")
        return np.ascontiguousarray(samples[:, channel])


@contextlib.contextmanager
def enough_memory(path: Path) -> Iterator[None]:
    """A lack of memory in the block becomes a BaselineError that names the clip."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # RuntimeError: PyTorch's
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise BaselineError(f"{path}: not enough memory for it. Cut it, remove it, or lower --n_fft.") from error


def _unreadable(path: Path, error: Exception) -> BaselineError:
    kind = path.suffix.lower().removeprefix(".")
    return BaselineError(f"{path}: not a readable {kind} file ({error}). Copy or unpack the clip again, or remove it.")


def _missing_bytes(path: Path, size: int) -> int:
    """How many bytes of sound data the header announces but the file does not have (libsndfile reads such files)."""
    long = 0  # length in a header of 64 bits (RF64), where the other one is full
    with path.open("rb") as file:
        if file.read(4) not in (b"RIFF", b"RF64"):
            return 0
        file.seek(12)
        while len(chunk := file.read(8)) == 8:
            length, start = int.from_bytes(chunk[4:], "little"), file.tell()
            if chunk[:4] == b"ds64":
                long = int.from_bytes(file.read(16)[8:], "little")
            if chunk[:4] == b"data" and (long or length < UNKNOWN_LENGTH):
                return start + (long or length) - size
            if chunk[:4] == b"data" and size - start > length:  # libsndfile would leave the rest out
                raise BaselineError(f"{path}: its header is for {length} bytes, and it has more. Cut or convert it.")
            file.seek(start + length + length % 2)
    return 0
