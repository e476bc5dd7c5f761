"""Model name (`--model`) → network.

M: mel bands, D: values per vector, B: vectors per batch.
"""

import torch
from torch import nn

from config import BaselineError, UsageError, nearest
from networks.autoencoder import AutoEncoder

# A network is constructed with (D, M) and maps vectors (B, D) to reconstructions (B, D).
NETWORKS: dict[str, type[nn.Module]] = {
    "DCASE2023T2-AE": AutoEncoder,
}


def find_network(name: str) -> type[nn.Module]:
    """The network class with this name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in NETWORKS:
        raise UsageError(f"--model: unknown model '{name}'.{nearest(name, NETWORKS)} Models: {' '.join(NETWORKS)}.")
    return NETWORKS[name]


def make_network(name: str, input_dim: int, n_mels: int) -> nn.Module:
    """A new network with PyTorch's default initialisation, and parameters for the residual covariances (M, M).

    The covariances of both domains are stored with the weights, under the names that the published baseline uses.
    They are not trained but computed after training.

    Args:
        input_dim: D.
        n_mels: M.

    Raises:
        BaselineError: the network does not support vectors of this size (it raised ValueError).
    """
    try:
        network = find_network(name)(input_dim, n_mels)
    except ValueError as error:
        raise BaselineError(
            f"--model {name} with {input_dim // n_mels} frames of {n_mels} mel bands: {error}"
        ) from error
    for covariance in ("cov_source", "cov_target"):
        network.register_parameter(covariance, nn.Parameter(torch.zeros(n_mels, n_mels), requires_grad=False))
    return network


@torch.no_grad()
def residual(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Reconstruction minus input, x̂ − x, without gradients: (B, D) -> (B, D)."""
    return network(x) - x
