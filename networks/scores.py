"""Residuals of a clip → anomaly score. A score is one function here and one line in SCORES.

P: frames in a vector, M: mel bands, D = P·M, K: vectors of a clip, B: vectors in a batch.
"""

import logging
from collections.abc import Callable

import torch
from torch import nn

from config import BaselineError, UsageError, nearest

log = logging.getLogger("baseline")

# (K, D) residuals x̂ − x → 0-dimensional anomaly score
Score = Callable[[torch.Tensor], torch.Tensor]


def mean_squared_error(network: nn.Module) -> Score:
    """The mean squared residual over all values of a clip."""
    return lambda residuals: residuals.square().mean()


def selective_mahalanobis(network: nn.Module) -> Score:
    """The smaller of the Mahalanobis distances r̄ᵀ Σ⁻¹ r̄ with the source and the target domain's covariance.

    r̄ (M) is the mean residual over all frames of all vectors of a clip. This is what the published baseline computes.
    Its paper describes selective_mahalanobis_per_vector.
    """
    precisions = _precisions(network)

    def score(residuals: torch.Tensor) -> torch.Tensor:
        rows = residuals.reshape(-1, len(precisions[0]))  # (K, D) -> (K·P, M)
        mean = rows.mean(dim=0, dtype=torch.float64)  # (M,)
        return torch.stack([mean @ precision @ mean for precision in precisions]).min()

    return score


def selective_mahalanobis_per_vector(network: nn.Module) -> Score:
    """The mean over vectors of the smaller of two distances (source, target domain), divided by D.

    The distance of a vector is the sum of rᵀ Σ⁻¹ r over the residuals r (M) of its P frames. Source: section III of
    https://arxiv.org/abs/2303.00455.
    """
    # With Σ⁻¹ = W Wᵀ, rᵀ Σ⁻¹ r is |Wᵀ r|²: one product for both domains, precise enough in float32.
    whitening = torch.cat([_square_root(precision) for precision in _precisions(network)], dim=1).float()  # (M, 2·M)

    def score(residuals: torch.Tensor) -> torch.Tensor:
        n, width = residuals.shape
        rows = residuals.reshape(-1, len(whitening)) @ whitening  # (K, D) -> (K·P, M) -> (K·P, 2·M)
        distances = rows.square().reshape(n, -1, 2, len(whitening)).sum(dim=(1, 3))  # (K, 2)
        return distances.min(dim=1).values.mean(dtype=torch.float64) / width

    return score


SCORES: dict[str, Callable[[nn.Module], Score]] = {
    "MSE": mean_squared_error,
    "MAHALA": selective_mahalanobis,
    "MAHALA_FRAME": selective_mahalanobis_per_vector,
}


def find_score(name: str) -> Callable[[nn.Module], Score]:
    """The function: trained network → score of this name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in SCORES:
        raise UsageError(f"--score: unknown score '{name}'.{nearest(name, SCORES)} Scores: {' '.join(SCORES)}.")
    return SCORES[name]


class ResidualCovariances:
    """The covariances of the residual frames of the source and the target domain, summed batch by batch.

    As in the published baseline, each batch is centred by its own mean, and the sum is divided by the number of
    *vectors* minus one, although P rows of each vector are summed.
    """

    def __init__(self, n_mels: int, device: torch.device):
        self._sums = torch.zeros(2, n_mels, n_mels, dtype=torch.float64, device=device)
        self._vectors = [0, 0]  # of the source and the target domain

    def add(self, residuals: torch.Tensor, is_target: torch.Tensor) -> None:
        """Add a batch: (B, D) residuals, (B,) bool domains."""
        for domain, chosen in enumerate((residuals[~is_target], residuals[is_target])):
            if len(chosen):
                rows = chosen.reshape(-1, self._sums.shape[-1]).double()  # (B, D) -> (B·P, M)
                rows -= rows.mean(dim=0)
                self._sums[domain] += rows.T @ rows
                self._vectors[domain] += len(chosen)

    def source_and_target(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both covariances (M, M), float32. A domain without vectors gets the other's.

        Raises:
            BaselineError: they are not finite numbers.
        """
        source, target = (total / max(n - 1, 1) for total, n in zip(self._sums, self._vectors, strict=True))
        if not (source.isfinite().all() and target.isfinite().all()):
            raise BaselineError("the residual covariances are not finite numbers. Choose a smaller --learning_rate.")
        return (source if self._vectors[0] else target).float(), (target if self._vectors[1] else source).float()


def _precisions(network: nn.Module) -> list[torch.Tensor]:
    """The inverse covariances (M, M) of the source and the target domain, float64."""
    covariances = (network.cov_source, "source"), (network.cov_target, "target")
    return [_inverse(covariance.detach().double(), domain) for covariance, domain in covariances]


def _inverse(covariance: torch.Tensor, domain: str) -> torch.Tensor:
    # The covariance is stored in float32: values below its rounding are unknown.
    rank = int(torch.linalg.matrix_rank(covariance, hermitian=True, rtol=torch.finfo(torch.float32).eps))
    if rank == len(covariance):
        return torch.linalg.inv(covariance)
    log.warning(
        "The residual covariance of the %s domain is singular (rank %d of %d): some mel bands never vary, or vary "
        "together. The Mahalanobis distance uses its pseudo-inverse, which leaves those directions out.",
        domain,
        rank,
        len(covariance),
    )
    return torch.linalg.pinv(covariance, hermitian=True, rtol=torch.finfo(torch.float32).eps)


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    """W (M, M) with W Wᵀ = `matrix`, which is symmetric and has no negative eigenvalues but for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


def contributions(score: Score, residuals: torch.Tensor) -> torch.Tensor:
    """How much each residual of a clip adds to its anomaly score: (K, D) -> (K, D) float64, whose sum is the score.

    A contribution is a residual times the score's derivative with respect to it, scaled so that the sum is the score.
    For the mean squared error that is the squared residual divided by the number of values. All scores here are sums of
    products of two residuals, so half the products already add up to the score (Euler's theorem on homogeneous
    functions). With the Mahalanobis distance some contributions are negative.

    Raises:
        BaselineError: the score has no derivative.
    """
    variables = residuals.detach().clone().requires_grad_()
    with torch.enable_grad():
        try:
            value = score(variables)
            (gradient,) = torch.autograd.grad(value, variables)
        except (RuntimeError, TypeError) as error:
            raise BaselineError(f"contributions to the score need its derivative: {error}") from error
    products = variables.detach().double() * gradient
    total = products.sum()
    return products * (value.detach() / total) if total else products
