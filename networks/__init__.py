"""Model name (`--model`) → network.

M: mel bands, D: values of a vector, B: vectors of a batch.
"""

from importlib import import_module

import torch
from torch import nn

from config import BaselineError, UsageError, nearest

# Model name → where its class is. A network is made from (D, M), and maps vectors (B, D) to reconstructions (B, D).
NETWORKS = {
    "DCASE2023T2-AE": "networks.autoencoder.AutoEncoder",
}


def make_network(name: str, input_dim: int, n_mels: int) -> nn.Module:
    """A new network of this name, with the two residual covariances (M, M) of the selective Mahalanobis distance.

    These are kept with the weights, under the published baseline's names; they are not trained by gradients but
    computed after training.

    Raises:
        BaselineError: there is none, or it raised ValueError: it cannot be made for vectors of this size.
    """
    network_class = find_network(name)
    try:
        network = network_class(input_dim, n_mels)
    except ValueError as error:
        raise BaselineError(
            f"--model {name} with {input_dim // n_mels} frames of {n_mels} mel bands: {error}"
        ) from error
    for covariance in ("cov_source", "cov_target"):
        network.register_parameter(covariance, nn.Parameter(torch.zeros(n_mels, n_mels), requires_grad=False))
    return network


def find_network(name: str) -> type[nn.Module]:
    """The class of the networks of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in NETWORKS:
        raise UsageError(f"--model: unknown model '{name}'.{nearest(name, NETWORKS)} Models: {' '.join(NETWORKS)}.")
    module, _, class_name = NETWORKS[name].rpartition(".")
    try:
        return getattr(import_module(module), class_name)
    except (ModuleNotFoundError, AttributeError) as error:
        raise UsageError(f"--model {name}: networks/__init__.py says {NETWORKS[name]}, but: {error}.") from error
