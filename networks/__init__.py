"""Model name (`--model`) → network.

M: mel bands, D: values of a vector, B: vectors in a batch.
"""

import torch
from torch import nn

from config import BaselineError, UsageError, nearest
from networks.autoencoder import AutoEncoder

# A network is built with (D, M). It maps vectors (B, D) to reconstructions (B, D).
NETWORKS: dict[str, type[nn.Module]] = {
    "DCASE2023T2-AE": AutoEncoder,
}


def find_network(name: str) -> type[nn.Module]:
    """The network class of this name.

    Raises:
        UsageError: the name is unknown.
    """
    if name not in NETWORKS:
        raise UsageError(f"--model: unknown model '{name}'.{nearest(name, NETWORKS)} Models: {' '.join(NETWORKS)}.")
    return NETWORKS[name]


def make_network(name: str, input_dim: int, n_mels: int) -> nn.Module:
    """A new network with PyTorch's default initialisation, and the residual covariances (M, M) of both domains.

    The covariances are stored with the weights, under the published baseline's names. They are computed after
    training, not trained.

    Args:
        input_dim: D.
        n_mels: M.

    Raises:
        BaselineError: the network raised ValueError: it cannot be built for vectors of this size.
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
