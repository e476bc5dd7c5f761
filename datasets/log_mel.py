"""Samples → log-mel frames. To use other features, edit only this file.

N: samples, T: frames per clip, F: frequency bins (n_fft / 2 + 1), M: mel bands. T is whatever `log_mel` returns.
"""

import functools
import sys

import numpy as np

from config import Config, FeatureConfig

# Keeps log-mel energies of silent bands finite. A Python float, because a NumPy float64 would promote the logarithm.
FLOOR = sys.float_info.epsilon


def log_mel(samples: np.ndarray, sampling_rate: int, config: FeatureConfig) -> np.ndarray:
    """Log-mel energies of one channel: 20 / power * log10(mel), as in the published baseline.

    Gives the same values as librosa.feature.melspectrogram, but does not compute the mel filters again for each clip.

    Args:
        samples: (N,) float32.
        sampling_rate: Hz.

    Returns:
        (T, M) float32, dB.
    """
    import librosa

    # (N,) -> (F, T)
    spectrum = librosa.stft(samples, n_fft=config.n_fft, hop_length=config.hop_length, win_length=config.win_length)
    energies = np.abs(spectrum) ** config.power
    filters = mel_filters(sampling_rate, config.n_fft, config.n_mels, config.fmin, config.fmax)  # (M, F)
    mel = np.einsum("ft,mf->mt", energies, filters, optimize=True)  # (F, T) -> (M, T)
    # The last bit of a float32 logarithm depends on the C library. Rounding a float64 logarithm avoids this.
    logarithm = np.log10(np.maximum(mel, FLOOR), dtype=np.float64 if config.portable else np.float32)
    return (20.0 / config.power * logarithm).astype(np.float32, copy=False).T  # (M, T) -> (T, M)


@functools.cache
def mel_filters(sampling_rate: int, n_fft: int, n_mels: int, fmin: float, fmax: float | None) -> np.ndarray:
    """Slaney's mel filters: (M, F)."""
    import librosa

    return librosa.filters.mel(sr=sampling_rate, n_fft=n_fft, n_mels=n_mels, fmin=fmin, fmax=fmax)


def band_centers(sampling_rate: int, config: Config) -> np.ndarray:
    """The centre frequencies of the mel bands: (M,) Hz."""
    import librosa

    edges = librosa.mel_frequencies(config.n_mels + 2, fmin=config.fmin, fmax=config.fmax or sampling_rate / 2)
    return edges[1:-1]  # each band extends from the centre of the band below to the centre of the band above
