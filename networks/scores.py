"""Anomaly scores of the residuals of a clip: a score is one function here and one line in SCORES.

P: frames of a vector, M: mel bands, D = P * M, K: vectors of a clip.
"""

import logging
from collections.abc import Callable

import torch
from torch import nn

from config import BaselineError, UsageError, nearest

log = logging.getLogger("baseline")

# (K, D) residuals x̂ − x → 0-dimensional anomaly score
Score = Callable[[torch.Tensor], torch.Tensor]


def residual(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Reconstruction less original, x̂ − x, of the same shape as x."""
    return network(x) - x


def mean_squared_error(network: nn.Module) -> Score:
    """The mean of the squared residuals over all values of a clip."""
    return lambda residuals: residuals.square().mean()


def selective_mahalanobis(network: nn.Module) -> Score:
    """The smaller of the Mahalanobis distances r̄ᵀ Σ⁻¹ r̄ under the source and the target domain's covariance.

    r̄ (M) is the mean residual over all frames of all vectors of a clip. This is what the published baseline computes;
    what its paper describes is selective_mahalanobis_of_vectors.
    """
    precisions = _precisions(network)

    def score(residuals: torch.Tensor) -> torch.Tensor:
        rows = residuals.reshape(-1, len(precisions[0]))  # (K, D) -> (K·P, M)
        mean = rows.double().mean(dim=0)  # (M,)
        return torch.stack([mean @ precision @ mean for precision in precisions]).min()

    return score


def selective_mahalanobis_of_vectors(network: nn.Module) -> Score:
    """The mean over vectors of the smaller of two distances, divided by D: that under the source and the target domain.

    A vector's distance is the sum of rᵀ Σ⁻¹ r over its P frames' residuals r (M). Source: section III of
    https://arxiv.org/abs/2303.00455.
    """
    precisions = _precisions(network)

    def score(residuals: torch.Tensor) -> torch.Tensor:
        rows = residuals.reshape(len(residuals), -1, len(precisions[0])).double()  # (K, D) -> (K, P, M)
        of_domains = torch.stack([(rows @ precision * rows).sum(dim=(1, 2)) for precision in precisions])  # (2, K)
        return of_domains.min(dim=0).values.mean() / residuals.shape[1]

    return score


SCORES: dict[str, Callable[[nn.Module], Score]] = {
    "MSE": mean_squared_error,
    "MAHALA": selective_mahalanobis,
    "MAHALA_FRAME": selective_mahalanobis_of_vectors,
}


def find_score(name: str) -> Callable[[nn.Module], Score]:
    """The function of a trained network that makes the score of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in SCORES:
        raise UsageError(f"--score: unknown score '{name}'.{nearest(name, SCORES)} Scores: {' '.join(SCORES)}.")
    return SCORES[name]


def contributions(score: Score, residuals: torch.Tensor) -> torch.Tensor:
    """How much each residual of a clip adds to its anomaly score: (K, D) -> (K, D) float64; their sum is the score.

    A residual times the score's derivative by it. For a score that is a sum of products of two residuals, as all those
    here are, half of that adds up to the score (Euler's theorem on homogeneous functions); for the mean squared error,
    it is the squared error over their number. What another score's add up to is scaled to the score. Where residuals
    of different bands are weighed against each other, as by the Mahalanobis distance, some contributions are negative.

    Raises:
        BaselineError: the score cannot be differentiated.
    """
    with torch.enable_grad():
        variables = residuals.detach().clone().requires_grad_()
        try:
            value = score(variables)
            (gradient,) = torch.autograd.grad(value, variables)
        except (RuntimeError, TypeError) as error:
            raise BaselineError(
                f"the score has no derivative, which shares in it are worked out from: {error}"
            ) from error
    products = variables.detach().double() * gradient
    total = products.sum()
    return products * (value.detach() / total) if total else products


def _precisions(network: nn.Module) -> list[torch.Tensor]:
    """The inverse covariances (M, M) of the source and the target domain, float64."""
    covariances = (network.cov_source, "source"), (network.cov_target, "target")
    return [_inverse(covariance.detach().double(), domain) for covariance, domain in covariances]


def _inverse(covariance: torch.Tensor, domain: str) -> torch.Tensor:
    # It is stored in float32: what is smaller than its rounding is not known.
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


class ResidualCovariances:
    """The covariances of residual frames of the source and of the target domain, gathered batch by batch.

    As in the published baseline, each batch is centred by its own mean, and the sum is divided by the number of
    *vectors* less one, though P rows of each vector are summed.
    """

    def __init__(self, n_mels: int, device: torch.device):
        self._sums = torch.zeros(2, n_mels, n_mels, dtype=torch.float64, device=device)
        self._vectors = [0, 0]  # of the source and of the target domain

    def add(self, residuals: torch.Tensor, is_target: torch.Tensor) -> None:
        """Add a batch: (B, D) residuals, (B,) bool domains."""
        for domain, of_domain in enumerate((~is_target, is_target)):
            chosen = residuals[of_domain]
            if len(chosen):
                rows = chosen.reshape(-1, self._sums.shape[-1]).double()  # (B, D) -> (B·P, M)
                rows = rows - rows.mean(dim=0)
                self._sums[domain] += rows.T @ rows
                self._vectors[domain] += len(chosen)

    def of_domains(self) -> tuple[torch.Tensor, torch.Tensor]:
        """(M, M) float32 covariances of the source and the target domain; a domain without vectors has the other's."""
        source, target = (total / max(n - 1, 1) for total, n in zip(self._sums, self._vectors, strict=True))
        return (source if self._vectors[0] else target).float(), (target if self._vectors[1] else source).float()
