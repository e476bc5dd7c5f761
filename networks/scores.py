"""Residuals of a clip → anomaly score. To add a score, write a function here and add it to SCORES.

P: frames per vector, M: mel bands, D = P·M, K: vectors per clip, B: vectors per batch.
"""

import logging
from collections.abc import Callable

import torch
from torch import nn

from config import BaselineError, UsageError, nearest

log = logging.getLogger("baseline")

# Residuals x̂ − x of a clip (K, D) → anomaly score, a 0-dimensional tensor
Score = Callable[[torch.Tensor], torch.Tensor]


def mean_squared_error(network: nn.Module) -> Score:
    """The mean of the squared residuals over all values of a clip."""
    return lambda residuals: residuals.square().mean()


def selective_mahalanobis(network: nn.Module) -> Score:
    """The smaller of two Mahalanobis distances r̄ᵀ Σ⁻¹ r̄, with Σ of the source and of the target domain.

    r̄ (M) is the mean residual over all frames of all vectors of a clip. The published baseline computes this score.
    The paper describes another one, selective_mahalanobis_per_vector.
    """
    precisions = _precisions(network)

    def score(residuals: torch.Tensor) -> torch.Tensor:
        rows = residuals.reshape(-1, len(precisions[0]))  # (K, D) -> (K·P, M)
        mean = rows.mean(dim=0, dtype=torch.float64)  # (M,)
        return torch.stack([mean @ precision @ mean for precision in precisions]).min()

    return score


def selective_mahalanobis_per_vector(network: nn.Module) -> Score:
    """The smaller of two Mahalanobis distances (source and target domain) per vector, averaged over vectors.

    The distance of a vector is the sum of rᵀ Σ⁻¹ r over the residuals r (M) of its P frames, divided by D.
    Source: section III of https://arxiv.org/abs/2303.00455.
    """
    # With Σ⁻¹ = W Wᵀ, rᵀ Σ⁻¹ r = |Wᵀ r|²: one product for both domains, and float32 is precise enough.
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
    """The function with this name: trained network → score.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in SCORES:
        raise UsageError(f"--score: unknown score '{name}'.{nearest(name, SCORES)} Scores: {' '.join(SCORES)}.")
    return SCORES[name]


class ResidualCovariances:
    """Covariances of the residual frames in the source and target domains, accumulated batch by batch.

    As in the published baseline, each batch is centred with its own mean, and the sum is divided by the number of
    *vectors* minus one, although each vector adds P rows to the sum.
    """

    def __init__(self, n_mels: int, device: torch.device):
        self._sums = torch.zeros(2, n_mels, n_mels, dtype=torch.float64, device=device)
        self._vectors = [0, 0]  # number of vectors in the source and target domains

    def add(self, residuals: torch.Tensor, is_target: torch.Tensor) -> None:
        """Add a batch.

        Args:
            residuals: (B, D).
            is_target: (B,) bool.
        """
        for domain, chosen in enumerate((residuals[~is_target], residuals[is_target])):
            if len(chosen):
                rows = chosen.reshape(-1, self._sums.shape[-1]).double()  # (B, D) -> (B·P, M)
                rows -= rows.mean(dim=0)
                self._sums[domain] += rows.T @ rows
                self._vectors[domain] += len(chosen)

    def source_and_target(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Both covariances (M, M), float32. A domain without vectors gets the covariance of the other domain.

        Raises:
            BaselineError: a value is not finite.
        """
        source, target = (total / max(n - 1, 1) for total, n in zip(self._sums, self._vectors, strict=True))
        if not (source.isfinite().all() and target.isfinite().all()):
            raise BaselineError("the residual covariances are not finite. Use a smaller --learning_rate.")
        return (source if self._vectors[0] else target).float(), (target if self._vectors[1] else source).float()


def _precisions(network: nn.Module) -> list[torch.Tensor]:
    """The inverse covariances (M, M) of the source and target domains, float64."""
    covariances = (network.cov_source, "source"), (network.cov_target, "target")
    return [_inverse(covariance.detach().double(), domain) for covariance, domain in covariances]


def _inverse(covariance: torch.Tensor, domain: str) -> torch.Tensor:
    # The covariance is stored in float32, so eigenvalues below its rounding error are meaningless.
    rank = int(torch.linalg.matrix_rank(covariance, hermitian=True, rtol=torch.finfo(torch.float32).eps))
    if rank == len(covariance):
        return torch.linalg.inv(covariance)
    log.warning(
        "the residual covariance of the %s domain is singular (rank %d of %d): some mel bands are constant or depend "
        "on each other. The Mahalanobis distance uses the pseudo-inverse, which ignores these directions.",
        domain,
        rank,
        len(covariance),
    )
    return torch.linalg.pinv(covariance, hermitian=True, rtol=torch.finfo(torch.float32).eps)


def _square_root(matrix: torch.Tensor) -> torch.Tensor:
    """W (M, M) with W Wᵀ = `matrix`, which is symmetric and positive semidefinite except for rounding."""
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt()


def contributions(score: Score, residuals: torch.Tensor) -> torch.Tensor:
    """How much each residual of a clip contributes to its anomaly score: (K, D) -> (K, D) float64.

    A contribution is a residual times the derivative of the score with respect to it. The contributions are scaled so
    that they add up to the score. For the mean squared error, a contribution is the squared residual divided by the
    number of values. All scores here are homogeneous functions of degree 2, so the scale is 1/2 (Euler's theorem). With
    the Mahalanobis distance, some contributions are negative.

    Raises:
        BaselineError: the score is not differentiable.
    """
    variables = residuals.detach().clone().requires_grad_()
    with torch.enable_grad():
        try:
            value = score(variables)
            (gradient,) = torch.autograd.grad(value, variables)
        except (RuntimeError, TypeError) as error:
            raise BaselineError(f"cannot compute contributions: the score is not differentiable: {error}") from error
    products = variables.detach().double() * gradient
    total = products.sum()
    return products * (value.detach() / total) if total else products
