"""Model name (`--model`) → network."""

from torch import nn

from config import UsageError, nearest
from networks.autoencoder import AutoEncoder

# A network is made from (input_dim, n_mels), maps vectors (B, D) to reconstructions (B, D), and has the parameters
# cov_source and cov_target (M, M).
NETWORKS: dict[str, type[nn.Module]] = {
    "DCASE2023T2-AE": AutoEncoder,
}


def find_network(name: str) -> type[nn.Module]:
    """The class of the networks of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in NETWORKS:
        raise UsageError(f"--model: unknown model '{name}'.{nearest(name, NETWORKS)} Models: {' '.join(NETWORKS)}.")
    return NETWORKS[name]
