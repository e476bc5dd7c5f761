"""Gamma distribution of normal scores → decision threshold."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Gamma:
    """A gamma distribution, in scipy's parameters."""

    shape: float
    loc: float
    scale: float

    def threshold(self, quantile: float) -> float:
        """The score that a share `quantile` of normal scores does not exceed, say 0.9."""
        from scipy.special import gammaincinv  # what gamma.ppf calls, without the import of scipy.stats

        return float(gammaincinv(self.shape, quantile) * self.scale + self.loc)


def fit_gamma(scores: Sequence[float]) -> Gamma | None:
    """The gamma distribution that fits these scores best (maximum likelihood), or None where none can be fitted."""
    from scipy.stats import FitError, gamma

    if len(set(scores)) < 2 or not np.isfinite(scores).all():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # overflow on the way to the optimum
            shape, loc, scale = map(float, gamma.fit(scores))
    except (FitError, ValueError):
        return None
    return Gamma(shape, loc, scale) if np.isfinite((shape, loc, scale)).all() else None
