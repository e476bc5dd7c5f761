"""Samples → log-mel frames: the one file to edit for other features.

T: frames of a clip, M: mel bands.
"""

import functools
import sys
from pathlib import Path

import numpy as np

from config import BaselineError, Config

# Log-mel energies stay finite where a band is silent. A Python float: a NumPy one would make the logarithm float64.
FLOOR = sys.float_info.epsilon


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
