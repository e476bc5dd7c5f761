"""The method once more, written for being obvious: what train.py must equal to the last bit on a CPU.

Vectors are copied one by one into a list, real `DataLoader`s draw the order, plain Adam steps on the network's own
parameters, each loss is read back at once. Only for clips of a single machine type with labelled names.
"""

import itertools
import random
from pathlib import Path

import librosa
import numpy as np
import torch
from sklearn.model_selection import train_test_split
from threadpoolctl import threadpool_limits
from torch.nn import BatchNorm1d, Linear, ReLU, Sequential
from torch.utils.data import DataLoader, Subset

MELS, FRAMES = 128, 5


def clip_vectors(path: Path, hop: int = 1) -> list[np.ndarray]:
    samples, sampling_rate = librosa.load(path, sr=None, mono=False)
    samples = samples if samples.ndim == 1 else samples[0]  # of two channels the left one
    with threadpool_limits(1):  # another number of BLAS threads rounds differently
        mel = librosa.feature.melspectrogram(y=samples, sr=sampling_rate, n_fft=1024, hop_length=512, n_mels=MELS)
    log_mel = 20.0 / 2.0 * np.log10(np.maximum(mel, 2.220446049250313e-16))  # (M, T)
    return [log_mel[:, k : k + FRAMES].T.flatten() for k in range(0, log_mel.shape[1] - FRAMES + 1, hop)]


class PlainNetwork(torch.nn.Module):
    def __init__(self):
        super().__init__()
        sizes = [FRAMES * MELS, 128, 128, 128, 128, 8, 128, 128, 128, 128, FRAMES * MELS]
        layers = []
        for inputs, outputs in itertools.pairwise(sizes):
            layers += [Linear(inputs, outputs), BatchNorm1d(outputs, momentum=0.01, eps=1e-3), ReLU()]
        self.encoder, self.decoder = Sequential(*layers[:15]), Sequential(*layers[15:-2])

    def forward(self, x):
        return self.decoder(self.encoder(x))


def vector_loss(network, x):
    return torch.nn.functional.mse_loss(network(x), x, reduction="none").mean(dim=1)


def train_plainly(
    directory: Path,
    epochs: int,
    seed: int,
    batch_size: int,
    clips: str = "*.wav",
    learning_rate: float = 0.001,
    shuffle: bool = True,
    validation_split: float = 0.1,
    frame_hop_length: int = 1,
) -> dict:
    """Train on the clips of directory/train and return all that a training leaves behind."""
    torch.set_num_threads(1)
    paths = sorted((directory / "train").glob(clips))
    items = [(vector, "target" in path.name) for path in paths for vector in clip_vectors(path, frame_hop_length)]

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    train, valid = train_test_split(range(len(items)), test_size=validation_split)
    network = PlainNetwork()
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
    train_loader = DataLoader(Subset(items, train), batch_size=batch_size, shuffle=shuffle)
    valid_loader = DataLoader(Subset(items, valid), batch_size=batch_size, shuffle=False)

    log = []
    for _ in range(epochs):
        network.train()
        losses, source_losses, target_losses = [], [], []
        for x, is_target in train_loader:
            if len(x) == 1:
                continue
            optimizer.zero_grad()
            loss = vector_loss(network, x)
            loss.mean().backward()
            optimizer.step()
            losses.append(loss.mean().item())
            source_losses.append(loss[~is_target].mean().item() if (~is_target).any() else 0)
            target_losses.append(loss[is_target].mean().item() if is_target.any() else 0)
        network.eval()
        with torch.no_grad():
            valid_losses = [torch.nn.functional.mse_loss(network(x), x).item() for x, _ in valid_loader]
        n = len(train_loader)
        log.append([sum(losses) / n, sum(valid_losses) / len(valid_loader), sum(losses) / n])
        log[-1] += [sum(source_losses) / n, sum(target_losses) / n]

    sums, counts = {False: 0, True: 0}, {False: 0, True: 0}
    with torch.no_grad():
        for x, is_target in train_loader:
            if len(x) == 1:
                continue
            for domain in (False, True):
                rows = (x - network(x))[is_target == domain].reshape(-1, MELS).double()
                if len(rows):
                    sums[domain] += torch.cov(rows.T, correction=0) * len(rows)
                    counts[domain] += len(rows) // FRAMES
    covariances = {False: sums[False] / (counts[False] - 1)}
    covariances[True] = sums[True] / (counts[True] - 1) if counts[True] else covariances[False]
    with torch.no_grad():
        mahala = [plain_mahala(network, x, covariances) for loader in (train_loader, valid_loader) for x, _ in loader]
    return {
        "items": items,
        "train": train,
        "valid": valid,
        "network": network,
        "log": log,
        "covariances": covariances,
        "batch_scores": {"MSE": losses + valid_losses, "MAHALA": mahala},
    }


def plain_mse(network, x) -> float:
    return sum(float(((network(row[None]) - row[None]) ** 2).mean()) for row in x) / len(x)


def plain_mahala(network, x, covariances) -> float:
    """The mean over all pairs of rows of r Σ⁻¹ rᵀ, as the published code has it, and the smaller one of the domains."""
    rows = (network(x) - x).reshape(-1, MELS).double()
    return min(float((rows @ torch.linalg.inv(cov.double()) @ rows.T).mean()) for cov in covariances.values())


def plain_mahala_frame(network, x, covariances) -> float:
    """The paper's formula, vector by vector: the smaller sum of r Σ⁻¹ rᵀ over the vector's frames, over D."""
    inverses = [torch.linalg.inv(cov.double()) for cov in covariances.values()]
    distances = []
    for vector in (network(x) - x).double():
        distances.append(min(sum(float(r @ inverse @ r) for r in vector.split(MELS)) for inverse in inverses))
    return sum(distances) / len(distances) / x.shape[1]
