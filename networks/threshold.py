"""Scores of normal sounds → gamma distribution → decision threshold."""

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

FEWEST_SCORES = 20  # for a threshold: of five, false alarms are 3 to 67 % where 10 % are meant; of 20, 4 to 23 %

log = logging.getLogger("baseline")


@dataclass(frozen=True)
class Gamma:
    """A gamma distribution, with SciPy's parameters."""

    shape: float
    loc: float
    scale: float
    n_scores: int | None = None  # that it was fitted to, if it is known

    def threshold(self, quantile: float) -> float:
        """The score that a share `quantile` of normal scores (such as 0.9) does not exceed."""
        from scipy.stats import gamma

        return float(gamma.ppf(quantile, self.shape, self.loc, self.scale))


def fit_gamma(scores: Sequence[float]) -> Gamma | None:
    """The maximum-likelihood gamma distribution of these scores, or None if the fit fails."""
    from scipy.stats import FitError, gamma

    if len(set(scores)) < 2 or not np.isfinite(scores).all():
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # overflow on the way to the optimum
            shape, loc, scale = map(float, gamma.fit(scores))
    except (FitError, ValueError):
        return None
    return Gamma(shape, loc, scale, len(scores)) if np.isfinite((shape, loc, scale)).all() else None


def fit_gammas(scores: dict[str, list[float]], calibration: str) -> dict[str, Gamma | None]:
    """Score name → the distribution of its values on normal sounds, or None with a warning."""
    fits = {name: fit_gamma(values) for name, values in scores.items()}
    for name in (name for name, fit in fits.items() if fit is None):
        log.warning("no gamma distribution fits the %s scores: no decisions with --calibration %s.", name, calibration)
    return fits
