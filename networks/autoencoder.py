"""The autoencoder of the DCASE 2023–2026 Challenge Task 2 baseline.

Source: N. Harada, D. Niizumi, Y. Ohishi, D. Takeuchi, M. Yasuda, "First-shot anomaly sound detection for machine
condition monitoring: A domain generalization baseline", EUSIPCO 2023, https://arxiv.org/abs/2303.00455, section III.

D: values per vector, B: vectors per batch.
"""

import torch
from torch import nn

HIDDEN = 128
BOTTLENECK = 8


class AutoEncoder(nn.Module):
    """Linear layers D-128-128-128-128-8 and back, each followed by batch normalisation and ReLU except the last.

    The state dict has the same names as the published baseline's.
    """

    def __init__(self, input_dim: int, n_mels: int):
        super().__init__()
        self.encoder = nn.Sequential(
            *_layer(input_dim, HIDDEN),
            *_layer(HIDDEN, HIDDEN),
            *_layer(HIDDEN, HIDDEN),
            *_layer(HIDDEN, HIDDEN),
            *_layer(HIDDEN, BOTTLENECK),
        )
        self.decoder = nn.Sequential(
            *_layer(BOTTLENECK, HIDDEN),
            *_layer(HIDDEN, HIDDEN),
            *_layer(HIDDEN, HIDDEN),
            *_layer(HIDDEN, HIDDEN),
            nn.Linear(HIDDEN, input_dim),
        )

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        """Reconstructions of log-mel vectors: (B, D) -> (B, D)."""
        return self.decoder(self.encoder(vectors))


def _layer(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs, momentum=0.01, eps=1e-3), nn.ReLU()]
