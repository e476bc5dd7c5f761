"""Wav or FLAC file → samples. The header is checked first."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from config import BaselineError

# Programs that write a wav file to a pipe do not know its length. They write a large value (sox 0x7FFFF000, arecord
# 0x80000000, ffmpeg 0xFFFFFFFF), often rounded to whole frames.
UNKNOWN_LENGTH = 0x7FFF0000  # bytes; for this value and larger ones, the file size is used instead
UNKNOWN_SAMPLES = 2**63 - 1  # in a FLAC file that was written to a pipe
MAX_SAMPLES_PER_BYTE = 4096  # of all channels; silence in FLAC has about 1000, more with long blocks
MIN_RATE, MAX_RATE = 100, 10_000_000  # Hz


@dataclass(frozen=True)
class Header:
    """The header of a wav or FLAC file."""

    samples: int  # per channel
    channels: int
    sampling_rate: int  # Hz
    subtype: str  # sample format, such as PCM_16


def read_header(path: Path) -> Header:
    """Read the header of a wav or FLAC file, and check it against the file size.

    Raises:
        BaselineError: the file cannot be read, is truncated or contains no samples.
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
            f"{path}: no samples, or their number is not in the header. Copy or convert the clip again, or remove it."
        )
    # soundfile allocates memory for the number of samples in the header.
    if info.frames * info.channels > MAX_SAMPLES_PER_BYTE * size or not MIN_RATE <= info.samplerate <= MAX_RATE:
        raise BaselineError(
            f"{path}: {info.frames} samples of {info.channels} channels at {info.samplerate} Hz cannot be in a file of "
            f"{size} bytes (rates are {MIN_RATE} to {MAX_RATE} Hz). Copy or convert the clip again, or remove "
            "it."
        )
    return Header(info.frames, info.channels, info.samplerate, info.subtype)


def read_clip(path: Path, channel: int = 0, dtype: str = "float32") -> np.ndarray:
    """Read one channel of a file whose header was checked.

    Args:
        channel: starting from 0.

    Returns:
        (N,) samples, as floats in [-1, 1] or as integers.

    Raises:
        BaselineError: the samples cannot be decoded, are not finite, or their number is not that in the header.
    """
    import soundfile

    with enough_memory(path):
        try:
            with soundfile.SoundFile(path) as file:
                announced = file.frames  # some wav formats, such as GSM, need an explicit number
                samples = file.read(announced, dtype=dtype, always_2d=True)  # (N, channels)
        except (OSError, UnicodeError, soundfile.SoundFileError) as error:
            raise _unreadable(path, error) from error
        if len(samples) != announced:
            raise BaselineError(
                f"{path}: the number of samples does not match the header. Copy or unpack the clip again."
            )
        if not np.isfinite(samples).all():
            raise BaselineError(f"{path}: some samples are infinite or NaN. Replace or remove the clip.")
        return np.ascontiguousarray(samples[:, channel])


@contextlib.contextmanager
def enough_memory(path: Path) -> Iterator[None]:
    """Turn an out-of-memory error in the block into a BaselineError that names the clip."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:  # PyTorch raises RuntimeError
        if isinstance(error, RuntimeError) and "allocate memory" not in str(error):
            raise
        raise BaselineError(
            f"{path}: not enough memory for this clip. Shorten or remove it, or use a smaller --n_fft."
        ) from error


def _unreadable(path: Path, error: Exception) -> BaselineError:
    kind = path.suffix.lower().removeprefix(".")
    return BaselineError(f"{path}: not a readable {kind} file ({error}). Copy or unpack the clip again, or remove it.")


def _missing_bytes(path: Path, size: int) -> int:
    """Number of bytes of audio data that the header announces but the file lacks. libsndfile ignores this."""
    long = 0  # length in the 64-bit header of RF64 files
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
            if chunk[:4] == b"data" and size - start > length:  # libsndfile would ignore the rest
                raise BaselineError(
                    f"{path}: more audio data than the {length} bytes in its header. Cut or convert the clip."
                )
            file.seek(start + length + length % 2)
    return 0
