"""Model name (`--model`) → network."""

import torch
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


def flatten_parameters(network: nn.Module) -> nn.Parameter:
    """Lay all trainable parameters and their gradients into one buffer each, of which they become views.

    An optimizer that treats each value alone, such as Adam, takes the same steps on the one buffer, bit by bit, in a
    fraction of the time. Call it when the network is on its device.

    Returns:
        (parameters,) the buffer, with its gradient buffer, which backward passes add to.
    """
    parameters = [p for p in network.parameters() if p.requires_grad]
    flat = nn.Parameter(torch.cat([p.detach().flatten() for p in parameters]))
    flat.grad = torch.zeros_like(flat)
    start = 0
    for parameter in parameters:
        end = start + parameter.numel()
        parameter.data = flat.data[start:end].view_as(parameter)
        parameter.grad = flat.grad[start:end].view_as(parameter)
        start = end
    return flat
