"""Samples → log-mel frames: the one file to edit for other features.

N: samples, T: frames of a clip, F: frequency bins (n_fft / 2 + 1), M: mel bands. T follows from what `log_mel` returns.
"""

import functools
import sys

import numpy as np

from config import Config, FeatureConfig

# Log-mel energies stay finite if a band is silent. A Python float: a NumPy one would make the logarithm float64.
FLOOR = sys.float_info.epsilon


def log_mel(samples: np.ndarray, sampling_rate: int, config: FeatureConfig) -> np.ndarray:
    """Log-mel energies of one channel: 20 / power * log10(mel), as in the published baseline.

    The same values as librosa.feature.melspectrogram, which computes its mel filters again for each clip.

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
    # The last bit of a float32 logarithm differs between versions of the C library; rounded from float64, it does not.
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
    return edges[1:-1]  # a band reaches from the centre of the one below to that of the one above
