"""Scores of normal sounds → gamma distribution → decision threshold."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Fewer scores give a poor threshold. For a target of 10 % false alarms, 5 scores give 3 to 67 %, 20 scores 4 to 23 %.
MIN_SCORES = 20

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class Gamma:
    """A gamma distribution, with SciPy's parameters."""

    shape: float
    loc: float
    scale: float
    n_scores: int | None = None  # number of scores in the fit, if known

    def threshold(self, quantile: float) -> float:
        """The score that a fraction `quantile` of normal scores (such as 0.9) does not exceed."""
        from scipy.stats import gamma

        return float(gamma.ppf(quantile, self.shape, self.loc, self.scale))


def fit_gamma(scores: Sequence[float]) -> Gamma | None:
    """Fit a gamma distribution to scores by maximum likelihood. Returns None if the fit fails."""
    from scipy.stats import FitError, gamma

    if len(set(scores)) < 2 or not np.isfinite(scores).all():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # overflow during the optimization
            shape, loc, scale = map(float, gamma.fit(scores))
    except (FitError, ValueError):
        return None
    return Gamma(shape, loc, scale, len(scores)) if np.isfinite((shape, loc, scale)).all() else None


def fit_gammas(scores: dict[str, list[float]], calibration: str) -> dict[str, Gamma | None]:
    """Fit a gamma distribution to the normal scores of each score function.

    Args:
        scores: score name → scores of normal sounds.
        calibration: the value of --calibration, for the warning.

    Returns:
        Score name → distribution, or None with a warning if the fit fails.
    """
    fits = {name: fit_gamma(values) for name, values in scores.items()}
    for name in (name for name, fit in fits.items() if fit is None):
        log.warning("no gamma distribution fits the %s scores: no decisions with --calibration %s.", name, calibration)
    return fits
